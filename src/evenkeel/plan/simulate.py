# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The predictions of the formulas, played: random failures and repairs, seeded, with confidence intervals.

`play` runs a group of hosts event by event and looks past one machine: failure domains, common causes, checkpoints,
copies and changes in waves under the guard. All times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel.plan.batch import Fleet, play_batch
from evenkeel.plan.estimate import CONFIDENCE, Estimate, mean_of, rate_of
from evenkeel.reliability import YEAR

__all__ = [
    "CONFIDENCE",
    "MOST_EVENTS",
    "YEAR",
    "Estimate",
    "Fleet",
    "Played",
    "events",
    "mean_of",
    "play",
    "rate_of",
]


@dataclass
class Played:
    """The history of a group, over so many host-years; rates are per year of the group.

    unavailable: share of the time with fewer than needed hosts up. host_unavailable: of one host.
    outages: per year. outage_seconds, lost_work: quantiles 0.5, 0.95, 0.99, 1; empty when there was none.
    lost_work_mean: seconds of work lost at a host's failure. data_losses: per host and year.
    changes, rolled_back, held_back: changes begun, waves rolled back, and times that the guard let a wave wait.
    """

    host_years: float
    events: int
    unavailable: Estimate
    host_unavailable: Estimate
    outages: Estimate
    outage_seconds: tuple[float, ...]
    lost_work_mean: Estimate | None
    lost_work: tuple[float, ...]
    data_losses: Estimate
    changes: int
    rolled_back: int
    held_back: int


# Playing more events than this takes hours, and more memory than a machine has.
MOST_EVENTS = 100_000_000


def events(fleet: Fleet, host_years: float) -> float:
    """The number of events that ``play`` has to expect at most."""
    fails = fleet.hosts / (fleet.mtbf + fleet.mttr) if fleet.mttr else 0.0
    fails += fleet.hosts / (fleet.domain_mtbf + fleet.domain_mttr)
    losses = fleet.hosts * (fleet.copies + 1) * fleet.annual_failure_rate / YEAR
    waves = math.ceil(fleet.hosts / fleet.wave) / fleet.change_every
    return (2 * (fails + losses + waves) + 1 / fleet.change_every) * host_years * YEAR / fleet.hosts


def play(
    fleet: Fleet, host_years: float = 10_000.0, seed: int = 1, batches: int = 40, confidence: float = CONFIDENCE
) -> Played:
    """Run ``fleet`` for ``host_years`` in all, as independent batches that each begin with all hosts up.

    The same seed gives the same result. Batches are what makes the intervals: at least 2, and long against mttr.
    """
    horizon = host_years * YEAR / fleet.hosts / batches
    seeds = np.random.SeedSequence(seed).spawn(batches)
    done = [play_batch(fleet, horizon, np.random.default_rng(batch_seed)) for batch_seed in seeds]
    work = [float(np.mean(batch.lost_work)) for batch in done if batch.lost_work]
    years = horizon / YEAR * batches
    outages = [seconds for batch in done for seconds in batch.outages]
    unavailable = mean_of([batch.outage_time / horizon for batch in done], confidence)
    if not outages:
        # No outage seen tells at least this much: about three of them would have been, were they more frequent.
        most = rate_of(0, years, confidence).high * fleet.mttr / YEAR
        unavailable = Estimate(0.0, 0.0, most, batches)
    return Played(
        host_years=host_years,
        events=sum(batch.events for batch in done),
        unavailable=unavailable,
        host_unavailable=mean_of([batch.down_time / horizon / fleet.hosts for batch in done], confidence),
        outages=rate_of(len(outages), years, confidence),
        outage_seconds=_quantiles(outages),
        lost_work_mean=mean_of(work, confidence) if work else None,
        lost_work=_quantiles([seconds for batch in done for seconds in batch.lost_work]),
        data_losses=rate_of(sum(batch.data_losses for batch in done), host_years, confidence),
        changes=sum(batch.changes for batch in done),
        rolled_back=sum(batch.rolled_back for batch in done),
        held_back=sum(batch.held_back for batch in done),
    )


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(values, (0.5, 0.95, 0.99, 1.0))) if len(values) else ()
