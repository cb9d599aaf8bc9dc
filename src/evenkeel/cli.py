# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: arguments in, one result out."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console

from evenkeel import __version__
from evenkeel.ansible import options
from evenkeel.ansible.targets import read_specs
from evenkeel.change import flow
from evenkeel.commands import playbook as fleet
from evenkeel.outcome import EXIT_CODES, ChangeResult, Exit, RunResult, UsageError
from evenkeel.plan import propose as plan
from evenkeel.show import advice, display, summary

_STOPPING = (
    "stopping: the playbook is ended and the hosts in flight are rolled back now; once more leaves them to their"
    " own dead-men"
)
_LEAVING = "leaving: hosts in flight put themselves back when their time to confirm is over"


class Stop:
    """How often the user asked to stop, by Ctrl-C, or a job scheduler by SIGTERM."""

    def __init__(self, console: Console) -> None:
        self.times = 0
        self.told = 0
        self.console = console

    def __call__(self) -> int:
        if self.told < self.times:
            self.told = self.times
            with contextlib.suppress(OSError):
                self.console.print(_STOPPING if self.times == 1 else _LEAVING, style="yellow")
        return self.times

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.times += 1  # and no more: a table may be half drawn


class Parser(argparse.ArgumentParser):
    """argparse leaves with 2 on a wrong option, which here means that a change was rolled back.

    words: what is parsed, to know whether the error is wanted as JSON.
    """

    words: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        if "--json" in Parser.words:
            print(_refusal(self.prog.partition(" ")[2], Exit.USAGE, message))
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {display.text(message)}\nNothing was touched.\n")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(
        prog="evenkeel",
        description="Changes that undo themselves, over a fleet. Nothing is kept unless it is confirmed.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"evenkeel {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _changing(commands)
    _keeping(commands)
    text = "propose how to tolerate faults, with numbers and reasons"
    plan.add_arguments(commands.add_parser("plan", help=text, description=text.capitalize() + "."))
    return top


def _changing(commands: Any) -> None:
    """The commands that change hosts, and take changes back."""
    one = _command(commands, "change", "run a playbook in waves; confirm each by its health, or roll it back")
    one.add_argument("playbook", metavar="PLAYBOOK")
    waves = flow.DEFAULT_WAVES.replace("%", "%%")
    one.add_argument("--waves", metavar="SIZES", help=f"hosts that change at the same time ({waves})")
    one.add_argument("--min-healthy", metavar="N", help="hosts that must stay healthy: a number, N%% or quorum")
    one.add_argument("--max-unavailable", metavar="N", help="hosts in flight at most: a number or N%%")
    one.add_argument("--failure-domain", metavar="VAR", help="inventory variable that names what fails together")
    within = f"undo unless confirmed in this time ({flow.DEFAULT_CONFIRM_WITHIN})"
    one.add_argument("--confirm-within", metavar="TIME", help=within)
    one.add_argument("--soak", metavar="TIME", help="how long the probes must keep passing")
    one.add_argument("--deadline", metavar="TIME", help="how long to wait for that")
    one.add_argument("--probes", metavar="FILE", help="YAML list of probes; else the variable evenkeel_probes")
    one.add_argument("--protect", metavar="FILE", help="YAML list of resources; else the variable evenkeel_resources")
    one.add_argument("-C", "--check", action="store_true", help=argparse.SUPPRESS)
    options.add_arguments(one, playbook=True)

    one = _command(commands, "rollback", "put hosts back to a checkpoint of their own")
    to = "latest (the default), a name or an id; or one for each host: HOST=ID,… or @FILE with lines 'HOST ID'"
    one.add_argument("--to", metavar="CHECKPOINT", help=to)
    kinds = "put back only these kinds of resource, such as files,packages"
    one.add_argument("--kinds", action="append", metavar="KINDS", help=kinds)
    paths = "put back only these files and trees, absolute paths"
    one.add_argument("--paths", nargs="+", action="extend", metavar="PATH", help=paths)
    within = "undo it unless a new connection confirms it in this time (5m)"
    one.add_argument("--confirm-within", metavar="TIME", help=within)
    options.add_arguments(one, playbook=False)


def _keeping(commands: Any) -> None:
    """The commands that keep hosts and their copies whole, and tell of them."""
    one = _command(commands, "protect", "take a checkpoint and keep copies of it on other hosts")
    one.add_argument("--copies", type=int, metavar="N", help="how many other hosts hold a copy")
    one.add_argument("--peers", metavar="PATTERN", help="hosts that may hold copies (all of the inventory)")
    one.add_argument("--failure-domain", metavar="VAR", help="at most one copy in each of its values")
    one.add_argument("--protect", metavar="FILE", help="YAML list of resources; else the variable evenkeel_resources")
    options.add_arguments(one, playbook=False)

    one = _command(commands, "recover", "bring a host that lost its files or its store back from a replica")
    one.add_argument("host", metavar="HOST", help="whose checkpoint")
    one.add_argument("--onto", metavar="HOST", help="restore onto this host instead, a spare")
    one.add_argument("--checkpoint", metavar="ID", help="latest (the default) or an id")
    text = "restore also what the inventory does not declare for HOST (evenkeel_resources), after you have seen it"
    one.add_argument("--undeclared", action="store_true", help=text)
    options.add_arguments(one, playbook=False)

    one = _command(commands, "restart", "restart a service, host by host, proved and only as health allows")
    one.add_argument("service", metavar="SERVICE", help="systemd unit")
    one.add_argument("--mode", choices=["warm", "cold"], help="warm keeps serving while it restarts")
    one.add_argument("--min-healthy", metavar="N", help="hosts that must stay healthy: a number, N%% or quorum")
    one.add_argument("--max-unavailable", metavar="N", help="hosts in flight at most: a number or N%%")
    one.add_argument("--probes", metavar="FILE", help="YAML list of probes; else the variable evenkeel_probes")
    options.add_arguments(one, playbook=False)

    one = _command(commands, "scrub", "read all that the stores of hosts hold, and find what is damaged")
    one.add_argument("--time-limit", metavar="TIME", help="stop after this time; the next run goes on from there")
    one.add_argument("--share", type=int, metavar="N", help="percentage of the time to spend reading (50)")
    options.add_arguments(one, playbook=False)

    one = _command(commands, "accept", "take hosts that are in doubt as they are, so that they may be changed again")
    one.add_argument("hosts", nargs="+", metavar="HOST", help="looked at, and well")
    options.add_arguments(one, playbook=False)

    one = _command(commands, "status", "what hosts are in the middle of, and what they could go back to")
    options.add_arguments(one, playbook=False)


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    one.add_argument("--json", action="store_true", help="print one JSON document on standard output, nothing else")
    return one


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code (see outcome.Exit)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without these letters still shows the rest
    Parser.words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    if args.command == "plan":
        return plan.run(args)
    console = display.Screen(stderr=args.json, highlight=False)
    stop = Stop(console)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop.handle)
    given = options.from_arguments(args)
    try:
        with display.showing(console) as report:
            result = _run(args, given, report=report, asked_to_stop=stop)
    except UsageError as error:
        with _readers():
            if args.json:
                print(_refusal(args.command, Exit.USAGE, str(error)))
            console.print(f"{display.text(error)}\nNothing was touched.", style="red", markup=False)
        return Exit.USAGE
    except Exception as error:  # whatever it is, hosts may be armed: it must not look like "nothing"
        with _readers():
            _broken(args, given, error, console)
        return Exit.IN_DOUBT
    try:
        with _readers():
            _print(result, args, given, console)
    except Exception as error:  # what became of the hosts is known, and it was not shown
        with _readers():
            _broken(args, given, error, console)
        return max(result.exit_code, Exit.IN_DOUBT)
    return result.exit_code


