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
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import strays
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import background
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.processes import login_of, user_ids
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System

from .fake_systemd import Unit, machine

TICKS = os.sysconf("SC_CLK_TCK")


def ours() -> list[int]:
    """Of all processes of this machine those that a test has started, and their ancestors: others may be at work here
    with Ansible."""
    everything = background._processes(System())
    return [pid for pid in everything if os.getpid() in background._lineage(pid, everything)]


# A host of its own, where jobs can only be of this host.
HOST = replace(System(), has_systemd=lambda: True, pids=ours)
_MODULE = """
import subprocess, sys, time
child = subprocess.Popen(["/bin/sleep", "77"])
print("ready", flush=True)
time.sleep(77)
"""


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


def enter(folder: Path) -> None:
    """Let every user through to a directory of the tests, which lies deeper where tests run side by side."""
    while folder != Path(tempfile.gettempdir()) and folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o111)
        folder = folder.parent


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def children(pid: int) -> list[int]:
    return [one.pid for one in background._processes(System()).values() if one.parent == pid]


@pytest.mark.parametrize("name", ["AnsiballZ_command.py", "async_wrapper.py"])
def test_a_job_ends_with_what_it_started(scripts: Path, started: list[subprocess.Popen[str]], name: str) -> None:
    since = boottime() - 1
    job = start(started, sys.executable, scripts / name, "j1", "300")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    (child,) = children(job.pid)
    result = background.end_jobs(HOST, since, boottime(), 0.0)
    assert len(result.ended) == 1 and name in result.ended[0] and not result.running
    assert background.started(job.pid) == background.started(child) == 0.0


def test_a_job_that_still_runs_is_named_and_left_alone(scripts: Path, started: list[subprocess.Popen[str]]) -> None:
    since = boottime() - 1
    job = start(started, sys.executable, scripts / "async_wrapper.py", "j1", "300")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    (said,) = background.running(HOST, since, boottime())
    assert said.startswith(f"pid {job.pid}: python") and said.endswith("async_wrapper.py") and job.poll() is None
    assert background.running(HOST, boottime(), boottime()) == []
    assert background.running(replace(System(), has_systemd=lambda: False), since, boottime()) == []


def test_a_pipelined_module_is_waited_for_and_then_ended(started: list[subprocess.Popen[str]]) -> None:
    since = boottime() - 1
    one = start(started, "/bin/sh", "-c", f"{sys.executable} -c 'import time; time.sleep(77)' && sleep 0")
    two = start(started, "/bin/sh", "-c", f"sleep 0.5; {sys.executable} -c pass && sleep 0")
    result = background.end_jobs(HOST, since, boottime() + 1, 3.0)
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
        "module_utils._host.background import mark_as_ours; mark_as_ours(); "
        "print('ready', flush=True); import time; time.sleep(66)"
    )
    settle = start(started, "/bin/sh", "-c", f'{sys.executable} -c "{ours}" "{sys.path}" && sleep 0')
    assert settle.stdout is not None and settle.stdout.readline() == "ready\n"
    began = time.monotonic()
    result = background.end_jobs(HOST, since, boottime(), 30.0)
    assert not result.ended and not result.running and time.monotonic() - began < 20
    assert all(one.poll() is None for one in (before, mine, word, settle))


