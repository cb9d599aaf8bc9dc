# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service address moves before its holder goes down, and all take part again whatever came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _holders
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory


class Fleet:
    """Hosts that do as they are asked, but for those in ``fails``."""

    def __init__(self, fails: dict[str, dict[str, Any]] | None = None, declared: Any = None) -> None:
        self.fails, self.declared, self.asked = fails or {}, declared, list[tuple[str, str]]()
        self.name = ""

    def each(self, hosts: Iterable[str], work: Callable[[Any], Any], timeout: float) -> dict[str, Any]:
        found = {}
        for self.name in hosts:
            found[self.name] = work(self)
        return found

    def module(self, module: str, **given: Any) -> dict[str, Any]:
        assert module == "ft_drain" and given["command"]["check"][-1] == "is-elsewhere"
        self.asked.append((self.name, given["state"]))
        bad = self.fails.get(self.name) if given["state"] == "drained" else None
        return bad or {"state": given["state"]}

    def store(self, host: str, given: str) -> str:
        return given

    def variable(self, host: str, name: str, default: Any) -> Any:
        return self.declared or default

    def hand_over(self, *hosts: str) -> str:
        return _holders.hand_over(cast(Inventory, self), hosts, "/store")


def test_the_others_stand_aside_before_the_holder_and_all_take_part_again() -> None:
    fleet = Fleet()
    assert fleet.hand_over("c", "a") == ""
    assert fleet.asked == [("c", "drained"), ("a", "drained"), ("c", "ready"), ("a", "ready")]


@pytest.mark.parametrize(
    "bad", [{"failed": True, "msg": "nobody took it."}, {"unreachable": True}, {"state": "unknown"}, {"state": "ready"}]
)
def test_an_address_that_did_not_move_is_a_reason(bad: dict[str, Any]) -> None:
    fleet = Fleet({"c": bad})
    said = fleet.hand_over("c", "a")
    assert said.startswith("c did not hand its address over (") and said.endswith("and run again.")
    assert fleet.asked == [("c", "drained"), ("c", "ready"), ("a", "ready")]


def test_the_variable_is_a_list_of_texts() -> None:
    assert _holders.declared(cast(Inventory, Fleet()), ["a"]) == {"a": []}
    assert _holders.declared(cast(Inventory, Fleet(declared=["10.0.0.1/24"])), ["a"]) == {"a": ["10.0.0.1/24"]}
    for wrong in ("10.0.0.1/24", [1]):
        with pytest.raises(UsageError, match="a: evenkeel_virtual_addresses is no list"):
            _holders.declared(cast(Inventory, Fleet(declared=wrong)), ["a"])
