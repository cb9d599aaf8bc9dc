# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel change`: run a playbook in waves."""

from __future__ import annotations

import argparse

from rich.console import Console

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.changes import flow
from evenkeel.changes.request import (
    DEFAULT_AT_MOST,
    DEFAULT_CONFIRM_WITHIN,
    DEFAULT_WAVES,
    ON_FAILURE,
    STOP,
    Request,
)
from evenkeel.commands.arguments import add_guard, add_old_name, add_probes, add_resources, specs, stop_if
from evenkeel.commands.fleet import FleetCommand
from evenkeel.outcome import ChangeResult, UsageError
from evenkeel.shared import REBOOT
from evenkeel.show import summary


class Change(FleetCommand[ChangeResult]):
    """The command runs the user's own playbook, and so takes all options of ansible-playbook."""

    name = "change"
    text = "run a playbook in waves; confirm each by its health, or roll it back"
    users_playbook = True
    stopping = (
        "stopping: the playbook is ended and the hosts in flight are rolled back now; once more leaves them to their"
        " own dead-men",
        "leaving: hosts in flight put themselves back when their time to confirm is over",
    )

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("playbook", metavar="PLAYBOOK")
        waves = DEFAULT_WAVES.replace("%", "%%")
        parser.add_argument("--waves", metavar="SIZES", help=f"hosts that change at the same time ({waves})")
        add_guard(parser)
        add_old_name(parser, "--failure-domain", "--guard-domain")
        within = f"undo unless confirmed in this time ({DEFAULT_CONFIRM_WITHIN})"
        parser.add_argument("--confirm-within", metavar="TIME", help=within)
        text = f"hosts that go back when it fails: {', '.join(ON_FAILURE)} ({STOP}: only unconfirmed hosts)"
        parser.add_argument("--on-failure", choices=ON_FAILURE, help=text)
        text = f"extend the time to confirm up to this, while new logins get in ({DEFAULT_AT_MOST})"
        parser.add_argument("--at-most", metavar="TIME", help=text)
        parser.add_argument("--pause", metavar="TIME", help="watch the changed hosts for this time between two waves")
        parser.add_argument("--bake", metavar="TIME", help="watch all hosts for this time after the last wave")
        text = "hold this wave until a person lets the change go on (evenkeel confirm) or takes it back (abort)"
        parser.add_argument("--hold-after", metavar="WAVE", type=int, help=text)
        text = "planned: the playbook boots the hosts; confirm only after the boot (never: a boot is a rollback)"
        parser.add_argument("--reboot", choices=REBOOT, help=text)
        parser.add_argument("--reboots", metavar="N", type=int, help="boots that such a change may take (1)")
        parser.add_argument("--soak", metavar="TIME", help="time for which the probes must keep passing")
        parser.add_argument("--deadline", metavar="TIME", help="time within which they must do so")
        text = "stop as at a failure once this command ends with 0 (1: go on); @FILE: YAML list of commands and queries"
        parser.add_argument("--stop-if", metavar="COMMAND", action="append", help=text)
        add_probes(parser)
        add_resources(parser)
        text = "post a JSON line for each outcome of a host to this URL; a URL with a secret belongs in evenkeel_notify"
        parser.add_argument("--notify", metavar="URL", help=text)
        parser.add_argument("-C", "--check", action="store_true", help=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace, given: Options, caller: Caller) -> ChangeResult:
        if args.check:
            raise UsageError("a dry run changes nothing, so there is nothing to undo: use ansible-playbook --check")
        request = Request(
            args.playbook,
            given,
            waves=args.waves,
            min_healthy=args.min_healthy,
            max_unavailable=args.max_unavailable,
            guard_domain=args.guard_domain,
            confirm_within=args.confirm_within,
            at_most=args.at_most,
            on_failure=args.on_failure,
            pause=args.pause,
            bake=args.bake,
            hold_after=args.hold_after,
            reboot=args.reboot,
            reboots=args.reboots,
            soak=args.soak,
            deadline=args.deadline,
            probes=specs(args.probes, "probes"),
            resources=specs(args.resources, "resources"),
            notify=args.notify,
            stop_if=stop_if(args.stop_if),
        )
        return flow.run(request, caller)

    def show(self, result: ChangeResult, given: Options, console: Console) -> None:
        summary.print_change(result, console, given)
