# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A glance tells that all is well only while the change waits and its watcher runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import glance, package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.processes import read_stat
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

# Locks the file as a watcher does, and waits.
_LOCKS = "import fcntl, os, sys; fd = os.open(sys.argv[1], 0); fcntl.flock(fd, 2)"
_WATCHER = f"{_LOCKS}; print('ready', flush=True); sys.stdin.read()"


def record(folder: Path, **more: object) -> None:
    due = time.monotonic() + glance.NEAR + 60.0
    found = {"generation": 7, "boot_id": System().boot_id(), "back": "", "due": due, **more}
    (folder / "armed").write_text(json.dumps(found))


def argv(folder: Path, task: str = "deadline", generation: int = 7) -> list[str]:
    return [str(folder / "agent.pyz"), "--store", str(folder), task, "--generation", str(generation)]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The watcher of a change that waits below ``tmp_path``."""
    (tmp_path / "agent.pyz").touch()
    record(tmp_path)
    words = [sys.executable, "-c", _WATCHER, str(tmp_path / "agent.pyz")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_all_is_well_while_the_watcher_waits(watched: subprocess.Popen[str], tmp_path: Path) -> None:
    assert glance.is_enough(argv(tmp_path))
    assert not glance.is_enough(argv(tmp_path, generation=8))
    assert not glance.is_enough(argv(tmp_path, task="watch"))
    assert not glance.is_enough(argv(tmp_path)[:4])


def test_a_watcher_that_ended_or_stands_still_is_not_enough(watched: subprocess.Popen[str], tmp_path: Path) -> None:
    watched.send_signal(signal.SIGSTOP)
    while (stat := read_stat(watched.pid)) is None or stat.state != b"T":
        time.sleep(0.01)
    assert not glance.is_enough(argv(tmp_path))
    watched.kill()
    watched.wait()
    assert not glance.is_enough(argv(tmp_path))


def test_the_lock_of_another_program_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "agent.pyz").touch()
    record(tmp_path)
    program = f"{_LOCKS}; os.set_inheritable(fd, True); os.execv('/bin/cat', ['cat'])"
    words = [sys.executable, "-c", program, str(tmp_path / "agent.pyz")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("cat runs\n")
        process.stdin.flush()
        assert process.stdout.readline() == "cat runs\n"
        assert not glance.is_enough(argv(tmp_path))
        process.kill()


def test_the_lock_of_a_file_with_the_same_number_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file system may have a file with that number, and a program of root's in Python may lock it."""
    (tmp_path / "agent.pyz").touch()
    record(tmp_path)
    inode = os.stat(tmp_path / "agent.pyz").st_ino
    (tmp_path / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE {os.getpid()} 00:15:{inode} 0 EOF\n")

    def opened(path: str, mode: str = "r") -> IO[Any]:
        return Path(tmp_path / "locks" if path == "/proc/locks" else path).open(mode)

    monkeypatch.setattr(glance, "open", opened, raising=False)
    assert not glance.is_enough(argv(tmp_path))


@pytest.mark.parametrize(
    "more",
    [
        {"back": "settle"},
        {"boot_id": "another:1"},
        {"due": time.monotonic() + glance.TICK},
        {"due": "soon"},
        {"due": 10**400},
    ],
    ids=["goes-back", "after-a-boot", "near", "damaged", "too-large"],
)
def test_a_change_that_does_not_wait_is_left_to_the_agent(
    watched: subprocess.Popen[str], tmp_path: Path, more: dict[str, object]
) -> None:
    record(tmp_path, **more)
    assert not glance.is_enough(argv(tmp_path))
    (tmp_path / "armed").write_text("[]")
    assert not glance.is_enough(argv(tmp_path))
    os.unlink(tmp_path / "armed")
    assert not glance.is_enough(argv(tmp_path))


def test_a_glance_loads_nothing_else_of_the_library(store: Store, tmp_path: Path) -> None:
    with store.locked():
        path = package.install(store, finish)
    record(Path(store.root))
    program = """
import sys
sys.path.insert(0, sys.argv[1])
sys.argv[:] = sys.argv[1:]
from evenkeel_agent._agent import main
assert main() == 0
print(sorted(name for name in sys.modules if name.startswith("evenkeel_agent._deadman.")))
"""
    words = [sys.executable, "-c", _WATCHER, path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        call = [sys.executable, "-I", "-c", program, path, "--store", store.root, "deadline", "--generation", "7"]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        process.kill()
    assert done.stdout.strip() == "['evenkeel_agent._deadman.glance']"
