# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store, a tree with the hard cases, and a judge that is not ours."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import notices
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import rereading
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import settle
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import machine
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

# No systemd in these tests: the dead-man is a process, services are processes.
SYSTEM = replace(System(), has_systemd=lambda: False)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test has just written holds still: a checkpoint need not wait before it reads it once more."""
    monkeypatch.setattr(rereading, "_APART", 0.0)


@pytest.fixture(autouse=True)
def no_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that fails in a test goes on to fail: after a rollback nobody waits until it passes again."""
    monkeypatch.setattr(settle, "RETURN", 0.2)


@pytest.fixture(autouse=True)
def one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test finds the same disks from its begin to its end: other tests mount file systems beside it."""
    monkeypatch.setattr(machine, "read_machine", lru_cache(machine.read_machine))


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine that runs the tests gets no command for a person, no line in its journal, no message of the day."""
    monkeypatch.setattr(ours, "COMMAND", str(tmp_path / "no-sbin" / "evenkeel-host"))
    monkeypatch.setattr(notices, "LOG", str(tmp_path / "no-log"))
    monkeypatch.setattr(notices, "MOTD", str(tmp_path / "no-run" / "motd.d"))
    monkeypatch.setattr(notices, "WALL", "no-wall")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), SYSTEM)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with one of each: sizes around the pack limit, links, holes, a FIFO, odd names."""
    root = tmp_path / "live"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a").write_text("first")
    (root / "sub" / "small").write_bytes(b"s" * 65536)
    (root / "sub" / "large").write_bytes(os.urandom(200_000))
    (root / "sub" / "deep" / "c").write_text("deep")
    (root / "with blank\nand newline").write_text("odd")
    with open(os.fsencode(root) + b"/not-utf8-\xff", "wb") as stream:
        stream.write(b"raw")
    os.symlink("a", root / "link")
    os.symlink("/nowhere", root / "dangling")
    os.link(root / "a", root / "sub" / "hard")
    os.mkfifo(root / "fifo", 0o600)
    with open(root / "sparse", "wb") as stream:
        stream.truncate(1_000_000)
        stream.seek(500_000)
        stream.write(b"island")
    (root / "a.log").write_text("a log")
    os.chmod(root / "sub" / "deep", 0o710)
    os.utime(root / "sub" / "deep" / "c", ns=(1, 1_000_000_000_000_000_007))
    os.setxattr(root / "a", "user.kept", b"\x00value")
    subprocess.run(["setfacl", "-m", "u:12345:rw", root / "sub" / "small"], check=True)
    return root


def differences(copy: Path, live: Path, *excludes: str) -> str:
    """What rsync would change to make ``live`` the copy; empty when they are the same."""
    argv = ["rsync", "-aHAXn", "-i", "--checksum", "--delete", *[f"--exclude={one}" for one in excludes]]
    return subprocess.run([*argv, f"{copy}/", f"{live}/"], check=True, capture_output=True, text=True).stdout


def copy_of(tree: Path) -> Path:
    copy = tree.with_name(tree.name + "-copy")
    subprocess.run(["cp", "-a", tree, copy], check=True)
    return copy
