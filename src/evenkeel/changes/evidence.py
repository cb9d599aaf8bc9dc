# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence from outside of the hosts while a change runs: conditions that can stop the change at any moment."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from evenkeel.outcome import Spec, UsageError
from evenkeel.shared import BadValue, prometheus, run_command, stop_conditions

# Seconds between two rounds; the number of errors of one condition in a row that is reason enough to stop.
EVERY = 5.0
MOST_ERRORS = 3
# The exit code of a command that lets the change go on. Any other exit code but 0 is an error.
_GOES_ON = 1
_WORDS = 300


@dataclass
class Condition:
    """A condition that can stop a change. ask: gives the reason to stop, or nothing; an exception means that the answer
    is not known.

    errors: the number of failed questions since the last answer.
    """

    name: str
    ask: Callable[[], str]
    errors: int = 0


def conditions(declared: Sequence[Spec]) -> list[Condition]:
    """The declared conditions, ready to be asked. Raises UsageError."""
    try:
        return [_condition(item) for item in stop_conditions(declared)]
    except BadValue as error:
        raise UsageError(f"stop_if: {error.message.removesuffix('. Nothing was touched')}") from error


def _condition(item: Any) -> Condition:
    ((kind, options),) = item.items()
    if kind == "command":
        argv, timeout = list(options["argv"]), float(options["timeout"])
        return Condition(f"command {shlex.join(argv)}"[:_WORDS], lambda: _ask_command(argv, timeout))
    ask, query, timeout = prometheus(options), str(options["query"]), float(options["timeout"])
    return Condition(f"prometheus {query}"[:_WORDS], lambda: _words_on(ask(query, timeout)))


def _ask_command(argv: Sequence[str], timeout: float) -> str:
    done = run_command(argv, timeout)
    if done.rc == 0:
        return _cut(done.out or done.err) or "exit code 0"
    if done.rc == _GOES_ON:
        return ""
    raise RuntimeError(f"exit code {done.rc}: {_cut(done.words)}")


def _words_on(found: Sequence[Any]) -> str:
    if not found:
        return ""
    first = ", ".join(f"{name}={value}" for name, value in found[0].labels.items())
    return _cut(f"{len(found)} series, the first {{{first}}} {found[0].value:g}")


def _why(error: Exception) -> str:
    return _cut(str(error) or type(error).__name__)


def _cut(words: str) -> str:
    return " ".join(words.split())[:_WORDS]


@dataclass
class StopIf:
    """Asks all conditions, again and again, while it is used in a ``with`` statement. note: reports a sentence.

    reason: why the change must stop, from the moment in which a condition says so; empty before.
    """

    conditions: Sequence[Condition]
    note: Callable[[str], None]
    every: float = EVERY
    reason: str = ""
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def check(self) -> None:
        """Ask once, before anything is touched. Raises UsageError where the change must not even begin."""
        for condition in self.conditions:
            try:
                said = condition.ask()
            except Exception as error:
                raise UsageError(f"stop_if: {condition.name} cannot be asked: {_why(error)}") from error
            if said:
                raise UsageError(f"stop_if: {condition.name} says already that the change must stop: {said}")

    def __enter__(self) -> StopIf:
        # Each condition has a thread, so that a question that hangs does not hinder the others.
        for condition in self.conditions:
            thread = threading.Thread(target=self._run, args=(condition,), name="evenkeel-stop-if", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()

    def _run(self, condition: Condition) -> None:
        while not self.reason and not self._over.wait(self.every):
            self.ask(condition)

    def ask(self, condition: Condition) -> None:
        """Ask one condition once."""
        try:
            said = condition.ask()
        except Exception as error:
            condition.errors += 1
            self._cannot_tell(condition, _why(error))
            return
        condition.errors = 0
        if said:
            self._stop(f"stop_if: {condition.name} says that the change must stop: {said}")

    def _cannot_tell(self, condition: Condition, why: str) -> None:
        if condition.errors >= MOST_ERRORS:
            times = f"{condition.errors} times in a row"
            self._stop(f"stop_if: {condition.name} could not be asked {times}, which counts as a stop: {why}")
        elif not self._over.is_set():
            self.note(f"stop_if: {condition.name} could not be asked: {why}")

    def _stop(self, reason: str) -> None:
        if not self._over.is_set():
            self.reason = self.reason or reason
