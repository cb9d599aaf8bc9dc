# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines that a walk has found, and the keys by which the stat cache knows them."""

from __future__ import annotations

import os
from typing import NamedTuple

from .cache import NEVER
from .entry import ABOVE, Entry, path_of

_SIZE = len(NEVER)
# Characters of a path that a message shows.
_SHOWN = 300


class Fresh(NamedTuple):
    """A file that changed just before it was read. ``place`` is the number of its line, ``sha`` and ``info`` are its
    content and status at the time ``read``, and ``times`` counts the readings."""

    place: int
    path: bytes
    kind: str
    sha: str
    info: os.stat_result
    read: float
    times: int = 1


class Lines:
    """Lines, sorted by path within each declared path, and their ``keys`` end to end.

    ``gone``: numbers of lines whose path turned out to be missing. ``fresh``: files to be read once more; ``latest``:
    the file that was read last, if it is to be read once more. ``shared``: device and inode number -> the numbers of
    its lines; ``names``: the number of names that the inode has anywhere.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.keys = bytearray()
        self.gone: list[int] = []
        self.fresh: list[Fresh] = []
        self.latest: Fresh | None = None
        self.shared: dict[tuple[int, int], list[int]] = {}
        self.names: dict[tuple[int, int], int] = {}

    def share(self, info: os.stat_result, place: int) -> None:
        """Note another name of an inode."""
        inode = info.st_dev, info.st_ino
        self.shared.setdefault(inode, []).append(place)
        self.names[inode] = info.st_nlink

    def put(self, line: str, key: bytes, info: os.stat_result | None = None) -> None:
        """Add a line."""
        if info is not None and info.st_nlink > 1:
            self.share(info, len(self.lines))
        self._note_fresh(len(self.lines))
        self.lines.append(line)
        self.keys += key

    def _note_fresh(self, place: int) -> None:
        """Note that the line of the file that was read last has this place, if the file has to be read once more."""
        if self.latest is not None:
            self.fresh.append(self.latest._replace(place=place))
            self.latest = None

    def reserve(self) -> int:
        """A place for the line of a directory, which is read later than its name."""
        self.put("", NEVER)
        return len(self.lines) - 1

    def fill(self, place: int, line: str, key: bytes) -> None:
        """Set the line at a place."""
        self._note_fresh(place)
        self.lines[place] = line
        self.keys[place * _SIZE : (place + 1) * _SIZE] = key

    def last(self) -> str:
        """The path that was looked at last, or the beginning of a long path."""
        path = os.fsdecode(next((path_of(line) for line in reversed(self.lines) if line), b"/"))
        return path if len(path) <= _SHOWN else path[:_SHOWN] + "..."

    def arrange(self) -> None:
        """All lines in the order of their paths, each path once."""
        paths = [path_of(line) for line in self.lines]
        order: dict[bytes, int] = {}
        for at in sorted(range(len(paths)), key=paths.__getitem__):
            # A declared path within another declared path is found twice, with the same line. For the inner path, the
            # outer path is nothing but a directory above it.
            if not (self.lines[at].startswith(ABOVE) and paths[at] in order):
                order[paths[at]] = at
        self.choose(list(order.values()))

    def choose(self, order: list[int]) -> None:
        """Keep the lines of these numbers, in this order."""
        moved = {at: number for number, at in enumerate(order)}
        self.keys = bytearray().join(self.keys[at * _SIZE : (at + 1) * _SIZE] for at in order)
        self.lines = [self.lines[at] for at in order]
        self.shared = {inode: [moved[at] for at in found if at in moved] for inode, found in self.shared.items()}

    def drop_gone(self) -> None:
        """Remove the lines whose path turned out to be missing, and places that were never filled."""
        if self.gone or "" in self.lines:
            gone = set(self.gone)
            self.choose([at for at, line in enumerate(self.lines) if line and at not in gone])

    def parted(self) -> list[bytes]:
        """A path of each file that has further names outside of the lines."""
        found = [places for inode, places in self.shared.items() if 0 < len(places) < self.names[inode]]
        return sorted(path_of(self.lines[min(places)]) for places in found)

    def linked(self) -> list[str]:
        """The lines, with the hard links among them. The cache does not keep hard links: the first name of an inode is
        no property of the file."""
        if not any(len(places) > 1 for places in self.shared.values()):
            return self.lines
        lines = list(self.lines)
        for places in self.shared.values():
            first, *others = sorted(places)
            for place in others:
                lines[place] = Entry.parse(lines[place])._replace(link=path_of(lines[first])).line()
        return lines
