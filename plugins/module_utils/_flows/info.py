# SPDX-License-Identifier: GPL-3.0-or-later

"""The memory of a host: it is read without a lock, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .._dataclasses import asdict
from .._deadman import changes, outside
from .._deadman.doubt import in_doubt
from .._errors import EvenkeelError
from .._host.system import System
from .._results.host import HostState, Remembered
from .._services.owed import owed
from .._store.store import Store
from . import lag
from .held import copies_for_others
from .restarting import record
from .spot_check import spot_check


def info(
    store: Store, with_owed: bool = False, outline: Mapping[str, list[Any]] | None = None, run: str = ""
) -> Remembered:
    """The checkpoints, replicas and changes of a host. A host without a store has none. ``with_owed``: also the
    restarts that are due on it. ``outline``: also declared state that the newest checkpoint does not hold. ``run``: the
    name of the run, in which the place of the store is told."""
    store.check_format()
    replicas, holds, left = copies_for_others(store)
    checkpoints = [asdict(one) for one in store.checkpoints()]
    state, where = host_state(store.root, store.system), ""
    with suppress(EvenkeelError):
        where = store.place(run)
    return Remembered(
        checkpoints=checkpoints,
        replicas=replicas,
        holds=holds,
        place=where,
        left=left,
        spot_check=spot_check(store, outline) if outline is not None else None,
        outside=outside.told(store),
        logs=lag.behind(store),
        owed=owed(store.system) if with_owed else None,
        **vars(state),
    )


def host_state(root: str, system: System | None = None) -> HostState:
    """The newest change of a host and its end, as a guard asks for it."""
    store = Store(root, system or System())
    change, last, doubt = changes.armed(store), changes.last_event(store), in_doubt(store)
    return HostState(
        generation=changes.generation(store),
        armed=_under_way(change, store.system) if change else None,
        last=asdict(last) if last else None,
        doubt=asdict(doubt) if doubt else None,
        interrupted=any(map(os.path.exists, _wanted(store))),
        restart=record.shown(record.read(store), store.system),
    )


def _wanted(store: Store) -> list[str]:
    """The files that ask for an interrupted rollback to be carried on. A journal without COMMIT asks for nothing."""
    return [*(os.path.join(journal, "COMMIT") for journal in store.journals()), store.join("resume")]


def _under_way(change: changes.Armed, system: System) -> dict[str, object]:
    """The change under way, with its deadline as the monotonic clock has it: the date may be wrong."""
    late = _late(change, system)
    left = round(change.due - system.monotonic(), 3) if late is None else 0.0
    return dict(change.shown(), remaining=left, overdue=late)


def _late(change: changes.Armed, system: System) -> float | None:
    """For how many seconds the host should have been going back; None while a confirmation is waited for."""
    if change.overdue(system) is None:
        return None
    # The monotonic clock begins at the boot that ended the wait. A host that is asked to go back may begin early.
    return max(0.0, system.monotonic() - (change.due if change.boot_id == system.boot_id() else 0.0))
