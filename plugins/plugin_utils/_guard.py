# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision whether a disruptive step may start on some hosts: pure, from health measured now (F1, F2, F3, F9)."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words as bounded
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import without_domain
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._waves import hosts_of_budget

# The number of characters of a host's words that go into a reason.
_LONGEST = 1000
# The number of service addresses of a host that are looked at.
_ADDRESSES = 16


@dataclass(frozen=True)
class Measured:
    """The answer of one host about itself, or the reason why it is missing.

    state: ``pass``, ``fail`` or ``unknown``. flight: the operation under way on the host, in words; empty without one;
    None when that is not known, because the host is unreachable or its answer is malformed.
    outcome: how its last armed change ended (``confirmed``, ``rolled_back``, ``in_doubt``), or None without one.
    restart: the flight is nothing but a restart that an earlier run left. holds: the service addresses that it has now,
    None when that is not known. idle: why it is not ready to take one; empty where it is ready.
    """

    state: str
    reachable: bool
    detail: str = ""
    flight: str | None = ""
    outcome: str | None = None
    restart: bool = False
    holds: Sequence[str] | None = None
    idle: str = "it does not say"


@dataclass(frozen=True)
class Decision:
    """Without reasons the step may start. Each reason is a sentence: the hosts, the fault, and what to do next.

    aside: hosts of the wave that may hold a service address which a host of the wave has now, the holders last. The
    address moves to another host before the step.
    """

    reasons: list[str] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)
    unhealthy: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)


def measured(result: Mapping[str, Any], change: str | None = None) -> Measured:
    """Read the result of ft_health on a host; anything but a clear answer is unknown.

    change: the change over several hosts that asks. A host that is held for this change is not in flight.
    """
    words = str(result.get("msg") or "").strip()[:_LONGEST]
    try:
        return replace(_measured(result, words, change), **_address(result))
    except (AttributeError, TypeError, ValueError, LookupError, OverflowError, OSError) as error:
        return Measured("unknown", True, f"its answer cannot be trusted: {type(error).__name__}", None)


def _measured(result: Mapping[str, Any], words: str, change: str | None) -> Measured:
    if result.get("unreachable"):
        return Measured("unknown", False, words or "no answer", None)
    told = result.get("host_state")
    if result.get("state") not in ("pass", "fail", "unknown") or not isinstance(told, Mapping):
        return Measured("unknown", True, words or "ft_health gave no result", None)
    last = told.get("last") or {}
    outcome = last.get("outcome")
    flight, under_way = "" if _is_held(told, change) else _flight(told), told.get("restart")
    ended = None if outcome is None else str(outcome)[:40]
    if not under_way:
        return Measured(str(result["state"]), True, words, flight, ended)
    said = [flight, f"{in_words(under_way)}; finish it with the same restart (evenkeel restart)"]
    left = not flight and not under_way.get("running")
    return Measured(str(result["state"]), True, words, "; ".join(filter(None, said)), ended, left)


def _address(result: Mapping[str, Any]) -> dict[str, Any]:
    told = result.get("address")
    if told is None:
        return {}
    idle = "" if told["ready"] is True else bounded(told["why"], 300) or "it does not say why"
    return {"holds": tuple(bounded(one, 100) for one in list(told["holds"])[:_ADDRESSES]), "idle": idle}


def _is_held(told: Mapping[str, Any], change: str | None) -> bool:
    """Whether the host waits, healthy and not overdue, for the other hosts of this change."""
    armed = told.get("armed") or {}
    waits = bool(armed.get("stage")) and not armed.get("back") and armed.get("overdue") is None
    return change is not None and armed.get("change") == change and waits


def _flight(told: Mapping[str, Any]) -> str:
    armed, doubt = told.get("armed"), told.get("doubt")
    if armed and doubt:
        left = "; ".join(str(one)[:_LONGEST] for one in (doubt.get("left") or [])[:5])
        which = f"its change of generation {_number(armed)} is in doubt, and still tried again ({left})"
        return f"{which}; roll it back, or accept it as it is (evenkeel accept)"
    if armed:
        until = armed.get("until")
        if isinstance(until, (int, float)):
            until = clock(until)
        return f"its change of generation {_number(armed)} is armed until {str(until)[:40]}"
    return "it was interrupted in the middle of a rollback" if told.get("interrupted") else ""


