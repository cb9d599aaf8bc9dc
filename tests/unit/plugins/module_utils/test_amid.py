# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A checkpoint in the middle of a change counts as a good one only once the change is confirmed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, doubt, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import NotFound
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import status
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
