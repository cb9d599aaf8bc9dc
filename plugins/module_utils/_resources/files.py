# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``files``: trees as they were, down to owner, mode, times, ACLs, xattrs, links and holes."""

from __future__ import annotations

import errno
import fnmatch
import gc
import os
import re
import signal
import stat
import sys
import time
from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, NamedTuple

from .._errors import Damaged, EvenkeelError, UsageError
from .._files.ahead import Ahead
from .._files.cache import NEVER, Cache, Leaves, key_of, keys_of
from .._files.entry import (
    ABOVE,
    ABSENT,
    EARLY,
    FLAGS,
    PINNED,
    SOCKET,
    TYPES,
    Entry,
    Tree,
    file_line,
    is_plain,
    path_of,
    quote,
    unlike,
)
from .._files.step import Step
from .._host.durable import inode_flags
from .._host.hashing import chunks, hash_of
from .._host.options import Options, read
from .._host.paths import Parents, ancestors, check_path, is_ours, mount_points, open_dir
from .._store.objects import SMALL, Hasher, Writer

OPTIONS: Options = {
    "paths": {"type": "list", "elements": "str", "required": True},
    "exclude": {"type": "list", "elements": "str", "default": []},
}
# Our own traces inside a declared tree: staging areas, and the units of the dead-man.
_OWN_NAMES = (
    b".evenkeel-*",
    b"evenkeel-deadman*.service",
    b"evenkeel-deadman*.timer",
    b"evenkeel-boot*.service",
    b"evenkeel-watch*.timer",
    b"evenkeel-deadman*.service.d",
    b"evenkeel-deadman*.timer.d",
    b"evenkeel-boot*.service.d",
    b"evenkeel-watch*.timer.d",
)
# File systems that hold no data of their own; a mount of one is left out of a tree.
_PSEUDO = {
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
}
# The key of a declaration under which a checkpoint keeps what was mounted: mount point -> kind of file system.
MOUNTS = "mounts"
_TRIES = 3
# Nanoseconds. A write changes the times as it begins, by a clock that ticks, and can then go on: what changed less than
# this before it was read is read once more. Where somebody has it open for writing, that is so many seconds later: a
# program that has to wait for a processor stands still in the middle of a write for tenths of a second.
_FRESH = 2_000_000_000
_APART = 1.0
_GLANCE = 0.02
# How deep a tolerant look goes: each level has a descriptor open.
_DEPTH = 300
# Bytes of holes, in all files together, that a tolerant look reads through: they cost their owner nothing.
_HOLES = 1024**3
# Bytes of the extended attributes of a file, and in a tolerant look of all files that have more than a little; and what
# stands for those that were not read: no file has it. All are held in memory, and some file systems set no limit.
_XATTRS, _LITTLE = 16 * 1024**2, 4096
_UNLIKE = (("?", b""),)
# In place of the SHA-256 of a content that was not read: no content has it.
_UNREAD = "0" * 64
# Characters of a path that a message shows.
_SHOWN = 300
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# A file system without xattrs, one that is gone since it was listed, and a kernel without the calls.
_NO_XATTRS = (errno.ENOTSUP, errno.ENOENT, errno.ENOSYS)
# Bytes that are rather hashed once more than remembered.
_MUCH = 32 * 1024 * 1024
_ENCODING = sys.getfilesystemencoding()
_NOTHING = re.compile(rb"(?!)")


def check(spec: dict[str, Any]) -> dict[str, Any]:
    """The declaration with all its keys; UsageError names the bad one."""
    found = read(OPTIONS, spec, "files")
    for key in ("paths", "exclude"):
        if not all(found[key]):
            raise UsageError(f"files: {key} must be a list of texts, not {found[key]!r}")
    paths = {check_path(os.fsencode(one.rstrip("/") or "/")) for one in found["paths"]}
    if b"/" in paths:
        raise UsageError("files: / cannot be protected as a whole; name the trees that matter, such as /etc")
    return {
        "paths": sorted(os.fsdecode(path) for path in paths),
        "exclude": sorted(set(found["exclude"])),
    }


@dataclass
class Scan:
    """Entries on disk now, sorted by path; directories that hold something excluded; of a tolerant look what it could
    not read whole: path -> why; and which directory each is: path -> device, inode."""

    entries: Tree
    holding: set[bytes] = field(default_factory=set)
    unread: dict[bytes, str] = field(default_factory=dict)
    inodes: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """All that a checkpoint can record: no socket, and no content that was not read."""
        if not self.unread:
            return [line for line in self.entries.lines if line[0] != SOCKET]
        return [
            line
            for line in self.entries.lines
            if line[0] != SOCKET and (line.startswith("d ") or path_of(line) not in self.unread)
        ]


class _Fresh(NamedTuple):
    """A file that changed just before it was read: the number of its line, what it had, when it was read, and how often
    it was."""

    place: int
    path: bytes
    kind: str
    sha: str
    info: os.stat_result
    read: float
    times: int = 1


