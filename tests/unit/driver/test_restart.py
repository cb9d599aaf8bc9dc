# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel restart`: what it asks of the playbook, and what it says of each host."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evenkeel.ansible.events import PREFIX, Record, feed
from evenkeel.ansible.options import Options
from evenkeel.commands.arguments import Variables
from evenkeel.commands.restart import Planned, Planning, Restart
from evenkeel.outcome import Exit, RunResult, UsageError
from evenkeel.show.summary import print_status

PLAN: dict[str, Any] = {
    "waves": [["web1"], ["web2", "web3"]],
    "left_out": {"web4": "nothing is owed"},
    "notes": ["web1: a restart is under way; it is restarted first"],
    "forecast": {"tries": 12, "seconds": 9.0, "risk": 0.03},
    "above": {"web2": ["a reboot (kernel)"]},
}
HOSTS = ["web1", "web2", "web3", "web4"]


def asked(*words: str) -> tuple[Restart, Variables]:
    command, parser = Restart(), argparse.ArgumentParser()
    command.add_own_arguments(parser)
    return command, command.variables(parser.parse_args(words))


def events(*ends: tuple[str, str, str, dict[str, Any]]) -> Record:
    found = Record()
    for host, task, status, res in ends:
        data = {"host": host, "task": "Do", "resolved_action": PREFIX + task, "res": res}
        feed(found, {"event": f"runner_on_{status}", "event_data": data})
    return found


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["nginx"], {"evenkeel_service": "nginx"}),
        (["--container", "app"], {"evenkeel_container": {"name": "app"}}),
        (["--owed", "--waves", "1,50%"], {"evenkeel_owed": True, "evenkeel_waves": "1,50%"}),
        (["--mode", "reboot"], {"evenkeel_scope": "host", "evenkeel_mode": "reboot"}),
        (["nginx", "--ladder", "warm,cold"], {"evenkeel_service": "nginx", "evenkeel_ladder": ["warm", "cold"]}),
        (
            ["nginx", "--last", "is-leader --now"],
            {"evenkeel_service": "nginx", "evenkeel_last": ["is-leader", "--now"]},
        ),
        (
            ["nginx", "--resume", "--plan"],
            {"evenkeel_service": "nginx", "evenkeel_resume": True, "evenkeel_plan_only": True},
        ),
    ],
)
def test_options_become_variables(words: list[str], variables: Variables) -> None:
    assert asked(*words)[1] == variables


@pytest.mark.parametrize(
    "words", [[], ["nginx", "--owed"], ["nginx", "--mode", "reboot"], ["--owed", "--container", "x"]]
)
def test_exactly_one_thing_restarts(words: list[str]) -> None:
    with pytest.raises(UsageError, match="name one thing to restart"):
        asked(*words)


def test_a_place_of_a_drain_with_a_typo_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "d.yml").write_text("- haproxy: {hosts: [lb1], backend: web, servr: web1}\n")
    with pytest.raises(UsageError, match="servr"):
        asked("nginx", "--drain", str(tmp_path / "d.yml"))


def test_a_plan_alone_restarts_nothing_and_says_when_who_would() -> None:
    command = Planning()
    rows = command.rows(events(("web1", "ft_roll", "ok", PLAN)), HOSTS, "")
    assert [rows[host].get("wave") for host in HOSTS] == [1, 2, 2, None]
    assert command.exit_code(list(rows.values())) is Exit.DONE
    console = Console(record=True, width=120)
    notes = command.notes(events(("web1", "ft_roll", "ok", PLAN)))
    command.show(Planned("restart", Exit.DONE, "", rows, notes, 1.0), Options(), console)
    text = console.export_text()
    assert "PLAN: 3 of 4 hosts in 2 waves; nothing was restarted" in text
    assert "web2, web3" in text and "web4: not restarted: nothing is owed" in text
    assert "about 9 s for 2 waves" in text and "3.0%, from 12 such restarts" in text
    assert "web2 owes a reboot (kernel), which this does not do" in text


def test_a_host_on_which_nothing_ran_is_never_well() -> None:
    command, _variables = asked("nginx")
    told = events(("web1", "ft_roll", "ok", PLAN), ("web1", "ft_guard", "ok", {}))
    rows = command.rows(told, HOSTS, "stopped by the user")
    assert [rows[host]["state"] for host in HOSTS] == ["missing", "missing", "missing", "ok"]
    assert (
        "how it ended is not known: see evenkeel status" in rows["web1"]["msg"]
        and rows["web2"]["msg"] == "stopped by the user"
    )
    assert command.exit_code(list(rows.values())) is Exit.IN_DOUBT, "the guard had let it through"
    rows = command.rows(events(("web1", "ft_roll", "ok", PLAN)), HOSTS, "stopped by the user")
    assert command.exit_code(list(rows.values())) is Exit.FAILED


def test_a_host_that_stays_drained_or_was_lost_needs_somebody_to_look() -> None:
    command, _variables = asked("nginx")
    sick = {"msg": "not healthy", "error": "Unhealthy", "left": ["drained: web/web2 on lb1"]}
    rows = command.rows(events(("web1", "ft_restart", "ok", {}), ("web2", "ft_restart", "failed", sick)), HOSTS[:2], "")
    assert command.exit_code(list(rows.values())) is Exit.IN_DOUBT
    rows["web2"] = {"state": "failed", "error": "Unhealthy"}
    assert command.exit_code(list(rows.values())) is Exit.FAILED
    rows["web2"] = {"state": "unreachable"}
    assert command.exit_code(list(rows.values())) is Exit.IN_DOUBT


def test_status_names_a_restart_that_no_run_has_finished_and_the_next_step() -> None:
    place = {"host": "lb1", "words": "web/web1 on lb1"}
    left = {
        "target": "nginx.service",
        "mode": "cold",
        "stage": "acted",
        "at": 1.0,
        "running": False,
        "drained": [place],
    }
    rows = {"web1": {"state": "ok", "restart": left}, "web2": {"state": "ok", "restart": {**left, "running": True}}}
    console = Console(record=True, width=160)
    print_status(RunResult("status", Exit.DONE, "", rows, [], 1.0), console, Options())
    text = " ".join(console.export_text().split())
    assert "restart of nginx.service (cold) left in the middle since 1970" in text
    assert text.count("; drained at web/web1") == 2 and "(cold) under way; drained" in text
    assert "No run has finished the restart of web1. " in text


@pytest.mark.parametrize(
    ("told", "code", "said"),
    [
        ({"error": "UsageError", "msg": "waves '0': no number"}, Exit.USAGE, ["waves '0': no number"] * 2),
        ({"error": "Refused", "msg": "x", "against": {"": "no domain"}}, Exit.REFUSED, ["no domain"] * 2),
        ({"error": "Refused", "msg": "x", "against": {"web2": "web2: away"}}, Exit.REFUSED, ["of other hosts", "away"]),
    ],
)
def test_a_plan_that_is_refused_has_touched_nothing_on_any_host(
    told: dict[str, Any], code: Exit, said: list[str]
) -> None:
    command, _variables = asked("nginx")
    rows = command.rows(events(("web1", "ft_roll", "failed", told)), HOSTS[:2], "")
    assert command.exit_code(list(rows.values())) is code
    assert all(word in str(row["msg"]) for word, row in zip(said, rows.values(), strict=True))
