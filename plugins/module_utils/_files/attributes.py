# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Owner, mode, ACL, xattrs and times of one path."""

from __future__ import annotations

import errno
import os
import stat
import struct

from .._host.durable import (
    set_inode_flags,
)
from .entry import ABOVE, PINNED, Entry

_ACL = "system.posix_acl_access"


def attributes(entry: Entry, fd: int, where: int | str | None = None) -> None:
    """Set owner, mode, xattrs and times of the open ``fd``; ``where`` names it, if it is open as a path alone.

    Owner first (it takes setuid bits and capabilities off), times last. An ACL comes before the mode: without it the
    mode would give its mask to the group.
    """
    where = fd if where is None else where
    info = os.fstat(fd)
    if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
        os.chown(where, entry.uid, entry.gid)
    present = set()
    try:
        present = set(os.listxattr(where))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    for key in present - {key for key, _value in entry.xattrs}:
        if not key.startswith("security."):  # A label of the system's own, given to every new file.
            os.removexattr(where, key)
    for key, value in entry.xattrs:
        os.setxattr(where, key, value)
    if entry.type != "l":
        os.chmod(where, entry.mode)
    if entry.type != ABOVE:
        os.utime(where, ns=(entry.mtime, entry.mtime))


def narrow(entry: Entry, fd: int) -> None:
    """While names come and go in the open directory, let nobody in who could not go there both now and as recorded.

    Where owner, group or ACL are others it is ours meanwhile, and all others have what each of them had in both.
    """
    info = os.fstat(fd)
    now, then = stat.S_IMODE(info.st_mode), entry.mode
    acl, recorded = _acl(fd), dict(entry.xattrs).get(_ACL, b"")
    owned = (info.st_uid, info.st_gid) == (entry.uid, entry.gid)
    if owned and now == then and acl == recorded:
        return
    both = now & then | (now | then) & stat.S_ISVTX
    if not owned or acl != recorded:
        every = 7
        for one in (now >> 6, now >> 3, now, then >> 6, then >> 3, then, *_allowed(acl), *_allowed(recorded)):
            every &= one
        both = both & ~0o77 | every << 3 | every
    if os.geteuid() != 0:
        both |= 0o700  # Nothing could be put into it otherwise.
    set_inode_flags(fd, 0, PINNED)
    if not owned and os.geteuid() == 0:
        os.chown(fd, 0, 0)
    os.chmod(fd, both)
    if acl and acl != recorded:
        os.removexattr(fd, _ACL)


def _acl(fd: int) -> bytes:
    try:
        return os.getxattr(fd, _ACL)
    except OSError:  # There is none.
        return b""


def _allowed(acl: bytes) -> list[int]:
    """The permissions that each entry of an ACL gives (linux/posix_acl_xattr.h)."""
    return [allowed for _tag, allowed, _id in struct.iter_unpack("<HHI", acl[4 : len(acl) - (len(acl) - 4) % 8])]
