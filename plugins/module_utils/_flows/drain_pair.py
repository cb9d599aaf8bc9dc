# SPDX-License-Identifier: GPL-3.0-or-later

"""Draining by a pair of commands of the user's. A third command tells whether it is drained, where there is one."""

from __future__ import annotations

from typing import NoReturn

from .._errors import Refused, ServiceFailed
from .._host.commands import Completed
from .._host.system import System
from .._results.restart import Drained
from .._services.pair import Pair

_INTERVAL = 0.5
# The shortest time of a command, and the time to take a failed drain back, in seconds.
_LEAST, _BACK = 5.0, 60.0
_STATES = {True: "drained", False: "ready", None: "unknown"}
# A drain of ours ended before its time.
READY_BEFORE = "was ready already: requests may have come to it since it was drained"
_ASKED = "it was asked, not shown: the command pair has no check"


class DrainPair:
    """The commands, from the request to the result."""

    def __init__(self, commands: Pair, ours: bool, deadline: float, system: System, check_mode: bool) -> None:
        self.commands, self.ours, self.deadline = commands, ours, deadline
        self.system, self.check_mode = system, check_mode
        self.result = Drained(kind="command", name=commands.name)
        self.first = self._seen()
        self.began = system.monotonic()

    def observe(self) -> Drained:
        """The state, and whether a drain would be refused."""
        self.result.obstacle = self._obstacle()
        self.result.proved = [self.result.status] if self.first is not None else []
        return self.result

    def drained(self) -> Drained:
        """The drain was asked for, and the check shows it."""
        result = self.result
        result.obstacle = self._obstacle()
        if result.obstacle:
            raise Refused(f"{result.name} did not run: {result.obstacle}; nothing was touched", **result.report())
        if self.first is not True:
            self._act("drain", wanted=True)
        return result

    def ready(self) -> Drained:
        """The end of the drain was asked for, and the check shows it."""
        if self.first is not False:
            self._act("undrain", wanted=False)
        elif self.ours:
            self.result.warnings = [f"{self.result.name} {READY_BEFORE}"]
        return self.result

    def _obstacle(self) -> str:
        if self.commands.check and self.first is None:
            return f"its check tells nothing: {self.result.status}"
        if self.first is True and not self.ours:
            return "its check says that it is drained already, and not by Evenkeel: ask who did that"
        return ""

    def _act(self, action: str, wanted: bool) -> None:
        result = self.result
        result.planned = [{"resource": "command", "action": action, "target": result.name}]
        result.changed = True
        if self.check_mode:
            return
        done = self._run(self.commands.drain if wanted else self.commands.undrain, max(_LEAST, self.deadline))
        result.done = result.planned
        if done.rc:
            self._fail(f"its {action} failed: {done.words}", wanted)
        if not self.commands.check:
            result.warnings = [f"{result.name}: {_ASKED}"]
            return
        while self._seen() is not wanted:
            result.waited = self.system.monotonic() - self.began
            if result.waited >= self.deadline:
                self._fail(f"its check does not show that after {result.waited:.1f} s: {result.status}", wanted)
            self.system.sleep(_INTERVAL)
        result.waited = self.system.monotonic() - self.began
        result.proved = [f"{result.status}, after {result.waited:.1f} s"]

    def _fail(self, why: str, wanted: bool) -> NoReturn:
        """Raise ServiceFailed. A drain is taken back before."""
        result = self.result
        if not wanted:
            result.left = [result.name]
            raise ServiceFailed(f"{result.name}: it was not made ready: {why}", **result.report())
        back = self._run(self.commands.undrain, _BACK)
        result.done = [*result.done, {"resource": "command", "action": "undrain", "target": result.name}]
        now = self._seen()
        if back.rc or now:
            result.left = [result.name]
            words = f"it could not be made ready again: {back.words if back.rc else result.status}"
        elif now is None:
            words = f"its undrain was run; {_ASKED if not self.commands.check else result.status}"
        else:
            words = "it is ready again, as its check shows"
        raise ServiceFailed(f"{result.name}: it was not drained: {why}; {words}", **result.report())

    def _seen(self) -> bool | None:
        """Whether it is drained, as the check tells, put into the result as well; None where nothing tells."""
        found: bool | None = None
        if self.commands.check:
            done = self._run(self.commands.check, max(_LEAST, min(self.deadline, _BACK)))
            found = done.rc == 0 if done.has_answered else None
            self.result.status = f"its check ended with {done.rc}" + (f": {done.words}" if found is None else "")
        self.result.state = _STATES[found]
        return found

    def _run(self, argv: list[str], timeout: float) -> Completed:
        return self.system.command(argv, timeout)
