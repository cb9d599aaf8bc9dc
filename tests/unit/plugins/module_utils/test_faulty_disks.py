# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that are full, sick or away, and file systems of other sorts: they cost the paths on them, and no others."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    Refused,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import (
    anchors,
    preflight,
    reading,
    transaction,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.declaration import Declaration
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import Entry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.mounts import unprotected
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import PUT, PathStep
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import durable, mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import RolledBack
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import objects
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
    add = Writer.add

    def full(writer: Writer, data: bytes) -> str:
        sha = add(writer, data)
        assert writer._pack is not None
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer._pack.fileno())
        return sha

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "add", full)
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


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts")
def test_a_file_without_room_takes_no_room_of_others(store: Store, tree: Path) -> None:
    disk = tree / "empty"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
    try:
        big, small = disk / "big", disk / "small"
        with big.open("wb") as stream:
            stream.write(os.urandom(1_200_000))
            stream.truncate(2_000_000)  # Nobody knows how much of it are holes.
        small.write_bytes(bytes(50_000))
        made = checkpoint(store, "before", protect(tree))
        big.write_bytes(os.urandom(1_300_000))
        small.write_text("new")
        with pytest.raises(RestoreFailed) as ended:
            go_back(store, made["id"])
        assert ended.value.result["left"] == [f"{big}: No space left on device"]
        assert small.stat().st_size == 50_000 and sorted(os.listdir(disk)) == ["big", "small"]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(("device", "short"), [(b"8:1", []), (b"8:2", ["/data/large"])])
def test_data_are_shared_with_a_store_on_the_same_file_system_alone(
    monkeypatch: pytest.MonkeyPatch, device: bytes, short: list[str]
) -> None:
    table = [mounts.Mount(b"/", b"/", b"8:1", "xfs", 1, 0), mounts.Mount(b"/data", b"/", device, "xfs", 2, 1)]
    monkeypatch.setattr(preflight, "mounts", lambda: table)
    monkeypatch.setattr(
        os, "statvfs", lambda _path: SimpleNamespace(f_frsize=1, f_blocks=200, f_bfree=100, f_files=0, f_flag=0)
    )
    entry = Entry(b"/data/large", "f", 0o644, size=100_000, sha256="0" * 64)
    steps = [PathStep(PUT, entry.path, "create", "", entry, None)]
    assert list(preflight.short_of_room(steps, "/var/store")) == short


def test_room_is_counted_where_a_path_will_lie_below_directories_that_steps_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [b"/", b"/data", b"/etc/bound"]
    table = [mounts.Mount(one, b"/", b"8:%d" % at, "ext4", at, at and 1) for at, one in enumerate(points, 1)]
    free = {b"/": 10**6, b"/data": 100, b"/etc/bound": 0}
    monkeypatch.setattr(preflight, "mounts", lambda: table)
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_frsize=1, f_blocks=1, f_bfree=free[path], f_files=0, f_flag=0)
    )
    folders = [b"/data/new", b"/data/new/sub", b"/etc/new"]
    files = [b"/data/new/sub/large", b"/data/new/sub/more", b"/etc/new/large", b"/etc/other", b"/etc/bound"]
    entries = [Entry(path, "d", 0o755) for path in folders]
    entries += [Entry(path, "f", 0o644, size=70, sha256="0" * 64) for path in files]
    steps = [PathStep(PUT, one.path, "create", "", one, None) for one in entries]
    assert list(preflight.short_of_room(steps, "/var/store")) == ["/data/new/sub/more", "/etc/bound"]


def test_a_checkpoint_accepts_nothing_that_the_proof_cannot_read(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "link-not"):
        (tree / name).write_text("first")
        os.setxattr(tree / name, "user.much", bytes(250))
    made = checkpoint(store, "before", protect(tree))
    with (tree / "sparse").open("r+b") as stream:
        stream.write(b"new")
    (tree / "link-not").write_text("new")
    with (tree / "new").open("wb") as stream:
        stream.truncate(10_000_000)
    monkeypatch.setattr(reading, "_HOLES", 1000)
    monkeypatch.setattr(reading, "_XATTRS", 300)
    monkeypatch.setattr(reading, "_LITTLE", 100)
    done = go_back(store, made["id"])
    assert done.left == [] and (tree / "sparse").read_bytes()[:3] == bytes(3) and not (tree / "new").exists()
    assert any(f"{tree}/new: it is a file of holes" in note for note in done.notes)
    assert rollback(store, "undo")["left"] == [] and (tree / "sparse").read_bytes()[:3] == b"new"


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_without_room_leaves_none_of_its_contents(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    def full(*_words: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tree / "z").write_bytes(bytes(200_000))  # It comes after others of its size.
    add = Writer.add_file
    files_so_far: list[int] = []

    def added(writer: Writer, fd: int) -> tuple[str, int]:
        files_so_far.append(fd)
        return add(writer, fd) if late or len(files_so_far) < 3 else full()

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "add_file", added)
        if late:
            patched.setattr(objects, "sync_paths", full)
        with pytest.raises(
            OSError, match=f"the store {store.root} has no room for the checkpoint before, .* Make room"
        ):
            checkpoint(store, "before", protect(tree))
    assert files_so_far and os.listdir(store.join("tmp")) == []


