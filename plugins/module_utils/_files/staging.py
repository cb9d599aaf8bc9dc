# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Staging: everything new is made ready before the first live path changes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from typing import Any

from .._errors import Damaged, EvenkeelError, Refused
from .._host.durable import (
    exchange,
    syncfs,
    write_file,
)
from .._host.paths import Parents, open_dir
from .._store.store import Store
from .anchors import Anchors
from .entry import ABOVE, PINNED, Entry
from .known import Known, another, noting
from .making import finish_folders, make
from .preflight import below
from .step import Step

# What exchanging two names says where the file system cannot.
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
# A disk that is full, for everybody or for one user, and one that fails.
FULL = (errno.ENOSPC, errno.EDQUOT)


class Staging:
    """Everything new, made ready in the staging directories. ``left``: target -> why, of what could not be.

    ``partly``: what the store cannot give back, or what the disk has no room for, is left out as well.
    """

    def __init__(self, store: Store, journal: str, partly: bool) -> None:
        self.left: dict[str, str] = {}
        self._store = store
        self._journal = journal
        self._partly = partly
        self._anchors = Anchors(journal)
        self._known = Known({})
        self._names: dict[tuple[int, int, bytes], bytes] = {}
        self._closed: set[bytes] = set()
        self._staged: dict[bytes, tuple[int, bytes]] = {}
        self._damaged: list[str] = []

    def plan(self, steps: Sequence[Step], directories: Sequence[str], note: dict[str, Any]) -> dict[str, Any]:
        """What to carry out after COMMIT; written to the journal, and all of it is durable."""
        created = {os.fsencode(step.target) for step in steps if step.detail["op"] in ("put", "swap")}
        planned = []
        looked_at: dict[bytes, Any] = {}
        for step in steps:
            looked_at[os.path.dirname(os.fsencode(step.target))] = step.detail.get("folder")
        for step in steps:
            looked_at.setdefault(os.fsencode(step.target), step.detail.get("self"))
        parents = Parents(check=lambda path, fd: self._compare(path, fd, looked_at.get(path)))
        try:
            for number, step in enumerate(steps):
                try:
                    planned.append(self._ready(step, number, created, parents))
                except Damaged as error:
                    self._damaged.append(f"{step.target}: {error.cause}")
                    self.left[step.target] = error.cause
                except OSError as error:
                    if error.errno in FULL and not self._partly:
                        error.filename = step.target
                        raise
                    self.left[step.target] = error.strerror or str(error)
                    if error.errno == errno.ESTALE:
                        self._closed.add(os.path.dirname(os.fsencode(step.target)))
                except EvenkeelError as error:
                    self.left[step.target] = error.cause
            if self._damaged and not self._partly:
                raise Damaged(
                    f"the store cannot give back {len(self._damaged)} of the paths; nothing was changed. "
                    f"Recover the checkpoint from a replica (ft_recover). {'; '.join(self._damaged[:20])}"
                )
            for number in range(len(self._anchors.paths)):
                syncfs(self._anchors.fd(number))
            doubtful: dict[bytes, str] = {}
            for path in (Entry.parse(line).path for line in directories):
                if path not in self._known.of:
                    with noting(doubtful, path):
                        os.close(self._open(path, looked_at.get(path)))
            for path, why in doubtful.items():
                self.left.setdefault(os.fsdecode(path), why)
        finally:
            parents.forget()
            self._anchors.close()
        self.left.update(below(steps, self.left))
        missing = {os.fsencode(one) for one in self.left}
        lines = [Entry.parse(step.detail["line"]) for step in steps if "line" in step.detail]
        pins = [[one.path.hex(), one.flags & PINNED] for one in lines if one.type == "f" and one.flags & PINNED]
        plan = {
            "note": note,
            "anchors": self._anchors.stored(),
            "known": self._known.stored(),
            "closed": [path.hex() for path in sorted(self._closed)],
            "steps": [one for one in planned if bytes.fromhex(one["path"]) not in missing],
            "directories": [line for line in directories if Entry.parse(line).path not in missing],
            "pins": [pin for pin in pins if bytes.fromhex(str(pin[0])) not in missing],
        }
        write_file(os.path.join(self._journal, "plan"), json.dumps(plan).encode())
        return plan

    def _open(self, path: bytes, seen: Any) -> int:
        fd = open_dir(path)
        try:
            self._compare(path, fd, seen)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _compare(self, path: bytes, fd: int, seen: Any) -> None:
        """Note which directory it is; OSError where it is not the one that was ``seen`` (device, inode)."""
        info = os.fstat(fd)
        _inode, mount = self._known.note(path, info.st_ino)
        # The same one under two names: it was looked at here, and then there.
        first = self._names.setdefault((info.st_dev, info.st_ino, mount), path)
        if first != path or (seen is not None and (info.st_dev, info.st_ino) != tuple(seen)):
            raise OSError(errno.ESTALE, another(path))

    def _ready(self, step: Step, number: int, created: set[bytes], parents: Parents) -> dict[str, Any]:
        op, path = step.detail["op"], os.fsencode(step.target)
        one: dict[str, Any] = {"op": op, "path": path.hex(), "name": str(number)}
        if op == "meta":
            one["line"] = step.detail["line"]
            if not one["line"].startswith("d"):
                fd, name = parents.of(path)
                one["ino"] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
            return one
        if os.path.dirname(path) not in created:
            parents.of(path)
        if op != "put":
            # Of what is no directory nothing is asked: whoever can exchange it can delete it as well.
            one["was"] = step.detail["self"][1] if step.detail.get("self") else None
        one["anchor"] = self._anchors.of(path, created)
        if op != "delete":
            fd, name = self._anchors.fd(one["anchor"]), str(number).encode()
            folders = []
            entry = Entry.parse(step.detail["line"])
            for part in [entry, *map(Entry.parse, step.detail.get("tree", ()))]:
                where = name + part.path[len(path) :]
                try:
                    make(self._store, part, fd, where, self._staged)
                except Damaged:
                    if part.sha256:
                        self._store.quarantine(part.sha256)
                    raise
                self._staged[part.path] = (fd, where)
                if part.type == "d":
                    folders.append((part, where))
            if "tree" in step.detail:
                _check_exchange(fd, step.target)
                finish_folders(folders, fd)
            one["ino"] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
            if entry.type in ("d", ABOVE):
                self._known.note(path, one["ino"])
        return one


def _check_exchange(stage: int, path: str) -> None:
    """Refused where the file system cannot exchange two names: a directory would be gone for a moment (I4)."""
    names = (b"one", b"other")
    for name in names:
        os.mkdir(name, 0o700, dir_fd=stage)
    try:
        exchange(stage, names[0], stage, names[1])
    except OSError as error:
        if error.errno not in NO_EXCHANGE:
            raise
        raise Refused(
            f"the file system of {path} cannot exchange directories atomically; nothing was changed. "
            "Roll back with strategy paths"
        ) from error
    finally:
        for name in names:
            os.rmdir(name, dir_fd=stage)
