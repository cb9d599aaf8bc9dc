# SPDX-License-Identifier: GPL-3.0-or-later

"""The note of how far the logs of this host were copied to peers, which ``lag`` reads."""

from __future__ import annotations

import json

from .._host.durable import write_file
from .._resources.registry import kind_of, own_lines
from .._store.store import Store
from .lag import name_of, notes


def note(store: Store, checkpoint: str, copies: int) -> bool:
    """Note that so many peers hold the checkpoint; whether that is news. A copy without a log is not noted."""
    manifest = store.manifest(checkpoint)
    with store.locked():
        known, news = notes(store), False
        for section in manifest.sections:
            kind, lines = kind_of(section), own_lines(section)
            if not kind.has_log or not lines or kind.not_carried(lines):
                continue
            name = name_of(section.kind, section.spec)
            now = {"kind": section.kind, "line": lines[0], "checkpoint": manifest.id, "created": manifest.created}
            recorded = known.get(name, {})
            if recorded != {**now, "copies": copies} and str(recorded.get("created", "")) <= manifest.created:
                known[name], news = {**now, "copies": copies}, True
        if news:
            write_file(store.join("shipped"), json.dumps(known, sort_keys=True).encode())
    return news
