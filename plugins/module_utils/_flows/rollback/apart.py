# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories that others than root can fill. Where a user has filled a directory, all other paths go back first.

Each new entry costs a host that goes back some tenths of a millisecond, and costs its owner next to nothing.
"""

from __future__ import annotations

import glob
import os
from bisect import bisect
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from ..._errors import UsageError
from ..._files.entry import Entry, path_of
from ..._host.mounts import mount_points
from ..._host.paths import open_dir
from ..._resources import files
from ..._resources.registry import kind_of
from ..._store.manifest import Section
from .access import lines_at

# So many more entries than the record has are a crowd: they take some seconds.
CROWD = 10_000


class Theirs:
    """The topmost recorded directories of ``files`` that others than the ``owners`` can write to."""

    def __init__(self, section: Section, owners: Collection[int]) -> None:
        self._tops: list[bytes] = []
        found = []
        for line in section.lines if kind_of(section).only_paths else ():
            if line.startswith("d "):
                entry = Entry.parse(line)
                if entry.uid not in owners or entry.mode & 0o022:
                    found.append(entry.path + b"/")
        for path in sorted(found):
            if path not in self:
                self._tops.append(path)

    def __contains__(self, path: bytes) -> bool:
        """Whether the path is such a directory, or lies in such a directory."""
        path = path.rstrip(b"/") + b"/"
        at = bisect(self._tops, path)
        return at > 0 and path.startswith(self._tops[at - 1])

    def paths(self) -> list[bytes]:
        return [path[:-1] for path in self._tops]


def without(section: Section, theirs: Theirs) -> Section | None:
    """The section as a look without these directories would have written it; None where nothing is left. Pure."""
    if not theirs.paths():
        return section
    roots = [root for root in section.spec["paths"] if os.fsencode(root) not in theirs]
    if not roots:
        return None
    patterns = [os.fsdecode(glob.escape(path)) for path in theirs.paths()]
    spec = dict(section.spec, paths=roots, exclude=[*section.spec["exclude"], *patterns])
    if files.MOUNTS in spec:
        spec[files.MOUNTS] = files.mounted(spec, spec[files.MOUNTS])
    lines = [line for line in lines_at(section.lines, roots) if path_of(line) not in theirs]
    return replace(section, spec=spec, lines=lines)


def is_crowd(section: Section, theirs: Theirs) -> bool:
    """Whether these directories have a crowd of new entries. No link and no mount is followed."""
    todo = theirs.paths()
    if not todo:
        return False
    left = CROWD + sum(path_of(line) in theirs for line in section.lines)
    mounts = mount_points()
    while todo:
        path = todo.pop()
        with suppress(OSError, UsageError):
            fd = open_dir(path)
            try:
                with os.scandir(fd) as found:
                    for one in found:
                        left -= 1
                        below = path + b"/" + os.fsencode(one.name)
                        if one.is_dir(follow_symlinks=False) and below not in mounts:
                            todo.append(below)
                        if left < 0:
                            return True
            finally:
                os.close(fd)
    return False
