# SPDX-License-Identifier: GPL-3.0-or-later

"""A path of a checkpoint, and its line in the manifest."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, overload
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .._errors import Damaged

# Characters that stand in a line as they are: printable ASCII without the blank and the percent sign.
_PLAIN = re.compile(rb"[!-$&-~]+")

TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}
FORMATS = {kind: form for form, kind in TYPES.items()}
# Two more: a directory above a declared path, made if it is missing and otherwise left alone; a declared path that
# was not there.
ABOVE, ABSENT, SOCKET = "D", "-", "s"

# Inode flags that chattr can set (linux/fs.h): s u c S i a d A, m j t D T, C. Flags that the file system sets itself
# (extents, index, inline data) are missing, and so are flags that say where data lives (project, case folding, DAX).
FLAGS = 0x000000FF | 0x00000400 | 0x0003C000 | 0x00800000
# Immutable and append-only: with these on, nothing can be renamed, replaced or given other attributes.
PINNED = 0x00000030
# Compression and no-copy-on-write: they take effect only on a file that is still empty.
EARLY = 0x00000404 | 0x00800000

# Lines that are compared at once.
_RUN = 256

WORDS = {
    "f": "file",
    "d": "directory",
    "l": "symlink",
    "p": "FIFO",
    "s": "socket",
    "c": "device",
    "b": "device",
}


class Entry(NamedTuple):
    """``mtime`` in nanoseconds; ``link`` is the first path (by bytes) of the same inode, empty for that path itself;
    ``flags`` (of files and directories) are among FLAGS."""

    path: bytes
    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    rdev: int = 0
    link: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    sparse: bool = False
    flags: int = 0

    def line(self) -> str:
        words = [self.type, quote(self.path)]
        if self.type != ABSENT:
            words += [f"{self.mode:o}", str(self.uid), str(self.gid), str(self.mtime)]
        if self.type == "f":
            words += [f"size={self.size}", f"sha256={self.sha256}"]
        if self.target:
            words.append(f"target={quote(self.target)}")
        if self.rdev:
            words.append(f"rdev={self.rdev}")
        if self.link:
            words.append(f"link={quote(self.link)}")
        return " ".join(words) + _rest(self.sparse, self.flags, self.xattrs)

    def shown(self) -> str:
        """The line as others may read it: link targets and values of xattrs may be secret, and are shown as hashes."""
        words = self._replace(target=b"", xattrs=()).line()
        words += f" target={_hash(self.target)}" if self.target else ""
        return words + "".join(f" x:{_key(name)}={_hash(value)}" for name, value in self.xattrs)

    @classmethod
    @lru_cache(maxsize=4096)  # Few lines differ, but each of these is asked for several times.
    def parse(cls, line: str) -> Entry:
        """The entry of a line. Raises Damaged for a text that ``Entry.line`` could not have written."""
        try:
            kind, path, *rest = line.split(" ")
            if kind == ABSENT:
                return cls(unquote_to_bytes(path), kind)
            if kind not in FORMATS and kind != ABOVE:
                raise ValueError(f"unknown type {kind!r}")
            mode, uid, gid, mtime, *words = rest
            more = dict(word.split("=", 1) for word in words)
            xattrs = tuple(
                (os.fsdecode(unquote_to_bytes(key[2:])), base64.b64decode(more.pop(key), validate=True))
                for key in list(more)
                if key.startswith("x:")
            )
            sha256 = more.pop("sha256", "")
            if not re.fullmatch("[0-9a-f]{64}" if kind == "f" else "", sha256):
                raise ValueError("a file needs a SHA-256, and no other type has a SHA-256")
            made = cls(
                unquote_to_bytes(path),
                kind,
                int(mode, 8),
                int(uid),
                int(gid),
                int(mtime),
                int(more.pop("size", "0")),
                sha256,
                unquote_to_bytes(more.pop("target", "")),
                int(more.pop("rdev", "0")),
                unquote_to_bytes(more.pop("link", "")),
                xattrs,
                more.pop("sparse", "") == "1",
                int(more.pop("flags", "0"), 16),
            )
            if more or made.mode & ~0o7777 or made.flags & ~FLAGS:
                raise ValueError(f"unexpected {sorted(more) or 'mode or flags'}")
            if (made.uid | made.gid) >> 32 or (made.size | abs(made.mtime) // 10**9) >> 63 or made.rdev >> 64:
                raise ValueError("a number is negative, or larger than any number of the system")
            if b"\0" in made.target:
                raise ValueError("a target has a byte that no name can have")
            return made
        except ValueError as error:
            raise Damaged(f"this line of a manifest cannot be read: {line[:200]!r}: {error}") from error

    def differs(self, live: Entry | None) -> list[str]:
        """The respects in which ``live`` is not as recorded, in words."""
        if live is None or live.type != self.type:
            return ["missing" if live is None else f"is a {WORDS.get(live.type, live.type)}"]
        pairs = [
            ("content", self.sha256 != live.sha256),
            ("target", self.target != live.target),
            ("device", self.rdev != live.rdev),
            ("mode", self.mode != live.mode),
            ("owner", (self.uid, self.gid) != (live.uid, live.gid)),
            ("attributes", self.xattrs != live.xattrs),
            ("hard link", self.link != live.link),
            ("flags", self.flags != live.flags),
            ("time", self.mtime != live.mtime),
        ]
        return [word for word, different in pairs if different]


def is_plain(raw: bytes) -> bool:
    """Whether ``quote`` leaves the bytes unchanged."""
    return _PLAIN.fullmatch(raw) is not None


def quote(raw: bytes) -> str:
    """Percent-encoding of a path: no blanks, no newlines, no byte above ASCII."""
    if _PLAIN.fullmatch(raw):
        return raw.decode("ascii")
    return quote_from_bytes(raw, safe="/!#$&'()*+,-.:;<=>?@[]^_`{|}~\"\\")


def file_line(
    path: bytes, info: os.stat_result, sha: str, xattrs: tuple[tuple[str, bytes], ...], sparse: bool, flags: int
) -> str:
    """The text of ``Entry.line`` for a regular file. It is fast, because a tree has a hundred thousand such lines."""
    line = (
        f"f {quote(path)} {info.st_mode & 0o7777:o} {info.st_uid} {info.st_gid} {info.st_mtime_ns} "
        f"size={info.st_size} sha256={sha}"
    )
    return line + _rest(sparse, flags, xattrs) if sparse or flags or xattrs else line


def _rest(sparse: bool, flags: int, xattrs: tuple[tuple[str, bytes], ...]) -> str:
    words = [" sparse=1"] if sparse else []
    if flags:
        words.append(f" flags={flags:x}")
    words += [f" x:{_key(name)}={base64.b64encode(value).decode()}" for name, value in xattrs]
    return "".join(words)


def _key(name: str) -> str:
    """The name of an xattr, which may be any bytes, in a form that can stand before an equals sign."""
    return quote(os.fsencode(name)).replace("=", "%3D")


def _hash(value: bytes) -> str:
    return f"sha256:{hashlib.sha256(value).hexdigest()}"


def path_of(line: str) -> bytes:
    """The path of a line, without looking at the rest of the line."""
    word = line[2:].partition(" ")[0]
    return unquote_to_bytes(word) if "%" in word else word.encode("ascii")


def place_of(lines: Sequence[str], path: bytes) -> int:
    """The place of the path in lines that are sorted by path, or the place where it would have to be put."""
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high) // 2
        if path_of(lines[middle]) < path:
            low = middle + 1
        else:
            high = middle
    return low


class Tree(Sequence[Entry]):
    """Entries sorted by path, kept as their lines. A line is parsed when its entry is used, which is rare."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self._linked: list[str] | None = None

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, at: int) -> Entry: ...

    @overload
    def __getitem__(self, at: slice) -> list[Entry]: ...

    def __getitem__(self, at: int | slice) -> Entry | list[Entry]:
        return list(map(Entry.parse, self.lines[at])) if isinstance(at, slice) else Entry.parse(self.lines[at])

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry.parse, self.lines)

    def find(self, path: bytes) -> Entry | None:
        at = place_of(self.lines, path)
        return self[at] if at < len(self.lines) and path_of(self.lines[at]) == path else None

    def linked(self) -> list[str]:
        """The lines of names of an inode that has another name before them."""
        if self._linked is None:
            self._linked = [line for line in self.lines if " link=" in line]
        return self._linked

    def below(self, path: bytes) -> str | None:
        """The first line of an object that exists, below the path."""
        inside = path.rstrip(b"/") + b"/"
        at = place_of(self.lines, inside + b"\0")
        while at < len(self.lines) and path_of(self.lines[at]).startswith(inside):
            if not self.lines[at].startswith(ABSENT):
                return self.lines[at]
            at += 1
        return None


def unlike(then: Sequence[str], now: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    """The differences of two lists of lines, sorted by path: for each path the numbers of its line in both lists."""
    one = two = 0
    while one < len(then) and two < len(now):
        run = _RUN
        while run:
            if then[one : one + run] == now[two : two + run]:
                one, two = one + run, two + run
            else:
                run //= 2
            if one >= len(then) or two >= len(now):
                break
        else:
            path, other = path_of(then[one]), path_of(now[two])
            yield (one if path <= other else None, two if path >= other else None)
            one, two = one + (path <= other), two + (path >= other)
    yield from ((rest, None) for rest in range(one, len(then)))
    yield from ((None, rest) for rest in range(two, len(now)))
