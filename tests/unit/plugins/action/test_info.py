# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of ft_info adds what the inventory says, and no wrong template keeps anybody from an answer."""

from __future__ import annotations

from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.host import NOT_COMPARED

from .conftest import Fleet


def ask(resources: str, host: str) -> dict[str, Any]:
    return {
        "evenkeel.fault_tolerance.ft_info": {
            "store": "{{ evenkeel_store }}",
            "resources": resources,
            "copies": 3,
            "failure_domain": "rack",
        },
        "when": f"inventory_hostname == '{host}'",
    }


def test_what_the_inventory_says_is_added_and_a_template_that_does_not_work_is_a_sentence(fleet: Fleet) -> None:
    first, second, third, fourth = fleet.hosts
    fleet.hosts[first].update(rack="{{ 'r' ~ 1 }}")
    fleet.hosts[second].update(rack="{{ nowhere }}", evenkeel_resources=[{"files": {"paths": ["{{ nowhere }}"]}}])
    fleet.hosts[fourth].update(evenkeel_resources=[{"filez": {}}])
    fleet.hosts[third].update(other=[{"files": {"paths": ["{{ base }}/data"]}}])
    for owner in (second, "gone9"):
        (fleet.directory(first) / "store" / "replicas" / owner).mkdir(parents=True)
    tasks = [ask("evenkeel_resources", first), ask("evenkeel_resources", second), ask("not_set", third)]
    tasks.append(ask("evenkeel_resources", fourth))
    found = fleet.play(tasks).results
    assert found[first]["listed"] == {
        "copies": 3,
        "variable": "rack",
        "domain": "r1",
        "hosts": len(fleet.hosts),
        "gone": ["gone9"],
    }
    assert [one["host"] for one in found[first]["holds"]] == ["gone9", second]
    assert found[first]["spot_check"] == [
        "no checkpoint has been taken, so that nothing of what is declared is protected"
    ]
    assert found[second]["listed"]["domain"] == "" and "failed" not in found[second]
    assert found[second]["spot_check"] == [f"{NOT_COMPARED}: evenkeel_resources: 'nowhere' is undefined"]
    assert found[third]["spot_check"] is None
    assert "unknown kind filez; there are" in found[fourth]["spot_check"][0] and "failed" not in found[fourth]
