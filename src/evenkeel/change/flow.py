# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change over a fleet, wave by wave: nothing is kept unless it is confirmed.

Every host is fenced and puts itself back by itself; what runs here is expendable. So whatever is not known is left
to the hosts, and asked of them afterwards.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from evenkeel.ansible import plays
from evenkeel.ansible.caller import Caller, CallerArguments
from evenkeel.ansible.events import Record, feed, judge, rescued
from evenkeel.ansible.options import Options
from evenkeel.ansible.runner import Event
from evenkeel.ansible.session import ANSWER_WITHIN, WITNESS, Session
from evenkeel.ansible.targets import Targets
from evenkeel.change import decide, preflight, waves
from evenkeel.outcome import (
    ChangeResult,
    Exit,
    HostResult,
    State,
    UsageError,
    cannot_bring_back,
    exit_code,
    under_way,
)
from evenkeel.progress import Kind, Phase, Progress, Report
from evenkeel.shared import duration

DEFAULT_WAVES = "1,25%,100%"
DEFAULT_CONFIRM_WITHIN = "10m"
# How long after its dead-man is due a host may take to be put back and to answer again.
GRACE = 30.0
# How long a measurement of confirmed hosts may take besides.
_MEASURE = 60.0
# What a host that is asked to settle has at least, in seconds.
_SHORTEST = 30.0
# Connecting, when a host is asked again: it either answers at once or is not back yet.
_SHORT = 5
_STOPPED = "stopped by the user"


@dataclass(frozen=True)
class Request:
    """What is to be changed, and how carefully. None leaves it to the inventory variable of the same name.

    waves: as ``1,25%,100%``. min_healthy, max_unavailable: a number, a percentage or ``quorum``, as ft_guard takes
    them. confirm_within, soak, deadline: durations. probes, protect: lists as the modules take them.
    """

    playbook: str
    options: Options
    waves: str | None = None
    min_healthy: str | None = None
    max_unavailable: str | None = None
    failure_domain: str | None = None
    confirm_within: str | None = None
    soak: str | None = None
    deadline: str | None = None
    probes: Sequence[Mapping[str, Any]] | None = None
    protect: Sequence[Mapping[str, Any]] | None = None

    def variables(self) -> dict[str, Any]:
        """The variables of our own playbooks that were said here."""
        said = {
            "evenkeel_min_healthy": self.min_healthy,
            "evenkeel_max_unavailable": self.max_unavailable,
            "evenkeel_guard_domain": self.failure_domain,
            "evenkeel_confirm_within": self.confirm_within,
            "evenkeel_soak": self.soak,
            "evenkeel_deadline": self.deadline,
            "evenkeel_probes": self.probes,
            "evenkeel_resources": self.protect,
        }
        return {name: value for name, value in said.items() if value is not None}


def change(request: Request, **caller: Unpack[CallerArguments]) -> ChangeResult:
    """Run ``request.playbook`` over its hosts in waves, each confirmed by its hosts' health or rolled back.

    caller: see ``evenkeel.ansible.caller.Caller``. Raises UsageError before anything is touched.
    """
    return run(request, Caller(**caller))


def run(request: Request, caller: Caller) -> ChangeResult:
    """The same, for a caller. Raises UsageError before anything is touched."""
    started = time.monotonic()
    ansible = caller.ansible()
    options = request.options.with_configuration(ansible.settings)
    path = Path(os.path.join(ansible.cwd, request.playbook))
    plays.no_prompts(request.playbook, path, options.common)
    if options.tags(ansible.settings) is None:
        raise UsageError(f"--tags and --skip-tags leave no task of {request.playbook}")
    secrets = caller.passwords(options)
    targets = caller.controller.find_targets(request.playbook, options, ansible, secrets)
    with caller.controller.open_session(ansible, options, secrets, path.resolve().parent) as session:
        run = _prepare(session, request, targets, caller.report, caller.asked_to_stop)
        with under_way():
            reason, usage = run.run(
                gather=plays.gathers(path, str(ansible.settings.get("DEFAULT_GATHERING", "implicit")))
            )
    code = exit_code([one.state for one in run.hosts.values()], complete=not reason)
    if code is Exit.REFUSED and usage:
        code = Exit.USAGE
    return ChangeResult(
        playbook=request.playbook,
        exit_code=code,
        reason=reason,
        waves=[list(wave) for wave in run.plan],
        hosts=list(run.hosts.values()),
        notes=run.notes,
        seconds=time.monotonic() - started,
        touched_outside=sorted(run.touched),
        left_out=sorted(run.left_out),
    )


