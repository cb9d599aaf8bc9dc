# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a restart: what is asked of the host and of the balancers, and what is said at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.restart import leading
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import Place
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._restart import (
    Outcome,
    Steps,
    Wanted,
    comes_last,
    refuse_here,
)

PLACE = Place("lb", "haproxy", {"backend": "web", "server": "web1", "socket": "/run/haproxy/admin.sock"})
BEGUN = {"token": "t", "earlier": None}


class World:
    """A host that gives the answers that a test wants, and a balancer."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"begin": BEGUN, "act": {"proved": ["restarted"]}, **answers}
        self.calls: list[str] = []
        self.sent: dict[str, dict[str, Any]] = {}
        self.failing = ""
        self.now = 0.0

    def ask(self, phase: str, **values: Any) -> dict[str, Any]:
        self.calls.append(phase)
        self.sent[phase] = values
        answer = self.answers.get(phase, {})
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def look(self, _limit: float) -> dict[str, Any]:
        try:
            return self.ask("look")
        except AnsibleConnectionFailure as error:
            return {"unreachable": True, "msg": str(error)}

    def drain(self, places: Sequence[Place], ours: Sequence[Place]) -> Outcome:
        self.calls.append(f"drain at {len(places)}, {len(ours)} of them ours")
        return (
            Outcome(ours, why="lb refuses")
            if self.failing == "drain"
            else Outcome(places, ["drained"], "", ["lb: one"])
        )

    def ready(self, places: Sequence[Place]) -> Outcome:
        self.calls.append(f"ready at {len(places)}")
        return (
            Outcome(places, why="lb says DOWN") if self.failing == "ready" else Outcome((), ["ready"], "", ["lb: two"])
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, places: Sequence[Place] = (PLACE,), **wanted: Any) -> dict[str, Any]:
        steps = Steps(
            Wanted("web1", places, **wanted),
            self.ask,
            self,
            lambda result: result,
            lambda: self.calls.append("reset"),
            self.look,
            self.sleep,
            lambda: self.now,
        )
        return dict(steps.run())


def test_the_host_knows_of_the_drain_before_it_begins_and_forgets_it_after_it_has_ended() -> None:
    world = World()
    result = world.run()
    assert world.calls == ["begin", "drain at 1, 0 of them ours", "act", "ready at 1", "end"]
    assert world.sent["begin"]["drained"] == [{**PLACE.record(), "words": PLACE.words}]
    assert result["proved"] == ["restarted", "drained", "ready"] and result["left"] == []
    assert result["warnings"] == ["lb: one", "lb: two"]


def test_a_host_that_is_not_well_stays_drained_and_that_is_said() -> None:
    world = World(act={"failed": True, "msg": "web1 is not healthy.", "left": ["nginx.service"]})
    result = world.run()
    assert "ready at 1" not in world.calls and "end" not in world.calls
    assert result["left"] == ["nginx.service", f"drained: {PLACE.words}"]
    assert result["msg"] == f"web1 is not healthy. It stays drained at {PLACE.words}, until a restart of it succeeds."


def test_a_drain_that_is_refused_ends_the_restart_and_leaves_no_record() -> None:
    world = World()
    world.failing = "drain"
    result = world.run()
    assert world.calls[-2:] == ["drained", "end"] and world.sent["drained"]["drained"] == []
    assert result["error"] == "Refused" and not result["changed"] and result["left"] == []


def test_a_host_that_does_not_come_up_at_its_balancer_stays_on_record() -> None:
    world = World()
    world.failing = "ready"
    result = world.run()
    assert "end" not in world.calls and "gets no requests: lb says DOWN" in result["msg"]
    assert result["failed"] and result["left"] == [f"drained: {PLACE.words}"]


def test_a_place_of_an_earlier_run_is_ours_and_an_undeclared_one_stops_it() -> None:
    ours = {**PLACE.record(), "words": "lb"}
    world = World(begin={"token": "t", "earlier": {"drained": [ours]}})
    world.run()
    assert "drain at 1, 1 of them ours" in world.calls and world.calls[-1] == "end"
    other = World(begin={"token": "t", "earlier": {"drained": [ours, {**ours, "host": "router"}]}})
    result = other.run()
    assert other.calls == ["begin", "drained"] and len(other.sent["drained"]["drained"]) == 2
    assert result["error"] == "Refused" and "not declared as it was then" in result["msg"]


@pytest.mark.parametrize("told", [5, "x", [1, None], [{"host": 3}], {"a": 1}, [["\x1b[2J"]]])
def test_a_record_may_say_anything(told: Any) -> None:
    world = World(begin={"token": "t", "earlier": {"drained": told}}, act={"proved": 3, "left": "x"})
    result = world.run()
    assert isinstance(result["left"], list) and "\x1b" not in str(result.get("msg"))
    assert World(begin={"token": "t", "earlier": 7}).run()["left"] == []


def test_a_host_that_is_lost_on_the_way_is_said_to_be_drained() -> None:
    result = World(act=AnsibleConnectionFailure("no route")).run()
    assert result["unreachable"] and PLACE.words in result["msg"] and result["left"]


def test_a_boot_is_waited_for_and_proved() -> None:
    before, after = {"boot": "a"}, {"boot": "b"}
    lost = AnsibleConnectionFailure("down")
    booting = {"restart": {"identity": "a"}}
    world = World(boot=booting, look=[before, lost, after], booted={"proved": ["a became b"]})
    result = world.run((), boots=True)
    assert [one for one in world.calls if one != "reset"][-6:] == [
        "look",
        "look",
        "look",
        "booted",
        "ready at 0",
        "end",
    ]
    assert result["proved"][0] == "a became b"
    slow = World(boot=booting, look=before)
    result = slow.run((), boots=True, within=60.0)
    assert result["failed"] and "has not booted within 60 s (it still runs as before)" in result["msg"]


def test_a_ladder_that_ends_with_a_reboot_goes_on_to_it_only_where_the_host_says_so() -> None:
    failed = {"failed": True, "msg": "not healthy"}
    world = World(act={**failed, "next": "reboot"}, boot={"restart": {"identity": "a"}}, look={"boot": "b"})
    assert not world.run((PLACE,)).get("failed") and "booted" in world.calls
    world = World(act=failed)
    assert world.run()["failed"] and "boot" not in world.calls


def test_a_leader_is_not_restarted_before_the_others() -> None:
    world = World(begin={"deferred": True})
    result = world.run(last=False)
    assert world.calls == ["begin"] and not world.sent["begin"]["now"]
    assert result["error"] == "Refused" and "leads its group now" in result["msg"]


@pytest.mark.parametrize(
    ("earlier", "batch", "leaders", "last"),
    [
        (["a", "b"], ["c"], [], True),
        (["a"], ["b"], [], False),
        (["a"], ["b"], ["b", "c"], True),  # each leads a group of its own
        (["a"], ["b"], ["c"], False),  # it leads since the plan was made, and the leader of then comes after it
        ([], ["a"], ["b", "c"], False),
    ],
)
def test_only_another_leader_of_the_plan_comes_after_a_leader(
    earlier: list[str], batch: list[str], leaders: list[str], last: bool
) -> None:
    assert comes_last(["a", "b", "c"], earlier, batch, leaders) is last


REFUSED = {"failed": True, "error": "Busy", "msg": "The store is locked. Nothing was touched.", "changed": False}


@pytest.mark.parametrize("boots", [False, True])
def test_a_host_that_refuses_after_the_drain_is_ready_again(boots: bool) -> None:
    """It is healthy, and nobody would bring it back."""
    world = World(act=REFUSED, boot=REFUSED, drained={"restart": {"stage": "begun"}})
    result = world.run(boots=boots)
    assert world.calls[2:] == ["boot" if boots else "act", "drained", "ready at 1", "end"]
    assert result["failed"] and result["error"] == "Busy" and not result["changed"] and result["left"] == []
    assert result["msg"] == "The store is locked. Nothing was touched. It is ready again."
    world = World(act=REFUSED, boot=REFUSED, drained={"restart": {"stage": "begun"}})
    world.failing = "ready"
    result = world.run(boots=boots)
    assert "end" not in world.calls and result["left"] and "gets no requests: lb says DOWN" in result["msg"]


@pytest.mark.parametrize(
    ("told", "earlier"),
    [({"restart": {"stage": "failed"}}, None), ({"failed": True}, None), ({"restart": {"stage": "begun"}}, {"at": 1})],
)
def test_a_host_on_which_something_may_have_been_done_stays_drained(told: Any, earlier: Any) -> None:
    """By this run, by one that has taken over, or by an earlier one."""
    world = World(begin={"token": "t", "earlier": earlier}, act=REFUSED, drained=told)
    result = world.run()
    assert "ready at 1" not in world.calls and "end" not in world.calls and result["left"]


def test_an_error_on_the_way_tells_of_the_restart_and_the_drain() -> None:
    lost = AnsibleError("Failed to create temporary directory")
    booting = {"boot": {"restart": {"identity": "a"}}, "look": {"boot": "b"}}
    result = World(**booting, booted=lost).run(boots=True)
    assert result["failed"] and result["changed"] and PLACE.words in result["msg"] and result["left"]
    assert "Its restart may have begun" in result["msg"] and "temporary directory" in result["msg"]
    result = World(end=lost).run()
    assert "It was restarted. Run the same" in result["msg"] and result["left"] == ["web1"]
    result = World(begin=lost).run()
    assert not result["changed"] and "restart may" not in result["msg"]


@pytest.mark.parametrize("last", [[], [""], [" "]])
def test_an_empty_command_is_no_word_that_nobody_leads(last: list[str]) -> None:
    with pytest.raises(UsageError, match="last is empty"):
        leading(last)
    assert leading(None) == () and leading(["is-leader"]) == ("is-leader",)


class Here:
    """An inventory in which the controller is a host as well."""

    def is_here(self, host: str) -> bool:
        return host == "localhost"


@pytest.mark.parametrize("values", [{"scope": "host"}, {"ladder": ["cold", "reboot"]}])
def test_no_run_boots_its_own_controller(values: dict[str, Any]) -> None:
    inventory: Any = Here()
    with pytest.raises(UsageError, match="localhost is the controller of this run"):
        refuse_here(inventory, "localhost", values)
    refuse_here(inventory, "web1", values)
    refuse_here(inventory, "localhost", {"scope": None, "ladder": ["cold"]})
