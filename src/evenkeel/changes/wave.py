# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wave of a change: begin, the user's playbook, settle."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from evenkeel.ansible.event import Event, about, mapping
from evenkeel.ansible.events import PREFIX, Record, feed, judge, rescued
from evenkeel.ansible.session import OwnRun, UsersRun
from evenkeel.changes import decide
from evenkeel.changes.context import GRACE, SHORT_TIMEOUT, STOPPED, Context
from evenkeel.changes.extending import Extending
from evenkeel.changes.settle import Settlement
from evenkeel.outcome import HostResult, State, not_as_before, protected
from evenkeel.progress import Kind, Phase, Progress
from evenkeel.shared import duration


@dataclass
class Wave:
    """A wave on its way.

    hosts: their results, filled in as they become known. how: the verdict on hosts where the change did not fail.
    unit: the change as the hosts remember it. armed: the dead-men of the hosts that have a dead-man. changed: the
    user's playbook was started.
    """

    context: Context
    hosts: dict[str, HostResult]
    extending: Extending | None = None
    how: str = decide.PROBE
    unit: Mapping[str, object] = field(default_factory=dict)
    armed: dict[str, decide.Armed] = field(default_factory=dict)
    changed: bool = False

    def run(self) -> tuple[str, bool]:
        """Begin, change, settle. Returns why the change must stop here (or nothing), and whether that was usage."""
        begun = self._begin()
        for host, result in self.hosts.items():
            if host not in self.armed:
                doubtful = host in begun.doubtful
                result.state = State.IN_DOUBT if doubtful else State.UNTOUCHED
                result.why = begun.whys.get(host, "")
                self.context.tell(Phase.IN_DOUBT if doubtful else Phase.UNTOUCHED, host, text=result.why)
        whys: Mapping[str, str] = {}
        broken = ""
        halt = begun.halt or (STOPPED if self.context.stops() else self._must_stop())
        if not halt:
            self.changed = True
            if self.extending:
                self.extending.cover(self.armed)
            try:
                whys = self._change()
            except Exception as error:  # an error of ours: the armed hosts go back now, and not at their deadline
                broken = f"evenkeel itself failed while the playbook ran: {type(error).__name__}: {error}"
                whys = dict.fromkeys(self.hosts, broken)
        if self.extending:
            self.extending.release(list(self.hosts))
        Settlement(self.context, self.hosts, self.armed, whys, halted=bool(halt), how=self.how).run()
        if broken:
            return broken, False
        if not halt and self.context.stops():
            halt = STOPPED
        return halt, begun.usage or bool(self.context.stops())

    def _begin(self) -> decide.Begun:
        """Guard, checkpoint, arm. Returns the result."""
        record, context = Record(), self.context
        names, came = list(self.hosts), set[object]()

        def on_event(event: Event) -> None:
            feed(record, event)
            if event.get("event") == "playbook_on_task_start":
                context.task(record.task, Phase.BEGIN)
                context.session.load_for_users(self._limit(), names)
                came.add(mapping(event.get("event_data")).get("resolved_action"))
            host, _ = about(event)
            result = record.of(host, "ft_checkpoint")
            now, within = context.clock.now(), self._confirm_within()
            found = decide.armed(result.result, result.started, now, within) if result else None
            if found and host in self.hosts and host not in self.armed:
                self._is_armed(host, found)

        def stop() -> str:
            if context.stops() > 1:
                return STOPPED
            if context.must_stop():
                return context.must_stop()
            if self.armed and context.clock.now() > decide.time_to_change(list(self.armed.values())):
                return "the other hosts' time to confirm ran out before this host was armed"
            return ""

        began = context.clock.now()
        context.tell(Phase.BEGIN, *self.hosts)
        variables = context.variables_for(names, evenkeel_group=list(context.targets.group))
        variables |= {"evenkeel_change": dict(self.unit)} if self.unit else {}
        ended = context.session.run_own(OwnRun("begin", variables, names), on_event, stop)
        killed = "ansible-playbook was killed while it armed the hosts" if ended.rc is None else ""
        sent = bool(ended.stopped or killed) and f"{PREFIX}ft_checkpoint" in came
        silent = decide.possibly_armed(record, names, sent=sent)
        self._adopt(began, names if killed and not ended.stopped else silent)
        silent -= self.armed.keys()
        begun = decide.begun(record, names, self.armed, ended.stopped or killed, silent)
        refusal = "" if ended.stopped else record.refusal(ended.rc, ended.errors)
        if refusal:
            begun = replace(begun, halt=refusal, usage=True)
        for host, result in self.hosts.items():
            taken = record.of(host, "ft_checkpoint")
            result.left = [str(said) for said in taken.result.get("left") or []] if taken else []
            result.protects = [str(one) for one in taken.result.get("protects") or []] if taken else []
        for note in protected(self.hosts.values()):
            context.note(note)
        for note in not_as_before(self.hosts.values()):
            context.note(note)
        if begun.halt and not record.began and ended.errors:
            context.note(ended.errors)
        return begun

    def _confirm_within(self) -> float | None:
        """The seconds that each dead-man is to wait; None where only the hosts know."""
        try:
            return duration(self.context.variables.get("evenkeel_confirm_within"))
        except ValueError:
            return None

    def _is_armed(self, host: str, found: decide.Armed) -> None:
        self.armed[host] = found
        result = self.hosts[host]
        result.generation, result.checkpoint, result.until = found.generation, found.checkpoint, found.latest
        self.context.tell(Phase.ARMED, host, until=found.latest)

    def _adopt(self, began: float, hosts: Collection[str]) -> None:
        """Find the hosts that are armed although the run did not report it: the run ended first, or lost the
        connection."""
        record = Record()
        names = [host for host in self.hosts if host in hosts and host not in self.armed]
        if not names:
            return
        run = OwnRun("status", self.context.variables_for(names), names, timeout=SHORT_TIMEOUT, question=True)
        now = self.context.clock.now
        self.context.session.run_own(run, lambda event: feed(record, event), self.context.soon(names, GRACE))
        for host in names:
            result = record.of(host, "ft_info")
            found = decide.adopted(result.result, began, now(), self._confirm_within()) if result else None
            if found:
                self._is_armed(host, found)

    def _change(self) -> Mapping[str, str]:
        """Run the user's playbook. Returns why each host failed; empty for a host that did not fail."""
        record, context = Record(mark=f"evenkeel: done {uuid.uuid4().hex}"), self.context
        failed: set[str] = set()

        def on_event(event: Event) -> None:
            feed(record, event)
            host, result = about(event)
            if record.mark not in str(event.get("stdout", "")) and host not in record.reached:
                self._output(event)
            if event.get("event") == "playbook_on_task_start" and not record.reached:
                context.task(record.task, Phase.CHANGE)
            if host in self.hosts and event.get("event") == "runner_on_ok" and result.get("changed"):
                self.hosts[host].changed = True
            why = record.unreachable.get(host) or record.failures.get(host, "")
            if host in self.hosts and why and host not in failed:
                failed.add(host)
                context.tell(Phase.FAILED, host, text=why)

        def stop() -> str:
            if context.stops():
                return "stopped by the user while the playbook ran"
            if self.extending and self.extending.ended():
                return self.extending.ended()
            if record.prompt:
                return f"the playbook asks for {record.prompt!r} (vars_prompt): give it with -e {record.prompt}=…"
            return self._must_stop(record.task)

        context.tell(Phase.CHANGE, *self.hosts)
        playbook, hosts = context.request.playbook, list(self.hosts)
        run = UsersRun(playbook, self._limit(), hosts, record.mark, self._until)
        ended = context.session.run_users(run, on_event, stop)
        if ended.stopped:
            context.note(ended.stopped)
        for host, found in self.hosts.items():
            found.rescued = rescued(record, host)
        whys = judge(record, hosts, rc=ended.rc, stopped=ended.stopped, strict=context.strict)
        seen = context.session.seen()
        missed = "no play of the playbook came to it, although plays named it before the change"
        return {host: why or (missed if seen and host in seen.missed else "") for host, why in whys.items()}

    def _limit(self) -> list[str]:
        """The hosts to which the user's playbook is limited."""
        return [*self.hosts, *self.context.targets.local]

    def _until(self) -> float:
        """The end of the time for the user's playbook."""
        return decide.time_to_change(list(self.armed.values()))

    def _must_stop(self, task: str = "") -> str:
        """Why the user's playbook must not begin, or go on after ``task``; empty while it may."""
        context = self.context
        if context.must_stop() or context.clock.now() <= self._until():
            return context.must_stop()
        first = min(self.armed, key=lambda host: self.armed[host].earliest)
        why = self.extending.why(first) if self.extending else ""
        why = why or f"{first} was to be confirmed within {context.variables['evenkeel_confirm_within']}"
        if not self.changed:
            return f"the time to confirm was over before the playbook began: {why}"
        return f"the playbook did not end within the time to confirm: {f'it was in {task!r}; ' if task else ''}{why}"

    def _output(self, event: Event) -> None:
        if self.context.request.options.output and event.get("stdout"):
            self.context.caller.report(Progress(Kind.OUTPUT, str(event["stdout"])))
