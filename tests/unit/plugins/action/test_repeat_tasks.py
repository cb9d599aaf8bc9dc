# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of tasks as an operation, and the defaults of modules, in real runs of Ansible."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from .conftest import Fleet, Run

REPEAT = "evenkeel.fault_tolerance.ft_repeat"
SHELL = "ansible.builtin.shell"


def repeat(tasks: str = "op.yml", **options: Any) -> dict[str, Any]:
    return {
        REPEAT: {
            "id": "op",
            "tasks": tasks,
            "verify": [{"command": {"argv": ["test", "-e", "{{ base }}/effect"]}}],
            "backoff": "0.1s",
            "verify_within": "0s",
            "store": "{{ evenkeel_store }}",
            **options,
        }
    }


def call(word: str, then: str = "true", **keywords: Any) -> dict[str, Any]:
    """A task that notes the word, and goes on with a command."""
    return {"name": f"Call {word}", SHELL: f"echo {word} >> {{{{ base }}}}/calls; {then}", **keywords}


EFFECT = call("effect", "touch {{ base }}/effect")


def written(fleet: Fleet, *tasks: dict[str, Any]) -> None:
    (fleet.home / "op.yml").write_text(yaml.safe_dump(list(tasks), sort_keys=False))


def calls(fleet: Fleet, host: str = "h1") -> list[str]:
    path = fleet.directory(host) / "calls"
    return path.read_text().split() if path.exists() else []


def only(run: Run) -> dict[str, Any]:
    return run.results["h1"]


def test_tasks_run_in_order_and_see_what_those_before_them_have_set(fleet: Fleet) -> None:
    written(
        fleet,
        call(
            "first",
            "echo $WORD {{ given }}",
            register="first",
            environment={"WORD": "so"},
            vars={"given": "{{ mine }}"},
        ),
        {"ansible.builtin.set_fact": {"told": "{{ first.stdout }}"}},
        call("{{ item }}", loop=["b", "c"], when="told == 'so far'", register="looped"),
        call("never", when="looped.results | length > 2"),
        call("hidden", "echo pass-$((8000 + 841))", no_log=True, register="hidden"),
        call("item", "echo pass-$((8000 + 841))", no_log="{{ item }}", loop=[False, True]),
        call("fails", "false", ignore_errors=True),
        call("judged", "exit 3", failed_when=False, changed_when=False),
        call("{{ hidden.stdout | length }}", "touch {{ base }}/effect; echo done; test -n $EVENKEEL_OPERATION"),
    )
    task = {**repeat(), "vars": {"mine": "far"}}
    run = fleet.play([task], "h1")
    result = only(run)
    assert run.rc == 0 and (result["outcome"], result["changed"]) == ("verified", True)
    assert calls(fleet) == ["first", "b", "c", "hidden", "item", "item", "fails", "judged", "9"]
    assert result["result"]["stdout"] == "done" and not result["result"]["failed"]
    told = result["result"]["results"]
    assert [one["task"] for one in told][:2] == ["Call first", "ansible.builtin.set_fact"] and len(told) == 9
    assert told[3]["skipped"] and told[6]["failed"] and told[7]["rc"] == 3 and not told[7]["changed"]
    assert "censored" in told[4] and "censored" in told[5] and "pass-8841" not in run.output + json.dumps(run.results)
    again = only(fleet.play([task], "h1"))
    assert not again["changed"] and again["attempts"] == [] and again["result"] == result["result"]
    assert "pass-8841" not in (fleet.directory("h1") / "store/operations/op").read_text()


def test_a_failure_ends_the_attempt_and_the_next_one_begins_from_the_start(fleet: Fleet) -> None:
    written(fleet, call("a"), call("b", "[ $(grep -c b {{ base }}/calls) -gt 1 ]"), EFFECT)
    result = only(fleet.play([repeat()], "h1", ignore_errors=True, ignore_unreachable=True))
    assert result["outcome"] == "verified" and calls(fleet) == ["a", "b", "a", "b", "effect"]
    assert [one["said"] for one in result["attempts"]] == ["failed", "ok"]
    assert re.search(r"the task Call b \(.*op\.yml:\d+\): ", result["attempts"][0]["msg"])


