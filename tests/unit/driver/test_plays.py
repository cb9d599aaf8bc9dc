# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a playbook says of itself before it runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from evenkeel.ansible.plays import (
    Prompt,
    elsewhere,
    extra_names,
    gathers,
    no_debugger,
    no_prompts,
    no_settings,
    prompts,
)
from evenkeel.outcome import UsageError

ASKS = """
- hosts: web
  vars_prompt:
    - name: version
      private: false
    - {name: password}
"""


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "asks.yml").write_text(ASKS)
    path = tmp_path / "site.yml"
    path.write_text("- import_playbook: in/asks.yml\n- hosts: db\n  vars: {secret: !vault abc}\n")
    return path


def test_prompts_of_imported_playbooks_are_found_less_what_was_given(playbook: Path) -> None:
    assert prompts(playbook, []) == [Prompt("version", False), Prompt("password", True)]
    assert prompts(playbook, ["--extra-vars=version=2"]) == [Prompt("password", True)]


def test_who_would_be_asked_is_told_what_to_give_and_how(playbook: Path) -> None:
    with pytest.raises(UsageError, match="version, password.*-e version=….*-e @FILE"):
        no_prompts("site.yml", playbook, [])
    no_prompts("site.yml", playbook, ["--extra-vars={version: 2}", "--extra-vars=password=x y=z"])


def test_what_a_file_of_variables_gives_is_known_from_a_home_and_left_open_from_a_vault(
    playbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(playbook.parent))
    (playbook.parent / "x.yml").write_text("version: 2\n")
    assert prompts(playbook, ["--extra-vars=@~/x.yml"]) == [Prompt("password", True)]
    with pytest.raises(UsageError, match="asks for password"):
        no_prompts("site.yml", playbook, ["--extra-vars=@~/x.yml"])
    (playbook.parent / "secret.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    no_prompts("site.yml", playbook, ["--extra-vars=@~/x.yml", "--extra-vars=@~/secret.yml"])


@pytest.mark.parametrize(
    ("text", "strategy", "refused"),
    [
        ("- {hosts: web, strategy: ansible.builtin.debug}", "linear", True),
        ("- {hosts: web}", "debug", True),
        ("- {hosts: web, strategy: free}", "debug", False),
        ("- {hosts: web, debugger: on_failed}", "linear", True),
        ("- {hosts: web, tasks: [{block: [{ping: , debugger: always}]}]}", "linear", True),
        ("- {hosts: web, debugger: never, tasks: [{debug: }]}", "linear", False),
    ],
)
def test_nobody_is_there_for_a_debugger(tmp_path: Path, text: str, strategy: str, refused: bool) -> None:
    (tmp_path / "site.yml").write_text(text)
    with pytest.raises(UsageError, match="debugger") if refused else contextlib.nullcontext():
        no_debugger("site.yml", tmp_path / "site.yml", strategy)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("--extra-vars=a=1 b='x y'", {"a", "b"}),
        ('--extra-vars={"a": 1}', {"a"}),
        ("--extra-vars=@VARS", {"c"}),
        ("--extra-vars=a='1", {"a"}),
        ("--vault-id=a=1", set()),
    ],
)
def test_extra_variables_are_read_in_all_their_forms(tmp_path: Path, word: str, names: set[str]) -> None:
    (tmp_path / "vars.yml").write_text("c: 1\n")
    assert extra_names([word.replace("VARS", str(tmp_path / "vars.yml"))]) == names


