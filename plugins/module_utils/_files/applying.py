# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying out a plan after COMMIT: each operation first looks whether it has been done."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._errors import UsageError
from .._host.durable import (
    exchange,
    rename_new,
    set_inode_flags,
)
from .._host.paths import DIRECTORY, Parents, opened
from .anchors import Anchor, own
from .attributes import attributes, narrow
from .entry import FLAGS, PINNED, Entry
from .known import Known, noting
from .staging import NO_EXCHANGE
from .syncing import sync

_GONE = "what was staged for it is gone, or is not ours any more"


@dataclass(frozen=True)
class Finished:
    """A committed journal: what it is for, the paths it has put back, and those that it could not: path -> why."""

    journal: str
    note: dict[str, Any]
    paths: list[str]
    left: dict[str, str]


def apply(journal: str, plan: dict[str, Any]) -> Finished:
    anchors: list[int | None] = []
    doubtful: dict[bytes, str] = {}
    folders = [Entry.parse(line) for line in plan["directories"]]
    ours = {entry.path for entry in folders}
    known = Known(plan.get("known", {}))
    closed = set(map(bytes.fromhex, plan.get("closed", ())))
    try:
        for anchor in plan["anchors"]:
            anchors.append(own(Anchor.read(anchor)))
        touched: set[bytes] = set()
        in_place: list[bytes] = []
        made = {bytes.fromhex(step["path"]) for step in plan["steps"] if step["op"] in ("put", "swap")}
        for entry in folders:
            try:
                fd = known.open(entry.path)
            except (OSError, UsageError):
                # One that a step makes is for nobody to enter until then. Nothing goes into another one.
                if entry.path not in made:
                    known.shut(entry.path)
                continue
            try:
                with noting(doubtful, entry.path):
                    narrow(entry, fd)
            finally:
                os.close(fd)
        with Parents(check=known.check) as parents:
            for step in plan["steps"]:
                path = bytes.fromhex(step["path"])
                with noting(doubtful, path, closed):
                    try:
                        do(step, path, anchors, parents)
                    except PermissionError:
                        _unpin(path, parents, ours)
                        do(step, path, anchors, parents)
                    if step["op"] == "meta":
                        in_place.append(path)
                    else:
                        touched.add(os.path.dirname(path))
            parents.forget()
            for entry in folders:
                if entry.path in closed:
                    continue  # What lies in it may be what nobody else must see. The proof says what it is not.
                with noting(doubtful, entry.path):
                    fd = known.open(entry.path)
                    try:
                        set_inode_flags(fd, 0, PINNED)
                        attributes(entry, fd)
                        if entry.type == "d":
                            set_inode_flags(fd, entry.flags, FLAGS)
                    finally:
                        os.close(fd)
                    in_place.append(entry.path)
            inodes = {step["path"]: step.get("ino") for step in plan["steps"]}
            for raw, flags in plan.get("pins", ()):
                path, inode = bytes.fromhex(raw), inodes.get(raw)
                with noting(doubtful, path):
                    fd, name = parents.of(path)
                    with opened(fd, name) as target:
                        if target is not None and inode in (None, os.fstat(target).st_ino):
                            # Where it cannot be set, the proof says so.
                            set_inode_flags(target, flags, PINNED)
                    in_place.append(path)
        sync([fd for fd in anchors if fd is not None], touched, in_place)
    finally:
        for held in anchors:
            if held is not None:
                os.close(held)
    left = {os.fsdecode(path): why for path, why in doubtful.items()}
    done = [(bytes.fromhex(step["path"]), step["op"]) for step in plan["steps"]]
    back = [os.fsdecode(path) for path, op in done if path not in doubtful and (op != "meta" or path not in closed)]
    return Finished(journal, plan["note"], back, left)


