# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lock that a stranger holds on a file or directory of ours keeps nothing from going back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import agent, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Busy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import locks
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

from .conftest import SYSTEM

HOLD = """
import fcntl, os, sys, time
fds = [os.open(path, os.O_RDONLY) for path in sys.argv[2:]]
os.setresuid(*[int(sys.argv[1])] * 3)
[fcntl.flock(fd, fcntl.LOCK_EX) for fd in fds]
print("held", flush=True)
time.sleep(60)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a process of another user needs root")


@pytest.fixture(params=[12345, 0])
def held(request: pytest.FixtureRequest, store: Store) -> Iterator[int]:
    """The directory of the store, its lock and the zipapp are locked by a process of this user, which opened them
    before."""
    with store.locked():
        pass
    zipapp = Path(store.join("agent.pyz"))
    zipapp.write_text("agent")
    words = [sys.executable, "-c", HOLD, str(request.param), store.root, store.join("lock"), str(zipapp)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield request.param
    finally:
        process.kill()
        process.communicate()


@needs_root
def test_the_lock_of_a_stranger_counts_for_nothing(store: Store, held: int) -> None:
    is_stranger = held != 0
    assert locks.is_strangers(store.join("lock")) == is_stranger
    waits: list[float] = []
    waiting = Store(store.root, replace(SYSTEM, sleep=waits.append))
    with agent._sole_agent(waiting, 1 if is_stranger else -1) as is_due:  # The other one's change is over by then.
        assert is_due == is_stranger == (not waits), "an agent of ours is waited for"
    assert watcher.is_running(store.join("agent.pyz")) != is_stranger
    fd = watcher.lock(store.join("agent.pyz"))
    assert (fd is not None) == is_stranger and Path(store.join("agent.pyz")).read_text() == "agent"
    os.close(fd) if fd is not None else None
    if not is_stranger:
        with pytest.raises(Busy), store.locked(wait=0.2):
            pass
        return
    with store.locked(wait=0.2):
        assert Path(store.join("lock")).stat().st_mode & 0o777 == 0o600
        with pytest.raises(Busy, match=f"in use by process {os.getpid()};"), Store(store.root, SYSTEM).locked(wait=0.1):
            pass
    assert [name for name in os.listdir(store.root) if "lock" in name] == ["lock"]


@needs_root
def test_of_two_that_replace_the_file_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.write_text("old")
    before = path.stat()
    stat = os.stat

    def replaced_meanwhile(name: str) -> os.stat_result:
        monkeypatch.setattr(os, "stat", stat)
        (tmp_path / "other").write_text("theirs")
        os.rename(tmp_path / "other", path)
        return before

    monkeypatch.setattr(os, "stat", replaced_meanwhile)
    locks.replace(str(path), b"ours", 0o600)
    assert path.read_text() == "theirs" and os.listdir(tmp_path) == ["lock"]
