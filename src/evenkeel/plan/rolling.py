# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The waves of a restart and of a change, and the time to confirm."""

from __future__ import annotations

import math

from evenkeel import reliability
from evenkeel.plan.group import Group
from evenkeel.plan.hosts import unavailable
from evenkeel.plan.proposal import Draft
from evenkeel.plan.text import odds_text, plural, share_text, time_text


def _roll(group: Group, wave: int) -> tuple[int, float, float]:
    """Waves, time, and the risk that fewer than needed stay up, of a restart of all hosts, `wave` at a time.

    The guard measures before each wave that all others are up, so only failures within the wave count.
    """
    waves = 1 + math.ceil((len(group.hosts) - 1) / wave) if len(group.hosts) > 1 else 1
    fails = 0.0 if math.isinf(group.mtbf) else -math.expm1(-group.roll_time / group.mtbf)
    left = len(group.hosts) - wave
    risk = reliability.unavailability(group.needed, left, fails, group.common_cause) if left >= group.needed else 1.0
    return waves, waves * group.roll_time, reliability.any_of([risk] * waves)


def plan_roll(draft: Draft) -> None:
    """Choose the waves of a rolling restart, and judge its risk."""
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
        unguarded = reliability.any_of([unavailable(group, n - wave)] * waves)
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
            (f"restarts quicker than {time_text(group.roll_time)}", f"{n + 1} hosts"),
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


def plan_change(draft: Draft) -> None:
    """Choose the time to confirm a change."""
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
