# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rolling restarts with kills at any edge, hosts that vanish, and probes that lie: the rules of the fleet hold.

The world is small: hosts with a record each, and one balancer. The plan, the guard, the steps of the controller and the
decisions of the host are the real ones.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import decision
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import Place
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _guard, _restart, _roll

# A tenth of them in make test, and all in make test-long.
schedules = pytest.mark.parametrize("schedules", [1000, pytest.param(10_000, marks=pytest.mark.long)])


class Killed(BaseException):
    """The controller is killed."""


@dataclass
class Host:
    """A host of the world. sick: its service does not work. acts: how often it was restarted."""

    name: str
    record: decision.Record | None = None
    generation: int = 0
    away: bool = False
    sick: bool = False
    acts: int = 0
    history: list[tuple[str, int]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return {"restart": self._shown()}

    def _shown(self) -> dict[str, Any] | None:
        if self.record is None:
            return None
        told = vars(self.record)
        return {**told, "drained": list(self.record.drained), "running": False}

    def phase(self, world: World, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """The host's half of a phase, as the module answers."""
        token = str(values.get("token") or "")
        if name == "look":
            roll, hosts = self.history[-1] if self.history else ("", 0)
            done = {"roll": roll, "at": float(world.clock), "hosts": hosts, "ok": True} if roll else None
            return {**self.state(), "refusal": "", "target": "nginx", "rolled": done, "history": {}, "leads": None}
        if name == "begin":
            before = self.record
            self.generation += 1
            wanted = decision.Record(
                self.generation, f"{self.generation}-{self.name}", "nginx", "cold", "", drained=values["drained"]
            )
            wanted = replace(wanted, roll=(values.get("roll") or {}).get("id", ""))
            self.record = decision.begun(before, False, wanted)
            return {"token": self.record.token, "earlier": before and {**vars(before), "drained": list(before.drained)}}
        if name == "drained":
            self.record = decision.with_drained(self.record, token, values["drained"])
            return {}
        if name == "act":
            self.record = decision.acting(self.record, token, False)
            self.acts += 1
            world.down.add(self.name)
            world.check()
            fails = world.chance.random() < world.failing
            if not fails:
                world.down.discard(self.name)
            self.sick = fails
            self.record = decision.acted(self.record, token, not fails)
            return {"failed": True, "msg": "not healthy", "error": "Unhealthy"} if fails else {"proved": ["restarted"]}
        assert name == "end"
        roll = decision.ended(self.record, token, False, bool(values.get("leave"))).roll
        self.history.append((roll, len(world.hosts)))
        self.record = None
        return {}


@dataclass
class World:
    chance: random.Random
    hosts: dict[str, Host]
    most: int
    killing: float = 0.0
    failing: float = 0.0
    vanishing: float = 0.0
    lying: float = 0.0
    drained: set[str] = field(default_factory=set)
    down: set[str] = field(default_factory=set)
    clock: int = 0
    crowd: int = 0

    def edge(self) -> None:
        """A moment at which the controller can be killed."""
        self.clock += 1
        if self.chance.random() < self.killing:
            raise Killed

    def check(self) -> None:
        """F2: the hosts that a restart takes out are never more than the budget."""
        self.crowd = max(self.crowd, len(self.drained | self.down))
        assert len(self.drained | self.down) <= self.most, f"{self.drained | self.down} are out at once"

    def ask(self, name: str) -> Callable[..., dict[str, Any]]:
        host = self.hosts[name]

        def call(phase: str, **values: Any) -> dict[str, Any]:
            self.edge()
            if host.away or self.chance.random() < self.vanishing:
                raise AnsibleConnectionFailure("no route")
            try:
                answer = host.phase(self, phase, values)
            except EvenkeelError as error:
                answer = {"failed": True, "msg": error.message, "error": error.code}
            self.edge()
            if self.chance.random() < self.vanishing:
                raise AnsibleConnectionFailure("the answer was lost")
            return answer

        return call

    def measured(self, name: str) -> _guard.Measured:
        host = self.hosts[name]
        if host.away:
            return _guard.measured({"unreachable": True})
        sick = host.sick or name in self.drained
        if sick and self.chance.random() < self.lying:
            sick = False
        told = {"state": "fail" if sick else "pass", "host_state": host.state(), "msg": ""}
        return _guard.measured(told)


@dataclass
class Balancer:
    """The balancer, which drains a host or fails to."""

    world: World
    name: str

    def drain(self, places: Sequence[Place], ours: Sequence[Place]) -> _restart.Outcome:
        self.world.edge()
        if not places:
            return _restart.Outcome()
        if self.world.chance.random() < self.world.failing:
            drained = list(ours) if self.name in self.world.drained else []
            return _restart.Outcome(drained, why="lb is unreachable")
        self.world.drained.add(self.name)
        self.world.check()
        self.world.edge()
        return _restart.Outcome(places, ["drained"])

    def ready(self, places: Sequence[Place]) -> _restart.Outcome:
        self.world.edge()
        if not places:
            return _restart.Outcome()
        if self.world.chance.random() < self.world.failing:
            return _restart.Outcome(places, why="lb says DOWN")
        self.world.drained.discard(self.name)
        self.world.edge()
        return _restart.Outcome((), ["ready"])


PLACE = Place("lb", "haproxy", {"backend": "web", "server": "web1", "socket": "/run/haproxy/admin.sock"})


def run(world: World, size: str, resume: bool = False, limit: Sequence[str] = (), undeclared: bool = False) -> bool:
    """One run of the playbook: plan, then wave by wave the guard and the steps. Whether all of it succeeded.

    limit: the hosts to restart, by default all. undeclared: the run declares no balancer.
    """
    look = {}
    for name in limit or world.hosts:
        host = world.hosts[name]
        try:
            look[name] = _roll.seen({"unreachable": True} if host.away else host.phase(world, "look", {}))
        except EvenkeelError as error:
            look[name] = _roll.seen({"failed": True, "msg": error.message})
    plan = _roll.plan(_roll.Question(look, [size], resume=resume))
    if plan.reasons:
        return False
    roll = {"id": plan.roll or f"roll-{world.clock}", "hosts": len(look)}
    names, lost = list(world.hosts), list[str]()
    for wave in plan.waves:
        world.edge()
        measured = {name: world.measured(name) for name in names}
        budget = str(world.most)
        asked = _guard.Question(names, wave, measured, None, budget, failed=lost, restart=True)
        if _guard.decide(asked).reasons:
            return False
        assert not lost, "no wave starts after a host that failed (F3)"
        for name in wave:
            wanted = _restart.Wanted(name, [] if undeclared else [PLACE], roll, last=wave == plan.waves[-1])
            steps = _restart.Steps(
                wanted, world.ask(name), Balancer(world, name), lambda result: result, lambda: None, lambda _limit: {}
            )
            result = steps.run()
            if result.get("failed") or result.get("unreachable"):
                lost.append(name)
                if name in world.drained:
                    record = world.hosts[name].record
                    told = [str(one) for one in result.get("left") or []]
                    assert any("lb" in one for one in told) or record is not None, "a drained host is named or recorded"
    return not lost


def world_of(chance: random.Random) -> tuple[World, str]:
    hosts = {f"web{n}": Host(f"web{n}") for n in range(1, chance.randint(2, 6))}
    most = chance.randint(1, len(hosts))
    return World(chance, hosts, most), str(most)


@schedules
@pytest.mark.parametrize("resume", [False, True])
def test_after_any_kills_a_run_finishes_and_nobody_stays_drained(resume: bool, schedules: int) -> None:
    chance = random.Random(11 if resume else 5)
    crowded = 0
    for _number in range(schedules // 2):
        world, size = world_of(chance)
        for _run in range(chance.randint(1, 4)):
            world.killing, world.failing = chance.choice([0.02, 0.1]), chance.choice([0, 0.05])
            world.vanishing, world.lying = chance.choice([0, 0.02]), chance.choice([0, 0.5])
            limit = [name for name in world.hosts if chance.random() < 0.6] if chance.random() < 0.5 else []
            with contextlib.suppress(Killed):
                run(world, size, resume and chance.random() < 0.5, limit, chance.random() < 0.1)
            for name in world.drained | world.down:
                assert world.hosts[name].record is not None, f"{name} is out of service, and its host does not know"
        world.killing = world.failing = world.vanishing = world.lying = 0.0
        before = {name: host.acts for name, host in world.hosts.items()}
        assert run(world, size, resume), "a run without faults finishes what others left"
        assert not world.drained and not world.down
        assert all(host.record is None for host in world.hosts.values())
        if not resume:
            assert all(host.acts == before[name] + 1 for name, host in world.hosts.items()), "each host once"
        crowded += world.crowd == world.most
    assert crowded > schedules // 8, "the budget was used"


@schedules
def test_a_run_that_was_fenced_does_nothing_more(schedules: int) -> None:
    """Two controllers: the older one goes on after the newer one has taken its host over."""
    chance = random.Random(3)
    for _number in range(schedules // 10):
        world = World(chance, {"web1": Host("web1")}, 1)
        host, calls = world.hosts["web1"], 0
        stop = chance.randint(1, 4)
        ask = world.ask("web1")

        def slow(
            phase: str, stop: int = stop, ask: Any = ask, host: Host = host, world: World = world, **more: Any
        ) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop:  # another controller restarts the host meanwhile
                world.killing = chance.choice([0, 0.3])
                with contextlib.suppress(Killed):
                    run(world, "1")
                world.killing = 0
                acts, taken = host.acts, host.generation > 1
                answer = ask(phase, **more)
                assert phase == "begin" or answer.get("failed") or not taken, f"{phase} with an old token"
                assert host.acts == acts or not taken
                return answer
            return ask(phase, **more)

        wanted = _restart.Wanted("web1", [PLACE])
        _restart.Steps(
            wanted, slow, Balancer(world, "web1"), lambda result: result, lambda: None, lambda _limit: {}
        ).run()
