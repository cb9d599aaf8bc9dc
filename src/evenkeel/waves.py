# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The waves of a change: which hosts change at the same time, and in which order."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenkeel.outcome import UsageError


@dataclass(frozen=True)
class Size:
    """The size of one wave: a number of hosts, or (percent) a share of all of them, rounded up."""

    number: int
    percent: bool = False

    def of(self, total: int) -> int:
        """How many of ``total`` hosts this is; at least one."""
        return math.ceil(total * self.number / 100) if self.percent else self.number


def parse(text: str) -> tuple[Size, ...]:
    """Read ``1,25%,100%``. Raises UsageError naming the part that is wrong."""
    return tuple(_size(part.strip(), text) for part in text.split(","))


def _size(part: str, text: str) -> Size:
    found = re.fullmatch(r"(\d+)(%?)", part)
    if not found:
        raise UsageError(f"waves {text!r}: {part!r} is neither a number of hosts nor a percentage, as in 1,25%,100%")
    number, percent = int(found[1]), bool(found[2])
    if number == 0:
        raise UsageError(f"waves {text!r}: a wave of {part} has no hosts")
    if percent and number > 100:
        raise UsageError(f"waves {text!r}: {part} is more than all hosts")
    return Size(number, percent)


def split(hosts: Sequence[str], sizes: Sequence[Size]) -> list[tuple[str, ...]]:
    """Deal ``hosts`` out, in order; the last size repeats, so that no wave is ever larger than was written.

    Percentages are of the whole number of hosts, so ``1,25%,100%`` over 20 hosts gives 1, 5 and the other 14.
    """
    waves: list[tuple[str, ...]] = []
    done = 0
    while done < len(hosts):
        size = sizes[min(len(waves), len(sizes) - 1)].of(len(hosts))
        waves.append(tuple(hosts[done : done + size]))
        done += size
    return waves


def by_domain(waves: Sequence[Sequence[str]], domains: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Split each wave so that all its hosts are in one failure domain, in the order in which the domains come."""
    parts: list[tuple[str, ...]] = []
    for wave in waves:
        seen = dict.fromkeys(domains[host] for host in wave)
        parts += [tuple(host for host in wave if domains[host] == domain) for domain in seen]
    return parts
