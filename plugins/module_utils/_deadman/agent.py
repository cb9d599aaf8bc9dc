# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent: the program in one file on the host by which the host puts itself back without help."""

from __future__ import annotations

import codecs
import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from .._errors import Busy, EvenkeelError
from .._host import background, locks
from .._host.durable import remove_file
from .._host.system import System
from .._store.store import Store
from . import booted, changes, glance, timers, units, watcher

# ``finish(store, boot=False, agent=False)``, under the lock: complete an interrupted rollback, and roll back a change
# whose deadline is over; return the steps that were done, in words.
Finish = Callable[..., list[str]]
# The exit code of an agent that has nothing left to do on a host in doubt. The units know this code.
DOUBT = 3
# Seconds to wait before each further attempt; the last number is for all later attempts.
_PAUSES = (10.0, 20.0, 60.0, 120.0, 300.0)
# Seconds to wait at the deadline for jobs that a controller may have left running.
_DRAIN = 2.0
# Seconds after the deadline that the watcher leaves to the unit of systemd, whose output is in the journal.
_GRACE = 2.0
# Seconds between two checks of the other timers by the watcher, and before the deadline without such checks.
_CHECK, _QUIET = 3.0, 12.0
# Seconds that may pass between the number of a change and its record, while it is being armed.
_ARMING = 120.0
# Modules of Python that the way back loads at their first use. A watcher measures no probe: it needs no http and ssl.
_LATE = ("concurrent.futures.thread", "configparser", "uuid")
# Python loads codecs at their first use.
_CODECS = ("utf-8", "ascii", "latin-1", "unicode_escape", "raw_unicode_escape", "idna")


def main(way_back: Callable[[], Finish], argv: Sequence[str] | None = None, pauses: Sequence[float] = _PAUSES) -> int:
    """Run a task of the agent. ``deadline``: a timer has fired. ``watch``: wait for the deadline as a process.
    ``boot``: the host is early at boot. ``health``: the host is late at a planned boot. ``check``: load everything and
    do nothing, to show that this Python runs the agent.

    ``way_back``: loads all of the library that puts the host back. A timer that finds all well, as it does every few
    seconds, does not load it. ``pauses``: seconds between attempts; the last number is that of all further pauses.
    """
    import argparse  # A call of the controller needs none of it, nor the archive below.

    parser = argparse.ArgumentParser(prog="evenkeel-agent", description="Put this host back.")
    parser.add_argument("--store", required=True)
    parser.add_argument("task", choices=["deadline", "boot", "health", "watch", "check"])
    parser.add_argument("--generation", type=int, default=0)
    args = parser.parse_args(argv)
    if args.task == "check":
        way_back()
        return 0
    store = Store(args.store, System(), armed=True)
    if args.task == "watch":
        return _watch_over(store, args.generation, way_back())
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    if args.task == "boot":
        return _at_boot(store, way_back())
    if args.task == "health":
        return 0 if booted.is_well(store, sys.argv[0]) else DOUBT
    return _at_deadline(store, args.generation, way_back, pauses)


def _load_late() -> None:
    """Load all of Python that may be needed later: it may be gone by then."""
    for codec in _CODECS:
        codecs.lookup(codec)
    for name in _LATE:
        with suppress(ImportError):  # A Python may lack one.
            importlib.import_module(name)


def _at_boot(store: Store, finish: Finish) -> int:
    """Try once, because the boot must not wait; the timers try again later."""
    try:
        with store.locked(wait=600.0, first=True):
            _say(finish(store, boot=True))
        code = 0
    except Exception as error:
        sys.stderr.write(f"not put back yet: {_words(error)}\n")
        code = DOUBT
    change = changes.armed(store)
    if change is not None and change.overdue(store.system) is not None:
        changes.fire(store, sys.argv[0])
    elif change is not None:  # The boot was planned, or user space restarted without a boot of the kernel.
        with suppress(EvenkeelError, OSError):
            changes.ensure_timers(store, change, sys.argv[0])
        if booted.is_due(store, change):
            units.start_health(store)
    _reboot(store)
    return code


