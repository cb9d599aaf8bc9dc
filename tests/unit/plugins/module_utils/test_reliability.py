# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Published figures, exact rational arithmetic, limits, monotony and domains of the mathematics.

tests/unit/driver/test_simulate.py holds the formulas against simulations.
"""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _reliability as r
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

# A slow machine is no error; a failure found once is in the example database.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

probability = st.floats(0.0, 1.0)
# Down to where a double holds 1e-6 relative at all (subnormal numbers do not).
tiny = st.floats(-18.0, -3.0).map(lambda exponent: 10.0**exponent)
duration = st.floats(1e-3, 1e10)
# Any finite number of seconds, for "no NaN, no overflow".
wild = st.floats(0.0, 1e308, allow_nan=False)
wild_positive = st.floats(1e-300, 1e308, allow_nan=False)
decades = st.floats(-9.0, 1.0).map(lambda exponent: 10.0**exponent)
RELATIVE = 1e-6


def close(expected: float, relative: float) -> Any:
    """As pytest.approx, without its absolute tolerance of 1e-12, under which every tiny number is right."""
    return pytest.approx(expected, rel=relative, abs=0.0)


# Published figures


@pytest.mark.parametrize(("mtbf_minutes", "published_minutes", "digits"), [(1440, 117, 0), (360, 57, 0), (15, 9.1, 1)])
def test_daly_2006_figures_3_to_5(mtbf_minutes: float, published_minutes: float, digits: int) -> None:
    """Daly, FGCS 22 (2006), captions of figures 3, 4, 5: C = 5 min, R = 10 min; M = 24 h, 6 h, 15 min."""
    daly = r.checkpoint_interval(5 * MINUTE, mtbf_minutes * MINUTE, 10 * MINUTE, method="daly")
    assert round(daly / MINUTE, digits) == published_minutes


def test_daly_2006_limit_of_a_long_checkpoint() -> None:
    """Daly 2006, equation 37: the estimate is M where the checkpoint takes 2M or longer."""
    assert r.checkpoint_interval(2000, 1000, method="daly") == 1000
    assert r.checkpoint_interval(5000, 1000, method="daly") == 1000


def test_young_1974_worked_example() -> None:
    """Young's interval, and his first-order loss at it and beside it, as worked out in V. J. Reddi, Machine Learning
    Systems, volume 2, Fault Tolerance and Reliability, box "Optimal checkpoint interval": C = 2 min, M = 3 h; "26.8
    minutes"; 22.8 percent is lost at 10 minutes, 20 percent at 60, about 15 at 27, of which each half is about 7.5.
    (The book calls the formula Young-Daly; it is that of Young, without Daly's terms.)
    """
    cost, mtbf = 2 * MINUTE, 180 * MINUTE
    tau = r.checkpoint_interval(cost, mtbf, method="young")
    assert round(tau / MINUTE, 1) == 26.8

    def percent(t: float) -> tuple[float, float]:
        return 100 * cost / t, 100 * t / (2 * mtbf)

    assert round(sum(percent(10 * MINUTE)), 1) == 22.8
    assert round(percent(60 * MINUTE)[1], 1) == 16.7
    assert round(sum(percent(60 * MINUTE)), 1) == 20.0
    assert round(sum(percent(tau))) == 15
    assert [round(one, 1) for one in percent(tau)] == [7.5, 7.5]


def test_young_1974_minimises_the_first_order_loss() -> None:
    """Young, CACM 17(9), 1974: sqrt(2*C*M) minimises C/tau + tau/(2M), the time lost per time of work.

    For the C = 5 min and M = 24 h of Daly's figure 3 that is 120 min.
    """
    cost, mtbf = 5 * MINUTE, 1440 * MINUTE
    tau = r.checkpoint_interval(cost, mtbf, method="young")
    assert tau == pytest.approx(120 * MINUTE)

    def lost(t: float) -> float:
        return cost / t + t / (2 * mtbf)

    assert lost(tau) < lost(tau * 1.001)
    assert lost(tau) < lost(tau * 0.999)
    assert lost(tau) == pytest.approx(math.sqrt(2 * cost / mtbf))


@pytest.mark.parametrize(
    ("k", "n", "component", "published"),
    [
        # MIL-HDBK-338B, k-out-of-n configurations: 3 of 4 displays of 0.9
        (3, 4, 0.9, 0.9477),
        # Kimmery, Basic reliability cookbook, K-of-N reliability: 4 of 6 of 0.8
        (4, 6, 0.8, 0.90112),
        # Binomial table n = 6, p = 0.3, P(X <= 2) (Wikipedia, Binomial distribution): at least 4 of 6 of 0.7
        (4, 6, 0.7, 0.744310),
        # Binomial probabilities of the same table: P(X = 0) = 0.117649, so 6 of 6
        (6, 6, 0.7, 0.117649),
        # Two redundant subsystems of 99 %: AWS, Availability and Beyond, Availability with redundancy
        (1, 2, 0.99, 0.9999),
    ],
)
def test_k_of_n_published(k: int, n: int, component: float, published: float) -> None:
    assert r.k_of_n(k, n, component) == pytest.approx(published, abs=5e-7)


def test_beta_factor_published() -> None:
    """FTA Studio, Common-cause failure, Beta-factor vs MGL: 2 of 3 sensors, 1e-3 each, beta 0.05: about 5.3e-5."""
    assert r.unavailability(2, 3, 1e-3, 0.05) == close(5.3e-5, 0.01)
    assert r.unavailability(2, 3, 1e-3) == close(3e-6, 0.01)


def test_aws_series_and_parallel() -> None:
    """AWS Well-Architected, Reliability Pillar: three hard dependencies of 99.99 % make 99.97 %.

    AWS, Availability and Beyond: two redundant subsystems of 99 % make 99.99 %.
    """
    assert round(r.series([0.9999] * 3), 4) == 0.9997
    assert r.parallel([0.99, 0.99]) == close(0.9999, 1e-12)


def test_azure_composite_sla() -> None:
    """Microsoft, Composite SLAs: web app 99.95 % with SQL 99.99 %, and with a queue of 99.9 % beside it."""
    assert round(r.series([0.9995, 0.9999]), 4) == 0.9994
    database_or_queue = r.parallel([0.9999, 0.999])
    assert 1 - database_or_queue == pytest.approx(0.0001 * 0.001)
    assert round(database_or_queue, 7) == 0.9999999
    assert round(r.series([0.9995, database_or_queue]), 4) == 0.9995


@pytest.mark.parametrize(
    ("lost_shards", "annual_loss", "durability"),
    [
        (6, 1.542e-19, None),
        (5, 3.377e-15, 0.999999999999997),
        (4, 3.082e-11, 0.999999999969183),
        (3, 1.500e-07, 0.999999850032187),
        (2, 4.105e-04, 0.999589537729299),
        (1, 4.512e-01, 0.548811636094018),
    ],
)
def test_backblaze_erasure_code(lost_shards: int, annual_loss: float, durability: float | None) -> None:
    """github.com/Backblaze/erasure-coding-durability, README: durability.py 4 2 0.10 1, all rows of its table."""
    loss = r.loss_probability(6, lost_shards - 1, 0.10, DAY)
    assert f"{loss:.3e}" == f"{annual_loss:.3e}"
    if durability is not None:
        assert round(1 - loss, 15) == pytest.approx(
            durability, abs=1e-14
        )  # the last digit of the table is its own rounding


def test_mirrored_disks_silberschatz() -> None:
    """Silberschatz, Galvin, Gagne, Operating System Concepts, RAID: 100,000 h and 10 h: 500e6 h, 57,000 years."""
    hours = r.mttdl(2, 1, 100_000 * HOUR, 10 * HOUR) / HOUR
    assert hours == close(500e6, 1e-3)
    assert round(hours * HOUR / r.YEAR, -3) == 57_000


def test_disk_array_of_ut_austin_cs439() -> None:
    """UT Austin, CS 439, examination question "Disk Reliability (RAID)", official solution.

    20 disks in 2 groups of 10 with one parity each, MTTF 1.5e6 h, MTTR 10 h: MTTDL 1.25e9 h.
    """
    hours = r.mttdl(10, 1, 1.5e6 * HOUR, 10 * HOUR) / 2 / HOUR
    assert hours == close(1.25e9, 1e-3)


def test_gibson_mirrored_pair_exactly() -> None:
    """Gibson 1992: (3*lambda + mu) / (2*lambda**2)."""
    fail, repair = 1 / (1000 * HOUR), 1 / (7 * HOUR)
    assert r.mttdl(2, 1, 1 / fail, 1 / repair) == close((3 * fail + repair) / (2 * fail**2), 1e-12)


def test_sre_workbook_burn_rates() -> None:
    """The Site Reliability Workbook, chapter 5: 2 % of a 30-day budget in 1 h burn 14.4."""
    slo, period = 0.999, 30 * DAY
    budget = r.error_budget(slo, period)
    assert budget / MINUTE == pytest.approx(43.2)
    for share, window, burn in ((0.02, HOUR, 14.4), (0.05, 6 * HOUR, 6.0), (0.10, 3 * DAY, 1.0)):
        assert r.burn_rate(share * budget, window, slo) == pytest.approx(burn)


# Exact where it is tiny: the same in rational, or in long decimal arithmetic


def exact_tail(least: int, n: int, p: Fraction) -> Fraction:
    return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(least, n + 1)), start=Fraction(0))


@given(n=st.integers(1, 12), data=st.data(), p=st.one_of(tiny, probability))
def test_k_of_n_is_exact(n: int, data: st.DataObject, p: float) -> None:
    k = data.draw(st.integers(1, n))
    exact = exact_tail(k, n, Fraction(p))
    if exact > Fraction(1, 10**300):
        assert r.k_of_n(k, n, p) == close(float(exact), RELATIVE)
    down = exact_tail(n - k + 1, n, Fraction(p))
    if down > Fraction(1, 10**300):
        assert r.unavailability(k, n, p) == close(float(down), RELATIVE)


@given(n=st.integers(1, 12), data=st.data(), q=st.one_of(tiny, probability), beta=st.one_of(tiny, probability))
def test_unavailability_with_a_common_cause_is_exact(n: int, data: st.DataObject, q: float, beta: float) -> None:
    k = data.draw(st.integers(1, n))
    exact = Fraction(beta) * Fraction(q) + exact_tail(n - k + 1, n, (1 - Fraction(beta)) * Fraction(q))
    if exact > Fraction(1, 10**300):
        assert r.unavailability(k, n, q, beta) == close(min(1.0, float(exact)), RELATIVE)


@given(chances=st.lists(st.one_of(tiny, probability), min_size=1, max_size=8))
def test_parallel_and_any_of_are_exact(chances: list[float]) -> None:
    exact = 1 - math.prod(1 - Fraction(p) for p in chances)
    assume(exact == 0 or exact > Fraction(1, 10**300))
    assert r.any_of(chances) == close(float(exact), RELATIVE)
    assert r.parallel(chances) == r.any_of(chances)


@given(p=st.one_of(tiny, probability), k=st.integers(1, 30), beta=st.one_of(tiny, probability))
def test_repeat_success_is_exact(p: float, k: int, beta: float) -> None:
    q, stays = 1 - Fraction(p), Fraction(beta) * (1 - Fraction(p))
    assume(stays < 1)
    exact = 1 - (stays + (1 - stays) * ((q - stays) / (1 - stays)) ** k)
    assume(exact == 0 or exact > Fraction(1, 10**300))
    assert r.repeat_success(p, k, beta) == close(float(exact), RELATIVE)


@given(n=st.integers(1, 20), data=st.data(), rate=decades, window=decades.map(lambda x: x * 3e5))
def test_loss_probability_is_exact(n: int, data: st.DataObject, rate: float, window: float) -> None:
    t = data.draw(st.integers(0, n - 1))
    with localcontext() as context:
        context.prec = 600
        year = Decimal(365 * 86400)
        p = 1 - (-Decimal(rate) * Decimal(window) / year).exp()
        lost = sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(t + 1, n + 1)), start=Decimal(0))
        exact = 1 - ((1 - lost).ln() * year / Decimal(window)).exp()
    assume(exact > Decimal("1e-300"))
    assert r.loss_probability(n, t, rate, window) == close(float(exact), RELATIVE)


@pytest.mark.parametrize(("n", "t", "rate", "years"), [(17, 15, 1.0, 32.0), (2, 1, 1.0, 32.0), (3, 2, 10.0, 32.0)])
def test_loss_probability_is_exact_where_a_window_is_nearly_sure_to_lose(
    n: int, t: int, rate: float, years: float
) -> None:
    with localcontext() as context:
        context.prec = 600
        p = 1 - (-Decimal(rate) * Decimal(years)).exp()
        kept = sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(t + 1)), start=Decimal(0))
        exact = 1 - (kept.ln() / Decimal(years)).exp()
    assert r.loss_probability(n, t, rate, years * r.YEAR) == close(float(exact), RELATIVE)


def test_what_works_is_exact_where_all_are_needed() -> None:
    assert r.k_of_n(28, 28, 0.546875) == close(0.546875**28, RELATIVE)
    assert r.k_of_n(30, 30, 0.5, 1e-300) == close(0.5**30, RELATIVE)


def test_what_works_is_exact_where_nearly_all_fails_in_common() -> None:
    """With beta = 1 all are one component, whose tiny availability is not to drown in the rest."""
    assert r.k_of_n(1, 2, 1e-20, 1.0) == close(1e-20, RELATIVE)
    assert r.k_of_n(1, 9, 1e-12, 1.0) == close(1e-12, RELATIVE)
    assert r.k_of_n(2, 3, 1e-12, 1.0) == close(1e-12, RELATIVE)


@pytest.mark.parametrize("ratio", [1e-18, 1e-12, 1e-6, 1e-3, 0.01, 0.1, 0.5, 0.999, 1.0, 1.001, 2.0, 10.0, 100.0])
def test_exact_interval_solves_its_equation(ratio: float) -> None:
    """1 - z = exp(-z - C/M) with z = interval/M, in 80 digits."""
    z = r.checkpoint_interval(ratio * 1000.0, 1000.0) / 1000.0
    with localcontext() as context:
        context.prec = 80
        x = Decimal(ratio)

        def left(value: Decimal) -> Decimal:
            return -(1 - value).ln() - value - x

        if z < 1.0:
            assert left(Decimal(z) * (1 - Decimal("1e-9"))) < 0
            above = Decimal(z) * (1 + Decimal("1e-9"))
            assert above >= 1 or left(above) > 0
        else:
            assert ratio > 30


def test_a_million_components_are_no_problem() -> None:
    assert r.k_of_n(500_000, 1_000_000, 0.5) == pytest.approx(0.5, abs=1e-3)
    assert r.k_of_n(1, 1_000_000, 1e-12) == close(1e-6, 1e-6)


def test_expected_time_by_hand() -> None:
    """Daly's cost function, M*exp(R/M)*(exp((tau+C)/M) - 1)*W/tau, with numbers of the size of his figure 3."""
    work, tau, cost, restart, mtbf = 500 * HOUR, 117 * MINUTE, 5 * MINUTE, 10 * MINUTE, DAY
    by_hand = DAY * math.exp(10 / 1440) * (math.exp(122 / 1440) - 1) * (500 * 60 / 117)
    assert r.expected_time(work, tau, cost, restart, mtbf) == close(by_hand, 1e-12)
    # Where exp() alone would overflow, by the restart and by the interval.
    for tau, restart in ((1.0, 701e3), (690e3, 12e3)):
        with localcontext() as context:
            context.prec = 400
            exact = 1000 * (Decimal(restart) / 1000).exp() * ((Decimal(tau) / 1000).exp() - 1) / Decimal(tau)
        assert r.expected_time(1, tau, 0, restart, 1000) == close(float(exact), 1e-9)
    tau = 117 * MINUTE
    # The optimum takes the derivative's place: 1 - tau/M = exp(-(tau+C)/M).
    tau = r.checkpoint_interval(cost, mtbf)
    assert 1 - tau / mtbf == close(math.exp(-(tau + cost) / mtbf), 1e-12)


def test_mttdl_of_triplicate_by_hand() -> None:
    """Three members, two may be down; the chain solved by hand with lambda = 1/1000, mu = 1/10.

    h0 = 1/(3*lambda); h1 = 1/(2*lambda) + mu/(2*lambda)*h0; h2 = 1/lambda + (2*mu or mu)/lambda*h1.
    """
    h0 = 1000 / 3
    h1 = 500 + 50 * h0
    assert r.mttdl(3, 2, 1000, 10) == close(h0 + h1 + 1000 + 200 * h1, 1e-12)
    assert r.mttdl(3, 2, 1000, 10, parallel_repair=False) == close(h0 + h1 + 1000 + 100 * h1, 1e-12)


# Limits


def test_limits_of_availability() -> None:
    assert r.availability(math.inf, HOUR) == 1.0
    assert r.availability(HOUR, 0) == 1.0
    assert r.availability(HOUR, HOUR) == 0.5


@given(p=probability, beta=probability)
def test_one_component_is_itself(p: float, beta: float) -> None:
    assert r.series([p]) == p
    assert r.parallel([p]) == close(p, 1e-12)
    assert r.k_of_n(1, 1, p, beta) == p
    assert r.repeat_success(p, 1, beta) == p


@given(n=st.integers(1, 30), p=probability)
def test_k_of_n_ends_in_series_and_parallel(n: int, p: float) -> None:
    assert r.k_of_n(n, n, p) == pytest.approx(r.series([p] * n), rel=1e-9, abs=1e-300)
    assert r.k_of_n(1, n, p) == pytest.approx(r.parallel([p] * n), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("n", [1, 2, 7, 2000])
def test_certain_components(n: int) -> None:
    for k in {1, (n + 1) // 2, n}:
        for beta in (0.0, 0.3, 1.0):
            assert r.k_of_n(k, n, 1.0, beta) == 1.0
            assert r.unavailability(k, n, 0.0, beta) == 0.0
        assert r.k_of_n(k, n, 0.0) == 0.0
    assert str(r.parallel([0.0] * n)) == "0.0"
    assert r.parallel([0.0, 1.0]) == 1.0
    assert r.series([1.0] * n) == 1.0


@given(n=st.integers(2, 20), p=probability)
def test_all_failures_in_common_is_one_component(n: int, p: float) -> None:
    assert r.k_of_n(1, n, p, 1.0) == pytest.approx(p, abs=1e-15)


def test_pairs() -> None:
    assert [r.pairs(n) for n in (1, 2, 3, 10)] == [0, 1, 3, 45]
    assert r.pairs(10) == len(list(itertools.combinations(range(10), 2)))


def test_limits_of_repetition() -> None:
    assert r.repeat_success(0.0, 5) == r.repeat_success(0.0, 2, 0.1) == r.repeat_success(0.0, 2, 1.0) == 0.0
    assert r.repeat_success(1.0, 5, 1.0) == 1.0
    assert r.repeat_success(0.5, 10**15) == 1.0
    assert r.repeat_success(0.5, 10**6, 0.2) == pytest.approx(0.9)  # 1 - 0.2*0.5 for ever
    assert r.repeat_success(0.5, 7, 1.0) == 0.5


def test_attempts_needed_at_its_limit() -> None:
    assert r.attempts_needed(0.9, 0.9) == 1
    assert r.attempts_needed(0.2, 0.0) == 1
    assert r.attempts_needed(1.0, 1.0, 0.5) == 1
    assert r.attempts_needed(0.9, 0.9999) == 4
    few = r.attempts_needed(1e-20, 1.05e-16, 1 - 2**-53)  # the limit is 1.11e-16
    assert r.repeat_success(1e-20, few, 1 - 2**-53) >= 1.05e-16 > r.repeat_success(1e-20, few - 1, 1 - 2**-53)
    for arguments in ((0.5, 1.0), (0.0, 0.1), (0.9, 0.991, 0.1), (0.9, 0.99, 0.1), (0.5, 0.6, 1.0), (0.0, 0.1, 0.1)):
        with pytest.raises(UsageError, match=r"target is .* no number of attempts"):
            r.attempts_needed(*arguments)
    with pytest.raises(UsageError, match="success is 1e-300"):
        r.attempts_needed(1e-300, 0.5)


def test_limits_of_checkpoints() -> None:
    for method in ("exact", "daly", "young"):
        assert r.checkpoint_interval(60, math.inf, method=method) == math.inf
        assert r.checkpoint_interval(0, HOUR, method=method) == 0.0
    assert r.checkpoint_interval(1e-300, 1e300) == close(math.sqrt(2), 1e-15)  # cost/mtbf is 0 in floating point
    assert r.checkpoint_interval(1e9, HOUR) == pytest.approx(HOUR)  # at most M, however long the checkpoint
    assert r.expected_time(1000, 100, 5, 60, math.inf) == pytest.approx(1050)
    assert r.expected_time(1000, 100, 0, 0, 1e15) == pytest.approx(1000)
    assert r.expected_time(0, 100, 5, 60, HOUR) == 0.0
    assert r.expected_time(1, 1e-300, 0, 1e300, 1e290) == math.inf
    assert r.expected_time(1000, HOUR * 1e6, 5, 60, HOUR) == math.inf


def test_limits_of_loss() -> None:
    assert r.loss_probability(3, 2, 0.0, DAY) == 0.0
    assert r.loss_probability(3, 2, 0.1, 0) == 0.0
    assert r.loss_probability(3, 2, 0.1, 5e-324) == 0.0
    assert r.loss_probability(3, 0, 0.1, 0) == close(-math.expm1(-0.3), 1e-15)
    assert r.loss_probability(1, 0, 0.1, DAY) == close(-math.expm1(-0.1), 1e-15)
    assert r.loss_probability(3, 2, 1e300, DAY) == 1.0
    # With nothing tolerated the window cancels: any of three copies fails within the year.
    assert r.loss_probability(3, 0, 0.1, 17.0) == close(-math.expm1(-0.3), 1e-15)


def test_limits_of_mttdl() -> None:
    assert r.mttdl(1, 0, HOUR, MINUTE) == HOUR
    assert r.mttdl(4, 0, HOUR, MINUTE) == HOUR / 4
    assert r.mttdl(3, 1, math.inf, HOUR) == math.inf
    assert r.mttdl(3, 1, HOUR, 0) == math.inf
    # Nothing is repaired: the maximum of two exponential times.
    assert r.mttdl(2, 1, HOUR, math.inf) == pytest.approx(1.5 * HOUR)


def test_limits_of_budgets() -> None:
    assert r.error_budget(1.0, DAY) == 0.0
    assert r.error_budget(0.0, DAY) == DAY
    assert r.burn_rate(0, DAY, 1.0) == 0.0
    assert r.burn_rate(1, DAY, 1.0) == math.inf
    assert r.burn_rate(DAY, DAY, 0.0) == 1.0


# Monotony


def ordered(values: tuple[float, float]) -> tuple[float, float]:
    return min(values), max(values)


two_probabilities = st.tuples(probability, probability).map(ordered)
two_durations = st.tuples(duration, duration).map(ordered)
ROUNDING = 1 + 1e-9


def not_less(high: float, low: float) -> bool:
    """high >= low but for rounding."""
    return high * ROUNDING >= low - 1e-300 or high >= low - 1e-15


@given(mtbf=two_durations, mttr=two_durations)
def test_availability_is_monotone(mtbf: tuple[float, float], mttr: tuple[float, float]) -> None:
    assert not_less(r.availability(mtbf[1], mttr[0]), r.availability(mtbf[0], mttr[0]))
    assert not_less(r.availability(mtbf[0], mttr[0]), r.availability(mtbf[0], mttr[1]))


@given(others=st.lists(probability, max_size=5), p=two_probabilities)
def test_series_parallel_and_any_of_are_monotone(others: list[float], p: tuple[float, float]) -> None:
    for function in (r.series, r.parallel, r.any_of):
        assert not_less(function([*others, p[1]]), function([*others, p[0]]))
    assert r.series([*others, p[0]]) <= p[0]
    assert not_less(r.parallel([*others, p[0]]), p[0])


@given(n=st.integers(1, 40), data=st.data(), p=two_probabilities, beta=probability)
def test_k_of_n_is_monotone(n: int, data: st.DataObject, p: tuple[float, float], beta: float) -> None:
    k = data.draw(st.integers(1, n))
    assert not_less(r.k_of_n(k, n, p[1], beta), r.k_of_n(k, n, p[0], beta))
    assert not_less(r.k_of_n(k, n, p[0]), r.k_of_n(k + 1, n + 1, p[0]))
    if k < n:
        assert not_less(r.k_of_n(k, n, p[0], beta), r.k_of_n(k + 1, n, p[0], beta))
    if n > 1:
        # Not for n = 1: one component has nobody to share a cause with, and the model adds its two causes up.
        assert not_less(r.k_of_n(k, n + 1, p[0], beta), r.k_of_n(k, n, p[0], beta))
    assert r.unavailability(k, n, 1 - p[1], beta) <= r.unavailability(k, n, 1 - p[0], beta) * ROUNDING + 1e-300


@given(n=st.integers(2, 20), p=st.floats(0.9, 1.0), beta=two_probabilities)
def test_a_common_cause_makes_redundancy_worse(n: int, p: float, beta: tuple[float, float]) -> None:
    """Where one is enough and failures are rare, which is the model's domain, the shared fraction only hurts."""
    assert not_less(r.k_of_n(1, n, p, beta[0]), r.k_of_n(1, n, p, beta[1]))


@given(p=two_probabilities, k=st.integers(1, 100), beta=two_probabilities)
def test_repeat_success_is_monotone(p: tuple[float, float], k: int, beta: tuple[float, float]) -> None:
    assert not_less(r.repeat_success(p[1], k, beta[0]), r.repeat_success(p[0], k, beta[0]))
    assert not_less(r.repeat_success(p[0], k + 1, beta[0]), r.repeat_success(p[0], k, beta[0]))


@given(p=st.floats(0.01, 1.0), k=st.integers(2, 100), beta=two_probabilities)
def test_permanent_failures_make_repetition_worse(p: float, k: int, beta: tuple[float, float]) -> None:
    assert not_less(r.repeat_success(p, k, beta[0]), r.repeat_success(p, k, beta[1]))


@given(p=st.floats(1e-6, 1.0), target=st.floats(0.0, 0.999999), beta=st.floats(0.0, 0.99))
def test_attempts_needed_is_the_smallest_number(p: float, target: float, beta: float) -> None:
    try:
        k = r.attempts_needed(p, target, beta)
    except UsageError:
        assert target > 1 - beta * (1 - p) - 1e-12
        assert r.repeat_success(p, 10**12, beta) <= target + 1e-12
    else:
        assert r.repeat_success(p, k, beta) >= target
        assert k == 1 or r.repeat_success(p, k - 1, beta) < target


@given(cost=two_durations, mtbf=two_durations)
def test_checkpoint_interval_is_monotone(cost: tuple[float, float], mtbf: tuple[float, float]) -> None:
    for method in ("exact", "young"):
        low = r.checkpoint_interval(cost[0], mtbf[0], method=method)
        assert not_less(r.checkpoint_interval(cost[1], mtbf[0], method=method), low)
        assert not_less(r.checkpoint_interval(cost[0], mtbf[1], method=method), low)


@given(work=duration, interval=duration, cost=two_durations, restart=two_durations, mtbf=two_durations)
def test_expected_time_is_monotone(
    work: float,
    interval: float,
    cost: tuple[float, float],
    restart: tuple[float, float],
    mtbf: tuple[float, float],
) -> None:
    base = r.expected_time(work, interval, cost[0], restart[0], mtbf[1])
    assert base >= work * (1 - 1e-9)
    assert not_less(r.expected_time(work, interval, cost[1], restart[0], mtbf[1]), base)
    assert not_less(r.expected_time(work, interval, cost[0], restart[1], mtbf[1]), base)
    assert not_less(r.expected_time(work, interval, cost[0], restart[0], mtbf[0]), base)
    assert not_less(r.expected_time(work * 2, interval, cost[0], restart[0], mtbf[1]), base)


@given(cost=st.floats(1e-6, 1e7), mtbf=st.floats(1e-3, 1e12), restart=st.floats(0.0, 1e5))
def test_exact_is_never_worse_than_daly_and_young(cost: float, mtbf: float, restart: float) -> None:
    def total(method: str) -> float:
        interval = r.checkpoint_interval(cost, mtbf, restart, method)
        return r.expected_time(1e6, interval, cost, restart, mtbf) if interval > 0 else math.inf

    exact = total("exact")
    assert exact <= total("young") * (1 + 1e-12)
    assert exact <= total("daly") * (1 + 1e-12)


@given(n=st.integers(1, 30), data=st.data(), rate=two_durations, window=st.floats(1.0, 100 * DAY))
def test_loss_probability_is_monotone(n: int, data: st.DataObject, rate: tuple[float, float], window: float) -> None:
    t = data.draw(st.integers(0, n - 1))
    low = r.loss_probability(n, t, rate[0] * 1e-6, window)
    assert not_less(r.loss_probability(n, t, rate[1] * 1e-6, window), low)
    assert not_less(r.loss_probability(n + 1, t, rate[0] * 1e-6, window), low)
    if t:
        assert not_less(r.loss_probability(n, t - 1, rate[0] * 1e-6, window), low)


@given(n=st.integers(2, 30), data=st.data(), rate=st.floats(1e-6, 1e-2), window=two_durations)
def test_a_longer_repair_loses_more(n: int, data: st.DataObject, rate: float, window: tuple[float, float]) -> None:
    """Where failures within a window are rare, as in every use of the model."""
    t = data.draw(st.integers(0, n - 1))
    short, long = (w * 1e-4 for w in window)  # up to 1e6 s
    assert not_less(r.loss_probability(n, t, rate, long), r.loss_probability(n, t, rate, short))


@given(n=st.integers(1, 30), data=st.data(), mtbf=two_durations, mttr=two_durations, together=st.booleans())
def test_mttdl_is_monotone(
    n: int, data: st.DataObject, mtbf: tuple[float, float], mttr: tuple[float, float], together: bool
) -> None:
    t = data.draw(st.integers(0, n - 1))
    base = r.mttdl(n, t, mtbf[0], mttr[0], together)
    assert base > 0
    assert not_less(r.mttdl(n, t, mtbf[1], mttr[0], together), base)
    assert not_less(base, r.mttdl(n, t, mtbf[0], mttr[1], together))
    assert not_less(base, r.mttdl(n + 1, t, mtbf[0], mttr[0], together))
    assert not_less(r.mttdl(n, t, mtbf[0], mttr[0], True), r.mttdl(n, t, mtbf[0], mttr[0], False))
    if t:
        assert not_less(base, r.mttdl(n, t - 1, mtbf[0], mttr[0], together))


steps = st.lists(st.tuples(st.floats(0.0, 1e4), probability), min_size=1, max_size=6)


@given(steps=steps)
def test_ladder_is_the_best_of_all_orders(steps: list[tuple[float, float]]) -> None:
    result = r.ladder(steps)

    def expected(order: tuple[int, ...]) -> float:
        spent, failed = 0.0, 1.0
        for i in order:
            spent += steps[i][0] * failed
            failed *= 1 - steps[i][1]
        return spent

    assert sorted(result["order"]) == list(range(len(steps)))
    assert result["expected_time"] == pytest.approx(expected(tuple(result["order"])))
    best = min(map(expected, itertools.permutations(range(len(steps)))))
    assert result["expected_time"] <= best * (1 + 1e-9) + 1e-9
    assert result["coverage"] == r.any_of([chance for _time, chance in steps])


def test_ladder_by_hand() -> None:
    result = r.ladder(
        [
            {"name": "recover", "time": 600, "chance": 1.0},
            {"name": "cold", "time": 20, "chance": 0.9},
            {"name": "useless", "time": 1, "chance": 0.0},
            {"name": "warm", "time": 2, "chance": 0.6},
        ]
    )
    # 2/0.6 < 20/0.9 < 600/1; a step without a chance last. 2 + 0.4*20 + 0.04*600 + 0*1
    assert result["order"] == ["warm", "cold", "recover", "useless"]
    assert result["expected_time"] == pytest.approx(34.0)
    assert result["coverage"] == 1.0


@given(slo=two_probabilities, period=two_durations, share=st.floats(0.0, 1.0))
def test_budgets_are_monotone(slo: tuple[float, float], period: tuple[float, float], share: float) -> None:
    assert r.error_budget(slo[0], period[0]) >= r.error_budget(slo[1], period[0])
    assert r.error_budget(slo[0], period[1]) >= r.error_budget(slo[0], period[0])
    assert r.burn_rate(share * period[0], period[0], slo[1]) >= r.burn_rate(share * period[0], period[0], slo[0])
    assert r.burn_rate(share * period[0], period[1], slo[0]) <= r.burn_rate(share * period[0], period[0], slo[0]) * (
        1 + 1e-12
    )


# No NaN, no overflow, nothing outside its range


@given(a=wild_positive, b=wild, c=wild, d=wild, p=probability, q=probability, n=st.integers(1, 2000))
def test_nothing_overflows(a: float, b: float, c: float, d: float, p: float, q: float, n: int) -> None:
    shares = [
        r.availability(a, b),
        r.series([p, q]),
        r.parallel([p, q]),
        r.any_of([p, q]),
        r.k_of_n((n + 1) // 2, n, p, q),
        r.unavailability((n + 1) // 2, n, p, q),
        r.repeat_success(p, n, q),
        r.loss_probability(n, n // 2, b, c),
        r.ladder([(b, p), (c, q)])["coverage"],
    ]
    for share in shares:
        assert 0.0 <= share <= 1.0, shares
    times = [
        r.checkpoint_interval(b, a, c),
        r.checkpoint_interval(b, a, c, "young"),
        r.checkpoint_interval(b, a, c, "daly"),
        r.expected_time(b, a, c, d, a),
        r.expected_time(b, a, c, d, max(d, 1.0)),
        r.mttdl(n, n // 2, a, b),
        r.ladder([(b, p), (c, q)])["expected_time"],
        r.error_budget(p, b),
        r.burn_rate(min(a, b), a, q),
    ]
    for time in times:
        assert time >= 0.0, times  # not NaN, not negative


# Domains: what is wrong names the argument and its value

WRONG_PROBABILITIES = [-0.1, 1.1, math.nan, math.inf, -math.inf, "0.9", None, True, [0.9], 10**400]
WRONG_TIMES = [-1, math.nan, -math.inf, "60", None, True]
WRONG_COUNTS = [0, -1, 1.5, math.nan, math.inf, "3", None, True]


@pytest.mark.parametrize("wrong", WRONG_PROBABILITIES, ids=repr)
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("availabilities[1]", lambda x: r.series([0.5, x])),
        ("availabilities[1]", lambda x: r.parallel([0.5, x])),
        ("chances[0]", lambda x: r.any_of([x])),
        ("availability", lambda x: r.k_of_n(1, 2, x)),
        ("common_cause", lambda x: r.k_of_n(1, 2, 0.5, x)),
        ("down", lambda x: r.unavailability(1, 2, x)),
        ("common_cause", lambda x: r.unavailability(1, 2, 0.5, x)),
        ("success", lambda x: r.repeat_success(x, 2)),
        ("permanent", lambda x: r.repeat_success(0.5, 2, x)),
        ("success", lambda x: r.attempts_needed(x, 0.5)),
        ("target", lambda x: r.attempts_needed(0.5, x)),
        ("permanent", lambda x: r.attempts_needed(0.5, 0.6, x)),
        ("steps[0].chance", lambda x: r.ladder([(1, x)])),
        ("slo", lambda x: r.error_budget(x, 60)),
        ("slo", lambda x: r.burn_rate(1, 60, x)),
    ],
)
def test_wrong_probabilities(argument: str, call: object, wrong: object) -> None:
    refuses(argument, call, wrong)


@pytest.mark.parametrize("wrong", WRONG_TIMES, ids=repr)
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("mtbf", lambda x: r.availability(x, 1)),
        ("mttr", lambda x: r.availability(1, x)),
        ("cost", lambda x: r.checkpoint_interval(x, 1)),
        ("mtbf", lambda x: r.checkpoint_interval(1, x)),
        ("restart", lambda x: r.checkpoint_interval(1, 1, x)),
        ("work", lambda x: r.expected_time(x, 1, 1, 1, 1)),
        ("interval", lambda x: r.expected_time(1, x, 1, 1, 1)),
        ("cost", lambda x: r.expected_time(1, 1, x, 1, 1)),
        ("restart", lambda x: r.expected_time(1, 1, 1, x, 1)),
        ("mtbf", lambda x: r.expected_time(1, 1, 1, 1, x)),
        ("annual_failure_rate", lambda x: r.loss_probability(2, 1, x, 1)),
        ("repair_seconds", lambda x: r.loss_probability(2, 1, 0.1, x)),
        ("mtbf", lambda x: r.mttdl(2, 1, x, 1)),
        ("mttr", lambda x: r.mttdl(2, 1, 1, x)),
        ("steps[0].time", lambda x: r.ladder([(x, 0.5)])),
        ("period", lambda x: r.error_budget(0.9, x)),
        ("bad", lambda x: r.burn_rate(x, 60, 0.9)),
        ("elapsed", lambda x: r.burn_rate(0, x, 0.9)),
    ],
)
def test_wrong_times(argument: str, call: object, wrong: object) -> None:
    refuses(argument, call, wrong)


@pytest.mark.parametrize("wrong", WRONG_COUNTS, ids=repr)
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("k", lambda x: r.k_of_n(x, 3, 0.5)),
        ("n", lambda x: r.k_of_n(1, x, 0.5)),
        ("n", lambda x: r.pairs(x)),
        ("attempts", lambda x: r.repeat_success(0.5, x)),
        ("copies", lambda x: r.loss_probability(x, 0, 0.1, 1)),
        ("n", lambda x: r.mttdl(x, 0, 1, 1)),
    ],
)
def test_wrong_counts(argument: str, call: object, wrong: object) -> None:
    refuses(argument, call, wrong)


@pytest.mark.parametrize(
    ("argument", "call", "wrong"),
    [
        ("mtbf", lambda x: r.availability(x, 1), 0),
        ("mttr", lambda x: r.availability(1, x), math.inf),
        ("mtbf", lambda x: r.checkpoint_interval(1, x), 0.0),
        ("cost", lambda x: r.checkpoint_interval(x, 1), math.inf),
        ("interval", lambda x: r.expected_time(1, x, 1, 1, 1), 0),
        ("method", lambda x: r.checkpoint_interval(1, 1, method=x), "best"),
        ("k", lambda x: r.k_of_n(x, 3, 0.5), 4),
        ("n", lambda x: r.k_of_n(1, x, 0.5), 1_000_001),
        ("tolerated", lambda x: r.loss_probability(3, x, 0.1, 1), 3),
        ("tolerated", lambda x: r.loss_probability(3, x, 0.1, 1), -1),
        ("tolerated", lambda x: r.mttdl(3, x, 1, 1), 3),
        ("annual_failure_rate", lambda x: r.loss_probability(3, 1, x, 1), math.inf),
        ("repair_seconds", lambda x: r.loss_probability(3, 1, 0.1, x), math.inf),
        ("parallel_repair", lambda x: r.mttdl(3, 1, 1, 1, x), "no"),
        ("availabilities", lambda x: r.series(x), []),
        ("availabilities", lambda x: r.parallel(x), 0.5),
        ("chances", lambda x: r.any_of(x), "0.5"),
        ("steps", lambda x: r.ladder(x), []),
        ("steps[0]", lambda x: r.ladder([x]), {"time": 1}),
        ("steps[0]", lambda x: r.ladder([x]), {"time": 1, "chance": 0.5, "cost": 3}),
        ("steps[0]", lambda x: r.ladder([x]), (1, 0.5, 3)),
        ("bad", lambda x: r.burn_rate(x, 60, 0.9), 61),
        ("attempts", lambda x: r.repeat_success(0.5, x), 10**400),
    ],
)
def test_other_wrong_arguments(argument: str, call: object, wrong: object) -> None:
    refuses(argument, call, wrong)


def refuses(argument: str, call: object, wrong: object) -> None:
    assert callable(call)
    with pytest.raises(UsageError) as caught:
        call(wrong)
    assert caught.value.message.startswith(argument + " is ")
    assert repr(wrong) in caught.value.message or wrong in ([], 10**400)


def test_integers_are_numbers() -> None:
    assert r.availability(3600, 0) == 1.0
    assert r.k_of_n(2.0, 3.0, 1) == 1.0  # type: ignore[arg-type]
