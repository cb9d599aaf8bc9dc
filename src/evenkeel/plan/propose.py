# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel plan`: from targets and what is known of the hosts to copies, intervals, attempts, ladders and waves.

`propose` is pure: a group in, a proposal with the reason of every choice out. The rest prints it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel import reliability
from evenkeel.outcome import Exit, UsageError
from evenkeel.plan.file import Group, read_plan
from evenkeel.shared import choose

if TYPE_CHECKING:
    from evenkeel.plan.simulate import Fleet, Played

YEAR = reliability.YEAR
# The ladder has done its work when this share of the failures is over.
_CURED = 0.99
# A checkpoint is of use if one of those kept is good, this surely.
_SOME_GOOD = 0.9999
# Another copy or host is worth its price while it takes away at least this share of what remains.
_WORTH = 0.1
# What needs more attempts than this is not to be repeated but repaired; and nobody waits longer between two.
_MOST_ATTEMPTS = 20
_LONGEST_WAIT = 600.0


@dataclass(frozen=True)
class Choice:
    """What is proposed, and why, in a sentence."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """One target: what was asked, what the proposal reaches, whether that is enough, and else what it would take."""

    target: str
    asked: str
    reached: str
    met: bool
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """One option of a choice, what it gives and what it costs."""

    choice: str
    option: str
    effect: str
    cost: str
    chosen: bool = False


@dataclass(frozen=True)
class Proposal:
    """The proposal for one group.

    numbers: what the sentences speak of, unrounded. placement: host -> hosts that keep its copies, where the file
    names hosts. variables: inventory variables for the roles. assumed, measured: as in plan_file.Group.
    """

    group: str
    summary: str
    choices: tuple[Choice, ...]
    verdicts: tuple[Verdict, ...]
    alternatives: tuple[Alternative, ...]
    placement: dict[str, list[str]]
    variables: dict[str, Any]
    numbers: dict[str, Any]
    assumed: tuple[str, ...]
    measured: tuple[str, ...]


# Numbers for people


def time_text(seconds: float, rounded: Callable[[float], float] = round) -> str:
    """``45s``, ``1h30m``, ``12d``: two units at most, as the roles read durations."""
    if math.isinf(seconds):
        return "never"
    if seconds < 9.95:
        return f"{rounded(seconds * 10) / 10:g}s"
    # The unit that is rounded to, the larger one beside it, and from where on that is too fine.
    for small, large, names, below in (
        (1, 60, "sm", 3599.5),
        (60, 3600, "mh", 86370.0),
        (3600, 86400, "hd", 2 * YEAR),
    ):
        if seconds < below:
            most, rest = divmod(int(rounded(seconds / small)), large // small)
            return (f"{most}{names[1]}" if most else "") + (f"{rest}{names[0]}" if rest else "")
    return f"{seconds / YEAR:.0f}y"


def at_most_text(seconds: float) -> str:
    """A time that must not be exceeded: rounded down."""
    return time_text(seconds, math.floor)


def share_text(value: float) -> str:
    """A percentage with as many digits as it takes to see it: 5 %, 0.03 %, 1.2e-07 %."""
    percent = value * 100
    if 0.99 < value < 1:
        return nines_text(1 - value)
    return f"{percent:.3g} %" if percent >= 0.001 or percent == 0 else f"{percent:.1e} %"


def part_text(value: float) -> str:
    """How much of a whole: a percentage, or nearly all of it."""
    return "nearly all" if value > 0.995 else share_text(value)


def nines_text(down: float) -> str:
    """An availability from its complement, with two digits after the nines: 99.962 %."""
    if down <= 0:
        return "100 %"
    digits = min(15, max(0, 1 - math.floor(math.log10(down * 100))))
    text = f"{100 - down * 100:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def odds_text(chance: float) -> str:
    """``1 in 20,000``, or a percentage where it is no small chance."""
    if chance <= 0:
        return "never"
    return share_text(chance) if chance > 0.01 else f"1 in {float(f'{1 / chance:.2g}'):,.0f}"


def size_text(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:,.3g} GiB" if size < 1e14 else f"{size / 2**30:,.0f} GiB"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word[:-1] + 'ies' if word.endswith('y') else word + 's'}"


def _threshold(good: Callable[[float], bool], low: float, high: float) -> float:
    """The largest value between low, which is good, and high, which is not."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def _neat(seconds: float) -> float:
    """Rounded down to what people set: no more than a tenth is lost."""
    for step in (86400.0, 3600.0, 600.0, 60.0, 10.0, 1.0):
        if seconds >= 10 * step:
            return math.floor(seconds / step) * step
    return seconds


