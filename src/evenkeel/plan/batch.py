# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A batch of a simulation: hosts, failures, stores and changes, event by event."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from evenkeel.reliability import YEAR


@dataclass(frozen=True)
class Fleet:
    """A group of hosts with its checkpoints and changes.

    hosts, needed: the number of hosts, and of hosts that must serve. mtbf, mttr: of one host; times to repair are
    exponential. common_cause: fraction of a host's failures that strike all hosts at once.
    domains: the failure domain of each host, numbered from 0; empty for a single domain of all hosts. domain_mtbf,
    domain_mttr: of one domain.
    interval, cost: time between checkpoints, and of a checkpoint. copies: other stores that hold them; each store is
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
class Batch:
    """The counts of one batch, up to its horizon."""

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


# The kinds of event, by number: it also breaks ties in time.
(
    _FAILS,
    _REPAIRED,
    _DOMAIN_FAILS,
    _DOMAIN_REPAIRED,
    _ALL_FAIL,
    _ALL_REPAIRED,
    _STORE_LOST,
    _STORE_BACK,
    _CHANGE,
    _WAVE,
) = range(10)


class _Agenda:
    """The events to come until the horizon, as (time, kind, number)."""

    def __init__(self, horizon: float, rng: np.random.Generator) -> None:
        self.horizon, self.rng = horizon, rng
        self.heap: list[tuple[float, int, int]] = []
        self.pool: list[float] = []

    def add(self, time: float, kind: int, number: int) -> None:
        """Add an event, if it comes before the horizon."""
        if time < self.horizon:
            heapq.heappush(self.heap, (time, kind, number))

    def soon(self, mean: float) -> float:
        """An exponential time, from a pool: drawing each alone would be half of the run time."""
        if not self.pool:
            self.pool = self.rng.standard_exponential(4096).tolist()
        return self.pool.pop() * mean

    def every(self, mean: float) -> float:
        """The same, for a mean that may be infinite."""
        return self.soon(mean) if math.isfinite(mean) else math.inf


class _Hosts:
    """The hosts of a batch. A host is up while no reason holds it down."""

    def __init__(self, fleet: Fleet, batch: Batch, rng: np.random.Generator) -> None:
        self.needed, self.cost, self.batch = fleet.needed, fleet.cost, batch
        self.reasons, self.failed_at = [0] * fleet.hosts, [0.0] * fleet.hosts
        self.up, self.outage_from = fleet.hosts, 0.0
        self.cycle = fleet.interval + fleet.cost
        self.protected = math.isfinite(self.cycle) and self.cycle > 0
        self.phases = (rng.random(fleet.hosts) * self.cycle).tolist() if self.protected else []

    def take(self, host: int, now: float, sudden: bool) -> None:
        """Add a reason for a host to be down. sudden: its work since the last checkpoint is lost."""
        self.reasons[host] += 1
        if self.reasons[host] > 1:
            return
        self.failed_at[host] = now
        self.up -= 1
        if self.up == self.needed - 1:
            self.outage_from = now
        if sudden and self.protected:
            # A checkpoint holds the work until it began, and counts when it is complete, `cost` later.
            age = (now + self.phases[host]) % self.cycle
            self.batch.lost_work.append(age if age >= self.cost else age + self.cycle)

    def give(self, host: int, now: float) -> None:
        """Remove a reason for a host to be down."""
        self.reasons[host] -= 1
        if self.reasons[host]:
            return
        batch = self.batch
        batch.down_time += now - self.failed_at[host]
        self.up += 1
        if self.up == self.needed:
            batch.outages.append(now - self.outage_from)
            batch.outage_time += now - self.outage_from

    def end(self, horizon: float) -> None:
        """Count the outage and the failures that last beyond the horizon."""
        if self.up < self.needed:
            self.batch.outage_time += horizon - self.outage_from
        down = (failed for failed, reasons in zip(self.failed_at, self.reasons, strict=True) if reasons)
        self.batch.down_time += sum(horizon - failed for failed in down)


class _Failures:
    """Failures and repairs of hosts, of failure domains, and of all hosts at once."""

    def __init__(self, fleet: Fleet, agenda: _Agenda, hosts: _Hosts) -> None:
        self.fleet, self.agenda, self.hosts = fleet, agenda, hosts
        # The failures of a host alone and those in common have such rates that each has its share of the
        # unavailability, (1-beta) and beta, as the beta-factor model says.
        share = fleet.mttr / (fleet.mtbf + fleet.mttr) if math.isfinite(fleet.mtbf) else 0.0
        alone, common = (1 - fleet.common_cause) * share, fleet.common_cause * share
        self.own_mtbf = fleet.mttr * (1 - alone) / alone if alone > 0 else math.inf
        self.common_mtbf = fleet.mttr * (1 - common) / common if common > 0 else math.inf
        self.members: list[list[int]] = [[] for _ in range(max(fleet.domains, default=0) + 1)]
        for host in range(fleet.hosts):
            self.members[fleet.domains[host] if fleet.domains else 0].append(host)
        for host in range(fleet.hosts):
            agenda.add(agenda.every(self.own_mtbf), _FAILS, host)
        for domain in range(len(self.members)):
            agenda.add(agenda.every(fleet.domain_mtbf), _DOMAIN_FAILS, domain)
        agenda.add(agenda.every(self.common_mtbf), _ALL_FAIL, 0)

    def fails(self, now: float, host: int) -> None:
        self.hosts.take(host, now, True)
        self.agenda.add(now + self.agenda.soon(self.fleet.mttr), _REPAIRED, host)

    def repaired(self, now: float, host: int) -> None:
        self.hosts.give(host, now)
        self.agenda.add(now + self.agenda.soon(self.own_mtbf), _FAILS, host)

    def domain_fails(self, now: float, domain: int) -> None:
        for host in self.members[domain]:
            self.hosts.take(host, now, True)
        self.agenda.add(now + self.agenda.soon(self.fleet.domain_mttr), _DOMAIN_REPAIRED, domain)

    def domain_repaired(self, now: float, domain: int) -> None:
        for host in self.members[domain]:
            self.hosts.give(host, now)
        self.agenda.add(now + self.agenda.soon(self.fleet.domain_mtbf), _DOMAIN_FAILS, domain)

    def all_fail(self, now: float, _number: int) -> None:
        for host in range(self.fleet.hosts):
            self.hosts.take(host, now, True)
        self.agenda.add(now + self.agenda.soon(self.fleet.mttr), _ALL_REPAIRED, 0)

    def all_repaired(self, now: float, _number: int) -> None:
        for host in range(self.fleet.hosts):
            self.hosts.give(host, now)
        self.agenda.add(now + self.agenda.soon(self.common_mtbf), _ALL_FAIL, 0)


class _Stores:
    """Losses of the stores that hold the checkpoints of a host: its own store, and the stores of its copies."""

    def __init__(self, fleet: Fleet, agenda: _Agenda, batch: Batch) -> None:
        self.fleet, self.agenda, self.batch = fleet, agenda, batch
        self.each = fleet.copies + 1
        # A share of a store's losses strikes all stores of its host, and is a single event of the host.
        self.stores, self.shared = fleet.hosts * self.each, fleet.hosts * fleet.copy_common_cause
        self.struck = self.stores * (1 - fleet.copy_common_cause) + self.shared
        self.mtbf = YEAR / fleet.annual_failure_rate / self.struck if fleet.annual_failure_rate else math.inf
        self.gone: list[set[int]] = [set() for _ in range(fleet.hosts)]
        self.lives = [0] * fleet.hosts  # repairs that were under way when all was lost do not count afterwards
        self.pending: list[tuple[int, int]] = []  # stores in repair: (store, life of its host), by number of the event
        agenda.add(agenda.every(self.mtbf), _STORE_LOST, 0)

    def lose_store(self, now: float, _number: int) -> None:
        self.agenda.add(now + self.agenda.soon(self.mtbf), _STORE_LOST, 0)
        rng = self.agenda.rng
        host, store = divmod(int(rng.integers(self.stores)), self.each)
        gone = self.gone[host]
        if rng.random() * self.struck < self.shared:
            gone.update(range(self.each))
        elif store not in gone:  # a lost store cannot be lost again
            gone.add(store)
            self.pending.append((store, self.lives[host]))
            number = (len(self.pending) - 1) * self.fleet.hosts + host
            self.agenda.add(now + self.fleet.repair, _STORE_BACK, number)
        if len(gone) == self.each:
            self.batch.data_losses += 1
            gone.clear()
            self.lives[host] += 1

    def back(self, _now: float, which: int) -> None:
        number, host = divmod(which, self.fleet.hosts)
        store, life = self.pending[number]
        if life == self.lives[host]:
            self.gone[host].discard(store)


class _Changes:
    """Changes, wave by wave, under the guard."""

    def __init__(self, fleet: Fleet, agenda: _Agenda, hosts: _Hosts, batch: Batch) -> None:
        self.fleet, self.agenda, self.hosts, self.batch = fleet, agenda, hosts, batch
        self.waves: list[list[int]] = []
        self.waiting = False  # a wave that the guard held back begins when a host has come back, if then it may
        agenda.add(fleet.change_every, _CHANGE, 0)

    def begins(self, now: float, _number: int) -> None:
        fleet = self.fleet
        self.agenda.add(now + fleet.change_every, _CHANGE, 0)
        if not self.waves:  # else the last change is still under way, and this change is left out
            self.batch.changes += 1
            starts = range(0, fleet.hosts, fleet.wave)
            self.waves = [list(range(i, min(i + fleet.wave, fleet.hosts))) for i in starts]
            self.agenda.add(now, _WAVE, -1)

    def wave(self, now: float, bad: int) -> None:
        """A wave begins (-1), or ends well (0) or badly (1)."""
        if bad < 0:
            self._wave_begins(now)
        else:
            self._wave_ends(now, bool(bad))

    def _wave_begins(self, now: float) -> None:
        others = self.hosts.up - sum(1 for host in self.waves[0] if not self.hosts.reasons[host])
        if others < self.fleet.needed:
            self.batch.held_back += 1
            self.waiting = True
            return
        for host in self.waves[0]:
            self.hosts.take(host, now, False)
        bad = self.agenda.rng.random() < self.fleet.change_failure
        took = self.fleet.change_time + (self.fleet.rollback_time if bad else 0.0)
        self.agenda.add(now + took, _WAVE, int(bad))

    def _wave_ends(self, now: float, bad: bool) -> None:
        for host in self.waves.pop(0):
            self.hosts.give(host, now)
        if bad:
            self.batch.rolled_back += 1
            self.waves = []
        if self.waves:
            self.agenda.add(now, _WAVE, -1)


def play_batch(fleet: Fleet, horizon: float, rng: np.random.Generator) -> Batch:
    """A batch: its events, in order of time, until the horizon."""
    batch = Batch(horizon)
    agenda = _Agenda(horizon, rng)
    hosts = _Hosts(fleet, batch, rng)
    failures = _Failures(fleet, agenda, hosts)
    stores = _Stores(fleet, agenda, batch)
    changes = _Changes(fleet, agenda, hosts, batch)
    acts: dict[int, Callable[[float, int], None]] = {
        _FAILS: failures.fails,
        _REPAIRED: failures.repaired,
        _DOMAIN_FAILS: failures.domain_fails,
        _DOMAIN_REPAIRED: failures.domain_repaired,
        _ALL_FAIL: failures.all_fail,
        _ALL_REPAIRED: failures.all_repaired,
        _STORE_LOST: stores.lose_store,
        _STORE_BACK: stores.back,
        _CHANGE: changes.begins,
        _WAVE: changes.wave,
    }
    heap, pop = agenda.heap, heapq.heappop
    while heap:
        now, kind, number = pop(heap)
        batch.events += 1
        if changes.waiting and kind in (_REPAIRED, _DOMAIN_REPAIRED, _ALL_REPAIRED):
            changes.waiting = False
            agenda.add(now, _WAVE, -1)
        acts[kind](now, number)
    hosts.end(horizon)
    return batch
