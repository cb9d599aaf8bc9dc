# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An operation on a real host, over SSH: what it began goes on there when the controller is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from .conftest import Fleet

HOST = "web1"
CLEAR = "rm -rf /var/tmp/ek-repeat /var/lib/evenkeel/operations; mkdir /var/tmp/ek-repeat"


def operation(operation_id: str, script: str, **options: Any) -> dict[str, Any]:
    return {
        "id": operation_id,
        "class": "once",
        "module": "ansible.builtin.command",
        "args": {"argv": ["sh", "-c", f"cd /var/tmp/ek-repeat; echo . >> calls; {script}"]},
        "verify": [{"command": {"argv": ["test", "-e", "/var/tmp/ek-repeat/effect"]}}],
        **options,
    }


def test_what_a_killed_controller_or_the_deadline_leaves_is_waited_for_and_named(fleet: Fleet) -> None:
    fleet.on(HOST, CLEAR)
    wanted = operation("killed", "sleep 8; touch effect")
    argv = [str(Path(sys.executable).with_name("ansible")), HOST, "-i", "inventory", "-m"]
    argv += ["evenkeel.fault_tolerance.ft_repeat", "-a", json.dumps(wanted)]
    with subprocess.Popen(argv, cwd=fleet.home, env=fleet.environment(), stdout=subprocess.DEVNULL) as process:
        assert fleet.eventually(lambda: "." in fleet.on(HOST, "cat /var/tmp/ek-repeat/calls", check=False), 30)
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            one.kill()
    result = fleet.module(HOST, "ft_repeat", **wanted)
    assert not result["failed"] and result["outcome"] == "verified" and result["attempts"] == []
    assert fleet.on(HOST, "wc -l < /var/tmp/ek-repeat/calls").strip() == "1"

    fleet.on(HOST, "rm /var/tmp/ek-repeat/effect")
    result = fleet.module(HOST, "ft_repeat", **operation("hangs", "exec sleep 300", deadline="10s"))
    assert result["failed"] and result["outcome"] == "in_doubt" and "; sleep[" in result["msg"]
    fleet.on(HOST, f"pkill -x sleep; {CLEAR}")
