# SPDX-License-Identifier: GPL-3.0-or-later

"""Staging: everything new is made ready before the first live path changes."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from .._errors import Damaged, EvenkeelError, Refused
from .._host.durable import exchange, syncfs
from .._host.paths import Parents, ancestors, keeps_names, may_be_exchanged, open_dir
from .._store.objects import Reader
from .._store.store import Store
from .anchors import Anchors
from .entry import PINNED, Entry
from .journals import Note, Operation, Plan
from .known import Known, another, noting
from .making import finish_folders, make
from .preflight import below
from .removal import take_out
from .step import DELETE, META, PUT, SWAP, Inode, PathStep

# The errors of exchanging two names on a file system that cannot.
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
# The errors of a disk that is full, for everybody or for one user.
FULL = (errno.ENOSPC, errno.EDQUOT)


class Staging:
    """Everything new, made ready in the staging directories. ``left``: target -> why, for each step that failed.

    ``partly``: a path that the store cannot give back, or for which the disk has no room, is left out as well. ``left``
    at the beginning: the steps that are left out.
    """

    def __init__(self, store: Store, journal: str, partly: bool, left: Mapping[str, str] | None = None) -> None:
        self.left = dict(left or {})
        self._store = store
        self._contents = Reader(store.objects)
        self._journal = journal
        self._partly = partly
        self._anchors = Anchors(journal)
        self._known = Known({})
        self._names: dict[tuple[int, int, bytes], bytes] = {}
        self._closed: set[bytes] = set()
        self._staged: dict[bytes, tuple[int, bytes]] = {}

    def plan(self, steps: Sequence[PathStep], directories: Sequence[Entry], note: Note) -> Plan:
        """The plan to carry out after COMMIT. It is written to the journal, and all that it needs is durable."""
        seen = _seen(steps)
        loose = _loose(directories)
        parents = Parents(check=lambda path, fd: self._compare(path, fd, seen.get(path)))
        try:
            operations = list(self._operations(steps, parents))
            for number in range(len(self._anchors.made)):
                syncfs(self._anchors.fd(number))
            self._compare_other_directories((entry.path for entry in directories), seen)
        finally:
            parents.forget()
            self._contents.close()
            self._anchors.close()
        self.left.update(below(steps, self.left))
        missing = {os.fsencode(one) for one in self.left}
        for entry in directories:
            if entry.path in missing:  # The directory keeps its access: nothing goes into it.
                self._known.shut(entry.path)
        files = [step.entry for step in steps if step.entry is not None and step.entry.type == "f"]
        plan = Plan(
            note,
            self._anchors.made,
            self._known.of,
            self._closed,
            [one for one in operations if one.path not in missing],
            [entry for entry in directories if entry.path not in missing],
            [(one.path, one.flags & PINNED) for one in files if one.flags & PINNED and one.path not in missing],
            loose,
            missing,
        )
        plan.write(self._journal)
        return plan

    def _operations(self, steps: Sequence[PathStep], parents: Parents) -> Iterator[Operation]:
        """Stage the steps. Steps that failed are in ``left`` afterwards."""
        created = {step.path for step in steps if step.op in (PUT, SWAP)}
        damaged: list[str] = []
        for number, step in enumerate(steps):
            try:
                yield self._ready(step, number, created, parents)
            except Damaged as error:
                damaged.append(f"{step.target}: {error.cause}")
                self.left[step.target] = error.cause
            except OSError as error:
                if error.errno in FULL and not self._partly:
                    error.filename = step.target
                    raise
                self.left[step.target] = error.strerror or str(error)
                if error.errno == errno.ESTALE:
                    self._closed.add(os.path.dirname(step.path))
            except EvenkeelError as error:
                self.left[step.target] = error.cause
        if damaged and not self._partly:
            raise not_there(damaged)

    def _compare_other_directories(self, paths: Iterable[bytes], seen: dict[bytes, Inode | None]) -> None:
        """Compare the directories that no step has led through."""
        doubtful: dict[bytes, str] = {}
        for path in paths:
            if path not in self._known.of:
                with noting(doubtful, path):
                    fd = open_dir(path)
                    try:
                        self._compare(path, fd, seen.get(path))
                    finally:
                        os.close(fd)
        for path, why in doubtful.items():
            self.left.setdefault(os.fsdecode(path), why)

    def _compare(self, path: bytes, fd: int, seen: Inode | None) -> None:
        """Note the identity of the open directory; OSError where it is not the directory that was ``seen``."""
        info = os.fstat(fd)
        _inode, mount = self._known.note(path, info.st_ino)
        # The same directory under two names: it was looked at here, and then there.
        first = self._names.setdefault((info.st_dev, info.st_ino, mount), path)
        if first != path or (seen is not None and (info.st_dev, info.st_ino) != seen):
            raise OSError(errno.ESTALE, another(path))

    def _ready(self, step: PathStep, number: int, created: Collection[bytes], parents: Parents) -> Operation:
        """The operation of a step, with its new object staged under the step's number."""
        path, name = step.path, str(number).encode()
        if step.op == META:
            inode = None
            if step.entry is not None and step.entry.type != "d":
                inode = _inode_of(*parents.of(path))
            return Operation(META, path, name, inode=inode, entry=step.entry)
        if os.path.dirname(path) not in created:
            parents.of(path)
        anchor = self._anchors.of(path, created)
        inode = self._make(step, self._anchors.fd(anchor), name) if step.op != DELETE else None
        # An object that is no directory is not compared: a user who can exchange it can delete it as well.
        former = step.itself[1] if step.itself is not None and step.op != PUT else None
        return Operation(step.op, path, name, anchor, inode, former, checked=step.op != PUT)

    def _make(self, step: PathStep, stage: int, name: bytes) -> int:
        """Make the objects of a step in the open staging directory; the inode number of the first.

        Where one of them cannot be made, none stays: their room is for the steps that follow.
        """
        try:
            return self._made(step, stage, name)
        except (OSError, EvenkeelError):
            for entry in step.makes:
                self._staged.pop(entry.path, None)
            with suppress(OSError):
                take_out(stage, name)
            raise

    def _made(self, step: PathStep, stage: int, name: bytes) -> int:
        folders = []
        for entry in step.makes:
            where = name + entry.path[len(step.path) :]
            try:
                make(self._contents, entry, stage, where, self._staged)
            except Damaged as error:
                if entry.sha256 and error.__cause__ is None:  # A content that cannot be read now may be whole.
                    self._store.quarantine(entry.sha256)
                raise
            self._staged[entry.path] = (stage, where)
            if entry.type == "d":
                folders.append((entry, where))
        if step.tree is not None:
            _check_exchange(stage, step.target)
            finish_folders(folders, stage)
        inode = _inode_of(stage, name)
        if step.makes_directory:
            self._known.note(step.path, inode)
        return inode


