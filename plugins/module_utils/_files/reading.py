# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a path: its line, its extended attributes, and whether it stays the same meanwhile."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence

from .._errors import EvenkeelError, UsageError
from .._host.durable import inode_flags
from .._store.objects import SMALL, Hasher, Writer
from .cache import NEVER, Cache, key_of
from .entry import FLAGS, TYPES, Entry, file_line, quote
from .lines import Fresh, Lines

# The number of readings after which a file that changes each time is given up.
TRIES = 3
# Nanoseconds. A write changes the times as it begins, by a clock that ticks, and can then go on. So a file that changed
# less than this before it was read is read once more.
_FRESH = 2_000_000_000
# Bytes of holes, in all files together, that a tolerant look reads through beyond those of the checkpoint: they cost
# their owner nothing.
_HOLES = 1024**3
# Bytes of the extended attributes of a file, and in a tolerant look those of all files that have more than a little and
# more than in the checkpoint. All extended attributes are held in memory, and some file systems set no limit.
_XATTRS, _LITTLE = 16 * 1024**2, 4096
# These stand for extended attributes that were not read: no file has them.
_UNLIKE = (("?", b""),)
# The errors of a store without room.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# The errors of a file system without xattrs, of a path that is gone since it was listed, of a kernel without xattrs.
_NO_XATTRS = (errno.ENOTSUP, errno.ENOENT, errno.ENOSYS)
# This stands for the SHA-256 of a content that was not read: no content has it.
UNREAD = "0" * 64
# Up to this number of bytes, reading files again is cheaper than writing a new cache.
_MUCH = 32 * 1024 * 1024

Xattrs = tuple[tuple[str, bytes], ...]
# The size and the times of a file before it was read, its SHA-256, and how often it was read; and those of no file.
_Read = tuple[tuple[int, int, int], str, int]
_UNKNOWN: _Read = ((-1, 0, 0), "", 0)


