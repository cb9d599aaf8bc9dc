# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a command in words and a table, for a person at three in the morning."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel.ansible.options import Options
from evenkeel.outcome import ChangeResult, Exit, HostResult, Outside, RunResult, State, protected, read_owed, warnings
from evenkeel.plan.redundancy import redundancy
from evenkeel.plan.text import time_text
from evenkeel.progress import Phase
from evenkeel.show import owed
from evenkeel.show.advice import after_change, after_status, going_on, overdue, stopped
from evenkeel.show.display import STYLES, text
from evenkeel.show.redundancy import print_redundancy, print_spot_checks

_STYLE = {
    Exit.DONE: "bold green",
    Exit.FAILED: "bold yellow",
    Exit.PARTLY: "bold yellow",
    Exit.IN_DOUBT: "bold red",
}
# More hosts than this that ended alike share a line.
_ALIKE = 12
# The number of warnings of a host that are shown.
_WARNINGS = 10
# The columns beside the names of hosts, at least, where the output is no terminal.
_ROOM = 60
# The words of a host about its protected state.
_BY = {
    "deadline": "put itself back at its deadline",
    "boot": "put itself back at boot",
    "health": "put itself back, not healthy after the boot that was planned",
}
_BACK = "what is protected is as before"
# The number of paths of a host that are shown.
_PATHS = 5
_FAILURE = re.compile(r"((?:failed|unreachable) in (['\"]).*?\2): ")


