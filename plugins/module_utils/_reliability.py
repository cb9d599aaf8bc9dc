# SPDX-License-Identifier: GPL-3.0-or-later
"""The mathematics of fault tolerance: pure functions on numbers, standard library only.

Probabilities are in [0, 1], times in seconds, a year has 365 days. An argument that is outside its domain, is not a
number or is NaN raises UsageError, which names the argument and its value. A tiny value is computed as such and never
as the difference of two numbers near 1, so that 1e-15 is as exact as 0.1. docs/reliability.md derives the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Union

from ._errors import UsageError

Number = Union[int, float]

YEAR = 365 * 86400.0

# Beyond this many components the time of a sum grows without telling anybody anything.
_MOST_COMPONENTS = 1_000_000
_MOST_ATTEMPTS = 10**15


# Domains


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} is {value!r}: give a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise UsageError(f"{name} is an integer that no floating point number can hold") from None
    if math.isnan(number):
        raise UsageError(f"{name} is nan: give a number")
    return number


def _probability(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0.0 <= number <= 1.0:
        raise UsageError(f"{name} is {value!r}: give a probability between 0 and 1 (99.9 % is 0.999)")
    return number


def _duration(name: str, value: Any, zero: bool = True, infinite: bool = False) -> float:
    number = _number(name, value)
    if number < 0 or (number == 0 and not zero) or (math.isinf(number) and not infinite):
        at_least = "0 or more" if zero else "more than 0"
        raise UsageError(f"{name} is {value!r}: give seconds, {at_least}{'' if infinite else ' and finite'}")
    return number


def _count(name: str, value: Any, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} is {value!r}: give a whole number, not {type(value).__name__}")
    if isinstance(value, float) and not value.is_integer():
        raise UsageError(f"{name} is {value!r}: give a whole number")
    if value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise UsageError(f"{name} is {value!r}: give a whole number of at least {least}{upper}")
    return int(value)


def _several(name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise UsageError(f"{name} is {values!r}: give a list")
    if not values:
        raise UsageError(f"{name} is empty: give at least one value")
    return values


def _probabilities(name: str, values: Any) -> list[float]:
    return [_probability(f"{name}[{i}]", value) for i, value in enumerate(_several(name, values))]


# Availability and redundancy


def availability(mtbf: Number, mttr: Number) -> float:
    """Share of the time that a repaired component works, in the long run: A = MTBF / (MTBF + MTTR).

    mtbf: mean time of work between failures, > 0, may be infinite. mttr: mean time to repair, >= 0.
    Source: K. S. Trivedi, Probability and Statistics with Reliability, Queuing, and Computer Science Applications,
    2nd ed. (Wiley 2002), chapter 6: steady-state availability of an alternating renewal process.
    """
    up = _duration("mtbf", mtbf, zero=False, infinite=True)
    down = _duration("mttr", mttr)
    return 1.0 / (1.0 + down / up)


def series(availabilities: Sequence[Number]) -> float:
    """All must work: A = A1 * A2 * ... * An, for components that fail independently.

    Source: Trivedi 2002, chapter 1 (product law of reliabilities).
    """
    return math.prod(_probabilities("availabilities", availabilities))


def parallel(availabilities: Sequence[Number]) -> float:
    """Any component is enough: A = 1 - (1-A1)(1-A2)...(1-An), for components that fail independently.

    Source: Trivedi 2002, chapter 1 (product law of unreliabilities).
    """
    return _at_least_one(_probabilities("availabilities", availabilities))


def any_of(chances: Sequence[Number]) -> float:
    """At least one of several independent, different chances: 1 - (1-p1)(1-p2)...(1-pn).

    The same form serves generations of checkpoints, rollbacks, recoveries and restarts; `parallel` is it for hosts.
    Source: Trivedi 2002, chapter 1.
    """
    return _at_least_one(_probabilities("chances", chances))


def _at_least_one(chances: Sequence[float]) -> float:
    if 1.0 in chances:
        return 1.0
    return 0.0 - math.expm1(math.fsum(math.log1p(-p) for p in chances))


def k_of_n(k: int, n: int, availability: Number, common_cause: Number = 0.0) -> float:
    """At least k of n equal components work, a fraction `common_cause` of failures striking all n at once.

    Beta-factor model: U = beta*(1-A) + P(more than n-k of n fail, each with (1-beta)*(1-A)); the result is 1 - U.
    Both parts are added as in the sources, which assume rare failures; where the sum passes 1, U is 1.
    k, n: 1 <= k <= n. availability, common_cause: in [0, 1].
    Source: binomial: Trivedi 2002, chapter 1. Beta factor: K. N. Fleming, A reliability model for common mode
    failures in redundant safety systems, GA-A13284 (General Atomic 1974); IEC 61508-6:2010, annex D.
    """
    n = _count("n", n, 1, _MOST_COMPONENTS)
    k = _count("k", k, 1, n)
    up = _probability("availability", availability)
    beta = _probability("common_cause", common_cause)
    if n == 1:
        return up
    down = unavailability(k, n, 1.0 - up, beta)
    if down <= 0.5:
        return 1.0 - down
    alone, common = (1.0 - beta) * (1.0 - up), beta * (1.0 - up)
    works, fails = _binomial_tail(k, n, up + common, alone), _binomial_tail(n - k + 1, n, alone, 1.0 - alone)
    # Two ways to the same difference; that of the smaller numbers loses less of it.
    if max(up, alone, fails) < max(works, common):
        return max(0.0, up + (alone - fails))
    return max(0.0, works - common)


def unavailability(k: int, n: int, down: Number, common_cause: Number = 0.0) -> float:
    """1 - `k_of_n`, from the unavailability of one component: exact where it is tiny, which 1 - k_of_n is not.

    down: unavailability of one component, in [0, 1]. The rest, and the sources, as in `k_of_n`.
    """
    n = _count("n", n, 1, _MOST_COMPONENTS)
    k = _count("k", k, 1, n)
    q = _probability("down", down)
    beta = _probability("common_cause", common_cause)
    if n == 1:
        return q
    alone = (1.0 - beta) * q
    return min(1.0, beta * q + _binomial_tail(n - k + 1, n, alone, 1.0 - alone))


def _binomial_tail(least: int, n: int, p: float, q: float) -> float:
    """P(X >= least) for X binomial(n, p), with q = 1 - p; all terms positive, the largest first, so no cancellation.

    On the fat side of the mean the other tail is the small one, and is taken from 1.
    """
    if least <= 0:
        return 1.0
    if least > n or p <= 0.0:
        return 0.0
    if q <= 0.0:
        return 1.0
    if least <= n * p:
        return 1.0 - _binomial_tail(n - least + 1, n, q, p)
    log_choose = (
        math.log(math.comb(n, least))
        if n <= 1000
        else math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1)
    )
    term = math.exp(log_choose + least * math.log(p) + (n - least) * math.log(q))
    total = term
    for i in range(least, n):
        term *= (n - i) / (i + 1) * p / q
        total += term
        if term < total * 1e-17:
            break
    return min(1.0, total)


def pairs(n: int) -> int:
    """Links, or comparisons, between n members: n(n-1)/2, the binomial coefficient "n choose 2".

    Some of the literature calls this number "redundancy R". It counts; it is no probability and says nothing about
    availability, for which see `parallel` and `k_of_n`.
    Source: the number of edges of the complete graph on n nodes.
    """
    n = _count("n", n, 1)
    return n * (n - 1) // 2


# Repeated execution


def repeat_success(success: Number, attempts: int, permanent: Number = 0.0) -> float:
    """At least one of `attempts` attempts succeeds, where repeating cannot cure a fraction `permanent` of failures.

    With q = 1 - success and beta = permanent, beta*q of the operations fail at every attempt. Each attempt of the
    others fails with r = (1-beta)*q / (1 - beta*q), so that a first attempt fails with q. All attempts fail with
    q_k = beta*q + (1 - beta*q) * r**k; the result is 1 - q_k. success, permanent: in [0, 1]. attempts: at least 1; the
    first one counts.
    Source: Bernoulli trials (Trivedi 2002, chapter 1) with the beta-factor split of k_of_n applied to attempts
    instead of components (Fleming 1974).
    """
    p = _probability("success", success)
    k = _count("attempts", attempts, 1, _MOST_ATTEMPTS)
    beta = _probability("permanent", permanent)
    return _repeat_success(p, k, beta)


def _repeat_success(p: float, k: int, beta: float) -> float:
    further = (1.0 - beta) * (1.0 - p)  # an attempt fails, and a further one may cure it
    if k == 1 or p == 0.0 or further == 0.0:
        return p
    best = p + further  # 1 - beta*q as a sum of positive terms, exact where both are tiny
    helps, fails = p / best, further / best  # one attempt of an operation that can succeed; fails is r
    log_fails = math.log1p(-helps) if helps < 0.5 else math.log(fails) if fails > 0.0 else -math.inf
    return min(1.0, best, -best * math.expm1(k * log_fails))


def attempts_needed(success: Number, target: Number, permanent: Number = 0.0) -> int:
    """The smallest number of attempts with repeat_success(success, attempts, permanent) >= target.

    Raises UsageError where no number suffices, with the best that any number can reach: 1 - permanent*(1-success),
    or 0 where success is 0.
    Source: repeat_success, solved for attempts.
    """
    p = _probability("success", success)
    goal = _probability("target", target)
    beta = _probability("permanent", permanent)
    if p >= goal:
        return 1
    further = (1.0 - beta) * (1.0 - p)
    best = p + further if p > 0.0 and further > 0.0 else p
    # The best is a limit that no number of attempts attains; two units in the last place are rounding, not distance.
    if best == p or best - goal <= 2 * math.ulp(best):
        raise UsageError(
            f"target is {target!r}: with success {success!r} and permanent {permanent!r} no number of attempts gets "
            f"there, the limit is {best:.9g}; make fewer failures permanent, or escalate"
        )
    high = 1
    while _repeat_success(p, high, beta) < goal:
        high *= 2
        if high > _MOST_ATTEMPTS:
            raise UsageError(f"success is {success!r}: more than {_MOST_ATTEMPTS:.0e} attempts would be needed")
    low = high // 2  # too few, or 0
    while high - low > 1:
        middle = (low + high) // 2
        if _repeat_success(p, middle, beta) < goal:
            low = middle
        else:
            high = middle
    return high


# Checkpoints


def checkpoint_interval(cost: Number, mtbf: Number, restart: Number = 0.0, method: str = "exact") -> float:
    """Time of work between two checkpoints that makes the expected time to finish the work least.

    cost C: time to take a checkpoint, during which no work is done. mtbf M: > 0, may be infinite (then the answer is
    infinite: never). restart R: it lengthens every interval's loss alike, hence moves no optimum; it is checked only.
    method:
      young: sqrt(2*C*M). J. W. Young, A first order approximation to the optimum checkpoint interval,
             Communications of the ACM 17(9), 1974, p. 530.
      daly:  sqrt(2*C*M) * (1 + sqrt(C/(2M))/3 + (C/(2M))/9) - C for C < 2M, else M. J. T. Daly, A higher order
             estimate of the optimum checkpoint interval for restart dumps, FGCS 22 (2006) 303-312, equation 37.
      exact: M * (1 + W0(-exp(-1 - C/M))), the zero of the derivative of `expected_time`, with Lambert's function,
             of which daly is the perturbation series.
    """
    c = _duration("cost", cost)
    m = _duration("mtbf", mtbf, zero=False, infinite=True)
    _duration("restart", restart)
    if method not in ("exact", "daly", "young"):
        raise UsageError(f"method is {method!r}: give one of exact, daly, young")
    if math.isinf(m):
        return math.inf
    first_order = math.sqrt(2.0 * c) * math.sqrt(m)
    if method == "young":
        return first_order
    if method == "daly":
        if c >= 2.0 * m:
            return m
        ratio = c / m / 2.0
        return first_order * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - c
    # Where the ratio is lost below floating point the first order is exact.
    return m * _one_plus_lambert_w(c / m) if c / m > 1e-290 else first_order


def _one_plus_lambert_w(x: float) -> float:
    """1 + W0(-exp(-1-x)) for x >= 0: the z in [0, 1] with -log(1-z) - z = x.

    Solved for z itself, since near the branch point (small x) W0 is -1 + tiny and all of the answer is in the tiny.
    Source: R. M. Corless et al., On the Lambert W function, Advances in Computational Mathematics 5 (1996) 329-359:
    branch-point series (4.22), Halley's iteration (5.9).
    """
    if x <= 0.0:
        return 0.0
    if x > 1.0:
        # Far from the branch point: w = -W0 solves w = exp(w - 1 - x) and is small.
        w = math.exp(-1.0 - x)
        for _i in range(50):
            e = math.exp(w - 1.0 - x)
            step = (w - e) / (1.0 - e)
            w -= step
            if abs(step) <= 1e-16 * w:
                break
        return 1.0 - w
    s = math.sqrt(2.0 * x)
    z = s - s * s / 3.0 + s**3 / 36.0
    for _i in range(50):
        # f = -log(1-z) - z - x, f' = z/(1-z), f'' = 1/(1-z)**2
        f = _minus_log1p_minus(z) - x
        slope, bend = z / (1.0 - z), 1.0 / (1.0 - z) ** 2
        step = f / (slope - f * bend / (2.0 * slope))
        z -= step
        if abs(step) <= 1e-15 * z:
            break
    return z


def _minus_log1p_minus(z: float) -> float:
    """-log(1-z) - z, by its series z**2/2 + z**3/3 + ... where the difference would cancel."""
    if z > 0.1:
        return -math.log1p(-z) - z
    total, power, i = 0.0, z * z, 2
    while power / i > total * 1e-18:
        total += power / i
        power *= z
        i += 1
    return total


def expected_time(work: Number, interval: Number, cost: Number, restart: Number, mtbf: Number) -> float:
    """Expected wall-clock time to finish `work` with a checkpoint after each `interval` of work.

    T = M * exp(R/M) * (exp((interval+C)/M) - 1) * work/interval: failures are exponential with mean M, strike work,
    checkpoints and restarts alike, and each costs a restart R and the work since the last checkpoint.
    Infinite mtbf gives the limit work*(1 + C/interval); a time beyond floating point is infinite.
    Source: Daly 2006, the complete cost function, which his estimate and the exact optimum minimise.
    """
    w = _duration("work", work)
    tau = _duration("interval", interval, zero=False)
    c = _duration("cost", cost)
    r = _duration("restart", restart)
    m = _duration("mtbf", mtbf, zero=False, infinite=True)
    if w == 0.0:
        return 0.0
    exponent = (tau + c) / m
    if math.isinf(exponent):
        return math.inf
    overhead = (tau + c) / tau
    if exponent + r / m > 700.0:  # exp() raises above 709; the product may still fit, or is infinite
        # log of (exp(x) - 1)/x
        growth = exponent + math.log(-math.expm1(-exponent) / exponent) if exponent > 0.0 else 0.0
        logarithm = math.log(w) + math.log(overhead) + growth + r / m
        return math.exp(logarithm) if logarithm < 709.0 else math.inf
    # M*(exp(x) - 1) = (tau+C)*(exp(x) - 1)/x, which neither overflows nor vanishes on the way.
    growth = math.expm1(exponent) / exponent if exponent > 0.0 else 1.0
    return w * overhead * growth * math.exp(r / m)


# Durability


def loss_probability(copies: int, tolerated: int, annual_failure_rate: Number, repair_seconds: Number) -> float:
    """Chance a year that more than `tolerated` of `copies` fail within one repair window.

    Replicas: tolerated = copies - 1. Erasure code of d data and p parity shards: copies = d + p, tolerated = p.
    One copy fails in a window of w with P = 1 - exp(-AFR*w/year); L = P(binomial(copies, P) > tolerated); the
    year/w windows of a year are independent trials, the last one fractional: 1 - (1-L)**(year/w).
    annual_failure_rate: failures per copy and year, a rate, hence possibly above 1. A window of 0 is the limit.
    Failures that are close together but in two windows do not count here: the truth is up to tolerated + 1 times as
    much, as `mttdl` has it.
    Source: Backblaze, Backblaze durability calculates at 99.999999999% (17 July 2018), and calculation.ipynb of
    github.com/Backblaze/erasure-coding-durability, whose exponent 365/R need not be whole.
    """
    n = _count("copies", copies, 1, _MOST_COMPONENTS)
    t = _count("tolerated", tolerated, 0, n - 1)
    rate = _number("annual_failure_rate", annual_failure_rate)
    if rate < 0.0 or math.isinf(rate):
        raise UsageError(f"annual_failure_rate is {annual_failure_rate!r}: give failures per year, 0 or more")
    window = _duration("repair_seconds", repair_seconds)
    if t == 0:
        return 0.0 - math.expm1(-n * rate)  # any failure loses: the window cancels out of the formula
    if window == 0.0:
        return 0.0
    mean = rate * (window / YEAR)
    chance = _binomial_tail(t + 1, n, -math.expm1(-mean), math.exp(-mean))
    if chance == 0.0:
        return 0.0
    if chance <= 0.5:
        kept = math.log1p(-chance)
    else:  # the kept part is the small part here, and is summed itself
        saved = _binomial_tail(n - t, n, math.exp(-mean), -math.expm1(-mean))
        kept = math.log(saved) if saved > 0.0 else -(n - t) * mean
    return 0.0 - math.expm1(kept * (YEAR / window))


def mttdl(n: int, tolerated: int, mtbf: Number, mttr: Number, parallel_repair: bool = True) -> float:
    """Mean time to data loss: until more than `tolerated` of n members are down together, all up at first.

    Birth-death chain over the number i of members down: failures (n-i)/mtbf; repairs i/mttr, or 1/mttr when one is
    repaired at a time. The mean time from i to i+1 is h_i = 1/lambda_i + (mu_i/lambda_i)*h_(i-1); the result is
    h_0 + ... + h_tolerated. mtbf may be infinite; mttr may be infinite (nothing is repaired).
    Source: Trivedi 2002, chapter 8 (Markov chains with an absorbing state); for n = 2, tolerated = 1 it is
    (3*lambda + mu)/(2*lambda**2), as in G. A. Gibson, Redundant Disk Arrays (MIT Press 1992).
    """
    n = _count("n", n, 1, _MOST_COMPONENTS)
    t = _count("tolerated", tolerated, 0, n - 1)
    up = _duration("mtbf", mtbf, zero=False, infinite=True)
    down = _duration("mttr", mttr, infinite=True)
    if not isinstance(parallel_repair, bool):
        raise UsageError(f"parallel_repair is {parallel_repair!r}: give true or false")
    if math.isinf(up) or (down == 0.0 and t > 0):
        return math.inf
    total = step = up / n
    for i in range(1, t + 1):
        crews = i if parallel_repair else 1
        back = 0.0 if math.isinf(down) else crews * (up / down) / (n - i) * step
        step = up / (n - i) + back
        total += step
    return total


# Escalation


def ladder(steps: Sequence[Any]) -> dict[str, Any]:
    """The order of steps, each tried when those before have failed, that makes the expected time least.

    steps: mappings with `time` (seconds, spent whether it helps or not), `chance` (of success, independent of the
    others) and optionally `name`; or pairs (time, chance).
    Returns order (names, or positions where a step has none), expected_time = sum of t_i * product of (1-p_j) over
    the steps before i, and coverage = 1 - product of (1-p_i). Ascending t/p is optimal; equal ratios keep the order
    given; a step with no chance comes last.
    Source: L. G. Mitten, An analytic solution to the least cost testing sequence problem, Journal of Industrial
    Engineering 11 (1960) 17; H. A. Simon and J. B. Kadane, Optimal problem-solving search: all-or-none solutions,
    Artificial Intelligence 6 (1975) 235-247.
    """
    parsed = [_step(i, step) for i, step in enumerate(_several("steps", steps))]
    ranked = sorted(parsed, key=lambda s: s[1] / s[2] if s[2] > 0.0 else math.inf)
    spent, failed = 0.0, 1.0
    for _name, time, chance in ranked:
        spent += time * failed
        failed *= 1.0 - chance
    return {
        "order": [name for name, _time, _chance in ranked],
        "expected_time": spent,
        "coverage": _at_least_one([chance for _name, _time, chance in ranked]),
    }


def _step(i: int, step: Any) -> tuple[Any, float, float]:
    where = f"steps[{i}]"
    if isinstance(step, Mapping):
        unknown = sorted(str(key) for key in step if key not in ("name", "time", "chance"))
        if unknown or "time" not in step or "chance" not in step:
            raise UsageError(f"{where} is {dict(step)!r}: give time and chance, and a name if you like")
        name, time, chance = step.get("name", i), step["time"], step["chance"]
    elif isinstance(step, Sequence) and not isinstance(step, (str, bytes)) and len(step) == 2:
        name, (time, chance) = i, step
    else:
        raise UsageError(f"{where} is {step!r}: give a mapping with time and chance, or a pair of them")
    return name, _duration(f"{where}.time", time), _probability(f"{where}.chance", chance)


# Service levels


def error_budget(slo: Number, period: Number) -> float:
    """Seconds of `period` that may be bad under a service level objective: (1 - slo) * period.

    Source: B. Beyer et al., Site Reliability Engineering (O'Reilly 2016), chapter 3.
    """
    return (1.0 - _probability("slo", slo)) * _duration("period", period)


def burn_rate(bad: Number, elapsed: Number, slo: Number) -> float:
    """How many times faster than allowed the budget goes: (bad/elapsed) / (1 - slo); 1 spends it exactly.

    bad: bad seconds within the `elapsed` ones. With slo = 1 there is no budget: any bad second burns infinitely fast.
    Source: B. Beyer et al., The Site Reliability Workbook (O'Reilly 2018), chapter 5.
    """
    window = _duration("elapsed", elapsed, zero=False)
    spent = _duration("bad", bad)
    if spent > window:
        raise UsageError(f"bad is {bad!r}: give at most the {elapsed!r} seconds that have elapsed")
    allowed = 1.0 - _probability("slo", slo)
    if spent == 0.0:
        return 0.0
    return math.inf if allowed == 0.0 else spent / window / allowed


# Functions that a playbook may call, under the same names.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        availability,
        series,
        parallel,
        k_of_n,
        pairs,
        repeat_success,
        attempts_needed,
        any_of,
        checkpoint_interval,
        expected_time,
        loss_probability,
        mttdl,
        ladder,
        error_budget,
        burn_rate,
    )
}
