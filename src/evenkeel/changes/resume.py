# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes over several hosts that a killed run has left: they are found on the hosts, and brought to one end."""

from __future__ import annotations

import calendar
import contextlib
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evenkeel.ansible.beside import beside
from evenkeel.ansible.caller import Caller
from evenkeel.ansible.event import Event
from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.options import Options
from evenkeel.ansible.plays import extra_names
from evenkeel.ansible.session import OwnRun
from evenkeel.ansible.targets import Inventory, Targets
from evenkeel.changes import decide
from evenkeel.changes.context import GRACE, Context
from evenkeel.changes.ending import Ending
from evenkeel.changes.request import Request
from evenkeel.outcome import ChangeResult, Exit, HostResult, State, UsageError, exit_code, some_of, under_way
from evenkeel.progress import Kind, Phase, Progress
from evenkeel.shared import misspelt

KEEP, BACK, WAIT = "keep", "back", "wait"
# Seconds that hosts may take to report their memory.
_ANSWER = 120.0
# Seconds after which a confirmed wave is no longer taken for one of a run that lives.
_RECENT = 3600.0
# Seconds in which a run that lives goes on after an approval, or extends the hosts, with probes of half a minute and a
# host that it asks once more; the questions of so many looks at the hosts come on top. Seconds between two looks.
_SIGN, _QUESTIONS, _LOOK = 120.0, 4, 5.0
# Seconds after which the hosts of a change that is over are brought to one end only when the change is named.
_OLD = 86400.0
# The end of a change that a person has accepted as it was.
_ACCEPTED = "accepted"
_LIVES = (
    ". The run that began it may still live: it ends its playbook once it has asked these hosts again (mostly within"
    " 15 s, and within half of the time to confirm), and has them put back what the playbook changed meanwhile"
)


@dataclass(frozen=True)
class Member:
    """A host of a change, from its own memory.

    state: held, confirmed, rolled_back or in_doubt; held also while the user's playbook may still have run; confirmed
    also where a person has accepted the host. stage: as the host notes it. until: its deadline, in epoch seconds of
    this machine's clock. by, at: who ended it, and when in epoch seconds of the host's clock.
    """

    host: str
    state: State
    generation: int
    checkpoint: str
    stage: str = ""
    until: float = 0.0
    within: float = 0.0
    by: str = ""
    at: float = 0.0


@dataclass
class Found:
    """A change over several hosts. total: the number of hosts that share one end; 0 where each host ends alone."""

    ident: str
    total: int
    members: list[Member] = field(default_factory=list)

    def hosts(self, *states: State) -> list[str]:
        """The names of the hosts in one of these states."""
        return [member.host for member in self.members if member.state in states]

    @property
    def open(self) -> bool:
        """Whether a host waits, or the hosts have come to different ends although they share one end."""
        if self.hosts(State.HELD):
            return True
        return bool(self.kept and self.hosts(State.ROLLED_BACK, State.IN_DOUBT))

    @property
    def kept(self) -> list[str]:
        """The hosts that keep the change and share its end. A host on which a person confirmed it keeps it for good."""
        kept = [one.host for one in self.members if one.state is State.CONFIRMED and one.by != decide.OPERATOR]
        return kept if self.total else []

    def is_old(self, now: float) -> bool:
        """Whether half of the hosts that kept it have done so for long, and none waits. Another one may have gone back
        late, as one that was off, or says so only because it was taken over. The clock of a host may be wrong, or the
        host may lie: the median counts, and nothing ended before it began."""
        began = 0.0
        with contextlib.suppress(ValueError, OverflowError):  # the beginning of the id, by the clock of a controller
            began = calendar.timegm(time.strptime(self.ident.partition("-")[0], "%Y%m%dT%H%M%S"))
        ends = [max(began, one.at) for one in self.members if one.host in self.kept]
        return bool(ends) and not self.hosts(State.HELD) and statistics.median_low(ends) < now - _OLD

    @property
    def runs(self) -> bool:
        """Whether the user's playbook may still run on a host."""
        return any(member.state is State.HELD and not member.stage for member in self.members)

    @property
    def decided(self) -> bool:
        """Whether the run had decided that all hosts keep the change: the decision stands on every host that waits.

        No host is told to confirm before that. So a host that was taken over, and claims to have confirmed, cannot make
        another host keep a change that nobody decided on.
        """
        return all(member.stage == "decided" for member in self.members if member.state is State.HELD)


