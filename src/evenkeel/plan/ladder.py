# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the steps that restart a service, and the time until it serves again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from evenkeel import reliability
from evenkeel.plan.group import Group, Step
from evenkeel.plan.proposal import Draft, threshold
from evenkeel.plan.text import at_most_text, share_text, size_text, time_text

# The ladder has done its work when this share of the failures is over.
_CURED = 0.99


def plan_ladder(draft: Draft) -> None:
    """Choose the order of the restart ladder, and judge the RTO."""
    group = draft.group
    steps = [asdict(step) for step in group.ladder]
    best = reliability.ladder(steps)
    times = {step.name: step for step in group.ladder}
    order = [times[name] for name in best["order"]]
    whole, cured_after = group.detection + sum(step.time for step in order), _cured_after(group, order)
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
        remedies = _remedies(group, order) or [
            f"quicker steps: they take {time_text(cured_after)} until {share_text(_CURED)} are cured"
        ]
    reached = "not reached" if math.isinf(cured_after) else f"{time_text(cured_after)} ({share_text(_CURED)})"
    draft.judge("RTO", time_text(group.targets.rto), reached, met, remedies)


def _cured_after(group: Group, order: Sequence[Step]) -> float:
    """The time until enough failures are over, with the steps in this order; infinite where they never are."""
    spent, failed = group.detection, 1.0
    for step in order:
        spent += step.time
        failed *= 1 - step.chance
        if 1 - failed >= _CURED - 1e-12:
            return spent
    return math.inf


def _remedies(group: Group, order: Sequence[Step]) -> list[str]:
    """The means that meet the RTO, each by itself: a quicker step in a new order, or the order of the file."""
    needed = [step for i, step in enumerate(order) if math.isinf(_cured_after(group, order[:i]))]
    slowest = max(needed, key=lambda step: step.time)

    def met(time: float) -> bool:
        steps = {step.name: replace(step, time=time) if step is slowest else step for step in group.ladder}
        ranked = reliability.ladder([asdict(step) for step in steps.values()])["order"]
        return _cured_after(group, [steps[name] for name in ranked]) <= group.targets.rto

    remedies = []
    if met(0.1):
        longest = at_most_text(threshold(met, 0.1, slowest.time))
        remedies.append(f"{slowest.name} within {longest} instead of {time_text(slowest.time)}")
    if slowest.name == "recover" and met(max(0.0, slowest.time - group.size / group.bandwidth)):
        remedies.append(f"a warm spare: its data is there before the failure ({size_text(group.size)} to move)")
    if _cured_after(group, group.ladder) <= group.targets.rto:
        remedies.append(f"the order {', '.join(step.name for step in group.ladder)}")
    return remedies
