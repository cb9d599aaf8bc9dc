# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of attempts at an operation, and the waits between them."""

from __future__ import annotations

from evenkeel import reliability
from evenkeel.plan.group import Group
from evenkeel.plan.proposal import Draft, threshold
from evenkeel.plan.text import share_text, time_text

# An operation that needs more attempts than this is not to be repeated but repaired; no wait is longer than that.
_MOST_ATTEMPTS = 20


_LONGEST_WAIT = 600.0


def plan_attempts(draft: Draft) -> None:
    """Choose the attempts and their waits; judge the chance that any attempt succeeds."""
    group = draft.group
    limit = 1 - group.permanent * (1 - group.success) if group.success else 0.0
    met, remedies = True, []
    try:
        attempts = reliability.attempts_needed(group.success, group.attempts_target, group.permanent)
        if attempts > _MOST_ATTEMPTS:
            met, remedies = False, [f"{attempts:,} attempts, which is no plan: repair the cause"]
            attempts = _knee(group)
    except reliability.UsageError:
        attempts = _knee(group)
        met = False
        sure = "is never sure to succeed" if limit == 1 else f"reaches {share_text(limit)} at most"
        remedies = [f"escalation, as repeating {sure}"]
        if _enough(group, 0.0):
            beta = threshold(lambda part: _enough(group, part), 0.0, group.permanent)
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
    value = f"{attempts}, waits up to {waits}" if delays else "1"
    if delays:
        why += (
            f". ft_repeat draws each wait between nothing and this: attempts {attempts}, backoff"
            f" {time_text(delays[0])}, backoff_limit {time_text(delays[-1])}, and a deadline"
            f" that leaves room for the attempts beside {time_text(sum(delays))} of waits"
        )
    draft.choose("attempts", value, f"{why}.")
    for count in sorted({1, max(1, attempts - 1), attempts, attempts + 1}):
        chance = reliability.repeat_success(group.success, count, group.permanent)
        waited = sum(_delays(group, count))
        draft.offer(
            "attempts",
            str(count),
            f"{share_text(chance)} succeed",
            f"waits up to {time_text(waited)}",
            count == attempts,
        )
    draft.judge("attempts", share_text(group.attempts_target), share_text(reached), met, remedies)


def _enough(group: Group, permanent: float) -> bool:
    """Whether a number of attempts that one plans reaches the target, with this share of permanent failures."""
    return reliability.repeat_success(group.success, _MOST_ATTEMPTS, permanent) >= group.attempts_target


def _delays(group: Group, attempts: int) -> list[float]:
    """The waits between attempts: each twice the wait before, up to a limit."""
    return [min(group.delay * 2**i, max(group.delay, _LONGEST_WAIT)) for i in range(attempts - 1)]


def _knee(group: Group) -> int:
    """The attempts until curable failures are a tenth of permanent failures: more attempts would be useless."""
    floor = group.permanent * (1 - group.success)
    if group.permanent >= 1 or group.success in (0, 1):
        return 1
    attempts = 1
    while attempts < _MOST_ATTEMPTS and _curable(group, attempts) > 0.1 * floor:
        attempts += 1
    return attempts


def _curable(group: Group, attempts: int) -> float:
    """The chance that so many attempts fail where none of the failures is permanent."""
    limit = 1 - group.permanent * (1 - group.success)
    return limit - reliability.repeat_success(group.success, attempts, group.permanent)
