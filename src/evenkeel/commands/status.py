# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel status`: the state of hosts, and the checkpoints that they could go back to."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from evenkeel.ansible.caller import Caller
from evenkeel.ansible.options import Options
from evenkeel.changes import resume
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import Exit, RunResult, some_of
from evenkeel.plan.redundancy import Redundancy, redundancy
from evenkeel.show import summary
from evenkeel.show.advice import overdue


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

    def run_playbook(self, options: Options, variables: Mapping[str, object], caller: Caller) -> RunResult:
        found = super().run_playbook(options, variables, caller)
        doubtful = [host for host, row in found.hosts.items() if _in_doubt(row)]
        why = f"{some_of(doubtful)}: in doubt, or not put back at its deadline" if doubtful else ""
        return replace(found, reason=found.reason or why)

    def exit_code(self, rows: Sequence[Mapping[str, Any]]) -> Exit:
        return Exit.IN_DOUBT if any(map(_in_doubt, rows)) else super().exit_code(rows)

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        good = {host: row for host, row in result.hosts.items() if row["state"] == "ok"}
        summary.print_status(result, console, given, resume.split(good, time.time()))


def _in_doubt(row: Mapping[str, Any]) -> bool:
    """Whether a host that answered needs a person: it is in doubt, or should have put itself back by now."""
    return row["state"] == "ok" and (bool(row.get("doubt")) or overdue(row, time.time()))
