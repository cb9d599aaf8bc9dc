# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``evenkeel-host``: a person on the host itself, without a controller."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from .._deadman import changes, units
from .._errors import EvenkeelError, NotFound, Refused, Unhealthy, UsageError
from .._host import logins
from .._host.background import mark_as_ours
from .._host.durations import seconds
from .._host.system import System
from .._host.text import sentence
from .._store.store import LATEST, Store
from . import status
from .rollback import flow
from .rollback.resume import resume
from .status import DONE, FAILED, IN_DOUBT, REFUSED, USAGE

# The time in which a rollback has to be confirmed itself.
_WITHIN = "5m"
# The time by which a deadline is moved.
_MORE = "10m"
_EPILOG = """\
A change that was armed on this host goes back at its deadline, unless it is confirmed.

exit codes, as those of evenkeel:
  0  done; for status: nothing is in doubt
  1  usage; nothing was touched
  2  it failed, or came too late: the host was rolled back
  3  refused; nothing was touched
  4  something is in doubt, or could not be put back: it is named
"""


def main(argv: Sequence[str]) -> int:
    """Carry out one command of a person; its exit code."""
    mark_as_ours()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except EvenkeelError as error:
        say(f"evenkeel-host: {error.message}", error=True)
        for line in status.listed([str(one) for one in error.result.get("left", []) if str(one) not in error.message]):
            say(line, error=True)
        return code_of(error)
    except OSError as error:
        say(f"evenkeel-host: {error}", error=True)
        return IN_DOUBT


def code_of(error: EvenkeelError) -> int:
    """The exit code for an error of the library."""
    if isinstance(error, (UsageError, NotFound)):
        return USAGE
    if isinstance(error, Refused):
        return REFUSED
    return FAILED if isinstance(error, Unhealthy) else IN_DOUBT


def say(line: str, error: bool = False) -> None:
    """Print one line. Names in it are whatever somebody wrote: none of them moves or colours the terminal. A terminal
    that is gone stops nothing."""
    with suppress(OSError, ValueError):
        print(sentence(line), file=sys.stderr if error else sys.stdout, flush=True)


