# SPDX-License-Identifier: GPL-3.0-or-later

"""Bundles in transit through a host: each lies in a directory of ours, and is removed even when its run is killed.

A connection transfers files as the user who logs in. So the file belongs to that user, in a directory where the user
can add, replace and list nothing. The file is removed once it is open, or by the next call of any module.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .trust import open_regular

_TOP = "/var/tmp"
_PREFIX = "evenkeel-bundle-"
# Seconds that may pass between two steps of another run: the call of a module, and the opening of the file.
_STEP_LIMIT = 15.0


def new(run: str, owner: int) -> str:
    """The path for a bundle, in a new directory that only we can change and its ``owner`` can pass through."""
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{run}-", dir=_TOP)
    if owner != os.geteuid():
        os.chmod(folder, 0o711)
    return os.path.join(folder, "bundle")


def hand_over(path: str, owner: int) -> None:
    """Let this user, and nobody else, read and write the bundle."""
    os.chmod(path, 0o600)
    if owner != os.geteuid():
        os.chown(path, owner, -1)


def make_empty(path: str, owner: int) -> None:
    """Make an empty file, which this user fills with the bundle."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    hand_over(path, owner)


@contextmanager
def taken(path: str) -> Iterator[str]:
    """Open the bundle and remove it; the path by which it can be read within the ``with``."""
    with open_regular(path) as stream:
        discard(path)
        yield f"/proc/self/fd/{stream.fileno()}"


def discard(path: str) -> None:
    """Remove the bundle with its directory."""
    os.unlink(path)
    folder = os.path.dirname(path)
    if os.path.basename(folder).startswith(_PREFIX):
        os.rmdir(folder)


def reclaim(run: str, now: float) -> None:
    """Remove bundles of killed runs. Bundles of this ``run``, bundles that a process has open, and bundles that changed
    a moment ago stay."""
    left = [found for found in _left(run) if abs(now - _last_change(found)) > _STEP_LIMIT]
    if left:
        used = set(_opened())
        for folder in left:
            if not any(path.startswith(folder + "/") for path in used):
                shutil.rmtree(folder, ignore_errors=True)


def _left(run: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(_TOP) as entries:
        for entry in entries:
            ours = entry.name.startswith(_PREFIX) and not (run and entry.name.startswith(f"{_PREFIX}{run}-"))
            if (
                ours
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            ):
                yield entry.path


def _last_change(folder: str) -> float:
    """The time of the last change of the directory or of the bundle in it."""
    last = 0.0
    for path in (folder, os.path.join(folder, "bundle")):
        with suppress(OSError):
            found = os.lstat(path)
            last = max(last, found.st_ctime, found.st_mtime if stat.S_ISREG(found.st_mode) else 0.0)
    return last


def _opened() -> Iterator[str]:
    """The paths of all files that processes have open, as far as we may read them."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    yield os.readlink(f"/proc/{pid}/fd/{number}")
