# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host in doubt takes no change until it was rolled back or accepted; what cannot be put back is said beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, command, doubt
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.doubt import (
    accept,
    in_doubt,
    refuse_if_in_doubt,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback

DOUBT = changes.Event(3, "in_doubt", "deadline", 1.0, "a" * 64, ["app: its script failed"])


def write(store: Store, *events: changes.Event) -> None:
    lines = [json.dumps({key: value for key, value in asdict(one).items() if value is not None}) for one in events]
    Path(store.join("events")).write_text("".join(f"{line}\n" for line in lines) + '{"torn')


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Path:
    path = tmp_path / "live"
    path.mkdir()
    (path / "file").write_text("before")
    checkpoint(store, "other", [{"files": {"paths": [str(path)]}}])
    Path(store.join("generation")).write_text("3\n")
    return path


def begin(store: Store, live: Path, **options: Any) -> dict[str, Any]:
    return checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], 60.0, **options)


def test_the_next_change_is_refused_with_what_is_left(store: Store, live: Path) -> None:
    write(store, DOUBT)
    for check_mode in (True, False):
        with pytest.raises(
            Refused, match="in doubt since the change of generation 3: app: its script failed"
        ) as refused:
            begin(store, live, check_mode=check_mode)
        assert refused.value.result["left"] == DOUBT.left
    assert info(store)["doubt"]["left"] == DOUBT.left and info(store)["armed"] is None
    # A checkpoint alone changes nothing.
    assert checkpoint(store, "nightly", [{"files": {"paths": [str(live)]}}])["generation"] is None


@pytest.mark.parametrize(
    ("later", "open_still"),
    [
        ([], True),
        ([replace(DOUBT, outcome="rolled_back", left=[])], False),  # tried again, by the dead-man
        ([replace(DOUBT, generation=4, outcome="rolled_back", left=[])], False),  # back to its checkpoint
        ([replace(DOUBT, generation=4, outcome="rolled_back", checkpoint="b" * 64)], True),
        ([replace(DOUBT, generation=4, outcome="confirmed", checkpoint="b" * 64)], True),
        ([replace(DOUBT, outcome="accepted")], False),
        ([replace(DOUBT, outcome="accepted"), replace(DOUBT, generation=4)], True),
        # By a rollback that was confirmed, and by one that was not: the host is as it was before that.
        ([replace(DOUBT, outcome="rolled_back", rollback=4)], False),
        (
            [
                replace(DOUBT, outcome="rolled_back", rollback=4),
                replace(DOUBT, generation=4, outcome="rolled_back", checkpoint="c" * 64),
            ],
            True,
        ),
    ],
)
def test_what_ends_a_doubt(store: Store, live: Path, later: list[changes.Event], open_still: bool) -> None:
    write(store, DOUBT, *later)
    found = in_doubt(store)
    assert (found is not None) is open_still


def test_a_host_is_accepted_as_it_is(store: Store, live: Path) -> None:
    write(store, DOUBT)
    assert accept(store, check_mode=True).changed and in_doubt(store) is not None
    with pytest.raises(Refused, match="this run has generation 2, the host is at 3"):
        accept(store, 2)
    result = accept(store, 3)
    assert result.changed and result.accepted["left"] == result.left == DOUBT.left
    assert in_doubt(store) is None and info(store)["last"]["outcome"] == "accepted"
    assert not accept(store).changed and begin(store, live)["generation"] == 4
    with pytest.raises(Refused, match="another change is under way"):
        accept(store)


def test_what_is_still_tried_again_is_in_doubt_and_can_be_accepted(store: Store, live: Path) -> None:
    assert begin(store, live)["generation"] == 4
    change = changes.armed(store)
    assert change is not None
    with store.locked():
        changes.note_left(store, change, "settle", ["app: no package file"])
    with pytest.raises(Refused, match="in doubt since the change of generation 4: app: no package file"):
        refuse_if_in_doubt(store)
    assert info(store)["doubt"]["left"] == ["app: no package file"] and info(store)["doubt"]["by"] == "settle"
    assert accept(store).changed and info(store)["armed"] is None and in_doubt(store) is None
    assert info(store)["last"]["outcome"] == "accepted"


def test_nothing_to_accept_leaves_no_store(tmp_path: Path, store: Store) -> None:
    nowhere = Store(str(tmp_path / "nowhere"), store.system)
    assert not accept(nowhere).changed and not nowhere.exists


def test_a_good_rollback_of_all_that_is_in_doubt_makes_it_good(store: Store, live: Path) -> None:
    declared = {"files": {"paths": [str(live)]}}
    (live.parent / "more").write_text("more")
    both = [declared, {"files": {"paths": [str(live.parent / "more")]}}]
    own = checkpoint(store, "own", both)["id"]
    wider = checkpoint(store, "later", both)["id"]
    write(store, replace(DOUBT, checkpoint=own))
    for wanted, kinds in (("own", ["files"]), ("other", None), (wider, None)):
        (stays,) = rollback(store, wanted, kinds=kinds)["warnings"]
        assert "stays in doubt since the change of generation 3" in stays and own[:12] in stays
        assert in_doubt(store) is not None
    assert rollback(store, "own").get("warnings") in (None, [])
    assert in_doubt(store) is None and info(store)["last"]["outcome"] == "rolled_back"
    assert begin(store, live)["armed"]


