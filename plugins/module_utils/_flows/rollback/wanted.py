# SPDX-License-Identifier: GPL-3.0-or-later

"""The file ``resume`` of the store. It is written before the first change of a rollback, and has a rollback that was
killed carried out again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..._dataclasses import dataclass, field, fields
from ..._files.step import Step
from ..._host.durable import remove_file, write_file
from ..._store.store import Store


@dataclass(frozen=True)
class Wanted:
    """A rollback to a checkpoint (``kinds``, ``paths``: to these parts of it), and how far it has come.

    It has kept ``undo``, has put back the paths ``changed``, and has taken ``down`` the services in this record of
    ``outage.Down``. Before it has ``begun``, nothing but services has been touched. ``undone``: steps that failed, and
    that nothing else would show to be due.
    """

    checkpoint: str
    kinds: Sequence[str] | None = None
    paths: Sequence[str] = ()
    undo: str = ""
    changed: Sequence[str] = ()
    down: Mapping[str, Any] = field(default_factory=dict)
    begun: bool = True
    undone: Sequence[Mapping[str, Any]] = ()

    @property
    def failed(self) -> list[Step]:
        """The steps that failed."""
        return [Step(**one) for one in self.undone]


def path(store: Store) -> str:
    """The file that asks for a rollback."""
    return store.join("resume")


def read(store: Store) -> Wanted | None:
    """The rollback that is asked for. A file that nobody can read asks for nothing."""
    try:
        with open(path(store), "rb") as stream:
            found = json.load(stream)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(found, dict) or not found.get("checkpoint"):
        return None
    return Wanted(**{one.name: found[one.name] for one in fields(Wanted) if one.name in found})


def write(store: Store, wanted: Wanted) -> None:
    """Ask for a rollback; durable."""
    write_file(path(store), json.dumps(vars(wanted)).encode())


def forget(store: Store) -> None:
    """Ask for nothing any more; durable."""
    remove_file(path(store))
