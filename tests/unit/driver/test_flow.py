# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One wave from begin to its end, with the runs of Ansible played from a script and a clock of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.events import PREFIX
from evenkeel.ansible.options import Options
from evenkeel.ansible.runner import Ended
from evenkeel.ansible.session import OnEvent, OwnRun, Seen, Session, Stop, UsersRun
from evenkeel.ansible.targets import Inventory, Targets
from evenkeel.changes import decide
from evenkeel.changes.context import GRACE, Clock, Context
from evenkeel.changes.ending import Ending
from evenkeel.changes.extending import Extending
from evenkeel.changes.flow import Change
from evenkeel.changes.request import Request
from evenkeel.changes.settle import Settlement
from evenkeel.changes.wave import Wave
from evenkeel.outcome import HostResult, State
from evenkeel.progress import Phase, Progress, Report, ignore

HOSTS = ("web1", "web2")
WITHIN = 600.0


def play() -> list[Event]:
    return [
        {"event": "playbook_on_play_start", "event_data": {"name": "Play", "uuid": "a"}},
        {"event": "playbook_on_task_start", "event_data": {"name": "Task"}},
    ]


def ended(host: str, task: str, status: str = "ok", **res: Any) -> Event:
    data = {"host": host, "task": "Task", "resolved_action": task, "res": res}
    return {"event": f"runner_on_{status}", "event_data": data}


def stats(**more: dict[str, int]) -> Event:
    return {"event": "playbook_on_stats", "event_data": {"ok": {}, "failures": {}, "dark": {}, "rescued": {}, **more}}


def armed(host: str) -> Event:
    change = {"generation": 3, "until": 0, "within": WITHIN}
    return ended(host, PREFIX + "ft_checkpoint", id="f00", generation=3, armed=change)


def settled(host: str, outcome: str, by: str = "settle") -> Event:
    status = "ok" if outcome == "confirmed" else "failed"
    return ended(host, PREFIX + "ft_settle", status, outcome=outcome, by=by, msg=f"said {outcome}")


def lost(host: str, why: str = "timed out") -> Event:
    return ended(host, PREFIX + "ft_settle", "unreachable", msg=why)


REFUSED = "ssh: connect to host web2 port 22: Connection refused"
BEGIN = [*play(), armed("web1"), armed("web2"), stats()]
WELL = [
    *play(),
    ended("localhost", "command", changed=True),
    ended("web1", "command", changed=True),
    ended("web2", "command"),
    stats(),
]


@dataclass
class Script:
    """Stands for a Session: plays each run, in order, as (name, events, exit code), and notes what was asked. ``then``:
    what happens after each run."""

    runs: list[tuple[str, list[Event], int | None]]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    loading: list[list[str]] = field(default_factory=list)
    saw: Seen | None = field(default_factory=Seen)
    lines: int = 1
    then: Callable[[str], None] = lambda name: None

    def run_own(self, run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        assert run.hosts == run.variables["evenkeel_hosts"]
        assert run.facts == (run.name == "facts")
        verdicts = cast("dict[str, str]", run.variables.get("evenkeel_verdicts", {}))
        asks = run.name in ("facts", "health", "status") or set(verdicts.values()) == {"extend"}
        assert run.question == asks, "a question is answered in minutes"
        assert run.fresh or run.name != "settle", "a login after the change confirms it"
        self.fresh.append(run.fresh)
        return self._play(run.name, dict(run.variables), on_event)

    def load_for_users(self, limit: Sequence[str], hosts: Sequence[str]) -> None:
        self.loading.append(list(limit))

    def run_users(self, run: UsersRun, on_event: OnEvent, stop: Stop) -> Ended:
        """A run that came to its recap came to our play, on the hosts that did not fail."""

        def marked(event: Event) -> None:
            if event["event"] == "playbook_on_stats":
                failed = mapping(mapping(event["event_data"])["failures"])
                for host in set(run.hosts) - set(failed):
                    on_event({"event": "runner_on_ok", "event_data": {"host": host, "task": run.mark, "res": {}}})
            on_event(event)

        ended = self._play("users", {"limit": list(run.limit), "until": run.until}, marked)
        return Ended(ended.rc, stop())

    def seen(self) -> Seen | None:
        return self.saw

    def rounds(self, hosts: int) -> int:
        return self.lines * hosts

    def _play(self, name: str, variables: dict[str, Any], on_event: OnEvent) -> Ended:
        self.asked.append((name, variables))
        expected, events, rc = self.runs.pop(0)
        assert name == expected
        for event in events:
            on_event(event)
        self.then(name)
        return Ended(rc)


class Hands:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)


