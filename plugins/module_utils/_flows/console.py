# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``evenkeel-host``: a person on the host itself, without a controller."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from .._deadman import units
from .._errors import EvenkeelError, NotFound, Refused, Unhealthy, UsageError
from .._host.background import mark_as_ours
from .._host.durations import seconds
from .._host.system import System
from .._host.text import sentence
from .._services.owed import owed
from .._store.store import Store
from . import status, trying
from .by_hand import confirm, extend, roll_back, say
from .status import FAILED, IN_DOUBT, REFUSED, USAGE

# The time in which a rollback has to be confirmed itself.
_WITHIN = "5m"
# The default time of an extension, and of a try.
_MORE = "10m"
_EPILOG = """\
A change that was armed on this host goes back at its deadline, unless it is confirmed.

exit codes, as those of evenkeel:
  0  done; for status: nothing is in doubt
  1  usage; nothing was touched
  2  it failed, or came too late: the host was rolled back
  3  refused; nothing was touched
  4  the host is in doubt, or could not put something back; the output names it
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


class _Parser(argparse.ArgumentParser):
    """A parser that ends with the exit code of a wrong use."""

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
    where = "the store, if it is not the store that was armed last"
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
        "checkpoint",
        nargs="?",
        help="a name or an id; by default the checkpoint of the change under way, else the newest checkpoint",
    )
    within = f"undo the rollback unless it is confirmed in this time ({_WITHIN}); not asked where it ends a change"
    back.add_argument("--confirm-within", default=_WITHIN, metavar="TIME", help=within)
    keep = command(
        "confirm",
        "keep the change that is under way",
        "It counts over a login that is newer than the change, because that shows that new logins are let in, and at a "
        "console of the machine. Health is not measured: look first.",
    )
    keep.add_argument(
        "--from-here", action="store_true", help="confirm from any login: you know that new logins are let in"
    )
    alone = "confirm it here although it is part of a change over several hosts, which their controller decides"
    keep.add_argument("--alone", action="store_true", help=alone)
    more = command("extend", "move the deadline of the change that is under way", "Never beyond its own limit.")
    more.add_argument("time", nargs="?", default=_MORE, metavar="TIME", help=f"from now on ({_MORE})")
    _add_try(command)
    return top


def _add_try(command: Callable[..., argparse.ArgumentParser]) -> None:
    text = (
        "It takes a checkpoint of the resources of the last change, and waits for you to type confirm, here or in "
        "another terminal. The host goes back when nobody confirms in time, at Ctrl-C, when this terminal is lost, and "
        "at a boot."
    )
    found = command("try", "work by hand, and have it undone unless you confirm it", text)
    found.add_argument("time", nargs="?", default=_MORE, metavar="TIME", help=f"time to confirm it in ({_MORE})")
    paths = "protect these files and trees instead"
    found.add_argument("--paths", nargs="+", action="extend", metavar="PATH", help=paths)


def _run(args: argparse.Namespace) -> int:
    store = Store(args.store, System(), armed=True)
    store.check_format()
    if args.command == "status":
        lines, code = status.words(store)
        for line in [*lines, *status.restarts(owed(store.system))]:
            say(line)
        return code
    if args.command == "try":
        return trying.try_out(store, seconds(args.time, "TIME"), args.paths)
    if not store.exists:
        raise UsageError(f"there is no store at {store.root}, so no change was ever armed; --store names another")
    if args.command == "confirm":
        return confirm(store, args.from_here, args.alone)
    if args.command == "extend":
        return extend(store, seconds(args.time, "TIME"))
    return roll_back(store, args.checkpoint, seconds(args.confirm_within, "--confirm-within"))