# The parts of a proposal


@dataclass
class _Draft:
    """A proposal in the making; every part adds to it."""

    group: Group
    choices: list[Choice]
    verdicts: list[Verdict]
    alternatives: list[Alternative]
    variables: dict[str, Any]
    numbers: dict[str, Any]

    def choose(self, what: str, value: str, why: str) -> None:
        self.choices.append(Choice(what, value, why))

    def judge(self, target: str, asked: str, reached: str, met: bool, remedies: Sequence[str] = ()) -> None:
        self.verdicts.append(Verdict(target, asked, reached, met, () if met else tuple(remedies)))

    def offer(self, choice: str, option: str, effect: str, cost: str, chosen: bool = False) -> None:
        self.alternatives.append(Alternative(choice, option, effect, cost, chosen))


def propose(group: Group) -> Proposal:
    """The proposal for ``group``: pure, no clock, no randomness."""
    draft = _Draft(group, [], [], [], {}, {})
    domains = sorted(set(group.hosts.values()))
    _plan_hosts(draft)
    copies = _plan_copies(draft, len(domains))
    placement = _plan_placement(draft, copies)
    _plan_interval(draft)
    _plan_attempts(draft)
    _plan_ladder(draft)
    _plan_roll(draft)
    _plan_change(draft)
    return Proposal(
        group=group.name,
        summary=f"{_plural(len(group.hosts), 'host')}, {group.needed} needed, in"
        f" {_plural(len(domains), group.failure_domain or 'failure domain')}",
        choices=tuple(draft.choices),
        verdicts=tuple(draft.verdicts),
        alternatives=tuple(draft.alternatives),
        placement=placement,
        variables=draft.variables,
        numbers=draft.numbers,
        assumed=group.assumed,
        measured=group.measured,
    )


def _down(group: Group, hosts: int, mttr: float | None = None, common_cause: float | None = None) -> float:
    """Unavailability of the group with so many hosts, exact where it is tiny."""
    repair = group.mttr if mttr is None else mttr
    host = 0.0 if math.isinf(group.mtbf) else repair / (group.mtbf + repair)
    beta = group.common_cause if common_cause is None else common_cause
    return reliability.unavailability(group.needed, hosts, host, beta)


def _plan_hosts(draft: _Draft) -> None:
    group, n, k = draft.group, len(draft.group.hosts), draft.group.needed
    allowed = 1 - group.targets.availability
    down = _down(group, n)
    host = 0.0 if math.isinf(group.mtbf) else group.mttr / (group.mtbf + group.mttr)
    floor = group.common_cause * host
    draft.numbers |= {"unavailability": down, "unavailability_of_a_host": host, "unavailability_in_common": floor}
    why = f"one host is up {nines_text(host)} of the time; {k} of {n} are up {nines_text(down)}"
    if n > 1 and down > 0 and down - _down(group, n + 1) < _WORTH * down:
        why += (
            f". More hosts no longer help: {part_text(min(1.0, floor / down))} of what remains strikes all at once,"
            " so diversity (other racks, versions, times of change) would"
        )
    draft.choose("hosts", str(n), why + ".")
    for count in range(max(k, n - 1), n + 3):
        other = _down(group, count)
        effect = f"{nines_text(other)}, down {time_text(other * YEAR)} a year"
        draft.offer("hosts", str(count), effect, _host_cost(group, count), count == n)

    remedies = []
    enough = next((i for i in range(n + 1, n + 21) if _down(group, i) <= allowed), None)
    if allowed <= 0:
        remedies.append("a target below 100 %: what can fail is not always up")
    elif enough:
        remedies.append(f"{enough} hosts instead of {n}")
    elif floor > allowed:
        remedies.append(f"more than hosts: common causes alone leave {nines_text(floor)}, however many there are")
    if allowed > 0 and _down(group, n, mttr=0.0) <= allowed < _down(group, n):
        remedies.append(
            f"repair within {at_most_text(_threshold(lambda t: _down(group, n, mttr=t) <= allowed, 0.0, group.mttr))}"
        )
    if allowed > 0 and _down(group, n, common_cause=0.0) <= allowed < _down(group, n):
        beta = _threshold(lambda b: _down(group, n, common_cause=b) <= allowed, 0.0, group.common_cause)
        remedies.append(f"at most {share_text(beta)} common causes (diversity)")
    draft.judge("availability", nines_text(allowed), nines_text(down), down <= allowed, remedies)


