# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible has left running is ended before a host goes back; what only looks like it is left alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _jobs
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._system import System

# A host of its own, where jobs can only be of this host.
HOST = replace(System(), has_systemd=lambda: True)
_MODULE = """
import subprocess, sys, time
child = subprocess.Popen(["/bin/sleep", "77"])
print("ready", flush=True)
time.sleep(77)
"""


@pytest.fixture(autouse=True)
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all processes of this machine only those that a test has started: others may be at work here with Ansible."""
    everything = _jobs._processes

    def ours() -> dict[int, _jobs.Process]:
        found = everything()
        return {pid: one for pid, one in found.items() if os.getpid() in _jobs._lineage(pid, found)}

    monkeypatch.setattr(_jobs, "_processes", ours)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The directory of a task, as Ansible makes it, with a module that has a child."""
    path = tmp_path / "ansible-tmp-1795834904.35-1234-98765"
    path.mkdir()
    (path / "AnsiballZ_command.py").write_text(_MODULE)
    (path / "async_wrapper.py").write_text(_MODULE)
    return path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()


def start(started: list[subprocess.Popen[str]], *argv: str | Path) -> subprocess.Popen[str]:
    one = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    started.append(one)
    return one


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def children(pid: int) -> list[int]:
    return [one.pid for one in _jobs._processes().values() if one.parent == pid]


@pytest.mark.parametrize("name", ["AnsiballZ_command.py", "async_wrapper.py"])
def test_a_job_ends_with_what_it_started(scripts: Path, started: list[subprocess.Popen[str]], name: str) -> None:
    since = boottime() - 1
    job = start(started, sys.executable, scripts / name, "j1", "300")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    (child,) = children(job.pid)
    result = _jobs.end(HOST, since, boottime(), 0.0)
    assert len(result.ended) == 1 and name in result.ended[0] and not result.running
    assert _jobs.started(job.pid) == _jobs.started(child) == 0.0


def test_a_pipelined_module_is_waited_for_and_then_ended(started: list[subprocess.Popen[str]]) -> None:
    since = boottime() - 1
    one = start(started, "/bin/sh", "-c", f"{sys.executable} -c 'import time; time.sleep(77)' && sleep 0")
    two = start(started, "/bin/sh", "-c", f"sleep 0.5; {sys.executable} -c pass && sleep 0")
    result = _jobs.end(HOST, since, boottime() + 1, 3.0)
    assert two.wait(5) == 0, "it had the time to end by itself"
    assert one.wait(5) < 0 and len(result.ended) == 1


def test_what_only_looks_like_a_job_is_left_alone(scripts: Path, started: list[subprocess.Popen[str]]) -> None:
    """A command line of somebody's, what was there before the change, another user's, and a module of ours."""
    before = start(started, sys.executable, scripts / "AnsiballZ_command.py")
    assert before.stdout is not None and before.stdout.readline() == "ready\n"
    time.sleep(0.05)
    since = boottime()
    time.sleep(0.05)
    mine = start(started, "/bin/sh", "-c", "sleep 66; true && sleep 0")
    word = start(started, "/bin/sh", "-c", "sleep 66; : AnsiballZ_command.py")
    ours = (
        "import sys; sys.path[:] = eval(sys.argv[1]); from ansible_collections.evenkeel.fault_tolerance.plugins."
        "module_utils._jobs import be_ours; be_ours(); print('ready', flush=True); import time; time.sleep(66)"
    )
    settle = start(started, "/bin/sh", "-c", f'{sys.executable} -c "{ours}" "{sys.path}" && sleep 0')
    assert settle.stdout is not None and settle.stdout.readline() == "ready\n"
    began = time.monotonic()
    result = _jobs.end(HOST, since, boottime(), 30.0)
    assert not result.ended and not result.running and time.monotonic() - began < 20
    assert all(one.poll() is None for one in (before, mine, word, settle))


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process needs root")
def test_no_other_user_delays_the_deadline(scripts: Path, started: list[subprocess.Popen[str]]) -> None:
    since = boottime() - 1
    other = start(
        started, "setpriv", "--reuid=12345", "--clear-groups", "/bin/sh", "-c", "sleep 66; /python3 && sleep 0"
    )
    time.sleep(0.3)
    began = time.monotonic()
    assert not _jobs.end(HOST, since, boottime(), 30.0).ended and time.monotonic() - began < 20
    assert other.poll() is None


def test_half_an_installation_is_named_and_goes_on(scripts: Path, started: list[subprocess.Popen[str]]) -> None:
    since = boottime() - 1
    dpkg = scripts / "dpkg"
    shutil.copy("/bin/sleep", dpkg)
    (scripts / "AnsiballZ_apt.py").write_text(_MODULE.replace("/bin/sleep", str(dpkg)))
    job = start(started, sys.executable, scripts / "AnsiballZ_apt.py")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    result = _jobs.end(HOST, since, boottime(), 0.0)
    assert not result.ended and len(result.running) == 1 and "AnsiballZ_apt.py" in result.running[0]
    assert job.poll() is None


def test_on_a_machine_that_plays_several_hosts_nothing_is_ended(
    scripts: Path, started: list[subprocess.Popen[str]]
) -> None:
    since = boottime() - 1
    job = start(started, sys.executable, scripts / "AnsiballZ_command.py")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    result = _jobs.end(replace(System(), has_systemd=lambda: False), since, boottime(), 0.2)
    assert result == _jobs.Ended() and job.poll() is None