class _Walk:
    """``lines`` are sorted by path within each declared path; ``keys`` are theirs for the cache, end to end."""

    def __init__(
        self,
        spec: dict[str, Any],
        sink: Writer | Hasher,
        skip: Sequence[str],
        cache: Cache | None,
        ahead: Ahead,
        tolerant: bool,
    ) -> None:
        self.sink = sink
        self.tolerant = tolerant
        self.unread: dict[bytes, str] = {}
        self.depth = 0
        self.holes = 0
        self.heavy = 0
        self.cache = cache
        self.ahead = ahead
        self.empty = cache is None or cache.empty
        self.lines: list[str] = []
        self.keys = bytearray()
        self.learned = 0
        self.learned_bytes = 0
        self.gone: list[int] = []
        self.fresh: list[_Fresh] = []
        self.latest: _Fresh | None = None
        self.holding: set[bytes] = set()
        self.inodes: dict[bytes, tuple[int, int]] = {}
        self.shared: dict[tuple[int, int], list[int]] = {}
        patterns = [os.fsencode(pattern) for pattern in spec["exclude"]]
        self.names = _pattern([*_OWN_NAMES, *(one for one in patterns if b"/" not in one)])
        self.paths = _pattern([one for one in patterns if b"/" in one])
        self.mounts = mount_points()
        # A bind mount shows what is skipped under another name.
        self.out = {(info.st_dev, info.st_ino) for info in map(_status, skip) if info is not None}
        self.skipped: dict[bytes, set[bytes]] = {}
        for path in [*map(os.fsencode, skip), *(path for path, kind in self.mounts.items() if kind in _PSEUDO)]:
            self.skipped.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))

    def share(self, info: os.stat_result, place: int) -> None:
        """Note one more name of an inode."""
        self.shared.setdefault((info.st_dev, info.st_ino), []).append(place)

    def put(self, line: str, key: bytes, info: os.stat_result | None = None) -> None:
        if info is not None and info.st_nlink > 1:
            self.share(info, len(self.lines))
        self.note_fresh(len(self.lines))
        self.lines.append(line)
        self.keys += key

    def note_fresh(self, place: int) -> None:
        """The file that was read last, if it has to be read once more, has its line at that place."""
        if self.latest is not None:
            self.fresh.append(self.latest._replace(place=place))
            self.latest = None

    def each(self, path: bytes) -> None:
        """A declared path. One that a tolerant look cannot see, as on a mount that is dead, keeps no other one back."""
        try:
            self.root(path)
        except (OSError, EvenkeelError, RecursionError) as error:
            self.unread[path] = self.tolerate(error)

    def root(self, path: bytes) -> None:
        """A declared path, and the directories above it."""
        kind = ""
        try:
            for above in ancestors(path):
                try:
                    fd = open_dir(above, path)
                except (NotADirectoryError, UsageError) as error:
                    self.tolerate(error)
                    self.in_place_of(above, str(error))
                    return
                try:
                    # Without its time, which changes with whatever else happens in it.
                    info = os.fstat(fd)
                    self.inodes[above] = (info.st_dev, info.st_ino)
                    entry = _entry(above, info, ABOVE, self.xattrs(fd, above))._replace(mtime=0)
                    self.put(entry.line(), NEVER)
                finally:
                    os.close(fd)
                kind = self.mounts.get(above, kind)
            fd = open_dir(os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            self.put(Entry(path, ABSENT).line(), NEVER)
            return
        try:
            name = os.path.basename(path)
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self.directory(path, name, fd, kind, self.reserve())
            else:
                self.look_at(path, name, fd, self.mounts.get(path, kind), info)
        except FileNotFoundError:
            self.put(Entry(path, ABSENT).line(), NEVER)
        finally:
            os.close(fd)

    def tolerate(self, error: Exception) -> str:
        """Why something cannot be read, in words; raises that again unless this look is a tolerant one.

        Where the store has no room for what is read it is no matter of this path.
        """
        full = isinstance(self.sink, Writer) and getattr(error, "errno", None) in (*_NO_ROOM, errno.EROFS)
        if not self.tolerant or full:
            raise error
        return error.message if isinstance(error, EvenkeelError) else getattr(error, "strerror", "") or str(error)

    def in_place_of(self, above: bytes, why: str) -> None:
        """Note another thing than the directory ``above``, which is wanted there: it is put aside for that one."""
        fd = open_dir(os.path.dirname(above))
        try:
            self.stand_in(above, os.path.basename(above), fd, f"it is no directory, and is not kept: {why}")
        finally:
            os.close(fd)

    def stand_in(self, path: bytes, name: bytes, parent: int, why: str, place: int | None = None) -> None:
        """A line for what cannot be read: it is like nothing that was recorded."""
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        entry = _entry(path, info, TYPES[stat.S_IFMT(info.st_mode)], ())
        if entry.type == "f":
            entry = entry._replace(size=info.st_size, sha256=_UNREAD)
        self.unread[path] = why
        if place is None:
            self.put(entry.line(), NEVER)
        else:
            self.fill(place, entry.line(), NEVER)

    def look_at(self, path: bytes, name: bytes, parent: int, kind: str, info: os.stat_result | None) -> None:
        """Put the line of what is no directory; ``info``: its status, where that is known."""
        try:
            if info is None:
                self.put(*self.file(path, name, parent, kind))
            else:
                self.put(*self.leaf(path, name, parent, kind, info))
        except (FileNotFoundError, IsADirectoryError):
            raise
        except (OSError, EvenkeelError) as error:
            if info is None and isinstance(error, OSError) and error.errno == errno.ELOOP:
                raise
            self.stand_in(path, name, parent, self.tolerate(error))

    def reserve(self) -> int:
        """A place for the line of a directory, which is read when what is in it is."""
        self.put("", NEVER)
        return len(self.lines) - 1

    def fill(self, place: int, line: str, key: bytes) -> None:
        self.note_fresh(place)
        self.lines[place] = line
        self.keys[place * len(NEVER) : (place + 1) * len(NEVER)] = key

    def directory(self, path: bytes, name: bytes, parent: int, kind: str, place: int) -> None:
        """The directory and all that is in it, on a file system of the ``kind``."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            self.gone.append(place)
            raise
        except PermissionError as error:
            self.stand_in(path, name, parent, self.tolerate(error), place)
            return
        except NotADirectoryError:  # Another thing than it was when it was listed.
            try:
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                line, key, info = self.leaf(path, name, parent, kind, info)
            except FileNotFoundError:
                self.gone.append(place)
                raise
            self.fill(place, line, key)
            if info.st_nlink > 1:
                self.share(info, place)
            return
        self.depth += 1
        try:
            kind = self.mounts.get(path, kind)
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) in self.out:
                self.holding.update(ancestors(path))
                self.gone.append(place)
                return
            self.inodes[path] = (info.st_dev, info.st_ino)
            known = self.cache.line(f"d {quote(path)} ", path, info) if self.cache is not None else None
            if known is None:
                flags = inode_flags(fd) & FLAGS
                line = _entry(path, info, "d", self.xattrs(fd, path))._replace(flags=flags).line()
                self.fill(place, line, self.key(info, kind))
            else:
                self.fill(place, known, key_of(info))
            if self.tolerant and self.depth > _DEPTH:
                self.unread[path] = f"it lies {_DEPTH} levels deep"
            else:
                self.below(path, fd, kind, place, known is not None)
        except (OSError, EvenkeelError, RecursionError) as error:
            self.unread[path] = self.tolerate(error)
        finally:
            self.depth -= 1
            os.close(fd)

    def xattrs(
        self, where: int | bytes, path: bytes, instead: tuple[tuple[str, bytes], ...] = ()
    ) -> tuple[tuple[str, bytes], ...]:
        """All of them; ``instead``, where a tolerant look cannot read them or has read too much of such already."""
        try:
            found = _xattrs(where, path, _XATTRS - self.heavy)
        except (OSError, EvenkeelError) as error:
            self.unread[path] = self.tolerate(error)
            return instead
        if found and self.tolerant:
            size = sum(len(value) for _name, value in found)
            self.heavy += size if size > _LITTLE else 0
        return found

    def below(self, path: bytes, fd: int, kind: str, place: int, unchanged: bool) -> None:
        """What is in the directory whose line has this ``place``; ``unchanged`` if the same names are as before."""
        skipped, prefix, quoted = self.skipped.get(path, ()), path + b"/", quote(path + b"/")
        cache = None if self.empty else self.cache
        leaves = cache.leaves(path, quoted) if cache is not None and not skipped else None
        if cache is not None and leaves is not None:
            names = leaves.names if unchanged else sorted(os.listdir(fd))
            if self.again(cache, prefix, leaves, names, fd, kind):
                return
        # In the order of whole paths: a-b stands between the directory a and what is in it.
        todo: list[bytes] = []
        folders: set[bytes] = set()
        plain: set[bytes] = set()
        places: dict[bytes, int] = {}
        with os.scandir(fd) as found:
            for one in found:
                name = one.name.encode(_ENCODING, "surrogateescape")
                if (
                    self.names.match(name)
                    or name in skipped
                    or (self.paths is not _NOTHING and self.paths.match(prefix + name))
                ):
                    self.holding.update([path, *ancestors(path)])
                    self.fill(place, self.lines[place], NEVER)  # What is left out must be seen each time.
                    continue
                todo.append(name)
                if one.is_dir(follow_symlinks=False):
                    todo.append(name + b"/")
                    folders.add(name)
                elif self.empty and one.is_file(follow_symlinks=False):
                    plain.add(name)
        todo.sort()
        simple = is_plain(b"".join(todo))
        start = 0
        while start < len(todo):
            name = todo[start]
            start += 1
            try:
                if name.endswith(b"/"):
                    name = name[:-1]
                    if name in places:
                        self.directory(prefix + name, name, fd, kind, places[name])
                    continue
                if name in folders:
                    places[name] = self.reserve()
                    continue
                if name in plain:
                    # Nothing is known of it: what it is now shows when it is open.
                    try:
                        self.look_at(prefix + name, name, fd, kind, None)
                        continue
                    except OSError as error:
                        if error.errno != errno.ELOOP:
                            raise
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if cache is not None:
                    key = key_of(info)
                    line = cache.next(quoted + (name.decode("ascii") if simple else quote(name)) + " ", info, key)
                    if line is not None:
                        if info.st_nlink > 1:
                            self.share(info, len(self.lines))
                        self.lines.append(line)
                        self.keys += key
                        continue
                try:
                    self.look_at(prefix + name, name, fd, kind, info)
                except IsADirectoryError:  # Since it was listed.
                    places[name] = self.reserve()
                    insort(todo, name + b"/", start)
            except FileNotFoundError:
                continue  # Gone since it was listed: then it is not part of this moment.
            except OSError as error:
                # What stands beside it is looked at all the same.
                self.unread[prefix + name] = self.tolerate(error)

    def again(self, cache: Cache, prefix: bytes, leaves: Leaves, names: list[str], fd: int, kind: str) -> bool:
        """The leaves of a directory that had no others before; False, and nothing done, where it takes a closer look.

        ``names``: what is in it now. What is known of was not left out, nor is now.
        """
        start, end = leaves.start, leaves.start + len(leaves.names)
        sure = self.ahead.marks[start:end]
        same = names == leaves.names
        if same and sure.count(1) == len(names):
            self.lines += cache.lines[start:end]
            self.keys += cache.keys(start, end)
            cache.at = end
            return True
        numbers: Sequence[int] = range(start, end)
        if not same:
            known = dict(zip(leaves.names, numbers))
            numbers = [known.get(name, -1) for name in names]
            sure = bytes(sure[number - start] if number >= 0 else 0 for number in numbers)
            for raw in [os.fsencode(name) for name, number in zip(names, numbers) if number < 0]:
                if not is_plain(raw) or self.names.match(raw) or self.paths.match(prefix + raw):
                    return False
        doubt = [at for at, mark in enumerate(sure) if not mark]
        try:
            found = [os.stat(names[at], dir_fd=fd, follow_symlinks=False) for at in doubt]
        except FileNotFoundError:
            return False
        if any(stat.S_ISDIR(info.st_mode) for info in found):
            return False
        keys = keys_of(found)
        lines = cache.still(numbers if len(doubt) == len(names) else [numbers[at] for at in doubt], found, keys)
        true = [line for line in lines if line is not None]
        if len(true) == len(names) and max([info.st_nlink for info in found], default=0) < 2:
            self.lines += true
            self.keys += b"".join(keys)
            cache.at = end
            return True
        answers = zip(found, keys, lines)
        for name, number, mark in zip(names, numbers, sure):
            if mark:
                self.put(cache.lines[number], cache.keys(number, number + 1))
                continue
            info, key, line = next(answers)
            if line is not None:
                self.put(line, key, info)
                continue
            cache.at = number if number >= 0 else cache.at
            raw = name.encode("ascii")
            with suppress(FileNotFoundError):  # Gone since: then it is not part of this moment.
                self.look_at(prefix + raw, raw, fd, kind, info)
        cache.at = end
        return True

    def leaf(
        self, path: bytes, name: bytes, parent: int, kind: str, info: os.stat_result
    ) -> tuple[str, bytes, os.stat_result]:
        """Line, key and status of what was no directory when ``info`` was taken."""
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
        # An O_PATH descriptor has no xattr calls; the name below the parent's descriptor has.
        xattrs = self.xattrs(f"/proc/self/fd/{parent}/".encode() + name, path, _UNLIKE)
        return _entry(path, info, TYPES[form], xattrs)._replace(target=target).line(), self.key(info, kind), info

    def file(
        self, path: bytes, name: bytes, parent: int, kind: str, tries: int = _TRIES
    ) -> tuple[str, bytes, os.stat_result]:
        """A regular file, read again when it changed meanwhile; EvenkeelError when it never holds still (I11)."""
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
                if self.tolerant and self.holes + holes > _HOLES:
                    raise EvenkeelError("it is a file of holes, too long to be read through")
                self.holes += holes
                xattrs, word = self.xattrs(fd, path, _UNLIKE), inode_flags(fd) & FLAGS
                if before.st_size <= SMALL:
                    data = os.read(fd, before.st_size + 1)
                    sha, size = self.sink.add(data) if len(data) == before.st_size else "", len(data)
                else:
                    sha, size = self.sink.add_file(fd)
                # The count of blocks alone can lag behind while the kernel allocates them.
                sparse = before.st_blocks * 512 < before.st_size and os.lseek(fd, 0, os.SEEK_HOLE) < before.st_size
                after = os.fstat(fd)
            finally:
                os.close(fd)
            if size == before.st_size and _moment(before) == _moment(after):
                kind = self.mounts.get(path, kind)  # A file can be a mount point as well.
                # What is compared alone needs no second look: torn, it is like nothing that was recorded.
                if isinstance(self.sink, Writer) and time.time_ns() - before.st_ctime_ns < _FRESH:
                    self.latest = _Fresh(-1, path, kind, sha, before, time.monotonic())
                return file_line(path, before, sha, xattrs, sparse, word), self.key(before, kind), before
            if self.tolerant and size > SMALL:
                break
        raise _unstable(path)

    def read_again(self) -> None:
        """Read once more what changed just before it was read (I11): it counts when it is the same both times."""
        while self.fresh:
            todo, self.fresh, waiting = self.fresh, [], False
            with Parents(check=self.same) as parents:
                for one in todo:
                    try:
                        parent, name = parents.of(one.path)
                    except (OSError, UsageError):  # What is in it is still there, under another name perhaps.
                        self.drop(one, self.tolerate(_unstable(one.path)))
                        continue
                    try:
                        if not self.once_more(one, parent, name):
                            self.fresh.append(one)
                            waiting = True
                    except FileNotFoundError:  # Then it is not part of this moment.
                        self.gone.append(one.place)
                    except (OSError, EvenkeelError) as error:
                        other = getattr(error, "errno", None) in (errno.ELOOP, errno.ENOTDIR)  # No file any more.
                        self.drop(one, self.tolerate(_unstable(one.path) if other else error))
            if waiting:
                time.sleep(_GLANCE)

    def same(self, path: bytes, fd: int) -> None:
        """Raise OSError where the directory is another one than was looked at."""
        info = os.fstat(fd)
        if self.inodes.get(path, (info.st_dev, info.st_ino)) != (info.st_dev, info.st_ino):
            raise OSError(errno.ESTALE, "it is another directory now")

    def once_more(self, one: _Fresh, parent: int, name: bytes) -> bool:
        """False where it is too early to tell. What is not true any more is replaced by what is there now."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            now = os.fstat(fd)
            # What is only written on, such as a log, is as it was up to where it ended.
            longer = os.path.samestat(now, one.info) and now.st_size > one.info.st_size
            if longer or (os.path.samestat(now, one.info) and _moment(now) == _moment(one.info)):
                if time.monotonic() - one.read < _APART and _may_be_written(fd):
                    return False
                read = hash_of(chunks(fd, one.info.st_size))[0]
                if read == one.sha and (longer or _moment(now) == _moment(os.fstat(fd))):
                    return True
        finally:
            os.close(fd)
        if one.times >= _TRIES or (self.tolerant and one.info.st_size > SMALL):
            raise _unstable(one.path)
        line, key, info = self.file(one.path, name, parent, one.kind, _TRIES - one.times)
        if self.latest is not None:
            self.latest = self.latest._replace(times=one.times + 1)
        self.fill(one.place, line, key)
        if one.info.st_nlink > 1:
            self.shared[one.info.st_dev, one.info.st_ino].remove(one.place)
        if info.st_nlink > 1:
            self.share(info, one.place)
        return True

    def drop(self, one: _Fresh, why: str) -> None:
        """In place of the line of a file that never held still: one that is like nothing that was recorded."""
        entry = Entry.parse(self.lines[one.place])._replace(sha256=_UNREAD)
        self.unread[one.path] = why
        self.fill(one.place, entry.line(), NEVER)

    def key(self, info: os.stat_result, kind: str) -> bytes:
        key = self.cache.key(info, kind) if self.cache is not None else NEVER
        if key != NEVER:
            self.learned += 1
            self.learned_bytes += info.st_size
        return key

    def last(self) -> str:
        """The path that was looked at last, or the beginning of a long one."""
        path = os.fsdecode(next((path_of(line) for line in reversed(self.lines) if line), b"/"))
        return path if len(path) <= _SHOWN else path[:_SHOWN] + "..."

    def worth_saving(self) -> bool:
        """Whether the next look would be faster by more than it costs to write the cache anew."""
        return self.learned * 50 > len(self.lines) or self.learned_bytes > _MUCH

    def arrange(self) -> None:
        """All lines in the order of their paths, each path once."""
        paths = [path_of(line) for line in self.lines]
        order: dict[bytes, int] = {}
        for at in sorted(range(len(paths)), key=paths.__getitem__):
            # Of a declared path within another one both say the same; one above is nothing but above to the inner one.
            if not (self.lines[at].startswith(ABOVE) and paths[at] in order):
                order[paths[at]] = at
        self.choose(list(order.values()))

    def choose(self, order: list[int]) -> None:
        """Keep the lines of these numbers, in this order."""
        size = len(NEVER)
        moved = {at: number for number, at in enumerate(order)}
        self.keys = bytearray().join(self.keys[at * size : (at + 1) * size] for at in order)
        self.lines = [self.lines[at] for at in order]
        self.shared = {inode: [moved[at] for at in found if at in moved] for inode, found in self.shared.items()}


def scan(
    spec: dict[str, Any], sink: Writer | Hasher, skip: Sequence[str] = (), tolerant: bool = False, cached: bool = True
) -> Scan:
    """Read the declared trees, contents into ``sink``; ``skip`` are paths that are never part of them (the store).

    What the stat cache of the sink's store knows is not read again; a Writer's is brought up to date with it, unless
    ``cached`` is False. Raises UsageError for a path that leads through a symlink or cannot be read, EvenkeelError for
    an unstable file. A ``tolerant`` look notes all of that instead, and goes on: a host that goes back must not wait
    for what only the undo wants.
    """
    spec = check(declared(spec))
    cache = Cache(sink.objects, spec) if cached and sink.objects is not None else None
    ahead = Ahead(cache)
    walk = _Walk(spec, sink, skip, cache, ahead, tolerant)
    collects = gc.isenabled()
    gc.disable()  # There are no cycles in all that is made here, and looking for them takes a fifth of the time.
    try:
        for path in spec["paths"]:
            walk.each(os.fsencode(path))
        walk.read_again()
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error}; run with the rights to read it (become)") from error
    except RecursionError as error:
        raise UsageError(f"{walk.last()} lies too deep to be read; exclude what it is in") from error
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # Each directory on the way down is open.
        raise UsageError(
            f"{walk.last()} lies too deep to be read with as many open files as are allowed; "
            "exclude what it is in, or raise the limit (ulimit -n)"
        ) from error
    finally:
        ahead.close()
        if collects:
            gc.enable()
    if walk.gone:
        gone = set(walk.gone)
        walk.choose([at for at in range(len(walk.lines)) if at not in gone])
    if len(spec["paths"]) > 1:
        walk.arrange()
    lines = walk.lines
    if any(len(places) > 1 for places in walk.shared.values()):
        # Which name of an inode comes first is no property of the file: the cache does not keep it.
        lines = list(lines)
        for places in walk.shared.values():
            first, *others = sorted(places)
            for place in others:
                lines[place] = Entry.parse(lines[place])._replace(link=path_of(lines[first])).line()
    if cache is not None and isinstance(sink, Writer) and (cache.stale or walk.worth_saving()):
        sink.afterwards(partial(cache.save, walk.lines, walk.keys))
    return Scan(Tree(lines), walk.holding, walk.unread, walk.inodes)