@contextlib.contextmanager
def _readers() -> Iterator[None]:
    """Around what is printed: whoever read it may be gone (| head, a closed terminal), which changes no exit code."""
    try:
        yield
        sys.stdout.flush()
    except OSError:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _print(
    result: ChangeResult | RunResult, args: argparse.Namespace, given: options.Options, console: Console
) -> None:
    if args.json:
        print(json.dumps(result.to_dict(), indent=2, default=str))
    elif isinstance(result, ChangeResult):
        summary.print_change(result, console, given)
    elif result.command == "status":
        summary.print_status(result, console, given)
    else:
        summary.print_run(result, console)


def _refusal(command: str, code: Exit, reason: str) -> str:
    return json.dumps({"command": command, "exit_code": int(code), "reason": reason})


def _broken(args: argparse.Namespace, given: options.Options, error: Exception, console: Console) -> None:
    """An error of our own: what hosts were in the middle of is not known here, and they take care of themselves."""
    reason = f"evenkeel itself failed: {type(error).__name__}: {display.text(error)}"
    if args.json:
        print(_refusal(args.command, Exit.IN_DOUBT, reason))
    for line in "".join(traceback.format_exception(error)).splitlines():
        console.print(display.text(line), style="dim", markup=False, highlight=False)
    console.print(f"IN DOUBT: {reason}", style="bold red", markup=False)
    console.print("Hosts that were in the middle of a change put themselves back at their deadline. Ask them:")
    reach, _missing = given.again()
    console.print(display.text("  " + shlex.join(["evenkeel", "status", *reach]), 10_000), markup=False, soft_wrap=True)


