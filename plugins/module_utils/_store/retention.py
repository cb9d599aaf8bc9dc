# SPDX-License-Identifier: GPL-3.0-or-later

"""The choice of the checkpoints to keep: the newest, the recent, and the newest of each hour, day, week, month, year.

The rules are those of ``restic forget`` and ``borg prune``. Each rule applies on its own, from the newest checkpoint
on, and a checkpoint stays if any rule keeps it. Periods without a checkpoint do not count. While a rule has not found
as many periods as it asks for, it keeps the oldest checkpoint too, so that a history grows to its length. Periods are
of UTC, weeks are those of ISO 8601. Ages are counted from the newest checkpoint on.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .._errors import UsageError
from .._host.durations import seconds
from .._host.options import mapping, read

# The name of a period, as strftime writes it. For ``last`` each checkpoint is a period.
PERIODS = {
    "last": "",
    "hourly": "%Y-%m-%dT%H",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}
# The option ``retention`` of modules and roles.
OPTION = mapping(
    {
        **{rule: {"type": "int"} for rule in PERIODS},
        "within": {"type": "str"},
        "grace": {"type": "str", "default": "1d"},
    }
)
# Seconds that forgotten data lies in the trash unless a policy says otherwise.
_USUAL = seconds("1d", "retention: grace")
# The difference that two clocks may have. A checkpoint with a date further ahead was taken by a clock that was wrong.
SKEW = datetime.timedelta(days=1)
EXAMPLE = "for example {last: 10}, or {within: 2d, daily: 7, weekly: 4, monthly: 12}"


class Policy(NamedTuple):
    """The number of periods that each rule keeps (its name in ``PERIODS``), and the age in seconds, at the time of
    the newest, up to which all checkpoints are kept.

    ``grace``: seconds for which forgotten data lies in the trash before it is deleted.
    """

    counts: dict[str, int]
    grace: float
    within: float | None = None

    def trash(self, now: float) -> tuple[float, float]:
        """(the time before which files in the trash were thrown away that go now, the time that files get there).

        One trash has the files of all policies, each with a time of grace of its own. So all files go after the usual
        time, and those for which another one counts get an earlier or a later time. Without a time of grace all go.
        """
        before = now - _USUAL if self.grace else now
        return before, before + self.grace


def check(declared: Mapping[str, object] | None) -> Policy | None:
    """The declared policy; None, which keeps everything, without a declaration. UsageError names the fault."""
    found = read(OPTION["options"], declared or {}, "retention")
    counts = {rule: found[rule] for rule in PERIODS if found[rule] is not None}
    for rule, count in counts.items():
        if count < 1:
            raise UsageError(f"retention: {rule}: {count} must be a number of 1 or more, {EXAMPLE}")
    within = None if found["within"] is None else seconds(found["within"], "retention: within")
    grace = seconds(found["grace"], "retention: grace")
    if counts or within is not None:
        return Policy(counts, grace, within)
    if found["grace"] != OPTION["options"]["grace"]["default"]:
        raise UsageError(f"retention: grace alone keeps nothing; add a rule, {EXAMPLE}")
    return None


def keep(
    taken: Sequence[tuple[str, datetime.datetime]], policy: Policy, now: datetime.datetime
) -> dict[str, list[str]]:
    """id -> the rules that keep it, of (id, time of taking) in any order. Times are aware; other checkpoints may go.

    Either our clock is wrong, or the dates that lie ahead of it are: neither may cost the others their places.
    """
    latest = now + SKEW
    ahead, others = [pair for pair in taken if pair[1] > latest], [pair for pair in taken if pair[1] <= latest]
    return {**_keep(ahead, policy, now), **_keep(others, policy, now)}


def _keep(
    taken: Sequence[tuple[str, datetime.datetime]], policy: Policy, now: datetime.datetime
) -> dict[str, list[str]]:
    ordered = sorted(taken, key=lambda pair: (pair[1], pair[0]), reverse=True)
    kept: dict[str, list[str]] = {}
    for rule, count in policy.counts.items():
        left, before = count, None
        for number, (checkpoint, created) in enumerate(ordered, 1):
            utc = created.astimezone(datetime.timezone.utc)
            period = utc.strftime(PERIODS[rule]) if PERIODS[rule] else checkpoint
            if left and (period != before or number == len(ordered)):
                left, before = left - 1, period
                kept.setdefault(checkpoint, []).append(f"{rule} {period}" if PERIODS[rule] else rule)
    if policy.within is not None and ordered:
        # A clock that runs ahead must not make a whole history old.
        latest = min(now, ordered[0][1])
        for checkpoint, created in ordered:
            if (latest - created).total_seconds() <= policy.within:
                kept.setdefault(checkpoint, []).append("within")
    return kept
