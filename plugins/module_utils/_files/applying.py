# SPDX-License-Identifier: GPL-3.0-or-later

"""Carrying out a plan after COMMIT: each operation first looks whether it has been done."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence

from .._errors import UsageError
from .._host.durable import (
    exchange,
    rename_new,
    set_inode_flags,
    syncfs,
)
from .._host.paths import DIRECTORY, Parents, ancestors, opened
from .anchors import own
from .entry import FLAGS, PINNED, Entry
from .journals import Operation, Plan
from .known import Known, noting
from .making import attributes, narrow
from .staging import FULL, NO_EXCHANGE
from .step import DELETE, META, PUT, SWAP

# A disk that takes nothing more: a path that is not durable is an error.
_DISK = (*FULL, errno.EIO, errno.EROFS)
_GONE = "the object that was staged for it is gone, or is not ours any more"


def apply(plan: Plan) -> tuple[list[str], dict[str, str]]:
    """The paths that the plan has put back, and the paths that it could not put back: path -> why."""
    work = _Work(plan)
    work.carry_out()
    doubtful, closed = work.doubtful, work.closed
    left = {os.fsdecode(path): why for path, why in doubtful.items()}
    back = [
        os.fsdecode(one.path)
        for one in plan.operations
        if one.path not in doubtful and (one.op != META or one.path not in closed)
    ]
    return back, left


class _Work:
    """A plan that is being carried out. ``doubtful``: path -> why it could not be put back. ``closed``: directories in
    which something stayed that was to go, and directories that somebody has exchanged."""

    def __init__(self, plan: Plan) -> None:
        self.doubtful: dict[bytes, str] = {}
        self.closed = set(plan.closed)
        self._plan = plan
        self._known = Known(plan.known)
        self._stages: list[int | None] = []
        self._narrowed: set[bytes] = set()
        self._touched: set[bytes] = set()
        self._in_place: list[bytes] = []

    def carry_out(self) -> None:
        """All operations of the plan, then the attributes of directories, then the pins; durable at the end."""
        try:
            for anchor in self._plan.anchors:
                self._stages.append(own(anchor))
            self._narrow()
            with Parents(check=self._known.check) as parents:
                self._operate(parents)
                parents.forget()
                self._finish()
                self._pin(parents)
            sync([fd for fd in self._stages if fd is not None], self._touched, self._in_place)
        finally:
            for stage in self._stages:
                if stage is not None:
                    os.close(stage)

    def _narrow(self) -> None:
        made = {one.path for one in self._plan.operations if one.op in (PUT, SWAP)}
        for entry in self._plan.directories:
            try:
                fd = self._known.open(entry.path)
            except (OSError, UsageError):
                # Nobody can enter a directory that a step makes until then. Nothing goes into another directory.
                if entry.path not in made:
                    self._known.shut(entry.path)
                continue
            try:
                with noting(self.doubtful, entry.path):
                    self._narrowed.add(entry.path)
                    if not narrow(entry, fd):
                        self._narrowed.remove(entry.path)
                if entry.path in self.doubtful and os.geteuid() == 0:
                    self._known.shut(entry.path)
            finally:
                os.close(fd)

    def _operate(self, parents: Parents) -> None:
        ours = {entry.path for entry in self._plan.directories}
        for one in self._plan.operations:
            with noting(self.doubtful, one.path, self.closed):
                try:
                    do(one, self._stages, parents)
                except PermissionError:
                    _unpin(one.path, parents, ours)
                    do(one, self._stages, parents)
                if one.op == META:
                    self._in_place.append(one.path)
                else:
                    self._touched.add(os.path.dirname(one.path))

    def _finish(self) -> None:
        stayed = [*self._plan.left, *self.doubtful, *(one + b"/" for one in self.closed)]
        holding = {above: one for one in stayed for above in ancestors(one)}
        for entry in self._plan.directories:
            if entry.path in self.closed:
                continue  # The directory may hold what nobody else must see. The proof names the difference.
            if entry.path in holding and entry.path in self._narrowed and entry.path in self._plan.loose:
                # Another user may have given its name to a directory with contents that this user must not see.
                path = os.fsdecode(holding[entry.path]).rstrip("/")
                words = f"it is not opened to other users while {path} is not as recorded"
                self.doubtful.setdefault(entry.path, words)
                continue
            with noting(self.doubtful, entry.path):
                fd = self._known.open(entry.path)
                try:
                    set_inode_flags(fd, 0, PINNED)
                    attributes(entry, fd)
                    if entry.type == "d":
                        set_inode_flags(fd, entry.flags, FLAGS)
                finally:
                    os.close(fd)
                self._in_place.append(entry.path)
            if entry.path in self.doubtful:
                holding.update(dict.fromkeys(ancestors(entry.path), entry.path))

    def _pin(self, parents: Parents) -> None:
        inodes = {one.path: one.inode for one in self._plan.operations}
        for path, flags in self._plan.pins:
            with noting(self.doubtful, path):
                fd, name = parents.of(path)
                with opened(fd, name) as target:
                    if target is not None and inodes.get(path) in (None, os.fstat(target).st_ino):
                        # Where it cannot be set, the proof says so.
                        set_inode_flags(target, flags, PINNED)
                self._in_place.append(path)


def do(operation: Operation, stages: Sequence[int | None], parents: Parents) -> None:
    """An operation, if it has not been done yet. ``stages``: descriptors of the staging directories, by number."""
    if operation.op == META:
        if operation.entry is not None and operation.entry.type != "d":  # Directories get theirs at the end.
            _set(operation.entry, operation.inode, *parents.of(operation.path))
        return
    fd, name = parents.of(operation.path)
    stage, staged = stages[operation.anchor], operation.name
    if stage is None:
        raise OSError(errno.ENOENT, _GONE)
    if operation.op == PUT:
        if inode_of(stage, staged) == operation.inode:
            os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)
        elif inode_of(fd, name) != operation.inode:
            raise OSError(errno.ENOENT, _GONE)
    elif operation.op == SWAP:
        if inode_of(fd, name) != operation.inode:
            if inode_of(stage, staged) != operation.inode:
                raise OSError(errno.ENOENT, _GONE)
            parents.forget()
            fd, name = parents.of(operation.path)
            _swap(operation, stage, fd, name)
        for taken in (staged, staged + b".old"):
            check_taken(operation, stage, taken, fd, name)
    elif operation.op == DELETE:
        if inode_of(stage, staged) is None:
            try:
                _put_aside(operation, fd, name, stage, staged)
            except FileNotFoundError:
                return
        check_taken(operation, stage, staged, fd, name)


def _set(entry: Entry, inode: int | None, fd: int, name: bytes) -> None:
    """Set time and flags of an object that stays where it is and is no directory."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if inode not in (None, os.fstat(found).st_ino):
            raise OSError(errno.ESTALE, "it is another object than when the rollback was planned")
        os.utime(f"/proc/self/fd/{found}", ns=(entry.mtime, entry.mtime))
        with opened(fd, name) as target:
            if target is not None and os.path.samestat(os.fstat(target), os.fstat(found)):
                set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
    finally:
        os.close(found)


