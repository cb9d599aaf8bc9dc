# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's options are passed on as they came, passwords only in answer to prompts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

from evenkeel.ansible import options
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.targets import without_prompts
from evenkeel.cli import parser
from evenkeel.outcome import UsageError


def parsed(*words: str) -> Options:
    return options.from_arguments(parser().parse_args(["change", "site.yml", *words]))


def test_connection_become_and_vault_go_everywhere_and_tags_to_the_users_playbook_alone() -> None:
    found = parsed("-i", "inv", "-u", "ops", "-b", "-t", "web", "--skip-tags", "slow", "-e", "a=1", "-e", "@b.yml")
    assert found.inventory == ("inv",)
    assert set(found.common) == {"--extra-vars=a=1", "--extra-vars=@b.yml", "--user=ops", "--become"}
    assert set(found.users) == {"--tags=web", "--skip-tags=slow"}
    assert set(found.listing) == {"--extra-vars=a=1", "--extra-vars=@b.yml"}


def test_a_value_that_begins_with_a_dash_stays_a_value() -> None:
    assert parsed("--ssh-extra-args=-o Port=2222").common == ("--ssh-extra-args=-o Port=2222",)


def test_no_option_of_ours_reaches_ansible() -> None:
    found = parsed("--waves", "1", "--confirm-within", "5m", "--json")
    assert found.common == found.users == ()


def test_a_command_after_a_change_sees_what_lies_beside_its_playbook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "playbooks").mkdir()
    for name in ("site.yml", "playbooks/site.yml"):
        (tmp_path / name).touch()

    def said(*words: str) -> Options:
        return options.from_arguments(parser().parse_args(words))

    given = said("change", "playbooks/site.yml", "-i", "inv")
    assert given.words_to_reach()[0] == ["-i", "inv", "--playbook-dir", "playbooks"]
    assert said("resume", *given.words_to_reach()[0]).base(str(tmp_path)) == str(tmp_path / "playbooks")
    for near in ("site.yml", "./site.yml", "evenkeel.fault_tolerance.change"):
        assert said("change", near, "-i", "inv").words_to_reach()[0] == ["-i", "inv"]
    assert said("status").base(str(tmp_path)) == str(tmp_path)
    with pytest.raises(UsageError, match="--playbook-dir nowhere"):
        said("status", "--playbook-dir", "nowhere").base(str(tmp_path))


def test_passwords_are_asked_once_in_the_words_of_ansible() -> None:
    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return f"secret{len(asked)}"

    secrets = options.ask(parsed("-k", "-K", "--vault-id", "dev@prompt", "--vault-id", "x@file"), prompt)
    assert asked == ["SSH password: ", "BECOME password[defaults to SSH password]: ", "Vault password (dev): "]
    assert "secret1" not in repr(secrets)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("SSH password: ", "ssh"),
        ("BECOME password[defaults to SSH password]: ", "root"),
        ("SUDO password: ", "root"),
        ("Vault password: ", "one"),
        ("Vault password (default): ", "one"),
        ("Vault password (dev): ", "two"),
        ("Vault password (prod): ", None),
        ("ok: SSH password: x", None),
    ],
)
def test_each_prompt_of_ansible_gets_its_own_answer(prompt: str, answer: str | None) -> None:
    answers = Secrets("ssh", "root", {"default": "one", "dev": "two"}).answers()
    assert next((text for pattern, text in answers.items() if re.search(pattern, prompt, re.M)), None) == answer


@pytest.mark.parametrize(
    "words",
    [
        ["status", "-f", "many"],
        ["change", "x.yml", "-T", "1s"],
        ["change"],
        ["change", "x.yml", "--nonsense"],
        ["nothing"],
        [],
    ],
)
def test_a_wrong_command_line_leaves_with_1_because_2_means_rolled_back(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(words)
    assert left.value.code == 1


def test_passwords_that_the_configuration_makes_ansible_ask_for_are_asked() -> None:
    found = Options().with_configuration({"DEFAULT_ASK_PASS": True, "DEFAULT_VAULT_IDENTITY_LIST": ["dev@prompt"]})
    assert found.ask_pass and found.prompts == ("dev",) and not found.ask_become_pass


def test_a_vault_id_without_a_name_is_asked_for_as_well() -> None:
    found = parsed("--vault-id", "prompt", "--vault-id", "dev@prompt", "--vault-id", "x@file")
    assert found.prompts == ("default", "dev")
    assert without_prompts(found.listing) == ["--vault-id=x@file"]


def test_who_interrupts_the_question_for_a_password_is_heard() -> None:
    noted: list[int] = []

    def interrupted(text: str) -> str:
        signal.raise_signal(signal.SIGINT)
        return text

    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        with pytest.raises(UsageError, match="stopped at the question"):
            options.ask(parsed("-K"), interrupted)
        signal.raise_signal(signal.SIGINT)
        assert noted == [signal.SIGINT], "behind the question it is noted again"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("variable", "shown"),
    [
        ("ansible_port=2222", True),
        ("evenkeel_store=/srv/store", True),
        ("@more.yml", True),
        ("evenkeel_notify=https://hooks.example.org/SECRET", False),
        ("evenkeel_probes=[{http:{url:https://x:y@z}}]", False),
        ("ansible_become_pass=x", False),
    ],
)
def test_advice_repeats_what_reaches_hosts_and_no_other_value(variable: str, shown: bool) -> None:
    words, missing = parsed("-e", variable).words_to_reach()
    assert (words, missing) == ([f"--extra-vars={variable}"] if shown else [], not shown)


@pytest.mark.parametrize("word", ["--extra-vars=@{0}", "--vault-password-file={0}", "--vault-id=dev@{0}", "-i"])
def test_a_file_that_only_one_run_could_read_is_refused_in_words(tmp_path: Path, word: str) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_text("x")
    for path, refused in ((pipe, True), (file, False), (tmp_path / "none", False)):
        common = () if word == "-i" else (word.format(path),)
        options = Options(common=common, inventory=(str(path),) if word == "-i" else ())
        with pytest.raises(UsageError, match="can be read only once") if refused else contextlib.nullcontext():
            options.with_configuration({})
