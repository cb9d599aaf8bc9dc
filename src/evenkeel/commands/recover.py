# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel recover`: bring a host back from a replica."""

from __future__ import annotations

import argparse

from rich.console import Console

from evenkeel.ansible.options import Options
from evenkeel.commands.arguments import Variables, given
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import RunResult
from evenkeel.show import summary


class Recover(PlaybookCommand):
    """The playbook runs on the host that is restored, or on a spare."""

    name = "recover"
    text = "bring a host that lost its files or its store back from a replica"
    lost_is_doubt = True

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("host", metavar="HOST", help="whose checkpoint")
        parser.add_argument("--onto", metavar="HOST", help="restore onto this host instead, a spare")
        parser.add_argument("--checkpoint", metavar="ID", help="latest (the default) or an id")
        text = "restore also state that evenkeel_resources does not declare for HOST, after you have examined it"
        parser.add_argument("--undeclared", action="store_true", help=text)

    def variables(self, args: argparse.Namespace) -> Variables:
        return given(
            recover_host=args.host,
            hosts=args.onto or args.host,
            checkpoint=args.checkpoint,
            undeclared=args.undeclared or None,
        )

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        # Peers that lack a copy or answered wrongly do not fail the recovery, but a person should know them.
        summary.print_run(result, console, warn_of_left=True)
