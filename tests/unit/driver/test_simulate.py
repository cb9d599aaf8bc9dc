# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Formula and simulation agree, for every formula that a simulation can reach; wrong formulas are caught.

Intervals are at 99.9 %, seeds are fixed: a test that passes passes always, and one that fails has found something.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from evenkeel import reliability
from evenkeel.plan import simulate
from evenkeel.plan.compare import fleet_of
from evenkeel.plan.file import read_plan
from evenkeel.plan.propose import propose
from evenkeel.plan.simulate import Fleet, play

from . import experiments

SURE = 0.999
VERY_SURE = experiments.Sample(confidence=SURE)
MINUTE, HOUR, DAY, YEAR = 60.0, 3600.0, 86400.0, simulate.YEAR


# Availability and redundancy


@pytest.mark.parametrize(("mtbf", "mttr"), [(DAY, HOUR), (30 * DAY, 4 * HOUR), (HOUR, HOUR)])
def test_availability(mtbf: float, mttr: float) -> None:
    played = play(Fleet(1, 1, mtbf, mttr), 2000 * mtbf / DAY, confidence=SURE)
    assert played.unavailable.holds(1 - reliability.availability(mtbf, mttr))
    assert played.host_unavailable == played.unavailable


@pytest.mark.parametrize("needed", [1, 2, 3, 4])
@pytest.mark.parametrize("common_cause", [0.0, 0.1, 0.5])
def test_k_of_n_with_and_without_a_common_cause(needed: int, common_cause: float) -> None:
    mtbf, mttr = 100 * DAY, 10 * HOUR
    played = play(Fleet(4, needed, mtbf, mttr, common_cause), 60_000, confidence=SURE)
    host = reliability.availability(mtbf, mttr)
    assert played.unavailable.holds(1 - reliability.k_of_n(needed, 4, host, common_cause))
    # Either extreme has a name of its own.
    if needed == 4 and not common_cause:
        assert played.unavailable.holds(1 - reliability.series([host] * 4))
    if needed == 1 and not common_cause:
        assert played.unavailable.holds(1 - reliability.parallel([host] * 4))


def test_the_beta_factor_model_is_on_the_safe_side() -> None:
    """It adds its two parts, as if they never met; where failures are not rare, a simulation sees them overlap."""
    host = reliability.availability(20 * DAY, 10 * HOUR)
    played = play(Fleet(4, 4, 20 * DAY, 10 * HOUR, 0.5), 40_000, confidence=SURE)
    model, part = reliability.unavailability(4, 4, 1 - host, 0.5), 0.5 * (1 - host)
    assert played.unavailable.high < model
    assert played.unavailable.holds(1 - (1 - part) * (1 - part) ** 4)


def test_domains_are_series_of_what_fails_together() -> None:
    """Two racks, a host each: each rack is host and rack in series, the group is both racks in parallel."""
    fleet = Fleet(2, 1, 10 * DAY, 12 * HOUR, domains=(0, 1), domain_mtbf=40 * DAY, domain_mttr=DAY)
    rack = reliability.series([reliability.availability(10 * DAY, 12 * HOUR), reliability.availability(40 * DAY, DAY)])
    played = play(fleet, 8_000, confidence=SURE)
    assert played.host_unavailable.holds(1 - rack)
    assert played.unavailable.holds(1 - reliability.parallel([rack, rack]))
    together = play(Fleet(2, 1, 10 * DAY, 12 * HOUR, domain_mtbf=40 * DAY, domain_mttr=DAY), 8_000)
    assert together.unavailable.low > 5 * played.unavailable.high  # one rack for both defeats the redundancy


def test_error_budget_and_burn_rate() -> None:
    """A fleet burns its budget at the rate of its unavailability."""
    mtbf, mttr = 10 * DAY, HOUR
    played = play(Fleet(1, 1, mtbf, mttr), 20_000, confidence=SURE)
    host = reliability.availability(mtbf, mttr)
    assert reliability.burn_rate(played.unavailable.mean * YEAR, YEAR, host) == pytest.approx(1.0, rel=0.01)
    budget = reliability.error_budget(host, YEAR)
    assert played.unavailable.low * YEAR <= budget <= played.unavailable.high * YEAR


