# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions of a heal, on made-up fleets: no bad copy counts, nothing is deleted, no two copies in one domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import retention
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _heal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._heal import (
    COUNTS,
    DAMAGED,
    DISPUTED,
    FALSE,
    GOOD,
    NONE,
    REFUSED,
    UNREAD,
    Known,
    Standing,
    judge,
    owners_without_task,
    wanted,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

OWNER = "web0"
STATES = (GOOD, UNREAD, DAMAGED, FALSE, DISPUTED, NONE)


@st.composite
def standings(draw: st.DrawFn) -> tuple[Standing, set[str]]:
    """A checkpoint somewhere in a fleet, and the peers that will refuse a copy."""
    peers = [f"web{number}" for number in range(1, draw(st.integers(1, 8)) + 1)]
    racks = st.sampled_from(["r1", "r2", "r3", "r4"])
    domains = {host: draw(racks) for host in [OWNER, *peers]} if draw(st.booleans()) else None
    states = {peer: draw(st.sampled_from(STATES)) for peer in peers}
    own = draw(st.sampled_from([None, NONE, GOOD, DAMAGED, UNREAD]))
    wary = set(draw(st.lists(st.sampled_from(peers), unique=True)))
    refusing = set(draw(st.lists(st.sampled_from([OWNER, *peers]), unique=True)))
    return Standing(OWNER, draw(st.integers(1, 4)), states, domains, own, wary), refusing


@given(standings())
@settings(max_examples=400, deadline=None)
def test_no_plan_counts_a_bad_copy_or_crowds_a_domain_and_it_makes_as_many_copies_as_can_be(
    made: tuple[Standing, set[str]],
) -> None:
    standing, refusing = made
    before = dict(standing.peers)
    had = standing.counted()
    rounds = 0
    while steps := standing.steps():
        rounds += 1
        assert rounds <= len(before) + 2, "the plan comes to no end"
        places = [standing.domain(step.target) for step in steps if step.target != OWNER]
        assert len(set(places)) == len(places), "two copies in one domain"
        assert not set(places) & {standing.domain(peer) for peer in standing.counted()}
        for step in steps:
            bad = (DAMAGED, FALSE, NONE, REFUSED)
            assert step.sources and step.target not in step.sources
            assert not [one for one in step.sources if one != OWNER and standing.peers[one] in bad]
            assert OWNER not in step.sources or standing.own in COUNTS
            assert step.target == OWNER or before[step.target] in (DAMAGED, NONE), "a peer that lies gets nothing"
            if step.target in refusing:
                standing.refused(step.target, "no")
            else:
                standing.took(step.target)
    # No copy was deleted, or ceased to count.
    assert all(standing.peers[peer] in COUNTS for peer in had)
    counted = standing.counted()
    assert all(standing.peers[peer] in COUNTS for peer in counted)
    assert len({standing.domain(peer) for peer in counted}) == len(counted)
    if standing.sources():
        open_to_it = {peer for peer, state in before.items() if state in (*COUNTS, NONE, DAMAGED)}
        usable = {peer for peer in open_to_it if before[peer] in COUNTS or peer not in refusing}
        most = len({standing.domain(peer) for peer in usable})
        assert len(counted) >= min(standing.copies, most)
        assert standing.own != DAMAGED or OWNER in refusing
    else:
        assert counted == []


@given(
    st.dictionaries(st.sampled_from([OWNER, "a", "b", "c", "d"]), st.sampled_from(["x", "y", "z"]), min_size=1),
)
@example({OWNER: "x", "a": "y", "b": "y", "c": "y"})
@example({"a": "x", "b": "y"})
def test_the_owner_decides_whose_proof_is_right_and_else_more_hosts_than_for_any_other(proofs: dict[str, str]) -> None:
    verdicts = judge(OWNER, proofs)
    assert verdicts.keys() == proofs.keys()
    good = {proofs[host] for host, state in verdicts.items() if state == GOOD}
    assert len(good) <= 1, "different proofs are never good at once"
    if OWNER in proofs:
        assert good == {proofs[OWNER]}
    elif good:
        (right,) = good
        votes = list(proofs.values())
        assert all(votes.count(right) > votes.count(other) for other in set(votes) - good)
        assert all(verdicts[host] == FALSE for host in proofs if proofs[host] != right)
    else:
        assert set(verdicts.values()) == {DISPUTED}


def test_nothing_is_judged_without_proofs() -> None:
    assert judge(OWNER, {}) == {}


def test_a_damaged_copy_is_rebuilt_where_it_lies_and_its_disk_gets_no_other_copy_while_there_is_one() -> None:
    peers = {"a": DAMAGED, "b": GOOD, "c": NONE}
    standing = Standing(OWNER, 2, peers, None, GOOD, wary={"a"})
    assert [(step.target, step.why, step.sources) for step in standing.steps()] == [("a", DAMAGED, (OWNER, "b"))]
    # It has another damaged checkpoint, and not this one.
    for wary in ("a", "c"):
        standing = Standing(OWNER, 2, {"a": NONE, "b": GOOD, "c": NONE}, None, GOOD, wary={wary})
        assert [step.target for step in standing.steps()] == [({"a", "c"} - {wary}).pop()]
    standing = Standing(OWNER, 3, {"a": NONE, "b": GOOD, "c": NONE}, None, GOOD, wary={"a"})
    assert {step.target for step in standing.steps()} == {"a", "c"}


def test_a_damaged_copy_beyond_the_number_in_a_domain_with_a_good_copy_is_left() -> None:
    domains: dict[str, str | None] = {OWNER: "r0", "a": "r1", "b": "r1"}
    assert Standing(OWNER, 1, {"a": GOOD, "b": DAMAGED}, domains, GOOD).steps() == []


def test_all_copies_in_one_domain_are_one_copy() -> None:
    domains: dict[str, str | None] = {OWNER: "r0", "a": "r1", "b": "r1", "c": "r2"}
    standing = Standing(OWNER, 2, {"a": GOOD, "b": GOOD, "c": NONE}, domains, GOOD)
    assert len(standing.counted()) == 1 and [step.target for step in standing.steps()] == ["c"]


@pytest.mark.parametrize("own", [None, NONE, GOOD])
def test_the_store_of_the_owner_is_repaired_only_where_it_names_the_checkpoint(own: str | None) -> None:
    assert Standing(OWNER, 1, {"a": GOOD}, None, own).steps() == []
    (step,) = Standing(OWNER, 1, {"a": GOOD}, None, DAMAGED).steps()
    assert (step.target, step.sources) == (OWNER, ("a",))


def test_what_the_retention_keeps_is_wanted_and_the_newest_always() -> None:
    now = datetime(2026, 11, 29, tzinfo=UTC)

    def at(number: int, name: str) -> Known:
        return Known(f"{name}{number}", OWNER, name, f"{now - timedelta(days=number):%Y-%m-%dT%H:%M:%S.%fZ}")

    known = {one.id: one for one in [at(9, "a"), at(1, "a"), at(5, "a"), at(7, "b"), at(30, "b")]}
    assert wanted(known, None, now) == ["b30", "a9", "b7", "a5", "a1"]
    assert wanted(known, retention.check({"last": 1}), now) == ["b7", "a1"]
    assert wanted(known, retention.check({"within": "1h"}), now) == ["b7", "a1"], "ages are those at the newest"
    assert wanted({}, None, now) == []


def test_owners_that_no_task_cares_for_are_found() -> None:
    assert sorted(owners_without_task({"a": ["x", "y"], "b": ["y", "z"]}, {"y"})) == ["x", "z"]
    many = [f"made-up-{number}" for number in range(1000)]
    assert owners_without_task({"a": [*many, *many, "z"], "b": ["z"]}, ())[0] == "z"
    assert _heal.COUNTS == (GOOD, UNREAD)


@pytest.mark.parametrize(
    ("held", "copies", "strange"),
    [
        ("z", "abc", True),  # It was lost, and a checkpoint was taken since.
        ("", "abc", True),
        ("cd", "abc", False),
        ("", "", False),
        ("d", "c", False),  # The retention keeps one.
        ("xyz", "abc", False),  # The peer was away for long.
    ],
)
def test_a_lost_memory_is_told_by_its_being_strange_to_the_copies(held: str, copies: str, strange: bool) -> None:
    own = dict.fromkeys([*held, "new"], "protected")
    assert _heal.has_forgotten(own, [*copies, "new"], "new") is strange
