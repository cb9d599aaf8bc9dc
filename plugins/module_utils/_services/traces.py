# SPDX-License-Identifier: GPL-3.0-or-later

"""The traces of a running program: sockets, and files that hold the id of its process. Traces of a program that has
ended are no state, and keep it from starting."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import socket
import stat
import time
from contextlib import suppress

from .._errors import UsageError
from .._host.paths import open_dir

_NAMES = ("*.pid", "*.lock", "*.lck", "pid", "lock")
# The largest size of a file that holds the id of a process alone.
_LONGEST = 20


def may_hold_id(path: bytes, size: int) -> bool:
    """Whether a file of this name and size may be a pid file, or a lock with the id of its holder."""
    name = os.fsdecode(os.path.basename(path))
    return 0 < size <= _LONGEST and any(fnmatch.fnmatchcase(name, pattern) for pattern in _NAMES)


def is_of_the_gone(path: bytes, content: bytes, modified: float) -> bool:
    """Whether the content is the id of a process that does not exist. ``modified``: epoch seconds of the file. Another
    lock file may hold any number, so that one of before the boot, which no running program can own, is no trace."""
    if not re.fullmatch(rb"\s*[1-9][0-9]{0,9}\s*", content) or int(content) > _most():
        return False
    is_lock = path.endswith((b".lock", b".lck", b"/lock"))
    if is_lock and modified < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME):
        return False
    return not os.path.exists(f"/proc/{int(content)}")


def _most() -> int:
    """The largest id of a process."""
    with suppress(OSError, ValueError), open("/proc/sys/kernel/pid_max", encoding="ascii") as stream:
        return int(stream.read())
    return 1 << 22


def clear(path: bytes, is_socket: bool) -> bool:
    """Remove a socket without a listener, or a file with the id of a process that has ended. Returns whether it was
    removed."""
    with suppress(OSError, UsageError):
        folder = open_dir(os.path.dirname(path))
        try:
            name = os.path.basename(path)
            if _has_no_listener(folder, name) if is_socket else is_of_the_gone(path, *_content(folder, name)):
                os.unlink(name, dir_fd=folder)
                return True
        finally:
            os.close(folder)
    return False


def _content(folder: int, name: bytes) -> tuple[bytes, float]:
    """(the content of the file, epoch seconds of its last change)."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, _LONGEST + 1), os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def _has_no_listener(folder: int, name: bytes) -> bool:
    """Whether nobody listens on the socket. Other types than streams, and full queues, give another error.

    Never through a symlink: a connection of root to a socket of systemd would start its unit.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.setblocking(False)
            return end.connect_ex(b"/proc/self/fd/%d" % fd) == errno.ECONNREFUSED
    finally:
        os.close(fd)
