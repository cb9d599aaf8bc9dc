# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration that would have covered the paths that the last change has changed outside of all resources."""

from __future__ import annotations

import math
import os

from .._deadman import changes, outside
from .._errors import EvenkeelError
from .._resources import registry
from .._resources.kind import Restore
from .._results.change import Outside, Suggested
from .._store.store import Store


def suggest(store: Store) -> Suggested:
    """The paths of the last change, and declarations, each of one kind, to be added to its resources."""
    store.check_format()
    found = outside.told(store)
    return Suggested(outside=found, suggested=_declarations(store, found) if found is not None else [])


def _declarations(store: Store, found: Outside) -> list[dict[str, dict[str, object]]]:
    event = changes.last_event(store)
    changed = {one.path: one.what for one in found.paths if len(os.fsencode(one.path)) < outside.LONGEST}
    try:
        since = os.stat(store.join("before")).st_mtime
    except OSError:
        since = math.inf
    at = Restore(store.system, store.objects, since=since)
    try:
        taken = registry.taken(store.manifest(event.checkpoint if event else "").sections)
    except EvenkeelError:
        taken = []
    suggested: list[dict[str, dict[str, object]]] = []
    # Trees of files take the paths that no other kind knows.
    for kind in sorted(registry.KINDS.values(), key=lambda kind: kind.only_paths):
        spec, known = kind.suggest(changed, taken, at)
        if spec is not None:
            suggested.append({kind.name: spec})
        changed = {path: what for path, what in changed.items() if path not in known}
    return suggested
