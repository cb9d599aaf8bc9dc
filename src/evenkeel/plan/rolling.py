# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The waves of a restart and of a change, and the time to confirm."""

from __future__ import annotations

import math
from dataclasses import replace

from evenkeel import reliability
from evenkeel.plan.group import Group
from evenkeel.plan.hosts import unavailable_of
from evenkeel.plan.proposal import Draft, threshold
from evenkeel.plan.text import at_most_text, odds_text, plural, share_text, time_text


def _roll(group: Group, hosts: int, wave: int) -> tuple[int, float, float]:
    """Waves, time, and the risk that fewer than needed stay up, of a restart of so many hosts, `wave` at a time.

    The plan takes all others for up before each wave, so only failures within the wave count. The guard itself asks
    for enough healthy others.
    """
    waves = 1 + math.ceil((hosts - 1) / wave) if hosts > 1 else 1
    fails = 0.0 if math.isinf(group.mtbf) else -math.expm1(-group.roll_time / group.mtbf)
    left, needed = hosts - wave, group.needed_of(hosts)
    risk = reliability.unavailability(needed, left, fails, group.common_cause) if left >= needed else 1.0
    return waves, waves * group.roll_time, reliability.any_of([risk] * waves)


def plan_roll(draft: Draft) -> None:
    """Choose the waves of a rolling restart, and judge its risk."""
    group, n, k = draft.group, len(draft.group.hosts), draft.group.needed
    spare = n - k
    rolls = {wave: _roll(group, n, wave) for wave in range(1, max(1, spare) + 1)}
    wave = max((w for w, (_, _, risk) in rolls.items() if risk <= group.roll_risk), default=1)
    waves, time, risk = rolls[wave]
    draft.numbers |= {"max_unavailable": wave, "waves": waves, "roll_time": time, "roll_risk": risk}
    sizes = "1" if wave == 1 else f"1,{wave}"
    if spare == 0:
        remedies = [*_more_hosts(group), "warm restarts"]
        why = (
            f"all {n} are needed: every restart is an outage of {time_text(group.roll_time)} and the guard refuses it;"
            f" {' or '.join(remedies)} would do"
        )
        draft.judge("rolling restart", share_text(group.roll_risk), "certain", False, remedies)
    else:
        unguarded = reliability.any_of([unavailable_of(group, k, n - wave)] * waves)
        why = (
            f"{'one' if wave == 1 else f'one first, then {wave}'} at a time: {plural(waves, 'wave')} in"
            f" {time_text(time)}; the chance that fewer"
            f" than {k} stay up is {odds_text(risk)}, without the guard {odds_text(unguarded)}"
        )
        draft.judge(
            "rolling restart",
            odds_text(group.roll_risk),
            odds_text(risk),
            risk <= group.roll_risk,
            _quicker(group) + _more_hosts(group) or ["a greater accepted risk"],
        )
    draft.choose("waves", sizes, why + ".")
    for option, (count, seconds, chance) in rolls.items():
        if option <= wave + 2:
            draft.offer(
                "waves",
                f"{option} at a time",
                f"too few up: {odds_text(chance)}",
                f"{time_text(seconds)} in {plural(count, 'wave')}",
                option == wave,
            )
    draft.variables |= {
        "evenkeel_min_healthy": k,
        "evenkeel_max_unavailable": wave,
        "evenkeel_waves": sizes,
    }


def _more_hosts(group: Group) -> list[str]:
    """The number of hosts of which one at a time can restart with the accepted risk."""
    n = len(group.hosts)
    enough = (count for count in range(n + 1, n + 21) if group.needed_of(count) < count)
    return [f"{count} hosts" for count in enough if _roll(group, count, 1)[2] <= group.roll_risk][:1]


def _quicker(group: Group) -> list[str]:
    """The time within which a host must restart for the accepted risk, one at a time."""

    def accepted(time: float) -> bool:
        return _roll(replace(group, roll_time=time), len(group.hosts), 1)[2] <= group.roll_risk

    if accepted(group.roll_time) or not accepted(0.1):
        return []
    longest = at_most_text(threshold(accepted, 0.1, group.roll_time))
    return [f"restarts within {longest} instead of {time_text(group.roll_time)}"]


def plan_change(draft: Draft) -> None:
    """Choose the time to confirm a change."""
    group = draft.group
    within = float(math.ceil(group.change_time + max(group.soak, group.deadline) + 60))
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
        draft.choose("changes now", f"{group.now.rolled_back} of {seen} rolled back", "the last changes, each once.")
    draft.variables |= {
        "evenkeel_soak": _whole(group.soak),
        "evenkeel_deadline": _whole(group.deadline),
        "evenkeel_confirm_within": _whole(within),
    }


def _whole(time: float) -> str:
    """The time for a role, in whole seconds and never shorter."""
    return f"{math.ceil(time)}s"