def declared(spec: dict[str, Any]) -> dict[str, Any]:
    """The declaration as a person wrote it, without what a checkpoint adds to it."""
    return {key: value for key, value in spec.items() if key != MOUNTS}


def mounted(spec: dict[str, Any], mounts: Mapping[str, str]) -> dict[str, str]:
    """Those of the mount points (point -> kind) that decide what is seen below the declared paths. Pure."""
    found = {}
    for point, kind in mounts.items():
        for path in spec["paths"]:
            above = point != "/" and f"{path}/".startswith(f"{point}/")
            if (above or f"{point}/".startswith(f"{path}/")) and kind not in _PSEUDO:
                found[point] = kind
    return dict(sorted(found.items()))


def remounted(spec: dict[str, Any], mounts: Mapping[str, str]) -> dict[str, str]:
    """Mount point -> why nothing at or below it can be put back: it is mounted now and was not, or the other way round.

    Pure. Nothing is known of a checkpoint of version 0.1.0.
    """
    if MOUNTS not in spec:
        return {}
    now = mounted(declared(spec), mounts)
    gone = {one: f"{one} was a mount point ({kind}) and is none now" for one, kind in spec[MOUNTS].items()}
    come = {one: f"{one} was no mount point, and {kind} is mounted there now" for one, kind in now.items()}
    return {one: why for one, why in {**gone, **come}.items() if (one in now) != (one in spec[MOUNTS])}