def _prepare(
    session: Session, request: Request, targets: Targets, report: Report, asked_to_stop: Callable[[], int]
) -> Change:
    """All that can be known before a host is armed. Raises UsageError."""
    domain = request.failure_domain
    targets = preflight.resolved(session, targets, *([domain] if domain else []))
    sizes = preflight.said(request.waves, "evenkeel_waves", DEFAULT_WAVES, targets)
    plan = waves.split(targets.hosts, waves.parse(sizes))
    if domain is not None:
        plan = waves.by_domain(plan, preflight.domains(domain, targets))
    notes = [*targets.notes, *preflight.check(request.probes, request.protect, targets)]
    strict = preflight.strict(request.probes, targets)
    variables = request.variables()
    within = preflight.said(request.confirm_within, "evenkeel_confirm_within", DEFAULT_CONFIRM_WITHIN, targets)
    variables["evenkeel_confirm_within"] = within
    if asked_to_stop():
        raise UsageError("stopped before anything was touched")
    total = f"{len(targets.hosts)} {'host' if len(targets.hosts) == 1 else 'hosts'}"
    report(Progress(Kind.PLAN, f"{request.playbook}: {total} in {len(plan)} {'wave' if len(plan) == 1 else 'waves'}"))
    for note in notes:
        report(Progress(Kind.NOTE, note))
    hosts = {host: HostResult(host, number) for number, wave in enumerate(plan, 1) for host in wave}
    return Change(session, request, targets, variables, strict, plan, hosts, notes, report, asked_to_stop)


@dataclass
class Change:
    """All waves, one after the other. touched: hosts outside of their wave; left_out: host -> the play it missed."""

    session: Session
    request: Request
    targets: Targets
    variables: Mapping[str, Any]
    strict: Sequence[str]
    plan: Sequence[tuple[str, ...]]
    hosts: dict[str, HostResult]
    notes: list[str]
    report: Report
    asked_to_stop: Callable[[], int]
    touched: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)

    def run(self, *, gather: bool) -> tuple[str, bool]:
        """Returns why it stopped (or nothing) and whether that was usage. gather: the playbook gathers facts."""
        later = [host for wave in self.plan[1:] for host in wave]
        if gather and later:
            self._gather(later)
        reason, usage = "", False
        for number, wave in enumerate(self.plan, 1):
            reason = self._sick() if number > 1 else ""
            if reason:
                break
            self.report(Progress(Kind.WAVE, hosts=wave, wave=number, waves=len(self.plan)))
            reason, usage = self._wave(wave)
            if not reason and self.asked_to_stop() and number < len(self.plan):
                reason = "stopped by the user between two waves"
            if reason:
                break
        if len(self.plan) > 1 and not self.asked_to_stop():
            reason = reason or self._sick()
        return reason, usage

    def _wave(self, wave: Sequence[str]) -> tuple[str, bool]:
        mine = {host: self.hosts[host] for host in wave}
        run = Wave(
            self.session,
            self.request,
            self.targets,
            self.variables,
            mine,
            self.report,
            self.asked_to_stop,
            strict=self.strict,
        )
        reason, usage = run.run()
        witnessed = self.session.seen() if run.changed else None
        seen = witnessed or {}
        self.touched.update(seen.get("touched", []))
        if not self.request.options.limit:  # which is the user's word for leaving hosts out
            known = {*self.targets.group, *self.targets.local}
            self.left_out.update({host: play for host, play in seen.get("left_out", {}).items() if host not in known})
        unsettled = [one for one in run.hosts.values() if one.state is not State.CONFIRMED]
        if unsettled and not reason:
            reason = f"{unsettled[0].host}: {unsettled[0].why}"
        if not reason and witnessed is None:
            reason = f"what the playbook left out was not seen: the callback {WITNESS} did not run"
        for host, play in self.left_out.items():
            reason = reason or (
                f"{host} was added while the playbook ran, and is protected by nothing: play {play!r} was left out"
                " there. Add it to the inventory, or configure it in a run of its own"
            )
        return reason, usage

    def _gather(self, hosts: Sequence[str]) -> None:
        """The facts of hosts of later waves, for templates of earlier ones; a host that has none to give is told."""
        record = Record()
        lost: dict[str, str] = {}

        def on_event(event: Event) -> None:
            feed(record, event)
            lost.update(record.unreachable | record.failures)

        def stop() -> str:
            return "stopped by the user" if self.asked_to_stop() else ""

        wanted = {**self.variables, "evenkeel_hosts": list(hosts)}
        self.session.run_own("facts", wanted, on_event, stop, hosts=hosts, facts=True)
        for host, why in lost.items():
            self.notes.append(f"no facts of {host} for the waves before its own: {why}")
            self.report(Progress(Kind.NOTE, self.notes[-1]))

    def _sick(self) -> str:
        """Measure the hosts confirmed so far; what is wrong with the first that fell ill, or nothing."""
        can_tell = preflight.probed(self.request.probes, self.targets)
        confirmed = [host for host in can_tell if self.hosts[host].state is State.CONFIRMED]
        if not confirmed:
            return ""
        record = Record()
        wanted = {**self.variables, "evenkeel_hosts": confirmed}
        give_up = time.time() + GRACE + _MEASURE

        def stop() -> str:
            return "no answer in time" if time.time() > give_up or self.asked_to_stop() > 1 else ""

        self.session.run_own("health", wanted, lambda event: feed(record, event), stop, hosts=confirmed)
        sick = decide.sick(record, {host: self.hosts[host].probes for host in confirmed})
        for host, why in sick.items():
            self.hosts[host].sick = True
            self.hosts[host].why = f"fell ill after it was confirmed: {why}"
            self.report(Progress(Kind.HOST, self.hosts[host].why, (host,), Phase.FAILED))
        return next((f"{host} fell ill after it was confirmed: {why}" for host, why in sick.items()), "")


