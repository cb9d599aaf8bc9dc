# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks of files (flock), and who holds them. Every user who can open a file can lock it: the lock of a stranger counts
for nothing. A user may have opened a file or directory of ours while its mode let him, and keeps it open."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress

from .durable import TEMPORARY
from .processes import user_ids
from .trust import trusted

# Seconds after which a file that a killed process has made, to replace a locked file, is in nobody's way.
_STALE = 10.0


def lock(fd: int, wait: float = 0.0) -> bool:
    """Lock the open file or directory for us alone; whether that was possible within so many seconds."""
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        time.sleep(0.1)


def holders(path: str) -> list[int]:
    """The processes that lock the file or directory, as the kernel tells."""
    with suppress(OSError, ValueError, IndexError):
        inode = str(os.stat(path).st_ino)
        with open("/proc/locks") as stream:
            lines = [line.split() for line in stream]
        return [int(one[-4]) for one in lines if one[1] == "FLOCK" and one[-3].rpartition(":")[2] == inode]
    return []


def is_strangers(path: str) -> bool:
    """Whether no process of ours holds the lock that somebody holds: it belongs to another user, runs with rights that
    another user has lent from us (sudo), or has ended and left the lock to such a process."""
    found = holders(path)
    return bool(found) and not any(map(_is_ours, found))


def _is_ours(pid: int) -> bool:
    ids = user_ids(pid)
    try:
        return (
            bool(ids) and ids <= trusted() and not os.stat(f"/proc/{pid}/exe").st_mode & (stat.S_ISUID | stat.S_ISGID)
        )
    except OSError:
        return False


def replace(path: str, data: bytes, mode: int) -> None:
    """Put a new file that nobody has locked in the place of a file that a stranger holds locked. Where several
    processes do so at the same time, the first puts its file there."""
    found = os.stat(path)
    fresh = f"{path}{TEMPORARY}fresh"
    with suppress(OSError):
        if time.time() > os.stat(fresh).st_mtime + _STALE:
            os.unlink(fresh)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    try:
        os.write(fd, data)
        if os.path.samestat(found, os.stat(path)):
            os.rename(fresh, path)
        else:
            os.unlink(fresh)
    finally:
        os.close(fd)
