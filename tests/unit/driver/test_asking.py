# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that has loaded Ansible answers as its programs do; where it cannot, the programs are started."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from evenkeel.ansible import answering, asking
from evenkeel.ansible.asking import Done, Ready, interpreter, program, quiet, start, start_ahead
from evenkeel.ansible.configuration import ask_ansible, listing
from evenkeel.outcome import UsageError

PLAYBOOK = "- hosts: all\n  tasks: []\n"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take long for an answer."""
    monkeypatch.setattr(asking, "IDLE", 60.0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were started for themselves."""
    found: list[str] = []

    def record(argv: list[str], *words: object) -> Done:
        found.append(os.path.basename(argv[0]))
        return start(argv, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(asking, "start", record)
    return found


def questions(directory: Path) -> list[list[str]]:
    (directory / "play.yml").write_text(PLAYBOOK)
    return [
        [program("ansible-playbook"), "--list-hosts", "-i", "web1,web2,", "play.yml"],
        [program("ansible-playbook"), "--list-hosts", "-i", "web1,", "--limit", "nobody", "play.yml"],
        [program("ansible-playbook"), "--list-hosts", "-i", "web1,", "none.yml"],
        [program("ansible-playbook"), "--no-such-option"],
        [program("ansible-inventory"), "--list", "-i", "web1,"],
        [program("ansible-config"), "dump", "--format", "json", "--only-changed"],
    ]


def test_it_answers_as_the_programs_do_all_at_once(tmp_path: Path, started: list[str]) -> None:
    env, ready = {**os.environ, "ANSIBLE_NOCOLOR": "1"}, Ready()
    asked = questions(tmp_path)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda argv: ready.run(argv, str(tmp_path), env, {}), asked))
    assert started == []
    for argv, answer in zip(asked, answers, strict=True):
        alone = start(argv, str(tmp_path), env, {})
        assert answer.returncode == alone.returncode, argv
        # The hosts of a group are listed in any order.
        assert sorted(answer.stdout.splitlines()) == sorted(alone.stdout.splitlines()), argv
        assert answer.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:], argv
    assert {answer.returncode for answer in answers} >= {0, 1, 2}


def test_what_runs_need_is_loaded_between_questions_and_changes_no_answer(tmp_path: Path, started: list[str]) -> None:
    env, ready = {**os.environ, "ANSIBLE_NOCOLOR": "1"}, Ready()
    script = tmp_path / "loaded"
    first = Path(program("ansible-playbook")).read_text().splitlines()[0]
    script.write_text(f"{first}\nimport sys\nprint('ansible.plugins.strategy.linear' in sys.modules)\n")

    def is_loaded() -> bool:
        return ready.run([str(script)], str(tmp_path), env, {}).stdout == "True\n"

    assert not is_loaded()  # A driver that asks nothing needs nothing.
    limit = time.monotonic() + 60
    while not is_loaded() and time.monotonic() < limit:
        time.sleep(0.1)
    assert is_loaded()
    for argv in questions(tmp_path):
        answer, alone = ready.run(argv, str(tmp_path), env, {}), start(argv, str(tmp_path), env, {})
        assert sorted(answer.stdout.splitlines()) == sorted(alone.stdout.splitlines()), argv
        assert answer.returncode == alone.returncode, argv
    assert started == []


def test_a_table_of_plugins_is_read_once_for_all_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder, read = import_module("ansible.utils.collection_loader._collection_finder"), list[object]()

    def parse(text: bytes, name: object) -> object:
        read.append(name)
        return {"plugin_routing": text.decode()}

    monkeypatch.setattr(finder, "_meta_yml_to_dict", parse)
    (tmp_path / "runtime.yml").write_text("some")
    answering._read_once(str(tmp_path / "runtime.yml"))
    name = ("ansible.builtin", "runtime.yml")
    assert finder._meta_yml_to_dict(b"some", name) == {"plugin_routing": "some"} and read == [name]
    assert finder._meta_yml_to_dict(b"other", name) == {"plugin_routing": "other"} and len(read) == 2


def test_what_is_no_script_of_python_is_started(tmp_path: Path, started: list[str]) -> None:
    wrapper = tmp_path / "ansible-inventory"
    wrapper.write_text(f'#!/bin/sh\nexec {program("ansible-inventory")} "$@"\n')
    wrapper.chmod(0o755)
    done = Ready().run([str(wrapper), "--list", "-i", "web1,"], "/", os.environ, {})
    assert "web1" in done.stdout and started == ["ansible-inventory"]


def test_a_program_of_another_python_is_started_on_that(tmp_path: Path, started: list[str]) -> None:
    other, script = tmp_path / "python-other", tmp_path / "ansible-inventory"
    other.symlink_to(sys.executable)
    script.write_text(f"#!{other}\nimport sys\nprint('ansible' in sys.modules)\n")
    script.chmod(0o755)
    ready = Ready()
    ready.run([program("ansible-inventory"), "--list", "-i", "web1,"], str(tmp_path), os.environ, {})
    assert ready.run([str(script)], str(tmp_path), os.environ, {}).stdout == "False\n"
    assert started == ["ansible-inventory"]


