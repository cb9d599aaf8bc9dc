#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_rollback
short_description: Put a host back to a checkpoint
description:
  - Verifies what it needs in the store, records what it is about to replace, then puts it back in an order that
    holds - files and accounts, packages, values of the kernel, the firewall, services.
  - Kinds, and paths, go back independently. What cannot go back is named in RV(left), and the module fails.
  - A kill or a power cut in the middle leaves all paths old, or all new once the next run or the next boot has
    finished it.
  - Ends a change under way when O(checkpoint) is its checkpoint.
  - O(quiesce) holds programs still while things are put back. It is held once all that can be prepared is, just before
    the first thing changes, and let go when services have been put back. Nothing is held when nothing is to be done, or
    when the rollback is refused before. What was written until then is in the checkpoint V(undo). Packages are put back
    while it is held; those whose scripts restart a unit do so.
  - A unit that the checkpoint records as not active is stopped and stays so. A frozen unit is thawed when the files are
    in place, before services are put back; it cannot be reloaded before.
  - Without O(quiesce), what programs write during the rollback to what is put back is in no checkpoint.
  - A rollback that was killed is finished without O(quiesce), and so are those of the dead-man. Name a unit in the
    checkpoint's C(services) to have it restarted then.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
  - evenkeel.fault_tolerance._quiesce
options:
  checkpoint:
    description:
      - V(latest), a name, an id, or the first 8 or more digits of one. V(name~1) is the one before the newest of the
        name, V(name~2) the one before that. V(undo) is what the last rollback replaced.
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
      - Put back only these files and trees, absolute paths that the checkpoint holds or that lie in what it holds.
    type: list
    elements: str
  strategy:
    description:
      - V(paths) puts back each path that differs, one after the other; each is old or new at every instant.
      - V(swap) builds a declared directory anew, whole, and exchanges it with the live one in one step, so that nothing
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
      - For a rollback that may lock you out, such as one of V(firewall).
      - A rollback that ends a change under way arms nothing, it goes back to where the host was reached before.
    type: str
attributes:
  check_mode:
    support: full
    description: Writes nothing, and predicts exactly what would change.
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

- name: A web site, the old one or the new one and nothing in between
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

- name: Only one tree of it
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
  description: The checkpoint of what was replaced; empty when nothing was.
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
      description: By whom its rollback began, V(settle), V(deadline), V(boot), V(health) or V(operator). Absent before.
      type: str
    left:
      description: What could not be put back so far. Absent where nothing is left.
      type: list
      elements: str
    tries_until:
      description: Until when the host tries that again, in seconds since the epoch. Absent where nothing is left.
      type: float
    change:
      description: The change over several hosts that this one is part of. Absent where the host changes alone.
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
  description: What was to be done, in order.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "files", "action": "replace", "target": "/etc/nginx/nginx.conf", "why": "content"}]
done:
  description: What was done; on a failure, what was done before it.
  returned: always
  type: list
  elements: raw
proved:
  description: What was measured to hold afterwards.
  returned: always
  type: list
  elements: str
left:
  description: What is not as recorded, and why.
  returned: always
  type: list
  elements: str
notes:
  description: What else is to be known, for example what RV(undo) does not hold.
  returned: unless it was refused
  type: list
  elements: str
pause:
  description: Seconds for which what O(quiesce) names stood still; 0 when nothing was held.
  returned: unless it was refused
  type: float
restart_needed:
  description:
    - What still has files open, mapped or as its working directory that were replaced, and sees the new ones only
      after a restart. Declared services have been restarted already.
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
    - V(UsageError) for an argument, a variable or a name that is wrong, V(NotFound) for a checkpoint that there is not,
      V(Refused) for what is not allowed now, V(Busy) while another operation holds the store.
    - V(Damaged) for data that is not what was stored, V(RestoreFailed) for a rollback that could not put back
      everything, V(Unhealthy) for probes that did not pass, V(ServiceFailed) for a service that did not do what it was
      told, V(OSError) for a call of the system that failed, V(BadAnswer) for an answer of a host that no module gives,
      V(EvenkeelError) for everything else.
  returned: failure
  type: str
  sample: Refused
msg:
  description: What went wrong, where, and what to do next.
  returned: failure
  type: str
"""


from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.every import CALLS

ARGUMENTS, work = CALLS["rollback"]


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
