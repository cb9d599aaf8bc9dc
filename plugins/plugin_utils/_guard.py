# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""May a disruptive step start on these hosts? A pure decision, from health measured just before (F1, F2, F3, F9)."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Of what a host says, no more goes into a reason.
_LONGEST = 1000


@dataclass(frozen=True)
class Measured:
    """What one host said of itself, or why it said nothing.

    state: ``pass``, ``fail`` or ``unknown``. flight: in words, what it is in the middle of; empty when in nothing;
    None when that is not known, because the host is unreachable or its answer cannot be read.
    outcome: how its last armed change ended (``confirmed``, ``rolled_back``, ``in_doubt``), or None without one.
    """

    state: str
    reachable: bool
    detail: str = ""
    flight: str | None = ""
    outcome: str | None = None


@dataclass(frozen=True)
class Decision:
    """No reasons: the step may start. Else each reason is a sentence: which hosts, what is wrong, what to do next."""

    reasons: list[str] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)
    unhealthy: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)


def measured(result: Mapping[str, Any]) -> Measured:
    """What the result of ft_health on a host says; anything but a clear answer is unknown."""
    words = str(result.get("msg") or "").strip()[:_LONGEST]
    try:
        return _measured(result, words)
    except (AttributeError, TypeError, ValueError, OverflowError, OSError) as error:
        return Measured("unknown", True, f"its answer cannot be trusted: {type(error).__name__}", None)


def _measured(result: Mapping[str, Any], words: str) -> Measured:
    if result.get("unreachable"):
        return Measured("unknown", False, words or "no answer", None)
    told = result.get("host_state")
    if result.get("state") not in ("pass", "fail", "unknown") or not isinstance(told, Mapping):
        return Measured("unknown", True, words or "ft_health gave no result", None)
    last = told.get("last") or {}
    outcome = last.get("outcome")
    return Measured(str(result["state"]), True, words, _flight(told), None if outcome is None else str(outcome)[:40])