@pytest.fixture
def clock() -> Hands:
    return Hands()


def wave(
    *runs: tuple[str, list[Event], int | None],
    stops: Sequence[int] = (),
    report: Report = ignore,
    clock: Hands | None = None,
) -> tuple[Wave, Script]:
    """stops: the answers of asked_to_stop, call by call; then its last."""
    script = Script(list(runs))
    left = list(stops)
    last = SimpleNamespace(value=0)

    def asked() -> int:
        if left:
            last.value = left.pop(0)
        return int(last.value)

    targets = Targets(HOSTS, HOSTS, ("localhost",), Inventory(HOSTS, {}, {}))
    request = Request("site.yml", Options())
    hosts = {host: HostResult(host, 1) for host in HOSTS}
    variables = {"evenkeel_confirm_within": "10m"}
    caller = Caller(report=report, asked_to_stop=asked)
    session = cast(Session, script)
    context = Context(session, request, targets, variables, caller=caller, clock=(clock or Hands()).clock())
    return Wave(context, hosts), script


def states(one: Wave) -> list[State]:
    return [one.hosts[host].state for host in HOSTS]


def test_a_good_change_is_confirmed_by_the_probes_of_every_host() -> None:
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "confirmed"), settled("web2", "confirmed")], 0),
    )
    assert one.run() == ("", False)
    assert states(one) == [State.CONFIRMED] * 2
    assert [one.hosts[host].changed for host in HOSTS] == [True, False]
    assert script.asked[1][1]["limit"] == ["web1", "web2", "localhost"] == script.loading[0]
    assert script.asked[2][1]["evenkeel_generations"] == {"web1": 3, "web2": 3}
    assert set(script.asked[2][1]["evenkeel_verdicts"].values()) == {"probe"}


def test_when_one_host_is_not_armed_the_playbook_never_runs_and_the_armed_one_is_disarmed() -> None:
    refusal = ended("web2", PREFIX + "ft_checkpoint", "failed", msg="armed by another run", error="Refused")
    one, script = wave(
        ("begin", [*play(), armed("web1"), refusal, stats()], 2), ("settle", [settled("web1", "rolled_back")], 2)
    )
    assert one.run()[0] == "web2: armed by another run"
    assert states(one) == [State.UNTOUCHED] * 2
    assert script.asked[1][1]["evenkeel_verdicts"] == {"web1": "roll_back"}


def test_a_guard_that_refuses_leaves_nothing_to_settle() -> None:
    one, script = wave(("begin", [*play(), ended("web1", PREFIX + "ft_guard", "failed", msg="too few")], 2))
    assert one.run()[0] == "refused by the guard: too few"
    assert states(one) == [State.UNTOUCHED] * 2 and len(script.asked) == 1


def test_a_host_that_the_change_locked_out_is_asked_until_it_put_itself_back(clock: Hands) -> None:
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "confirmed"), lost("web2")], 4),
        *[("settle", [lost("web2")], 4)] * 3,
        ("settle", [settled("web2", "rolled_back", by="deadline")], 2),
        clock=clock,
    )
    one.run()
    assert states(one) == [State.CONFIRMED, State.ROLLED_BACK]
    assert one.hosts["web2"].by == "deadline" and "no login after the change: timed out" in one.hosts["web2"].why
    assert script.asked[3][1]["evenkeel_verdicts"] == {"web2": "roll_back"}


@pytest.mark.parametrize("then", [settled("web2", "confirmed"), lost("web2", REFUSED)])
def test_a_host_that_turned_a_login_away_is_asked_once_more_after_a_while(clock: Hands, then: Event) -> None:
    good = then["event"] == "runner_on_ok"
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "confirmed"), lost("web2", REFUSED)], 4),
        ("settle", [then], 0),
        *([] if good else [("settle", [settled("web2", "rolled_back")], 2)]),
        clock=clock,
    )
    start = clock.now
    one.run()
    verdicts = [asked[1]["evenkeel_verdicts"]["web2"] for asked in script.asked[2:]]
    assert verdicts == ["probe", "probe", "roll_back"][: 2 if good else 3] and clock.now - start > 30
    assert states(one) == [State.CONFIRMED, State.CONFIRMED if good else State.ROLLED_BACK]
    assert ("no login after the change" in one.hosts["web2"].why) is not good


