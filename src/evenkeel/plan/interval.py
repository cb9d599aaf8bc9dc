# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interval between checkpoints, and the work that a failure may cost."""

from __future__ import annotations

import math

from evenkeel import reliability
from evenkeel.plan.group import Group
from evenkeel.plan.proposal import Draft
from evenkeel.plan.text import at_most_text, share_text, time_text

_DAY = 86400.0


def _neat(seconds: float) -> float:
    """The time, rounded down to a value that people set, by a tenth at most."""
    for step in (86400.0, 3600.0, 600.0, 60.0, 10.0, 1.0):
        if seconds >= 10 * step:
            return math.floor(seconds / step) * step
    return seconds


def _overhead(group: Group, interval: float) -> float:
    """The share of time that checkpoints and lost work cost, compared with work without failures."""
    if math.isinf(interval):
        return 0.0 if math.isinf(group.mtbf) else math.inf
    restart = sum(step.time for step in group.ladder[:1]) + group.detection
    return reliability.expected_time(1.0, interval, group.checkpoint_cost, restart, group.mtbf) - 1.0


def _fails(group: Group) -> str:
    return "never fails" if math.isinf(group.mtbf) else f"fails every {time_text(group.mtbf)}"


def plan_interval(draft: Draft) -> None:
    """Choose the interval between checkpoints, and judge the RPO."""
    group, cost, rpo = draft.group, draft.group.checkpoint_cost, draft.group.targets.rpo
    exact, daly, young = (
        reliability.checkpoint_interval(cost, group.mtbf, method=method) for method in ("exact", "daly", "young")
    )
    interval = _neat(max(1.0, min(exact, max(rpo - _late(group), _busy(group)), _DAY)))
    interval = max(interval, _transfer(group))
    at_risk = _work_at_risk(group, interval)
    draft.numbers |= {
        "interval": interval,
        "interval_exact": exact,
        "interval_daly": daly,
        "interval_young": young,
        "work_at_risk": at_risk,
        "overhead": _overhead(group, interval),
    }
    draft.choose("checkpoints", f"every {time_text(interval)}", _why(group, interval, exact))
    now = group.now.interval
    if now is not None and now > interval * 1.1:
        draft.choose(
            "checkpoints now", f"every {time_text(now)}", "the hosts' stores say so: too seldom for the above."
        )
    offered: list[float] = []
    for name, option in {"proposed": interval, "exact": exact, "daly": daly, "young": young, "daily": _DAY}.items():
        if 0 < option < math.inf and all(abs(option - other) > 0.01 * other for other in offered):
            offered.append(option)
            effect = f"work lost <= {time_text(_work_at_risk(group, option))}"
            label = time_text(option) if name in ("proposed", "daily") else f"{time_text(option)} ({name})"
            draft.offer(
                "checkpoints", label, effect, f"{share_text(_overhead(group, option))} of time", name == "proposed"
            )
    draft.judge("RPO", time_text(rpo), time_text(at_risk), at_risk <= rpo, [] if at_risk <= rpo else _remedies(group))


def _work_at_risk(group: Group, interval: float) -> float:
    """The work that a failure may cost at most.

    A checkpoint counts when it is complete and copied, cost + transfer after it began. Just before that the last copy
    is of the checkpoint before, which began one interval and one checkpoint earlier. No copy begins before the last is
    made, so that checkpoints with copies are not closer together than that takes.
    """
    return max(interval, _transfer(group)) + _late(group)


def _late(group: Group) -> float:
    """The time by which the last complete copy can be older than one interval."""
    return 2 * group.checkpoint_cost + _transfer(group)


def _busy(group: Group) -> float:
    """The interval below which checkpoints alone would take more than a tenth of the time."""
    return 9 * group.checkpoint_cost


def _transfer(group: Group) -> float:
    return group.size / group.bandwidth


def _why(group: Group, interval: float, exact: float) -> str:
    cost, rpo = time_text(group.checkpoint_cost), time_text(group.targets.rpo)
    share = share_text(_overhead(group, interval))
    bound = group.targets.rpo - _late(group)
    copied = f"a checkpoint takes {cost} and its copy {time_text(_transfer(group))}"
    if bound < max(1.0, _transfer(group)):
        return f"{copied}: no interval keeps within {rpo} of lost work; this one costs {share} of the time."
    if interval == _transfer(group):
        return f"{copied}, before which the next copy cannot begin; this costs {share} of the time."
    if min(exact, _DAY) <= bound:
        return f"a checkpoint takes {cost} and a host {_fails(group)}: this loses the least time, {share} in all."
    if bound < _busy(group):
        busy = share_text(group.checkpoint_cost / (bound + group.checkpoint_cost))
        return (
            f"{copied}: only an interval of {at_most_text(bound)} would keep within {rpo} of lost work, and checkpoints"
            f" would take {busy} of the time; this one costs {share}."
        )
    return (
        f"the cheapest would be {time_text(exact)} ({share_text(_overhead(group, exact))} of the time), but no more"
        f" than {rpo} of work may be lost; this costs {share}."
    )


def _remedies(group: Group) -> list[str]:
    cost, rpo, transfer = group.checkpoint_cost, group.targets.rpo, _transfer(group)
    # The interval is nine checkpoints and a copy long at least: eleven and a copy must fit, and two and two copies.
    takes = f"a checkpoint within {{}} instead of {time_text(cost)} (less data, or a log of changes)"
    copied = f"a copy within {{}} instead of {time_text(transfer)} (less data, or more bandwidth)"
    remedies = []
    if rpo < 3:
        remedies.append("synchronous replication: checkpoints are a second apart at least")
        return remedies
    if 2 * transfer >= rpo and 11 * cost >= rpo:
        remedies.append(f"{takes.format(at_most_text(rpo / 22))} and {copied.format(at_most_text(rpo * 5 / 11))}")
    elif 2 * transfer < rpo:
        remedies.append(takes.format(at_most_text(min((rpo - transfer) / 11, rpo / 2 - transfer))))
    if 11 * cost < rpo:
        remedies.append(copied.format(at_most_text(min(rpo - 11 * cost, rpo / 2 - cost))))
    return remedies