def _host_cost(group: Group, hosts: int) -> str:
    if group.host_price is None:
        return _plural(hosts, "host")
    return _money(group, hosts * group.host_price)


def _money(group: Group, amount: float) -> str:
    return f"{amount:,.2f} {group.currency}".strip() + "/month"


def _loss(group: Group, copies: int, repair: float | None = None, common_cause: float | None = None) -> float:
    """Chance a year that a host's store and all its copies are gone: in one window of repair, or by one cause."""
    beta = group.store_common_cause if common_cause is None else common_cause
    window = group.store_repair if repair is None else repair
    alone = reliability.loss_probability(copies + 1, copies, (1 - beta) * group.store_failure_rate, window)
    return reliability.any_of([alone, -math.expm1(-beta * group.store_failure_rate)])


def _plan_copies(draft: _Draft, domains: int) -> int:
    group = draft.group
    allowed = 1 - group.targets.durability
    most = domains - 1
    losses = [_loss(group, copies) for copies in range(most + 1)]
    shared = -math.expm1(-group.store_common_cause * group.store_failure_rate)
    # The fewest that meet the target; else the last that is worth its place. Without any, a lost host is lost.
    enough = next((c for c in range(1, most + 1) if losses[c] <= allowed), None)
    copies = enough or max((c for c in range(1, most + 1) if losses[c] < (1 - _WORTH) * losses[c - 1]), default=most)
    kept = _generations(group)
    draft.numbers |= {"copies": copies, "loss_a_year": losses[copies], "loss_in_common": shared, "generations": kept}
    domain = group.failure_domain or "failure domain"
    if copies == 0:
        why = f"all hosts stand in one {domain}: a copy would be lost with the original"
    else:
        why = (
            f"each in another {domain}: with the host's own, {_plural(copies + 1, 'store')} would have to be lost in"
            f" {time_text(group.store_repair)}, or all by one cause: {odds_text(losses[copies])} a year"
        )
    if copies < most and losses[copies + 1] > (1 - _WORTH) * losses[copies]:
        why += (
            f". More copies no longer help: {part_text(min(1.0, shared / losses[copies]))} of that strikes all stores"
            " at once; one of another kind or place would"
        )
    draft.choose("copies", str(copies), why + ".")
    if group.now.copies is not None and group.now.copies < copies:
        draft.choose("copies now", str(group.now.copies), "the hosts report fewer than proposed: run evenkeel protect.")
    draft.choose(
        "generations",
        str(kept),
        f"if {share_text(group.generation_good)} of checkpoints are good ones, one of {kept} is with"
        f" {share_text(reliability.repeat_success(group.generation_good, kept))}.",
    )
    for count, loss in enumerate(losses[: copies + 3]):
        draft.offer(
            "copies", str(count), f"lost {odds_text(loss)} a year", _store_cost(group, count, kept), count == copies
        )

    remedies = []
    if losses[copies] > allowed:
        if shared <= allowed and _loss(group, copies, repair=1.0) <= allowed:
            window = _threshold(lambda w: _loss(group, copies, repair=w) <= allowed, 1.0, group.store_repair)
            remedies.append(f"replace a lost store within {at_most_text(window)}")
        if _loss(group, copies, common_cause=0.0) <= allowed:
            beta = _threshold(lambda b: _loss(group, copies, common_cause=b) <= allowed, 0.0, group.store_common_cause)
            remedies.append(f"at most {share_text(beta)} of losses common to all stores (another kind, another place)")
        wider = next((c for c in range(copies + 1, copies + 11) if _loss(group, c) <= allowed), None)
        if wider:
            remedies.append(f"{wider + 1} {domain}s instead of {domains}, for {_plural(wider, 'copy')}")
        if not remedies:
            remedies.append("fewer losses of stores and fewer in common, both")
    draft.judge("durability", nines_text(allowed), nines_text(losses[copies]), losses[copies] <= allowed, remedies)
    draft.variables["evenkeel_copies"] = copies
    if group.failure_domain:
        draft.variables["evenkeel_failure_domain"] = group.failure_domain
    draft.variables["evenkeel_peers"] = f"{{{{ groups[{group.name!r}] }}}}"
    draft.variables["evenkeel_retention"] = {"last": kept}
    return copies