def test_a_host_whose_store_is_in_use_is_asked_again_while_its_time_allows_it(clock: Hands) -> None:
    said = "the store /var/lib/evenkeel is in use by process 77; wait until it is done, then run again"
    busy = ended("web2", PREFIX + "ft_settle", "failed", error="Busy", msg=said)
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "confirmed"), busy], 2),
        ("settle", [busy], 2),
        ("settle", [settled("web2", "confirmed")], 0),
        clock=clock,
    )
    one.run()
    assert [asked[1]["evenkeel_verdicts"]["web2"] for asked in script.asked[2:]] == ["probe"] * 3
    assert states(one) == [State.CONFIRMED] * 2 and one.hosts["web2"].why == ""
    assert decide.missed(said) == f"it could not be settled: {said}"


def test_a_host_that_the_inventory_leaves_out_for_a_moment_is_asked_the_same_once_more(clock: Hands) -> None:
    passed_over = {"event": "verbose", "stdout": "[WARNING]: Could not match supplied host pattern, ignoring: web2"}
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [passed_over, settled("web1", "confirmed")], 0),
        ("settle", [settled("web2", "confirmed")], 0),
        clock=clock,
    )
    one.run()
    assert [asked[1]["evenkeel_verdicts"]["web2"] for asked in script.asked[2:]] == ["probe"] * 2
    assert states(one) == [State.CONFIRMED] * 2 and one.hosts["web2"].why == ""

    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [passed_over, settled("web1", "confirmed")], 0),
        ("settle", [passed_over], 0),
        ("settle", [settled("web2", "rolled_back")], 0),
        clock=clock,
    )
    one.run()
    assert [asked[1]["evenkeel_verdicts"]["web2"] for asked in script.asked[2:]] == ["probe", "probe", "roll_back"]
    assert one.hosts["web2"].why.startswith("it could not be settled: the inventory did not name it: ")


def test_a_host_is_asked_once_more_only_where_its_time_allows_it() -> None:
    dead_man = decide.Armed(3, "f00", 100.0, 1000.0, 1001.0)
    for why in (REFUSED, "kex_exchange_identification: read: Connection reset by peer", "Connection timed out"):
        assert decide.may_retry(dead_man, why, 1000.0 - 82.0) and not decide.may_retry(dead_man, why, 920.0)
    for why in ("Permission denied (publickey)", "no answer within 30 s", "Shared connection to web1 closed."):
        assert not decide.may_retry(dead_man, why, 900.0)


def test_nor_does_one_that_turned_away_the_decision_undo_the_change(clock: Hands) -> None:
    told = [ended(host, PREFIX + "ft_settle", outcome="decided", generation=3, remaining=500.0) for host in HOSTS]
    confirmed = [settled(host, "confirmed") for host in HOSTS]
    one, script = wave(
        ("settle", [told[0], lost("web2", REFUSED)], 4), ("settle", told[1:], 0), ("settle", confirmed, 0), clock=clock
    )
    dead_men = {host: decide.Armed(3, "f00", WITHIN, clock.now + 590, clock.now + 600) for host in HOSTS}
    assert Ending(one.context, one.hosts, dead_men).confirm(HOSTS) == ""
    assert [set(asked[1]["evenkeel_verdicts"]) for asked in script.asked] == [{*HOSTS}, {"web2"}, {*HOSTS}]


def test_a_host_that_never_answers_again_is_in_doubt_and_not_waited_for_for_ever(clock: Hands) -> None:
    one, _script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "confirmed"), lost("web2")], 4),
        *[("settle", [lost("web2")], 4)] * 1000,
        clock=clock,
    )
    start = clock.now
    one.run()
    assert states(one) == [State.CONFIRMED, State.IN_DOUBT]
    assert "its own dead-man was to put it back at" in one.hosts["web2"].why
    assert WITHIN + GRACE <= clock.now - start < WITHIN + GRACE + 20


