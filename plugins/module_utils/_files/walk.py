# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk over the declared trees: one line of the manifest for each path."""

from __future__ import annotations

import errno
import os
import stat
import sys
from bisect import insort
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from .._errors import EvenkeelError, UsageError
from .._host.durable import inode_flags
from .._host.mounts import automounts, mount_points
from .._host.paths import ancestors, open_dir
from .._store.objects import Hasher, Writer
from .ahead import Ahead
from .cache import NEVER, Cache, Leaves, key_of, keys_of
from .declaration import NOTHING, OWN_NAMES, Declaration, pattern
from .entry import ABOVE, ABSENT, FLAGS, TYPES, Entry, is_plain, quote
from .lines import Lines
from .mounts import PSEUDO
from .reading import UNREAD, Reader, entry_of

# The depth to which a tolerant look goes: each level has a descriptor open.
_DEPTH = 300
# Where ZFS shows its snapshots, in the top directory of a file system.
_HIDDEN = b".zfs"
_ENCODING = sys.getfilesystemencoding()


class _Folder(NamedTuple):
    """An open directory: its path with a slash, this path quoted, its descriptor, and the kind of its file system."""

    prefix: bytes
    quoted: str
    fd: int
    kind: str


class _Listing(NamedTuple):
    """The names in a directory, in the order of whole paths: a-b stands between the directory a and its contents, for
    which ``a/`` stands. ``folders`` are the names of directories. ``plain`` are the names of regular files, where
    nothing is known of the tree."""

    todo: list[bytes]
    folders: set[bytes]
    plain: set[bytes]


