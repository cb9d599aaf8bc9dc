# SPDX-License-Identifier: GPL-3.0-or-later

"""The timers that start the agent at the deadline of a change, whatever the change did to the host."""

from __future__ import annotations

from typing import Protocol

from .._errors import Refused
from .._host.system import System
from .._store.store import Store
from .units import SystemdTimer
from .watcher import WatcherTimer


class Timer(Protocol):
    """A way to start the agent at the deadline. A new backend is a class with these methods in a file of this room,
    and has a place in ``TIMERS``. A change relies on all available timers at once, because the change may destroy a
    timer.

    ``number``: the generation of the change. ``due``: the deadline on the monotonic clock. ``agent``: the path of the
    installed zipapp. Methods raise OSError, and Refused where the timer is not reliable.
    """

    def is_available(self, system: System) -> bool:
        """Whether this host can have this timer."""

    def prepare(self, store: Store, agent: str) -> None:
        """Before the checkpoint is taken: put the files in place that must not be part of the change."""

    def arm(self, store: Store, number: int, agent: str) -> None:
        """Before the deadline is set: start the slow parts of the timer."""

    def ensure(self, store: Store, number: int, due: float, agent: str, patience: float) -> None:
        """Make sure that the timer runs until the deadline, whatever was done to it. Called again and again."""

    def fire(self, store: Store) -> None:
        """Start the agent now, and do not wait for it. Where an agent works already, it goes on alone."""

    def disarm(self, store: Store) -> None:
        """Stop, because the change is over. An agent that is started later finds nothing to do."""


# Add a new timer here.
TIMERS: tuple[Timer, ...] = (SystemdTimer(), WatcherTimer())


def available(system: System) -> list[Timer]:
    """The timers that this host can have."""
    return [timer for timer in TIMERS if timer.is_available(system)]


def ensure(
    store: Store, number: int, due: float, agent: str, patience: float = 10.0, caller: type[object] | None = None
) -> None:
    """``Timer.ensure`` of all available timers but the ``caller``, which runs.

    Each timer alone is enough, so the failure of a timer does not hinder the others. Raises the first error at the end.
    """
    failed: list[Exception] = []
    for timer in available(store.system):
        if caller is not None and isinstance(timer, caller):
            continue
        try:
            timer.ensure(store, number, due, agent, patience)
        except (Refused, OSError) as error:
            failed.append(error)
    if failed:
        raise failed[0]


def disarm(store: Store) -> None:
    """``Timer.disarm`` of all available timers."""
    for timer in available(store.system):
        timer.disarm(store)
