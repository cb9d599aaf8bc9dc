# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services without systemd, with real processes: nothing else is ever taken for the service, or signalled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import ServiceFailed, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.processes import send_signal, start_time
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process

from .conftest import SYSTEM

# Says in the file "said" which signals it gets; ends at TERM unless it is told to be stubborn.
SERVICE = """
import os, signal, sys, time
def note(number, frame):
    with open("said", "a") as stream:
        stream.write(signal.Signals(number).name + "\\n")
    if number == signal.SIGTERM and "stubborn" not in sys.argv:
        sys.exit(0)
for one in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(one, note)
os.close(os.open("ready", os.O_CREAT | os.O_WRONLY, 0o666))
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[process.Definition]:
    """A definition; what its pid file names is killed at the end."""
    (tmp_path / "service.py").write_text(SERVICE)
    argv = [sys.executable, str(tmp_path / "service.py")]
    made = {"name": "web", "pidfile": str(tmp_path / "run" / "pid"), "argv": argv, "chdir": str(tmp_path)}
    yield process.check(dict(made, reload_signal="HUP"))
    process.act("stop", process.check(dict(made, stop_signal="KILL")), SYSTEM)


def pid_of(service: process.Definition) -> int:
    return int(Path(service["pidfile"]).read_text().split()[0])


def said(service: process.Definition) -> list[str]:
    path = Path(service["chdir"], "said")
    return path.read_text().split() if path.exists() else []


def ready(service: process.Definition) -> None:
    """Until the process has its signal handlers."""
    end = time.monotonic() + 10
    while not Path(service["chdir"], "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def start(service: process.Definition) -> str:
    identity = process.act("start", service, SYSTEM).identity
    ready(service)
    return identity


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not the service."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        yield other
        other.kill()


def test_start_runs_it_once_and_says_since_when(service: process.Definition) -> None:
    assert not process.observe(service, SYSTEM).active
    began = time.time()
    identity = start(service)
    state = process.observe(service, SYSTEM)
    assert state.active and state.identity == identity and state.can_reload
    assert state.started is not None and abs(state.started - began) < 2
    assert process.act("start", service, SYSTEM).identity == identity


def test_a_process_that_holds_up_its_reader_is_neither_another_one_nor_down(
    service: process.Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(service)
    pid = pid_of(service)
    Path(service["pidfile"]).write_text(f"{pid}\n")
    without = replace(SYSTEM, memory="")
    assert process.observe(service, without).active
    monkeypatch.setattr(process, "arguments_of_one", lambda _pid: None)
    for verb in ("start", "stop", "restart"):
        with pytest.raises(ServiceFailed, match=f"process {pid} .* holds up whoever reads its command line"):
            process.act(verb, service, without)
    assert pid_of(service) == pid and start_time(pid) is not None
    monkeypatch.undo()


def test_stop_ends_it_by_its_own_signal(service: process.Definition) -> None:
    start(service)
    pid = pid_of(service)
    assert not process.act("stop", service, SYSTEM).active
    assert start_time(pid) is None and said(service) == ["SIGTERM"]
    assert not process.act("stop", service, SYSTEM).active


def test_stop_uses_the_signal_that_is_asked_for(service: process.Definition) -> None:
    start(service)
    service["stop_signal"] = "INT"
    process.act("stop", service, SYSTEM)
    assert said(service) == []


# Its seconds pass thirty times as fast, so that what ends within ten does so within a third.
FAST = replace(SYSTEM, monotonic=lambda: 30 * time.monotonic())


def test_what_ignores_its_stop_signal_is_killed(service: process.Definition) -> None:
    service["argv"] = [*service["argv"], "stubborn"]
    start(service)
    pid = pid_of(service)
    state, killed = process.carry_out("stop", service, FAST)
    assert not state.active and killed
    assert start_time(pid) is None and said(service) == ["SIGTERM"]


def with_child(service: process.Definition) -> None:
    """The service starts a child that it leaves alone when it ends."""
    script = 'sleep 60 & echo $! > child; touch ready; trap "exit 0" TERM; while :; do sleep 0.05; done'
    service["argv"] = ["/bin/sh", "-c", script]


def child_of(service: process.Definition) -> int:
    return int(Path(service["chdir"], "child").read_text())


def test_children_end_with_a_service_that_we_have_started(service: process.Definition) -> None:
    with_child(service)
    start(service)
    child = child_of(service)
    assert start_time(child) is not None
    state, killed = process.carry_out("stop", service, SYSTEM)
    assert not state.active and not killed and start_time(child) is None


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_children_in_a_group_of_others_are_named_and_left_alone(service: process.Definition, verb: str) -> None:
    """A restart starts the service all the same."""
    with_child(service)
    with by_hand(service):
        child = child_of(service)
        try:
            with pytest.raises(
                ServiceFailed, match=rf"has ended, and processes .* go on: {child} \(sleep\); end them by hand"
            ) as caught:
                process.act(verb, service, FAST)
            state = process.observe(service, SYSTEM)
            assert start_time(child) is not None and state.active == (verb == "restart")
            assert caught.value.message.endswith(f"; it was started anew, and is {state.text}") == state.active
        finally:
            os.kill(child, signal.SIGKILL)


def test_children_in_a_group_of_others_have_time_to_end(service: process.Definition) -> None:
    script = 'sleep 0.9 & touch ready; trap "exit 0" TERM; while :; do sleep 0.05; done'
    service["argv"] = ["/bin/sh", "-c", script]
    with by_hand(service):
        assert not process.act("stop", service, SYSTEM).active


def test_a_restart_that_cannot_start_tells_what_goes_on(service: process.Definition) -> None:
    script = "test -e ready && exit 1; sleep 60 & echo $! > child; touch ready; while :; do sleep 0.05; done"
    service["argv"] = ["/bin/sh", "-c", script]
    with by_hand(service):
        try:
            with pytest.raises(ServiceFailed) as caught:
                process.act("restart", service, FAST)
        finally:
            os.kill(child := child_of(service), signal.SIGKILL)
    assert re.fullmatch(
        r"process web ended at once, with exit code 1; process web \(pid \d+\) has ended, and processes that it had"
        rf" started go on: {child} \(sleep\); end them by hand",
        caught.value.message,
    )


def test_a_service_to_which_we_belong_is_not_stopped(
    service: process.Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(service)
    monkeypatch.setattr(os, "getpgid", lambda _pid: pid_of(service))
    with pytest.raises(ServiceFailed, match="this process belongs to process web"):
        process.act("stop", service, SYSTEM)
    monkeypatch.undo()
    assert process.observe(service, SYSTEM).active


def test_reload_keeps_the_process_and_restart_replaces_it(service: process.Definition) -> None:
    identity = start(service)
    assert process.act("reload", service, SYSTEM).identity == identity
    assert said(service) == ["SIGHUP"]
    again = process.act("restart", service, SYSTEM)
    assert again.active and again.identity != identity
    assert said(service) == ["SIGHUP", "SIGTERM"]


def test_restart_starts_what_was_not_running(service: process.Definition) -> None:
    assert process.act("restart", service, SYSTEM).active


def test_a_reload_that_ends_the_process_is_no_success(service: process.Definition) -> None:
    start(service)
    service["reload_signal"] = "KILL"
    with pytest.raises(ServiceFailed, match="after reload it is not running"):
        process.act("reload", service, SYSTEM)


def test_what_does_not_run_or_has_no_signal_cannot_be_reloaded(service: process.Definition) -> None:
    with pytest.raises(ServiceFailed, match="it is not running"):
        process.act("reload", service, SYSTEM)
    start(service)
    service["reload_signal"] = ""
    assert not process.observe(service, SYSTEM).can_reload
    with pytest.raises(ServiceFailed, match="no reload_signal"):
        process.act("reload", service, SYSTEM)


def test_a_pid_that_went_to_somebody_else_is_never_signalled(
    service: process.Definition, stranger: subprocess.Popen[bytes]
) -> None:
    start(service)
    process.act("stop", service, SYSTEM)
    # As after a wrap of the pids: the file names what is the stranger's now, and an earlier start.
    Path(service["pidfile"]).write_text(f"{stranger.pid}\n{(start_time(stranger.pid) or 0) - 1}\n")
    assert not process.observe(service, SYSTEM).active
    process.act("stop", service, SYSTEM)
    with pytest.raises(ServiceFailed, match="not running"):
        process.act("reload", service, SYSTEM)
    assert process.act("restart", service, SYSTEM).active
    assert stranger.poll() is None


# -- a pid file that somebody else can write


USER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's file needs root")


def theirs(service: process.Definition, text: str) -> None:
    """The pid file, in a directory of the user's, where only its form speaks for it."""
    folder = Path(service["pidfile"]).parent
    folder.mkdir(exist_ok=True)
    Path(service["pidfile"]).write_text(text)
    for path in (folder, service["pidfile"]):
        os.chown(path, USER, USER)


