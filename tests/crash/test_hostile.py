# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Doctored checkpoints, and another user who swaps directories for symlinks while root walks: nothing gets out."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    RestoreFailed,
    ServiceFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import (
    anchors,
    applying,
    declaration,
    journals,
    known,
    making,
    reading,
    rereading,
    scanning,
    staging,
    transaction,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.applying import sync
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.entry import Entry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.lines import Lines
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.reading import Reader
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import RolledBack
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process, traces
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest, Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, host_state, rollback

from .test_flip import state
from .test_kill import same

NOBODY = 65534
SECRET = b"nobody else's business"
SHA = hashlib.sha256(b"as recorded").hexdigest()
FILE = f"644 0 0 1700000000000000000 size=11 sha256={SHA}"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """``live``, of which the store has the checkpoint ``before``, and the ``canary`` that nobody may touch."""
    live, canary = tmp_path / "live", tmp_path / "canary"
    live.mkdir()
    (live / "file").write_text("as recorded")
    (live / "sub").mkdir()
    (live / "sub" / "other").write_text("other")
    canary.mkdir(0o751)
    (canary / "secret").write_bytes(SECRET)
    (canary / "other").write_bytes(SECRET)
    (canary / "secret").chmod(0o640)
    checkpoint(store_of(tmp_path), "before", [{"files": {"paths": [str(live)]}}])
    (live / "file").write_text("changed")
    return tmp_path


def store_of(work: Path) -> Store:
    return Store(str(work / "store"), replace(System(), has_systemd=lambda: False))


def doctor(work: Path, lines: list[str], spec: dict[str, Any] | None = None, kind: str = "files") -> Store:
    """The store with a checkpoint ``evil``: the lines of ``before`` and these, each hash of it right."""
    store = store_of(work)
    honest = store.manifest(store.resolve("before"))
    (section,) = honest.sections
    added = {line.split(" ")[1] for line in lines}
    kept = [line for line in section.lines if line.split(" ")[1] not in added]
    body = sorted(kept + lines, key=lambda line: line.split(" ")[1])
    evil = Section(kind, section.spec if spec is None else spec, body)
    manifest, pieces = Manifest.of(honest.created, "host", "evil", [evil], None)
    with store.locked():
        store.add_manifest(pieces, manifest)
    return store


CASES = {
    "a path with ..": ["f {live}/../canary/secret " + FILE],
    "a path with .. below a recorded directory": ["f {live}/sub/../../canary/secret " + FILE],
    "a doubled slash": ["f {live}//twice " + FILE],
    "a relative path": ["f canary/secret " + FILE],
    "an absolute path elsewhere": ["f {work}/canary/secret " + FILE],
    "a new file beside the tree": ["f {work}/planted " + FILE],
    "a sibling that begins with the same letters": ["f {live}-two " + FILE],
    "a directory elsewhere": ["d {work}/canary 777 65534 65534 1700000000000000000"],
    "a directory above another place": ["D {work}/planted 777 65534 65534 0"],
    "a directory above as one that is set": ["d {work} 777 65534 65534 1700000000000000000"],
    "a symlink elsewhere": ["l {work}/planted 777 0 0 1700000000000000000 target=/etc/passwd"],
    "a path through a planted symlink": [
        "l {live}/out 777 0 0 1700000000000000000 target={work}/canary",
        "f {live}/out/secret " + FILE,
    ],
    "a path below a file": ["f {live}/file/below " + FILE],
    "a path whose directory is not recorded": ["f {live}/nowhere/below " + FILE],
    "a hard link to a file elsewhere": ["f {live}/stolen " + FILE + " link={work}/canary/secret"],
    "a hard link to a path that is not recorded": ["f {live}/stolen " + FILE + " link={live}/nowhere"],
    "a hard link to a directory": ["f {live}/stolen " + FILE + " link={live}"],
    "a missing path elsewhere": ["- {work}/canary/secret"],
    "no entry at all": ["rm {live}/file"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_doctored_checkpoint_is_refused_and_nothing_is_changed(work: Path, case: str) -> None:
    store = doctor(work, [line.format(live=work / "live", work=work) for line in CASES[case]])
    before = state(work / "live"), state(work / "canary"), sorted(os.listdir(work)), os.stat(work).st_mode
    with pytest.raises(Damaged):
        rollback(store, "evil", check_mode=True)
    with pytest.raises(Damaged):
        rollback(store, "evil")
    after = state(work / "live"), state(work / "canary"), sorted(os.listdir(work)), os.stat(work).st_mode
    assert after == before
    rollback(store, "before")
    assert (work / "live" / "file").read_text() == "as recorded"


@pytest.mark.parametrize(
    "spec",
    [
        {"paths": ["{work}/live/../canary"], "exclude": []},
        {"paths": ["canary"], "exclude": []},
        {"paths": "{work}/canary", "exclude": []},
        {"paths": [], "exclude": []},
        {},
    ],
)
def test_a_doctored_declaration_is_refused(work: Path, spec: dict[str, Any]) -> None:
    paths = spec.get("paths")
    if isinstance(paths, list):
        spec = dict(spec, paths=[path.format(work=work) for path in paths])
    store = doctor(work, [], spec)
    before = state(work / "live"), state(work / "canary")
    with pytest.raises((Damaged, UsageError)):
        rollback(store, "evil")
    assert (state(work / "live"), state(work / "canary")) == before


def test_a_declaration_of_everything_is_refused() -> None:
    # Not by a rollback: should it ever be accepted, that would be of this machine.
    with pytest.raises(UsageError, match="as a whole"):
        files.recorded([], {"paths": ["/"], "exclude": []})


def test_a_kind_that_this_version_does_not_know_is_refused(work: Path) -> None:
    store = doctor(work, [], {}, "hypnosis")
    with pytest.raises(Damaged, match="hypnosis"):
        rollback(store, "evil")
    assert (work / "live" / "file").read_text() == "changed"


def test_a_declared_path_that_leads_through_a_symlink_is_refused(work: Path) -> None:
    (work / "live" / "out").symlink_to(work / "canary")
    with pytest.raises(UsageError, match="symlink"):
        checkpoint(store_of(work), "other", [{"files": {"paths": [f"{work}/live/out/secret"]}}])


@contextmanager
def flipping(shared: Path) -> Iterator[None]:
    """Another user swaps ``shared/flip``, a directory, with ``shared/link``, a symlink, all the time."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Opened while we may: the folders that pytest makes above it are closed to others.
    fd = os.open(shared, os.O_RDONLY | os.O_DIRECTORY)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            rounds = 0
            while True:
                # A pause now and then: some operations must get through, or nothing is tried.
                libc.renameat2(fd, b"flip", fd, b"link", 2)
                rounds += 1
                if rounds % 50 == 0:
                    time.sleep(0.0005)
        finally:
            os._exit(1)
    os.close(fd)
    try:
        yield
    finally:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the other user gave up"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def seconds() -> float:
    return 30.0 if os.environ.get("EVENKEEL_CRASH") == "all" else 5.0


@pytest.fixture
def shared(work: Path) -> Path:
    """A directory of another user's in the declared tree, with a symlink to the canary in it."""
    shared = work / "live" / "shared"
    (shared / "flip").mkdir(parents=True)
    for name in ("other", "secret", "more"):
        (shared / "flip" / name).write_text("as recorded")
    (shared / "link").symlink_to(work / "canary")
    for path in (shared, shared / "flip", *(shared / "flip").iterdir(), shared / "link"):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return shared


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root to play")


def test_a_checkpoint_never_reads_through_a_flipped_directory(work: Path, shared: Path) -> None:
    store = store_of(work)
    before = state(work / "canary")
    taken = refused = 0
    end = time.monotonic() + seconds()
    with flipping(shared):
        while time.monotonic() < end:
            try:
                checkpoint(store, f"racing-{taken}", [{"files": {"paths": [str(work / "live")]}}])
                taken += 1
            except (EvenkeelError, OSError):
                refused += 1
    assert taken and state(work / "canary") == before
    assert not Store(store.root, System()).objects.has(hashlib.sha256(SECRET).hexdigest())
    for held in store.checkpoints():
        assert store.verify(store.manifest(held.id)) == {}


def test_a_rollback_never_writes_through_a_flipped_directory(work: Path, shared: Path) -> None:
    store = store_of(work)
    checkpoint(store, "stable", [{"files": {"paths": [str(work / "live")]}}])
    subprocess.run(["cp", "-a", work / "live", work / "new"], check=True)
    before = state(work / "canary")
    done = refused = 0
    end = time.monotonic() + seconds()
    with flipping(shared):
        while time.monotonic() < end or done + refused <= 10:  # a busy machine needs longer for as many rounds
            # The owner changes what the rollback must put back, wherever it is just now.
            for name in ("flip", "link"):
                fd = -1
                try:
                    fd = os.open(shared / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                    file = os.open("other", os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=fd)
                    os.write(file, b"changed")
                    os.close(file)
                    os.unlink("more", dir_fd=fd)
                except OSError:
                    pass
                finally:
                    if fd >= 0:
                        os.close(fd)
            try:
                rollback(store, "stable")
                done += 1
            except (EvenkeelError, OSError):
                refused += 1
    assert done + refused > 10 and state(work / "canary") == before
    with store.locked():
        finish(store)
    rollback(store, "stable")
    assert state(work / "canary") == before
    assert same(work / "new", work / "live")
    assert not list(work.rglob(".evenkeel-*")) and os.listdir(store.join("journal")) == []


# -- another user who gives one directory the name of another at the very moment


def exchange(folder: Path, one: str, other: str) -> None:
    """What the owner of the folder may do at any time."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    assert ctypes.CDLL(None).renameat2(fd, one.encode(), fd, other.encode(), 2) == 0
    os.close(fd)


def private(folder: Path) -> Path | None:
    """Where in the folder the directory is that is root's alone, with what is in it as it was."""
    for path in folder.iterdir():
        info = path.lstat()
        alone = (info.st_uid, info.st_mode) == (0, stat.S_IFDIR | 0o700)
        if alone and (path / "key").is_file() and (path / "key").read_bytes() == SECRET:
            return path
    return None


# The variable with which the tree of ``owned`` is the top of a mount, in a mount namespace of its own.
TOP = "EVENKEEL_TOP_OF_MOUNT"


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree of another user's with what is root's alone in it, of which the store has the checkpoint ``before``; it is
    staged in the tree itself, as where that is the top of a mount. With ``TOP`` it is that."""
    live = tmp_path / "live"
    live.mkdir()
    if os.environ.get(TOP) is None:
        monkeypatch.setattr(anchors.Anchors, "_highest", lambda _anchors, _parent: os.fsencode(live))
        yield filled(live)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", live], check=True)
    try:
        yield filled(live)
    finally:
        subprocess.run(["umount", "--lazy", live], check=True)


def filled(live: Path) -> Path:
    for name in ("pub", "priv", "other"):
        (live / name).mkdir(parents=True)
    (live / "pub" / "key").write_text("as recorded")
    (live / "priv" / "key").write_bytes(SECRET)
    (live / "other" / "file").write_text("as recorded")
    (live / "file").write_text("as recorded")
    (live / "priv").chmod(0o700)
    for path in (live, live / "pub", live / "pub" / "key", live / "other", live / "file"):
        os.chown(path, NOBODY, NOBODY)
    checkpoint(store_of(live.parent), "before", [{"files": {"paths": [str(live)]}}])
    return live


def once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, act: Callable[..., bool], after: bool) -> list[int]:
    """Have the other user act right before or after a call, until it has worked; how often it has."""
    call = getattr(where, name)
    acted: list[int] = []

    def acting(*words: Any, **more: Any) -> Any:
        if not after and not acted and act(*words, **more):
            acted.append(1)
        result = call(*words, **more)
        if after and not acted and act(*words, **more):
            acted.append(1)
        return result

    monkeypatch.setattr(where, name, acting)
    return acted


def staged_in(live: Path) -> list[str]:
    return [one for one in os.listdir(live) if one.startswith(declaration.STAGE)]


def test_a_staging_directory_that_somebody_has_exchanged_is_not_used(
    owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(owned.parent)
    (owned / "pub" / "key").unlink()
    (owned / "pub").rmdir()
    mine = owned / "mine"
    mine.mkdir(0o777)
    os.chown(mine, NOBODY, NOBODY)

    def take(name: Any, *_words: Any, **_more: Any) -> bool:
        if not str(name).startswith(declaration.STAGE):
            return False
        exchange(owned, str(name), "mine")
        return True

    with monkeypatch.context() as patched:
        acted = once(patched, os, "mkdir", take, after=True)
        with pytest.raises(EvenkeelError, match="another directory in the place of") as failed:
            rollback(store, "before")
    assert acted and "find out who" in failed.value.message
    assert list(owned.glob("**/pub")) == []  # Nothing was made in what is somebody else's.
    for path in (mine, *map(owned.joinpath, staged_in(owned))):
        path.rmdir()
    rollback(store, "before")
    assert (owned / "pub" / "key").read_text() == "as recorded" and staged_in(owned) == []


def test_what_has_the_name_of_the_staging_directory_by_now_is_not_removed(
    owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(owned.parent)
    (owned / "file").write_text("changed")

    def take(*_words: Any) -> bool:
        names = staged_in(owned)
        if names:
            exchange(owned, names[0], "priv")
        return bool(names)

    acted = once(monkeypatch, transaction, "close", take, after=False)
    rollback(store, "before")
    kept = private(owned)
    assert acted and kept is not None and kept.name.startswith(declaration.STAGE)
    assert not (owned / "priv").exists()  # What was ours is gone, whatever its name was.
    assert (owned / "file").read_text() == "as recorded" and os.listdir(store.join("journal")) == []
    kept.rename(owned / "priv")


def test_attributes_are_set_on_the_directory_that_was_looked_at(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(owned.parent)
    (owned / "pub" / "key").write_text("changed")

    def swap(*_words: Any) -> bool:
        exchange(owned, "pub", "priv")
        return True

    acted = once(monkeypatch, applying, "do", swap, after=True)
    with pytest.raises(RestoreFailed, match="live/pub is not the directory that was read before"):
        rollback(store, "before")
    assert acted and private(owned) == owned / "pub"
    assert (owned / "priv" / "key").read_text() == "as recorded"


@pytest.mark.parametrize("moment", ["preflight", "apply"])
def test_nothing_is_put_into_another_directory_than_was_looked_at(
    owned: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = store_of(owned.parent)
    (owned / "pub" / "key").write_text("changed")
    (owned / "file").write_text("changed")

    def swap(*_words: Any) -> bool:
        exchange(owned, "pub", "priv")
        return True

    acted = once(monkeypatch, transaction, moment, swap, after=False)
    with pytest.raises(RestoreFailed, match="live/pub is not the directory that was read before"):
        rollback(store, "before")
    assert acted and private(owned) == owned / "pub"
    assert (owned / "file").read_text() == "as recorded"  # It keeps nothing else back.


def test_a_directory_from_which_something_did_not_go_is_not_opened(
    owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root alone may see lies in it by now, and what takes it away is led elsewhere for a moment."""
    store = store_of(owned.parent)
    (owned / "pub" / "key").write_bytes(SECRET)
    (owned / "pub").chmod(0o700)
    os.chown(owned / "pub", 0, 0)
    put = applying.do

    def elsewhere(one: journals.Operation, *words: Any) -> None:
        if one.path.endswith(b"pub/key"):
            exchange(owned, "pub", "other")
        try:
            put(one, *words)
        finally:
            if one.path.endswith(b"pub/key"):
                exchange(owned, "pub", "other")

    with monkeypatch.context() as patched:
        patched.setattr(applying, "do", elsewhere)
        with pytest.raises(RestoreFailed) as failed:
            rollback(store, "before")
    info = (owned / "pub").stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700) and (owned / "pub" / "key").read_bytes() == SECRET
    assert [one for one in failed.value.result["left"] if "live/pub: mode, owner" in one]
    assert "live/pub" not in [one["target"] for one in failed.value.result["done"]]
    rollback(store, "before")
    assert (owned / "pub").stat().st_uid == NOBODY and (owned / "pub" / "key").read_text() == "as recorded"


def test_what_is_read_again_is_not_read_in_another_directory(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it is read again, a directory as it was recorded has the name of one that holds root's alone."""
    store, recorded = store_of(owned.parent), (owned / "pub" / "key").stat()
    twin = owned / "other" / "key"
    twin.write_text("as recorded")
    os.chown(twin, NOBODY, NOBODY)
    os.utime(twin, ns=(recorded.st_mtime_ns, recorded.st_mtime_ns))
    (owned / "pub" / "key").write_bytes(SECRET)
    (owned / "pub").chmod(0o700)
    os.chown(owned / "pub", 0, 0)
    led: list[int] = []

    def elsewhere(reader: Reader, found: Lines, inodes: dict[bytes, tuple[int, int]]) -> None:
        led.append(len(found.fresh))
        exchange(owned, "pub", "other")
        rereading.reread(reader, found, inodes)
        exchange(owned, "pub", "other")

    monkeypatch.setattr(scanning, "reread", elsewhere)
    with suppress(RestoreFailed):
        rollback(store, "before")
    assert any(led)
    assert (owned / "pub" / "key").read_bytes() != SECRET or (owned / "pub").stat().st_mode & 0o077 == 0


def test_nothing_is_put_into_a_directory_that_could_not_be_closed_first(
    owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root alone may see is to come back into what is another user's yet, and was not there to be closed."""
    store = store_of(owned.parent)
    exchange(owned, "pub", "priv")
    opened = known.Known.open
    times: list[int] = []

    def elsewhere(known: known.Known, path: bytes) -> int:
        if not path.endswith(b"/priv") or times:
            return opened(known, path)
        times.append(1)
        exchange(owned, "pub", "priv")
        try:
            return opened(known, path)
        finally:
            exchange(owned, "pub", "priv")

    with monkeypatch.context() as patched:
        patched.setattr(known.Known, "open", elsewhere)
        with pytest.raises(RestoreFailed, match="live/priv is not the directory that was read before"):
            rollback(store, "before")
    assert times and (owned / "priv" / "key").read_text() == "as recorded"
    rollback(store, "before")
    assert private(owned) == owned / "priv"


def test_a_directory_that_was_seen_under_two_names_is_one_of_them_alone(owned: Path) -> None:
    """Somebody gave it another name while the tree was looked at."""
    made = staging.Staging(store_of(owned.parent), str(owned.parent), False)
    fd = os.open(owned / "pub", os.O_RDONLY)
    made._compare(os.fsencode(owned / "pub"), fd, None)
    made._compare(os.fsencode(owned / "pub"), fd, None)
    with pytest.raises(OSError, match="live/priv is not the directory that was read before"):
        made._compare(os.fsencode(owned / "priv"), fd, None)
    os.close(fd)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("taken", ["junk", "file"])
def test_another_directory_that_is_taken_for_what_goes_is_given_back(
    owned: Path, monkeypatch: pytest.MonkeyPatch, taken: str, killed: bool
) -> None:
    """``file`` has become a directory, which gives way to the file."""
    store = store_of(owned.parent)
    if taken == "file":
        (owned / "file").unlink()
    (owned / taken).mkdir()
    os.chown(owned / taken, NOBODY, NOBODY)

    def swap(one: journals.Operation, *_words: Any) -> bool:
        if os.path.basename(one.path) != os.fsencode(taken):
            return False
        exchange(owned, taken, "priv")
        return True

    def die(*_words: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        acted = once(patched, applying, "do", swap, after=False)
        if killed:
            patched.setattr(applying, "check_taken", die)
        words = None if killed else "which was to stay"
        with pytest.raises(KeyboardInterrupt if killed else RestoreFailed, match=words):
            rollback(store, "before")
    assert acted
    if killed:
        assert private(owned) is None  # It is where nobody else can go.
        (one,) = finished(store)
        assert one.left
    assert private(owned) is not None and staged_in(owned) == []


def kill(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """A rollback that ends right after COMMIT; its journal."""

    def die(*_words: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transaction, "apply", die)
        with pytest.raises(KeyboardInterrupt):
            rollback(store, "before")
    (journal,) = [one for one in store.journals() if os.path.exists(f"{one}/COMMIT")]
    return journal


def finished(store: Store) -> list[transaction.Finished]:
    with store.locked():
        return list(transaction.unfinished(store))


def test_what_is_neither_staged_nor_live_is_not_put_back(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(owned.parent)
    (owned / "file").write_text("changed")
    (owned / "other" / "file").write_text("changed")
    journal = kill(store, monkeypatch)
    steps = json.loads(Path(journal, "plan").read_text())["steps"]
    (name,) = [one["name"] for one in steps if bytes.fromhex(one["path"]).endswith(b"live/file")]
    (owned / staged_in(owned)[0] / name).unlink()
    (one,) = finished(store)
    assert one.paths == [str(owned / "other" / "file")] and list(one.left) == [str(owned / "file")]
    assert "is gone" in one.left[str(owned / "file")] and (owned / "file").read_text() == "changed"


def test_a_staging_directory_that_was_renamed_is_found_again(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(owned.parent)
    (owned / "file").write_text("changed")
    kill(store, monkeypatch)
    (owned / staged_in(owned)[0]).rename(owned / "hidden")
    (one,) = finished(store)
    assert not one.left and (owned / "file").read_text() == "as recorded" and not (owned / "hidden").exists()


@pytest.mark.parametrize("there", ["nothing", "a directory", "a symlink", "a file"])
def test_a_staging_directory_that_is_gone_keeps_nothing_back(
    owned: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    store = store_of(owned.parent)
    (owned / "file").write_text("changed")
    kill(store, monkeypatch)
    place = owned / staged_in(owned)[0]
    shutil.move(place, owned.parent / "away")
    if there == "a directory":
        place.mkdir(0o777)
        os.chown(place, NOBODY, NOBODY)
        (place / "0").write_text("forged")
    elif there == "a symlink":
        place.symlink_to(owned.parent / "away")
    elif there == "a file":
        place.write_text("")
    with store.locked():
        finish(store)  # What asks for all of it is planned anew.
    assert (owned / "file").read_text() == "as recorded"
    assert not store.journals()
    assert (there == "nothing") != os.path.lexists(place)
    if there != "nothing":
        place.unlink() if there != "a directory" else subprocess.run(["rm", "-r", place], check=True)


def test_a_journal_of_version_0_1_0_is_finished(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(owned.parent)
    # That version cannot tell which its staging directory is: it is removed where nobody else can have exchanged it.
    os.chown(owned, 0, 0)
    checkpoint(store, "before", [{"files": {"paths": [str(owned)]}}])
    subprocess.run(["cp", "-a", owned, owned.parent / "new"], check=True)
    (owned / "file").unlink()
    (owned / "file").mkdir()
    (owned / "junk").mkdir()
    (owned / "pub" / "key").write_text("changed")
    subprocess.run(["rm", "-r", owned / "other"], check=True)
    os.utime(owned / "pub", ns=(5, 5))
    journal = Path(kill(store, monkeypatch))
    plan = json.loads((journal / "plan").read_text())
    plan["anchors"] = [path for path, _inode in plan["anchors"]]
    del plan["known"]
    for step in plan["steps"]:
        step.pop("was", None)
    (journal / "plan").write_text(json.dumps(plan))
    (journal / "anchors").write_text(json.dumps(plan["anchors"]))
    (one,) = finished(store)
    assert not one.left and same(owned.parent / "new", owned)
    assert staged_in(owned) == [] and os.listdir(store.join("journal")) == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"note": {}}',
        '{"note": {}, "anchors": 1}',
        '{"note": 1, "anchors": [], "steps": [1]}',
    ],
    ids=lambda one: f"{len(one)} bytes",
)
def test_a_plan_that_cannot_be_read_keeps_no_other_back(
    owned: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    store = store_of(owned.parent)
    broken = Path(store.join("journal"), "000000000000001-1")
    broken.mkdir(parents=True)
    for name in ("plan", "anchors", "COMMIT"):
        (broken / name).write_text(content)
    (owned / "file").write_text("changed")
    _committed(store, monkeypatch)
    found = []
    words = r"000000000000001-1/plan, cannot be read.*run the rollback again"
    with store.locked(), pytest.raises(Damaged, match=words):
        for one in transaction.unfinished(store):
            found.append(one)
    assert len(found) == 1 and (owned / "file").read_text() == "as recorded"
    assert store.journals() == []
    rollback(store, "before")


def _committed(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """A committed journal beside the others, which are not looked at meanwhile."""

    def die(*_words: Any) -> None:
        raise KeyboardInterrupt

    before = set(store.journals())
    with monkeypatch.context() as patched:
        patched.setattr(transaction, "apply", die)
        patched.setattr(Store, "journals", lambda _store: [])
        with pytest.raises(KeyboardInterrupt):
            rollback(store, "before")
    (journal,) = set(store.journals()) - before
    return journal


def test_a_journal_with_no_commit_is_no_interrupted_rollback(owned: Path) -> None:
    """Somebody keeps its staging directory from being removed: that refuses nobody the next change."""
    store = store_of(owned.parent)
    Path(store.join("journal"), "000000000000001-1").mkdir(parents=True)
    assert store.journals() and not host_state(store.root)["interrupted"]
    Path(store.join("journal"), "000000000000001-1", "COMMIT").touch()
    assert host_state(store.root)["interrupted"]


# -- what may be seen while things come back

ACL = "system.posix_acl_access"


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)


ANY = 2**32 - 1
# Another user reads, the group does not.
NAMED = acl((1, 7, ANY), (2, 5, 1234), (4, 0, ANY), (16, 5, ANY), (32, 0, ANY))


@pytest.mark.parametrize(
    ("then", "now", "meanwhile"),
    [
        # (owner, mode, ACL)
        ((0, 0o700, b""), (0, 0o755, b""), (0, 0o700)),
        ((0, 0o755, b""), (0, 0o700, b""), (0, 0o700)),
        ((0, 0o750, b""), (0, 0o705, b""), (0, 0o700)),
        ((0, 0o1777, b""), (0, 0o777, b""), (0, 0o1777)),
        ((NOBODY, 0o700, b""), (0, 0o700, b""), (0, 0o700)),
        ((0, 0o700, b""), (NOBODY, 0o700, b""), (0, 0o700)),
        ((NOBODY, 0o755, b""), (0, 0o755, b""), (0, 0o755)),
        ((0, 0o700, b""), (0, 0o700, NAMED), (0, 0o700)),
        ((0, 0o700, NAMED), (0, 0o755, b""), (0, 0o700)),
        ((0, 0o755, b""), (0, 0o755, b""), (0, 0o755)),
    ],
)
def test_while_files_come_back_nobody_may_more_than_before_and_after(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: tuple[int, int, bytes],
    now: tuple[int, int, bytes],
    meanwhile: tuple[int, int],
) -> None:
    live, store = tmp_path / "live", store_of(tmp_path)
    (live / "deep").mkdir(parents=True)
    (live / "deep" / "key").write_bytes(SECRET)

    def become(owner: int, mode: int, words: bytes) -> None:
        os.chown(live, owner, owner)
        live.chmod(mode)
        if words:
            os.setxattr(live, ACL, words)
        elif ACL in os.listxattr(live):
            os.removexattr(live, ACL)
            live.chmod(mode)

    become(*then)
    subprocess.run(["cp", "-a", live, tmp_path / "new"], check=True)
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}])
    (live / "deep" / "key").write_text("changed")
    become(*now)
    seen, put = [], applying.do

    def look(*words: Any) -> None:
        info = os.stat(live)
        seen.append((info.st_uid, stat.S_IMODE(info.st_mode), ACL in os.listxattr(live)))
        put(*words)
        info = os.stat(live)
        seen.append((info.st_uid, stat.S_IMODE(info.st_mode), ACL in os.listxattr(live)))

    monkeypatch.setattr(applying, "do", look)
    rollback(store, "before")
    assert set(seen) == {(*meanwhile, False)}
    assert same(tmp_path / "new", live)


def test_the_mask_of_an_acl_is_never_the_groups_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd, chmod, seen = os.open(tmp_path, os.O_RDONLY), os.chmod, []

    def look(where: Any, mode: int) -> None:
        seen.append((oct(mode), ACL in os.listxattr(where)))
        chmod(where, mode)

    monkeypatch.setattr(os, "chmod", look)
    making.attributes(Entry(b"/x", "d", 0o750, 0, 0, 1, xattrs=((ACL, NAMED),)), fd)
    os.close(fd)
    assert seen == [("0o750", True)]


def rounds() -> int:
    return 1000 if os.environ.get("EVENKEEL_CRASH") == "all" else 30


@contextmanager
def another_user(act: Callable[[int], object], folder: Path) -> Iterator[int]:
    """Another user acts on the folder, by its descriptor, as fast as it can; the id of the process."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            while True:
                act(fd)
        finally:
            os._exit(1)
    os.close(fd)
    try:
        yield child
    finally:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the other user gave up"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """The process stands still meanwhile."""
    os.kill(process, signal.SIGSTOP)
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.0002)
    yield
    os.kill(process, signal.SIGCONT)


def test_no_staging_directory_is_shared_however_often_somebody_tries(owned: Path, tmp_path: Path) -> None:
    """Root makes a directory there and sets its mode: exchanged for a link, that would be the mode of a file."""
    store, canary = store_of(tmp_path), tmp_path / "canary"
    canary.write_bytes(SECRET)
    canary.chmod(0o640)
    (owned / "pub").chmod(0o4777)
    checkpoint(store, "before", [{"files": {"paths": [str(owned)], "exclude": ["mine"]}}])
    libc = ctypes.CDLL(None)
    (owned / "mine").mkdir()
    os.chown(owned / "mine", NOBODY, NOBODY)

    def act(fd: int) -> None:
        for name in os.listdir(fd):
            if name.startswith(declaration.STAGE):
                libc.renameat2(fd, name.encode(), fd, b"mine", 2)
        for name in ("mine", *(one for one in os.listdir(fd) if one.startswith(declaration.STAGE))):
            try:
                inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except OSError:
                continue
            try:
                for one in os.listdir(inside):
                    os.rename(one, f"{one}.away", src_dir_fd=inside, dst_dir_fd=inside)
                    os.symlink(canary, one, dir_fd=inside)
            except OSError:
                pass
            finally:
                os.close(inside)

    ends = {"back": 0, "refused": 0}
    with another_user(act, owned):
        for _round in range(rounds()):
            subprocess.run(["rm", "-rf", owned / "pub"], check=True)
            try:
                rollback(store, "before")
                ends["back"] += 1
            except (EvenkeelError, OSError):
                ends["refused"] += 1
            assert stat.S_IMODE(canary.stat().st_mode) == 0o640 and canary.stat().st_uid == 0, ends
    subprocess.run(["rm", "-rf", *(owned / name for name in staged_in(owned)), owned / "mine"], check=True)
    with store.locked():
        finish(store)
    rollback(store, "before")
    assert private(owned) == owned / "priv" and os.listdir(store.join("journal")) == [] and ends["refused"]


def test_what_is_roots_stays_so_however_often_its_name_is_exchanged(owned: Path, tmp_path: Path) -> None:
    store, libc = store_of(tmp_path), ctypes.CDLL(None)

    def act(fd: int) -> None:
        libc.renameat2(fd, b"pub", fd, b"priv", 2)
        time.sleep(0.0003)

    ends = {"back": 0, "refused": 0}
    with another_user(act, owned) as user:
        for _round in range(rounds()):
            with stopped(user):
                # The owner of the tree changes what the rollback must put back, wherever it is just now.
                (owned / "file").write_text("changed")
                (owned / "junk").mkdir(exist_ok=True)
                for one in owned.iterdir():
                    if one.stat().st_uid == NOBODY and one.is_dir():
                        (one / "new").write_text("new")
            try:
                rollback(store, "before")
                ends["back"] += 1
            except (EvenkeelError, OSError):
                ends["refused"] += 1
            with stopped(user):
                for one in [one for one in owned.rglob("key") if one.read_bytes() == SECRET]:
                    info = one.parent.stat()
                    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700), (one, ends, oct(one.stat().st_mode))
    assert ends["refused"]
    rollback(store, "before")
    assert private(owned) == owned / "priv" and staged_in(owned) == []


@pytest.mark.skipif(TOP in os.environ, reason="it is what this runs")
def test_what_is_roots_stays_so_where_the_tree_is_the_top_of_a_mount() -> None:
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "often_its_name"]
    done = subprocess.run(
        ["unshare", "-m", *argv], env={**os.environ, TOP: "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-4000:]


def test_a_directory_with_contents_that_stayed_is_not_given_away(owned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of the tree gave root's directory the name of a directory of theirs, before the rollback."""
    store = store_of(owned.parent)
    (owned / "priv" / "sub").mkdir(mode=0o755)
    (owned / "priv" / "sub" / "key").write_bytes(SECRET)
    (owned / "pub" / "sub").mkdir(mode=0o755)
    (owned / "pub" / "sub" / "key").write_text("as recorded")
    os.chown(owned / "pub" / "sub", NOBODY, NOBODY)
    checkpoint(store, "deep", [{"files": {"paths": [str(owned)]}}])
    exchange(owned, "pub", "priv")

    def full(made: Any, entry: Entry, *words: Any) -> None:
        if entry.path == os.fsencode(owned / "pub" / "sub" / "key"):
            raise OSError(errno.ENOSPC, "no room")
        making.make(made, entry, *words)

    with monkeypatch.context() as patched, store.locked(), pytest.raises(RestoreFailed) as failed:
        patched.setattr(staging, "make", full)
        Run(store, store.manifest(store.resolve("deep")), Options(unattended=True)).carry_out()
    info = (owned / "pub").stat()
    assert (owned / "pub" / "sub" / "key").read_bytes() == SECRET
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o700)
    (words,) = failed.value.result["left"]
    assert words == f"{owned}/pub: it is not opened to other users while {owned}/pub/sub/key is not as recorded"
    assert (owned / "priv" / "key").read_bytes() == SECRET and private(owned) == owned / "priv"
    rollback(store, "deep")
    assert (owned / "pub").stat().st_uid == NOBODY and (owned / "pub" / "sub" / "key").read_text() == "as recorded"


def test_nothing_goes_below_a_directory_that_could_not_be_closed() -> None:
    found = known.Known({b"/live/priv": (7, b"/")})
    found.shut(b"/live/priv")
    fd = os.open("/", os.O_RDONLY)
    for path in (b"/live/priv", b"/live/priv/sub/deep"):
        with pytest.raises(OSError, match="is not the directory that was read before"):
            known.Known(found.of).check(path, fd)
    found.check(b"/live/private", fd)
    os.close(fd)


def test_nothing_is_staged_in_a_directory_of_roots_below_one_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live"
    (live / "priv").mkdir(parents=True)
    os.chown(live, NOBODY, NOBODY)
    monkeypatch.setattr(anchors, "mount_of", lambda _path, _mounts: os.fsencode(live))
    assert anchors.Anchors("journal")._highest(os.fsencode(live / "priv")) == os.fsencode(live)
    os.chown(live, 0, 0)
    assert anchors.Anchors("journal")._highest(os.fsencode(live / "priv")) == os.fsencode(live)


def test_an_empty_directory_of_roots_does_not_pass_for_the_staging_directory(
    owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(owned.parent)
    (owned / "file").write_text("changed")
    (owned / "empty").mkdir(0o700)
    inode = (owned / "empty").stat().st_ino

    def take(name: Any, *_words: Any, **_more: Any) -> bool:
        if not str(name).startswith(declaration.STAGE):
            return False
        exchange(owned, str(name), "empty")
        return True

    with monkeypatch.context() as patched:
        acted = once(patched, os, "mkdir", take, after=True)
        with pytest.raises(EvenkeelError, match="another directory in the place of"):
            rollback(store, "before")
    assert acted and inode != (owned / "empty").stat().st_ino and (owned / "file").read_text() == "changed"


# -- another user who keeps root busy, or from reading


def going_back(work: Path) -> RolledBack:
    """Roll back as the dead-man does."""
    store = store_of(work)
    with store.locked():
        return Run(store, store.manifest(store.resolve("before")), Options(unattended=True)).carry_out()


def test_holes_of_all_files_together_are_not_read_for_long(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_HOLES", 10_000_000)
    for name in ("one", "two", "three"):
        with open(work / "live" / name, "wb") as stream:
            stream.truncate(6_000_000)
    result = going_back(work)
    assert (work / "live" / "file").read_text() == "as recorded" and result.left == []
    assert sorted(os.listdir(work / "live")) == ["file", "sub"]
    assert [note.partition(": it is a file of holes")[1] for note in result.notes] == [": it is a file of holes"] * 2


@contextmanager
def leasing(path: Path) -> Iterator[Callable[[], None]]:
    """What lets the owner of a file, who has it open, take a lease on it: who opens it then has to wait."""
    mine, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(path, os.O_RDWR)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            theirs.recv(1)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            theirs.send(b".")
            time.sleep(60)
        finally:
            os._exit(1)
    theirs.close()

    def take() -> None:
        mine.send(b".")
        assert mine.recv(1), "no lease was given"

    try:
        yield take
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        mine.close()


@pytest.mark.parametrize("many", [False, True])
def test_a_lease_does_not_keep_what_else_came_back_from_being_durable(
    work: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    live = work / "live"
    names = [live / "leased", *(live / f"more-{number}" for number in range(20 if many else 0))]
    for name in names:
        name.write_text("the same")
        os.chown(name, NOBODY, NOBODY)
    checkpoint(store_of(work), "before", [{"files": {"paths": [str(live)]}}])
    (live / "file").write_text("changed again")
    for name in names:
        os.utime(name, ns=(7, 7))
    with leasing(live / "leased") as take:

        def syncing(*words: Any) -> None:
            take()
            sync(*words)

        monkeypatch.setattr(applying, "sync", syncing)
        with pytest.raises(RestoreFailed) as failed:
            going_back(work)
    # That file alone cannot be looked at any more; what else was put back is known to be, and services follow it.
    assert [words.partition(":")[0] for words in failed.value.result["left"]] == [str(live / "leased")]
    assert str(live / "file") in [one["target"] for one in failed.value.result["done"]]


def test_a_file_with_a_lease_is_named_as_the_checkpoint_is_refused(work: Path) -> None:
    os.chown(work / "live" / "file", NOBODY, NOBODY)
    with leasing(work / "live" / "file") as take:
        take()
        with pytest.raises(EvenkeelError, match="live/file cannot be read: a process has a lease on it"):
            checkpoint(store_of(work), "other", [{"files": {"paths": [str(work / "live")]}}])


def test_no_connection_is_made_through_a_link_in_the_place_of_a_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as roots, socket.socket(socket.AF_UNIX) as gone:
        roots.bind(str(tmp_path / "roots"))
        roots.listen()
        roots.setblocking(False)
        gone.bind(str(tmp_path / "gone"))
        gone.close()
        (tmp_path / "link").symlink_to(tmp_path / "roots")
        assert not traces.clear(os.fsencode(tmp_path / "link"), True)
        with pytest.raises(BlockingIOError):
            roots.accept()
        assert traces.clear(os.fsencode(tmp_path / "gone"), True) and not (tmp_path / "gone").exists()


def test_a_pid_file_is_not_written_where_one_user_leads_to_a_directory_of_another(tmp_path: Path) -> None:
    argv = ["/bin/sleep", "60"]
    for name, owner in (("mine", NOBODY), ("theirs", 33)):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, owner, owner)
    (tmp_path / "theirs" / "app.pid").write_text("7")
    (tmp_path / "mine" / "run").symlink_to(tmp_path / "theirs")
    os.chown(tmp_path / "mine" / "run", NOBODY, NOBODY, follow_symlinks=False)
    (tmp_path / "run").symlink_to(tmp_path / "theirs")  # Root's own.
    definition = {"name": "app", "pidfile": str(tmp_path / "mine" / "run" / "app.pid"), "argv": argv}
    with pytest.raises(ServiceFailed, match="lead to a directory that is not that user's"):
        process.act("start", process.check(definition), System())
    assert (tmp_path / "theirs" / "app.pid").read_text() == "7"
    process._write(str(tmp_path / "run" / "app.pid"), b"8\n")
    assert (tmp_path / "theirs" / "app.pid").read_text() == "8\n"


def test_extended_attributes_without_an_end_are_not_held_in_memory(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = work / "live"
    monkeypatch.setattr(reading, "_XATTRS", 3000)
    monkeypatch.setattr(reading, "_LITTLE", 100)
    os.setxattr(live / "sub" / "other", "user.large", b"x" * 2000)
    os.setxattr(live / "sub", "user.large", b"x" * 2000)
    for name in ("new", "newer"):
        (live / name).write_text("new")
        os.setxattr(live / name, "user.large", b"x" * 2000)
    with pytest.raises(UsageError, match="live/new: its extended attributes are too long"):
        os.setxattr(live / "new", "user.more", b"x" * 1500)
        checkpoint(store_of(work), "other", [{"files": {"paths": [str(live)]}}])
    result = going_back(work)
    assert result.left == [] and (live / "file").read_text() == "as recorded"
    assert sorted(os.listdir(live)) == ["file", "sub"]
    assert os.listxattr(live / "sub" / "other") == os.listxattr(live / "sub") == []
    assert sum("extended attributes are too long" in note for note in result.notes) >= 2
