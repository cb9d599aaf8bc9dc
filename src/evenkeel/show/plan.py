# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proposal as tables for a person, and as an inventory of variables for the roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel.plan.compare import simulated_rows
from evenkeel.plan.proposal import Proposal
from evenkeel.plan.text import plural, time_text

if TYPE_CHECKING:
    from evenkeel.plan.simulate import Played


def variables_yaml(proposals: Sequence[Proposal]) -> str:
    """An inventory of nothing but variables, to be given with -i beside the real one."""
    lines = ["# Proposed by evenkeel plan. Use it beside your inventory: -i hosts.yml -i this.yml"]
    for proposal in proposals:
        attempts, delays = proposal.numbers["attempts"], proposal.numbers["delays"]
        if not proposal.numbers["copies"]:
            lines.append(f"# {proposal.group}: evenkeel protect needs hosts in a second failure domain for a copy")
        lines.append(
            f"# {proposal.group}: run evenkeel protect every {time_text(proposal.numbers['interval'])};"
            f" try {plural(attempts, 'time')}{', waiting up to ' + ' '.join(map(time_text, delays)) if delays else ''};"
            f" escalate {', '.join(proposal.numbers['ladder'])}"
        )
    inventory = {proposal.group: {"vars": proposal.variables} for proposal in proposals}
    return "\n".join(lines) + "\n" + yaml.safe_dump(inventory, sort_keys=False, width=110)


def show(proposal: Proposal, console: Console) -> None:
    """The proposal as tables for a person."""
    console.print()
    console.print(Text(f"{proposal.group}: {proposal.summary}", style="bold"))
    table = _table("", "proposal", "why")
    for choice in proposal.choices:
        table.add_row(Text(choice.what), Text(choice.value, style="cyan"), Text(choice.why))
    console.print(table)
    console.print()
    table = _table("target", "asked", "expected", "")
    for verdict in proposal.verdicts:
        answer = Text("met", style="green")
        if not verdict.met:
            answer = Text("NOT MET. It would take " + ", or ".join(verdict.remedies) + ".", style="bold red")
        table.add_row(Text(verdict.target), Text(verdict.asked), Text(verdict.reached), answer)
    console.print(table)
    console.print()
    table = _table("instead", "option", "gives", "costs")
    table.columns[2].max_width, table.columns[3].overflow = 40, "fold"
    last = ""
    for alternative in proposal.alternatives:
        style = "cyan" if alternative.chosen else ""
        option = f"{alternative.option} *" if alternative.chosen else alternative.option
        table.add_row(
            Text("" if alternative.choice == last else alternative.choice),
            Text(option, style=style),
            Text(alternative.effect, style=style),
            Text(alternative.cost, style=style),
        )
        last = alternative.choice
    console.print(table)
    if proposal.measured:
        console.print(Text("Measured: " + "; ".join(proposal.measured) + "."))
    if proposal.assumed:
        console.print(Text("Assumed, as the file does not say: " + "; ".join(proposal.assumed) + ".", style="yellow"))


def summary(proposal: Proposal) -> Text:
    """Whether the proposal reaches its targets, in one line."""
    missed = [verdict.target for verdict in proposal.verdicts if not verdict.met]
    if not missed:
        return Text(f"{proposal.group}: every target is met.", style="green")
    return Text(f"{proposal.group}: {', '.join(missed)} not met; see the remedies above.", style="bold red")


def show_simulation(proposal: Proposal, played: Played, console: Console) -> None:
    """Prediction and simulation side by side."""
    console.print()
    console.print(Text(f"{proposal.group}: {played.host_years:,.0f} host-years played, {played.events:,} events"))
    table = _table("", "predicted", "simulated (95 %)")
    for row in simulated_rows(proposal, played):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for i, header in enumerate(headers):
        last = i == len(headers) - 1
        table.add_column(
            header, no_wrap=i == 0, ratio=1 if last else None, overflow="fold", max_width=None if last else 26
        )
    return table