@needs_root
@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("whose", ["file", "directory", "above", "mode"])
def test_a_users_pid_file_never_names_a_process_of_roots(
    service: process.Definition, stranger: subprocess.Popen[bytes], whose: str, lines: int
) -> None:
    """Even where the process runs the very program: root ends by it what that user could not."""
    service["argv"] = [sys.executable, "-c", "import time; time.sleep(60)"]
    text = f"{stranger.pid}\n" + f"{start_time(stranger.pid)}\n" * (lines - 1)
    if whose == "above":
        service["pidfile"] = os.path.join(os.path.dirname(service["pidfile"]), "more", "pid")
        Path(service["pidfile"]).parent.mkdir(parents=True)
        Path(service["pidfile"]).write_text(text)
        os.chown(Path(service["pidfile"]).parent.parent, USER, USER)
    else:
        theirs(service, text)
        folder = Path(service["pidfile"]).parent
        os.chown(folder, USER if whose == "directory" else 0, 0)
        os.chown(service["pidfile"], USER if whose == "file" else 0, 0)
        folder.chmod(0o775 if whose == "mode" else 0o755)
    state = process.observe(service, SYSTEM)
    assert not state.active and "is not trusted" in state.text
    process.act("stop", service, SYSTEM)
    assert stranger.poll() is None
    if whose == "file":
        assert process.act("restart", service, SYSTEM).active and stranger.poll() is None


