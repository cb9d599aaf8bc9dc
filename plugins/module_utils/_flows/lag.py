# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the logs of this host are ahead of their copies on peers. Reads, and changes nothing.

The file ``shipped`` of the store holds, for each log, the newest position of which peers acknowledged copies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from .._errors import Damaged, EvenkeelError
from .._resources.logs import BEHIND
from .._store.store import UNDO, Store

_KEYS = {"kind", "line", "checkpoint", "created", "copies"}
Notes = dict[str, dict[str, object]]


def behind(store: Store) -> list[dict[str, object]]:
    """For each log that a checkpoint of this host names: the newest checkpoint on peers, and the lag behind it."""
    known = notes(store)
    named = _named(store)
    found: list[dict[str, object]] = []
    for name in sorted({*known, *named}):
        note = known.get(name, {"kind": named.get(name, ""), "checkpoint": "", "created": "", "copies": 0})
        entry = {"name": name, **{key: note[key] for key in note if key != "line"}, "seconds": None, "bytes": None}
        if "line" in note:
            with suppress(EvenkeelError, OSError):
                entry.update(BEHIND[str(note["kind"])]([str(note["line"])], store.system))
        found.append(entry)
    return found


def _named(store: Store) -> dict[str, str]:
    """Name of each log in the newest checkpoint of a name -> its kind."""
    found = {}
    for one in store.checkpoints():
        if any(name != UNDO for name in one.names) and set(one.resources) & set(BEHIND):
            with suppress(Damaged):
                sections = store.record(one.id, whole=False).sections
                found.update({name_of(one.kind, one.spec): one.kind for one in sections if one.kind in BEHIND})
    return found


def name_of(kind: str, spec: Mapping[str, object]) -> str:
    """The name of a log."""
    return f"{kind} {spec.get('cluster') or spec.get('data')}"


def notes(store: Store) -> Notes:
    """The notes by the names of their logs; none where the file cannot be read."""
    try:
        with open(store.join("shipped"), "rb") as stream:
            found = json.loads(stream.read())
        return {name: one for name, one in found.items() if set(one) == _KEYS and one["kind"] in BEHIND}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
