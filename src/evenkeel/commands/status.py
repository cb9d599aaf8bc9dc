# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel status`: the state of hosts, and the checkpoints that they could go back to."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.console import Console

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import RunResult
from evenkeel.plan.redundancy import Redundancy, redundancy
from evenkeel.show import summary


@dataclass
class StatusResult(RunResult):
    """redundancy: the copies of checkpoints; None where there are none."""

    redundancy: Redundancy | None = None


class Status(PlaybookCommand):
    """The playbook reads, and changes nothing."""

    name = "status"
    text = "changes under way on hosts, and the checkpoints of each host"
    lost_is_doubt = True
    question = True
    stopping = ("stopping: no host is asked any more", "the run is being ended")

    def run(self, args: argparse.Namespace, given: Options, caller: Caller) -> RunResult:
        found = super().run(args, given, caller)
        return StatusResult(**vars(found), redundancy=redundancy(found.hosts))

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        summary.print_status(result, console, given)