def test_a_change_that_was_suspended_past_its_deadline_still_asks_the_host_what_became_of_it(clock: Hands) -> None:
    """The network of a machine that slept may take a while, so that the first question finds no host."""
    back = [settled(host, "rolled_back", by="timer") for host in HOSTS]
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [lost(host) for host in HOSTS], 4),
        ("settle", back, 2),
        clock=clock,
    )
    users, own = script.run_users, script.run_own
    told: list[str] = []

    def suspended(run: UsersRun, on_event: OnEvent, stop: Stop) -> Ended:
        assert run.until is not None and run.until() == clock.now + WITHIN - 30.0, "the child ends it without us"
        clock.now += 3600.0
        return users(run, on_event, stop)

    def asked(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        told.append(stop())
        clock.now += 20.0 if run.name == "settle" else 0.0
        told.append(stop())
        return own(run, on_event, stop)

    script.run_users, script.run_own = suspended, asked  # type: ignore[method-assign]
    one.run()
    assert states(one) == [State.ROLLED_BACK] * 2
    assert "no answer in time" not in told


def test_ansible_killed_means_everything_goes_back() -> None:
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL[:-1], None),
        ("settle", [settled("web1", "rolled_back"), settled("web2", "rolled_back")], 2),
    )
    one.run()
    assert states(one) == [State.ROLLED_BACK] * 2
    assert set(script.asked[2][1]["evenkeel_verdicts"].values()) == {"roll_back"}
    assert "killed" in one.hosts["web1"].why


def test_a_begin_that_was_killed_finds_what_it_armed(clock: Hands) -> None:
    change = {"generation": 3, "until": clock.now + WITHIN, "within": WITHIN, "checkpoint": "f00"}
    one, script = wave(
        ("begin", [*play(), armed("web1")], None),
        ("status", [ended("web2", PREFIX + "ft_info", armed=change)], 0),
        ("settle", [settled("web1", "rolled_back"), settled("web2", "rolled_back")], 2),
        clock=clock,
    )
    assert "killed" in one.run()[0]
    assert script.asked[2][1]["evenkeel_generations"] == {"web1": 3, "web2": 3}
    assert states(one) == [State.UNTOUCHED] * 2


@pytest.mark.parametrize("answers", [True, False])
def test_a_host_that_was_lost_while_it_was_armed_is_disarmed_or_in_doubt(clock: Hands, answers: bool) -> None:
    change = {"generation": 3, "until": clock.now + WITHIN, "within": WITHIN, "checkpoint": "f00"}
    lost = ended("web2", PREFIX + "ft_checkpoint", "unreachable", msg="Shared connection to web2 closed.")
    told = (
        ended("web2", PREFIX + "ft_info", armed=change) if answers else ended("web2", PREFIX + "ft_info", "unreachable")
    )
    back = [settled("web1", "rolled_back"), *([settled("web2", "rolled_back")] if answers else [])]
    one, script = wave(
        ("begin", [*play(), armed("web1"), lost, stats()], 4), ("status", [told], 0), ("settle", back, 2), clock=clock
    )
    assert "web2: Shared connection" in one.run()[0]
    assert set(script.asked[2][1]["evenkeel_generations"]) == ({"web1", "web2"} if answers else {"web1"})
    assert states(one) == [State.UNTOUCHED, State.UNTOUCHED if answers else State.IN_DOUBT]
    assert answers or "if it is armed, it disarms itself" in one.hosts["web2"].why


def test_a_begin_that_ended_while_hosts_took_the_checkpoint_leaves_those_that_do_not_answer_in_doubt() -> None:
    came = {"event": "playbook_on_task_start", "event_data": {"name": "T", "resolved_action": PREFIX + "ft_checkpoint"}}
    for events, state in (([*play(), came], State.IN_DOUBT), (play(), State.UNTOUCHED)):
        one, _script = wave(("begin", events, None), ("status", [], 4))
        one.run()
        assert states(one) == [state] * 2


def test_stopped_once_the_hosts_in_flight_are_rolled_back_now() -> None:
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "rolled_back"), settled("web2", "rolled_back")], 2),
        stops=[0, 1],
    )
    reason, _ = one.run()
    assert "stopped by the user" in reason
    assert set(script.asked[2][1]["evenkeel_verdicts"].values()) == {"roll_back"}


