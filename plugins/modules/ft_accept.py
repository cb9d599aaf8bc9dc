#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_accept
short_description: Accept a host in doubt as it is
description:
  - A change that ended in doubt, because not all could be put back, is never forgotten. The host takes no other change
    until M(evenkeel.fault_tolerance.ft_rollback) has put it back, or this module says that it is right as it is now.
  - It ends a restart that no run has finished as well.
  - Changes nothing but the host's memory of it. Does nothing on a host that is not in doubt.
version_added: 0.2.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
options:
  generation:
    description:
      - Refuse unless the host is still at this generation, so that nothing is accepted that nobody has seen.
    type: int
  undrained:
    description:
      - The host gets requests again at all places at which an unfinished restart has drained it, as somebody has seen.
        Without this, such a host is refused.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Writes nothing, and names the state that would be accepted.
  diff_mode:
    support: none
    description: Nothing on the host changes that a difference could show.
  idempotent:
    support: full
    description: A host that was accepted is not in doubt, so the next run changes nothing.
"""

EXAMPLES = r"""
- name: Look at the hosts in doubt
  evenkeel.fault_tolerance.ft_info:
  register: remembered

- name: I have looked, and mended it by hand
  evenkeel.fault_tolerance.ft_accept:
    generation: "{{ remembered.generation }}"
  when: remembered.doubt is not none
"""

RETURN = r"""
generation:
  description: Number of the newest change of the host.
  returned: unless it was refused
  type: int
restart:
  description: The restart that no run had finished, as RV(evenkeel.fault_tolerance.ft_info#module:restart); null when
    there was none.
  returned: unless it was refused
  type: dict
  sample: {target: nginx.service, mode: cold, stage: failed}
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
accepted:
  description: The end in doubt that was accepted, as RV(evenkeel.fault_tolerance.ft_info#module:doubt); null when there
    was none.
  returned: unless it was refused
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
planned:
  description: The planned steps, in order.
  returned: always
  type: list
  elements: raw
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
  description: State that differs from the state before the change, and stays so.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.accept import ARGUMENTS, work


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
