# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent: this library in one file on the host itself, so that it can put itself back with nobody's help."""

from __future__ import annotations

import argparse
import codecs
import importlib
import itertools
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from .._errors import Busy, EvenkeelError
from .._host import background
from .._host.system import System
from .._store.store import Store
from . import changes, timers, units, watcher

# ``finish(store, boot=False)``, under the lock: complete what a kill left and what a missed deadline asks for; what was
# done, in words.
Finish = Callable[..., list[str]]
# The exit code when nothing is left for this agent to do, and not all is back. The units know it.
DOUBT = 3
# How long to wait, in seconds, before what could not be put back is tried again; the last one over and over.
_AGAIN = (10.0, 20.0, 60.0, 120.0, 300.0)
# At the deadline nobody waits long for what a controller may have left running.
_DRAIN = 2.0
# Seconds after the deadline that the watcher leaves to the unit of systemd, whose words are in the journal.
_GRACE = 2.0
# Seconds between two looks of the watcher at the units, and how long before the deadline it looks no more.
_LOOK, _QUIET = 3.0, 12.0
# Seconds that a change may take from its number to its record, while it is being armed.
_ARMING = 120.0
# Python loads these when they are used for the first time.
_CODECS = ("utf-8", "ascii", "latin-1", "unicode_escape", "raw_unicode_escape", "idna")


def main(finish: Finish, argv: Sequence[str] | None = None) -> int:
    """``deadline`` when a timer fires, ``watch`` to wait for it without systemd, ``boot`` early at boot, ``check``
    whether this Python will do."""
    parser = argparse.ArgumentParser(prog="evenkeel-agent", description="Put this host back.")
    parser.add_argument("--store", required=True)
    parser.add_argument("what", choices=["deadline", "boot", "watch", "check"])
    parser.add_argument("--generation", type=int, default=0)
    args = parser.parse_args(argv)
    if args.what == "check":
        return 0
    store = Store(args.store, System(), armed=True)
    if args.what == "watch":
        return _watch_over(store, args.generation, finish)
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    if args.what == "boot":
        return _at_boot(store, finish)
    return _at_deadline(store, args.generation, finish)


def _load_all() -> None:
    """Whatever may be needed later, from the zipapp and from Python: both may be gone by then."""
    archive = zipfile.ZipFile(__loader__.archive)  # type: ignore[name-defined]
    for name in archive.namelist():
        if "/" in name and name.endswith(".py"):
            importlib.import_module(name[:-3].replace("/", ".").removesuffix(".__init__"))
    archive.close()
    for codec in _CODECS:
        codecs.lookup(codec)
    importlib.import_module("concurrent.futures.thread")


def _at_boot(store: Store, finish: Finish) -> int:
    """Once, because a boot waits for nothing; what cannot be done yet is left to the dead-man."""
    try:
        with store.locked(wait=600.0):
            _say(finish(store, boot=True))
        code = 0
    except Exception as error:
        sys.stderr.write(f"not put back yet: {_words(error)}\n")
        code = DOUBT
    change = changes.armed(store)
    if change is not None and change.overdue(store.system) is not None:
        changes.fire(store, sys.argv[0])
    elif change is not None:  # Everything was stopped and started anew, without a boot of the kernel.
        with suppress(EvenkeelError, OSError):
            changes.ensure_timers(store, change, sys.argv[0])
    return code


def _at_deadline(store: Store, generation: int, finish: Finish) -> int:
    """From the service: put the host back when it is time, and else see that there is a watcher."""
    change = changes.armed(store)
    if change is None or change.generation != generation:
        if change is None:
            timers.disarm(store)
        return 0
    if change.overdue(store.system) is None:
        with suppress(EvenkeelError, OSError):
            changes.ensure_timers(store, change, sys.argv[0])
        if change.due - store.system.monotonic() > units.TICK + 5.0:
            return 0
        # It may be over by when this unit is started the next time.
        while change is not None and change.overdue(store.system) is None:
            if not _wait(store, generation, min(1.0, max(0.05, change.due - store.system.monotonic()))):
                return 0
            change = changes.armed(store)
    return _until_done(store, generation, finish)


def _watch_over(store: Store, generation: int, finish: Finish) -> int:
    """Wait for the deadline with all that it takes in memory, and see to it meanwhile that the units are in place."""
    agent = os.path.abspath(sys.argv[0])
    watcher.detach()
    mine = watcher.lock(agent, wait=30.0)  # That of the change before leaves within a second.
    if mine is None:
        return 0
    _load_all()
    watcher.report_ready()
    system = store.system
    looked, arming = system.monotonic(), system.monotonic() + _ARMING
    while not _is_over(store, generation):
        change = changes.armed(store)
        if change is None:
            if system.monotonic() > arming:
                return 0
            system.sleep(0.5)
            continue
        left = change.due - system.monotonic() + (_GRACE if system.has_systemd() else 0.0)
        if change.back or left <= 0:
            system.sleep(_GRACE if change.back and system.has_systemd() else 0.0)
            if not _is_over(store, generation):
                return _until_done(store, generation, finish)
            return 0
        if system.monotonic() >= looked + _LOOK and left > _QUIET:
            with suppress(EvenkeelError, OSError):
                timers.ensure(store, generation, change.due, agent, patience=5.0)
            looked = system.monotonic()
        system.sleep(min(1.0, max(0.05, left)))
    return 0


