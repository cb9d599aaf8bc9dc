# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tasks set on one host is carried to the waves after, unless it would keep all else from being written."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.callback import witness


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


def test_a_variable_that_is_nested_too_deep_is_left_out_and_the_others_are_written() -> None:
    for depth in [*range(850, 1010), 100_000]:
        manager = SimpleNamespace(
            _vars_cache={"web1": {"deep": nested(depth), "good": [1]}}, _nonpersistent_fact_cache={}
        )
        found = witness._variables(manager, "web1")
        assert found["good"] == [1]
        json.loads(json.dumps({"web1": {"vars": found, "groups": []}}))


def test_a_variable_that_is_too_long_or_no_plain_value_is_left_out() -> None:
    known = {"web1": {"odd": object(), "long": "x" * 20_000_000, "good": {"a": [1, None]}}}
    manager = SimpleNamespace(_vars_cache=known, _nonpersistent_fact_cache={})
    assert witness._variables(manager, "web1") == {"good": {"a": [1, None]}}
