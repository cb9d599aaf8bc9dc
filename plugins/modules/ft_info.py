#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_info
short_description: Tell what a host remembers
description:
  - Reads the store of the host, its checkpoints, the change under way, the last outcome, the replicas it keeps for
    others. Changes nothing.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
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
- name: What does this host remember?
  evenkeel.fault_tolerance.ft_info:
  register: remembered

- name: Show the names of its checkpoints
  ansible.builtin.debug:
    msg: "{{ remembered.checkpoints | map(attribute='name') }}"
"""

RETURN = r"""
checkpoints:
  description: All checkpoints, oldest first, each with C(id), C(name), C(names), C(kind), C(created), C(host),
    C(resources).
  returned: success
  type: list
  elements: dict
generation:
  description: Number of the newest change; 0 before the first.
  returned: success
  type: int
armed:
  description:
    - The change that waits for its confirmation, with C(generation), C(name), C(checkpoint), C(until), C(within).
    - C(overdue) tells for how many seconds the host should have been going back, null while there is time.
  returned: success
  type: dict
last:
  description: How the last change ended, with C(generation), C(outcome) (V(confirmed), V(rolled_back), V(in_doubt) or
    V(accepted)), C(by), C(at), C(checkpoint), C(left).
  returned: success
  type: dict
doubt:
  description:
    - The end in doubt that nothing has made good since, as in RV(last); null when there is none. What its C(left)
      names is not as it was before that change. Until it is rolled back, or accepted with
      M(evenkeel.fault_tolerance.ft_accept), the host takes no other change.
  returned: success
  type: dict
interrupted:
  description: Whether a rollback was interrupted and waits to be finished.
  returned: success
  type: bool
replicas:
  description: Ids of the checkpoints that this host keeps for others, by host.
  returned: success
  type: dict
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
  description: What is not as it should be.
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.info import info
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    return info(Store(params["store"], System()))


def main() -> None:
    run_module({}, work)


if __name__ == "__main__":
    main()
