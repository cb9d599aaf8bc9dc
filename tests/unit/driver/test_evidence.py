# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Something outside of the hosts says, at any moment, that a change must stop; and hosts that it is compared with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_prometheus import Fake, serving, vector

from evenkeel.ansible.runner import Ended
from evenkeel.ansible.session import OnEvent, OwnRun, Stop
from evenkeel.changes import preflight
from evenkeel.changes.decide import Armed
from evenkeel.changes.evidence import MOST_ERRORS, Condition, StopIf, conditions
from evenkeel.changes.settle import Settlement
from evenkeel.changes.wave import Wave
from evenkeel.commands.arguments import stop_if as read_stop_if
from evenkeel.outcome import State, UsageError

from .test_flow import BEGIN, WELL, Hands, Script, alone, change, measured, script_of, settled, states, wave
from .test_preflight import fleet

SECRET = "tok-8841-secret"


@pytest.fixture
def server() -> Iterator[Fake]:
    with serving() as fake:
        yield fake


def answers(*said: str | Exception) -> Condition:
    """A condition that answers so, the last for ever."""
    left = list(said)

    def ask() -> str:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, Exception):
            raise one
        return one

    return Condition("it", ask)


def stopping(condition: Condition, notes: list[str] | None = None) -> StopIf:
    return StopIf([condition], (notes if notes is not None else []).append, every=0.01)


def ask(command: Sequence[str]) -> str:
    (one,) = conditions([{"command": {"argv": list(command), "timeout": "1s"}}])
    return one.ask()


def test_a_command_stops_a_change_with_0_lets_it_go_on_with_1_and_is_an_error_otherwise() -> None:
    assert ask(["sh", "-c", "echo errors are up; echo more"]) == "errors are up more"
    assert ask(["true"]) == "exit code 0"
    assert ask(["false"]) == ""
    for argv, words in ((["sh", "-c", "exit 2"], "exit code 2"), (["/no/such"], "127"), (["sleep", "9"], "124")):
        with pytest.raises(RuntimeError, match=words):
            ask(argv)


def test_a_query_stops_a_change_once_it_gives_anything(server: Fake) -> None:
    (one,) = conditions([{"prometheus": {"url": server.url, "query": "errors > 5", "token": SECRET}}])
    server.answer = lambda query: vector()
    assert one.ask() == ""
    server.answer = lambda query: vector(web1=7, web2=9)
    assert one.ask() == "2 series, the first {instance=web1} 7" and server.asked == ["errors > 5"] * 2
    assert server.headers["authorization"] == f"Bearer {SECRET}" and SECRET not in one.name
    server.answer = lambda query: (500, SECRET)
    with pytest.raises(Exception, match="status 500") as error:
        one.ask()
    assert SECRET not in str(error.value)


def test_it_is_asked_all_the_time_and_what_it_once_said_stays_said() -> None:
    with stopping(answers("", "", "errors are up", "")) as one:
        end = time.monotonic() + 5
        while not one.reason and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
    assert one.reason == "stop_if: it says that the change must stop: errors are up"


def test_an_error_is_told_and_several_in_a_row_are_a_stop() -> None:
    notes: list[str] = []
    condition = answers(OSError("gone"), "", *[RuntimeError("exit code 2")] * MOST_ERRORS)
    one = stopping(condition, notes)
    for _ in range(1 + MOST_ERRORS):
        one.ask(condition)
    assert one.reason == ""
    assert notes == ["stop_if: it could not be asked: gone"] + ["stop_if: it could not be asked: exit code 2"] * 2
    one.ask(condition)
    assert (
        one.reason
        == f"stop_if: it could not be asked {MOST_ERRORS} times in a row, which counts as a stop: exit code 2"
    )


def test_a_condition_that_hangs_keeps_no_other_from_being_asked() -> None:
    over = threading.Event()
    hangs = Condition("hangs", lambda: str(over.wait(20)))
    with StopIf([hangs, answers("", "now")], print, every=0.01) as one:
        end = time.monotonic() + 5
        while not one.reason and time.monotonic() < end:
            time.sleep(0.01)
    over.set()
    assert "it says that the change must stop: now" in one.reason


