# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame around every command that reaches hosts: signals, progress, errors, and the last lines."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import threading
import traceback
from abc import abstractmethod
from types import FrameType
from typing import ClassVar, Generic, TypeVar

from rich.console import Console

from evenkeel.ansible import options
from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.commands.arguments import add_json
from evenkeel.commands.base import Command, readers, refusal
from evenkeel.outcome import ChangeResult, Exit, RunResult, UsageError
from evenkeel.show import display

Result = TypeVar("Result", ChangeResult, RunResult)


class Stop:
    """The number of times that the user (by Ctrl-C) or a job scheduler (by SIGTERM) asked to stop.

    says: what the command does the first time, and the second.
    """

    def __init__(self, console: Console, says: tuple[str, str]) -> None:
        self.says = says
        self.times = 0
        self.told = 0
        self.console = console

    def __call__(self) -> int:
        if self.told < self.times:
            self.told = self.times
            with contextlib.suppress(OSError):
                self.console.print(self.says[min(self.times, 2) - 1], style="yellow", markup=False)
        return self.times

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.times += 1  # and no more: a table may be half drawn


class FleetCommand(Command, Generic[Result]):
    """A command that reaches hosts.

    users_playbook: it takes the options of the user's own playbook as well. stopping: what it does with the hosts when
    the user asks to stop, and what when they ask once more.
    """

    users_playbook: ClassVar[bool] = False
    stopping: ClassVar[tuple[str, str]] = (
        "stopping: the run is ended; what a host has begun, it may go on with",
        "the run is being ended",
    )

    @abstractmethod
    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that this command alone has."""

    @abstractmethod
    def run(self, args: argparse.Namespace, given: Options, caller: Caller) -> Result:
        """Run the command. Raises UsageError before any host is touched."""

    @abstractmethod
    def show(self, result: Result, given: Options, console: Console) -> None:
        """Print the result for a person."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_json(parser)
        self.add_own_arguments(parser)
        options.add_arguments(parser, playbook=self.users_playbook)

    def main(self, args: argparse.Namespace) -> int:
        console = display.Screen(stderr=args.json, highlight=False)
        stop, begun = Stop(console, self.stopping), threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # else it is under nohup
                signal.signal(number, stop.handle)
        given = options.from_arguments(args)
        try:
            with display.showing(console) as report:
                result = self.run(args, given, Caller(report=report, asked_to_stop=stop, begins=begun.set))
        except UsageError as error:
            return self._untouched(args, str(error), console)
        except Exception as error:  # once hosts may be armed, no error may look like "nothing was touched"
            if not begun.is_set():
                expected = isinstance(error, (OSError, UnicodeError))
                with readers():
                    _trace(None if expected else error, console)
                why = f"something on this machine is in the way: {error}" if expected else _failed(error)
                return self._untouched(args, why, console)
            with readers():
                self._broken(args, given, error, console)
            return Exit.IN_DOUBT
        try:
            with readers() as errors:
                if args.json:
                    print(json.dumps(result.to_dict(), indent=2, default=str))
                else:
                    self.show(result, given, console)
        except Exception as error:  # the end of every host is known, but was not shown
            with readers():
                self._broken(args, given, error, console)
            return max(result.exit_code, Exit.IN_DOUBT)
        return max(result.exit_code, Exit.IN_DOUBT) if errors else result.exit_code

    def _untouched(self, args: argparse.Namespace, reason: str, console: Console) -> Exit:
        """Print why no host was touched."""
        with readers():
            if args.json:
                print(refusal(self.name, Exit.USAGE, reason))
            console.print(f"{display.text(reason)}\nNothing was touched.", style="red", markup=False)
        return Exit.USAGE

    def _broken(self, args: argparse.Namespace, given: Options, error: Exception, console: Console) -> None:
        """Print an error of our own, and the command that asks the hosts, which take care of themselves."""
        reason = _failed(error)
        if args.json:
            print(refusal(self.name, Exit.IN_DOUBT, reason))
        _trace(error, console)
        console.print(f"IN DOUBT: {reason}", style="bold red", markup=False)
        console.print("Hosts that were in the middle of a change put themselves back at their deadline. Ask them:")
        words = shlex.join(["evenkeel", "status", *given.words_to_reach()[0]])
        console.print(display.text(f"  {words}", 10_000), markup=False, soft_wrap=True)


def _failed(error: Exception) -> str:
    return f"evenkeel itself failed: {type(error).__name__}: {display.text(error)}"


def _trace(error: Exception | None, console: Console) -> None:
    for line in "".join(traceback.format_exception(error)).splitlines() if error else ():
        console.print(display.text(line), style="dim", markup=False, highlight=False)