class Told:
    """The sentences that a report has said: each stands in it once."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def once(self, *sentences: str) -> str:
        """The sentences that are new, or a word that they stand above."""
        some = [self._shortened(sentence) for sentence in dict.fromkeys(sentences) if sentence]
        new = [sentence for sentence in some if sentence not in self.said]
        self.said.update(some)
        return "; ".join(new) if new or not some else "as above"

    def _shortened(self, sentence: str) -> str:
        """A sentence that ends with the failure of another host names its task; the reason stands above."""
        for before in self.said:
            found = _FAILURE.match(before)
            if found and before != sentence and sentence.endswith(before):
                return sentence.removesuffix(before) + found[1]
        return sentence


def _print_why(reason: str, hosts: Iterable[str], console: Console, told: Told) -> None:
    """Print the reason, and remember it for its host."""
    if reason:
        console.print(Text(f"Why: {text(reason)}"))
        told.once(text(reason))
        for host in hosts:
            if reason.startswith(f"{host}: "):
                told.once(text(reason.removeprefix(f"{host}: ")))


def _print_other_why(result: RunResult, console: Console, told: Told) -> None:
    """Print the reason, unless it stands beside its host."""
    if not any(result.reason == f"{host}: {row['msg']}" for host, row in result.hosts.items() if row.get("msg")):
        _print_why(result.reason, result.hosts, console, told)


def _add_hosts(table: Table, names: Iterable[str], console: Console) -> None:
    """Add the column of the hosts, with their whole names. Output that is no terminal is made wide enough, as somebody
    may search it for a name."""
    if not console.is_terminal:
        console.width = max(console.width, max((len(text(name)) for name in names), default=0) + _ROOM)
    table.add_column("host", overflow="fold", no_wrap=not console.is_terminal)


def _print_advice(lines: Iterable[str], console: Console) -> None:
    for line in lines:  # not wrapped: a command is to be pasted
        console.print(Text(text(line, 10_000)), soft_wrap=line.startswith("  "))


def print_change(result: ChangeResult, console: Console, options: Options) -> None:
    """Print the end of a change, host by host, and the next steps of a person."""
    told = Told()
    console.print(Text(headline(result), style=_STYLE.get(result.exit_code, "bold")))
    _print_why(result.reason, (first.host for first in result.hosts), console, told)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    _add_hosts(table, (host.host for host in result.hosts), console)
    for name in ("wave", "outcome"):
        table.add_column(name, no_wrap=True)
    table.add_column("", ratio=1, overflow="fold")
    for hosts in alike(result.hosts):
        first = hosts[0]
        state = first.state.replace("_", " ")
        outcome = Text(state, style="dim" if first.state is State.NOT_BEGUN else STYLES.get(Phase(state), ""))
        names = first.host if len(hosts) == 1 else f"{first.host} … {hosts[-1].host} ({len(hosts)})"
        table.add_row(Text(text(names)), str(first.wave), outcome, Text(detail(first, told)))
    console.print(table)
    for line in protected(result.hosts):
        console.print(Text(text(line[0].upper() + line[1:] + ".", 10_000)))
    _print_advice(after_change(result, options), console)


def headline(result: ChangeResult) -> str:
    """The end of a change in one line."""
    took = f"{text(result.playbook)}, {result.seconds:.0f} s, exit {int(result.exit_code)}"
    if not result.hosts:
        starts = {Exit.DONE: "NOTHING TO DO", Exit.REFUSED: "REFUSED"}
        return f"{starts.get(result.exit_code, 'IN DOUBT')} ({took})"
    number = {state: sum(1 for host in result.hosts if host.state is state) for state in State}
    if result.exit_code is Exit.DONE:
        if result.command != "change":  # the command has not seen the change itself
            done = f"{_hosts(number[State.HELD] or number[State.CONFIRMED])} ({took})"
            return f"APPROVED on {done}" if number[State.HELD] else f"CONFIRMED on {done}"
        changed = sum(host.changed for host in result.hosts)
        return f"CONFIRMED on {_hosts(number[State.CONFIRMED])}, {changed} changed ({took})"
    if result.exit_code in (Exit.REFUSED, Exit.USAGE):
        return f"{'REFUSED' if result.exit_code is Exit.REFUSED else 'STOPPED'}: nothing was touched ({took})"
    parts = [f"{number[state]} {state.replace('_', ' ')}" for state in State if number[state]]
    ill = sum(host.sick for host in result.hosts if host.state is State.CONFIRMED)
    parts += [f"{ill} of the confirmed not known to be healthy since"] if ill else []
    starts = {Exit.IN_DOUBT: "IN DOUBT", Exit.PARTLY: "FAILED, AND KEPT IN PART"}
    start = starts.get(result.exit_code, "FAILED")
    if result.exit_code is Exit.FAILED and number[State.ROLLED_BACK] and not number[State.CONFIRMED]:
        start = "STOPPED AND ROLLED BACK" if stopped(result) else "FAILED AND ROLLED BACK"
        start = start if result.command == "change" else "TAKEN BACK"
    return f"{start}: {', '.join(parts)} ({took})"


def detail(host: HostResult, told: Told | None = None) -> str:
    """The words about one host besides its outcome, unless they were ``told`` before."""
    told = told or Told()
    by = _BY.get(host.by, "")
    if host.state is State.CONFIRMED:
        caught = [f"rescued: {text(one_of)}" for one_of in host.rescued]
        said = told.once(text(host.why)) or ("changed" if host.changed else "nothing to change")
        warned = _warned([*warnings(host.probes), *host.warnings])
        beside = f"also changed, and not protected: {_beside(host.outside)}" if _beside(host.outside) else ""
        return "; ".join(part for part in [said, *caught, *warned, beside, *owed.words(host.owed)] if part)
    if host.state is State.NOT_BEGUN:
        return "its wave never came"
    warned = _warned(host.warnings if host.state is State.ROLLED_BACK else ())
    return "; ".join(part for part in (by, told.once(text(host.why)), *_stays(host), *warned) if part)


def _warned(said: Iterable[str]) -> list[str]:
    return [f"warning: {text(one)}" for one in said]


def _stays(host: HostResult) -> list[str]:
    """The sentence on paths that stay changed on a host that was rolled back."""
    beside = _beside(host.outside)
    if host.state is not State.ROLLED_BACK or host.outside is None or not beside or _BACK in host.why:
        return []
    count = host.outside["count"]
    stay = "1 path outside of it stays" if count == 1 else f"{count} paths outside of it stay"
    return [f"{_BACK}; {stay} changed: {beside}" if count else f"{_BACK}; outside of it {beside}"]


def _beside(outside: Outside | None) -> str:
    """The paths that changed and that no resource covers, in words; empty where there are none."""
    if outside is None:
        return ""
    named = [f"{text(one['path'], 300)} ({text(one['what'], 100)})" for one in outside["paths"][:_PATHS]]
    more = outside["count"] - len(named)
    words = [", ".join(named) + (f" and {more} more" if more > 0 else "")] if named or more > 0 else []
    return "; ".join(words + ([] if outside["complete"] else ["not all places could be looked at"]))


def alike(hosts: Iterable[HostResult]) -> list[list[HostResult]]:
    """Hosts in their order, long runs of the same wave, state and story together."""
    groups: list[list[HostResult]] = []
    for host in hosts:
        if groups and _story(groups[-1][0]) == _story(host):
            groups[-1].append(host)
        else:
            groups.append([host])
    short: list[list[HostResult]] = []
    for group in groups:
        untold = group[0].state is State.NOT_BEGUN and len(group) > 3
        short += [group] if untold or len(group) > _ALIKE else [[host] for host in group]
    return short


def _story(host: HostResult) -> tuple[object, ...]:
    return (
        host.state,
        host.why,
        host.by,
        host.changed,
        *host.rescued,
        _beside(host.outside),
        host.outside is None,
        *owed.words(host.owed),
        *warnings(host.probes),
        *host.warnings,
        host.wave if host.state is not State.NOT_BEGUN else 0,
    )


def print_run(result: RunResult, console: Console, *, warn_of_left: bool = False) -> None:
    """Print the end of a run of one of our playbooks, host by host.

    warn_of_left: warn of ``left`` on hosts that did well.
    """
    ok = sum(1 for row in result.hosts.values() if row["state"] == "ok" and not row.get("idle"))
    words = {Exit.DONE: "DONE", Exit.USAGE: "STOPPED", Exit.FAILED: "FAILED", Exit.REFUSED: "REFUSED"}
    start = words.get(result.exit_code, "IN DOUBT")
    line = f"{start}: {result.command} on {ok} of {_hosts(len(result.hosts))} ({result.seconds:.0f} s,"
    console.print(Text(f"{line} exit {int(result.exit_code)})", style=_STYLE.get(result.exit_code, "bold")))
    told = Told()
    _print_other_why(result, console, told)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    _add_hosts(table, result.hosts, console)
    table.add_column("outcome", no_wrap=True)
    table.add_column("", ratio=1, overflow="fold")
    for host, row in result.hosts.items():
        well, said = row["state"] == "ok", text(_done(row))
        outcome = Text(row["state"], style="green" if well else "red")
        table.add_row(Text(text(host)), outcome, Text(said if well else told.once(said)))
    console.print(table)
    for host, row in result.hosts.items():
        for warning in _warnings(row, warn_of_left):
            console.print(Text(f"{text(host)}: {text(warning)}", style="yellow"))


def _warnings(row: Mapping[str, Any], of_left: bool) -> list[str]:
    """The warnings of a host; with ``of_left`` also what a successful host could not do."""
    found = [row.get("warnings"), row.get("left") if of_left and row["state"] == "ok" else None]
    said = [str(item) for listed in found if isinstance(listed, list) for item in listed]
    return list(dict.fromkeys(said))[:_WARNINGS]


def _done(row: Mapping[str, Any]) -> str:
    reads = row.get("task") in ("ft_scrub", "ft_heal")
    idle = (row.get("proved") if reads else None) or ["nothing to do"]
    said = row.get("done") or ([] if row.get("changed") else idle)
    if row.get("msg"):
        return str(row["msg"])
    more = f" and {len(said) - 4} more" if len(said) > 4 else ""
    return "; ".join(item if isinstance(item, str) else _step(item) for item in said[:4]) + more


def _step(step: Mapping[str, Any]) -> str:
    return " ".join(str(step[key]) for key in ("action", "target") if step.get(key)) or str(step)


def _hosts(number: int) -> str:
    return f"{number} host" if number == 1 else f"{number} hosts"


def print_status(
    result: RunResult, console: Console, options: Options, split: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Print the state of hosts, their checkpoints, and the next steps of a person. split: as in ``after_status``."""
    _print_other_why(result, console, Told())
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    _add_hosts(table, result.hosts, console)
    for name in ("now", "last change", "checkpoints", "restarts owed"):
        table.add_column(name, overflow="fold")
    for host, row in result.hosts.items():
        if row["state"] != "ok":
            table.add_row(Text(text(host)), Text(f"{row['state']}: {text(row['msg'])}", style="red"), "", "", "")
            continue
        table.add_row(Text(text(host)), *status_cells(row, time.time()))
    console.print(table)
    print_spot_checks(result.hosts, console)
    copies = redundancy(result.hosts)
    if copies is not None:
        print_redundancy(copies, console, time.time())
    good = {host: row for host, row in result.hosts.items() if row["state"] == "ok"}
    _print_advice(after_status(good, options, split), console)


