# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that are opened one component at a time, never through a symlink (invariant I8)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Callable

from .._errors import UsageError

# The flags with which every directory is opened.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EAGAIN, errno.ELOOP, errno.ENXIO, errno.ENODEV)


def check_path(path: bytes) -> bytes:
    """Return the path if it is absolute and normal; UsageError otherwise (relative, ``..``, doubled slashes)."""
    if path != b"/" and (
        not path.startswith(b"/") or b"\0" in path or any(part in (b"", b".", b"..") for part in path[1:].split(b"/"))
    ):
        raise UsageError(f"{os.fsdecode(path)!r} is not an absolute path without '.', '..' and doubled slashes")
    return path


def open_dir(path: bytes, declared: bytes = b"") -> int:
    """A descriptor of the directory, reached one component at a time.

    UsageError names a symlink on the way, and the path to write instead of the ``declared`` path. FileNotFoundError and
    NotADirectoryError are those of the system.
    """
    check_path(path)
    fd = os.open(b"/", DIRECTORY)
    walked = b""
    for part in path.split(b"/"):
        if not part:
            continue
        walked += b"/" + part
        try:
            below = os.open(part, DIRECTORY, dir_fd=fd)
        except OSError as error:
            link = _link(part, fd)
            if link is not None:
                real = os.path.realpath(os.fsdecode(declared or path))
                raise UsageError(
                    f"{os.fsdecode(path)} leads through the symlink {os.fsdecode(walked)} -> {os.fsdecode(link)}; "
                    f"declare the real path {real}"
                ) from error
            error.filename = os.fsdecode(walked)
            raise
        finally:
            os.close(fd)
        fd = below
    return fd


def _link(name: bytes, fd: int) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError:
        return None


def open_file(path: bytes) -> BinaryIO:
    """The regular file at the path, open for reading, reached one component at a time. OSError for another type.

    UsageError names a symlink on the way. No pipe or lease is waited for.
    """
    parent = open_dir(os.path.dirname(path))
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(os.path.basename(path), flags, dir_fd=parent)
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", os.fsdecode(path))
    return os.fdopen(fd, "rb")


@contextmanager
def opened(parent: int, name: bytes) -> Iterator[int | None]:
    """The regular file or directory of that name, open; None for another type, and for a file that we may not read.

    The owner can hold a lease on the file, or give the name to another file at this moment: then it is None as well.
    """
    fd = None
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


class Parents:
    """Descriptors of parent directories. The last few stay open, because paths come sorted.

    ``check`` gets the path and the descriptor of each directory that is opened, and raises OSError to refuse it.
    """

    def __init__(self, keep: int = 8, check: Callable[[bytes, int], None] | None = None) -> None:
        self._open: dict[bytes, int] = {}
        self._keep = keep
        self._check = check

    def of(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the parent directory, last component of the path)."""
        parent, name = os.path.split(path)
        if parent not in self._open:
            while len(self._open) >= self._keep:
                os.close(self._open.pop(next(iter(self._open))))
            fd = open_dir(parent)
            try:
                if self._check is not None:
                    self._check(parent, fd)
            except OSError:
                os.close(fd)
                raise
            self._open[parent] = fd
        return self._open[parent], name

    def forget(self) -> None:
        """Close all descriptors: after directories were moved an open descriptor would lead to the old place."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Parents:
        return self

    def __exit__(self, *_error: object) -> None:
        self.forget()


def make_dirs(path: str) -> None:
    """Make the directory, and those above it that are missing, each with the mode 755: we work under the umask 077. For
    a path that nobody else can have lead elsewhere."""
    if not os.path.isdir(path):
        make_dirs(os.path.dirname(path))
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:  # Another process was faster, or it is no directory.
            if not os.path.isdir(path):
                raise
        else:
            os.chmod(path, 0o755)


def ancestors(path: bytes) -> Iterator[bytes]:
    """All directories above the path, the root first."""
    at = path.find(b"/", 1)
    yield b"/"
    while at > 0:
        yield path[:at]
        at = path.find(b"/", at + 1)


def is_ours(uid: int, mode: int) -> bool:
    """Whether nobody else can rename files that we make in a directory of this owner and mode."""
    return uid == os.geteuid() and bool(not mode & 0o022 or mode & stat.S_ISVTX)


def keeps_names(uid: int, mode: int) -> bool:
    """Whether nobody but root and this user can exchange names in a directory of this owner and mode."""
    return is_ours(uid, mode) or (uid == 0 and bool(not mode & 0o022 or mode & stat.S_ISVTX))


def may_be_exchanged(path: bytes) -> bool:
    """Whether another user can give the name of the path, or of a directory above it, to another directory."""
    for above in ancestors(path):
        info = os.stat(above, follow_symlinks=False)
        if not keeps_names(info.st_uid, info.st_mode):
            return True
    return False
