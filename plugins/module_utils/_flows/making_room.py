# SPDX-License-Identifier: GPL-3.0-or-later

"""Room on a peer for a bundle that is to come: leftovers of broken transfers go, and where room is still short, so do
the copies that retention drops."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .._errors import EvenkeelError
from .._store import foreign
from .._store import retention as keeping
from .._store.store import Store
from . import replicas, sealed, sealed_record

# Seconds for which another transfer to the same copies is waited for. Its files are no leftovers.
_WAIT = 2.0


def make_room(store: Store, host: str, size: int, places: Sequence[str], retention: Any = None) -> None:
    """Make room for a bundle of so many bytes in each of the places, before the room is measured there. The newest copy
    stays.

    Retention mostly comes after a bundle has arrived: where there is no room for the bundle, that would never be. Files
    that it drops are deleted after the time of grace, as always. No failure here counts: whoever measures the room
    tells what is lacking.
    """
    policy = keeping.check(retention)
    target = replicas.replica(store, host)
    if not target.exists:
        return
    with suppress(EvenkeelError, OSError), target.locked(_WAIT):  # To take the lock removes leftovers.
        if policy is None or foreign.room(*places) >= size:
            return
        points = target.checkpoints(by_head=True)
        if points:
            replicas.forget(target, points[-1].id, policy)
        known = sealed_record.records(target)
        if known:
            newest = max(known.values(), key=lambda one: (one.created, one.id))
            sealed.prune(target, newest, policy, [newest.group])
        target.objects.empty_trash(policy.trash(target.system.now())[0])
