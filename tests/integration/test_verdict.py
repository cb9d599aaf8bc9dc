# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict on each host, and what a playbook sees in a wave. Three hosts that are directories: no lab is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel.ansible.configuration import ask_ansible
from evenkeel.ansible.events import Record, feed, judge
from evenkeel.ansible.options import Secrets, from_arguments
from evenkeel.ansible.session import UsersRun, open_session
from evenkeel.cli import parser
from evenkeel.collection import collections_path

NAMES = ("web1", "web2", "web3")
BIN = Path(sys.executable).parent


@dataclass
class Folders:
    """A fleet below ``home``: each host a directory, protected as a whole, and healthy while it has no file ``ill``."""

    home: Path

    def build(self, **more: Any) -> None:
        everything = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **more}
        hosts = {name: self._variables(name) for name in NAMES}
        (self.home / "inventory.yml").write_text(
            yaml.safe_dump({"all": {"vars": everything, "children": {"web": {"hosts": hosts}}}})
        )

    def _variables(self, name: str) -> dict[str, Any]:
        state = self.home / name / "state"
        state.mkdir(parents=True, exist_ok=True)
        (state / "page").write_text("old")
        return {
            "state": str(state),
            "evenkeel_store": str(self.home / name / "store"),
            "evenkeel_resources": [{"files": {"paths": [str(state)]}}],
            "evenkeel_probes": [{"command": {"argv": ["test", "!", "-e", str(self.home / name / "ill")]}}],
        }

    def holds(self, name: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.home / name / "state").iterdir()}

    def change(self, playbook: str, *words: str, within: str = "5m") -> tuple[int, dict[str, Any]]:
        (self.home / "site.yml").write_text(playbook)
        argv = [sys.executable, "-m", "evenkeel.cli", "change", "site.yml", "-i", "inventory.yml", "--json"]
        done = subprocess.run(
            [*argv, "--confirm-within", within, *words],
            cwd=self.home,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=550,
            check=False,
        )
        print(done.stdout, done.stderr)
        return done.returncode, json.loads(done.stdout)

    def judged(self, playbook: str, *words: str) -> list[str]:
        """The hosts that are not done, from one run of the playbook alone."""
        (self.home / "site.yml").write_text(playbook)
        options = from_arguments(parser().parse_args(["change", "site.yml", "-i", "inventory.yml", *words]))
        record = Record(mark="the end of it")
        with open_session(ask_ansible(str(self.home)), options, Secrets(), self.home) as session:
            limit = [*NAMES, "localhost"]
            run = UsersRun("site.yml", limit, NAMES, record.mark)
            ended = session.run_users(run, lambda event: feed(record, event), lambda: "")
        return [host for host, why in judge(record, NAMES, rc=ended.rc).items() if why]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    one = Folders(tmp_path)
    one.build()
    return one


def states(result: Mapping[str, Any]) -> list[str]:
    return [one["state"] for one in result["hosts"]]


def play(*tasks: str, hosts: str = "web", more: str = "", handlers: str = "") -> str:
    lines = [f"- hosts: {hosts}\n  gather_facts: false\n", f"  {more}\n" if more else "", "  tasks:\n"]
    return "".join(
        [*lines, *(f"    - {task}\n" for task in tasks), f"  handlers:\n    - {handlers}\n" if handlers else ""]
    )