def status_cells(row: Mapping[str, Any], at: float) -> tuple[Text, Text, Text, Text]:
    """The cells of one host at the time ``at`` (epoch seconds): now, last change, checkpoints, restarts."""
    last = row.get("last")
    ended = Text("none", style="dim")
    if last:
        state = text(last.get("outcome", "")).replace("_", " ")
        style = STYLES.get(Phase(state), "") if state in [phase.value for phase in Phase] else ""
        ended = Text(f"{state} by {text(last.get('by'))}, {_clock(last.get('at'))}", style)
    found = row.get("checkpoints") or []
    newest = found[-1] if found else {}
    names = ", ".join(newest.get("names") or [newest.get("name") or ""]) if newest else ""
    checkpoints = f"{len(found)}{f', newest {text(names)}' if names else ''}"
    checkpoints += "".join(f"; {text(one.get('name'))}: {_lag(one)}" for one in row.get("logs") or [])
    return _now(row, at), ended, Text(checkpoints), _owed(row)


def _lag(log: Mapping[str, Any]) -> str:
    """How far a log is ahead of its copies on other hosts."""
    if log.get("seconds") is None:
        return "no copy of its log"
    if not log["seconds"]:
        return "all of its log is copied"
    ahead = f", {log['bytes'] / 2**20:.1f} MiB" if log.get("bytes") is not None else ""
    return f"{time_text(log['seconds'])}{ahead} ahead of the copies of its log"


