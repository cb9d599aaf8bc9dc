# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A word that is written wrong is refused on the controller, with its place, before any host is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet, Run

OURS = "evenkeel.fault_tolerance."
# Stands in for ssh: whoever is asked anything leaves a mark. To end a connection (-O) is to ask nobody.
SSH = '#!/bin/sh\ncase " $* " in *" -O "*) exit 0;; esac\necho touched >> {mark}\nexit 255\n'
FILES = {"files": {"paths": ["/etc/nginx"]}}


def task(module: str, **arguments: Any) -> dict[str, Any]:
    return {"tasks": [{OURS + module: arguments}]}


def role(name: str, **variables: Any) -> dict[str, Any]:
    return {"tasks": [{"ansible.builtin.import_role": {"name": OURS + name}}], "vars": variables}


def book(name: str, **variables: Any) -> dict[str, Any]:
    return {"ansible.builtin.import_playbook": OURS + name, "vars": variables}


# What is run -> the words that name what is wrong, and where it stands.
TYPOS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": (
        task("ft_checkpoint", resources=[FILES, {"flies": {"paths": ["/etc"]}}]),
        "resources[1].flies is no option (did you mean files?)",
    ),
    "key": (
        task("ft_checkpoint", resources=[FILES, {"files": {"paths": ["/srv"], "exlude": ["*.log"]}}]),
        "resources[1].files.exlude is no option (did you mean exclude?)",
    ),
    "type": (task("ft_checkpoint", resources=[{"packages": {"purge": "perhaps"}}]), "resources[0].packages: argument"),
    "two-kinds": (
        task("ft_checkpoint", resources=[{**FILES, "users": {}}]),
        "resources[0] must have one key, one of packages, files",
    ),
    "probe": (
        task("ft_settle", generation=1, probes=[{"htpp": {}}]),
        "probes[0].htpp is no option (did you mean http?)",
    ),
    "probe-key": (
        task("ft_health", probes=[{"http": {"url": "http://localhost/", "stauts": 200}}]),
        "probes[0].http.stauts is no option (did you mean status?)",
    ),
    "retention": (
        task("ft_checkpoint", resources=[FILES], retention={"lats": 3}),
        "retention.lats is no option (did you mean last?)",
    ),
    "quiesce": (
        task("ft_rollback", quiesce=[{"command": {"argv": ["/opt/app", True], "after": ["/opt/app"]}}]),
        "quiesce[0].command.argv[1] must be a text, not True",
    ),
    "process": (
        task("ft_restart", process={"name": "a", "pidfile": "/a", "argv": ["/a"], "stop_singal": "HUP"}),
        "process.stop_singal is no option (did you mean stop_signal?)",
    ),
    "leader": (task("ft_restart", name="nginx", last=""), "last is empty, so that no host could say whether it leads"),
    "option": (
        task("ft_checkpoint", resources=[FILES], confim_within="5m"),
        "confim_within is no option (did you mean confirm_within?)",
    ),
    "copies": (
        task("ft_replicate", peers=["all"], retention={"dayly": 3}),
        "retention.dayly is no option (did you mean daily?)",
    ),
    "address": (
        task("ft_address", addresses=["10.0.0.9/24"], address="10.0.0.1", members=["10.0.0.1"], routr_id=51),
        "routr_id is no option (did you mean router_id?)",
    ),
    "role-variable": (
        role("begin", evenkeel_resources=[FILES], evenkeel_confim_within="5m"),
        "no variable is named evenkeel_confim_within (did you mean evenkeel_confirm_within?)",
    ),
    "role-key": (
        role("begin", evenkeel_resources=[{"files": {"paths": ["/etc"], "exlude": []}}]),
        "evenkeel_resources.files.exlude",
    ),
    "playbook-variable": (
        book("rollback", evenkeel_chekpoint="before"),
        "no variable is named evenkeel_chekpoint (did you mean evenkeel_checkpoint?)",
    ),
    "playbook-key": (book("health", evenkeel_probes=[{"tcp": {"prot": 80}}]), "probes[0].tcp.prot is no option"),
}

OF_ROLES = ("role-variable", "role-key", "playbook-variable", "playbook-key")


@pytest.fixture
def watched(fleet: Fleet, tmp_path: Path) -> Fleet:
    """A host for each typo, which leaves a mark when it is touched."""
    (tmp_path / "ssh").write_text(SSH.format(mark=tmp_path / "mark"))
    (tmp_path / "ssh").chmod(0o755)
    ssh = {"ansible_connection": "ssh", "ansible_ssh_executable": str(tmp_path / "ssh"), "ansible_ssh_retries": 0}
    fleet.hosts = {name: dict(ssh) for name in [*TYPOS, "right", "other"]}
    return fleet


def run(fleet: Fleet, host: str, play: dict[str, Any]) -> Run:
    if "tasks" in play:
        written = {"hosts": host, "gather_facts": False, **play}
    else:
        written = {**play, "vars": {**play["vars"], "evenkeel_hosts": host}}
    (fleet.home / "plays.yml").write_text(json.dumps([written]))
    return fleet.playbook("plays.yml")


def test_each_typo_of_a_task_is_refused_before_any_host_is_touched(watched: Fleet) -> None:
    """Each on a host of its own, of one play: a play whose hosts have all failed ends the run."""
    typos = {host: play["tasks"][0] for host, (play, _words) in TYPOS.items() if host not in OF_ROLES}
    tasks = [{**one, "when": f"inventory_hostname == '{host}'"} for host, one in typos.items()]
    found = run(watched, ",".join(typos), {"tasks": tasks})
    assert not (watched.home / "mark").exists()
    assert set(found.results) == set(typos)
    for host in typos:
        assert TYPOS[host][1] in found.results[host]["msg"], host
        assert found.results[host]["error"] == "UsageError"


