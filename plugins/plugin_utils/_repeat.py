# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repeat an operation until it is verified: the decisions of the controller. All of this is pure.

``decide`` is the state machine: from an event it makes the next action, which somebody else carries out and answers
with the next event. Whether an attempt may begin is decided on the host, which keeps the journal
(``_flows.operations``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

# Calls of the host, and the actions of the controller: ask for an attempt to begin; carry out the operation; record its
# end; only ask for the state; restore the checkpoint; take a token of the retry budget; wait; stop.
BEGIN, RUN, END, LOOK, RESTORE = "begin", "run", "end", "look", "restore"
TAKE, WAIT, STOP = "take", "wait", "stop"
# The events that are answers of the host (``_flows.operations``): an attempt has begun; the effect is verified; the
# effect is not verified; it is unknown; the checkpoint is to be restored before the next attempt.
BEGUN, VERIFIED, NOT_VERIFIED, UNSETTLED, TO_RESTORE = "begun", "verified", "not_verified", "unsettled", "to_restore"
# The other events: the task starts; the operation has answered; the host did not answer; its store is in use; the
# checkpoint is restored; something failed that is not to be repeated; a token was taken, or not; a wait is over.
STARTED, RAN, LOST, BUSY = "started", "ran", "lost", "busy"
RESTORED, BROKEN, TAKEN, WAITED = "restored", "broken", "taken", "waited"
# The outcomes besides VERIFIED.
FAILED, IN_DOUBT, UNREACHABLE, REFUSED = "failed", "in_doubt", "unreachable", "refused"
# Seconds that pass at least before the host is asked again about an attempt whose effect is not known yet.
_POLL = 1.0
# The seconds within which the bucket fills.
_MINUTE = 60.0
# A percentage of the hosts counts at least so many hosts.
_FEWEST = 10


@dataclass(frozen=True)
class Policy:
    """``attempts`` and ``unreachable``: how many times the operation may be carried out, and the host may fail to
    answer. ``deadline``, ``backoff`` and ``limit`` (the longest backoff) in seconds."""

    attempts: int
    unreachable: int
    deadline: float
    backoff: float
    limit: float


@dataclass(frozen=True)
class Event:
    """``after``: seconds that the host wants to pass, or the wait for a token. ``attempts``: the number that the host
    knows. ``open``: whether an attempt has begun and its effect is not known. ``why``: in words."""

    kind: str
    why: str = ""
    after: float = 0.0
    attempts: int = 0
    open: bool = False


@dataclass(frozen=True)
class Action:
    """``seconds``: of a wait; for a token, the longest wait that is of use. ``restored``: attempts that are undone."""

    kind: str
    seconds: float = 0.0
    restored: int = 0
    outcome: str = ""
    why: str = ""


@dataclass(frozen=True)
class Progress:
    """The state of the task. ``goal``: the call that is being made, or waited for. ``attempts``: so far.
    ``unanswered``: the calls without an answer so far. ``retries``: so far, of any reason. ``open``: an attempt
    may have taken effect. ``silent``: the last call was not answered. ``final``: the call is the last. ``delay``: the
    backoff that is waited for. ``due``: the deadline."""

    due: float
    goal: str = BEGIN
    attempts: int = 0
    unanswered: int = 0
    retries: int = 0
    restored: int = 0
    open: bool = False
    silent: bool = False
    final: bool = False
    delay: float = 0.0
    why: str = ""


def backoff(policy: Policy, retry: int, chance: Callable[[], float]) -> float:
    """Seconds before a retry, from 0 on: a random share of a time that doubles up to the limit, and of the limit too.

    ``chance`` gives numbers from 0 to 1. Full jitter: hosts that failed together do not come again together.
    """
    longest = policy.limit if retry > 60 else min(policy.limit, policy.backoff * 2.0**retry)
    return chance() * longest


def start(policy: Policy, now: float) -> Progress:
    return Progress(due=now + policy.deadline)


def decide(
    policy: Policy, progress: Progress, event: Event, now: float, chance: Callable[[], float]
) -> tuple[Progress, Action]:
    """The next action after this event."""
    return _Decision(policy, progress, now, chance).after(event)


class _Decision:
    def __init__(self, policy: Policy, progress: Progress, now: float, chance: Callable[[], float]) -> None:
        self.policy, self.progress, self.now, self.chance = policy, progress, now, chance

    def after(self, event: Event) -> tuple[Progress, Action]:
        if event.why:
            self.progress = replace(self.progress, why=event.why)
        if event.kind not in (TAKEN, WAITED):
            self.progress = replace(self.progress, silent=event.kind == LOST)
        if event.kind in (BEGUN, NOT_VERIFIED, UNSETTLED, TO_RESTORE):
            self.progress = replace(self.progress, open=event.open)
        return self._HANDLERS[event.kind](self, event)

    def _started(self, event: Event) -> tuple[Progress, Action]:
        return self._call(BEGIN)

    def _begun(self, event: Event) -> tuple[Progress, Action]:
        if self.now >= self.progress.due:  # The operation goes on no longer, and its end is recorded as that.
            self.progress = replace(self.progress, final=True)
            return self._call(END)
        self.progress = replace(self.progress, attempts=self.progress.attempts + 1)
        return self._call(RUN)

    def _ran(self, event: Event) -> tuple[Progress, Action]:
        return self._call(END)

    def _verified(self, event: Event) -> tuple[Progress, Action]:
        return self._stop(VERIFIED)

    def _broken(self, event: Event) -> tuple[Progress, Action]:
        """An error of this kind does not pass by itself."""
        if self.progress.open:
            return self._stop(IN_DOUBT)
        return self._stop(FAILED if self.progress.goal == RESTORE else REFUSED)

    def _note_no_answer(self, event: Event) -> tuple[Progress, Action]:
        """The host did not answer. It may have carried out the call."""
        progress = self.progress = replace(self.progress, unanswered=self.progress.unanswered + 1)
        if progress.final or progress.unanswered > self.policy.unreachable:
            return self._stop(self._undone())
        return self._retry(self._next_goal() if progress.goal == RUN else progress.goal)

    def _not_verified(self, event: Event) -> tuple[Progress, Action]:
        progress = self.progress
        if progress.final or progress.attempts >= self.policy.attempts:
            return self._stop(FAILED)
        return self._retry(BEGIN)

    def _unsettled(self, event: Event) -> tuple[Progress, Action]:
        """Nothing is repeated while the effect is not known: only verification is, until the deadline."""
        return self._poll(self._next_goal(), event)

    def _busy(self, event: Event) -> tuple[Progress, Action]:
        return self._poll(self.progress.goal, event)

    def _to_restore(self, event: Event) -> tuple[Progress, Action]:
        self.progress = replace(self.progress, restored=event.attempts)
        return self._call(RESTORE) if self.now < self.progress.due else self._give_up("")

    def _restored(self, event: Event) -> tuple[Progress, Action]:
        return self._call(BEGIN) if self.now < self.progress.due else self._give_up("")

    def _taken(self, event: Event) -> tuple[Progress, Action]:
        if event.after < 0:
            return self._give_up("the retry budget of all hosts is used up until the deadline")
        return self.progress, Action(WAIT, max(self.progress.delay, event.after))

    def _waited(self, event: Event) -> tuple[Progress, Action]:
        if self.progress.goal in (BEGIN, RESTORE) and self.now >= self.progress.due:
            return self._give_up("")
        return self._call(self.progress.goal)

    _HANDLERS = {
        STARTED: _started,
        BEGUN: _begun,
        RAN: _ran,
        VERIFIED: _verified,
        BROKEN: _broken,
        LOST: _note_no_answer,
        BUSY: _busy,
        NOT_VERIFIED: _not_verified,
        UNSETTLED: _unsettled,
        TO_RESTORE: _to_restore,
        RESTORED: _restored,
        TAKEN: _taken,
        WAITED: _waited,
    }

    def _next_goal(self) -> str:
        """Ask for a further attempt, or only for the state where no attempt is left."""
        return BEGIN if self.progress.attempts < self.policy.attempts else LOOK

    def _poll(self, goal: str, event: Event) -> tuple[Progress, Action]:
        """Ask again after a while, and the last time at the deadline itself."""
        left = self.progress.due - self.now
        if self.progress.final or left <= 0:
            return self._stop(self._undone())
        delay = max(_POLL, event.after, backoff(self.policy, self.progress.retries, self.chance))
        self.progress = replace(self.progress, goal=goal, retries=self.progress.retries + 1)
        return self.progress, Action(WAIT, min(delay, left))

    def _retry(self, goal: str) -> tuple[Progress, Action]:
        delay = backoff(self.policy, self.progress.retries, self.chance)
        self.progress = replace(self.progress, goal=goal, delay=delay, retries=self.progress.retries + 1)
        left = self.progress.due - self.now
        if delay >= left:
            return self._give_up("")
        return self.progress, Action(TAKE, left)

    def _give_up(self, why: str) -> tuple[Progress, Action]:
        """The deadline is over. Where an attempt may have taken effect, the host is asked once more."""
        self.progress = replace(self.progress, why=why or self.progress.why)
        if self.progress.open and not self.progress.final:
            self.progress = replace(self.progress, final=True)
            return self._call(END if self.progress.goal == END else LOOK)
        return self._stop(self._undone())

    def _undone(self) -> str:
        """The outcome of an operation that was not verified."""
        return IN_DOUBT if self.progress.open else UNREACHABLE if self.progress.silent else FAILED

    def _call(self, goal: str) -> tuple[Progress, Action]:
        self.progress = replace(self.progress, goal=goal)
        return self.progress, Action(goal, restored=self.progress.restored)

    def _stop(self, outcome: str) -> tuple[Progress, Action]:
        return self.progress, Action(STOP, outcome=outcome, why=self.progress.why)


# -- the retry budget: a bucket of tokens for all hosts of the run


@dataclass(frozen=True)
class Bucket:
    """``tokens`` at the moment ``at``. A negative number: tokens are promised to hosts that wait for them."""

    tokens: float
    at: float


def size_of(text: str, hosts: int) -> int:
    """The tokens of a full bucket: a number, or a share of the hosts such as ``20%``. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,6})(%?)", text.strip())
    if not found or not int(found[1]):
        raise ValueError(f"retry_budget: {text!r} is no number of retries; write one such as 20, or 20% of the hosts")
    return math.ceil(int(found[1]) * max(hosts, _FEWEST) / 100) if found[2] else int(found[1])


def take(bucket: Bucket | None, size: int, now: float, within: float) -> tuple[Bucket, float]:
    """Take one token of a bucket of this size, which fills in a minute: (the bucket, seconds until the token is there).

    Where that would be more than ``within``, no token is taken, and the seconds are -1.
    """
    known = bucket or Bucket(size, now)
    tokens = min(float(size), known.tokens + max(0.0, now - known.at) * size / _MINUTE) - 1
    wait = max(0.0, -tokens * _MINUTE / size)
    return (Bucket(tokens + 1, now), -1.0) if wait > within else (Bucket(tokens, now), wait)
