# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From targets and the numbers of a group to copies, intervals, attempts, ladders and waves.

`propose` is pure: a group in, a proposal with the reason of every choice out.
"""

from __future__ import annotations

from evenkeel.plan.attempts import plan_attempts
from evenkeel.plan.copies import plan_copies, plan_placement
from evenkeel.plan.group import Group
from evenkeel.plan.hosts import plan_hosts
from evenkeel.plan.interval import plan_interval
from evenkeel.plan.ladder import plan_ladder
from evenkeel.plan.proposal import Draft, Proposal
from evenkeel.plan.rolling import plan_change, plan_roll
from evenkeel.plan.text import plural


def propose(group: Group) -> Proposal:
    """The proposal for ``group``: pure, no clock, no randomness."""
    draft = Draft(group)
    domains = sorted(set(group.hosts.values()))
    plan_hosts(draft)
    copies = plan_copies(draft, len(domains))
    placement = plan_placement(draft, copies)
    plan_interval(draft)
    plan_attempts(draft)
    plan_ladder(draft)
    plan_roll(draft)
    plan_change(draft)
    return Proposal(
        group=group.name,
        summary=f"{plural(len(group.hosts), 'host')}, {group.needed} needed, in"
        f" {plural(len(domains), group.failure_domain or 'failure domain')}",
        choices=tuple(draft.choices),
        verdicts=tuple(draft.verdicts),
        alternatives=tuple(draft.alternatives),
        placement=placement,
        variables=draft.variables,
        numbers=draft.numbers,
        assumed=group.assumed,
        measured=group.measured,
    )
