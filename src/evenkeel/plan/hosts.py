# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of hosts, and the availability of their group."""

from __future__ import annotations

import math

from evenkeel import reliability
from evenkeel.plan.group import Group
from evenkeel.plan.proposal import WORTH, Draft, threshold
from evenkeel.plan.text import at_most_text, nines_text, part_text, plural, share_text, time_text


def unavailable(group: Group, hosts: int, mttr: float | None = None, common_cause: float | None = None) -> float:
    """Unavailability of the group, were it of so many hosts; exact where it is tiny."""
    return unavailable_of(group, group.needed_of(hosts), hosts, mttr, common_cause)


def unavailable_of(
    group: Group, needed: int, hosts: int, mttr: float | None = None, common_cause: float | None = None
) -> float:
    """The share of the time with fewer than ``needed`` of so many hosts up."""
    repair = group.mttr if mttr is None else mttr
    host = 0.0 if math.isinf(group.mtbf) else repair / (group.mtbf + repair)
    beta = group.common_cause if common_cause is None else common_cause
    return reliability.unavailability(needed, hosts, host, beta)


def plan_hosts(draft: Draft) -> None:
    """Judge the availability; offer more hosts, quicker repair, or fewer common causes."""
    group, n, k = draft.group, len(draft.group.hosts), draft.group.needed
    allowed = 1 - group.targets.availability
    down = unavailable(group, n)
    host = 0.0 if math.isinf(group.mtbf) else group.mttr / (group.mtbf + group.mttr)
    floor = group.common_cause * host
    draft.numbers |= {"unavailability": down, "unavailability_of_a_host": host, "unavailability_in_common": floor}
    why = f"one host is up {nines_text(host)} of the time; {k} of {n} are up {nines_text(down)}"
    # A quorum grows with the hosts, so that one host more may make it worse.
    better = [count for count in range(n + 1, n + 5) if unavailable(group, count) < down]
    if n > 1 and down > 0 and (not better or down - unavailable(group, better[0]) < WORTH * down):
        why += (
            f". More hosts no longer help: {part_text(min(1.0, floor / down))} of the rest strikes all at once,"
            " so diversity (other racks, versions, times of change) would"
        )
    draft.choose("hosts", str(n), why + ".")
    fewer = [n - 1] if n > 1 and group.needed_of(n - 1) < n else []
    for count in (*fewer, n, *better[:2]):
        other = unavailable(group, count)
        effect = f"{nines_text(other)}, down {time_text(other * reliability.YEAR)} a year"
        option = f"{count} ({group.needed_of(count)} needed)" if group.needed_of(count) != k else str(count)
        draft.offer("hosts", option, effect, _host_cost(group, count), count == n)

    remedies = []
    enough = next((i for i in range(n + 1, n + 21) if unavailable(group, i) <= allowed), None)
    if allowed <= 0:
        remedies.append("a target below 100 %: a host that can fail is not always up")
    elif enough:
        remedies.append(f"{enough} hosts instead of {n}")
    elif floor > allowed:
        remedies.append(f"more than hosts: common causes alone leave {nines_text(floor)}, however many there are")
    if allowed > 0 and unavailable(group, n, mttr=0.0) <= allowed < unavailable(group, n):
        longest = threshold(lambda t: unavailable(group, n, mttr=t) <= allowed, 0.0, group.mttr)
        remedies.append(f"repair within {at_most_text(longest)}")
    if allowed > 0 and unavailable(group, n, common_cause=0.0) <= allowed < unavailable(group, n):
        beta = threshold(lambda b: unavailable(group, n, common_cause=b) <= allowed, 0.0, group.common_cause)
        remedies.append(f"at most {share_text(beta)} common causes (diversity)")
    draft.judge("availability", nines_text(allowed), nines_text(down), down <= allowed, remedies)


def _host_cost(group: Group, hosts: int) -> str:
    if group.host_price is None:
        return plural(hosts, "host")
    return money(group, hosts * group.host_price)


def money(group: Group, amount: float) -> str:
    """An amount a month, in the currency of the file."""
    return f"{amount:,.2f} {group.currency}".strip() + "/month"
