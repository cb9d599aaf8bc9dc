# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The phases of a restart on its host: who may go on with it, and what is remembered until its end."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Busy,
    Damaged,
    EvenkeelError,
    Refused,
    ServiceFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import record
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting.decision import (
    ACTED,
    ACTING,
    BEGUN,
    FAILED,
    LONGEST,
    MOST,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import host_state, restart
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fake_systemd import Machine, Unit, machine

WEB = "web.service"
PLACE, OTHER = {"haproxy": {"backend": "web", "server": "web1"}}, {"consul": {"service": "web"}}
ROLL = {"id": "r1", "hosts": 3}


@pytest.fixture
def host() -> Machine:
    return machine(Unit(WEB))


@pytest.fixture
def store(tmp_path: Any, host: Machine) -> Store:
    return Store(str(tmp_path / "store"), host.system())


def phase(store: Store, name: str, values: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    options = {"name": "web", "times": Times(0.0, 20.0, 1.0), **options}
    return restart(store, name, values=values or {}, **options)


def begin(store: Store, *drained: Any, **options: Any) -> str:
    return str(phase(store, "begin", {"drained": list(drained), "roll": ROLL}, **options)["token"])


# -- the phases


def test_a_restart_is_on_record_from_its_beginning_to_its_end(store: Store, host: Machine) -> None:
    answer = phase(store, "begin", {"drained": [PLACE], "roll": ROLL})
    assert (answer["generation"], answer["earlier"], answer["before"]["identity"]) == (1, None, "id0")
    assert answer["restart"]["stage"] == BEGUN and host.acts() == []
    token = answer["token"]
    result = phase(store, "act", {"token": token})
    assert result["proved"] == [f"web.service: id0 became {host.units[WEB].identity}"]
    found = phase(store, "look")
    assert (found["restart"]["stage"], found["restart"]["drained"]) == (ACTED, [PLACE])
    with pytest.raises(Refused, match="does not end while 1 of what it drained is not ready again"):
        phase(store, "end", {"token": token})
    phase(store, "drained", {"token": token, "drained": []})
    phase(store, "end", {"token": token})
    found = phase(store, "look")
    assert found["restart"] is None
    assert (found["rolled"]["roll"], found["rolled"]["hosts"], found["rolled"]["ok"]) == ("r1", 3, True)
    assert (found["history"]["tries"], found["history"]["failures"]) == (1, 0)
    assert phase(store, "look", mode="warm")["rolled"] is None, "another mode is another request"
    (entry,) = record.history(store)
    assert (entry.target, entry.mode, entry.ok, entry.roll, entry.downtime) == (WEB, "cold", True, "r1", None)
    assert phase(store, "begin")["generation"] == 2


def test_the_record_is_durable_private_and_without_its_token_for_others(store: Store) -> None:
    token = begin(store, PLACE)
    assert os.stat(store.join("restart")).st_mode & 0o777 == 0o600
    told = host_state(store.root)["restart"]
    assert (told["target"], told["mode"], told["running"], told["identity"]) == (WEB, "cold", False, "id0")
    assert token not in json.dumps(told) and "token" not in told


def test_a_later_run_takes_over_what_an_earlier_one_had_drained(store: Store, host: Machine) -> None:
    first = begin(store, PLACE)
    answer = phase(store, "begin", {"drained": [OTHER, PLACE]})
    assert answer["generation"] == 2 and answer["restart"]["drained"] == [PLACE, OTHER]
    assert (answer["earlier"]["generation"], answer["earlier"]["drained"]) == (1, [PLACE])
    for name in ("act", "drained", "end"):
        with pytest.raises(Refused, match="another run has taken over"):
            phase(store, name, {"token": first, "drained": [], "leave": True})
    assert host.acts() == [] and phase(store, "look")["restart"]["drained"] == [PLACE, OTHER]
    phase(store, "end", {"token": answer["token"], "leave": True})


def test_nobody_takes_over_while_a_process_acts(store: Store, host: Machine) -> None:
    """The store is not locked while a service restarts, so that the record itself keeps others out."""
    token = begin(store)
    said = []

    def meanwhile(seconds: float) -> None:
        host.clock += seconds
        assert host_state(store.root, host.system())["restart"]["running"]
        for name in ("begin", "act", "end", ""):
            with pytest.raises(Busy) as error:
                phase(store, name, {"token": token})
            said.append(error.value.message)

    host.sleep = meanwhile  # type: ignore[method-assign]
    store = Store(store.root, host.system())
    phase(store, "act", {"token": token})
    assert len(said) >= 4 and all(str(os.getpid()) in one for one in said)


def test_an_act_that_failed_may_be_tried_again_and_one_that_went_well_not(store: Store, host: Machine) -> None:
    host.units[WEB].fails = ("restart",)
    token = begin(store)
    with pytest.raises(ServiceFailed):
        phase(store, "act", {"token": token})
    assert phase(store, "look")["restart"]["stage"] == FAILED and not record.history(store)[-1].ok
    host.units[WEB].fails = ()
    phase(store, "act", {"token": token})
    with pytest.raises(Refused, match="already"):
        phase(store, "act", {"token": token})


def test_a_kill_in_the_act_leaves_a_record_that_the_next_run_takes_over(store: Store, host: Machine) -> None:
    token = begin(store, PLACE)
    pid = os.fork()
    if pid == 0:
        run = host.run

        def killed(argv: Any, timeout: float) -> Any:
            if "restart" in argv:
                os._exit(9)
            return run(argv, timeout)

        host.run = killed  # type: ignore[method-assign]
        phase(Store(store.root, host.system()), "act", {"token": token})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    told = host_state(store.root)["restart"]
    assert (told["stage"], told["running"]) == (ACTING, False)
    answer = phase(store, "begin")
    assert (answer["earlier"]["stage"], answer["restart"]["drained"]) == (ACTING, [PLACE])


def test_a_lost_terminal_does_not_cut_the_act_off(store: Store, host: Machine) -> None:
    run = host.run

    def hung_up(argv: Any, timeout: float) -> Any:
        if "restart" in argv:
            os.kill(os.getpid(), signal.SIGHUP)
        return run(argv, timeout)

    host.run = hung_up  # type: ignore[method-assign]
    store = Store(store.root, host.system())
    phase(store, "act", {"token": begin(store)})
    assert phase(store, "look")["restart"]["stage"] == ACTED
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize("good", [True, False])
def test_a_plain_restart_leaves_no_record(store: Store, host: Machine, good: bool) -> None:
    host.units[WEB].fails = () if good else ("restart",)
    try:
        assert phase(store, "", {"roll": ROLL})["done"]
    except ServiceFailed:
        assert not good
    found = phase(store, "look")
    assert found["restart"] is None and (found["rolled"]["roll"], found["rolled"]["ok"]) == ("r1", good)
    assert found["history"]["failures"] == (0 if good else 1)
    assert [one.ok for one in record.history(store)] == [good]


def full(*_arguments: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["", "begin", "act"])
def test_a_store_without_room_for_the_record_leaves_the_service_alone(
    store: Store, host: Machine, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = begin(store) if step == "act" else ""
    monkeypatch.setattr(record, "write_file", full)
    with pytest.raises(Refused, match="No space left on device. Nothing was touched: make room in"):
        phase(store, step, {"token": token})
    assert not host.acts()


@pytest.mark.parametrize("step", ["", "act"])
@pytest.mark.parametrize("good", [True, False])
def test_a_store_without_room_afterwards_does_not_hide_how_a_restart_ended(
    store: Store, host: Machine, step: str, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.units[WEB].fails = () if good else ("restart",)
    token = begin(store) if step else ""
    monkeypatch.setattr(record, "append_line", full)
    monkeypatch.setattr(record, "remove_file", full)
    if good:
        told = phase(store, step, {"token": token})
        assert told["changed"] and told["health"]["state"] == "pass"
    else:
        with pytest.raises(ServiceFailed, match="systemctl restart") as error:
            phase(store, step, {"token": token})
        told = error.value.result
    assert "the end of this restart is not on record" in told["warnings"][-1]


def test_a_restart_without_a_roll_does_not_make_a_roll_unfinished(store: Store, host: Machine) -> None:
    phase(store, "", {"roll": ROLL})
    at = phase(store, "look")["rolled"]["at"]
    phase(store, "")
    assert phase(store, "look")["rolled"] == {"roll": "r1", "at": at, "hosts": 3, "ok": True}
    host.units[WEB].fails = ("restart",)
    with pytest.raises(ServiceFailed):
        phase(store, "")
    assert not phase(store, "look")["rolled"]["ok"], "the host is not as the roll has left it"


def test_a_plain_restart_does_not_forget_what_another_run_has_drained(store: Store) -> None:
    begin(store, PLACE)
    with pytest.raises(Refused, match="restart it with the same drain"):
        phase(store, "")
    assert phase(store, "look")["restart"]["drained"] == [PLACE]


def test_another_target_waits_until_the_restart_that_is_open_is_finished(store: Store, host: Machine) -> None:
    host.units["db.service"] = Unit("db.service")
    host.units[WEB].fails = ("restart",)
    token = begin(store)
    with pytest.raises(ServiceFailed):
        phase(store, "act", {"token": token})
    for name in ("", "begin"):
        with pytest.raises(Refused, match="no run has finished the restart of web.service"):
            restart(store, name, values={}, name="db", times=Times(0.0, 20.0, 1.0))
    found = restart(store, "look", values={}, name="db", times=Times(0.0, 20.0, 1.0))
    assert found["target"] == "db.service"
    assert host_state(store.root)["restart"]["stage"] == "failed"


def test_a_host_that_leads_comes_last(store: Store, host: Machine) -> None:
    answers = {"leads": 0, "follows": 1, "broken": 127, "killed": -9, "killed below a shell": 137}
    run = host.run

    def command(argv: Any, timeout: float) -> Any:
        from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed

        return Completed(tuple(argv), answers[argv[0]], "", "") if argv[0] in answers else run(argv, timeout)

    host.run = command  # type: ignore[method-assign]
    store = Store(store.root, host.system())
    answer = phase(store, "begin", last=["leads"])
    assert answer["deferred"] and answer["token"] == "" and not os.path.exists(store.root)
    for values in ({"now": True}, {}):  # The second goes on with what the first has begun.
        token = phase(store, "begin", values, last=["leads"])["token"]
    phase(store, "end", {"token": token})
    phase(store, "end", {"token": phase(store, "begin", last=["follows"])["token"]})
    for word in [*answers][2:]:
        with pytest.raises(Refused, match="whether this host leads is not known"):
            phase(store, "begin", last=[word])
    assert [phase(store, "look", last=[word])["leads"] for word in answers] == [True, False, None, None, None]
    acts = host.acts()
    with pytest.raises(Refused, match="leads its group now"):
        phase(store, "", last=["leads"])
    assert host.acts() == acts


def test_check_mode_writes_nothing(store: Store, host: Machine) -> None:
    for name in ("", "look", "begin", "act", "drained", "end"):
        restart(store, name, check_mode=True, values={"roll": ROLL}, name="web", times=Times(0.0, 20.0, 1.0))
    assert not os.path.exists(store.root) and host.acts() == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"drained": [1]}, "a list of mappings"),
        ({"drained": {"a": 1}}, "a list of mappings"),
        ({"drained": [{"a": number} for number in range(MOST + 1)]}, "too many"),
        ({"drained": [{"a": "x" * LONGEST}]}, "too many"),
        ({"roll": {"id": "x" * 300, "hosts": 2}}, "roll needs an id"),
        ({"roll": {"id": "x", "hosts": "2"}}, "roll needs the number"),
        ({"roll": ["a"]}, "roll needs an id"),
    ],
)
def test_what_a_controller_says_is_bounded_and_typed(store: Store, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        phase(store, "begin", values)
    assert not os.path.exists(store.root)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"generation": 1}', '{"generation": "1", "roll": 1}', "null"])