def not_there(damaged: Sequence[str]) -> Damaged:
    """The error for paths, each with its cause, of which the store has no whole content."""
    return Damaged(
        f"the store cannot give back {len(damaged)} of the paths; nothing was changed. "
        f"Recover the checkpoint from a replica (ft_recover). {'; '.join(damaged[:20])}"
    )


def check_contents(store: Store, steps: Sequence[PathStep]) -> None:
    """Damaged where the store lacks a content of the steps, or has one of another size. Contents are not read."""
    damaged = {}
    for step in steps:
        for entry in step.makes:
            try:
                if entry.sha256 and store.objects.size(entry.sha256) != entry.size:
                    damaged[step.target] = f"object {entry.sha256} has another size than recorded"
            except Damaged as error:
                damaged[step.target] = error.cause
    if damaged:
        raise not_there([f"{path}: {why}" for path, why in damaged.items()])


def _seen(steps: Sequence[PathStep]) -> dict[bytes, Inode | None]:
    """The directories of the steps, as the scan found them."""
    seen = {os.path.dirname(step.path): step.folder for step in steps}
    for step in steps:
        seen.setdefault(step.path, step.itself)
    return seen


def _loose(directories: Sequence[Entry]) -> set[bytes]:
    """The directories whose names another user can exchange, or could before owners and modes come back."""
    open_to_others = {entry.path for entry in directories if not keeps_names(entry.uid, entry.mode)}
    found = set()
    for entry in directories:
        try:
            loose = may_be_exchanged(entry.path)
        except OSError:  # A step makes it, or a directory above it; or another user changes names just now.
            loose = True
        if loose or any(above in open_to_others for above in ancestors(entry.path)):
            found.add(entry.path)
    return found


def _inode_of(folder: int, name: bytes) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino


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
