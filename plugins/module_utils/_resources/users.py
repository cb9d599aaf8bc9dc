# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``users``: the six files of accounts and groups, as one set, under the lock that useradd takes."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from .._errors import Refused
from .._files.step import Step
from .._host.options import read
from .._host.system import System
from .kind import Kind, Restore, Sink, Spec, Suggestion

_FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
# struct flock: type, whence, start, length, process, padding.
_FLOCK = "hhqqi4x"


class Users(Kind):
    """The accounts and groups in passwd, shadow, group, gshadow, subuid and subgid, as one set.

    They are read and put back under the lock of useradd and its like. Takes nothing. For example V(users: {}).
    """

    name = "users"
    since = "0.2.0"
    order = 30
    lock_guards_access = True
    on_plain_host: Spec = {}

    def __init__(self, etc: str = "/etc", patience: float = 15.0) -> None:
        """``patience``: seconds to wait for the lock, by default as long as lckpwdf(3) waits."""
        self.etc = etc
        self.patience = patience

    def check(self, spec: Spec) -> dict[str, object]:
        return read(self.options, spec, self.name)

    def trees(self, spec: Spec) -> list[str]:
        return [os.path.join(self.etc, name) for name in _FILES]

    def locked(self, system: System, patience: float | None) -> AbstractContextManager[None]:
        limit = self.patience if patience is None else min(patience, self.patience)
        return locked(os.path.join(self.etc, ".pwd.lock"), limit, system)

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        return []

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        return []

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        return []

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        return []

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> list[str]:
        return []

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        found = {path for path in self.trees({}) if path in changed}
        return ({} if found else None), found


@contextmanager
def locked(path: str, patience: float, system: System) -> Iterator[None]:
    """Keep useradd, passwd, vipw and their like out, as lckpwdf(3) does. Refused names the process that has the lock.

    The lock belongs to our descriptor, not to our process: a lock of the process would be lost as soon as the process
    reads ``path`` as a part of a tree.
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
