# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No process decides how much memory its reader takes, nor as which unit's process or as which program it counts."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import background, processes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import cluster
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.holders import holders
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.places import Places

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="processes of another user need root")
_MAX = 1 << 18


@pytest.fixture
def foreign() -> Iterator[int]:
    """A process of another user that calls itself Patroni."""
    code = "print(flush=True); import time; time.sleep(60)"
    argv = ["/usr/bin/python3", "-c", code, "/usr/bin/patroni"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, user=12345, group=12345, cwd="/") as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process.pid
        process.kill()


def test_an_entry_is_read_up_to_a_limit() -> None:
    code = "print(flush=True); input()"
    argv = [sys.executable, "-c", code, *["x" * 100_000] * 4]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        words = processes.arguments(process.pid)
        process.kill()
    assert words[2:4] == [code.encode(), b"x" * 100_000] and len(b"\0".join(words)) <= _MAX


@needs_root
def test_the_command_line_of_another_user_is_not_read(foreign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def arguments(pid: int) -> list[bytes]:
        read.append(pid)
        return processes.arguments(pid)

    monkeypatch.setattr(background, "arguments", arguments)
    background._jobs(background._Owners({0}, -1), 0.0, 1e12)
    assert foreign not in read
    background._jobs(background._Owners({12345}, -1), 0.0, 1e12)
    assert foreign in read


def test_files_that_a_process_maps_again_and_again_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    line = f"7f00-7f01 r-xp 00000000 08:01 1   /srv/{'long' * 200} (deleted)\n"
    (tmp_path / "7" / "maps").write_text(line * 5000 + "x" * (_MAX + 1))
    (tmp_path / "7" / "comm").write_text("daemon\n")
    tracemalloc.start()
    found = holders(lambda path: path, proc=str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one["processes"] for one in found] == [["daemon[7]"]] and peak < 4 * _MAX < len(line) * 5000


@pytest.mark.parametrize(
    ("group", "unit", "service"),
    [
        ("0::/system.slice/system-app.slice/app@1.service", "app@1.service", "app@1.service"),
        ("0::/system.slice/app.service/nginx.service", "app.service", "app.service"),
        ("0::/user.slice/user-7.slice/user@7.service/app.slice/nginx.service", "user@7.service", ""),
        ("0::/user.slice/user-7.slice/session-1.scope", "session-1.scope", ""),
        ("0::/machine.slice/libpod-1.scope/system.slice/nginx.service", "libpod-1.scope", ""),
        ("0::/docker/1/system.slice/nginx.service", "", ""),
        (
            "3:cpu:/system.slice/other.service\n1:name=systemd:/system.slice/app.service\n0::/",
            "app.service",
            "app.service",
        ),
        ("", "", ""),
    ],
)
def test_the_unit_of_a_process_is_the_one_that_systemd_made(
    tmp_path: Path, group: str, unit: str, service: str
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(group + "\n")
    places = Places(str(tmp_path))
    assert places.unit("7") == unit and places.service(7) == service


@needs_root
def test_patroni_counts_where_it_can_act_on_the_cluster(foreign: int) -> None:
    assert not cluster._patroni({0, 23456})
    assert cluster._patroni({0, 12345})
