# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""People on the host hear of a change; none of the ways to tell them can fail it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import (
    changes,
    command,
    doubt,
    notices,
    units,
    watcher,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import ours
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback


@dataclass
class Host:
    """A host whose journal, terminals and messages of the day are those of the test."""

    store: Store
    motd: Path
    log: socket.socket
    heard: list[str] = field(default_factory=list)

    def journal(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.log.recv(4096).decode())
            except BlockingIOError:
                return found

    def shown(self) -> str:
        files = sorted(self.motd.iterdir()) if self.motd.is_dir() else []
        assert [one.name for one in files] in ([], ["evenkeel"])
        return files[0].read_text() if files else ""


@pytest.fixture
def host(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.setblocking(False)
    log.bind(str(tmp_path / "log"))
    (tmp_path / "run").mkdir()
    found = Host(store, tmp_path / "run" / "motd.d", log)
    run = store.system.run

    def hear(argv: Sequence[str], timeout: float) -> Completed:
        if not argv[0].endswith("true"):
            return run(argv, timeout)
        found.heard.append(argv[1])
        return Completed(tuple(argv), 1, "", "no terminal")

    found.store = Store(store.root, replace(store.system, run=hear))
    monkeypatch.setattr(notices, "LOG", str(tmp_path / "log"))
    monkeypatch.setattr(notices, "MOTD", str(found.motd))
    monkeypatch.setattr(notices, "WALL", "true")
    monkeypatch.setattr(notices, "stranger", lambda _path, _owners: "")
    monkeypatch.setattr(command, "is_host", lambda _store: True)
    monkeypatch.setattr(units, "DEFAULT", store.root)
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    yield found
    log.close()


def begin(host: Host, live: Path, name: str = "upgrade") -> changes.Armed:
    live.write_text("before")
    checkpoint(host.store, name, [{"files": {"paths": [str(live)]}}], confirm_within=60.0, at_most=600.0)
    live.write_text("after")
    change = changes.armed(host.store)
    assert change is not None
    return change


def test_a_change_is_told_while_it_lasts(host: Host, tmp_path: Path) -> None:
    change = begin(host, tmp_path / "live")
    until = time.strftime("%H:%M:%S", time.localtime(change.until))
    words = f"a change is under way on this host, upgrade. It goes back at {until} unless it is confirmed"
    assert host.heard == [f"Evenkeel: {words}. Look: evenkeel status, on the controller"]
    assert words in host.shown() and oct(os.stat(host.motd / "evenkeel").st_mode)[-3:] == "644"
    (line,) = host.journal()
    assert line.startswith(f"<29>evenkeel[{os.getpid()}]: a change is under way")
    with host.store.locked():
        known = changes.extend(host.store, change, 300.0)
    assert time.strftime("%H:%M:%S", time.localtime(known.until)) in host.shown() and len(host.heard) == 1
    with host.store.locked():
        changes.conclude(host.store, known, changes.CONFIRMED, "settle")
    assert host.shown() == "" and len(host.heard) == 1
    assert "upgrade is over: confirmed" in host.journal()[-1]


def test_a_host_that_went_back_says_so_until_the_next_change(host: Host, tmp_path: Path) -> None:
    begin(host, tmp_path / "live")
    rollback(host.store, "upgrade")
    assert "upgrade was rolled back" in host.heard[-1] and "by: operator" in host.shown()
    assert "was rolled back" in host.journal()[-1]
    change = begin(host, tmp_path / "live", "next")
    assert "next" in host.shown()
    with host.store.locked():
        changes.conclude(host.store, change, changes.CONFIRMED, "settle")
    assert host.shown() == ""


def test_a_doubt_is_told_once_and_until_it_is_over(host: Host, tmp_path: Path) -> None:
    change = begin(host, tmp_path / "live")
    with host.store.locked():
        change = changes.note_left(host.store, change, "deadline", ["/etc/a: why", "/etc/b: why"])
        change = changes.note_left(host.store, change, "deadline", ["/etc/a: why"])
    assert [one for one in host.heard if "in doubt" in one] == [host.heard[-1]]
    assert "2 things could not be put back" in host.heard[-1] and "/etc" not in host.heard[-1]
    with host.store.locked():
        changes.conclude(host.store, change, changes.IN_DOUBT, "deadline", ["/etc/a: why"])
    assert "1 thing could not be put back" in host.shown()
    doubt.accept(host.store)
    assert host.shown() == "" and "over: accepted" in host.journal()[-1]


def test_a_doubt_that_a_rollback_ends_is_over(host: Host, tmp_path: Path) -> None:
    change = begin(host, tmp_path / "live")
    with host.store.locked():
        changes.conclude(host.store, change, changes.IN_DOUBT, "deadline", ["/etc/a: why"])
    rollback(host.store, "upgrade")
    assert host.shown() == ""


def test_a_name_moves_no_terminal(host: Host, tmp_path: Path) -> None:
    notices.armed(host.store, "\x1b[2J\nroot:\x07" + "x" * 500, 0.0)
    for text in (host.heard[-1], host.journal()[-1], host.shown()):
        assert not set(text) & set("\x1b\x07") and "\\x1b[2J root:" in text and len(text) < 400
    assert len(host.shown().splitlines()) == 4


def test_the_command_is_named_where_it_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "is_ours", lambda _path: True)
    notices.rolled_back(host.store, "upgrade", "deadline")
    assert host.heard[-1].endswith("Look: evenkeel-host status") and "Look: evenkeel-host status" in host.shown()


def _no_log(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "LOG", "/nowhere/log")


def _full_log(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that has stopped to read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.setblocking(False)
        log.connect(notices.LOG)
        with pytest.raises(BlockingIOError):
            while True:
                log.send(b"x" * 1000)


def _no_wall(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "WALL", "no-wall")


def _no_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MOTD", "/nowhere/motd.d")


def _strange(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.motd.parent.rmdir()
    host.motd.parent.write_text("no directory")


@pytest.mark.parametrize("harm", [_no_log, _full_log, _no_wall, _no_run, _strange])
def test_nothing_of_it_fails_or_delays_a_change(
    harm: Callable[[Host, pytest.MonkeyPatch], None], host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(host, monkeypatch)
    start = time.monotonic()
    begin(host, tmp_path / "live")
    rollback(host.store, "upgrade")
    assert (tmp_path / "live").read_text() == "before" and time.monotonic() - start < 10.0


def test_a_place_that_others_can_write_to_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "stranger", lambda _path, _owners: "others can write to it")
    notices.armed(host.store, "upgrade", 0.0)
    assert host.shown() == ""
    assert [one.name for one in host.motd.parent.iterdir()] == ["motd.d"]


def test_a_machine_that_plays_several_hosts_tells_nobody(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "is_host", lambda _store: False)
    notices.armed(host.store, "upgrade", 0.0)
    notices.over(host.store, "upgrade", "confirmed")
    assert host.heard == [] and host.journal() == [] and host.shown() == ""