@pytest.mark.parametrize(
    ("said", "words"), [("yes", "says already that the change must stop: yes"), (OSError("no"), "cannot be asked: no")]
)
def test_a_change_does_not_begin_when_it_must_stop_or_nobody_can_tell(said: str | Exception, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        stopping(answers(said)).check()
    stopping(answers("")).check()


def stopped_wave(at: str, *runs: Any) -> tuple[Wave, Script]:
    """A wave that must stop from the run of this name on."""
    one, script = wave(*runs, clock=Hands())
    stop = stopping(answers(""))
    one.context = replace(one.context, stop_if=stop)

    def then(name: str) -> None:
        if name == at:
            stop.reason = "errors are up"

    script.then = then
    return one, script


BACK = ("settle", [settled("web1", "rolled_back"), settled("web2", "rolled_back")], 2)


def test_hosts_in_flight_go_back_when_it_says_so_while_the_playbook_runs() -> None:
    one, script = stopped_wave("users", ("begin", BEGIN, 0), ("users", WELL, 0), BACK)
    assert one.run() == ("", False) and states(one) == [State.ROLLED_BACK] * 2
    assert script.asked[2][1]["evenkeel_verdicts"] == dict.fromkeys(("web1", "web2"), "roll_back")
    assert one.hosts["web1"].why == "errors are up"


def test_the_playbook_never_runs_when_it_says_so_while_hosts_are_armed() -> None:
    one, script = stopped_wave("begin", ("begin", BEGIN, 0), BACK)
    assert one.run() == ("errors are up", False) and states(one) == [State.UNTOUCHED] * 2
    assert [name for name, _ in script.asked] == ["begin", "settle"]


def test_hosts_that_soak_when_it_says_so_are_asked_once_more_to_go_back() -> None:
    first = ("settle", [settled("web1", "confirmed")], 2)
    again = ("settle", [settled("web2", "rolled_back")], 2)
    one, script = stopped_wave("settle", ("begin", BEGIN, 0), ("users", WELL, 0), first, again)
    one.run()
    assert states(one) == [State.CONFIRMED, State.ROLLED_BACK] and one.hosts["web2"].why == "errors are up"
    assert script.asked[3][1]["evenkeel_verdicts"] == {"web2": "roll_back"}


def test_a_run_that_asks_hosts_to_settle_is_ended_when_it_says_so_and_one_that_takes_them_back_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    one, script = wave()
    stop_if = stopping(answers(""))
    stop_if.reason = "errors are up"
    context = replace(one.context, stop_if=stop_if)

    def run_own(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        asked.append(stop())
        return Ended(2)

    monkeypatch.setattr(script, "run_own", run_own)
    now = context.clock.now()
    for how, again in (("probe", False), ("hold", False), ("probe", True), ("take_back", False)):
        armed = {"web1": Armed(3, "f00", 600.0, now + 600, now + 600)}
        Settlement(context, {"web1": one.hosts["web1"]}, armed, {}, how=how)._ask({"web1": how}, repeated=again)
    assert asked == ["errors are up", "errors are up", "", ""]


def test_no_further_wave_begins_once_it_says_so() -> None:
    one = change(*alone("web1"))
    stop = stopping(answers(""))
    one.context = replace(one.context, stop_if=stop)
    stop.reason = "errors are up"
    # The reason stood before the wave: it is disarmed, and no other begins.
    script_of(one).runs[1:] = [("settle", [settled("web1", "rolled_back")], 2)]
    reason, _ = one.run(gather=False)
    assert reason == "errors are up"
    assert [host.state for host in one.hosts.values()][1:] == [State.NOT_BEGUN] * 2


def test_hosts_are_compared_with_those_that_the_change_has_not_reached() -> None:
    one = change(*alone("web1"), ("health", [measured("web1")], 0), *alone("web2"), *_health("web1", "web2"), hosts=2)
    one.run(gather=False)
    told = [(name, asked.get("evenkeel_unchanged")) for name, asked in script_of(one).asked]
    assert [pair for pair in told if pair[0] in ("settle", "health")] == [
        ("settle", ["web2"]),
        ("health", ["web2"]),
        ("settle", []),
        ("health", []),
    ]
    assert all(asked["evenkeel_group"] == ["web1", "web2"] for name, asked in script_of(one).asked if name == "settle")


def _health(*hosts: str) -> list[Any]:
    return [("health", [measured(host) for host in hosts], 0)]


def test_conditions_are_commands_or_a_file_of_them(tmp_path: Path) -> None:
    (tmp_path / "stop.yml").write_text("- prometheus: {url: 'http://p', query: up == 0}\n- command: {argv: [a]}\n")
    found = read_stop_if(["sh -c 'exit 1'", f"@{tmp_path}/stop.yml"])
    assert found is not None and [one.name for one in conditions(found)] == [
        "command sh -c 'exit 1'",
        "prometheus up == 0",
        "command a",
    ]
    assert read_stop_if(None) is None
    with pytest.raises(UsageError, match="No closing quotation"):
        read_stop_if(["sh -c 'x"])


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("true", "must be a list of command or prometheus"),
        ([{"http": {}}], "item 1 must have one key, command or prometheus"),
        ([{"command": {"argv": []}}], "item 1: command: argv is missing"),
        ([{"prometheus": {"url": "ftp://p", "query": "q"}}], "is not an http or https address"),
        ([{"prometheus": {"url": "http://p", "query": "q", "token": [SECRET]}}], "token must be a text"),
        ([{"prometheus": None, "token": SECRET}], "item 1 must have one key"),
    ],
)
def test_a_bad_condition_is_refused_without_its_secrets(declared: Any, words: str) -> None:
    with pytest.raises(UsageError, match=f"^stop_if: .*{words}") as error:
        conditions(declared)
    assert SECRET not in str(error.value)


def test_conditions_of_the_inventory_hold_for_all_hosts_or_are_refused() -> None:
    one = [{"command": {"argv": ["a"]}}]
    assert preflight.stop_if(None, fleet(web1={"evenkeel_stop_if": one}, web2={})) == one
    assert preflight.stop_if([], fleet(web1={"evenkeel_stop_if": one})) == []
    with pytest.raises(UsageError, match="evenkeel_stop_if differs between hosts"):
        preflight.stop_if(None, fleet(web1={"evenkeel_stop_if": one}, web2={"evenkeel_stop_if": [*one, *one]}))
