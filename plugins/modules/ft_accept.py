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
attributes:
  check_mode:
    support: full
    description: Writes nothing, and tells what would be accepted.
  diff_mode:
    support: none
    description: Nothing on the host changes that a difference could show.
  idempotent:
    support: full
    description: What was accepted once is in doubt no more.
"""

EXAMPLES = r"""
- name: What is in doubt?
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
      description: Who ended the change, V(settle), V(deadline), V(boot), V(health) or V(operator).
      type: str
    at:
      description: When it ended, in seconds since the epoch.
      type: float
    checkpoint:
      description: Id of the checkpoint of the change.
      type: str
    left:
      description: What could not be put back.
      type: list
      elements: str
    until:
      description: Until when what is left is tried again, in seconds since the epoch; 0 when it is not.
      type: float
    rollback:
      description: Generation of the rollback that made good what was in doubt, where that is to be confirmed itself.
      type: int
    written:
      description: What services wrote as they started again, by path, as lines of a manifest.
      type: dict
    change:
      description: The change over several hosts that it was part of. Empty where the host changed alone.
      type: str
    hosts:
      description: The number of hosts of that change. 0 where the host changed alone.
      type: int
planned:
  description: What was to be done, in order.
  returned: always
  type: list
  elements: raw
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
  description: What is not as it was before the change, and stays so.
  returned: always
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


from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import Params, run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results import Accepted

ARGUMENTS: Options = {"generation": {"type": "int"}}


def work(params: Params, check_mode: bool) -> Accepted:
    # Here, as the controller imports this file for ARGUMENTS alone.
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.doubt import accept
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

    return accept(Store(params["store"], System()), params["generation"], check_mode)


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