@pytest.mark.parametrize("host", OF_ROLES)
def test_each_typo_for_a_role_or_a_playbook_is_refused_before_any_host_is_touched(watched: Fleet, host: str) -> None:
    play, words = TYPOS[host]
    found = run(watched, host, play)
    assert not (watched.home / "mark").exists()
    assert found.rc != 0 and words in found.results[host]["msg"]


def test_every_module_has_an_action_that_checks_its_arguments() -> None:
    plugins = Path(__file__).parents[4] / "plugins"
    modules, actions = ({path.stem for path in (plugins / room).glob("ft_*.py")} for room in ("modules", "action"))
    assert modules == actions


def test_what_is_right_reaches_the_host(watched: Fleet) -> None:
    found = run(watched, "right", task("ft_checkpoint", resources=[FILES, {"users": {}}], retention={"last": 3}))
    assert (watched.home / "mark").exists() and found.results["right"]["unreachable"]


def test_what_is_wrong_for_another_host_of_the_group_is_found_by_the_guard(watched: Fleet) -> None:
    watched.hosts["other"]["evenkeel_probes"] = [{"tcp": {"porrt": 80}}]
    found = run(watched, "right", task("ft_guard", group=["right", "other"]))
    assert "other: evenkeel_probes[0].tcp.porrt is no option" in found.results["right"]["msg"]
    watched.hosts["other"] |= {"evenkeel_probes": [], "evenkeel_waevs": 1}
    found = run(watched, "right", task("ft_guard", group=["right", "other"]))
    assert "no variable is named evenkeel_waevs (did you mean evenkeel_waves?)" in found.results["right"]["msg"]
    assert not (watched.home / "mark").exists()


@pytest.mark.parametrize(
    ("variable", "declared", "words"),
    [
        ("evenkeel_resources", [{"flies": {}}], "evenkeel_resources[0].flies is no option (did you mean files?)"),
        ("evenkeel_retention", {"lats": 3}, "evenkeel_retention.lats is no option (did you mean last?)"),
        ("evenkeel_quiesce", [{"comand": {}}], "evenkeel_quiesce[0].comand is no option"),
    ],
)
def test_a_declaration_of_a_later_batch_is_refused_before_the_first(
    watched: Fleet, variable: str, declared: Any, words: str
) -> None:
    watched.hosts["other"][variable] = declared
    watched.hosts["quiesce"]["evenkeel_resources"] = "{{ gathered_in_its_own_batch }}"
    play = {"hosts": "right,other,quiesce", "serial": 1, **role("begin", evenkeel_probes=[])}
    found = run(watched, "right", play)
    assert f"other: {words}" in found.results["right"]["msg"]
    assert not (watched.home / "mark").exists() and set(found.results) == {"right"}


# As the driver has it.
UNCHECKED_BEGIN = {"name": f"{OURS}begin", "rolespec_validate": False}
UNCHECKED = {"tasks": [{"ansible.builtin.import_role": UNCHECKED_BEGIN}]}


@pytest.mark.parametrize(
    ("play", "wrong", "words"),
    [
        (UNCHECKED, {"evenkeel_resources": [{"files": {"paths": ["/etc"], "exlude": []}}]}, "files.exlude"),
        (UNCHECKED, {"evenkeel_reboot": "perhaps"}, "value of evenkeel_reboot must be one of: never, planned"),
        (UNCHECKED, {"evenkeel_deadline": "{{ nowhere }}"}, "nowhere"),
        (task("ft_roll", name="nginx"), {"evenkeel_mode": "hot"}, "value of evenkeel_mode must be one of"),
        (task("ft_roll", name="nginx"), {"evenkeel_soak": "{{ nowhere }}"}, "nowhere"),
    ],
)
def test_the_first_task_of_a_change_and_of_a_restart_checks_the_arguments_of_all_hosts(
    watched: Fleet, play: dict[str, Any], wrong: dict[str, Any], words: str
) -> None:
    watched.hosts["other"] |= wrong
    (result,) = run(watched, "right,other", play).results.values()
    assert result["msg"].startswith("other: ") and words in result["msg"]
    assert result["error"] == "UsageError"
    assert not (watched.home / "mark").exists()


def test_the_guard_finds_a_file_of_a_variable_where_its_task_does(watched: Fleet) -> None:
    mine = watched.home / "roles" / "mine"
    for directory in ("tasks", "files"):
        (mine / directory).mkdir(parents=True)
    (mine / "files" / "protect.json").write_text(json.dumps([{"flies": {}}]))
    (mine / "tasks" / "main.yml").write_text(json.dumps([{"ansible.builtin.import_role": UNCHECKED_BEGIN}]))
    declared = {"evenkeel_resources": "{{ lookup('ansible.builtin.file', 'protect.json') | from_json }}"}
    found = run(watched, "right", {"tasks": [{"ansible.builtin.import_role": {"name": "mine"}}], "vars": declared})
    assert "flies" in found.results["right"]["msg"] and "protect.json" not in found.results["right"]["msg"]


def test_a_name_of_ours_that_nothing_reads_and_an_old_name_are_told(watched: Fleet) -> None:
    found = run(watched, "right", role("rollback", evenkeel_to="before", evenkeel_favourite="blue"))
    assert "nothing reads the variable evenkeel_favourite" in " ".join(found.output.split())
    assert "the variable evenkeel_to is named evenkeel_checkpoint now" in " ".join(found.output.split())
    assert (watched.home / "mark").exists()
