# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees: while it runs and at the end, at any width."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from rich.console import Console

from evenkeel.ansible.options import Options
from evenkeel.commands.registry import playbooks
from evenkeel.outcome import ChangeResult, Exit, HostResult, Owed, Probe, RunResult, State
from evenkeel.progress import Kind, Phase, Progress
from evenkeel.show.advice import after_change
from evenkeel.show.display import Board, Log, line, showing, task_name, text
from evenkeel.show.summary import headline, print_change, print_run, print_status

PLAYBOOKS = playbooks()

INV = Options(inventory=("inv",))
LONG = "unreachable in 'Load': ssh: connect to host 192.0.2.1 port 22: Connection timed out"


def result(code: Exit, *hosts: HostResult, reason: str = "") -> ChangeResult:
    return ChangeResult("site.yml", code, reason, [[one.host for one in hosts]], list(hosts), [], 34.4)


def printed(found: ChangeResult, width: int = 80) -> str:
    stream = io.StringIO()
    print_change(found, Console(file=stream, width=width), INV)
    return stream.getvalue()


def drawn(board: Board, width: int, height: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(board.draw(width, height, now=1000.0))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 12)])
def test_the_table_never_outgrows_the_terminal(width: int, height: int) -> None:
    board = Board()
    hosts = tuple(f"web{number}.a-rather-long-domain.example.org" for number in range(60))
    board.take(Progress(Kind.PLAN, "site.yml: 60 hosts in 1 wave"))
    board.take(Progress(Kind.WAVE, hosts=hosts, wave=1, waves=1))
    board.take(Progress(Kind.HOST, LONG, hosts[:30], Phase.WAIT, until=1600.0))
    lines = drawn(board, width, height)
    assert len(lines) < height
    assert max(len(one) for one in lines) <= width
    assert "more" in lines[-1]


def test_a_row_shows_phase_task_and_the_time_to_the_dead_man() -> None:
    board = Board()
    board.take(Progress(Kind.WAVE, hosts=("web1", "web2"), wave=2, waves=3))
    board.take(Progress(Kind.HOST, hosts=("web1", "web2"), phase=Phase.ARMED, until=1065.0))
    board.take(Progress(Kind.HOST, hosts=("web1", "web2"), phase=Phase.CHANGE))
    board.take(Progress(Kind.TASK, "Install", phase=Phase.CHANGE))
    board.take(Progress(Kind.HOST, "boom", ("web2",), Phase.CONFIRMED))
    text = drawn(board, 80, 24)
    assert any(all(word in one for word in ("web1", "change", "1:05")) for one in text)
    assert any("web2" in one and "confirmed" in one and ":" not in one for one in text)


def test_elsewhere_than_at_a_terminal_progress_is_lines_with_all_that_matters() -> None:
    stream = io.StringIO()
    with showing(Console(file=stream, width=80)) as report:
        report(Progress(Kind.HOST, "", ("web1",), Phase.ARMED, until=1065.0))
        report(Progress(Kind.HOST, LONG * 2, ("[web1]",), Phase.FAILED))
    first, second = stream.getvalue().splitlines()
    assert "web1: armed (dead-man due at" in first
    assert second.endswith(f"[web1]: failed ({LONG * 2})")
    assert line(Progress(Kind.TASK, "ours", phase=Phase.BEGIN)) == ""


def test_a_file_that_is_to_have_colours_gets_lines_and_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with showing(Console(file=stream, width=80)) as report:
        report(Progress(Kind.HOST, "", ("web1",), Phase.ARMED, until=1065.0))
    assert stream.getvalue().count("\n") == 1 and "dead-man due at" in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_over_a_question_that_comes_before_the_first_report() -> None:
    stream = Terminal()
    with showing(Console(file=stream, width=80, force_terminal=True)) as report:
        time.sleep(0.3)  # more than one picture of a table that is drawn
        assert stream.getvalue() == ""
        report(Progress(Kind.TASK))
    assert stream.getvalue() != ""


NAMES = [f"a-host-with-a-name-of-many-letters-in-one-domain.example.com-{number}" for number in (1, 2)]


