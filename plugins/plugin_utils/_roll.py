# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a rolling restart: which hosts, in which waves, and what speaks against it. Pure, from answers of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _waves
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._guard import clock, in_words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import without_domain

# The level at which a host owes the restart of a service, which the roll does. Other levels are only named.
_SERVICE = "service"
_LEVELS = {
    "reboot": "a reboot",
    "soft-reboot": "a soft-reboot",
    "by-name": "a restart by name",
    "unknown": "something that could not be looked at",
}
# The errors of a host by which the request itself is wrong.
_WRONG = ("UsageError", "NotFound")


@dataclass(frozen=True)
class Rolled:
    """The last restart of this kind on a host by a roll: its roll, and the number of hosts that the roll had. ok: it
    has ended well, and nothing that failed came after it."""

    roll: str
    at: float
    hosts: int
    ok: bool = True


@dataclass(frozen=True)
class Seen:
    """The answer of one host. why: the reason why there is none, or why the host cannot be restarted as requested.

    left: the restart that an earlier run left under way, in words. running: it goes on now. leads: whether the host
    leads its group. owed: the units that owe a restart. above: what else it owes, at the level of the host.
    tries, failures, seconds: of earlier restarts, their number, those that failed, and the mean time of the others.
    place: of its store, and the target: the same under every name of the host; empty where it is not known.
    idle: the target and its state, in words, where it does not run now.
    """

    why: str = ""
    wrong: bool = False
    left: str = ""
    running: bool = False
    leads: bool = False
    owed: Sequence[str] = ()
    above: Sequence[str] = ()
    rolled: Rolled | None = None
    tries: int = 0
    failures: int = 0
    seconds: float = 0.0
    place: str = ""
    idle: str = ""


def seen(answer: Mapping[str, Any], asks_leader: bool = False) -> Seen:
    """Read the answer of a host; anything but a clear answer is a reason to restart nothing.

    asks_leader: the host was asked whether it leads.
    """
    if answer.get("unreachable") or answer.get("failed"):
        why = words(str(answer.get("msg") or "no answer"), 1000)
        prefix = "unreachable: " if answer.get("unreachable") else ""
        return Seen(prefix + why, wrong=answer.get("error") in _WRONG)
    if asks_leader and answer.get("leads") not in (True, False):
        return Seen("whether it leads its group is not known, as the command (last) could not be run to its end")
    try:
        return _seen(answer)
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError) as error:
        return Seen(f"its answer cannot be read ({type(error).__name__}: {words(str(error), 200)})")


def _seen(answer: Mapping[str, Any]) -> Seen:
    if answer["refusal"]:
        return Seen(words(str(answer["refusal"]), 1000), wrong=True)
    under_way, history = answer["restart"], answer["history"] or {}
    if under_way and under_way["target"] != answer["target"]:
        return Seen(f"{in_words(under_way)}. Finish that by the same restart, or accept the host (evenkeel accept)")
    owed = answer.get("owed") or []
    above = [
        f"{_LEVELS.get(one['level'], '')} ({words('; '.join([*filter(None, [one['unit']]), *one['why']]), 200)})"
        for one in owed
    ]
    return Seen(
        left=in_words(under_way) if under_way else "",
        running=bool(under_way and under_way["running"]),
        leads=answer["leads"] is True,
        owed=[words(one["unit"], 255) for one in owed if one["level"] == _SERVICE],
        above=[said for one, said in zip(owed, above, strict=True) if one["level"] in _LEVELS],
        rolled=_rolled(under_way, answer["rolled"]),
        tries=int(_within(history.get("tries") or 0)),
        failures=int(_within(history.get("failures") or 0)),
        seconds=_within(history.get("seconds") or 0.0),
        place=f"{words(answer['place'], 64)} {words(answer['target'], 200)}" if answer.get("place") else "",
        idle=_idle(answer.get("before")),
    )


def _idle(before: Mapping[str, Any] | None) -> str:
    if not before or before["active"] is not False:
        return ""
    return f"{words(before['name'], 200)} does not run now ({words(before['text'], 100)})"


def _rolled(under_way: Mapping[str, Any] | None, rolled: Mapping[str, Any] | None) -> Rolled | None:
    """The last act of a roll on this host. The restart that is under way is newer than every one that has ended."""
    last = under_way if under_way and under_way["roll"] else rolled
    if not last:
        return None
    ok = last is rolled and last["ok"] is True
    return Rolled(words(last["roll"], 64), _within(last["at"], 1e11), int(_within(last["hosts"])), ok)