def found(told: Mapping[str, Mapping[str, Any] | None], now: float) -> list[Found]:
    """The changes over several hosts that are not over, from the answers of ft_info at ``now``. Newest first.

    A host belongs only to those that tell of as many hosts as it does: a host that was taken over, and claims that all
    of a change share one end, takes back none that ended alone.
    """
    changes: dict[tuple[str, int], Found] = {}
    for host, info in told.items():
        for member, ident, total in _members(host, info or {}, now):
            changes.setdefault((ident, total), Found(ident, total)).members.append(member)
    return sorted((change for change in changes.values() if change.open), key=lambda change: change.ident, reverse=True)


def split(told: Mapping[str, Mapping[str, Any] | None], now: float) -> dict[str, list[str]]:
    """Id -> the hosts of each change that has come to different ends on them, although they share one end, and that a
    resumption brings to one end."""
    hosts: dict[str, list[str]] = {}
    for change in found(told, now):
        if change.kept and len(change.kept) < len(change.members) and verdict(change)[0] != WAIT:
            hosts.setdefault(change.ident, []).extend(member.host for member in change.members)
    return hosts


def _members(host: str, info: Mapping[str, Any], now: float) -> Iterable[tuple[Member, str, int]]:
    armed, last = info.get("armed"), info.get("last")
    if isinstance(armed, dict) and armed.get("change"):
        goes_back = armed.get("back") or armed.get("overdue") is not None
        state = State.ROLLED_BACK if goes_back else State.HELD
        until = now + decide.remaining(armed, now)
        stage = str(armed.get("stage") or "")
        checkpoint = str(armed.get("checkpoint") or "")
        within = float(armed.get("within") or 0)
        member = Member(host, state, int(armed.get("generation") or 0), checkpoint, stage, until, within)
        yield member, str(armed["change"]), int(armed.get("hosts") or 0)
    elif isinstance(last, dict) and last.get("change") and last.get("generation") == info.get("generation"):
        state = State(last["outcome"]) if last.get("outcome") in list(State) else State.IN_DOUBT
        # A person who accepts a host has decided for it, as one who confirms it there.
        state = State.CONFIRMED if last.get("outcome") == _ACCEPTED else state
        member = Member(host, state, int(last.get("generation") or 0), str(last.get("checkpoint") or ""))
        member = replace(member, by=str(last.get("by") or ""), at=float(last.get("at") or 0))
        yield member, str(last["change"]), int(last.get("hosts") or 0)


def verdict(change: Found) -> tuple[str, str]:
    """The end to which the hosts of a change are brought (keep, back, or wait for silent hosts), and why."""
    missing = change.total - len(change.members)
    gone = change.hosts(State.ROLLED_BACK, State.IN_DOUBT)
    if gone:
        return BACK, f"{some_of(gone)} did not keep it"
    if not change.decided:
        if change.hosts(State.CONFIRMED):
            return BACK, "it had not been decided that the hosts keep it"
        # The run that began it may still live. If not, the hosts go back by themselves.
        due = time.strftime("%H:%M:%S", time.localtime(max(member.until for member in change.members)))
        return WAIT, (
            f"it is not decided that the hosts keep it. They go back by themselves, at {due} at the latest, unless the"
            " run that began it still lives; evenkeel abort takes it back now"
        )
    if missing > 0:
        return WAIT, f"{missing} of its {change.total} hosts did not answer, or were not asked"
    return KEEP, "it had been decided that all hosts keep it"


