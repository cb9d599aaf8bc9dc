# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _guard
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._guard import (
    Decision,
    Measured,
    Question,
    earlier_hosts,
    measured,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._waves import hosts_of_budget

GROUP = ["a", "b", "c", "d", "e"]
WELL = Measured("pass", True)
ILL = Measured("fail", True, "http 500")
UNSURE = Measured("unknown", True, "probe crashed")
AWAY = Measured("unknown", False, "no route", None)
FLYING = Measured("pass", True, "", "its change of generation 7 is armed until noon")


def fleet(**others: Measured) -> dict[str, Measured]:
    return {**dict.fromkeys(GROUP, WELL), **others}


def decide(*words: Any, **named: Any) -> Decision:
    return _guard.decide(Question(*words, **named))


def one_reason(decision: Decision) -> str:
    assert len(decision.reasons) == 1, decision.reasons
    return decision.reasons[0]


def test_a_healthy_fleet_may_go_on_without_any_limit() -> None:
    decision = decide(GROUP, GROUP, fleet())
    assert decision.reasons == []
    assert decision.healthy == GROUP


@pytest.mark.parametrize("state", [ILL, UNSURE, AWAY])
def test_what_does_not_pass_never_counts_as_healthy(state: Measured) -> None:
    hosts = fleet(d=state)
    assert decide(GROUP, ["a"], hosts, min_healthy="3").reasons == []
    reason = one_reason(decide(GROUP, ["a"], hosts, min_healthy="4"))
    assert "3 of the 5" in reason and "asks for 4" in reason
    assert "repair d" in reason


def test_every_combination_of_states_obeys_min_healthy() -> None:
    for states in itertools.product([WELL, ILL, UNSURE, AWAY], repeat=4):
        hosts = dict(zip("abcd", states, strict=True))
        for needed in range(5):
            refused = any("min_healthy" in r for r in decide("abcd", ["a"], hosts, min_healthy=str(needed)).reasons)
            assert refused == (sum(hosts[name] is WELL for name in "bcd") < needed)


def test_the_wave_itself_is_never_among_those_who_stay_healthy() -> None:
    assert "1 of the 5" in one_reason(decide(GROUP, GROUP[:4], fleet(), min_healthy="quorum"))


def test_a_sick_host_may_change_as_the_change_may_be_its_cure() -> None:
    assert decide(GROUP, ["a"], fleet(a=ILL), min_healthy="4").reasons == []
    assert decide(GROUP, ["a"], fleet(a=UNSURE), min_healthy="4").reasons == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (AWAY, "a is unreachable (no route)"),
        (FLYING, "generation 7"),
        (Measured("unknown", True, "crash", None), "crash"),
    ],
)
def test_a_host_of_the_wave_must_be_there_and_idle(state: Measured, said: str) -> None:
    reason = one_reason(decide(GROUP, ["a"], fleet(a=state)))
    assert said in reason and reason.startswith("a ") and "run again" in reason


@pytest.mark.parametrize("other", [FLYING, AWAY])
def test_max_unavailable_counts_what_an_earlier_run_left_or_what_is_not_known(other: Measured) -> None:
    assert decide(GROUP, ["a"], fleet(), max_unavailable="1").reasons == []
    assert decide(GROUP, ["a"], fleet(b=other), max_unavailable="2").reasons == []
    reason = one_reason(decide(GROUP, ["a"], fleet(b=other), max_unavailable="1"))
    assert "while b may be in flight" in reason
    assert "2 hosts would change" in one_reason(decide(GROUP, ["a", "b"], fleet(), max_unavailable="1"))


def test_hosts_in_flight_stay_within_one_failure_domain() -> None:
    racks: Mapping[str, str | None] = {"a": "r1", "b": "r1", "c": "r2", "d": "r2", "e": None}
    assert decide(GROUP, ["a", "b"], fleet(), domains=racks).reasons == []
    assert "r1: a; r2: c" in one_reason(decide(GROUP, ["a", "c"], fleet(), domains=racks))
    assert "r1: a; r2: c" in one_reason(decide(GROUP, ["a"], fleet(c=FLYING), domains=racks))
    assert "e: no failure domain" in one_reason(decide(GROUP, ["a", "e"], fleet(), domains=racks))
    numbers: Mapping[str, Any] = dict.fromkeys(GROUP, 0)
    assert decide(GROUP, ["a", "e"], fleet(), domains=numbers).reasons == []


def test_an_empty_group_or_wave_is_refused() -> None:
    assert "group is empty" in decide([], ["a"], fleet()).reasons[0]
    assert "wave is empty" in one_reason(decide(GROUP, [], fleet()))
    assert "x would change without belonging to the group" in one_reason(decide(GROUP, ["x"], fleet(x=WELL)))