@pytest.mark.parametrize("terminal", [False, True])
def test_hosts_with_long_names_can_be_told_apart(terminal: bool) -> None:
    rows = {name: {"state": "unreachable", "msg": "gone"} for name in NAMES}
    ran = RunResult("status", Exit.FAILED, "", rows, [], 1.0)
    change = result(Exit.IN_DOUBT, *(HostResult(name, 1, State.IN_DOUBT, "m") for name in NAMES))
    for show in (
        lambda console: print_run(ran, console),
        lambda console: print_status(ran, console, INV),
        lambda console: print_change(change, console, INV),
    ):
        shown = seen_of(show, 80, terminal)
        whole = "".join(line[: line.find("  ")] if "  " in line else line for line in shown.splitlines())
        for name in NAMES:
            assert name in (whole if terminal else shown)


def test_success_says_how_many_changed() -> None:
    hosts = [HostResult("a", 1, State.CONFIRMED, changed=True), HostResult("b", 1, State.CONFIRMED)]
    assert headline(result(Exit.DONE, *hosts)).startswith("CONFIRMED on 2 hosts, 1 changed")


def test_a_host_that_put_itself_back_is_told_apart_from_one_that_was_put_back() -> None:
    text = printed(result(Exit.FAILED, HostResult("a", 1, State.ROLLED_BACK, "m", by="deadline")), width=120)
    assert "FAILED AND ROLLED BACK" in text and "put itself back at its deadline; m" in text


def test_doubt_comes_with_the_command_that_resolves_it() -> None:
    found = result(Exit.IN_DOUBT, HostResult("a", 1, State.IN_DOUBT, LONG), HostResult("b", 2))
    assert headline(found).startswith("IN DOUBT: 1 in doubt, 1 not begun")
    assert any(one.strip() == "evenkeel status -i inv --limit a" for one in after_change(found, INV))


def test_confirmed_hosts_of_a_failed_change_are_named_with_the_way_back() -> None:
    found = result(Exit.FAILED, HostResult("a", 1, State.CONFIRMED), HostResult("b", 2, State.ROLLED_BACK, "x"))
    assert any("evenkeel rollback -i inv --limit a" in one for one in after_change(found, INV))


def test_many_hosts_that_never_came_share_a_line() -> None:
    waiting = [HostResult(f"h{number}", 2) for number in range(40)]
    text = printed(result(Exit.FAILED, HostResult("a", 1, State.ROLLED_BACK, "x"), *waiting))
    assert "h0 … h39 (40)" in text and "h7 " not in text


def test_the_document_of_json_is_plain_and_complete() -> None:
    found = result(Exit.FAILED, HostResult("a", 1, State.ROLLED_BACK, "x", generation=3), reason="a: x").to_dict()
    again = json.loads(json.dumps(found))
    assert (again["exit_code"], again["hosts"][0]["state"], again["hosts"][0]["generation"]) == (2, "rolled_back", 3)


def test_status_shows_what_is_armed_what_was_and_what_could_be() -> None:
    one = {
        "state": "ok",
        "armed": {"generation": 4, "until": 1065.0},
        "last": {"outcome": "rolled_back", "by": "boot", "at": 1000.0},
        "checkpoints": [{"name": "before-change", "names": ["before-change"]}],
        "holds": [{"host": "web9", "id": "x"}],
    }
    stream = io.StringIO()
    rows: dict[str, dict[str, Any]] = {"web1": one, "web2": {"state": "unreachable", "msg": LONG}}
    print_status(RunResult("status", Exit.IN_DOUBT, "", rows, [], 1.0), Console(file=stream, width=200), INV)
    text = stream.getvalue()
    for word in ("generation 4", "rolled back by boot", "1, newest before-change", "web9", LONG):
        assert word in text


@pytest.mark.parametrize("name", ["status", "suggest"])
def test_a_command_that_failed_on_no_host_says_why(name: str) -> None:
    found = RunResult(name, Exit.FAILED, "ansible-playbook ended with 2", {"web1": {"state": "ok"}}, [], 1.0)
    assert "Why: ansible-playbook ended with 2" in seen_of(lambda console: PLAYBOOKS[name].show(found, INV, console))


def due(level: str, unit: str = "", *why: str) -> Owed:
    return {"level": level, "unit": unit, "why": list(why) or ["/usr/lib/libz.so.1"], "processes": ["app[812]"]}