def _plan_placement(draft: _Draft, copies: int) -> dict[str, list[str]]:
    """Host -> the hosts of its copies; nothing where the file names no hosts, or where no host could know it."""
    group = draft.group
    if not group.named or not copies:
        return {}
    if not group.failure_domain and len(set(group.hosts.values())) < len(group.hosts):
        draft.choose(
            "placement",
            "not by failure domain",
            "add failure_domain, the name of the inventory variable that says the domain of each host: without it"
            " ft_replicate takes each host for a domain of its own.",
        )
        return {}
    placement = place(group.hosts, copies)
    placed = [f"{host} on {' and '.join(on)}" for host, on in placement.items()]
    more = f"; {len(placed) - 6} more with --json" if len(placed) > 6 else ""
    domain = group.failure_domain or "failure domain"
    draft.choose("placement", f"by {domain}", "; ".join(placed[:6]) + more + ".")
    return placement


def place(hosts: Mapping[str, str], copies: int) -> dict[str, list[str]]:
    """Host -> the hosts that ``ft_replicate`` asks first for its copies. hosts: host -> failure domain."""
    return {host: choose(host, copies, list(hosts), hosts) for host in hosts}


def _generations(group: Group) -> int:
    try:
        return max(2, reliability.attempts_needed(group.generation_good, _SOME_GOOD))
    except reliability.UsageError:
        return 2


def _store_cost(group: Group, copies: int, kept: int) -> str:
    stored = len(group.hosts) * (copies + 1) * kept * group.size
    if group.gib_price is None:
        return f"<= {size_text(stored)}"
    return "<= " + _money(group, stored / 2**30 * group.gib_price)


def _overhead(group: Group, interval: float) -> float:
    """Share of time that checkpoints and lost work cost, over working without failures."""
    if math.isinf(interval):
        return 0.0 if math.isinf(group.mtbf) else math.inf
    restart = sum(step.time for step in group.ladder[:1]) + group.detection
    return reliability.expected_time(1.0, interval, group.checkpoint_cost, restart, group.mtbf) - 1.0


def _fails(group: Group) -> str:
    return "never fails" if math.isinf(group.mtbf) else f"fails every {time_text(group.mtbf)}"


def _plan_interval(draft: _Draft) -> None:
    group, cost, rpo = draft.group, draft.group.checkpoint_cost, draft.group.targets.rpo
    transfer = group.size / group.bandwidth
    exact, daly, young = (
        reliability.checkpoint_interval(cost, group.mtbf, method=method) for method in ("exact", "daly", "young")
    )
    # Just before a checkpoint is complete and copied, the last complete one began interval + 2*cost + transfer ago.
    late = 2 * cost + transfer
    bound = rpo - late
    # More often than this, checkpoints alone would take more than a tenth of the time.
    busy = 9 * cost
    interval = _neat(max(1.0, min(exact, max(bound, busy), 86400.0)))
    lost = interval + late
    draft.numbers |= {
        "interval": interval,
        "interval_exact": exact,
        "interval_daly": daly,
        "interval_young": young,
        "work_at_risk": lost,
        "overhead": _overhead(group, interval),
    }
    if min(exact, 86400.0) <= bound:
        why = (
            f"a checkpoint takes {time_text(cost)} and a host {_fails(group)}: this loses the least time,"
            f" {share_text(_overhead(group, interval))} in all"
        )
    elif bound < busy:
        why = (
            f"a checkpoint takes {time_text(cost)} and its copy {time_text(transfer)}: no interval keeps within"
            f" {time_text(rpo)} of lost work; this one costs {share_text(_overhead(group, interval))} of the time"
        )
    else:
        why = (
            f"the cheapest would be {time_text(exact)} ({share_text(_overhead(group, exact))} of the time), but no more"
            f" than {time_text(rpo)} of work may be lost; this costs {share_text(_overhead(group, interval))}"
        )
    draft.choose("checkpoints", f"every {time_text(interval)}", why + ".")
    now = group.now.interval
    if now is not None and now > interval * 1.1:
        draft.choose(
            "checkpoints now", f"every {time_text(now)}", "the hosts' stores say so: too seldom for the above."
        )
    offered: list[float] = []
    for name, option in {"proposed": interval, "exact": exact, "daly": daly, "young": young, "daily": 86400.0}.items():
        if 0 < option < math.inf and all(abs(option - other) > 0.01 * other for other in offered):
            offered.append(option)
            effect = f"work lost <= {time_text(option + late)}"
            label = time_text(option) if name in ("proposed", "daily") else f"{time_text(option)} ({name})"
            draft.offer(
                "checkpoints", label, effect, f"{share_text(_overhead(group, option))} of time", name == "proposed"
            )
    remedies = []
    if lost > rpo:
        # The interval is nine checkpoints long at least, so that eleven and a copy must fit.
        takes = f"a checkpoint within {{}} instead of {time_text(cost)} (less data, or a log of changes)"
        copied = f"a copy within {{}} instead of {time_text(transfer)} (less data, or more bandwidth)"
        if rpo < 2:
            remedies.append("synchronous replication: checkpoints are a second apart at least")
        elif transfer >= rpo and 11 * cost >= rpo:
            remedies.append(f"{takes.format(at_most_text(rpo / 22))} and {copied.format(at_most_text(rpo / 2))}")
        elif transfer < rpo:
            remedies.append(takes.format(at_most_text((rpo - transfer) / 11)))
        if rpo >= 2 and 11 * cost < rpo:
            remedies.append(copied.format(at_most_text(rpo - 11 * cost)))
    draft.judge("RPO", time_text(rpo), time_text(lost), lost <= rpo, remedies)


