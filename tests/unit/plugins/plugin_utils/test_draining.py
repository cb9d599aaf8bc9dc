# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is drained on all of its balancers or on none, and every balancer that is not as asked is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _drain
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._drain import (
    DONE,
    FAILED,
    REFUSED,
    UNREACHABLE,
)

DECLARED = [{"haproxy": {"hosts": ["lb1", "lb2"], "backend": "web", "server": "web1"}}]
GONE = {"unreachable": True, "msg": "no route"}
SESSIONS = {
    "failed": True,
    "error": "ServiceFailed",
    "msg": "3 sessions are left; it is ready again",
    "state": "ready",
    "changed": True,
}


@dataclass
class Balancers:
    """The inventory, with balancers that answer. ``answers``: by host and state, instead of the usual answer."""

    answers: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, bool]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    predicts: bool = False

    def hosts_of(self, names: Iterable[str]) -> list[str]:
        return list(names)

    def store(self, host: str, given: str) -> str:
        return f"{given}/{host}"

    def each(self, hosts: Iterable[str], work: Callable[[Any], Any], timeout: float) -> dict[str, Any]:
        self.limits.append(timeout)
        found = {}
        for name in hosts:
            answer = work(Balancer(name, self))
            lost = next((one for one in answer["answers"] if one.get("msg") == GONE["msg"]), None)
            found[name] = GONE if lost else answer
        return found


@dataclass
class Balancer:
    name: str
    all: Balancers

    def module(self, module: str, **arguments: Any) -> Mapping[str, Any]:
        assert module == "ft_drain" and arguments["store"] == f"/s/{self.name}"
        assert arguments["haproxy"]["server"] == "web1"
        state = arguments["state"]
        self.all.asked.append((self.name, state, arguments["ours"]))
        given = self.all.answers.get((self.name, state))
        if given is not None:
            return given
        before = self.all.states.get(self.name, "ready")
        after = before if state == "look" or self.all.predicts else state
        self.all.states[self.name] = after
        return {
            "state": after,
            "changed": state not in ("look", before),
            "obstacle": "",
            "proved": [f"{self.name} {after}"],
        }


def drained(balancers: Any, ours: Any = ()) -> list[_drain.Outcome]:
    return _drain.drain(balancers, _drain.declared(balancers, DECLARED), 60.0, ours, "/s")


def ends(outcomes: list[_drain.Outcome]) -> list[str]:
    return [one.end for one in outcomes]


def test_all_balancers_are_looked_at_and_then_drained() -> None:
    balancers = Balancers()
    found = drained(balancers)
    assert ends(found) == [DONE, DONE] and all(one.changed and one.may_be_drained for one in found)
    assert found[0].words == "web/web1 on lb1: drained, lb1 drained"
    assert [state for _host, state, _ours in balancers.asked] == ["look", "look", "drained", "drained"]
    assert balancers.limits == [30.0, 90.0]
    back = _drain.undrain(balancers, [one.place for one in found], 60.0, "/s")  # type: ignore[arg-type]
    assert ends(back) == [DONE, DONE] and balancers.states == {"lb1": "ready", "lb2": "ready"}
    assert balancers.asked[-1] == ("lb2", "ready", True)


@pytest.mark.parametrize(
    ("answer", "end", "said"),
    [
        (GONE, UNREACHABLE, "lb2 is unreachable: no route; nothing was touched"),
        ({"state": "ready", "obstacle": "the last one"}, REFUSED, "the last one; nothing was touched"),
        ({"failed": True, "error": "ServiceFailed", "msg": "HAProxy does not answer"}, REFUSED, "does not answer"),
        ({"state": "on fire"}, REFUSED, "answers what no host of ours does"),
    ],
)
def test_a_balancer_that_cannot_leaves_all_untouched(answer: dict[str, Any], end: str, said: str) -> None:
    balancers = Balancers({("lb2", "look"): answer})
    first, second = drained(balancers)
    assert (first.end, second.end) == (REFUSED, end) and said in second.words
    assert "nothing was touched" in first.words and not first.left and not second.left
    assert {state for _host, state, _ours in balancers.asked} == {"look"}


def test_the_others_are_made_ready_again_where_one_fails() -> None:
    balancers = Balancers({("lb2", "drained"): SESSIONS})
    first, second = drained(balancers)
    assert (first.end, first.state, first.left) == (FAILED, "ready", False)
    assert first.words == "web/web1 on lb1 was drained, and another place was not; it was made ready again"
    assert (second.end, second.state, second.left) == (FAILED, "ready", False) and "3 sessions" in second.words
    assert balancers.asked[4:] == [("lb1", "ready", True)]


def test_a_balancer_that_is_lost_meanwhile_is_asked_again_and_named() -> None:
    balancers = Balancers({("lb2", "drained"): GONE, ("lb2", "ready"): GONE})
    first, second = drained(balancers)
    assert first.state == "ready" and not first.left
    assert second.left and second.may_be_drained and "it may still be drained" in second.words
    assert balancers.asked[4:] == [("lb1", "ready", True), ("lb2", "ready", True)]


def test_a_balancer_that_does_not_make_it_ready_again_is_named() -> None:
    sick = {"failed": True, "error": "Unhealthy", "msg": "the check says DOWN", "state": "ready", "left": ["web/web1"]}
    balancers = Balancers({("lb2", "drained"): SESSIONS, ("lb1", "ready"): sick})
    first, _second = drained(balancers)
    assert first.left and not first.may_be_drained and "ready again, and not up" in first.words


def test_a_place_that_an_earlier_run_has_drained_stays_so() -> None:
    balancers = Balancers(states={"lb1": "drained"})
    place = _drain.declared(balancers, DECLARED)[0]  # type: ignore[arg-type]
    assert ends(drained(balancers, [place])) == [DONE, DONE]
    assert [ours for host, _state, ours in balancers.asked if host == "lb1"] == [True, True]
    balancers = Balancers({("lb2", "drained"): SESSIONS}, {"lb1": "drained"})
    first, _second = drained(balancers, [place])
    assert first.end == FAILED and first.may_be_drained and "stays drained" in first.words
    assert len(balancers.asked) == 4


def test_nothing_goes_back_in_check_mode() -> None:
    balancers = Balancers({("lb2", "drained"): SESSIONS}, predicts=True)
    assert ends(drained(balancers)) == [DONE, FAILED] and len(balancers.asked) == 4


def test_no_place_is_no_call() -> None:
    balancers: Any = Balancers()
    assert _drain.drain(balancers, [], 60.0, (), "/s") == _drain.undrain(balancers, [], 60.0, "/s") == []
    assert balancers.limits == []


def test_the_words_of_a_balancer_are_bounded() -> None:
    answer = {"state": "ready", "obstacle": "", "proved": ["\x1b[2J" + "a" * 5000] * 500}
    (first, _second) = _drain.read_states(Balancers({("lb1", "look"): answer}), _places(), (), "/s")  # type: ignore[arg-type]
    assert len(first.facts) == 20 and len(first.words) < 25_000 and "\x1b" not in first.words


def test_the_warnings_of_a_balancer_are_texts_however_ansible_wraps_them() -> None:
    wrapped = SimpleNamespace(event=SimpleNamespace(msg="two"))
    answer = {"state": "ready", "proved": [], "warnings": ["one", wrapped]}
    (first, _second) = _drain.read_states(Balancers({("lb1", "look"): answer}), _places(), (), "/s")  # type: ignore[arg-type]
    assert first.warnings == ("one", "two")


def _places() -> list[Any]:
    return _drain.declared(Balancers(), DECLARED)  # type: ignore[arg-type]