class Walk:
    """A walk over the declared trees, which puts a line for each path into ``found``.

    ``skip`` are paths that are never part of the trees. ``holding``: directories that hold an excluded path.
    ``inodes``: directory -> its device and inode number.
    """

    def __init__(
        self,
        declared: Declaration,
        sink: Writer | Hasher,
        skip: Sequence[str],
        cache: Cache | None,
        ahead: Ahead,
        tolerant: bool,
    ) -> None:
        self.found = Lines()
        self.mounts = mount_points()
        self.automounts = automounts()
        self.reader = Reader(sink, cache, tolerant, self.found, self.mounts)
        self.ahead = ahead
        self.cache = cache
        self.empty = cache is None or cache.empty
        self.depth = 0
        self.holding: set[bytes] = set()
        self.inodes: dict[bytes, tuple[int, int]] = {}
        patterns = [os.fsencode(pattern) for pattern in declared.exclude]
        self.names = pattern([*OWN_NAMES, *(one for one in patterns if b"/" not in one)])
        self.paths = pattern([one for one in patterns if b"/" in one])
        # A bind mount shows a skipped path under another name.
        self.out = {(info.st_dev, info.st_ino) for info in map(_status, skip) if info is not None}
        self.skipped: dict[bytes, set[bytes]] = {}
        for path in [*map(os.fsencode, skip), *(path for path, kind in self.mounts.items() if kind in PSEUDO)]:
            self.skipped.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))

    def each(self, path: bytes) -> None:
        """Walk a declared path. A tolerant look goes on where it cannot see the path, as on a dead mount."""
        try:
            self.root(path)
        except (OSError, EvenkeelError, RecursionError) as error:
            self.reader.unread[path] = self.reader.tolerate(error, path)

    def root(self, path: bytes) -> None:
        """Walk a declared path, and note the directories above it."""
        kind = ""
        try:
            for above in ancestors(path):
                try:
                    fd = open_dir(above, path)
                except (NotADirectoryError, UsageError) as error:
                    self.reader.tolerate(error, above)
                    self.in_place_of(above, str(error))
                    return
                try:
                    # The time of the directory changes with every other entry in it, and is left out.
                    info = os.fstat(fd)
                    self.inodes[above] = (info.st_dev, info.st_ino)
                    unread = dict(self.reader.unread)
                    entry = entry_of(above, info, ABOVE, self.reader.xattrs(fd, above))._replace(mtime=0)
                    self.reader.unread = unread  # While it is there, a rollback sets nothing on it.
                    self.found.put(entry.line(), NEVER)
                finally:
                    os.close(fd)
                kind = self.mounts.get(above, kind)
            fd = open_dir(os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            self.found.put(Entry(path, ABSENT).line(), NEVER)
            return
        try:
            name = os.path.basename(path)
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self.directory(path, name, fd, kind, self.found.reserve())
            else:
                self.put_leaf(path, name, fd, self.mounts.get(path, kind), info)
        except FileNotFoundError:
            self.found.put(Entry(path, ABSENT).line(), NEVER)
        finally:
            os.close(fd)

    def in_place_of(self, above: bytes, why: str) -> None:
        """Note an object in the place of a directory above a declared path: it gives way to the directory."""
        fd = open_dir(os.path.dirname(above))
        try:
            self.stand_in(above, os.path.basename(above), fd, f"it is no directory, and is not kept: {why}")
        finally:
            os.close(fd)

    def stand_in(self, path: bytes, name: bytes, parent: int, why: str, place: int | None = None) -> None:
        """Put a line for a path that cannot be read: it equals no recorded line."""
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        entry = entry_of(path, info, TYPES[stat.S_IFMT(info.st_mode)], ())
        if entry.type == "f":
            entry = entry._replace(size=info.st_size, sha256=UNREAD)
        self.reader.unread[path] = why
        if place is None:
            self.found.put(entry.line(), NEVER)
        else:
            self.found.fill(place, entry.line(), NEVER)

    def put_leaf(self, path: bytes, name: bytes, parent: int, kind: str, info: os.stat_result | None) -> None:
        """Put the line of a path that is no directory; ``info``: its status, where that is known."""
        try:
            if info is None:
                self.found.put(*self.reader.file(path, name, parent, kind))
            else:
                self.found.put(*self.reader.leaf(path, name, parent, kind, info))
        except (FileNotFoundError, IsADirectoryError):
            raise
        except (OSError, EvenkeelError) as error:
            if info is None and isinstance(error, OSError) and error.errno == errno.ELOOP:
                raise
            self.stand_in(path, name, parent, self.reader.tolerate(error, path))

    def directory(self, path: bytes, name: bytes, parent: int, kind: str, place: int) -> None:
        """Walk the directory and its contents, on a file system of the ``kind``."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            self.found.gone.append(place)
            raise
        except NotADirectoryError:
            self.no_directory(path, name, parent, kind, place)
            return
        except OSError as error:
            self.closed(path, name, parent, place, error)
            return
        self.depth += 1
        try:
            kind = self.mounts.get(path, kind)
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) in self.out:
                self.holding.update(ancestors(path))
                self.found.gone.append(place)
                return
            self.inodes[path] = (info.st_dev, info.st_ino)
            known = self.cache.line(f"d {quote(path)} ", path, info) if self.cache is not None else None
            if known is None:
                flags = inode_flags(fd) & FLAGS
                line = entry_of(path, info, "d", self.reader.xattrs(fd, path))._replace(flags=flags).line()
                self.found.fill(place, line, self.reader.key(info, kind))
            else:
                self.found.fill(place, known, key_of(info))
            if path in self.automounts or (name == _HIDDEN and kind == "zfs"):
                self.holding.update([path, *ancestors(path)])  # The contents come and go by themselves.
                self.found.fill(place, self.found.lines[place], NEVER)
            elif self.reader.tolerant and self.depth > _DEPTH:
                self.reader.unread[path] = f"it lies {_DEPTH} levels deep"
            else:
                self.below(path, fd, kind, place, known is not None)
        except (OSError, EvenkeelError, RecursionError) as error:
            self.reader.unread[path] = self.reader.tolerate(error, path)
        finally:
            self.depth -= 1
            os.close(fd)

    def no_directory(self, path: bytes, name: bytes, parent: int, kind: str, place: int) -> None:
        """Put the line of an object that was a directory when it was listed."""
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            line, key, info = self.reader.leaf(path, name, parent, kind, info)
        except FileNotFoundError:
            self.found.gone.append(place)
            raise
        except (OSError, EvenkeelError) as error:
            self.closed(path, name, parent, place, error)
            return
        self.found.fill(place, line, key)
        if info.st_nlink > 1:
            self.found.share(info, place)

    def closed(self, path: bytes, name: bytes, parent: int, place: int, error: OSError | EvenkeelError) -> None:
        """Note a path that cannot be opened. Not even its status can be read on a file system of FUSE that belongs to
        another user, or whose program is gone: then it has no line."""
        why = self.reader.unread[path] = self.reader.tolerate(error, path)
        try:
            self.stand_in(path, name, parent, why, place)
        except OSError:
            self.found.gone.append(place)

    def below(self, path: bytes, fd: int, kind: str, place: int, unchanged: bool) -> None:
        """All paths in the directory whose line has this ``place``; ``unchanged``: it has the same names as before."""
        folder = _Folder(path + b"/", quote(path + b"/"), fd, kind)
        cache = None if self.empty else self.cache
        if cache is not None and path not in self.skipped:
            leaves = cache.leaves(path, folder.quoted)
            if leaves is not None:
                names = leaves.names if unchanged else sorted(os.listdir(fd))
                if self.revisit(cache, folder, leaves, names):
                    return
        self.visit(folder, self.listed(path, fd, place), cache)

    def listed(self, path: bytes, fd: int, place: int) -> _Listing:
        """The names in the directory that are not left out."""
        skipped, prefix = self.skipped.get(path, ()), path + b"/"
        todo: list[bytes] = []
        folders: set[bytes] = set()
        plain: set[bytes] = set()
        with os.scandir(fd) as found:
            for one in found:
                name = one.name.encode(_ENCODING, "surrogateescape")
                if (
                    self.names.match(name)
                    or name in skipped
                    or (self.paths is not NOTHING and self.paths.match(prefix + name))
                ):
                    self.holding.update([path, *ancestors(path)])
                    self.found.fill(
                        place, self.found.lines[place], NEVER
                    )  # The walk must see an excluded name each time.
                    continue
                todo.append(name)
                try:
                    if one.is_dir(follow_symlinks=False):
                        todo.append(name + b"/")
                        folders.add(name)
                    elif self.empty and one.is_file(follow_symlinks=False):
                        plain.add(name)
                except OSError:  # The file system tells no types, and no status of this one: that is noted later.
                    continue
        todo.sort()
        return _Listing(todo, folders, plain)

    def visit(self, folder: _Folder, listing: _Listing, cache: Cache | None) -> None:
        """Walk each of the names in turn."""
        prefix, quoted, fd, kind = folder
        todo, folders, plain = listing
        found = self.found
        places: dict[bytes, int] = {}
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
                    places[name] = found.reserve()
                    continue
                if name in plain and self.opens(prefix + name, name, fd, kind):
                    continue
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if cache is not None:
                    key = key_of(info)
                    line = cache.next(quoted + (name.decode("ascii") if simple else quote(name)) + " ", info, key)
                    if line is not None:
                        if info.st_nlink > 1:
                            found.share(info, len(found.lines))
                        found.lines.append(line)
                        found.keys += key
                        continue
                try:
                    self.put_leaf(prefix + name, name, fd, kind, info)
                except IsADirectoryError:  # Since it was listed.
                    places[name] = found.reserve()
                    insort(todo, name + b"/", start)
            except FileNotFoundError:
                continue  # Gone since it was listed: then it is not part of this moment.
            except OSError as error:
                # The walk reads the names beside it all the same.
                self.reader.unread[prefix + name] = self.reader.tolerate(error, prefix + name)

    def opens(self, path: bytes, name: bytes, parent: int, kind: str) -> bool:
        """Look at an unknown file: its status shows when it is open. False where it is a symlink by now."""
        try:
            self.put_leaf(path, name, parent, kind, None)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return False
        return True

    def revisit(self, cache: Cache, folder: _Folder, leaves: Leaves, names: list[str]) -> bool:
        """Walk a directory that held no other directory before; False, and nothing done, if it needs a closer look.

        ``names`` are its present names. A name that the cache knows was not left out, and is not left out now.
        """
        prefix, _quoted, fd, kind = folder
        start, end = leaves.start, leaves.start + len(leaves.names)
        sure = self.ahead.marks[start:end]
        same = names == leaves.names
        if same and sure.count(1) == len(names):
            self.found.lines += cache.lines[start:end]
            self.found.keys += cache.keys(start, end)
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
        except OSError:
            return False
        if any(stat.S_ISDIR(info.st_mode) for info in found):
            return False
        keys = keys_of(found)
        lines = cache.still(numbers if len(doubt) == len(names) else [numbers[at] for at in doubt], found, keys)
        true = [line for line in lines if line is not None]
        if len(true) == len(names) and max([info.st_nlink for info in found], default=0) < 2:
            self.found.lines += true
            self.found.keys += b"".join(keys)
            cache.at = end
            return True
        answers = zip(found, keys, lines)
        for name, number, mark in zip(names, numbers, sure):
            if mark:
                self.found.put(cache.lines[number], cache.keys(number, number + 1))
                continue
            info, key, line = next(answers)
            if line is not None:
                self.found.put(line, key, info)
                continue
            cache.at = number if number >= 0 else cache.at
            raw = name.encode("ascii")
            with suppress(FileNotFoundError):  # Gone since: then it is not part of this moment.
                self.put_leaf(prefix + raw, raw, fd, kind, info)
        cache.at = end
        return True


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # The path does not exist yet.
        return None
