# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The things that all waves of a change share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.session import Session
from evenkeel.ansible.targets import Targets
from evenkeel.changes.request import Request, Terms
from evenkeel.progress import Kind, Phase, Progress

# How long after its dead-man is due a host may take to be put back and to answer again, in seconds.
GRACE = 30.0
# Connecting to a host that is asked again, in seconds: it either answers at once or is not back yet.
SHORT_TIMEOUT = 5
STOPPED = "stopped by the user"


@dataclass(frozen=True)
class Clock:
    """now: the time, in epoch seconds. sleep: waits so many seconds."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Context:
    """A change. variables: those of our own playbooks. strict: hosts on which a rescued failure counts."""

    session: Session
    request: Request
    targets: Targets
    variables: Mapping[str, object]
    strict: Sequence[str] = ()
    caller: Caller = field(default_factory=Caller)
    clock: Clock = Clock()
    terms: Terms = field(default_factory=Terms)

    def variables_for(self, hosts: Sequence[str], **more: object) -> dict[str, object]:
        """The variables of a run of ours on ``hosts``."""
        return {**self.variables, "evenkeel_hosts": list(hosts), **more}

    def stops(self) -> int:
        """The number of times that the caller asked to stop."""
        return self.caller.asked_to_stop()

    def until(self, latest: float) -> Callable[[], str]:
        """The reason to end a question: its time is over, or the caller asked twice to stop."""
        return lambda: "no answer in time" if self.clock.now() > latest or self.stops() > 1 else ""

    def tell(self, phase: Phase, *hosts: str, text: str = "", until: float | None = None) -> None:
        """Report the phase of hosts."""
        self.caller.report(Progress(Kind.HOST, text, hosts, phase, until=until))

    def task(self, name: str, phase: Phase) -> None:
        """Report the task that runs now."""
        self.caller.report(Progress(Kind.TASK, name, phase=phase))

    def note(self, text: str) -> None:
        """Report a sentence that a person should know."""
        self.caller.report(Progress(Kind.NOTE, text))
