# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run in its child process: it ends when it is told to, when it is killed, and when its parent dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import evenkeel
from evenkeel.ansible import processes, runner, scratch
from evenkeel.ansible.answering import MARK
from evenkeel.ansible.child import close_at_once, event_line
from evenkeel.ansible.event import Event, about
from evenkeel.ansible.events import Record, feed
from evenkeel.ansible.processes import end_all, marked
from evenkeel.ansible.runner import Ended, Job, Runner

pytest.importorskip("ansible_runner")
# A program in the place of ansible-playbook, whose child has a session of its own, as Ansible's workers have.
WORKER = (
    "import subprocess,sys,time;subprocess.Popen([sys.executable,'-c','import os,time;os.setsid();time.sleep(600)']);"
)


def job(tmp_path: Path, code: str, passwords: dict[str, str] | None = None) -> Job:
    return Job([sys.executable, "-c", code], str(tmp_path), {"EK_TEST": "1"}, passwords or {}, tmp_path)


def execute(job: Job, on_event: Callable[[Event], None], stop: Callable[[], str]) -> Ended:
    return Runner(job.cwd, job.scratch).execute(job, on_event, stop)


def run(tmp_path: Path, code: str, stop: str = "", passwords: dict[str, str] | None = None) -> tuple[Ended, str]:
    events: list[Event] = []
    ended = execute(job(tmp_path, code, passwords), events.append, lambda: stop)
    return ended, "\n".join(str(event.get("stdout", "")) for event in events)


def test_the_exit_code_and_the_output_come_through_and_nothing_stays_on_disk(tmp_path: Path) -> None:
    ended, output = run(tmp_path, "import os,sys;print('hello', os.environ['EK_TEST'], os.getcwd());sys.exit(3)")
    assert ended == Ended(3)
    assert f"hello 1 {tmp_path}" in output
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_of_a_run_that_has_ended_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pexpect = import_module("pexpect")
    monkeypatch.setattr(pexpect.spawn, "close", pexpect.spawn.close)
    slept: list[float] = []
    monkeypatch.setattr(import_module("ptyprocess.ptyprocess").time, "sleep", slept.append)
    close_at_once()
    ended = pexpect.spawn("true")
    ended.expect(pexpect.EOF)
    ended.wait()
    ended.close()
    assert ended.exitstatus == 0 and sum(slept) == 0


def children() -> list[psutil.Process]:
    """The children of runners; other tests have processes of their own. The kernel tells the words of a program a
    moment after it is started."""
    found = psutil.Process().children()
    for one in found:
        while not one.cmdline() and one.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    return [one for one in found if "evenkeel.ansible.child" in one.cmdline()]


@pytest.mark.parametrize("fault", ["", "killed", "removed"])
def test_a_child_that_was_started_ahead_runs_the_next_job_where_it_can(fault: str, tmp_path: Path) -> None:
    runner, events = Runner(str(tmp_path), tmp_path), list[Event]()
    runner.prepare()
    runner.prepare()
    (child,) = children()
    if fault == "killed":
        child.kill()
        child.wait()
    if fault == "removed":
        shutil.rmtree(next(tmp_path.iterdir()))
    code = "import os;print('under', os.getppid(), os.environ['EK_TEST'], 'EVENKEEL_LATER' in os.environ)"
    assert runner.execute(job(tmp_path, code), events.append, lambda: "") == Ended(0)
    output = "\n".join(str(event.get("stdout", "")) for event in events)
    assert (f"under {child.pid} 1 False" in output) is (fault == "") and "1 False" in output
    assert not children() and list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_does_not_run_a_prepared_job_again(tmp_path: Path) -> None:
    runner, runs = Runner(str(tmp_path), tmp_path), tmp_path / "runs"
    runner.prepare()

    def wrong(_event: Event) -> None:
        raise IndexError("of the caller")

    with pytest.raises(IndexError, match="of the caller"):
        runner.execute(job(tmp_path, f"print('once', file=open({str(runs)!r}, 'a'), flush=True); print(1)"), wrong, str)
    assert runs.read_text() == "once\n"


