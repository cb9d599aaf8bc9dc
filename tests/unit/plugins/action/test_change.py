# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles change, begin and settle in plays of others."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleUndefinedVariable
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.task import Task
from ansible.template import Templar, trust_as_template
from ansible_collections.evenkeel.fault_tolerance.plugins.action.ft_checkpoint import ActionModule

from evenkeel.collection import FQCN, collections_path

from .conftest import Fleet

COLLECTION = collections_path() / "ansible_collections" / FQCN.replace(".", "/")

UNPROTECTED = "Refuse tags that leave the change unprotected"


def tasks(role: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((COLLECTION / "roles" / role / "tasks/main.yml").read_text())
    return list(found[0]["block"] if role in ("begin", "restart") else found)


def test_a_choice_of_tags_leaves_out_no_task_that_protects() -> None:
    for name in ("begin", "settle"):
        without = [one["name"] for one in tasks(name) if "always" not in one.get("tags", [])]
        assert without == ([UNPROTECTED] if name == "begin" else [])


def test_tags_that_leave_a_change_unprotected_are_refused_and_never_is_never(bare_fleet: Fleet) -> None:
    home, h1 = bare_fleet.home, bare_fleet.directory("h1")
    plays = [
        {"hosts": "h1", "gather_facts": False, "tasks": [role("begin", tags=["never", "upgrade"]), touch("one")]},
        {"hosts": "h1", "gather_facts": False, "tasks": [role("settle", tags=["never", "upgrade"])]},
    ]
    (home / "plays.yml").write_text(yaml.safe_dump(plays))
    assert bare_fleet.playbook("plays.yml").rc == 0 and not (h1 / "store").exists()
    (home / "plays.yml").write_text(yaml.safe_dump([{**plays[0], "tasks": [role("begin"), touch("two")]}]))
    run = bare_fleet.playbook("plays.yml", "--skip-tags", "always")
    assert run.rc == 2 and not (h1 / "two").exists() and (h1 / "one").exists()


@pytest.mark.parametrize(
    ("known", "ends"),
    [
        ({"begin_checkpoint": {"generation": 7}}, True),
        ({"begin_checkpoint": {"generation": 7}, "ansible_check_mode": True}, True),
        ({"begin_checkpoint": {"generation": None}, "ansible_check_mode": True}, False),
        ({"evenkeel_generations": {"web1": 7}, "ansible_check_mode": True}, True),
        ({"ansible_check_mode": True}, True),  # Whoever forgot to begin is told so.
        ({"begin_checkpoint": {"generation": None}}, True),
    ],
)
def test_there_is_nothing_to_end_where_the_beginning_was_predicted(known: dict[str, Any], ends: bool) -> None:
    (settle,) = tasks("settle")
    templar = Templar(DataLoader(), {"ansible_check_mode": False, "inventory_hostname": "web1", **known})
    assert templar.evaluate_conditional(trust_as_template(settle["when"])) is ends


@pytest.mark.long
def test_a_play_that_begins_and_settles_can_be_predicted(fleet: Fleet) -> None:
    run = fleet.play([role("begin"), touch("done"), role("settle")], "h1,h2", "--check")
    assert run.rc == 0 and not (fleet.directory("h1") / "done").exists()


def test_the_time_of_a_host_counts_from_its_own_call_however_long_the_wave_and_the_answer_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1300.0)  # The answer was held up on its way.
    action: ActionModule = object.__new__(ActionModule)
    action._task, action._called = Task(), 1000.0
    answered = action.completed({"armed": {"within": 150.0}, "remaining": 120.0})
    (to_know,) = (one["ansible.builtin.set_fact"] for one in tasks("change") if "ansible.builtin.set_fact" in one)

    def known(checkpoint: dict[str, Any]) -> float:
        templar = Templar(DataLoader(), {"begin_checkpoint": checkpoint})
        return float(templar.template(trust_as_template(to_know["change_until"])))

    assert known(answered) == 1118.0
    for took, until_then in ((60.0, 1178.0), (1e9, 1418.0), (-5.0, 1118.0), ("odd", 1118.0)):
        found = action.completed({"remaining": 120.0, "stats": {"seconds": took}})
        assert known(found) == until_then, "the time that the checkpoint took on the host is none of the change's"
    for unarmed in ({"armed": None}, {"failed": True}, {"remaining": "odd"}):
        assert action.completed(unarmed) == unarmed
        with pytest.raises(AnsibleUndefinedVariable, match="No dead-man is armed"):
            known(unarmed)
    assert known({"skipped": True}) == 0
    action._task.check_mode = True
    assert known(action.completed({"armed": None})) > 1e9