def test_a_host_that_this_run_lost_stops_every_later_wave() -> None:
    assert one_reason(decide(GROUP, ["c"], fleet(), failed=["a"])).startswith("a failed or became unreachable")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (WELL, "without an outcome"),
        (Measured("pass", True, outcome="rolled_back"), "rolled_back instead of confirmed"),
        (Measured("pass", True, outcome="in_doubt"), "in_doubt"),
        (FLYING, "still in flight"),
        (AWAY, "cannot be measured"),
    ],
)
def test_the_next_wave_starts_only_when_the_earlier_ones_are_confirmed(state: Measured, said: str) -> None:
    hosts = fleet(a=state, b=Measured("pass", True, outcome="confirmed"))
    reason = one_reason(decide(GROUP, ["c"], hosts, earlier=["a", "b"]))
    assert said in reason and reason.startswith("a, of an earlier wave")
    assert decide(GROUP, ["c"], hosts, earlier=["b"]).reasons == []


def test_all_reasons_are_given_at_once() -> None:
    decision = decide(GROUP, ["a", "b"], fleet(a=AWAY, c=ILL), "4", "1", failed=["a"])
    assert len(decision.reasons) == 4
    assert (decision.unhealthy, decision.unknown) == (["c"], ["a"])


@pytest.mark.parametrize(
    ("text", "size", "up", "down"),
    [("2", 5, 2, 2), ("50%", 5, 3, 2), ("quorum", 5, 3, 3), ("quorum", 4, 3, 3), ("0", 5, 0, 0), ("100%", 3, 3, 3)],
)
def test_budgets(text: str, size: int, up: int, down: int) -> None:
    assert hosts_of_budget(text, size, "x", round_up=True) == up
    assert hosts_of_budget(text, size, "x", round_up=False) == down


@pytest.mark.parametrize("text", ["", "most", "-1", "1.5", "120%", "50 %"])
def test_a_budget_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="min_healthy"):
        hosts_of_budget(text, 5, "min_healthy", round_up=True)


IDLE = {"generation": 3, "armed": None, "last": {"outcome": "confirmed"}, "interrupted": False}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"state": "pass", "host_state": IDLE}, Measured("pass", True, "", "", "confirmed")),
        ({"state": "fail", "msg": "x", "host_state": {**IDLE, "last": None}}, Measured("fail", True, "x", "", None)),
        ({"unreachable": True, "msg": "gone"}, Measured("unknown", False, "gone", None)),
        ({"unreachable": True, "state": "pass", "host_state": IDLE}, Measured("unknown", False, "no answer", None)),
        ({"failed": True, "msg": "no Python"}, Measured("unknown", True, "no Python", None)),
        ({"state": "pass"}, Measured("unknown", True, "ft_health gave no result", None)),
        ({"state": "great", "host_state": IDLE}, Measured("unknown", True, "ft_health gave no result", None)),
    ],
)
def test_anything_but_a_clear_answer_is_unknown(result: dict[str, Any], expected: Measured) -> None:
    assert measured(result) == expected


def test_a_host_in_flight_says_since_when_and_until_when() -> None:
    armed = {**IDLE, "armed": {"generation": 4, "until": 0, "within": 60}}
    flight = measured({"state": "pass", "host_state": armed}).flight
    assert flight == "its change of generation 4 is armed until 1970-01-01 00:00:00 UTC"
    assert measured({"state": "pass", "host_state": {**IDLE, "interrupted": True}}).flight
    doubt = {**armed, "doubt": {"generation": 4, "left": ["app: no package file"]}}
    flight = measured({"state": "pass", "host_state": doubt}).flight or ""
    assert "is in doubt, and still tried again (app: no package file); roll it back, or accept it" in flight


def test_earlier_batches_follow_the_order_of_the_play() -> None:
    hosts = ["b", "a", "d", "c"]
    assert earlier_hosts(hosts, None, ["d", "c"]) == ["b", "a"]
    assert earlier_hosts(hosts, "inventory", ["b"]) == []
    assert earlier_hosts(hosts, "reverse_inventory", ["a"]) == ["c", "d"]
    assert earlier_hosts(hosts, "sorted", ["c", "d"]) == ["a", "b"]
    assert earlier_hosts(hosts, "reverse_sorted", ["b"]) == ["d", "c"]
    assert earlier_hosts(hosts, "shuffle", ["b"]) is None


@pytest.mark.parametrize(
    "host_state",
    [
        {"armed": "yes"},
        {"armed": {"generation": 1, "until": 1e300}},
        {"armed": {"generation": 1, "until": float("nan")}},
        {"armed": {"generation": 1, "until": float("inf")}},
        {"armed": {"generation": 10**5000, "until": 1.0}},
        {"armed": {"generation": 1}, "doubt": {"left": 5}},
        {"armed": {"generation": 1}, "doubt": [1]},
        {"last": [1]},
    ],
)
def test_an_answer_of_another_form_is_that_host_unknown_and_no_error(host_state: Any) -> None:
    found = measured({"state": "pass", "host_state": host_state})
    assert (found.state, found.flight) == ("unknown", None) and "cannot be trusted" in found.detail


def test_what_a_host_says_is_cut_off_in_a_reason() -> None:
    armed = {"generation": "g" * 10**6, "until": "u" * 10**6}
    found = measured(
        {"state": "pass", "msg": "m" * 10**6, "host_state": {"armed": armed, "last": {"outcome": "o" * 10**6}}}
    )
    assert len(str(found)) < 3000


