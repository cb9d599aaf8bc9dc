# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``users``: accounts and groups, the six files of them as one set, under the lock that useradd takes."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .._errors import Refused
from .._host.options import Options, read
from .._host.system import System
from .kind import Kind

OPTIONS: Options = {}
_FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
# struct flock: type, whence, start, length, process, padding.
_FLOCK = "hhqqi4x"


def kind(etc: str = "/etc", patience: float = 15.0) -> Kind:
    """The kind for the files in ``etc``; ``patience`` in seconds, by default that of lckpwdf(3)."""

    def hold(system: System, limit: float | None = None) -> AbstractContextManager[None]:
        return held(os.path.join(etc, ".pwd.lock"), patience if limit is None else min(limit, patience), system)

    return Kind(
        options=OPTIONS,
        check=check,
        # All of it is files.
        capture=lambda _spec, _sink, _system: [],
        plan=lambda _then, _at: [],
        apply=lambda _steps, _at: [],
        verify=lambda _then, _system: [],
        trees=lambda _spec: [os.path.join(etc, name) for name in _FILES],
        held=hold,
    )


def check(spec: dict[str, Any]) -> dict[str, Any]:
    """The declaration, which has no keys; UsageError names one that is given."""
    return read(OPTIONS, spec, "users")


@contextmanager
def held(path: str, patience: float, system: System) -> Iterator[None]:
    """Keep useradd, passwd, vipw and their like out, as lckpwdf(3) does. Refused names the process that has the lock.

    The lock belongs to our descriptor, not to our process: to read a tree that ``path`` is in would drop that one.
    """
    lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"users: {path} cannot be opened to lock it: {error.strerror}; nothing was changed") from error
    try:
        end = system.monotonic() + patience
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if system.monotonic() >= end:
                    pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock))[4]
                    who = f"process {pid}" if pid > 0 else "another process"
                    raise Refused(
                        f"users: {path} has been locked for {patience:g} s by {who} (useradd, vipw and their "
                        "like); nothing was changed. Wait until it is done, then run again"
                    ) from error
                system.sleep(0.05)
        yield
    finally:
        os.close(fd)


KIND = kind()
