# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens once does so however often its runs are killed. It is never repeated, and always comes to its end."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import operations
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.operations import (
    BEGUN,
    ONCE,
    UNSHOWN,
    VERIFIED,
    Journal,
    Question,
    Verification,
    begin,
    end,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

from .test_kill import LONG

NOW = Times(0.0, 0.0, 0.0)
TRIALS = 1000 if LONG else 30
EDGES = ["before begin", "in begin", "after begin", "after effect", "in end", "after end", ""]


def test_a_kill_between_effect_and_journal_is_settled_and_never_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations, each killed at random edges by SIGKILL until a run comes to its end."""
    draw = random.Random(0)
    clock = [0.0]
    store = Store(str(tmp_path / "store"), replace(System(), monotonic=lambda: clock[0]))
    kills = 0
    for number in range(TRIALS):
        journal, effect = Journal(store, f"op-{number}"), tmp_path / f"effect-{number}"
        killed = True
        while killed:
            clock[0] += operations.SETTLING  # since the attempt that was cut off
            killed = _run(journal, effect, draw.choice(EDGES), monkeypatch)
            kills += killed
        record = journal.read()
        assert effect.read_text() == "x", "not exactly once"
        assert record is not None and record.state == VERIFIED
    assert kills > TRIALS


def _run(journal: Journal, effect: Path, edge: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """One run in a process of its own, which is killed at the edge; whether it was."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _once(journal, effect, edge, monkeypatch)
            code = 0
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _once(journal: Journal, effect: Path, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how = Verification([{"file": {"path": str(effect), "sha256": hashlib.sha256(b"x").hexdigest()}}], NOW)

    def killed(here: str) -> None:
        if edge == here:
            os.kill(os.getpid(), signal.SIGKILL)

    def rename(source: str, target: str) -> None:
        killed(f"in {stage}")
        os.replace(source, target)

    stage = "begin"
    killed("before begin")
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        answer = begin(journal, Question("request", ONCE), how)
        if answer.answer == UNSHOWN:  # The effect had its time to show.
            answer = begin(journal, Question("request", ONCE, patient=answer.attempts), how)
    if answer.answer == VERIFIED:
        return
    assert answer.answer == BEGUN, answer.why
    killed("after begin")
    with effect.open("a") as stream:
        stream.write("x")
    killed("after effect")
    stage = "end"
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        assert end(journal, answer.token, "ok", how, "").answer == VERIFIED
    killed("after end")