def test_the_playbook_is_ended_where_somebody_took_a_host_back_meanwhile() -> None:
    one, script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "rolled_back", by="operator"), settled("web2", "rolled_back")], 2),
    )
    one.extending = Extending(one.context)
    one.extending._ended["web1"] = "web1: its change is over"
    one.run()
    assert set(script.asked[2][1]["evenkeel_verdicts"].values()) == {"roll_back"}
    assert "web1: its change is over" in one.hosts["web2"].why


@pytest.mark.parametrize("why", ["", "web1: its time to confirm cannot be extended any more (--at-most)"])
def test_a_playbook_that_takes_too_long_is_ended_for_the_reason_of_the_first_deadline(clock: Hands, why: str) -> None:
    back = [settled("web1", "rolled_back"), settled("web2", "rolled_back")]
    one, script = wave(("begin", BEGIN, 0), ("users", WELL, 0), ("settle", back, 2), clock=clock)
    one.extending = Extending(one.context)
    one.extending._whys["web1"] = why
    run = script.run_users

    def slow(*words: Any) -> Ended:
        clock.now += WITHIN - 20
        return run(*words)

    script.run_users = slow  # type: ignore[method-assign, assignment]
    one.run()
    assert one.hosts["web2"].why.endswith(f"in 'Task'; {why or 'web1 was to be confirmed within 10m'}")


@pytest.mark.parametrize("stopped", [WITHIN - 20, 3600.0])
def test_a_playbook_whose_time_is_over_once_all_hosts_are_armed_never_begins(clock: Hands, stopped: float) -> None:
    back = [settled("web1", "rolled_back"), settled("web2", "rolled_back")]
    one, script = wave(("begin", BEGIN, 0), ("settle", back, 2), clock=clock)
    own = script.run_own

    def suspended(run: OwnRun, on_event: OnEvent, stop: Stop) -> Ended:
        ended = own(run, on_event, stop)
        clock.now += stopped if run.name == "begin" else 0.0
        return ended

    script.run_own = suspended  # type: ignore[method-assign]
    reason, usage = one.run()
    assert not usage and not one.changed
    assert reason == "the time to confirm was over before the playbook began: web1 was to be confirmed within 10m"
    assert states(one) == [State.UNTOUCHED] * 2


def test_a_task_without_a_name_is_not_told_of(clock: Hands) -> None:
    back = [settled("web1", "rolled_back"), settled("web2", "rolled_back")]
    one, script = wave(("begin", BEGIN, 0), ("users", [play()[0]], None), ("settle", back, 2), clock=clock)
    users = script.run_users

    def slow(run: UsersRun, on_event: OnEvent, stop: Stop) -> Ended:
        clock.now += WITHIN - 20
        return users(run, on_event, stop)

    script.run_users = slow  # type: ignore[method-assign]
    one.run()
    said = "the playbook did not end within the time to confirm: web1 was to be confirmed within 10m"
    assert one.hosts["web2"].why == said


def test_stopped_twice_they_are_left_to_their_dead_men_and_named() -> None:
    one, _script = wave(("begin", BEGIN, 0), ("users", WELL, 0), stops=[0, 2])
    one.run()
    assert states(one) == [State.IN_DOUBT] * 2
    assert all("its own dead-man is to put it back at" in one.hosts[host].why for host in HOSTS)
    assert "stopped by the user; stopped by the user" not in one.hosts["web1"].why


def test_hosts_that_are_asked_one_after_the_other_have_time_one_after_the_other(clock: Hands) -> None:
    one, script = wave(clock=clock)
    script.lines = 4
    stop = one.context.soon(HOSTS, 30.0)
    clock.now += 8 * 30.0
    assert stop() == ""
    clock.now += 1
    assert stop() == "no answer in time"
    dead_men = {host: decide.Armed(3, "f00", WITHIN, clock.now, clock.now) for host in HOSTS}
    waiting = dict.fromkeys(HOSTS, decide.PROBE)
    assert Settlement(one.context, one.hosts, dead_men, {})._last_call(waiting) == clock.now + 8 * GRACE