def _plan_attempts(draft: _Draft) -> None:
    group = draft.group
    limit = 1 - group.permanent * (1 - group.success)
    met, remedies = True, []
    try:
        attempts = reliability.attempts_needed(group.success, group.attempts_target, group.permanent)
        if attempts > _MOST_ATTEMPTS:
            met, remedies = False, [f"{attempts:,} attempts, which is no plan: repair what fails"]
            attempts = _knee(group)
    except reliability.UsageError:
        attempts = _knee(group)
        met = False
        remedies = [f"escalation, as repeating reaches {share_text(limit)} at most"]
        if group.success < 1:
            beta = max(0.0, (1 - group.attempts_target) / (1 - group.success))
            remedies.append(
                f"fewer than {share_text(beta)} permanent failures instead of {share_text(group.permanent)}"
            )
    reached = reliability.repeat_success(group.success, attempts, group.permanent)
    delays = _delays(group, attempts)
    draft.numbers |= {"attempts": attempts, "delays": delays, "success_after_attempts": reached}
    why = f"one succeeds with {share_text(group.success)}, {attempts} with {share_text(reached)}"
    if group.permanent:
        why += f"; more reach {share_text(limit)} at most, as {share_text(group.permanent)} of failures stay"
    waits = " ".join(time_text(delay) for delay in delays[:6]) + (" ..." if len(delays) > 6 else "")
    value = f"{attempts}, waits {waits}" if delays else "1"
    draft.choose("attempts", value, f"{why}. Random jitter of half a wait keeps hosts apart.")
    for count in sorted({1, max(1, attempts - 1), attempts, attempts + 1}):
        chance = reliability.repeat_success(group.success, count, group.permanent)
        waited = sum(_delays(group, count))
        draft.offer(
            "attempts", str(count), f"{share_text(chance)} succeed", f"waits {time_text(waited)}", count == attempts
        )
    draft.judge("attempts", share_text(group.attempts_target), share_text(reached), met, remedies)


def _delays(group: Group, attempts: int) -> list[float]:
    """Waits between attempts: each twice the one before, up to a limit."""
    return [min(group.delay * 2**i, max(group.delay, _LONGEST_WAIT)) for i in range(attempts - 1)]


def _knee(group: Group) -> int:
    """Attempts until the curable failures are a tenth of the permanent ones: more would be theatre."""
    curable = (1 - group.permanent) * (1 - group.success)
    if curable <= 0 or group.success <= 0:
        return 1
    floor = group.permanent * (1 - group.success)
    attempts = 1
    while attempts < _MOST_ATTEMPTS and curable**attempts > 0.1 * floor:
        attempts += 1
    return attempts