def _owed(row: Mapping[str, Any]) -> Text:
    """The restarts that are due; no text where the host did not say."""
    due = owed.words(read_owed(row.get("owed")))
    if due:
        return Text("; ".join(due), style="yellow")
    return Text("none" if isinstance(row.get("owed"), list) else "", style="dim")


def _now(row: Mapping[str, Any], at: float) -> Text:
    """The change or rollback that a host is in the middle of."""
    armed, doubt = row.get("armed"), row.get("doubt")
    if armed and going_on(row):
        until = f", tried again until {_clock(armed['tries_until'])}" if armed.get("tries_until") else ""
        left = f"; not back yet: {_some(armed['left'])}" if armed.get("left") else ""
        return Text(f"going back{until}{left} (generation {text(armed.get('generation'))})", style="yellow")
    if row.get("interrupted"):
        return Text("a rollback was interrupted: the next run finishes it", style="bold red")
    if armed and overdue(row, at):
        since = f"OVERDUE since {_clock(armed.get('until'))}: neither confirmed nor put back"
        return Text(f"{since} (generation {text(armed.get('generation'))})", style="bold red")
    if armed:
        due = armed.get("until") if armed.get("remaining") is None else at + armed["remaining"]
        until = f"{text(armed.get('stage') or 'armed')} until {_clock(due)}"
        return Text(f"{until} (generation {text(armed.get('generation'))})", style="yellow")
    if doubt:
        left = f": {_some(doubt['left'])}" if doubt.get("left") else ""
        return Text(f"in doubt since {_clock(doubt.get('at'))}{left}", style="bold red")
    if row.get("restart"):
        return _restarting(row["restart"])
    return Text("at rest", style="dim")


def _restarting(restart: Mapping[str, Any]) -> Text:
    """The restart that is open on a host: under way now, or left in the middle."""
    what = f"restart of {text(restart.get('target'))} ({text(restart.get('mode'))})"
    places = [str(one.get("words") or one.get("host")) for one in restart.get("drained") or []]
    drained = f"; drained at {_some(places)}" if places else ""
    if restart.get("running"):
        return Text(f"{what} under way{drained}", style="yellow")
    return Text(f"{what} left in the middle since {_clock(restart.get('at'))}{drained}", style="bold red")


def _some(said: Any) -> str:
    """The first items that a host names, and the number of the others."""
    items = said if isinstance(said, list) else [said]
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return "; ".join(text(item, 200) for item in items[:5]) + more


def _clock(epoch: Any) -> str:
    try:
        then, now = time.localtime(float(epoch)), time.localtime()
    except (TypeError, ValueError, OverflowError, OSError):
        return "?"
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)
