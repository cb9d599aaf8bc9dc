# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The secret of an encrypted copy is known to the hosts that need it, and nobody can read it on them or of them."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Key
from ready_ansible import run_playbook

from .conftest import Fleet, _exec

TOLD = secrets.token_hex(32)  # Another in each run: the journal of a host stays.
KEY = "correct horse battery staple, and more of it"
VARIABLES = f"""
evenkeel_encryption_key: {KEY}
evenkeel_copies: 1
evenkeel_resources:
  - files: {{paths: [/srv/www]}}
"""
PLAY = """
- hosts: web1
  gather_facts: false
  tasks:
    - evenkeel.fault_tolerance.ft_checkpoint: {name: before, resources: "{{ evenkeel_resources }}"}
    - evenkeel.fault_tolerance.ft_replicate: {peers: [web1, web2], copies: 1}
    - asking:
"""
# The other calls with secrets are made by processes that print nothing.
ASKING = f"""
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        words = {{"_phase": "discard", "_values": {{"path": "/tmp/{TOLD}"}}, "_secrets": ["{TOLD}"]}}
        return dict(Host("web1", self, task_vars).module("ft_replicate", peers=["{TOLD}"], **words), failed=False)
"""
# All that processes show of themselves, until the file goes.
WATCH = "while [ -e /srv/watched ]; do sleep 0.05; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; done 2>/dev/null"
PLACES = "/root /home /tmp /var /run /etc /dev/shm"


def secret(fleet: Fleet) -> str:
    """The secret of the bundle that the peer got."""
    (checkpoint,) = fleet.on("web1", "ls /var/lib/evenkeel/manifests").split()
    (line,) = fleet.on("web2", "head -qn1 /var/lib/evenkeel/replicas/web1/records/*").splitlines()
    return Key.of(KEY, "web1").secret(checkpoint, json.loads(line)["nonce"])


@pytest.mark.parametrize("pipelining", ["1", "0"])
def test_nobody_reads_the_secret_of_a_copy(fleet: Fleet, tmp_path: Path, pipelining: str) -> None:
    hosts = fleet.home / "inventory" / "hosts.yml"
    hosts.write_text(Path(fleet.lab.inventory).with_name("inventory-ops.yml").read_text())
    (fleet.home / "inventory" / "group_vars" / "web.yml").write_text(VARIABLES)
    fleet.on("web1", "touch /srv/watched; head -c 60M /dev/urandom >/srv/www/large")
    fleet.playbook("play.yml", PLAY)
    (fleet.home / "action_plugins").mkdir()
    (fleet.home / "action_plugins" / "asking.py").write_text(ASKING)
    environment = {**fleet.environment(), "ANSIBLE_PIPELINING": pipelining}
    shell = [*_exec(fleet.lab, "web1"), "sh", "-c", WATCH]
    with open(tmp_path / "seen", "wb") as seen, subprocess.Popen(shell, stdout=seen):
        try:
            done = run_playbook(["-i", "inventory", "play.yml", "-vvvvv"], fleet.home, environment)
        finally:
            fleet.on("web1", "rm /srv/watched /srv/www/large")
    assert done.returncode == 0, done.stdout
    said, shown = done.stdout + done.stderr, (tmp_path / "seen").read_text(errors="replace")
    assert "Using module file" not in said, "our own way"
    assert "openssl" in shown and "sys.stdin.buffer" in shown, "it was watched as it worked"
    words = [KEY, secret(fleet), TOLD]
    assert not [word for word in words if word in said], "the output"
    assert not [word for word in words if word in shown], "the processes"
    assert '"_secrets": ["VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"]' in said.replace("\\", "")
    assert "_secrets=['VALUE_SPECIFIED" in fleet.on("web1", "journalctl --output=cat | grep _phase=send")
    for host in ("web1", "web2"):
        journal = fleet.on(host, "journalctl --no-pager --all --output=cat")
        assert "Invoked with " in journal
        assert not [word for word in words if word in journal], f"the journal of {host}"
        given = " ".join(f"-e '{word}'" for word in words)
        assert fleet.on(host, f"grep -rlaF {given} {PLACES} || true") == "", host
