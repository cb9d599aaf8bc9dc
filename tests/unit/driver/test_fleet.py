# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exit code of a command that is one run of one playbook, and what it says of each host."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, cast

import pytest

from evenkeel.ansible.caller import Caller, Controller
from evenkeel.ansible.configuration import Ansible
from evenkeel.ansible.events import PREFIX, Record, feed
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.runner import Ended
from evenkeel.ansible.session import OwnRun
from evenkeel.ansible.targets import Inventory
from evenkeel.changes import resume
from evenkeel.commands.playbook import row
from evenkeel.commands.protect import peers
from evenkeel.commands.recover import Recover
from evenkeel.commands.registry import playbooks, run
from evenkeel.commands.restart import Planned
from evenkeel.commands.rollback import Rollback
from evenkeel.outcome import Exit, RunResult, UsageError

PLAYBOOKS = playbooks()

OK: dict[str, Any] = {"state": "ok"}
LOST: dict[str, Any] = {"state": "unreachable"}


def failed(error: str = "", **more: Any) -> dict[str, Any]:
    return {"state": "failed", "error": error, **more}


@pytest.mark.parametrize(
    ("command", "rows", "code"),
    [
        ("rollback", [OK, OK], Exit.DONE),
        ("rollback", [failed("NotFound")], Exit.USAGE),
        ("rollback", [OK, failed("NotFound")], Exit.FAILED),
        ("rollback", [failed("Busy")], Exit.REFUSED),
        ("rollback", [OK, failed("RestoreFailed")], Exit.IN_DOUBT),
        ("rollback", [OK, LOST], Exit.IN_DOUBT),
        ("status", [OK, LOST], Exit.IN_DOUBT),
        ("status", [OK, {**OK, "doubt": {"at": 1.0}}], Exit.IN_DOUBT),
        ("status", [{**OK, "armed": {"overdue": 600.0}}], Exit.IN_DOUBT),
        ("status", [{**OK, "armed": {"overdue": 600.0, "back": "deadline"}}], Exit.DONE),
        ("status", [{**OK, "armed": {"overdue": None}, "doubt": None}], Exit.DONE),
        ("scrub", [OK, LOST], Exit.IN_DOUBT),
        ("scrub", [OK, failed("Damaged")], Exit.IN_DOUBT),
        ("scrub", [OK, failed("EvenkeelError")], Exit.FAILED),
        ("heal", [OK, failed("Damaged")], Exit.IN_DOUBT),
        ("heal", [OK, failed("EvenkeelError")], Exit.FAILED),
        ("heal", [OK, LOST], Exit.FAILED),
        ("protect", [OK, failed("Damaged")], Exit.IN_DOUBT),
        ("protect", [OK, LOST], Exit.FAILED),
        ("protect", [OK, failed("EvenkeelError")], Exit.FAILED),
        ("protect", [failed("UsageError")], Exit.FAILED),  # a tree that is too deep, by its owner
        ("rollback", [failed("UsageError")], Exit.USAGE),
        ("restart", [failed("Refused", task="ft_guard"), {"state": "missing"}], Exit.REFUSED),
        ("restart", [OK, failed("Refused", task="ft_guard")], Exit.FAILED),
        # A refusal on one host says nothing about another one that is in doubt, or that nobody knows.
        ("rollback", [failed("RestoreFailed", changed=True), failed("Refused")], Exit.IN_DOUBT),
        ("rollback", [failed("Busy"), {"state": "missing"}], Exit.IN_DOUBT),
        ("rollback", [failed("Busy"), failed()], Exit.FAILED),
        ("rollback", [failed("Busy"), failed("NotFound")], Exit.REFUSED),
        ("scrub", [failed("Damaged"), failed("Busy")], Exit.IN_DOUBT),
        # Nor does the last error of a host that was changed before.
        ("recover", [failed("UsageError", changed=True)], Exit.FAILED),
        ("recover", [failed("Busy", changed=True)], Exit.FAILED),
        ("protect", [failed("NotFound", changed=True)], Exit.FAILED),
        ("restart", [failed("ServiceFailed", changed=True), failed("Refused", task="ft_guard")], Exit.FAILED),
    ],
)
def test_exit_codes(command: str, rows: list[dict[str, Any]], code: Exit) -> None:
    assert PLAYBOOKS[command].exit_code(rows) is code


