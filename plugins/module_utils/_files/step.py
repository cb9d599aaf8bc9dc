# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of a plan: the reported step of any kind, and the step that changes a path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._dataclasses import dataclass, field
from .entry import ABOVE, Entry

# Device and inode number of a directory.
Inode = tuple[int, int]

# The operations on a path: put a new object in its place; exchange it with an object of another type, or a directory
# with all that is in it; set attributes of the object that stays; delete it.
PUT, SWAP, META, DELETE = "put", "swap", "meta", "delete"
OPERATIONS = (PUT, SWAP, META, DELETE)
# The resource of a step that changes a path, whichever kind the path belongs to.
FILES = "files"


@dataclass(frozen=True)
class Step:
    """A change that a rollback makes to a target. A plan is a list of steps, and results show each step.

    ``detail`` is plain JSON and holds everything that carrying out the step needs later, in another process.
    """

    resource: str
    action: str
    target: str
    why: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, str]:
        """The step as a module returns it."""
        shown = {"resource": self.resource, "action": self.action, "target": self.target}
        return dict(shown, why=self.why) if self.why else shown


class PathStep(NamedTuple):
    """The operation ``op`` that restores one path as it was recorded.

    ``entry`` is the recorded entry; None where the path was not there. ``tree`` holds the entries of everything in a
    directory that is exchanged as a whole; otherwise it is None. ``folder`` and ``itself`` are the directory that holds
    the path, and the directory at the path, as the scan found them. ``blocked`` says why the step cannot be done.
    ``action`` and ``why`` are for the report.
    """

    op: str
    path: bytes
    action: str
    why: str
    entry: Entry | None = None
    tree: Sequence[Entry] | None = None
    folder: Inode | None = None
    itself: Inode | None = None
    blocked: str = ""

    @property
    def target(self) -> str:
        """The path as text."""
        return os.fsdecode(self.path)

    @property
    def makes(self) -> Sequence[Entry]:
        """The entries of the objects that the step makes anew, the object at its path first."""
        return (self.entry, *(self.tree or ())) if self.entry is not None and self.op in (PUT, SWAP) else ()

    @property
    def makes_directory(self) -> bool:
        """Whether the path is a new directory afterwards."""
        return self.op in (PUT, SWAP) and self.entry is not None and self.entry.type in ("d", ABOVE)

    def reported(self) -> Step:
        """The step as a rollback reports it."""
        return Step(FILES, self.action, self.target, self.why)
