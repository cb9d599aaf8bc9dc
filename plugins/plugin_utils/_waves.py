# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waves: the hosts that change or restart at the same time, and their order."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence


def hosts_of_budget(text: str, size: int, name: str, round_up: bool) -> int:
    """A number of hosts of a group of ``size``: ``2``, ``60%`` or ``quorum`` (more than half).

    round_up: the side to which a fraction of a host is rounded; always so that fewer hosts may be down at once.
    Raises ValueError for anything else.
    """
    written = str(text).strip()
    if written == "quorum":
        return size // 2 + 1
    match = re.fullmatch(r"(\d+)(%?)", written)
    if not match or (match[2] and int(match[1]) > 100):
        raise ValueError(f"{name}: {text!r} is not a number of hosts; write one such as 2, 60% or quorum")
    if not match[2]:
        return int(match[1])
    share = int(match[1]) * size / 100
    return math.ceil(share) if round_up else math.floor(share)


def parse(text: str) -> tuple[str, ...]:
    """The sizes of the waves in a text such as ``1,25%,100%``. ValueError names the wrong part."""
    return tuple(_checked(part.strip(), text) for part in text.split(","))


def _checked(part: str, text: str) -> str:
    try:
        hosts = 0 if part == "quorum" else hosts_of_budget(part, 100, "waves", round_up=True)
    except ValueError:
        hosts = 0
    if hosts == 0:
        raise ValueError(
            f"waves {text!r}: {part!r} is neither a number of hosts, 1 or more, nor a percentage up to 100%, as in"
            " 1,25%,100%"
        )
    return part


def split(hosts: Sequence[str], sizes: Sequence[str]) -> list[tuple[str, ...]]:
    """Distribute ``hosts``, in order; the last size repeats, so that no wave is ever larger than written.

    Percentages are of the whole number of hosts, so ``1,25%,100%`` over 20 hosts gives 1, 5 and the other 14.
    """
    waves: list[tuple[str, ...]] = []
    done = 0
    while done < len(hosts):
        size = hosts_of_budget(sizes[min(len(waves), len(sizes) - 1)], len(hosts), "waves", round_up=True)
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