class _Parser(argparse.ArgumentParser):
    """A wrong use ends with the exit code of a wrong use."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"evenkeel-host: {sentence(message)}\n")


def _parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="evenkeel-host",
        description="Look at the change that is under way on this host, keep it, or undo it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = "the store, where it is not the one that was armed last"
    top.add_argument("--store", default=units.DEFAULT, metavar="DIRECTORY", help=where)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip())
        found.add_argument("--store", default=argparse.SUPPRESS, metavar="DIRECTORY", help=where)
        return found

    command("status", "show whether a change is under way, since when, and how long it can still be confirmed")
    back = command(
        "rollback",
        "put this host back",
        "A change that is under way ends with it. Otherwise the rollback has to be confirmed itself, or it is undone.",
    )
    back.add_argument(
        "checkpoint", nargs="?", help="a name or an id; by default that of the change under way, else the newest one"
    )
    within = f"undo the rollback unless it is confirmed in this time ({_WITHIN}); not asked where it ends a change"
    back.add_argument("--confirm-within", default=_WITHIN, metavar="TIME", help=within)
    keep = command(
        "confirm",
        "keep the change that is under way",
        "It counts over a login that is newer than the change, because that shows that new ones are let in, and at a "
        "console of the machine. Health is not measured: look first.",
    )
    keep.add_argument(
        "--from-here", action="store_true", help="confirm from any login: you know that new ones are let in"
    )
    alone = "confirm it here although it is part of a change over several hosts, which their controller decides"
    keep.add_argument("--alone", action="store_true", help=alone)
    more = command("extend", "move the deadline of the change that is under way", "Never beyond its own limit.")
    more.add_argument("time", nargs="?", default=_MORE, metavar="TIME", help=f"from now on ({_MORE})")
    return top


def _run(args: argparse.Namespace) -> int:
    store = Store(args.store, System(), armed=True)
    store.check_format()
    if args.command == "status":
        lines, code = status.words(store)
        for line in lines:
            say(line)
        return code
    if not store.exists:
        raise UsageError(f"there is no store at {store.root}, so no change was ever armed; --store names another")
    if args.command == "confirm":
        return confirm(store, args.from_here, args.alone)
    if args.command == "extend":
        return extend(store, seconds(args.time, "TIME"))
    return roll_back(store, args.checkpoint, seconds(args.confirm_within, "--confirm-within"))


def confirm(store: Store, from_here: bool, alone: bool) -> int:
    """Confirm the change under way, over a login that may do so."""
    change = changes.armed(store)
    if change is None:
        return _over(store)
    if change.hosts > 1 and not alone:
        raise Refused(
            f"{change.name} is part of a change over {change.hosts} hosts, which keep it together or not at all. "
            "Confirm it on the controller (evenkeel confirm, evenkeel resume), or here for this host alone: "
            "evenkeel-host confirm --alone. Nothing was changed"
        )
    if change.overdue(store.system) is None:
        _check_login(logins.of_person(status.age(store, change)), from_here)
    with store.locked():
        _said, resumed = resume(store)
        now = changes.armed(store)
        if now is None or now.generation != change.generation:
            return _over(store)
        if now.checkpoint in resumed or now.overdue(store.system) is not None:
            say(f"Too late: {status.words(store)[0][0]}", error=True)
            return FAILED
        changes.conclude(store, now, changes.CONFIRMED, "operator")
    say(f"Confirmed: {change.name} (generation {change.generation}) stays. Its health was not measured.")
    return DONE


def extend(store: Store, within: float) -> int:
    """Move the deadline of the change under way."""
    changes.check_within(within)
    with store.locked():
        change = changes.armed(store)
        if change is None:
            return _over(store)
        known = changes.extend(store, change, within)
    say(f"{known.name} goes back in {status.span(status.left(store, known))}, at {status.clock(known.until)}.")
    if known.due < store.system.monotonic() + within - 1.0:
        say("It cannot be extended beyond that: this is the limit that it was armed with.")
    return DONE


def _check_login(login: str, from_here: bool) -> None:
    """Refused where a confirmation over this login would not show that new logins are let in."""
    if login == logins.CONSOLE:
        say("You confirm at a console: whether new logins over the network are let in is not shown by that.")
    if from_here or login in (logins.NEW, logins.CONSOLE):
        return
    older = "is older than the change" if login == logins.OLD else "cannot be shown to be newer than the change"
    raise Refused(
        f"this login {older}, so that a confirmation here would not show that new ones are let in. Log in anew (ssh -o "
        "ControlPath=none) and confirm there, or say evenkeel-host confirm --from-here if you know that it works. "
        "Nothing was changed"
    )


def _over(store: Store) -> int:
    """Tell how the last change ended, to a person who asked for something else."""
    last = changes.last_event(store)
    if last is None:
        raise UsageError("no change is under way on this host")
    say(f"No change is under way. The last one, {status.ended(store, last)}.")
    return {changes.CONFIRMED: DONE, changes.ROLLED_BACK: FAILED}.get(last.outcome, IN_DOUBT)


def roll_back(store: Store, wanted: str | None, within: float) -> int:
    """Put the host back: the change under way, or to a checkpoint, which has to be confirmed then."""
    change = changes.armed(store)
    if change is not None and wanted in (None, change.name, change.checkpoint):
        return end_change(store, change)
    with undisturbed():
        result = flow.rollback(store, flow.Request(wanted or LATEST, confirm_within=within))
    tell(store, result.id, result.done, result.left)
    for warning in result.warnings or []:
        say(f"  ! {warning}")
    if result.armed:
        say(f"This rollback is undone in {status.span(within)} unless it is confirmed: evenkeel-host confirm")
    return DONE


def end_change(store: Store, change: changes.Armed) -> int:
    """Put the change under way back, now."""
    with undisturbed(), store.locked():
        done: list[object] = list(flow.finish(store))
        now = changes.armed(store)
        if now is not None and now.generation == change.generation:
            done += flow.execute(store, store.manifest(now.checkpoint), now, "operator").done
    last = changes.last_event(store)
    if last is None or last.outcome != changes.ROLLED_BACK:
        return _over(store)
    tell(store, change.checkpoint, done, last.left)
    return DONE


def tell(store: Store, checkpoint: str, done: Sequence[object], left: list[str]) -> None:
    """Print what a rollback has done."""
    number = f"{len(done)} {'thing was' if len(done) == 1 else 'things were'} put back"
    name = status.name_of(store, checkpoint)
    say(f"Rolled back to {name} ({checkpoint[:12]}): {number if done else 'nothing differed'}.")
    steps = [f"{one['action']} {one['target']}" if isinstance(one, dict) else str(one) for one in done]
    for line in status.listed(steps + left):
        say(line)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Go on although the terminal is lost or somebody presses Ctrl-C: a rollback is carried out as a whole."""
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
    # A handler, unlike SIG_IGN, is not inherited by the services that are started.
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