def do(step: dict[str, Any], path: bytes, anchors: Sequence[int | None], parents: Parents) -> None:
    """One operation, if it has not been done yet."""
    op, staged = step["op"], step["name"].encode()
    if op == "meta":
        entry = Entry.parse(step["line"])
        if entry.type != "d":  # Those at the end, with the other directories.
            _set(entry, step.get("ino"), *parents.of(path))
        return
    fd, name = parents.of(path)
    stage = anchors[step["anchor"]]
    if stage is None:
        raise OSError(errno.ENOENT, _GONE)
    if op == "put":
        if inode_of(stage, staged) == step["ino"]:
            os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)
        elif inode_of(fd, name) != step["ino"]:
            raise OSError(errno.ENOENT, _GONE)
    elif op == "swap":
        if inode_of(fd, name) != step["ino"]:
            if inode_of(stage, staged) != step["ino"]:
                raise OSError(errno.ENOENT, _GONE)
            parents.forget()
            fd, name = parents.of(path)
            _swap(step, stage, staged, fd, name)
        for taken in (staged, staged + b".old"):
            check_taken(step, stage, taken, fd, name)
    elif op == "delete":
        if inode_of(stage, staged) is None:
            try:
                _put_aside(step, fd, name, stage, staged)
            except FileNotFoundError:
                return
        check_taken(step, stage, staged, fd, name)


def _set(entry: Entry, inode: int | None, fd: int, name: bytes) -> None:
    """Time and flags of what stays where it is and is no directory."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if inode not in (None, os.fstat(found).st_ino):
            raise OSError(errno.ESTALE, "it is another one than when the rollback was planned")
        os.utime(f"/proc/self/fd/{found}", ns=(entry.mtime, entry.mtime))
        with opened(fd, name) as target:
            if target is not None and os.path.samestat(os.fstat(target), os.fstat(found)):
                set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
    finally:
        os.close(found)


def _swap(step: dict[str, Any], stage: int, staged: bytes, fd: int, name: bytes) -> None:
    try:
        exchange(stage, staged, fd, name)
    except OSError as error:
        # Gone already: by a kill between these two, or by somebody else since it was staged.
        gone = inode_of(fd, name) is None
        if error.errno not in NO_EXCHANGE and not (gone and error.errno == errno.ENOENT):
            raise
        if not gone:
            _put_aside(step, fd, name, stage, staged + b".old")
            check_taken(step, stage, staged + b".old", fd, name)
        os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)


def _is_meant(step: dict[str, Any], info: os.stat_result) -> bool:
    """Whether it is what was to go. A plan of version 0.1.0 does not say."""
    return "was" not in step or not stat.S_ISDIR(info.st_mode) or info.st_ino == step["was"]


def check_taken(step: dict[str, Any], stage: int, taken: bytes, fd: int, name: bytes) -> None:
    """Where what went to the staging directory is another directory than was meant, give it back, and raise OSError."""
    try:
        info = os.stat(taken, dir_fd=stage, follow_symlinks=False)
    except FileNotFoundError:
        return
    if _is_meant(step, info) or info.st_ino == step.get("ino"):
        return
    if step["op"] == "swap" and inode_of(fd, name) == step["ino"]:
        exchange(stage, taken, fd, name)
    else:
        try:
            rename_new(stage, taken, fd, name)
        except OSError:  # The name is taken.
            new = b"%s.%s" % (name[:200], secrets.token_hex(8).encode())
            os.rename(taken, new, src_dir_fd=stage, dst_dir_fd=fd)
    os.fsync(fd)
    raise OSError(errno.ESTALE, "somebody gave its name to another directory, which was to stay, while it was removed")


def _put_aside(step: dict[str, Any], fd: int, name: bytes, stage: int, aside: bytes) -> None:
    """Move what goes to the staging directory. A directory of a lower layer of an overlay cannot be moved as a whole:
    it is emptied, and goes."""
    try:
        os.rename(name, aside, src_dir_fd=fd, dst_dir_fd=stage)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            raise
        folder = os.open(name, DIRECTORY, dir_fd=fd)
        try:
            if not _is_meant(step, os.fstat(folder)):
                raise OSError(errno.ESTALE, "somebody gave its name to another directory") from error
            for _path, folders, names, inner in os.fwalk(b".", topdown=False, dir_fd=folder):
                for one in names:
                    os.unlink(one, dir_fd=inner)
                for one in folders:
                    _rmdir(one, inner)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=fd)


def _rmdir(name: bytes, fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except NotADirectoryError:  # A symlink to one.
        os.unlink(name, dir_fd=fd)


def _unpin(path: bytes, parents: Parents, ours: set[bytes]) -> None:
    """Take immutable and append-only off the path, and off its directory if that gets its own flags at the end."""
    fd, name = parents.of(path)
    if os.path.dirname(path) in ours:
        set_inode_flags(fd, 0, PINNED)
    with opened(fd, name) as target:
        if target is not None:
            set_inode_flags(target, 0, PINNED)


def inode_of(fd: int, name: bytes) -> int | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None
