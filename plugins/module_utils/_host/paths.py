# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Walking to a path without being led astray: no component is followed through a symlink (invariant I8)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Callable, NamedTuple

from .._errors import UsageError

# How a directory is opened, wherever that is.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_TO_BE_READ = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EAGAIN, errno.ELOOP, errno.ENXIO, errno.ENODEV)


def check_path(path: bytes) -> bytes:
    """The path, if it is absolute and normal; UsageError otherwise (relative, ``..``, doubled slashes)."""
    if path != b"/" and (
        not path.startswith(b"/") or b"\0" in path or any(part in (b"", b".", b"..") for part in path[1:].split(b"/"))
    ):
        raise UsageError(f"{os.fsdecode(path)!r} is not an absolute path without '.', '..' and doubled slashes")
    return path


def open_dir(path: bytes, declared: bytes = b"") -> int:
    """A descriptor of the directory, reached one component at a time.

    Raises UsageError naming the symlink on the way, and what to write instead of the ``declared`` path;
    FileNotFoundError and NotADirectoryError as the system does.
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


@contextmanager
def opened(parent: int, name: bytes) -> Iterator[int | None]:
    """The regular file or directory of that name, open; None for anything else, and for what we may not read.

    Its owner can hold a lease on it, or give the name to something else at this moment: that is None as well.
    """
    fd = None
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_READ:
            raise
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


class Parents:
    """Descriptors of parent directories, the last few kept open, because paths come sorted.

    ``check`` gets the path and the descriptor of each that is opened, and raises OSError for one that will not do.
    """

    def __init__(self, keep: int = 8, check: Callable[[bytes, int], None] | None = None) -> None:
        self._open: dict[bytes, int] = {}
        self._keep = keep
        self._check = check

    def of(self, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory that holds the path, last name)."""
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
        """Close all; after directories were moved a kept descriptor would name the old place."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __enter__(self) -> Parents:
        return self

    def __exit__(self, *_error: object) -> None:
        self.forget()


def ancestors(path: bytes) -> Iterator[bytes]:
    """All directories above the path, the root first."""
    at = path.find(b"/", 1)
    yield b"/"
    while at > 0:
        yield path[:at]
        at = path.find(b"/", at + 1)


def is_ours(uid: int, mode: int) -> bool:
    """Whether nobody else can give another name to what we make in a directory of this owner and mode."""
    return uid == os.geteuid() and bool(not mode & 0o022 or mode & stat.S_ISVTX)


def mount_of(path: bytes, points: Collection[bytes]) -> bytes:
    """The mount point at or above the path that is nearest to it. Pure."""
    while path not in points and path != b"/":
        path = os.path.dirname(path)
    return path


class Mount(NamedTuple):
    """``root``: which part of the file system on ``device`` is seen at ``point``. ``kind``: of the file system.
    ``parent``: the number of the mount whose directory it covers."""

    point: bytes
    root: bytes
    device: bytes
    kind: str
    number: int
    parent: int


def mounts(process: str = "self") -> list[Mount]:
    """What is mounted in the mount namespace of this process, or of one by its id, what was not moved in the order of
    mounting."""
    found = []
    with open(f"/proc/{process}/mountinfo", "rb") as stream:
        for line in stream:
            fields = line.rstrip(b"\n").split(b" ")
            # The kernel writes blanks and backslashes as octal escapes.
            root, point = (one.decode("unicode_escape").encode("latin-1") for one in fields[3:5])
            # Whoever mounts with FUSE chooses a part of it.
            kind = fields[fields.index(b"-") + 1].decode("ascii", "backslashreplace")
            found.append(Mount(point, root, fields[2], kind, int(fields[0]), int(fields[1])))
    return found


def mount_points() -> dict[bytes, str]:
    """Mount point -> file system type, of this process's mount namespace: of what no other mount hides."""
    found = mounts()
    placed = [one for one in found if one.parent != one.number]  # The very first one is its own parent.
    known = {one.number: one for one in placed}
    covered: dict[int, set[bytes]] = {}
    for one in placed:
        covered.setdefault(one.parent, set()).add(one.point)

    def hidden(one: Mount) -> bool:
        # By one on top of it, or by one on its parent, or on that one's, which covers a directory above.
        if one.point in covered.get(one.number, ()):
            return True
        above: Mount | None = one
        while above is not None:
            beside = covered.get(above.parent, set())
            if any(top in beside for top in ancestors(above.point) if top != above.point):
                return True
            above = known.get(above.parent)
        return False

    return {one.point: one.kind for one in found if not hidden(one)}


def file_system_of(path: str) -> str:
    """The type of the file system on which the path lies; empty where that cannot be told."""
    points = mount_points()
    return points.get(mount_of(os.fsencode(path), points), "")