@dataclass
class Resumption:
    """The changes of some hosts on their way to one end each. told: the memory of each host."""

    context: Context
    told: Mapping[str, Mapping[str, Any] | None]

    def bring(self, change: Found, end: str, why: str) -> tuple[str, list[HostResult]]:
        """Bring the hosts of a change to one end; why they have not reached it, or went back, and the end of each."""
        results = {member.host: _result(member) for member in change.members}
        armed = {member.host: self._armed(member) for member in change.members}
        ending = Ending(self.context, results, armed)
        if end == KEEP:
            reason = ending.confirm(change.hosts(State.HELD))
            if reason:
                ending.back(change.kept, reason)
        else:
            reason = why
            if end == BACK:
                ending.back([*change.hosts(State.HELD), *change.kept], why)
        for result in results.values():
            if result.state is State.HELD:  # it was left as it is
                result.state, result.why = State.IN_DOUBT, why
            elif result.state is State.CONFIRMED:
                result.why = result.why or (
                    "as a person left it" if result.by == decide.OPERATOR else "keeps the change"
                )
        return reason, list(results.values())

    def approve(self, change: Found) -> tuple[str, list[HostResult]]:
        """Note on the held hosts of a change that a person lets it go on; why that failed, and the hosts."""
        record, names = Record(), [member.host for member in change.members if member.stage]
        if not names:
            return "no host is held: the change still runs, or the health of its hosts has not been measured", []
        generations = {member.host: member.generation for member in change.members if member.host in names}
        variables = self.context.variables_for(
            names, evenkeel_generations=generations, evenkeel_verdicts=dict.fromkeys(names, decide.APPROVE)
        )
        run = OwnRun("settle", variables, names, fresh=True)
        ended = self.context.session.run_own(run, lambda event: feed(record, event), self.context.until(math.inf))
        results, reason = [], ""
        for member in (member for member in change.members if member.host in names):
            result = _result(member)
            answer = decide.settled(record, member.host)
            if answer is None or answer.state is not State.HELD:
                result.why = decide.why_unsettled(record, member.host) or ended.errors
                result.state = State.IN_DOUBT
                reason = reason or f"{member.host}: {result.why}"
            else:
                result.why = "approved: the run that waits goes on"
            results.append(result)
        members = [one for one in change.members if one.host in names]
        if results and not reason and (silence := self._silence(members)):
            reason = (
                f"the approval stands on {some_of(names)}, but no run has gone on within {silence:.0f} s: it may have"
                " ended. The hosts go back by themselves unless they are confirmed there (evenkeel-host confirm). Run"
                " the change again, or take it back now (evenkeel abort)"
            )
            for result in results:
                result.state, result.why = State.IN_DOUBT, "approved, but no run is seen to go on"
        return reason, results

    def _silence(self, members: Sequence[Member]) -> float:
        """The seconds in which the hosts have not shown that the run which waits has lived since the approval; 0 once
        they show it: it has written its decision, has brought a host to an end, or has extended a host."""
        clock, first = self.context.clock, dict[str, float]()
        began, end = clock.now(), 0.0
        while True:
            last = bool(end and clock.now() >= end) or self.context.stops() > 0
            told = _ask(self.context, [one.host for one in members])
            for one in members:
                if decide.lives(told[one.host], one.generation, first.setdefault(one.host, math.inf)):
                    return 0.0
                first[one.host] = min(first[one.host], decide.until(told[one.host]))
            if last:
                return max(1.0, clock.now() - began)
            # The run asks the same hosts, and they may be slow or many. It extends them before half of their time is
            # over, and a person needs the rest to confirm them there.
            armed = [answer["armed"] for answer in told.values() if answer and isinstance(answer.get("armed"), dict)]
            rest = [3 / 4 * decide.remaining(one, clock.now()) for one in armed]
            end = end or clock.now() + min([_SIGN + _QUESTIONS * (clock.now() - began), *rest])
            self.context.rest(_LOOK)

    def _armed(self, member: Member) -> decide.Armed:
        now = self.context.clock.now()
        found = decide.waiting(member.generation, member.checkpoint, member.until, member.within, now)
        return replace(found, latest=found.latest + GRACE)


def _result(member: Member) -> HostResult:
    return HostResult(
        member.host,
        1,
        member.state,
        generation=member.generation,
        checkpoint=member.checkpoint,
        until=member.until or None,
        by=member.by,
    )


def chosen(changes: Sequence[Found], ident: str, now: float) -> tuple[list[Found], list[str]]:
    """The changes to be brought to an end (that with this id, where one is given), and sentences about the others."""
    if ident:
        return [change for change in changes if change.ident == ident], []
    said = [
        f"change {change.ident} ended long ago: {some_of(change.kept)} kept it and others did not. It is left alone;"
        f" name it to bring its hosts to one end (--change {change.ident})"
        for change in changes
        if change.is_old(now)
    ]
    return [change for change in changes if not change.is_old(now)], said


