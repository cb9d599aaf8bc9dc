# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waves: everyone is dealt out once, and no wave is larger than was written."""

from __future__ import annotations

import pytest

from evenkeel.changes.waves import by_domain, parse, split
from evenkeel.outcome import UsageError

HOSTS = [f"h{number}" for number in range(1, 21)]


@pytest.mark.parametrize(
    ("text", "hosts", "sizes"),
    [
        ("1,25%,100%", 20, [1, 5, 14]),
        ("1,25%,100%", 1, [1]),
        ("1,100%", 5, [1, 4]),
        ("2,2,2", 6, [2, 2, 2]),
        ("2", 5, [2, 2, 1]),
        ("34%", 3, [2, 1]),
        ("1%", 3, [1, 1, 1]),
        ("50", 3, [3]),
    ],
)
def test_waves_have_the_sizes_that_were_written(text: str, hosts: int, sizes: list[int]) -> None:
    assert [len(wave) for wave in split(HOSTS[:hosts], parse(text))] == sizes


def test_every_host_is_in_exactly_one_wave_in_order() -> None:
    waves = split(HOSTS, parse("3,10%,50%"))
    assert [host for wave in waves for host in wave] == HOSTS


@pytest.mark.parametrize("text", ["", "0", "0%", "1,,2", "101%", "-1", "a", "1.5", "1;2"])
def test_a_wrong_size_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=f"waves {text!r}"):
        parse(text)


def test_a_wave_never_spans_two_failure_domains() -> None:
    domains = {"a": "r1", "b": "r2", "c": "r1", "d": "r2", "e": "r1"}
    plan = by_domain([("a",), ("b", "c", "d", "e")], domains)
    assert plan == [("a",), ("b", "d"), ("c", "e")]
