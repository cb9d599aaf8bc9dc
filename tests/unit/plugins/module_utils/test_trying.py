# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A try at a terminal: kept by confirm, undone by everything else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import trying
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

# The command as a process of its own, on a host without timers: what comes back does so by the command.
_PROGRAM = """
import sys
from dataclasses import replace
base = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils."
import importlib
console, watcher, system, ours, logins, places = (importlib.import_module(base + name) for name in (
    "_flows.console", "_deadman.watcher", "_host.system", "_resources.ours", "_host.logins", "_files.places"))
places.PATHS = ()  # This machine is not the host.
console.System = lambda: replace(system.System(), has_systemd=lambda: False)
watcher.start = lambda *words: None
ours.COMMAND = "/nowhere/evenkeel-host"
logins.of_person = lambda since: sys.argv[1]
raise SystemExit(console.main(sys.argv[2:]))
"""
BACK, KEPT = "before", "after"


class Try:
    """A try that runs, at a terminal or with a pipe for its input."""

    def __init__(self, store: Store, *words: str, login: str = "old", terminal: bool = True, term: str = "xterm"):
        self.store, self.out = store, ""
        argv = [sys.executable, "-c", _PROGRAM, login, "--store", store.root, "try", *words]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), TERM=term)
        self.near, far = os.openpty() if terminal else os.pipe()[::-1]

        def own() -> None:
            if terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.reading = self.near
        out: Any = far
        if not terminal:
            self.reading, out = os.pipe()
        self.process = subprocess.Popen(
            argv, env=env, stdin=far, stdout=out, stderr=out, start_new_session=True, preexec_fn=own
        )
        for fd in {far, out}:
            os.close(fd)

    def sees(self, words: str, seconds: float = 20.0) -> str:
        """Read until these words have come."""
        end = time.monotonic() + seconds
        while words not in self.out and time.monotonic() < end:
            if select.select([self.reading], [], [], 0.2)[0]:
                try:
                    data = os.read(self.reading, 4096)
                except OSError:
                    data = b""
                if not data:
                    break
                self.out += data.decode()
        assert words in self.out
        return self.out

    def types(self, line: str) -> None:
        os.write(self.near, line.encode())

    def close(self) -> None:
        """The terminal is gone, or the other end of the pipe."""
        os.close(self.near)
        self.near = -1

    def ends(self) -> int:
        return self.process.wait(30)

    def clean(self) -> None:
        self.process.kill()
        self.process.wait()
        for fd in {self.near, self.reading} - {-1}:
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def live(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the last checkpoint of the host declared."""
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    path = tmp_path / "live"
    path.mkdir()
    (path / "file").write_text("before")
    checkpoint(store, "nightly", [{"files": {"paths": [str(path)], "exclude": ["*.log"]}}])
    return path / "file"


@pytest.fixture
def tried(store: Store, live: Path) -> Iterator[Callable[..., Try]]:
    started = []

    def start(*words: str, **more: Any) -> Try:
        found = Try(store, *(words or ("10m",)), **more)
        started.append(found)
        found.sees("Ctrl-C or a lost terminal")
        live.write_text("after")
        return found

    yield start
    for one in started:
        one.clean()


def last(store: Store) -> tuple[str, str]:
    event = changes.last_event(store)
    assert event is not None and changes.armed(store) is None
    return event.outcome, event.by


def test_a_person_keeps_it_by_confirm(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried("10m", login="console")
    assert "Protected: files" in one.out and "back in 0:" in one.sees("back in 0:")
    one.types("confirm\n")
    one.sees("Confirmed: try")
    assert one.ends() == 0 and live.read_text() == KEPT and last(store) == ("confirmed", "operator")


def test_from_an_old_login_it_takes_the_persons_word(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried("10m", login="old")
    one.types("confirm\n")
    one.sees("is older than the change")
    assert changes.armed(store) is not None
    one.types("evenkeel-host confirm --from-here\n")
    assert one.ends() == 0 and live.read_text() == KEPT


def test_it_is_kept_from_another_terminal(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried()
    change = changes.armed(store)
    assert change is not None and change.name == "try" and change.within == 600.0
    with store.locked():
        changes.conclude(store, change, changes.CONFIRMED, "operator")
    one.sees("was confirmed by hand")
    assert one.ends() == 0 and live.read_text() == KEPT


def _interrupt(one: Try) -> None:
    one.types("\x03")


def _kill(one: Try) -> None:
    one.process.send_signal(signal.SIGHUP)


def _stop_and_close(one: Try) -> None:
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    one.close()
    one.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "lose",
    [_interrupt, _kill, Try.close, _stop_and_close, lambda one: one.types("rollback\n"), lambda one: one.types("\x04")],
    ids=["Ctrl-C", "SIGHUP", "terminal closed", "stopped and closed", "rollback", "Ctrl-D"],
)
def test_it_comes_back_when_the_person_is_lost(
    lose: Callable[[Try], None], store: Store, live: Path, tried: Callable[..., Try]
) -> None:
    one = tried()
    one.sees("back in")
    lose(one)
    assert one.ends() == 2 and live.read_text() == BACK and last(store) == ("rolled_back", "operator")


def test_without_a_terminal_the_end_of_the_input_is_its_loss(
    store: Store, live: Path, tried: Callable[..., Try]
) -> None:
    one = tried(terminal=False)
    one.types("status\n")
    one.sees("A change is under way")
    one.close()
    assert one.ends() == 2 and live.read_text() == BACK


def test_it_comes_back_by_doing_nothing(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried("3s")
    one.sees("its time to confirm is over")
    with store.locked():  # As the agent does.
        finish(store)
    assert one.ends() == 2 and live.read_text() == BACK and last(store) == ("rolled_back", "deadline")


def test_a_state_that_could_not_be_put_back_ends_the_wait(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried()
    change = changes.armed(store)
    assert change is not None
    with store.locked():
        changes.note_left(store, change, "operator", ["/etc/x: no room"])
    one.sees("/etc/x: no room")
    assert one.ends() == 4


def test_what_is_typed_is_obeyed_and_a_slip_loses_nothing(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried("10m", term="dumb")
    for line, words in (
        ("confrim\n", "Type confirm"),
        ("extend soon\n", "is not a duration"),
        ("extend 20m\n", "goes back in 20 min 0 s"),
        ("extend 10h\n", "cannot be extended beyond"),
        ("status\n", "A change is under way"),
        ("\x1b[31m\xff\n", "Type confirm"),
    ):
        one.out = ""
        one.types(line)
        one.sees(words)
    assert changes.armed(store) is not None and "\x1b7" not in one.out
    change = changes.armed(store)
    assert change is not None and change.due - change.started == pytest.approx(3600.0)


def test_the_time_counts_down_beside_what_is_typed(store: Store, live: Path, tried: Callable[..., Try]) -> None:
    one = tried("10m")
    one.types("con")
    one.sees("\x1b7\rback in 0:09:5")
    one.types("firm --from-here\n")
    assert one.ends() == 0


def test_a_try_is_refused_while_a_change_is_under_way(store: Store, live: Path) -> None:
    checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=60.0)
    one = Try(store, "10m")
    try:
        one.sees("another change is under way")
        assert one.ends() == 3
    finally:
        one.clean()


def test_it_protects_what_the_last_change_declared(store: Store, live: Path, tmp_path: Path) -> None:
    nightly = [{"files": {"paths": [str(live.parent)], "exclude": ["*.log"]}}]
    assert trying._last_declared(store) == nightly
    other = tmp_path / "other"
    other.write_text("other")
    spec = [{"files": {"paths": [str(other)], "exclude": []}}]
    checkpoint(store, "change", spec, confirm_within=60.0)
    rollback(store, "change")
    checkpoint(store, "nightly", [{"files": {"paths": [str(live.parent)]}}])
    assert trying._last_declared(store) == spec
    other.write_text("changed")
    rollback(store, "change", confirm_within=60.0)  # Its own checkpoint is the undo.
    rollback(store, "undo")
    assert trying._last_declared(store) == [{"files": {"paths": [str(live.parent)], "exclude": []}}]


def test_a_host_that_knows_nothing_protects_what_a_plain_host_has(tmp_path: Path, store: Store) -> None:
    assert trying._last_declared(store) == [{"system": {}}]
    one = Try(store, "10m", "--paths", str(tmp_path / "there"), terminal=False)
    try:
        one.sees("checkpoint")
        (tmp_path / "there").write_text("new")
        one.close()
        assert one.ends() == 2 and not (tmp_path / "there").exists()
    finally:
        one.clean()
