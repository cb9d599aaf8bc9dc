# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the logs of this host (``Kind.has_log``) are ahead of their copies on peers.

The file ``shipped`` of the store holds, for each log, the newest position of which peers acknowledged copies.
"""

from __future__ import annotations

import json
from contextlib import suppress

from .._errors import Damaged, EvenkeelError
from .._host.durable import write_file
from .._resources.kind import names_of
from .._resources.registry import KINDS, kind_of, own_lines
from .._store.manifest import Manifest
from .._store.store import UNDO, Store


def note(store: Store, checkpoint: str, copies: int) -> bool:
    """Note that so many peers hold the checkpoint; whether that is news. A copy without a log is not noted."""
    manifest = store.manifest(checkpoint)
    with store.locked():
        known = _read(store)
        news = False
        for name, kind, line in _logs(manifest, carried=True):
            was = known.get(name, {})
            now = {"kind": kind, "line": line, "checkpoint": manifest.id, "created": manifest.created, "copies": copies}
            if was != now and str(was.get("created", "")) <= manifest.created:
                known[name], news = now, True
        if news:
            write_file(store.join("shipped"), json.dumps(known, sort_keys=True).encode())
    return news


def behind(store: Store) -> list[dict[str, object]]:
    """For each log that a checkpoint of this host names: the newest checkpoint on peers, and the lag behind it."""
    known = _read(store)
    names: dict[str, tuple[str, str]] = {}
    for manifest in _newest(store):
        names.update({name: (kind, line) for name, kind, line in _logs(manifest, carried=False)})
    found: list[dict[str, object]] = []
    for name in sorted({*known, *names}):
        shipped = known.get(name)
        entry: dict[str, object] = {"name": name, "checkpoint": "", "created": "", "copies": 0}
        entry.update(kind=str(shipped["kind"]) if shipped else names[name][0], seconds=None, bytes=None)
        if shipped:
            entry.update({key: shipped[key] for key in ("checkpoint", "created", "copies")})
            with suppress(EvenkeelError, OSError):
                entry.update(KINDS[str(shipped["kind"])].behind([str(shipped["line"])], store.system))
        found.append(entry)
    return found


def _newest(store: Store) -> list[Manifest]:
    """The newest checkpoint of each name that holds a log."""
    found = []
    for one in store.checkpoints():
        if [name for name in one.names if name != UNDO] and any(KINDS[k].has_log for k in one.resources if k in KINDS):
            with suppress(Damaged):
                found.append(store.manifest(one.id))
    return found


def _logs(manifest: Manifest, carried: bool) -> list[tuple[str, str, str]]:
    """(name of the log, its kind, the line of its position) in the checkpoint. ``carried``: of those alone that a copy
    of the checkpoint holds."""
    found = []
    for section in manifest.sections:
        kind, lines = kind_of(section), own_lines(section)
        if kind.has_log and lines and not (carried and kind.not_carried(lines)):
            found.append((f"{section.kind} {names_of(section.spec)}", section.kind, lines[0]))
    return found


def _read(store: Store) -> dict[str, dict[str, object]]:
    """The notes by the names of their logs; none where the file cannot be read."""
    try:
        with open(store.join("shipped"), "rb") as stream:
            found = json.loads(stream.read())
        keys = {"kind", "line", "checkpoint", "created", "copies"}
        return {name: one for name, one in found.items() if set(one) == keys and one["kind"] in KINDS}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