def test_a_python_without_ansible_is_no_reason_to_fail(tmp_path: Path, started: list[str]) -> None:
    script = tmp_path / "ansible-inventory"
    script.write_text(f"#!{sys.executable} -I\nprint('from a program')\n")
    script.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "ansible.py").write_text("raise SystemExit(3)")
    script.write_text(f"#!{sys.executable}\nprint('from a program')\n")
    ready = Ready()
    for _ in range(2):
        assert ready.run([str(script)], str(tmp_path), env, {}).stdout == "from a program\n"
    assert started == ["ansible-inventory"] * 2


def test_a_process_that_was_killed_is_no_reason_to_fail(tmp_path: Path, started: list[str]) -> None:
    argv, ready = [program("ansible-inventory"), "--list", "-i", "web1,"], Ready()
    ready.run(argv, str(tmp_path), os.environ, {})
    for process in processes():
        process.kill()
        process.wait()
    assert "web1" in ready.run(argv, str(tmp_path), os.environ, {}).stdout


def test_it_ends_soon_after_its_last_question_and_with_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv, ready = [program("ansible-inventory"), "--list", "-i", "web1,"], Ready()
    ready.run(argv, str(tmp_path), os.environ, {})
    (process,) = processes()
    del ready
    assert not process.is_running() or process.wait(5) is not None
    monkeypatch.setattr(asking, "IDLE", 0.5)
    ready = Ready()
    ready.run(argv, str(tmp_path), os.environ, {})
    limit = time.monotonic() + 30
    while processes() and time.monotonic() < limit:
        time.sleep(0.1)
    assert processes() == []
    assert "web1" in ready.run(argv, str(tmp_path), os.environ, {}).stdout


def test_one_that_was_started_ahead_answers_the_first_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start_ahead()
    (process,) = processes()
    assert process.cwd() == str(tmp_path) and process.environ()["ANSIBLE_LOG_PATH"] == os.devnull
    argv, ready = [program("ansible-inventory"), "--list", "-i", "web1,"], Ready()
    assert "web1" in ready.run(argv, str(tmp_path), quiet(os.environ), {}).stdout
    assert processes() == [process] and started == []
    del ready
    assert processes() == []


@pytest.mark.parametrize("other", ["directory", "environment", "killed"])
def test_one_that_was_started_ahead_elsewhere_is_left(
    other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start_ahead()
    (ahead,) = processes()
    if other == "killed":
        ahead.kill()
        ahead.wait()
    env = quiet(os.environ) | ({"ANSIBLE_FORKS": "3"} if other == "environment" else {})
    argv, ready = [program("ansible-inventory"), "--list", "-i", "web1,"], Ready()
    assert "web1" in ready.run(argv, "/" if other == "directory" else str(tmp_path), env, {}).stdout
    ahead.wait(30)
    assert len(processes()) == 1


def test_no_file_beside_the_process_hides_one_of_the_standard_library() -> None:
    """Python searches the directory of a script first."""
    beside = {path.stem for path in Path(answering.__file__).parent.glob("*.py")}
    assert beside & sys.stdlib_module_names == set()


def processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess):
            if answering.__file__ in process.cmdline():
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#!/usr/bin/python3 -sE", ["/usr/bin/python3", "-sE"]),
        ("#!/usr/bin/env nothing-of-this-name", []),
        ("#!/bin/sh", []),
        ("#!", []),
        ("\x7fELF", []),
        ("", []),
    ],
)
def test_the_python_of_a_program_stands_in_its_first_line(tmp_path: Path, line: str, words: list[str]) -> None:
    path = tmp_path / "program"
    path.write_text(f"{line}\nrest")
    assert interpreter(str(path)) == words
    assert interpreter(str(tmp_path / "none")) == []


@pytest.mark.parametrize("alone", [False, True])
def test_a_question_without_an_answer_ends_when_the_caller_stops(alone: bool, tmp_path: Path) -> None:
    inventory = tmp_path / "hangs.py"
    inventory.write_text("#!/bin/sh\nexec sleep 60\n")
    inventory.chmod(0o755)
    argv, ready = [program("ansible-inventory"), "--list", "-i", str(inventory)], Ready()
    ready._usable = not alone
    begun = time.monotonic()
    ready.asked_to_stop = lambda: int(time.monotonic() > begun + 0.5)
    with pytest.raises(UsageError, match="stopped before anything was touched"):
        ready.run(argv, str(tmp_path), os.environ, {})
    assert time.monotonic() < begun + 30


@pytest.mark.parametrize("alone", [False, True])
def test_the_passwords_of_vaults_that_the_configuration_asks_for_are_handed_on(alone: bool, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults]\nask_vault_pass = true\nvault_identity_list = dev@prompt\n")
    ansible = ask_ansible(str(tmp_path))
    assert ansible.settings["DEFAULT_ASK_VAULT_PASS"] is True, "it is known, so that the driver asks"
    ansible.ready._usable = not alone
    argv, vault = [program("ansible-inventory"), "--list", "-i", "web1,"], {"dev": "one", "default": "two"}
    assert "web1" in listing(argv, ansible, ansible.environment(), vault).stdout


def test_a_script_for_a_vault_password_is_asked_whatever_its_name_is(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults]\nvault_identity_list = dev@prompt-dev.sh\n")
    script = tmp_path / "prompt-dev.sh"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked; echo word\n")
    script.chmod(0o755)
    ansible = ask_ansible(str(tmp_path))
    ansible.ready._usable = True
    listing([program("ansible-inventory"), "--list", "-i", "web1,"], ansible, ansible.environment(), {})
    assert (tmp_path / "asked").exists()