def test_nothing_runs_unprotected_in_a_play_that_ignores_errors(fleet: Fleet) -> None:
    fleet.hosts["h1"]["evenkeel_store"] = "/proc/evenkeel"  # No checkpoint can be taken.
    (fleet.home / "content.yml").write_text(yaml.safe_dump([touch("done")]))
    change = role("change", vars={"evenkeel_tasks": str(fleet.home / "content.yml")})
    for tasks in ([change], [role("begin"), touch("done"), role("settle")]):
        run = fleet.play(tasks, "h1", ignore_errors=True, ignore_unreachable=True)
        assert run.rc == 2 and "...ignoring" not in run.output
        assert not (fleet.directory("h1") / "done").exists()


def role(name: str, **more: Any) -> dict[str, Any]:
    return {"ansible.builtin.import_role": {"name": f"evenkeel.fault_tolerance.{name}"}, **more}


def touch(name: str) -> dict[str, Any]:
    return {"name": name, "ansible.builtin.copy": {"dest": f"{{{{ base }}}}/{name}", "content": "", "mode": "0600"}}


@pytest.mark.parametrize("name", ["begin", pytest.param("restart", marks=pytest.mark.long)])
def test_a_condition_that_switches_the_guard_off_for_all_is_refused(fleet: Fleet, name: str) -> None:
    guard, refuse = [one for one in tasks(name) if one["name"] != UNPROTECTED][:2]
    assert guard.pop("evenkeel.fault_tolerance.ft_guard")
    guard["ansible.builtin.add_host"] = {"name": "h1"}  # It runs once for all hosts as well, and sooner.
    (fleet.home / "guarded.yml").write_text(yaml.safe_dump([guard, refuse]))
    plays = [
        {"hosts": hosts, "gather_facts": False, "tasks": [{f"ansible.builtin.{how}": "guarded.yml", "when": condition}]}
        for hosts, how, condition in (
            ("h1,h2", "import_tasks", "inventory_hostname != 'h1'"),
            ("h3,h4", "include_tasks", "inventory_hostname != 'h3'"),  # It leaves out h3 alone.
            ("h3,h4", "import_tasks", "inventory_hostname != 'h4'"),
        )
    ]
    (fleet.home / "plays.yml").write_text(yaml.safe_dump(plays))
    run = fleet.playbook("plays.yml")
    assert "a condition (when) on the role is false for h1" in run.output
    assert dict(re.findall(r"^(h\d) .* failed=(\d)", run.output, re.M)) == {"h1": "0", "h2": "1", "h3": "0", "h4": "0"}


@pytest.mark.long
def test_no_handler_of_the_content_runs_on_a_host_that_went_back(fleet: Fleet) -> None:
    for part, content in (
        ("tasks", [{**touch("done"), "notify": ["handled"]}, {"ansible.builtin.fail": {}, "when": "bad"}]),
        ("handlers", [touch("handled")]),
    ):
        path = fleet.home / "roles/mine" / part / "main.yml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(content))
    fleet.hosts["h1"]["bad"] = True
    fleet.hosts["h2"]["bad"] = False
    run = fleet.play([role("change", vars={"evenkeel_role": "mine"})], "h1,h2", force_handlers=True)
    assert run.rc == 2 and run.results["h2"]["outcome"] == "confirmed"
    there = {
        host: [name for name in ("done", "handled") if (fleet.directory(host) / name).exists()] for host in run.results
    }
    assert there == {"h1": ["done"], "h2": ["done", "handled"]}


