# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook change, as ansible-playbook and AWX run it without the driver: only the guard keeps it safe there."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from evenkeel.collection import collections_path

from .conftest import Fleet

BIN = Path(sys.executable).parent
CONTENT = """
- name: Publish version 2
  ansible.builtin.copy: {dest: /srv/www/index.html, content: "<h1>version 2</h1>", mode: "0644"}
"""
# Connections are reset, so that Ansible learns of it at once.
LOCKOUT = """
- name: Keep everybody out of web2
  ansible.builtin.copy:
    dest: /etc/nftables.conf
    content: |
      flush ruleset
      table inet filter {
        chain input {
          type filter hook input priority 0;
          tcp dport 22 reject with tcp reset
        }
      }
    mode: "0755"
  when: inventory_hostname == 'web2'
- name: Load it
  ansible.builtin.systemd_service: {name: nftables, state: reloaded}
"""


def playbook(fleet: Fleet, name: str, *words: str) -> tuple[int, str]:
    """Exit code and output of a playbook of the collection, run by its full name."""
    argv = [str(BIN / "ansible-playbook"), "-i", "inventory", f"evenkeel.fault_tolerance.{name}", *words]
    environment = {**fleet.environment(), "ANSIBLE_COLLECTIONS_PATH": str(collections_path())}
    done = subprocess.run(
        argv, cwd=fleet.home, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout + done.stderr


def change(fleet: Fleet, content: str, *words: str) -> tuple[int, str]:
    fleet.playbook("content.yml", content)
    return playbook(fleet, "change", "-e", "evenkeel_hosts=site", "-e", "evenkeel_tasks=content.yml", *words)


def test_a_task_file_becomes_a_transaction(fleet: Fleet) -> None:
    code, _ = change(fleet, CONTENT)
    assert code == 0
    assert all(fleet.serves(host, "version 2") and fleet.state(host)["outcome"] == "confirmed" for host in fleet.names)


def test_content_that_fails_is_rolled_back_and_no_success(fleet: Fleet) -> None:
    code, _ = change(fleet, CONTENT + "\n- ansible.builtin.command: /bin/false\n")
    assert code == 2
    assert fleet.differs("web1") == "" and fleet.state("web1")["outcome"] == "rolled_back"
    assert not any(fleet.touched(host) for host in fleet.names[1:])


@pytest.mark.long
def test_tags_choose_from_the_content_and_never_from_the_transaction(fleet: Fleet) -> None:
    fails = "\n- ansible.builtin.command: /bin/false\n  tags: [other]\n"
    code, _ = change(fleet, CONTENT + "  tags: [page]\n" + fails, "--tags", "page", "--limit", "web1,web2")
    assert code == 0
    assert fleet.serves("web1", "version 2") and fleet.state("web1")["outcome"] == "confirmed"
    code, _ = change(fleet, CONTENT + fails, "--tags", "other", "--limit", "web1,web2")
    assert code == 2 and fleet.state("web1")["outcome"] == "rolled_back"


def test_an_unreachable_host_of_the_wave_stops_it_before_anything_is_touched(fleet: Fleet) -> None:
    fleet.lab.disconnect("web2")  # in silence: packets are dropped
    try:
        began = time.monotonic()
        code, said = change(fleet, CONTENT, "-e", "evenkeel_waves=2,2,2")
        took = time.monotonic() - began
    finally:
        fleet.lab.connect("web2")
    assert code == 2 and "web2 is unreachable" in said
    assert took < 60
    assert not any(fleet.touched(host) for host in fleet.names)


def test_a_host_that_locks_everybody_out_stops_the_later_waves_and_puts_itself_back(fleet: Fleet) -> None:
    code, said = change(fleet, LOCKOUT, "-e", "evenkeel_waves=2,2,2", "-e", "evenkeel_confirm_within=30s")
    assert code != 0
    assert "web2 failed or became unreachable earlier in this run" in said
    assert not any(fleet.touched(host) for host in fleet.names[2:])
    assert fleet.state("web1")["outcome"] == "confirmed"
    assert fleet.eventually(lambda: not fleet.armed("web2"), 60)
    assert fleet.state("web2")["by"] == "deadline" and fleet.differs("web2") == ""


def test_min_healthy_counts_hosts_that_do_not_change(fleet: Fleet) -> None:
    for host in ("web4", "web5"):
        fleet.on(host, "systemctl stop nginx")
    code, said = change(
        fleet, CONTENT, "--limit", "web1", "-e", '{"evenkeel_group": "site", "evenkeel_min_healthy": "quorum"}'
    )
    assert code == 2 and "repair web4" in said
    assert not any(fleet.touched(host) for host in fleet.names)


@pytest.mark.parametrize("words", [("-e", "evenkeel_hosts=sit"), ("--limit", "web1,wbe2"), ("--limit", "web6")])
def test_a_target_that_names_no_host_is_an_error(fleet: Fleet, words: tuple[str, str]) -> None:
    code, _ = change(fleet, CONTENT, *words)
    assert code not in (0, 2)
    assert not any(fleet.touched(host) for host in fleet.names)
