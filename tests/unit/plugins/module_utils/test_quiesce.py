# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to stand still does while files are read, and goes on afterwards, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    NotFound,
    ServiceFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._quiesce import Quiesced
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._rollback import rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._system import Completed, System

from evenkeel.collection import collections_path


def files(tree: Path) -> list[dict[str, Any]]:
    return [{"files": {"paths": [str(tree)]}}]


def shell(begin: str, after: str) -> dict[str, Any]:
    return {"command": {"argv": ["sh", "-c", begin], "after": ["sh", "-c", after]}}


def test_files_are_read_while_it_stands_still(store: Store, tree: Path) -> None:
    hooks = [
        shell(f"echo first >> {tree}/order; sleep 0.2", f"echo first ends >> {tree}/order"),
        shell(f"echo second >> {tree}/order", f"echo second ends >> {tree}/order"),
    ]
    result = checkpoint(store, "before", files(tree), quiesce=hooks)
    assert result["consistency"] == "quiesced" and 0.2 < result["stats"]["pause"] <= result["stats"]["seconds"]
    assert (tree / "order").read_text() == "first\nsecond\nsecond ends\nfirst ends\n"
    rollback(store, "before")
    assert (tree / "order").read_text() == "first\nsecond\n"


def test_without_hooks_it_is_as_a_power_cut_would_leave_it(store: Store, tree: Path) -> None:
    result = checkpoint(store, "before", files(tree))
    assert result["consistency"] == "crash" and result["stats"]["pause"] == 0


def test_check_mode_holds_nothing(store: Store, tree: Path) -> None:
    checkpoint(store, "before", files(tree), check_mode=True, quiesce=[shell(f"touch {tree}/held", "true")])
    assert not (tree / "held").exists()


def test_what_cannot_be_held_is_let_go_and_nothing_is_recorded(store: Store, tree: Path) -> None:
    hooks = [shell("true", f"touch {tree}/first"), shell("echo is busy >&2; exit 4", f"touch {tree}/second")]
    with pytest.raises(ServiceFailed, match=r"is busy; no checkpoint was taken"):
        checkpoint(store, "before", files(tree), quiesce=hooks)
    assert (tree / "first").exists() and (tree / "second").exists()
    with pytest.raises(NotFound):
        rollback(store, "before")


def test_what_does_not_go_on_is_an_error(store: Store, tree: Path) -> None:
    with pytest.raises(ServiceFailed, match=r"does not run again: sh -c echo stuck >&2; exit 3: stuck"):
        checkpoint(store, "before", files(tree), quiesce=[shell("true", "echo stuck >&2; exit 3")])


@pytest.mark.parametrize("thaws", [True, False])
def test_a_frozen_unit_is_thawed_and_proved_to_be(thaws: bool) -> None:
    # Containers cannot freeze their units, so that systemd is played here.
    said: list[str] = []

    def systemctl(argv: Sequence[str], _timeout: float) -> Completed:
        frozen = "freeze" in said and not (thaws and "thaw" in said)
        if argv[1] != "show":
            said.append(argv[1])
            out = ""
        elif "FreezerState" in argv[2]:
            out = "frozen" if frozen else "running"
        else:
            out = "LoadState=loaded\nActiveState=active\nSubState=running\nInvocationID=1\n"
        return Completed(tuple(argv), 0, out, "")

    still = Quiesced([{"freeze": "nginx"}], replace(System(), run=systemctl))
    stuck = pytest.raises(ServiceFailed, match=r"does not run again: nginx.service is frozen")
    with nullcontext() if thaws else stuck, still:
        assert said == ["freeze"]
    assert said == ["freeze", "thaw"] and still.seconds > 0


def test_it_goes_on_when_we_are_killed(tmp_path: Path, tree: Path) -> None:
    library = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
    held, ended = tmp_path / "held", tmp_path / "ended"
    code = (
        f"import sys; sys.path.insert(0, {str(collections_path())!r})\n"
        f"from {library}._quiesce import Quiesced\nfrom {library}._system import System\nimport time\n"
        f"with Quiesced([{shell(f'touch {held}', f'touch {ended}')!r}], System()):\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert eventually(held.exists) and not ended.exists()
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout is not None and process.stdout.read() == b""
        assert eventually(ended.exists)


def eventually(condition: Any) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ("nginx", "quiesce must be a list"),
        ([{"pause": "nginx"}], "item 1.* must have one key, stop, freeze or command"),
        ([{"stop": "nginx", "freeze": "nginx"}], "item 1.* must have one key"),
        ([{"stop": ["nginx"]}], "item 1: stop takes the name of a unit"),
        ([{"command": {"argv": ["true"]}}], "item 1: command takes argv and after"),
        ([{"command": {"argv": "true", "after": ["true"]}}], "item 1: command takes argv and after"),
    ],
)
def test_bad_hooks_are_named_and_nothing_is_held(store: Store, tree: Path, hooks: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checkpoint(store, "before", files(tree), quiesce=hooks)
    assert not os.path.exists(store.root)
