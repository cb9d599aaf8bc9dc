# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checkpoints are complete and durable, rollbacks exact, and both refuse rather than guess."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Busy,
    Damaged,
    EvenkeelError,
    NotFound,
    Refused,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import (
    applying,
    declaration,
    journals,
    places,
    reading,
    rereading,
    transaction,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import Entry, path_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.mounts import remounted, unprotected
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import alternatives
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import durable
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.hashing import chunks
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files, registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher, Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .conftest import copy_of, differences


def protect(*trees: Path, **spec: Any) -> list[dict[str, Any]]:
    return [{"files": {"paths": [str(tree) for tree in trees], **spec}}]


def wreck(tree: Path) -> None:
    """Every kind of change that a bad playbook can make."""
    (tree / "a").write_text("changed")
    os.unlink(tree / "sub" / "small")
    shutil.rmtree(tree / "sub" / "deep")
    os.unlink(tree / "link")
    os.symlink("elsewhere", tree / "link")
    (tree / "new" / "deeper").mkdir(parents=True)
    (tree / "new" / "deeper" / "file").write_text("new")
    (tree / "new-and-longer").write_text("sorts between new and new/deeper")
    os.rmdir(tree / "empty")
    (tree / "empty").write_text("a file now")
    os.unlink(tree / "dangling")
    (tree / "dangling").mkdir()
    (tree / "dangling" / "inside").write_text("x")
    os.chmod(tree / "sub" / "large", 0o600)
    os.removexattr(tree / "sub" / "hard", "user.kept") if os.path.exists(tree / "sub" / "hard") else None
    os.unlink(tree / "fifo")
    os.truncate(tree / "sparse", 10)
    os.chmod(tree, 0o700)


def damaged(store: Store, checkpoint_id: str) -> bool:
    try:
        return bool(store.verify(store.manifest(checkpoint_id)))
    except Damaged:
        return True


def test_rollback_restores_everything_by_rsyncs_judgement(store: Store, tree: Path) -> None:
    copy = copy_of(tree)
    checkpoint(store, "before", protect(tree))
    wreck(tree)
    assert differences(copy, tree)
    result = rollback(store, "before")
    assert differences(copy, tree) == ""
    assert result["changed"] and result["left"] == []
    assert os.stat(tree / "a").st_ino == os.stat(tree / "sub" / "hard").st_ino
    assert os.stat(tree / "sparse").st_blocks * 512 < 500_000
    assert store.join("journal") and os.listdir(store.join("journal")) == []


def test_rollback_can_be_undone(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    wreck(tree)
    wrecked = copy_of(tree)
    rollback(store, "before")
    rollback(store, "undo")
    assert differences(wrecked, tree) == ""


def test_check_mode_writes_nothing_and_predicts_what_follows(store: Store, tree: Path, tmp_path: Path) -> None:
    predicted = checkpoint(store, "before", protect(tree), check_mode=True)
    assert predicted["changed"] and not os.path.exists(store.root)
    taken = checkpoint(store, "before", protect(tree))
    assert taken["root"] == predicted["root"]
    wreck(tree)
    before = copy_of(tmp_path / "store"), copy_of(tree)
    planned = rollback(store, "before", check_mode=True)
    assert differences(before[0], tmp_path / "store") == "" and differences(before[1], tree) == ""
    done = rollback(store, "before")
    assert planned["planned"] == done["planned"] == done["done"]
    again = rollback(store, "before")
    assert not again["changed"] and again["planned"] == []


def test_diff_tells_attributes_and_hashes_but_no_content(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("a secret")
    shown = rollback(store, "before", check_mode=True)["diff"]
    text = "".join(one["before"] + one["after"] for one in shown)
    assert f"{tree}/a" in text and "sha256=" in text and "secret" not in text


def test_diff_tells_no_value_of_an_attribute_and_no_target_of_a_link(store: Store, tree: Path) -> None:
    """Both may be secret, on the host now and in the checkpoint; that they change is to be seen."""
    os.setxattr(tree / "a", "user.kept", b"old-secret")
    os.unlink(tree / "link")
    os.symlink("old-secret", tree / "link")
    checkpoint(store, "before", protect(tree))
    os.setxattr(tree / "a", "user.kept", b"new-secret")
    os.unlink(tree / "link")
    os.symlink("new-secret", tree / "link")
    shown = {one["before_header"]: one for one in rollback(store, "before", check_mode=True)["diff"]}
    values = (b"old-secret", b"new-secret")
    assert not any(one.decode() in str(shown) or base64.b64encode(one).decode() in str(shown) for one in values)
    for path, word in ((tree / "a", "x:user.kept"), (tree / "link", "target")):
        for value, side in zip(values, ("after", "before"), strict=True):
            assert f" {word}=sha256:{hashlib.sha256(value).hexdigest()}" in shown[str(path)][side]


def test_a_directory_above_two_declarations_is_made_once(store: Store, tree: Path) -> None:
    copy, sub = copy_of(tree), tree / "sub"
    checkpoint(store, "before", protect(sub / "deep") + protect(sub / "small", sub / "large"))
    shutil.rmtree(sub)
    result = rollback(store, "before")
    assert [one["target"] for one in result["done"]].count(str(sub)) == 1
    assert differences(copy / "sub", sub, "hard") in ("", ".d..t...... ./\n")


def test_equal_state_is_recorded_once(store: Store, tree: Path) -> None:
    first = checkpoint(store, "before", protect(tree))
    again = checkpoint(store, "before", protect(tree))
    assert first["changed"] and not again["changed"] and first["id"] == again["id"]
    (tree / "a").write_text("other")
    third = checkpoint(store, "before", protect(tree))
    assert third["changed"] and third["id"] != first["id"]
    assert store.resolve("before") == third["id"] and store.resolve(first["id"][:12]) == first["id"]


def test_what_is_excluded_is_neither_recorded_nor_touched(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree, exclude=["*.log", f"{tree}/sub/deep"]))
    (tree / "a.log").write_text("more")
    (tree / "sub" / "deep" / "c").write_text("more")
    (tree / "made").mkdir()
    (tree / "made" / "b.log").write_text("kept")
    (tree / "made" / "b.txt").write_text("not kept")
    rollback(store, "before")
    assert (tree / "a.log").read_text() == "more"
    assert (tree / "sub" / "deep" / "c").read_text() == "more"
    assert os.listdir(tree / "made") == ["b.log"]


@pytest.mark.parametrize(
    "pattern", ["./sub", "sub/deep", "sub/*", "*/", "/", ".", "/srv//x", "/srv/./x", "*/../x", "!/x"]
)
def test_a_pattern_that_can_match_no_path_is_refused(tree: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match=r"exclude: .* matches no path.*begin it with /"):
        registry.check(protect(tree, exclude=[pattern]))
    with pytest.raises(UsageError, match="outside: exclude: .* matches no path"):
        places.check({"exclude": [pattern]})
    old = Section("files", {"paths": [str(tree)], "exclude": [pattern]}, [])
    assert registry.tree_spec(old) == old.spec and files.scan(old.spec, Hasher(Store(str(tree), System()).objects))


@pytest.mark.parametrize("pattern", ["deep/", "*/deep/", "{}/sub/deep/", "?*/deep", "[/]*/deep"])
def test_a_pattern_of_a_directory_leaves_it_out(store: Store, tree: Path, pattern: str) -> None:
    taken = checkpoint(store, "before", protect(tree, exclude=[pattern.format(tree)]))
    (tree / "sub" / "deep" / "c").write_text("more")
    rollback(store, "before")
    assert (tree / "sub" / "deep" / "c").read_text() == "more" and not taken["left"]


def test_an_exclude_that_lies_in_no_declared_path_is_named(store: Store, tree: Path) -> None:
    inside = [f"{tree}/sub", "/*/sub", f"{str(tree)[:-2]}*/sub", f"{tree}/[s]ub", "/etc/adjtime"]
    beside = [str(tree), f"{tree}2/sub", "/srv/elsewhere/*"]
    *left, linked = checkpoint(store, "before", protect(tree, exclude=[*inside, *beside]))["left"]
    assert left == [f"exclude: {one} lies in no declared path, and leaves out nothing" for one in sorted(beside)]
    assert "hard links" in linked


def test_a_declared_symlink_to_what_nothing_protects_is_named(store: Store, tree: Path, tmp_path: Path) -> None:
    current, null = tmp_path / "current", tmp_path / "null"
    current.symlink_to(f"{tree.name}/sub")
    null.symlink_to("/dev/null")
    words = f"{current} is a symlink to {tree}/sub: the link alone is protected"
    (left,) = checkpoint(store, "before", protect(current, null))["left"]
    assert left.startswith(words)
    left, linked = checkpoint(store, "before", protect(current, tree, exclude=["sub"]))["left"]
    assert "hard links" in linked
    assert left.startswith(words)
    assert not checkpoint(store, "before", protect(current) + protect(tree))["left"]


def test_a_declared_path_that_was_not_there_goes_again(store: Store, tree: Path) -> None:
    missing = tree / "not" / "yet"
    checkpoint(store, "before", protect(missing))
    missing.mkdir(parents=True)
    (missing / "file").write_text("x")
    rollback(store, "before")
    assert not missing.exists() and missing.parent.exists()


def test_directories_above_a_declared_path_come_back(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree / "sub" / "deep" / "c"))
    shutil.rmtree(tree / "sub")
    rollback(store, "before")
    assert (tree / "sub" / "deep" / "c").read_text() == "deep"
    assert stat.S_IMODE(os.stat(tree / "sub" / "deep").st_mode) == 0o710


@pytest.mark.parametrize("became", ["file", "symlink", "fifo"])
def test_what_stands_where_a_directory_above_was_makes_room_for_it(
    store: Store, tree: Path, tmp_path: Path, became: str
) -> None:
    other, victim = tmp_path / "other", tmp_path / "victim"
    other.write_text("first")
    victim.mkdir()
    (victim / "c").write_text("untouched")
    checkpoint(store, "before", protect(tree / "sub" / "deep" / "c", other))
    above = tree / "sub" / "deep"
    shutil.rmtree(above)
    {"file": above.touch, "symlink": lambda: above.symlink_to(victim), "fifo": lambda: os.mkfifo(above)}[became]()
    other.write_text("second")
    result = rollback(store, "before")
    assert other.read_text() == "first" and above.is_dir() and not above.is_symlink()
    assert (above / "c").read_text() == "deep" and result["left"] == []
    assert (victim / "c").read_text() == "untouched" and os.listdir(victim) == ["c"]
    assert any(str(above) in note for note in result["notes"])  # The undo does not have it.


def test_a_name_that_goes_after_it_was_staged_comes_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the two renames, where names cannot be exchanged."""
    checkpoint(store, "before", protect(tree))
    os.rmdir(tree / "empty")
    (tree / "empty").write_text("changed")
    exchanged = durable.exchange

    def gone(stage: int, staged: bytes, fd: int, name: bytes) -> None:
        os.unlink(name, dir_fd=fd)
        exchanged(stage, staged, fd, name)

    monkeypatch.setattr(applying, "exchange", gone)
    rollback(store, "before")
    assert (tree / "empty").is_dir()


def test_what_is_live_stays_when_what_was_staged_is_gone(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", protect(tree))
    os.rmdir(tree / "empty")
    (tree / "empty").write_text("changed")
    exchanged = durable.exchange

    def gone(stage: int, staged: bytes, fd: int, name: bytes) -> None:
        os.rmdir(staged, dir_fd=stage)
        exchanged(stage, staged, fd, name)

    monkeypatch.setattr(applying, "exchange", gone)
    with pytest.raises(RestoreFailed, match="1 thing is not as recorded: .*live/empty: "):
        rollback(store, "before")
    assert (tree / "empty").read_text() == "changed"


def test_what_was_put_back_is_said_when_something_could_not_be(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")
    (tree / "sub" / "small").write_text("changed")
    do = applying.do

    def failing(one: journals.Operation, *more: Any) -> None:
        if one.path.endswith(b"/a"):
            raise OSError(errno.EIO, "Input/output error")
        do(one, *more)

    with monkeypatch.context() as patched:
        patched.setattr(applying, "do", failing)
        with pytest.raises(RestoreFailed, match="live/a: Input/output error") as failed:
            rollback(store, "before")
    assert f"{tree}/a: Input/output error" in failed.value.result["left"] and failed.value.result["changed"]
    done = [one["target"] for one in failed.value.result["done"]]
    assert str(tree / "sub" / "small") in done and str(tree / "a") not in done
    # It holds nothing else up, and is planned anew.
    assert not store.journals()
    assert rollback(store, "before")["left"] == [] and (tree / "a").read_text() == "first"


def test_a_rollback_whose_staging_directory_is_gone_is_planned_anew(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")

    def die(*_args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transaction, "apply", die)
        with pytest.raises(KeyboardInterrupt):
            rollback(store, "before")
    (journal,) = store.journals()
    ((staged, _inode),) = json.loads(Path(journal, "plan").read_text())["anchors"]
    os.rename(staged, tree.parent / "away")
    checkpoint(store, "later", protect(tree))
    assert (tree / "a").read_text() == "first" and not store.journals()


def test_a_symlink_on_the_way_is_refused_with_the_real_path(store: Store, tree: Path) -> None:
    os.symlink(tree / "sub", tree.parent / "shortcut")
    with pytest.raises(UsageError, match=r"shortcut -> .*declare the real path .*live/sub/deep"):
        checkpoint(store, "before", protect(tree.parent / "shortcut" / "deep"))


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a//b", "/", "/a/./b"])
def test_paths_that_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match=r"absolute path|as a whole"):
        files.check({"paths": [path]})


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ([], "resources is empty"),
        ([{"files": {"paths": []}}], "item 1: files: paths is missing"),
        ([{"file": {}}], "item 1: unknown kind 'file'"),
        ([{"files": {"path": ["/etc"]}}], "unknown key 'path'"),
        ([{"files": {"paths": ["/etc"]}}, {"files": {"paths": ["/etc/nginx"]}}], "overlap"),
        (["files"], "item 1: 'files' must have one key"),
        ([{"files": {}, "argv": "s3cret"}], "item 1: a mapping of files, argv must have one key"),
    ],
)
def test_bad_declarations_are_named(store: Store, resources: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        checkpoint(store, "before", resources)
    assert not os.path.exists(store.root)


@pytest.mark.parametrize("name", ["a b", "a/b", "latest", "d\xe9but", "a.tmp-b", "%" * 90, "a" * 121, "\udcff"])
def test_names_that_cannot_be_kept_are_refused(store: Store, tree: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot name a checkpoint.*ASCII.*'\.tmp-'"):
        checkpoint(store, name, protect(tree))
    assert not os.path.exists(store.root)


def test_a_name_of_special_characters_is_kept(store: Store, tree: Path) -> None:
    name = "%" * 60 + "a" * 60
    checkpoint(store, name, protect(tree))
    assert name in store.refs()


def test_missing_content_stops_a_rollback_before_anything_changes(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    wreck(tree)
    wrecked = copy_of(tree)
    for folder, _folders, names in os.walk(store.join("objects")):
        for name in names:
            os.unlink(os.path.join(folder, name))
    wrecked_now = differences(wrecked, tree)
    with pytest.raises(Damaged, match=r"nothing was changed.*live/sparse"):
        rollback(store, "before")
    assert differences(wrecked, tree) == wrecked_now


def test_every_flipped_byte_of_the_store_is_found(store: Store, tmp_path: Path) -> None:
    live = tmp_path / "tiny"
    live.mkdir()
    (live / "x").write_text("content of x")
    (live / "y").write_bytes(b"y" * 70_000)
    taken = checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    (pack,) = [one for one in os.listdir(store.join("packs")) if one.endswith(".pack")]
    manifest = store.join("manifests", taken["id"])
    for path, step in ((store.join("packs", pack), 1), (manifest, 7)):
        whole = Path(path).read_bytes()
        start = len(b"evenkeel-pack 1\n") + 68 if path.endswith(".pack") else 0
        for at in range(start, len(whole) - 1, step):
            os.chmod(path, 0o600)
            Path(path).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            store.objects._index = None
            assert damaged(store, taken["id"]), f"byte {at} of {path} went unnoticed"
        Path(path).write_bytes(whole)


def test_a_damaged_content_is_stored_again(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    pack = next(one for one in os.listdir(store.join("packs")) if one.endswith(".pack"))
    path = Path(store.join("packs", pack))
    data = path.read_bytes()
    os.chmod(path, 0o600)
    path.write_bytes(data.replace(b"first", b"fir5t"))
    (tree / "a").write_text("changed")
    with pytest.raises(Damaged):
        rollback(store, "before")
    (tree / "a").write_text("first")
    taken = checkpoint(store, "again", protect(tree))
    assert store.verify(store.manifest(taken["id"])) == {}


def test_an_index_is_rebuilt_from_its_pack(store: Store, tree: Path) -> None:
    taken = checkpoint(store, "before", protect(tree))
    for name in os.listdir(store.join("packs")):
        if name.endswith(".idx"):
            os.truncate(store.join("packs", name), 40)
    store.objects._index = None
    assert store.verify(store.manifest(taken["id"])) == {}


def test_the_store_is_for_its_owner_alone(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    for folder, folders, names in os.walk(store.root):
        for name in folders:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) == 0o700, name
        for name in names:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) in (0o400, 0o600), name
    assert stat.S_IMODE(os.lstat(store.root).st_mode) == 0o700


def test_retention_keeps_the_newest_and_what_they_need(store: Store, tree: Path) -> None:
    ids = []
    other = checkpoint(store, "other-name", protect(tree))["id"]
    for number in range(4):
        (tree / "a").write_text(f"number {number}")
        (tree / "sub" / "large").write_bytes(bytes([number]) * 100_000)
        ids.append(checkpoint(store, "before", protect(tree), retention={"last": 2})["id"])
    assert [one.id for one in store.checkpoints()] == [other, *ids[-2:]]
    assert sum(len(names) for _f, _d, names in os.walk(store.join("objects"))) == 2 + 2
    for one in (other, *ids[-2:]):
        assert store.verify(store.manifest(one)) == {}
    with pytest.raises(UsageError, match="unknown key 'keep'"):
        checkpoint(store, "before", protect(tree), retention={"keep": 2})


def test_pruning_refuses_when_a_manifest_cannot_be_read(store: Store, tree: Path) -> None:
    first = checkpoint(store, "before", protect(tree))
    path = Path(store.join("manifests", first["id"]))
    os.chmod(path, 0o600)
    path.write_bytes(path.read_bytes()[:-10])
    (tree / "a").write_text("other")
    found = checkpoint(store, "other", protect(tree), retention={"last": 1})
    assert "nothing was pruned" in found["warnings"][0] and path.exists()


def test_a_store_in_use_says_by_whom(store: Store, tree: Path) -> None:
    other = Store(store.root, store.system)
    with other.locked(), pytest.raises(Busy, match=f"in use by process {os.getpid()}"), store.locked(wait=0.1):
        pass


def test_unknown_names_list_what_there_is(store: Store, tree: Path) -> None:
    with pytest.raises(NotFound, match="no checkpoint"):
        rollback(store, "latest")
    checkpoint(store, "before", protect(tree))
    with pytest.raises(NotFound, match="there are: before"):
        rollback(store, "befor")


def test_another_format_is_refused(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    Path(store.join("FORMAT")).write_text("evenkeel-store 2 blake3\n")
    with pytest.raises(Damaged, match="use the version of evenkeel that wrote it"):
        checkpoint(store, "before", protect(tree))


@pytest.mark.parametrize("folder", ["manifests", "refs"])
def test_a_store_without_one_of_its_directories_is_refused(store: Store, tree: Path, folder: str) -> None:
    checkpoint(store, "before", protect(tree))
    shutil.rmtree(store.join(folder))
    for act in (lambda: checkpoint(store, "after", protect(tree)), lambda: rollback(store, "before")):
        with pytest.raises(Damaged, match=f"has lost its directory {folder}.*move the store away"):
            act()
    assert not Path(store.join(folder)).exists()


def chattr(what: str, *paths: Path) -> None:
    if subprocess.run(["chattr", what, *paths], check=False, capture_output=True).returncode:
        pytest.skip("this file system or user cannot set inode flags")


def flags(tree: Path) -> str:
    """What lsattr shows, in an order of its own."""
    shown = subprocess.run(["lsattr", "-a", "-R", tree], check=True, capture_output=True).stdout
    return "\n".join(sorted(shown.decode(errors="replace").splitlines()))


@pytest.fixture
def pinned(tree: Path) -> Iterator[Path]:
    """The tree with flags of every kind; they come off at the end, so that it can be removed."""
    try:
        chattr("+d", tree / "sub" / "small")
        chattr("+A", tree / "sub" / "large", tree / "sub" / "deep")
        chattr("+a", tree / "a.log")
        chattr("+i", tree / "sub" / "deep" / "c", tree / "empty")
        yield tree
    finally:
        subprocess.run(["chattr", "-R", "-f", "-i", "-a", tree, tree.parent], check=False, capture_output=True)


def test_inode_flags_come_back_and_go(store: Store, pinned: Path) -> None:
    tree = pinned
    then, copy = flags(tree), copy_of(tree)
    checkpoint(store, "before", protect(tree))
    chattr("-i", tree / "sub" / "deep" / "c", tree / "empty")
    chattr("-a", tree / "a.log")
    (tree / "sub" / "deep" / "c").write_text("changed")
    (tree / "a.log").unlink()
    (tree / "empty" / "new").write_text("new")
    (tree / "sub" / "new").write_text("immutable and new")
    chattr("-d", tree / "sub" / "small")
    # What the change made immutable is no obstacle.
    chattr("+i", tree / "a", tree / "empty" / "new", tree / "sub" / "new", tree / "empty", tree / "sub" / "deep")
    result = rollback(store, "before")
    assert flags(tree) == then and differences(copy, tree) == "" and result["left"] == []
    assert rollback(store, "before")["changed"] is False
    rollback(store, result["undo"])
    assert (tree / "sub" / "new").read_text() == "immutable and new" and "----i" in flags(tree / "sub")
    chattr("-i", tree / "sub" / "new")


def test_an_immutable_directory_that_is_not_ours_keeps_back_what_is_in_it_alone(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree / "sub" / "small", tree / "a"))
    (tree / "sub" / "small").write_text("changed too")
    (tree / "a").write_text("changed")
    chattr("+i", tree / "sub")
    try:
        with pytest.raises(RestoreFailed, match="sub/small: .*sub is immutable .* not part of the checkpoint"):
            rollback(store, "before")
        assert (tree / "a").read_text() == "first"
    finally:
        chattr("-i", tree / "sub")


def test_every_line_of_a_manifest_reads_back(tree: Path) -> None:
    for entry in files.scan(files.check({"paths": [str(tree)]}), Hasher()).entries:
        assert Entry.parse(entry.line()) == entry
        assert entry.line().isascii() and "\n" not in entry.line()


def test_xattrs_of_any_name_come_back(store: Store, tree: Path) -> None:
    wanted = {"user.a=b": b"x", "user.\udcff": b"", "user.a b%": b"\0="}
    for name, value in wanted.items():
        os.setxattr(tree / "a.log", name, value)
    checkpoint(store, "before", protect(tree))
    (tree / "a.log").unlink()
    rollback(store, "before")
    assert {name: os.getxattr(tree / "a.log", name) for name in os.listxattr(tree / "a.log")} == wanted


@pytest.mark.parametrize(
    "line",
    [
        "x /etc 755 0 0 1",
        "f /etc/a 644 0 0 1 size=1",
        "d /etc 755 0 0 1 sha256=00",
        "d /etc",
        "d /etc 777777 0 0 1",
        "d /etc 755 0 0 1 x:user.a=b=eA==",
        "",
    ],
)
def test_garbled_lines_are_damage(line: str) -> None:
    with pytest.raises(Damaged):
        Entry.parse(line)


def test_a_file_that_never_holds_still_is_reported_not_stored(store: Store, tree: Path) -> None:
    class Restless(Hasher):
        """Whoever reads the file finds it changed right after."""

        def add(self, data: bytes) -> str:
            with open(tree / "a", "ab") as stream:
                stream.write(b".")
            return super().add(data)

    with pytest.raises(EvenkeelError, match=r"live/a is unstable.*exclude it"):
        files.scan(files.check({"paths": [str(tree / "a")]}), Restless())


def _coarse(monkeypatch: pytest.MonkeyPatch, write: Callable[[], object], opened: bool = True) -> list[float]:
    """A clock so coarse that no write shows in the times; ``write`` goes on while a checkpoint waits. How often that
    was. ``opened``: whether somebody has it open for writing."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        write()

    for module in (reading, rereading):
        monkeypatch.setattr(module, "moment", lambda info: (info.st_size, 0, 0))
    monkeypatch.setattr(reading, "_FRESH", 10**12)
    monkeypatch.setattr(rereading, "_APART", 1.0)
    monkeypatch.setattr(rereading, "may_be_written", lambda _fd: opened)
    # Time passes while it waits, and only then.
    clock = SimpleNamespace(sleep=wait, monotonic=lambda: float(len(waits)), time_ns=time.time_ns)
    for module in (reading, rereading):
        monkeypatch.setattr(module, "time", clock)
    return waits


def stored(store: Store, made: dict[str, Any], path: Path) -> bytes:
    lines = [line for line in store.manifest(made["id"]).sections[0].lines if line.startswith(f"f {path} ")]
    return b"".join(store.objects.read(Entry.parse(lines[0]).sha256))


@pytest.mark.parametrize("size", [4, 200_000])
def test_a_file_that_is_being_written_is_read_until_it_is_the_same_twice(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    torn, whole = b"B" * (size // 2) + b"A" * (size // 2), b"B" * size
    (tree / "a").write_bytes(torn)
    waits = _coarse(monkeypatch, lambda: (tree / "a").open("r+b").write(whole))
    made = checkpoint(store, "before", protect(tree / "a"))
    assert stored(store, made, tree / "a") == whole and waits


@pytest.mark.parametrize("size", [4, 200_000])
def test_a_file_that_is_never_the_same_twice_is_unstable_whatever_its_times_say(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (tree / "a").write_bytes(os.urandom(size))
    _coarse(monkeypatch, lambda: (tree / "a").open("r+b").write(os.urandom(size)))
    with pytest.raises(EvenkeelError, match=r"live/a is unstable.*exclude it"):
        checkpoint(store, "before", protect(tree / "a"))
    # A host that goes back by itself goes on without it.
    found = files.scan(files.check({"paths": [str(tree)]}), Writer(store.objects), tolerant=True)
    assert "unstable" in found.unread[os.fsencode(tree / "a")]
    assert not [line for line in found.lines() if line.startswith(f"f {tree}/a ")]


def test_a_file_that_only_grows_is_as_it_was_when_it_was_read(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = _coarse(monkeypatch, lambda: (tree / "a.log").open("ab").write(b", and more"))
    made = checkpoint(store, "before", protect(tree))
    assert waits and stored(store, made, tree / "a.log") == b"a log"


def test_what_nobody_writes_is_read_again_at_once(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = _coarse(monkeypatch, lambda: None, opened=False)
    hashes: list[int | None] = []

    def change(fd: int, size: int | None = None) -> Iterator[bytes]:
        if not hashes:
            (tree / "a").write_text("other")
        hashes.append(size)
        return chunks(fd, size)

    monkeypatch.setattr(rereading, "chunks", change)
    made = checkpoint(store, "before", protect(tree / "a"))
    assert waits == [] and len(hashes) == 2 and stored(store, made, tree / "a") == b"other"


NAMES = 50


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A file of many names: a user can give one tens of thousands, which cost nothing."""
    (tmp_path / "many").mkdir()
    (tmp_path / "many/0").write_bytes(os.urandom(200_000))
    for number in range(1, NAMES):
        os.link(tmp_path / "many/0", tmp_path / f"many/{number}")
    return tmp_path / "many"


def _counting(monkeypatch: pytest.MonkeyPatch, changes: Callable[[], object] = lambda: None) -> list[int]:
    """The contents that were read to be kept or compared; ``changes`` after each."""
    reads: list[int] = []
    for kind in (Hasher, Writer):

        def add_file(self: Any, fd: int, add: Any = kind.add_file) -> tuple[str, int]:
            reads.append(fd)
            found: tuple[str, int] = add(self, fd)
            changes()
            return found

        monkeypatch.setattr(kind, "add_file", add_file)
    return reads


@pytest.mark.parametrize("tolerant", [False, True])
def test_a_file_is_read_once_for_all_of_its_names(
    store: Store, named: Path, monkeypatch: pytest.MonkeyPatch, tolerant: bool
) -> None:
    reads = _counting(monkeypatch)
    again: list[int | None] = []

    def read_again(fd: int, size: int | None = None) -> Iterator[bytes]:
        again.append(size)
        return chunks(fd, size)

    monkeypatch.setattr(rereading, "chunks", read_again)
    found = files.scan(files.check({"paths": [str(named)]}), Writer(store.objects), tolerant=tolerant)
    assert len(reads) == 1 and again == [200_000] and not found.unread
    lines = [Entry.parse(line) for line in found.lines() if line.startswith("f ")]
    assert len(lines) == NAMES and len({one.sha256 for one in lines}) == 1
    assert len({one.link for one in lines}) == 2, "the first name, which is no link"


def test_a_file_that_changes_between_its_names_is_given_up_by_a_host_that_goes_back(
    store: Store, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _counting(monkeypatch, lambda: os.utime(named / "0"))
    for sink in (Hasher(), Writer(store.objects)):
        reads.clear()
        found = files.scan(files.check({"paths": [str(named)]}), sink, tolerant=True)
        assert len(reads) <= reading.TRIES
        assert all("unstable" in found.unread[os.fsencode(named / str(number))] for number in range(NAMES))


def test_a_content_that_is_not_the_same_again_is_compared_for_one_name(
    store: Store, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed: list[int] = []

    def change(fd: int, size: int | None = None) -> Iterator[bytes]:
        changed.append(fd)
        with open(named / "0", "r+b") as stream:
            stream.write(os.urandom(10))
        return chunks(fd, size)

    _coarse(monkeypatch, lambda: None, opened=False)
    monkeypatch.setattr(rereading, "chunks", change)
    found = files.scan(files.check({"paths": [str(named)]}), Writer(store.objects), tolerant=True)
    assert len(changed) == 1
    assert all("unstable" in found.unread[os.fsencode(named / str(number))] for number in range(NAMES))


def test_a_torn_content_of_a_file_with_several_names_is_read_anew(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = b"B" * 200_000
    (tree / "a").write_bytes(b"B" * 100_000 + b"A" * 100_000)
    os.link(tree / "a", tree / "z")
    _coarse(monkeypatch, lambda: (tree / "a").open("r+b").write(whole))
    made = checkpoint(store, "before", protect(tree))
    assert stored(store, made, tree / "a") == stored(store, made, tree / "z") == whole


def test_who_has_a_file_open_for_writing_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with path.open("rb") as stream:
        assert not rereading.may_be_written(stream.fileno())
        with path.open("r+b"):
            assert rereading.may_be_written(stream.fileno())
        assert not rereading.may_be_written(stream.fileno())
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        with path.open("rb") as stream:
            assert rereading.may_be_written(stream.fileno())  # Through a mapping alone.
        other.communicate()


HOLDING = """
import mmap, sys
with open(sys.argv[1], "r+b") as stream:
    held = mmap.mmap(stream.fileno(), 0)
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_changed_before_is_read_once(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = _coarse(monkeypatch, lambda: None)
    monkeypatch.setattr(reading, "_FRESH", 0)
    checkpoint(store, "before", protect(tree))
    assert waits == []


def test_a_file_that_goes_or_is_another_while_it_is_read_again(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tree.parent / "other"
    other.write_text("another")

    def change() -> None:
        if other.exists():
            (tree / "sub" / "large").unlink()
            other.rename(tree / "a")

    _coarse(monkeypatch, change)
    made = checkpoint(store, "before", protect(tree))
    lines = {path_of(line): line for line in store.manifest(made["id"]).sections[0].lines}
    assert os.fsencode(tree / "sub" / "large") not in lines
    # The one that was its hard link is none of it any more.
    assert "link=" not in lines[os.fsencode(tree / "a")] and "link=" not in lines[os.fsencode(tree / "sub" / "hard")]


@pytest.mark.parametrize("path", ["sub", "a", "link", "sub/deep"])
def test_xattrs_that_cannot_be_read_are_reported_not_left_out(
    store: Store, tree: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bad = os.listxattr, (tree / path).lstat().st_ino

    def too_many(where: int | bytes, follow_symlinks: bool = True) -> list[str]:
        if os.stat(where, follow_symlinks=follow_symlinks).st_ino == bad:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return real(where, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "listxattr", too_many)
    with pytest.raises(UsageError, match=rf"live/{path}: its extended attributes cannot be read: .*exclude it"):
        checkpoint(store, "before", protect(tree))


def test_a_tree_that_is_too_deep_is_named(store: Store, tree: Path) -> None:
    at = os.open(tree / "empty", os.O_RDONLY)
    try:
        for _level in range(1100):
            os.mkdir("d", dir_fd=at)
            at, above = os.open("d", os.O_RDONLY, dir_fd=at), at
            os.close(above)
    finally:
        os.close(at)
    try:
        with pytest.raises(
            UsageError, match=r"live/empty/d/d/.* lies too deep to be read; exclude a directory above it"
        ):
            checkpoint(store, "before", protect(tree))
        checkpoint(store, "before", protect(tree, exclude=["empty"]))
    finally:
        subprocess.run(["rm", "-r", tree / "empty"], check=True)  # Too deep for pytest as well.


def test_a_tree_that_needs_more_open_files_than_are_allowed_is_named(store: Store, tree: Path) -> None:
    (tree / "empty" / "/".join(["d"] * 300)).mkdir(parents=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"live/empty/d/d/.* lies too deep .*ulimit -n"):
            checkpoint(store, "before", protect(tree))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_directory_that_became_a_file_and_went_leaves_no_line(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_, stat_ = os.open, os.stat

    def replaced(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if path == b"empty" and (tree / "empty").is_dir():
            os.rmdir(tree / "empty")
            os.close(open_(tree / "empty", os.O_CREAT | os.O_WRONLY))
        return open_(path, flags, *args, **more)

    def removed(path: Any, **more: Any) -> os.stat_result:
        if path == b"empty":
            os.unlink(tree / "empty")
        return stat_(path, **more)

    declared = files.check({"paths": [str(tree)]})
    whole = files.scan(declared, Hasher()).entries
    monkeypatch.setattr(os, "open", replaced)
    monkeypatch.setattr(os, "stat", removed)
    found = files.scan(declared, Hasher()).entries
    monkeypatch.undo()
    assert {entry.path for entry in whole} - {entry.path for entry in found} == {os.fsencode(tree / "empty")}


def test_a_mount_inside_a_tree_is_put_back_on_its_own_file_system(store: Store, tree: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "none", tree / "empty"], check=False).returncode:
        pytest.skip("this user cannot mount")
    try:
        (tree / "empty" / "inside").write_text("recorded")
        copy = copy_of(tree)
        checkpoint(store, "before", protect(tree))
        (tree / "empty" / "inside").write_text("changed")
        (tree / "empty" / "more").write_text("new")
        (tree / "a").write_text("changed")
        rollback(store, "before")
        assert differences(copy, tree) == ""
        checkpoint(store, "without", protect(tree, exclude=["inside"]))
    finally:
        subprocess.run(["umount", tree / "empty"], check=True)


def test_a_mount_point_that_would_have_to_go_is_named_and_the_rest_goes_back(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "mounted").mkdir()
    (tree / "a").write_text("changed")
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "none", tree / "mounted"], check=False).returncode:
        pytest.skip("this user cannot mount")
    try:
        with pytest.raises(RestoreFailed, match=r"mounted was no mount point, and tmpfs is mounted there now") as error:
            rollback(store, "before")
        assert (tree / "a").read_text() == "first" and len(error.value.result["left"]) == 1
    finally:
        subprocess.run(["umount", tree / "mounted"], check=True)


def test_a_store_that_a_declared_tree_shows_under_another_name_is_no_part_of_it(tree: Path, tmp_path: Path) -> None:
    """As where a large disk holds the trees, and the store by a bind mount as well."""
    inside, place = tree / "kept" / "store", tmp_path / "lib"
    inside.mkdir(parents=True)
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", inside, place], check=False).returncode:
        pytest.skip("this user cannot mount")
    try:
        store = Store(str(place), System())
        checkpoint(store, "before", protect(tree))
        later = checkpoint(store, "later", protect(tree, exclude=["*.none"]))["id"]
        (tree / "a").write_text("changed")
        assert rollback(store, "before")["left"] == [] and (tree / "a").read_text() == "first"
        assert store.resolve("later") == later and store.verify(store.manifest(later)) == {}
        checkpoint(store, "before", protect(tree))
        shutil.rmtree(tree / "kept" / "store" / "cache")
        assert checkpoint(store, "before", protect(tree))["changed"] is False
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_swap_puts_a_directory_back_as_a_whole(store: Store, tree: Path) -> None:
    copy = copy_of(tree).rename(tree.with_name("then"))
    checkpoint(store, "before", protect(tree))
    wreck(tree)
    wrecked, inode = copy_of(tree), os.stat(tree).st_ino
    planned = rollback(store, "before", check_mode=True, swap=True)["planned"]
    assert [(one["action"], one["target"]) for one in planned] == [("swap", str(tree))]
    result = rollback(store, "before", swap=True)
    assert result["done"] == planned and differences(copy, tree) == "" and os.stat(tree).st_ino != inode
    assert os.stat(tree / "a").st_ino == os.stat(tree / "sub" / "hard").st_ino
    assert not rollback(store, "before", swap=True)["changed"]
    rollback(store, "undo", swap=True)
    assert differences(wrecked, tree) == ""


@contextmanager
def tmpfs(path: Path) -> Iterator[Path]:
    """A small file system on the directory."""
    small = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=20", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(small, check=False).returncode:
        pytest.skip("this user cannot mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("why", ["excluded", "linked out", "mount"])
def test_what_cannot_be_swapped_is_put_back_by_its_paths(store: Store, tree: Path, why: str) -> None:
    other = tree.with_name("other")
    other.mkdir()
    if why == "linked out":
        os.link(tree / "sub" / "small", other / "small")
    with tmpfs(tree / "empty") if why == "mount" else nullcontext():
        checkpoint(store, "before", protect(tree, other, exclude=["kept"] if why == "excluded" else []))
        (tree / "sub" / "kept").write_text("not recorded")
        (tree / "sub" / "small").write_text("changed")
        (other / "new").write_text("new")
        done = rollback(store, "before", swap=True)["done"]
        assert (tree / "sub" / "kept").exists() == (why == "excluded") and not (other / "new").exists()
    swapped = [one["target"] for one in done if one["action"] == "swap"]
    assert swapped == ([] if why == "linked out" else [str(other)])


HOLD = """
import os, sys, mmap
kept = open(sys.argv[1]), open(sys.argv[2])
os.chdir(sys.argv[3])
mapped = open(sys.argv[4], "rb")
view = mmap.mmap(mapped.fileno(), 0, prot=mmap.PROT_READ)
os.close(mapped.fileno())
print("ready", flush=True)
sys.stdin.read()
"""


def test_who_still_has_old_files_is_told(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "sub" / "small").write_text("changed")
    (tree / "new" / "deeper").mkdir(parents=True)
    (tree / "new" / "deeper" / "file").write_text("new")
    os.unlink(tree / "link")
    (tree / "link").write_text("mapped")
    held = [tree / "sub" / "small", tree / "new" / "deeper" / "file", tree / "new" / "deeper", tree / "link"]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        result = rollback(store, "before")
        told = [one for one in result["restart_needed"] if f"[{process.pid}]" in " ".join(one["processes"])]
        assert [one["paths"] for one in told] == [sorted(map(str, held))]
        (tree / "a").write_text("changed")
        again = rollback(store, "before")["restart_needed"]
        assert not any(f"[{process.pid}]" in " ".join(one["processes"]) for one in again), "held before this rollback"
        process.communicate("")


@pytest.fixture
def mounted(tree: Path) -> Iterator[Path]:
    with tmpfs(tree / "empty") as path:
        yield path


def refused(store: Store, tree: Path, words: str) -> None:
    """The rollback is refused in these words, and changes nothing."""
    found = copy_of(tree)
    with pytest.raises(Refused, match=rf"{words}.*nothing was changed"):
        rollback(store, "before")
    assert differences(found, tree) == "" and not list(Path(store.root).glob("journal/*"))


def test_mounts_that_come_and_go_by_themselves_are_no_difference() -> None:
    mounts = {
        "/srv": "xfs",
        "/srv/net": "autofs",
        "/srv/net/a/b": "nfs4",
        "/srv/x/.zfs/snapshot/s": "zfs",
        "/auto": "autofs",
    }
    spec = {
        "paths": ["/srv", "/auto/a"],
        "exclude": [],
        "mounts": {"/srv": "xfs", "/srv/net": "autofs", "/auto": "autofs"},
    }
    assert files.mounted(spec, mounts) == spec["mounts"]
    assert remounted(files.trees_of(spec), mounts) == {}
    assert "/srv/net is a mount of autofs: nothing that" in unprotected(files.trees_of(spec), [])[1]
    # Such a mount counts where it, and nothing above it, is declared.
    assert files.mounted({"paths": ["/srv/net/a/b"], "exclude": []}, mounts)["/srv/net/a/b"] == "nfs4"
    old = {**spec, "mounts": mounts}
    assert set(remounted(files.trees_of(old), spec["mounts"])) == {"/srv/net/a/b", "/srv/x/.zfs/snapshot/s"}


def test_no_alternative_goes_to_which_a_link_outside_leads(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, books, programs = (tmp_path / name for name in ("links", "books", "bin"))
    monkeypatch.setattr(alternatives, "_LINKS", str(links))
    monkeypatch.setattr(alternatives, "_BOOKS", (str(tmp_path / "none"), str(books)))
    for one in (links, books, programs):
        one.mkdir()
    checkpoint(store, "before", protect(links))
    for name in ("a", "z"):
        (books / name).touch()
    (books / "folder").mkdir()
    (books / "python3").write_text(f"auto\n{programs}/python3\npy\n{programs}/py\ngone\n{programs}/gone\n\n/x\n1\n\n")
    for name in ("python3", "py", "gone", "other"):
        (links / name).symlink_to("/usr/bin/true")
    for name in ("python3", "py"):
        (programs / name).symlink_to(links / name)
    with pytest.raises(
        RestoreFailed, match=f"{links}/py: was not there, and stays: {programs}/py leads to it"
    ) as failed:
        rollback(store, "before")
    assert len(failed.value.result["left"]) == 2 and sorted(os.listdir(links)) == ["py", "python3"]
    # A script of the package that went may take the link with it.
    (programs / "py").unlink()
    (programs / "python3").unlink()
    rollback(store, "before")
    assert os.listdir(links) == []


def test_a_link_of_alternatives_that_is_back_may_be_one_that_nothing_renews(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, books = tmp_path / "links", tmp_path / "books"
    monkeypatch.setattr(alternatives, "_LINKS", str(links))
    monkeypatch.setattr(alternatives, "_BOOKS", (str(tmp_path / "none"), str(books)))
    for one in (links, books):
        one.mkdir()
    names = ("alone", "editor", "pager", "same")
    for name in names:
        (links / name).symlink_to("/usr/bin/true")
        (books / name).write_text(f"{'auto' if name == 'pager' else 'manual'}\n/usr/bin/{name}\n\n/usr/bin/true\n1\n\n")
    (books / "alone").unlink()
    checkpoint(store, "before", protect(links))
    for name in names[:3]:
        (links / name).unlink()
        (links / name).symlink_to("/usr/bin/false")
    found = rollback(store, "before")
    assert os.readlink(links / "editor") == "/usr/bin/true" and found["left"] == []
    assert [one for one in found["notes"] if "manual" in one] == [
        f"{links}/editor is back, and its group is in the mode manual: no checkpoint records whether it was so. "
        "Where it was not, run update-alternatives --auto editor"
    ]
    # A checkpoint that records the groups brings them back themselves.
    recorded = [Section("packages", {}, ["alternatives", "choices editor auto"])]
    assert alternatives.manual([f"{links}/editor"], recorded) == []
    assert len(alternatives.manual([f"{links}/editor"], [])) == 1


@pytest.mark.parametrize(
    ("lines", "who"),
    [
        (["D / 755 0 0 0", "D /srv 755 2000 2000 0", "d /srv/app 755 2000 2000 0"], "user 2000"),
        (["D / 755 0 0 0", "D /srv 1777 2000 2000 0", "d /srv/app 755 2000 2000 0"], "user 2000"),
        (["D / 755 0 0 0", "D /srv 777 0 0 0", "d /srv/app 755 2000 2000 0"], "everybody"),
        (["D / 755 0 0 0", "D /srv 2775 0 50 0", "d /srv/app 755 2000 2000 0"], "group 50"),
        (["D / 755 0 0 0", "D /srv 1777 0 0 0", "d /srv/app 755 2000 2000 0"], None),
        (["D / 755 0 0 0", "D /srv 755 2000 2000 0", "d /srv/app 750 0 2000 0"], None),
        (["D / 755 0 0 0", "- /srv/app"], None),
    ],
)
def test_a_mount_where_somebody_can_exchange_what_is_staged_is_named_at_the_checkpoint(
    lines: list[str], who: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    spec = {"paths": ["/srv/app"], "exclude": [], "mounts": {"/": "ext4", "/srv": "xfs"}}
    found = [one for one in unprotected(files.trees_of(spec), lines) if "exchange" in one]
    assert [f"/srv is a mount on which {who} can" in one for one in found] == [True] * (who is not None)


def test_a_mount_inside_a_declared_tree_that_somebody_else_owns_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    spec = {"paths": ["/data"], "exclude": [], "mounts": {"/": "ext4", "/data/a": "xfs", "/data/b": "xfs"}}
    lines = ["D / 755 0 0 0", "d /data 755 0 0 0", "d /data/a 755 2000 2000 0", "d /data/b 755 0 0 0"]
    assert [one.split()[0] for one in unprotected(files.trees_of(spec), lines) if "exchange" in one] == ["/data/a"]


def test_staging_leaves_no_trace_in_the_time_of_the_directory_above(store: Store, tree: Path, mounted: Path) -> None:
    """The top of a mount, which may be declared, and in which nothing else comes or goes."""
    (mounted / "sub").mkdir()
    (mounted / "sub" / "file").write_text("recorded")
    os.utime(mounted, (1, 1))
    checkpoint(store, "before", protect(tree))
    (mounted / "sub" / "file").write_text("changed")
    result = rollback(store, "before")
    assert result["left"] == [] and mounted.stat().st_mtime == 1 and os.listdir(mounted) == ["sub"]
    # Nor in the undo, which is taken while all is staged.
    rollback(store, result["undo"])
    assert (mounted / "sub" / "file").read_text() == "changed" and mounted.stat().st_mtime == 1


def test_what_cannot_fit_beside_the_old_is_refused(store: Store, tree: Path, mounted: Path) -> None:
    (mounted / "big").write_bytes(os.urandom(200_000))
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")
    (mounted / "big").write_bytes(os.urandom(200_000))
    refused(store, tree, r"empty has \d+ bytes free, and this takes 200000")
    (mounted / "big").write_text("small")
    rollback(store, "before")


def test_what_has_no_inodes_left_is_refused(store: Store, tree: Path, mounted: Path) -> None:
    for number in range(12):
        (mounted / str(number)).write_text("old")
    checkpoint(store, "before", protect(tree))
    for number in range(12):
        (mounted / str(number)).write_text("new")
    refused(store, tree, r"empty has \d+ inodes free")


def test_what_is_mounted_read_only_keeps_back_what_is_in_it_alone(store: Store, tree: Path, mounted: Path) -> None:
    (mounted / "inside").write_text("old")
    checkpoint(store, "before", protect(tree))
    (mounted / "inside").write_text("new")
    (tree / "a").write_text("changed")
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with pytest.raises(RestoreFailed, match="1 thing is not .*empty/inside: .*empty is mounted read-only"):
        rollback(store, "before")
    assert (tree / "a").read_text() == "first" and (mounted / "inside").read_text() == "new"


def test_a_staging_that_fails_changes_nothing(store: Store, tree: Path, mounted: Path) -> None:
    # Sparse files are not counted: only the blocks that they have take room.
    with open(mounted / "sparse", "wb") as stream:
        stream.truncate(10_000_000)
        stream.write(os.urandom(200_000))
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")
    os.truncate(mounted / "sparse", 200_000)
    refused(store, tree, "could not be staged: No space left on device .*sparse")


def test_a_file_system_where_only_times_are_put_back_is_synced_too(
    store: Store, tree: Path, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mounted / "inside").write_text("the same")
    names = [tree / f"file-{number}" for number in range(20)]
    for name in names:
        name.write_text("old")
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("new")
    for name in [*names, mounted / "inside"]:
        os.utime(name, ns=(7, 7))
    synced: set[int] = set()
    syncfs = durable.syncfs

    def noting(fd: int) -> None:
        synced.add(os.fstat(fd).st_dev)
        syncfs(fd)

    monkeypatch.setattr(applying, "syncfs", noting)
    rollback(store, "before")
    assert synced == {os.stat(tree).st_dev, os.stat(mounted).st_dev}


def test_a_store_without_room_for_the_undo_changes_nothing(tree: Path, mounted: Path) -> None:
    store = Store(str(mounted / "store"), System())
    checkpoint(store, "before", protect(tree / "a"))
    (tree / "a").write_bytes(os.urandom(300_000))
    with pytest.raises(Refused, match=r"kept in .*: .*No space left on device.*; nothing was changed"):
        rollback(store, "before")
    assert os.stat(tree / "a").st_size == 300_000


def test_a_service_that_cannot_be_put_back_is_named_beside_what_was_done(store: Store, tree: Path) -> None:
    program = tree.with_name("program")
    shutil.copy("/bin/sleep", program)
    definition = process.check({"name": "web", "pidfile": f"{program}.pid", "argv": [str(program), "1000"]})
    resources = [{"files": {"paths": [str(tree)]}}, {"services": {"processes": [definition]}}]
    process.act("start", definition, store.system)
    try:
        checkpoint(store, "before", resources)
    finally:
        process.act("stop", definition, store.system)
    program.unlink()
    (tree / "a").write_text("changed")
    with pytest.raises(RestoreFailed, match="web cannot be started") as error:
        rollback(store, "before")
    assert (tree / "a").read_text() == "first"
    result = error.value.result
    assert len(result["left"]) == 1 and result["left"][0].startswith("web: ")
    assert str(tree / "a") in [one["target"] for one in result["done"]] and result["changed"] and result["undo"]


@pytest.mark.parametrize("declared", [False, True])
def test_a_socket_is_no_state(store: Store, tree: Path, declared: bool) -> None:
    """It belongs to who listens: none is recorded, none is put back, none is taken away."""
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tree / "sub")
        listener.bind("listens")
        checkpoint(store, "before", protect(tree, tree.parent / "gone" if declared else tree.parent / "too"))
        (section,) = store.manifest(store.resolve("before")).sections
        assert not any(line.startswith("s ") for line in section.lines)
        os.unlink("listens")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind("another")
            os.chmod("another", 0o600)
            inode = os.stat("another").st_ino
            (tree / "a").write_text("changed")
            assert rollback(store, "before")["left"] == []
            assert os.stat("another").st_ino == inode and not os.path.lexists("listens")
        os.chdir("/")


def test_a_file_that_is_always_written_holds_nothing_up(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")
    log = tree / "sub" / "log"
    log.write_bytes(os.urandom(4_000_000))
    add_file = Writer.add_file

    def growing(self: Writer, fd: int) -> tuple[str, int]:
        with open(log, "ab") as stream:
            stream.write(b"one more line")
        return add_file(self, fd)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Writer, "add_file", growing)
        result = rollback(store, "before")
    assert (tree / "a").read_text() == "first" and not log.exists() and result["left"] == []
    assert [note for note in result["notes"] if "sub/log" in note and "unstable" in note]
    # The undo has all the others.
    rollback(store, result["undo"])
    assert (tree / "a").read_text() == "changed" and not log.exists()


def test_a_tree_too_deep_to_be_read_goes_all_the_same(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    here = os.getcwd()
    os.chdir(tree)
    try:
        for _level in range(1200):
            os.mkdir("deeper")
            os.chdir("deeper")
    finally:
        os.chdir(here)
    (tree / "a").write_text("changed")
    result = rollback(store, "before")
    assert not (tree / "deeper").exists() and (tree / "a").read_text() == "first" and result["left"] == []
    assert not list(tree.parent.rglob(f"{declaration.STAGE}*"))


def test_paths_go_back_alone_when_they_are_named(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")
    (tree / "sub" / "small").write_text("changed")
    result = rollback(store, "before", paths=[str(tree / "sub" / "small")])
    assert (tree / "a").read_text() == "changed" and (tree / "sub" / "small").read_text() != "changed"
    assert result["left"] == []
    with pytest.raises(NotFound, match="holds nothing at or below"):
        rollback(store, "before", paths=[str(tree.parent / "never")])


@pytest.mark.parametrize("there", ["a file", "a link"])
def test_what_nobody_asked_about_is_not_replaced_for_a_path_below(store: Store, tree: Path, there: str) -> None:
    checkpoint(store, "before", protect(tree))
    (tree / "sub").rename(tree.parent / "moved")
    (tree / "sub").write_text("new") if there == "a file" else (tree / "sub").symlink_to(tree.parent / "moved")
    (tree.parent / "moved" / "deep" / "c").write_text("changed")
    with pytest.raises(Refused, match=f"nothing was changed: {tree / 'sub' / 'deep'}: .*{tree / 'sub'}"):
        rollback(store, "before", paths=[str(tree / "sub" / "deep" / "c")])
    assert not (tree / "sub").is_dir() or (tree / "sub").is_symlink()
    assert (tree.parent / "moved" / "deep" / "c").read_text() == "changed"


def test_a_file_comes_back_with_the_directories_that_it_needs(store: Store, tree: Path) -> None:
    checkpoint(store, "before", protect(tree))
    shutil.rmtree(tree / "sub")
    wanted = [str(tree / "sub" / "deep" / "c")]
    planned = rollback(store, "before", paths=wanted, check_mode=True)["planned"]
    done = rollback(store, "before", paths=wanted)
    assert done["done"] == planned and done["left"] == [] and (tree / "sub" / "deep" / "c").read_text() == "deep"
    assert stat.S_IMODE((tree / "sub" / "deep").stat().st_mode) == 0o710
    assert [str(path) for path in (tree / "sub").rglob("*") if not path.is_dir()] == wanted


def test_a_rollback_of_a_file_goes_through_five_files_below_its_call(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the flow, which ``_calls/rollback.py`` calls, to the system call that puts the old file in its place."""
    checkpoint(store, "before", protect(tree))
    (tree / "a").write_text("changed")
    real, found = os.rename, []

    def rename(source: Any, destination: Any, **places: Any) -> None:
        if destination == b"a":
            frames = [Path(frame.filename) for frame in traceback.extract_stack()]
            found.append([path.name for path in frames if "module_utils" in path.parts and "tests" not in path.parts])
        real(source, destination, **places)

    monkeypatch.setattr(os, "rename", rename)
    rollback(store, "before")
    assert [list(dict.fromkeys(names)) for names in found] == [
        ["flow.py", "run.py", "record.py", "transaction.py", "applying.py"]
    ]