def test_a_manifest_without_room_is_told_as_its_contents_are(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "sub" / "small").write_text("changed")

    def full(*_any: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write_all", full)
    with pytest.raises(OSError, match=f"the store {store.root} has no room for the checkpoint before, .* Make room"):
        checkpoint(store, "before", protect(tree))


class Sick(io.BytesIO):
    """A file on a disk that gives an error for each reading."""

    def read(self, _size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("name", ["sub/large", "sub/small"])
def test_a_store_that_cannot_be_read_lets_no_rollback_go_half_way(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = checkpoint(store, "before", protect(tree))
    bad = hashlib.sha256((tree / name).read_bytes()).hexdigest()
    (tree / "a").write_text("new")
    (tree / name).write_text("new")
    with monkeypatch.context() as patched:
        opened = objects.Objects.open
        patched.setattr(objects.Objects, "open", lambda at, sha: Sick() if sha == bad else opened(at, sha))
        place, pread = store.objects.index().get(bad), os.pread

        def read_place(fd: int, size: int, offset: int) -> bytes:
            if place is not None and (size, offset) == (place.size, place.offset):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return pread(fd, size, offset)

        patched.setattr(os, "pread", read_place)
        with pytest.raises(Damaged, match=rf"cannot give back 1 of the paths; nothing was changed.*{name}: object"):
            rollback(store, "before")
        assert (tree / "a").read_text() == "new"
        # A host that goes back by itself does what it can.
        with pytest.raises(RestoreFailed, match=f"{name}: object {bad} cannot be read from the store"):
            go_back(store, made["id"])
        assert (tree / "a").read_text() == "first"
    assert go_back(store, made["id"]).left == []  # It was not taken for damaged.


def test_what_a_full_disk_or_a_kill_leaves_in_a_store_does_not_stay(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at(part: str) -> Callable[[int, bytes], None]:
        def write(fd: int, data: bytes) -> None:
            if part in os.readlink(f"/proc/self/fd/{fd}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.write(fd, data)

        return write

    places = [Path(store.root), Path(store.root, "manifests"), Path(store.root, "refs")]
    for part in ("/manifests/", "/refs/"):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
            patched.setattr(durable, "write_all", fail_at(part))
            checkpoint(store, "once", protect(tree))
        assert not [path for place in places for path in place.glob("*.tmp-*")]
    for place in places:  # A kill leaves files, and so do writers that are at work.
        (place / "left.tmp-999999999").write_text("half")
        (place / f"mine.tmp-{os.getpid()}").write_text("half")
    (orphan,) = [one for one in os.listdir(places[1]) if ".tmp-" not in one]
    assert store.refs() == {}
    (tree / "a").write_text("new")
    kept = checkpoint(store, "kept", protect(tree), retention={"last": 1, "grace": "1h"})["id"]
    assert sorted(one for one in os.listdir(places[1]) if ".tmp-" not in one) == [kept]
    assert [path.name for place in places for path in place.glob("*.tmp-*")] == [f"mine.tmp-{os.getpid()}"] * 3
    assert os.path.exists(store.objects.in_trash(store.join("manifests", orphan)))
    assert rollback(store, "kept")["left"] == [] and store.verify(store.manifest(kept)) == {}


def test_records_that_a_log_needs_are_no_leftovers(store: Store, tree: Path) -> None:
    first = checkpoint(store, "log", protect(tree), kind="log")["id"]
    (tree / "a").write_text("second")
    second = checkpoint(store, "log", protect(tree), kind="log")["id"]
    store._write_ref("log", [second])  # The line of the first is lost.
    (tree / "a").write_text("other")
    checkpoint(store, "other", protect(tree), retention={"last": 1})
    assert {first, second} <= set(os.listdir(store.join("manifests")))
    assert store.manifest(second)


def test_a_staging_directory_on_a_disk_that_is_away_is_removed_when_the_disk_is_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, away = tree / "sub", tree.with_name("away")
    seen = mounts.mount_points()
    monkeypatch.setattr(anchors, "mount_points", lambda: {**seen, os.fsencode(disk): "xfs"})

    def die(*_words: object) -> NoReturn:
        raise KeyboardInterrupt

    checkpoint(store, "before", protect(tree))
    (disk / "small").write_text("new")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(transaction, "apply", die)
        rollback(store, "before")
    (left,) = disk.glob(".evenkeel-*")
    (journal,) = store.journals()
    os.unlink(Path(journal, "COMMIT"))
    disk.rename(away)
    disk.mkdir()  # An empty mount point, as at a boot at which the disk is late.
    for now in ({}, {os.fsencode(disk): "tmpfs"}):
        with monkeypatch.context() as patched:
            patched.setattr(anchors, "mount_points", lambda now=now: {**seen, **now})
            assert list(transaction.unfinished(store)) == [] and store.journals() == [journal]
    disk.rmdir()
    away.rename(disk)
    assert list(transaction.unfinished(store)) == []
    assert store.journals() == [] and not left.exists() and not list(disk.glob(".evenkeel-*"))


@pytest.mark.parametrize("fault", ["missing", "torn", "room"])
def test_check_mode_promises_nothing_that_a_rollback_refuses(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    made = checkpoint(store, "before", protect(tree))
    (tree / "sub" / "large").write_text("new")
    (line,) = [one for one in store.manifest(made["id"]).sections[0].lines if "/sub/large " in one]
    path = Path(store.objects.path(Entry.parse(line).sha256))
    if fault == "missing":
        path.unlink()
    elif fault == "torn":
        path.chmod(0o600)
        os.truncate(path, 100)
    else:
        real = os.statvfs
        few = {"f_blocks": 20, "f_bfree": 10, "f_bavail": 10, "f_frsize": 4096, "f_files": 0, "f_flag": 0}
        monkeypatch.setattr(
            os, "statvfs", lambda path: SimpleNamespace(**few) if isinstance(path, bytes) else real(path)
        )
    for check in (True, False):
        with pytest.raises(Refused if fault == "room" else Damaged, match="nothing was changed.*|sub/large: no room"):
            rollback(store, "before", check_mode=check)
    assert (tree / "sub" / "large").read_text() == "new"


@pytest.mark.parametrize(("kind", "mode"), [("vfat", 0o755), ("vfat", 0o777), ("ext4", 0o755)])
def test_a_mount_with_fixed_modes_can_be_put_back_where_nobody_else_can_write_to_it(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: int
) -> None:
    seen = {**mounts.mount_points(), os.fsencode(tree): kind}
    monkeypatch.setattr(anchors, "mount_points", lambda: seen)
    monkeypatch.setattr(mounts, "mount_points", lambda: seen)
    real = os.mkdir

    def fixed(path: Any, _mode: int = 0o777, **options: Any) -> None:
        real(path, mode, **options)
        os.chmod(path, mode, **options)

    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("new")
    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", fixed)
        if (kind, mode) == ("vfat", 0o755):
            assert rollback(store, "before")["left"] == [] and (tree / "a").read_text() == "first"
        else:
            why = "others can write to every directory of .*dmask=022" if kind == "vfat" else "somebody has put another"
            with pytest.raises(Refused, match=why):
                rollback(store, "before")
    assert not list(tree.glob(".evenkeel-*")) and store.journals() == []


def test_a_mount_with_fixed_modes_that_cannot_be_put_back_is_named_at_the_checkpoint() -> None:
    spec = Declaration(["/boot/efi"], (), {"/boot/efi": "vfat"})
    (said,) = unprotected(spec, ["D / 755 0 0 0", "D /boot 755 0 0 0", "d /boot/efi 777 0 0 0"])[1:]
    assert (
        said.startswith("/boot/efi is a mount of vfat, whose owner (user 0) and mode (777) are fixed")
        and "dmask" in said
    )
    assert len(unprotected(spec, ["D / 755 0 0 0", "D /boot 755 0 0 0", "d /boot/efi 755 0 0 0"])) == 1
