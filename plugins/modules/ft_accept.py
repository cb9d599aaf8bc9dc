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
msg:
  description: What went wrong, where, and what to do next.
  returned: failure
  type: str
"""

from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.doubt import accept
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

ARGUMENTS = {"generation": {"type": "int"}}


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    return accept(Store(params["store"], System()), params["generation"], check_mode)


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
