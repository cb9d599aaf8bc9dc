# SPDX-License-Identifier: GPL-3.0-or-later

"""The staging directories of a journal: the place of each, and the way to recognize it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from .._errors import EvenkeelError, Refused, UsageError
from .._host.durable import (
    inode_flags,
    project,
    write_file,
)
from .._host.mounts import file_system_of, mount_of, mount_points
from .._host.paths import DIRECTORY, ancestors, is_ours, keeps_names, open_dir
from . import declaration
from .entry import PINNED
from .mounts import FIXED, MASKED

# Names in the directory above among which a staging directory that was renamed is looked for.
_NAMES = 10_000


class Anchor(NamedTuple):
    """A staging directory: its path and its inode number. The number is None where a kill came before it was known,
    and where version 0.1.0 wrote the journal, which held no such number: ``old`` is set there. ``point``, ``kind``: the
    mount that it lies on; empty where the journal does not tell."""

    path: str
    inode: int | None
    old: bool = False
    point: str = ""
    kind: str = ""

    @classmethod
    def read(cls, stored: Any) -> Anchor:
        """The anchor that a journal keeps; an error of ``journals.MALFORMED`` where the journal is damaged."""
        found = cls(stored, None, True) if isinstance(stored, str) else cls(str(stored[0]), stored[1])
        if len(stored) == 4 and not found.old:  # Version 0.1.0 wrote three: two times after the path.
            found = found._replace(point=str(stored[2]), kind=str(stored[3]))
        if b"\0" in os.fsencode(found.path) or not isinstance(found.inode, (int, type(None))):
            raise ValueError(f"no staging directory: {stored!r}")
        return found

    def stored(self) -> list[str | int | None]:
        """The anchor as the plan of a journal keeps it."""
        return [self.path, self.inode]

    def is_away(self) -> bool:
        """Whether another mount is where it was made: then it may be there still, where nobody can see it."""
        points = mount_points()
        now = mount_of(os.fsencode(os.path.dirname(self.path)), points)
        return bool(self.point) and (os.fsdecode(now), points.get(now, "")) != (self.point, self.kind)

    def open(self, above: int) -> tuple[int, bytes] | None:
        """The descriptor and the present name of the place in the open directory ``above``, in which it was made; None
        where the place is missing, or is not for us alone."""
        name = os.fsencode(os.path.basename(self.path))
        found = self._opened(above, name)
        if found is None and self.inode is not None:
            with os.scandir(above) as names:
                renamed = [os.fsencode(one.name) for one in islice(names, _NAMES) if one.inode() == self.inode]
            name = renamed[0] if renamed else name
            found = self._opened(above, name) if renamed else None
        return None if found is None else (found, name)

    def _opened(self, above: int, name: bytes) -> int | None:
        try:
            fd = os.open(name, DIRECTORY, dir_fd=above)
        except OSError:
            return None
        info = os.fstat(fd)
        if not self.is_for_us_alone(info, above) or self.inode not in (None, info.st_ino):
            os.close(fd)
            return None
        return fd

    def is_for_us_alone(self, info: os.stat_result, above: int) -> bool:
        """Whether nobody else can enter the directory with this status, which was made in the open directory ``above``;
        where a mount fixes all modes, whether nobody else can write to it."""
        if info.st_uid != os.geteuid() or info.st_dev != os.fstat(above).st_dev:
            return False
        mode = stat.S_IMODE(info.st_mode) & 0o777
        return mode == 0o700 or (not mode & 0o022 and file_system_of(os.path.dirname(self.path)) in FIXED)


def set_mtime(folder: int, mtime: int) -> None:
    """Set the time of an open directory, if it is ours."""
    try:
        os.utime(folder, ns=(mtime, mtime))
    except PermissionError:
        return  # Then it is no directory that has to come back.


class Anchors:
    """A staging directory for each mount, as high up as we own the directories, so that a rename reaches."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.name = declaration.STAGE + os.path.basename(journal)
        self.made: list[Anchor] = []
        self._fds: list[int] = []
        self._of: dict[bytes, int] = {}
        self._mounts = mount_points()

    def of(self, path: bytes, created: Collection[bytes]) -> int:
        """The number of the staging directory for what will be at ``path``."""
        parent = os.path.dirname(path)
        while parent in created:
            parent = os.path.dirname(parent)
        if parent not in self._of:
            place = os.fsdecode(self._highest(parent)).rstrip("/") + "/" + self.name
            if place not in self._paths():
                mount = mount_of(os.fsencode(os.path.dirname(place)), self._mounts)
                self.made.append(Anchor(place, None, False, os.fsdecode(mount), self._mounts.get(mount, "")))
                # The journal knows it before it exists, so that it is found after a kill.
                self._write()
                try:
                    self._fds.append(self._make(place))
                except (OSError, EvenkeelError):
                    self.made.pop()  # Every other anchor keeps its number.
                    raise
            self._of[parent] = self._paths().index(place)
        return self._of[parent]

    def _paths(self) -> list[str]:
        return [one.path for one in self.made]

    def _write(self) -> None:
        found = [[*one.stored(), one.point, one.kind] for one in self.made]
        write_file(os.path.join(self.journal, "anchors"), json.dumps(found).encode())

    def _make(self, place: str) -> int:
        """A new directory, for us alone, that somebody else can have moved away by now but not entered."""
        above = open_dir(os.fsencode(os.path.dirname(place)))
        fd, kept = None, False
        try:
            before = os.fstat(above)
            # The sticky bit tells it from every other empty directory of ours that somebody could give its name to.
            os.mkdir(self.name, 0o1700, dir_fd=above)
            set_mtime(above, before.st_mtime_ns)
            fd = os.open(self.name, DIRECTORY, dir_fd=above)
            info = os.fstat(fd)
            new = info.st_mode & stat.S_ISVTX or is_ours(before.st_uid, before.st_mode)
            if new and self.made[-1].is_for_us_alone(info, above) and not os.listdir(fd):
                self.made[-1] = self.made[-1]._replace(inode=info.st_ino)
                self._write()
                kept = True
                return fd
        finally:
            if not kept:
                if fd is not None:
                    os.close(fd)
                with suppress(OSError):
                    os.rmdir(self.name, dir_fd=above)
            os.close(above)
        if self.made[-1].kind in FIXED and info.st_mode & 0o022:
            raise Refused(
                f"others can write to every directory of {self.made[-1].point}, whose modes are fixed "
                f"({self.made[-1].kind}, {stat.S_IMODE(info.st_mode):o}), so that nothing can be staged there. {MASKED}"
            )
        raise Refused(
            f"somebody has put another directory in the place of {place}, where the rollback was to be staged. "
            f"The owner of {os.path.dirname(place)} (user {before.st_uid}) can do that; find out who, then run again"
        )

    def fd(self, number: int) -> int:
        """The descriptor of the staging directory with this number."""
        return self._fds[number]

    def close(self) -> None:
        """Close all descriptors."""
        while self._fds:
            os.close(self._fds.pop())

    def _highest(self, parent: bytes) -> bytes:
        """The highest directory from which a rename reaches into ``parent``; Refused where none can be written to."""
        fd = open_dir(parent)
        try:
            device, quota = os.fstat(fd).st_dev, project(fd)
        finally:
            os.close(fd)
        mount = mount_of(parent, self._mounts)
        usable: list[bytes] = []
        fixed = True
        for above in [*ancestors(parent + b"/"), parent]:
            if not (above + b"/").startswith(mount.rstrip(b"/") + b"/"):
                continue
            fd = open_dir(above)
            try:
                info = os.fstat(fd)
                near = info.st_dev == device and project(fd) == quota
                # Immutable, it is not writable in the first place; append-only, names could come and not go.
                if near and os.access(b".", os.W_OK | os.X_OK, dir_fd=fd) and not inode_flags(fd) & PINNED:
                    # Best where nobody else can rename the staging directory.
                    if fixed and is_ours(info.st_uid, info.st_mode):
                        return above
                    usable.append(above)
                # Below a directory of another user a name may be that of any directory: what is ours there is no place.
                fixed = fixed and keeps_names(info.st_uid, info.st_mode)
            finally:
                os.close(fd)
        if usable:
            return usable[0]
        raise Refused(
            f"there is no place to stage a rollback for {os.fsdecode(parent)}: this user can write neither to it "
            "nor to a directory above it on the same file system and of the same project"
        )


def own(anchor: Anchor) -> int | None:
    """The staging directory, if it is there and still ours alone."""
    try:
        above = open_dir(os.fsencode(os.path.dirname(anchor.path)))
    except (OSError, UsageError):
        return None
    try:
        found = anchor.open(above)
    except OSError:
        return None
    finally:
        os.close(above)
    return found[0] if found is not None else None
