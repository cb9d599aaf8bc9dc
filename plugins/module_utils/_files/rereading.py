# SPDX-License-Identifier: GPL-3.0-or-later

"""The second reading of files that changed just before they were read."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping

from .._errors import EvenkeelError, UsageError
from .._host.hashing import chunks, hash_of
from .._host.paths import Parents
from .._store.objects import SMALL
from .cache import NEVER
from .entry import Entry
from .lines import Fresh, Lines
from .reading import TRIES, UNREAD, Reader, moment, unstable

# Seconds between the two readings of a file that somebody has open for writing: a program that has to wait for a
# processor stands still in the middle of a write for tenths of a second.
_APART = 1.0
_GLANCE = 0.02


def reread(reader: Reader, found: Lines, inodes: Mapping[bytes, tuple[int, int]]) -> None:
    """Read each file of ``found.fresh`` once more (I11): it counts when it is the same both times.

    ``inodes``: the directories that were walked through. Nothing is read in another directory.
    """
    _Rereading(reader, found, inodes).run()


class _Rereading:
    def __init__(self, reader: Reader, found: Lines, inodes: Mapping[bytes, tuple[int, int]]) -> None:
        self.reader = reader
        self.found = found
        self.inodes = inodes
        # The contents that were the same both times, and the files that were not: each may have thousands of names.
        self.unchanged: set[tuple[int, int, int, str]] = set()
        self.changed: set[tuple[int, int]] = set()

    def run(self) -> None:
        while self.found.fresh:
            todo, self.found.fresh, waiting = self.found.fresh, [], False
            with Parents(check=self.same) as parents:
                for one in todo:
                    try:
                        parent, name = parents.of(one.path)
                    except (OSError, UsageError):  # The file may still be there, under another name.
                        self.drop(one, self.reader.tolerate(unstable(one.path), one.path))
                        continue
                    try:
                        if not self.once_more(one, parent, name):
                            self.found.fresh.append(one)
                            waiting = True
                    except FileNotFoundError:  # Then it is not part of this moment.
                        self.found.gone.append(one.place)
                    except (OSError, EvenkeelError) as error:
                        other = getattr(error, "errno", None) in (errno.ELOOP, errno.ENOTDIR)  # A path that is no file.
                        self.drop(one, self.reader.tolerate(unstable(one.path) if other else error, one.path))
            if waiting:
                time.sleep(_GLANCE)

    def same(self, path: bytes, fd: int) -> None:
        """Raise OSError where the open directory is not the directory that was walked through."""
        info = os.fstat(fd)
        if self.inodes.get(path, (info.st_dev, info.st_ino)) != (info.st_dev, info.st_ino):
            raise OSError(errno.ESTALE, "it is another directory now")

    def once_more(self, file: Fresh, parent: int, name: bytes) -> bool:
        """Read the file again, and replace a line that is not true any more; False where it is too early to tell."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            now = os.fstat(fd)
            # A file that only grows, such as a log, is unchanged up to its former end.
            longer = os.path.samestat(now, file.info) and now.st_size > file.info.st_size
            if longer or (os.path.samestat(now, file.info) and moment(now) == moment(file.info)):
                if time.monotonic() - file.read < _APART and may_be_written(fd):
                    return False
                if self.has_same_content(file, fd) and (longer or moment(now) == moment(os.fstat(fd))):
                    return True
        finally:
            os.close(fd)
        if file.times >= TRIES or (self.reader.tolerant and file.info.st_size > SMALL):
            raise unstable(file.path)
        self.reader.forget(file.info, file.sha)
        line, key, info = self.reader.file(file.path, name, parent, file.kind, TRIES - file.times)
        if self.found.latest is not None:
            self.found.latest = self.found.latest._replace(times=file.times + 1)
        self.found.fill(file.place, line, key)
        if file.info.st_nlink > 1:
            self.found.shared[file.info.st_dev, file.info.st_ino].remove(file.place)
        if info.st_nlink > 1:
            self.found.share(info, file.place)
        return True

    def has_same_content(self, file: Fresh, fd: int) -> bool:
        """Whether the open file has the same content up to its former end. A content is read for one name of its
        file; a tolerant look asks no further name of a file that was not the same."""
        inode = file.info.st_dev, file.info.st_ino
        content = (*inode, file.info.st_size, file.sha)
        if content in self.unchanged or (self.reader.tolerant and inode in self.changed):
            return content in self.unchanged
        is_same = hash_of(chunks(fd, file.info.st_size))[0] == file.sha
        if file.info.st_nlink > 1 and is_same:
            self.unchanged.add(content)
        elif file.info.st_nlink > 1:
            self.changed.add(inode)
        return is_same

    def drop(self, file: Fresh, why: str) -> None:
        """Give a file that changed at each reading a line that equals no recorded line."""
        entry = Entry.parse(self.found.lines[file.place])._replace(sha256=UNREAD)
        self.reader.unread[file.path] = why
        self.found.fill(file.place, entry.line(), NEVER)


def may_be_written(fd: int) -> bool:
    """Whether somebody has the file open for writing, or nobody can tell: otherwise the kernel gives a lease.

    The lease is given back at once. A program that opens the file at this moment waits for that. By default the signal
    that the kernel sends us then does nothing.
    """
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
