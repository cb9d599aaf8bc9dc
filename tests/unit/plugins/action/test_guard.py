# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guard reaches, over whose connection, and what Ansible makes of its refusal."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible import context
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.plugins.action import ActionBase
from ansible.utils.context_objects import CLIArgs
from ansible.vars.manager import VariableManager
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory

from .conftest import Fleet

NOWHERE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def guard(**options: Any) -> dict[str, Any]:
    return {"evenkeel.fault_tolerance.ft_guard": {"group": "all", **options}}


def test_every_host_is_measured_by_its_own_probes_and_a_batch_is_asked_for_once(fleet: Fleet) -> None:
    (fleet.directory("h4") / "data" / "well").unlink()
    run = fleet.play([guard(min_healthy="1")], "h1,h2")
    assert run.rc == 0
    assert list(run.results) == ["h1"]
    assert run.results["h1"]["healthy"] == ["h1", "h2", "h3"]
    assert run.results["h1"]["unhealthy"] == ["h4"]


def test_a_refusal_fails_the_whole_batch_and_stops_the_play(fleet: Fleet) -> None:
    after = {"ansible.builtin.copy": {"dest": "{{ base }}/touched", "content": "", "mode": "0600"}}
    run = fleet.play([guard(min_healthy="quorum"), after], "all", serial=2)
    assert run.rc == 2
    assert run.results["h1"]["decision"] == "refuse"
    assert not list(fleet.home.glob("*/touched"))


def test_unreachable_hosts_are_told_and_refused(fleet: Fleet) -> None:
    fleet.hosts["h3"].update(NOWHERE)
    run = fleet.play([guard()], "h3,h1")
    assert run.rc == 2
    (result,) = run.results.values()
    assert result["unknown"] == ["h3"]
    assert result["reasons"][0].startswith("h3 is unreachable")


@pytest.mark.long
def test_a_connection_that_never_answers_does_not_hang_the_guard(fleet: Fleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        fleet.hosts["h3"].update(NOWHERE, ansible_port=port, ansible_ssh_timeout=600)
        run = fleet.play([guard(group=["h1", "h3"], timeout="10s")], "h1")
    assert run.rc == 0
    assert run.results["h1"]["proved"][1] == "h3: unreachable; no answer within 10 s"


@pytest.mark.parametrize(
    "limits",
    [
        {},
        pytest.param({"max_fail_percentage": 0}, marks=pytest.mark.long),
        pytest.param({"any_errors_fatal": True}, marks=pytest.mark.long),
    ],
)
def test_ansible_goes_on_past_an_unreachable_host_and_the_guard_does_not(fleet: Fleet, limits: dict[str, Any]) -> None:
    fleet.hosts["h2"].update(NOWHERE)
    touch = {"ansible.builtin.copy": {"dest": "{{ base }}/touched", "content": "", "mode": "0600"}}
    first = {**guard(wave=["h1"]), "when": "'h1' in ansible_play_batch"}  # the batch that loses h2
    run = fleet.play([first, {**guard(), "when": "'h1' not in ansible_play_batch"}, touch], "all", serial=2, **limits)
    assert run.rc != 0
    assert not (fleet.directory("h3") / "touched").exists()
    assert "h2 failed or became unreachable earlier in this run" in run.results["h3"]["msg"]
    # Were this not so, the guard would not be needed.
    plain = fleet.play([touch], "all", serial=2, **limits)
    assert (fleet.directory("h3") / "touched").exists()
    assert plain.rc != 0


def test_a_name_or_budget_that_is_none_is_an_error_before_anything_is_asked(fleet: Fleet) -> None:
    for options, said in (
        ({"group": ["h1", "hx"]}, "hx: the inventory has no host and no group of this name"),
        ({"min_healthy": "most"}, "min_healthy: 'most' is not a number"),
        ({"guard_domain": "rak"}, "no failure domain is known"),
    ):
        run = fleet.play([guard(**options)], "h1")
        assert run.rc == 2
        assert said in run.results["h1"]["msg"]


def test_what_a_host_says_of_itself_decides_for_no_other_host(fleet: Fleet) -> None:
    (fleet.directory("h4") / "data" / "well").unlink()
    fact = {"ansible.builtin.set_fact": {"evenkeel_min_healthy": "1", "cacheable": True}}
    run = fleet.play([fact, guard(min_healthy="{{ evenkeel_min_healthy | default('all') }}")], "h1,h2")
    assert run.rc == 2
    assert "evenkeel_min_healthy is a fact of h1" in run.results["h1"]["msg"]


def test_the_keyword_of_a_running_play_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "CLIARGS", CLIArgs({"connection": "ssh"}))
    blocks = [{"block": [{"debug": {}}]}, {"connection": "ssh", "block": [{"debug": {}}]}]
    plays = [{"hosts": "all", "connection": "local", "tasks": blocks}, {"hosts": "all", "tasks": blocks[:1]}]
    (tmp_path / "play.yml").write_text(json.dumps(plays))
    loader = DataLoader()
    book = Playbook.load(str(tmp_path / "play.yml"), VariableManager(loader), loader)
    found = []
    for block in (block for play in book.get_plays() for block in play.get_tasks()):
        task = block[0]
        task._parent._finalized = True  # as Ansible has it when the task runs
        inventory: Inventory = object.__new__(Inventory)
        inventory._action = cast(ActionBase, SimpleNamespace(_task=task))
        found.append(inventory.keyword())
    assert found == ["local", "ssh", "ssh"], "of the play, of the block, and the default"


@pytest.mark.long
def test_hosts_are_reached_as_the_play_says(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: value for name, value in fleet.everywhere().items() if name != "ansible_connection"}
    monkeypatch.setattr(fleet, "everywhere", lambda: known)
    run = fleet.play([guard()], "h1", connection="local")
    assert run.rc == 0 and run.results["h1"]["healthy"] == ["h1", "h2", "h3", "h4"]


@pytest.mark.long
def test_the_failure_domain_is_each_hosts_own_variable(fleet: Fleet) -> None:
    assert fleet.play([guard(guard_domain="rack", max_unavailable="50%")], "h1,h2", "--check").rc == 0
    run = fleet.play([guard(guard_domain="rack")], "h2,h3")
    assert "r1: h2; r2: h3" in run.results["h2"]["msg"]