@pytest.mark.parametrize(
    ("owed", "shown"),
    [
        ([due("service", "app.service")], "owed a restart: app.service (/usr/lib/libz.so.1)"),
        ([due("service", f"a{at}.service") for at in range(7)], "a4.service (/usr/lib/libz.so.1) and 2 more"),
        ([due("soft-reboot", "dbus.service", "/a", "/b")], "owed a soft-reboot: dbus.service (/a and 1 more)"),
        (
            [due("reboot", "", "the kernel 6.2 is installed, and 6.1 runs")],
            "owed a reboot: the kernel 6.2 is installed",
        ),
        ([due("process")], "until they end, processes run replaced files (/usr/lib/libz.so.1): app"),
        ([due("unknown", "", "no time")], "whether more restarts are owed is not known: no time"),
        ([], "none"),
    ],
)
def test_status_says_which_restarts_a_host_owes(owed: list[Owed], shown: str) -> None:
    row = {"state": "ok", "last": {"outcome": "confirmed", "by": "settle", "at": 1.0}, "owed": owed}
    found = RunResult("status", Exit.DONE, "", {"web1": row}, [], 1.0)
    said = " ".join(seen_of(lambda console: print_status(found, console, INV), 250).split())
    assert shown in said
    levels = {one["level"] for one in owed}
    assert ("evenkeel restart -i inv --limit web1 --owed" in said) is ("service" in levels)
    assert ("Owed a reboot. This boots them" in said) is bool(levels & {"reboot", "soft-reboot"})


def test_status_of_a_host_that_was_not_asked_for_its_restarts_does_not_say_that_there_are_none() -> None:
    row = {"state": "ok", "last": {"outcome": "confirmed", "by": "settle", "at": 1.0}, "owed": None}
    found = RunResult("status", Exit.DONE, "", {"web1": row}, [], 1.0)
    assert "none" not in seen_of(lambda console: print_status(found, console, INV), 250)


def test_the_end_of_a_change_says_which_restarts_are_owed_and_hosts_that_owe_the_same_share_a_line() -> None:
    hosts = [
        HostResult(
            f"h{at}",
            1,
            State.CONFIRMED,
            changed=True,
            owed=[
                {"level": "service", "unit": "app.service", "why": ["/usr/lib/libz.so.1"], "processes": [f"app[{at}]"]}
            ],
        )
        for at in range(20)
    ]
    said = printed(result(Exit.DONE, *hosts), width=200)
    assert "h0 … h19 (20)" in said and "changed; owed a restart: app.service (/usr/lib/libz.so.1)" in said
    assert "evenkeel restart -i inv --limit h0,h1," in said


def test_a_run_says_of_each_host_what_was_done_or_why_not() -> None:
    stream = io.StringIO()
    rows: dict[str, dict[str, Any]] = {
        "a": {"state": "ok", "changed": True, "done": ["a copy on b"]},
        "b": {"state": "failed", "msg": "no room"},
    }
    print_run(RunResult("protect", Exit.FAILED, "b: no room", rows, [], 1.0), Console(file=stream, width=80))
    assert "protect on 1 of 2 hosts" in stream.getvalue()
    assert "a copy on b" in stream.getvalue() and "no room" in stream.getvalue()


def test_a_run_shows_warnings_and_a_recovery_what_peers_lack() -> None:
    row: dict[str, Any] = {
        "state": "ok",
        "done": ["x"],
        "warnings": ["a key is new"],
        "left": ["b: failed", "a key is new", HOSTILE],
    }
    rows = {"a": row, "b": {"state": "ok", "warnings": 5, "left": {"a": "odd"}}}

    def shown(command: str) -> str:
        result = RunResult(command, Exit.DONE, "", rows, [], 1.0)
        return seen_of(lambda console: PLAYBOOKS[command].show(result, Options(), console), 200)

    assert shown("recover").count("a: a key is new") == 1 and "a: b: failed" in shown("recover")
    assert "a: a key is new" in shown("protect") and "b: failed" not in shown("protect")
    assert "\x1b" not in shown("recover") and "odd" not in shown("recover")
    row["left"] = [f"number {number}" for number in range(1000)]
    assert "number 8" in shown("recover") and "number 9" not in shown("recover")


