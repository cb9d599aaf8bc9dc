# SPDX-License-Identifier: GPL-3.0-or-later

"""The footprint of a change: the metadata of all paths before it, and the paths that are different afterwards.

A comparison of recorded metadata needs no clock, so that nothing is missed when a change sets the clock back. Contents
are not read: a program that writes to a file and sets its times back still changes its ctime.

A record is a gzip stream. Its first line is the declaration in JSON. Then for each directory, in the order of the walk,
follow a line ``<number of the declared path> <bytes of its path> <bytes of its entries>`` and those bytes. Each
declared path is itself the entry of a directory without a path. The last line is ``whole`` or ``part``. The walk holds
one directory in memory, however large the host is.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, BinaryIO, Callable, NamedTuple

from .._errors import UsageError
from .._host.durable import TEMPORARY
from .._host.mounts import mount_of, mount_points
from .._host.paths import DIRECTORY, open_dir

NEW, REMOVED, REPLACED, CHANGED = "new", "removed", "replaced", "changed"
CONTENT, CONTENT_OR_TIME, MODE, OWNER = "content", "content or time", "mode", "owner"
# Types of file systems that hold programs and configuration. Memory, networks and FUSE are not among them.
DISKS = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "nilfs2", "bcachefs", "ubifs")
    + ("overlay", "aufs", "vfat")
)
# File systems that make a directory anew when something in it changes for the first time.
_COPIED_UP = ("overlay", "aufs")
# File systems that may give a file another inode number at any time.
_PASSING_INODES = (*_COPIED_UP, "vfat")
# Below it lies configuration in memory, which counts until the next boot.
RUNTIME = b"/run/"
# Bytes of a declaration, which names files in the homes of all accounts.
_LONGEST = 16 << 20
# Levels of directories, each of which needs an open descriptor.
_DEEPEST = 100
# The number of entries after which the time is looked at again.
_OFTEN = 64
# The number of entries of a directory of data. A directory that has more of them is not compared.
MOST_FLAT = 20_000
# The last word is there for declared paths, and for entries of directories that are not walked.
_INODE, _CTIME, _MODE, _UID, _GID, _SIZE, _MTIME, _ATTRIBUTES = range(8)
_ROOT = b"/"


class Changed(NamedTuple):
    """A path and its difference: ``new``, ``removed``, ``replaced``, ``changed``, or a list of ``content``,
    ``content or time``, ``mode`` and ``owner`` with commas."""

    path: bytes
    what: str


class Walk:
    """A walk over the declared trees, each of them within one file system; ``complete`` tells whether all was read.

    ``left_out``: tells whether a directory is left out. ``goes_on``: tells whether there is time for more. A directory
    that two declared trees or two mounts show is walked once, at its first path. ``flat``: directories that hold data;
    they come after the trees, as whoever fills them must not use up the time for these, and nothing below their entries
    is looked at. ``alone``: paths that come last; nothing below them is looked at, as they may be a user's.
    """

    def __init__(
        self,
        paths: Sequence[bytes],
        left_out: Callable[[bytes], bool],
        goes_on: Callable[[], bool] = lambda: True,
        flat: Sequence[bytes] = (),
        alone: Sequence[bytes] = (),
    ) -> None:
        self.complete = True
        self._paths = paths
        self._flat = flat
        self._alone = alone
        self._left_out = left_out
        self._goes_on = goes_on
        self._disk = ""
        self._strange: dict[bytes, set[str]] = {}
        self._seen: set[tuple[int, int]] = set()

    def directories(self) -> Iterator[tuple[int, bytes, bytes]]:
        """(number of the declared path, path, entries) of each directory: parents first, siblings in the order of their
        names."""
        mounts = mount_points()
        for point, kind in mounts.items():
            if kind not in DISKS:  # Not even looked at: a server that is gone, or a user's own FUSE, never answers.
                above, name = os.path.split(point)
                self._strange.setdefault(above, set()).add(os.fsdecode(name))
        trees, last = len(self._paths), len(self._paths) + len(self._flat)
        for number, root in enumerate((*self._paths, *self._flat, *self._alone)):
            if number >= trees and not self._goes_on():
                self.complete = False
                return
            self._disk = mounts.get(mount_of(root, mounts), "")
            if self._disk not in DISKS and not (self._disk == "tmpfs" and root.startswith(RUNTIME)):
                continue
            itself = self._itself(root)
            if itself is not None:
                yield number, b"", itself
            if number < last:
                for path, entries in self._below(root) if number < trees else self._entries_of(root):
                    yield number, path, entries

    def _itself(self, root: bytes) -> bytes | None:
        """The declared path as an entry; empty where it does not exist or lies behind a link, None where it cannot be
        looked at."""
        try:
            above = open_dir(os.path.dirname(root))
        except (FileNotFoundError, NotADirectoryError, UsageError):
            return b""
        except OSError:
            return None
        try:
            name = os.path.basename(root) or _ROOT
            info = os.stat(name, dir_fd=above, follow_symlinks=False)
            return root[1:] + b"\0" + self._facts(info, above, name).encode()
        except FileNotFoundError:
            return b""
        except OSError:
            return None
        finally:
            os.close(above)

    def _entries_of(self, folder: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The directory and its entries. They are data but in ``/``: neither content nor time counts then."""
        try:
            fd = open_dir(folder)
        except (FileNotFoundError, NotADirectoryError, UsageError):
            return
        except OSError:
            self.complete = False
            return
        found: list[str] = []
        try:
            strange = self._strange.get(folder, ())
            with os.scandir(fd) as entries:
                for number, entry in enumerate(entries, 1):
                    if len(found) >= MOST_FLAT or (not number % _OFTEN and not self._goes_on()):
                        self.complete = False  # A part of it cannot be compared: the other walk may see another part.
                        return
                    name = os.fsencode(entry.name)
                    if entry.name in strange or self._left_out(os.path.join(folder, name)):
                        continue
                    with suppress(FileNotFoundError):
                        info = entry.stat(follow_symlinks=False)
                        found.append(f"{entry.name}\0{self._facts(info, fd, name, folder != _ROOT)}")
        except OSError:
            self.complete = False
            return
        finally:
            os.close(fd)
        yield folder, os.fsencode("\0".join(sorted(found)))

    def _facts(self, i: os.stat_result, above: int, name: bytes, is_data: bool = False) -> str:
        """The metadata of an entry of the directory ``above``, with its attributes where it is a directory."""
        is_folder = stat.S_ISDIR(i.st_mode)
        # Programs make their files and sockets anew as they work and start.
        is_passing = self._disk in _PASSING_INODES or (is_data and not (is_folder or stat.S_ISLNK(i.st_mode)))
        ctime = 0 if is_data or (is_folder and self._disk in _COPIED_UP) else i.st_ctime_ns
        size, mtime = (0, 0) if is_data else (i.st_size, i.st_mtime_ns)
        words = (0 if is_passing else i.st_ino, ctime, i.st_mode, i.st_uid, i.st_gid, size, mtime)
        return " ".join(f"{word:x}" for word in (*words, _attributes(above, name) if is_folder else 0))

    def _below(self, root: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            fd = open_dir(root)
        except (FileNotFoundError, NotADirectoryError, UsageError):
            return  # The root does not exist here, or is a symlink to a directory that has a path of its own.
        except OSError:
            self.complete = False
            return
        device = os.fstat(fd).st_dev
        levels: list[tuple[int, bytes, Iterator[str]]] = [(fd, root, iter(()))]
        try:
            found = self._read(fd, root, device)
            while levels:
                fd, path, names = levels[-1]
                if found is not None:
                    names = iter(found[1])
                    levels[-1] = (fd, path, names)
                    yield path, found[0]
                name, found = next(names, None), None
                if name is None or not self._goes_on():
                    self.complete = self.complete and name is None
                    os.close(levels.pop()[0])
                    continue
                inner = (b"" if path == b"/" else path) + b"/" + os.fsencode(name)
                opened = self._open(fd, name, inner, len(levels))
                if opened is not None:
                    levels.append((opened, inner, iter(())))
                    found = self._read(opened, inner, device)
        finally:
            for fd, _path, _names in levels:
                os.close(fd)

    def _open(self, above: int, name: str, path: bytes, depth: int) -> int | None:
        if self._left_out(path):
            return None
        if depth >= _DEEPEST:
            self.complete = False
            return None
        try:
            return os.open(name, DIRECTORY, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):
            return None  # The directory was removed or replaced at this moment: the next walk shows it.
        except OSError:
            self.complete = False
            return None

    def _read(self, fd: int, path: bytes, device: int) -> tuple[bytes, list[str]] | None:
        """The entries of a directory with their metadata, and the names of directories among them. None for a directory
        that was walked before, or that lies on another file system. A mount in the directory is an entry only if it is
        of a disk."""
        found, below = [], []
        try:
            mine = os.fstat(fd)
            if mine.st_dev != device or (mine.st_dev, mine.st_ino) in self._seen:
                return None
            self._seen.add((mine.st_dev, mine.st_ino))
            strange = self._strange.get(path, ())
            with os.scandir(fd) as entries:
                for entry in entries:
                    if entry.name in strange:
                        continue
                    try:
                        i = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    inode = 0 if self._disk in _PASSING_INODES else i.st_ino
                    ctime = i.st_ctime_ns
                    if stat.S_ISDIR(i.st_mode):
                        below.append(entry.name)
                        ctime = 0 if self._disk in _COPIED_UP else ctime
                    # An f-string takes a twelfth of the whole walk longer.
                    words = (entry.name, inode, ctime, i.st_mode, i.st_uid, i.st_gid, i.st_size, i.st_mtime_ns)
                    found.append("%s\0%x %x %x %x %x %x %x" % words)  # noqa: UP031
                    if not len(found) % _OFTEN and not self._goes_on():
                        self.complete = False
                        return None
        except OSError:
            self.complete = False
            return None
        found.sort()
        below.sort(key=os.fsencode)
        return os.fsencode("\0".join(found)), below


def _attributes(above: int, name: bytes) -> int:
    """A number for the extended attributes of a directory, ACL and label among them. Values that its owner sets do not
    count, but for their names: they may be large."""
    found = b""
    with suppress(OSError):
        fd = os.open(name, DIRECTORY, dir_fd=above)
        try:
            for key in sorted(os.listxattr(fd)):
                value = b"" if key.startswith("user.") else os.getxattr(fd, key)
                found += b"%d %b %d %b" % (len(key), os.fsencode(key), len(value), value)
        finally:
            os.close(fd)
    return int(sha256(found).hexdigest()[:8], 16)


def record(path: str, declared: Mapping[str, Any], walk: Walk) -> None:
    """Write the record of a walk. Raises OSError; there is no record then."""
    temporary = f"{path}{TEMPORARY}{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as stream:
            stream.write(json.dumps(declared).encode() + b"\n")
            for number, folder, entries in walk.directories():
                stream.write(b"%d %d %d\n" % (number, len(folder), len(entries)) + folder + entries)
            stream.write(b"whole\n" if walk.complete else b"part\n")
        os.rename(temporary, path)
    except OSError:
        for left in (temporary, path):
            if os.path.lexists(left):
                os.unlink(left)
        raise


class Recorded:
    """A record that is read again, one directory at a time. Raises ValueError and OSError for another file."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile) -> None:
        self._stream = stream
        self.declared = json.loads(stream.readline(_LONGEST))
        self.complete = False
        if not isinstance(self.declared, dict):
            raise ValueError("the record has no declaration")

    def directories(self) -> Iterator[tuple[int, bytes, bytes]]:
        """As ``Walk.directories``; ``complete`` counts once this has ended."""
        while True:
            line = self._stream.readline(200)
            if line in (b"whole\n", b"part\n"):
                self.complete = line == b"whole\n"
                if self._stream.read(1):  # Reading on verifies the sum at the end of the stream, too.
                    raise ValueError("the record goes on after its end")
                return
            number, path, entries = map(int, line.split(b" "))
            yield number, self._stream.read(path), self._stream.read(entries)


def differences(then: Recorded, now: Walk, left_out: Callable[[bytes], bool]) -> Iterator[Changed]:
    """The paths that are different, in the order of the walk. A new directory stands for all of its contents, and so
    does a removed directory. For a directory in which entries came or went only these entries are named."""
    told: set[bytes] = set()
    recorded = then.directories()
    old = next(recorded, None)
    for number, folder, entries in now.directories():
        here = (number, folder.split(b"/"))
        while old is not None and (old[0], old[1].split(b"/")) < here:
            old = next(recorded, None)
        if old is not None and old[:2] == (number, folder) and old[2] != entries:
            before, after = _entries(old[2]), _entries(entries)
            for name in sorted(before.keys() | after.keys()):
                what = _difference(before.get(name), after.get(name))
                path = (b"" if folder == b"/" else folder) + b"/" + name
                if what and path not in told and not left_out(path):
                    told.add(path)
                    yield Changed(path, what)
    while old is not None:
        old = next(recorded, None)


def _entries(text: bytes) -> dict[bytes, bytes]:
    words = text.split(b"\0")
    return dict(zip(words[::2], words[1::2]))


def _difference(then: bytes | None, now: bytes | None) -> str:
    """The difference of the metadata of one name, in words; empty where there is no difference to name."""
    if then == now:
        return ""
    if then is None or now is None:
        return NEW if then is None else REMOVED
    old, new = ([int(word, 16) for word in one.split(b" ")] for one in (then, now))
    kind = stat.S_IFMT(new[_MODE])
    if kind != stat.S_IFMT(old[_MODE]):
        return REPLACED
    found = []
    if kind == stat.S_IFREG and old[_SIZE] != new[_SIZE]:
        found.append(CONTENT)
    elif kind == stat.S_IFREG and old[_MTIME] != new[_MTIME]:
        found.append(CONTENT_OR_TIME)
    if old[_MODE] != new[_MODE]:
        found.append(MODE)
    if (old[_UID], old[_GID]) != (new[_UID], new[_GID]):
        found.append(OWNER)
    if old[_ATTRIBUTES:] != new[_ATTRIBUTES:] and len(old) == len(new):
        found.append(CHANGED)
    if found:
        return ", ".join(found)
    if old[_INODE] != new[_INODE]:
        return REPLACED
    # Entries that came or went change both times of a directory; attributes change the ctime alone, as does a mode that
    # is set once more.
    known = len(new) > _ATTRIBUTES and len(old) == len(new)
    return "" if kind == stat.S_IFDIR and (known or old[_MTIME] != new[_MTIME]) else CHANGED


def was_there(record: str, paths: Sequence[str], since: float) -> dict[str, bool]:
    """Path -> whether a record that was made at ``since`` or later has it. A path of which the record does not have the
    directory is left out."""
    found: dict[str, bool] = {}
    wanted: dict[bytes, list[str]] = {}
    for path in paths:
        wanted.setdefault(os.fsencode(os.path.realpath(os.path.dirname(path))), []).append(path)
    with suppress(OSError, ValueError, EOFError, KeyError):
        if os.stat(record).st_mtime < since:
            return {}
        with gzip.open(record) as stream:
            for _number, folder, entries in Recorded(stream).directories():
                names = _entries(entries) if folder in wanted else {}
                found.update({path: os.fsencode(os.path.basename(path)) in names for path in wanted.get(folder, ())})
    return found