def test_a_domain_takes_its_own_hosts_and_no_others() -> None:
    """Two hosts in one rack, one in another; two are needed, so the first rack decides alone."""
    fleet = Fleet(3, 2, math.inf, HOUR, domains=(0, 0, 1), domain_mtbf=30 * DAY, domain_mttr=DAY)
    rack = reliability.availability(30 * DAY, DAY)
    played = play(fleet, 6_000, confidence=SURE)
    assert played.unavailable.holds(1 - rack)
    assert played.host_unavailable.holds(1 - rack)


# Repetition and escalation


@pytest.mark.parametrize(
    ("success", "attempts", "permanent"), [(0.7, 1, 0.3), (0.7, 3, 0.0), (0.7, 3, 0.2), (0.1, 9, 0.05)]
)
def test_repeat_success(success: float, attempts: int, permanent: float) -> None:
    played = experiments.repeat(success, attempts, permanent, sample=VERY_SURE)
    assert played.holds(reliability.repeat_success(success, attempts, permanent))


def test_attempts_needed() -> None:
    needed = reliability.attempts_needed(0.6, 0.95, 0.05)
    assert experiments.repeat(0.6, needed, 0.05, sample=VERY_SURE).low > 0.95
    assert experiments.repeat(0.6, needed - 1, 0.05, sample=VERY_SURE).high < 0.95


def test_any_of() -> None:
    chances = [0.3, 0.05, 0.6]
    assert experiments.any_of(chances, sample=VERY_SURE).holds(reliability.any_of(chances))


def test_ladder() -> None:
    steps = [(600.0, 0.98), (2.0, 0.5), (20.0, 0.8), (5.0, 0.1)]
    best = reliability.ladder(steps)
    spent, helped = experiments.escalate([steps[i] for i in best["order"]], sample=VERY_SURE)
    assert spent.holds(best["expected_time"])
    assert helped.holds(best["coverage"])
    as_given, _helped = experiments.escalate(steps, sample=VERY_SURE)
    assert as_given.low > spent.high


# Checkpoints


@pytest.mark.parametrize(
    ("interval", "cost", "restart", "mtbf"),
    [(HOUR, 5 * MINUTE, 10 * MINUTE, 15 * HOUR), (20 * MINUTE, MINUTE, 30 * MINUTE, HOUR), (2 * HOUR, 0.0, 0.0, HOUR)],
)
def test_expected_time(interval: float, cost: float, restart: float, mtbf: float) -> None:
    played = experiments.job(20 * interval, interval, cost, restart, mtbf, sample=VERY_SURE)
    assert played.holds(reliability.expected_time(20 * interval, interval, cost, restart, mtbf))


def test_checkpoint_interval_is_best_when_played() -> None:
    """Twice or half the interval takes longer; the curve is too flat for less to show in a simulation."""
    cost, mtbf, restart = 10 * MINUTE, 2 * HOUR, 5 * MINUTE
    best = reliability.checkpoint_interval(cost, mtbf, restart)
    work = best * 64
    at_best = experiments.job(work, best, cost, restart, mtbf, sample=VERY_SURE)
    assert experiments.job(work, best / 2, cost, restart, mtbf, sample=VERY_SURE).low > at_best.high
    assert experiments.job(work, best * 2, cost, restart, mtbf, sample=VERY_SURE).low > at_best.high


def test_work_lost_to_a_failure() -> None:
    """A checkpoint holds what was there when it began: at most interval + 2*cost are lost."""
    interval, cost = HOUR, 6 * MINUTE
    played = play(Fleet(3, 1, 5 * DAY, HOUR, interval=interval, cost=cost), 2000, confidence=SURE)
    assert played.lost_work_mean is not None
    assert played.lost_work_mean.holds(cost + (interval + cost) / 2)
    assert played.lost_work[-1] <= interval + 2 * cost
    assert played.lost_work[-1] > 0.99 * (interval + 2 * cost)


# Durability