def test_a_scrub_says_what_it_has_read() -> None:
    stream = io.StringIO()
    rows = {"a": {"state": "ok", "task": "ft_scrub", "changed": False, "done": [], "proved": ["7 files were read"]}}
    print_run(RunResult("scrub", Exit.DONE, "", rows, [], 1.0), Console(file=stream, width=80))
    assert "7 files were read" in stream.getvalue() and "nothing to do" not in stream.getvalue()


HOSTILE = "[/x] [bold red]{0} %s %(a)s 100%\x1b[2J\x1b]0;t\x07\x08\x9b1m\u202egnp\u200b\udcff\n second"


def test_text_of_others_can_only_be_read() -> None:
    shown = text(HOSTILE)
    assert shown.isprintable()
    assert shown.startswith("[/x] [bold red]{0} %s %(a)s 100%") and shown.endswith(" second")
    assert "\\x1b[2J" in shown and "\\u202e" in shown and "\\udcff" in shown
    assert text("wéb1 — 日本 €") == "wéb1 — 日本 €"
    assert text(7) == "7"
    assert len(text("x" * 10_000_000)) <= 2000 and text("x" * 10_000)[-1] == "…"


def seen_of(show: Any, width: int = 100, terminal: bool = False) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width, force_terminal=terminal, color_system=None))
    return stream.getvalue()


def test_no_place_of_a_report_takes_text_of_others_for_more_than_text() -> None:
    """Names, reasons, paths and everything else that a host, an inventory or a playbook says."""
    bad = HostResult(HOSTILE, 1, State.ROLLED_BACK, HOSTILE, by=HOSTILE)
    doubt = HostResult("b" + HOSTILE, 1, State.IN_DOUBT, "b" + HOSTILE)
    change = result(Exit.IN_DOUBT, bad, doubt, HostResult("c", 1, State.CONFIRMED, HOSTILE), reason=HOSTILE)
    change.playbook = HOSTILE
    run_row = {"state": "failed", "msg": HOSTILE, "done": [HOSTILE, {"action": HOSTILE}]}
    rows: dict[str, dict[str, Any]] = {
        HOSTILE: run_row,
        "w": {
            "state": "ok",
            "changed": True,
            "done": [HOSTILE, {"action": HOSTILE, "target": HOSTILE}, {"x": HOSTILE}],
        },
    }
    info: dict[str, Any] = {
        "state": "ok",
        "armed": {"generation": HOSTILE, "until": HOSTILE, "back": HOSTILE, "left": [HOSTILE], "tries_until": HOSTILE},
        "last": {"outcome": HOSTILE, "by": HOSTILE, "at": HOSTILE},
        "checkpoints": [{"name": HOSTILE, "left": [HOSTILE]}],
        "replicas": {HOSTILE: ["x"]},
    }
    doubtful = {"state": "ok", "doubt": {"left": [HOSTILE], "at": HOSTILE, "checkpoint": HOSTILE}}
    status = RunResult("status", Exit.DONE, "", {"a": info, HOSTILE: doubtful, "c": run_row}, [], 1.0)

    def progress(console: Console) -> None:
        with showing(console) as report:
            report(Progress(Kind.PLAN, HOSTILE))
            report(Progress(Kind.WAVE, hosts=(HOSTILE,), wave=1, waves=1))
            for phase in Phase:
                report(Progress(Kind.HOST, HOSTILE, (HOSTILE,), phase, until=1000.0))
                report(Progress(Kind.TASK, HOSTILE, phase=phase))
            report(Progress(Kind.NOTE, HOSTILE))
            report(Progress(Kind.OUTPUT, HOSTILE))

    def board(console: Console) -> None:
        drawn = Board()
        drawn.take(Progress(Kind.PLAN, HOSTILE))
        drawn.take(Progress(Kind.WAVE, hosts=(HOSTILE,), wave=1, waves=1))
        drawn.take(Progress(Kind.TASK, HOSTILE, phase=Phase.CHANGE))
        drawn.take(Progress(Kind.HOST, HOSTILE, (HOSTILE,), Phase.WAIT, until=1000.0))
        console.print(drawn.draw(100, 30, 900.0))

    reports = [
        seen_of(lambda console: print_change(change, console, INV)),
        seen_of(lambda console: print_run(RunResult("rollback", Exit.FAILED, HOSTILE, rows, [], 1.0), console)),
        seen_of(lambda console: print_status(status, console, INV)),
        seen_of(progress),
        seen_of(board),
    ]
    for report in reports:
        assert "[/x]" in report
        assert all(one.isprintable() or one == "\n" for one in report), ascii(report)


