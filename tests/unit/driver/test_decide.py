# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a wave may go on, and what became of a host."""

from __future__ import annotations

from typing import Any

import pytest

from evenkeel.ansible.events import CHECKS_ARGUMENTS, PREFIX, Record, feed
from evenkeel.changes import decide
from evenkeel.commands.playbook import row
from evenkeel.commands.protect import Protect
from evenkeel.commands.rollback import Rollback
from evenkeel.outcome import Exit, State, exit_code


def record(*results: tuple[str, str, str, dict[str, Any]]) -> Record:
    """A record of (host, task, status, result)."""
    found = Record()
    feed(found, {"event": "playbook_on_play_start", "event_data": {"name": "Begin", "uuid": "a"}})
    for host, task, status, result in results:
        data = {"host": host, "task": task, "resolved_action": PREFIX + task, "res": result}
        feed(found, {"event": f"runner_on_{status}", "event_data": data})
    return found


ARMED = {"id": "f00", "generation": 7, "armed": {"generation": 7, "until": 5.0, "within": 600}}
DEAD_MAN = decide.Armed(7, "f00", 600.0, 700.0, 710.0)


def test_the_dead_man_is_counted_on_this_machines_clock_not_on_the_hosts() -> None:
    assert decide.armed(ARMED, started=100.0, now=110.0) == DEAD_MAN


@pytest.mark.parametrize("result", [{}, {"armed": None, "generation": 3}, {"armed": {"until": 1}}])
def test_a_checkpoint_that_armed_nothing_is_not_armed(result: dict[str, Any]) -> None:
    assert decide.armed(result, 1.0, 2.0) is None


@pytest.mark.parametrize(
    ("info", "generation"),
    [
        ({"armed": {"generation": 7, "until": 705.0, "within": 600.0, "checkpoint": "f00"}}, 7),
        ({"armed": {"generation": 7, "until": 690.0, "within": 600.0}}, None),
        ({"armed": {"generation": 7, "until": 725.0, "within": 600.0}}, None),
        ({"armed": None}, None),
        ({}, None),
    ],
)
def test_only_a_change_that_began_while_we_did_is_taken_for_ours(info: dict[str, Any], generation: int | None) -> None:
    found = decide.adopted(info, began=100.0, now=110.0)
    assert (found.generation if found else None) == generation
    assert found is None or (found.checkpoint, found.earliest, found.latest) == ("f00", 700.0, 710.0)


def test_the_playbook_may_run_when_every_host_is_armed() -> None:
    begun = decide.begun(record(("web1", "ft_checkpoint", "ok", ARMED)), ["web1"], {"web1": DEAD_MAN})
    assert begun.halt == "" and begun.whys == {}


def test_one_host_that_is_not_armed_halts_its_wave_and_is_named() -> None:
    seen = record(
        ("web1", "ft_checkpoint", "ok", ARMED),
        ("web2", "ft_checkpoint", "unreachable", {"msg": "no route"}),
    )
    begun = decide.begun(seen, ["web1", "web2"], {"web1": DEAD_MAN})
    assert begun.halt == "web2: no route" and not begun.doubtful
    assert list(begun.whys) == ["web2"]


@pytest.mark.parametrize(
    ("status", "said", "lost"),
    [
        ("unreachable", "Failed to connect to the host via ssh: Shared connection to web1 closed.", True),
        ("unreachable", "no answer within 300 s", True),
        ("unreachable", "Failed to connect to the host via ssh: ssh: connect to host web1 port 22: timed out", False),
        ("unreachable", "Failed to connect to the host via ssh: root@web1: Permission denied (publickey).", False),
        ("failed", "no room", False),
    ],
)
def test_a_host_that_is_lost_while_it_takes_the_checkpoint_may_be_armed(status: str, said: str, lost: bool) -> None:
    assert (
        bool(decide.possibly_armed(record(("web1", "ft_checkpoint", status, {"msg": said})), ["web1"], sent=False))
        is lost
    )
    assert decide.possibly_armed(record(), ["web1"], sent=True) == {"web1"} and not decide.possibly_armed(
        record(), ["web1"], sent=False
    )


def test_a_checkpoint_without_a_dead_man_halts() -> None:
    begun = decide.begun(record(("web1", "ft_checkpoint", "ok", {"armed": None})), ["web1"], {})
    assert "--confirm-within" in begun.halt


def test_the_guards_refusal_is_the_reason() -> None:
    seen = record(("web1", "ft_guard", "failed", {"msg": "2 of 5 healthy", "decision": "refuse"}))
    assert decide.begun(seen, ["web1"], {}).halt == "refused by the guard: 2 of 5 healthy"


