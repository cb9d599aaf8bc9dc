# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A checkpoint beside a change ends for whoever ends the change; any other work on the store is waited for."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.doubt import accept
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Busy, EvenkeelError, Refused
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.by_hand import extend
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import store as stores
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback, settle

from .conftest import SYSTEM


@pytest.fixture
def live(tmp_path: Path) -> list[dict[str, Any]]:
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "file").write_text("before")
    return [{"files": {"paths": [str(tmp_path / "live")]}}]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What became of the long command of a capture."""
    seen: list[str] = []

    monkeypatch.setattr(stores, "_PATIENCE", 0.1)
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    yield seen
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


def locked_by_another(store: Store, first: bool, spare: float) -> tuple[threading.Thread, list[str]]:
    """Another owner of the lock who waits for it, and what it got."""
    got: list[str] = []

    def wait() -> None:
        time.sleep(0.3)
        try:
            with Store(store.root, SYSTEM).locked(wait=0.6, first=first, spare=spare):
                got.append("the lock")
        except Busy as error:
            got.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, got


@pytest.mark.parametrize(
    ("armed", "first", "spare"), [(True, True, 0.0), (True, True, 9.0), (True, False, 0.0), (False, True, 0.0)]
)
def test_a_checkpoint_beside_a_change_ends_for_its_end(
    store: Store,
    live: list[dict[str, Any]],
    slow: list[str],
    monkeypatch: pytest.MonkeyPatch,
    armed: bool,
    first: bool,
    spare: float,
) -> None:
    if armed:
        checkpoint(store, "change", live, confirm_within=60.0)
    monkeypatch.setattr(registry, "capture", lambda *_words: slow_capture(slow))
    thread, got = locked_by_another(store, first, spare)
    ends = armed and first and not spare
    if ends:
        with pytest.raises(Busy, match="ended for the change under way .* No checkpoint was taken"):
            checkpoint(store, "nightly", live)
        assert slow == [], "the command was not awaited, and no handler took it for an error"
    else:
        checkpoint(store, "nightly", live)
        assert slow == ["0"]
    thread.join()
    waited = f"in use by process {os.getpid()};"
    assert got == ["the lock"] if ends else waited in got[0]
    assert ("nightly" in store.refs()) == (not ends)
    assert Path(store.join("lock")).read_text() == f"{os.getpid()}\n"


def test_neither_an_extension_nor_what_is_refused_ends_a_checkpoint_beside_a_change(
    store: Store, live: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "nightly", live)
    checkpoint(store, "change", live, confirm_within=60.0)
    asked: list[tuple[bool, int]] = []

    take = Store.locked

    def locked(
        store: Store, wait: float = 30.0, first: bool = False, spare: float = 0.0
    ) -> AbstractContextManager[None]:
        asked.append((first, round(spare)))
        return take(store, wait, first, spare)

    def later(seconds: float) -> Store:
        return Store(store.root, replace(SYSTEM, monotonic=lambda: time.monotonic() + seconds))

    monkeypatch.setattr(Store, "locked", locked)
    with pytest.raises(Refused, match="another change is under way"):
        rollback(later(0.0), "nightly")
    assert asked == [(False, 0)]
    with pytest.raises(Refused, match="another change is under way"):
        accept(later(0.0))
    assert len(asked) == 1
    monkeypatch.setattr(changes, "extend", lambda _store, change, *_within, **_stage: change)
    for seconds, spare in ((0.0, 30), (20.0, 10), (40.0, 0)):
        asked.clear()
        settle(later(seconds), 1, None, 0.0, 0.1, 0.05, verdict="extend")
        extend(later(seconds), 60.0)
        assert asked == [(True, spare)] * 3, "half of a short time to confirm is left for the extension"
    asked.clear()
    settle(later(0.0), 1, None, 0.0, 0.1, 0.05, verdict="hold")
    rollback(later(0.0), "change")
    assert set(asked) == {(True, 0)}


def slow_capture(seen: list[str]) -> list[Any]:
    """A capture that runs a long command, and passes over errors as kinds do."""
    try:
        seen.append(str(SYSTEM.run(["sleep", "1.2"], 20.0).rc))
    except (EvenkeelError, OSError) as error:
        seen.append(str(error))
    return []
