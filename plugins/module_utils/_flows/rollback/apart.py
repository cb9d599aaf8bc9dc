# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts of trees that are left out.

Directories that others than root can fill: where a user has filled a directory, all other paths go back first. Each new
entry costs a host that goes back some tenths of a millisecond, and each new gigabyte some seconds; both cost their
owner next to nothing.

Paths that could not be read: a rollback to the undo, which lacks them, leaves them as they are.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from bisect import bisect
from collections.abc import Collection
from contextlib import suppress

from ..._dataclasses import replace
from ..._errors import UsageError
from ..._files.entry import Entry, path_of
from ..._host.mounts import mount_points
from ..._host.paths import open_dir
from ..._resources import files
from ..._resources.kind import is_within
from ..._resources.registry import kind_of, own_lines, path_lines, tree_spec
from ..._store.manifest import Section
from .access import lines_at, relinked

# So many more entries than the record has are a crowd: they take some seconds.
CROWD = 10_000
# So many more bytes, likewise. A file counts with each of its names.
_BULK = 1 << 30
_SIZE = re.compile(" size=([0-9]+) ")
# Bytes of the paths that an undo leaves out by name: each is compared with each path of a later look.
_LONG = 64 * 1024
# Where they are longer they are cut to so many names: a directory above them is left out as a whole.
_CUTS = (16, 8, 4, 3, 2, 1)


class Tops:
    """Some paths, without those that lie below others."""

    def __init__(self, paths: Collection[bytes] = ()) -> None:
        self._tops: list[bytes] = []
        for path in sorted(path.rstrip(b"/") + b"/" for path in paths):
            if path not in self:
                self._tops.append(path)

    def __contains__(self, path: bytes) -> bool:
        """Whether the path is one of these, or lies below one of these."""
        path = path.rstrip(b"/") + b"/"
        at = bisect(self._tops, path)
        return at > 0 and path.startswith(self._tops[at - 1])

    def paths(self) -> list[bytes]:
        return [path[:-1] for path in self._tops]


class Theirs(Tops):
    """The topmost recorded directories of ``files`` that others than the ``owners`` can write to."""

    def __init__(self, section: Section, owners: Collection[int]) -> None:
        found = []
        for line in section.lines if kind_of(section).only_paths else ():
            if line.startswith("d "):
                entry = Entry.parse(line)
                if entry.uid not in owners or entry.mode & 0o022:
                    found.append(entry.path)
        super().__init__(found)


def unread(paths: Collection[bytes]) -> Tops:
    """The paths that an undo leaves out, because they could not be read. Where they are too many, directories above
    them."""
    found = Tops(paths)
    for names in _CUTS:
        if sum(map(len, found.paths())) <= _LONG:
            break
        found = Tops([b"/".join(path.split(b"/")[: names + 1]) for path in found.paths()])
    return found


def without(section: Section, tops: Tops) -> Section | None:
    """The section as a look without these paths would have written it; None where no path of ``files`` is left. Pure.

    The trees that another kind adds have no exclude: such a tree is left out as a whole.
    """
    spec, paths = tree_spec(section), list(map(os.fsdecode, tops.paths()))
    if spec is None:
        return section
    inside = [path for path in paths if any(is_within(path, root) for root in spec["paths"])]
    roots = [root for root in spec["paths"] if os.fsencode(root) not in tops]
    if not inside and roots == spec["paths"]:
        return section
    mine = kind_of(section).only_paths
    if not mine:
        roots = [root for root in roots if not any(is_within(path, root) for path in inside)]
    elif not roots:
        return None
    trees = {"paths": roots, "exclude": [*spec["exclude"], *map(glob.escape, inside)]}
    known = dict(section.spec, **(trees if mine else {"trees": roots}))
    if files.MOUNTS in known:
        known[files.MOUNTS] = files.mounted(trees, known[files.MOUNTS])
    lines = [line for line in lines_at(path_lines(section), roots) if path_of(line) not in tops]
    return replace(section, spec=known, lines=[*relinked(lines), *own_lines(section)])


def is_crowd(section: Section, theirs: Theirs) -> bool:
    """Whether these directories have a crowd of new entries, or new files in bulk. No link and no mount is followed."""
    todo = theirs.paths()
    if not todo:
        return False
    recorded = [line for line in section.lines if path_of(line) in theirs]
    left = CROWD + len(recorded)
    room = _BULK + sum(int(found[1]) for found in map(_SIZE.search, recorded) if found is not None)
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
                        room -= _bytes_of(one)
                        if left < 0 or room < 0:
                            return True
            finally:
                os.close(fd)
    return False


def _bytes_of(entry: os.DirEntry[str]) -> int:
    """The bytes of a file that a look reads through, without its holes: those are bounded apart."""
    with suppress(OSError):
        info = entry.stat(follow_symlinks=False)
        return min(info.st_size, info.st_blocks * 512) if stat.S_ISREG(info.st_mode) else 0
    return 0
