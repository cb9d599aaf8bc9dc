#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_settle
short_description: Confirm a change on a host, or roll it back
description:
  - Measures the health of the host. When all probes pass for the whole soak, the change that
    M(evenkeel.fault_tolerance.ft_checkpoint) began with C(confirm_within) is confirmed and stays.
  - Without any probe the change is confirmed.
  - Otherwise the host is rolled back, and the task fails; a change that was rolled back is not a success.
  - It comes over an SSH login of its own, even if the configuration shares connections, and the host checks whether
    that login is newer than the change. A login that was open before does not show that new logins are let in, so
    the host is rolled back.
  - A change may touch paths that no resource covers. RV(outside) names these paths before a change is confirmed
    and after it was rolled back.
  - A host that has put itself back already, at its deadline or at a boot, says so.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._probes
  - evenkeel.fault_tolerance._evidence
options:
  generation:
    description:
      - Number of the change, as returned when it began. Another number is refused.
    type: int
    required: true
  soak:
    description:
      - How long the probes must keep passing.
    type: str
    default: 0s
  deadline:
    description:
      - How long to wait for that. The time to confirm bounds it, too.
    type: str
    default: 2m
  interval:
    description:
      - Time between two rounds of probes.
    type: str
    default: 1s
  verdict:
    description:
      - V(probe) lets the probes decide; V(roll_back) puts the host back at once.
      - V(hold) lets the probes decide whether the host goes back, but does not confirm the change yet. Its time to
        confirm begins anew, and the host waits for the others of the same change.
      - V(extend) has the time to confirm begin anew, up to the O(evenkeel.fault_tolerance.ft_checkpoint#module:at_most)
        with which the change began. V(approve) and V(decide) do so as well for a change that is held, and note on the
        host that a person has let it go on, or that it has been decided that all its hosts keep it.
      - V(take_back) puts the host back as V(roll_back) does, also when this change was confirmed, though not by a
        person on the host (evenkeel-host confirm), as long as no other has begun since.
    type: str
    choices: [probe, hold, extend, approve, decide, roll_back, take_back]
    default: probe
  reason:
    description:
      - Why the host is put back with V(roll_back) or V(take_back), in words for the message. For example
        V(the task Migrate failed).
    type: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: partial
    description: Says that the change would be settled, not how.
    details:
      - Health is measured only when it counts, at the end of the change.
  diff_mode:
    support: none
    description: The checkpoint decides what is put back; look with M(evenkeel.fault_tolerance.ft_rollback).
  idempotent:
    support: full
    description: A change that is confirmed already stays confirmed.
"""

EXAMPLES = r"""
- name: Keep the change if nginx serves for ten seconds
  evenkeel.fault_tolerance.ft_settle:
    generation: "{{ begun.generation }}"
    probes:
      - http: {url: http://localhost/, status: 200}
    soak: 10s
"""

RETURN = r"""
outcome:
  description:
    - V(confirmed), V(rolled_back) or V(in_doubt).
    - For a change that is kept open V(extended), or the stage that it has come to, V(held), V(approved) or V(decided).
  returned: unless it was refused
  type: str
remaining:
  description: Seconds until the host goes back unless the change is confirmed, or extended again.
  returned: for a change that is kept open
  type: float
armed:
  description: The change.
  returned: for a change that is kept open
  type: dict
  contains:
    generation:
      description: Number of the change.
      type: int
    checkpoint:
      description: Id of the checkpoint that the host goes back to.
      type: str
    name:
      description: Name of that checkpoint.
      type: str
    until:
      description: When the time to confirm ends, in seconds since the epoch.
      type: float
    within:
      description: The time to confirm, in seconds.
      type: float
    back:
      description: The cause of its rollback, V(settle), V(deadline), V(boot), V(health) or V(operator). Absent before.
      type: str
    left:
      description: State that could not be put back so far. Absent where nothing is left.
      type: list
      elements: str
    tries_until:
      description: Until when the host tries that again, in seconds since the epoch. Absent where nothing is left.
      type: float
    change:
      description: The change over several hosts to which this belongs. Absent where the host changes alone.
      type: str
    hosts:
      description: The number of hosts of that change. Absent where the host changes alone.
      type: int
    stage:
      description:
        - V(held) once the host is healthy and waits for the others of that change, V(approved) once a person has
          let it go on, V(decided) once all are to keep it. Absent before.
      type: str
by:
  description: The cause of the end, V(settle), V(deadline), V(boot), V(health) or V(operator).
  returned: unless it was refused
  type: str
generation:
  description: Number of the change.
  returned: unless it was refused
  type: int
login:
  description:
    - V(new) when the SSH login over which this was asked began after the change did, V(old) when it lay open before,
      which confirms nothing, V(not shown) where the host sees no SSH server above the module, as with C(local) and
      with connections to containers.
  returned: when the change was confirmed or rolled back by this task
  type: str
health:
  description: The measurements, as M(evenkeel.fault_tolerance.ft_health) returns it.
  returned: when it was measured
  type: dict
  contains:
    state:
      description: V(pass), V(fail) or V(unknown).
      type: str
    probes:
      description: The last round.
      type: list
      elements: dict
      contains:
        kind:
          description: Kind of the probe.
          type: str
        target:
          description: Address, unit, command or path that it measures.
          type: str
        state:
          description: V(pass), V(fail) or V(unknown).
          type: str
        detail:
          description: The measurement in words.
          type: str
        seconds:
          description: Seconds that the measurement took.
          type: float
        identity:
          description: A text that changes with each start of the service. Empty for other probes.
          type: str
        restarts:
          description: The number of times that its service manager has restarted the service.
          type: int
        severity:
          description: V(fail) for a probe that decides, V(warn) for a probe that is only reported.
          type: str
        source:
          description: The place that it was measured from, V(host), V(controller), or V(peer) and its name.
          type: str
    waited:
      description: Seconds that it took.
      type: float
    soaked:
      description: Seconds for which all probes had been passing.
      type: float
    restarts:
      description: Restarts of probed services meanwhile.
      type: int
health_after:
  description: The same, measured after a rollback.
  returned: when the host was rolled back by this task
  type: dict
  contains:
    state:
      description: V(pass), V(fail) or V(unknown).
      type: str
    probes:
      description: The last round.
      type: list
      elements: dict
      contains:
        kind:
          description: Kind of the probe.
          type: str
        target:
          description: Address, unit, command or path that it measures.
          type: str
        state:
          description: V(pass), V(fail) or V(unknown).
          type: str
        detail:
          description: The measurement in words.
          type: str
        seconds:
          description: Seconds that the measurement took.
          type: float
        identity:
          description: A text that changes with each start of the service. Empty for other probes.
          type: str
        restarts:
          description: The number of times that its service manager has restarted the service.
          type: int
        severity:
          description: V(fail) for a probe that decides, V(warn) for a probe that is only reported.
          type: str
        source:
          description: The place that it was measured from, V(host), V(controller), or V(peer) and its name.
          type: str
    waited:
      description: Seconds that it took.
      type: float
    soaked:
      description: Seconds for which all probes had been passing.
      type: float
    restarts:
      description: Restarts of probed services meanwhile.
      type: int
outside:
  description:
    - The paths that changed since the change was armed and that no declared resource covers, so that they stay changed
      after a rollback. Null where that is not known, as after a boot, or where
      O(evenkeel.fault_tolerance.ft_checkpoint#module:outside) names no place.
  returned: when the change is over
  type: dict
  contains:
    paths:
      description: The first 100 of them. A new or removed directory stands for all of its contents.
      type: list
      elements: dict
      contains:
        path:
          description: The path, its first 500 bytes.
          type: str
        what:
          description:
            - The difference, V(new), V(removed), V(replaced) by another file, or one or more of V(content),
              V(content or time), V(mode) and V(owner) with commas between them. V(changed) stands for what these words
              do not tell, such as capabilities.
            - For the running kernel, V(mounted), V(unmounted), V(another mount) or V(mount options) of a mount,
              V(swap on) or V(swap off), V(loaded) or V(unloaded) of a module, V(set up) or V(taken down) of a mapped
              disk or a loop device, or V(value) of a setting.
          type: str
    count:
      description: The number of all such paths.
      type: int
    complete:
      description: Whether all places could be looked at, within the limits for that and without an error.
      type: bool
owed:
  description:
    - The restarts that are due on the host, the most far-reaching first, because something that was replaced or removed
      still runs. Empty where nothing is owed.
  returned: when the change is confirmed
  type: list
  elements: dict
  sample: [{"level": "service", "unit": "app.service", "why": ["/usr/lib/libz.so.1.3"], "processes": ["app[812]"]}]
  contains:
    level:
      description:
        - V(service) for a unit that has to be restarted; V(soft-reboot) for a unit that must not be restarted under a
          running system, or for systemd itself; V(reboot) for a new kernel, and in place of V(soft-reboot) where the
          systemd of the host lacks it or the host is a container.
        - V(by-name) for a unit on which others depend (the network, tunnels, containers, machines, clusters), which is
          restarted only when a person names it.
        - V(process) for logins and other processes, which their users have to end. V(unknown) where not everything
          could be looked at.
      type: str
    unit:
      description: The unit. Empty for the host as a whole, and for processes.
      type: str
    why:
      description: Some of the replaced files, or the reason in a sentence.
      type: list
      elements: str
    processes:
      description: Some of the processes, each with its id in brackets.
      type: list
      elements: str
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "files", "action": "replace", "target": "/etc/nginx/nginx.conf", "why": "content"}]
done:
  description: The steps that were done; on a failure, the steps before it.
  returned: always
  type: list
  elements: raw
proved:
  description: The facts that were measured afterwards.
  returned: always
  type: list
  elements: str
left:
  description: State that is not as requested.
  returned: always
  type: list
  elements: str
restart_needed:
  description:
    - Programs that still have replaced files open, mapped or as their working directory, and see the new files only
      after a restart. Declared services have been restarted already, but those that a rollback never stops, such as
      the network's.
  returned: when the host was rolled back by this task
  type: list
  elements: dict
  sample: [{"unit": "php-fpm.service", "processes": ["php-fpm[812]"], "paths": ["/srv/www/app.php"]}]
  contains:
    unit:
      description: The unit that the processes belong to. Empty where they belong to none.
      type: str
    processes:
      description: The processes, each with its id in brackets.
      type: list
      elements: str
    paths:
      description: Some of the files.
      type: list
      elements: str
error:
  description:
    - The reason in one word, for programs. The exit code of the command C(evenkeel) follows from it.
    - V(UsageError) for an argument, a variable or a name that is wrong, V(NotFound) for a checkpoint that is missing,
      V(Refused) for a request that is not allowed now, V(Busy) while another operation holds the store.
    - V(Damaged) for data that do not match their hash, V(RestoreFailed) for a rollback that could not put back
      everything, V(Unhealthy) for probes that did not pass, V(ServiceFailed) for a service that did not act as
      requested, V(OSError) for a failed system call, V(BadAnswer) for an answer of a host that no module gives,
      V(EvenkeelError) for everything else.
  returned: failure
  type: str
  sample: Refused
msg:
  description: The failure, its place, and what to do next.
  returned: failure
  type: str
"""


from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.settle import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
