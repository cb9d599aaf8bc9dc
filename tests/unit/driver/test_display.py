# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person sees: while it runs and at the end, at any width."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from evenkeel.advice import after_change
from evenkeel.display import Board, line, showing
from evenkeel.options import Options
from evenkeel.outcome import ChangeResult, Exit, HostResult, RunResult, State
from evenkeel.progress import Kind, Phase, Progress
from evenkeel.summary import headline, print_change, print_run, print_status

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
        "replicas": {"web9": ["x", "y"]},
    }
    stream = io.StringIO()
    rows: dict[str, dict[str, Any]] = {"web1": one, "web2": {"state": "unreachable", "msg": LONG}}
    print_status(RunResult("status", Exit.IN_DOUBT, "", rows, [], 1.0), Console(file=stream, width=200), INV)
    text = stream.getvalue()
    for word in ("generation 4", "rolled back by boot", "1, newest before-change", "web9 (2)", LONG):
        assert word in text


def test_a_run_says_of_each_host_what_was_done_or_why_not() -> None:
    stream = io.StringIO()
    rows: dict[str, dict[str, Any]] = {
        "a": {"state": "ok", "changed": True, "done": ["a copy on b"]},
        "b": {"state": "failed", "msg": "no room"},
    }
    print_run(RunResult("protect", Exit.FAILED, "b: no room", rows, [], 1.0), Console(file=stream, width=80))
    assert "protect on 1 of 2 hosts" in stream.getvalue()
    assert "a copy on b" in stream.getvalue() and "no room" in stream.getvalue()


def test_a_scrub_says_what_it_has_read() -> None:
    stream = io.StringIO()
    rows = {"a": {"state": "ok", "task": "ft_scrub", "changed": False, "done": [], "proved": ["7 files were read"]}}
    print_run(RunResult("scrub", Exit.DONE, "", rows, [], 1.0), Console(file=stream, width=80))
    assert "7 files were read" in stream.getvalue() and "nothing to do" not in stream.getvalue()
