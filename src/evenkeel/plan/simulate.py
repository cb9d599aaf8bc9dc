# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the formulas predict, played: random failures and repairs, seeded, with confidence intervals.

`play` runs a group of hosts event by event and looks past one machine: failure domains, common causes, checkpoints,
copies and changes in waves under the guard. All times are in seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

YEAR = 365 * 86400.0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval, from so many independent samples."""

    mean: float
    low: float
    high: float
    samples: int

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the interval."""
        return self.low <= value <= self.high


def mean_of(samples: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of independent samples with Student's interval (quantile by Cornish and Fisher's expansion)."""
    values = np.asarray(samples, dtype=float)
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    z, v = NormalDist().inv_cdf(0.5 + confidence / 2), count - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    half = t * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def rate_of(events: int, exposure: float, confidence: float = CONFIDENCE) -> Estimate:
    """A rate from ``events`` in ``exposure``, with the Poisson interval (chi-square by Wilson and Hilferty)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def bound(count: int, side: float) -> float:
        return count * max(0.0, 1 - 1 / (9 * count) + side * z / (3 * math.sqrt(count))) ** 3 if count else 0.0

    return Estimate(events / exposure, bound(events, -1) / exposure, bound(events + 1, 1) / exposure, events)


# A group of hosts


@dataclass(frozen=True)
class Fleet:
    """A group of hosts and what is done with them.

    hosts, needed: how many there are, and must serve at once. mtbf, mttr: of one host; times to repair are
    exponential. common_cause: fraction of a host's failures that strike all hosts at once.
    domains: the failure domain of each host, numbered from 0; empty for one that holds all. domain_mtbf, domain_mttr:
    of one domain.
    interval, cost: time between checkpoints, and that one takes. copies: other stores that hold them; each store is
    lost annual_failure_rate times a year and replaced after repair; copy_common_cause of these losses take all
    stores of a host at once.
    change_every: time between changes, which take each host out for change_time, `wave` hosts at a time, as long as
    the guard sees `needed` others healthy; a wave turns out bad with chance change_failure, is back after
    rollback_time more, and ends the change.
    """

    hosts: int
    needed: int
    mtbf: float
    mttr: float
    common_cause: float = 0.0
    domains: tuple[int, ...] = ()
    domain_mtbf: float = math.inf
    domain_mttr: float = 0.0
    interval: float = math.inf
    cost: float = 0.0
    copies: int = 0
    annual_failure_rate: float = 0.0
    repair: float = 0.0
    copy_common_cause: float = 0.0
    change_every: float = math.inf
    change_time: float = 0.0
    wave: int = 1
    change_failure: float = 0.0
    rollback_time: float = 0.0


