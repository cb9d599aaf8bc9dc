# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which encrypted copies count: a chain is worth what its worst bundle is, and a peer that is caught does not count."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._heal import (
    DAMAGED,
    DISPUTED,
    FALSE,
    GOOD,
    NONE,
    UNREAD,
    Known,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._heal_sealed import (
    Copy,
    Survey,
    best,
    disagreeing,
    judge,
)

WHOLE, PART = "a" * 64, "b" * 64
KNOWN = Known("1" * 64, "h1", "base", "2026-01-01T00:00:00Z")


def copy(*shas: str, ours: bool = True) -> Copy:
    return Copy(KNOWN, "verified", "", [(KNOWN.id, {"sha256": sha}) for sha in shas], ours)


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ({WHOLE: GOOD, PART: GOOD}, GOOD),
        ({WHOLE: GOOD}, UNREAD),
        ({WHOLE: FALSE, PART: GOOD}, FALSE),
        ({WHOLE: DISPUTED}, DISPUTED),
        ({WHOLE: DISPUTED, PART: FALSE}, FALSE),
        ({}, UNREAD),
    ],
)
def test_a_chain_is_worth_what_its_worst_bundle_is(verdicts: Mapping[str, str], state: str) -> None:
    found = copy(WHOLE, PART).standing("h2", {("h2", sha): verdict for sha, verdict in verdicts.items()})
    assert found == state


def test_a_copy_without_a_proved_chain_is_damaged() -> None:
    assert copy().standing("h2", {("h2", WHOLE): GOOD}) == DAMAGED


def test_of_several_copies_of_a_checkpoint_the_best_counts() -> None:
    verdicts = {("h2", WHOLE): GOOD, ("h2", PART): FALSE}
    for found in ([copy(WHOLE), copy(PART), copy()], [copy(), copy(PART), copy(WHOLE)]):
        assert best("h2", found, verdicts)[KNOWN.id].standing("h2", verdicts) == GOOD
    unmarked = copy(WHOLE, ours=False)
    assert best("h2", [copy(WHOLE), unmarked], verdicts)[KNOWN.id].ours


def test_the_bundle_itself_decides_even_against_a_majority() -> None:
    proofs = {WHOLE: {"h2": "x", "h3": "y", "h4": "y"}, PART: {"h2": "z"}}
    assert disagreeing(proofs) == {WHOLE: ["h3", "h4", "h2"]}
    found = judge(proofs, {WHOLE: "x"})
    assert found == {("h2", WHOLE): GOOD, ("h3", WHOLE): FALSE, ("h4", WHOLE): FALSE, ("h2", PART): GOOD}
    assert judge({WHOLE: {"us": "y", "h3": "x"}}, {WHOLE: "x"})[("us", WHOLE)] == FALSE


def test_without_the_bundle_two_peers_that_disagree_do_not_count() -> None:
    assert judge({WHOLE: {"h2": "x", "h3": "y"}}) == {("h2", WHOLE): DISPUTED, ("h3", WHOLE): DISPUTED}


def test_a_peer_with_damage_gets_the_copy_again_only_where_no_other_peer_is_left() -> None:
    verdicts = {("h2", WHOLE): GOOD}
    on: dict[str, dict[str, Copy]] = {"h2": {KNOWN.id: copy(WHOLE)}, "h3": {KNOWN.id: copy()}}
    for more, target in ((["h4"], "h4"), ([], "h3")):
        survey = Survey({**on, **{peer: {} for peer in more}}, verdicts)
        assert [survey.state(peer, KNOWN.id) for peer in ("h2", "h3", *more)] == [GOOD, DAMAGED, *[NONE] * len(more)]
        (step,) = survey.standing("h1", 2, None, KNOWN.id).steps()
        assert (step.target, step.sources) == (target, ("h2",))


def test_a_peer_whose_proof_is_false_gets_nothing_and_gives_nothing() -> None:
    on = {"h2": {KNOWN.id: copy(WHOLE)}, "h3": {KNOWN.id: copy(WHOLE)}}
    survey = Survey(on, {("h2", WHOLE): GOOD, ("h3", WHOLE): FALSE})
    standing = survey.standing("h1", 2, None, KNOWN.id)
    assert standing.steps() == [] and standing.counted() == ["h2"] and standing.sources() == ("h2",)


def test_only_a_copy_with_our_mac_makes_a_checkpoint_known() -> None:
    assert Survey({"h2": {KNOWN.id: copy(WHOLE, ours=False)}}, {}).known() == {}
    assert Survey({"h2": {KNOWN.id: copy(ours=True)}}, {}).known() == {}
    assert Survey({"h2": {KNOWN.id: copy(WHOLE)}}, {}).known() == {KNOWN.id: KNOWN}
