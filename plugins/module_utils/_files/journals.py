# SPDX-License-Identifier: GPL-3.0-or-later

"""The journals of a store: the plan of each journal, and its end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from .._errors import Damaged
from .._host.durable import (
    fsync_dir,
    remove_file,
    write_file,
)
from .anchors import Anchor
from .declaration import STAGE
from .entry import Entry
from .known import Identity
from .removal import remove
from .step import META, OPERATIONS, PUT, SWAP

# The errors that reading a file which holds no plan may raise.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


# JSON that the caller keeps with a journal: the purpose of the journal.
Note = Mapping[str, Any]


class Operation(NamedTuple):
    """A step of a plan whose new object is staged.

    ``name`` is the object's name in the staging directory with the number ``anchor``, ``inode`` its inode number. For
    ``META``, ``entry`` holds the attributes, and ``inode`` is the inode number of the object whose attributes are set,
    unless that object is a directory. ``old_inode`` is the inode number of the directory that goes, None where another
    object goes. It is compared only with ``checked``: nothing but ``SWAP`` and ``DELETE`` has it, and version 0.1.0 did
    not write it.
    """

    op: str
    path: bytes
    name: bytes
    anchor: int = -1
    inode: int | None = None
    old_inode: int | None = None
    checked: bool = False
    entry: Entry | None = None

    def stored(self) -> dict[str, object]:
        """The operation as a journal keeps it."""
        found: dict[str, object] = {"op": self.op, "path": self.path.hex(), "name": self.name.decode()}
        if self.entry is not None:
            found["line"] = self.entry.line()
        if self.checked:
            found["was"] = self.old_inode
        if self.op != META:
            found["anchor"] = self.anchor
        return found if self.inode is None else dict(found, ino=self.inode)

    @classmethod
    def read(cls, raw: Any, anchors: int) -> Operation:
        """The operation that a journal with so many staging directories keeps."""
        op, anchor = raw["op"], raw["anchor"] if raw["op"] != META else -1
        if op not in OPERATIONS or not isinstance(anchor, int) or not (op == META or 0 <= anchor < anchors):
            raise ValueError(f"this is no operation: {str(raw)[:200]}")
        return cls(
            op,
            bytes.fromhex(raw["path"]),
            raw["name"].encode(),
            anchor,
            _number(raw["ino"] if op in (PUT, SWAP) else raw.get("ino")),
            _number(raw.get("was")),
            "was" in raw,
            Entry.parse(raw["line"]) if op == META else None,
        )


class Plan(NamedTuple):
    """Everything that is carried out after COMMIT.

    ``closed`` are directories that somebody exchanged before the staging. ``directories`` get their attributes at the
    end, and after them each path of ``pins`` its immutable or append-only flags. ``loose`` are those of the directories
    whose names another user can exchange, and ``left`` the paths that do not go back.
    """

    note: Note
    anchors: Sequence[Anchor]
    known: Mapping[bytes, Identity]
    closed: Collection[bytes]
    operations: Sequence[Operation]
    directories: Sequence[Entry]
    pins: Sequence[tuple[bytes, int]]
    loose: Collection[bytes] = frozenset()
    left: Collection[bytes] = frozenset()

    def write(self, journal: str) -> None:
        """Write the plan to its journal."""
        plan = {
            "note": self.note,
            "anchors": [one.stored() for one in self.anchors],
            "known": {path.hex(): [inode, mount.hex()] for path, (inode, mount) in self.known.items()},
            "closed": [path.hex() for path in sorted(self.closed)],
            "steps": [one.stored() for one in self.operations],
            "directories": [entry.line() for entry in self.directories],
            "pins": [[path.hex(), flags] for path, flags in self.pins],
            "loose": [path.hex() for path in sorted(self.loose)],
            "left": [path.hex() for path in sorted(self.left)],
        }
        write_file(os.path.join(journal, "plan"), json.dumps(plan).encode())

    @classmethod
    def read(cls, raw: Any) -> Plan:
        """The plan that a journal keeps. Version 0.1.0 wrote neither ``known`` nor any collection from ``closed`` on
        but the operations and ``directories``."""
        anchors = [Anchor.read(one) for one in raw["anchors"]]
        return cls(
            raw["note"],
            anchors,
            {bytes.fromhex(path): (int(ino), bytes.fromhex(mount)) for path, (ino, mount) in _items(raw, "known")},
            {bytes.fromhex(path) for path in raw.get("closed", ())},
            [Operation.read(one, len(anchors)) for one in raw["steps"]],
            [Entry.parse(line) for line in raw["directories"]],
            [(bytes.fromhex(path), int(flags)) for path, flags in raw.get("pins", ())],
            {bytes.fromhex(path) for path in raw.get("loose", ())},
            {bytes.fromhex(path) for path in raw.get("left", ())},
        )


def _number(raw: Any) -> int | None:
    if not isinstance(raw, (int, type(None))):
        raise ValueError(f"this is no number: {str(raw)[:200]}")
    return raw


def _items(raw: Any, key: str) -> Iterable[tuple[str, Any]]:
    found: dict[str, Any] = raw.get(key, {})
    return found.items()


def read(journal: str) -> Plan:
    """The plan of a journal. Raises Damaged, or one of MALFORMED where the file holds no plan."""
    path = os.path.join(journal, "plan")
    try:
        with open(path) as stream:
            return Plan.read(json.load(stream))
    except OSError as error:
        raise unreadable(journal, str(error)) from error


def unreadable(journal: str, why: str) -> Damaged:
    """The error for a plan that cannot be read."""
    path = os.path.join(journal, "plan")
    return Damaged(f"the plan of an interrupted rollback, {path}, cannot be read: {why}; run the rollback again")


def close(journal: str) -> None:
    """Remove the journal and its staging directories; a kill in between leaves the journal to be dropped again.

    COMMIT goes first, durably: its operations have been carried out, and must not be repeated over later changes.
    """
    remove_file(os.path.join(journal, "COMMIT"))
    removed = [remove(anchor) for anchor in _anchors_of(journal)]
    if all(removed):  # Otherwise the next run tries again.
        shutil.rmtree(journal)
        fsync_dir(os.path.dirname(journal))


def _anchors_of(journal: str) -> list[Anchor]:
    found: list[Anchor] = []
    # Where the file is damaged, the anchors after the damage are unknown.
    with suppress(FileNotFoundError, *MALFORMED), open(os.path.join(journal, "anchors")) as stream:
        for one in json.load(stream):
            found.append(Anchor.read(one))
    return [one for one in found if os.path.basename(one.path).startswith(STAGE)]