def test_a_settle_without_a_begin_says_that_the_host_stays_changed(fleet: Fleet) -> None:
    run = fleet.play([touch("done"), role("settle")], "h1")
    assert run.rc == 2 and (fleet.directory("h1") / "done").exists()
    said = re.search('"msg": "(no generation .*?)"', run.output)
    assert said is not None and "nothing was armed on this host" in said[1] and "stays as its tasks" in said[1]


def test_an_earlier_change_of_the_run_settles_no_host_of_this_one() -> None:
    first, _change, last = yaml.safe_load((COLLECTION / "playbooks/change.yml").read_text())
    (forget,), (settle,) = first["tasks"], last["tasks"]
    assert forget["tags"] == settle["tags"] == ["always"] and "when" not in forget
    forgotten = forget["ansible.builtin.set_fact"]
    for known, owed in ((forgotten, True), ({**forgotten, "settle_result": {"outcome": "confirmed"}}, False)):
        templar = Templar(DataLoader(), {"ansible_check_mode": False, **known})
        assert templar.evaluate_conditional(trust_as_template(settle["when"])) is owed
    with pytest.raises(AnsibleUndefinedVariable):  # a host that never began fails
        Templar(DataLoader(), forgotten).template(trust_as_template("{{ begin_checkpoint.generation }}"))


@pytest.mark.long
def test_a_host_that_a_second_change_leaves_armed_is_settled(fleet: Fleet) -> None:
    for name, content in (("good", [touch("good")]), ("early", [touch("early"), {"ansible.builtin.meta": "end_host"}])):
        (fleet.home / f"{name}.yml").write_text(yaml.safe_dump(content))
    plays = [
        {
            "import_playbook": "evenkeel.fault_tolerance.change",
            "vars": {"evenkeel_tasks": str(fleet.home / f"{name}.yml")},
        }
        for name in ("good", "early")
    ]
    (fleet.home / "site.yml").write_text(yaml.safe_dump(plays))
    run = fleet.playbook("site.yml", "-e", "evenkeel_hosts=h1", "-e", "evenkeel_waves=1")
    assert run.rc == 0
    events = (fleet.directory("h1") / "store" / "events").read_text().splitlines()
    assert [json.loads(one).get("outcome") for one in events].count("confirmed") == 2


def test_the_play_that_its_page_shows_settles_what_the_playbook_settles() -> None:
    text = (COLLECTION / "roles/change/README.md").read_text()
    (shown,) = (yaml.safe_load(one) for one in re.findall("```yaml\n(.*?)```", text, re.S))
    last = yaml.safe_load((COLLECTION / "playbooks/change.yml").read_text())[-1]
    (mine,), (ours,) = shown[0]["tasks"], last["tasks"]
    for task in (mine, ours):
        assert task["ansible.builtin.import_role"]["name"] == "evenkeel.fault_tolerance.settle"
    assert (mine["when"], mine["tags"]) == (ours["when"], ours["tags"])


def test_no_handler_may_run_after_a_failure() -> None:
    (change,) = (one for one in tasks("change") if "rescue" in one)
    first, (content, *_) = change["rescue"][0], change["block"]
    assert first["ansible.builtin.set_fact"] == {"change_until": 0} and "when" not in first
    templar = Templar(DataLoader(), first["ansible.builtin.set_fact"])
    assert templar.evaluate_conditional(trust_as_template(content["when"])) is False
    plays = yaml.safe_load((COLLECTION / "playbooks/change.yml").read_text())
    assert [play.get("force_handlers") for play in plays] == [None, False, False]