def _swap(operation: Operation, stage: int, fd: int, name: bytes) -> None:
    staged = operation.name
    try:
        exchange(stage, staged, fd, name)
    except OSError as error:
        # The name is gone already: by a kill between these two, or by somebody else since it was staged.
        gone = inode_of(fd, name) is None
        if error.errno not in NO_EXCHANGE and not (gone and error.errno == errno.ENOENT):
            raise
        if not gone:
            _put_aside(operation, fd, name, stage, staged + b".old")
            check_taken(operation, stage, staged + b".old", fd, name)
        os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)


def _is_meant(operation: Operation, info: os.stat_result) -> bool:
    """Whether the object with this status is the object that was to go."""
    return not operation.checked or not stat.S_ISDIR(info.st_mode) or info.st_ino == operation.old_inode


def check_taken(operation: Operation, stage: int, taken: bytes, fd: int, name: bytes) -> None:
    """Where the wrong directory went to the staging directory, give it back, and raise OSError."""
    try:
        info = os.stat(taken, dir_fd=stage, follow_symlinks=False)
    except FileNotFoundError:
        return
    if _is_meant(operation, info) or info.st_ino == operation.inode:
        return
    if operation.op == SWAP and inode_of(fd, name) == operation.inode:
        exchange(stage, taken, fd, name)
    else:
        try:
            rename_new(stage, taken, fd, name)
        except OSError:  # The name is taken.
            new = b"%s.%s" % (name[:200], secrets.token_hex(8).encode())
            os.rename(taken, new, src_dir_fd=stage, dst_dir_fd=fd)
    os.fsync(fd)
    raise OSError(errno.ESTALE, "somebody gave its name to another directory, which was to stay, while it was removed")


def _put_aside(operation: Operation, fd: int, name: bytes, stage: int, aside: bytes) -> None:
    """Move the object that goes to the staging directory.

    A directory of a lower layer of an overlay cannot be moved as a whole: it is emptied, and removed.
    """
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
            if not _is_meant(operation, os.fstat(folder)):
                raise OSError(errno.ESTALE, "somebody gave its name to another directory") from error
            for _path, folders, names, inner in os.fwalk(b".", topdown=False, dir_fd=folder):
                for each in names:
                    os.unlink(each, dir_fd=inner)
                for each in folders:
                    _rmdir(each, inner)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=fd)


def _rmdir(name: bytes, fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except NotADirectoryError:  # A symlink to a directory.
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
    """The inode number of the object with this name; None where there is none."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def sync(anchors: list[int], touched: set[bytes], in_place: list[bytes]) -> None:
    """Make durable the directories ``touched`` by renames, and the paths that got other attributes where they were."""
    many = len(touched) + len(in_place) > 16
    synced: set[int] = set()
    for fd in anchors if many else ():
        syncfs(fd)
        synced.add(os.fstat(fd).st_dev)
    with Parents() as parents:
        # Where something was renamed there is a staging directory; where only attributes were set there may be none.
        for path in in_place if many else sorted({*touched, *in_place}):
            try:
                fd, name = parents.of(path)
            except (OSError, UsageError) as error:
                if getattr(error, "errno", None) in _DISK:
                    raise
                continue  # A later step deleted it, and its parent is among the touched. Or it leads elsewhere by now.
            with opened(fd, name or b".") as target:
                # A symlink, a FIFO and a device cannot be synced, but the directory that holds them can.
                found = fd if target is None else target
                if not many and (target is not None or not _is_regular(fd, name)):
                    os.fsync(found)
                elif os.fstat(found).st_dev not in synced:
                    syncfs(found)
                    synced.add(os.fstat(found).st_dev)


def _is_regular(folder: int, name: bytes) -> bool:
    """Whether the name is that of a regular file. A file that cannot be opened is synced with its whole file system."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
