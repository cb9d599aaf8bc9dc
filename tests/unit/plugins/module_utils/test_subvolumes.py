# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subvolumes on a real btrfs, on an image of its own: what is kept, what is exchanged, what is refused."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    Refused,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed, run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.subvolumes import subvolumes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.subvolumes.subvolumes import (
    Subvolumes,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import adopt, checkpoint, receive, rollback, scrub
from images import copy_of_a_moment

from evenkeel.collection import collections_path

from .conftest import SYSTEM, differences

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control") or not shutil.which("mkfs.btrfs"),
    reason="this takes root, loop devices and btrfs-progs",
)
LIBRARY = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
# A rollback that is killed before or after one of its steps: argv is path, store, name of the function, when.
KILLED = f"""
import os, sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from {LIBRARY}._resources.subvolumes import subvolumes
from {LIBRARY}._flows.rollback.flow import Request, rollback
from {LIBRARY}._store.store import Store
from {LIBRARY}._host.system import System
real, left = getattr(subvolumes, sys.argv[3]), [int(sys.argv[5])]
def call(*args):
    left[0] -= 1
    if sys.argv[4] == "before" and not left[0]:
        os.kill(os.getpid(), 9)
    result = real(*args)
    if sys.argv[4] == "after" and not left[0]:
        os.kill(os.getpid(), 9)
    return result
setattr(subvolumes, sys.argv[3], call)
rollback(Store(sys.argv[2], replace(System(), has_systemd=lambda: False)), Request("before"))
"""


def btrfs(*words: object) -> str:
    return subprocess.run(["btrfs", *map(str, words)], check=True, capture_output=True, text=True).stdout


def mount(image: Path, place: Path) -> None:
    """It commits late, so that our syncs alone count."""
    subprocess.run(["mount", "-o", "loop,noatime,commit=300", image, place], check=True)


