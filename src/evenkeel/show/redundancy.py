# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copies of checkpoints and the cost of a loss, for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel.outcome import some_of
from evenkeel.plan.redundancy import ANSWERED, GONE, NOT_ASKED, SILENT, Copy, Loss, Owner, Redundancy
from evenkeel.plan.text import plural
from evenkeel.show.display import text

# The losses, the sentences of a spot check, and the characters of a name that are shown.
_LOSSES, _SENTENCES, _NAME = 12, 20, 80
_STANDING = {
    GONE: "gone from the inventory; kept until somebody says otherwise",
    SILENT: "did not answer",
    NOT_ASKED: "was not asked",
}


def print_redundancy(found: Redundancy, console: Console, at: float) -> None:
    """Print the copies of each host, and the losses that cost something. at: the time now, in epoch seconds."""
    table = _table("copies of", "checkpoint", "newest copy", "verified", "held by")
    for owner in found.owners:
        table.add_row(*_cells(owner, at))
    console.print()
    console.print(table)
    domain = text(found.variable, _NAME)
    if found.losses:
        losses = _table("if lost", "newest checkpoints without a copy then")
        for loss in found.losses[:_LOSSES]:
            name = f"{domain} {text(loss.name, _NAME)}" if loss.domain else text(loss.name, _NAME)
            losses.add_row(Text(name, style="yellow"), Text(_cost(loss)))
        console.print(losses)
        if len(found.losses) > _LOSSES:
            console.print(Text(f"and {len(found.losses) - _LOSSES} more such losses (--json has all)", style="yellow"))
    elif any(owner.holders for owner in found.owners):
        one = f"one host or one {domain}" if domain else "one host"
        console.print(Text(f"The loss of {one} leaves a copy of every newest checkpoint above.", style="dim"))
    _print_unknown(found, console)


def _print_unknown(found: Redundancy, console: Console) -> None:
    silent = [f"{text(some_of(found.silent))} (no answer)"] if found.silent else []
    unasked = [f"{plural(found.unasked, 'host')} of the inventory (not asked)"] if found.unasked else []
    if silent or unasked:
        where = " and ".join([*silent, *unasked])
        console.print(Text(f"Copies on {where} are not known, and count for nothing here.", style="yellow"))


def print_spot_checks(rows: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print what hosts miss in their newest checkpoint, and copies that they could not look at; hosts with the same
    sentence share a line."""
    hosts_of: dict[str, list[str]] = {}
    for host, row in rows.items():
        for sentence in [*(row.get("spot_check") or []), *(row.get("left") or [])]:
            hosts_of.setdefault(sentence, []).append(host)
    for sentence, hosts in list(hosts_of.items())[:_SENTENCES]:
        console.print(Text(text(f"{some_of(hosts)}: {sentence}", 600), style="yellow"))
    if len(hosts_of) > _SENTENCES:
        console.print(Text(f"and {len(hosts_of) - _SENTENCES} more of these (--json has all)", style="yellow"))


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name == "newest copy")
    return table


def _cells(owner: Owner, at: float) -> tuple[Text, ...]:
    copies = [one for one in owner.copies if one.whole]
    newest = max((one.created for one in copies if one.created is not None), default=None)
    verified = min((one.verified for one in copies if one.verified is not None), default=None)
    own = _age(owner.created, at) if owner.own else "none" if owner.standing == ANSWERED else "not known"
    cells = [own, _age(newest, at) if copies else "none", _age(verified, at) if copies else ""]
    return Text(text(owner.host, _NAME)), *map(Text, cells), _copies_text(owner)


def _copies_text(owner: Owner) -> Text:
    """The peers with a copy of the newest checkpoint, and the faults of other copies."""
    good = [one for one in owner.copies if one.newest]
    wanted = f" of {owner.wanted:.0f}" if owner.wanted is not None else ""
    words = [f"{len(good)}{wanted}: {_places(good)}" if good else f"0{wanted}"]
    words += [f"{_place(one)} {_fault(one)}" for one in owner.copies if not one.newest]
    words += [f"{_places(unmarked)} without a MAC"] if (unmarked := [one for one in good if not one.mac]) else []
    words += [_STANDING[owner.standing]] if owner.standing in _STANDING else []
    well = len(words) == 1 and len(good) >= (owner.wanted or 0)
    return Text("; ".join(words), style="" if well else "yellow")


def _fault(copy: Copy) -> str:
    if copy.damaged:
        return f"has {plural(copy.damaged, 'damage')}"
    if not copy.id:
        return "has no whole one"
    return f"is {_span(copy.behind)} behind" if copy.behind else "has another than the newest"


def _places(copies: Sequence[Copy]) -> str:
    more = f" and {len(copies) - 5} more" if len(copies) > 5 else ""
    return ", ".join(map(_place, copies[:5])) + more


def _place(copy: Copy) -> str:
    return text(copy.peer, _NAME) + (f" ({text(copy.domain, _NAME)})" if copy.domain else "")


def _cost(loss: Loss) -> str:
    """The hosts whose newest checkpoint would be gone, and how much older the copies are that would be left."""
    some = [
        f"{text(host, _NAME)} ({'no copy is left' if older is None else f'a copy {_span(older)} older is left'})"
        for host, older in list(loss.owners.items())[:5]
    ]
    return ", ".join(some) + (f" and {len(loss.owners) - 5} more" if len(loss.owners) > 5 else "")


def _age(moment: float | None, at: float) -> str:
    if moment is None:
        return "not known"
    return _span(at - moment) if at - moment > -60 else "in the future"


def _span(seconds: float) -> str:
    """A time in one unit, rounded down: ``40 s``, ``12 min``, ``3 h``, ``2 d``."""
    for size, unit in ((172800, "d"), (7200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds // {'d': 86400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