@needs_root
@pytest.mark.parametrize("program", ["/bin/sleep", "/bin/cat"])
def test_a_users_pid_file_names_that_users_process_if_it_runs_the_command(
    service: process.Definition, program: str
) -> None:
    service["argv"] = ["/bin/sleep", "61"]
    words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "bash", "-c"]
    # Of its words it says what it likes.
    script = f"exec -a /bin/sleep {program} 61" if program == "/bin/sleep" else f"exec -a /bin/sleep {program} 61 -"
    with subprocess.Popen([*words, script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        end = time.monotonic() + 10
        # Of a process that has just become another program the words come last.
        while not Path(f"/proc/{other.pid}/cmdline").read_bytes().startswith(b"/bin/sleep\0"):
            assert time.monotonic() < end
            time.sleep(0.02)
        theirs(service, f"{other.pid}\n")
        runs = process.observe(service, SYSTEM).active
        assert runs == (program == "/bin/sleep")
        process.act("stop", service, SYSTEM)
        assert (other.poll() is not None) == runs
        other.kill()


@pytest.mark.parametrize("form", ["fifo", "link", "long", "device"])
def test_a_pid_file_of_another_form_is_not_read(service: process.Definition, tmp_path: Path, form: str) -> None:
    """A FIFO would hold up the rollback, and a link tells of somebody else's file."""
    path = Path(service["pidfile"])
    path.parent.mkdir()
    start(service)
    text = path.read_text()
    path.unlink()
    if form == "fifo":
        os.mkfifo(path)
    elif form == "link":
        (tmp_path / "real").write_text(text)
        path.symlink_to(tmp_path / "real")
    else:
        path.write_text(text + "x" * 1000) if form == "long" else path.symlink_to("/dev/zero")
    state = process.observe(service, SYSTEM)
    assert not state.active and "is not trusted" in state.text
    path.unlink()
    path.write_text(text)


def test_what_we_started_is_known_whatever_its_pid_file_says(
    service: process.Definition, stranger: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    system = replace(SYSTEM, memory=str(tmp_path / "started"))
    identity = process.act("start", service, system).identity
    assert (tmp_path / "started").stat().st_mode & 0o777 == 0o700
    for text in (f"{stranger.pid}\n{start_time(stranger.pid)}\n", ""):
        Path(service["pidfile"]).write_text(text)
        assert process.observe(service, system).identity == identity
    assert process.observe(service, replace(system, boot_id=lambda: "another")).identity != identity
    again = process.act("restart", service, system)
    assert again.identity != identity and stranger.poll() is None
    assert not process.act("stop", service, system).active and stranger.poll() is None


def test_the_pid_file_holds_the_pid_alone(service: process.Definition, tmp_path: Path) -> None:
    """kill $(cat pid) must reach the service, and nothing else; a service may write the same file itself."""
    system = replace(SYSTEM, memory=str(tmp_path / "started"))
    identity = process.act("start", service, system).identity
    assert Path(service["pidfile"]).read_text() == identity.split(":")[0] + "\n"
    process.act("stop", service, system)


@needs_root
def test_a_start_writes_nothing_for_a_user_where_the_user_could_not(
    service: process.Definition, tmp_path: Path
) -> None:
    """The directory of the pid file is a link of the user's to one of root's."""
    (tmp_path / "roots").mkdir()
    place = tmp_path / "users"
    place.mkdir()
    (place / "run").symlink_to(tmp_path / "roots")
    os.chown(place, USER, USER)
    service["pidfile"] = str(place / "run" / "pid")
    with pytest.raises(ServiceFailed, match="belongs to uid 12345, and has it lead to a directory"):
        process.act("start", service, SYSTEM)
    assert os.listdir(tmp_path / "roots") == []


@needs_root
def test_no_name_that_a_user_can_guess_holds_up_a_start(
    service: process.Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO in the place of what is written first would be waited for."""
    theirs(service, "")
    os.mkfifo(service["pidfile"] + f".tmp-{os.getpid()}")
    system = replace(SYSTEM, memory=os.path.dirname(service["pidfile"]) + "-started")
    assert process.act("start", service, system).active
    assert process.observe(service, SYSTEM).active is False, "root's process, in a pid file that is not root's to write"
    process.act("stop", service, system)


def test_a_signal_reaches_the_process_and_never_what_has_its_id_later(stranger: subprocess.Popen[bytes]) -> None:
    started = start_time(stranger.pid) or 0
    assert not send_signal(stranger.pid, started - 1, signal.SIGKILL) and stranger.poll() is None
    assert send_signal(stranger.pid, started, signal.SIGKILL) and stranger.wait(10) == -signal.SIGKILL
    assert not send_signal(stranger.pid, started, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "none", "-1", "0", "999999999"])
def test_a_pid_file_without_a_process_means_not_running(service: process.Definition, text: str) -> None:
    os.makedirs(os.path.dirname(service["pidfile"]))
    Path(service["pidfile"]).write_text(text)
    assert not process.observe(service, SYSTEM).active
    assert not process.act("stop", service, SYSTEM).active


def test_a_pid_file_of_others_counts_when_the_command_is_the_same(
    service: process.Definition, stranger: subprocess.Popen[bytes]
) -> None:
    start(service)
    text = Path(service["pidfile"]).read_text()
    Path(service["pidfile"]).write_text(f"{pid_of(service)}\n")
    assert process.observe(service, SYSTEM).active
    Path(service["pidfile"]).write_text(f"{stranger.pid}\n")
    assert not process.observe(service, SYSTEM).active
    Path(service["pidfile"]).write_text(text)


@contextmanager
def by_hand(service: process.Definition, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The service, as something else has started it, which wrote the pid file."""
    with subprocess.Popen(words or service["argv"], cwd=service["chdir"]) as running:
        try:
            ready(service)
            Path(service["pidfile"]).parent.mkdir(exist_ok=True)
            Path(service["pidfile"]).write_text(f"{running.pid}\n")
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize(
    "line", [f"#!{sys.executable}", f"#!{sys.executable} -B", "#!/usr/bin/env python-of-a-service"]
)
def test_a_script_is_known_by_what_runs_it(
    service: process.Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """As gunicorn is, which starts itself anew for an upgrade: then it is not what we have started any more."""
    (tmp_path / "python-of-a-service").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = tmp_path / "service.py"
    script.write_text(f"{line}\n{SERVICE}")
    script.chmod(0o755)
    service["argv"] = [str(script), "--workers=2"]
    with by_hand(service) as running:
        assert process.observe(service, SYSTEM).identity.startswith(f"{running.pid}:")
        assert not process.observe({**service, "argv": [str(script), "--workers=3"]}, SYSTEM).active
        assert not process.observe({**service, "argv": ["/bin/cat", "--workers=2"]}, SYSTEM).active
        process.act("stop", service, SYSTEM)
        assert running.wait(10) == 0


def test_a_process_is_known_after_a_link_to_its_program_was_switched(
    service: process.Definition, tmp_path: Path
) -> None:
    """As /usr/bin/java is: a second one beside it would be started."""
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    service["argv"] = [str(link), *service["argv"][1:]]
    with by_hand(service) as running:
        link.unlink()
        link.symlink_to("/bin/cat")
        assert process.observe(service, SYSTEM).identity.startswith(f"{running.pid}:")
        if os.geteuid() == 0:  # Another user may give a process any words.
            os.chown(service["pidfile"], USER, USER)
            assert not process.observe(service, SYSTEM).active
            os.chown(service["pidfile"], 0, 0)


def test_a_service_may_write_more_than_its_pid(service: process.Definition) -> None:
    """As PostgreSQL and sendmail do; two lines of numbers alone are ours."""
    with by_hand(service) as running:
        Path(service["pidfile"]).write_text(f"{running.pid}\n/var/lib/postgresql/15/main\n1764374400\n5432\n")
        assert process.observe(service, SYSTEM).identity.startswith(f"{running.pid}:")
        assert not process.observe({**service, "argv": ["/bin/cat"]}, SYSTEM).active
        Path(service["pidfile"]).write_text(f"{running.pid}\n1\n")
        assert not process.observe(service, SYSTEM).active


def test_a_process_that_gave_itself_a_title_is_known_by_its_program(
    service: process.Definition, stranger: subprocess.Popen[bytes]
) -> None:
    """As nginx and gunicorn do; by a pid file that was there before it, it is not."""
    titled = ["bash", "-c", f'exec -a "web: master [app]" {" ".join(service["argv"])}']
    with by_hand(service, *titled) as running:
        assert process.observe(service, SYSTEM).identity.startswith(f"{running.pid}:")
        assert not process.observe({**service, "argv": ["/bin/cat"]}, SYSTEM).active
        os.utime(service["pidfile"], (time.time() - 60, time.time() - 60))
        assert not process.observe(service, SYSTEM).active
        os.utime(service["pidfile"])
        process.act("stop", service, SYSTEM)
        assert running.wait(10) == 0
    Path(service["pidfile"]).write_text(f"{stranger.pid}\n")
    assert not process.observe(service, SYSTEM).active


@pytest.mark.parametrize(
    ("command", "words"),
    [("exit 3", "exit code 3$"), ("exit 0", "exit code 0; its command must stay in the foreground")],
)
def test_a_command_that_ends_at_once_is_no_start(service: process.Definition, command: str, words: str) -> None:
    service["argv"] = ["/bin/sh", "-c", command]
    with pytest.raises(ServiceFailed, match=words):
        process.act("start", service, SYSTEM)
    assert not process.observe(service, SYSTEM).active


def test_what_cannot_be_started_is_named(service: process.Definition) -> None:
    service["argv"] = ["/nonexistent/command"]
    with pytest.raises(ServiceFailed, match="web cannot be started: .*/nonexistent/command"):
        process.act("start", service, SYSTEM)


def test_what_cannot_be_recorded_does_not_go_on_running(service: process.Definition) -> None:
    os.makedirs(service["pidfile"])  # a directory is in the way
    service["argv"] = [*service["argv"], service["pidfile"]]
    with pytest.raises(ServiceFailed, match="web: start failed"):
        process.act("start", service, SYSTEM)
    found = subprocess.run(["pgrep", "--full", service["pidfile"]], capture_output=True, text=True)
    assert found.stdout == ""


def test_it_outlives_its_starter_and_has_nothing_of_it(service: process.Definition) -> None:
    """Started by a child with a pipe, a private umask and a terminal group of its own, which then gets a hang-up."""
    starter = (
        "import json, os, sys;"
        "from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import system;"
        "from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process;"
        "os.umask(0o077); os.environ['RUN_OF_A_CONTROLLER'] = 'x';"
        "process.act('start', json.loads(sys.argv[1]), system.System())"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", starter, json.dumps(service)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as parent:
        # The end of the pipe is reached: the service does not hold it open.
        assert parent.communicate(timeout=30)[0] == b""
        pid = pid_of(service)
        os_group_is_gone(parent.pid)
    ready(service)
    assert process.observe(service, SYSTEM).active
    assert os.getsid(pid) == pid
    assert b"RUN_OF_A_CONTROLLER" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert Path(service["chdir"], "ready").stat().st_mode & 0o777 == 0o644
    process.act("stop", service, System())


def os_group_is_gone(group: int) -> None:
    """A hang-up of the whole process group of the starter finds nobody."""
    with pytest.raises(ProcessLookupError):
        os.killpg(group, signal.SIGHUP)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "process: name is missing"),
        ({"pidfile": None}, "process: pidfile is missing"),
        ({"argv": []}, "process: argv is missing"),
        ({"argv": [True]}, "process: argv must be a text, not True"),
        ({"argv": ["sleep", "5"]}, "process web: argv .* absolute path"),
        ({"pidfile": "run/pid"}, "process web: pidfile must be an absolute path"),
        ({"pidfile": 7}, "process web: pidfile must be an absolute path"),
        ({"chdir": "here"}, "process web: chdir must be an absolute path"),
        ({"reload_signal": "NO"}, "process web: reload_signal 'NO' is no signal"),
        ({"stop_signal": "SIG_IGN"}, "process web: stop_signal 'SIG_IGN' is no signal"),
        ({"user": "www"}, "process: unknown key 'user'"),
    ],
)
def test_a_bad_definition_is_named(change: dict[str, Any], words: str) -> None:
    good = {"name": "web", "pidfile": "/run/web.pid", "argv": ["/bin/sleep", 5]}
    assert process.check(good)["argv"] == ["/bin/sleep", "5"]
    with pytest.raises(UsageError, match=words):
        process.check({**good, **change})


def test_what_is_no_mapping_is_no_definition() -> None:
    with pytest.raises(UsageError, match="takes a mapping"):
        process.check("web")


def test_signals_may_be_written_with_or_without_their_prefix() -> None:
    made = process.check({"name": "a", "pidfile": "/a", "argv": ["/a"], "reload_signal": "sighup"})
    assert (made["reload_signal"], made["stop_signal"], made["chdir"]) == ("HUP", "TERM", "/")
