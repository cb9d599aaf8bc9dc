#!/usr/bin/python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: ft_restart
short_description: Restart a service, proved and healthy
description:
  - Restarts a systemd unit, or a process with a pid file, and proves it. After a cold restart the service has another
    identity; after a warm one it has the same, and connections that were open across it survive.
  - A service that does not run is started, in either mode.
  - Then the service itself and all probes must pass for the whole soak. A crash loop ends the wait at once, and the
    message holds the last words of the unit's log.
version_added: 0.1.0
author:
  - The Evenkeel Authors (@evenkeel)
extends_documentation_fragment:
  - evenkeel.fault_tolerance._store
options:
  name:
    description:
      - The systemd unit. Either this or O(process).
    type: str
  process:
    description:
      - A service without systemd, a mapping with C(name), C(pidfile), C(argv), and optionally C(chdir),
        C(reload_signal), C(stop_signal).
    type: dict
  mode:
    description:
      - V(cold) stops and starts. V(warm) reloads, and is refused where the service cannot.
      - A reload counts as taken when the service shows it, by new workers or in its own words, and as failed when it
        says that it goes on with what it had. Where it shows nothing, a warning says that it was only asked.
    type: str
    choices: [cold, warm]
    default: cold
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
      - How long to wait for that. A soak that is longer is refused, with nothing touched.
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
    description: Says what would be done.
  diff_mode:
    support: none
    description: Nothing but the process changes.
  idempotent:
    support: none
    description: A restart is an act, each time.
"""

EXAMPLES = r"""
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
  description: The service before, with C(active), C(text), C(identity), C(started), C(restarts).
  returned: unless it was refused
  type: dict
after:
  description: The service afterwards.
  returned: unless it was refused
  type: dict
health:
  description: What was measured, as M(evenkeel.fault_tolerance.ft_health) returns it.
  returned: when it was measured
  type: dict
planned:
  description: What was to be done, in order.
  returned: always
  type: list
  elements: raw
  sample: [{"resource": "services", "action": "restart", "target": "nginx.service"}]
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
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restart import restart
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

ARGUMENTS = {
    "name": {"type": "str"},
    "process": {"type": "dict"},
    "mode": {"type": "str", "choices": ["cold", "warm"], "default": "cold"},
    "probes": {"type": "list", "elements": "dict", "default": []},
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "1m"},
    "interval": {"type": "str", "default": "1s"},
}


def work(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    soak, deadline, interval = (seconds(params[name], name) for name in ("soak", "deadline", "interval"))
    return restart(
        params["name"],
        params["process"],
        params["mode"],
        params["probes"],
        soak,
        deadline,
        interval,
        Store(params["store"], System()).system,
        check_mode,
    )


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
