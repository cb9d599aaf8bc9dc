# SPDX-License-Identifier: GPL-3.0-or-later

"""Healthy means: all probes that decide pass, for the whole soak, with no restart of a service that they probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._dataclasses import dataclass
from .._host.durations import seconds
from .._host.system import System
from .probe import FAIL, PASS, UNKNOWN, Probe, ProbeResult
from .probes import measure

# More restarts than this while the service is measured are a crash loop: waiting longer does not help.
CRASH_LOOP = 3


@dataclass(frozen=True)
class Health:
    """``probes``: the last round. ``waited``, ``soaked`` in seconds; ``restarts`` of probed services meanwhile."""

    state: str
    probes: list[ProbeResult]
    waited: float
    soaked: float
    restarts: int

    def wrong(self) -> list[str]:
        """The probes of the last round that decide and did not pass, each with its reason."""
        return [probe.words for probe in self.probes if probe.state != PASS and probe.decides]

    def warnings(self) -> list[str]:
        """The probes of the last round that did not pass and do not decide, each with its reason."""
        return [probe.words for probe in self.probes if probe.state != PASS and not probe.decides]

    def passed(self) -> list[str]:
        """The probes of the last round that passed."""
        return [f"{probe.kind} {probe.target}: {probe.detail}" for probe in self.probes if probe.state == PASS]


@dataclass(frozen=True)
class Times:
    """Seconds: probes are measured every ``interval``, until all have passed for ``soak``, or ``deadline`` is over."""

    soak: float
    deadline: float
    interval: float


def times_of(params: Mapping[str, Any]) -> Times:
    """The times that a module is given by its options ``soak``, ``deadline`` and ``interval``."""
    return Times(*(seconds(params[name], name) for name in ("soak", "deadline", "interval")))


def wait(
    probes: list[Probe],
    times: Times,
    system: System,
    measuring: Callable[[list[Probe], System], list[ProbeResult]] = measure,
    earlier: Iterable[ProbeResult] = (),
) -> Health:
    """Measure until the host is healthy, or its time is over.

    A round is always made; with a soak of 0 it is enough. Probes that only warn change nothing. The wait ends at once
    for a crash loop, and for evidence that does not change. ``earlier``: services as they were before the first round,
    so that a restart since then counts too.
    """
    began = system.monotonic()
    good_since: float | None = None
    before = {result.target: result for result in earlier}
    restarts = 0
    while True:
        at = system.monotonic()
        results = measuring(probes, system)
        seen, before = _restarts(before, results)
        restarts += seen
        passing = all(result.state == PASS for result in results if result.decides)
        if not passing:
            good_since = None
        elif seen or good_since is None:
            good_since = at
        fixed = any(one.final and last.decides and last.state != PASS for one, last in zip(probes, results))
        now = system.monotonic()
        soaked = now - good_since if good_since is not None else 0.0
        if passing and not seen and soaked >= times.soak and restarts <= CRASH_LOOP:
            return Health(PASS, results, now - began, soaked, restarts)
        if restarts > CRASH_LOOP or fixed or now - began >= times.deadline:
            return Health(_worst(results), results, now - began, soaked, restarts)
        system.sleep(max(0.0, min(times.interval, began + times.deadline - now)))


def _restarts(before: dict[str, ProbeResult], results: list[ProbeResult]) -> tuple[int, dict[str, ProbeResult]]:
    """(starts of services since the last round, results for the next comparison); a service probed twice counts once.

    systemd counts the restarts that it makes by itself, also of a unit that is down now; the identity shows all others.
    """
    count, after = 0, dict(before)
    services = {result.target: result for result in results if result.kind == "service" and result.decides}
    for target, now in services.items():
        last = before.get(target, now)
        differs = bool(now.identity and last.identity and now.identity != last.identity)
        starts = max(int(differs), now.restarts - last.restarts)
        count += starts
        # A service that is down is compared with its last start; a start that was counted is not counted again.
        after[target] = now if now.identity or starts else last
    return count, after


def _worst(results: list[ProbeResult]) -> str:
    """The state of a host that is not healthy in time: unknown if no probe failed, fail otherwise."""
    states = {result.state for result in results if result.decides} - {PASS}
    return UNKNOWN if states == {UNKNOWN} else FAIL