WRITE = '{name: Write, ansible.builtin.copy: {content: new, dest: "{{ state }}/page", mode: "0644"}}'
LAST = '{name: Last, ansible.builtin.copy: {content: x, dest: "{{ state }}/last", mode: "0644"}}'
NOTIFY = WRITE[:-1] + ", notify: Restart}"
FAIL = "{name: Fail, ansible.builtin.fail: {msg: broken}, when: inventory_hostname == 'web2'}"
ONCE = "{name: Once, ansible.builtin.command: /bin/true, run_once: true, changed_when: true}"
HANDLER = '{name: Restart, ansible.builtin.command: "test {{ inventory_hostname }} != web2", changed_when: true}'
TOUCH = '{name: Restart, ansible.builtin.copy: {content: x, dest: "{{ state }}/handler", mode: "0644"}}'
BLOCK = f"{{block: [{WRITE}, {FAIL}, {LAST}], always: [{TOUCH.replace('handler', 'always')}]}}"
RESCUE = f"{{block: [{WRITE}, {FAIL}], rescue: [{{ansible.builtin.debug: {{msg: saved}}}}]}}"
META = "{{ansible.builtin.meta: {0}, when: inventory_hostname == 'web2'}}"
FRESH = '{ansible.builtin.add_host: {name: "{{ item }}", groups: fresh}, loop: "{{ groups.web }}"}'
NONE: list[str] = []
WEB2, ALL = ["web2"], list(NAMES)
# What ran, the options, and the hosts on which Ansible did not come to the end of it, or failed.
FORMS: dict[str, tuple[str, Sequence[str], list[str]]] = {
    "only run_once": (play(WRITE) + play(ONCE), (), NONE),
    "run_once fails": (play(WRITE, ONCE.replace("true,", "false,", 1), LAST), (), ALL),
    "only pause": (play(WRITE) + play("{ansible.builtin.pause: {seconds: 1}}"), (), NONE),
    "end_host first": (play(META.format("end_host"), WRITE), (), NONE),
    "end_host in the last play": (play(WRITE) + play(META.format("end_host"), LAST), (), NONE),
    "end_play": (play(WRITE, "{ansible.builtin.meta: end_play}", LAST), (), NONE),
    "end_batch": (play(WRITE, "{ansible.builtin.meta: end_batch}", LAST, more="serial: 1"), (), NONE),
    "add_host first": (play(FRESH) + play(WRITE, hosts="fresh"), (), NONE),
    "any_errors_fatal, always": (play(BLOCK, LAST, more="any_errors_fatal: true"), (), ALL),
    "any_errors_fatal, the last task": (play(WRITE, FAIL, more="any_errors_fatal: true"), (), ALL),
    "any_errors_fatal, a handler": (play(NOTIFY, more="any_errors_fatal: true", handlers=HANDLER), (), ALL),
    "any_errors_fatal, force_handlers": (
        play(NOTIFY, FAIL, LAST, more="any_errors_fatal: true\n  force_handlers: true", handlers=TOUCH),
        (),
        ALL,
    ),
    "not the last task": (play(WRITE, FAIL, LAST), (), WEB2),
    "the last task": (play(WRITE, FAIL), (), WEB2),
    "a handler": (play(NOTIFY, handlers=HANDLER), (), WEB2),
    "free": (play(WRITE, FAIL, LAST, more="strategy: free"), (), WEB2),
    "host_pinned": (play(WRITE, FAIL, LAST, more="strategy: host_pinned"), (), WEB2),
    "an empty play after it": (play(WRITE, FAIL, LAST) + play(ONCE[:-1] + ", tags: [never]}"), (), WEB2),
    "serial, the second batch": (play(WRITE, FAIL, more="serial: 1"), (), ALL),
    "max_fail_percentage": (play(WRITE, FAIL, LAST, more="max_fail_percentage: 10"), (), ALL),
    "two plays of one name": (play(WRITE, more="name: A") + play(FAIL, LAST, more="name: A"), (), WEB2),
    "clear_host_errors": (play(WRITE, FAIL, "{ansible.builtin.meta: clear_host_errors}") + play(LAST), (), WEB2),
    "the controller fails last": (play(WRITE) + play("{ansible.builtin.fail: }", hosts="localhost"), (), ALL),
    "rescue": (play(RESCUE, LAST), (), NONE),
    "rescue that fails": (play(RESCUE.replace("debug: {msg: saved}", "fail: {msg: again}"), LAST), (), WEB2),
    "ignore_errors": (play(FAIL[:-1] + ", ignore_errors: true}", LAST), (), NONE),
    "start-at-task": (play(WRITE, LAST), ("--start-at-task", "Last"), NONE),
    "start-at-task that is none": (play(WRITE, LAST), ("--start-at-task", "Nothing"), ALL),
    "skip-tags always": (play(WRITE), ("--skip-tags", "always"), NONE),
    "tags, skip-tags always": (
        play(WRITE[:-1] + ", tags: [x]}", FAIL),
        ("--tags", "x", "--skip-tags", "always"),
        NONE,
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.long] * (number % 2)) for number, one in enumerate(FORMS)]
)
def test_who_is_done_is_who_ansible_has_not_given_up(folders: Folders, name: str) -> None:
    playbook, words, left = FORMS[name]
    assert folders.judged(playbook, *words) == left