def record(*results: tuple[str, str, dict[str, Any]]) -> Record:
    found = Record()
    for task, status, result in results:
        data = {"host": "web1", "task": "Do", "resolved_action": PREFIX + task, "res": result}
        feed(found, {"event": f"runner_on_{status}", "event_data": data})
    return found


def test_a_misspelt_variable_of_the_command_line_is_refused_before_ansible_runs() -> None:
    with pytest.raises(UsageError, match="did you mean evenkeel_checkpoint"):
        run("rollback", Options(common=("--extra-vars=evenkeel_chekpoint=x",)), {}, secrets=Secrets())


def test_the_task_that_failed_is_the_story_of_a_host_whatever_came_after() -> None:
    told = row(record(("ft_checkpoint", "failed", {"msg": "no room"}), ("ft_replicate", "ok", {})), "web1")
    assert (told["state"], told["task"], told["msg"]) == ("failed", "ft_checkpoint", "no room")


def test_the_last_task_is_the_story_of_a_host_that_did_well() -> None:
    told = row(record(("ft_checkpoint", "ok", {}), ("ft_replicate", "ok", {"copies": [1], "_x": 1})), "web1")
    assert told == {"state": "ok", "task": "ft_replicate", "msg": "", "copies": [1]}


def test_a_rollback_that_was_confirmed_tells_what_it_did_and_one_that_locked_us_out_is_lost() -> None:
    back = ("ft_rollback", "ok", {"done": ["put back"], "undo": "12", "armed": {"generation": 3}})
    told = row(record(back, ("ft_settle", "ok", {"done": ["confirmed"], "outcome": "confirmed"})), "web1")
    assert (told["state"], told["done"], told["undo"]) == ("ok", ["put back"], "12")
    assert "armed" not in told and told["outcome"] == "confirmed", "it is armed no more"
    told = row(record(back, ("ft_settle", "unreachable", {"msg": "timed out"})), "web1")
    assert told["state"] == "unreachable" and "timed out" in str(told["msg"])
    assert Rollback().exit_code([told]) is Exit.IN_DOUBT


def test_a_rollback_that_nobody_confirmed_any_more_is_in_doubt_with_its_deadline() -> None:
    armed = {"generation": 3, "until": 90_000.0}
    told = row(record(("ft_rollback", "ok", {"done": ["put back"], "armed": armed})), "web1", "stopped by the user")
    due = time.strftime("%H:%M:%S", time.localtime(90_000.0))
    assert "stopped by the user: " in str(told["msg"]) and f"takes it back at {due}" in str(told["msg"])
    assert Rollback().exit_code([OK, told]) is Exit.IN_DOUBT
    told = row(record(("ft_rollback", "ok", {"done": ["put back"], "armed": None})), "web1")
    assert Rollback().exit_code([told]) is Exit.DONE, "without a time to confirm there is nothing to wait for"


@pytest.mark.parametrize("error", ["UsageError", "Refused", "Busy"])
def test_a_host_that_was_changed_never_ends_as_if_nothing_was_touched(error: str) -> None:
    no = {"msg": "no", "error": error, "changed": False}
    back = ("ft_rollback", "ok", {"changed": True, "armed": {"generation": 3}})
    told = row(record(back, ("ft_settle", "failed", no)), "web1")
    assert Rollback().exit_code([told]) is Exit.IN_DOUBT, "it takes the rollback back at its deadline"
    told = row(record(back, ("ft_settle", "failed", {"error": "Unhealthy", "outcome": "rolled_back"})), "web1")
    assert Rollback().exit_code([told]) is Exit.FAILED
    recovered = ("ft_recover", "ok", {"changed": True, "restored": "f" * 64, "done": ["recovered web1"]})
    rows = Recover().rows(record(recovered, ("ft_replicate", "failed", no)), ["web1"], "")
    assert Recover().exit_code(list(rows.values())) is Exit.FAILED
    assert rows["web1"]["changed"] is True and rows["web1"]["msg"] == "recovered web1; no"
    taken = record(("ft_checkpoint", "ok", {"changed": True}), ("ft_replicate", "failed", no))
    assert PLAYBOOKS["protect"].exit_code([row(taken, "web1")]) is Exit.FAILED