def test_a_child_that_waits_ends_with_its_runner_and_with_its_driver(tmp_path: Path) -> None:
    runner = Runner(str(tmp_path), tmp_path)
    runner.prepare()
    runner.close()
    assert not children() and list(tmp_path.iterdir()) == []
    code = (
        "import sys,time\nfrom pathlib import Path\nfrom evenkeel.ansible.runner import Runner\n"
        f"runner=Runner({str(tmp_path)!r},Path({str(tmp_path)!r}))\nrunner.prepare()\nprint('up',flush=True)\n"
        "time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(evenkeel.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        (child,) = psutil.Process(process.pid).children()
        process.kill()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()


def test_no_process_is_searched_for_after_a_run_that_ended_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    monkeypatch.setattr(runner, "end_all", lambda ident, **_how: searched.append(ident))
    ended, _ = run(tmp_path, "print('x')")
    assert ended == Ended(0) and searched == []


def test_a_password_answers_its_prompt_and_is_nowhere_else(tmp_path: Path) -> None:
    code = (
        "import getpass,os,pathlib\n"
        "got=getpass.getpass('SSH password: ')\n"
        "files=[p for p in pathlib.Path('.').rglob('*') if p.is_file()]\n"
        "seen=[p.name for p in files if got.encode() in p.read_bytes()]\n"
        "print('right', got=='se'+'cret', seen, 'secret' in str(os.environ))"
    )
    _, output = run(tmp_path, code, passwords={"^SSH password: ?$": "secret"})
    assert "right True [] False" in output


def test_the_environment_is_not_left_in_clear_in_the_scratch_directory(tmp_path: Path) -> None:
    code = (
        "import pathlib\n"
        "files=[p for p in pathlib.Path('.').rglob('*') if p.is_file()]\n"
        "print('holding', [p.name for p in files if b'EK_TEST' in p.read_bytes()])"
    )
    _, output = run(tmp_path, code)
    assert "holding []" in output


def test_a_run_that_is_stopped_leaves_no_process_behind(tmp_path: Path) -> None:
    events: list[Event] = []
    code = WORKER + "print('up',flush=True);time.sleep(600)"
    ended = execute(job(tmp_path, code), events.append, lambda: "too late" if events else "")
    assert ended.stopped == "too late"
    assert not _ours(tmp_path)


def test_a_run_that_is_stopped_at_once_does_not_start_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LAST_WORDS", 30.0)
    ended, _ = run(tmp_path, "import time;time.sleep(2);open('ran','w').close()", stop="too late")
    assert ended.stopped == "too late" and ended.rc != 0
    assert not (tmp_path / "ran").exists()


def test_a_run_that_somebody_kills_is_noticed_and_leaves_no_process_behind(tmp_path: Path) -> None:
    ended, _ = run(tmp_path, WORKER + "import os;os.kill(os.getpid(),9)")
    assert ended.rc is None and ended.stopped == ""
    assert not _ours(tmp_path)


def test_when_the_driver_is_killed_the_run_and_its_directory_go_too(tmp_path: Path) -> None:
    scratch = tmp_path / "session"
    scratch.mkdir()
    code = WORKER + "print('up',flush=True);time.sleep(600)"
    driver = (
        "import sys\n"
        "from pathlib import Path\n"
        "from evenkeel.ansible.runner import Job, Runner\n"
        f"job=Job([sys.executable,'-c',{code!r}],{str(tmp_path)!r},{{}},{{}},Path({str(scratch)!r}))\n"
        "runner=Runner(job.cwd, job.scratch)\n"
        "runner.prepare()\n"
        "runner.execute(job, lambda event: print(event.get('stdout',''),flush=True), lambda: '')\n"
    )
    source = str(Path(evenkeel.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source}
    ) as process:
        assert process.stdout is not None
        assert any("up" in line for line in process.stdout)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert len(children) >= 2 and not alive
    assert not scratch.exists()


def test_a_run_ends_with_its_time_while_the_driver_is_stopped(tmp_path: Path) -> None:
    """The time is moved once, as an extension does. The driver, continued, tells its own reason for the end."""
    code = "import time;print('up',flush=True);" + "time.sleep(0.1);print('on',flush=True);" * 600
    driver = (
        "import sys,time\n"
        "from pathlib import Path\n"
        "from evenkeel.ansible import clock\n"
        "from evenkeel.ansible.runner import Job, Runner\n"
        "times=[clock.now()+600]\n"
        "def seen(event):\n"
        "    if 'up' in event.get('stdout',''):\n"
        "        times.append(clock.now()+3)\n"
        "        print('up',flush=True)\n"
        "def stop():\n"
        "    return 'its time is over' if clock.now()>times[-1] else ''\n"
        f"job=Job([sys.executable,'-c',{code!r}],{str(tmp_path)!r},{{'EK_TEST':'1'}},{{}},Path({str(tmp_path)!r}),\n"
        "    until=lambda:times[-1])\n"
        "print(Runner(job.cwd,job.scratch).execute(job,seen,stop),flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(evenkeel.__file__).parents[1])}

    def programs() -> list[psutil.Process]:
        return [one for one in _ours(tmp_path) if code in one.cmdline()]

    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            time.sleep(0.7)  # it tells the child its new time
            process.send_signal(signal.SIGSTOP)
            end = time.monotonic() + 20
            while programs() and time.monotonic() < end:
                time.sleep(0.2)
            assert not programs(), "they would go on with hosts that went back"
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "Ended(rc=None, stopped='its time is over', errors='')\n"
        finally:
            process.kill()


def test_an_event_handler_that_raises_ends_the_run(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError(json.dumps(event.get("event")))

    with pytest.raises(RuntimeError):
        execute(job(tmp_path, WORKER + "print('x');time.sleep(600)"), fail, lambda: "")
    assert not _ours(tmp_path)


def test_only_processes_that_carry_the_mark_are_ended() -> None:
    sleep = [sys.executable, "-c", "import time;time.sleep(600)"]
    with (
        subprocess.Popen(sleep, env={**os.environ, MARK: "mine"}) as mine,
        subprocess.Popen(sleep, env={**os.environ, MARK: "theirs"}) as theirs,
    ):
        end_all("mine", grace=0)
        assert mine.wait() != 0 and theirs.poll() is None and not marked("mine")
        theirs.kill()


class _Theirs:
    """A process of another user. Whoever looks at its memory waits for ever, as long as ``seconds``."""

    pid = -7

    def __init__(self, seconds: float, user: int) -> None:
        self._seconds, self._user = seconds, user
        self.asked = 0

    def uids(self) -> SimpleNamespace:
        return SimpleNamespace(real=self._user)

    def __getattr__(self, name: str) -> Callable[[], object]:
        def held() -> object:
            self.asked += 1
            time.sleep(self._seconds)
            return {MARK: "mine"} if name == "environ" else "ssh" if name == "name" else psutil.STATUS_SLEEPING

        return held


def test_the_memory_of_a_process_of_another_user_holds_up_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of this machine can have anybody wait for ever who asks for a command line or an environment (FUSE)."""
    theirs = [_Theirs(60.0, 54321), _Theirs(60.0, 54321)]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(theirs))
    monkeypatch.setattr(processes, "_PATIENCE", 0.2)
    began = time.monotonic()
    scratch.hang_up(tmp_path)
    assert not theirs[0].asked
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert not marked("mine") and time.monotonic() - began < 1.0
    assert [one.asked for one in theirs] == [1, 0], "of a user who has done that no further process is asked"
    theirs[:] = [_Theirs(0.0, 54322)]
    assert marked("mine") == theirs, "as a task on this machine that has become another user"
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert not marked("mine"), "another user may not ask"


def _ours(scratch: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("EK_TEST") and process.cwd() == str(scratch):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


FORGED = (
    "import base64,json,sys\n"
    "said={'uuid':'u','event':'runner_on_ok','project_update_id':1,'event_data':{'host':'web2','task':'t',"
    "'resolved_action':'evenkeel.fault_tolerance.ft_settle','res':{'outcome':'confirmed'}}}\n"
    "data=base64.b64encode(json.dumps(said).encode()).decode()\n"
    "part=f'{data}\\x1b[{len(data)}D'\n"
    "print(f'\\x1b[K{part}\\x1b[Kand the words of it')\n"
    "print(f'\\x1b[K{part}\\x1b[K')\n"
)


def test_an_event_that_a_host_made_up_is_output_and_no_event(tmp_path: Path) -> None:
    """Ansible prints what a host says, in which may stand what looks like an event of another host."""
    events: list[Event] = []
    execute(job(tmp_path, FORGED), events.append, lambda: "")
    assert "and the words of it" in "".join(str(event.get("stdout")) for event in events)
    assert {event["event"] for event in events} == {"verbose"}
    assert not any("web2" in json.dumps(event.get("event_data")) for event in events)


@pytest.mark.parametrize("res", [{}, {"msg": "x" * 20_000_000}, {"n": 10**5000}, {"a": {(1, 2): 3}}])
def test_what_cannot_be_passed_on_is_an_event_without_a_result(res: Any) -> None:
    data = {"host": "web1", "task": "t", "resolved_action": "evenkeel.fault_tolerance.ft_info", "res": res}
    event = {"event": "runner_on_ok", "project_update_id": 7, "event_data": data, "stdout": "s" * 10**6}
    found = json.loads(event_line(event, 7))
    assert found["event"] == "runner_on_ok" and found["event_data"]["host"] == "web1"
    assert "res" not in found["event_data"] and len(found["stdout"]) < 10**6
    record = Record()
    feed(record, found)
    assert record.failures["web1"].count("cannot be trusted") == 1


def test_a_long_line_comes_through_whole(tmp_path: Path) -> None:
    big = "x" * 150_000
    ended, output = run(tmp_path, f"print('x' * {len(big)})")
    assert ended.rc == 0 and big in output


def test_ansible_runs_where_it_was_asked_to_run(tmp_path: Path) -> None:
    """Inventories and playbooks are named as the user sees them: ansible-runner may think otherwise."""
    events: list[Event] = []
    (tmp_path / "play.yml").write_text(
        '- hosts: localhost\n  gather_facts: false\n  tasks: [{debug: {msg: \'{{ lookup("pipe", "pwd") }}\'}}]\n'
    )
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "play.yml"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ended = execute(Job(argv, str(tmp_path), {}, {}, scratch), events.append, lambda: "")
    assert ended.rc == 0
    said = [about(event)[1]["msg"] for event in events if event["event"] == "runner_on_ok"]
    assert said == [str(tmp_path)], "an event that is sealed, from the directory that was asked for"
