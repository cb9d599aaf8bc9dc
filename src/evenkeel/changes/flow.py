# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change over a fleet, wave by wave: nothing is kept unless it is confirmed.

Every host is fenced and puts itself back by itself; the driver is expendable. The hosts decide where the driver does
not know a fact, and the driver asks them afterwards.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from evenkeel.ansible import plays, tasks
from evenkeel.ansible.caller import Caller, CallerArguments
from evenkeel.ansible.event import Event
from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.session import WITNESS, OwnRun, Seen, Session
from evenkeel.ansible.targets import Targets, directory_of
from evenkeel.changes import decide, preflight, waves
from evenkeel.changes.context import GRACE, SHORT_TIMEOUT, STOPPED, Context
from evenkeel.changes.ending import Ending
from evenkeel.changes.evidence import StopIf, conditions
from evenkeel.changes.extending import Extending
from evenkeel.changes.notify import Notifier
from evenkeel.changes.request import ALL, DEFAULT_CONFIRM_WITHIN, DEFAULT_WAVES, WAVE, Request
from evenkeel.changes.wave import Wave
from evenkeel.outcome import (
    ChangeResult,
    Exit,
    HostResult,
    State,
    UsageError,
    exit_code,
    some_of,
    under_way,
)
from evenkeel.progress import Kind, Phase, Progress

# Additional seconds for a measurement of confirmed hosts, and the pause between two measurements.
_MEASURE, _PAUSE = 60.0, 10.0


def change(request: Request, **caller: Unpack[CallerArguments]) -> ChangeResult:
    """Run ``request.playbook`` over its hosts in waves, each confirmed by its hosts' health or rolled back.

    caller: see ``evenkeel.ansible.caller.Caller``. Raises UsageError before anything is touched.
    """
    return run(request, Caller(**caller))


def run(request: Request, caller: Caller) -> ChangeResult:
    """Run the change of the request for a caller. Raises UsageError before anything is touched."""
    started = time.monotonic()
    ansible = caller.ansible()
    options = request.options.with_configuration(ansible.settings)
    path = Path(os.path.join(ansible.cwd, request.playbook))
    plays.no_prompts(request.playbook, path, options.common)
    plays.no_debugger(request.playbook, path, str(ansible.settings.get("DEFAULT_STRATEGY", "linear")))
    plays.no_settings(request.playbook, path)
    if options.tags(ansible.settings) is None:
        raise UsageError(f"--tags and --skip-tags leave no task of {request.playbook}")
    secrets = caller.passwords(options)
    targets = caller.controller.find_targets(request.playbook, options, ansible, secrets)
    chosen = tasks.check(request.playbook, options, ansible, secrets)
    targets = replace(targets, notes=(*targets.notes, *chosen.notes, *plays.elsewhere(request.playbook, path)))
    base = Path(directory_of(request.playbook, ansible.cwd))
    with caller.controller.open_session(ansible, options, secrets, base) as session:
        whole = _prepare(session, request, targets, caller)
        chosen.starts_in(whole.plan, whole.context.targets.local)
        gather = plays.gathers(path, str(ansible.settings.get("DEFAULT_GATHERING", "implicit")))
        with under_way(caller.begins), whole.context.stop_if or nullcontext():
            try:
                reason, usage = whole.run(gather=gather)
            finally:
                whole.note(whole.notifier.close())
    code = exit_code([result.state for result in whole.hosts.values()], complete=not reason)
    if code is Exit.REFUSED and usage:
        code = Exit.USAGE
    return ChangeResult(
        playbook=request.playbook,
        exit_code=code,
        reason=reason,
        waves=[list(wave) for wave in whole.plan],
        hosts=list(whole.hosts.values()),
        notes=whole.notes,
        seconds=time.monotonic() - started,
        touched_outside=sorted(whole.touched),
        left_out=sorted(whole.left_out),
    )


