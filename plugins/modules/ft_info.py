#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_info
short_description: Show the memory of a host
description:
  - Reads the store of the host, its checkpoints, the change under way, the last outcome, the replicas it keeps for
    others. Changes nothing.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._phase
options:
  owed:
    description:
      - Also look for the restarts that are due on the host (RV(owed)). All processes of the host are looked at, for at
        most 5 seconds.
    type: bool
    default: false
  resources:
    description:
      - The resources that are declared for the host, as for M(evenkeel.fault_tolerance.ft_checkpoint). With them the
        result names what of them the newest checkpoint does not hold (RV(spot_check)).
      - A text is the name of the variable that holds them. Where that variable is not set, nothing is compared.
      - A declaration that is wrong is named there as well, and is no failure. So is a variable of that name whose
        templates do not work in this play.
    type: raw
    version_added: 0.2.0
  copies:
    description:
      - How many copies of the host's checkpoints there shall be, for RV(listed).
    type: int
    version_added: 0.2.0
  failure_domain:
    description:
      - Name of the inventory variable of the failure domain, for RV(listed).
    type: str
    version_added: 0.2.0
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: Only reads.
  idempotent:
    support: full
    description: Only reads.
"""

EXAMPLES = r"""
- name: Ask for the checkpoints and changes of this host
  evenkeel.fault_tolerance.ft_info:
  register: remembered

- name: Show the names of its checkpoints
  ansible.builtin.debug:
    msg: "{{ remembered.checkpoints | map(attribute='name') }}"

- name: Ask which restarts are due
  evenkeel.fault_tolerance.ft_info:
    owed: true
  register: remembered

- name: Ask which declared state the newest checkpoint lacks
  evenkeel.fault_tolerance.ft_info:
    resources: "{{ evenkeel_resources }}"
  register: remembered
"""

RETURN = r"""
checkpoints:
  description: All checkpoints, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The checkpoint, the SHA-256 of its manifest.
      type: str
    name:
      description: Name under which it was taken.
      type: str
    names:
      description: Names of which it is the newest checkpoint.
      type: list
      elements: str
    kind:
      description: V(snapshot) or V(log).
      type: str
    created:
      description: When it was taken, as ISO 8601 writes it.
      type: str
    host:
      description: The host that it names.
      type: str
    resources:
      description: The kinds of resources that it holds.
      type: list
      elements: str
logs:
  description:
    - The logs of databases that checkpoints of this host hold, and how far they are ahead of their copies on peers.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: The kind of resource.
      type: str
    name:
      description: The kind, and the cluster or its data directory.
      type: str
    checkpoint:
      description: Id of the newest checkpoint that peers hold with the log. Empty where they hold none.
      type: str
    created:
      description: When it was taken, as ISO 8601 writes it. Empty where peers hold none.
      type: str
    copies:
      description: The number of copies that the last run asked for and got.
      type: int
    seconds:
      description: Age of the newest write that peers surely hold; 0 where nothing was written since, null where peers
        hold nothing.
      type: float
    bytes:
      description: Bytes of the log that were written since; null where that is not known, because the server does not
        run, or runs on another timeline.
      type: int
generation:
  description: Number of the newest change; 0 before the first.
  returned: success
  type: int
armed:
  description:
    - The change that waits for its confirmation; null when there is none.
  returned: success
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
    remaining:
      description: Seconds until the time to confirm ends, whatever the clock of the host says; 0 once it is over.
      type: float
    overdue:
      description: For how many seconds the host should have been going back; null while there is time.
      type: float
last:
  description: How the last change ended; null before the first.
  returned: success
  type: dict
  contains:
    generation:
      description: Number of the change.
      type: int
    outcome:
      description: V(confirmed), V(rolled_back), V(in_doubt) or V(accepted).
      type: str
    by:
      description: The cause of the end, V(settle), V(deadline), V(boot), V(health) or V(operator).
      type: str
    at:
      description: When it ended, in seconds since the epoch.
      type: float
    checkpoint:
      description: Id of the checkpoint of the change.
      type: str
    left:
      description:
        - State that could not be put back. After a confirmation, sentences on a boot loader that may still boot the
          kernel of before.
      type: list
      elements: str
    until:
      description: The end of further attempts, in seconds since the epoch; 0 without any.
      type: float
    rollback:
      description: Generation of the rollback that ended the doubt, where it has to be confirmed itself.
      type: int
    written:
      description: The paths that services wrote as they started again, with their lines of a manifest.
      type: dict
      contains:
        PATH:
          description: The line of this path in a manifest. Each path is a key of its own.
          type: str
    change:
      description: The change over several hosts that it was part of. Empty where the host changed alone.
      type: str
    hosts:
      description: The number of hosts of that change. 0 where the host changed alone.
      type: int
    boots:
      description: The number of boots that the change planned and that have come.
      type: int