def _run(args: argparse.Namespace, given: options.Options, **how: Any) -> ChangeResult | RunResult:
    if args.command == "change":
        if args.check:
            raise UsageError("a dry run changes nothing that would have to be undone: use ansible-playbook --check")
        names = ("waves", "min_healthy", "max_unavailable", "failure_domain", "confirm_within", "soak", "deadline")
        said = {name: getattr(args, name) for name in names}
        request = flow.Request(
            args.playbook, given, probes=_specs(args, "probes"), protect=_specs(args, "protect"), **said
        )
        return flow.change(request, **how)
    return fleet.run(args.command, given, _VARIABLES[args.command](args), **how)


def _specs(args: argparse.Namespace, name: str) -> list[dict[str, Any]] | None:
    path = getattr(args, name)
    return read_specs(path, name) if path else None


def _said(**variables: Any) -> dict[str, Any]:
    return {f"evenkeel_{name}": value for name, value in variables.items() if value is not None}


def _rollback(args: argparse.Namespace) -> dict[str, Any]:
    if args.to == "":
        raise UsageError("--to: say latest, a name or an id")
    kinds = [one.strip() for said in args.kinds for one in said.split(",")] if args.kinds else None
    if kinds is not None and not all(kinds):
        raise UsageError("--kinds: name kinds of resource, separated by commas, as in files,packages")
    wrong = next((path for path in args.paths or [] if not path.startswith("/")), None)
    if wrong is not None:
        raise UsageError(f"--paths {wrong}: give the absolute path on the hosts")
    each = advice.read_checkpoints(args.to) if args.to else None
    to = fleet.FOR_EACH if each else args.to
    return _said(to=to, checkpoints=each, kinds=kinds, paths=args.paths, confirm_within=args.confirm_within)


_VARIABLES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rollback": _rollback,
    "accept": lambda args: _said(hosts=args.hosts),
    "protect": lambda args: _said(
        copies=args.copies,
        peers=args.peers,
        failure_domain=args.failure_domain,
        resources=_specs(args, "protect"),
    ),
    "recover": lambda args: _said(
        recover_host=args.host,
        hosts=args.onto or args.host,
        checkpoint=args.checkpoint,
        undeclared=args.undeclared or None,
    ),
    "restart": lambda args: _said(
        service=args.service,
        mode=args.mode,
        min_healthy=args.min_healthy,
        max_unavailable=args.max_unavailable,
        probes=_specs(args, "probes"),
    ),
    "scrub": lambda args: _said(scrub_time_limit=args.time_limit, scrub_share=args.share),
    "status": lambda args: {},
}


if __name__ == "__main__":
    sys.exit(main())
