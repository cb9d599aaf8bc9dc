# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deadlines of armed hosts are extended for as long as this process lives and gets in over a new login.

A thread does it beside the user's playbook. When it ends, because the driver was killed or a host lets nobody in any
more, the host puts itself back within one time to confirm. The answers also tell of a change that is over on a host,
because a person has taken it back there: the playbook must not go on without a dead-man.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType

from evenkeel.ansible.event import Event, about
from evenkeel.ansible.events import Record, Result, feed, message
from evenkeel.ansible.session import OwnRun
from evenkeel.changes import decide
from evenkeel.changes.context import SHORT_TIMEOUT, Context

# Seconds between two looks at the deadlines, and before a host that could not be reached is asked again.
_LOOK, _AGAIN = 1.0, 5.0
# Seconds between two extensions. The asking itself takes no more than such a part of this machine's time. Before one
# was measured it counts as so many seconds a host.
_OFTEN, _PART, _EACH = 15.0, 1 / 20, 0.3
# The longest that a host may take to answer, in seconds: a host that hangs must not hold up the others.
_ANSWER = 30.0
# An extension that gains fewer seconds has come to the end of the time that the change may take.
_GAIN = 1.0


class Extending:
    """Extends deadlines while it is used in a ``with`` statement.

    ``cover`` hosts once they are armed, and ``release`` them before they settle. ``ended`` tells whether the change of
    a covered host is over.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._covered: dict[str, dict[str, decide.Armed]] = {}
        self._not_before: dict[str, float] = {}
        self._told: set[str] = set()
        self._waiting: set[str] = set()
        self._whys: dict[str, str] = {}
        self._silent: set[str] = set()
        self._ended: dict[str, str] = {}
        self._took: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evenkeel-extending", daemon=True)

    def __enter__(self) -> Extending:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def cover(self, armed: dict[str, decide.Armed], hosts: Iterable[str] | None = None) -> None:
        """Extend the deadlines of these hosts, which are held (by default of all in ``armed``, on which the playbook
        runs) from now on. ``armed`` is kept up to date."""
        self._covered.update(dict.fromkeys(armed if hosts is None else hosts, armed))
        self._waiting.update(hosts or ())

    def release(self, hosts: Sequence[str]) -> None:
        """Stop extending the deadlines of these hosts."""
        for host in hosts:
            self._covered.pop(host, None)

    def ended(self) -> str:
        """Why no dead-man undoes any more what happens on a host; empty while all covered hosts are armed."""
        return next(iter(list(self._ended.values())), "")

    def why(self, host: str) -> str:
        """Why the deadline of a host was not moved last time; empty where it was."""
        return self._whys.get(host, "")

    def _run(self) -> None:
        while not self._over.wait(_LOOK):
            due = self.due(self.context.clock.now())
            # A host that did not answer last time is asked apart, so that it holds up no other.
            due = [host for host in due if host not in self._silent] or due
            if due:
                try:
                    self.extend(due)
                except Exception as error:  # The hosts go back; the run itself goes on to its end.
                    self._tell("", f"deadlines could not be extended: {type(error).__name__}: {error}")
                    self._not_before.update(dict.fromkeys(due, self.context.clock.now() + _AGAIN))

    def due(self, now: float) -> list[str]:
        """The hosts to be asked at ``now`` (epoch seconds): often, at the latest once half of their time is over."""
        took = len(self._covered) * _EACH if self._took is None else self._took
        often = max(_OFTEN, took / _PART)
        return [
            host
            for host, armed in list(self._covered.items())
            if armed[host].earliest - now < armed[host].within - min(often, armed[host].within / 2)
            and now >= self._not_before.get(host, 0.0)
        ]

    def extend(self, hosts: Sequence[str]) -> None:
        """Ask these hosts once, over a new login, to have their time begin anew."""
        record, context = Record(), self.context
        before = {host: self._covered[host][host] for host in hosts if host in self._covered}

        def on_event(event: Event) -> None:
            feed(record, event)
            host, _ = about(event)
            result = record.of(host, "ft_settle")
            covered = self._covered.get(host)
            if result is not None and covered is not None and host in before:
                covered[host] = self._answered(host, before[host], result)

        def stop() -> str:
            if self._over.is_set() or not before.keys() & self._covered.keys():
                return "the change is over"
            waits = [host for host in before if host in self._covered and record.of(host, "ft_settle") is None]
            others = [host for host in self.due(context.clock.now()) if host not in before and host not in self._silent]
            return "other hosts are due" if others and self._silent.issuperset(waits) else ""

        # A slow host gets more time once it is asked apart.
        shortest = min(armed.within for armed in before.values())
        patience = shortest / 2 if self._silent.issuperset(before) else min(_ANSWER, shortest / 4)
        run = OwnRun(
            "settle",
            context.variables_for(
                list(before),
                evenkeel_generations={host: armed.generation for host, armed in before.items()},
                evenkeel_verdicts=dict.fromkeys(before, decide.EXTEND),
            ),
            list(before),
            timeout=SHORT_TIMEOUT,
            answer_within=patience,
            question=True,
            # A host that lets nobody in any more must not be kept from going back.
            fresh=True,
        )
        began = context.clock.now()
        context.session.run_own(run, on_event, stop)
        took = context.clock.now() - began
        for host, armed in before.items():
            covered = self._covered.get(host)
            self._silent.discard(host)
            if covered is not None and covered[host] == armed:
                self._silent.add(host)
                self._not_before[host] = max(self._not_before.get(host, 0.0), context.clock.now() + _AGAIN)
                result = record.of(host, "ft_settle")
                why = message(result.result) if result else record.unreachable.get(host) or record.failures.get(host)
                self._tell(host, f"{host}: its time to confirm could not be extended: {why or 'it did not answer'}")
        if self._silent.isdisjoint(before):
            self._took = took

    def _answered(self, host: str, before: decide.Armed, result: Result) -> decide.Armed:
        """The dead-man of a covered host after its answer."""
        now = self.context.clock.now()
        over = decide.over(result)
        if over and host in self._waiting and decide.kept_by_a_person(result.result, before.generation):
            self._covered.pop(host, None)  # No playbook runs on it any more, and it keeps the change.
        elif over:
            self._covered.pop(host, None)
            self._ended[host] = f"{host}: its change is over, and nothing undoes what the playbook does there: {over}"
        found = decide.extended(result.result, before, result.started, now) if result.status == "ok" else None
        self._whys.pop(host, None)
        if found is not None and found.latest < before.latest + _GAIN:
            # The host is asked all the same: its answer tells whether it is still armed.
            self._not_before[host] = now + min(_OFTEN, before.within / 2)
            self._tell(host, f"{host}: its time to confirm cannot be extended any more (--at-most)")
        return found or before

    def _tell(self, host: str, text: str) -> None:
        """Report the text once for each host, unless the change is over."""
        self._whys[host] = text
        if host not in self._told and not self._over.is_set():
            self._told.add(host)
            self.context.note(text)