def lacks(spec: dict[str, Any], lines: Sequence[str]) -> list[str]:
    """What of the lines a rollback could not bring back, in words. Pure."""
    found = [
        f"{os.fsdecode(path_of(line))} does not exist: nothing is protected there"
        for line in lines
        if line.startswith(ABSENT)
    ]
    inside = [one for one in spec.get(MOUNTS, ()) if any(f"{one}/".startswith(f"{path}/") for path in spec["paths"])]
    if inside:
        found.append(
            f"{len(inside)} mount points cannot be replaced while they are mounted, only what lies in them: "
            f"{', '.join(inside[:10])}"
        )
    return found + _not_ours(spec, list(lines))


def _not_ours(spec: dict[str, Any], lines: list[str]) -> list[str]:
    """The mounts on which no directory is this user's alone to stage a rollback in, in words. Pure."""
    tree, words = Tree(lines), []
    for mount in map(os.fsencode, spec.get(MOUNTS, ())):
        found: list[Entry] = []
        for path in map(os.fsencode, spec["paths"]):
            chain = [one for one in (*ancestors(path), path) if (one + b"/").startswith(mount.rstrip(b"/") + b"/")]
            found += filter(None, map(tree.find, chain or [mount]))
        if found and not any(is_ours(entry.uid, entry.mode) for entry in found):
            top = found[0]
            who = f"user {top.uid}"
            if top.uid == os.geteuid():
                who = "everybody" if top.mode & 0o002 else f"group {top.gid}"
            words.append(
                f"{os.fsdecode(mount)} is a mount on which {who} can exchange what a rollback stages, and so can keep "
                "what is on it, and nothing else, from going back. Give its top directory to root alone"
            )
    return words


