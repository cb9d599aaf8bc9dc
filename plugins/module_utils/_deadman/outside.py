# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths outside of the declared resources that the last change changed, in the file ``outside`` below the
store."""

from __future__ import annotations

import json
from dataclasses import asdict

from .._host.durable import write_file
from .._host.text import escape
from .._results.change import ChangedPath, Outside
from .._store.store import Store
from . import changes

# The most paths that are kept, and the most bytes of a path.
SHOWN = 100
LONGEST = 500
# The most paths that a sentence names.
_NAMED = 5


def keep(store: Store, generation: int, back: bool, found: Outside | None) -> None:
    """Keep the findings at the end of a change. ``back``: whether the change was rolled back; else it is
    confirmed."""
    kept = {"generation": generation, "back": back, **asdict(found)} if found is not None else {}
    write_file(store.join("outside"), json.dumps(kept).encode())


def told(store: Store) -> Outside | None:
    """The paths that the last change has left changed, as seen at its end; None where they are not known."""
    event = changes.last_event(store)
    try:
        with open(store.join("outside"), "rb") as stream:
            found = json.loads(stream.read())
        outcome = changes.ROLLED_BACK if found["back"] else changes.CONFIRMED
        if event is None or (event.generation, event.outcome) != (found["generation"], outcome):
            return None
        paths = [ChangedPath(str(one["path"]), str(one["what"])) for one in found["paths"]]
        return Outside(paths, int(found["count"]), bool(found["complete"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def words(found: Outside | None) -> str:
    """The sentence about a host whose protected state is back."""
    back = "what is protected is as before"
    if found is None:
        return f"{back}; whether anything outside of it changed is not known"
    unknown = "" if found.complete else ", and not all places could be looked at"
    if not found.count:
        return f"{back}, and outside of it no change is seen where programs and configuration lie{unknown}"
    stay = "1 path outside of it stays" if found.count == 1 else f"{found.count} paths outside of it stay"
    return f"{back}; {stay} changed: {some(found)}{unknown}"


def some(found: Outside) -> str:
    """The first paths, and the number of further paths, in words."""
    named = [f"{escape(one.path)} ({one.what})".replace("\n", "\\x0a") for one in found.paths[:_NAMED]]
    more = found.count - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
