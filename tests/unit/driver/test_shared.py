# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver and the collection read durations and numbers of hosts alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel.changes import waves
from evenkeel.outcome import UsageError
from evenkeel.plan.file import read_plan
from evenkeel.shared import BadValue, duration, hosts_of_budget, seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (90, 90.0),
        (0.5, 0.5),
        (1e-7, 1e-7),
        ("90", 90.0),
        ("1.5", 1.5),
        ("500ms", 0.5),
        (" 30s ", 30.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("10 m", 600.0),
        ("2W", 14 * 86400.0),
        ("1y1d", 366 * 86400.0),
    ],
)
def test_a_duration_is_the_same_everywhere(text: Any, wanted: float) -> None:
    assert seconds(text) == duration(text) == wanted


@pytest.mark.parametrize(
    "text",
    [None, True, -1, "", " ", "1x", "-1s", "1h later", "10 20", "1s,2s", [1], math.nan, math.inf, "9" * 400, 10**400],
)
def test_what_is_no_duration_is_none_anywhere(text: Any) -> None:
    with pytest.raises(BadValue, match="soak: .* is not a duration"):
        seconds(text, "soak")
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


def test_only_a_plan_knows_what_never_comes() -> None:
    assert duration("never") == math.inf
    with pytest.raises(BadValue):
        seconds("never")


@pytest.mark.parametrize("text", ["1", "3", "34%", "60%", "100%", "quorum"])
def test_a_number_of_hosts_is_the_same_for_the_guard_a_plan_and_waves(tmp_path: Path, text: str) -> None:
    wanted = hosts_of_budget(text, 5, "min_healthy", round_up=True)
    (tmp_path / "plan.yml").write_text(yaml.safe_dump({"groups": {"web": {"hosts": 5, "needed": text}}}))
    assert read_plan(str(tmp_path / "plan.yml"))[0].needed == wanted
    if text == "quorum":  # Ansible's serial does not know it.
        with pytest.raises(UsageError, match="'quorum' is neither"):
            waves.parse(text)
    else:
        assert len(waves.split("abcde", waves.parse(text))[0]) == wanted


@pytest.mark.parametrize("needed", ["0", 0, True, "0%", "101%", "most", 2.5])
def test_what_is_no_number_of_hosts_is_named(tmp_path: Path, needed: Any) -> None:
    (tmp_path / "plan.yml").write_text(yaml.safe_dump({"groups": {"web": {"hosts": 5, "needed": needed}}}))
    with pytest.raises(UsageError, match=r"groups.web.needed: .* is not a number of at least 1"):
        read_plan(str(tmp_path / "plan.yml"))