def test_a_sentence_stands_in_a_report_once() -> None:
    why = "failed in 'Write': there is no room on the disk"
    hosts = [HostResult(f"h{n}", 1, State.ROLLED_BACK, why) for n in range(3)]
    shown = " ".join(printed(result(Exit.FAILED, *hosts, reason=f"h0: {why}"), width=200).split())
    assert shown.count("there is no room on the disk") == 1
    assert shown.count("as above") == 3
    rows: dict[str, dict[str, Any]] = {f"h{n}": {"state": "failed", "msg": why} for n in range(3)}
    run = RunResult("protect", Exit.FAILED, f"h0: {why}", rows, [], 1.0)
    assert seen_of(lambda console: print_run(run, console), 200).count("there is no room") == 1


def test_what_was_rolled_back_is_told_no_further_than_it_is_protected() -> None:
    shown = printed(result(Exit.FAILED, HostResult("a", 1, State.ROLLED_BACK, "x")))
    assert "what is protected is as before" in " ".join(shown.split())


def test_a_confirmation_without_a_new_login_says_so() -> None:
    shown = printed(result(Exit.DONE, HostResult("a", 1, State.CONFIRMED, login="not shown")), 200)
    assert "Whether a new login is let in was not shown on a:" in shown
    for well in ("new", "none"):
        assert "not shown" not in printed(result(Exit.DONE, HostResult("a", 1, State.CONFIRMED, login=well)), 200)


def test_the_reason_of_another_host_is_not_told_again() -> None:
    failed = "failed in 'nginx : Install: it': no such package"
    hosts = [
        HostResult("a", 1, State.ROLLED_BACK, failed),
        HostResult("b", 1, State.ROLLED_BACK, f"the playbook did not come to its end on it after a {failed}"),
    ]
    shown = " ".join(printed(result(Exit.FAILED, *hosts, reason=f"a: {failed}"), 200).split())
    assert shown.count("no such package") == 1
    assert "after a failed in 'nginx : Install: it'" in shown


def test_what_the_user_stopped_is_not_said_to_have_failed() -> None:
    host = HostResult("a", 1, State.ROLLED_BACK, "stopped by the user while the playbook ran")
    shown = printed(result(Exit.FAILED, host, reason="stopped by the user"), 200)
    assert shown.startswith("STOPPED AND ROLLED BACK: 1 rolled back") and "repair" not in shown


def test_who_fell_ill_is_counted_among_the_confirmed() -> None:
    hosts = [HostResult("a", 1, State.CONFIRMED, "fell ill", sick=True), HostResult("b", 2, State.CONFIRMED)]
    assert headline(result(Exit.FAILED, *hosts)).startswith(
        "FAILED: 2 confirmed, 1 of the confirmed not known to be healthy since ("
    )


def test_a_probe_that_only_warned_is_told_of_a_host_that_is_confirmed() -> None:
    probes: list[Probe] = [
        {"kind": "http", "target": "http://a/", "state": "fail", "detail": "status 500\x1b[2J", "severity": "warn"},
        {"kind": "tcp", "target": "a:80", "state": "pass", "detail": "accepts connections", "severity": "warn"},
        {"kind": "tcp", "target": "a:81", "state": "unknown", "detail": "not decided here", "severity": "fail"},
    ]
    host = HostResult("a", 1, State.CONFIRMED, probes=probes, warnings=["a job of Ansible still runs"])
    shown = printed(result(Exit.DONE, host), 200)
    assert "warning: http http://a/: fail, status 500" in shown and "\x1b" not in shown
    assert "warning: a job of Ansible still runs" in shown
    assert "accepts" not in shown and "not decided" not in shown
    hosts = [HostResult(str(one), 1, State.CONFIRMED, probes=probes if one == 7 else []) for one in range(30)]
    assert printed(result(Exit.DONE, *hosts), 200).count("warning") == 1