def test_a_begin_that_was_killed_halts_even_when_all_that_is_known_is_well() -> None:
    seen = record(("web1", "ft_checkpoint", "ok", ARMED))
    assert decide.begun(seen, ["web1"], {"web1": DEAD_MAN}, "killed").halt == "killed"


def test_what_is_wrong_for_a_host_is_usage_and_no_refusal_by_the_guard() -> None:
    seen = record(("web1", "ft_guard", "failed", {"msg": "web2: evenkeel_soak is wrong", "error": "UsageError"}))
    begun = decide.begun(seen, ["web1", "web2"], {})
    assert begun.usage and begun.halt == "web2: evenkeel_soak is wrong"


def test_a_role_whose_arguments_are_wrong_is_usage_and_nothing_was_touched() -> None:
    seen = record()
    data = {"host": "web1", "task": "Validating arguments", "resolved_action": f"ansible.builtin.{CHECKS_ARGUMENTS}"}
    said = {"msg": "Validation of arguments failed:\nevenkeel_resources.files.exlude"}
    feed(seen, {"event": "runner_on_failed", "event_data": {**data, "res": said}})
    told = row(seen, "web1")
    assert told["error"] == "UsageError" and "evenkeel_resources.files.exlude" in str(told["msg"])
    for command in (Rollback(), Protect()):
        assert command.exit_code([told]) is Exit.USAGE
        assert command.exit_code([told, {"state": "ok"}]) is Exit.FAILED


def test_only_hosts_without_a_reason_are_probed() -> None:
    whys = {"web1": "", "web2": "failed"}
    assert decide.verdicts(["web1", "web2"], whys) == {"web1": "probe", "web2": "roll_back"}
    assert decide.verdicts(["web1", "web2"], whys, "hold") == {"web1": "hold", "web2": "roll_back"}


@pytest.mark.parametrize("state", ["confirmed", "rolled_back", "in_doubt"])
def test_what_a_host_says_of_its_end_is_the_truth(state: str) -> None:
    status = "ok" if state == "confirmed" else "failed"
    answer = decide.settled(record(("w", "ft_settle", status, {"outcome": state, "by": "deadline", "msg": "m"})), "w")
    assert answer is not None and (answer.state, answer.by) == (State(state), "deadline")


def test_a_host_that_refuses_is_in_doubt_and_not_asked_again() -> None:
    answer = decide.settled(record(("w", "ft_settle", "failed", {"error": "Refused", "msg": "newer"})), "w")
    assert answer is not None and answer.state is State.IN_DOUBT and answer.why == "newer"


@pytest.mark.parametrize(
    "result",
    [
        ("w", "ft_settle", "unreachable", {"msg": "timed out"}),
        ("w", "ft_settle", "failed", {"error": "Busy", "msg": "locked"}),
        ("w", "ft_settle", "failed", {"msg": "module crashed"}),
    ],
)
def test_a_host_that_did_not_say_is_asked_again(result: tuple[str, str, str, dict[str, Any]]) -> None:
    seen = record(result)
    assert decide.settled(seen, "w") is None
    assert result[3]["msg"] in decide.why_unsettled(seen, "w")


def test_time_to_change_leaves_time_to_settle_before_the_first_dead_man() -> None:
    later = decide.Armed(1, "", 600.0, 900.0, 910.0)
    assert decide.time_to_change([DEAD_MAN, later]) == 670.0
    assert decide.time_to_change([decide.Armed(1, "", 20.0, 100.0, 101.0)]) == 95.0


