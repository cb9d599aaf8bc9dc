# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change over several hosts under random schedules of failures, with a model of the hosts: G1, G2, G3 hold.

The driver is the real one, from its waves to ``evenkeel resume``. The hosts are a model of what ft_checkpoint,
ft_settle, ft_health and ft_info do, which the tests of these modules hold true.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

import pytest

from evenkeel.ansible.event import Event
from evenkeel.ansible.events import PREFIX
from evenkeel.ansible.options import Options
from evenkeel.ansible.runner import Ended
from evenkeel.ansible.session import OnEvent, OwnRun, Seen, Session, Stop, UsersRun
from evenkeel.ansible.targets import Inventory, Targets
from evenkeel.changes import resume
from evenkeel.changes.context import Clock, Context
from evenkeel.changes.extending import Extending
from evenkeel.changes.flow import Change
from evenkeel.changes.request import ALL, WAVE, Request, Terms
from evenkeel.outcome import HostResult, State

WITHIN, AT_MOST = 600.0, 3600.0


class Killed(BaseException):
    """The driver was killed: nothing of it runs any more."""


@dataclass
class Host:
    """One host. new: it has the change. stuck: it cannot go back. sick: since when its probes fail."""

    new: bool = False
    generation: int = 0
    armed: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    reachable: bool = True
    stuck: bool = False
    sick: bool = False

    def conclude(self, outcome: str, by: str) -> None:
        armed = self.armed or self.last or {}
        same = {key: armed[key] for key in ("generation", "checkpoint", "change", "hosts")}
        self.last = {"outcome": outcome, "by": by, "at": 0.0, "left": [], **same}
        self.armed = None

    def go_back(self, by: str) -> str:
        self.new = self.new and self.stuck
        self.conclude("in_doubt" if self.stuck else "rolled_back", by)
        return str((self.last or {})["outcome"])

    def info(self) -> dict[str, Any]:
        return {"generation": self.generation, "armed": self.armed, "last": self.last}


