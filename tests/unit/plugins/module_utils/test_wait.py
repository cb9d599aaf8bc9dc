# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Healthy for the whole soak, told by a clock of our own: what happens in it is written as one line per round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.evidence import evidence
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import Probe, ProbeResult
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import (
    CRASH_LOOP,
    Health,
    Times,
    wait,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System


class Clock:
    now = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


def result(state: str = "pass", identity: str = "", restarts: int = 0, target: str = "web.service") -> ProbeResult:
    return ProbeResult("service", target, state, "seen", 0.0, identity, restarts)


def up(identity: str = "A", restarts: int = 0, target: str = "web.service") -> ProbeResult:
    return result("pass", identity, restarts, target)


def down(restarts: int = 0) -> ProbeResult:
    return result("fail", "", restarts)


PASS, FAIL, UNKNOWN = [up()], [down()], [result("unknown")]


def run(
    rounds: Sequence[list[ProbeResult]],
    soak: float = 0.0,
    deadline: float = 100.0,
    interval: float = 1.0,
    took: float = 0.0,
    earlier: Sequence[ProbeResult] = (),
) -> tuple[Health, int]:
    """(health, rounds made) when the probes say this, the last line for ever; a round takes ``took`` seconds."""
    clock, made = Clock(), 0

    def look(probes: list[Probe], system: System) -> list[ProbeResult]:
        nonlocal made
        made += 1
        clock.now += took
        return rounds[min(made, len(rounds)) - 1]

    system = replace(System(), monotonic=lambda: clock.now, sleep=clock.sleep)
    health = wait([], Times(soak, deadline, interval), system, look, earlier)
    assert health.waited == pytest.approx(clock.now - 100.0)
    return health, made


def test_without_a_soak_one_good_round_is_enough() -> None:
    health, made = run([PASS])
    assert (health.state, health.waited, made) == ("pass", 0.0, 1)


def test_one_round_is_made_even_when_there_is_no_time() -> None:
    assert run([FAIL], deadline=0.0)[0].state == "fail"
    health, made = run([PASS], deadline=0.0)
    assert (health.state, made) == ("pass", 1)


def test_it_must_pass_for_the_whole_soak() -> None:
    health, made = run([PASS], soak=10.0)
    assert (health.state, health.waited, health.soaked, made) == ("pass", 10.0, 10.0, 11)


def test_the_soak_starts_anew_after_a_failure() -> None:
    for bad in (FAIL, UNKNOWN):
        health, _ = run([*[PASS] * 8, bad, PASS], soak=10.0)
        assert (health.state, health.waited, health.soaked) == ("pass", 19.0, 10.0)


def test_one_probe_of_many_is_enough_to_fail() -> None:
    health, _ = run([[*PASS, result("fail", target="b")]], deadline=5.0)
    assert (health.state, health.waited) == ("fail", 5.0)


def test_a_restart_in_the_soak_counts_against_it() -> None:
    health, _ = run([*[[up("A")]] * 8, [up("B")]], soak=10.0)
    assert (health.state, health.restarts, health.waited, health.soaked) == ("pass", 1, 18.0, 10.0)
    health, _ = run([*[[up("A")]] * 8, [up("B")]], soak=10.0, deadline=12.0)
    assert (health.state, health.restarts, health.waited) == ("fail", 1, 12.0)


def test_a_round_in_which_a_restart_was_seen_is_no_good_round() -> None:
    health, made = run([[up("B")]], earlier=[up("A")])
    assert (health.state, health.restarts, made) == ("pass", 1, 2)
    assert run([[up("A")]], earlier=[up("A")])[1] == 1


def test_a_crash_loop_stops_at_once() -> None:
    """systemd's own count, while it is up in every round we see."""
    rounds = [[up(f"run{n}", n)] for n in range(100)]
    health, made = run(rounds, soak=10.0, deadline=1000.0)
    assert (health.state, health.restarts, made) == ("fail", CRASH_LOOP + 1, CRASH_LOOP + 2)


def test_a_crash_loop_that_ended_as_failed_is_one_too() -> None:
    health, made = run([[down(5)]], deadline=1000.0, earlier=[up("A", 0)])
    assert (health.state, health.restarts, made) == ("fail", 5, 1)


def test_restarts_of_processes_show_in_their_identity() -> None:
    rounds = [[up(f"{n // 2}")] if n % 2 == 0 else FAIL for n in range(100)]
    health, made = run(rounds, soak=10.0, deadline=1000.0)
    assert (health.restarts, made) == (CRASH_LOOP + 1, 2 * (CRASH_LOOP + 1) + 1)


def test_every_restart_is_counted_once() -> None:
    # Seen down with the count raised already, then up with another identity.
    health, _ = run([[up("A", 0)], [down(1)], [up("B", 1)]], soak=3.0)
    assert (health.state, health.restarts) == ("pass", 1)
    # Seen down, then up, as another.
    assert run([[up("A")], FAIL, [up("B")]], soak=3.0)[0].restarts == 1
    # The same unit in two probes.
    assert run([[up("A"), up("A")], [up("B", 1), up("B", 1)]], soak=3.0)[0].restarts == 1
    # Two units.
    assert run([[up("A"), up("X", target="b")], [up("B"), up("Y", target="b")]], soak=3.0)[0].restarts == 2
    # Several between two rounds.
    assert run([[up("A", 4)], [up("B", 6)]], soak=3.0)[0].restarts == 2
    # A restart by hand sets systemd's count back.
    assert run([[up("A", 4)], [up("B", 0)]], soak=3.0)[0].restarts == 1


def test_what_was_there_before_we_looked_does_not_count() -> None:
    health, _ = run([[up("A", 40)]], soak=3.0)
    assert (health.state, health.restarts) == ("pass", 0)


def test_a_service_that_comes_up_was_not_restarted() -> None:
    health, _ = run([FAIL, FAIL, [up("A")]], soak=3.0)
    assert (health.state, health.restarts, health.waited) == ("pass", 0, 5.0)


def test_a_state_that_is_not_known_is_no_restart() -> None:
    health, _ = run([[up("A", 4)], UNKNOWN, [up("A", 4)]], soak=3.0)
    assert (health.state, health.restarts, health.waited) == ("pass", 0, 5.0)


def test_the_deadline_ends_it_with_the_last_round() -> None:
    health, made = run([FAIL], deadline=10.0, interval=3.0)
    assert (health.state, health.waited, made) == ("fail", 10.0, 5)
    assert health.probes == FAIL


def test_the_deadline_holds_when_rounds_are_slow() -> None:
    health, made = run([FAIL], deadline=10.0, interval=1.0, took=6.0)
    assert (health.waited, made) == (13.0, 2)


def test_unknown_is_never_healthy() -> None:
    health, _ = run([UNKNOWN], deadline=3.0)
    assert health.state == "unknown"
    assert run([[*UNKNOWN, *PASS]], deadline=3.0)[0].state == "unknown"
    assert run([[*UNKNOWN, result("fail", target="b")]], deadline=3.0)[0].state == "fail"


def test_a_probe_that_only_warns_decides_nothing_and_is_told() -> None:
    for state in ("fail", "unknown"):
        warned = replace(result(state, target="b"), severity="warn")
        health, made = run([[*PASS, warned]], soak=3.0)
        assert (health.state, health.waited, made) == ("pass", 3.0, 4)
        assert health.warnings() == [f"service b: {state}, seen"] and health.wrong() == []
        health, _ = run([[*FAIL, warned]], deadline=3.0)
        assert (health.state, health.wrong()) == ("fail", ["service web.service: fail, seen"])
        assert run([[*UNKNOWN, warned]], deadline=3.0)[0].state == "unknown"


def test_evidence_from_outside_that_is_bad_is_not_waited_for() -> None:
    said = {"kind": "http", "target": "http://a/", "state": "fail", "detail": "status 500", "source": "peer b"}
    clock = Clock()
    system = replace(System(), monotonic=lambda: clock.now, sleep=clock.sleep)
    for severity, state in (("fail", "fail"), ("warn", "pass")):
        health = wait(evidence([{**said, "severity": severity}]), Times(0.0, 60.0, 1.0), system)
        assert (health.state, health.waited) == (state, 0.0)
        assert [one.words for one in health.probes] == ["http http://a/ from peer b: fail, status 500"]
    with pytest.raises(UsageError, match="measured, item 1: target is missing"):
        evidence([{"kind": "http", "state": "pass"}])
    with pytest.raises(UsageError, match="state must be pass, fail or unknown, not 'fine'"):
        evidence([{**said, "state": "fine"}])


def test_restarts_of_a_service_whose_probe_only_warns_do_not_count() -> None:
    rounds = [[*PASS, replace(up(f"run{n}", n, target="b"), severity="warn")] for n in range(100)]
    health, _ = run(rounds, soak=10.0)
    assert (health.state, health.restarts, health.soaked) == ("pass", 0, 10.0)


def test_a_soak_longer_than_the_deadline_cannot_pass() -> None:
    health, _ = run([PASS], soak=10.0, deadline=9.0)
    assert (health.state, health.waited) == ("fail", 9.0)