FEW = ["rescue"]
# The driver refuses it before anything begins.
REFUSED = "start-at-task that is none"


@pytest.mark.parametrize(
    "name", [*FEW, *(pytest.param(one, marks=pytest.mark.long) for one in FORMS if one not in (*FEW, REFUSED))]
)
def test_a_confirmed_host_has_the_whole_change_and_one_that_went_back_none_of_it(folders: Folders, name: str) -> None:
    playbook, words, left = FORMS[name]
    code, result = folders.change(playbook, "--waves", "100%", *words)
    assert states(result) == ["rolled_back" if host in left else "confirmed" for host in NAMES]
    assert (code == 0) == (not left) and bool(result["reason"]) == bool(left)
    for host in left:
        assert folders.holds(host) == {"page": "old"}
    whole = [folders.holds(host) for host in NAMES if host not in left and not (host == "web2" and "end_host" in name)]
    assert all(one == whole[0] for one in whole)


def test_the_playbook_sees_its_own_directory(folders: Folders) -> None:
    """Its roles, files, variables and plugins, also where another imports it."""
    deep = folders.home / "in a folder"
    for path, text in {
        "site.yml": play(
            "{ansible.builtin.include_role: {name: own}}",
            '{ansible.builtin.copy: {src: own.txt, dest: "{{ state }}/file", mode: "0644"}}',
            '{ansible.builtin.copy: {content: "{{ playbook_dir | own }} {{ beside }}", dest: "{{ state }}/dir"}}',
        ),
        "roles/own/tasks/main.yml": '- ansible.builtin.copy: {content: r, dest: "{{ state }}/role", mode: "0644"}\n',
        "files/own.txt": "f",
        "group_vars/web.yml": "beside: v\n",
        "filter_plugins/own.py": (
            "class FilterModule:\n"
            "    def filters(self):\n"
            "        return {'own': lambda text: text.rpartition('/')[2]}\n"
        ),
    }.items():
        (deep / path).parent.mkdir(parents=True, exist_ok=True)
        (deep / path).write_text(text)
    assert folders.judged("- import_playbook: in a folder/site.yml\n") == []
    seen = {"page": "old", "role": "r", "file": "f", "dir": "in a folder v"}
    assert [folders.holds(host) for host in NAMES] == [seen] * 3


CLUSTER = """
- hosts: web
  tasks:
    - ansible.builtin.set_fact: {token: "of {{ inventory_hostname }}"}
    - ansible.builtin.command: echo said by {{ inventory_hostname }}
      register: said
    - ansible.builtin.group_by: {key: "on_{{ ansible_facts.system }}"}
    - ansible.builtin.copy:
        content: >-
          {{ groups.web | map('extract', hostvars) | map(attribute='ansible_facts.system') | join(' ') }};
          {{ groups.on_Linux | join(' ') }}; {{ hostvars.web1.token }}; {{ hostvars.web1.said.stdout }}
        dest: "{{ state }}/page"
    - ansible.builtin.command: /bin/true
      delegate_to: "{{ item }}"
      loop: [lb1, localhost]
      no_log: true
    - ansible.builtin.debug: {msg: nothing runs there}
      delegate_to: lb2
"""


@pytest.mark.long
def test_a_wave_sees_facts_of_all_hosts_and_what_earlier_waves_set(folders: Folders) -> None:
    folders.build()
    extra = ("-e", "ansible_connection=local", "--waves", "1,100%")
    code, result = folders.change(CLUSTER, *extra)
    assert code == 0 and states(result) == ["confirmed"] * 3
    facts = "Linux Linux Linux"
    assert folders.holds("web1")["page"] == f"{facts}; web1; of web1; said by web1"
    for host in ("web2", "web3"):
        assert folders.holds(host)["page"] == f"{facts}; web1 web2 web3; of web1; said by web1"
    assert result["touched_outside"] == ["lb1"]


def test_a_play_on_hosts_added_meanwhile_is_no_part_of_a_success(folders: Folders) -> None:
    playbook = play(WRITE, "{ansible.builtin.add_host: {name: newbox, groups: fresh}}")
    code, result = folders.change(playbook + play(LAST, hosts="fresh", more="name: Set up"), "--waves", "1,100%")
    assert code == 2 and states(result) == ["confirmed", "not_begun", "not_begun"]
    assert result["left_out"] == ["newbox"] and "'Set up'" in result["reason"]