def test_a_host_on_which_nothing_ran_is_missing_never_ok() -> None:
    assert row(Record(), "web9", "stopped by the user") == {"state": "missing", "msg": "stopped by the user"}


def test_every_host_may_hold_copies_unless_the_inventory_says_which() -> None:
    inventory = Inventory(("a", "b", "localhost"), {}, {"a": {"evenkeel_peers": ["b"]}})
    assert peers(inventory, ["a"]) == {}
    # As a variable of the command line it counts for all hosts: ``evenkeel_peers`` would replace the peers of a.
    assert peers(inventory, ["a", "b"]) == {"evenkeel_fleet": ["a", "b"]}


def test_a_rollback_to_each_its_own_names_the_hosts_without_before_any_is_touched() -> None:
    class Session:
        def list_own(self, *_words: Any) -> tuple[str, ...]:
            return ("web1", "web2", "web3")

        def run_own(self, *_words: Any, **_how: Any) -> Any:
            pytest.fail("a host was asked")

    session = cast(Any, contextlib.nullcontext(Session()))
    controller = Controller(ask_ansible=lambda cwd: Ansible(cwd, {}, ""), open_session=lambda *_words: session)
    caller = Caller(secrets=Secrets(), controller=controller)
    with pytest.raises(UsageError, match="names none for web2, web3"):
        Rollback().run_playbook(Options(), {"evenkeel_checkpoints": {"web1": "a" * 16}}, caller)


def test_the_state_of_a_host_goes_to_one_host_and_to_no_group() -> None:
    command, hosts = Recover(), ("web6", "web7")
    variables = {"evenkeel_recover_host": "web3", "evenkeel_hosts": "spares"}
    with pytest.raises(UsageError, match=r"spares stands for 2 hosts \(web6, web7\).* of web3"):
        command.variables_of(hosts, variables, lambda: pytest.fail("not needed"))
    for given, names in ((variables, hosts[:1]), ({**variables, "evenkeel_hosts": "any"}, hosts), ({}, hosts)):
        assert command.variables_of(names, given, lambda: pytest.fail("not needed")) == given


def test_a_command_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="'rolback' is no command .* rollback, protect"):
        run("rolback", Options(), {})


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_command_that_only_asks_waits_for_minutes_and_every_other_for_hours(name: str) -> None:
    seen: list[OwnRun] = []

    class Session:
        def list_own(self, *_words: Any) -> tuple[str, ...]:
            return ("web1",)

        def run_own(self, run: OwnRun, *_how: Any) -> Ended:
            seen.append(run)
            return Ended(0)

    session = cast(Any, contextlib.nullcontext(Session()))
    bases: set[str] = set()

    def noted(base: str, found: Any) -> Any:
        bases.add(base)
        return found

    controller = Controller(
        ask_ansible=lambda cwd: Ansible(cwd, {}, ""),
        find_inventory=lambda *words: noted(words[3], Inventory(("web1",), {}, {})),
        open_session=lambda *words: noted(str(words[3]), session),
    )
    caller = Caller(secrets=Secrets(), controller=controller, cwd="/")
    result = PLAYBOOKS[name].run_playbook(Options(limit="web*", playbook_dir="usr"), {}, caller)
    assert bases == {"/usr"}, "the variables beside the playbook count"
    assert result.hosts["web1"]["state"] == "missing", "nothing ran on it, and that is never a success"
    assert (seen[0].name, seen[0].question) == (name, name in ("status", "suggest", "accept"))
    assert seen[0].hosts == ("web1",), (
        "no host beyond those that are listed: the controller may match the limit as well"
    )