@dataclass
class Wave:
    """One wave on its way. hosts: their results, filled in as they become known."""

    session: Session
    request: Request
    targets: Targets
    variables: Mapping[str, Any]
    hosts: dict[str, HostResult]
    report: Report
    asked_to_stop: Callable[[], int]
    strict: Sequence[str] = ()
    armed: dict[str, decide.Armed] = field(default_factory=dict)
    changed: bool = False

    def run(self) -> tuple[str, bool]:
        """Begin, change, settle. Returns why the change must stop here (or nothing) and whether that was usage."""
        begun = self._begin()
        for host in self.hosts:
            if host not in self.armed:
                doubtful = host in begun.doubtful
                self.hosts[host].state = State.IN_DOUBT if doubtful else State.UNTOUCHED
                self.hosts[host].why = begun.whys.get(host, "")
                self._tell(Phase.IN_DOUBT if doubtful else Phase.UNTOUCHED, host, text=begun.whys.get(host, ""))
        whys: Mapping[str, str] = {}
        broken = ""
        halt = begun.halt or ("stopped by the user" if self.asked_to_stop() else "")
        if not halt:
            self.changed = True
            try:
                whys = self._change()
            except Exception as error:  # of ours: what is armed goes back now, and not at its deadline
                broken = f"evenkeel itself failed while the playbook ran: {type(error).__name__}: {error}"
                whys = dict.fromkeys(self.hosts, broken)
        mine = [host for host in self.hosts if host in self.armed]
        self._settle(decide.verdicts(mine, whys, halted=bool(halt)), whys, halted=bool(halt))
        if broken:
            return broken, False
        if not halt and self.asked_to_stop():
            halt = "stopped by the user"
        return halt, begun.usage or bool(self.asked_to_stop())

    def _begin(self) -> decide.Begun:
        record = Record()

        def on_event(event: Event) -> None:
            feed(record, event)
            if event.get("event") == "playbook_on_task_start":
                self.report(Progress(Kind.TASK, record.task, phase=Phase.BEGIN))
            host, _ = _about(event)
            result = record.of(host, "ft_checkpoint")
            found = decide.armed(result.result, result.started, time.time(), self._asked()) if result else None
            if found and host in self.hosts and host not in self.armed:
                self._is_armed(host, found)

        began = time.time()

        def stop() -> str:
            if self.asked_to_stop() > 1:
                return "stopped by the user"
            if self.armed and time.time() > decide.time_to_change(list(self.armed.values())):
                return "the other hosts' time to confirm ran out before this one was armed"
            return ""

        self._tell(Phase.BEGIN, *self.hosts)
        names = list(self.hosts)
        wanted = {**self.variables, "evenkeel_hosts": names, "evenkeel_group": list(self.targets.group)}
        ended = self.session.run_own("begin", wanted, on_event, stop, hosts=names)
        killed = "ansible-playbook was killed while it armed the hosts" if ended.rc is None else ""
        if killed and not ended.stopped:
            self._adopt(began)
        begun = decide.begun(record, names, self.armed, ended.stopped or killed)
        for host, one in self.hosts.items():
            taken = record.of(host, "ft_checkpoint")
            one.left = [str(said) for said in taken.result.get("left") or []] if taken else []
        for note in cannot_bring_back(self.hosts.values()):
            self.report(Progress(Kind.NOTE, note))
        if begun.halt and not record.began and ended.errors:
            self.report(Progress(Kind.NOTE, ended.errors))
        return begun

    def _asked(self) -> float | None:
        """How long each dead-man is to wait, in seconds; None where only the hosts can tell."""
        try:
            return duration(self.variables.get("evenkeel_confirm_within"))
        except ValueError:
            return None

    def _is_armed(self, host: str, found: decide.Armed) -> None:
        self.armed[host] = found
        one = self.hosts[host]
        one.generation, one.checkpoint, one.until = found.generation, found.checkpoint, found.latest
        self._tell(Phase.ARMED, host, until=found.latest)

    def _adopt(self, began: float) -> None:
        """Find the hosts that were armed although nobody lived to say so."""
        record = Record()
        names = [host for host in self.hosts if host not in self.armed]
        if not names:
            return
        wanted = {**self.variables, "evenkeel_hosts": names}
        enough = time.time() + GRACE
        self.session.run_own(
            "status",
            wanted,
            lambda event: feed(record, event),
            lambda: "no answer in time" if time.time() > enough or self.asked_to_stop() > 1 else "",
            hosts=names,
            timeout=_SHORT,
        )
        for host in names:
            result = record.of(host, "ft_info")
            found = decide.adopted(result.result, began, time.time(), self._asked()) if result else None
            if found:
                self._is_armed(host, found)

    def _change(self) -> Mapping[str, str]:
        """Run the user's playbook; why each host failed, empty for those that did not."""
        record = Record(mark=f"evenkeel: done {uuid.uuid4().hex}")
        failed: set[str] = set()
        latest = decide.time_to_change(list(self.armed.values()))

        def on_event(event: Event) -> None:
            feed(record, event)
            host, res = _about(event)
            if record.mark not in str(event.get("stdout", "")) and host not in record.reached:
                self._output(event)
            if event.get("event") == "playbook_on_task_start" and not record.reached:
                self.report(Progress(Kind.TASK, record.task, phase=Phase.CHANGE))
            if host in self.hosts and event.get("event") == "runner_on_ok" and res.get("changed"):
                self.hosts[host].changed = True
            why = record.unreachable.get(host) or record.failures.get(host, "")
            if host in self.hosts and why and host not in failed:
                failed.add(host)
                self._tell(Phase.FAILED, host, text=why)

        def stop() -> str:
            if self.asked_to_stop():
                return "stopped by the user while the playbook ran"
            if record.asked:
                return f"the playbook asks for {record.asked!r} (vars_prompt): give it with -e {record.asked}=…"
            if time.time() > latest:
                within = self.variables["evenkeel_confirm_within"]
                return f"the playbook did not end within the time to confirm ({within}): it was in {record.task!r}"
            return ""

        self._tell(Phase.CHANGE, *self.hosts)
        names = [*self.hosts, *self.targets.local]
        ended = self.session.run_users(self.request.playbook, names, list(self.hosts), record.mark, on_event, stop)
        if ended.stopped:
            self.report(Progress(Kind.NOTE, ended.stopped))
        for host, one in self.hosts.items():
            one.rescued = rescued(record, host)
        return judge(record, list(self.hosts), rc=ended.rc, stopped=ended.stopped, strict=self.strict)

    def _settle(self, verdicts: dict[str, str], whys: Mapping[str, str], *, halted: bool) -> None:
        """Ask every armed host to settle, until each has answered or had time enough to put itself back."""
        waiting = dict(verdicts)
        lost: dict[str, str] = {}
        again = False
        while waiting and self.asked_to_stop() < 2 and not (again and time.time() > self._last_call(waiting)):
            answered = self._ask_to_settle(waiting, whys, lost, again=again)
            for host, answer in answered.items():
                missed = f"no login after the change: {lost[host]}" if host in lost else ""
                self._ended(host, answer, whys.get(host) or missed, halted=halted)
            # A host that could not be asked right after the change is not to be trusted with it.
            waiting = {host: decide.ROLL_BACK for host in waiting if host not in answered}
            if waiting:
                self._wait(waiting, lost)
                again = True
        for host in waiting:
            latest = self.armed[host].latest
            due = time.strftime("%H:%M:%S", time.localtime(latest))
            dead_man = f"its own dead-man {'is' if latest > time.time() else 'was'} to put it back at {due}"
            why = dead_man if lost.get(host) == _STOPPED else f"{lost.get(host, 'not asked')}; {dead_man}"
            self._ended(host, decide.Settled(State.IN_DOUBT, "", why), whys.get(host, ""), halted=halted)
            self._tell(Phase.IN_DOUBT, host, text=self.hosts[host].why)

    def _ask_to_settle(
        self, waiting: Mapping[str, str], whys: Mapping[str, str], lost: dict[str, str], *, again: bool
    ) -> dict[str, decide.Settled]:
        """Ask once. Returns what was answered; why the others did not answer goes to ``lost``."""
        record = Record()
        answered: dict[str, decide.Settled] = {}

        def on_event(event: Event) -> None:
            feed(record, event)
            host, _ = _about(event)
            answer = decide.settled(record, host) if host in waiting and host not in answered else None
            if answer:
                answered[host] = answer
                self._tell(Phase(answer.state.replace("_", " ")), host, text=whys.get(host) or answer.why)

        def stop() -> str:
            if self.asked_to_stop() > 1:
                return _STOPPED
            return "no answer in time" if time.time() > self._last_call(waiting) else ""

        names = list(waiting)
        wanted = {
            **self.variables,
            "evenkeel_hosts": names,
            "evenkeel_generations": {host: self.armed[host].generation for host in names},
            "evenkeel_verdicts": dict(waiting),
            ANSWER_WITHIN: max(_SHORTEST, self._last_call(waiting) - time.time()),
        }
        if not again:
            self._tell(Phase.SETTLE, *names)
        # Fresh connections: a change that locks new logins out must not be confirmed over one that is still open.
        timeout = _SHORT if again else None
        ended = self.session.run_own("settle", wanted, on_event, stop, hosts=names, timeout=timeout, fresh=True)
        for host in waiting.keys() - answered.keys():
            lost.setdefault(host, decide.why_unsettled(record, host) or ended.stopped or ended.errors)
        return answered

    def _last_call(self, waiting: Mapping[str, str]) -> float:
        return max(self.armed[host].latest for host in waiting) + GRACE

    def _wait(self, waiting: Mapping[str, str], lost: Mapping[str, str]) -> None:
        """Wait before asking again: shortly around the time a dead-man is due, longer before it."""
        for host in waiting:
            self._tell(Phase.WAIT, host, until=self.armed[host].latest, text=lost.get(host, ""))
        now = time.time()
        next_due = min((self.armed[h].latest for h in waiting if self.armed[h].latest > now), default=now)
        until = time.time() + min(15.0, max(2.0, (next_due - now) / 4))
        while time.time() < until and self.asked_to_stop() < 2:
            time.sleep(0.2)

    def _ended(self, host: str, answer: decide.Settled, why: str, *, halted: bool) -> None:
        one = self.hosts[host]
        one.state, one.by, one.probes, one.login = answer.state, answer.by, answer.probes, answer.login
        if answer.login and preflight.local(host, self.request.options.common, self.targets):
            one.login = "none"
        if halted and answer.state is State.ROLLED_BACK:
            # The playbook never ran there: rolling back only disarmed it.
            one.state = State.UNTOUCHED
        one.why = why or (answer.why if one.state is not State.UNTOUCHED else "")
        if why and answer.state is State.IN_DOUBT:
            one.why = f"{why}; {answer.why}"

    def _tell(self, phase: Phase, *hosts: str, text: str = "", until: float | None = None) -> None:
        self.report(Progress(Kind.HOST, text, hosts, phase, until=until))

    def _output(self, event: Event) -> None:
        if self.request.options.output and event.get("stdout"):
            self.report(Progress(Kind.OUTPUT, str(event["stdout"])))


def _about(event: Event) -> tuple[str, Mapping[str, Any]]:
    """The host that an event is about, and the result it carries."""
    data = event.get("event_data") or {}
    res = data.get("res")
    # One that was too long to be taken may have been a change.
    return str(data.get("host") or ""), res if isinstance(res, Mapping) else {"changed": True}
