# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change that is kept open: extended, held, decided, and taken back after it was confirmed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import agent, changes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused, Unhealthy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.settle import Request
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.settle import settle as carry_out
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import logins
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, rollback, settle

GOOD = [{"command": {"argv": ["true"]}}]
BAD = [{"command": {"argv": ["false"]}}]
NOW = (0.0, 0.1, 0.05)


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Path:
    """A file that a change has changed, 300 s before it must be confirmed, and at most 1000 s after it began."""
    live = tmp_path / "live"
    live.write_text("before")
    declared = [{"files": {"paths": [str(live)]}}]
    checkpoint(store, "change", declared, within=300.0, at_most=1000.0, change=("fleet-1", 3))
    live.write_text("after")
    return live


def later(store: Store, seconds: float) -> Store:
    system = store.system
    return Store(
        store.root,
        replace(system, monotonic=lambda: time.monotonic() + seconds, now=lambda: time.time() + seconds),
    )


def test_a_host_remembers_the_change_it_is_part_of(store: Store, live: Path) -> None:
    told = info(store)["armed"]
    assert (told["change"], told["hosts"]) == ("fleet-1", 3) and "stage" not in told
    settle(store, 1, GOOD, *NOW)
    last = info(store)["last"]
    assert (last["change"], last["hosts"], last["outcome"]) == ("fleet-1", 3, "confirmed")


def test_an_extension_moves_the_deadline_and_the_cap_bounds_it(store: Store, live: Path) -> None:
    report = settle(later(store, 200.0), 1, None, *NOW, verdict="extend")
    assert report["outcome"] == "extended" and 299 < report["remaining"] <= 300
    assert info(later(store, 400.0))["armed"]["overdue"] is None
    for seconds in (450.0, 700.0, 900.0):
        report = settle(later(store, seconds), 1, None, *NOW, verdict="extend")
    assert 95 < report["remaining"] <= 100, "1000 s after the beginning, and not 300 s from now"
    with pytest.raises(Unhealthy, match="has put itself back already, by deadline"):
        settle(later(store, 1001.0), 1, None, *NOW, verdict="extend")
    assert live.read_text() == "before"
    live.write_text("a task went on")
    with pytest.raises(Unhealthy, match="Whether tasks have changed it since was not looked at"):
        settle(later(store, 1001.0), 1, None, *NOW, verdict="extend")
    assert live.read_text() == "a task went on", "the driver waits for this answer, and settles the host afterwards"
    with pytest.raises(Unhealthy, match="1 things were changed on it after that"):
        settle(later(store, 1001.0), 1, None, *NOW)
    assert live.read_text() == "before"


def test_check_mode_refuses_as_the_run_does(store: Store, live: Path) -> None:
    resources = [{"files": {"paths": [str(live)]}}]
    change = changes.armed(store)
    assert change is not None
    checkpoint(store, "nightly", resources)
    for check_mode in (True, False):
        with pytest.raises(Refused, match=f"another change is under way .* ft_rollback to {change.checkpoint[:12]} "):
            checkpoint(store, "second", resources, 60.0, check_mode=check_mode)
        for to, kinds in (("nightly", None), (change.checkpoint, ["files"])):
            with pytest.raises(Refused, match="another change is under way"):
                rollback(store, to, kinds, check_mode=check_mode)
        with pytest.raises(Refused, match="another run has changed it"):
            rollback(store, change.checkpoint, check_mode=check_mode, generation=0)
        with pytest.raises(Refused, match="is not held on this host"):
            settle(store, 1, None, *NOW, verdict="approve", check_mode=check_mode)
    assert rollback(store, change.checkpoint[:12], check_mode=True)["changed"]
    assert settle(store, 1, None, *NOW, check_mode=True)["changed"]
    late = later(store, 1001.0)
    assert checkpoint(late, "second", resources, 60.0, check_mode=True)["changed"], "the run ends the change first"
    rollback(store, change.checkpoint)
    for check_mode in (True, False):
        with pytest.raises(Unhealthy, match="has put itself back already, by operator"):
            settle(store, 1, None, *NOW, verdict="extend", check_mode=check_mode)


def test_a_deadline_never_comes_nearer(store: Store, live: Path) -> None:
    before = changes.armed(store)
    assert before is not None
    assert changes.extend(store, before, 1.0).due == before.due