class Reader:
    """The reading of paths, contents into ``sink``.

    A ``tolerant`` reader notes in ``unread`` the paths that it could not read whole: path -> why. ``mounts``: mount
    points and the kinds of their file systems.
    """

    def __init__(
        self,
        sink: Writer | Hasher,
        cache: Cache | None,
        tolerant: bool,
        found: Lines,
        mounts: Mapping[bytes, str],
    ) -> None:
        self.sink = sink
        self.cache = cache
        self.tolerant = tolerant
        self.mounts = mounts
        self.unread: dict[bytes, str] = {}
        self.recorded: Mapping[bytes, tuple[int, int]] = {}  # See ``recorded``.
        self._found = found
        self._holes = 0
        self._heavy = 0
        self._learned = 0
        self._learned_bytes = 0
        self._read: dict[tuple[int, int], _Read] = {}

    def tolerate(self, error: Exception, path: bytes) -> str:
        """The words for an error of reading the path; a reader that is not tolerant raises the error again.

        Every reader raises it where the store has no room for the content, because the path is not the cause then.
        """
        full = isinstance(self.sink, Writer) and getattr(error, "errno", None) in _NO_ROOM
        if not self.tolerant or full:
            if isinstance(error, OSError) and not full and not isinstance(error.filename, str):
                error.filename = os.fsdecode(path)  # The error held the last name of the path alone, or a descriptor.
            raise error
        return error.message if isinstance(error, EvenkeelError) else getattr(error, "strerror", "") or str(error)

    def xattrs(self, where: int | bytes, path: bytes, instead: Xattrs = ()) -> Xattrs:
        """All extended attributes; ``instead`` where a tolerant reader cannot read them or has read too much."""
        try:
            most = self.recorded.get(path, (0, _LITTLE))[1]
            found = xattrs_of(where, path, max(_XATTRS - self._heavy, most))
        except (OSError, EvenkeelError) as error:
            self.unread[path] = self.tolerate(error, path)
            return instead
        if found and self.tolerant:
            size = sum(len(value) for _name, value in found)
            self._heavy += size if size > most else 0
        return found

    def leaf(
        self, path: bytes, name: bytes, parent: int, kind: str, info: os.stat_result
    ) -> tuple[str, bytes, os.stat_result]:
        """Line, key and status of a path that was no directory when its status ``info`` was taken."""
        form = stat.S_IFMT(info.st_mode)
        if form == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        if self.cache is not None:
            line = self.cache.line(f"{TYPES[form]} {quote(path)} ", path, info)
            if line is not None:
                return line, key_of(info), info
        if form == stat.S_IFREG:
            return self.file(path, name, parent, kind)
        target = os.readlink(name, dir_fd=parent) if form == stat.S_IFLNK else b""
        # An O_PATH descriptor has no xattr calls; the name below the parent's descriptor has these calls.
        xattrs = self.xattrs(f"/proc/self/fd/{parent}/".encode() + name, path, _UNLIKE)
        return entry_of(path, info, TYPES[form], xattrs)._replace(target=target).line(), self.key(info, kind), info

    def file(
        self, path: bytes, name: bytes, parent: int, kind: str, tries: int = TRIES
    ) -> tuple[str, bytes, os.stat_result]:
        """A regular file, read again when it changed meanwhile; EvenkeelError when it changes each time (I11)."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _attempt in range(tries):
            try:
                fd = os.open(name, flags, dir_fd=parent)
            except BlockingIOError as error:
                raise EvenkeelError(
                    f"{os.fsdecode(path)} cannot be read: a process has a lease on it (/proc/locks names it); end that "
                    "process, or exclude the file"
                ) from error
            try:
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    continue
                holes = max(0, before.st_size - before.st_blocks * 512)
                if before.st_size <= self.recorded.get(path, (0, 0))[0]:
                    holes = 0  # The checkpoint has read through as much.
                if self.tolerant and self._holes + holes > _HOLES:
                    raise EvenkeelError("it is a file of holes, too long to be read through")
                self._holes += holes
                xattrs, word = self.xattrs(fd, path, _UNLIKE), inode_flags(fd) & FLAGS
                if before.st_size <= SMALL:
                    data = os.read(fd, before.st_size + 1)
                    sha, size = self.sink.add(data) if len(data) == before.st_size else "", len(data)
                else:
                    sha, size = self._large(fd, before, path)
                # The count of blocks alone can lag behind while the kernel allocates them.
                sparse = before.st_blocks * 512 < before.st_size and os.lseek(fd, 0, os.SEEK_HOLE) < before.st_size
                after = os.fstat(fd)
            finally:
                os.close(fd)
            if size == before.st_size and moment(before) == moment(after):
                kind = self.mounts.get(path, kind)  # A file can be a mount point as well.
                # A content that is only compared needs no second look: a torn content equals no recorded content.
                if isinstance(self.sink, Writer) and time.time_ns() - before.st_ctime_ns < _FRESH:
                    self._found.latest = Fresh(-1, path, kind, sha, before, time.monotonic())
                return file_line(path, before, sha, xattrs, sparse, word), self.key(before, kind), before
            if self.tolerant and size > SMALL:
                break
        raise unstable(path)

    def _large(self, fd: int, info: os.stat_result, path: bytes) -> tuple[str, int]:
        """SHA-256 and size of the content of an open file with this status. A file with several names is read once for
        all of them while it stays as it is: a user can give a file tens of thousands of names, which cost nothing. A
        tolerant look reads it no more than ``TRIES`` times."""
        if info.st_nlink < 2:
            return self.sink.add_file(fd)
        inode, now = (info.st_dev, info.st_ino), moment(info)
        then, sha, times = self._read.get(inode, _UNKNOWN)
        if then == now:
            return sha, info.st_size
        if self.tolerant and times >= TRIES:
            raise unstable(path)
        sha, size = self.sink.add_file(fd)
        self._read[inode] = (now if size == info.st_size else _UNKNOWN[0], sha, times + 1)
        return sha, size

    def forget(self, info: os.stat_result, sha: str) -> None:
        """Read the file once more, whose content was not the same again, although its times tell nothing."""
        inode = info.st_dev, info.st_ino
        if self._read.get(inode, _UNKNOWN)[1] == sha:
            del self._read[inode]

    def key(self, info: os.stat_result, kind: str) -> bytes:
        """The key by which the stat cache knows a path that was just read on a file system of this kind."""
        key = self.cache.key(info, kind) if self.cache is not None else NEVER
        if key != NEVER:
            self._learned += 1
            self._learned_bytes += info.st_size
        return key

    def worth_saving(self, lines: int) -> bool:
        """Whether the next look, at so many lines, gains more from a new cache than it costs to write."""
        return self._learned * 50 > lines or self._learned_bytes > _MUCH


def recorded(lines: Sequence[str]) -> dict[bytes, tuple[int, int]]:
    """Path -> its size and the bytes of its extended attributes, for the lines of a checkpoint with holes or with many
    attributes: it must be possible to read once more all that the checkpoint has read."""
    found = {}
    for line in lines:
        if " sparse=1" in line or len(line) > _LITTLE:
            entry = Entry.parse(line)
            found[entry.path] = (entry.size, max(_LITTLE, sum(len(value) for _name, value in entry.xattrs)))
    return found


def entry_of(path: bytes, info: os.stat_result, kind: str, xattrs: Xattrs) -> Entry:
    """The entry of an object with this status."""
    rdev = info.st_rdev if kind in "cb" else 0
    return Entry(
        path,
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        rdev=rdev,
        xattrs=xattrs,
    )


def unstable(path: bytes) -> EvenkeelError:
    """The error for a file that changed at each reading."""
    return EvenkeelError(
        f"{os.fsdecode(path)} is unstable: it changed each of the {TRIES} times it was read; "
        "exclude it, or stop the program that writes it while the checkpoint is taken"
    )


def moment(info: os.stat_result) -> tuple[int, int, int]:
    """The numbers that a change of a file's content changes."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def xattrs_of(where: int | bytes, path: bytes, most: int) -> Xattrs:
    """Names and values of all extended attributes, ACLs among them; UsageError names a ``path`` that has more than
    ``most`` bytes of them, or whose attributes cannot be read."""
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        # Recorded without them, they would be gone after a rollback.
        raise UsageError(
            f"{os.fsdecode(path)}: its extended attributes cannot be read: {error.strerror}; exclude it"
        ) from error
    found, size = [], 0
    for name in sorted(names):
        found.append((name, os.getxattr(where, name, follow_symlinks=follow)))
        size += len(found[-1][1])
        if size > most:
            raise UsageError(f"{os.fsdecode(path)}: its extended attributes are too long to be kept; exclude it")
    return tuple(found)