def _plan_ladder(draft: _Draft) -> None:
    group = draft.group
    steps = [asdict(step) for step in group.ladder]
    best = reliability.ladder(steps)
    times = {step.name: step for step in group.ladder}
    order = [times[name] for name in best["order"]]
    spent, failed, cured_after = group.detection, 1.0, math.inf
    for step in order:
        spent += step.time
        failed *= 1 - step.chance
        if 1 - failed >= _CURED - 1e-12 and math.isinf(cured_after):
            cured_after = spent
    whole = spent
    draft.numbers |= {
        "ladder": best["order"],
        "ladder_expected_time": best["expected_time"],
        "ladder_coverage": best["coverage"],
        "time_to_restore": cured_after,
    }
    draft.choose(
        "restart ladder",
        ", ".join(best["order"]),
        f"by time over chance, the least time on average, {time_text(best['expected_time'])};"
        f" {share_text(best['coverage'])} of failures are cured by it.",
    )
    given = [step.name for step in group.ladder]
    if given != best["order"]:
        average, unhelped = 0.0, 1.0
        for step in group.ladder:
            average += step.time * unhelped
            unhelped *= 1 - step.chance
        draft.offer("ladder", ", ".join(given), f"{time_text(average)} on average", f"{time_text(whole)} at most")
    draft.offer(
        "ladder",
        ", ".join(best["order"]),
        f"{time_text(best['expected_time'])} on average",
        f"{time_text(whole)} at most",
        True,
    )
    met = cured_after <= group.targets.rto
    remedies = []
    if math.isinf(cured_after):
        remedies.append(
            f"a further step: {share_text(1 - best['coverage'])} of failures are left uncured, {share_text(1 - _CURED)}"
            " may be (recover onto a spare host)"
        )
    elif not met:
        slowest = max(order, key=lambda step: step.time)
        room = group.targets.rto - (cured_after - slowest.time)
        if room > 0:
            remedies.append(f"{slowest.name} within {at_most_text(room)} instead of {time_text(slowest.time)}")
        if slowest.name == "recover":
            remedies.append(f"a warm spare: its data is there before the failure ({size_text(group.size)} to move)")
        if not remedies:
            remedies.append(f"quicker steps: they take {time_text(cured_after)} until {share_text(_CURED)} are cured")
    reached = "not reached" if math.isinf(cured_after) else f"{time_text(cured_after)} ({share_text(_CURED)})"
    draft.judge("RTO", time_text(group.targets.rto), reached, met, remedies)


def _roll(group: Group, wave: int) -> tuple[int, float, float]:
    """Waves, time, and the risk that fewer than needed stay up, of a restart of all hosts, `wave` at a time.

    The guard measures before each wave that all others are up, so only failures within the wave count.
    """
    waves = 1 + math.ceil((len(group.hosts) - 1) / wave) if len(group.hosts) > 1 else 1
    fails = 0.0 if math.isinf(group.mtbf) else -math.expm1(-group.roll_time / group.mtbf)
    left = len(group.hosts) - wave
    risk = reliability.unavailability(group.needed, left, fails, group.common_cause) if left >= group.needed else 1.0
    return waves, waves * group.roll_time, reliability.any_of([risk] * waves)


def _plan_roll(draft: _Draft) -> None:
    group, n, k = draft.group, len(draft.group.hosts), draft.group.needed
    spare = n - k
    rolls = {wave: _roll(group, wave) for wave in range(1, max(1, spare) + 1)}
    wave = max((w for w, (_, _, risk) in rolls.items() if risk <= group.roll_risk), default=1)
    waves, time, risk = rolls[wave]
    draft.numbers |= {"max_unavailable": wave, "waves": waves, "roll_time": time, "roll_risk": risk}
    sizes = "1" if wave == 1 else f"1,{wave}"
    if spare == 0:
        why = (
            f"all {n} are needed: every restart is an outage of {time_text(group.roll_time)} and the guard refuses it;"
            " one host more, or a warm restart, would do"
        )
        draft.judge(
            "rolling restart", share_text(group.roll_risk), "certain", False, (f"{n + 1} hosts", "warm restarts")
        )
    else:
        unguarded = reliability.any_of([_down(group, n - wave)] * waves)
        why = (
            f"{'one' if wave == 1 else f'one first, then {wave}'} at a time: {_plural(waves, 'wave')} in"
            f" {time_text(time)}; the chance that fewer"
            f" than {k} stay up is {odds_text(risk)}, without the guard {odds_text(unguarded)}"
        )
        draft.judge(
            "rolling restart",
            odds_text(group.roll_risk),
            odds_text(risk),
            risk <= group.roll_risk,
            (f"restarts quicker than {time_text(group.roll_time)}", f"{n + 1} hosts"),
        )
    draft.choose("waves", sizes, why + ".")
    for option, (count, seconds, chance) in rolls.items():
        if option <= wave + 2:
            draft.offer(
                "waves",
                f"{option} at a time",
                f"too few up: {odds_text(chance)}",
                f"{time_text(seconds)} in {_plural(count, 'wave')}",
                option == wave,
            )
    draft.variables |= {
        "evenkeel_min_healthy": k,
        "evenkeel_max_unavailable": wave,
        "evenkeel_waves": sizes,
    }