def left_out(spec: dict[str, Any]) -> Callable[[bytes], bool]:
    """Tells of a path below a declared one whether it is left out, for what it is called itself."""
    patterns = [os.fsencode(pattern) for pattern in spec["exclude"]]
    names = _pattern([one for one in patterns if b"/" not in one])
    paths = _pattern([one for one in patterns if b"/" in one])
    return lambda path: bool(names.match(os.path.basename(path)) or paths.match(path))


def excludes(spec: dict[str, Any], path: str) -> bool:
    """Whether the path lies in a declared one and is left out, or a directory above it is."""
    is_left_out = left_out(spec)
    raw = os.fsencode(path)
    for root in map(os.fsencode, spec["paths"]):
        if raw.startswith(root + b"/"):
            at = root
            for name in raw[len(root) + 1 :].split(b"/"):
                at += b"/" + name
                if is_left_out(at):
                    return True
    return False


def _pattern(patterns: Sequence[bytes]) -> re.Pattern[bytes]:
    """One expression for what any of the patterns of fnmatch matches."""
    found = "|".join(f"(?:{fnmatch.translate(one.decode('latin-1'))})" for one in patterns)
    return re.compile(found.encode("latin-1")) if patterns else _NOTHING


def _entry(path: bytes, info: os.stat_result, kind: str, xattrs: tuple[tuple[str, bytes], ...]) -> Entry:
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


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # It is not there yet.
        return None


