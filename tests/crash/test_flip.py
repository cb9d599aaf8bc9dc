# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every byte of a small store is flipped in turn: the check finds it and names it, and no rollback uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import (
    applying,
    preflight,
    reading,
    rereading,
    staging,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import proof
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import durable
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback, scrub

from .test_kill import LONG

# What holds no record: who held the lock, what tells this store from others, and what only saves reading packs and
# trees.
HINTS = re.compile(r"lock|secret|packs/.*\.idx|cache/.*")


def state(root: Path) -> dict[str, bytes]:
    """Path below ``root`` -> what a flip could spoil of it: content or target, with the mode."""
    found = {}
    for folder, names, leaves in os.walk(root):
        for name in names + leaves:
            path = Path(folder, name)
            info = path.lstat()
            data = path.readlink().as_posix().encode() if path.is_symlink() else b""
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
            found[str(path.relative_to(root))] = b"%o %d %d " % (info.st_mode, info.st_uid, info.st_mtime_ns) + data
    return found


def audit(root: Path, check_mode: bool = True) -> list[str]:
    """What a scrub says is wrong with the store."""
    try:
        scrub(Store(str(root), System()), check_mode=check_mode)
    except Damaged as error:
        return [json.dumps(one) for one in error.result.get("damaged", [])] or [error.message]
    return []


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``store`` with checkpoints of ``live``, which has changed since; ``old``, ``new`` as states to compare.

    What ``before`` names is a record of a log of two.
    """
    # Nothing here is about durability or about who has files open, and a large content must be a small one.
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(rereading, "_APART", 0.0)
    monkeypatch.setattr(proof, "holders", lambda *_names, **_more: [])
    for module in (durable, staging, applying):
        monkeypatch.setattr(module, "syncfs", lambda fd: None)
    for module in (objects, reading, rereading, preflight):
        monkeypatch.setattr(module, "SMALL", 40)
    live = tmp_path / "live"
    live.mkdir()
    store = Store(str(tmp_path / "store"), replace(System(), has_systemd=lambda: False))
    (live / "kept").write_text("the same in both")
    for name in ("earlier", "before"):
        checkpoint(store, name, [{"files": {"paths": [str(live)]}}])
    (live / "small").write_text("a small content")
    (live / "large").write_text("large: " + "x" * 60)
    (live / "link").symlink_to("small")
    checkpoint(store, "before", [{"files": {"paths": [str(live)]}}], kind="log")
    shutil.copytree(live, tmp_path / "new", symlinks=True)
    (live / "small").write_text("changed")
    (live / "large").unlink()
    (live / "kept").write_text("not kept")
    (live / "link").unlink()
    (live / "added").mkdir()
    for name in ("live", "store"):
        shutil.copytree(tmp_path / name, tmp_path / f"saved-{name}", symlinks=True)
    return tmp_path


def fresh(work: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.copytree(work / f"saved-{name}", work / name, symlinks=True)


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


def every_byte(root: Path) -> list[tuple[str, int]]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return [(str(path.relative_to(root)), at) for path in paths for at in range(path.stat().st_size)]


def test_each_flipped_byte_is_found_and_named(work: Path) -> None:
    assert audit(work / "store") == []
    bytes_ = every_byte(work / "store")
    kinds = {name.split("/")[0] for name, _at in bytes_}
    assert kinds == {"FORMAT", "cache", "lock", "manifests", "objects", "packs", "refs", "secret"}
    for number, (name, at) in enumerate(bytes_):
        # Another bit each time: every kind of file has all eight.
        before = (work / "store" / name).read_bytes()[at]
        flip(work / "store" / name, at, number % 8)
        wrong = audit(work / "store")
        flip(work / "store" / name, at, number % 8)
        # A line feed can become another blank, which ends an id as well.
        harmless = HINTS.fullmatch(name) or (name.startswith("refs/") and before ^ 1 << number % 8 == 0x0B)
        assert bool(wrong) != bool(harmless), (name, at)
        if wrong:
            words = "".join(name.split("/")[1:]).removesuffix(".pack") or str(work / "store")
            assert name.startswith("refs/") or any(words in one for one in wrong), (name, at, wrong)


def test_what_a_scrub_puts_aside_is_stored_again(work: Path) -> None:
    """A scrub, a checkpoint of the same state, and the store is whole: every seventh byte of the contents."""
    shutil.rmtree(work / "live")
    shutil.copytree(work / "new", work / "live", symlinks=True)
    contents = [one for one in every_byte(work / "store") if one[0].startswith(("objects", "packs"))]
    for number, (name, at) in enumerate(contents[::7]):
        fresh(work, "store")
        flip(work / "store" / name, at, number % 8)
        assert bool(audit(work / "store", check_mode=False)) != bool(HINTS.fullmatch(name)), (name, at)
        store = Store(str(work / "store"), replace(System(), has_systemd=lambda: False))
        checkpoint(store, "before", [{"files": {"paths": [str(work / "live")]}}])
        assert audit(work / "store", check_mode=False) == [], (name, at)
        assert len(store.refs()["before"]) == 2, (name, at)


@pytest.mark.parametrize("to", ["before", "latest"])
def test_no_rollback_uses_a_flipped_byte(work: Path, to: str) -> None:
    old, new = state(work / "live"), state(work / "new")
    ends = {"old": set[str](), "new": set[str]()}
    # Eight bits and every third byte have no common divisor: still another bit each time.
    for number, (name, at) in list(enumerate(every_byte(work / "store")))[:: 1 if LONG else 3]:
        if to == "latest" and not name.startswith(("refs/", "manifests/")):
            continue
        fresh(work, "live", "store")
        flip(work / "store" / name, at, number % 8)
        store = Store(str(work / "store"), replace(System(), has_systemd=lambda: False))
        try:
            rollback(store, to)
        except EvenkeelError as error:
            assert state(work / "live") == old, (name, at)
            assert isinstance(error, Damaged), (name, at, error)
            assert not HINTS.fullmatch(name), (name, at, error)
            ends["old"].add(name)
        else:
            assert state(work / "live") == new, (name, at)
            ends["new"].add(name)
    # Both ways to end were seen: nothing is refused that is not needed, nothing is used that is damaged.
    assert {name.split("/")[0] for name in ends["old"]} >= {"manifests", "refs"}
    assert ends["new"] or to == "latest"


@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_damaged_content_that_a_rollback_met_is_stored_again(work: Path, kind: str) -> None:
    store = Store(str(work / "store"), replace(System(), has_systemd=lambda: False))
    place = "objects" if kind == "large" else "packs"
    for path in (work / "store" / place).rglob("*"):
        if path.is_file() and path.suffix != ".idx":
            flip(path, path.stat().st_size - 2, 3)
    with pytest.raises(Damaged, match="cannot give back"):
        rollback(store, "before")
    fresh(work, "live")
    shutil.rmtree(work / "live")
    shutil.copytree(work / "new", work / "live", symlinks=True)
    checkpoint(store, "again", [{"files": {"paths": [str(work / "live")]}}])
    again = store.manifest(store.resolve("again"))
    assert store.verify(again) == {}
