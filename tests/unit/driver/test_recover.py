# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `evenkeel recover` tells of a host: its recovery, its health, its copies, and which spare was chosen."""

from __future__ import annotations

from typing import Any

from evenkeel.ansible.events import PREFIX, Record, feed
from evenkeel.commands.registry import playbooks
from evenkeel.outcome import Exit

PLAYBOOKS = playbooks()

SAID = "recovered web1 onto web6 from checkpoint protected (f00) of 2026-11-29 on web2, 12 min old, in 14 s"
RECOVERED = {"changed": True, "restored": "f" * 64, "source": "web2", "done": [SAID, "took it", {"action": "create"}]}
REFUSED = {
    "failed": True,
    "error": "Refused",
    "msg": "No spare can take the place of web1: web5: no. Nothing was changed",
}


def record(*events: tuple[str, str, dict[str, Any]]) -> Record:
    made = Record()
    for host, task, res in events:
        data = {"host": host, "task": "Do", "resolved_action": PREFIX + task, "res": res}
        feed(made, {"event": f"runner_on_{'failed' if res.get('failed') else 'ok'}", "event_data": data})
    return made


def rows(hosts: list[str], *events: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    return dict(PLAYBOOKS["recover"].rows(record(*events), hosts, ""))


def test_a_recovery_tells_of_health_and_copies_as_they_were_measured() -> None:
    found = rows(["web6"], ("web6", "ft_recover", RECOVERED))
    assert found["web6"]["done"] == [SAID, "health was not measured: no probes are declared"]
    found = rows(["web6"], ("web6", "ft_recover", {**RECOVERED, "changed": False, "done": ["took it"]}))
    assert found["web6"]["done"][0] == "nothing to do"
    copied = {"changed": True, "proved": ["web2 holds", "web3 holds"]}
    healthy = ("web6", "ft_health", {"changed": False, "state": "pass", "probes": []})
    found = rows(["web6"], ("web6", "ft_recover", RECOVERED), healthy, ("web6", "ft_replicate", copied))
    assert found["web6"]["done"] == [SAID, "healthy", "2 verified copies"]
    assert found["web6"]["state"] == "ok" and found["web6"]["source"] == "web2"


def test_a_failure_after_a_recovery_does_not_hide_it() -> None:
    sick = {"failed": True, "error": "Unhealthy", "msg": "nginx is down"}
    found = rows(["web6"], ("web6", "ft_recover", RECOVERED), ("web6", "ft_health", sick))
    assert found["web6"]["state"] == "failed" and found["web6"]["msg"] == f"{SAID}; nginx is down"
    assert PLAYBOOKS["recover"].exit_code(list(found.values())) is Exit.IN_DOUBT
    copied = ("web6", "ft_replicate", {"proved": ["web2 holds"]})
    found = rows(["web6"], ("web6", "ft_recover", RECOVERED), ("web6", "ft_health", sick), copied)
    assert found["web6"]["msg"] == f"{SAID}; 1 verified copies; nginx is down"


def test_a_host_that_nobody_reaches_after_its_recovery_tells_of_its_new_ssh_keys() -> None:
    keys = "web6 has the SSH keys of web1 now"
    recovered = ("web6", "ft_recover", {**RECOVERED, "warnings": [keys]})
    found = rows(["web6"], recovered, ("web6", "ft_health", {"failed": True, "error": "Unhealthy", "msg": "down"}))
    assert found["web6"]["warnings"] == [keys]


def test_the_spares_that_were_passed_over_are_no_rows_and_are_named() -> None:
    choice = ("web5", "ft_recover", {"changed": False, "onto": "web6", "left": ["web5: a change is under way there"]})
    found = rows(["web5", "web6"], choice, ("web6", "ft_recover", RECOVERED))
    assert list(found) == ["web6"] and found["web6"]["left"] == ["web5: a change is under way there"]
    # The recovery of the chosen spare did not run: that is its state.
    assert rows(["web5", "web6"], choice)["web6"]["state"] == "missing"
    found = rows(["web5", "web6"], ("web5", "ft_recover", REFUSED))
    assert list(found) == ["web5"] and PLAYBOOKS["recover"].exit_code(list(found.values())) is Exit.REFUSED
