#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_restart
short_description: Restart a service or a host, proved and healthy
description:
  - Restarts a systemd unit, a process with a pid file, a container, or the host, and proves it. After a cold restart
    the service has another identity; after a reload it has the same, and connections that were open across it survive.
  - A service that does not run is started, in either mode.
  - Then the service itself and all probes must pass for the whole soak. A crash loop ends the wait at once, and the
    message holds the last words of the unit's log.
  - A service that cannot be restarted as asked is refused before anything is touched, such as a unit that is masked,
    that refuses to be started or stopped by hand, that runs once and does not stay active (C(Type=oneshot)), or whose
    start would stop another unit that runs (C(Conflicts=)) or wait for a job of one.
  - Units that restart or reload with it must run for the soak as well. Processes that its stop leaves alone
    (C(KillMode=process)) are named.
  - The downtime is measured at the first V(tcp) or V(http) probe with an address of this host.
  - The host remembers a restart while it is under way, and what was drained for it, so that a later run goes on where
    a run was killed. It remembers the last 500 restarts as well.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._phase
  - evenkeel.fault_tolerance._process
  - evenkeel.fault_tolerance._probes
  - evenkeel.fault_tolerance._drain.places
options:
  name:
    description:
      - The systemd unit; a pattern or a template is refused. Exactly one of this, O(process), O(container), O(owed) and
        O(scope) is given.
    type: str
  container:
    description:
      - A service in a container of podman or docker. A container that systemd runs is refused, and its unit is named.
        Give O(name) then.
    type: dict
    version_added: 0.2.0
    suboptions:
      name:
        description:
          - Name of the container. For example V(web).
        type: str
        required: true
      engine:
        description:
          - The engine that runs it. By default podman, or docker where there is no podman. For example V(docker).
        type: str
        choices: [podman, docker]
  owed:
    description:
      - Restarts every unit that still runs programs or libraries which were replaced, one after the other, each proved.
        Then the host is asked again. RV(owed) names what no restart of a unit can mend.
    type: bool
    version_added: 0.2.0
    default: false
  scope:
    description:
      - V(host) restarts the whole host.
    type: str
    version_added: 0.2.0
    choices: [host]
  mode:
    description:
      - V(cold) stops and starts. V(warm) keeps serving. It reloads. A unit that cannot reload is restarted where
        systemd holds its sockets (a C(.socket) unit without C(Accept=yes)). New connections wait there meanwhile, and
        none is refused; open ones end with the old process. Elsewhere V(warm) is refused. By default V(cold).
      - A reload counts as taken when the service shows it, by new workers or in its own words, and as failed when it
        says that it keeps its old configuration. Where it shows nothing, a warning says that it was only asked.
      - With O(scope=host) this is V(reboot), the default, V(soft-reboot), which starts all services anew and keeps the
        kernel (systemd 254 or newer), or V(kexec), which starts the kernel without the firmware (kexec-tools).
    type: str
    choices: [cold, warm, reboot, soft-reboot, kexec]
  ladder:
    description:
      - Ways to restart it, instead of O(mode). Each is tried where those before did not lead to health.
      - Where the host has restarted the service by each of them three times or more, their order is that of the least
        expected time. Otherwise it is the order that is given.
      - V(rollback) goes back to O(rollback_to), and restarts it. After a crash loop this alone is still tried, and
        after a rollback that did not help nothing more.
      - V(reboot) restarts the host.
    type: list
    version_added: 0.2.0
    elements: str
    choices: [warm, cold, rollback, reboot]
  rollback_to:
    description:
      - The checkpoint of V(rollback) in O(ladder). It is refused where its contents are damaged, while the host is in
        doubt, and where the last rollback of the service did not make it healthy.
    type: str
    version_added: 0.2.0
    default: latest
  last:
    description:
      - A command, as a list of words. The hosts on which it exits with 0 are restarted after the others. Write one that
        finds out whether this host leads its cluster.
    type: list
    version_added: 0.2.0
    elements: str
  roll:
    description:
      - The roll that this restart belongs to, as M(evenkeel.fault_tolerance.ft_roll) returns it. The host remembers it,
        so that an interrupted roll can go on.
    type: dict
    version_added: 0.2.0
    suboptions:
      id:
        description:
          - Its id. For example V(nightly-7).
        type: str
        required: true
      hosts:
        description:
          - The number of its hosts. For example V(6).
        type: int
        required: true
      leaders:
        description:
          - The hosts that led their groups as it was planned, and that come last, one at a time. For example
            V([db1, mq1]).
        type: list
        version_added: 0.2.0
        elements: str
  boot_within:
    description:
      - How long a host that restarts may take until it answers again.
    type: str
    default: 10m
    version_added: 0.2.0
  group:
    description:
      - Names of hosts or groups. A probe with C(from=peer) is measured from one of them. By default all hosts of the
        play.
    type: list
    elements: str
  soak:
    description:
      - How long all probes must keep passing, with no restart of a probed service. With V(0s) one round is enough.
    type: str
    default: 0s
  deadline:
    description:
      - How long to wait for that, and for the end of the sessions of a balancer that is drained. A soak that is longer
        is refused, with nothing touched.
    type: str
    default: 1m
  interval:
    description:
      - Time between two rounds.
    type: str
    default: 1s
