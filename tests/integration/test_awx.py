# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs as AWX runs them: transmit | worker | process, in a place that has the installed collection and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Fleet

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
GOOD = """
- name: Publish version 2
  ansible.builtin.copy: {dest: /srv/www/index.html, content: "<h1>version 2</h1>", mode: "0644"}
"""
BROKEN = (
    GOOD
    + """
- name: Break the configuration
  ansible.builtin.copy: {dest: /etc/nginx/conf.d/header.conf, content: "add_header X-Version", mode: "0644"}
- name: Load it
  ansible.builtin.systemd_service: {name: nginx, state: restarted}
"""
)
ENDLESS = (
    GOOD
    + """
- name: Never end
  ansible.builtin.command: sleep 600
"""
)
# Takes longer than the time to confirm, task by task.
SLOW = (
    GOOD
    + """
- name: Take a while
  ansible.builtin.command: sleep 8
  loop: [1, 2, 3, 4, 5]
- name: Change more
  ansible.builtin.copy: {dest: /srv/www/after.html, content: after, mode: "0644"}
"""
)


@dataclass
class Awx:
    """A project with a playbook for each job template, and an execution environment that has the collection."""

    fleet: Fleet
    path: Path

    def environment(self) -> dict[str, str]:
        """Nothing of this checkout, nothing of the user who runs the tests."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
        return {**own, "HOME": str(self.path / "home"), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def transmit(self, template: str, limit: str, variables: dict[str, Any]) -> Path:
        """The job as it is sent to the execution environment."""
        job, sent = self.path / "job", self.path / "sent"
        shutil.rmtree(job / "artifacts", ignore_errors=True)
        (job / "env" / "extravars").write_text(json.dumps(variables))
        argv: list[str | Path] = [BIN / "ansible-runner", "transmit", job, "--playbook", f"{template}.yml"]
        with sent.open("wb") as stream:
            subprocess.run(
                [*argv, *(["--limit", limit] if limit else [])],
                env=self.environment(),
                cwd=self.path,
                stdout=stream,
                timeout=60,
                check=True,
            )
        return sent

    def work(self, sent: Path, received: Path) -> subprocess.Popen[bytes]:
        """The execution environment at work."""
        place = self.path / "worker"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        with sent.open("rb") as before, received.open("wb") as after:
            return subprocess.Popen(
                [BIN / "ansible-runner", "worker", "--private-data-dir", place],
                env=self.environment(),
                cwd=place,
                stdin=before,
                stdout=after,
            )

    def process(self, received: Path) -> tuple[str, str]:
        """How the job ended as AWX sees it: its status, and what it printed."""
        argv: list[str | Path] = [BIN / "ansible-runner", "process", self.path / "job"]
        with received.open("rb") as stream:
            done = subprocess.run(
                argv, env=self.environment(), cwd=self.path, stdin=stream, capture_output=True, timeout=60, check=False
            )
        said = (done.stdout + done.stderr).decode()
        print(said)
        status = self.path / "job" / "artifacts" / "status"
        return status.read_text() if status.exists() else "none", said

    def run(self, template: str, limit: str = "", **variables: Any) -> tuple[str, int, str]:
        """A job from its launch to its end: status, return code of Ansible, what it printed."""
        received = self.path / "received"
        with self.work(self.transmit(template, limit, variables), received) as worker:
            assert worker.wait(timeout=180) is not None
        status, said = self.process(received)
        return status, int((self.path / "job" / "artifacts" / "rc").read_text()), said


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection as it is published."""
    built = tmp_path_factory.mktemp("built")
    subprocess.run([BIN / "ansible-galaxy", "collection", "build", "--output-path", built, ROOT], check=True)
    (found,) = built.glob("evenkeel-fault_tolerance-*.tar.gz")
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: the sockets of SSH connections lie in it, whose paths may not be long."""
    with tempfile.TemporaryDirectory(prefix="awx-") as path:
        yield Path(path)


@pytest.fixture
def awx(fleet: Fleet, artifact: Path, place: Path) -> Awx:
    awx = Awx(fleet, place)
    job = awx.path / "job"
    for directory in (awx.path / "home", job / "project", job / "env"):
        directory.mkdir(parents=True)
    # Where execution environments have collections that came with them.
    installed = awx.path / "home" / ".ansible" / "collections"
    install: list[str | Path] = [
        BIN / "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "-p",
        installed,
        artifact,
    ]
    subprocess.run(install, env=awx.environment(), check=True)
    shutil.copytree(fleet.home / "inventory", job / "inventory")
    for template in ("change", "protect"):
        text = f"- ansible.builtin.import_playbook: evenkeel.fault_tolerance.{template}\n"
        (job / "project" / f"{template}.yml").write_text(text)
    for name, content in (("good", GOOD), ("broken", BROKEN), ("endless", ENDLESS), ("slow", SLOW)):
        (job / "project" / f"{name}.yml").write_text(content)
    return awx


def test_a_good_change_is_confirmed(awx: Awx) -> None:
    fleet = awx.fleet
    status, code, _ = awx.run("change", "web1,web2", evenkeel_hosts="site", evenkeel_tasks="good.yml")
    assert (status, code) == ("successful", 0)
    changed = [host for host in fleet.names if fleet.touched(host)]
    assert changed == ["web1", "web2"], "the hosts of the job's limit"
    assert all(fleet.serves(host, "version 2") and fleet.state(host)["outcome"] == "confirmed" for host in changed)


def test_a_broken_change_fails_and_is_undone(awx: Awx) -> None:
    fleet = awx.fleet
    status, code, _ = awx.run("change", evenkeel_hosts="site", evenkeel_tasks="broken.yml")
    assert status == "failed" and code != 0
    assert fleet.state("web1")["outcome"] == "rolled_back"
    assert fleet.differs("web1") == "" and fleet.serves("web1")
    assert not any(fleet.touched(host) for host in fleet.names[1:])


@pytest.mark.long
def test_no_task_runs_on_after_the_deadline(awx: Awx) -> None:
    fleet = awx.fleet
    within = {"evenkeel_confirm_within": "20s"}
    status, code, said = awx.run("change", "web1", evenkeel_hosts="site", evenkeel_tasks="slow.yml", **within)
    assert status == "failed" and code != 0
    assert "put itself back already, by deadline" in said
    assert (fleet.state("web1")["outcome"], fleet.state("web1")["by"]) == ("rolled_back", "deadline")
    assert fleet.differs("web1") == "" and fleet.serves("web1")


def test_a_misspelt_limit_is_no_success(awx: Awx) -> None:
    status, code, said = awx.run("change", "web1,wbe2", evenkeel_hosts="site", evenkeel_tasks="good.yml")
    assert status == "failed" and code != 0
    assert "wbe2" in said
    assert not any(awx.fleet.touched(host) for host in awx.fleet.names)


@pytest.mark.long
def test_protect_keeps_copies_on_other_hosts(awx: Awx) -> None:
    variables = {"evenkeel_hosts": "site", "evenkeel_peers": "site", "evenkeel_copies": 2}
    status, code, said = awx.run("protect", "web1", **variables)
    # A key that is made in a job ends with it, and no later job would know the copies.
    assert status == "failed" and code != 0 and "set evenkeel_key" in said
    status, code, said = awx.run("protect", "web1", **variables, evenkeel_key="0123456789abcdef" * 4)
    assert (status, code) == ("successful", 0) and "0123456789abcdef" not in said
    holders = "test -d /var/lib/evenkeel/replicas/web1 && echo yes"
    assert sum(awx.fleet.on(host, holders, check=False).strip() == "yes" for host in awx.fleet.names[1:]) == 2


def test_hosts_of_a_cancelled_job_put_themselves_back(awx: Awx) -> None:
    fleet, received = awx.fleet, awx.path / "received"
    variables = {"evenkeel_hosts": "site", "evenkeel_tasks": "endless.yml", "evenkeel_confirm_within": "15s"}
    with awx.work(awx.transmit("change", "", variables), received) as worker:
        changed = fleet.eventually(lambda: fleet.serves("web1", "version 2"), 120)
        # The end of an execution environment is the end of all that runs in it.
        for one in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
            one.kill()
    assert changed
    assert fleet.armed("web1"), "it must be the host that puts itself back, later"
    killed = time.time()
    assert awx.process(received)[0] != "successful"
    assert fleet.eventually(lambda: not fleet.armed("web1"), 30)
    event = fleet.state("web1")
    assert (event["outcome"], event["by"]) == ("rolled_back", "deadline") and event["at"] > killed - 1
    assert fleet.differs("web1") == "" and fleet.serves("web1")
    assert not any(fleet.touched(host) for host in fleet.names[1:])
