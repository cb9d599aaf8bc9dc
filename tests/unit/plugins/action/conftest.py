# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of directories: real runs of ansible-playbook over local connections, each host with a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ready_ansible import run_playbook


@dataclass
class Run:
    """rc, the result of the last task for each host, and everything that was printed."""

    rc: int
    results: dict[str, dict[str, Any]]
    output: str


@dataclass
class Fleet:
    home: Path
    hosts: dict[str, dict[str, Any]]

    def directory(self, host: str) -> Path:
        return self.home / host

    def kept(self, host: str) -> list[str]:
        """The files of the host's store, besides those that come with the library."""
        store = self.directory(host) / "store"
        found = [path.relative_to(store) for path in store.rglob("*") if path.is_file()]
        return [str(path) for path in found if path.parts[0] not in ("FORMAT", "agent", "lock", "secret")]

    def play(self, tasks: Sequence[Mapping[str, Any]], hosts: str = "all", *words: str, **keywords: Any) -> Run:
        """Run tasks as one play."""
        play = {"hosts": hosts, "gather_facts": False, "tasks": list(tasks), **keywords}
        (self.home / "play.yml").write_text(json.dumps([play]))
        return self.playbook("play.yml", *words)

    def playbook(self, name: str, *words: str) -> Run:
        inventory = {"all": {"vars": self.everywhere(), "hosts": self.hosts}}
        (self.home / "inventory.yml").write_text(json.dumps(inventory))
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": os.environ["ANSIBLE_COLLECTIONS_PATH"],
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "results",
            "ANSIBLE_LOCAL_TEMP": str(self.home / "tmp"),
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "RESULTS": str(self.home / "results.json"),
        }
        done = run_playbook(["-i", "inventory.yml", name, *words], self.home, environment)
        written = self.home / "results.json"
        results = json.loads(written.read_text()) if written.exists() else {}
        written.unlink(missing_ok=True)
        print(done.stdout, done.stderr)
        return Run(done.returncode, results, done.stdout + done.stderr)

    def everywhere(self) -> dict[str, Any]:
        return {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "base": f"{self.home}/{{{{ inventory_hostname }}}}",
            "evenkeel_store": "{{ base }}/store",
            "evenkeel_resources": [{"files": {"paths": ["{{ base }}/data"]}}],
            "evenkeel_probes": [{"command": {"argv": ["test", "-e", "{{ base }}/data/well"]}}],
        }


@pytest.fixture
def bare_fleet(tmp_path: Path) -> Fleet:
    """Four healthy hosts in two racks. None has the library, and Ansible copies its modules to them as files."""
    (tmp_path / "tmp").mkdir()
    racks = {f"h{n}": f"r{(n + 1) // 2}" for n in (1, 2, 3, 4)}
    for name in racks:
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        (data / "well").touch()
        (data / "name").write_text(f"I am {name}\n")
    return Fleet(tmp_path, {name: {"rack": rack, "ansible_pipelining": False} for name, rack in racks.items()})


@pytest.fixture
def fleet(bare_fleet: Fleet, library: Path) -> Fleet:
    """The same hosts with the library, which answers over connections with pipelining: that takes the least time."""
    for host, variables in bare_fleet.hosts.items():
        shutil.copytree(library, bare_fleet.directory(host) / "store")
        variables["ansible_pipelining"] = True
    return bare_fleet
