#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_health
short_description: Measure the health of a host
description:
  - Measures all probes until they have passed for the whole soak, or until the deadline. A probe passes, fails, or is
    unknown because it could not be measured; unknown never counts as healthy.
  - Without any probe a host that answers is healthy.
  - Fails unless the host is healthy.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
options:
  probes:
    description:
      - Measurements of health, each a mapping with one key, the kind. Each takes a C(timeout), by default 5 seconds.
      - V(http) takes C(url), C(status) (200, or a list) and C(body) (a regular expression).
      - V(tcp) takes C(port) and C(host) (by default 127.0.0.1).
      - V(service) takes C(name) (a systemd unit), or C(process) (a mapping with C(name), C(pidfile), C(argv)).
      - V(command) takes C(argv) and C(rc) (0).
      - V(file) takes C(path) and C(sha256). Of what a symlink leads to it tells only whether it is as wanted.
    type: list
    elements: dict
    default: []
  soak:
    description:
      - How long all probes must keep passing, with no restart of a probed service. With V(0s) one round is enough.
    type: str
    default: 0s
  deadline:
    description:
      - How long to wait for that. Never less than the soak; with V(0s) a host that is not healthy fails at once.
    type: str
    default: 0s
  interval:
    description:
      - Time between two rounds.
    type: str
    default: 1s
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
- name: Wait up to two minutes until nginx has served for ten seconds
  evenkeel.fault_tolerance.ft_health:
    probes:
      - http: {url: http://localhost/, status: 200}
      - service: {name: nginx}
    soak: 10s
    deadline: 2m
"""

RETURN = r"""
state:
  description: V(pass), V(fail) or V(unknown).
  returned: unless it was refused
  type: str
probes:
  description: The last round, each probe with C(kind), C(target), C(state), C(detail), C(seconds).
  returned: unless it was refused
  type: list
  elements: dict
waited:
  description: Seconds that it took.
  returned: unless it was refused
  type: float
soaked:
  description: Seconds for which all had been passing.
  returned: unless it was refused
  type: float
restarts:
  description: Restarts of probed services that were seen meanwhile.
  returned: unless it was refused
  type: int
host_state:
  description: Whether a change is under way, as M(evenkeel.fault_tolerance.ft_info) returns it (C(generation),
    C(armed), C(last), C(doubt), C(interrupted)).
  returned: unless it was refused
  type: dict
planned:
  description: Empty, as this module only reads.
  returned: always
  type: list
  elements: raw
done:
  description: Empty, as this module only reads.
  returned: always
  type: list
  elements: raw
proved:
  description: What was measured to hold afterwards.
  returned: always
  type: list
  elements: str
left:
  description: The probes that do not pass.
  returned: always
  type: list
  elements: str
msg:
  description: What went wrong, where, and what to do next.
  returned: failure
  type: str
"""

from dataclasses import asdict
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import run_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Unhealthy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.info import host_state
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes as probing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import wait
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

ARGUMENTS = {
    "probes": {"type": "list", "elements": "dict", "default": []},
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "0s"},
    "interval": {"type": "str", "default": "1s"},
}


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    soak, deadline, interval = (seconds(params[name], name) for name in ("soak", "deadline", "interval"))
    system = Store(params["store"], System()).system
    health = wait(probing.check(params["probes"]), soak, max(soak, deadline), interval, system)
    result: dict[str, Any] = dict(asdict(health), host_state=host_state(params["store"], system))
    bad = [f"{one.kind} {one.target}: {one.state}, {one.detail}" for one in health.probes if one.state != probing.PASS]
    if health.state != probing.PASS:
        raise Unhealthy(f"not healthy: {'; '.join(bad) or 'it did not hold for the soak'}", **dict(result, left=bad))
    result["proved"] = [f"{one.kind} {one.target}: {one.detail}" for one in health.probes]
    return result


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