@dataclass
class Played:
    """What happened to a group, over so many host-years; rates are per year of the group.

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


@dataclass
class _Batch:
    horizon: float = 0.0
    events: int = 0
    outage_time: float = 0.0
    down_time: float = 0.0
    outages: list[float] = field(default_factory=list)
    lost_work: list[float] = field(default_factory=list)
    data_losses: int = 0
    changes: int = 0
    rolled_back: int = 0
    held_back: int = 0


def play(
    fleet: Fleet, host_years: float = 10_000.0, seed: int = 1, batches: int = 40, confidence: float = CONFIDENCE
) -> Played:
    """Run ``fleet`` for ``host_years`` in all, as independent batches that each begin with all hosts up.

    The same seed gives the same result. Batches are what makes the intervals: at least 2, and long against mttr.
    """
    horizon = host_years * YEAR / fleet.hosts / batches
    seeds = np.random.SeedSequence(seed).spawn(batches)
    done = [_play(fleet, horizon, np.random.default_rng(one)) for one in seeds]
    lost = [float(np.mean(batch.lost_work)) for batch in done if batch.lost_work]
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
        lost_work_mean=mean_of(lost, confidence) if lost else None,
        lost_work=_quantiles([seconds for batch in done for seconds in batch.lost_work]),
        data_losses=rate_of(sum(batch.data_losses for batch in done), host_years, confidence),
        changes=sum(batch.changes for batch in done),
        rolled_back=sum(batch.rolled_back for batch in done),
        held_back=sum(batch.held_back for batch in done),
    )


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(q) for q in np.quantile(values, (0.5, 0.95, 0.99, 1.0))) if len(values) else ()


def _play(fleet: Fleet, horizon: float, rng: np.random.Generator) -> _Batch:
    """One batch: a heap of (time, what, which), popped until the horizon."""
    fails, repaired, domain_fails, domain_repaired, all_fail, all_repaired, store_lost, store_back, change, wave = (
        range(10)
    )
    n, needed, copies = fleet.hosts, fleet.needed, fleet.copies
    batch = _Batch(horizon)
    pool: list[float] = []

    def soon(mean: float) -> float:
        """An exponential time, from a pool: drawing one by one would be half of the run time."""
        nonlocal pool
        if not pool:
            pool = rng.standard_exponential(4096).tolist()
        return pool.pop() * mean

    # A host is up while no reason holds it down. Its own failures and those in common have such rates that each has
    # its share of the unavailability, (1-beta) and beta, as the beta-factor model says.
    share = fleet.mttr / (fleet.mtbf + fleet.mttr) if math.isfinite(fleet.mtbf) else 0.0
    alone, common = (1 - fleet.common_cause) * share, fleet.common_cause * share
    own_mtbf = fleet.mttr * (1 - alone) / alone if alone > 0 else math.inf
    common_mtbf = fleet.mttr * (1 - common) / common if common > 0 else math.inf
    reasons, up = [0] * n, n
    failed_at = [0.0] * n
    outage_from = 0.0

    cycle = fleet.interval + fleet.cost
    protected = math.isfinite(cycle) and cycle > 0
    phases = (rng.random(n) * cycle).tolist() if protected else []

    def take(host: int, now: float, sudden: bool) -> None:
        nonlocal up, outage_from
        reasons[host] += 1
        if reasons[host] > 1:
            return
        failed_at[host] = now
        up -= 1
        if up == needed - 1:
            outage_from = now
        if sudden and protected:
            # A checkpoint holds what was there when it began, and counts when it is complete, `cost` later.
            age = (now + phases[host]) % cycle
            batch.lost_work.append(age if age >= fleet.cost else age + cycle)

    def give(host: int, now: float) -> None:
        nonlocal up
        reasons[host] -= 1
        if reasons[host]:
            return
        batch.down_time += now - failed_at[host]
        up += 1
        if up == needed:
            batch.outages.append(now - outage_from)
            batch.outage_time += now - outage_from

    def every(mean: float) -> float:
        return soon(mean) if math.isfinite(mean) else math.inf

    heap: list[tuple[float, int, int]] = [(every(own_mtbf), fails, host) for host in range(n)]
    members: list[list[int]] = [[] for _ in range(max(fleet.domains, default=0) + 1)]
    for host in range(n):
        members[fleet.domains[host] if fleet.domains else 0].append(host)
    heap += [(every(fleet.domain_mtbf), domain_fails, domain) for domain in range(len(members))]
    heap.append((every(common_mtbf), all_fail, 0))
    # Of a store's losses a share strikes all stores of its host, and is one event of the host, not one of each store.
    stores, shared = n * (copies + 1), n * fleet.copy_common_cause
    struck = stores * (1 - fleet.copy_common_cause) + shared
    store_mtbf = YEAR / fleet.annual_failure_rate / struck if fleet.annual_failure_rate else math.inf
    heap.append((every(store_mtbf), store_lost, 0))
    gone: list[set[int]] = [set() for _ in range(n)]
    lives = [0] * n  # repairs that were under way when all was lost are not to count afterwards
    heap.append((fleet.change_every, change, 0))
    heap = [event for event in heap if event[0] < horizon]
    heapq.heapify(heap)
    push, pop = heapq.heappush, heapq.heappop
    pending: list[tuple[int, int]] = []  # stores in repair: (store, life of its host), by number of the event
    waves: list[list[int]] = []
    waiting = False  # a wave that the guard held back begins when a host has come back, if then it may

    while heap:
        now, what, which = pop(heap)
        if now >= horizon:
            break
        batch.events += 1
        if waiting and what in (repaired, domain_repaired, all_repaired):
            waiting = False
            push(heap, (now, wave, -1))
        if what == fails:
            take(which, now, True)
            push(heap, (now + soon(fleet.mttr), repaired, which))
        elif what == repaired:
            give(which, now)
            push(heap, (now + soon(own_mtbf), fails, which))
        elif what in (domain_fails, all_fail):
            for host in members[which] if what == domain_fails else range(n):
                take(host, now, True)
            mean = fleet.domain_mttr if what == domain_fails else fleet.mttr
            push(heap, (now + soon(mean), what + 1, which))
        elif what in (domain_repaired, all_repaired):
            for host in members[which] if what == domain_repaired else range(n):
                give(host, now)
            push(heap, (now + soon(fleet.domain_mtbf if what == domain_repaired else common_mtbf), what - 1, which))
        elif what == store_lost:
            push(heap, (now + soon(store_mtbf), store_lost, 0))
            host, store = divmod(int(rng.integers(stores)), copies + 1)
            if rng.random() * struck < shared:
                gone[host] = set(range(copies + 1))
            elif store not in gone[host]:  # what is lost cannot be lost again
                gone[host].add(store)
                pending.append((store, lives[host]))
                push(heap, (now + fleet.repair, store_back, (len(pending) - 1) * n + host))
            if len(gone[host]) == copies + 1:
                batch.data_losses += 1
                gone[host] = set()
                lives[host] += 1
        elif what == store_back:
            number, host = divmod(which, n)
            store, life = pending[number]
            if life == lives[host]:
                gone[host].discard(store)
        elif what == change:
            push(heap, (now + fleet.change_every, change, 0))
            if not waves:  # else the last one is not through yet, and this one is left out
                batch.changes += 1
                waves = [list(range(i, min(i + fleet.wave, n))) for i in range(0, n, fleet.wave)]
                push(heap, (now, wave, -1))
        elif which < 0:  # a wave is to begin
            others = up - sum(1 for host in waves[0] if not reasons[host])
            if others < needed:
                batch.held_back += 1
                waiting = True
                continue
            for host in waves[0]:
                take(host, now, False)
            bad = rng.random() < fleet.change_failure
            push(heap, (now + fleet.change_time + (fleet.rollback_time if bad else 0.0), wave, int(bad)))
        else:  # a wave ends
            for host in waves.pop(0):
                give(host, now)
            if which:
                batch.rolled_back += 1
                waves = []
            if waves:
                push(heap, (now, wave, -1))
    if up < needed:
        batch.outage_time += horizon - outage_from
    batch.down_time += sum(horizon - failed_at[host] for host in range(n) if reasons[host])
    return batch