def test_a_task_that_begins_host_by_host_is_one_line() -> None:
    log = Log()
    told = [log.take(Progress(Kind.TASK, name, phase=Phase.CHANGE), 0.0) for name in ("a", "a", "b", "a")]
    assert [bool(one) for one in told] == [True, False, True, True]
    log.take(Progress(Kind.WAVE, hosts=("web2",), wave=2, waves=2), 0.0)
    assert log.take(Progress(Kind.TASK, "a", phase=Phase.CHANGE), 0.0)


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_command_is_never_wrapped(width: int) -> None:
    found = result(
        Exit.PARTLY, HostResult("a", 1, State.CONFIRMED, checkpoint="c" * 64), HostResult("b", 2, State.ROLLED_BACK)
    )
    lines = printed(found, width).splitlines()
    assert f"  evenkeel rollback -i inv --limit a --checkpoint {'c' * 64}" in lines


def test_a_part_that_was_kept_is_told_from_all_that_is_back() -> None:
    hosts = [HostResult("a", 1, State.CONFIRMED), HostResult("b", 2, State.ROLLED_BACK, "x")]
    assert headline(result(Exit.PARTLY, *hosts)).startswith("FAILED, AND KEPT IN PART: 1 rolled back, 1 confirmed")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("evenkeel.fault_tolerance.rollback : Go back to the checkpoint", "Go back to the checkpoint"),
        ("evenkeel.fault_tolerance.rollback : Validating arguments against arg spec 'main' - Put a host back", ""),
        ("Validating arguments against arg spec 'main'", ""),
        ("nginx : Validating arguments against arg spec 'main'", ""),
        ("nginx : Install nginx", "nginx : Install nginx"),
        ("Write : this", "Write : this"),
        ("", ""),
    ],
)
def test_progress_names_the_tasks_that_somebody_wrote(name: str, shown: str) -> None:
    assert task_name(name) == shown
    assert line(Progress(Kind.TASK, name, phase=Phase.RUN)) == (f"  task: {shown}" if shown else "")


def test_in_a_log_a_host_that_is_waited_for_is_mentioned_once_a_minute_and_when_the_wait_is_over() -> None:
    log, said = Log(), []
    for second in range(0, 130, 5):
        one = log.take(Progress(Kind.HOST, LONG, ("web1",), Phase.WAIT, until=1000.0), float(second))
        said += [second] if one else []
    assert said == [0, 60, 120]
    assert "rolled back" in log.take(Progress(Kind.HOST, "", ("web1",), Phase.ROLLED_BACK), 130.0)
    assert "web2" in log.take(Progress(Kind.HOST, "", ("web2",), Phase.WAIT, until=1.0), 131.0)
    assert "web1" in log.take(Progress(Kind.HOST, "", ("web1",), Phase.WAIT, until=1.0), 132.0)


@pytest.mark.parametrize(
    ("info", "shown"),
    [
        ({"armed": {"generation": 3, "until": 10.0, "overdue": 90.0}}, "OVERDUE since"),
        ({"armed": {"generation": 3, "until": 10.0, "overdue": None}}, "armed until 1970-01-01"),
        ({"armed": {"generation": 3, "until": 10.0, "overdue": None, "remaining": 1e8}}, "armed until 20"),
        (
            {"armed": {"generation": 3, "until": 10.0, "overdue": 90.0, "tries_until": 4000.0}},
            "going back, tried again until",
        ),
        ({"armed": {"generation": 3, "until": 10.0, "tries_until": 4000.0}, "interrupted": True}, "tried again until"),
        ({"armed": {"generation": 3, "until": 10.0, "left": ["p 1.0"]}}, "going back; not back yet: p 1.0"),
        ({"armed": None, "doubt": {"left": ["the package p"], "at": 10.0}}, "in doubt since 1970-01-01"),
        ({"armed": None, "doubt": {"left": [f"x{n}" for n in range(9)], "at": 10.0}}, "x4 and 4 more"),
        ({"armed": None, "doubt": None}, "at rest"),
        ({"interrupted": True}, "a rollback was interrupted"),
    ],
)
def test_status_says_what_a_host_is_in_the_middle_of(info: dict[str, Any], shown: str) -> None:
    result_of = RunResult("status", Exit.DONE, "", {"web1": {"state": "ok", **info}}, [], 1.0)
    assert shown in seen_of(lambda console: print_status(result_of, console, INV), 250)