def _reboot(store: Store) -> None:
    """Boot the host where its rollback asks for a boot. The mark is removed first, so that the host boots only
    once."""
    if os.path.lexists(store.join("reboot")):
        remove_file(store.join("reboot"))
        done = store.system.run(["systemctl", "--no-block", "reboot"], 30.0)
        sys.stderr.write(f"the host boots again: {done.words if done.rc else 'asked systemd'}\n")


def _at_deadline(store: Store, generation: int, way_back: Callable[[], Finish], pauses: Sequence[float]) -> int:
    """Put the host back if the deadline is over; otherwise make sure that all timers run."""
    change = changes.armed(store)
    if change is None or change.generation != generation:
        if change is None:
            _stop_watch(store, generation)
        return 0
    if change.overdue(store.system) is None:
        _ensure_timers(store, change)
        if change.due - store.system.monotonic() > glance.NEAR:
            return 0
        way_back()  # The change may remove the code or Python itself before the deadline.
        # The deadline may be over before this unit is started again.
        while change is not None and change.overdue(store.system) is None:
            if not _wait(store, generation, min(1.0, max(0.05, change.due - store.system.monotonic()))):
                return 0
            change = changes.armed(store)
    code = _until_done(store, generation, way_back(), pauses)
    return _at_deadline(store, generation, way_back, pauses) if code is None else code


def _stop_watch(store: Store, generation: int) -> None:
    """Stop the timer that goes on after its change. Nothing is locked here: where the next change is armed meanwhile,
    the timer is that of the next change, and runs on. It does not run on for a change whose arming failed."""
    is_next = changes.generation(store) > generation
    if is_next and abs(store.system.now() - os.stat(store.join("generation")).st_mtime) < _ARMING:
        return
    units.stop_watch(store)
    if not is_next and changes.generation(store) > generation:
        units.start_watch(store)


def _ensure_timers(store: Store, change: changes.Armed) -> None:
    """Make sure that the timers run. Where the change has ended meanwhile, and the next change was armed, they are made
    those of the next change."""
    with suppress(EvenkeelError, OSError):
        changes.ensure_timers(store, change, sys.argv[0])
        following = changes.armed(store) if changes.generation(store) > change.generation else None
        if following is not None:
            changes.ensure_timers(store, following, sys.argv[0])


def _watch_over(store: Store, generation: int, finish: Finish) -> int:
    """Wait for the deadline with all code in memory, and make sure meanwhile that the other timers run."""
    agent = os.path.abspath(sys.argv[0])
    watcher.detach()
    held = watcher.lock(agent, wait=30.0)  # The watcher of the change before ends within a second.
    if held is None:
        return 0
    _load_late()
    watcher.report_ready()
    system = store.system
    checked, arming = system.monotonic(), system.monotonic() + _ARMING
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
            code = 0 if _is_over(store, generation) else _until_done(store, generation, finish)
            if code is not None:
                return code
            continue
        if system.monotonic() >= checked + _CHECK and left > _QUIET:
            with suppress(EvenkeelError, OSError):
                timers.ensure(store, generation, change.due, agent, patience=5.0, caller=watcher.WatcherTimer)
            checked = system.monotonic()
        system.sleep(min(1.0, max(0.05, left)))
    return 0


def _is_over(store: Store, generation: int) -> bool:
    last = changes.last_event(store)
    ended = last is not None and last.generation >= generation
    return ended or not os.path.isdir(store.root) or changes.generation(store) > generation


@contextmanager
def _sole_agent(store: Store, generation: int) -> Iterator[bool]:
    """Be the only process that puts this store's host back. Waits for another such process, and takes over when that
    process dies. Yields False where the change is over by then. A stranger who locks the store's directory is passed
    over: the lock of the store still lets only one process at a time put the host back."""
    while (fd := watcher.lock(store.root)) is None and not locks.is_strangers(store.root):
        watcher.wake(store.root)
        if not _wait(store, generation, 1.0):
            yield False
            return
    try:
        yield not _is_over(store, generation)
    finally:
        if fd is not None:
            os.close(fd)


