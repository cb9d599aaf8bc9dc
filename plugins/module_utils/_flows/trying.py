# SPDX-License-Identifier: GPL-3.0-or-later

"""A try: the host is armed, a person works on it by hand, and it goes back unless the person confirms."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from .._deadman import changes, watcher
from .._errors import EvenkeelError
from .._host.durations import seconds
from .._host.system import System
from .._resources import registry
from .._store.store import LATEST, UNDO, Store
from . import by_hand, status
from .by_hand import say
from .checkpoint import Request, checkpoint
from .status import FAILED, IN_DOUBT

NAME = "try"
# A try can be extended up to this many seconds after it was begun.
_AT_MOST = 3600.0
# Seconds between two looks at the change and at the terminal, and between two lines on a terminal without a cursor.
_TICK, _RARELY = 0.5, 60.0
# Seconds without a look after which this process was stopped.
_STOPPED = 3.0
_HELP = "Type confirm, rollback, extend 10m, or status."


def try_out(store: Store, within: float, paths: Sequence[str] | None) -> int:
    """Take a checkpoint, arm, and wait for the end of the try; its exit code."""
    resources = (
        [{registry.trees().name: {"paths": [os.path.abspath(path) for path in paths]}}]
        if paths
        else _last_declared(store)
    )
    request = Request(NAME, resources, confirm_within=within, at_most=max(within, _AT_MOST))
    # From here on a lost terminal is noticed: the host may be armed at any moment.
    with _Losses() as losses:
        taken = checkpoint(store, request)
        change = changes.armed(store)
        if change is None or change.generation != taken.generation:
            return by_hand.over(store)
        kinds = ", ".join(taken.protects or dict.fromkeys(kind for one in resources for kind in one))
        say(f"This host is armed. It goes back in {status.span(within)}, at {status.clock(change.until)}, unless you")
        say(f"confirm. Protected: {', '.join(paths) if paths else kinds} (checkpoint {taken.id[:12]}).")
        if taken.left:
            say("A rollback cannot bring back:")
        for line in [*status.listed(taken.left), *(taken.warnings or [])]:
            say(line)
        say("Work in another terminal, or leave with Ctrl-Z and come back with fg.")
        say(f"{_HELP} Ctrl-C or a lost terminal puts the host back now.")
        return _Waiting(store, change, losses).run()


def _last_declared(store: Store) -> list[dict[str, dict[str, object]]]:
    """The resources of the last change, else of the newest checkpoint, else all that a plain host consists of."""
    last = changes.last_event(store) if store.exists else None
    for wanted in (last.checkpoint if last is not None else LATEST, LATEST):
        with suppress(EvenkeelError):
            found = store.record(store.resolve(wanted), whole=False)
            resources = registry.declared(found.sections)
            if resources and found.name != UNDO:
                return resources
    return registry.DEFAULT


def _shuts_down(system: System) -> bool:
    """Whether this host shuts down: then the agent puts it back at the boot, when nothing interrupts it."""
    if watcher.is_last_of_all():
        return True
    return system.has_systemd() and system.run(["systemctl", "is-system-running"], 10.0).out.strip() == "stopping"


class _Losses:
    """The signals of a lost terminal, and of Ctrl-C. They are noted, and the waiting loop sees them."""

    def __init__(self) -> None:
        self.seen = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Losses:
        for number, words in (
            (signal.SIGINT, "Ctrl-C"),
            (signal.SIGHUP, "the terminal is lost"),
            (signal.SIGTERM, "this process is to end"),
        ):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # As under nohup.
                self._before[number] = before
                signal.signal(number, self._noting(words))
        return self

    def _noting(self, words: str) -> Callable[[int, object], None]:
        return lambda _number, _frame: self.note(words)

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def note(self, words: str) -> None:
        """Note why the person cannot confirm any more."""
        self.seen = self.seen or words


class _Terminal:
    """The input and output of the person. ``live``: a cursor can be moved, so that the time left counts down."""

    def __init__(self) -> None:
        self.reads = _can_speak()
        self.is_tty = self.reads and os.isatty(0) and os.isatty(1)
        self.live = self.is_tty and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
        self._buffer = b""
        self._shown = False

    def lines(self, patience: float) -> Iterator[str | None]:
        """The lines that were typed by now, and None at the end of the input. Waits a while for the first."""
        if not self.reads or not self._is_in_front():
            time.sleep(patience)
            return
        try:
            if not select.select([0], [], [], patience)[0]:
                return
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            self.reads = False
            yield None
            return
        self._buffer += data
        *whole, self._buffer = self._buffer[-4096:].split(b"\n")
        for line in whole:
            self._shown = False
            yield line.decode("utf-8", "replace").strip()

    def show(self, left: float) -> None:
        """Show the time that is left; the text that was typed after it stays."""
        if not self.is_tty or not self._is_in_front() or (self._shown and not self.live):
            return
        whole = max(0, round(left))
        prompt = f"back in {whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02} > "
        with suppress(OSError, ValueError):
            sys.stdout.write(f"\x1b7\r{prompt}\x1b8" if self._shown else f"\r{prompt}")
            sys.stdout.flush()
        self._shown = True

    def leave(self) -> None:
        """End the line of the prompt, before other lines."""
        if self._shown:
            with suppress(OSError, ValueError):
                sys.stdout.write("\n")
        self._shown = False

    def _is_in_front(self) -> bool:
        """Whether the terminal is ours, and not that of a shell to which the person has gone back."""
        if not self.is_tty:
            return True
        with suppress(OSError):
            return os.tcgetpgrp(0) == os.getpgrp()
        return True


def _can_speak() -> bool:
    """Whether somebody can type: standard input is a terminal, a pipe or a socket."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0)