def _plan_change(draft: _Draft) -> None:
    group = draft.group
    within = math.ceil((group.change_time + group.deadline + 60) / 60) * 60.0
    draft.numbers |= {"confirm_within": within}
    bad = group.change_failure
    draft.choose(
        "confirm within",
        time_text(within),
        f"a change takes {time_text(group.change_time)}, its probes at most {time_text(group.deadline)}, and a minute"
        f" to spare; if nobody confirms, the host is back by itself. {share_text(bad)} of changes are bad: the first"
        f" host bears them, not all {len(group.hosts)}.",
    )
    seen = group.now.confirmed + group.now.rolled_back
    if seen:
        draft.choose("changes now", f"{group.now.rolled_back} of {seen} rolled back", "the last change of each host.")
    draft.variables |= {
        "evenkeel_soak": time_text(group.soak),
        "evenkeel_deadline": time_text(group.deadline),
        "evenkeel_confirm_within": time_text(within),
    }


# Simulation


def fleet_of(group: Group, proposal: Proposal) -> Fleet:
    """The group under its proposal, for the simulator."""
    from evenkeel.plan.simulate import Fleet

    domains = sorted(set(group.hosts.values()))
    return Fleet(
        hosts=len(group.hosts),
        needed=group.needed,
        mtbf=group.mtbf,
        mttr=group.mttr,
        common_cause=group.common_cause,
        domains=tuple(domains.index(domain) for domain in group.hosts.values()),
        domain_mtbf=group.domain_mtbf,
        domain_mttr=group.domain_mttr,
        interval=proposal.numbers["interval"],
        cost=group.checkpoint_cost,
        copies=proposal.numbers["copies"],
        annual_failure_rate=group.store_failure_rate,
        repair=group.store_repair,
        copy_common_cause=group.store_common_cause,
        change_every=group.change_every,
        change_time=group.roll_time,
        wave=proposal.numbers["max_unavailable"],
        change_failure=group.change_failure,
        rollback_time=proposal.numbers["confirm_within"],
    )


def simulated_rows(proposal: Proposal, played: Played) -> list[tuple[str, str, str]]:
    """(what, predicted, simulated with its interval at 95 %)."""
    numbers, out = proposal.numbers, played.unavailable
    rows = [
        (
            "unavailability",
            f"{numbers['unavailability']:.3g}, hosts alone",
            f"{out.mean:.3g} ({max(0.0, out.low):.3g} to {out.high:.3g}), with domains and changes",
        ),
        (
            "outages a year",
            "",
            f"{played.outages.mean:.3g} ({played.outages.low:.3g} to {played.outages.high:.3g})",
        ),
    ]
    if played.outage_seconds:
        half, most = played.outage_seconds[0], played.outage_seconds[2]
        rows.append(("length of an outage", "", f"half under {time_text(half)}, 99 % under {time_text(most)}"))
    if played.lost_work:
        mean = played.lost_work_mean
        text = f"{time_text(mean.mean)} on average, " if mean else ""
        rows.append(
            (
                "work lost by a failure",
                f"at most {time_text(numbers['work_at_risk'])} with the copy",
                f"{text}{time_text(played.lost_work[-1])} at most",
            )
        )
    lost = played.data_losses
    rows += [
        (
            "loss of all copies",
            f"{numbers['loss_a_year']:.3g} a host and year",
            f"{lost.samples} in {played.host_years:,.0f} host-years ({lost.low:.2g} to {lost.high:.2g})",
        ),
        (
            "changes",
            "",
            f"{played.changes:,} begun, {played.rolled_back:,} rolled back, guard made wait {played.held_back:,} times",
        ),
    ]
    return rows


# Output


def variables_yaml(proposals: Sequence[Proposal]) -> str:
    """An inventory of nothing but variables, to be given with -i beside the real one."""
    lines = ["# Proposed by evenkeel plan. Use it beside your inventory: -i hosts.yml -i this.yml"]
    for one in proposals:
        attempts, delays = one.numbers["attempts"], one.numbers["delays"]
        lines.append(
            f"# {one.group}: run evenkeel protect every {time_text(one.numbers['interval'])};"
            f" try {_plural(attempts, 'time')}{', waiting ' + ' '.join(map(time_text, delays)) if delays else ''};"
            f" escalate {', '.join(one.numbers['ladder'])}"
        )
    inventory = {one.group: {"vars": one.variables} for one in proposals}
    return "\n".join(lines) + "\n" + yaml.safe_dump(inventory, sort_keys=False, width=110)


