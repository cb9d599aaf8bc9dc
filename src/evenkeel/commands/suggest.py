# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel suggest`: the resources that would have covered the other paths that the last change has changed."""

from __future__ import annotations

from rich.console import Console

from evenkeel.ansible.options import Options
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.outcome import Exit, RunResult
from evenkeel.show import suggestion, summary


class Suggest(PlaybookCommand):
    """The playbook reads, and changes nothing."""

    name = "suggest"
    text = "resources that would have covered the paths that the last change changed outside of the declared resources"
    lost_is_doubt = True
    question = True
    stopping = ("stopping: no host is asked any more", "the run is being ended")

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        if result.exit_code is not Exit.DONE or any(row["state"] != "ok" for row in result.hosts.values()):
            summary.print_run(result, console)
        suggestion.print_suggestion(result, console)
