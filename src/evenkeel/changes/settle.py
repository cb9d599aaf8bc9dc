# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a change on some hosts: each host confirms the change, holds it or goes back, and reports that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from evenkeel.ansible.event import Event, about
from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.session import OwnRun
from evenkeel.changes import decide, preflight
from evenkeel.changes.context import GRACE, SHORT_TIMEOUT, STOPPED, Context
from evenkeel.outcome import HostResult, State
from evenkeel.progress import Phase

# The least number of seconds that a host has to answer when it is asked to settle. Its deadline may be long over, as
# after a suspension of this process or of this machine, whose network then comes back as well.
_SHORTEST = 30.0


@dataclass
class Settlement:
    """Hosts on their way to an end, or to a stage of the change.

    whys: why the change failed on a host, empty where it did not fail. halted: the user's playbook never ran. how: the
    verdict on hosts where it did not fail. variables: further variables for the playbook. silent: why a host did not
    answer.
    """

    context: Context
    hosts: Mapping[str, HostResult]
    armed: dict[str, decide.Armed]
    whys: Mapping[str, str]
    halted: bool = False
    how: str = decide.PROBE
    variables: Mapping[str, object] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    _soonest: float = field(default=0.0)

    def run(self) -> None:
        """Ask every armed host to settle, until each has answered or had time enough to put itself back."""
        self._soonest = self._now() + _SHORTEST
        mine = [host for host in self.hosts if host in self.armed]
        waiting = dict.fromkeys(mine, decide.ROLL_BACK) if self.halted else {}
        waiting = waiting or decide.verdicts(mine, self.whys, self.how)
        repeated, may_spare = False, not self.halted and self.how in (decide.PROBE, decide.HOLD)
        while waiting and self.context.stops() < 2 and not (repeated and self._now() > self._last_call(waiting)):
            answered = self._ask(waiting, repeated=repeated)
            said = "" if repeated else self.context.must_stop()
            if said:  # Hosts that have not answered by then go back for that reason.
                late = [host for host in waiting if host not in answered]
                self.whys = {**self.whys, **{host: self.whys.get(host) or said for host in late}}
            for host, answer in answered.items():
                missed = decide.missed(self.silent[host]) if host in self.silent else ""
                self._ended(host, answer, self.whys.get(host) or missed)
            # A host that could not be asked right after the change must not keep it, unless it limits logins.
            back = decide.TAKE_BACK if self.how == decide.TAKE_BACK else decide.ROLL_BACK
            waiting = {host: verdict for host, verdict in waiting.items() if host not in answered}
            spared = self._spared(waiting) if may_spare and not said else {}
            waiting = {host: spared.get(host, back) for host in waiting}
            if waiting:
                self._wait(waiting, decide.QUIET if spared else 0.0)
                repeated, may_spare = not spared, all(decide.is_busy(self.silent.get(host, "")) for host in spared)
                self.silent = {host: why for host, why in self.silent.items() if host not in spared}
        for host in waiting:
            self._never_answered(host)

    def _ask(self, waiting: Mapping[str, str], *, repeated: bool) -> dict[str, decide.Settled]:
        """Ask once. Returns the answers; ``silent`` gets the reasons of hosts without an answer."""
        record = Record()
        answered: dict[str, decide.Settled] = {}

        def on_event(event: Event) -> None:
            feed(record, event)
            host, _ = about(event)
            answer = decide.settled(record, host) if host in waiting and host not in answered else None
            if answer:
                answered[host] = answer
                text = self.whys.get(host) or answer.why
                self.armed[host] = decide.with_time(record, host, self.armed[host], self._now())
                until = self.armed[host].latest if answer.state is State.HELD else None
                self.context.tell(Phase(answer.state.replace("_", " ")), host, text=text, until=until)

        def stop() -> str:
            if self.context.stops() > 1:
                return STOPPED
            if not repeated and self.how in (decide.PROBE, decide.HOLD) and self.context.must_stop():
                return self.context.must_stop()
            return "no answer in time" if self._now() > self._last_call(waiting) else ""

        names = list(waiting)
        generations = {host: self.armed[host].generation for host in names}
        run = OwnRun(
            "settle",
            self.context.measuring(
                names, evenkeel_generations=generations, evenkeel_verdicts=dict(waiting), **self.variables
            ),
            names,
            timeout=SHORT_TIMEOUT if repeated else None,
            answer_within=max(_SHORTEST, self._last_call(waiting) - self._now()),
            # A change that locks new logins out must not be confirmed over a connection that is still open.
            fresh=True,
        )
        if not repeated:
            self.context.tell(Phase.SETTLE, *names, text="goes back" if self.how == decide.TAKE_BACK else "")
        ended = self.context.session.run_own(run, on_event, stop)
        for host in waiting.keys() - answered.keys():
            self.silent.setdefault(host, decide.why_unsettled(record, host) or ended.stopped or ended.errors)
        return answered

    def _spared(self, waiting: Mapping[str, str]) -> dict[str, str]:
        """The hosts that are asked the same once more, with the verdict."""
        now = self._now()
        return {
            host: verdict
            for host, verdict in waiting.items()
            if verdict == self.how and decide.may_retry(self.armed[host], self.silent.get(host, ""), now)
        }

    def _now(self) -> float:
        return self.context.clock.now()

    def _last_call(self, waiting: Mapping[str, str]) -> float:
        grace = GRACE * self.context.session.rounds(len(waiting))
        return max(self._soonest, *(self.armed[host].latest for host in waiting)) + grace

    def _wait(self, waiting: Mapping[str, str], seconds: float) -> None:
        """Wait for so long before asking again; for 0: shortly around the time a dead-man is due, longer before it."""
        for host in waiting:
            self.context.tell(Phase.WAIT, host, until=self.armed[host].latest, text=self.silent.get(host, ""))
        now = self._now()
        next_due = min((self.armed[host].latest for host in waiting if self.armed[host].latest > now), default=now)
        self.context.rest(seconds or min(15.0, max(2.0, (next_due - now) / 4)))

    def _never_answered(self, host: str) -> None:
        latest, silent = self.armed[host].latest, self.silent.get(host, "not asked")
        due = time.strftime("%H:%M:%S", time.localtime(latest))
        dead_man = f"its own dead-man {'is' if latest > self._now() else 'was'} to put it back at {due}"
        why = dead_man if silent == STOPPED else f"{silent}; {dead_man}"
        if self.hosts[host].state is State.CONFIRMED:  # no dead-man is left there
            why = silent
        self._ended(host, decide.Settled(State.IN_DOUBT, "", why), self.whys.get(host, ""))
        self.context.tell(Phase.IN_DOUBT, host, text=self.hosts[host].why)

    def _ended(self, host: str, answer: decide.Settled, why: str) -> None:
        """Write the end of a host into its result."""
        result = self.hosts[host]
        result.state, result.by, result.probes, result.login = answer.state, answer.by, answer.probes, answer.login
        result.outside, result.owed, result.warnings = answer.outside, answer.owed, answer.warnings
        if answer.login and preflight.local(host, self.context.request.options.common, self.context.targets):
            result.login = "none"
        if self.halted and answer.state is State.ROLLED_BACK:
            # The playbook never ran there: rolling back only disarmed it.
            result.state = State.UNTOUCHED
        result.why = why or (answer.why if result.state is not State.UNTOUCHED else "")
        if why and answer.state is State.IN_DOUBT:
            result.why = f"{why}; {answer.why}"
