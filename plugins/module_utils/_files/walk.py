# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk over the declared trees: one line of the manifest for each path."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from bisect import insort
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from .._errors import EvenkeelError, UsageError
from .._host.durable import inode_flags
from .._host.hashing import chunks, hash_of
from .._host.mounts import mount_points
from .._host.paths import Parents, ancestors, open_dir
from .._store.objects import SMALL, Hasher, Writer
from .ahead import Ahead
from .cache import NEVER, Cache, Leaves, key_of, keys_of
from .declaration import NOTHING, OWN_NAMES, Declaration, pattern
from .entry import (
    ABOVE,
    ABSENT,
    FLAGS,
    TYPES,
    Entry,
    file_line,
    is_plain,
    path_of,
    quote,
)
from .mounts import PSEUDO
from .reading import TRIES, entry_of, may_be_written, moment, unstable, xattrs_of

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
# Bytes that are rather hashed once more than remembered.
_MUCH = 32 * 1024 * 1024
_ENCODING = sys.getfilesystemencoding()


class Fresh(NamedTuple):
    """A file that changed just before it was read: the number of its line, what it had, when it was read, and how often
    it was."""

    place: int
    path: bytes
    kind: str
    sha: str
    info: os.stat_result
    read: float
    times: int = 1


class Walk:
    """``lines`` are sorted by path within each declared path; ``keys`` are theirs for the cache, end to end."""

    def __init__(
        self,
        declared: Declaration,
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
        self.fresh: list[Fresh] = []
        self.latest: Fresh | None = None
        self.holding: set[bytes] = set()
        self.inodes: dict[bytes, tuple[int, int]] = {}
        self.shared: dict[tuple[int, int], list[int]] = {}
        patterns = [os.fsencode(pattern) for pattern in declared.exclude]
        self.names = pattern([*OWN_NAMES, *(one for one in patterns if b"/" not in one)])
        self.paths = pattern([one for one in patterns if b"/" in one])
        self.mounts = mount_points()
        # A bind mount shows what is skipped under another name.
        self.out = {(info.st_dev, info.st_ino) for info in map(_status, skip) if info is not None}
        self.skipped: dict[bytes, set[bytes]] = {}
        for path in [*map(os.fsencode, skip), *(path for path, kind in self.mounts.items() if kind in PSEUDO)]:
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
                    entry = entry_of(above, info, ABOVE, self.xattrs(fd, above))._replace(mtime=0)
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
        entry = entry_of(path, info, TYPES[stat.S_IFMT(info.st_mode)], ())
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
                line = entry_of(path, info, "d", self.xattrs(fd, path))._replace(flags=flags).line()
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
            found = xattrs_of(where, path, max(_XATTRS - self.heavy, _LITTLE))
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
                    or (self.paths is not NOTHING and self.paths.match(prefix + name))
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
        return entry_of(path, info, TYPES[form], xattrs)._replace(target=target).line(), self.key(info, kind), info

    def file(
        self, path: bytes, name: bytes, parent: int, kind: str, tries: int = TRIES
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
            if size == before.st_size and moment(before) == moment(after):
                kind = self.mounts.get(path, kind)  # A file can be a mount point as well.
                # What is compared alone needs no second look: torn, it is like nothing that was recorded.
                if isinstance(self.sink, Writer) and time.time_ns() - before.st_ctime_ns < _FRESH:
                    self.latest = Fresh(-1, path, kind, sha, before, time.monotonic())
                return file_line(path, before, sha, xattrs, sparse, word), self.key(before, kind), before
            if self.tolerant and size > SMALL:
                break
        raise unstable(path)

    def read_again(self) -> None:
        """Read once more what changed just before it was read (I11): it counts when it is the same both times."""
        while self.fresh:
            todo, self.fresh, waiting = self.fresh, [], False
            with Parents(check=self.same) as parents:
                for one in todo:
                    try:
                        parent, name = parents.of(one.path)
                    except (OSError, UsageError):  # What is in it is still there, under another name perhaps.
                        self.drop(one, self.tolerate(unstable(one.path)))
                        continue
                    try:
                        if not self.once_more(one, parent, name):
                            self.fresh.append(one)
                            waiting = True
                    except FileNotFoundError:  # Then it is not part of this moment.
                        self.gone.append(one.place)
                    except (OSError, EvenkeelError) as error:
                        other = getattr(error, "errno", None) in (errno.ELOOP, errno.ENOTDIR)  # No file any more.
                        self.drop(one, self.tolerate(unstable(one.path) if other else error))
            if waiting:
                time.sleep(_GLANCE)

    def same(self, path: bytes, fd: int) -> None:
        """Raise OSError where the directory is another one than was looked at."""
        info = os.fstat(fd)
        if self.inodes.get(path, (info.st_dev, info.st_ino)) != (info.st_dev, info.st_ino):
            raise OSError(errno.ESTALE, "it is another directory now")

    def once_more(self, one: Fresh, parent: int, name: bytes) -> bool:
        """False where it is too early to tell. What is not true any more is replaced by what is there now."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            now = os.fstat(fd)
            # What is only written on, such as a log, is as it was up to where it ended.
            longer = os.path.samestat(now, one.info) and now.st_size > one.info.st_size
            if longer or (os.path.samestat(now, one.info) and moment(now) == moment(one.info)):
                if time.monotonic() - one.read < _APART and may_be_written(fd):
                    return False
                read = hash_of(chunks(fd, one.info.st_size))[0]
                if read == one.sha and (longer or moment(now) == moment(os.fstat(fd))):
                    return True
        finally:
            os.close(fd)
        if one.times >= TRIES or (self.tolerant and one.info.st_size > SMALL):
            raise unstable(one.path)
        line, key, info = self.file(one.path, name, parent, one.kind, TRIES - one.times)
        if self.latest is not None:
            self.latest = self.latest._replace(times=one.times + 1)
        self.fill(one.place, line, key)
        if one.info.st_nlink > 1:
            self.shared[one.info.st_dev, one.info.st_ino].remove(one.place)
        if info.st_nlink > 1:
            self.share(info, one.place)
        return True

    def drop(self, one: Fresh, why: str) -> None:
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


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # It is not there yet.
        return None