def test_the_decision_moves_the_deadlines_that_the_confirmation_counts_with(clock: Hands) -> None:
    told = [ended(host, PREFIX + "ft_settle", outcome="decided", generation=3, remaining=500.0) for host in HOSTS]
    confirmed = [settled(host, "confirmed") for host in HOSTS]
    one, _script = wave(("settle", told, 0), ("settle", confirmed, 0), clock=clock)
    dead_men = {host: decide.Armed(3, "f00", WITHIN, clock.now + 9, clock.now + 10) for host in HOSTS}
    assert Ending(one.context, one.hosts, dead_men).confirm(HOSTS) == ""
    assert {dead_man.latest for dead_man in dead_men.values()} == {clock.now + 500.0}


KEPT: dict[str, Any] = {"outcome": "confirmed", "by": "operator", "generation": 3}


def test_a_host_on_which_a_person_confirmed_the_change_keeps_it_and_the_others_are_told_to_keep_it(
    clock: Hands,
) -> None:
    told = ended("web1", PREFIX + "ft_settle", outcome="decided", generation=3, remaining=500.0)
    kept = ended("web2", PREFIX + "ft_settle", **KEPT)
    dead_men = {host: decide.Armed(3, "f00", WITHIN, clock.now + 590, clock.now + 600) for host in HOSTS}
    one, _script = wave(("settle", [told, kept], 0), ("settle", [settled("web1", "confirmed"), kept], 0), clock=clock)
    assert Ending(one.context, one.hosts, dead_men).confirm(HOSTS) == ""
    assert states(one) == [State.CONFIRMED] * 2
    one, _script = wave(("settle", [settled("web1", "rolled_back"), kept], 2), clock=clock)
    for result in one.hosts.values():
        result.state = State.HELD
    Ending(one.context, one.hosts, dead_men).back(HOSTS, "web3 failed")
    assert states(one) == [State.ROLLED_BACK, State.CONFIRMED] and "a person confirmed" in one.hosts["web2"].why


# -- several waves


def alone(host: str, outcome: str = "confirmed") -> list[tuple[str, list[Event], int | None]]:
    """The runs of a wave of one host."""
    return [
        ("begin", [*play(), armed(host), stats()], 0),
        ("users", [*play(), ended(host, "command", changed=True), stats()], 0),
        ("settle", [settled(host, outcome)], 0),
    ]


def measured(host: str, status: str = "ok", **res: Any) -> Event:
    return ended(host, PREFIX + "ft_health", status, **res)


PROBED = {"evenkeel_probes": [{"tcp": {"port": 80}}]}


def change(
    *runs: tuple[str, list[Event], int | None],
    hosts: int = 3,
    limit: str = "",
    variables: Mapping[str, object] = PROBED,
    **saw: Any,
) -> Change:
    script = Script(list(runs), saw=Seen(**saw))
    names = tuple(f"web{number}" for number in range(1, hosts + 1))
    inventory = Inventory(names, {}, dict.fromkeys(names, variables))
    targets = Targets(names, names, (), inventory)
    results = {name: HostResult(name, number) for number, name in enumerate(names, 1)}
    plan = [(name,) for name in names]
    request = Request("site.yml", Options(limit=limit))
    ours = {"evenkeel_confirm_within": "10m"}
    context = Context(cast(Session, script), request, targets, ours, clock=Hands().clock())
    return Change(context, plan, results)


def script_of(one: Change) -> Script:
    return cast(Script, one.context.session)


def test_a_host_that_falls_ill_after_it_was_confirmed_stops_the_next_wave() -> None:
    one = change(
        *alone("web1"),
        ("health", [measured("web1")], 0),
        *alone("web2"),
        ("health", [measured("web1", "failed", msg="tcp 80: fail", state="fail"), measured("web2")], 2),
        ("health", [measured("web1", "failed", msg="tcp 80: fail", state="fail"), measured("web2")], 2),
    )
    reason, _ = one.run(gather=False)
    assert reason == "web1 became unhealthy after it was confirmed: tcp 80: fail"
    assert [host.state for host in one.hosts.values()] == [State.CONFIRMED, State.CONFIRMED, State.NOT_BEGUN]
    assert [host.sick for host in one.hosts.values()] == [True, False, False]