@pytest.mark.parametrize(
    ("text", "gathering", "found"),
    [
        ("- hosts: web", "implicit", True),
        ("- hosts: web", "smart", True),
        ("- hosts: web", "explicit", False),
        ("- hosts: web\n  gather_facts: true", "explicit", True),
        ("- hosts: web\n  gather_facts: false", "implicit", False),
        ("- hosts: web\n  gather_facts: false\n- hosts: db", "implicit", True),
        ("- hosts: web\n  gather_facts: false\n  tasks: [{block: [{ansible.builtin.setup: }]}]", "implicit", True),
        ("$ANSIBLE_VAULT;1.1;AES256", "implicit", True),  # cannot be read here
    ],
)
def test_whether_facts_are_gathered(tmp_path: Path, text: str, gathering: str, found: bool) -> None:
    path = tmp_path / "site.yml"
    path.write_text(text + "\n")
    assert gathers(path, gathering) is found


@pytest.mark.parametrize(
    "text",
    ["5", "hosts: web", "- hosts: web\n  tasks: 5", "- hosts: web\n  vars_prompt: true", "- d: 2026-02-30", "[" * 2000],
)
def test_a_playbook_that_is_none_is_left_to_ansible(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yml").write_text(text)
    no_prompts("odd.yml", tmp_path / "odd.yml", ["--extra-vars={d: 2026-02-30}"])
    no_debugger("odd.yml", tmp_path / "odd.yml", "linear")
    gathers(tmp_path / "odd.yml", "implicit")


def test_a_playbook_that_imports_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "site.yml"
    path.write_text("- import_playbook: site.yml\n- hosts: web\n")
    assert gathers(path, "implicit")


def test_a_role_beside_the_playbook_may_gather_them(tmp_path: Path) -> None:
    path, role = tmp_path / "site.yml", tmp_path / "roles" / "base" / "tasks" / "main.yml"
    path.write_text("- hosts: web\n  gather_facts: false\n  roles: [base]\n")
    role.parent.mkdir(parents=True)
    for text, found in {
        "- command: setup: x": False,
        "- name: Facts\n  setup:\n": True,
        "- ansible.builtin.setup: {filter: x}": True,
        "- ansible.builtin.gather_facts:": True,
        "- debug: msg=hi": False,
    }.items():
        role.write_text(text + "\n")
        assert gathers(path, "implicit") is found, text


@pytest.mark.parametrize(
    "text",
    [
        "- hosts: web\n  vars: {evenkeel_on_failure: all, version: 2}\n",
        "- hosts: web\n  vars_files: [ours.yml, '{{ theirs }}', [a.yml, b.yml]]\n",
        "- hosts: web\n  vars_files: ours.yml\n",
        "- import_playbook: in/asks.yml\n  vars: {evenkeel_on_failure: all}\n",
    ],
)
def test_a_variable_of_ours_in_a_play_is_refused_as_the_driver_does_not_read_it(playbook: Path, text: str) -> None:
    (playbook.parent / "ours.yml").write_text("evenkeel_on_failure: all\n")
    playbook.write_text(text)
    with pytest.raises(UsageError, match="site.yml sets evenkeel_on_failure in a play.*group_vars"):
        no_settings("site.yml", playbook)


@pytest.mark.parametrize(
    "text",
    [
        "- hosts: web\n  vars: {evenkeel_colour: red, version: 2}\n  vars_files: [absent.yml]\n",
        # These are for the role.
        "- hosts: web\n  vars: {evenkeel_mode: warm}\n  roles: [evenkeel.fault_tolerance.restart]\n",
        "not a playbook",
    ],
)
def test_other_variables_of_a_play_are_left_to_it(playbook: Path, text: str) -> None:
    playbook.write_text(text)
    no_settings("site.yml", playbook)


def test_a_play_that_leads_elsewhere_is_told(playbook: Path) -> None:
    playbook.write_text(
        "- hosts: web\n  connection: ansible.builtin.local\n"
        "- hosts: db\n  vars: {ansible_host: 192.0.2.7}\n"
        "- hosts: localhost\n  connection: local\n"
        "- hosts: app\n  connection: ssh\n  vars: {ansible_user: root}\n"
    )
    local, address = elsewhere("site.yml", playbook)
    assert "the play web runs on this machine" in local and "the play db sets ansible_host" in address
