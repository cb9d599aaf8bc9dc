# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that are full, sick or away, and file systems of other sorts: they cost the paths on them, and no others."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import RestoreFailed, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import RolledBack
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback


def protect(*trees: Path) -> list[dict[str, Any]]:
    return [{"files": {"paths": [str(tree) for tree in trees]}}]


def go_back(store: Store, checkpoint_id: str) -> RolledBack:
    """Go back as a host does by itself."""
    with store.locked():
        return Run(store, store.manifest(checkpoint_id), Options(unattended=True)).carry_out()


def fail(monkeypatch: pytest.MonkeyPatch, name: bytes, number: int, *calls: str) -> None:
    """Let these calls fail for paths of that last name, as on a mount of FUSE that another user has made."""
    for call in calls:
        real = getattr(os, call)

        def failing(path: Any, *more: Any, _real: Any = real, **options: Any) -> Any:
            if path == name:
                raise OSError(number, os.strerror(number), path)
            return _real(path, *more, **options)

        monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("calls", [["open"], ["open", "stat"]])
def test_a_directory_that_nobody_can_look_into_costs_itself_alone(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, number: int, calls: list[str]
) -> None:
    made = checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("new")
    (tree / "sub" / "deep" / "mnt").mkdir()
    (tree / "sub" / "small").write_text("new")
    with monkeypatch.context() as patched:
        fail(patched, b"mnt", number, *calls)
        with pytest.raises(UsageError if number == errno.EACCES else OSError, match=f"{tree}/sub/deep/mnt"):
            checkpoint(store, "again", protect(tree))
        try:
            left = go_back(store, made["id"]).left
        except RestoreFailed as error:
            left = error.result["left"]
    assert (tree / "a").read_text() == "first" and (tree / "sub" / "small").stat().st_size == 65536
    assert all(str(tree / "sub" / "deep") in one for one in left)


def test_an_undo_for_which_there_is_no_room_keeps_nothing_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the last of a pack is written, and still full when the pack is given up."""
    made = checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("new")
    for number in range(20):
        (tree / f"new{number}").write_bytes(os.urandom(60_000))
    put = Writer._put

    def full(writer: Writer, data: bytes) -> None:
        put(writer, data)
        assert writer._pack is not None
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer._pack.fileno())

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "_put", full)
        done = go_back(store, made["id"])
    assert (tree / "a").read_text() == "first" and done.left == [] and done.undo == ""
    assert any("the replaced state is not kept" in note for note in done.notes)
    assert os.listdir(store.join("tmp")) == []


@pytest.mark.parametrize("where", ["directory", "file", "access", "tree"])
def test_what_an_undo_lacks_stays_as_it_is_when_it_is_rolled_back_to(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    other = tree.with_name("other")
    other.write_text("old")
    made = checkpoint(store, "before", [*protect(tree), *protect(other)])
    (tree / "a").write_text("new")
    other.write_text("new")
    with monkeypatch.context() as patched:
        scan, prepare = files.scan, Run.prepare

        def refused(spec: Any, *words: Any, **more: Any) -> Any:
            if str(tree) in spec["paths"]:
                raise UsageError("it lies too deep to be read")
            return scan(spec, *words, **more)

        def prepared(*words: Any) -> None:
            if where == "access":  # What could not be read first can be read later.
                patched.undo()
            prepare(*words)

        patched.setattr(Run, "prepare", prepared)
        if where == "access":
            patched.setattr(access, "PATHS", (str(tree / "sub"),))
        if where == "tree":
            patched.setattr(files, "scan", refused)
        else:
            fail(patched, b"large" if where == "file" else b"deep", errno.EIO, "open")
        with suppress(RestoreFailed):
            go_back(store, made["id"])
    rollback(store, "undo")
    assert (tree / "sub" / "deep" / "c").read_text() == "deep" and (tree / "sub" / "large").stat().st_size == 200_000
    assert other.read_text() == "new" and (where == "tree" or (tree / "a").read_text() == "new")