def test_a_host_without_probes_that_is_lost_after_its_login_confirmed_it_stops_the_next_wave() -> None:
    lost = measured("web1", "unreachable", msg="timed out")
    one = change(*alone("web1"), ("health", [lost], 4), ("health", [lost], 4), hosts=2, variables={})
    assert "web1 was not measured after it was confirmed" in one.run(gather=False)[0]
    assert [host.state for host in one.hosts.values()] == [State.CONFIRMED, State.NOT_BEGUN] and one.hosts["web1"].sick


@pytest.mark.parametrize("variables", [PROBED, {}])
def test_a_lost_login_is_no_illness_where_the_host_answers_a_new_one(variables: Mapping[str, object]) -> None:
    lost = [measured("web1", "unreachable", msg="timed out"), measured("web2")]
    well = ("health", [measured("web1")], 0)
    one = change(*alone("web1"), well, *alone("web2"), ("health", lost, 4), well, hosts=2, variables=variables)
    before = one.context.clock.now()
    assert one.run(gather=False) == ("", False) and not one.hosts["web1"].sick
    script = script_of(one)
    assert script.asked[-1][1]["evenkeel_hosts"] == ["web1"], "a host that has answered is not asked again"
    assert script.fresh[-2:] == [False, True] and one.context.clock.now() >= before + decide.QUIET


def test_a_host_that_is_ill_at_its_second_answer_is_not_called_unreachable() -> None:
    ill = measured("web1", "failed", msg="tcp 80: fail", state="fail")
    lost = measured("web1", "unreachable", msg="timed out")
    one = change(*alone("web1"), ("health", [lost], 4), ("health", [ill], 2), hosts=2)
    assert one.run(gather=False)[0] == "web1 became unhealthy after it was confirmed: tcp 80: fail"


def test_a_held_host_that_does_not_answer_is_asked_once_more_whether_it_waits() -> None:
    waits = ended("web1", PREFIX + "ft_info", generation=3, armed={"generation": 3, "stage": "held"})
    lost = ended("web1", PREFIX + "ft_info", "unreachable", msg="timed out")
    one = change(("status", [lost], 4), ("status", [waits], 0), ("health", [measured("web1")], 0), hosts=1)
    one.hosts["web1"] = HostResult("web1", 1, State.HELD, generation=3)
    assert one._measure() == "" and one.hosts["web1"].state is State.HELD
    assert script_of(one).fresh == [False, True, False]


def test_a_confirmed_host_that_somebody_put_back_stops_the_change_and_is_not_called_confirmed() -> None:
    memory = {"generation": 3, "last": {"generation": 3, "outcome": "rolled_back", "by": "operator"}}
    one = change(*alone("web1"), ("health", [measured("web1", host_state=memory)], 0), hosts=2)
    assert one.run(gather=False)[0] == "web1 was put back after it was confirmed: rolled back by operator"
    assert [host.state for host in one.hosts.values()] == [State.ROLLED_BACK, State.NOT_BEGUN]
    assert one.hosts["web1"].by == "operator"


@pytest.mark.parametrize("last", [[measured("web1", "unreachable", msg="timed out")], []])
def test_a_change_that_ends_with_a_host_ill_or_unmeasured_is_no_success(last: list[Event]) -> None:
    one = change(
        *alone("web1"),
        ("health", [measured("web1")], 0),
        *alone("web2"),
        ("health", [measured("web2"), *last], 4),
        ("health", last, 4),
        hosts=2,
    )
    reason, _ = one.run(gather=False)
    assert reason.startswith("web1 was not measured after it was confirmed: ")
    assert one.hosts["web1"].sick and not one.hosts["web2"].sick


def test_the_facts_of_later_waves_are_gathered_first_and_one_that_has_none_is_no_hindrance() -> None:
    lost = ended("web2", "ansible.builtin.gather_facts", "unreachable", msg="no route")
    one = change(
        ("facts", [*play(), lost, stats()], 4),
        *alone("web1"),
        ("health", [measured("web1")], 0),
        *alone("web2"),
        ("health", [measured("web1"), measured("web2")], 0),
        hosts=2,
    )
    assert one.run(gather=True) == ("", False)
    assert script_of(one).asked[0][1]["evenkeel_hosts"] == ["web2"]
    assert "web2" in one.notes[0] and "no route" in one.notes[0]