def test_what_happens_once_is_killed_between_its_tasks_and_never_done_twice(fleet: Fleet) -> None:
    """The task that runs goes on, and takes effect. No task is begun after it, and none again."""
    written(fleet, call("a"), call("b", "sleep 5; touch {{ base }}/effect"), call("c"))
    task = repeat(**{"class": "once"})
    fleet.play([{"ansible.builtin.command": "true"}], "h1")  # writes the inventory
    (fleet.home / "play.yml").write_text(json.dumps([{"hosts": "h1", "gather_facts": False, "tasks": [task]}]))
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory.yml", "play.yml"]
    environment = {**os.environ, "ANSIBLE_LOCAL_TEMP": str(fleet.home / "tmp")}
    with subprocess.Popen(argv, cwd=fleet.home, env=environment, start_new_session=True) as process:
        limit = time.monotonic() + 60
        while "b" not in calls(fleet) and time.monotonic() < limit:
            time.sleep(0.05)
        worker = psutil.Process(process.pid).children()
        for one in [process.pid, *(child.pid for child in worker)]:
            os.kill(one, signal.SIGKILL)
    assert not (fleet.directory("h1") / "effect").exists()
    result = only(fleet.play([task], "h1"))
    assert result["outcome"] == "verified" and result["attempts"] == []
    time.sleep(2)
    assert calls(fleet) == ["a", "b"]


@pytest.mark.long
def test_no_task_begins_once_another_run_has_taken_the_attempt_over(fleet: Fleet) -> None:
    """Nor an item of a loop."""
    steal = 'sed -i \'s/"token": "[0-9a-f]*"/"token": "00"/\' {{ base }}/store/operations/op; sleep 3.2'
    written(fleet, call("a"), call("{{ item }}", steal, loop=["b", "c"]), EFFECT)
    run = fleet.play([repeat()], "h1")
    assert run.rc == 2 and "another run has begun an attempt" in only(run)["msg"] and calls(fleet) == ["a", "b"]
    (fleet.directory("h1") / "store/operations/op").unlink()
    written(fleet, call("c", steal), call("d", steal), EFFECT)
    run = fleet.play([repeat()], "h1")
    assert run.rc == 2 and only(run)["changed"] and calls(fleet) == ["a", "b", "c"]


@pytest.mark.long
def test_an_id_that_happens_once_is_that_of_one_file_and_of_its_values(fleet: Fleet) -> None:
    """A value that the file sets itself is none of them, whatever it is before; neither is a remark."""
    written(
        fleet,
        call("{{ version }}", register="it"),
        {**EFFECT, SHELL: "echo {{ it | string | length }} >> {{ base }}/calls; touch {{ base }}/effect"},
    )
    before = {"version": "v{{ number }}", "it": "{{ 'x' * (99 | random) }}"}
    task = {**repeat(**{"class": "once"}), "vars": before}

    def outcome(number: int) -> str:
        return str(only(fleet.play([task], "h1", "-e", json.dumps({"number": number})))["outcome"])

    assert [outcome(1), outcome(1), outcome(2)] == ["verified", "verified", "refused"]
    text = (fleet.home / "op.yml").read_text()
    (fleet.home / "op.yml").write_text(f"# a remark\n{text}")
    assert outcome(1) == "verified"
    (fleet.home / "op.yml").write_text(text.replace("| length", "|length"))
    assert outcome(1) == "refused" and calls(fleet)[0] == "v1" and len(calls(fleet)) == 2


REFUSED = {
    "- block: []": "1: block is not possible",
    "- {name: x,\n   command: 'true',\n   notify: y}": "3: notify is not possible",
    "- command: 'true'\n- command: 'true'\n  delegate_to: h2": "3: delegate_to is not possible",
    "- local_action: {module: command, cmd: 'true'}": "1: local_action is not possible",
    "- {command: 'true', async: 5}": "1: async is not possible",
    "- {command: 'true', until: false}": "1: until is not possible",
    "- {command: 'true', tags: x}": "1: tags is not possible",
    "- {command: 'true', run_once: true}": "1: run_once is not possible",
    "- include_tasks: other.yml": "1: include_tasks does nothing on a host",
    "- import_role: {name: x}": "1: import_role does nothing on a host",
    "- meta: flush_handlers": "1: meta does nothing on a host",
    f"- {REPEAT}: {{}}": "1: evenkeel.fault_tolerance.ft_repeat does nothing",
    "- {command: 'true', whenn: x}": "1: 'whenn' is not a valid attribute",
    "- no.such.module: {}": "1: couldn't resolve module/action 'no.such.module'",
    "- name: x": "1: no module/action detected",
    "- true": "item 1 is no task",
    "command: 'true'": "is no list of 1 to 100 tasks",
    "[]": "is no list of 1 to 100 tasks",
    "- '": "18.yml cannot be read: YAML parsing failed",
}


@pytest.mark.long
def test_what_is_no_part_of_an_operation_is_refused_by_its_name_before_anything_is_touched(fleet: Fleet) -> None:
    for number, text in enumerate(REFUSED):
        (fleet.home / f"{number}.yml").write_text(text + "\n")
    last = [{"tasks": ""}, {"tasks": "0.yml", "module": "ansible.builtin.ping"}, {"tasks": "0.yml", "args": {"a": 1}}]
    given = [*({"tasks": f"{number}.yml"} for number in range(len(REFUSED))), *last, {"tasks": "none.yml"}]
    options = dict(repeat()[REPEAT], tasks="{{ item.tasks }}", module="{{ item.module | default(omit) }}")
    task = {REPEAT: {**options, "args": "{{ item.args | default(omit) }}"}, "loop": given, "ignore_errors": True}
    results = only(fleet.play([task], "h1"))["results"]
    wanted = [*REFUSED.values(), "give one of them", "give one of them", "args belongs to module", "there is no file"]
    for one, message in zip(results, wanted, strict=True):
        assert one["error"] == "UsageError", one
        assert message in one["msg"] and "Nothing was touched" in one["msg"], (one["msg"], message)
    assert not fleet.kept("h1") and not calls(fleet)