def cut_power(disk: Path, number: int = 0) -> None:
    """What had not reached the disk is gone: the image as it is now, without any sync, is mounted in its place."""
    image = disk.with_name("image" if not number else f"cut-{number - 1}")
    copy_of_a_moment(image, disk.with_name(f"cut-{number}"))
    subprocess.run(["umount", disk], check=True)
    mount(disk.with_name(f"cut-{number}"), disk)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with open(image, "wb") as stream:
        stream.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    mount(image, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


@pytest.fixture
def data(disk: Path) -> Path:
    """A subvolume with something in it."""
    path = disk / "data"
    made(path)
    return path


def made(path: Path) -> None:
    btrfs("-q", "subvolume", "create", path)
    (path / "sub").mkdir()
    (path / "one").write_text("first")
    (path / "sub" / "large").write_bytes(os.urandom(1 << 20))
    os.symlink("one", path / "link")


def resources(*paths: Path) -> list[dict[str, Any]]:
    return [{"subvolumes": {"paths": [str(path) for path in paths]}}]


def kept(path: Path) -> list[str]:
    """What is in the directory of ours."""
    folder = path.parent / ".evenkeel-snapshots"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_limits_of_quotas_are_said_not_to_come_back(store: Store, disk: Path, data: Path) -> None:
    assert len(checkpoint(store, "before", resources(data))["left"]) == 1
    btrfs("quota", "enable", disk)
    (_kept, words) = checkpoint(store, "before", resources(data))["left"]
    assert words.startswith(f"limits of quota groups on {data} do not come back with it")


def copy_of(path: Path, tmp_path: Path) -> Path:
    copy = tmp_path / f"copy-of-{path.name}"
    subprocess.run(["cp", "-a", path, copy], check=True)
    return copy


def change(path: Path) -> None:
    (path / "one").write_text("second")
    (path / "added").write_text("added")
    shutil.rmtree(path / "sub")
    path.chmod(0o700)


def test_a_rollback_puts_the_whole_subvolume_back_and_can_be_undone(store: Store, data: Path, tmp_path: Path) -> None:
    old = copy_of(data, tmp_path)
    taken = checkpoint(store, "before", resources(data))
    assert taken["changed"] and taken["consistency"] == "crash" and "replicas" in taken["left"][0]
    change(data)
    new = tmp_path / "new"
    subprocess.run(["cp", "-a", data, new], check=True)
    predicted = rollback(store, "before", check_mode=True)
    assert differences(new, data) == "" and len(kept(data)) == 1
    result = rollback(store, "before")
    assert result["planned"] == predicted["planned"] == result["done"]
    assert [(one["action"], one["target"]) for one in result["done"]] == [("exchange", str(data))]
    assert result["proved"] == ["subvolumes: 1 as recorded"]
    assert differences(old, data) == "" and (data.stat().st_mode & 0o777) == 0o755
    assert len(kept(data)) == 2, "the checkpoint and the undo alone"
    assert not rollback(store, "before")["changed"]
    rollback(store, "undo")
    assert differences(new, data) == "" and (data.stat().st_mode & 0o777) == 0o700
    assert stat_of(data.parent / ".evenkeel-snapshots") == (0, 0o700)
    rollback(store, taken["id"])
    assert differences(old, data) == ""


def stat_of(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_mode & 0o7777


def test_what_did_not_change_is_not_recorded_again(store: Store, data: Path) -> None:
    first = checkpoint(store, "before", resources(data))
    assert not checkpoint(store, "before", resources(data))["changed"]
    other = checkpoint(store, "other", resources(data))
    assert other["root"] == first["root"] and len(kept(data)) == 1
    change(data)
    assert rollback(store, "before")["changed"]
    assert not checkpoint(store, "before", resources(data))["changed"]
    assert len(kept(data)) == 2


def write(path: Path) -> None:
    with open(path / "one", "r+") as stream:
        stream.write("F")


def write_mapped(path: Path) -> None:
    with open(path / "one", "r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        mapped[0:1] = b"F"


CHANGES = {
    "written": write,
    "mapped": write_mapped,
    "mode": lambda path: (path / "one").chmod(0o600),
    "attribute": lambda path: os.setxattr(path / "one", "user.x", b"y"),
    "removed": lambda path: (path / "link").unlink(),
    "renamed": lambda path: (path / "one").rename(path / "two"),
    "linked": lambda path: os.link(path / "one", path / "two"),
    "time": lambda path: os.utime(path / "sub", ns=(1, 1)),
    "root's own": lambda path: path.chmod(0o700),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("after_rollback", [False, True])
def test_every_change_is_seen_at_once(store: Store, data: Path, how: str, after_rollback: bool) -> None:
    checkpoint(store, "before", resources(data))
    if after_rollback:
        change(data)
        rollback(store, "before")
    CHANGES[how](data)
    assert rollback(store, "before", check_mode=True)["changed"]
    assert checkpoint(store, "before", resources(data), check_mode=True)["changed"]
    assert checkpoint(store, "before", resources(data))["changed"]
    assert not checkpoint(store, "before", resources(data), check_mode=True)["changed"]


def test_check_mode_writes_nothing(store: Store, data: Path) -> None:
    assert checkpoint(store, "before", resources(data), check_mode=True)["changed"]
    assert kept(data) == [] and os.listdir(data.parent) == ["data"] and not os.path.exists(store.root)


def test_what_cannot_be_kept_is_not_replaced(store: Store, data: Path, tmp_path: Path) -> None:
    """Neither where btrfs makes no snapshot, nor where it cannot be told what is there."""
    checkpoint(store, "before", resources(data))
    change(data)
    new = copy_of(data, tmp_path)

    def full(argv: Sequence[str], timeout: float) -> Completed:
        return Completed(tuple(argv), 1, "", "No space left on device") if "-r" in argv else run(argv, timeout)

    with pytest.raises(Refused, match="No space left"):
        rollback(Store(store.root, replace(SYSTEM, run=full)), "before")
    real = fcntl.ioctl

    def unreadable(fd: int, *words: Any) -> Any:
        if os.readlink(f"/proc/self/fd/{fd}") == str(data):
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, *words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "ioctl", unreadable)
        with pytest.raises(Refused, match="Input/output error"):
            rollback(store, "before")
    assert differences(new, data) == "" and len(kept(data)) == 1


def test_one_that_was_made_read_only_is_put_back(store: Store, data: Path) -> None:
    checkpoint(store, "before", resources(data))
    btrfs("property", "set", "-ts", data, "ro", "true")
    assert rollback(store, "before")["changed"]
    (data / "one").write_text("again")


def test_an_unconfirmed_change_is_undone_at_boot(
    store: Store, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    old = copy_of(data, tmp_path)
    checkpoint(store, "before", resources(data), confirm_within=60.0)
    change(data)
    rebooted = Store(store.root, replace(SYSTEM, boot_id=lambda: "another"))
    with rebooted.locked():
        assert "rolled back the unconfirmed change" in finish(rebooted, boot=True)[0]
    assert differences(old, data) == ""


def test_what_the_change_made_of_a_subvolume_is_undone(store: Store, disk: Path, tmp_path: Path) -> None:
    """Deleted; deleted and made anew as a directory, or as a symlink: that has no snapshot, and is kept."""
    paths = [disk / name for name in ("gone", "directory", "symlink")]
    for path in paths:
        made(path)
    olds = [copy_of(path, tmp_path) for path in paths]
    checkpoint(store, "before", resources(*paths))
    for path in paths:
        btrfs("subvolume", "delete", path)
    paths[1].mkdir()
    (paths[1] / "precious").write_text("precious")
    paths[2].symlink_to(paths[1])
    result = rollback(store, "before")
    assert sorted(one["action"] for one in result["done"]) == ["create", "exchange", "exchange"]
    assert [differences(old, path) for old, path in zip(olds, paths, strict=True)] == ["", "", ""]
    aside = [disk / ".evenkeel-snapshots" / one for one in kept(paths[0]) if one.startswith("kept-")]
    assert sorted(one.is_symlink() for one in aside) == [False, True]
    assert [(one / "precious").read_text() for one in aside if not one.is_symlink()] == ["precious"]
    with pytest.raises(Refused, match="nothing was changed: .* was no subvolume then"):
        rollback(store, "undo")
    assert [differences(old, path) for old, path in zip(olds, paths, strict=True)] == ["", "", ""]


@pytest.mark.parametrize(
    ("function", "when", "power"),
    [
        pytest.param("btrfs", "before", "kept", marks=pytest.mark.long),
        pytest.param("btrfs", "after", "kept", marks=pytest.mark.long),
        ("btrfs", "after", "cut"),
        pytest.param("delete", "before", "kept", marks=pytest.mark.long),
        ("delete", "after", "cut"),
        ("exchange", "after", "kept"),
        ("exchange", "after", "cut"),
        ("syncfs", "after", "cut"),
    ],
)
def test_a_kill_leaves_each_old_or_new_and_the_next_run_finishes(
    disk: Path, tmp_path: Path, function: str, when: str, power: str
) -> None:
    """Of two subvolumes, at each call of each kind; with the power cut at the same point, too."""
    store = Store(str(disk / "store"), SYSTEM)
    paths = [disk / "first", disk / "second"]
    for path in paths:
        made(path)
    olds = [copy_of(path, tmp_path) for path in paths]
    checkpoint(store, "before", resources(*paths))
    for path in paths:
        change(path)
    (tmp_path / "new").mkdir()
    news = [copy_of(path, tmp_path / "new") for path in paths]
    subprocess.run(["sync", "--file-system", disk], check=True)
    argv = [sys.executable, "-B", "-c", KILLED, str(collections_path()), store.root, function, when]
    seen = set()
    for number in range(1, 20):
        done = subprocess.run([*argv, str(number)], check=False, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if power == "cut":
            cut_power(disk, number - 1)
        for old, new, path in zip(olds, news, paths, strict=True):
            there = differences(old, path) == "", differences(new, path) == ""
            assert sum(there) == 1
            seen.add(there)
        with store.locked():
            finish(store)
        both = {differences(old, path) == "" for old, path in zip(olds, paths, strict=True)}
        assert len(both) == 1, "all old or all new"
        if done.returncode == 0:
            break
        rollback(store, "before")
        assert not rollback(store, "before")["changed"]
        assert [one for one in kept(paths[0]) if one.startswith("replaced-")] == []
        for path, new in zip(paths, news, strict=True):
            subprocess.run(["rsync", "-aHAX", "--delete", "--checksum", f"{new}/", f"{path}/"], check=True)
        subprocess.run(["sync", "--file-system", disk], check=True)
    else:
        pytest.fail("it never came to its end")
    assert number > 2 and (True, False) in seen and ((False, True) in seen or when == "after")


def test_a_rollback_that_fails_leaves_the_subvolume_as_it_was(store: Store, data: Path, tmp_path: Path) -> None:
    checkpoint(store, "before", resources(data))
    change(data)
    new = copy_of(data, tmp_path)

    def full(argv: Sequence[str], timeout: float) -> Completed:
        if list(argv[1:3]) == ["subvolume", "snapshot"] and "-r" not in argv:
            return Completed(tuple(argv), 1, "", "No space left on device")
        return run(argv, timeout)

    broken = Store(store.root, replace(SYSTEM, run=full))
    with pytest.raises(RestoreFailed, match="No space left") as caught:
        rollback(broken, "before")
    assert not caught.value.result["changed"] and differences(new, data) == ""
    assert rollback(store, "before")["changed"]


def test_an_exchange_that_did_not_take_place_is_no_success(
    store: Store, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", resources(data))
    change(data)
    monkeypatch.setattr(subvolumes, "exchange", lambda *_names: None)
    with pytest.raises(RestoreFailed, match="something else took its place") as caught:
        rollback(store, "before")
    assert caught.value.result["done"] == [] and caught.value.result["undo"]


def test_a_snapshot_that_is_missing_or_was_changed_is_refused_and_found_by_a_scrub(store: Store, data: Path) -> None:
    checkpoint(store, "before", resources(data))
    (name,) = kept(data)
    snapshot = data.parent / ".evenkeel-snapshots" / name
    assert scrub(store)["damaged"] == []
    change(data)
    before = data.stat().st_ino, (data / "one").read_text()
    btrfs("property", "set", "-ts", snapshot, "ro", "false")
    with pytest.raises(Damaged, match="was changed"):
        rollback(store, "before")
    (snapshot / "one").write_text("forged")
    subprocess.run(["sync", "--file-system", snapshot], check=True)
    btrfs("property", "set", "-ts", snapshot, "ro", "true")
    with pytest.raises(Damaged, match="was changed"):
        rollback(store, "before")
    btrfs("subvolume", "delete", snapshot)
    with pytest.raises(Damaged, match="nothing was changed. Mount its file system"):
        rollback(store, "before", check_mode=True)
    btrfs("-q", "subvolume", "snapshot", "-r", data, snapshot)
    with pytest.raises(Damaged, match="is not at"):
        rollback(store, "before")
    assert (data.stat().st_ino, (data / "one").read_text()) == before
    with pytest.raises(Damaged, match="before") as caught:
        scrub(store)
    (found,) = [one for one in caught.value.result["damaged"] if one["paths"] == [str(data)]]
    assert found["kind"] == "subvolumes" and found["id"] == str(data)
    assert [one["name"] for one in found["checkpoints"]] == ["before"]


def test_a_copy_on_another_host_does_not_pretend_to_have_it(store: Store, data: Path, tmp_path: Path) -> None:
    taken = checkpoint(store, "before", resources(data))
    bundle = str(tmp_path / "bundle")
    replicas.export(store, "web1", taken["id"], [], bundle, False)
    other = Store(str(tmp_path / "other"), SYSTEM)
    receive(other, "web1", taken["id"], bundle)
    assert scrub(other)["damaged"] == []
    btrfs("subvolume", "delete", data.parent / ".evenkeel-snapshots" / kept(data)[0])
    assert scrub(other)["damaged"] == []
    adopt(other, "web1", taken["id"], bundle)
    with pytest.raises(Damaged, match="nowhere else"):
        rollback(other, "before")
    with pytest.raises(Damaged, match="before"):
        scrub(other)


def test_retention_deletes_the_snapshots_of_what_is_forgotten_for_good(store: Store, data: Path) -> None:
    clock = [1_700_000_000.0]
    store = Store(store.root, replace(SYSTEM, now=lambda: clock[0]))
    other = Store(store.root + "-other", SYSTEM)
    checkpoint(other, "mine", resources(data))
    (foreign,) = kept(data)
    somebodys = data.parent / ".evenkeel-snapshots" / "somebody"
    btrfs("-q", "subvolume", "snapshot", "-r", data, somebodys)
    names: list[str] = []
    for number in range(4):
        clock[0] += 100
        (data / "one").write_text(str(number))
        kind = "log" if number > 1 else "snapshot"
        checkpoint(store, "before", resources(data), retention={"last": 2, "grace": 250}, kind=kind)
        names += [one for one in kept(data) if one not in [*names, foreign, "somebody"]]
    assert len(names) == 4 and set(names) <= set(kept(data)), "within the time of grace all are there"
    clock[0] += 1000
    checkpoint(store, "before", resources(data), retention={"last": 2, "grace": 250})
    assert kept(data) == sorted([foreign, "somebody", *names[1:]]), "a log needs the one that it follows"
    (data / "one").write_text("another")
    rollback(store, "before~1")
    assert (data / "one").read_text() == "2"
    checkpoint(store, "before", resources(data), retention={"last": 1, "grace": 0})
    assert len(store.refs()["undo"]) == 1
    clock[0] += 1000
    checkpoint(store, "before", resources(data), retention={"last": 1, "grace": 0})
    clock[0] += 1000
    checkpoint(store, "before", resources(data), retention={"last": 1, "grace": 0})
    needed = {record["snapshot"] for record in recorded(store)}
    assert set(kept(data)) == {foreign, "somebody", *needed}
    assert rollback(store, "undo")["changed"] and (data / "one").read_text() == "another"
    assert rollback(other, "mine")["changed"]


def recorded(store: Store) -> list[subvolumes.Snapshot]:
    ids = [one for held in store.refs().values() for one in held]
    return [
        record
        for one in ids
        for section in store.manifest(one).sections
        for record in subvolumes._recorded(section.lines)
    ]


def later(store: Store, seconds: float, **effects: Any) -> Store:
    return Store(store.root, replace(SYSTEM, now=lambda: SYSTEM.now() + seconds, **effects))


def test_the_last_checkpoint_of_a_subvolume_takes_its_snapshot_with_it(
    store: Store, data: Path, tmp_path: Path
) -> None:
    """Also when nothing that stays tells of its directory any more."""
    checkpoint(store, "before", resources(data))
    (tmp_path / "file").write_text("x")
    for number in (1, 2):
        assert len(kept(data)) == 1
        files = [{"files": {"paths": [str(tmp_path / "file")]}}]
        checkpoint(later(store, number * 100), "before", files, retention={"last": 1, "grace": 0})
    assert kept(data) == []


def test_nothing_is_pruned_when_btrfs_does_not_delete(store: Store, data: Path) -> None:
    def broken(argv: Sequence[str], timeout: float) -> Completed:
        return Completed(tuple(argv), 1, "", "no") if argv[2] == "delete" else run(argv, timeout)

    for number in range(2):
        (data / "one").write_text(str(number))
        checkpoint(store, "before", resources(data), retention={"last": 1, "grace": 0})
    trash = os.path.join(store.root, "trash", "manifests")
    before = os.listdir(trash)
    found = checkpoint(later(store, 100, run=broken), "before", resources(data), retention={"last": 1, "grace": 0})
    assert "delete" in found["warnings"][0]
    assert len(before) == 1 and os.listdir(trash) == before and len(kept(data)) == 2
    checkpoint(later(store, 200), "before", resources(data), retention={"last": 1, "grace": 0})
    assert os.listdir(trash) == [] and len(kept(data)) == 1


def test_nothing_is_deleted_while_a_manifest_in_the_trash_is_damaged(store: Store, data: Path) -> None:
    """What it names, somebody else may need: and it is said what to do."""
    for number in range(2):
        (data / "one").write_text(str(number))
        checkpoint(store, "before", resources(data), retention={"last": 1, "grace": 0})
    (manifest,) = Path(store.root, "trash", "manifests").iterdir()
    manifest.chmod(0o600)
    manifest.write_text(manifest.read_text().replace('"path"', '"Path"'))
    (data / "one").write_text("again")
    found = checkpoint(later(store, 100), "before", resources(data), retention={"last": 1, "grace": 0})
    assert re.search(f"nothing was deleted.*move {manifest} out of the store", found["warnings"][0])
    assert manifest.exists() and len(kept(data)) == 3
    manifest.unlink()
    checkpoint(later(store, 200), "before", resources(data), retention={"last": 1, "grace": 0})
    assert len(kept(data)) == 2


def test_refusals_change_nothing(store: Store, disk: Path, data: Path, tmp_path: Path) -> None:
    def refused(path: Path, words: str, kind: type[EvenkeelError] = Refused) -> None:
        before = sorted(os.listdir(disk))
        with pytest.raises(kind, match=words):
            checkpoint(store, "refused", resources(path))
        assert sorted(os.listdir(disk)) == before and kept(data) == []

    refused(disk / "missing", "not the root of a btrfs subvolume", UsageError)
    refused(data / "sub", "not the root of a btrfs subvolume", UsageError)
    refused(tmp_path, "not the root of a btrfs subvolume", UsageError)
    refused(disk, "is mounted")
    (disk / "way").symlink_to(disk)
    refused(disk / "way" / "data", "leads through the symlink", UsageError)
    (disk / "alias").symlink_to(data)
    refused(disk / "alias", "not the root of a btrfs subvolume", UsageError)
    btrfs("-q", "subvolume", "snapshot", "-r", data, disk / "fixed")
    refused(disk / "fixed", "a read-only subvolume", UsageError)
    btrfs("-q", "subvolume", "create", data / "nested")
    refused(data, "holds 1 subvolumes.*data/nested")
    btrfs("subvolume", "delete", data / "nested")
    with pytest.raises(UsageError, match="lies in"):
        checkpoint(Store(str(data / "store"), SYSTEM), "refused", resources(data))
    shutil.rmtree(data / "store")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    device = subprocess.run(["findmnt", "-no", "SOURCE", disk], check=True, capture_output=True, text=True).stdout
    for options in (["-o", "subvol=data", device.strip()], ["--bind", str(data / "sub")]):
        subprocess.run(["mount", *options, elsewhere], check=True)
        try:
            refused(data, f"is mounted.*{elsewhere}")
        finally:
            subprocess.run(["umount", elsewhere], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", data / "sub"], check=True)
    refused(data, f"is mounted.*{data / 'sub'}")
    subprocess.run(["umount", data / "sub"], check=True)
    disk.chmod(0o775)
    refused(data, "can be written to by others than root")
    disk.chmod(0o755)
    os.chown(disk, 1000, 0)
    refused(data, "can be written to by others than root")
    os.chown(disk, 0, 0)
    (disk / ".evenkeel-snapshots").mkdir(mode=0o755)
    refused(data, "is not a directory that belongs to root alone")
    (disk / ".evenkeel-snapshots").rmdir()
    assert checkpoint(store, "good", resources(data))["changed"]


@contextlib.contextmanager
def mounted_by_a_user(place: Path) -> Iterator[None]:
    """What any user can have with fusermount: a file system that root may not even look at, and that never answers."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=1000,group_id=1000"
    subprocess.run(["mount", "-i", "-t", "fuse", "-o", options, "none", place], check=True, pass_fds=[fd])
    try:
        yield
    finally:
        os.close(fd)
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this takes FUSE")
@pytest.mark.parametrize("where", ["sub", "."])
def test_a_mount_of_a_user_holds_nothing_up(store: Store, data: Path, tmp_path: Path, where: str) -> None:
    """Below the subvolume neither its record nor its way back; over it no host that goes back by itself."""
    before = copy_of(data, tmp_path)
    with mounted_by_a_user(data / where) if where == "sub" else contextlib.nullcontext():
        checkpoint(store, "before", resources(data))
    (data / "one").write_text("second")
    with mounted_by_a_user(data / where):
        if where == ".":
            with pytest.raises(Refused, match="nothing was changed"):
                rollback(store, "before")
        (section,) = (one for one in store.manifest(store.resolve("before")).sections if one.kind == "subvolumes")
        at = Restore(store.system, store.objects, unattended=where == ".")
        kind = Subvolumes()
        assert "snapshot" in kind.capture_for_undo(section.spec, Writer(store.objects), store.system, where == ".")[0]
        assert len(kind.apply(kind.plan(section.lines, at), at)) == 1
    assert not differences(before, data)
    assert os.listdir(data.parent / ".evenkeel-snapshots") and not list(data.parent.glob(".evenkeel-snapshots/repl*"))


def test_a_mount_that_came_since_refuses_the_rollback(store: Store, data: Path, tmp_path: Path) -> None:
    checkpoint(store, "before", resources(data))
    change(data)
    new = copy_of(data, tmp_path)
    (data / "mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", data / "mounted"], check=True)
    with pytest.raises(Refused, match="is mounted"):
        rollback(store, "before")
    subprocess.run(["umount", data / "mounted"], check=True)
    (data / "mounted").rmdir()
    os.utime(data, ns=(1, new.stat().st_mtime_ns))
    assert differences(new, data) == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "paths is missing"),
        ({"paths": []}, "paths is missing"),
        ({"paths": ["data"]}, "not an absolute path"),
        ({"paths": ["/srv/../data"]}, "not an absolute path"),
        ({"paths": ["/"]}, "always mounted"),
        ({"paths": ["/srv/data"], "exclude": []}, "unknown key 'exclude'"),
    ],
)
def test_a_bad_declaration_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        registry.check([{"subvolumes": spec}])


@pytest.mark.parametrize(
    "other",
    [
        {"files": {"paths": ["/srv/data/etc"]}},
        {"files": {"paths": ["/srv"]}},
        {"subvolumes": {"paths": ["/srv/data"]}},
        {"postgresql": {"data": "/srv/data/pg", "unit": "postgresql"}},
        {"postgresql": {"data": "/pg", "archive": "/srv/data/archive", "unit": "postgresql"}},
        {"postgresql": {"data": "/pg", "unit": "postgresql"}, "": "/pg"},
        {"users": {}, "": "/etc"},
    ],
)
def test_nothing_else_may_lie_in_a_subvolume(other: dict[str, Any]) -> None:
    path = other.pop("", "/srv/data")
    for declared in ([other, {"subvolumes": {"paths": [path]}}], [{"subvolumes": {"paths": [path]}}, other]):
        with pytest.raises(UsageError, match="overlap"):
            registry.check(declared)
    assert registry.check([other, {"subvolumes": {"paths": ["/elsewhere"]}}])


@pytest.mark.parametrize(
    "line",
    [
        'subvolume {"path": "/srv/data", "snapshot": "../../etc", "transaction": 1, "uuid": "%s"}',
        'subvolume {"path": "/srv/../data", "snapshot": "%n", "transaction": 1, "uuid": "%s"}',
        'subvolume {"path": "/srv/data", "snapshot": "%n", "transaction": "1", "uuid": "%s"}',
        'subvolume {"path": "/srv/data", "snapshot": "%n", "transaction": 1, "uuid": "x"}',
        'subvolume ["%s"]',
        'another {"path": "/srv/data", "snapshot": "%n", "transaction": 1, "uuid": "%s"}',
    ],
)
def test_a_doctored_line_is_refused(line: str) -> None:
    name, uuid = "0" * 16 + "-20261125T170000-00000000", "00000000-0000-0000-0000-000000000001"
    line = line.replace("%n", name).replace("%s", uuid)
    with pytest.raises(Damaged, match="is refused"):
        Subvolumes().verify([line], SYSTEM)
    assert Subvolumes().missing_data([line]) == {}


def test_what_is_not_as_recorded_is_told(store: Store, disk: Path, data: Path) -> None:
    lines = store.manifest(checkpoint(store, "before", resources(data))["id"]).sections[0].lines
    assert Subvolumes().verify(lines, SYSTEM) == []
    data.rename(disk / "moved")
    assert "is no subvolume" in Subvolumes().verify(lines, SYSTEM)[0]
    made(data)
    assert "is not what" in Subvolumes().verify(lines, SYSTEM)[0]


def test_who_holds_the_old_one_open_is_named(store: Store, data: Path) -> None:
    checkpoint(store, "before", resources(data))
    change(data)
    with subprocess.Popen(["sleep", "60"], cwd=data, stdin=open(data / "added")) as process:
        result = rollback(store, "before")
        process.kill()
    (one,) = result["restart_needed"]
    assert one["paths"] == [str(data), str(data / "added")] and one["processes"] == [f"sleep[{process.pid}]"]


def test_what_a_service_writes_as_it_starts_stays(store: Store, data: Path, tmp_path: Path) -> None:
    """It is put back before services, once."""
    argv = ["/bin/sh", "-c", f"date >> {data}/log; sync -f {data}; echo $$ > {tmp_path}/pid; while :; do sleep 1; done"]
    service = {"name": "writer", "pidfile": str(tmp_path / "pid"), "argv": argv}
    declared = [*resources(data), {"services": {"processes": [service]}}]
    with subprocess.Popen(argv, start_new_session=True) as process:
        while not (tmp_path / "pid").exists():
            SYSTEM.sleep(0.01)
        checkpoint(store, "before", declared)
        process.kill()
    change(data)
    (tmp_path / "pid").unlink()
    try:
        result = rollback(store, "before")
        assert [one["action"] for one in result["done"]] == ["exchange", "start"]
        assert len((data / "log").read_text().splitlines()) == 2
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_who_has_it_mounted_elsewhere_is_named(store: Store, data: Path) -> None:
    """As a container does, or a unit with ReadWritePaths: after the rollback it has nothing there."""
    checkpoint(store, "before", resources(data))
    change(data)
    script = f"mount --make-rprivate / && mount --bind {data} {data} && echo ready && exec sleep 60"
    argv = ["unshare", "--mount", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        result = rollback(store, "before")
        again = rollback(store, "undo")
        process.kill()
    (one,) = result["restart_needed"]
    assert one["paths"] == [str(data)] and one["processes"] == [f"sleep[{process.pid}]"]
    assert again["changed"] and again["restart_needed"] == []


def test_a_subvolume_is_captured_while_all_stands_still_for_the_undo_as_well(store: Store, data: Path) -> None:
    held = {"command": {"argv": ["touch", str(data / "held")], "after": ["rm", str(data / "held")]}}
    taken = checkpoint(store, "before", resources(data), quiesce=[held])
    assert taken["consistency"] == "quiesced" and not (data / "held").exists()
    (data / "held").write_text("changed")
    late = {"command": {"argv": ["touch", str(data / "late")], "after": ["true"]}}
    rollback(store, "before", quiesce=[late])
    assert (data / "held").read_text() == "" and not (data / "late").exists()
    assert len(kept(data)) == 2, "the checkpoint and the undo alone"
    rollback(store, "undo")
    assert (data / "held").read_text() == "changed" and (data / "late").exists()


@pytest.mark.parametrize("what", ["checkpoint", "rollback", "rollback of a lost one"])
def test_a_power_cut_after_success_loses_nothing(
    store: Store, disk: Path, data: Path, tmp_path: Path, what: str
) -> None:
    """The store is on another disk: its own syncs are none of this one."""
    old = copy_of(data, tmp_path)
    checkpoint(store, "before", resources(data))
    if what != "checkpoint":
        change(data)
        if what != "rollback":
            btrfs("subvolume", "delete", data)
        rollback(store, "before")
    cut_power(disk)
    if what != "checkpoint":
        assert differences(old, data) == ""
    change(data)
    assert rollback(store, "before")["changed"]
    assert differences(old, data) == ""