def _is_over(store: Store, generation: int) -> bool:
    last = changes.last_event(store)
    ended = last is not None and last.generation >= generation
    return ended or not os.path.isdir(store.root) or changes.generation(store) > generation


@contextmanager
def _hand(store: Store, generation: int) -> Iterator[bool]:
    """Be the only one that puts this store back. Waits for the other hand, and takes over from it when it dies; False
    when the change is over by then."""
    while (fd := watcher.lock(store.root)) is None:
        watcher.wake(store.root)
        if not _wait(store, generation, 1.0):
            yield False
            return
    try:
        yield not _is_over(store, generation)
    finally:
        os.close(fd)


def _until_done(store: Store, generation: int, finish: Finish) -> int:
    """Put this change back, again and again, until it is done or the time for it is over: in doubt then."""
    with _hand(store, generation) as mine:
        if not mine:
            return 0
        watcher.end_exemption()
        for pause in itertools.chain(_AGAIN, itertools.repeat(_AGAIN[-1])):
            _make_room(store)
            try:
                with _locked(store, generation):
                    pause = min(pause, _try(store, generation, finish))
            except Exception as error:  # The lock, or no room for a record.
                sys.stderr.write(f"{_words(error)}\n")
            change = changes.armed(store)
            if change is None or change.generation != generation:
                break
            sys.stderr.write(f"not put back yet, tried again in {pause:g} s: {'; '.join(change.left[:10])}\n")
            # No longer than the change lasts: the next one needs this unit for its own dead-man.
            if not _wait(store, generation, pause):
                break
    last = changes.last_event(store)
    doubt = last is not None and last.generation == generation and last.outcome == changes.IN_DOUBT
    return DOUBT if doubt else 0


@contextmanager
def _locked(store: Store, generation: int) -> Iterator[None]:
    """The lock of the store; whoever holds it and was stopped goes on. Raises Busy once the change is over: the next
    one is armed under this lock, and waits for this watcher to leave."""
    with ExitStack() as held:
        for last in [False] * 60 + [True]:
            try:
                held.enter_context(store.locked(wait=1.0))
                break
            except Busy:
                if last or _is_over(store, generation):
                    raise
                watcher.wake(store.join("lock"))
        yield


def _make_room(store: Store) -> None:
    """Let the end of the change be written down: on a disk that is full, or was made read-only."""
    changes.give_room(store)
    if os.path.isdir(store.root) and not os.access(store.root, os.W_OK):
        place = store.root
        while not os.path.ismount(place):
            place = os.path.dirname(place)
        done = store.system.run(["mount", "-o", "remount,rw", place], 10.0)
        sys.stderr.write(f"{place} is read-only; mount -o remount,rw: {done.words if done.rc else 'done'}\n")


def _try(store: Store, generation: int, finish: Finish) -> float:
    """Under the lock: finish what was begun, and undo what was not confirmed. Seconds for which it is tried again."""
    try:
        change = changes.armed(store)
        if change is not None and change.generation == generation:
            _say(_end_jobs(store, change))
        _say(finish(store))
    except Exception as error:  # Whatever it is: the host tries again, and says in the end what is in doubt.
        return _noted(store, generation, error)
    return 0.0


def _noted(store: Store, generation: int, error: Exception) -> float:
    """Record what is left; seconds until the end of trying, which concludes it."""
    sys.stderr.write(f"{_words(error)}\n")
    change = changes.armed(store)
    if change is None or change.generation != generation:
        return 0.0
    result = error.result if isinstance(error, EvenkeelError) else {}
    left = [str(one) for one in result.get("left", [])] or [_words(error)]
    change = changes.note_left(store, change, change.overdue(store.system) or "deadline", left)
    seconds = change.tries_left(store.system)
    if seconds <= 0:
        changes.conclude(store, change, changes.IN_DOUBT, change.back, left)
    return max(0.0, seconds)


def _end_jobs(store: Store, change: changes.Armed) -> list[str]:
    """What the change has left running would change the host once more."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    since = (
        background.boottime(store.system, change.due - change.within)
        if change.boot_id == store.system.boot_id()
        else 0.0
    )
    jobs = background.end_jobs(store.system, since, now, _DRAIN, change.login)
    return [f"ended a job of Ansible, {one}" for one in jobs.ended] + [
        f"a job of Ansible still runs, {one}" for one in jobs.running
    ]


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _words(error: Exception) -> str:
    if isinstance(error, EvenkeelError):
        return error.message
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _wait(store: Store, generation: int, seconds: float) -> bool:
    """Sleep; False as soon as the change has ended otherwise."""
    end = store.system.monotonic() + seconds
    while store.system.monotonic() < end:
        store.system.sleep(min(1.0, max(0.0, end - store.system.monotonic())))
        if _is_over(store, generation):
            return False
    return True
