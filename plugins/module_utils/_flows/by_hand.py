# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps that a person carries out on the host by hand: confirm, extend, roll back. Each prints its end, and returns
the exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress

from .._deadman import changes, outside
from .._errors import Refused, UsageError
from .._host import logins, processes
from .._host.text import sentence
from .._store.store import LATEST, Store
from . import footprints, status
from .rollback import flow
from .rollback.resume import resume
from .status import DONE, FAILED, IN_DOUBT, REFUSED


def say(line: str, error: bool = False) -> None:
    """Print one line. A name in it may hold any characters: they neither move nor colour the terminal. A terminal that
    is gone stops nothing."""
    stream = sys.stderr if error else sys.stdout
    with suppress(OSError, ValueError):
        stream.write(f"{sentence(line)}\n")
        stream.flush()


def confirm(store: Store, from_here: bool, alone: bool) -> int:
    """Confirm the change under way, over a login that may do so."""
    change = changes.armed(store)
    if change is None:
        return over(store)
    if change.hosts > 1 and not alone:
        raise Refused(
            f"{change.name} is part of a change over {change.hosts} hosts, which keep it together or not at all. "
            "Confirm it on the controller (evenkeel confirm, evenkeel resume), or here for this host alone: "
            "evenkeel-host confirm --alone. Nothing was changed"
        )
    if change.overdue(store.system) is None:
        _check_login(logins.of_person(status.age(store, change)), from_here)
        if change.boots < min(change.reboots, 1):
            raise Refused(
                f"{change.name} plans a boot of this host, which has not come: confirm it after the boot, or undo it"
                " with evenkeel-host rollback. Nothing was changed"
            )
        # While the host still waits, and without the lock: at the deadline the dead-man must get through.
        footprints.find_changed(
            store, change.generation, change.checkpoint, back=False, seconds=status.left(store, change) / 2
        )
    with store.locked(first=True):
        _said, resumed = resume(store)
        now = changes.armed(store)
        if now is None or now.generation != change.generation:
            return over(store)
        if now.checkpoint in resumed or now.overdue(store.system) is not None:
            say(f"Too late: {status.words(store)[0][0]}", error=True)
            return FAILED
        event = changes.conclude(store, now, changes.CONFIRMED, "operator")
    say(f"Confirmed: {change.name} (generation {change.generation}) stays. Its health was not measured.")
    for warning in event.left:
        say(f"  ! {warning}")
    found = outside.told(store)
    if found is not None and found.count:
        say(f"It changed paths outside of the declared resources: {outside.some(found)}.")
    return DONE


def extend(store: Store, within: float) -> int:
    """Move the deadline of the change under way."""
    changes.check_within(within)
    with store.locked(first=True, spare=changes.spare(store)):
        change = changes.armed(store)
        if change is None:
            return over(store)
        known = changes.extend(store, change, within)
    say(f"{known.name} goes back in {status.span(status.left(store, known))}, at {status.clock(known.until)}.")
    if known.due < store.system.monotonic() + within - 1.0:
        say("It cannot be extended beyond that: it was armed with this limit.")
    return DONE if known.due > change.due else REFUSED


def _check_login(login: str, from_here: bool) -> None:
    """Refused where a confirmation over this login would not show that new logins are let in."""
    if login == logins.CONSOLE:
        say("You confirm at a console. That does not show whether new logins over the network are let in.")
    if from_here or login in (logins.NEW, logins.CONSOLE):
        return
    older = "is older than the change" if login == logins.OLD else "cannot be shown to be newer than the change"
    raise Refused(
        f"this login {older}, so a confirmation here would not show that new logins are let in. Log in anew (ssh -o "
        "ControlPath=none) and confirm there, or type evenkeel-host confirm --from-here if you know that a new login "
        "works. Nothing was changed"
    )


def over(store: Store) -> int:
    """Print the end of the last change, for a person who expected a change under way."""
    last = changes.last_event(store)
    if last is None:
        raise UsageError("no change is under way on this host")
    say(f"No change is under way. The last change, {status.ended(store, last)}.")
    return {changes.CONFIRMED: DONE, changes.ROLLED_BACK: FAILED}.get(last.outcome, IN_DOUBT)


def roll_back(store: Store, wanted: str | None, within: float) -> int:
    """Undo the change under way, or roll the host back to a checkpoint; that rollback has to be confirmed."""
    change = changes.armed(store)
    if change is not None and wanted in (None, change.name, change.checkpoint):
        return end_change(store, change)
    with undisturbed():
        result = flow.rollback(store, flow.Request(wanted or LATEST, confirm_within=within))
    print_end(store, result.id, result.done, result.left)
    for warning in result.warnings or []:
        say(f"  ! {warning}")
    if result.armed:
        say(f"This rollback is undone in {status.span(within)} unless it is confirmed: evenkeel-host confirm")
    return DONE


def end_change(store: Store, change: changes.Armed) -> int:
    """Undo the change under way, now."""
    with undisturbed(), store.locked(first=True):
        done: list[object] = list(flow.finish(store))
        now = changes.armed(store)
        if now is not None and now.generation == change.generation:
            result = flow.execute(store, store.manifest(now.checkpoint), now, "operator")
            done += result.done
    last = changes.last_event(store)
    if last is None or last.outcome != changes.ROLLED_BACK:
        return over(store)
    print_end(store, change.checkpoint, done, last.left)
    words = outside.words(outside.told(store))
    say(f"{words[0].upper()}{words[1:]}.")
    return DONE


def print_end(store: Store, checkpoint: str, done: Sequence[object], left: list[str]) -> None:
    """Print the result of a rollback."""
    number = f"{len(done)} {'thing was' if len(done) == 1 else 'things were'} put back"
    name = status.name_of(store, checkpoint)
    say(f"Rolled back to {name} ({checkpoint[:12]}): {number if done else 'nothing differed'}.")
    steps = [f"{one['action']} {one['target']}" if isinstance(one, dict) else str(one) for one in done]
    for line in status.listed(left + steps):
        say(line)


def undisturbed() -> AbstractContextManager[None]:
    """Go on although the terminal is lost or somebody presses Ctrl-C: a rollback is carried out as a whole."""
    return processes.undisturbed(signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