attributes:
  check_mode:
    support: full
    description: Predicts the restart.
  diff_mode:
    support: none
    description: Nothing but the process changes.
  idempotent:
    support: none
    description: A restart is an act, each time.
"""

EXAMPLES = r"""
- name: Try the gentle way first
  evenkeel.fault_tolerance.ft_restart:
    name: app
    ladder: [warm, cold, rollback]
    probes:
      - http: {url: http://localhost:8080/health}
    soak: 10s

- name: Let nginx take up its configuration, without a dropped connection
  evenkeel.fault_tolerance.ft_restart:
    name: nginx
    mode: warm
    probes:
      - tcp: {port: 80}
    soak: 5s

- name: Restart a service without systemd
  evenkeel.fault_tolerance.ft_restart:
    process:
      name: app
      pidfile: /run/app.pid
      argv: [/usr/bin/python3, -m, http.server, "8080"]
      chdir: /srv
    probes:
      - http: {url: http://localhost:8080/}
    deadline: 30s
"""

RETURN = r"""
mode:
  description: How it was restarted.
  returned: unless it was refused
  type: str
before:
  description: The service before.
  returned: unless it was refused
  type: dict
  contains:
    name:
      description: The unit, or the name of the process.
      type: str
    exists:
      description: Whether there is such a unit.
      type: bool
    enabled:
      description: Unit-file state of systemd. Empty for a process.
      type: str
    active:
      description: Whether it runs.
      type: bool
    text:
      description: The state in the words of the service manager.
      type: str
    started:
      description: When it started, in seconds since the epoch; null when that is not known.
      type: float
    identity:
      description: A text that changes with each start. Empty while it does not run.
      type: str
    restarts:
      description: How often the service manager has restarted it.
      type: int
    can_reload:
      description: Whether it can reload.
      type: bool
    queued:
      description: Whether the service manager is about to act on it.
      type: bool
    health:
      description: The health of a container that has a check of its own, in the words of its engine. Empty otherwise.
      type: str
after:
  description: The service afterwards.
  returned: unless it was refused
  type: dict
  contains:
    name:
      description: The unit, or the name of the process.
      type: str
    exists:
      description: Whether there is such a unit.
      type: bool
    enabled:
      description: Unit-file state of systemd. Empty for a process.
      type: str
    active:
      description: Whether it runs.
      type: bool
    text:
      description: The state in the words of the service manager.
      type: str
    started:
      description: When it started, in seconds since the epoch; null when that is not known.
      type: float
    identity:
      description: A text that changes with each start. Empty while it does not run.
      type: str
    restarts:
      description: How often the service manager has restarted it.
      type: int
    can_reload:
      description: Whether it can reload.
      type: bool
    queued:
      description: Whether the service manager is about to act on it.
      type: bool
    health:
      description: The health of a container that has a check of its own, in the words of its engine. Empty otherwise.
      type: str
seconds:
  description: Seconds until it was healthy, or until it was known that it is not.
  returned: unless it was refused
  type: float
downtime:
  description:
    - Seconds for which RV(downtime_of) did not answer, from the last good connection to the next one. One connection is
      made every 5 milliseconds, and every 50 once it answers again or after 10 seconds.
    - It is null where nothing was measured, as without such a probe, or where it did not answer before.
  returned: unless it was refused
  type: float
downtime_of:
  description: The probe whose address was connected to; empty where nothing was measured.
  returned: unless it was refused
  type: str
  sample: tcp 127.0.0.1:80
rungs:
  description: The rungs of O(ladder), in the order in which they were tried.
  returned: always
  type: list
  elements: dict
  contains:
    rung:
      description: The rung.
      type: str
    ok:
      description: Whether it led to health.
      type: bool
    seconds:
      description: Seconds that it took.
      type: float
    why:
      description: The reason why it did not lead to health, or was not tried.
      type: str
next:
  description: The rung that the controller has to carry out, V(reboot); otherwise empty.
  returned: always
  type: str
owed:
  description: The restarts that are owed and that no restart of a unit can mend.
  returned: always
  type: list
  elements: dict
  contains:
    level:
      description: The extent of the restart that is owed.
      type: str
    unit:
      description: The unit, or empty.
      type: str
    why:
      description: Some of the replaced files, or sentences.
      type: list
      elements: str
    processes:
      description: The processes that still run what was replaced.
      type: list
      elements: str
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
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "services", "action": "restart", "target": "nginx.service"}]
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.restart import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.restart import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
