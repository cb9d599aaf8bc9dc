# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading one path: its entry, its extended attributes, and whether it holds still."""

from __future__ import annotations

import errno
import os
import signal
import stat

from .._errors import EvenkeelError, UsageError
from .entry import (
    Entry,
)

TRIES = 3
# A file system without xattrs, one that is gone since it was listed, and a kernel without the calls.
_NO_XATTRS = (errno.ENOTSUP, errno.ENOENT, errno.ENOSYS)


def entry_of(path: bytes, info: os.stat_result, kind: str, xattrs: tuple[tuple[str, bytes], ...]) -> Entry:
    rdev = info.st_rdev if kind in "cb" else 0
    return Entry(
        path,
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        rdev=rdev,
        xattrs=xattrs,
    )


def may_be_written(fd: int) -> bool:
    """Whether somebody has the file open for writing, or that cannot be known: only otherwise is a lease given.

    It is given back at once. Whoever opens the file just then waits for that, and of the signal that we get for it the
    default is to do nothing.
    """
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def unstable(path: bytes) -> EvenkeelError:
    return EvenkeelError(
        f"{os.fsdecode(path)} is unstable: it changed each of the {TRIES} times it was read; "
        "exclude it, or stop what writes it while the checkpoint is taken"
    )


def moment(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def xattrs_of(where: int | bytes, path: bytes, most: int) -> tuple[tuple[str, bytes], ...]:
    """Name and value of all, ACLs among them; none where the file system has none. UsageError names the ``path``."""
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        # Recorded without them, they would be gone after a rollback.
        raise UsageError(
            f"{os.fsdecode(path)}: its extended attributes cannot be read: {error.strerror}; exclude it"
        ) from error
    found, size = [], 0
    for name in sorted(names):
        found.append((name, os.getxattr(where, name, follow_symlinks=follow)))
        size += len(found[-1][1])
        if size > most:
            raise UsageError(f"{os.fsdecode(path)}: its extended attributes are too long to be kept; exclude it")
    return tuple(found)