def _prepare(session: Session, request: Request, targets: Targets, caller: Caller) -> Change:
    """The change, after all checks that are possible before a host is armed. Raises UsageError."""

    def stop() -> str:
        return STOPPED if caller.asked_to_stop() else ""

    targets = preflight.resolved(session, targets, stop=stop)
    domain = preflight.agreed(request.guard_domain, "evenkeel_guard_domain", "", targets)
    targets = preflight.resolved(session, targets, domain, stop=stop) if domain else targets
    targets = replace(targets, group=preflight.group(targets))
    preflight.well_written(request, targets)
    sizes = preflight.agreed(request.waves, "evenkeel_waves", DEFAULT_WAVES, targets)
    plan = waves.split(targets.hosts, waves.parse(sizes))
    if domain:
        plan = waves.by_domain(plan, preflight.domains(domain, targets))
    notes = [*targets.notes, *preflight.check(request.probes, request.resources, targets)]
    strict = preflight.strict(request.probes, targets)
    within = preflight.agreed(request.confirm_within, "evenkeel_confirm_within", DEFAULT_CONFIRM_WITHIN, targets)
    terms = preflight.terms(request, targets, plan)
    notifier = Notifier(preflight.notify_url(request.notify, targets), terms.ident, request.playbook)
    variables = {**request.variables(), "evenkeel_confirm_within": within, "evenkeel_at_most": terms.at_most}
    variables |= {"evenkeel_guard_domain": domain} if domain else {}
    if caller.asked_to_stop():
        raise UsageError("stopped before anything was touched")
    total = f"{len(targets.hosts)} {'host' if len(targets.hosts) == 1 else 'hosts'}"
    count = f"{len(plan)} {'wave' if len(plan) == 1 else 'waves'}"
    caller.report(Progress(Kind.PLAN, f"{request.playbook}: {total} in {count}"))
    caller = replace(caller, report=notifier.listening(caller.report))
    asked = conditions(preflight.stop_if(request.stop_if, targets))
    context = Context(session, request, targets, variables, strict, caller, terms=terms)
    if asked:
        context = replace(context, stop_if=StopIf(asked, context.note))
    for note in notes:
        context.note(note)
    if context.stop_if is not None:
        context.stop_if.check()
    hosts = {host: HostResult(host, number) for number, wave in enumerate(plan, 1) for host in wave}
    return Change(context, plan, hosts, notes, notifier=notifier)


