# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The login that confirms is one that nothing shares, wherever the user has said how connections are shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet

SHARED = "-o ControlMaster=auto -o ControlPersist=30m -o ControlPath=/tmp/shared-%C"
# Each of its commands runs here, in a session of its own, as sshd would start it.
SSH = """#!/bin/sh
echo "$@" >>{log}
for last; do :; done
exec sh -c "$last"
"""


@pytest.mark.parametrize(
    ("where", "variables"),
    [
        ("inventory", {}),
        ("inventory", {"ansible_ssh_args": SHARED}),
        pytest.param("inventory", {"ansible_ssh_common_args": SHARED}, marks=pytest.mark.long),
        pytest.param("inventory", {"ansible_control_path": "/tmp/shared-%%h"}, marks=pytest.mark.long),
        ("extra", {"ansible_ssh_args": SHARED}),
        pytest.param("extra", {"ansible_ssh_args": ""}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_confirming_login_shares_no_connection(
    fleet: Fleet, library: Path, tmp_path: Path, where: str, variables: dict[str, Any]
) -> None:
    log, live = tmp_path / "ssh.log", tmp_path / "live"
    (tmp_path / "ssh").write_text(SSH.format(log=log))
    (tmp_path / "ssh").chmod(0o755)
    live.write_text("before")
    name = next(iter(fleet.hosts))
    fleet.hosts = {name: {**fleet.hosts[name], **(variables if where == "inventory" else {})}}
    fleet.hosts[name] |= {
        "ansible_connection": "ssh",
        "ansible_ssh_executable": str(tmp_path / "ssh"),
        "ansible_pipelining": True,
    }
    ours = "evenkeel.fault_tolerance."
    begin = {"name": "change", "resources": [{"files": {"paths": [str(live)]}}], "confirm_within": "60s"}
    begin["store"] = settle_store = str(shutil.copytree(library, tmp_path / "store"))
    tasks: list[dict[str, Any]] = [
        {f"{ours}ft_checkpoint": begin, "register": "begun"},
        {f"{ours}ft_settle": {"generation": "{{ begun.generation }}", "store": settle_store}},
    ]
    words = ["-e", json.dumps(variables)] if where == "extra" else []
    run = fleet.play(tasks, "all", *words)
    assert run.rc == 0 and run.results[name]["outcome"] == "confirmed"
    # ssh takes the first of its options that are of one name.
    begun, settled = log.read_text().splitlines()[-2:]
    first = [word for word in settled.split() if word.startswith(("ControlPath", "ControlMaster"))]
    assert first[:2] == ["ControlMaster=no", "ControlPath=none"]
    assert "ControlPath=none" not in begun


def test_in_a_run_of_the_driver_its_commands_share_one_login_that_is_new(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts may limit logins (ufw limit, MaxStartups)."""
    log, sockets = tmp_path / "ssh.log", tmp_path / "50% c7"
    (tmp_path / "ssh").write_text(SSH.format(log=log))
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("EVENKEEL_SOCKETS", str(sockets))
    host = {**next(iter(fleet.hosts.values())), "ansible_ssh_args": SHARED, "ansible_connection": "ssh"}
    host |= {"ansible_ssh_executable": str(tmp_path / "ssh"), "ansible_pipelining": True}
    host["ansible_python_interpreter"] = "auto"  # to find it takes a command
    fleet.hosts = {"a": host, "b": host}  # of one address, as behind two jump hosts
    settle = {"generation": 7, "store": str(tmp_path / "store")}
    fleet.play([{"evenkeel.fault_tolerance.ft_settle": settle}], "all")
    lines = log.read_text().splitlines()
    ways = {next(word for word in line.split(" -o ") if word.startswith("ControlPath")) for line in lines}
    assert len(lines) > 2 and len(ways) == 2, "no host shares the login of another"
    assert all(way.startswith(f'ControlPath="{tmp_path}/50%% c7/') for way in ways)
    ours = "-o ControlMaster=auto -o ControlPersist=10 -o ControlPath="
    assert all(0 <= line.find(ours) < line.find("30m") for line in lines), "ssh takes the first of its options"
