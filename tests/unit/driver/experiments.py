# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The story behind each formula of evenkeel.reliability, played: they share nothing but the story. Times in seconds."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evenkeel.plan.simulate import CONFIDENCE, YEAR, Estimate, mean_of


@dataclass(frozen=True)
class Sample:
    """How much is played. size: trials, runs or years; None for the usual number of an experiment."""

    size: int | None = None
    seed: int = 1
    confidence: float = CONFIDENCE

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


USUAL = Sample()


def share_of(hits: int, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """A probability from ``hits`` in ``trials``, with Wilson's interval, which is right for 0 hits too."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = hits / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), trials)


def any_of(chances: Sequence[float], sample: Sample = USUAL) -> Estimate:
    """Throw for every chance, and count the trials in which at least one came up."""
    trials = sample.size or 200_000
    thrown = sample.rng().random((trials, len(chances))) < np.asarray(chances)
    return share_of(int(thrown.any(axis=1).sum()), trials, sample.confidence)


def repeat(success: float, attempts: int, permanent: float = 0.0, sample: Sample = USUAL) -> Estimate:
    """Repeat an operation. A share of the operations meets a permanent fault. A first attempt of all fails as told."""
    rng, trials = sample.rng(), sample.size or 200_000
    lost = rng.random(trials) < permanent * (1 - success)
    helps = success / (1 - permanent * (1 - success))
    done = np.zeros(trials, dtype=bool)
    for _ in range(attempts):
        done |= ~lost & (rng.random(trials) < helps)
    return share_of(int(done.sum()), trials, sample.confidence)


def job(
    work: float,
    interval: float,
    cost: float,
    restart: float,
    mtbf: float,
    sample: Sample = USUAL,
) -> Estimate:
    """Time to finish ``work``, a whole number of intervals, where failures also strike checkpoints and restarts."""
    rng, runs = sample.rng(), sample.size or 2_000
    segments = round(work / interval)
    clock = np.zeros(runs)
    for _ in range(segments):
        doing, restarting = np.arange(runs), np.zeros(runs, dtype=bool)
        while doing.size:
            needed = np.where(restarting, restart, interval + cost)
            failure = rng.exponential(mtbf, doing.size)
            survived = failure >= needed
            clock[doing] += np.minimum(failure, needed)
            # Survived a segment: on to the next one. Survived a restart: the segment again. Else: restart.
            still = ~survived | restarting
            restarting = ~survived[still]
            doing = doing[still]
    return mean_of(clock, sample.confidence)


def loss(copies: int, tolerated: int, annual_failure_rate: float, repair: float, sample: Sample = USUAL) -> Estimate:
    """Years in which one of the windows of ``repair``, of which a year holds a whole number, saw too many failures."""
    rng, years = sample.rng(), sample.size or 100_000
    windows = round(YEAR / repair)
    lost = np.zeros(years, dtype=bool)
    for _ in range(windows):
        failures = rng.poisson(annual_failure_rate * repair / YEAR, (years, copies))
        lost |= (failures > 0).sum(axis=1) > tolerated
    return share_of(int(lost.sum()), years, sample.confidence)


def absorption(
    n: int,
    tolerated: int,
    mtbf: float,
    mttr: float,
    parallel_repair: bool = True,
    sample: Sample = USUAL,
) -> Estimate:
    """Time until more than ``tolerated`` of n members are down: each has clocks of its own for failure and repair."""
    rng, runs = sample.rng(), sample.size or 4_000
    times = np.empty(runs)
    for i in range(runs):
        clock, down, queue = 0.0, 0, 0
        events = [(float(t), member, True) for member, t in enumerate(rng.exponential(mtbf, n))]
        heapq.heapify(events)
        while down <= tolerated:
            clock, member, fails = heapq.heappop(events)
            if fails:
                down += 1
                if parallel_repair or down == 1:
                    heapq.heappush(events, (clock + rng.exponential(mttr), member, False))
                else:
                    queue += 1
                continue
            down -= 1
            heapq.heappush(events, (clock + rng.exponential(mtbf), member, True))
            if queue:
                # Whose turn it is does not matter to the count; a member's number only breaks ties.
                queue -= 1
                heapq.heappush(events, (clock + rng.exponential(mttr), member, False))
        times[i] = clock
    return mean_of(times, sample.confidence)


def escalate(steps: Sequence[tuple[float, float]], sample: Sample = USUAL) -> tuple[Estimate, Estimate]:
    """Try steps (time, chance) in the order given until one helps: the time spent, and whether one did."""
    rng, trials = sample.rng(), sample.size or 200_000
    spent, helped = np.zeros(trials), np.zeros(trials, dtype=bool)
    for time, chance in steps:
        spent += np.where(helped, 0.0, time)
        helped |= rng.random(trials) < chance
    return mean_of(spent, sample.confidence), share_of(int(helped.sum()), trials, sample.confidence)
