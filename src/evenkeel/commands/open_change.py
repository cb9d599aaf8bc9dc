# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of a command that finds changes under way on the hosts, whichever machine began them."""

from __future__ import annotations

import argparse

from rich.console import Console

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.changes import resume
from evenkeel.commands.fleet import FleetCommand
from evenkeel.outcome import ChangeResult
from evenkeel.show import summary


class OpenChangeCommand(FleetCommand[ChangeResult]):
    """A command on open changes. The hosts themselves know their change, and its stage."""

    stopping = (
        "stopping: hosts that are asked or told now still come to their end; once more leaves them as they are",
        "leaving: hosts that wait put themselves back when their time to confirm is over",
    )

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the id of the change; the inventory and the limit select the hosts that are asked."""
        parser.add_argument("--change", metavar="ID", help="only this change, however long ago it ended")

    def run(self, args: argparse.Namespace, given: Options, caller: Caller) -> ChangeResult:
        return resume.run(self.name, given, caller, args.change or "")

    def show(self, result: ChangeResult, given: Options, console: Console) -> None:
        summary.print_change(result, console, given)
