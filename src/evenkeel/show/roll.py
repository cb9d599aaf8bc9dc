# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a rolling restart: who restarts when, how long it takes, and what the risk is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel.outcome import RunResult
from evenkeel.show.display import text

Plan = Mapping[str, Any]


def waves(plan: Plan) -> Sequence[Sequence[str]]:
    """The hosts of each wave."""
    return [[str(host) for host in wave] for wave in plan.get("waves") or []]


def wave_of(plan: Plan, host: str) -> int:
    """The number of the wave in which the host restarts, from 1; 0 where it does not restart."""
    return next((number for number, wave in enumerate(waves(plan), 1) if host in wave), 0)


def notes(plan: Plan) -> list[str]:
    """The sentences of a plan for a person: its own notes, the time and the risk, and what hosts owe besides."""
    found = [str(note) for note in plan.get("notes") or []]
    foreseen = plan.get("forecast") or {}
    if waves(plan):
        found.append(_forecast(foreseen, len(waves(plan))))
    above = plan.get("above") or {}
    return found + [f"{host} owes {'; '.join(map(str, said))}, which this does not do" for host, said in above.items()]


def _forecast(foreseen: Mapping[str, Any], count: int) -> str:
    tries, risk, seconds = foreseen.get("tries"), foreseen.get("risk"), foreseen.get("seconds")
    if not tries or risk is None:
        return "how long it takes, and the risk, are not known: no such restart is on record on these hosts"
    spent = f"about {seconds:.0f} s for {count} {'wave' if count == 1 else 'waves'}; " if seconds is not None else ""
    return f"{spent}chance that a host does not come back healthy {risk:.1%}, from {tries} such restarts on record"


def print_plan(result: RunResult, console: Console) -> None:
    """Print the plan, host by host; nothing was restarted."""
    planned = {host: row for host, row in result.hosts.items() if row.get("wave")}
    last = max((row["wave"] for row in planned.values()), default=0)
    words = f"PLAN: {len(planned)} of {len(result.hosts)} hosts in {last} {'wave' if last == 1 else 'waves'}"
    console.print(Text(f"{words}; nothing was restarted", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("wave")
    table.add_column("hosts", overflow="fold")
    for number in range(1, last + 1):
        table.add_row(
            str(number), Text(text(", ".join(host for host, row in planned.items() if row["wave"] == number)))
        )
    console.print(table)
    for host, row in result.hosts.items():
        if not row.get("wave"):
            console.print(Text(f"{text(host)}: {text('; '.join(map(str, row.get('done') or [])))}", style="dim"))
    for note in result.notes:
        console.print(Text(text(note), style="yellow"))
