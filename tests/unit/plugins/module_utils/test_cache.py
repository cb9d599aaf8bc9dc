# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stat cache is believed only where it cannot be wrong.

Most tests plant a lie in it, a mode that no file has: whoever sees the lie has believed the cache.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import ahead, cache, reading, walk
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.ahead import Ahead
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.cache import NEVER, Cache
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.declaration import Declaration
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import path_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.scanning import Scan
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

LIE = " 1111 "


class Every:
    def __contains__(self, _kind: object) -> bool:
        return True


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written a moment ago counts as written long ago, on whatever file system the tests are."""
    monkeypatch.setattr(cache, "window", lambda: 0)
    monkeypatch.setattr(cache, "TIMED", Every())


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process looks at half of any tree, and is always there first."""
    start = Ahead.__init__

    def patient(self: Ahead, known: Cache | None) -> None:
        start(self, known)
        if self._pid:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(ahead, "MANY", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(Ahead, "__init__", patient)


def spec_of(tree: Path) -> dict[str, Any]:
    return files.check({"paths": [str(tree)]})


def declared_by(tree: Path) -> Declaration:
    return Declaration(**spec_of(tree))


def look(store: Store, tree: Path) -> list[str]:
    return files.scan(spec_of(tree), Hasher(store.objects), [store.root]).lines()


def truth(store: Store, tree: Path) -> list[str]:
    return files.scan(spec_of(tree), Hasher(), [store.root]).lines()


def lie(store: Store, tree: Path) -> Path:
    """Take a checkpoint, then give every file in the cache a mode that it has not; the cache's path."""
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    known = Cache(store.objects, declared_by(tree))
    with store.locked():
        known.save([line.replace(" 644 ", LIE) for line in known.lines], known._keys)
    return Path(known.path)


def believed(lines: list[str]) -> set[str]:
    return {os.path.basename(os.fsdecode(path_of(line))) for line in lines if LIE in line}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tree whose files all have the mode 644."""
    tree = tmp_path / "small"
    (tree / "a").mkdir(parents=True)
    for name in ("a/one", "a/two", "a-b", "zed"):
        (tree / name).write_text(f"content of {name}")
    (tree / "large").write_bytes(os.urandom(100_000))
    for path in tree.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    return tree


@pytest.mark.usefixtures("settled")
def test_what_has_not_changed_is_taken_over(store: Store, small: Path) -> None:
    lie(store, small)
    assert believed(look(store, small)) == {"one", "two", "a-b", "zed", "large"}


def keep_times(path: Path, change: Callable[[], Any]) -> None:
    info = path.stat()
    change()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_name("new"))
    os.replace(path.with_name("new"), path)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [
        lambda path: keep_times(path, lambda: path.write_text("CONTENT OF A/ONE")),
        lambda path: keep_times(path, lambda: path.chmod(0o600)),
        lambda path: keep_times(path, lambda: os.setxattr(path, "user.x", b"1")),
        lambda path: os.utime(path, ns=(0, 1)),
        lambda path: os.link(path, path.with_name("other")),
        lambda path: replace(path),
        lambda path: os.rename(path, path.with_name("moved")),
        lambda path: (path.unlink(), path.symlink_to("two")),
        lambda path: (path.unlink(), path.mkdir(), (path / "below").write_text("")),
        lambda path: path.unlink(),
    ],
)
def test_what_has_changed_is_read_again(store: Store, small: Path, change: Callable[[Path], Any]) -> None:
    lie(store, small)
    change(small / "a" / "one")
    found = look(store, small)
    assert believed(found) == {"two", "a-b", "zed", "large"}
    assert [line.replace(LIE, " 644 ") for line in found] == truth(store, small)


def test_what_changed_just_before_the_look_is_read_again(
    store: Store, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "TIMED", Every())
    lie(store, small)
    assert believed(look(store, small)) == set()


@pytest.mark.usefixtures("settled")
def test_times_in_the_future_vouch_for_nothing(store: Store, small: Path) -> None:
    os.utime(small / "zed", ns=(0, 1 << 62))
    lie(store, small)
    assert believed(look(store, small)) == {"one", "two", "a-b", "large"}


@pytest.mark.usefixtures("settled")
def test_a_clock_that_was_set_back_makes_it_void(store: Store, small: Path) -> None:
    lie(store, small)
    info, start = (small / "zed").stat(), f"f {small}/zed "
    later, earlier = Cache(store.objects, declared_by(small)), Cache(store.objects, declared_by(small), lambda: 10**18)
    assert later.line(start, bytes(small / "zed"), info) is not None
    assert earlier.line(start, bytes(small / "zed"), info) is None


def test_only_times_that_tell_of_every_change_are_trusted(store: Store, small: Path) -> None:
    found = small.stat()
    known = Cache(store.objects, declared_by(small), lambda: found.st_ctime_ns + 10**12)
    assert known.key(found, "ext4") != NEVER
    assert {known.key(found, kind) for kind in ("tmpfs", "overlay", "nfs4", "fuse.sshfs")} == {NEVER}
    # A file system that knows whole seconds alone.
    fields = {name: getattr(found, name) for name in ("st_dev", "st_ino", "st_size")}
    coarse: Any = type("Info", (), {**fields, "st_mtime_ns": 10**18, "st_ctime_ns": 10**18})
    assert known.key(coarse, "ext4") == NEVER


@pytest.mark.usefixtures("settled")
def test_a_garbled_cache_is_none(store: Store, small: Path) -> None:
    path = lie(store, small)
    whole, right = path.read_bytes(), truth(store, small)
    for number, at in enumerate([*range(0, len(whole), 7), len(whole) - 1]):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << number % 8]) + whole[at + 1 :])
        assert look(store, small) == right, at
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        assert look(store, small) == right, length
    path.unlink()
    path.mkdir()
    assert look(store, small) == right
    checkpoint(store, "after", [{"files": {"paths": [str(small)]}}])
    path.rmdir()
    path.write_bytes(whole)
    assert believed(look(store, small))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", ["packs", "objects"])
def test_a_content_that_the_store_has_lost_is_stored_again(store: Store, small: Path, kind: str) -> None:
    made = checkpoint(store, "before", [{"files": {"paths": [str(small)]}}])
    for path in (Path(store.root) / kind).rglob("*"):
        if path.is_file():
            path.unlink()
    again = checkpoint(store, "before", [{"files": {"paths": [str(small)]}}])
    assert again["stats"]["new_objects"] == (4 if kind == "packs" else 1)
    assert store.verify(store.manifest(made["id"])) == {}


@pytest.mark.usefixtures("settled")
def test_check_mode_leaves_it_alone_and_sees_the_same(store: Store, small: Path) -> None:
    path = lie(store, small)
    before = path.stat()
    checkpoint(store, "before", [{"files": {"paths": [str(small)]}}], check_mode=True)
    assert path.stat() == before
    (small / "zed").write_text("changed")
    planned = rollback(store, "before", check_mode=True)["planned"]
    assert path.stat() == before
    assert rollback(store, "before")["planned"] == planned


@pytest.mark.usefixtures("settled")
def test_what_is_left_out_is_seen_also_where_nothing_changed(store: Store, small: Path) -> None:
    """A directory that holds something excluded must not be removed with what is in it."""
    (small / "a" / "left.log").write_text("excluded")
    declared = {"paths": [str(small)], "exclude": ["*.log"]}
    checkpoint(store, "before", [{"files": declared}])
    assert os.fsencode(small / "a") in files.scan(declared, Hasher(store.objects)).holding
    (small / "a" / "left.log").unlink()
    checkpoint(store, "before", [{"files": declared}])
    (small / "a" / "came.log").write_text("excluded")
    assert os.fsencode(small / "a") in files.scan(declared, Hasher(store.objects)).holding


@pytest.mark.usefixtures("settled")
def test_a_directory_of_many_is_read_only_where_it_changed(
    store: Store, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where names came and went: no file is opened, and no name looked up one by one, that is as it was."""
    for number in range(50):
        (small / "a" / f"{number:02}").write_text(str(number))
    lie(store, small)
    (small / "a" / "07").unlink()
    (small / "a" / "05").write_text("changed")
    (small / "a" / "new").write_text("new")
    opened: list[bytes] = []
    real = reading.Reader.file

    def file(self: reading.Reader, path: bytes, *rest: Any) -> Any:
        opened.append(path)
        return real(self, path, *rest)

    monkeypatch.setattr(reading.Reader, "file", file)
    found = look(store, small)
    assert {os.path.basename(path) for path in opened} == {b"05", b"new"}
    assert [line.replace(LIE, " 644 ") for line in found] == truth(store, small)


@pytest.mark.usefixtures("settled")
def test_which_name_of_an_inode_comes_first_is_seen_anew(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "linked"
    for name in ("a", "b", "c"):
        (tree / name).mkdir(parents=True)
    (tree / "b" / "file").write_text("shared")
    os.link(tree / "b" / "file", tree / "c" / "file")
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    # Neither inode's times change, nor those of c.
    (tree / "b").rename(tree / "d")
    assert look(store, tree) == truth(store, tree)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("seed", range(16))
def test_a_look_with_it_is_a_look_without_it(
    store: Store, tmp_path: Path, request: pytest.FixtureRequest, seed: int
) -> None:
    """Random trees with names around the slash, changed at random between checkpoints; by one process or two."""
    if seed % 2:
        request.getfixturevalue("two")
    chance = random.Random(seed)
    trees = [tmp_path / "live", tmp_path / "live-too", tmp_path / "live" / "a"]
    names = ["a", "a-", "a-b", "a.d", "a b", "a0", "b", "\n", "ä", "a!", "Z"]
    for tree in trees[:2]:
        tree.mkdir()
    declared = files.check({"paths": [str(tree) for tree in trees], "exclude": ["Z", "*/a/b"]})
    for _round in range(6):
        for _change in range(12):
            folder = chance.choice([*trees[:2], *(path for path in trees[0].rglob("*") if path.is_dir())])
            path = folder / chance.choice(names)
            if path.is_dir():
                shutil.rmtree(path) if chance.random() < 0.3 else path.chmod(chance.choice([0o700, 0o755]))
            elif chance.random() < 0.5 and not path.exists():
                path.mkdir()
            elif chance.random() < 0.2 and not path.exists() and (trees[1] / "b").is_file():
                os.link(trees[1] / "b", path)
            else:
                path.write_text(str(chance.random()))
        scan, without = (files.scan(declared, Hasher(known), [store.root]) for known in (store.objects, None))
        found = scan.lines()
        assert found == without.lines()
        assert scan.holding == without.holding
        paths = [path_of(line) for line in found]
        assert paths == sorted(set(paths))
        checkpoint(store, "before", [{"files": declared}])
        assert files.recorded(found, declared).lines == found


@pytest.mark.usefixtures("settled", "two")
def test_a_second_process_marks_what_is_as_it_was(store: Store, small: Path) -> None:
    (small / "z").mkdir()
    for number in range(40):
        (small / "a" / f"a{number:02}").write_text(f"a {number}")
        (small / "z" / f"{number:02}").write_text(str(number))
    os.link(small / "z" / "31", small / "other")
    lie(store, small)
    (small / "z" / "30").write_text("changed")
    known = Cache(store.objects, declared_by(small))
    looked = Ahead(known)
    marked = {os.path.basename(path_of(known.lines[at])) for at, mark in enumerate(looked.marks[:]) if mark}
    looked.close()
    assert marked == {b"%02d" % number for number in range(40) if number not in (30, 31)}
    found = look(store, small)
    assert [line.replace(LIE, " 644 ") for line in found] == truth(store, small)


@pytest.mark.usefixtures("settled")
def test_a_second_process_ends_with_the_first(
    store: Store, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has our locks open: a kill must set them free."""
    lie(store, small)
    known = Cache(store.objects, declared_by(small))
    monkeypatch.setattr(ahead, "MANY", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(ahead, "open_dir", lambda _path: time.sleep(60))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        Ahead(known)
        os.write(writing, b".")
        time.sleep(60)
    os.read(reading, 1)
    os.close(writing)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert select.select([reading], [], [], 30)[0], "somebody has the pipe open still"
    os.close(reading)


def test_a_doctored_line_is_refused_whatever_is_there_now(store: Store, small: Path) -> None:
    """With the scan of now at hand only the lines that differ are looked at, and the verdict is the same."""
    spec = spec_of(small)
    now = files.scan(spec, Hasher())
    lines = now.lines()

    def verdict(doctored: list[str], scan: Scan | None) -> bool:
        try:
            files.recorded(doctored, spec, scan)
        except Damaged:
            return False
        return True

    doctored = [lines[:at] + lines[at + 1 :] for at in range(len(lines))]
    doctored += [[*lines[:at], line, line, *lines[at + 1 :]] for at, line in enumerate(lines)]
    doctored += [
        [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]  # out of order
        for at in range(len(lines) - 1)
    ]
    plain = f" 644 0 0 0 size=0 sha256={'0' * 64}"
    for at, line in enumerate(lines):
        path = line.split(" ")[1]
        doctored.append([*lines[:at], f"f {path}{plain}", *lines[at + 1 :]])
        doctored.append([*lines[:at], line, f"f {path}!{plain}", *lines[at + 1 :]])
        doctored.append([*lines[:at], f"- {path}", *lines[at + 1 :]])
        doctored.append([*lines[:at], f"f {path}/../up{plain}", *lines[at + 1 :]])
    doctored.append([*lines, f"f /zzz{plain}"])
    verdicts = [verdict(one, None) for one in doctored]
    assert [one for one, full in zip(doctored, verdicts, strict=True) if verdict(one, now) != full] == []
    assert set(verdicts) == {True, False}


@pytest.mark.usefixtures("settled")
def test_it_is_written_anew_when_there_is_something_to_learn(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "many"
    tree.mkdir()
    for number in range(200):
        (tree / str(number)).write_text(str(number))
    path = Path(Cache(store.objects, declared_by(tree)).path)

    def written() -> bool:
        before = path.stat().st_ino if path.exists() else None
        checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
        return path.stat().st_ino != before

    assert written()
    assert not written()
    (tree / "7").write_text("one of many")
    assert not written()
    for number in range(20):
        (tree / str(number)).write_text("changed")
    assert written()
    (tree / "large").write_bytes(bytes(40_000_000))
    assert written()
    assert not written()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("limit", [objects.PACK_LIMIT, 64])
def test_what_was_not_kept_is_read_again(
    store: Store, small: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A checkpoint that is refused throws away what it read, also that of packs which were full."""
    monkeypatch.setattr(objects, "PACK_LIMIT", limit)
    (small.parent / "link").symlink_to("small")
    declared = [{"files": {"paths": [str(path)]}} for path in (small, small.parent / "link" / "a")]
    with pytest.raises(UsageError, match="symlink"):
        checkpoint(store, "before", declared)
    made = checkpoint(store, "before", declared[:1])
    assert store.verify(store.manifest(made["id"])) == {}


@pytest.mark.usefixtures("settled")
def test_a_content_that_left_with_the_trash_is_stored_again(store: Store, small: Path, tmp_path: Path) -> None:
    def take(name: str, path: Path, **retention: float) -> dict[str, Any]:
        return checkpoint(store, name, [{"files": {"paths": [str(path)]}}], retention=retention or None)

    other = tmp_path / "other"
    other.mkdir()
    take("before", small / "zed")
    (small / "zed").write_text("another")
    take("kept", small / "zed")
    take("before", small / "zed", last=1)  # The first content is in the trash now,
    (small / "zed").write_text("content of zed")
    take("before", small / "zed")  # and is taken back.
    for number in range(3):
        (other / "file").write_text(str(number))
        take("before", other, last=1, grace=0.001)
        time.sleep(0.1)
    made = take("before", small / "zed")
    assert store.verify(store.manifest(made["id"])) == {}


def test_a_file_that_is_a_mount_point_is_judged_by_its_own_file_system(
    store: Store, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = {b"/": "ext4", bytes(small / "a" / "one"): "tmpfs", bytes(small / "zed"): "tmpfs"}
    monkeypatch.setattr(walk, "mount_points", lambda: mounted)
    monkeypatch.setattr(cache, "window", lambda: 0)
    lie(store, small)
    assert believed(look(store, small)) == {"two", "a-b", "large"}


@pytest.mark.parametrize("kind", ["autofs", "zfs"])
def test_what_comes_and_goes_by_itself_is_not_walked_into(
    store: Store, small: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = small / "nest" / ".zfs"
    (folder / "snapshot" / "host").mkdir(parents=True)
    spec = {"paths": [str(small)], "exclude": []}
    checkpoint(store, "before", [{"files": spec}])
    if kind == "autofs":
        monkeypatch.setattr(walk, "automounts", lambda: {bytes(folder)})
    else:
        monkeypatch.setattr(walk, "mount_points", lambda: {b"/": "ext4", bytes(small / "nest"): "zfs"})
    for _turn in ("known to the cache as a directory", "not known"):
        found = files.scan(spec, Hasher(store.objects), [])
        assert found.entries.find(bytes(folder)) and not found.entries.find(bytes(folder / "snapshot"))
        assert bytes(folder) in found.holding
        checkpoint(store, "again", [{"files": spec}])
