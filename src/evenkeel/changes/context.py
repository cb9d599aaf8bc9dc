# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The things that all waves of a change share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evenkeel.ansible import clock
from evenkeel.ansible.caller import Caller
from evenkeel.ansible.session import Session
from evenkeel.ansible.targets import Targets
from evenkeel.changes.evidence import StopIf
from evenkeel.changes.request import Request, Terms
from evenkeel.progress import Kind, Phase, Progress

# Seconds after its dead-man is due in which a host may be put back and answer again.
GRACE = 30.0
# Seconds for connecting to a host that is asked again: it either answers at once or is not back yet.
SHORT_TIMEOUT = 5
STOPPED = "stopped by the user"


@dataclass(frozen=True)
class Clock:
    """now: the time, in epoch seconds that nobody can set. sleep: waits so many seconds."""

    now: Callable[[], float] = clock.now
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Context:
    """A change. variables: of our own playbooks. strict: hosts on which a rescued failure counts.

    reached: the hosts to which the change has come. stop_if: the conditions that can stop the change.
    """

    session: Session
    request: Request
    targets: Targets
    variables: Mapping[str, object]
    strict: Sequence[str] = ()
    caller: Caller = field(default_factory=Caller)
    clock: Clock = Clock()
    terms: Terms = field(default_factory=Terms)
    reached: set[str] = field(default_factory=set)
    stop_if: StopIf | None = None

    def variables_for(self, hosts: Sequence[str], **more: object) -> dict[str, object]:
        """The variables of a run of ours on ``hosts``."""
        return {**self.variables, "evenkeel_hosts": list(hosts), **more}

    def measuring(self, hosts: Sequence[str], **more: object) -> dict[str, object]:
        """The variables of a run that measures health: with the peers that measure, and the hosts to compare with."""
        group = list(self.targets.group)
        unchanged = [host for host in group if host not in self.reached]
        return self.variables_for(hosts, evenkeel_group=group, evenkeel_unchanged=unchanged, **more)

    def must_stop(self) -> str:
        """Why evidence from outside says that the change must stop; empty while it does not."""
        return self.stop_if.reason if self.stop_if is not None else ""

    def stops(self) -> int:
        """The number of times that the caller asked to stop."""
        return self.caller.asked_to_stop()

    def until(self, latest: float) -> Callable[[], str]:
        """The reason to end a question: its time is over, or the caller asked twice to stop."""
        return lambda: "no answer in time" if self.clock.now() > latest or self.stops() > 1 else ""

    def soon(self, hosts: Sequence[str], seconds: float) -> Callable[[], str]:
        """``until``, for a question to which each of the hosts that are asked at the same time has so many seconds."""
        return self.until(self.clock.now() + seconds * self.session.rounds(len(hosts)))

    def rest(self, seconds: float) -> None:
        """Wait for so long, or until the caller asked twice to stop."""
        until = self.clock.now() + seconds
        while self.clock.now() < until and self.stops() < 2:
            self.clock.sleep(0.2)

    def tell(self, phase: Phase, *hosts: str, text: str = "", until: float | None = None) -> None:
        """Report the phase of hosts."""
        self.caller.report(Progress(Kind.HOST, text, hosts, phase, until=until))

    def task(self, name: str, phase: Phase) -> None:
        """Report the task that runs now."""
        self.caller.report(Progress(Kind.TASK, name, phase=phase))

    def note(self, text: str) -> None:
        """Report a sentence for a person."""
        self.caller.report(Progress(Kind.NOTE, text))
