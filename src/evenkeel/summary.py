# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a command in words and a table, for a person at three in the morning."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel.display import STYLES
from evenkeel.outcome import ChangeResult, Exit, HostResult, RunResult, State
from evenkeel.progress import Phase

_STYLE = {Exit.DONE: "bold green", Exit.FAILED: "bold yellow", Exit.IN_DOUBT: "bold red"}
# More hosts than this that ended alike share a line.
_ALIKE = 12


def print_change(result: ChangeResult, console: Console, inventory: Sequence[str]) -> None:
    """Say what became of a change, host by host, and what to do next."""
    console.print(Text(headline(result), style=_STYLE.get(result.exit_code, "bold")))
    if result.reason:
        console.print(Text(f"Why: {result.reason}"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("host", "wave", "outcome"):
        table.add_column(name, no_wrap=name != "host")
    table.add_column("", ratio=1, overflow="fold")
    for hosts in alike(result.hosts):
        one = hosts[0]
        state = one.state.replace("_", " ")
        outcome = Text(state, style="dim" if one.state is State.NOT_BEGUN else STYLES.get(Phase(state), ""))
        names = one.host if len(hosts) == 1 else f"{one.host} … {hosts[-1].host} ({len(hosts)})"
        table.add_row(names, str(one.wave), outcome, detail(one))
    console.print(table)
    for text in advice(result, inventory):
        console.print(Text(text))


def headline(result: ChangeResult) -> str:
    """What happened, in one line."""
    took = f"{result.playbook}, {result.seconds:.0f} s, exit {int(result.exit_code)}"
    number = {state: sum(1 for one in result.hosts if one.state is state) for state in State}
    if result.exit_code is Exit.DONE:
        changed = sum(one.changed for one in result.hosts)
        return f"CONFIRMED on {_hosts(number[State.CONFIRMED])}, {changed} changed ({took})"
    if result.exit_code in (Exit.REFUSED, Exit.USAGE):
        return f"{'REFUSED' if result.exit_code is Exit.REFUSED else 'STOPPED'}: nothing was touched ({took})"
    parts = [f"{number[state]} {state.replace('_', ' ')}" for state in State if number[state]]
    start = "IN DOUBT" if result.exit_code is Exit.IN_DOUBT else "FAILED"
    if result.exit_code is Exit.FAILED and number[State.ROLLED_BACK] and not number[State.CONFIRMED]:
        start = "FAILED AND ROLLED BACK"
    return f"{start}: {', '.join(parts)} ({took})"


def detail(one: HostResult) -> str:
    """What there is to say of one host besides its outcome."""
    by = {"deadline": "put itself back at its deadline", "boot": "put itself back at boot"}.get(one.by, "")
    if one.state is State.CONFIRMED:
        caught = [f"rescued: {text}" for text in one.rescued]
        return "; ".join([one.why or ("changed" if one.changed else "nothing to change"), *caught])
    if one.state is State.NOT_BEGUN:
        return "its wave never came"
    return "; ".join(part for part in (by, one.why) if part)


def alike(hosts: Iterable[HostResult]) -> list[list[HostResult]]:
    """Hosts in their order, long runs of the same wave, state and story together."""
    groups: list[list[HostResult]] = []
    for one in hosts:
        if groups and _story(groups[-1][0]) == _story(one):
            groups[-1].append(one)
        else:
            groups.append([one])
    short: list[list[HostResult]] = []
    for group in groups:
        untold = group[0].state is State.NOT_BEGUN and len(group) > 3
        short += [group] if untold or len(group) > _ALIKE else [[one] for one in group]
    return short


def _story(one: HostResult) -> tuple[object, ...]:
    return one.state, one.why, one.by, one.changed, *one.rescued, one.wave if one.state is not State.NOT_BEGUN else 0


def advice(result: ChangeResult, inventory: Sequence[str]) -> list[str]:
    """What a person can do next."""

    def command(name: str, hosts: Sequence[HostResult]) -> str:
        words = ["evenkeel", name, *(word for source in inventory for word in ("-i", source))]
        return shlex.join([*words, "--limit", ",".join(one.host for one in hosts[:20])])

    of = {state: [one for one in result.hosts if one.state is state] for state in State}
    lines = []
    if result.touched_outside:
        names = ", ".join(result.touched_outside)
        lines.append(f"Touched outside of the waves, neither protected nor confirmed: {names}")
    if of[State.IN_DOUBT]:
        lines.append("Ask the hosts in doubt, once they answer, what became of them:")
        lines.append("  " + command("status", of[State.IN_DOUBT]))
    if of[State.CONFIRMED] and result.exit_code is not Exit.DONE:
        lines.append("Confirmed hosts keep the change. To take it back there as well:")
        lines.append("  " + command("rollback", of[State.CONFIRMED]))
    if result.exit_code is Exit.FAILED and of[State.ROLLED_BACK]:
        lines.append("The hosts that were rolled back are as before the change; repair it and run it again.")
    return lines


def print_run(result: RunResult, console: Console) -> None:
    """Say what became of a run of one of our playbooks, host by host."""
    ok = sum(1 for one in result.hosts.values() if one["state"] == "ok")
    words = {Exit.DONE: "DONE", Exit.USAGE: "STOPPED", Exit.FAILED: "FAILED", Exit.REFUSED: "REFUSED"}
    start = words.get(result.exit_code, "IN DOUBT")
    line = f"{start}: {result.command} on {ok} of {_hosts(len(result.hosts))} ({result.seconds:.0f} s,"
    console.print(Text(f"{line} exit {int(result.exit_code)})", style=_STYLE.get(result.exit_code, "bold")))
    if result.reason:
        console.print(Text(f"Why: {result.reason}"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("host")
    table.add_column("outcome", no_wrap=True)
    table.add_column("", ratio=1, overflow="fold")
    for host, one in result.hosts.items():
        style = "green" if one["state"] == "ok" else "red"
        table.add_row(host, Text(one["state"], style=style), _told(one))
    console.print(table)


def _told(one: dict[str, Any]) -> str:
    idle = one.get("proved", []) if one.get("task") == "ft_scrub" else ["nothing to do"]
    said = one.get("done") or ([] if one.get("changed") else idle)
    return one.get("msg") or "; ".join(item if isinstance(item, str) else _step(item) for item in said[:4])


def _step(step: dict[str, Any]) -> str:
    return " ".join(str(step[key]) for key in ("action", "target") if step.get(key)) or str(step)


def _hosts(number: int) -> str:
    return f"{number} host" if number == 1 else f"{number} hosts"


def print_status(result: RunResult, console: Console) -> None:
    """What hosts are in the middle of, and what they could go back to."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("host")
    for name in ("now", "last change", "checkpoints", "holds copies for"):
        table.add_column(name, overflow="fold")
    for host, one in result.hosts.items():
        if one["state"] != "ok":
            table.add_row(host, Text(f"{one['state']}: {one['msg']}", style="red"), "", "", "")
            continue
        table.add_row(host, *status_cells(one))
    console.print(table)


def status_cells(one: dict[str, Any]) -> tuple[Text, Text, str, str]:
    """The cells of one host: now, last change, checkpoints, replicas."""
    armed, last = one.get("armed"), one.get("last")
    now = Text("at rest", style="dim")
    if one.get("interrupted"):
        now = Text("a rollback was interrupted: the next run finishes it", style="bold red")
    elif armed:
        now = Text(f"armed until {_clock(armed.get('until'))} (generation {armed.get('generation')})", style="yellow")
    ended = Text("none", style="dim")
    if last:
        state = str(last.get("outcome", "")).replace("_", " ")
        known = state in [phase.value for phase in Phase]
        ended = Text(
            f"{state} by {last.get('by')}, {_clock(last.get('at'))}", STYLES.get(Phase(state), "") if known else ""
        )
    found = one.get("checkpoints") or []
    newest = found[-1] if found else {}
    names = ", ".join(newest.get("names") or [newest.get("name") or ""]) if newest else ""
    checkpoints = f"{len(found)}{f', newest {names}' if names else ''}"
    copies = ", ".join(f"{host} ({len(ids)})" for host, ids in (one.get("replicas") or {}).items())
    return now, ended, checkpoints, copies


def _clock(epoch: Any) -> str:
    if not epoch:
        return "?"
    then, now = time.localtime(float(epoch)), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)
