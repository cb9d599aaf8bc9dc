# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a journal: its form on disk, and a plan that is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import journals, transaction
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.anchors import Anchor
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import Entry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.journals import Operation, Plan
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import PathStep
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.mounts import mount_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

FOLDER, FILE = Entry(b"/d", "d", 0o755), Entry(b"/d/time", "f", 0o644, mtime=7, sha256="0" * 64)
PLAN = Plan(
    {"to": "before"},
    [Anchor("/.evenkeel-1", 11), Anchor("/mnt/.evenkeel-1", None)],
    {b"/d": (21, b"/")},
    {b"/closed"},
    [
        Operation("put", b"/d/file", b"0", 0, 31),
        Operation("swap", b"/d/other\xff", b"1", 1, 32, 33, checked=True),
        Operation("delete", b"/d/link", b"2", 0, checked=True),
        Operation("meta", b"/d/time", b"3", inode=34, entry=FILE),
        Operation("meta", b"/d", b"4", entry=FOLDER),
    ],
    [FOLDER],
    [(b"/d/file", 16)],
    {b"/d"},
    {b"/left"},
)
STORED = {
    "note": {"to": "before"},
    "anchors": [["/.evenkeel-1", 11], ["/mnt/.evenkeel-1", None]],
    "known": {"2f64": [21, "2f"]},
    "closed": ["2f636c6f736564"],
    "steps": [
        {"op": "put", "path": "2f642f66696c65", "name": "0", "anchor": 0, "ino": 31},
        {"op": "swap", "path": "2f642f6f74686572ff", "name": "1", "was": 33, "anchor": 1, "ino": 32},
        {"op": "delete", "path": "2f642f6c696e6b", "name": "2", "was": None, "anchor": 0},
        {"op": "meta", "path": "2f642f74696d65", "name": "3", "line": FILE.line(), "ino": 34},
        {"op": "meta", "path": "2f64", "name": "4", "line": FOLDER.line()},
    ],
    "directories": [FOLDER.line()],
    "pins": [["2f642f66696c65", 16]],
    "loose": ["2f64"],
    "left": ["2f6c656674"],
}


def test_a_plan_has_the_form_that_other_versions_read(tmp_path: Path) -> None:
    PLAN.write(str(tmp_path))
    assert (tmp_path / "plan").read_text() == json.dumps(STORED)
    assert journals.read(str(tmp_path)) == PLAN


def test_a_plan_of_version_0_1_0_says_less(tmp_path: Path) -> None:
    step = {"op": "delete", "path": "2f64", "name": "0", "anchor": 0}
    old = {"note": {}, "anchors": ["/.evenkeel-1"], "steps": [step], "directories": []}
    (tmp_path / "plan").write_text(json.dumps(old))
    operation = Operation("delete", b"/d", b"0", 0, checked=False)
    assert journals.read(str(tmp_path)) == Plan(
        {}, [Anchor("/.evenkeel-1", None, True)], {}, set(), [operation], [], []
    )


@pytest.mark.parametrize(
    "step",
    [
        {"op": "destroy", "path": "2f64", "name": "0", "anchor": 0},
        {"op": "delete", "path": "2f64", "name": "0", "anchor": 1},
        {"op": "delete", "path": "2f64", "name": "0", "anchor": -1},
        {"op": "delete", "path": "2f64", "name": "0", "anchor": "0"},
        {"op": "delete", "path": "no hex", "name": "0", "anchor": 0},
        {"op": "put", "path": "2f64", "name": "0", "anchor": 0},
        {"op": "put", "path": "2f64", "name": "0", "anchor": 0, "ino": "31"},
        {"op": "meta", "path": "2f64", "name": "0", "line": "no line"},
        "no step",
    ],
)
def test_a_plan_with_a_damaged_step_changes_nothing(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, step: Any
) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("changed")

    def die(*_words: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transaction, "apply", die)
        with pytest.raises(KeyboardInterrupt):
            rollback(store, "before")
    (journal,) = store.journals()
    plan = json.loads(Path(journal, "plan").read_text())
    plan["steps"].append(step)
    Path(journal, "plan").write_text(json.dumps(plan))
    with store.locked(), pytest.raises((Damaged, EvenkeelError)):
        list(transaction.unfinished(store))
    assert (tree / "a").read_text() == "changed" and store.journals() == []


def test_a_damaged_line_of_a_staging_directory_ends_with_its_journal(tmp_path: Path) -> None:
    (tmp_path / "anchors").write_text(json.dumps([["no/path/.evenkeel-stage-1-1", 17, "/gone", "ext4"]]))
    journals.close(str(tmp_path))
    assert not tmp_path.exists()
    assert mount_of(b"no/path", {b"/": ""}) == b""


def test_a_step_of_a_path_is_reported_as_text() -> None:
    step = PathStep("put", b"/d/\xff", "replace", "content, mode", FILE)
    assert step.reported().shown() == {
        "resource": "files",
        "action": "replace",
        "target": "/d/\udcff",
        "why": "content, mode",
    }
