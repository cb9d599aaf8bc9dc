# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a checkpoint with a scan: the steps that lead back."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

from .._host.paths import ancestors
from .declaration import Declaration
from .entry import (
    ABOVE,
    ABSENT,
    EARLY,
    PINNED,
    SOCKET,
    Entry,
    Tree,
    unlike,
)
from .scanning import Scan
from .step import Step


def compare(then: Tree, now: Scan) -> list[Step]:
    """What a rollback does: from the scan of now back to the entries of then. Pure.

    Each step's detail has ``op`` and the manifest line of what shall be: ``put`` a new object in place, ``swap`` it
    with one of another type, ``meta`` set attributes of what stays, ``delete``. In an order that can be carried out:
    parents before children, deletions after, from the leaves up. ``blocked`` says why a step cannot be carried out.
    ``folder`` and ``self`` (device, inode) are the directory that it is in, and it is itself, as the scan found them.

    A socket belongs to the program that listens: none is put back, and none is taken away.
    """
    pairs: dict[bytes, tuple[Entry | None, Entry | None]] = {}
    for one, two in unlike(then.lines, now.entries.lines):
        entry, found = None if one is None else then[one], None if two is None else now.entries[two]
        if entry is not None and entry.type == SOCKET:
            continue
        if entry is None and found is not None and found.type == SOCKET:
            continue
        for known in (entry, found):
            if known is not None:
                pairs[known.path] = (entry, found)
                break
    replaced = _linked(then, pairs)
    for raw in replaced - set(pairs):
        pairs[raw] = (then.find(raw), now.entries.find(raw))
    steps: list[Step] = []
    gone: set[bytes] = set()
    for raw in sorted(pairs):
        entry, found = pairs[raw]
        path = os.fsdecode(raw)
        if (
            entry is None
            or entry.type == ABSENT
            or (entry.type == ABOVE and found is not None and found.type in ("d", ABOVE))
        ):
            continue
        if found is not None and found.type == ABSENT:
            found = None
        why = entry.differs(found)
        if entry.path in replaced and not why:
            why = ["hard link"]
        if not why:
            continue
        detail: dict[str, Any] = {"line": entry.line(), **_which(entry.path, now)}
        if found is None:
            steps.append(Step("files", "create", path, "", dict(detail, op="put")))
        elif found.type != entry.type:
            if found.type == "d":
                if entry.path in now.holding:
                    detail["blocked"] = "it has become a directory that holds excluded files; move them away"
                gone.add(entry.path)
            op = "swap" if found.type == "d" or entry.type in ("d", ABOVE) else "put"
            steps.append(Step("files", "replace", path, ", ".join(why), dict(detail, op=op)))
        elif entry.type == "d" or (entry.path not in replaced and _in_place(entry, found, why)):
            steps.append(Step("files", "attributes", path, ", ".join(why), dict(detail, op="meta")))
        else:
            steps.append(Step("files", "replace", path, ", ".join(why), dict(detail, op="put")))
    return steps + _deletions(pairs, now, gone)


def _which(path: bytes, now: Scan) -> dict[str, Any]:
    """Which directories the path is in and is itself, where they are there."""
    both = {"folder": now.inodes.get(os.path.dirname(path)), "self": now.inodes.get(path)}
    return {name: list(inode) for name, inode in both.items() if inode is not None}


def swapped(
    steps: Sequence[Step], then: Sequence[Entry], now: Scan, declared: Declaration, mounts: Collection[bytes]
) -> list[Step]:
    """The steps with one ``swap`` for each declared directory that can be put back as a whole. Pure.

    It cannot where it holds a mount or something excluded, shares an inode with a file elsewhere, or where an
    immutable or append-only flag is in the way. The step's ``tree`` are the manifest lines of all that is in it.
    """
    live = {entry.path: entry for entry in now.entries}
    found = list(steps)
    for root in map(os.fsencode, declared.paths):
        inside = root + b"/"
        tree = [entry for entry in then if (entry.path + b"/").startswith(inside)]
        below = [step for step in found if os.fsencode(step.target).startswith(inside)]
        old = live.get(root)
        if (
            not below
            or old is None
            or not tree
            or old.type != "d"
            or tree[0].type != "d"
            or old.flags & PINNED
            or any(entry.flags & PINNED for entry in tree)
            or root in now.holding
            or any((mount + b"/").startswith(inside) for mount in mounts)
            or any(entry.link and entry.path.startswith(inside) != entry.link.startswith(inside) for entry in then)
        ):
            continue
        lines = [entry.line() for entry in tree]
        detail = {"op": "swap", "line": lines[0], "tree": lines[1:], **_which(root, now)}
        first = found.index(below[0])
        found = [step for step in found if not (os.fsencode(step.target) + b"/").startswith(inside)]
        found.insert(first, Step("files", "swap", os.fsdecode(root), f"{len(below)} paths in it differ", detail))
    return found


def _in_place(entry: Entry, live: Entry, why: Sequence[str]) -> bool:
    """Whether all that differs can be set on the object that is there."""
    return set(why) <= {"time", "flags"} and not (entry.flags ^ live.flags) & EARLY


def _linked(then: Tree, pairs: dict[bytes, tuple[Entry | None, Entry | None]]) -> set[bytes]:
    """Paths that must be replaced because another name of their inode is: the names stay one inode."""
    groups: dict[bytes, list[bytes]] = {}
    for entry in map(Entry.parse, then.linked()):
        groups.setdefault(entry.link, [entry.link]).append(entry.path)
    replaced: set[bytes] = set()
    for names in groups.values():
        unlike_ = [pairs[name] for name in names if name in pairs]
        if any(entry is not None and entry.differs(found) for entry, found in unlike_):
            replaced.update(names)
    return replaced


def _deletions(pairs: dict[bytes, tuple[Entry | None, Entry | None]], now: Scan, gone: set[bytes]) -> list[Step]:
    """A step for each topmost tree that was not there; directories that hold excluded files stay."""
    steps: list[Step] = []
    for path in sorted(pairs):
        known, entry = pairs[path]
        if entry is None or entry.type in (ABOVE, ABSENT) or (known is not None and known.type != ABSENT):
            continue
        if any(above in gone for above in ancestors(path)):
            continue
        if entry.type == "d":
            if path in now.holding:
                continue
            gone.add(path)
        steps.append(Step("files", "delete", os.fsdecode(path), "was not there", {"op": "delete", **_which(path, now)}))
    return steps[::-1]


def directories(then: Tree, steps: Sequence[Step]) -> list[str]:
    """Manifest lines of the directories whose attributes are set last, from the leaves up: their times change
    with every name that comes and goes in them."""
    touched: dict[bytes, str] = {}
    for step in steps:
        path = os.fsencode(step.target)
        for one, kinds, op in ((os.path.dirname(path), "d", "meta"), (path, "d" + ABOVE, "delete")):
            if step.detail["op"] != op and one not in touched:
                entry = then.find(one)
                if entry is not None and entry.type in kinds:
                    touched[one] = entry.line()
    return [touched[path] for path in sorted(touched, reverse=True)]