@dataclass
class Change:
    """All waves, one after the other.

    extends: makes the object that extends deadlines. notifier: posts outcomes. armed: the dead-men of all hosts so far.
    touched: hosts outside of their wave; left_out: host -> the play that left it out.
    """

    context: Context
    plan: Sequence[tuple[str, ...]]
    hosts: dict[str, HostResult]
    notes: list[str] = field(default_factory=list)
    extends: Callable[[Context], Extending] = Extending
    notifier: Notifier = field(default_factory=lambda: Notifier("", "", ""))
    armed: dict[str, decide.Armed] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self, *, gather: bool) -> tuple[str, bool]:
        """Run all waves. Returns why the change stopped (or nothing), and whether the reason was a wrong usage.

        gather: the playbook gathers facts.
        """
        later = [host for wave in self.plan[1:] for host in wave]
        if gather and later:
            self._gather(later)
        with self.extends(self.context) as extending:
            reason, usage = self._waves(extending)
            if len(self.plan) > 1 and not self.context.stops():
                reason = reason or self._measure()
            if not reason and self.context.terms.bake:
                reason = self._watch(self.context.terms.bake, "all hosts bake")
            held = self._in_state(State.HELD)
            extending.release(held)
            return self._end(held, reason), usage

    def _waves(self, extending: Extending) -> tuple[str, bool]:
        """Run the waves, until one fails. Returns as ``run``."""
        terms, reason, usage = self.context.terms, "", False
        for number, wave in enumerate(self.plan, 1):
            if number > 1:
                reason = self._watch(terms.pause, f"a pause before wave {number}") if terms.pause else self._measure()
            if not reason and self.context.stops() and number > 1:
                reason = "stopped by the user between two waves"
            if reason:
                break
            self.context.caller.report(Progress(Kind.WAVE, hosts=wave, wave=number, waves=len(self.plan)))
            reason, usage = self._wave(number, wave, extending)
            held = [host for host in wave if self.hosts[host].state is State.HELD]
            if not reason and number == terms.hold_after:
                reason = self._wait_for_a_person(held)
            if held and terms.on_failure != ALL:
                extending.release(held)
                reason = self._end(held, reason)
            if reason:
                break
        return reason, usage

    def _wave(self, number: int, hosts: Sequence[str], extending: Extending) -> tuple[str, bool]:
        terms, total = self.context.terms, len(self.hosts)
        self.context.reached.update(hosts)
        wave = Wave(
            self.context,
            {host: self.hosts[host] for host in hosts},
            extending,
            decide.HOLD if terms.holds(number, hosts, total) else decide.PROBE,
            unit=terms.unit(number, hosts, total),
        )
        reason, usage = wave.run()
        reason = reason or self.context.must_stop()
        self.armed.update(wave.armed)
        extending.cover(self.armed, self._in_state(State.HELD))
        witnessed = self.context.session.seen() if wave.changed else None
        seen = witnessed or Seen()
        self.touched.update(seen.touched)
        targets = self.context.targets
        if not self.context.request.options.limit:  # with a limit the user leaves out hosts deliberately
            known = {*targets.hosts, *targets.local}
            self.left_out.update({host: play for host, play in seen.left_out.items() if host not in known})
        good = (State.CONFIRMED, State.HELD)
        unsettled = [result for result in wave.hosts.values() if result.state not in good]
        if unsettled and not reason:
            reason = f"{unsettled[0].host}: {unsettled[0].why}"
        if not reason and witnessed is None:
            reason = f"nobody knows which hosts the playbook left out: the callback {WITNESS} did not run"
        for host, play in self.left_out.items():
            reason = reason or (
                f"{host} was added while the playbook ran, and is protected by nothing: play {play!r} was left out"
                " there. Add it to the inventory, or configure it in a run of its own"
            )
        return reason, usage

    def _end(self, waiting: Sequence[str], reason: str) -> str:
        """Confirm the hosts that wait, or have them go back. Returns the reason, or why they could not be confirmed."""
        ending = Ending(self.context, self.hosts, self.armed)
        if not reason:
            return ending.confirm(waiting) if waiting else ""
        back = list(waiting)
        if self.context.terms.on_failure == WAVE:  # A confirmed wave goes back together with its unhealthy host.
            ill = {self.hosts[host].wave for host in self.hosts if self.hosts[host].sick}
            back += [host for host in self._in_state(State.CONFIRMED) if self.hosts[host].wave in ill]
        ending.back(back, reason)
        return reason

    def _in_state(self, state: State) -> list[str]:
        return [host for host, result in self.hosts.items() if result.state is state]

    def _watch(self, seconds: float, why: str, over: Callable[[], bool] = lambda: False) -> str:
        """Measure the hosts again and again, for so long or until it is ``over``. Returns the reason to stop."""
        clock = self.context.clock
        end = clock.now() + seconds
        if seconds != math.inf:
            self.context.note(f"{why}: until {time.strftime('%H:%M:%S', time.localtime(end))}")
        while True:
            reason = self._measure()
            if reason or self.context.stops():
                return reason or "stopped by the user"
            if over() or clock.now() >= end:
                return ""
            until = min(end, clock.now() + _PAUSE)
            while clock.now() < until and not self.context.stops():
                clock.sleep(min(0.2, until - clock.now()))

    def _wait_for_a_person(self, waiting: Sequence[str]) -> str:
        """Wait until somebody lets the change go on. Returns the reason to stop, or nothing."""
        beside = self.context.request.options.playbook_dir
        same = f"the same inventory, and --playbook-dir {beside}" if beside else "the same inventory"
        self.context.note(
            f"{some_of(waiting)} {'is' if len(waiting) == 1 else 'are'} healthy and held. To go on: evenkeel confirm;"
            f" to take the change back: evenkeel abort ({same}). Nothing is kept unless it is confirmed in time"
        )
        told: dict[str, Mapping[str, Any] | None] = {}

        def over() -> bool:
            told.update(self._ask(waiting))
            return all(decide.approved(told[host]) for host in waiting if self.hosts[host].state is State.HELD)

        return self._watch(math.inf, "", over)

    def note(self, sentences: Sequence[str]) -> None:
        """Report sentences for a person that change no outcome."""
        for sentence in sentences:
            self.notes.append(sentence)
            self.context.note(sentence)

    def _gather(self, hosts: Sequence[str]) -> None:
        """Gather the facts of hosts of later waves, for templates of earlier waves; note each host without facts."""
        record = Record()
        failed: dict[str, str] = {}

        def on_event(event: Event) -> None:
            feed(record, event)
            failed.update(record.unreachable | record.failures)

        def stop() -> str:
            return STOPPED if self.context.stops() else ""

        run = OwnRun("facts", self.context.variables_for(hosts), hosts, question=True, facts=True)
        self.context.session.run_own(run, on_event, stop)
        for host, why in failed.items():
            self.note([f"no facts of {host} for the waves before its own: {why}"])

    def _ask(self, hosts: Sequence[str]) -> dict[str, Mapping[str, Any] | None]:
        """The memory of hosts, from ft_info; None for a host that did not answer."""
        run = OwnRun("status", self.context.variables_for(hosts), list(hosts), timeout=SHORT_TIMEOUT, question=True)
        record = self._answers(run, "ft_info")
        told = {host: record.of(host, "ft_info") for host in hosts}
        return {host: found.result if found and found.status == "ok" else None for host, found in told.items()}

    def _answers(self, question: OwnRun, task: str) -> Record:
        """The answers of hosts to a question. A host without an answer is asked once more after a while, over a new
        login: the connection may be dead since the change, and a host that limits logins may have turned one away."""

        def ask(run: OwnRun) -> Record:
            record = Record()
            stop = self.context.soon(run.hosts, GRACE + _MEASURE)
            self.context.session.run_own(run, lambda event: feed(record, event), stop)
            return record

        record = ask(question)
        silent = decide.unanswered(record, question.hosts, task)
        if silent and self.context.stops() < 2:
            self.context.rest(decide.QUIET)
            variables = {**question.variables, "evenkeel_hosts": silent}
            record.renew(silent, ask(replace(question, variables=variables, hosts=silent, fresh=True)))
        return record

    def _measure(self) -> str:
        """Check that the held hosts still wait, and measure these and the hosts confirmed so far. Returns a sentence on
        the first host that does not wait, became unhealthy or was not measured, or nothing."""
        if self.context.must_stop():
            return self.context.must_stop()
        held = self._in_state(State.HELD)
        for host, told in self._ask(held).items() if held else ():
            result = self.hosts[host]
            why = decide.why_not_held(told, result.generation)
            if decide.kept_by_a_person((told or {}).get("last") or {}, result.generation):
                result.state, result.by = State.CONFIRMED, decide.OPERATOR
                self.context.tell(Phase.CONFIRMED, host, text="a person confirmed it there")
            elif why:
                return f"{host} was held, and waits no more: {why}"
        # A host without probes is asked as well: a change may take it down long after its login has confirmed it.
        confirmed = [host for host in self.hosts if self.hosts[host].state in (State.CONFIRMED, State.HELD)]
        if not confirmed:
            return ""
        run = OwnRun("health", self.context.measuring(confirmed), confirmed, question=True)
        record = self._answers(run, "ft_health")
        sick = decide.sick(record, {host: self.hosts[host].probes for host in confirmed})
        ends = {host: decide.put_back(record, host, self.hosts[host].generation) for host in confirmed}
        back = {host: end for host, end in ends.items() if end}
        sick |= {host: ("was put back", end.why) for host, end in back.items()}
        for host, (found, why) in sick.items():
            result = self.hosts[host]
            result.sick = True
            result.why = f"{found} after it was {'held' if result.state is State.HELD else 'confirmed'}: {why}"
            if host in back:
                result.state, result.by = back[host].state, back[host].by
            phase = Phase(result.state.replace("_", " ")) if host in back else Phase.FAILED
            self.context.tell(phase, host, text=result.why)
        return next((f"{host} {self.hosts[host].why}" for host in sick), "")
