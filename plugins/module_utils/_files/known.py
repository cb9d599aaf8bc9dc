# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The identity of each directory that a rollback works in, and the paths that are in doubt."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .._errors import UsageError
from .._host.mounts import mount_of, mount_points
from .._host.paths import open_dir


class Known:
    """Which inode each directory has that a rollback works in or on, and on which mount: to be compared whenever it is
    opened. (No number of a device: a boot may give others.)"""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.of = {bytes.fromhex(path): (int(inode), bytes.fromhex(mount)) for path, (inode, mount) in known.items()}
        self._mounts = set(mount_points())

    def note(self, path: bytes, inode: int) -> tuple[int, bytes]:
        self.of[path] = (inode, mount_of(path, self._mounts))
        return self.of[path]

    def shut(self, path: bytes) -> None:
        """Let no directory be the one that was meant."""
        self.of[path] = (-1, b"")

    def check(self, path: bytes, fd: int) -> None:
        """Raise OSError unless the open directory is the one that was meant."""
        if path in self.of and self.of[path] != (os.fstat(fd).st_ino, mount_of(path, self._mounts)):
            raise OSError(errno.ESTALE, another(path))

    def open(self, path: bytes) -> int:
        fd = open_dir(path)
        try:
            self.check(path, fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def stored(self) -> dict[str, Any]:
        """As a journal keeps it."""
        return {path.hex(): [inode, mount.hex()] for path, (inode, mount) in self.of.items()}


def another(path: bytes) -> str:
    return f"{os.fsdecode(path)} is another directory than the one that was looked at: somebody gave it that name since"


@contextmanager
def noting(doubtful: dict[bytes, str], path: bytes, closed: set[bytes] | None = None) -> Iterator[None]:
    """What keeps one path from being put back is noted, and does not keep the others. ``closed``: gets its directory,
    if it is that somebody has exchanged one."""
    try:
        yield
    except OSError as error:
        doubtful.setdefault(path, error.strerror or str(error))
        if closed is not None and error.errno == errno.ESTALE:
            closed.add(os.path.dirname(path))
    except UsageError as error:  # It leads through a symlink by now.
        doubtful.setdefault(path, error.cause)