class _Waiting:
    """The time from the arming of a try to its end."""

    def __init__(self, store: Store, change: changes.Armed, losses: _Losses) -> None:
        self.store = store
        self.generation = change.generation
        self.losses = losses
        self.terminal = _Terminal()
        self._told = store.system.monotonic()
        self._confirmed = False

    def run(self) -> int:
        """Wait for a confirmation, from here or elsewhere, or for the end of the time; the exit code."""
        system = self.store.system
        seen = system.monotonic()
        while (change := self._change()) is not None:
            if system.monotonic() > seen + _STOPPED:  # The person was in a shell meanwhile (Ctrl-Z, fg).
                self.terminal.leave()
            seen = system.monotonic()
            if self.losses.seen:
                return self._go_back(change)
            why = change.overdue(system)
            if why is not None:
                return self._see_it_go(why)
            left = status.left(self.store, change)
            self.terminal.show(left)
            if not self.terminal.live and system.monotonic() >= self._told + _RARELY:
                self._told = system.monotonic()
                say(f"The host goes back in {status.span(left)}.")
            for line in self.terminal.lines(_TICK):
                if line is None:
                    self.losses.note("the input has ended")
                else:
                    self._obey(line)
        self.terminal.leave()
        return status.DONE if self._confirmed else by_hand.over(self.store)

    def _change(self) -> changes.Armed | None:
        change = changes.armed(self.store)
        return change if change is not None and change.generation == self.generation else None

    def _obey(self, line: str) -> None:
        """Carry out the typed command, as on the command line. A mistyped command only gives a message."""
        words = line.split()
        if words[:1] == ["evenkeel-host"]:
            words = words[1:]
        try:
            if words[:1] == ["confirm"] and set(words[1:]) <= {"--from-here"}:
                self._confirmed = by_hand.confirm(self.store, "--from-here" in words, alone=False) == status.DONE
            elif words[:1] == ["extend"] and len(words) <= 2:
                by_hand.extend(self.store, seconds(words[1] if words[1:] else "10m", "TIME"))
            elif words == ["rollback"]:
                self.losses.note("as asked")
            elif words == ["status"]:
                for one in status.words(self.store)[0]:
                    say(one)
            elif words:
                say(_HELP)
        except (EvenkeelError, OSError) as error:
            say(error.message if isinstance(error, EvenkeelError) else str(error))

    def _go_back(self, change: changes.Armed) -> int:
        """Put the host back now. While it shuts down, the boot puts it back."""
        self.terminal.leave()
        say(f"The host goes back now: {self.losses.seen}.")
        if _shuts_down(self.store.system):
            return FAILED
        code = by_hand.end_change(self.store, change)
        return FAILED if code == status.DONE else code

    def _see_it_go(self, why: str) -> int:
        """Print the rollback that the host carries out by itself."""
        self.terminal.leave()
        say(f"The host goes back now: {status.WHY.get(why, why)}.")
        while (known := self._change()) is not None and not known.left:
            if self.losses.seen == "the terminal is lost":
                return FAILED
            self.store.system.sleep(_TICK)
        if known is not None:
            for line in status.words(self.store)[0]:
                say(line)
            return IN_DOUBT
        return by_hand.over(self.store)
