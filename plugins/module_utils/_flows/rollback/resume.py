# SPDX-License-Identifier: GPL-3.0-or-later

"""The end of a rollback that was killed: it is carried out again, or, where nothing was changed yet, the services that
it had stopped are started."""

from __future__ import annotations

from ..._dataclasses import replace
from ..._deadman import changes
from ..._errors import EvenkeelError, RestoreFailed
from ..._files import transaction
from ..._resources.registry import locked
from ..._services import outage
from ..._store.store import Store
from . import wanted
from .plan import Options
from .run import Run
from .wanted import Wanted


def resume(store: Store, boot: bool = False) -> tuple[list[str], set[str]]:
    """Complete the rollback that a kill left; sentences on it, and the ids of its checkpoints.

    A journal that was committed decides for the new state of its paths; all the rest is planned anew.
    """
    for left in transaction.unfinished(store, lambda note: locked(note.get("held", ()), store.system, unattended=True)):
        known = wanted.read(store) or Wanted(left.note["checkpoint"], left.note["kinds"])
        wanted.write(store, replace(known, changed=[*known.changed, *left.paths]))
    asked = wanted.read(store)
    if asked is None:
        return [], set()
    change = changes.armed(store)
    try:
        manifest = store.manifest(asked.checkpoint)
    except EvenkeelError:
        if change is None or change.checkpoint != asked.checkpoint:
            wanted.forget(store)  # The record would stand in the way of everything else, for ever.
        raise
    if change is not None and change.checkpoint == manifest.id:
        # The end of this rollback is the end of its change.
        return [], {manifest.id}
    if not asked.begun:
        return _start_stopped(store, asked), set()
    try:
        Run(store, manifest, options(asked, boot)).carry_out()
    except Exception:
        wanted.forget(store)  # The error is reported now. The rollback is not tried again unasked.
        raise
    return [f"finished an interrupted rollback to {manifest.name} ({manifest.id[:12]})"], {manifest.id}


def options(record: Wanted, boot: bool) -> Options:
    """The options with which an interrupted rollback is carried out again."""
    how = Options(record.kinds, record.paths, boot, unattended=True)
    return replace(how, undo=record.undo, changed=record.changed, down=record.down, undone=record.failed)


def _start_stopped(store: Store, record: Wanted) -> list[str]:
    """Start the services that were stopped by a rollback that had changed nothing yet; sentences on them."""
    started, left = outage.bring_up(outage.Down(**record.down), store.system)
    wanted.forget(store)
    if left:
        words = [f"{name}: {why}" for name, why in left.items()]
        raise RestoreFailed(
            f"an interrupted rollback had stopped services that do not start again: {'; '.join(words)}", left=words
        )
    return [f"started {name}, which an interrupted rollback had stopped" for name in started]
