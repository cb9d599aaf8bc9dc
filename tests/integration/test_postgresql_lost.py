# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database host is lost for good, and a spare gets its database: all that was acknowledged as copied is there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, unavailable

from evenkeel.collection import collections_path

from .conftest import Fleet
from .test_guard import BIN

pytestmark = pytest.mark.long
VARIABLES = """
evenkeel_peers: [web2]
evenkeel_copies: 1
evenkeel_resources:
  - postgresql: {cluster: 15/main}
"""
SETUP = """
- hosts: web1
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: evenkeel.fault_tolerance.postgresql}
      vars: {evenkeel_postgresql_cluster: 15/main}
"""
INSTALL = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y postgresql-15 >/dev/null 2>&1"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Fleet]:
    """web1 with a database, web2 that holds copies, and web3, a spare."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with Lab(f"{os.environ.get('EVENKEEL_LAB', 'flows')}-pg", hosts=3) as lab:
        inventory = tmp_path / "inventory"
        (inventory / "group_vars").mkdir(parents=True)
        (inventory / "hosts.yml").write_text(lab.inventory.read_text())
        (inventory / "group_vars" / "all.yml").write_text(VARIABLES)
        fleet = Fleet(lab, tmp_path, [host.name for host in lab.hosts])
        for host in ("web1", "web3"):
            fleet.on(host, INSTALL)
        yield fleet
        fleet.end()


def sql(fleet: Fleet, host: str, statement: str) -> str:
    return fleet.on(host, f"setpriv --reuid=postgres --regid=postgres --init-groups psql -XAtqc '{statement}'").strip()


def test_a_spare_gets_all_that_was_acknowledged(three: Fleet) -> None:
    fleet = three
    (fleet.home / "setup.yml").write_text(SETUP)
    environment = {**fleet.environment(), "ANSIBLE_COLLECTIONS_PATH": str(collections_path())}
    argv = [str(BIN / "ansible-playbook"), "-i", "inventory", "setup.yml"]
    done = subprocess.run(argv, cwd=fleet.home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sql(fleet, "web1", "create table t (i int)")
    words = ("protect", "-i", "inventory", "-l", "web1")
    code, said = fleet.evenkeel(*words)
    assert code == 0, said
    noted = 0
    for number in range(1, 5):
        sql(fleet, "web1", f"insert into t values ({number})")
        code, said = fleet.evenkeel(*words, "--only-logs")
        assert code == 0, said
        noted = number
    code, said = fleet.evenkeel(*words, "--only-logs")  # nothing new
    assert code == 0, said
    sql(fleet, "web1", "insert into t values (5)")
    code, said = fleet.evenkeel("status", "-i", "inventory", "-l", "web1")
    assert code == 0 and "MiB ahead of the copies" in " ".join(said.split()), said
    (log,) = fleet.module("web1", "ft_info")["logs"]
    assert log["copies"] == 1 and log["seconds"] > 0 and log["bytes"] > 0
    system = sql(fleet, "web1", "select system_identifier from pg_control_system()")

    fleet.lab.stop("web1", now=True)
    code, said = fleet.evenkeel("recover", "web1", "-i", "inventory", "--onto", "web3", "--checkpoint", "logs")
    assert code == 0, said
    assert int(sql(fleet, "web3", "select max(i) from t")) >= noted == 4
    assert sql(fleet, "web3", "select system_identifier from pg_control_system()") == system
    assert "active" in fleet.on("web3", "systemctl is-active postgresql@15-main")
    # The spare is a database host now: its log is recorded and copied.
    sql(fleet, "web3", "insert into t values (6)")
    code, said = fleet.evenkeel("protect", "-i", "inventory", "-l", "web3", "--only-logs")
    assert code == 0, said
    (log,) = fleet.module("web3", "ft_info")["logs"]
    assert log["seconds"] == 0
