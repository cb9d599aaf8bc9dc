# SPDX-License-Identifier: GPL-3.0-or-later

"""Removing a staging directory with everything that was moved into it."""

from __future__ import annotations

import errno
import os
import secrets
import stat

from .._errors import UsageError
from .._host.durable import (
    set_inode_flags,
)
from .._host.paths import is_ours, open_dir, opened
from .anchors import Anchor, set_mtime
from .entry import PINNED

# Levels of directories that are removed in their place: each level has a descriptor open.
_DEPTH = 200


def remove(anchor: Anchor) -> bool:
    """Remove a staging directory with everything that was moved into it; False where the next run has to try again, as
    while its disk is away.

    Another directory with its name is not ours, and stays.
    """
    try:
        above = open_dir(os.fsencode(os.path.dirname(anchor.path)))
    except UsageError:  # A damaged line: no place of ours has such a path.
        return True
    except (FileNotFoundError, NotADirectoryError):
        return not anchor.is_away()
    except OSError:  # A mount that is dead: nothing else waits for it.
        return False
    try:
        whole = _remove_from(above, anchor)
        if whole:  # The directory goes durably before the journal, which alone knows of it.
            os.fsync(above)
        return whole
    finally:
        os.close(above)


def _remove_from(above: int, anchor: Anchor) -> bool:
    try:
        before = os.fstat(above)
        found = anchor.open(above)
        if found is None:
            return not anchor.is_away()
        fd, name = found
        try:
            # A directory that is known by its name alone is emptied only where nobody else can have made it.
            if anchor.inode is not None or (anchor.old and is_ours(before.st_uid, before.st_mode)):
                _empty(fd, fd)
        finally:
            os.close(fd)
        try:
            os.rmdir(name, dir_fd=above)
        except OSError:
            return anchor.inode is None
        # The directory may be a declared path (the top of a mount): the staging must not change its time.
        set_mtime(above, before.st_mtime_ns)
        return True
    except OSError:
        return False


def take_out(stage: int, name: bytes) -> None:
    """Remove one object from an open staging directory, with everything in it."""
    if not _unlinked(stage, name):
        with opened(stage, name) as found:
            if found is not None:
                _empty(found, found)
        os.rmdir(name, dir_fd=stage)


def _empty(folder: int, top: int, depth: int = 0) -> None:
    """Empty the open directory, immutable objects included. A directory that lies too deep goes by way of ``top``."""
    names = os.listdir(folder)
    while names:
        for name in map(os.fsencode, names):
            if _unlinked(folder, name):
                continue
            with opened(folder, name) as found:
                if found is None:
                    raise OSError(errno.EBUSY, "it cannot be removed", os.fsdecode(name))
                set_inode_flags(found, 0, PINNED)
                if depth < _DEPTH:
                    _empty(found, top, depth + 1)
                    os.rmdir(name, dir_fd=folder)
                    continue
            os.rename(name, b"up-%s" % secrets.token_hex(8).encode(), src_dir_fd=folder, dst_dir_fd=top)
        names = os.listdir(folder) if folder == top else []


def _unlinked(folder: int, name: bytes) -> bool:
    """Remove an object that is no directory; False for a directory."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    except PermissionError:
        with opened(folder, name) as found:
            if found is None:
                raise
            if stat.S_ISDIR(os.fstat(found).st_mode):
                return False
            set_inode_flags(folder, 0, PINNED)
            set_inode_flags(found, 0, PINNED)
        os.unlink(name, dir_fd=folder)
    return True