@pytest.mark.parametrize("name", ["status", "resume"])
def test_a_command_uses_nothing_from_a_directory_in_which_others_write(name: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    seen: list[Any] = []

    def noted(base: Any, found: Any) -> Any:
        seen.append(base)
        return found

    controller = Controller(
        ask_ansible=lambda cwd: Ansible(cwd, {}, "", unread={"hosts": "no inventory"}),
        find_inventory=lambda *words: noted(words[3], Inventory(("web1",), {}, {})),
        open_session=lambda *words: noted(words[3], cast(Any, contextlib.nullcontext(Session()))),
    )
    caller = Caller(secrets=Secrets(), controller=controller, cwd=str(tmp_path))

    def run() -> Any:
        if name in PLAYBOOKS:
            return PLAYBOOKS[name].run_playbook(Options(), {}, caller)
        return resume.run(name, Options(), caller)

    assert run().notes[0] == "no inventory" and not any(seen) and None in seen
    seen.clear()
    (tmp_path / "filter_plugins").mkdir()
    with pytest.raises(UsageError, match="filter_plugins"):
        run()
    assert seen == [], "it is refused before anything is asked"


class Session:
    """A session of one host. answers: (task, result) of the host, in order."""

    def __init__(self, *answers: tuple[str, dict[str, Any]]) -> None:
        self.answers = answers

    def list_own(self, *_words: Any) -> tuple[str, ...]:
        return ("web1",)

    def rounds(self, hosts: int) -> int:
        return 1

    def run_own(self, run: OwnRun, on_event: Any, stop: Any) -> Ended:
        for task, result in self.answers:
            data = {"host": "web1", "task": "Do", "resolved_action": PREFIX + task, "res": result}
            on_event({"event": "runner_on_ok", "event_data": data})
        return Ended(0)


def answered(command: str, variables: dict[str, object], *answers: tuple[str, dict[str, Any]]) -> RunResult:
    def session(*_words: Any) -> Any:
        return contextlib.nullcontext(Session(*answers))

    controller = Controller(ask_ansible=lambda cwd: Ansible(cwd, {}, ""), open_session=session)
    return PLAYBOOKS[command].run_playbook(Options(), variables, Caller(secrets=Secrets(), controller=controller))


@pytest.mark.parametrize("name", ["status", "rollback"])
def test_what_ansible_refuses_before_its_first_play_is_no_doubt(name: str) -> None:
    said = ["usage: ansible-playbook", "[ERROR]: The password file /x was not found", "  -b, --become"]

    class Refused(Session):
        def run_own(self, run: OwnRun, on_event: Any, stop: Any) -> Ended:
            for line in said:
                on_event({"event": "verbose", "stdout": line})
            return Ended(rc)

    def session(*_words: Any) -> Any:
        return contextlib.nullcontext(Refused())

    controller = Controller(ask_ansible=lambda cwd: Ansible(cwd, {}, ""), open_session=session)
    for rc, code in ((2, Exit.USAGE), (None, Exit.IN_DOUBT)):
        found = PLAYBOOKS[name].run_playbook(Options(), {}, Caller(secrets=Secrets(), controller=controller))
        assert found.exit_code is code, "a run that was killed may have begun"
        if rc:
            assert found.reason == f"web1: {said[1]}"


def test_a_host_in_doubt_is_the_reason_of_a_status() -> None:
    found = answered("status", {}, ("ft_info", {"doubt": {"at": 1.0}}))
    assert found.exit_code is Exit.IN_DOUBT and found.reason.startswith("web1: in doubt")


@pytest.mark.parametrize(("said", "code"), [(True, Exit.DONE), ("yes", Exit.DONE), ("no", Exit.FAILED)])
def test_a_plan_alone_that_a_program_asks_for_is_no_failure(said: object, code: Exit) -> None:
    plan = ("ft_roll", {"waves": [["web1"]], "left_out": {}})
    found = answered("restart", {"evenkeel_service": "nginx", "evenkeel_plan_only": said}, plan)
    assert found.exit_code is code and isinstance(found, Planned) is (code is Exit.DONE)
    # Another run of the same program, meanwhile or afterwards, is none that only plans.
    assert vars(PLAYBOOKS["restart"]) == {}