def _may_be_written(fd: int) -> bool:
    """Whether somebody has the file open for writing, or that cannot be known: only otherwise is a lease given.

    It is given back at once. Whoever opens the file just then waits for that, and of the signal that we get for it the
    default is to do nothing.
    """
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def _unstable(path: bytes) -> EvenkeelError:
    return EvenkeelError(
        f"{os.fsdecode(path)} is unstable: it changed each of the {_TRIES} times it was read; "
        "exclude it, or stop what writes it while the checkpoint is taken"
    )


def _moment(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _xattrs(where: int | bytes, path: bytes, most: int) -> tuple[tuple[str, bytes], ...]:
    """Name and value of all, ACLs among them; none where the file system has none. UsageError names the ``path``."""
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
        if size > max(most, _LITTLE):
            raise UsageError(f"{os.fsdecode(path)}: its extended attributes are too long to be kept; exclude it")
    return tuple(found)


def recorded(lines: list[str], spec: dict[str, Any], now: Scan | None = None) -> Tree:
    """The entries that the lines are, if a scan of ``spec`` could have written them. Pure.

    Raises Damaged for a path outside of the declared ones, below what is no directory, relative or out of order, and
    for a hard link to what is not recorded: a doctored checkpoint reaches nothing that was not declared. A line that
    the scan ``now`` has written as well needs no look.
    """
    paths = {os.fsencode(path) for path in check(declared(spec))["paths"]}
    above = {one for path in paths for one in ancestors(path)}
    then = Tree(lines)
    parents: dict[bytes, Entry | None] = {}

    def parent_of(path: bytes) -> Entry | None:
        folder = os.path.dirname(path)
        if folder not in parents:
            parents[folder] = then.find(folder)
        return parents[folder] if path != b"/" else None

    def wrong(at: int) -> str:
        entry = then[at]
        path, parent = entry.path, parent_of(entry.path)
        try:
            check_path(path)
        except UsageError as error:
            return error.message
        if (at and path_of(lines[at - 1]) >= path) or (at + 1 < len(lines) and path_of(lines[at + 1]) <= path):
            return "it is out of order"
        if entry.type == ABOVE and path in above:
            if path != b"/" and (parent is None or parent.type not in ("d", ABOVE)):
                return "it lies below what is no directory"
        elif path not in paths and (entry.type in (ABOVE, ABSENT) or parent is None or parent.type == ABOVE):
            return "it lies outside of the declared paths"
        elif entry.type != ABSENT and (parent is None or parent.type not in ("d", ABOVE)):
            return "it lies below what is no directory"
        return ""

    def refuse(line: str, why: str) -> None:
        raise Damaged(f"this line of a manifest is refused: {line[:200]!r}: {why}; nothing was changed")

    scanned = now.entries.lines if now is not None else []
    for number, live in unlike(lines, scanned):
        if number is not None:
            why = wrong(number)
            if why:
                refuse(lines[number], why)
        if live is not None and scanned[live].startswith(("d", ABOVE)):
            # What is below may be as it was, and has not been looked at.
            stays = number is not None and lines[number].startswith(("d", ABOVE))
            line = None if stays else then.below(path_of(scanned[live]))
            if line is not None:
                refuse(line, "it lies below what is no directory")
    for line in then.linked():
        entry = Entry.parse(line)
        first = then.find(entry.link)
        if first is None or first.type != entry.type or first.link or entry.type == "d":
            refuse(line, "it is a hard link to what is not recorded")
    return then


def compare(then: Tree, now: Scan) -> list[Step]:
    """What a rollback does: from the scan of now back to the entries of then. Pure.

    Each step's detail has ``op`` and the manifest line of what shall be: ``put`` a new object in place, ``swap`` it
    with one of another type, ``meta`` set attributes of what stays, ``delete``. In an order that can be carried out:
    parents before children, deletions after, from the leaves up. ``blocked`` says why a step cannot be carried out.
    ``folder`` and ``self`` (device, inode) are the directory that it is in, and it is itself, as the scan found them.

    A socket belongs to the program that listens: none is put back, and none is taken away.
    """
    pairs: dict[bytes, tuple[Entry | None, Entry | None]] = {}
    for one, two in unlike(then.lines, now.entries.lines):
        entry, found = None if one is None else then[one], None if two is None else now.entries[two]
        if entry is not None and entry.type == SOCKET:
            continue
        if entry is None and found is not None and found.type == SOCKET:
            continue
        for known in (entry, found):
            if known is not None:
                pairs[known.path] = (entry, found)
                break
    replaced = _linked(then, pairs)
    for raw in replaced - set(pairs):
        pairs[raw] = (then.find(raw), now.entries.find(raw))
    steps: list[Step] = []
    gone: set[bytes] = set()
    for raw in sorted(pairs):
        entry, found = pairs[raw]
        path = os.fsdecode(raw)
        if (
            entry is None
            or entry.type == ABSENT
            or (entry.type == ABOVE and found is not None and found.type in ("d", ABOVE))
        ):
            continue
        if found is not None and found.type == ABSENT:
            found = None
        why = entry.differs(found)
        if entry.path in replaced and not why:
            why = ["hard link"]
        if not why:
            continue
        detail: dict[str, Any] = {"line": entry.line(), **_which(entry.path, now)}
        if found is None:
            steps.append(Step("files", "create", path, "", dict(detail, op="put")))
        elif found.type != entry.type:
            if found.type == "d":
                if entry.path in now.holding:
                    detail["blocked"] = "it has become a directory that holds excluded files; move them away"
                gone.add(entry.path)
            op = "swap" if found.type == "d" or entry.type in ("d", ABOVE) else "put"
            steps.append(Step("files", "replace", path, ", ".join(why), dict(detail, op=op)))
        elif entry.type == "d" or (entry.path not in replaced and _in_place(entry, found, why)):
            steps.append(Step("files", "attributes", path, ", ".join(why), dict(detail, op="meta")))
        else:
            steps.append(Step("files", "replace", path, ", ".join(why), dict(detail, op="put")))
    return steps + _deletions(pairs, now, gone)


def _which(path: bytes, now: Scan) -> dict[str, Any]:
    """Which directories the path is in and is itself, where they are there."""
    both = {"folder": now.inodes.get(os.path.dirname(path)), "self": now.inodes.get(path)}
    return {name: list(inode) for name, inode in both.items() if inode is not None}


def swapped(
    steps: Sequence[Step], then: Sequence[Entry], now: Scan, spec: dict[str, Any], mounts: Collection[bytes]
) -> list[Step]:
    """The steps with one ``swap`` for each declared directory that can be put back as a whole. Pure.

    It cannot where it holds a mount or something excluded, shares an inode with a file elsewhere, or where an
    immutable or append-only flag is in the way. The step's ``tree`` are the manifest lines of all that is in it.
    """
    live = {entry.path: entry for entry in now.entries}
    found = list(steps)
    for root in map(os.fsencode, spec["paths"]):
        inside = root + b"/"
        tree = [entry for entry in then if (entry.path + b"/").startswith(inside)]
        below = [step for step in found if os.fsencode(step.target).startswith(inside)]
        old = live.get(root)
        if (
            not below
            or old is None
            or not tree
            or old.type != "d"
            or tree[0].type != "d"
            or old.flags & PINNED
            or any(entry.flags & PINNED for entry in tree)
            or root in now.holding
            or any((mount + b"/").startswith(inside) for mount in mounts)
            or any(entry.link and entry.path.startswith(inside) != entry.link.startswith(inside) for entry in then)
        ):
            continue
        lines = [entry.line() for entry in tree]
        detail = {"op": "swap", "line": lines[0], "tree": lines[1:], **_which(root, now)}
        first = found.index(below[0])
        found = [step for step in found if not (os.fsencode(step.target) + b"/").startswith(inside)]
        found.insert(first, Step("files", "swap", os.fsdecode(root), f"{len(below)} paths in it differ", detail))
    return found


def _in_place(entry: Entry, live: Entry, why: Sequence[str]) -> bool:
    """Whether all that differs can be set on the object that is there."""
    return set(why) <= {"time", "flags"} and not (entry.flags ^ live.flags) & EARLY


def _linked(then: Tree, pairs: dict[bytes, tuple[Entry | None, Entry | None]]) -> set[bytes]:
    """Paths that must be replaced because another name of their inode is: the names stay one inode."""
    groups: dict[bytes, list[bytes]] = {}
    for entry in map(Entry.parse, then.linked()):
        groups.setdefault(entry.link, [entry.link]).append(entry.path)
    replaced: set[bytes] = set()
    for names in groups.values():
        unlike_ = [pairs[name] for name in names if name in pairs]
        if any(entry is not None and entry.differs(found) for entry, found in unlike_):
            replaced.update(names)
    return replaced


def _deletions(pairs: dict[bytes, tuple[Entry | None, Entry | None]], now: Scan, gone: set[bytes]) -> list[Step]:
    """A step for each topmost tree that was not there; directories that hold excluded files stay."""
    steps: list[Step] = []
    for path in sorted(pairs):
        known, entry = pairs[path]
        if entry is None or entry.type in (ABOVE, ABSENT) or (known is not None and known.type != ABSENT):
            continue
        if any(above in gone for above in ancestors(path)):
            continue
        if entry.type == "d":
            if path in now.holding:
                continue
            gone.add(path)
        steps.append(Step("files", "delete", os.fsdecode(path), "was not there", {"op": "delete", **_which(path, now)}))
    return steps[::-1]


def directories(then: Tree, steps: Sequence[Step]) -> list[str]:
    """Manifest lines of the directories whose attributes are set last, from the leaves up: their times change
    with every name that comes and goes in them."""
    touched: dict[bytes, str] = {}
    for step in steps:
        path = os.fsencode(step.target)
        for one, kinds, op in ((os.path.dirname(path), "d", "meta"), (path, "d" + ABOVE, "delete")):
            if step.detail["op"] != op and one not in touched:
                entry = then.find(one)
                if entry is not None and entry.type in kinds:
                    touched[one] = entry.line()
    return [touched[path] for path in sorted(touched, reverse=True)]
