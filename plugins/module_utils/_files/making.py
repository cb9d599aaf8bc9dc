# SPDX-License-Identifier: GPL-3.0-or-later

"""Making the object of one entry, whole, in a staging directory; owner, mode, ACL, xattrs and times of a path."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence

from .._host.durable import (
    clone,
    set_inode_flags,
    write_all,
)
from .._store.objects import Reader
from .entry import ABOVE, EARLY, FLAGS, FORMATS, PINNED, Entry

_ACL = "system.posix_acl_access"
NO_PLACE = "the file system there has no place"


def finish_folders(folders: Sequence[tuple[Entry, bytes]], stage: int) -> None:
    """Set the attributes of the directories of a staged tree, from the leaves up: no name comes or goes any more."""
    for entry, where in reversed(folders):
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage)
        try:
            attributes(entry, fd)
            set_inode_flags(fd, entry.flags, FLAGS)
        finally:
            os.close(fd)


def make(contents: Reader, entry: Entry, fd: int, name: bytes, staged: dict[bytes, tuple[int, bytes]]) -> None:
    """Make the object of the entry, complete, under ``name`` in the staging directory."""
    if entry.link in staged:
        source, first = staged[entry.link]
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    if entry.type == "f":
        target = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            if entry.flags & EARLY:
                set_inode_flags(target, entry.flags, EARLY)
            _fill(contents, entry, target)
            attributes(entry, target)
            set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
        finally:
            os.close(target)
        return
    if entry.type == "l":
        os.symlink(entry.target, name, dir_fd=fd)
    elif entry.type in ("d", ABOVE):
        os.mkdir(name, 0o700, dir_fd=fd)
    else:
        os.mknod(name, FORMATS[entry.type] | 0o600, entry.rdev, dir_fd=fd)
    if entry.type in ("d", ABOVE) and os.geteuid() != 0:
        entry = entry._replace(mode=entry.mode | 0o700)  # The directory is to be filled; its own mode comes at the end.
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        attributes(entry, made, f"/proc/self/fd/{made}")
    finally:
        os.close(made)


def _fill(contents: Reader, entry: Entry, target: int) -> None:
    """Write the content, and verify it meanwhile. Where the file system can clone it, verify the copy."""
    source = contents.objects.loose_stream(entry.sha256)
    if source is not None:
        with source:
            if clone(source.fileno(), target):
                for _chunk in contents.read(entry.sha256):
                    pass
                return
    for chunk in contents.read(entry.sha256):
        if entry.sparse and chunk.count(0) == len(chunk):
            os.lseek(target, len(chunk), os.SEEK_CUR)
        elif entry.sparse:
            for at in range(0, len(chunk), 4096):
                block = chunk[at : at + 4096]
                if block.count(0) == len(block):
                    os.lseek(target, len(block), os.SEEK_CUR)
                else:
                    write_all(target, block)
        else:
            write_all(target, chunk)
    if os.lseek(target, 0, os.SEEK_CUR) != entry.size or entry.sparse:
        os.ftruncate(target, entry.size)


def attributes(entry: Entry, fd: int, where: int | str | None = None) -> None:
    """Set owner, mode, xattrs and times of the open ``fd``; ``where`` names it, if it is open as a path alone.

    The owner comes first, because setting it removes setuid bits and capabilities; the times come last. An ACL comes
    before the mode: without the ACL the mode would give its mask to the group.
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
        try:
            os.setxattr(where, key, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            raise OSError(error.errno, no_place_for(key)) from error
    if entry.type != "l":
        os.chmod(where, entry.mode)
    if entry.type != ABOVE:
        os.utime(where, ns=(entry.mtime, entry.mtime))


def no_place_for(key: str) -> str:
    """Why a file system that does not know this extended attribute cannot take a file, in words."""
    what = "ACL" if key.startswith("system.posix_acl") else f"attribute {key}"
    return f"{NO_PLACE} for its {what}"


def narrow(entry: Entry, fd: int) -> bool:
    """While names come and go in the open directory, admit only users who may enter it both now and as recorded; False
    where these are the same users.

    Where owner, group or ACL differ, the directory is ours meanwhile, and other users keep the permissions that they
    have both now and as recorded.
    """
    info = os.fstat(fd)
    now, then = stat.S_IMODE(info.st_mode), entry.mode
    acl, recorded = _acl(fd), dict(entry.xattrs).get(_ACL, b"")
    owned = (info.st_uid, info.st_gid) == (entry.uid, entry.gid)
    if owned and now == then and acl == recorded:
        return False
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
    return True


def _acl(fd: int) -> bytes:
    try:
        return os.getxattr(fd, _ACL)
    except OSError:  # There is no ACL.
        return b""


def _allowed(acl: bytes) -> list[int]:
    """The permissions that each entry of an ACL gives (linux/posix_acl_xattr.h)."""
    return [allowed for _tag, allowed, _id in struct.iter_unpack("<HHI", acl[4 : len(acl) - (len(acl) - 4) % 8])]
