# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Repeated execution as a whole, played: the decisions of controllers and of the host, against faults at every edge."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import operations
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.operations import (
    COMPENSATABLE,
    IDEMPOTENT,
    ONCE,
    Decision,
    Question,
    Record,
    Seen,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import FAIL, PASS, UNKNOWN
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _repeat
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._repeat import (
    Action,
    Bucket,
    Event,
    Policy,
    Progress,
)

POLICY = Policy(attempts=4, unreachable=4, deadline=300.0, backoff=1.0, limit=20.0)
EVENTS = {
    operations.BEGUN: _repeat.BEGUN,
    operations.VERIFIED: _repeat.VERIFIED,
    operations.NOT_VERIFIED: _repeat.NOT_VERIFIED,
    operations.RUNNING: _repeat.UNSETTLED,
    operations.UNSHOWN: _repeat.UNSETTLED,
    operations.IN_DOUBT: _repeat.UNSETTLED,
    operations.RESTORE: _repeat.TO_RESTORE,
    operations.REFUSED: _repeat.BROKEN,
}


# Seconds that an effect may need to show.
WITHIN = 10.0


class Killed(Exception):
    """The controller was killed."""


@dataclass
class World:
    """A host with an operation, and the faults that it meets at each edge, with a chance that the seed decides.

    ``slow``: an effect shows only after a while, from ``shows`` on.
    """

    seed: int
    kind: str = IDEMPOTENT
    lies: str = ""
    vote: tuple[int, int] = (1, 1)
    now: float = 0.0
    record: Record | None = None
    effects: int = 0
    clean: bool = True
    running: dict[str, tuple[float, bool]] = field(default_factory=dict)
    begun: int = 0
    said_ok: bool = False
    slow: bool = False
    shows: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.faults = self.random.choice([0.05, 0.2, 0.5])
        self.kills = self.random.choice([0.0, 0.02, 0.2])
        self.works = self.random.choice([0.05, 0.6])
        self.policy = replace(POLICY, deadline=self.random.choice([20.0, 300.0]))

    def happens(self) -> bool:
        return self.random.random() < self.faults

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for token, (until, works) in list(self.running.items()):
            if until <= self.now:
                del self.running[token]
                self.take_effect(works)

    def take_effect(self, works: bool) -> None:
        self.clean = False
        if works:
            assert self.kind != ONCE or self.effects == 0, "it took effect twice"
            self.effects += 1
            self.shows = self.now + (self.random.random() * WITHIN if self.slow else 0.0)

    @property
    def true(self) -> str:
        return PASS if self.effects and self.now >= self.shows else FAIL

    def be_patient(self) -> None:
        """A measurement that waits until the effect has had its time to show."""
        if self.slow:
            self.pass_by(WITHIN)

    # -- the host

    def look(self) -> str:
        """One observation of the verification."""
        true = self.true
        if self.lies == "any" and self.happens():
            return self.random.choice([PASS, FAIL, UNKNOWN])
        if self.lies == "unknown" and self.happens():
            return UNKNOWN
        if self.lies == "after_ok" and self.said_ok and self.happens():
            return FAIL
        return true

    def seen(self) -> Seen:
        needed, planned = self.vote
        states = [self.look() for _ in range(planned)]
        if planned > 1:  # One of the observations may lie, and no more.
            states = [self.true, self.true, self.look()]
        record = self.record
        is_open = record is not None and record.state == operations.OPEN
        token = record.token if record else ""
        return Seen(
            operations.majority(states, needed, planned),
            "why",
            [token] if is_open and token in self.running else [],
            max(0.0, record.began + operations.SETTLING - self.now) if is_open and record else 0.0,
        )

    def begin(self, action: Action, patient: int) -> Decision:
        if patient:
            self.be_patient()
        asked = Question(
            "request",
            self.kind,
            action.kind == _repeat.BEGIN,
            "checkpoint" if self.kind == COMPENSATABLE else "",
            action.restored,
            patient,
        )
        decision = operations.may_begin(self.record, asked, self.seen())
        if decision.answer == operations.BEGUN and decision.record:
            self.begun += 1
            decision = replace(decision, record=replace(decision.record, token=str(self.begun), began=self.now))
        self.record = decision.record
        return decision

    def operate(self, token: str) -> tuple[str, bool]:
        """Carry out the operation: (its own word, whether the answer arrives)."""
        if self.kind != IDEMPOTENT:
            assert not self.running, "two attempts at once"
        if self.kind == COMPENSATABLE:
            assert self.clean, "an attempt began from what another left"
        works = self.random.random() < self.works
        said = "ok" if works and not self.happens() else "failed"
        if self.happens():  # The connection is lost, and the process goes on for a while.
            self.clean = False
            self.running[token] = (self.now + self.random.random() * 60, works)
            return said, False
        self.take_effect(works)
        return said, not self.happens()


@dataclass
class Controller:
    """One run of the task."""

    world: World
    token: str = ""
    said: str = "failed"
    attempts: int = 0
    lost: int = 0
    patient: int = 0
    trace: list[str] = field(default_factory=list)

    def run(self) -> str:
        world = self.world
        policy = world.policy
        progress = _repeat.start(policy, world.now)
        event = Event(_repeat.STARTED)
        for _step in range(2000):
            before = progress
            progress, action = _repeat.decide(policy, progress, event, world.now, world.random.random)
            self.trace.append(action.kind)
            if action.kind == _repeat.STOP:
                assert self.attempts <= policy.attempts and self.lost <= policy.unreachable + 1
                return action.outcome
            if action.kind in (_repeat.BEGIN, _repeat.RUN):
                assert world.now < before.due, "it began after the deadline"
            if action.kind == _repeat.WAIT:
                assert world.now + action.seconds <= before.due + 1e-9, "it waited past the deadline"
            event = self.carry_out(action)
        raise AssertionError("it does not end")

    def carry_out(self, action: Action) -> Event:
        world = self.world
        if world.random.random() < world.kills:
            raise Killed
        if action.kind == _repeat.WAIT:
            world.pass_by(action.seconds)
            return Event(_repeat.WAITED)
        if action.kind == _repeat.TAKE:
            return Event(_repeat.TAKEN)
        world.pass_by(world.random.random() * 2)
        event = Event(_repeat.LOST) if world.happens() else self.call(action)
        if world.random.random() < world.kills:
            raise Killed
        self.lost += event.kind == _repeat.LOST
        return event

    def call(self, action: Action) -> Event:
        world = self.world
        if action.kind == _repeat.RUN:
            self.attempts += 1
            self.said, arrives = world.operate(self.token)
            return Event(_repeat.RAN) if arrives else Event(_repeat.LOST)
        if action.kind == _repeat.RESTORE:
            world.clean, world.effects = True, 0
            return Event(_repeat.LOST if world.happens() else _repeat.RESTORED)
        # The host knows what the operation has said, from this call or from one before it.
        told = world.record.said if world.record else ""
        world.said_ok = (self.said if action.kind == _repeat.END else told) == "ok"
        if action.kind == _repeat.END:
            if self.said == "ok" or world.kind == ONCE:
                world.be_patient()
            decision = operations.concluded(world.record, self.token, self.said, world.seen(), {"said": self.said})
            world.record = decision.record
        else:
            decision = world.begin(action, self.patient)
        if world.happens():
            return Event(_repeat.LOST)
        if decision.answer == operations.BEGUN and decision.record:
            self.token, self.said = decision.record.token, "failed"
        record = decision.record
        self.patient = record.attempts if record and decision.answer == operations.UNSHOWN else 0
        return Event(
            EVENTS[decision.answer],
            decision.why,
            decision.after,
            record.attempts if record else 0,
            record is not None and record.state == operations.OPEN,
        )


def play(world: World, runs: int = 40) -> str:
    """Run the task again and again, as a person would, until it is verified; the last of them without faults."""
    outcome = ""
    for number in range(runs):
        if number == runs - 3:
            world.faults, world.kills, world.lies = 0.0, 0.0, ""
            world.works, world.policy = 1.0, POLICY
        try:
            outcome = Controller(world).run()
        except Killed:
            outcome = "killed"
        if outcome == _repeat.VERIFIED:
            if not world.lies:
                assert world.effects, "verified, and there is no effect"
            return outcome
        world.pass_by(world.random.random() * 100)
    return outcome


@pytest.mark.parametrize(("kind", "seeds"), [(IDEMPOTENT, 200), (COMPENSATABLE, 300), (ONCE, 500)])
def test_whatever_is_lost_or_killed_it_is_done_as_often_as_it_may_be(kind: str, seeds: int) -> None:
    for seed in range(seeds):
        world = World(seed, kind)
        assert play(world) == _repeat.VERIFIED, seed
        assert kind != ONCE or world.effects == 1, seed


def test_what_happens_once_does_so_although_its_effect_shows_late() -> None:
    for seed in range(400):
        world = World(seed, ONCE, slow=True)
        assert play(world) == _repeat.VERIFIED and world.effects == 1, seed


@pytest.mark.parametrize("lies", ["unknown", "after_ok"])
def test_what_happens_once_does_so_whatever_verification_does_not_see(lies: str) -> None:
    for seed in range(250):
        world = World(seed, ONCE, lies=lies)
        assert play(world) == _repeat.VERIFIED and world.effects == 1, seed


def test_a_majority_outvotes_an_observation_that_lies() -> None:
    for seed in range(250):
        world = World(seed, ONCE, lies="any", vote=(2, 3))
        assert play(world) == _repeat.VERIFIED and world.effects == 1, seed


def test_without_a_vote_such_an_observation_is_believed() -> None:
    """The test above can fail."""
    with pytest.raises(AssertionError):
        for seed in range(100):
            world = World(seed, ONCE, lies="any")
            assert play(world) == _repeat.VERIFIED and world.effects == 1, seed


def test_the_states_of_observations_make_a_majority_or_none() -> None:
    good, bad, unsure = PASS, FAIL, UNKNOWN
    majority = operations.majority
    assert majority([good, bad, good], 2, 3) == good and majority([bad, unsure, bad], 2, 3) == bad
    assert majority([good, bad, unsure], 2, 3) == unsure
    assert majority([good, bad], 2, 3) == "", "the third decides"
    assert majority([good, good], 2, 3) == good, "the third is not needed"
    assert majority([good, unsure], 3, 3) == unsure, "the third cannot help"


# -- times


def waits(policy: Policy, chance: float) -> list[float]:
    """The waits of a controller whose operation always fails at once."""
    now, progress, event = 0.0, _repeat.start(policy, 0.0), Event(_repeat.STARTED)
    found: list[float] = []
    while True:
        progress, action = _repeat.decide(policy, progress, event, now, lambda: chance)
        if action.kind == _repeat.STOP:
            return found
        if action.kind == _repeat.WAIT:
            found.append(action.seconds)
            now += action.seconds
        answers = {_repeat.BEGIN: _repeat.BEGUN, _repeat.RUN: _repeat.RAN, _repeat.END: _repeat.NOT_VERIFIED}
        event = Event(answers.get(action.kind) or {_repeat.TAKE: _repeat.TAKEN}.get(action.kind, _repeat.WAITED))


def test_backoff_doubles_up_to_its_limit_and_is_random_there_too() -> None:
    policy = Policy(attempts=9, unreachable=0, deadline=1e6, backoff=0.5, limit=10.0)
    assert waits(policy, 1.0) == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert waits(policy, 0.25) == [0.125, 0.25, 0.5, 1.0, 2.0, 2.5, 2.5, 2.5]
    drawn = [_repeat.backoff(policy, 50, random.Random(seed).random) for seed in range(1000)]
    assert 0 <= min(drawn) < 0.1 and 9.9 < max(drawn) <= 10 and 4.5 < sum(drawn) / len(drawn) < 5.5
    assert _repeat.backoff(policy, 10**6, lambda: 1.0) == 10.0


def test_one_attempt_is_one_attempt() -> None:
    assert waits(Policy(attempts=1, unreachable=0, deadline=1e6, backoff=1.0, limit=1.0), 1.0) == []


def test_no_wait_leads_past_the_deadline() -> None:
    policy = Policy(attempts=99, unreachable=0, deadline=10.0, backoff=1.0, limit=60.0)
    assert waits(policy, 1.0) == [1.0, 2.0, 4.0], "8 seconds more would be too late"


def test_an_attempt_that_begins_too_late_is_not_carried_out() -> None:
    progress, action = _repeat.decide(POLICY, Progress(due=5.0), Event(_repeat.BEGUN, open=True), 5.0, random.random)
    assert action.kind == _repeat.END and progress.final and progress.attempts == 0


def test_at_the_deadline_an_attempt_in_doubt_is_looked_at_once_more() -> None:
    late = Progress(due=10.0, goal=_repeat.RUN, attempts=1, open=True)
    progress, action = _repeat.decide(POLICY, late, Event(_repeat.LOST), 10.0, random.random)
    assert action.kind == _repeat.LOOK and progress.final
    for answer, outcome in ((_repeat.VERIFIED, _repeat.VERIFIED), (_repeat.NOT_VERIFIED, _repeat.FAILED)):
        assert _repeat.decide(POLICY, progress, Event(answer), 11.0, random.random)[1].outcome == outcome
    for answer in (_repeat.UNSETTLED, _repeat.LOST):
        _progress, action = _repeat.decide(POLICY, progress, Event(answer, open=True), 11.0, random.random)
        assert action.outcome == _repeat.IN_DOUBT
    # Where the operation has answered, that is what the host is told.
    progress, action = _repeat.decide(POLICY, replace(late, goal=_repeat.END), Event(_repeat.LOST), 10.0, random.random)
    assert action.kind == _repeat.END and progress.final


def test_a_wait_for_what_still_runs_ends_at_the_deadline() -> None:
    late = Progress(due=10.0, goal=_repeat.END, attempts=1, open=True, retries=9)
    progress, action = _repeat.decide(POLICY, late, Event(_repeat.UNSETTLED, open=True), 8.0, lambda: 1.0)
    assert (action.kind, action.seconds, progress.goal) == (_repeat.WAIT, 2.0, _repeat.BEGIN)
    assert _repeat.decide(POLICY, progress, Event(_repeat.WAITED), 10.0, lambda: 1.0)[1].kind == _repeat.LOOK


def test_a_host_that_never_answers_is_asked_as_often_as_its_own_budget_says() -> None:
    policy = Policy(attempts=2, unreachable=3, deadline=1e6, backoff=0.0, limit=0.0)
    progress, event, asked = _repeat.start(policy, 0.0), Event(_repeat.STARTED), 0
    while True:
        progress, action = _repeat.decide(policy, progress, event, 0.0, lambda: 0.0)
        if action.kind == _repeat.STOP:
            break
        asked += action.kind == _repeat.BEGIN
        event = Event({_repeat.BEGIN: _repeat.LOST, _repeat.TAKE: _repeat.TAKEN}.get(action.kind, _repeat.WAITED))
    assert (asked, action.outcome, progress.attempts) == (4, _repeat.UNREACHABLE, 0)


# -- the retry budget


def test_all_hosts_together_retry_as_often_as_the_bucket_says() -> None:
    """A thousand hosts that always fail: a full bucket at once, and then what it gets in a minute."""
    size = _repeat.size_of("20%", 1000)
    assert size == 200
    bucket: Bucket | None = None
    got = []
    for host in range(1000):
        bucket, wait = _repeat.take(bucket, size, 100.0 + host / 1000, 120.0)
        got.append(wait)
    assert sum(wait == 0 for wait in got) in range(200, 205)
    assert sum(0 < wait <= 60 for wait in got) in range(195, 205)
    assert sum(wait < 0 for wait in got) == pytest.approx(400, abs=10), "no token in time, and none is taken"
    assert bucket is not None
    assert _repeat.take(bucket, size, 100.0 + 120 + 60, 0.0)[1] == 0.0, "the bucket fills again"
    assert _repeat.take(Bucket(0.0, 0.0), size, 1e9, 0.0)[0].tokens == size - 1, "and never holds more than it can"


@pytest.mark.parametrize(("text", "hosts", "size"), [("7", 1000, 7), ("50%", 3, 5), ("100%", 40, 40), ("1%", 5, 1)])
def test_the_size_of_the_bucket(text: str, hosts: int, size: int) -> None:
    assert _repeat.size_of(text, hosts) == size


@pytest.mark.parametrize("text", ["", "0", "0%", "many", "-1", "1.5"])
def test_a_budget_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="retry_budget"):
        _repeat.size_of(text, 3)


def test_without_a_token_the_controller_gives_up() -> None:
    progress = Progress(due=100.0, goal=_repeat.BEGIN)
    progress, action = _repeat.decide(POLICY, progress, Event(_repeat.TAKEN, after=-1.0), 5.0, random.random)
    assert action.kind == _repeat.STOP and action.outcome == _repeat.FAILED and "retry budget" in action.why
    progress, action = _repeat.decide(
        POLICY, Progress(due=100.0, delay=2.0), Event(_repeat.TAKEN, after=7.0), 5.0, random.random
    )
    assert (action.kind, action.seconds) == (_repeat.WAIT, 7.0)