@pytest.mark.parametrize(
    ("copies", "tolerated", "rate", "window"),
    [(1, 0, 0.3, YEAR / 12), (3, 2, 3.0, YEAR / 12), (6, 2, 1.0, YEAR / 26), (20, 3, 0.5, YEAR / 52)],
)
def test_loss_probability(copies: int, tolerated: int, rate: float, window: float) -> None:
    played = experiments.loss(copies, tolerated, rate, window, sample=VERY_SURE)
    assert played.holds(reliability.loss_probability(copies, tolerated, rate, window))


@pytest.mark.parametrize(("n", "tolerated", "together"), [(1, 0, True), (2, 1, True), (4, 2, True), (4, 2, False)])
def test_mttdl(n: int, tolerated: int, together: bool) -> None:
    mtbf, mttr = 20 * DAY, 3 * DAY
    played = experiments.absorption(n, tolerated, mtbf, mttr, together, sample=VERY_SURE)
    assert played.holds(reliability.mttdl(n, tolerated, mtbf, mttr, together))


@pytest.mark.parametrize(("rate", "repair"), [(2.0, 10 * DAY), (20.0, 30 * DAY)])
def test_copies_on_a_fleet(rate: float, repair: float) -> None:
    """Two stores, replaced after a fixed time w: to the first loss 1/(2r) on average, then min(exponential, w).

    The second is lost in it with p = 1 - exp(-r*w), so data is lost every (1/(2r) + p/r) / p.
    """
    fleet = Fleet(10, 1, math.inf, HOUR, copies=1, annual_failure_rate=rate, repair=repair)
    second = 1 - math.exp(-rate * repair / YEAR)
    between = (1 / (2 * rate) + second / rate) / second
    assert play(fleet, 80_000 / rate, confidence=SURE).data_losses.holds(1 / between)
    if rate == 2.0:  # the chain has exponential times of that mean instead: close where repairs are short
        assert YEAR / reliability.mttdl(2, 1, YEAR / rate, repair) == pytest.approx(1 / between, rel=0.06)


def test_the_loss_of_all_copies_is_planned_as_it_is_played(tmp_path: Path) -> None:
    store = {"annual_failure_rate": 2, "repair": "4d", "common_cause": 0}
    (tmp_path / "plan.yml").write_text(json.dumps({"groups": {"web": {"hosts": 10, "store": store}}}))
    for copies, durability in ((1, 0.5), (2, 0.99)):
        plan = replace(read_plan(str(tmp_path / "plan.yml"))[0], mtbf=math.inf, change_every=math.inf)
        proposal = propose(replace(plan, targets=replace(plan.targets, durability=durability)))
        assert proposal.numbers["copies"] == copies
        played = play(fleet_of(plan, proposal), 15_000, confidence=SURE)
        assert played.data_losses.holds(-math.log1p(-proposal.numbers["loss_a_year"]))


@pytest.mark.parametrize(("copies", "alone"), [(0, 1.9), (1, 2 * 1.9 * 1.9 * HOUR / YEAR), (4, 0.0)])
def test_one_cause_takes_all_copies_however_many(copies: int, alone: float) -> None:
    """Of a store's two losses a year, one in twenty takes all stores at once: 0.1 a year, as the beta factor has it."""
    shared = Fleet(10, 1, math.inf, HOUR, copies=copies, annual_failure_rate=2.0, repair=HOUR, copy_common_cause=0.05)
    assert play(shared, 40_000, confidence=SURE).data_losses.holds(0.1 + alone)


# Wrong formulas are caught


def test_the_classic_mistakes_are_caught() -> None:
    """1 - P**k with the wrong P; n(n-1)/2 taken for a reliability; independence assumed; repetition that cures all."""
    mtbf, mttr = 20 * DAY, 10 * HOUR
    host = reliability.availability(mtbf, mttr)
    two = play(Fleet(2, 1, mtbf, mttr), 20_000, confidence=SURE).unavailable
    assert two.holds((1 - host) ** 2)
    assert not two.holds(host**2), "1 - P**k with P = chance to work"
    assert not two.holds(1 - min(1.0, reliability.pairs(2) * host)), "n(n-1)/2 as a factor of reliability"
    shared = play(Fleet(2, 1, mtbf, mttr, 0.1), 20_000, confidence=SURE).unavailable
    assert shared.holds(reliability.unavailability(1, 2, 1 - host, 0.1))
    assert not shared.holds((1 - host) ** 2), "independence assumed"
    assert not experiments.repeat(0.7, 5, 0.1, sample=VERY_SURE).holds(1 - 0.3**5), "permanent failures forgotten"
    # One-sided slips in the formulas themselves.
    assert not experiments.absorption(2, 1, 20 * DAY, 3 * DAY, sample=VERY_SURE).holds((20 * DAY) ** 2 / (3 * DAY))
    assert not experiments.loss(3, 2, 3.0, YEAR / 12, sample=VERY_SURE).holds((3.0 / 12) ** 3)
    assert not experiments.job(20 * HOUR, HOUR, 300, 600, 5 * HOUR, sample=VERY_SURE).holds(
        reliability.expected_time(20 * HOUR, HOUR, 300, 0, 5 * HOUR)
    ), "restarts forgotten"


