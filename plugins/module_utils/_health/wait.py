# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Healthy means: all probes pass, for the whole soak, with no restart of a probed service in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._system import System
from .probes import FAIL, PASS, UNKNOWN, Probe, ProbeResult, measure

# More restarts than this while we look are a crash loop: waiting longer does not help.
CRASH_LOOP = 3


@dataclass(frozen=True)
class Health:
    """``probes``: the last round. ``waited``, ``soaked`` in seconds; ``restarts`` of probed services meanwhile."""

    state: str
    probes: list[ProbeResult]
    waited: float
    soaked: float
    restarts: int


def wait(
    probes: list[Probe],
    soak: float,
    deadline: float,
    interval: float,
    system: System,
    look: Callable[[list[Probe], System], list[ProbeResult]] = measure,
) -> Health:
    """Measure every ``interval`` seconds until all have passed for ``soak`` seconds, or ``deadline`` seconds are over.

    One round is always made; with a soak of 0 it is enough. Stops at once at a crash loop.
    """
    began = system.monotonic()
    good_since: float | None = None
    before: dict[str, ProbeResult] = {}
    restarts = 0
    while True:
        at = system.monotonic()
        results = look(probes, system)
        seen = _restarts(before, results)
        restarts += seen
        before = {**before, **{one.target: one for one in results if one.identity}}
        passing = all(one.state == PASS for one in results)
        if not passing:
            good_since = None
        elif seen or good_since is None:
            good_since = at
        now = system.monotonic()
        soaked = now - good_since if good_since is not None else 0.0
        if passing and soaked >= soak and restarts <= CRASH_LOOP:
            return Health(PASS, results, now - began, soaked, restarts)
        if restarts > CRASH_LOOP or now - began >= deadline:
            return Health(_worst(results), results, now - began, soaked, restarts)
        system.sleep(max(0.0, min(interval, began + deadline - now)))


def _restarts(before: dict[str, ProbeResult], results: list[ProbeResult]) -> int:
    """Starts of services since the last round, by systemd's own count where it has one."""
    count = 0
    for one in results:
        last = before.get(one.target)
        if last is not None and one.identity and one.identity != last.identity:
            count += max(1, one.restarts - last.restarts)
    return count


def _worst(results: list[ProbeResult]) -> str:
    """Not healthy in time: unknown when that is all that is wrong, fail otherwise."""
    states = {one.state for one in results} - {PASS}
    return UNKNOWN if states == {UNKNOWN} else FAIL