def test_a_host_that_falls_ill_after_its_wave_stops_the_next(folders: Folders) -> None:
    make_ill = (
        f"{{ansible.builtin.file: {{path: {folders.home}/web1/ill, state: touch}}, when: inventory_hostname == 'web2'}}"
    )
    code, result = folders.change(play(WRITE, make_ill), "--waves", "1")
    assert code == 2 and states(result) == ["confirmed", "confirmed", "not_begun"]
    assert [one["sick"] for one in result["hosts"]] == [True, False, False]
    assert result["reason"].startswith("web1 became unhealthy after it was confirmed")


@pytest.mark.parametrize(
    ("playbook", "words", "probes", "end"),
    [
        pytest.param(play(RESCUE, LAST), (), True, ["confirmed"] * 3, marks=pytest.mark.long),
        pytest.param(
            play(RESCUE, LAST),
            ("-e", "evenkeel_rescued=fail"),
            True,
            ["confirmed", "rolled_back", "confirmed"],
            marks=pytest.mark.long,
        ),
        (play(RESCUE, LAST), (), False, ["confirmed", "rolled_back", "confirmed"]),
    ],
)
def test_a_rescued_failure_is_left_to_the_probes_where_there_are_any(
    folders: Folders, playbook: str, words: Sequence[str], probes: bool, end: list[str]
) -> None:
    if not probes:
        words = (*words, "-e", '{"evenkeel_probes": []}')
    code, result = folders.change(playbook, "--waves", "100%", *words)
    assert states(result) == end and (code == 0) == ("rolled_back" not in end)
    assert [len(one["rescued"]) for one in result["hosts"]] == [0, 1, 0]
    assert "broken" in result["hosts"][1]["rescued"][0]


@pytest.mark.parametrize(
    ("extra", "end"),
    [
        pytest.param({}, ["confirmed"] * 3, marks=pytest.mark.long),
        ({"evenkeel_rescued": "fail"}, ["confirmed", "rolled_back", "confirmed"]),
    ],
)
def test_the_role_has_the_same_answer(folders: Folders, extra: Mapping[str, Any], end: list[str]) -> None:
    (folders.home / "tasks.yml").write_text(f"- {RESCUE}\n- {LAST}\n")
    extra = {"evenkeel_hosts": "web", "evenkeel_waves": "100%", "evenkeel_tasks": "tasks.yml", **extra}
    argv = [str(BIN / "ansible-playbook"), "evenkeel.fault_tolerance.change", "-i", "inventory.yml"]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections_path())}
    done = subprocess.run([*argv, "-e", json.dumps(extra)], cwd=folders.home, env=env, timeout=550, check=False)
    assert (done.returncode == 0) == ("rolled_back" not in end)
    events = [(folders.home / host / "store" / "events").read_text().splitlines()[-1] for host in NAMES]
    assert [json.loads(event)["outcome"] for event in events] == end


@pytest.mark.parametrize(
    ("more", "playbook", "words", "said"),
    [
        ({}, "- hosts: web\n  vars_prompt: [{name: version}]\n", (), "version"),
        ({}, play(WRITE), ("--tags", "x", "--skip-tags", "x,always"), "--skip-tags"),
        ({}, play(WRITE[:-1] + ", tags: [x]}"), ("--tags", "y"), "no task of"),
        ({"evenkeel_waves": "{{ nowhere }}"}, play(WRITE), (), "evenkeel_waves"),
        ({"evenkeel_rescued": "ignore"}, play(WRITE), (), "evenkeel_rescued"),
        ({}, play(WRITE), ("-e", "evenkeel_store=/one/for/all"), "one host"),
    ],
)
def test_what_can_be_known_is_asked_before_a_host_is(
    folders: Folders, more: Mapping[str, str], playbook: str, words: Sequence[str], said: str
) -> None:
    folders.build(**more)
    code, result = folders.change(playbook, *words)
    assert code == 1 and said in result["reason"]
    assert not any((folders.home / host / "store").exists() for host in NAMES)


@pytest.mark.long
def test_a_template_in_a_variable_of_ours_is_resolved_by_ansible(folders: Folders) -> None:
    folders.build(evenkeel_waves="{{ first }},100%", first="2")
    code, result = folders.change(play(WRITE))
    assert code == 0 and [len(wave) for wave in result["waves"]] == [2, 1]