def _within(value: Any, most: float = 1e9) -> float:
    """The number, if a host of ours can have said it. ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError("a number is out of bounds")
    return float(value)


@dataclass(frozen=True)
class Question:
    """The hosts of a roll in the order of the inventory, each with its answer.

    sizes: of the waves. domains: the failure domain of each host, or None where it does not count. owed: only hosts
    that owe a restart are restarted. resume: hosts that the interrupted roll has restarted are left out.
    """

    hosts: Mapping[str, Seen]
    sizes: Sequence[str]
    domains: Mapping[str, str | None] | None = None
    owed: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Plan:
    """The waves of a roll.

    roll: the interrupted roll that goes on; empty for a new one. hosts: the number of hosts of the roll. skipped: host
    -> why it is not restarted. reasons: host -> why nothing may be restarted, a sentence; an empty name stands for all
    hosts. wrong: they are a fault of the request.
    """

    waves: Sequence[Sequence[str]] = ()
    roll: str = ""
    hosts: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    wrong: bool = False

    @property
    def order(self) -> list[str]:
        """The hosts, in the order in which they are restarted."""
        return [host for wave in self.waves for host in wave]


def plan(question: Question) -> Plan:
    """Plan the roll. ValueError for malformed sizes of waves."""
    reasons = dict(_against(question))
    if reasons:
        wrong = all(one.wrong for one in question.hosts.values() if one.why)
        running = any(one.running for one in question.hosts.values())
        return Plan(reasons=reasons, wrong=wrong and not running and bool(question.hosts))
    roll, finished = _interrupted(question)
    notes = _notes(question, roll, finished)
    skipped: dict[str, str] = {}
    for name, seen in question.hosts.items():
        if seen.left:
            continue  # it is finished in any case
        if question.owed and not seen.owed:
            skipped[name] = "nothing is owed" + (f" but {'; '.join(seen.above)}" if seen.above else "")
        elif question.resume and name in finished:
            skipped[name] = f"restarted at {clock(finished[name])} by the roll that goes on"
    hosts = [name for name in question.hosts if name not in skipped]
    notes += _started(question, hosts)
    waves, goes_on = _split(question, hosts), question.resume and roll != ""
    size = max(
        (one.rolled.hosts for one in question.hosts.values() if one.rolled and one.rolled.roll == roll), default=0
    )
    return Plan(waves, roll if goes_on else "", size if goes_on else len(hosts), skipped, notes)


def _split(question: Question, hosts: Sequence[str]) -> list[tuple[str, ...]]:
    """Hosts that are in the middle of a restart come first: they may be down already. Leaders come last, one at a
    time."""
    seen = question.hosts
    left = [name for name in hosts if seen[name].left]
    leaders = [name for name in hosts if seen[name].leads and name not in left]
    others = [name for name in hosts if name not in left and name not in leaders]
    waves = [*_waves.split(left, question.sizes), *_waves.split(others, question.sizes)]
    if question.domains is not None:
        waves = _waves.by_domain(waves, {name: str(question.domains[name]) for name in hosts})
    return [*waves, *((name,) for name in leaders)]


def _against(question: Question) -> Iterator[tuple[str, str]]:
    if not question.hosts:
        yield "", "There is no host to restart: check the name of the target and the limit."
    _waves.parse(",".join(question.sizes))
    places: dict[str, str] = {}
    for name, seen in question.hosts.items():
        other = places.setdefault(seen.place, name) if seen.place else name
        if other != name:
            yield name, f"{name} is {other} under another name, by its store: leave one of them out, and run again."
        if seen.why:
            yield name, f"{name}: {seen.why.rstrip('.')}. Repair that, or leave the host out, and run again."
        elif seen.running:
            yield name, f"{name}: {seen.left}, and it still runs: wait for its end, and run again."
    if question.domains is not None:
        nowhere = without_domain(question.hosts, question.domains)
        if nowhere:
            said = f"{', '.join(nowhere)}: no failure domain is known. Set the variable for every host of the group."
            yield "", said


def _interrupted(question: Question) -> tuple[str, Mapping[str, float]]:
    """The newest roll, unless it has restarted all its hosts; and the hosts that it has restarted, each with the time.

    It is the newest that was begun on any host, whatever its end. An older one does not go on: its hosts were to be
    restarted once more.
    """
    known = {name: seen.rolled for name, seen in question.hosts.items() if seen.rolled}
    newest = max(known.values(), key=lambda one: one.at, default=None)
    if newest is None:
        return "", {}
    ended = [
        name for name, one in known.items() if one.roll == newest.roll and one.ok and not question.hosts[name].left
    ]
    done = {name: known[name].at for name in ended}
    if len(done) >= newest.hosts or len(done) == len(question.hosts):
        return "", {}
    return newest.roll, done


def _notes(question: Question, roll: str, finished: Mapping[str, float]) -> list[str]:
    notes = [f"{name}: {seen.left}; it is restarted first" for name, seen in question.hosts.items() if seen.left]
    if roll and not question.resume:
        notes.append(
            f"an earlier roll was interrupted after {', '.join(finished) or 'no host'}; all hosts are restarted now,"
            " unless it goes on (--resume, evenkeel_resume)"
        )
    if question.resume and not roll:
        notes.append("no interrupted roll is known on these hosts, so that all are restarted")
    notes += [f"{name} leads its group; it is restarted last" for name, seen in question.hosts.items() if seen.leads]
    return notes


def _started(question: Question, hosts: Sequence[str]) -> list[str]:
    """Sentences on hosts where the target does not run, other than those in the middle of a restart."""
    found: dict[str, list[str]] = {}
    for name in hosts:
        if question.hosts[name].idle and not question.hosts[name].left:
            found.setdefault(question.hosts[name].idle, []).append(name)
    return [f"{', '.join(names)}: {said}, and is started" for said, names in found.items()]


@dataclass(frozen=True)
class Forecast:
    """The record of earlier restarts of this kind on these hosts: their number, the seconds that the roll takes, and
    the chance that a restart of it fails; None without any.

    One restart fails with (failures + 1) / (tries + 2), the rule of succession (P.-S. Laplace, Théorie analytique des
    probabilités, 1812).
    """

    tries: int
    seconds: float | None
    risk: float | None


def forecast(planned: Plan, hosts: Mapping[str, Seen]) -> Forecast:
    """The time and the risk of the plan, from the history of its hosts."""
    chosen = [hosts[name] for name in planned.order]
    tries = sum(one.tries for one in chosen)
    if not tries:
        return Forecast(0, None, None)
    measured = [one.seconds for one in chosen if one.tries > one.failures]
    slowest = max(measured, default=0.0)
    once = (sum(one.failures for one in chosen) + 1) / (tries + 2)
    seconds = slowest * len(planned.waves) if measured else None
    return Forecast(tries, seconds, 1.0 - (1.0 - once) ** len(chosen))
