# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What real processes are made of and hold, and what systemd's words of a unit mean."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import running, unit


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A program of its own, and the process that runs it."""
    program = tmp_path / "prog"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as process:
        deadline = time.monotonic() + 10
        while os.readlink(f"/proc/{process.pid}/exe") != str(program) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield program, process.pid
        process.kill()


def test_a_program_is_replaced_when_another_one_has_its_place(sleeper: tuple[Path, int]) -> None:
    program, pid = sleeper
    began = time.time() - 1
    assert running.replaced([pid], [], began) == ""
    # What is about to be put back.
    assert running.replaced([pid], [str(program)], began) == str(program)
    assert running.replaced([pid], [str(program.parent)], began) == str(program)
    os.unlink(program)
    # A program may remove itself, and is no other one for that.
    assert running.replaced([pid], [], began) == ""
    program.write_text("another")
    assert running.replaced([pid], [], began) == str(program)
    assert running.replaced([pid], [], time.time() + 60) == ""


def test_a_library_is_replaced_too(tmp_path: Path) -> None:
    library = tmp_path / "libek.so"
    maps = tmp_path / "proc" / "1" / "maps"
    maps.parent.mkdir(parents=True)
    maps.write_text(
        f"7f00-7f01 r-xp 00000000 08:01 1   {library} (deleted)\n7f02-7f03 r--p 0 08:01 2 {tmp_path}/data\n"
    )
    assert running.replaced([1], [], 0.0, str(tmp_path / "proc")) == ""
    library.touch()
    (tmp_path / "data").touch()
    assert running.replaced([1], [], 0.0, str(tmp_path / "proc")) == str(library)
    # Put back under it a moment ago, and shown where the old one was kept meanwhile.
    maps.write_text("7f00-7f01 r-xp 0 08:01 1 /usr/lib/.evenkeel-1/0.old (deleted)\n")
    assert running.replaced([1], [], time.time() + 60, str(tmp_path / "proc")) == "/usr/lib/.evenkeel-1/0.old"


def test_a_directory_that_is_there_for_its_attributes_covers_nothing() -> None:
    assert running.touches(["/opt/a/prog"], ["/opt/a"]) == "/opt/a/prog"
    assert running.touches(["/opt/a/prog"], ["/opt/a", "/opt/a/other"]) == ""
    assert running.touches(["/opt/a/prog"], ["/opt/a", "/opt/a/prog"]) == "/opt/a/prog"
    assert running.touches(["/opt/ab"], ["/opt/a"]) == ""


def test_only_what_is_open_for_writing_is_written(tmp_path: Path) -> None:
    (tmp_path / "read").touch()
    code = f"import sys, time; a = open({str(tmp_path / 'read')!r}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert running.writes([process.pid], [str(tmp_path)]) == ""
        process.kill()
    with subprocess.Popen([sys.executable, "-c", code.replace("')", "', 'a')")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert running.writes([process.pid], [str(tmp_path)]) == str(tmp_path / "read")
        assert running.writes([process.pid], ["/elsewhere"]) == ""
        assert running.logs(process.pid) == {str(tmp_path / "read"): 0}
        process.kill()


def test_the_processes_of_a_unit_are_those_of_its_control_group(tmp_path: Path) -> None:
    groups = {
        "10": "0::/system.slice/web.service",
        "11": "1:name=systemd:/system.slice/web.service/worker\n0::/",
        "12": "0::/user.slice/user-1.slice/user@1.service/app.slice/web.service",
        "13": "0::/system.slice/webs.service",
        "x": "0::/system.slice/web.service",
    }
    for pid, text in groups.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(text + "\n")
    found = running.processes(["web.service", "gone.service"], str(tmp_path))
    assert {name: sorted(pids) for name, pids in found.items()} == {"web.service": [10, 11], "gone.service": []}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1min 30s", 90.0), ("infinity", None), ("0", None), ("5min", 300.0), ("1h 500ms", 3600.5), ("", None)],
)
def test_a_time_of_systemd_is_read(text: str, seconds: float | None) -> None:
    assert unit.span(text) == seconds


def test_a_unit_is_waited_for_as_long_as_it_allows_itself() -> None:
    slow = unit.read({"Id": ["a.service"], "TimeoutStartUSec": ["5min"], "TimeoutStopUSec": ["10min"]})
    assert slow.patience("stop") > 600 and slow.patience("start") > 300 + 600 and slow.patience("reload") > 300
    assert "the unit's own limit" in slow.waited("stop")
    endless = unit.read({"Id": ["a.service"], "TimeoutStartUSec": ["infinity"], "TimeoutStopUSec": ["1s"]})
    assert unit.CAP < endless.patience("start") < 2 * unit.CAP
    assert "sets no limit of its own" in endless.waited("start") and endless.patience("stop") < 60
    never = unit.read({"Id": ["a.service"], "TimeoutStartUSec": ["5s"], "TimeoutStopUSec": ["infinity"]})
    assert never.patience("stop") < 60 and never.patience("restart") < 60


def test_what_a_unit_was_made_of_is_read() -> None:
    block = {
        "Id": ["web.service"],
        "FragmentPath": ["/etc/systemd/system/web.service"],
        "DropInPaths": ["/etc/a.conf /etc/b.conf"],
        "EnvironmentFiles": ["/etc/default/web (ignore_errors=yes)"],
        "ExecStart": [
            "{ path=/usr/sbin/nginx ; argv[]=/usr/sbin/nginx -c /etc/nginx.conf ; ignore_errors=no ; pid=0 }",
            "{ path=/usr/bin/python3 ; argv[]=/usr/bin/python3 /opt/app.py ; ignore_errors=no ; pid=0 }",
        ],
        "RefuseManualStop": ["yes"],
    }
    known = unit.read(block)
    assert known.files == (
        *("/etc/systemd/system/web.service", "/etc/a.conf", "/etc/b.conf", "/etc/default/web"),
        *("/usr/sbin/nginx", "/usr/bin/python3", "/opt/app.py"),
    )
    assert known.starts and not known.stops and known.is_service
    assert not unit.read({"Id": ["web.socket"]}).is_service