def _until_done(store: Store, generation: int, finish: Finish, pauses: Sequence[float] = _PAUSES) -> int | None:
    """Roll back this change, again and again, until the rollback succeeds, or until the time for attempts is over and
    the host is in doubt. Return the exit code, or None where the deadline was moved in its last moment."""
    with _sole_agent(store, generation) as is_due:
        if not is_due:
            return 0
        watcher.end_exemption()
        for pause in itertools.chain(pauses, itertools.repeat(pauses[-1])):
            _make_room(store)
            try:
                with _locked(store, generation):
                    pause = min(pause, _try(store, generation, finish))
            except Exception as error:  # The lock was not free, or there was no room for a record.
                sys.stderr.write(f"{_words(error)}\n")
            change = changes.armed(store)
            if change is None or change.generation != generation:
                break
            if change.overdue(store.system) is None:
                return None
            sys.stderr.write(f"not put back yet, tried again in {pause:g} s: {'; '.join(change.left[:10])}\n")
            # End together with the change: the next change needs this unit.
            if not _wait(store, generation, pause):
                break
    _reboot(store)
    last = changes.last_event(store)
    doubt = last is not None and last.generation == generation and last.outcome == changes.IN_DOUBT
    return DOUBT if doubt else 0


@contextmanager
def _locked(store: Store, generation: int) -> Iterator[None]:
    """Hold the lock of the store. A process that holds the lock and was stopped (SIGSTOP) is continued. Raises Busy
    once the change is over: the next change is armed under this lock, and waits for this watcher to end."""
    with ExitStack() as stack:
        for last in [False] * 60 + [True]:
            try:
                stack.enter_context(store.locked(wait=1.0, first=True))
                break
            except Busy:
                if last or _is_over(store, generation):
                    raise
                watcher.wake(store.join("lock"))
        yield


def _make_room(store: Store) -> None:
    """Free room for the record of the end of the change, and make a read-only disk writable."""
    changes.give_room(store)
    if os.path.isdir(store.root) and not os.access(store.root, os.W_OK):
        place = store.root
        while not os.path.ismount(place):
            place = os.path.dirname(place)
        done = store.system.run(["mount", "-o", "remount,rw", place], 10.0)
        sys.stderr.write(f"{place} is read-only; mount -o remount,rw: {done.words if done.rc else 'done'}\n")


def _try(store: Store, generation: int, finish: Finish) -> float:
    """Under the lock: finish an interrupted rollback, and roll back the change. Return the seconds left for further
    attempts."""
    try:
        change = changes.armed(store)
        if change is not None and change.generation == generation:
            _say(_end_jobs(store, change))
        _say(finish(store, agent=True))
    except Exception as error:  # The host tries again after any failure, and is in doubt in the end.
        return _record_failure(store, generation, error)
    return 0.0


def _record_failure(store: Store, generation: int, error: Exception) -> float:
    """Record the state that is left, and conclude the change where no time is left. Return the seconds left for
    further attempts."""
    sys.stderr.write(f"{_words(error)}\n")
    change = changes.armed(store)
    if change is None or change.generation != generation:
        return 0.0
    result = error.result if isinstance(error, EvenkeelError) else {}
    left = [str(item) for item in result.get("left", [])] or [_words(error)]
    change = changes.note_left(store, change, change.overdue(store.system) or "deadline", left)
    seconds = change.tries_left(store.system)
    if seconds <= 0:
        changes.conclude(store, change, changes.IN_DOUBT, change.back, left)
    return max(0.0, seconds)


def _end_jobs(store: Store, change: changes.Armed) -> list[str]:
    """End the jobs that the change left running, because they would change the host again."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    since = background.boottime(store.system, change.started) if change.boot_id == store.system.boot_id() else 0.0
    jobs = background.end_jobs(store.system, since, now, _DRAIN, change.login)
    if store.system.has_systemd():  # Without it, this machine may play several hosts.
        jobs.beside += background.left_behind(store.system, since, now, change.login)
    return [f"ended a job of Ansible, {job}" for job in jobs.ended] + jobs.left


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _words(error: Exception) -> str:
    if isinstance(error, EvenkeelError):
        return error.message
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def _wait(store: Store, generation: int, seconds: float) -> bool:
    """Sleep for so many seconds; return False as soon as the change has ended."""
    end = store.system.monotonic() + seconds
    while store.system.monotonic() < end:
        store.system.sleep(min(1.0, max(0.0, end - store.system.monotonic())))
        if _is_over(store, generation):
            return False
    return True
