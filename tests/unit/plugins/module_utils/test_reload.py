# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A reload is shown by the service, or called asked; the systemd is a fake, the processes are real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import ServiceFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import running
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.reload import ASKED, reload

from .fake_systemd import Machine, Unit, machine

WEB = "web.service"
# Begins as many workers as the line that it reads says, and ends those before, or none of them for "+"; begins another
# program in the place of the one before for "job"; writes to its log what follows "say ".
DAEMON = """
import os, signal, subprocess, sys, time
log, workers, jobs = open(sys.argv[1], "a"), [], []
def worker():
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    return pid
for line in sys.stdin:
    if line.startswith("say "):
        print(line[4:], end="", file=log, flush=True)
    elif line.startswith("+"):
        workers.append(worker())
    elif line.startswith("job"):
        old, jobs = jobs, [subprocess.Popen(["sleep", "60"])] * ("end" not in line)
        for one in old:
            one.kill(); one.wait()
    else:
        old, workers = workers, [worker() for _ in range(int(line))]
        for one in old:
            os.kill(one, signal.SIGKILL); os.waitpid(one, 0)
    print(flush=True)
"""


class Daemon:
    def __init__(self, log: Path) -> None:
        self.log = log
        argv = [sys.executable, "-c", DAEMON, str(log)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.do("2")

    def do(self, words: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(words, file=self.process.stdin, flush=True)
        for _line in words.splitlines():
            self.process.stdout.readline()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "error.log")
    yield found
    found.do("0")
    found.process.kill()
    found.process.communicate()


def host(daemon: Daemon | None, on_reload: Callable[[], None] = lambda: None, **more: str) -> Machine:
    made = machine(Unit(WEB, more={"MainPID": str(daemon.process.pid) if daemon else "0", **more}))
    act = made.act

    def acts(words: tuple[str, ...], verb: str, unit: Unit, queued: bool) -> object:
        if verb == "reload":
            on_reload()
        return act(words, verb, unit, queued)

    made.act = acts  # type: ignore[assignment,method-assign]
    return made


def test_new_workers_in_the_place_of_the_old_ones_show_it(daemon: Daemon) -> None:
    daemon.log.write_text("[emerg] of long ago\n")
    found = reload("web", host(daemon, lambda: daemon.do("2")).system())
    assert found.shown == found.words == "2 new workers"


def test_one_worker_more_than_before_may_be_a_request_s(daemon: Daemon) -> None:
    found = reload("web", host(daemon, lambda: daemon.do("+")).system())
    assert (found.shown, found.words) == ("", ASKED)


def test_one_worker_more_than_the_only_one_may_be_a_session_s(daemon: Daemon) -> None:
    daemon.do("1")
    found = reload("web", host(daemon, lambda: daemon.do("+")).system())
    assert (found.shown, found.words) == ("", ASKED)
    daemon.do("1")
    assert reload("web", host(daemon, lambda: daemon.do("1")).system()).shown == "1 new worker"


def test_another_program_that_ends_and_begins_is_no_worker(daemon: Daemon) -> None:
    """As the command that a loop of a shell runs just now."""
    daemon.do("0\njob")
    found = reload("web", host(daemon, lambda: daemon.do("job")).system())
    daemon.do("job end")
    assert (found.shown, found.words) == ("", ASKED)


@pytest.mark.parametrize(
    ("more", "why"),
    [({"ReloadResult": "exit-code"}, "its reload ended with exit-code"), ({}, ""), ({"gone": "yes"}, "failed")],
)
def test_what_reloads_with_an_umbrella_has_to_reload(more: dict[str, str], why: str) -> None:
    """As the instances of PostgreSQL and OpenVPN on Debian, of which the umbrella says nothing."""
    part = Unit("web@a.service", log="no such key", more=more)
    off = Unit("web@b.service", active="inactive", sub="dead", identity="", more={"ReloadResult": "exit-code"})

    def ends() -> None:
        part.active = "failed" if "gone" in more else part.active

    made = host(None, ends, PropagatesReloadTo="web@a.service web@b.service")
    made.units.update({one.name: one for one in (part, off)})
    if not why:
        assert reload("web", made.system()).words == ASKED
        return
    with pytest.raises(ServiceFailed, match=rf"reload with it did not: web@a.service: {why}.*its log: no such key"):
        reload("web", made.system())


def test_as_many_new_workers_as_before_show_it_while_the_old_ones_end(daemon: Daemon) -> None:
    def both() -> None:
        daemon.do("+")
        daemon.do("+")

    assert reload("web", host(daemon, both).system()).shown == "2 new workers"


def test_a_service_that_goes_on_with_what_it_had_has_failed(daemon: Daemon) -> None:
    made = host(daemon, lambda: daemon.do("say [emerg] bind() to 0.0.0.0:8443 failed (98: Address already in use)"))
    with pytest.raises(ServiceFailed, match=r"web.service was told .* keeps its old configuration: \[emerg\] bind"):
        reload("web", made.system())


def test_a_silent_service_was_asked(daemon: Daemon) -> None:
    found = reload("web", host(daemon).system())
    assert (found.shown, found.words) == ("", ASKED)
    found = reload("web", host(daemon, lambda: daemon.do("say [error] upstream failed")).system())
    assert (found.shown, found.words) == ("", f"{ASKED}; it says: [error] upstream failed")


def test_requests_are_no_words_of_the_service(tmp_path: Path) -> None:
    served = Daemon(tmp_path / "access.log")
    try:
        found = reload("web", host(served, lambda: served.do("say GET /reload 200 [emerg]")).system())
        assert found.words == ASKED
    finally:
        served.do("0")
        served.process.kill()
        served.process.communicate()


@pytest.mark.parametrize("way", ["log", "directory"])
def test_no_words_are_read_through_a_link(tmp_path: Path, way: str) -> None:
    """The service's own user can put one in the place of its log, to have root tell of another file."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "error.log").write_text("failed: a line of a file of root's\n")
    (tmp_path / "log").mkdir()
    served = Daemon(tmp_path / "log" / "error.log")

    def exchange() -> None:
        if way == "log":
            served.log.unlink()
            served.log.symlink_to(tmp_path / "secret" / "error.log")
        else:
            (tmp_path / "log").rename(tmp_path / "was")
            (tmp_path / "log").symlink_to("secret")

    try:
        assert reload("web", host(served, exchange).system()).words == ASKED
    finally:
        served.do("0")
        served.process.kill()
        served.process.communicate()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Received SIGHUP; restarting.\nServer listening on 0.0.0.0 port 22.", "it says: Server listening on 0.0.0.0"),
        ("Accepted publickey for root", ""),
    ],
)
def test_its_own_words_show_it(daemon: Daemon, said: str, shown: str) -> None:
    made = host(daemon)
    made.said = said + "\n"
    assert reload("web", made.system()).shown.startswith(shown) and bool(shown) == bool(
        reload("web", made.system()).shown
    )


def test_words_that_say_that_it_failed_do_not(daemon: Daemon) -> None:
    made = host(daemon)
    made.said = "reloading configuration\nreloading configuration failed: file not found\n"
    with pytest.raises(ServiceFailed, match="keeps its old configuration: reloading configuration failed"):
        reload("web", made.system())


SSHD = (
    "Received SIGHUP; restarting.\nerror: Unable to load host key: /etc/ssh/key\nServer listening on 0.0.0.0 port 22."
)
BIND = "reloading configuration succeeded\nzone a.example/IN: loading from master file a.db failed: file not found"
ROOTS = "could not configure root hints from named.ca: file not found\nreloading configuration succeeded"


@pytest.mark.parametrize("said", [SSHD, BIND, ROOTS])
def test_a_reload_that_was_taken_without_a_part_is_no_failure(daemon: Daemon, said: str) -> None:
    made = host(daemon)
    made.said = said
    assert reload("web", made.system()).shown.startswith("it says: ")


@pytest.mark.parametrize(
    "said",
    [
        "reloading failed: file not found\nrestarting worker 3",
        "cannot parse the configuration\nkeeping the old configuration",
        "[emerg] bind() to 0.0.0.0:443 failed\nreconfiguring",
    ],
)
def test_no_later_line_takes_back_that_the_reload_failed(daemon: Daemon, said: str) -> None:
    made = host(daemon)
    made.said = said
    with pytest.raises(ServiceFailed, match="keeps its old configuration: "):
        reload("web", made.system())


def test_lines_of_two_logs_have_no_order(daemon: Daemon) -> None:
    pid = daemon.process.pid
    made = host(daemon, lambda: daemon.do(f"say [{pid}] cannot parse the configuration"))
    made.said = "Received SIGHUP\n"
    with pytest.raises(ServiceFailed, match="cannot parse the configuration"):
        reload("web", made.system())


def test_a_service_without_a_main_process_is_heard_and_proves_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "processes", lambda units, _proc: {unit: [daemon.process.pid] for unit in units})
    made = host(None)
    made.said = "reloading 0 zones\n"
    assert reload("web", made.system()).shown == ""
    made.said = "reloading 0 zones failed\n"
    with pytest.raises(ServiceFailed, match="reloading 0 zones failed"):
        reload("web", made.system())
    asked = [call for call in made.calls if "journalctl" in call]
    assert asked and not any("_PID=" in call for call in asked)


def test_what_systemd_waits_for_and_what_has_no_process_is_shown_by_that(daemon: Daemon) -> None:
    assert reload("web", host(daemon, Type="notify-reload").system()).shown == "it told systemd that it is ready again"
    assert reload("web", host(None).system()).shown == "its command ended well, and nothing else of it runs"


OF_OTHERS = (
    "NOQUEUE: reject: RCPT from client: 554 <eve@reload.example>: Relay access denied",
    'FATAL:  password authentication failed for user "bob"',
    'LOG:  connection refused for user "reload configuration"',
    "2026/11/29 06:00:00 [error] 77#77: *1 open() '/srv/reload [emerg]' failed (2: No such file or directory)",
)


@pytest.mark.parametrize("words", OF_OTHERS)
@pytest.mark.parametrize("where", ["log", "journal"])
def test_words_about_a_client_decide_nothing(daemon: Daemon, words: str, where: str) -> None:
    made = host(daemon, lambda: daemon.do(f"say {words}") if where == "log" else None)
    made.said = words + "\n" if where == "journal" else ""
    assert reload("web", made.system()).shown == ""


def test_only_the_main_process_is_a_proof(daemon: Daemon) -> None:
    """Anybody may write the words of a proof into a log, and the failure of another process is none of the service."""
    made = host(daemon, lambda: daemon.do("say user reload logged in"))
    assert reload("web", made.system()).shown == ""
    pid = daemon.process.pid
    made = host(daemon, lambda: daemon.do(f"say [{pid}] reloading\nsay [77] reload failed for user mallory"))
    assert reload("web", made.system()).shown == f"it says: [{pid}] reloading"
    asked = [call for call in made.calls if "journalctl" in call]
    assert asked and all(f" _PID={pid} " in call for call in asked)
    made = host(daemon, lambda: daemon.do(f"say [{pid}] reloading\nsay [{pid}] failed to load the configuration"))
    with pytest.raises(ServiceFailed, match="failed to load the configuration"):
        reload("web", made.system())