@pytest.mark.long
def test_defaults_of_modules_count_as_for_a_task(fleet: Fleet) -> None:
    """Those of a play, of a block, and of a group of modules; a value of the operation's own comes first."""
    defaults = {"ansible.builtin.command": {"chdir": "{{ base }}", "argv": ["false"]}}
    written(fleet, {"ansible.builtin.command": {"argv": ["touch", "effect"]}})
    once = {"class": "once"}
    of_module = repeat(module="ansible.builtin.command", args={"argv": ["touch", "effect"]}, **once)
    of_file = repeat(id="file", **once)
    checkpoint = {"name": "x", "resources": "{{ evenkeel_resources }}"}
    there = [{"command": {"argv": ["test", "-e", "{{ base }}/other/FORMAT"]}}]
    of_group = repeat(id="group", module="evenkeel.fault_tolerance.ft_checkpoint", args=checkpoint, verify=there)
    of_play = {"group/evenkeel.fault_tolerance.evenkeel": {"store": "{{ base }}/other"}}
    for task in (of_module, of_group):
        del task[REPEAT]["tasks"]
    for tasks, keywords in (
        ([of_module], {"module_defaults": defaults}),
        ([{"block": [of_file], "module_defaults": defaults}], {}),
        ([of_group], {"module_defaults": of_play}),
    ):
        result = only(fleet.play(tasks, "h1", **keywords))
        assert result["outcome"] == "verified" and len(result["attempts"]) == 1
        (fleet.directory("h1") / "effect").unlink(missing_ok=True)
    changed = {"ansible.builtin.command": {"chdir": "{{ base }}/data"}}
    for task in (of_module, of_file):
        assert only(fleet.play([task], "h1", module_defaults=defaults))["outcome"] == "verified"
        assert only(fleet.play([task], "h1", module_defaults=changed))["outcome"] == "refused"


@pytest.mark.long
def test_check_mode_predicts_what_the_tasks_predict_and_names_those_that_do_not(fleet: Fleet) -> None:
    target = "{{ base }}/data/name"
    copy = {"name": "Write", "ansible.builtin.copy": {"dest": target, "content": "new\n", "mode": "0600"}}
    written(fleet, {"name": "Rest", SHELL: "true", "when": False}, copy)
    task = repeat(verify=[{"command": {"argv": ["grep", "-q", "new", target]}}])
    run = fleet.play([task], "h1", "--check", "--diff")
    assert run.rc == 0 and only(run)["changed"] and "+new" in run.output and "check mode" not in run.output
    assert (fleet.directory("h1") / "data/name").read_text() == "I am h1\n" and not fleet.kept("h1")
    written(fleet, call("a", register="a"), call("b", when="a.stdout == 'x'"), copy)
    run = fleet.play([task], "h1", "--check")
    said = " ".join(run.output.split())
    assert run.rc == 0 and only(run)["changed"] and calls(fleet) == [] and not fleet.kept("h1")
    assert re.search(r"the task Call a \(\S+op.yml:1\) does not support check mode, and would be run", said)
    written(fleet, {"name": "Rest", SHELL: "true", "when": False})
    assert not only(fleet.play([task], "h1", "--check"))["changed"]


@pytest.mark.long
def test_the_file_of_a_role_lies_among_its_tasks(fleet: Fleet) -> None:
    """It sees the role's variables and files, and what it includes first lies beside it."""
    role = fleet.home / "roles/app"
    for name in ("tasks/deep", "templates", "defaults"):
        (role / name).mkdir(parents=True)
    (role / "defaults/main.yml").write_text("word: role\n")
    (role / "templates/effect.j2").write_text("{{ word }} {{ item }}\n")
    (role / "tasks/main.yml").write_text("- include_tasks: deep/sub.yml\n")
    (role / "tasks/deep/sub.yml").write_text(json.dumps([repeat()]))
    template = {"src": "effect.j2", "dest": "{{ base }}/effect", "mode": "0600"}
    (role / "tasks/op.yml").write_text(yaml.safe_dump([{"ansible.builtin.template": template, "loop": ["a"]}]))
    assert only(fleet.play([], "h1", roles=["app"]))["outcome"] == "verified"
    assert (fleet.directory("h1") / "effect").read_text() == "role a\n"