@pytest.mark.parametrize(
    ("states", "complete", "code"),
    [
        ([State.CONFIRMED, State.CONFIRMED], True, Exit.DONE),
        ([State.CONFIRMED], False, Exit.FAILED),
        ([State.CONFIRMED, State.NOT_BEGUN], True, Exit.FAILED),
        ([State.ROLLED_BACK, State.NOT_BEGUN], False, Exit.FAILED),
        ([State.UNTOUCHED, State.NOT_BEGUN], False, Exit.REFUSED),
        ([State.CONFIRMED, State.UNTOUCHED], False, Exit.FAILED),
        ([State.CONFIRMED, State.ROLLED_BACK], False, Exit.PARTLY),
        ([State.CONFIRMED, State.ROLLED_BACK, State.NOT_BEGUN], False, Exit.PARTLY),
        ([State.CONFIRMED, State.IN_DOUBT], True, Exit.IN_DOUBT),
        ([State.CONFIRMED, State.ROLLED_BACK, State.IN_DOUBT], False, Exit.IN_DOUBT),
        ([], True, Exit.REFUSED),
    ],
)
def test_exit_codes(states: list[State], complete: bool, code: Exit) -> None:
    assert exit_code(states, complete=complete) is code


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        (("ok", {"probes": [{"kind": "service", "target": "nginx", "restarts": 2}]}), ""),
        (("ok", {"probes": [{"kind": "service", "target": "nginx", "restarts": 0}]}), ""),  # by hand
        (
            ("ok", {"probes": [{"kind": "service", "target": "nginx", "restarts": 3}]}),
            "became unhealthy: nginx ended",
        ),
        (("ok", {"probes": [{"kind": "service", "target": "nginx", "restarts": 3, "severity": "warn"}]}), ""),
        (("failed", {"msg": "not healthy: tcp 80", "state": "fail"}), "became unhealthy: not healthy: tcp 80"),
        (("failed", {"msg": "not healthy: tcp 80", "state": "unknown"}), "was not measured: not healthy: tcp 80"),
        (("failed", {"msg": "no room", "error": "OSError"}), "was not measured: no room"),
        (("unreachable", {"msg": "timed out"}), "was not measured: unreachable in"),
        (None, "was not measured: it did not answer in time"),
    ],
)
def test_a_confirmed_host_is_well_only_when_it_says_so_and_has_not_crashed(
    measured: tuple[str, dict[str, Any]] | None, why: str
) -> None:
    seen = record(*([("w", "ft_health", *measured)] if measured else []))
    found = decide.sick(seen, {"w": [{"kind": "service", "target": "nginx", "restarts": 2}]})
    assert why in ": ".join(found["w"]) if why else found == {}


ENDED = {"generation": 7, "outcome": "rolled_back", "by": "operator"}
CHANGE = {"generation": 8, "name": "before-change"}


@pytest.mark.parametrize(
    ("memory", "state"),
    [
        ({"generation": 7, "last": ENDED}, State.ROLLED_BACK),
        ({"generation": 8, "armed": CHANGE, "last": ENDED}, State.ROLLED_BACK),
        ({"generation": 7, "last": {**ENDED, "outcome": "in_doubt"}}, State.IN_DOUBT),
        (
            {"generation": 8, "armed": {**CHANGE, "name": "undo"}, "last": {**ENDED, "outcome": "confirmed"}},
            State.IN_DOUBT,
        ),
        ({"generation": 7, "last": {**ENDED, "outcome": "confirmed"}}, None),
        ({"generation": 8, "armed": CHANGE, "last": {**ENDED, "outcome": "confirmed"}}, None),
        ({"generation": 8, "last": {**ENDED, "generation": 8}}, None),  # of a newer change
        (None, None),
    ],
)
def test_a_confirmed_host_that_somebody_put_back_since_is_known_by_its_memory(memory: Any, state: State | None) -> None:
    for status in ("ok", "failed"):
        end = decide.put_back(record(("w", "ft_health", status, {"state": "pass", "host_state": memory})), "w", 7)
        assert (end.state if end else None) is state
    assert decide.put_back(record(), "w", 7) is None


def test_warnings_of_a_host_that_no_probe_shows_are_kept() -> None:
    probe = {"kind": "tcp", "target": "a:81", "state": "fail", "detail": "closed", "severity": "warn"}
    said = ["tcp a:81: fail, closed (3 of 3)", "a job of Ansible still runs: pid 7"]
    told = {"outcome": "confirmed", "by": "settle", "warnings": said, "health": {"probes": [probe]}}
    answer = decide.settled(record(("w", "ft_settle", "ok", told)), "w")
    assert answer is not None and answer.warnings == said[1:]


def test_what_a_host_that_went_back_has_left_is_told_once() -> None:
    told = {
        "outcome": "rolled_back",
        "by": "settle",
        "left": ["pid 7 goes on"],
        "warnings": ["a note"],
    }
    answer = decide.settled(record(("w", "ft_settle", "failed", told)), "w")
    assert answer is not None and answer.warnings == ["pid 7 goes on", "a note"]


def test_the_restarts_that_a_confirmed_host_owes_are_kept() -> None:
    due = {"level": "service", "unit": "app.service", "why": ["/usr/lib/libz.so.1"], "processes": ["app[812]"]}
    told = {"outcome": "confirmed", "by": "settle", "owed": [due, {"level": None}]}
    answer = decide.settled(record(("w", "ft_settle", "ok", told)), "w")
    assert answer is not None
    assert answer.owed == [due, {"level": "unknown", "unit": "", "why": [], "processes": []}]
