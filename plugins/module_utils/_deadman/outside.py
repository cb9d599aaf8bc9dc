# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths outside of the declared resources that the last change changed, in the file ``outside`` below the
store."""

from __future__ import annotations

import json
from typing import Any

from .._dataclasses import asdict
from .._host.durable import write_file
from .._host.text import escape
from .._results.change import ChangedPath, Outside
from .._store.store import Store
from . import changes

# The most paths that are kept, and the most bytes of a path.
SHOWN = 100
LONGEST = 500
_LONGEST_WHY = 300
# The most paths that a sentence names.
_NAMED = 5


def keep(store: Store, generation: int, back: bool, found: Outside | None, why: str = "") -> None:
    """Keep the findings at the end of a change. ``back``: whether the change was rolled back; else it is
    confirmed. ``why``: the error that kept us from looking."""
    what = asdict(found) if found is not None else {"why": why[:_LONGEST_WHY]}
    kept = {"generation": generation, "back": back, **what}
    write_file(store.join("outside"), json.dumps(kept).encode())


def told(store: Store) -> Outside | None:
    """The paths that the last change has left changed, as seen at its end; None where they are not known."""
    try:
        found = _kept(store)
        paths = [ChangedPath(str(one["path"]), str(one["what"])) for one in found["paths"]]
        return Outside(paths, int(found["count"]), bool(found["complete"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def why_unknown(store: Store) -> str:
    """The error that kept us from looking at the end of the last change; empty without one."""
    try:
        return escape(str(_kept(store)["why"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _kept(store: Store) -> Any:
    """The findings that are kept, where they are of the last change; KeyError otherwise."""
    event = changes.last_event(store)
    with open(store.join("outside"), "rb") as stream:
        found = json.loads(stream.read())
    outcome = changes.ROLLED_BACK if found["back"] else changes.CONFIRMED
    if event is None or (event.generation, event.outcome) != (found["generation"], outcome):
        raise KeyError("generation")
    return found


def words(found: Outside | None, why: str = "") -> str:
    """The sentence about a host whose protected state is back. ``why``: see ``why_unknown``."""
    back = "what is protected is as before"
    if found is None:
        return f"{back}; whether anything outside of it changed is not known" + (f" ({why})" if why else "")
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