def test_a_job_of_another_account_is_ended_where_the_login_of_the_change_has_started_it(
    scripts: Path, started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with become_user: the kernel keeps who logged in, whoever a process becomes."""
    since = boottime() - 1
    job = start(started, sys.executable, scripts / "async_wrapper.py")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    monkeypatch.setattr(background, "user_ids", lambda *words: {12345} if words[0] == job.pid else user_ids(*words))
    monkeypatch.setattr(background, "login_of", lambda *words: 1000 if words[0] == job.pid else login_of(*words))
    for other in (-1, 1001, 0):
        assert not background.end_jobs(HOST, since, boottime(), 0.0, other).ended and job.poll() is None
    assert len(background.end_jobs(HOST, since, boottime(), 0.0, 1000).ended) == 1
    assert job.wait(5) < 0


LOOKS = "sleep 66; /python3 && sleep 0"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user's process needs root")


@needs_root
@pytest.mark.parametrize("way", ["plain", "gains", "gains, by a script"])
def test_no_other_user_delays_the_deadline(
    tmp_path: Path, scripts: Path, started: list[subprocess.Popen[str]], way: str
) -> None:
    """Neither by the words of a process, nor by those of a program that gains root's rights, as su and passwd do."""
    since = boottime() - 1
    # A Python that is set-uid plays it: it keeps the rights, and takes any words.
    gains = tmp_path / ("python3" if "script" in way else "bash")
    shutil.copy(os.path.realpath(sys.executable), gains)
    gains.chmod(0o4755)
    enter(scripts)
    run = {
        "plain": f"exec sh -c '{LOOKS}'",
        "gains": f"exec -a sh {gains} -c 'import time; time.sleep(66) # /python3 && sleep 0'",
        "gains, by a script": f"exec {gains} {scripts}/AnsiballZ_command.py",
    }[way]
    words = ["setpriv", "--reuid=12345", "--clear-groups", "env", f"PYTHONHOME={sys.base_prefix}", "bash", "-c", run]
    other = start(started, *words)
    time.sleep(0.5)
    began = time.monotonic()
    assert not background.end_jobs(HOST, since, boottime(), 3.0).ended and time.monotonic() - began < 2
    assert other.poll() is None
    assert way == "plain" or os.stat(f"/proc/{other.pid}").st_uid == 0, "it has not gained anything"


@needs_root
@pytest.mark.parametrize("name", ["sh", "su"])
def test_a_program_that_gains_rights_is_no_job(tmp_path: Path, started: list[subprocess.Popen[str]], name: str) -> None:
    """As su would be that waits for a password, with the words ``sh -c '… && sleep 0'``: all root's once it has set its
    users, which a copy of the interpreter plays here."""
    since = boottime() - 1
    waits = tmp_path / name
    shutil.copy(os.path.realpath(shutil.which("bash") or ""), waits)
    one = start(started, "bash", "-c", f"exec -a sh {waits} -c '{LOOKS}; true && sleep 0'")
    time.sleep(0.3)
    result = background.end_jobs(HOST, since, boottime(), 0.0)
    assert bool(result.ended) == (name == "sh") and (one.poll() is None) == (name == "su")


@needs_root
@pytest.mark.parametrize("name", [background.OURS, "dpkg"])
def test_no_other_user_keeps_a_job_alive(
    tmp_path: Path, scripts: Path, started: list[subprocess.Popen[str]], name: str
) -> None:
    """What a job has started as another user calls itself a module of ours, or a package manager."""
    since = boottime() - 1
    code = (
        "import ctypes, os, time\n"
        "if os.fork() == 0:\n    os.setresuid(12345, 12345, 12345)\n"
        f"    ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n    time.sleep(77)\n"
        "time.sleep(0.3)\nprint('ready', flush=True)\ntime.sleep(77)\n"
    )
    if name == "dpkg":
        shutil.copy("/bin/sleep", scripts / "dpkg")
        code = (
            "import os, subprocess, time\n"
            f"subprocess.Popen(['{scripts}/dpkg', '77'], preexec_fn=lambda: os.setresuid(12345, 12345, 12345))\n"
            "print('ready', flush=True)\ntime.sleep(77)\n"
        )
        enter(scripts)
    (scripts / "AnsiballZ_shell.py").write_text(code)
    job = start(started, sys.executable, scripts / "AnsiballZ_shell.py")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    time.sleep(0.2)
    assert len(background.end_jobs(HOST, since, boottime(), 0.0).ended) == 1 and job.wait(5) < 0


def test_what_a_python_is_given_as_a_word_is_not_what_it_runs(
    tmp_path: Path, scripts: Path, started: list[subprocess.Popen[str]]
) -> None:
    """As a program of root's would be that a user may call, through sudo, with words of the user's choice."""
    since = boottime() - 1
    (tmp_path / "tool.py").write_text("import time; print('ready', flush=True); time.sleep(66)")
    tool = start(started, sys.executable, tmp_path / "tool.py", scripts / "AnsiballZ_command.py")
    assert tool.stdout is not None and tool.stdout.readline() == "ready\n"
    assert background.end_jobs(HOST, since, boottime(), 3.0) == background.Ended() and tool.poll() is None


def test_half_an_installation_is_named_and_goes_on(scripts: Path, started: list[subprocess.Popen[str]]) -> None:
    since = boottime() - 1
    dpkg = scripts / "dpkg"
    shutil.copy("/bin/sleep", dpkg)
    (scripts / "AnsiballZ_apt.py").write_text(_MODULE.replace("/bin/sleep", str(dpkg)))
    job = start(started, sys.executable, scripts / "AnsiballZ_apt.py")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    result = background.end_jobs(HOST, since, boottime(), 0.0)
    assert not result.ended and len(result.running) == 1 and "AnsiballZ_apt.py" in result.running[0]
    assert job.poll() is None


def test_on_a_machine_that_plays_several_hosts_nothing_is_ended(
    scripts: Path, started: list[subprocess.Popen[str]]
) -> None:
    since = boottime() - 1
    job = start(started, sys.executable, scripts / "AnsiballZ_command.py")
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    result = background.end_jobs(replace(System(), has_systemd=lambda: False), since, boottime(), 0.2)
    assert result == background.Ended() and job.poll() is None


def write_process(proc: Path, one: background.Process) -> None:
    """Write what the kernel tells of a process."""
    folder = proc / str(one.pid)
    folder.mkdir()
    rest = ["0"] * 16
    (folder / "stat").write_text(f"{one.pid} ({one.name}) S {one.parent} {one.group} {' '.join(rest)} {one.ticks} 0\n")
    (folder / "status").write_text("Uid:\t" + "\t".join(str(user) for user in [*one.users] * 4) + "\n")
    (folder / "loginuid").write_text(f"{one.login}\n")
    (folder / "exe").symlink_to(f"/usr/bin/{one.program}")
    group = "system.slice/cron.service" if one.pid == 1008 else "user.slice/user-0.slice/session-7.scope"
    (folder / "cgroup").write_text(f"0::/{group}\n")


def test_what_a_login_has_left_behind_is_named_and_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(pid: int, **more: object) -> background.Process:
        known = background.Process(pid, 1, pid, {0}, 100 * TICKS, "sh", "bash")
        return known._replace(**more)  # type: ignore[arg-type]

    every = [
        process(1001),
        process(1002, users={12345}, login=1000),
        process(1003, parent=1001),
        process(1004, ticks=10 * TICKS),
        process(1005, users={12345}),
        process(1006, name=background.OURS),
        process(1007, program="tmux"),
        process(1008),
        process(1009, program="python3"),
        process(1010, program="mosh-server"),
        process(1011, program="node"),
    ]
    module = [b"python3", b"/root/ansible-tmp-1.5-1-2/AnsiballZ_command.py"]
    editor = [b"/root/.vscode-server/bin/0123/node", b"--dns-result-order=ipv4first"]
    words = {1009: module, 1011: editor}
    monkeypatch.setattr(background, "arguments", lambda pid: words.get(pid, [b"sh", b"job%d" % pid]))
    for one in every:
        write_process(tmp_path, one)
    host = replace(System(), pids=lambda: [one.pid for one in every])
    assert background.left_behind(host, 50.0, 200.0, 1000, str(tmp_path)) == ["pid 1001: bash", "pid 1002: bash"]
    assert background.left_behind(host, 50.0, 100.0, 1000, str(tmp_path)) == []
    (said,) = background.Ended(beside=["pid 1001: bash"]).left
    assert said == "started since the host was armed, and goes on in the background: pid 1001: bash"


@pytest.mark.parametrize(
    ("program", "argv", "said"),
    [
        ("bash", ["sh", "-c", "TOKEN=secret python3 && sleep 0"], "pid 7: bash"),
        ("python3", ["python3", "/root/ansible-tmp-1.5-1-2/AnsiballZ_command.py", "secret"], "AnsiballZ_command.py"),
        ("python3", ["python3", "/root/ansible-tmp-1.5-1-2/async_wrapper.py", "secret"], "python3 async_wrapper.py"),
        ("python3", ["python3", "-c", "secret = 1"], "pid 7: python3"),
        ("", ["backup", "--password=secret"], "pid 7: its-name"),
    ],
)
def test_no_word_of_a_command_line_is_told(
    program: str, argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell of a task with ``environment:`` holds its values, and a program its password."""
    monkeypatch.setattr(background, "arguments", lambda _pid: [os.fsencode(word) for word in argv])
    words = background.Process(7, 1, 7, {0}, 100 * TICKS, "its-name", program).words
    assert words.endswith(said) and "secret" not in words


@pytest.mark.parametrize(
    ("group", "is_one"),
    [
        ("0::/user.slice/user-0.slice/session-c1.scope", True),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope", False),
        ("0::/system.slice/cron.service", False),
    ],
)
def test_a_process_of_a_login_is_told_by_its_group(group: str, is_one: bool, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(f"{group}\n")
    assert background._is_of_login(7, str(tmp_path)) is is_one
    assert not background._is_of_login(8, str(tmp_path))


def test_units_that_were_made_for_a_while_since_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unit(name: str, moment: float, transient: str = "yes", **more: Any) -> Unit:
        kept = {"Transient": transient, "StateChangeTimestampMonotonic": "900000000"}
        return Unit(name, entered=moment, more=kept, **{"sub": "running", **more})

    monkeypatch.setattr(background, "left_behind", lambda *_words: ["pid 7: x"])
    hexadecimal = "0123456789abcdef" * 4
    passing = [
        "session-3.scope",
        "evenkeel-x.service",
        f"{hexadecimal}.timer",
        f"{hexadecimal}-5a.service",
        "init.scope",
        "snap.lxd.daemon-7.scope",
        "machine-qemu.scope",
        f"libpod-conmon-{hexadecimal}.scope",
    ]
    units = [
        unit("run-r1.timer", 600.0, sub="waiting"),
        unit("late.timer", 600.0),
        unit(f"libpod-{hexadecimal}.scope", 600.0),
        # A timer of before, that has fired since.
        *(unit("run-r2.timer", 400.0), unit("run-by-file.service", 600.0, "no")),
        *(unit(name, 600.0) for name in passing),
    ]
    system = machine(*units).system()
    since = background.boottime(system, 500.0)
    named = ["run-r1.timer, active (waiting)", "late.timer, active (running)"]
    named += [f"1 container began since: libpod-{hexadecimal}.scope"]
    assert strays.found(system, since, since + 900.0, -1, "/none") == ["pid 7: x", *named]
    broken = machine(*units)
    broken.broken = "Failed to connect to bus"
    assert strays.found(broken.system(), since, since + 900.0, -1, "/none") == ["pid 7: x"]
    assert strays.found(replace(system, has_systemd=lambda: False), since, since + 900.0, -1) == []


def test_containers_are_counted_and_scopes_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "left_behind", lambda *_words: [])
    engines = ("cri-containerd", "crio", "docker", "libpod")
    names = [*(f"{engine}-{number}.scope" for engine in engines for number in range(9))]
    names += [*(f"build{number:02}.scope" for number in range(30)), "late.service", "late.timer"]
    system = machine(*(Unit(name, entered=600.0, more={"Transient": "yes"}) for name in sorted(names))).system()
    since = background.boottime(system, 500.0)
    words = strays.found(system, since, since + 900.0, -1, "/none")
    counted = "36 containers began since: cri-containerd-0.scope, cri-containerd-1.scope, …"
    first = [
        "late.service, active (running)",
        "late.timer, active (running)",
        counted,
        "build00.scope, active (running)",
    ]
    assert words[:4] == first and len(words) == 20


def test_a_shutdown_that_was_planned_since_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(background, "left_behind", lambda *_words: [])
    planned = tmp_path / "scheduled"
    planned.write_text("USEC=1700000000000000\nWARN_WALL=1\nMODE=reboot\n")
    system = machine().system()
    since = background.boottime(system, 500.0)
    for moment, named in ((600.0, True), (400.0, False)):
        os.utime(planned, (system.now() - system.monotonic() + moment,) * 2)
        words = strays.found(system, since, since + 900.0, -1, str(planned))
        assert words == (["a shutdown is planned (reboot); shutdown -c calls it off"] if named else [])


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("/user.slice/user-1000.slice/session-c3.scope", True),
        ("/system.slice/ssh.service", True),
        ("/system.slice/sshd.service", True),
        ("/system.slice/system-sshd.slice/sshd@4-10.0.0.1:22-10.0.0.2:41234.service", True),
        ("/system.slice/web.service", False),
        ("/system.slice/myssh.service", False),
    ],
)
def test_a_login_is_a_session_or_belongs_to_sshd(tmp_path: Path, group: str, expected: bool) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(f"0::{group}\n")
    assert background._is_of_login(7, str(tmp_path)) is expected
