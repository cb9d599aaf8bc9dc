# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice of peers for the copies of a host's checkpoints: pure, and equal for every run with the same peers.

Rendezvous hashing (Thaler and Ravishankar, 1998, "Using Name-Based Mappings to Increase Hit Rates"): each host has an
order of its own over all peers, so that load spreads, and a peer that comes or goes moves only the copies on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence


def preference(host: str, peers: Sequence[str]) -> list[str]:
    """All peers but the host itself, each once, the preferred peer first."""

    def weight(peer: str) -> str:
        return hashlib.sha256(f"{host}\0{peer}".encode()).hexdigest()

    return sorted({peer for peer in peers if peer != host}, key=weight, reverse=True)


def without_domain(names: Iterable[str], domains: Mapping[str, str | None]) -> list[str]:
    """The hosts whose failure domain is not known. A domain may be a number, and the number 0."""
    return [name for name in names if domains.get(name) in (None, "")]


def check(host: str, copies: int, peers: Sequence[str], domains: Mapping[str, str | None] | None) -> None:
    """Whether ``copies`` of a host can lie on ``peers``, no two in one failure domain.

    domains: the failure domain of the host and of each peer; None: every peer is a domain of its own.
    Raises ValueError, which lists the peers.
    """
    others = preference(host, peers)
    if copies < 1:
        raise ValueError(f"copies: {copies}; ask for 1 or more")
    if domains is None:
        if len(others) < copies:
            named = ", ".join(sorted(others)) or "none"
            raise ValueError(f"{copies} copies of {host} need as many peers besides it; there are: {named}")
        return
    nowhere = sorted(without_domain({host, *others}, domains))
    if nowhere:
        raise ValueError(f"{', '.join(nowhere)}: no failure domain is known. Set the variable for every host and peer")
    there: dict[str, list[str]] = {}
    for peer in sorted(others):
        there.setdefault(str(domains[peer]), []).append(peer)
    if len(there) < copies:
        listed = "; ".join(f"{domain}: {', '.join(names)}" for domain, names in sorted(there.items())) or "none"
        raise ValueError(
            f"{copies} copies of {host} need peers in {copies} failure domains, and there are {len(there)} ({listed}):"
            " add peers elsewhere or ask for fewer copies"
        )


def choose(
    host: str,
    copies: int,
    peers: Sequence[str],
    domains: Mapping[str, str | None] | None,
    holding: Collection[str] = (),
    failed: Collection[str] = (),
) -> list[str]:
    """The peers to ask next: with the peers ``holding`` a copy already they make ``copies``, or fewer if none is left.

    At most one peer in each failure domain; peers in other domains than the host's come first.
    """

    def domain(name: str) -> str:
        return name if domains is None else str(domains.get(name))

    taken = {domain(peer) for peer in holding}
    order = preference(host, peers)
    order.sort(key=lambda peer: domains is not None and domain(peer) == domain(host))  # stable
    chosen: list[str] = []
    for peer in order:
        if len(chosen) + len(holding) >= copies:
            break
        if peer not in failed and domain(peer) not in taken:
            taken.add(domain(peer))
            chosen.append(peer)
    return chosen


def fewest(copies: int, given: int | None) -> int:
    """The copies without which the task fails. ValueError for a number that cannot be meant."""
    if given is None:
        return copies
    if not 1 <= given <= copies:
        raise ValueError(f"min_copies: {given}; ask for 1 to {copies}, which is copies")
    return given
