# SPDX-License-Identifier: GPL-3.0-or-later

"""The identity of each directory that a rollback works in, and the paths that are in doubt."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .._errors import UsageError
from .._host.mounts import mount_of, mount_points
from .._host.paths import ancestors, open_dir

# A directory that a rollback works in: its inode number, and the mount point that it lies on. There is no number of its
# device: a boot may give it another.
Identity = tuple[int, bytes]
# That of no directory.
_NONE: Identity = (-1, b"")


class Known:
    """The identity of each directory that a rollback works in or on, compared whenever the directory is opened."""

    def __init__(self, known: Mapping[bytes, Identity]) -> None:
        self.of = dict(known)
        self._mounts = set(mount_points())
        self._shut = {path for path, identity in known.items() if identity == _NONE}

    def note(self, path: bytes, inode: int) -> Identity:
        """Remember this inode number for the directory at the path."""
        self.of[path] = (inode, mount_of(path, self._mounts))
        return self.of[path]

    def shut(self, path: bytes) -> None:
        """Let no directory at or below this path pass for the meant directory any more."""
        self.of[path] = _NONE
        self._shut.add(path)

    def check(self, path: bytes, fd: int) -> None:
        """Raise OSError unless the open directory is the meant directory."""
        if self._shut and any(one in self._shut for one in ancestors(path)):
            raise OSError(errno.ESTALE, f"{another(path)}, or is in such a directory")
        if path in self.of and self.of[path] != (os.fstat(fd).st_ino, mount_of(path, self._mounts)):
            raise OSError(errno.ESTALE, another(path))

    def open(self, path: bytes) -> int:
        """A descriptor of the directory; OSError where it is not the meant directory."""
        fd = open_dir(path)
        try:
            self.check(path, fd)
        except OSError:
            os.close(fd)
            raise
        return fd


def another(path: bytes) -> str:
    """The words for a directory that is not the meant directory."""
    return f"{os.fsdecode(path)} is not the directory that was read before: somebody gave its name to another directory"


@contextmanager
def noting(doubtful: dict[bytes, str], path: bytes, closed: set[bytes] | None = None) -> Iterator[None]:
    """Note an error that keeps one path from being put back, so that the other paths still go back. Where somebody has
    exchanged a directory on the way, the directory of the path is added to ``closed``."""
    try:
        yield
    except OSError as error:
        doubtful.setdefault(path, error.strerror or str(error))
        if closed is not None and error.errno == errno.ESTALE:
            closed.add(os.path.dirname(path))
    except UsageError as error:  # The path leads through a symlink by now.
        doubtful.setdefault(path, error.cause)
