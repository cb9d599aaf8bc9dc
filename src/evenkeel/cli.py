# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: it builds the parser from the commands, and runs the requested command."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from evenkeel import __version__
from evenkeel.commands import registry
from evenkeel.commands.base import Command, not_blank, refusal
from evenkeel.outcome import EXIT_CODES, Exit


class Parser(argparse.ArgumentParser):
    """A parser with the exit code of a wrong usage: argparse exits with 2, which here means that a change was rolled
    back.

    words: the command line, which says whether the error is to be printed as JSON.
    """

    words: Sequence[str] = ()

    def __init__(self, **how: Any) -> None:
        # An abbreviation of a script would change its meaning with the next option of a longer name.
        super().__init__(**{**how, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        from evenkeel.show import display

        if "--json" in Parser.words:
            print(refusal(self.prog.partition(" ")[2], Exit.USAGE, message))
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {display.text(message)}\nNothing was touched.\n")


def parser(commands: Sequence[Command] | None = None) -> argparse.ArgumentParser:
    """The parser of a command line of these commands, by default of all."""
    top = Parser(
        prog="evenkeel",
        description="Changes that undo themselves, over a fleet. Nothing is kept unless it is confirmed.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"evenkeel {__version__}")
    parsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in registry.every() if commands is None else commands:
        text = command.text
        own = parsers.add_parser(command.name, help=text, description=text.capitalize() + ".")
        own.register("type", None, not_blank)  # for every value without another type
        command.add_arguments(own)
    return top


def main(argv: Sequence[str] | None = None, commands: Sequence[Command] | None = None) -> int:
    """Run the command line. Returns the exit code (see outcome.Exit)."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without some letters still shows the others
    Parser.words = sys.argv[1:] if argv is None else argv
    if commands is None:
        if registry.asks_ansible(Parser.words):
            from evenkeel.ansible import asking

            asking.start_ahead()
        commands = registry.needed(Parser.words)
    args = parser(commands).parse_args(Parser.words)
    return next(command for command in commands if command.name == args.command).main(args)


def _open_streams() -> None:
    """Open what the caller has closed (``>&-``): else the next file that is opened takes its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
