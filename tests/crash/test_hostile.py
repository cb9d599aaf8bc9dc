# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Doctored checkpoints, and another user who swaps directories for symlinks while root walks: nothing gets out."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._rollback import finish, rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest, Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._system import System

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
    "a hard link to what is not recorded": ["f {live}/stolen " + FILE + " link={live}/nowhere"],
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
        while time.monotonic() < end:
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
