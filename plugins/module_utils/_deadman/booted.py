# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's check of its own health after a boot that its change planned. The check needs nothing from outside.

A sick host goes back at once. A healthy host waits for its confirmation, until its deadline. While the user that
armed the host is logged in again, the change goes on, and may still make the host healthy: then only the deadline
counts.
"""

from __future__ import annotations

import sys

from .._health import probes as probing
from .._health.probe import PASS
from .._health.wait import Times, wait
from .._host import logins
from .._store.store import Store
from . import changes

# Seconds before the deadline at which the check ends, and seconds between two looks at the logins.
_EARLY, _AGAIN = 1.0, 5.0


def is_due(store: Store, change: changes.Armed) -> bool:
    """Whether this change has booted the host as planned, and the host is to be measured."""
    return bool(change.boots and change.health) and change.overdue(store.system) is None


def is_well(store: Store, agent: str) -> bool:
    """Measure the host until it is healthy for the whole soak. False where it does not become healthy: then its
    rollback has begun, unless its deadline is over."""
    change, system = changes.armed(store), store.system
    if change is None or not is_due(store, change):
        return True
    probes = probing.check(change.health["probes"])
    soak, deadline, interval = (float(change.health[name]) for name in ("soak", "deadline", "interval"))
    patience = max(soak, deadline)
    while True:
        left = change.due - system.monotonic() - _EARLY
        health = wait(probes, Times(soak, max(0.0, min(patience, left)), interval), system)
        if health.state == PASS:
            return True
        now = changes.armed(store)
        if now is None or now.generation != change.generation or now.overdue(system) is not None:
            return now is None
        change = now
        if change.due - system.monotonic() <= _EARLY:
            return False
        if not logins.is_open(change.login):
            break
        patience = soak + _AGAIN
    sys.stderr.write(f"not healthy after the boot: {'; '.join(health.wrong()) or 'not for the whole soak'}\n")
    with store.locked(wait=600.0):
        now = changes.armed(store)
        if now is not None and now.generation == change.generation and now.overdue(system) is None:
            changes.begin_return(store, now, "health")
    changes.fire(store, agent)
    return False