RECORD = {"target": "nginx.service", "mode": "cold", "stage": "failed", "at": 1.0, "running": False, "drained": []}


def restarting(**more: Any) -> Measured:
    host_state = {"restart": {**RECORD, **more}}
    return _guard.measured({"state": "pass", "host_state": host_state})


def test_a_restart_that_an_earlier_run_left_is_a_flight_and_a_restart_may_finish_it() -> None:
    left = restarting(drained=[{"words": "web/b on lb1"}])
    assert left.flight and left.flight.startswith("a restart of nginx.service (cold) has failed since 1970")
    assert "drained at web/b on lb1" in left.flight and left.restart
    hosts = fleet(b=left)
    assert "b is in flight already" in one_reason(decide(GROUP, ["b"], hosts))
    assert decide(GROUP, ["b"], hosts, restart=True).reasons == []
    assert "may be in flight" in one_reason(decide(GROUP, ["a"], hosts, max_unavailable="1", restart=True))


def test_hosts_that_are_in_the_middle_of_a_restart_are_counted_already_when_it_is_finished() -> None:
    hosts = fleet(b=restarting(), c=restarting())
    assert decide(GROUP, ["b"], hosts, max_unavailable="1", restart=True).reasons == []
    assert one_reason(decide(GROUP, ["b", "a"], hosts, max_unavailable="2", restart=True))
    domains = dict(zip(GROUP, ["r1", "r1", "r2", "r1", "r1"], strict=True))
    assert decide(GROUP, ["b"], hosts, domains=domains, restart=True).reasons == []
    assert "span 2 failure domains" in one_reason(decide(GROUP, ["b", "a"], hosts, domains=domains, restart=True))


@pytest.mark.parametrize("more", [{"running": True}, {"at": "x"}, {"drained": 3}])
def test_a_restart_that_goes_on_or_that_cannot_be_read_is_left_alone(more: dict[str, Any]) -> None:
    hosts = fleet(b=restarting(**more))
    assert decide(GROUP, ["b"], hosts, restart=True).reasons


VIP = "10.0.0.100/24"
MEMBERS = {"a": [VIP], "b": [VIP], "c": [VIP], "d": [], "e": []}
HOLDER = Measured("pass", True, holds=[VIP])
READY = Measured("pass", True, holds=[], idle="")


def test_the_holder_of_an_address_goes_down_only_when_another_host_can_take_it() -> None:
    hosts = fleet(a=HOLDER, b=READY, c=replace(READY, idle="its keepalived does not run"))
    decision = decide(GROUP, ["a"], hosts, addresses=MEMBERS)
    assert not decision.reasons and decision.aside == ["a"]
    # The holder is the last of the wave, so that no other one of the wave takes it.
    decision = decide(GROUP, ["a", "c"], hosts, addresses=MEMBERS)
    assert not decision.reasons and decision.aside == ["c", "a"]
    assert decide(GROUP, ["b", "c", "d"], hosts, addresses=MEMBERS).aside == []

    reason = one_reason(decide(GROUP, ["a", "b"], hosts, addresses=MEMBERS))
    assert "a has the address 10.0.0.100/24 now" in reason and "c (its keepalived does not run)" in reason
    for other in (replace(READY, state="fail"), replace(READY, flight="armed"), replace(READY, state="unknown"), AWAY):
        hosts = fleet(a=HOLDER, b=other, c=other)
        decision = decide(GROUP, ["a"], hosts, addresses=MEMBERS)
        assert "no host outside of the wave is healthy and ready" in one_reason(decision) and not decision.aside
    # d is ready for another address, which does not help.
    hosts = fleet(a=HOLDER, d=READY)
    assert "make the wave smaller" in one_reason(decide(GROUP, ["a"], hosts, addresses={"a": [VIP], "d": []}))


def test_a_host_that_does_not_say_whether_it_has_an_address_does_not_go_down() -> None:
    reason = one_reason(decide(GROUP, ["a"], fleet(b=READY), addresses=MEMBERS))
    assert reason.startswith("a does not say whether it has a service address")
    assert decide(GROUP, ["d"], fleet(b=READY), addresses=MEMBERS).reasons == []


def test_an_address_in_an_answer_is_read_with_care() -> None:
    good = {"state": "pass", "host_state": {}}
    assert measured(good).holds is None
    told = measured({**good, "address": {"holds": [VIP], "ready": False, "why": "x" * 5000}})
    assert told.holds == (VIP,) and 0 < len(told.idle) < 400
    assert measured({**good, "address": {"holds": [], "ready": True, "why": ""}}).idle == ""
    assert measured({**good, "address": {"holds": [], "ready": "yes", "why": ""}}).idle
    for bad in ("no", {}, {"holds": 3, "ready": True}, {"holds": None, "ready": True, "why": ""}):
        found = measured({**good, "address": bad})
        assert found.state == "unknown" and found.flight is None