# The stage of a restart that no process carries on, in words.
_STAGES = {
    "begun": "has begun and was not carried out",
    "acting": "was not carried to its end",
    "acted": "is done and was not ended",
    "failed": "has failed",
}


def in_words(record: Mapping[str, Any]) -> str:
    """The restart that is under way on a host, from its record."""
    what = f"a restart of {bounded(record['target'], 255)} ({bounded(record['mode'], 100)})"
    places = [bounded(str(one.get("words") or one.get("host")), 200) for one in list(record["drained"] or [])[:20]]
    how = "is under way" if record["running"] else _STAGES.get(record["stage"], "is open")
    return f"{what} {how} since {clock(float(record['at']))}" + (f", drained at {', '.join(places)}" if places else "")


def clock(at: float) -> str:
    """A time (epoch seconds) in words."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _number(armed: Mapping[str, Any]) -> str:
    return str(armed.get("generation"))[:20]


def check_budgets(min_healthy: str | None, max_unavailable: str | None) -> None:
    """Raises ValueError for a malformed budget."""
    for name, text in (("min_healthy", min_healthy), ("max_unavailable", max_unavailable)):
        if text is not None:
            hosts_of_budget(text, 1, name, round_up=True)


@dataclass(frozen=True)
class Question:
    """Whether ``wave`` (host names) may go down, out of ``group``.

    hosts: the answer of each host of group, wave and earlier. domains: the failure domain of each, or None for no rule.
    failed: hosts that failed or became unreachable in this run; earlier: hosts that it armed in earlier waves.
    restart: the step is a restart, which finishes a restart that an earlier run left on a host of the wave.
    addresses: host -> the service addresses that it may hold.
    """

    group: Sequence[str]
    wave: Sequence[str]
    hosts: Mapping[str, Measured]
    min_healthy: str | None = None
    max_unavailable: str | None = None
    domains: Mapping[str, str | None] | None = None
    failed: Sequence[str] = ()
    earlier: Sequence[str] = ()
    restart: bool = False
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def everyone(self) -> list[str]:
        """The hosts of the group and of the wave, each once."""
        return list(dict.fromkeys([*self.group, *self.wave]))

    @property
    def finishes(self) -> bool:
        """Whether the step only finishes restarts that earlier runs left: these hosts count as in flight already."""
        return self.restart and bool(self.wave) and all(self.hosts[name].restart for name in self.wave)

    def in_state(self, state: str) -> list[str]:
        """The hosts of ``everyone`` with this state."""
        return [name for name in self.everyone if self.hosts[name].state == state]


def decide(question: Question) -> Decision:
    """Whether the wave may go down. Raises ValueError for a malformed budget."""
    everyone = question.everyone
    in_flight = [name for name in everyone if question.hosts[name].flight]
    reasons = [
        *_about_the_names(question),
        *_about_the_wave(question),
        *_about_min_healthy(question),
        *_about_max_unavailable(question),
        *_about_the_addresses(question),
    ]
    if question.domains is not None and not question.finishes:
        disrupted = [name for name in everyone if name in question.wave or name in in_flight]
        reasons += _across_domains(disrupted, question.domains)
    reasons += _about_this_run(question)
    healthy, unhealthy, unknown = (question.in_state(state) for state in ("pass", "fail", "unknown"))
    aside = [] if reasons else _to_stand_aside(question)
    return Decision(reasons, healthy, unhealthy, unknown, in_flight, aside)


def _about_the_names(question: Question) -> Iterator[str]:
    if not question.group:
        yield "The group is empty, so there is no health to count: name a group that has hosts."
    if not question.wave:
        yield "The wave is empty: no host would change. Check the name of the target and the limit."
    strangers = [name for name in question.wave if name not in question.group]
    if question.group and strangers:
        yield (
            f"{_names(strangers)} would change without belonging to the group whose health counts:"
            " widen the group or narrow the target."
        )


def _about_the_wave(question: Question) -> Iterator[str]:
    for name in question.wave:
        host = question.hosts[name]
        if not host.reachable:
            yield (
                f"{name} is unreachable ({host.detail}):"
                " repair the way to it, or leave it out of this change, and run again."
            )
        elif host.flight is None:
            yield f"{name} could not be measured ({host.detail}): repair that and run again."
        elif host.flight and not (host.restart and question.restart):
            yield (
                f"{name} is in flight already, {host.flight}: settle that run, or wait until the host has put"
                " itself back, and run again."
            )


def _about_min_healthy(question: Question) -> Iterator[str]:
    if question.min_healthy is None or not question.group:
        return
    size, hosts = len(question.group), question.hosts
    needed = hosts_of_budget(question.min_healthy, size, "min_healthy", round_up=True)
    others = [name for name in question.group if name not in question.wave]
    sick = [f"{name} ({hosts[name].detail or hosts[name].state})" for name in others if hosts[name].state != "pass"]
    healthy = len(others) - len(sick)
    if healthy < needed:
        yield (
            f"Without {_names(question.wave)}, {healthy} of the {size} hosts of the group would be healthy"
            f" and min_healthy asks for {needed}: "
            + (f"repair {_names(sick)} first" if sick else "make the wave smaller")
            + ", and run again."
        )


def _about_max_unavailable(question: Question) -> Iterator[str]:
    if question.max_unavailable is None or not question.group:
        return
    allowed = hosts_of_budget(question.max_unavailable, len(question.group), "max_unavailable", round_up=False)
    # An unreachable host may be in flight: its flight is None, and no empty text.
    also = [name for name in question.everyone if name not in question.wave and question.hosts[name].flight != ""]
    if question.finishes:
        return
    if len(also) + len(question.wave) > allowed:
        yield (
            f"{_count(len(question.wave), 'host')} would change"
            + (f" while {_names(also)} may be in flight" if also else "")
            + f", and max_unavailable allows {allowed} at once: "
            + ("settle or repair these hosts, or " if also else "")
            + "make the wave smaller, and run again."
        )


def _about_the_addresses(question: Question) -> Iterator[str]:
    """A host of the wave that has a service address goes down only if another one, of those that stay, can take it."""
    hosts = question.hosts
    for name in question.wave:
        if question.addresses.get(name) and hosts[name].reachable and hosts[name].holds is None:
            yield f"{name} does not say whether it has a service address now: find out why, and run again."
        for address in hosts[name].holds or ():
            others = [
                one
                for one in question.everyone
                if one not in question.wave and address in question.addresses.get(one, ())
            ]
            if any(hosts[one].state == "pass" and not hosts[one].flight and not hosts[one].idle for one in others):
                continue
            sick = [f"{one} ({hosts[one].idle or hosts[one].flight or hosts[one].detail})" for one in others]
            yield (
                f"{name} has the address {address} now, and no host outside of the wave is healthy and ready to take it"
                f"{f': repair {_names(sick)}' if sick else ': make the wave smaller, or the group larger'},"
                " and run again."
            )


def _to_stand_aside(question: Question) -> list[str]:
    held = {address for name in question.wave for address in question.hosts[name].holds or ()}
    members = [name for name in question.wave if held & set(question.addresses.get(name, ()))]
    return sorted(members, key=lambda name: bool(question.hosts[name].holds))


def _about_this_run(question: Question) -> Iterator[str]:
    if question.failed:
        yield (
            f"{_names(question.failed)} failed or became unreachable earlier in this run, so no further wave starts:"
            " repair that first, and run again."
        )
    for name in question.earlier:
        host = question.hosts[name]
        if name in question.failed or name in question.wave:
            continue
        if not host.reachable or host.flight is None:
            yield (
                f"{name}, of an earlier wave, cannot be measured ({host.detail}): whether its change stays is not"
                " known. Repair the way to it and run again."
            )
        elif host.flight:
            yield f"{name}, of an earlier wave, is still in flight, {host.flight}: settle it and run again."
        elif host.outcome != "confirmed":
            yield (
                f"{name}, of an earlier wave, ended {host.outcome or 'without an outcome'} instead of confirmed:"
                " find out why before more hosts change."
            )


def _across_domains(names: Sequence[str], domains: Mapping[str, str | None]) -> list[str]:
    nowhere = without_domain(names, domains)
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