def _flight(told: Mapping[str, Any]) -> str:
    armed, doubt = told.get("armed"), told.get("doubt")
    if armed and doubt:
        left = "; ".join(str(one)[:_LONGEST] for one in (doubt.get("left") or [])[:5])
        which = f"its change of generation {_number(armed)} is in doubt, and still tried again ({left})"
        return f"{which}; roll it back, or accept it as it is (evenkeel accept)"
    if armed:
        until = armed.get("until")
        if isinstance(until, (int, float)):
            until = datetime.datetime.fromtimestamp(until, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"its change of generation {_number(armed)} is armed until {str(until)[:40]}"
    return "it was interrupted in the middle of a rollback" if told.get("interrupted") else ""


def _number(armed: Mapping[str, Any]) -> str:
    return str(armed.get("generation"))[:20]


def hosts_of_budget(text: str, size: int, name: str, round_up: bool) -> int:
    """A number of hosts of a group of ``size``: ``2``, ``60%`` or ``quorum`` (more than half).

    round_up: to which side a share of a host goes; always to the one that lets fewer hosts be down at once.
    Raises ValueError for anything else.
    """
    written = str(text).strip()
    if written == "quorum":
        return size // 2 + 1
    match = re.fullmatch(r"(\d+)(%?)", written)
    if not match or (match[2] and int(match[1]) > 100):
        raise ValueError(f"{name}: {text!r} is not a number of hosts; write one such as 2, 60% or quorum")
    if not match[2]:
        return int(match[1])
    share = int(match[1]) * size / 100
    return math.ceil(share) if round_up else math.floor(share)


def check_budgets(min_healthy: str | None, max_unavailable: str | None) -> None:
    """Raises ValueError for a budget that is none."""
    for name, text in (("min_healthy", min_healthy), ("max_unavailable", max_unavailable)):
        if text is not None:
            hosts_of_budget(text, 1, name, round_up=True)


def decide(
    group: Sequence[str],
    wave: Sequence[str],
    hosts: Mapping[str, Measured],
    min_healthy: str | None = None,
    max_unavailable: str | None = None,
    domains: Mapping[str, str | None] | None = None,
    lost: Sequence[str] = (),
    earlier: Sequence[str] = (),
) -> Decision:
    """Whether ``wave`` (host names) may go down, out of ``group``.

    hosts: what each host of group, wave and earlier said. domains: the failure domain of each, or None for no rule.
    lost: hosts that this run has lost already (failed or unreachable); earlier: hosts that it armed in waves before.
    Raises ValueError for a budget that is none.
    """
    reasons: list[str] = []
    if not group:
        reasons.append("The group is empty, so there is no health to count: name a group that has hosts.")
    if not wave:
        reasons.append("The wave is empty: no host would change. Check the name of the target and the limit.")
    strangers = [name for name in wave if name not in group]
    if group and strangers:
        reasons.append(
            f"{_names(strangers)} would change without being of the group whose health counts:"
            " widen the group or narrow the target."
        )
    everyone = list(dict.fromkeys([*group, *wave]))
    in_flight = [name for name in everyone if hosts[name].flight]
    away = [name for name in everyone if hosts[name].flight is None]

    for name in wave:
        host = hosts[name]
        if not host.reachable:
            reasons.append(
                f"{name} is unreachable ({host.detail}):"
                " repair the way to it, or leave it out of this change, and run again."
            )
        elif host.flight is None:
            reasons.append(f"{name} could not be measured ({host.detail}): repair that and run again.")
        elif host.flight:
            reasons.append(
                f"{name} is in flight already, {host.flight}: settle that run, or wait until the host has put"
                " itself back, and run again."
            )

    others = [name for name in group if name not in wave]
    healthy = [name for name in others if hosts[name].state == "pass"]
    if min_healthy is not None and group:
        needed = hosts_of_budget(min_healthy, len(group), "min_healthy", round_up=True)
        if len(healthy) < needed:
            sick = [f"{name} ({hosts[name].detail or hosts[name].state})" for name in others if name not in healthy]
            reasons.append(
                f"Without {_names(wave)}, {len(healthy)} of the {len(group)} hosts of the group would be healthy"
                f" and min_healthy asks for {needed}: "
                + (f"repair {_names(sick)} first" if sick else "make the wave smaller")
                + ", and run again."
            )
    if max_unavailable is not None and group:
        allowed = hosts_of_budget(max_unavailable, len(group), "max_unavailable", round_up=False)
        # An unreachable host may be in the middle of anything.
        also = [name for name in everyone if name not in wave and (name in in_flight or name in away)]
        if len(also) + len(wave) > allowed:
            reasons.append(
                f"{_count(len(wave), 'host')} would change"
                + (f" while {_names(also)} may be in flight" if also else "")
                + f", and max_unavailable allows {allowed} at once: "
                + ("settle or repair those, or " if also else "")
                + "make the wave smaller, and run again."
            )
    if domains is not None:
        reasons += _across_domains([name for name in everyone if name in wave or name in in_flight], domains)

    if lost:
        reasons.append(
            f"{_names(lost)} failed or became unreachable earlier in this run, so that no further wave starts:"
            " see to it first, and run again."
        )
    for name in earlier:
        host = hosts[name]
        if name in lost or name in wave:
            continue
        if not host.reachable or host.flight is None:
            reasons.append(
                f"{name}, of an earlier wave, cannot be measured ({host.detail}): whether its change stays is not"
                " known. Repair the way to it and run again."
            )
        elif host.flight:
            reasons.append(f"{name}, of an earlier wave, is still in flight, {host.flight}: settle it and run again.")
        elif host.outcome != "confirmed":
            reasons.append(
                f"{name}, of an earlier wave, ended {host.outcome or 'without an outcome'} instead of confirmed:"
                " find out why before more hosts change."
            )
    return Decision(
        reasons,
        [name for name in everyone if hosts[name].state == "pass"],
        [name for name in everyone if hosts[name].state == "fail"],
        [name for name in everyone if hosts[name].state == "unknown"],
        in_flight,
    )


def _across_domains(names: Sequence[str], domains: Mapping[str, str | None]) -> list[str]:
    nowhere = [name for name in names if not domains.get(name)]
    if nowhere:
        return [f"{_names(nowhere)}: no failure domain is known. Set the variable for every host of the group."]
    spread: dict[str, list[str]] = {}
    for name in names:
        spread.setdefault(str(domains[name]), []).append(name)
    if len(spread) < 2:
        return []
    listed = "; ".join(f"{domain}: {', '.join(there)}" for domain, there in sorted(spread.items()))
    return [
        f"The hosts in flight would span {len(spread)} failure domains ({listed}):"
        " change one domain at a time, wave by wave."
    ]


def earlier_hosts(everyone: Sequence[str], order: str | None, batch: Sequence[str]) -> list[str] | None:
    """The hosts of a serial play whose batch came before this one; None when its order cannot be known.

    everyone: the hosts of the play, in the order of the inventory. order: the play's keyword.
    """
    if order == "shuffle":
        return None
    ordered = list(everyone)
    if order in ("sorted", "reverse_sorted"):
        ordered.sort()
    if order in ("reverse_inventory", "reverse_sorted"):
        ordered.reverse()
    first = next((at for at, name in enumerate(ordered) if name in batch), 0)
    return ordered[:first]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