# The policy


def test_the_guard_never_lets_a_change_take_the_group_down() -> None:
    """Hosts fail often and changes come daily: waves wait, and where nobody can be spared none ever begins."""
    fleet = Fleet(4, 3, 5 * DAY, 6 * HOUR, change_every=DAY, change_time=10 * MINUTE, wave=1)
    with_changes = play(fleet, 200)
    assert with_changes.held_back > 100
    assert with_changes.changes > 0.9 * 365 * 50
    never_fails = Fleet(4, 3, math.inf, HOUR, change_every=DAY, change_time=10 * MINUTE, wave=1)
    quiet = play(never_fails, 200)
    assert quiet.unavailable.mean == 0.0
    assert quiet.host_unavailable.mean == pytest.approx(10 / 1440, rel=0.01)
    unguarded = play(Fleet(4, 4, math.inf, HOUR, change_every=DAY, change_time=10 * MINUTE, wave=1), 4)
    assert unguarded.held_back and not unguarded.outages.mean


def test_a_bad_wave_is_rolled_back_and_ends_the_change() -> None:
    fleet = Fleet(
        4, 2, math.inf, HOUR, change_every=DAY, change_time=600.0, wave=2, change_failure=1.0, rollback_time=1200.0
    )
    played = play(fleet, 400)
    assert played.rolled_back == played.changes > 0
    # Only the first wave, half the hosts, is ever out, for half an hour a day.
    assert played.host_unavailable.mean == pytest.approx(0.5 * 1800 / DAY, rel=0.02)


def test_the_seed_decides_alone() -> None:
    fleet = Fleet(3, 2, 10 * DAY, HOUR, 0.1, interval=HOUR, cost=60.0, copies=1, annual_failure_rate=1.0, repair=DAY)
    assert play(fleet, 500, seed=7) == play(fleet, 500, seed=7)
    assert play(fleet, 500, seed=7) != play(fleet, 500, seed=8)


# The intervals themselves


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of 400 intervals at 95 % about 380 hold the truth; fewer than 360 or all of them would be a wrong interval."""
    held = [experiments.any_of([0.2, 0.3], experiments.Sample(500, i)).holds(0.44) for i in range(400)]
    assert 360 <= sum(held) <= 397
    truth = 1 - reliability.availability(DAY, 6 * HOUR)
    held = [play(Fleet(1, 1, DAY, 6 * HOUR), 20, seed=i, batches=20).unavailable.holds(truth) for i in range(200)]
    assert 178 <= sum(held) <= 199


def test_intervals_by_the_book() -> None:
    """Student's t for 9 degrees of freedom is 2.262; Wilson and Poisson with no event end at about 3.8 and 3.7."""
    ten = simulate.mean_of([0.0, 1.0] * 5)
    assert (ten.high - ten.mean) / (0.5270462766947299 / math.sqrt(10)) == pytest.approx(2.262, abs=0.002)
    assert experiments.share_of(0, 1000).high == pytest.approx(3.84 / 1003.84, rel=1e-3)
    assert simulate.rate_of(0, 1.0).high == pytest.approx(3.689, rel=0.01)
    assert simulate.rate_of(10, 1.0).low == pytest.approx(4.795, rel=0.01)
    assert simulate.rate_of(10, 1.0).high == pytest.approx(18.39, rel=0.01)
    assert simulate.mean_of([1.0]).low == -math.inf
