# SPDX-License-Identifier: GPL-3.0-or-later

"""Trust in paths: a file counts only where no other user can replace it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from typing import BinaryIO

# The number of symlinks that the kernel follows.
_LINKS = 40


def trusted() -> set[int]:
    """The user ids whose directories we trust: root's and our own."""
    return {0, os.geteuid()}


def stranger(path: str, owners: Collection[int]) -> str:
    """The reason in words why users other than ``owners`` could make the path lead elsewhere; empty when they cannot.

    Checks every directory and symlink on the way, from the root on, but not the last component. Components that do not
    exist yet belong to nobody. All users may write to a sticky directory: an entry of one of ``owners`` is safe in it.
    """
    for place, found in _components(path):
        if found.st_uid not in owners:
            kind = "symlink" if stat.S_ISLNK(found.st_mode) else "directory"
            return f"the {kind} {place} belongs to uid {found.st_uid}"
        if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            return f"the directory {place} has mode {stat.S_IMODE(found.st_mode):o}, so that others can write to it"
    return ""


def owners(path: str) -> set[int]:
    """The owners of the directories and symlinks on the way to the path."""
    return {found.st_uid for _place, found in _components(path)}


def _components(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each directory and each symlink on the way to the path."""
    todo = [part for part in os.path.abspath(path).split("/") if part][::-1]
    at, links = "/", 0
    yield at, os.lstat(at)
    while todo:
        name = todo.pop()
        if not todo:
            return
        here = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        try:
            found = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield here, found
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(here)
            at = "/" if target.startswith("/") else at
            todo += [part for part in target.split("/") if part not in ("", ".")][::-1]
        else:
            at = here


def open_regular(path: str) -> BinaryIO:
    """The file, open for reading. OSError for another type. No symlink is followed, no pipe or lease waited for.

    Only what is known to be a regular file is opened: to open a device can have an effect (a watchdog, a tape).
    """
    at = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        kind = os.fstat(at).st_mode
        if stat.S_ISLNK(kind):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        fd = os.open(f"/proc/self/fd/{at}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(at)
    return os.fdopen(fd, "rb")


def read_small(path: str, longest: int) -> tuple[bytes, int]:
    """(content, owner) of the file. OSError for another type, and for a file with more than ``longest`` bytes."""
    with open_regular(path) as stream:
        data = stream.read(longest + 1)
        owner = os.fstat(stream.fileno()).st_uid
    if len(data) > longest:
        raise OSError(errno.EFBIG, f"it has more than {longest} bytes", path)
    return data, owner
