# SPDX-License-Identifier: GPL-3.0-or-later

"""The entries of a manifest: entries that no scan could have written are refused."""

from __future__ import annotations

import os

from .._errors import Damaged, UsageError
from .._host.paths import ancestors, check_path
from .declaration import Declaration
from .entry import (
    ABOVE,
    ABSENT,
    Entry,
    Tree,
    path_of,
    unlike,
)
from .scanning import Scan


def recorded(lines: list[str], declared: Declaration, now: Scan | None = None) -> Tree:
    """The entries of the lines, if a scan of ``declared`` could have written them. Pure.

    Raises Damaged for a path that is outside of the declared paths, below an object that is no directory, relative, or
    out of order, and for a hard link to a path that is not recorded. So a forged checkpoint reaches nothing that was
    not declared. A line that the scan ``now`` has written as well is not checked.
    """
    manifest = _Manifest(lines, declared)
    then = manifest.then
    scanned = now.entries.lines if now is not None else []
    for number, live in unlike(lines, scanned):
        if number is not None:
            why = manifest.fault_of(number)
            if why:
                raise _refusal(lines[number], why)
        if live is not None and scanned[live].startswith(("d", ABOVE)):
            # The paths below it may be as they were, and have not been looked at.
            stays = number is not None and lines[number].startswith(("d", ABOVE))
            line = None if stays else then.below(path_of(scanned[live]))
            if line is not None:
                raise _refusal(line, "it lies below a path that is no directory")
    for line in then.linked():
        entry = Entry.parse(line)
        first = then.find(entry.link)
        if first is None or first.type != entry.type or first.link or entry.type == "d":
            raise _refusal(line, "it is a hard link to a path that is not recorded")
    return then


class _Manifest:
    """The lines of a manifest, and the declaration."""

    def __init__(self, lines: list[str], declared: Declaration) -> None:
        self.then = Tree(lines)
        self._lines = lines
        self._paths = set(map(os.fsencode, declared.paths))
        self._above = {one for path in self._paths for one in ancestors(path)}
        self._parents: dict[bytes, Entry | None] = {}

    def fault_of(self, at: int) -> str:
        """Why no scan could have written the line with this number, in words; empty when it could."""
        lines, entry = self._lines, self.then[at]
        path, parent = entry.path, self._parent_of(entry.path)
        below = parent is not None and parent.type in ("d", ABOVE)
        try:
            check_path(path)
        except UsageError as error:
            return error.message
        if (at and path_of(lines[at - 1]) >= path) or (at + 1 < len(lines) and path_of(lines[at + 1]) <= path):
            return "it is out of order"
        if entry.type == ABOVE and path in self._above:
            if path != b"/" and not below:
                return "it lies below a path that is no directory"
        elif path not in self._paths and (entry.type in (ABOVE, ABSENT) or parent is None or parent.type == ABOVE):
            return "it lies outside of the declared paths"
        elif entry.type != ABSENT and not below:
            return "it lies below a path that is no directory"
        return ""

    def _parent_of(self, path: bytes) -> Entry | None:
        folder = os.path.dirname(path)
        if folder not in self._parents:
            self._parents[folder] = self.then.find(folder)
        return self._parents[folder] if path != b"/" else None


def _refusal(line: str, why: str) -> Damaged:
    return Damaged(f"this line of a manifest is refused: {line[:200]!r}: {why}; nothing was changed")
