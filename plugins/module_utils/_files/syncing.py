# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making durable all that a plan has changed."""

from __future__ import annotations

import errno
import os
import stat

from .._errors import UsageError
from .._host.durable import (
    syncfs,
)
from .._host.paths import Parents, opened
from .staging import FULL

_DISK = (*FULL, errno.EIO, errno.EROFS)


def sync(anchors: list[int], touched: set[bytes], in_place: list[bytes]) -> None:
    """Make durable the directories ``touched`` by renames, and the paths that got other attributes where they were."""
    many = len(touched) + len(in_place) > 16
    synced: set[int] = set()
    for fd in anchors if many else ():
        syncfs(fd)
        synced.add(os.fstat(fd).st_dev)
    with Parents() as parents:
        # Where something was renamed there is a staging directory; where only attributes were set there may be none.
        for path in in_place if many else sorted({*touched, *in_place}):
            try:
                fd, name = parents.of(path)
            except (OSError, UsageError) as error:
                if getattr(error, "errno", None) in _DISK:
                    raise
                continue  # A later step deleted it, and its parent is among the touched. Or it leads elsewhere by now.
            with opened(fd, name or b".") as target:
                # A symlink, a FIFO and a device cannot be synced, but the directory that holds them can.
                found = fd if target is None else target
                if not many and (target is not None or not _is_regular(fd, name)):
                    os.fsync(found)
                elif os.fstat(found).st_dev not in synced:
                    syncfs(found)
                    synced.add(os.fstat(found).st_dev)


def _is_regular(folder: int, name: bytes) -> bool:
    """Whether the name is that of a regular file. One that cannot be opened is synced with its whole file system."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
