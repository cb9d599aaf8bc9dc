# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's own Ansible counts, and what we write is private and does not outlive us."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from evenkeel import session
from evenkeel.collection import collections_path
from evenkeel.configuration import KEEP_ALIVE, Ansible, ask_ansible, listing, program
from evenkeel.options import Options, Secrets
from evenkeel.outcome import UsageError
from evenkeel.session import open_session


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(memory))
    return memory


def test_the_users_configuration_is_kept_and_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\ncollections_path = mine\nhost_key_checking = False\ncallback_plugins = calls\nask_pass = True\n"
        "[ssh_connection]\nssh_args = -o ControlMaster=no\n"
    )
    ansible = ask_ansible(str(tmp_path))
    env = ansible.environment()
    assert env["ANSIBLE_COLLECTIONS_PATH"].split(":")[:2] == [str(collections_path()), str(tmp_path / "mine")]
    assert env["ANSIBLE_SSH_ARGS"] == f"-o ControlMaster=no {KEEP_ALIVE}"
    assert env["ANSIBLE_HOST_KEY_CHECKING"] == "False"
    assert env["ANSIBLE_CALLBACK_PLUGINS"] == str(tmp_path / "calls")
    assert Options().with_configuration(dict(ansible.settings)).ask_pass


def test_host_keys_are_checked_unless_the_user_says_otherwise() -> None:
    assert Ansible("/", {}, "").environment()["ANSIBLE_HOST_KEY_CHECKING"] == "True"


def test_a_vault_password_reaches_a_listing_through_a_pipe_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret.yml"
    path.write_text("colour: blue\n")
    listing([program("ansible-vault"), "encrypt", str(path)], "/", {}, {"default": "hunter2"})
    assert path.read_text().startswith("$ANSIBLE_VAULT")
    done = listing(
        [program("ansible-inventory"), "--list", "-i", "web1,", f"--extra-vars=@{path}"],
        "/",
        {},
        {"default": "hunter2"},
    )
    assert '"colour": "blue"' in done.stdout
    with pytest.raises(UsageError) as error:
        listing([program("ansible-vault"), "view", str(path)], "/", {}, {"default": "hunter3"})
    assert "hunter" not in str(error.value)


def test_the_scratch_directory_is_private_and_goes_with_the_session(root: Path, tmp_path: Path) -> None:
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        assert one.scratch.parent == root
        assert stat.S_IMODE(one.scratch.stat().st_mode) == 0o700
        written = one._write("vars.json", "{}")
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert list(root.iterdir()) == []


def test_what_a_killed_session_left_is_removed_and_what_a_living_one_uses_is_not(root: Path, tmp_path: Path) -> None:
    left = root / "evenkeel-left"
    left.mkdir()
    (left / "lock").touch()
    with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path) as one:
        assert not left.exists()
        with open_session(Ansible("/", {}, ""), Options(), Secrets(), tmp_path):
            assert one.scratch.exists()


def test_our_playbook_lies_among_what_lies_beside_the_users(root: Path, tmp_path: Path) -> None:
    base = tmp_path / "project"
    (base / "group_vars").mkdir(parents=True)
    (base / "group_vars" / "all.yml").write_text("a: 1\n")
    with open_session(Ansible(str(base), {}, ""), Options(), Secrets(), base) as one:
        playbook = one._own("status")
        assert (playbook.parent / "group_vars" / "all.yml").read_text() == "a: 1\n"
        assert "ft_info" in playbook.read_text()
        assert session.chosen_hosts(
            str(playbook), "", Options(inventory=("web1,web2,",)), ask_ansible(str(base)), Secrets()
        ) == ("web1", "web2")
