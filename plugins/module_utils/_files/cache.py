# SPDX-License-Identifier: GPL-3.0-or-later

"""The stat cache: the result of the last look at some trees, so that unchanged files are not read again.

``<root>/cache/<SHA-256 of the declaration>`` holds the manifest lines of that look, without ``link``, and for each line
the device, inode, size, mtime and ctime. While these five numbers are the same, so are content, owner, mode, xattrs and
flags: a change of any of them changes the ctime, which nobody can set. The cache is a hint only: it is not synced, and
a missing, torn or malformed file is no cache. The cache never holds the five numbers of these paths, which are read
again each time:

- A file that changed shortly before the look, or in the future. A second change within the same tick shows in none of
  the five numbers. A page that is written through a mapping changes the times only after the kernel has written it out
  before (``vm.dirty_expire_centisecs`` and ``vm.dirty_writeback_centisecs``).
- Anything on a file system whose times do not change with every write (through a mapping on tmpfs, or on an overlay
  that writes to tmpfs; by another host on NFS), or are in whole seconds.
- A file whose content the store has lost since.

A clock that was set back since the look makes the whole cache void.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Callable, NamedTuple, TypedDict

from .._host.durable import write_all
from .._host.hashing import CHUNK
from .._store import objects as contents
from .._store.objects import Objects
from .declaration import Declaration
from .entry import TYPES, place_of

_MAGIC = "evenkeel-cache 3 " + sys.byteorder
_KEY = struct.Struct("=2Q3q")
_SIZE = _KEY.size
# A key that no file has: a path with this key is read again.
NEVER = bytes(_SIZE)
_END = 65
# The file systems whose times change with every write, mappings included. An overlay has the times of the file systems
# below it, which can be a tmpfs.
TIMED = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"}
_FORMAT = 0o170000
_SECOND = 1_000_000_000
# Declarations that are remembered; the oldest go.
_MOST = 16
_BATCH = 8192


def key_of(info: os.stat_result) -> bytes:
    """The five numbers; b"" where a number has no room (a time after 2262)."""
    try:
        return _KEY.pack(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    except struct.error:
        return b""


def keys_of(found: Sequence[os.stat_result]) -> list[bytes]:
    """``key_of`` each."""
    pack = _KEY.pack
    try:
        return [pack(one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]
    except struct.error:
        return [key_of(one) for one in found]


def window() -> int | None:
    """Nanoseconds after a change until every further change shows in the times; None where that is never certain."""
    waits = []
    for name in ("dirty_expire_centisecs", "dirty_writeback_centisecs"):
        try:
            with open(f"/proc/sys/vm/{name}") as stream:
                waits.append(int(stream.read()))
        except (OSError, ValueError):
            return None
    expire, interval = waits
    # Two seconds are the coarsest times that there are; the writer of pages may just have slept when one expired.
    return 2 * _SECOND + (expire + 2 * interval) * (_SECOND // 100) if interval > 0 else None


class _Head(TypedDict):
    """The head of the file: when the look began, the packs of the store, and the number of lines."""

    began: int
    packs: dict[str, list[int]]
    count: int


# The content of the file: its head, the lines, and their keys.
Look = tuple[_Head, list[str], bytes]


class Leaves(NamedTuple):
    """The names in a directory, and where their lines begin."""

    start: int
    names: list[str]


class Cache:
    """The cache of the trees that are ``declared``, as the last look left it. ``now``: nanoseconds since the epoch."""

    def __init__(self, objects: Objects, declared: Declaration, now: Callable[[], int] = time.time_ns) -> None:
        known = {"exclude": list(declared.exclude), "paths": list(declared.paths)}
        name = hashlib.sha256(json.dumps(known, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        self.path = os.path.join(objects.root, "cache", name)
        self.objects = objects
        self.began = now()
        wait = window()
        self._settled = self.began - wait if wait is not None else None
        self.lines: Sequence[str] = ()
        self._keys = b""
        self._whole = False
        self.at = 0
        # Whether saving would make a difference for the next look.
        self.stale = True
        try:
            self._load()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
            self.lines, self._keys, self.stale = (), b"", True

    def _load(self) -> None:
        """Read the file, once in the life of ``objects``: a rollback looks twice."""
        with open(self.path, "rb") as stream:
            info = os.fstat(stream.fileno())
            known = self.objects.cached.get(self.path)
            if known is None or known[0] != _mark(info):
                known = self.objects.cached[self.path] = (_mark(info), _read(stream, info.st_size))
        head, lines, keys = known[1]
        if head["began"] > self.began:
            raise ValueError("the clock was set back")
        self.lines, self._keys = lines, keys
        # While no pack has gone and no index was written anew, no small content has gone.
        now = self.objects.packs()
        self._whole = all(now.get(name) == recorded for name, recorded in head["packs"].items())
        self.stale = not self._whole

    @property
    def empty(self) -> bool:
        """Whether the cache knows no line."""
        return not self.lines

    def next(self, path: str, info: os.stat_result, key: bytes) -> str | None:
        """``line``, if it follows the line of the call before, as it nearly always does. ``path`` is quoted and
        followed by a blank, ``key`` is the key of ``info``."""
        at = self.at
        if at >= len(self.lines):
            return None
        line = self.lines[at]
        if (
            not line.startswith(path, 2)
            or self._keys[at * _SIZE : at * _SIZE + _SIZE] != key
            or line[0] != TYPES.get(info.st_mode & _FORMAT)
            or not self._there(line, info)
        ):
            return None
        self.at = at + 1
        return line

    def leaves(self, path: bytes, quoted: str) -> Leaves | None:
        """The former names in the directory, if all are plain and none is a directory. ``quoted``: its path and /."""
        lines, start = self.lines, self.at
        if start >= len(lines) or not lines[start].startswith(quoted, 2):
            start = place_of(lines, path + b"/")
        end, step = start, 1
        while step:
            if end + step <= len(lines) and lines[end + step - 1].startswith(quoted, 2):
                end, step = end + step, step * 2
            else:
                step //= 2
        part, skip = lines[start:end], len(quoted) + 2
        if (part and part[0][0] == "d") or "d" in {line[0] for line in part}:
            return None
        names = [line[skip : line.find(" ", skip)] for line in part]
        return None if "%" in "".join(names) else Leaves(start, names)

    def keys(self, start: int, end: int) -> bytes:
        """The keys of the lines from ``start`` to before ``end``, end to end."""
        return self._keys[start * _SIZE : end * _SIZE]

    def still(
        self, numbers: Sequence[int], found: Sequence[os.stat_result], keys: Sequence[bytes]
    ) -> Sequence[str | None]:
        """The lines of these numbers, given the status and the key of each path; None for a line that is not true now,
        and where there is none (number -1)."""
        known = self._keys
        small = self._whole and max([info.st_size for info in found], default=0) <= contents.SMALL
        if isinstance(numbers, range) and small and b"".join(keys) == self.keys(numbers.start, numbers.stop):
            return self.lines[numbers.start : numbers.stop]
        return [
            self.lines[at]
            if at >= 0
            and key == known[at * _SIZE : at * _SIZE + _SIZE]
            and (small or self._there(self.lines[at], info))
            else None
            for at, key, info in zip(numbers, keys, found)
        ]

    def line(self, start: str, path: bytes, info: os.stat_result) -> str | None:
        """The line that begins with ``start`` (type and path) if it is still true of a path with this ``info``."""
        if not self.lines:
            return None
        at = self.at
        if at >= len(self.lines) or not self.lines[at].startswith(start):
            at = place_of(self.lines, path)
            if at >= len(self.lines) or not self.lines[at].startswith(start):
                return None
        self.at = at + 1
        if self._keys[at * _SIZE : at * _SIZE + _SIZE] != key_of(info):
            return None
        line = self.lines[at]
        return line if self._there(line, info) else None

    def _there(self, line: str, info: os.stat_result) -> bool:
        """Whether the store has the content, if the line names a content."""
        if line[0] != "f" or (self._whole and info.st_size <= contents.SMALL):
            return True
        at = line.find(" sha256=")
        return at > 0 and self.objects.has(line[at + 8 : at + 72])

    def key(self, info: os.stat_result, kind: str) -> bytes:
        """The key to keep for a path that was just read on this kind of file system; NEVER where it proves nothing."""
        newest = max(info.st_mtime_ns, info.st_ctime_ns)
        if self._settled is None or newest > self._settled or kind not in TIMED or not info.st_ctime_ns % _SECOND:
            return NEVER
        return key_of(info) or NEVER

    def save(self, lines: Sequence[str], keys: bytes | bytearray) -> None:
        """Keep the cache for the next look, after the contents are published. Without a cache nothing is lost."""
        temporary = os.path.join(self.objects.root, "tmp", f"cache-{os.getpid()}")
        head: _Head = {"began": self.began, "packs": self.objects.packs(), "count": len(lines)}
        try:
            os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                digest = hashlib.sha256()
                for part in _parts(head, lines, keys):
                    digest.update(part)
                    write_all(fd, part)
                write_all(fd, digest.hexdigest().encode("ascii") + b"\n")
                info = os.fstat(fd)
            finally:
                os.close(fd)
            os.rename(temporary, self.path)
            self.objects.cached[self.path] = (_mark(info), (head, list(lines), bytes(keys)))
            self._forget()
        except OSError:
            return

    def _forget(self) -> None:
        folder = os.path.dirname(self.path)
        names = os.listdir(folder)
        if len(names) > _MOST:
            paths = [os.path.join(folder, name) for name in names]
            for path in sorted(paths, key=lambda one: os.stat(one).st_mtime_ns)[:-_MOST]:
                os.unlink(path)


def _mark(info: os.stat_result) -> tuple[int, int, int]:
    """The numbers by which a file of the cache is known again."""
    return info.st_ino, info.st_mtime_ns, info.st_size


def _read(stream: BinaryIO, size: int) -> Look:
    """The file, in pieces: a copy of the text would be as large as the lines. Raises ValueError where it is odd."""
    digest, rest = hashlib.sha256(), ""
    lines: list[str] = []
    first, second = stream.readline(), stream.readline()
    if first.decode("ascii") != _MAGIC + "\n":
        raise ValueError("of another version or machine")
    head: _Head = json.loads(second)
    left = size - _END - len(first) - len(second) - head["count"] * _SIZE
    if left < 0:
        raise ValueError("torn")
    keys = stream.read(head["count"] * _SIZE)
    for part in (first, second, keys):
        digest.update(part)
    while left:
        piece = stream.read(min(left, CHUNK))
        if not piece:
            raise ValueError("torn")
        left -= len(piece)
        digest.update(piece)
        *whole, rest = (rest + piece.decode("ascii")).split("\n")
        lines += whole
    if digest.hexdigest().encode("ascii") + b"\n" != stream.read():
        raise ValueError("torn")
    if head["count"]:
        lines.append(rest)
    if len(lines) != head["count"]:
        raise ValueError("torn")
    return head, lines, keys


def _parts(head: _Head, lines: Sequence[str], keys: bytes | bytearray) -> Iterator[bytes]:
    yield f"{_MAGIC}\n{json.dumps(head)}\n".encode("ascii")
    yield bytes(keys)
    for at in range(0, len(lines), _BATCH):
        yield ("\n" if at else "").encode() + "\n".join(lines[at : at + _BATCH]).encode("ascii")