@pytest.mark.parametrize("name", ["restart", "restart.generation"])
def test_what_cannot_be_read_is_damaged_and_never_ignored(store: Store, name: str, text: str) -> None:
    token = begin(store)
    with open(store.join(name), "w") as stream:
        stream.write(text)
    with pytest.raises(Damaged, match="Nothing was touched"):
        phase(store, "begin" if name == "restart.generation" else "look")
    if name == "restart":
        for one in ("begin", "act", "end", ""):
            with pytest.raises(Damaged):
                phase(store, one, {"token": token})
        with pytest.raises(Damaged):
            host_state(store.root)


@pytest.mark.parametrize(
    "more", [{"drained": ["web1"]}, {"stage": "odd"}, {"pid": True}, {"at": "now"}, {"drained": 1}]
)
def test_a_fact_of_another_form_is_damage(store: Store, more: dict[str, Any]) -> None:
    begin(store)
    path = Path(store.join("restart"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    with pytest.raises(Damaged):
        host_state(store.root)


def test_the_history_is_bounded_and_survives_a_torn_line(store: Store) -> None:
    begin(store)
    for number in range(record.KEPT + 150):
        record.add_history(store, record.Entry(float(number), WEB, "cold", True, 1.0))
    with open(store.join("restarts"), "ab") as stream:
        stream.write(b'{"at": 1.0, "targ')
    record.add_history(store, record.Entry(-1.0, WEB, "cold", True, 1.0))
    known = record.history(store)
    assert record.KEPT <= len(known) <= record.KEPT + 101
    assert (known[-1].at, known[-2].at) == (-1.0, record.KEPT + 149.0)


def test_a_generation_is_never_given_twice(store: Store) -> None:
    begin(store)
    begin(store)
    os.unlink(store.join("restart.generation"))
    assert phase(store, "begin")["generation"] == 3


# -- all kills, and all schedules


def cycle(store: Store, said: Callable[[str], object]) -> None:
    """A whole restart. ``said``: hears what is drained before and after each step of draining."""
    token = begin(store)
    phase(store, "drained", {"token": token, "drained": [PLACE]})
    said("drained")
    phase(store, "act", {"token": token})
    said("ready")
    phase(store, "drained", {"token": token, "drained": []})
    phase(store, "end", {"token": token})
    said("end")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_kill_at_any_write_is_taken_over_and_forgets_nothing(store: Store, number: int, after: bool) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        writes = [0]

        def killed(function: Callable[..., Any]) -> Callable[..., Any]:
            def write(*arguments: Any) -> None:
                writes[0] += 1
                if writes[0] == number and not after:
                    os._exit(9)
                function(*arguments)
                if writes[0] == number:
                    os._exit(9)

            return write

        for name in ("write_file", "remove_file", "append_line"):
            setattr(record, name, killed(getattr(record, name)))
        try:
            cycle(store, lambda word: os.write(writer, word.encode() + b" "))
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read().split()
    assert code == (9 if number <= 8 else 0), "the kill of the last number is one too many"
    told = host_state(store.root)["restart"]
    if said[-1:] == ["drained"]:
        assert told["drained"] == [PLACE]
    answer = phase(store, "begin")
    assert answer["generation"] > (told["generation"] if told else 0)
    assert answer["restart"]["drained"] == (told["drained"] if told else [])
    phase(store, "act", {"token": answer["token"]})
    phase(store, "end", {"token": answer["token"], "leave": True})
    assert phase(store, "look")["restart"] is None


class Controller:
    """A controller that drains before it acts. It may lose any answer, and be killed between any two steps."""

    def __init__(self, store: Store, number: int, fences: list[str]) -> None:
        self.store, self.place, self.fences = store, {"place": number}, fences
        self.token = ""
        self.steps: Iterator[Callable[[], None]] = iter(())
        self.restart()

    def restart(self) -> None:
        """A new run: it knows nothing of the runs before."""
        self.token = ""
        self.steps = iter([self.begin, self.drain, self.act, self.undrain, self.end])

    def ask(self, name: str, values: dict[str, Any], lost: bool) -> dict[str, Any]:
        answer = phase(self.store, name, values)
        if lost:
            raise ConnectionError
        return answer

    def begin(self, lost: bool = False) -> None:
        answer = phase(self.store, "begin", {"drained": []})
        self.fences.append(answer["token"])
        if lost:
            raise ConnectionError
        self.token = answer["token"]

    def drain(self, lost: bool = False) -> None:
        known = (phase(self.store, "look")["restart"] or {"drained": []})["drained"]
        self.ask("drained", {"token": self.token, "drained": [*known, self.place]}, lost)
        DRAINED.add(json.dumps(self.place))

    def act(self, lost: bool = False) -> None:
        self.ask("act", {"token": self.token}, lost)

    def undrain(self, lost: bool = False) -> None:
        known = phase(self.store, "look")["restart"] or {"drained": []}
        self.ask("drained", {"token": self.token, "drained": known["drained"]}, False)  # still its own
        for one in known["drained"]:
            DRAINED.discard(json.dumps(one))
        self.ask("drained", {"token": self.token, "drained": []}, lost)

    def end(self, lost: bool = False) -> None:
        self.ask("end", {"token": self.token}, lost)


DRAINED: set[str] = set()
MOVES = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["step", "step", "step", "lost", "kill"])), max_size=40)


@given(moves=MOVES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_every_schedule_one_token_counts_and_nothing_drained_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, str]]
) -> None:
    host = machine(Unit(WEB))
    store = Store(str(tmp_path_factory.mktemp("s") / "store"), host.system())
    fences: list[str] = []
    DRAINED.clear()
    controllers = [Controller(store, number, fences) for number in range(2)]
    for who, what in moves:
        controller = controllers[who]
        step = next(controller.steps, None)
        if what == "kill" or step is None:
            controller.restart()
            continue
        before, acts = controller.token, len(host.acts())
        try:
            step(what == "lost")  # type: ignore[call-arg]
        except ConnectionError:
            controller.restart()
        except EvenkeelError:
            controller.restart()
        else:
            if step != controller.begin:
                assert before == fences[-1], "an older token counted"
        if len(host.acts()) > acts:
            assert before == fences[-1], "an older token acted"
        known = record.read(store)
        assert known is None or known.token == fences[-1]
        remembered = {json.dumps(one) for one in known.drained} if known is not None else set()
        assert remembered >= DRAINED, "what is drained was forgotten"
