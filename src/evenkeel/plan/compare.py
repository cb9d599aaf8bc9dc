# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator's answer to a proposal, beside the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.plan.group import Group
from evenkeel.plan.proposal import Proposal
from evenkeel.plan.text import time_text

if TYPE_CHECKING:
    from evenkeel.plan.simulate import Fleet, Played


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
    losses = played.data_losses
    rows += [
        (
            "loss of all copies",
            f"{numbers['loss_a_year']:.3g} a host and year",
            f"{losses.samples} in {played.host_years:,.0f} host-years ({losses.low:.2g} to {losses.high:.2g})",
        ),
        (
            "changes",
            "",
            f"{played.changes:,} begun, {played.rolled_back:,} rolled back, guard made wait {played.held_back:,} times",
        ),
    ]
    return rows
