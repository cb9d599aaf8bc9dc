# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A checkpoint names what a rollback would do to others: programs that write into its trees, and further names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry, writers
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with a program of a unit that has a log open for writing and a configuration for reading."""
    app, proc = tmp_path / "app", tmp_path / "proc"
    app.mkdir()
    for pid, group in (
        ("1", "/init.scope"),
        ("20", "/system.slice/app.service"),
        ("30", "/user.slice/session-1.scope"),
    ):
        (proc / pid / "fd").mkdir(parents=True)
        (proc / pid / "cgroup").write_text(f"0::{group}\n")
    for name, flags in (("log", os.O_WRONLY), ("conf", os.O_RDONLY)):
        (app / name).touch()
        fd = os.open(app / name, flags)
        for pid in ("20", "30"):
            (proc / pid / "fd" / str(fd)).symlink_to(app / name)
    return proc


def test_a_unit_that_has_a_protected_file_open_for_writing_is_named_unless_it_is_declared(
    proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, real = str(tmp_path / "app"), os.lstat

    def lstat(path: str, **more: int) -> os.stat_result:
        """A link of /proc has the modes of the descriptor; it is told by its text here."""
        found = real(path, **more)
        reads = str(path).startswith(str(proc)) and os.readlink(path).endswith("conf")
        return os.stat_result([found.st_mode & ~0o200, *found[1:]]) if reads else found

    monkeypatch.setattr(os, "lstat", lstat)
    (said,), is_all = writers.undeclared([app], lambda _path: False, {"other.service"}, str(proc))
    assert is_all and said.startswith(f"app.service has {app}/log open for writing") and "name the unit" in said
    assert writers.undeclared([app], lambda _path: False, {"app.service"}, str(proc)) == ([], True)
    assert writers.undeclared([app], lambda path: path.endswith("log"), set(), str(proc)) == ([], True)
    assert writers.undeclared([f"{app}/else"], lambda _path: False, set(), str(proc)) == ([], True)


def test_a_look_that_takes_too_long_is_told(proc: Path, tmp_path: Path) -> None:
    assert writers.undeclared([str(tmp_path / "app")], lambda _path: False, set(), str(proc), -1.0) == ([], False)


@pytest.mark.parametrize("check_mode", [True, False])
def test_what_a_rollback_does_beside_refuses_no_checkpoint(
    store: Store, tree: Path, check_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "written", lambda _sections: (["app.service has a file open"], False))
    os.link(tree / "a", tree.parent / "outside")
    declared = [{"files": {"paths": [str(tree)]}}]
    told = checkpoint(store, "b", declared, check_mode=check_mode, require_restorable=True)
    assert "app.service has a file open" in told["left"] and "hard links" in str(told["left"])
    assert "not all open files" in str(told["warnings"])


@pytest.mark.parametrize("check_mode", [True, False])
def test_further_names_of_a_file_outside_of_the_trees_are_told(store: Store, tree: Path, check_mode: bool) -> None:
    declared = [{"files": {"paths": [str(tree)]}}]
    os.link(tree / "a", tree / "another name")
    assert "hard links" not in str(checkpoint(store, "b", declared, check_mode=check_mode)["left"])
    os.link(tree / "a", tree.parent / "outside")
    for _cached in range(2):
        (said,) = (
            one for one in checkpoint(store, "b", declared, check_mode=check_mode)["left"] if "hard links" in one
        )
        assert said.startswith(f"{tree / 'a'} has further names")
    # Named as well, they stay one file.
    both = [{"files": {"paths": [str(tree), str(tree.parent / "outside")]}}]
    assert "hard links" not in str(checkpoint(store, "b", both, check_mode=check_mode)["left"])