def test_a_held_host_that_a_person_confirmed_there_counts_as_confirmed() -> None:
    one = change(
        ("status", [ended("web1", PREFIX + "ft_info", generation=3, armed=None, last=KEPT)], 0),
        ("health", [measured("web1")], 0),
        hosts=1,
    )
    one.hosts["web1"] = HostResult("web1", 1, State.HELD, generation=3)
    assert one._measure() == "" and one.hosts["web1"].state is State.CONFIRMED


def test_a_play_that_was_left_out_is_no_success_and_a_host_touched_outside_is_named() -> None:
    one = change(*alone("web1"), hosts=1, left_out={"fresh1": "Set up"}, touched=["lb"])
    reason, _ = one.run(gather=False)
    assert "fresh1" in reason and "'Set up'" in reason
    assert one.hosts["web1"].state is State.CONFIRMED
    assert one.touched == {"lb"} and list(one.left_out) == ["fresh1"]


def test_a_host_for_which_no_play_came_does_not_keep_the_change() -> None:
    one = change(
        ("begin", [*play(), armed("web1")], 0),
        ("users", [*play(), stats()], 0),
        ("settle", [settled("web1", "rolled_back")], 2),
        hosts=1,
        missed=["web1", "localhost"],
    )
    reason, _ = one.run(gather=False)
    assert reason and script_of(one).asked[-1][1]["evenkeel_verdicts"] == {"web1": "roll_back"}


def test_what_the_users_own_limit_leaves_out_is_meant_so() -> None:
    one = change(*alone("web1"), hosts=1, limit="web1", left_out={"fresh1": "Set up"})
    assert one.run(gather=False) == ("", False) and one.left_out == {}


def test_what_was_left_out_and_could_not_be_seen_is_no_success_either() -> None:
    one = change(*alone("web1"), hosts=1)
    script_of(one).saw = None
    assert "nobody knows which hosts" in one.run(gather=False)[0]


def test_that_a_host_is_in_doubt_is_told_once() -> None:
    told: list[Progress] = []
    one, _script = wave(
        ("begin", BEGIN, 0),
        ("users", WELL, 0),
        ("settle", [settled("web1", "confirmed"), settled("web2", "in_doubt")], 0),
        report=told.append,
    )
    one.run()
    assert [seen.hosts for seen in told if seen.phase is Phase.IN_DOUBT] == [("web2",)]


def test_a_host_whose_checkpoint_cannot_be_understood_is_in_doubt_and_the_others_are_disarmed() -> None:
    odd = ended("web2", PREFIX + "ft_checkpoint", id="f00", generation=3, armed={"generation": "x", "within": WITHIN})
    one, script = wave(
        ("begin", [*play(), armed("web1"), odd, stats()], 0), ("settle", [settled("web1", "rolled_back")], 2)
    )
    reason, usage = one.run()
    assert "web2: its answer cannot be trusted" in reason and not usage
    assert states(one) == [State.UNTOUCHED, State.IN_DOUBT]
    assert script.asked[1][1]["evenkeel_verdicts"] == {"web1": "roll_back"}


def test_a_bad_number_of_one_host_at_the_end_leaves_the_others_confirmed() -> None:
    odd = ended("web2", PREFIX + "ft_settle", outcome="confirmed", health={"probes": [{"restarts": "many"}]})
    one, _ = wave(("begin", BEGIN, 0), ("users", WELL, 0), ("settle", [settled("web1", "confirmed"), odd], 0))
    one.run()
    assert states(one) == [State.CONFIRMED, State.IN_DOUBT]


def test_an_error_of_ours_while_the_playbook_runs_has_the_hosts_go_back_at_once() -> None:
    back = [settled("web1", "rolled_back"), settled("web2", "rolled_back")]
    one, script = wave(("begin", BEGIN, 0), ("settle", back, 2))

    def fails(*_: Any) -> Ended:
        raise KeyError("of ours")

    script.run_users = fails  # type: ignore[method-assign, assignment]
    reason, usage = one.run()
    assert "evenkeel itself failed" in reason and not usage
    assert states(one) == [State.ROLLED_BACK, State.ROLLED_BACK]
    assert script.asked[1][1]["evenkeel_verdicts"] == {"web1": "roll_back", "web2": "roll_back"}
