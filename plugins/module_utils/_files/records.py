# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entries of a manifest, refused where no scan could have written them."""

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
    """The entries that the lines are, if a scan of ``declared`` could have written them. Pure.

    Raises Damaged for a path outside of the declared ones, below what is no directory, relative or out of order, and
    for a hard link to what is not recorded: a doctored checkpoint reaches nothing that was not declared. A line that
    the scan ``now`` has written as well needs no look.
    """
    paths = set(map(os.fsencode, declared.paths))
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