def test_an_older_checkpoint_with_the_same_declarations_makes_it_good(store: Store, live: Path) -> None:
    write(store, replace(DOUBT, checkpoint=checkpoint(store, "own", [{"files": {"paths": [str(live)]}}])["id"]))
    rollback(store, "other")
    assert in_doubt(store) is None


def test_a_second_doubt_does_not_cover_the_first(store: Store, live: Path) -> None:
    second = replace(DOUBT, generation=4, checkpoint="c" * 64, left=["db: does not start"])
    write(store, DOUBT, second)
    found = in_doubt(store)
    assert found is not None and found.left == [*DOUBT.left, *second.left] and found.generation == 4
    write(store, DOUBT, second, replace(second, outcome="rolled_back", left=[]))
    assert in_doubt(store) == DOUBT
    write(store, DOUBT, second, replace(second, outcome="accepted"))
    assert in_doubt(store) is None


def test_a_change_of_a_run_that_was_confirmed_shows_that_no_doubt_was_left(store: Store, live: Path) -> None:
    """Older versions noted the end of the newest doubt alone."""
    second = replace(DOUBT, generation=4, checkpoint="c" * 64)
    events = [DOUBT, second, replace(second, outcome="rolled_back", by="operator", left=[])]
    later = replace(DOUBT, generation=5, outcome="confirmed", checkpoint="d" * 64, left=[], change="run.1")
    write(store, *events, later)
    assert in_doubt(store) is None
    write(store, *events, replace(later, change=""))
    assert in_doubt(store) == DOUBT, "a rollback is confirmed on a host in doubt, too"
    write(store, *events, later, replace(later, outcome="in_doubt", left=["db"]))
    assert [one.generation for one in doubt.doubts(store)] == [5], "taken back, and not all of it came back"


def test_a_whole_rollback_ends_the_doubt_of_a_rollback_and_the_one_below_it(store: Store, live: Path) -> None:
    one = replace(DOUBT, checkpoint=store.resolve("other"))
    undo = checkpoint(store, "undo", [{"files": {"paths": [str(live)]}}])["id"]
    events = [one, replace(one, outcome="rolled_back", by="operator", left=[], rollback=4)]
    trying = replace(one, generation=4, checkpoint=undo, until=9.0)
    write(store, *events, trying, replace(trying, until=0.0))
    Path(store.join("generation")).write_text("4\n")
    assert [found.generation for found in doubt.doubts(store)] == [3, 4]
    assert rollback(store, "other").get("warnings") in (None, [])
    assert in_doubt(store) is None


def test_a_rollback_that_is_to_be_confirmed_is_no_change_that_is_refused(store: Store, live: Path) -> None:
    one = replace(DOUBT, checkpoint=store.resolve("other"))
    write(store, one)
    (live / "file").write_text("after")
    result = rollback(store, "other", confirm_within=60.0)
    assert result["generation"] == 4 and in_doubt(store) is None and info(store)["armed"]["generation"] == 4
    change = changes.armed(store)
    assert change is not None
    changes.conclude(store, change, changes.ROLLED_BACK, "deadline")
    assert in_doubt(store) == one


def test_what_could_not_be_put_back_is_said_and_refused_where_that_is_asked_for(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_restorable(_sections: Sequence[Any]) -> list[str]:
        return ["the package file of app"]

    monkeypatch.setattr(registry, "not_restorable", not_restorable)
    assert begin(store, live, check_mode=True)["left"] == ["the package file of app"]
    before = store.refs()
    for check_mode in (True, False):
        with pytest.raises(Refused, match=r"require_restorable.*the package file of app") as refused:
            begin(store, live, require_restorable=True, check_mode=check_mode)
        assert refused.value.result["left"] == ["the package file of app"]
    assert store.refs() == before and info(store)["armed"] is None and info(store)["generation"] == 3
    assert begin(store, live)["left"] == ["the package file of app"]


def test_no_unit_of_ours_stays_failed_once_the_doubt_is_over(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(argv: Sequence[str], timeout: float) -> Completed:
        asked.append(" ".join(argv[1:]))
        return Completed(tuple(argv), 0, "", "")

    host = Store(store.root, replace(store.system, has_systemd=lambda: True, run=run))
    monkeypatch.setattr(command, "is_host", lambda _store: False)
    own = replace(DOUBT, checkpoint=store.resolve("other"))
    change = changes.Armed(3, own.checkpoint, "other", 0.0, 0.0, "", 0.0)
    for what, forgets in (("in_doubt", False), ("accepted", True), ("in_doubt", False), ("cleared", True)):
        asked.clear()
        with store.locked():
            if what == "in_doubt":
                changes.conclude(host, change, what, "deadline", own.left)
            elif what == "cleared":
                doubt.cleared(host, store.manifest(own.checkpoint), whole=True)
        if what == "accepted":
            accept(host)
        assert any(words.startswith("reset-failed evenkeel-deadman") for words in asked) is forgets, what
    changes.conclude(host, change, changes.CONFIRMED, "settle")
    assert asked[-1].startswith("reset-failed ") and "evenkeel-boot" in asked[-1] and "evenkeel-health" in asked[-1]
