# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison of a checkpoint with a scan: the steps that lead back."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from .._host.paths import ancestors
from .declaration import Declaration
from .entry import ABOVE, ABSENT, EARLY, PINNED, SOCKET, Entry, Tree, unlike
from .scanning import Scan
from .step import DELETE, META, PUT, SWAP, Inode, PathStep

# For paths that may differ: path -> its entry in the checkpoint and its entry in the scan.
_Pairs = dict[bytes, tuple["Entry | None", "Entry | None"]]


def compare(then: Tree, now: Scan) -> list[PathStep]:
    """The steps from the scan of ``now`` back to the entries of ``then``. Pure.

    They are in an order that can be carried out: parents before children, deletions at the end, from the leaves up.
    A socket belongs to the program that listens: no socket is put back or removed.
    """
    pairs = _pairs(then, now)
    linked = _linked(then, pairs)
    for path in linked - set(pairs):
        pairs[path] = (then.find(path), now.entries.find(path))
    steps: list[PathStep] = []
    gone: set[bytes] = set()
    for path in sorted(pairs):
        step = _step_back(*pairs[path], path in linked, now)
        if step is not None:
            steps.append(step)
            found = pairs[path][1]
            if found is not None and found.type == "d" and step.op == SWAP:
                gone.add(path)
    return steps + [*_deletions(pairs, now, gone)][::-1]


def _pairs(then: Tree, now: Scan) -> _Pairs:
    pairs: _Pairs = {}
    for one, two in unlike(then.lines, now.entries.lines):
        entry, found = None if one is None else then[one], None if two is None else now.entries[two]
        known = entry or found
        if known is not None and known.type != SOCKET:
            pairs[known.path] = (entry, found)
    return pairs


def _step_back(entry: Entry | None, found: Entry | None, linked: bool, now: Scan) -> PathStep | None:
    """The step that puts a path back; None where the path is as recorded. ``linked``: another name of its inode is
    replaced."""
    if entry is None or entry.type == ABSENT:
        return None
    if entry.type == ABOVE and found is not None and found.type in ("d", ABOVE):
        return None
    if found is not None and found.type == ABSENT:
        found = None
    why = entry.differs(found) or (["hard link"] if linked else [])
    if not why:
        return None
    op, action, blocked = PUT, "replace", ""
    if found is None:
        action, why = "create", []
    elif found.type != entry.type:
        if found.type == "d" or entry.type in ("d", ABOVE):
            op = SWAP
        if found.type == "d" and entry.path in now.holding:
            blocked = "it has become a directory that holds excluded files; move them away"
    elif entry.type == "d" or (not linked and _in_place(entry, found, why)):
        op, action = META, "attributes"
    return PathStep(op, entry.path, action, ", ".join(why), entry, None, *_inodes(entry.path, now), blocked)


def _inodes(path: bytes, now: Scan) -> tuple[Inode | None, Inode | None]:
    """The directory that holds the path, and the directory at the path, as the scan found them."""
    return now.inodes.get(os.path.dirname(path)), now.inodes.get(path)


def swapped(
    steps: Sequence[PathStep], then: Tree, now: Scan, declared: Declaration, mounts: Collection[bytes]
) -> list[PathStep]:
    """The steps, with a single step for each declared directory that can be exchanged as a whole. Pure."""
    recorded = list(then)
    found = list(steps)
    for root in map(os.fsencode, declared.paths):
        inside = root + b"/"
        tree = [entry for entry in recorded if (entry.path + b"/").startswith(inside)]
        below = [step for step in found if step.path.startswith(inside)]
        mounted = any((mount + b"/").startswith(inside) for mount in mounts)
        if not below or mounted or not _is_whole(root, tree, recorded, now):
            continue
        first = found.index(below[0])
        found = [step for step in found if not (step.path + b"/").startswith(inside)]
        why = f"{len(below)} paths in it differ"
        found.insert(first, PathStep(SWAP, root, "swap", why, tree[0], tree[1:], *_inodes(root, now)))
    return found


def _is_whole(root: bytes, tree: Sequence[Entry], recorded: Sequence[Entry], now: Scan) -> bool:
    """Whether the path can be exchanged: it was a directory and is a directory, and no excluded path, no immutable or
    append-only flag, and no inode that a file elsewhere shares is in the way."""
    old, inside = now.entries.find(root), root + b"/"
    return (
        old is not None
        and bool(tree)
        and old.type == tree[0].type == "d"
        and not old.flags & PINNED
        and not any(entry.flags & PINNED for entry in tree)
        and root not in now.holding
        and not any(entry.link and entry.path.startswith(inside) != entry.link.startswith(inside) for entry in recorded)
    )


def _in_place(entry: Entry, live: Entry, why: Sequence[str]) -> bool:
    """Whether all differences can be set on the present object."""
    return set(why) <= {"time", "flags"} and not (entry.flags ^ live.flags) & EARLY


def _linked(then: Tree, pairs: _Pairs) -> set[bytes]:
    """Paths that must be replaced because another name of their inode is: the names stay one inode."""
    groups: dict[bytes, list[bytes]] = {}
    for entry in map(Entry.parse, then.linked()):
        groups.setdefault(entry.link, [entry.link]).append(entry.path)
    linked: set[bytes] = set()
    for names in groups.values():
        known = [pairs[name] for name in names if name in pairs]
        if any(entry is not None and entry.differs(found) for entry, found in known):
            linked.update(names)
    return linked


def _deletions(pairs: _Pairs, now: Scan, gone: set[bytes]) -> Iterator[PathStep]:
    """A step for each topmost tree that is new; directories that hold excluded files stay."""
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
        yield PathStep(DELETE, path, "delete", "was not there", None, None, *_inodes(path, now))


def directories(then: Tree, steps: Sequence[PathStep]) -> list[Entry]:
    """The directories whose attributes are set last, from the leaves up: their times change with every name that comes
    and goes in them."""
    touched: dict[bytes, Entry] = {}
    for step in steps:
        path = os.path.dirname(step.path)
        if step.op != META and path not in touched:
            above = then.find(path)
            if above is not None and above.type == "d":
                touched[path] = above
        if step.entry is not None and step.entry.type in ("d", ABOVE):
            touched.setdefault(step.path, step.entry)
    return [touched[path] for path in sorted(touched, reverse=True)]
