#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_rollback
short_description: Put a host back to a checkpoint
description:
  - Verifies the contents that it needs, records the state that it is about to replace, then puts state back in a fixed
    order - files and accounts, packages, mounts, subvolumes, the network, values of the kernel, the firewall,
    PostgreSQL, services.
  - Kinds, and paths, go back independently. RV(left) names state that cannot go back, and the module fails then.
  - A kill or a power cut in the middle leaves all paths old, or all new once the next run or the next boot has
    finished it.
  - Ends a change under way when O(checkpoint) is its checkpoint.
  - Programs that O(quiesce) names stand still from just before the first change, after all preparations, until services
    have been put back. They go on when nothing is to be done, or when the rollback is refused before. Their writes
    until then are in the checkpoint V(undo). Packages are put back meanwhile; their scripts may restart a unit.
  - A unit that the checkpoint records as not active is stopped and stays so. A frozen unit is thawed when the files are
    in place, before services are put back; it cannot be reloaded before.
  - Without O(quiesce), writes of programs to these paths during the rollback are in no checkpoint.
  - A rollback that was killed is finished without O(quiesce), and the dead-man rolls back without it. Name a unit in
    the checkpoint's C(services) to have it restarted then.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._quiesce
options:
  checkpoint:
    description:
      - V(latest), a name, an id, or the first 8 or more digits of an id. V(name~1) is the last but one of the
        name, V(name~2) is the checkpoint before that. V(undo) is the state that the last rollback replaced.
      - V(latest) means no checkpoint that was taken in the middle of a change, unless the change was confirmed.
      - This option was named C(to) before version 0.2.0.
    type: str
    default: latest
    aliases: [to]
  kinds:
    description:
      - Put back only these kinds of resource, for example V([files, services]).
      - This option was named C(resources) before version 0.2.0.
    type: list
    elements: str
    aliases: [resources]
  paths:
    description:
      - Put back only these files and trees, absolute paths at or below the paths of the checkpoint. Directories above
        them come back where they are missing.
    type: list
    elements: str
  strategy:
    description:
      - V(paths) puts back each path that differs, one after the other; each path is old or new at every instant.
      - V(swap) builds a declared directory anew, and exchanges it with the live directory in one step, so that nothing
        ever sees half of it. It takes the room of the whole directory, and programs that have it as their working
        directory stay in the old one (RV(restart_needed)). A directory that holds mounts, excluded files, immutable
        files, or hard links to files elsewhere is put back by its paths; RV(planned) tells.
    type: str
    choices: [paths, swap]
    default: paths
  generation:
    description:
      - Refuse unless the host is still at this generation.
    type: int
  confirm_within:
    description:
      - Arm the dead-man with this time to confirm the rollback itself, in seconds or as V(10m). Unless
        M(evenkeel.fault_tolerance.ft_settle) confirms it in time, or when the host boots before that, the host undoes
        the rollback.
      - For a rollback that may lock you out, such as a rollback of V(firewall).
      - A rollback that ends a change under way arms nothing, it goes back to where the host was reached before.
    type: str
attributes:
  check_mode:
    support: full
    description: Writes nothing, and predicts the changes exactly.
  diff_mode:
    support: full
    description:
      - Shows the manifest lines now and then; of contents, targets of links and values of extended attributes, which
        may be secret, only hashes.
  idempotent:
    support: full
    description: A host that is as recorded is not touched.
"""

EXAMPLES = r"""
- name: Back to how it was
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: before-upgrade

- name: Undo that
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: undo

- name: Exchange a web site in one step
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: latest
    strategy: swap

- name: An application that must not see half of its data, nor write to it meanwhile
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: before-upgrade
    quiesce:
      - command: {argv: [/opt/app/maintenance, 'on'], after: [/opt/app/maintenance, 'off']}
      - stop: app

- name: Only the files of the newest checkpoint
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: latest
    kinds: [files]

- name: Put back a single tree
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: before-upgrade
    paths: [/etc/nginx]

- name: Back to an older firewall, if we can still get in then
  evenkeel.fault_tolerance.ft_rollback:
    checkpoint: last-month
    kinds: [firewall]
    confirm_within: 2m
  register: back

- name: We can
  evenkeel.fault_tolerance.ft_settle:
    generation: "{{ back.generation }}"
  when: back.generation is not none
"""

RETURN = r"""
id:
  description: The checkpoint that the host was put back to.
  returned: success
  type: str
undo:
  description: The checkpoint of the replaced state; empty when nothing was replaced.
  returned: success
  type: str
generation:
  description:
    - Number of the rollback as a change to be confirmed, for M(evenkeel.fault_tolerance.ft_settle). Null when nothing
      was armed, because nothing was to be done, a change was ended, or O(confirm_within) was not given.
  returned: unless it was refused
  type: int
armed:
  description: The rollback to be confirmed; null when nothing was armed.
  returned: unless it was refused
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
  description: State that is not as recorded, and the reasons.
  returned: always
  type: list
  elements: str
notes:
  description: Further facts, for example state that RV(undo) does not hold.
  returned: unless it was refused
  type: list
  elements: str
pause:
  description: Seconds for which the programs of O(quiesce) stood still; 0 when none did.
  returned: unless it was refused
  type: float
restart_needed:
  description:
    - Programs that still have replaced files open, mapped or as their working directory, and see the new files only
      after a restart. Declared services have been restarted already, but those that a rollback never stops, such as
      the network's.
  returned: success
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.rollback import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