def alone(told: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Sentences about hosts that are armed and belong to no change of the driver; empty where there is none."""
    armed = {host: (info or {}).get("armed") for host, info in told.items()}
    mine = {host: one for host, one in armed.items() if isinstance(one, dict) and not one.get("change")}
    back = [host for host, one in mine.items() if one.get("back") or one.get("overdue") is not None]
    said = f"{some_of(back)} {'goes' if len(back) == 1 else 'go'} back now, by the dead-man" if back else ""
    names = [host for host in mine if host not in back]
    if not names:
        return said
    return (said and f"{said}. ") + (
        f"{some_of(names)} {'is' if len(names) == 1 else 'are'} armed by a playbook without the driver, or by a"
        " rollback that is to be confirmed. That ends on each host alone: evenkeel-host confirm keeps it and"
        " evenkeel-host rollback takes it back, there; otherwise the host goes back at its deadline"
    )


def between(told: Mapping[str, Mapping[str, Any] | None], now: float) -> list[str]:
    """Sentences on changes whose run may be between two waves, which end apart: no host waits for it then, and nothing
    tells a host whether the run still lives."""
    ends: dict[str, list[str]] = {}
    for host, info in told.items():
        last = (info or {}).get("last") or {}
        ident, apart, _wave = str(last.get("change") or "").partition(".")
        recent = float(last.get("at") or 0.0) > now - _RECENT
        if apart and recent and last.get("outcome") == State.CONFIRMED and not (info or {}).get("armed"):
            ends.setdefault(ident, []).append(host)
    return [
        f"change {ident} may still run, between two of its waves: {some_of(hosts)} confirmed it lately, and no host"
        " waits. Stop it where it runs (Ctrl-C); its later waves begin otherwise"
        for ident, hosts in ends.items()
    ]


def run(command: str, options: Options, caller: Caller, ident: str = "") -> ChangeResult:
    """``resume`` brings changes that a killed run has left to one end, ``abort`` takes changes under way back, and
    ``confirm`` lets a change that waits for a person go on; all of them, or the one with the id ``ident``. Raises
    UsageError before any host is touched."""
    started = time.monotonic()
    ansible = caller.ansible()
    options = options.with_configuration(ansible.settings)
    if wrong := misspelt(extra_names(options.common)):
        raise UsageError("; ".join(wrong))
    secrets = caller.passwords(options)
    reason, results, waves, notes = "", [], [], []
    near = beside(options, ansible.cwd, ansible.settings)
    base = Path(near) if near else None
    with caller.controller.open_session(ansible, options, secrets, base) as session:
        hosts = session.list_own("status", {}, options.limit)
        inventory = caller.controller.find_inventory(options, ansible, secrets, near)
        targets = Targets(hosts, hosts, (), Inventory(hosts, {}, inventory.variables))
        context = Context(session, Request("", options), targets, {}, caller=caller)
        caller.report(Progress(Kind.PLAN, f"{command}: asks {len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}"))
        told = _ask(context, hosts)
        silent = [host for host in hosts if told[host] is None]
        now = context.clock.now()
        changes, left = chosen(found(told, now), ident, now)
        with under_way(caller.begins):
            resumption = Resumption(context, told)
            for change in changes:
                end, why = verdict(change) if command == "resume" else (BACK, f"asked for by evenkeel {command}")
                if command != "confirm":
                    lives = _LIVES if end == BACK and change.runs else ""
                    caller.report(Progress(Kind.NOTE, f"change {change.ident}: {end}, as {why}{lives}"))
                waves.append([member.host for member in change.members])
                done = resumption.approve(change) if command == "confirm" else resumption.bring(change, end, why)
                reason = reason or done[0]
                results += done[1]
    others = alone(told)
    notes += [one for one in (*left, others) if one]
    notes += between(told, now) if command == "abort" and not (changes or ident) else []
    # A host that a role has armed is nothing that could be resumed, but something that could be meant to end.
    untouched = bool(left or ident or (others and command != "resume")) and not changes
    code = _exit(command, results, reason, silent, untouched=untouched)
    if silent:
        notes.append(f"{some_of(silent)} did not answer, and may be in the middle of a change")
    first = ansible.notes
    for note in (*first, *notes):
        caller.report(Progress(Kind.NOTE, note))
    if not changes:
        which = f"no change {ident} waits" if ident else "no change waits"
        reason = notes[-1] if notes else f"{which} on {'these hosts' if len(hosts) > 1 else hosts[0]}"
    notes = [*first, *notes]
    return ChangeResult(command, code, reason, waves, results, notes, time.monotonic() - started, command=command)


def _ask(context: Context, hosts: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
    record = Record()

    def on_event(event: Event) -> None:
        feed(record, event)

    run = OwnRun("status", context.variables_for(hosts), list(hosts), question=True)
    context.tell(Phase.RUN, *hosts)
    context.session.run_own(run, on_event, context.soon(hosts, _ANSWER))
    told = {host: record.of(host, "ft_info") for host in hosts}
    return {host: result.result if result and result.status == "ok" else None for host, result in told.items()}


def _exit(command: str, results: Sequence[HostResult], reason: str, silent: Sequence[str], *, untouched: bool) -> Exit:
    """untouched: hosts are in the middle of something that the command leaves alone."""
    states = [result.state for result in results]
    if State.IN_DOUBT in states or silent:
        return Exit.IN_DOUBT
    if command == "confirm":
        return Exit.DONE if results and not reason else Exit.REFUSED
    if not results:
        return Exit.DONE if command == "resume" and not untouched else Exit.REFUSED
    return exit_code(states, complete=not reason)