def test_an_older_generation_and_an_old_login_extend_nothing(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = changes.armed(store)
    with pytest.raises(Refused, match="another run has changed it"):
        settle(later(store, 200.0), 0, None, *NOW, verdict="extend")
    monkeypatch.setattr(logins, "age", lambda since: logins.OLD)
    with pytest.raises(Refused, match="older than the change") as error:
        settle(later(store, 200.0), 1, None, *NOW, verdict="extend")
    assert error.value.result["login"] == "old", "so that it is not taken for the end of the change"
    assert changes.armed(store) == before and live.read_text() == "after"


def test_a_healthy_host_is_held_and_neither_confirmed_nor_put_back(store: Store, live: Path) -> None:
    report = settle(later(store, 250.0), 1, GOOD, *NOW, verdict="hold")
    assert report["outcome"] == "held" and report["health"]["state"] == "pass" and report["remaining"] > 299
    assert info(store)["armed"]["stage"] == "held" and live.read_text() == "after"
    settle(store, 1, GOOD, *NOW)
    assert info(store)["last"]["outcome"] == "confirmed"


def test_a_sick_host_that_was_to_be_held_goes_back(store: Store, live: Path) -> None:
    with pytest.raises(Unhealthy, match="rolled back to change"):
        settle(store, 1, BAD, *NOW, verdict="hold")
    assert live.read_text() == "before"


def test_a_held_host_that_nobody_extends_goes_back_at_its_deadline(store: Store, live: Path) -> None:
    settle(store, 1, GOOD, *NOW, verdict="hold")
    late = later(store, 301.0)
    with late.locked():
        assert "rolled back the unconfirmed change" in finish(late)[0]
    assert live.read_text() == "before"


@pytest.mark.parametrize("verdict", ["approve", "decide"])
def test_a_change_that_still_runs_is_not_decided(store: Store, live: Path, verdict: str) -> None:
    with pytest.raises(Refused, match="is not held on this host"):
        settle(store, 1, None, *NOW, verdict=verdict)
    settle(store, 1, GOOD, *NOW, verdict="hold")
    assert settle(store, 1, None, *NOW, verdict=verdict)["outcome"] == changes.armed(store).stage  # type: ignore[union-attr]
    assert settle(store, 1, GOOD, *NOW, verdict="hold")["outcome"] != "held", "a stage never goes back"


def test_a_confirmed_change_is_taken_back_unless_another_has_begun(store: Store, live: Path) -> None:
    settle(store, 1, GOOD, *NOW)
    with pytest.raises(Unhealthy, match="rolled back to change: as asked"):
        settle(store, 1, None, *NOW, verdict="take_back")
    assert live.read_text() == "before"
    last = info(store)["last"]
    assert (last["outcome"], last["change"], last["generation"]) == ("rolled_back", "fleet-1", 1)

    live.write_text("after")
    checkpoint(store, "other", [{"files": {"paths": [str(live)]}}], within=300.0)
    with pytest.raises(Refused, match="another run has changed it"):
        settle(store, 1, None, *NOW, verdict="take_back")
    assert live.read_text() == "after"


def test_what_a_person_confirmed_on_the_host_is_not_taken_back(store: Store, live: Path) -> None:
    change = changes.armed(store)
    assert change is not None
    with store.locked():
        changes.conclude(store, change, changes.CONFIRMED, "operator")
    report = settle(store, 1, None, *NOW, verdict="take_back")
    assert (report["outcome"], report["by"]) == ("confirmed", "operator") and live.read_text() == "after"


def test_the_reason_that_was_given_is_said(store: Store, live: Path) -> None:
    request = Request(1, None, Times(*NOW), "roll_back", reason="the task Migrate failed")
    with pytest.raises(Unhealthy, match="rolled back to change: the task Migrate failed; "):
        carry_out(store, request)


def test_a_change_under_way_is_taken_back_as_well(store: Store, live: Path) -> None:
    with pytest.raises(Unhealthy, match="as asked"):
        settle(store, 1, None, *NOW, verdict="take_back")
    assert live.read_text() == "before"


def test_an_agent_whose_deadline_was_moved_in_the_last_moment_waits_for_the_new_one(store: Store, live: Path) -> None:
    late = later(store, 300.5)
    record = changes.armed(store)
    assert record is not None

    def moved(at: Store, boot: bool = False, agent: bool = False) -> list[str]:
        changes._record(at, replace(record, due=record.due + 300.0))  # by who had the lock before
        return finish(at, boot, agent)

    assert agent._until_done(late, 1, moved) is None
    assert live.read_text() == "after" and changes.last_event(store) is None


def test_a_record_of_an_older_version_has_no_extension(store: Store, live: Path) -> None:
    with open(store.join("armed")) as stream:
        record = json.load(stream)
    new = ("began", "at_most", "change", "hosts", "stage")
    with open(store.join("armed"), "w") as stream:
        json.dump({key: value for key, value in record.items() if key not in new}, stream)
    report = settle(later(store, 200.0), 1, None, *NOW, verdict="extend")
    assert report["remaining"] <= 100.0


def test_an_event_of_a_newer_version_is_read(store: Store) -> None:
    event = changes.Event(1, "confirmed", "settle", 1.0, "c", [])
    line = json.dumps({**json.loads(event.line()), "tomorrow": 1}).encode()
    assert changes.event_of(line) == event