@dataclass
class World:
    """All hosts, the time, and the schedule of what goes wrong. Stands for a Session."""

    hosts: dict[str, Host]
    chance: random.Random
    kill_at: int = -1
    failing: str = ""
    troubles: tuple[str, ...] = ()
    now: float = 1_000_000.0
    calls: int = 0
    decided: set[str] = field(default_factory=set)
    extending: Extending | None = None
    asked: list[str] = field(default_factory=list)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1.0)
        for host in self.hosts.values():
            if host.armed and self.now >= host.armed["due"]:
                host.go_back("deadline")
        extending, self.extending = self.extending, None  # one extension at a time
        if extending and (due := extending.due(self.now)):
            extending.extend(due)
        self.extending = self.extending or extending

    def step(self) -> None:
        """Between any two answers the driver may be killed."""
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed

    # -- what a session does

    def rounds(self, hosts: int) -> int:
        return 1

    def run_own(self, run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        self.asked.append(run.name)
        self.step()
        names = [str(name) for name in cast("list[str]", run.variables["evenkeel_hosts"])]
        if run.name == "begin":
            changed = [host for name, host in self.hosts.items() if host.new and name not in names]
            assert not any(host.sick or not host.reachable for host in changed), "G2: a wave begins beside a sick host"
        for name in self.chance.sample(names, len(names)):
            self.step()
            host = self.hosts[name]
            if not host.reachable:
                on_event(ended(name, run.name, "unreachable", {"msg": "no route"}))
                continue
            status, result = getattr(self, run.name)(name, host, run.variables)
            self.step()
            on_event(ended(name, TASKS[run.name], status, result))
        self.sleep(2.0)
        return Ended(0)

    def load_for_users(self, _limit: object, _hosts: object) -> None:
        """Nothing of it can be seen on a host."""

    def run_users(self, run: UsersRun, on_event: OnEvent, stop: Stop) -> Ended:
        failures = {}
        on_event({"event": "playbook_on_play_start", "event_data": {}})
        for name in run.hosts:
            self.step()
            self.hosts[name].new = True
            if name == self.failing:
                failures[name] = 1
                on_event(ended(name, "", "failed", {"msg": "as written"}))
            else:
                on_event(ended(name, "", "ok", {"changed": True}))
                on_event({"event": "runner_on_ok", "event_data": {"host": name, "task": run.mark, "res": {}}})
            self.trouble()
        self.sleep(self.chance.choice([5.0, 400.0]))
        on_event(
            {"event": "playbook_on_stats", "event_data": {"ok": dict.fromkeys(run.hosts, 1), "failures": failures}}
        )
        return Ended(2 if failures else 0, stop())

    def seen(self) -> Seen:
        return Seen()

    def trouble(self) -> None:
        name = self.chance.choice(list(self.hosts))
        kind = self.chance.choice(self.troubles) if self.troubles and self.chance.random() < 0.2 else ""
        if kind:
            setattr(self.hosts[name], kind, kind != "reachable")

    # -- what the modules do

    def begin(self, name: str, host: Host, variables: Any) -> tuple[str, dict[str, Any]]:
        host.generation += 1
        change = variables["evenkeel_change"]
        host.armed = {
            "generation": host.generation,
            "checkpoint": f"c{host.generation}",
            "name": "before-change",
            "until": self.now + WITHIN,
            "within": WITHIN,
            "due": self.now + WITHIN,
            "began": self.now,
            "change": change["id"],
            "hosts": change["hosts"],
            "overdue": None,
        }
        return "ok", {"id": host.armed["checkpoint"], "armed": dict(host.armed), "generation": host.generation}

    def settle(self, name: str, host: Host, variables: Any) -> tuple[str, dict[str, Any]]:
        verdict = variables["evenkeel_verdicts"][name]
        if variables["evenkeel_generations"][name] != host.generation:
            return "failed", {"error": "Refused", "msg": "another run"}
        if host.armed is None:
            last = host.last or {}
            if verdict == "take_back" and last["outcome"] == "confirmed":
                last = {"outcome": host.go_back("settle"), "by": "settle"}
            status = "ok" if last["outcome"] == "confirmed" else "failed"
            return status, {"outcome": last["outcome"], "by": last["by"], "msg": "it is over"}
        if verdict in ("roll_back", "take_back") or (verdict in ("probe", "hold") and host.sick):
            return "failed", {"outcome": host.go_back("settle"), "by": "settle", "msg": "rolled back"}
        if verdict == "probe":
            host.conclude("confirmed", "settle")
            return "ok", {"outcome": "confirmed", "by": "settle"}
        if verdict == "decide":
            assert host.armed.get("stage"), "only a host that is held is told to keep the change"
            self.decided.add(name)
            self.trouble()
        self.extend(host, {"hold": "held", "decide": "decided"}.get(verdict, ""))
        remaining = host.armed["due"] - self.now
        outcome = host.armed.get("stage") or "extended"
        return "ok", {"outcome": outcome, "by": "settle", "generation": host.generation, "remaining": remaining}

    def extend(self, host: Host, stage: str) -> None:
        assert host.armed is not None
        latest = host.armed["began"] + max(AT_MOST, WITHIN)
        host.armed["due"] = max(host.armed["due"], min(self.now + WITHIN, latest))
        host.armed["until"] = host.armed["due"]
        host.armed["stage"] = stage or host.armed.get("stage", "")
        assert host.armed["due"] <= self.now + WITHIN and host.armed["due"] <= latest, "G3"

    def health(self, name: str, host: Host, variables: Any) -> tuple[str, dict[str, Any]]:
        return ("failed", {"msg": "tcp 80: fail"}) if host.sick else ("ok", {"state": "pass", "probes": []})

    def status(self, name: str, host: Host, variables: Any) -> tuple[str, dict[str, Any]]:
        return "ok", host.info()


TASKS = {"begin": "ft_checkpoint", "settle": "ft_settle", "health": "ft_health", "status": "ft_info"}


def ended(host: str, task: str, status: str, result: dict[str, Any]) -> Event:
    data = {"host": host, "task": task or "Change", "resolved_action": PREFIX + task if task else "command"}
    return {"event": f"runner_on_{status}", "event_data": {**data, "res": result}}


class Inline(Extending):
    """Extends when time passes in the world, and not in a thread."""

    def __enter__(self) -> Extending:
        cast("World", self.context.session).extending = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        cast("World", self.context.session).extending = None


def context_of(world: World, on_failure: str = ALL, bake: float = 0.0) -> Context:
    names = tuple(world.hosts)
    inventory = Inventory(names, {}, {name: {"evenkeel_probes": [{"tcp": {"port": 80}}]} for name in names})
    targets = Targets(names, names, (), inventory)
    terms = Terms(on_failure, AT_MOST, bake=bake, ident="fleet")
    variables = {"evenkeel_confirm_within": "10m"}
    return Context(
        cast(Session, world), Request("site.yml", Options()), targets, variables, clock=world.clock(), terms=terms
    )


def resumed(world: World) -> bool:
    """Run ``evenkeel resume`` on what the hosts remember; whether a change waited."""
    context = context_of(world)
    told = {name: host.info() if host.reachable else None for name, host in world.hosts.items()}
    changes = resume.found(told, world.now)
    for change in changes:
        end, why = resume.verdict(change)
        resume.Resumption(context, told).bring(change, end, why)
    return bool(changes)


def schedule(seed: int) -> tuple[World, Change]:
    chance = random.Random(seed)
    hosts = {f"web{number}": Host() for number in range(1, chance.choice([2, 3, 5, 8]) + 1)}
    world = World(
        hosts,
        chance,
        kill_at=chance.choice([-1, chance.randint(1, 120)]),
        failing=chance.choice(["", *hosts]),
        troubles=chance.choice([(), ("sick",), ("reachable",), ("stuck",), ("sick", "reachable", "stuck")]),
    )
    names, plan = list(hosts), []
    while names:
        size = chance.randint(1, len(names))
        plan.append(tuple(names[:size]))
        names = names[size:]
    results = {host: HostResult(host, number) for number, wave in enumerate(plan, 1) for host in wave}
    context = context_of(world, chance.choice([ALL, ALL, WAVE]), chance.choice([0.0, 900.0]))
    return world, Change(context, plan, results, extends=Inline)


def sides(world: World, names: Sequence[str]) -> set[bool]:
    return {world.hosts[name].new for name in names if world.hosts[name].reachable and not world.hosts[name].stuck}


def check(seed: int) -> None:
    world, change = schedule(seed)
    units = [list(world.hosts)] if change.context.terms.on_failure == ALL else [list(wave) for wave in change.plan]
    try:
        reason, _usage = change.run(gather=False)
    except Killed:
        world.kill_at, world.extending = -1, None
        if world.chance.random() < 0.5:
            world.sleep(WITHIN + 1)  # the hosts are left alone for long
            undecided = [unit for unit in units if len(unit) > 1 and not world.decided & set(unit)]
            assert all(sides(world, unit) <= {False} for unit in undecided), "G1: before the decision none keeps it"
        while resumed(world) and world.calls < 5000:
            world.sleep(WITHIN + 1)
        if all(host.reachable for host in world.hosts.values()):
            assert all(len(sides(world, unit)) <= 1 for unit in units), "G1: all are on one side"
            assert not any(host.armed for host in world.hosts.values())
        return
    told = {name: result.state for name, result in change.hosts.items()}
    for name, host in world.hosts.items():
        if told[name] is State.CONFIRMED:
            assert host.new and host.armed is None
        elif told[name] is State.ROLLED_BACK:
            assert not host.new
        assert told[name] is not State.HELD, "every host has come to an end"
    if not reason:
        assert set(told.values()) == {State.CONFIRMED}
    for unit in units:
        states = {told[name] for name in unit}
        assert not {State.CONFIRMED, State.ROLLED_BACK} <= states, "G1: one unit, one side"


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 10))])
def test_no_schedule_leaves_hosts_of_one_change_on_two_sides(part: int) -> None:
    for seed in range(part * 1000, part * 1000 + 1000):
        try:
            check(seed)
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