doubt:
  description:
    - The end in doubt of a change, as in RV(last), until it is resolved; null without doubt. Its C(left) names state
      that is not as it was before that change. Until it is rolled back, or accepted with
      M(evenkeel.fault_tolerance.ft_accept), the host takes no other change.
  returned: success
  type: dict
  contains:
    generation:
      description: Number of the change.
      type: int
    outcome:
      description: V(confirmed), V(rolled_back), V(in_doubt) or V(accepted).
      type: str
    by:
      description: The cause of the end, V(settle), V(deadline), V(boot), V(health) or V(operator).
      type: str
    at:
      description: When it ended, in seconds since the epoch.
      type: float
    checkpoint:
      description: Id of the checkpoint of the change.
      type: str
    left:
      description: State that could not be put back.
      type: list
      elements: str
    until:
      description: The end of further attempts, in seconds since the epoch; 0 without any.
      type: float
    rollback:
      description: Generation of the rollback that ended the doubt, where it has to be confirmed itself.
      type: int
    written:
      description: The paths that services wrote as they started again, with their lines of a manifest.
      type: dict
      contains:
        PATH:
          description: The line of this path in a manifest. Each path is a key of its own.
          type: str
    change:
      description: The change over several hosts that it was part of. Empty where the host changed alone.
      type: str
    hosts:
      description: The number of hosts of that change. 0 where the host changed alone.
      type: int
    boots:
      description: The number of boots that the change planned and that have come.
      type: int
outside:
  description:
    - The paths that the last change changed and that no declared resource covers, so that they stay changed
      after a rollback. Null where that is not known, as after a boot, or where
      O(evenkeel.fault_tolerance.ft_checkpoint#module:outside) names no place.
  returned: success
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
      still runs. Empty where nothing is owed. Null where O(owed) does not ask for it.
  returned: success
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
interrupted:
  description: Whether a rollback was interrupted and waits to be finished.
  returned: success
  type: bool
restart:
  description:
    - The restart that is open on the host, or was cut off there. Null where none is.
  returned: success
  type: dict
  contains:
    generation:
      description: The number of the restart on this host.
      type: int
    target:
      description: The unit, process or container, V(host), or V(owed).
      type: str
    mode:
      description: How it is restarted.
      type: str
    request:
      description: A hash of the target and the mode.
      type: str
    stage:
      description:
        - V(begun) before anything was done to the target, V(acting), V(acted) once it is healthy again, or V(failed).
      type: str
    drained:
      description: The places at which a controller drained the host for it, as the controller keeps them.
      type: list
      elements: dict
      contains:
        host:
          description: The host at which it was drained, such as a balancer.
          type: str
        kind:
          description: The kind of the drain, as an option of M(evenkeel.fault_tolerance.ft_drain).
          type: str
        options:
          description: The options of that kind.
          type: dict
          contains:
            OPTION:
              description: An option, as M(evenkeel.fault_tolerance.ft_drain) takes it. Each is a key of its own.
              type: raw
        words:
          description: The place in words.
          type: str
    roll:
      description: The roll of several hosts that it belongs to. Empty for none.
      type: str
    hosts:
      description: The number of hosts of that roll.
      type: int
    identity:
      description: The identity of the target before.
      type: str
    boot:
      description: The boot under which the stage was reached.
      type: str
    at:
      description: The time of the stage, in seconds since the epoch.
      type: float
    pid:
      description: The process that acts on the target. 0 for none.
      type: int
    started:
      description: The clock tick at which that process started.
      type: int
    running:
      description: Whether that process still lives.
      type: bool
replicas:
  description: Ids of the checkpoints that this host keeps for others.
  returned: success
  type: dict
  contains:
    HOST:
      description: The ids of the checkpoints of this host. Each host whose copies are kept is a key of its own.
      type: list
      elements: str
holds:
  description:
    - The copies that this host keeps for others, one entry for each of them. Nothing is verified for this answer.
  returned: success
  type: list
  elements: dict
  contains:
    host:
      description: The host whose checkpoints they are copies of.
      type: str
    id:
      description: Id of the newest of them. Empty where none can be read.
      type: str
    name:
      description: Its name.
      type: str
    created:
      description: When that checkpoint was taken, as ISO 8601 writes it.
      type: str
    count:
      description: The number of checkpoints of that host that are here.
      type: int
    mac:
      description: Whether the newest has a MAC, by which the controller recognizes it.
      type: bool
    verified:
      description:
        - By when every content of these copies was hashed last, as it arrived or by
          M(evenkeel.fault_tolerance.ft_scrub), in seconds since the epoch. Null where no checkpoint can be read.
      type: float
    damaged:
      description:
        - The number of checkpoints, and of contents that checkpoints here need, that are known to be damaged and did
          not arrive again.
      type: int
place:
  description:
    - The place of the store, as a hash. Two names of the inventory with the same are one host. It is another one in
      each run, and nobody knows it who cannot read the store.
  returned: success
  type: str
spot_check:
  description:
    - Sentences on declared state (O(resources)) that the newest checkpoint does not hold. They name a kind that is
      missing, a path that exists and was not recorded, a tree that was emptied or that O(resources) excludes as a
      whole, and a symlink to a place that is not declared. No tree is walked for it.
    - Null where O(resources) is not given.
  returned: success
  type: list
  elements: str
listed:
  description: The declarations of the inventory. The controller adds them.
  returned: always
  type: dict
  contains:
    copies:
      description: How many copies there shall be (O(copies)); null where that is not given.
      type: int
    variable:
      description: Name of the variable of the failure domain (O(failure_domain)). Empty where that is not given.
      type: str
    domain:
      description: The failure domain of the host. Empty where none is known.
      type: str
    hosts:
      description: The number of hosts in the inventory.
      type: int
    gone:
      description: The hosts of RV(holds) that the inventory does not have.
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
  description: Sentences on copies (RV(holds)) that could not be looked at. Nothing else of the answer depends on them.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.info import OPTIONS as ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.info import work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
