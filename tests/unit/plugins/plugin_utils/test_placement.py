# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import (
    check,
    choose,
    preference,
)

PEERS = [f"h{number}" for number in range(12)]
RACKS: dict[str, str | None] = {peer: f"r{number % 4}" for number, peer in enumerate(PEERS)}


def test_a_host_never_keeps_its_own_copy() -> None:
    assert "h3" not in preference("h3", PEERS)
    assert "h3" not in choose("h3", 11, PEERS, None)


def test_the_choice_does_not_depend_on_the_order_of_the_inventory() -> None:
    assert choose("h3", 3, PEERS, RACKS) == choose("h3", 3, PEERS[::-1], RACKS)


def test_copies_lie_in_distinct_domains_and_not_in_the_hosts_own_while_there_are_others() -> None:
    for host in PEERS:
        chosen = choose(host, 3, PEERS, RACKS)
        assert len({RACKS[peer] for peer in chosen} | {RACKS[host]}) == 4
        assert RACKS[choose(host, 4, PEERS, RACKS)[-1]] == RACKS[host]


def test_the_load_spreads() -> None:
    hosts = [f"h{number}" for number in range(300)]
    load = Counter(peer for host in hosts for peer in choose(host, 2, hosts, None))
    assert max(load.values()) < 10 and len(load) > 240


def test_a_peer_that_goes_moves_only_the_copies_on_it() -> None:
    for host in PEERS[:-1]:
        before, after = (set(choose(host, 3, peers, None)) for peers in (PEERS, PEERS[:-1]))
        assert before - {"h11"} <= after


def test_a_failed_peer_is_replaced_by_the_next_one_without_breaking_the_domains() -> None:
    first = choose("h0", 2, PEERS, RACKS)
    instead = choose("h0", 2, PEERS, RACKS, holding=first[:1], failed=first[1:])
    assert len(instead) == 1
    assert instead[0] not in first and RACKS[instead[0]] != RACKS[first[0]]


def test_nobody_is_asked_once_there_are_enough_copies() -> None:
    assert choose("h0", 2, PEERS, RACKS, holding=["h1", "h2"]) == []
    assert choose("h0", 2, ["h1"], None, failed=["h1"]) == []


def test_too_few_domains_are_refused_with_what_there_is() -> None:
    check("h0", 4, PEERS, RACKS)
    with pytest.raises(ValueError, match=r"5 failure domains, and there are 4 \(r0: h4, h8; r1: h1, h5, h9; "):
        check("h0", 5, PEERS, RACKS)
    with pytest.raises(ValueError, match="there are: h1, h2"):
        check("h0", 3, ["h0", "h1", "h2"], None)
    with pytest.raises(ValueError, match="h9: no failure domain"):
        check("h0", 2, PEERS, {**RACKS, "h9": None})
    numbered: dict[str, Any] = {host: number % 4 for number, host in enumerate(PEERS)}
    check("h0", 4, PEERS, numbered)
    with pytest.raises(ValueError, match="copies: 0"):
        check("h0", 0, PEERS, None)
