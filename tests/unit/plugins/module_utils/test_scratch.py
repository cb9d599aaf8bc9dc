# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No bundle outlives its run on a host by more than until the next call of a module, and none that is in use goes."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import scratch

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's file needs root")
USER = 12345
LATER = 60.0


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "_TOP", str(tmp_path))
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o111)
    tmp_path.chmod(0o1777)
    return tmp_path


def bundle(run: str = "run1", owner: int | None = None) -> Path:
    path = scratch.new(run, os.geteuid() if owner is None else owner)
    scratch.make_empty(path, os.geteuid() if owner is None else owner)
    Path(path).write_bytes(b"secret")
    return Path(path)


def as_user(*argv: str) -> bool:
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


@needs_root
def test_the_login_user_can_read_and_write_the_bundle_and_nothing_else() -> None:
    mine, own = bundle(owner=USER), bundle()
    assert as_user("cat", str(mine)) and as_user("dd", "if=/dev/null", f"of={mine}", "conv=notrunc")
    assert not as_user("mv", str(mine), str(mine) + "2") and not as_user("touch", str(mine.parent / "more"))
    assert not as_user("ls", str(mine.parent)) and not as_user("rmdir", str(own.parent))
    assert not as_user("cat", str(own))
    assert stat.S_IMODE(own.stat().st_mode) == stat.S_IMODE(mine.stat().st_mode) == 0o600
    assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700


def test_a_bundle_goes_beside_the_store_where_that_has_more_room(
    top: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = tmp_path_factory.mktemp("lib")
    for above in (lib, *lib.parents[:3]):
        above.chmod(above.stat().st_mode | 0o111)
    store, free = f"{lib}/evenkeel", {str(top): 5, str(lib): 9}
    monkeypatch.setattr(scratch, "room_in", free.__getitem__)
    assert scratch.place(store) == str(top), "one file system has the same room, whatever it says from time to time"
    free[str(top)] = -1
    assert scratch.place(store) == str(lib), "nobody can write there"
    free[str(top)] = 5
    monkeypatch.setattr(scratch, "device_of", hash)
    assert scratch.place(store) == str(lib)
    bundle = scratch.new("run1", USER if os.geteuid() == 0 else os.geteuid(), scratch.place(store))
    assert os.path.dirname(os.path.dirname(bundle)) == str(lib)
    scratch.reclaim("", time.time() + LATER, store)
    assert os.listdir(lib) == []
    # The login user cannot get there, or others could exchange it, or the usual place has as much.
    bundle = scratch.new("run1", os.geteuid(), str(lib))
    for mode in (0o750, 0o777):
        lib.chmod(mode)
        assert scratch.place(store) == str(top)
    scratch.reclaim("", time.time() + LATER, store)
    assert os.path.exists(os.path.dirname(bundle)), "others could have exchanged what is to be removed"
    lib.chmod(0o755)
    scratch.reclaim("", time.time() + LATER, store)
    assert os.listdir(lib) == []
    free[str(lib)] = 5
    assert scratch.place(store) == str(top)


def test_a_place_where_nobody_can_write_has_no_room(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scratch.room_in(str(top)) >= 0 > scratch.room_in(str(top / "none"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert scratch.room_in(str(top)) < 0


def test_what_is_taken_in_is_gone_at_once_and_still_there_to_read(top: Path) -> None:
    path = bundle()
    with scratch.taken(str(path)) as there:
        assert os.listdir(top) == []
        for _twice in range(2):
            assert Path(there).read_bytes() == b"secret"
    path.parent.mkdir()
    path.symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic links"), scratch.taken(str(path)):
        pass


def test_a_call_looks_at_so_many_entries_and_the_next_calls_at_others(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_MOST", 20)
    for _any in range(50):
        bundle()
    for there in (50, 30, 10, 0):
        assert len(os.listdir(top)) == there
        scratch.reclaim("run2", time.time() + LATER)


def test_the_next_call_takes_away_what_a_killed_run_left(top: Path) -> None:
    bundle()
    (top / "evenkeel-bundle-old").mkdir()  # As version 0.1.0 named them, and killed before there was anything in it.
    (top / "evenkeel-else").mkdir()
    scratch.reclaim("", time.time())
    assert len(os.listdir(top)) == 3, "its run may be about to open it"
    scratch.reclaim("run1", time.time() + LATER)
    assert len(os.listdir(top)) == 2, "what is of the same run stays"
    (top / "evenkeel-bundle-run2-x").mkdir()
    scratch.reclaim("run2", time.time() + LATER)
    assert sorted(os.listdir(top)) == ["evenkeel-bundle-run2-x", "evenkeel-else"]


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_what_a_process_has_open_stays(top: Path, mode: str) -> None:
    path = bundle()
    with open(path, mode):
        scratch.reclaim("", time.time() + LATER)
        assert path.exists()
    scratch.reclaim("", time.time() + LATER)
    assert os.listdir(top) == []


def test_nobody_can_keep_a_bundle_from_its_end(top: Path) -> None:
    path = bundle()
    for name in ("-over", "-over-over"):  # Any user can make these as soon as the directory is there.
        (top / f"{path.parent.name}{name}").mkdir()
        (top / f"{path.parent.name}{name}" / "kept").touch()
    with scratch.taken(str(path)):
        assert not path.parent.exists()
    assert sorted(one.name for one in top.iterdir()) == [f"{path.parent.name}-over", f"{path.parent.name}-over-over"]


@needs_root
def test_what_is_somebody_elses_is_left_alone(top: Path) -> None:
    victim = top / "victim"
    victim.mkdir()
    (top / "evenkeel-bundle-link").symlink_to(victim)
    (top / "evenkeel-bundle-theirs").mkdir()
    os.chown(top / "evenkeel-bundle-theirs", USER, USER)
    scratch.reclaim("", time.time() + LATER)
    assert len(os.listdir(top)) == 3
