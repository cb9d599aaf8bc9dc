# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of copies of checkpoints and of their generations, and the hosts that keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evenkeel import reliability
from evenkeel.plan.group import Group
from evenkeel.plan.hosts import money
from evenkeel.plan.proposal import WORTH, Draft, threshold
from evenkeel.plan.text import at_most_text, nines_text, odds_text, part_text, plural, share_text, size_text, time_text
from evenkeel.shared import choose

# The wanted chance that at least one of the kept checkpoints is good.
_SOME_GOOD = 0.9999

# Nobody keeps more copies than this.
_MOST_COPIES = 50


def _loss(group: Group, copies: int, repair: float | None = None, common_cause: float | None = None) -> float:
    """Chance a year that a host's store and all its copies are gone: one by one while repairs last, or by one cause."""
    beta = group.store_common_cause if common_cause is None else common_cause
    window = group.store_repair if repair is None else repair
    rate = (1 - beta) * group.store_failure_rate
    mtbf = reliability.YEAR / rate if rate else math.inf
    alone = -math.expm1(-reliability.YEAR / reliability.mttdl(copies + 1, copies, mtbf, window))
    return reliability.any_of([alone, -math.expm1(-beta * group.store_failure_rate)])


def plan_copies(draft: Draft, domains: int) -> int:
    """Choose the copies and generations, and judge the durability. Returns the number of copies."""
    group = draft.group
    allowed = 1 - group.targets.durability
    most = min(domains - 1, _MOST_COPIES)
    losses = [_loss(group, copies) for copies in range(most + 1)]
    shared = -math.expm1(-group.store_common_cause * group.store_failure_rate)
    # The fewest copies that meet the target; else the last copy that is worth its place. Without a copy, a lost host is
    # lost for ever.
    enough = next((c for c in range(1, most + 1) if losses[c] <= allowed), None)
    copies = enough or max((c for c in range(1, most + 1) if losses[c] < (1 - WORTH) * losses[c - 1]), default=most)
    kept = _generations(group)
    draft.numbers |= {"copies": copies, "loss_a_year": losses[copies], "loss_in_common": shared, "generations": kept}
    domain = group.failure_domain or "failure domain"
    if copies == 0:
        why = f"all hosts stand in one {domain}: a copy would be lost with the original"
    else:
        why = (
            f"each in another {domain}: with the host's own, {plural(copies + 1, 'store')} would have to be lost in"
            f" {time_text(group.store_repair)}, or all by one cause: {odds_text(losses[copies])} a year"
        )
    if copies < most and losses[copies + 1] > (1 - WORTH) * losses[copies]:
        why += (
            f". More copies no longer help: {part_text(min(1.0, shared / losses[copies]))} of that strikes all stores"
            " at once; a copy of another kind or in another place would"
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
            window = threshold(lambda w: _loss(group, copies, repair=w) <= allowed, 1.0, group.store_repair)
            remedies.append(f"replace a lost store within {at_most_text(window)}")
        if _loss(group, copies, common_cause=0.0) <= allowed:
            beta = threshold(lambda b: _loss(group, copies, common_cause=b) <= allowed, 0.0, group.store_common_cause)
            remedies.append(f"at most {share_text(beta)} of losses common to all stores (another kind, another place)")
        wider = next((c for c in range(copies + 1, copies + 11) if _loss(group, c) <= allowed), None)
        if wider:
            remedies.append(f"{wider + 1} {domain}s instead of {domains}, for {plural(wider, 'copy')}")
        if not remedies:
            remedies.append("fewer losses of stores and fewer in common, both")
    draft.judge("durability", nines_text(allowed), nines_text(losses[copies]), losses[copies] <= allowed, remedies)
    draft.variables |= _variables(group, copies, kept)
    return copies


def _variables(group: Group, copies: int, kept: int) -> dict[str, object]:
    """The variables of the role protect. ft_replicate refuses 0 copies, and is told of none."""
    variables: dict[str, object] = {"evenkeel_copies": copies} if copies else {}
    if group.failure_domain:
        variables["evenkeel_failure_domain"] = group.failure_domain
    if copies:
        variables["evenkeel_peers"] = f"{{{{ groups[{group.name!r}] }}}}"
    return variables | {"evenkeel_retention": {"last": kept}}


def plan_placement(draft: Draft, copies: int) -> dict[str, list[str]]:
    """Host -> the hosts of its copies; nothing where the file names no hosts, or where no host could know it."""
    group = draft.group
    if not copies:
        return {}
    if not group.failure_domain and len(set(group.hosts.values())) < len(group.hosts):
        draft.choose(
            "placement",
            "not by failure domain",
            "add failure_domain, the name of the inventory variable that says the domain of each host: without it"
            " ft_replicate takes each host for a domain of its own.",
        )
        return {}
    if not group.named:
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
    return "<= " + money(group, stored / 2**30 * group.gib_price)
