# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A checkpoint in the middle of a change counts as a good one only once the change is confirmed; further, the
checkpoints that retention keeps, and warnings."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, doubt, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import NotFound
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import status
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint

CONFIRMED, ROLLED_BACK, IN_DOUBT = changes.CONFIRMED, changes.ROLLED_BACK, changes.IN_DOUBT


def end(store: Store, outcome: str) -> None:
    change = changes.armed(store)
    if change is None:  # It was over already, and is taken back.
        change = changes.Armed(changes.generation(store), "0" * 64, "change", 0.0, 0.0, "", 0.0)
    with store.locked():
        changes.conclude(store, change, outcome, "settle", ["app"] if outcome == IN_DOUBT else [])


@pytest.mark.parametrize(
    ("ends", "is_good"),
    [
        ([], False),
        ([ROLLED_BACK], False),
        ([CONFIRMED], True),
        ([CONFIRMED, ROLLED_BACK], False),
        ([IN_DOUBT], False),
        ([IN_DOUBT, "accepted"], True),
    ],
)
def test_latest_means_no_state_that_nobody_has_confirmed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[str], is_good: bool
) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    file = tmp_path / "live"
    file.write_text("good")
    resources = [{"files": {"paths": [str(file)]}}]
    good = checkpoint(store, "change", resources, 60.0)["id"]
    file.write_text("changed")
    made = checkpoint(store, "nightly", resources)
    assert "in the middle of the change of generation 1" in made["warnings"][0]
    for outcome in ends:
        doubt.accept(store) if outcome == "accepted" else end(store, outcome)
    assert store.resolve("latest") == (made["id"] if is_good else good)
    assert store.resolve("nightly") == made["id"]
    if ends == [ROLLED_BACK]:
        assert any(good[:12] in line for line in status.words(store)[0])
        # The host has the same state again, and now nobody doubts it.
        assert checkpoint(store, "nightly", resources).get("warnings") is None
        assert store.resolve("latest") == made["id"]


def test_a_store_with_such_checkpoints_alone_says_so(store: Store, tmp_path: Path) -> None:
    (tmp_path / "live").write_text("any")
    made = checkpoint(store, "nightly", [{"files": {"paths": [str(tmp_path / "live")]}}])
    Path(store.join("amid")).write_text(f"{made['id']} 1\n\n torn")
    with pytest.raises(NotFound, match="known to be good: .* in the middle of a change that was not confirmed"):
        store.resolve("latest")


@pytest.mark.parametrize("how", ["in doubt", "taken back", "over"])
def test_retention_keeps_the_checkpoint_to_which_a_change_may_go_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    file = tmp_path / "live"
    file.write_text("good")
    resources = [{"files": {"paths": [str(file)]}}]
    fleet = ("fleet", 2) if how == "taken back" else ("", 0)
    good = checkpoint(store, "nightly", resources, 60.0, change=fleet)["id"]
    end(store, IN_DOUBT if how == "in doubt" else CONFIRMED)
    for number in range(2):
        file.write_text(f"later {number}")
        checkpoint(store, "nightly", resources, retention={"last": 1, "grace": "0s"})
    assert (good in store.refs()["nightly"]) == (how != "over")


def test_a_checkpoint_in_a_view_of_its_own_warns(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live").write_text("any")
    for namespace, name in (("self", "mnt:[2]"), ("1", "mnt:[1]")):
        (tmp_path / "proc" / namespace / "ns").mkdir(parents=True)
        (tmp_path / "proc" / namespace / "ns" / "mnt").symlink_to(name)
    comm = tmp_path / "proc" / "1" / "comm"
    comm.write_text("bash\n")
    assert not mounts.is_apart(str(tmp_path / "proc")) and not mounts.is_apart(str(tmp_path))
    comm.write_text("systemd\n")
    assert mounts.is_apart(str(tmp_path / "proc"))
    resources = [{"files": {"paths": [str(tmp_path / "live")]}}]
    assert "warnings" not in checkpoint(store, "one", resources)
    monkeypatch.setattr(mounts, "is_apart", lambda: True)
    (warning,) = checkpoint(store, "two", resources)["warnings"]
    assert "has its own view of them" in warning