def show(proposal: Proposal, console: Console) -> None:
    """The proposal as tables for a person."""
    console.print()
    console.print(Text(f"{proposal.group}: {proposal.summary}", style="bold"))
    table = _table("", "proposal", "why")
    for choice in proposal.choices:
        table.add_row(Text(choice.what), Text(choice.value, style="cyan"), Text(choice.why))
    console.print(table)
    console.print()
    table = _table("target", "asked", "expected", "")
    for verdict in proposal.verdicts:
        answer = Text("met", style="green")
        if not verdict.met:
            answer = Text("NOT MET. It would take " + ", or ".join(verdict.remedies) + ".", style="bold red")
        table.add_row(Text(verdict.target), Text(verdict.asked), Text(verdict.reached), answer)
    console.print(table)
    console.print()
    table = _table("instead", "option", "gives", "costs")
    table.columns[2].max_width, table.columns[3].overflow = 40, "fold"
    last = ""
    for one in proposal.alternatives:
        style = "cyan" if one.chosen else ""
        option = f"{one.option} *" if one.chosen else one.option
        table.add_row(
            Text("" if one.choice == last else one.choice),
            Text(option, style=style),
            Text(one.effect, style=style),
            Text(one.cost, style=style),
        )
        last = one.choice
    console.print(table)
    if proposal.measured:
        console.print(Text("Measured: " + "; ".join(proposal.measured) + "."))
    if proposal.assumed:
        console.print(Text("Assumed, as the file does not say: " + "; ".join(proposal.assumed) + ".", style="yellow"))


def summary(proposal: Proposal) -> Text:
    """Whether the proposal reaches what was asked, in one line."""
    missed = [verdict.target for verdict in proposal.verdicts if not verdict.met]
    if not missed:
        return Text(f"{proposal.group}: every target is met.", style="green")
    return Text(f"{proposal.group}: {', '.join(missed)} not met; see above what it would take.", style="bold red")


def show_simulation(proposal: Proposal, played: Played, console: Console) -> None:
    """Prediction and simulation side by side."""
    console.print()
    console.print(Text(f"{proposal.group}: {played.host_years:,.0f} host-years played, {played.events:,} events"))
    table = _table("", "predicted", "simulated (95 %)")
    for row in simulated_rows(proposal, played):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for i, header in enumerate(headers):
        last = i == len(headers) - 1
        table.add_column(
            header, no_wrap=i == 0, ratio=1 if last else None, overflow="fold", max_width=None if last else 26
        )
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `evenkeel plan`."""
    parser.add_argument("file", metavar="FILE", help="targets and groups, YAML (see docs/reliability.md)")
    parser.add_argument("--status", default="", metavar="FILE", help="what evenkeel status --json printed, to plan by")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--vars", action="store_true", help="print inventory variables for the roles, YAML")
    if "--json" not in parser._option_string_actions:  # the command line may have added it to every command
        form.add_argument(
            "--json", action="store_true", help="print one JSON document on standard output, nothing else"
        )
    parser.add_argument("--simulate", action="store_true", help="play the proposal, and compare")
    parser.add_argument(
        "--host-years", type=float, default=100_000.0, metavar="N", help="how long to play (%(default).0f)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random numbers (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Plan as the arguments say, and print. Returns the exit code."""
    console = Console(highlight=False)
    try:
        if not 100.0 <= args.host_years <= 1e7:
            raise UsageError(f"--host-years {args.host_years:g}: give at least 100 and at most 10,000,000")
        groups = read_plan(args.file, args.status)
        proposals = [propose(group) for group in groups]
    except UsageError as error:
        if args.json:
            print(json.dumps({"command": "plan", "exit_code": int(Exit.USAGE), "reason": str(error)}))
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
        return Exit.USAGE
    played = []
    if args.simulate:
        from evenkeel.plan.simulate import play

        for group, proposal in zip(groups, proposals, strict=True):
            played.append(play(fleet_of(group, proposal), args.host_years / len(groups), args.seed))
    if args.json:
        document: dict[str, Any] = {"command": "plan", "exit_code": 0, "groups": [asdict(one) for one in proposals]}
        if played:
            document["simulated"] = [asdict(one) for one in played]
        print(json.dumps(_finite(document), indent=2))
    elif args.vars:
        print(variables_yaml(proposals), end="")
    else:
        for proposal in proposals:
            show(proposal, console)
        console.print()
        for proposal in proposals:
            console.print(summary(proposal))
        for proposal, one in zip(proposals, played, strict=False):
            show_simulation(proposal, one, console)
    return Exit.DONE


def _finite(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m evenkeel.plan`, the same as `evenkeel plan`."""
    parser = argparse.ArgumentParser(prog="evenkeel plan", description="Propose how to tolerate faults, and why.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
