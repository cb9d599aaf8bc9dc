# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's playbook begins sooner, as Ansible loads while the hosts are armed, and it begins on the same terms."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evenkeel.ansible.ahead import Awaited
from evenkeel.ansible.configuration import Ansible
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.processes import marked
from evenkeel.ansible.runner import Child, Job
from evenkeel.ansible.session import Session, UsersRun, _Ahead, open_session
from evenkeel.outcome import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no run begins ahead")
SITE = "- hosts: all\n  gather_facts: false\n  tasks: [{ansible.builtin.debug: {msg: here}}]\n"


class Reader:
    """A process, or here a thread, that reads the playbook at a path."""

    def __init__(self, path: Path) -> None:
        self.text = ""
        self._path = path
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self.text = self._path.read_text()

    def ends(self) -> str:
        self._thread.join(10)
        assert not self._thread.is_alive(), "it still waits for the playbook"
        return self.text


@pytest.mark.parametrize("early", [True, False])
def test_who_waits_already_or_comes_later_reads_the_playbook_once(tmp_path: Path, early: bool) -> None:
    """And a pipe stays one until then: Ansible asks twice whether the path is a file or a pipe."""
    path = tmp_path / "site.yml"
    playbook = Awaited(path)
    readers = [Reader(path)] if early else []
    time.sleep(0.2)
    (tmp_path / "new").write_text(SITE)
    playbook.write(tmp_path / "new")
    assert path.is_fifo() is not early
    readers = readers or [Reader(path)]
    time.sleep(0.2)
    playbook.offer()
    playbook.offer()
    assert readers[0].ends() == SITE == path.read_text()


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    (tmp_path / "memory").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "memory"))
    (tmp_path / "hosts").write_text("web1\nweb2\n")
    (tmp_path / "site.yml").write_text(SITE)
    options = Options(inventory=(str(tmp_path / "hosts"),))
    with open_session(Ansible(str(tmp_path), {}, ""), options, Secrets(), tmp_path) as found:
        yield found


def load(session: Session, hosts: list[str]) -> None:
    session.load_for_users(hosts, hosts)


def play(session: Session, *hosts: str) -> list[str]:
    """The hosts on which the task of the user's playbook ran."""
    events: list[Event] = []
    run = UsersRun("site.yml", hosts, hosts, "the mark")
    ended = session.run_users(run, events.append, lambda: "")
    assert ended.rc == 0, (ended, [event.get("stdout") for event in events])
    done = [mapping(event["event_data"]) for event in events if event["event"] == "runner_on_ok"]
    assert {str(one["host"]) for one in done if one["task"] == "the mark"} == set(hosts)
    return sorted(str(one["host"]) for one in done if one["task"] != "the mark")


def test_ansible_loads_ahead_and_runs_on_the_same_hosts(session: Session) -> None:
    load(session, ["web1", "web2"])
    load(session, ["web1", "web2"])
    ahead = session._ahead
    assert ahead is not None
    assert play(session, "web1", "web2") == ["web1", "web2"]
    assert session._ahead is None and not ahead.child.waits
    assert play(session, "web1") == ["web1"], "one that was not begun ahead"


def test_a_run_that_loads_ahead_reads_no_old_facts_of_a_host_that_changes(session: Session) -> None:
    """An inventory makes groups of facts as it is read (constructed)."""
    facts = session.scratch / "facts"
    facts.mkdir(mode=0o700)
    for name in ("s1_web1", "web1", "s1_localhost", "s1_web2"):
        (facts / name).touch()
    session.load_for_users(["web1", "localhost"], ["web1"])
    assert {one.name for one in facts.iterdir()} == {"s1_localhost", "s1_web2"}


def test_a_run_on_other_hosts_begins_anew(session: Session) -> None:
    load(session, ["web1", "web2"])
    ahead = session._ahead
    assert ahead is not None
    assert play(session, "web2") == ["web2"]
    assert not marked(ahead.child.ident), "nothing of the other run is left"


def test_a_run_whose_processes_were_killed_meanwhile_begins_anew(session: Session) -> None:
    load(session, ["web1"])
    ahead = session._ahead
    assert ahead is not None
    ahead.child.process.kill()
    ahead.child.process.wait()
    assert play(session, "web1") == ["web1"]


def test_a_run_whose_playbook_has_no_directory_any_more_begins_anew(session: Session) -> None:
    load(session, ["web1"])
    ahead = session._ahead
    assert ahead is not None
    shutil.rmtree(session.scratch / "beside")
    assert play(session, "web1") == ["web1"]
    assert not marked(ahead.child.ident)


def test_a_playbook_that_cannot_be_written_leaves_nothing_behind(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(session, ["web1"])
    ahead = session._ahead
    assert ahead is not None

    def full(_awaited: Awaited, _file: Path) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(Awaited, "write", full)
    with pytest.raises(OSError, match="no space"):
        play(session, "web1")
    assert not marked(ahead.child.ident)


def test_a_playbook_is_written_only_while_it_may_run_and_with_a_known_end(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    until = time.time() + 60
    write = Awaited.write
    for why in ("", "the time is over"):
        load(session, ["web1"])
        ahead = session._ahead
        assert ahead is not None

        def told(awaited: Awaited, file: Path, ahead: _Ahead = ahead) -> None:
            written.append(ahead.child._orders._told)
            write(awaited, file)

        monkeypatch.setattr(Awaited, "write", told)
        run = UsersRun("site.yml", ["web1"], ["web1"], "the mark", lambda: until)
        ended = session.run_users(run, lambda _event: None, lambda why=why: why)  # type: ignore[misc]
        assert (ended.rc, ended.stopped) == ((None, why) if why else (0, ""))
        assert not marked(ahead.child.ident)
    assert written == [until], "the end is told first, and nothing is written that must not run"


@pytest.mark.parametrize(
    "error", [BlockingIOError(11, "no more processes"), UsageError("there is no ansible-playbook")]
)
def test_an_error_ahead_is_left_to_the_run_itself(
    session: Session, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def begin(_job: Job) -> Child:
        raise error

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(session.runner, "begin", begin)
        load(session, ["web1"])
    assert session._ahead is None and len(os.listdir("/proc/self/fd")) == before
    assert play(session, "web1") == ["web1"]


def test_a_run_that_does_not_come_leaves_nothing_behind(session: Session) -> None:
    load(session, ["web1"])
    ahead = session._ahead
    assert ahead is not None
    deadline = time.monotonic() + 20
    while len(marked(ahead.child.ident)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    session.close()
    assert not marked(ahead.child.ident) and not ahead.child.scratch.exists()


def test_more_hosts_than_a_pipe_takes_are_not_begun_ahead(session: Session) -> None:
    load(session, [f"web{number}" for number in range(10_000)])
    assert session._ahead is None
