# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel heal`: rebuild bad and missing copies from good ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from evenkeel.ansible.options import Options
from evenkeel.ansible.targets import Inventory
from evenkeel.commands.arguments import Variables, given
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.commands.protect import peers
from evenkeel.outcome import RunResult
from evenkeel.shared import DAMAGED
from evenkeel.show import summary


class Heal(PlaybookCommand):
    """Damage that no copy mends leaves a host in doubt. Healed damage is a warning."""

    name = "heal"
    text = "have hosts prove the copies that they hold, and rebuild bad and missing copies"
    doubtful_errors = PlaybookCommand.doubtful_errors | {DAMAGED}

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--copies", type=int, metavar="N", help="number of other hosts that hold a copy")
        least = "number of copies that is enough, with a warning where it is fewer than --copies"
        parser.add_argument("--min-copies", type=int, metavar="N", help=least)
        parser.add_argument(
            "--peers",
            metavar="NAMES",
            help="hosts and groups, with commas, that may hold copies (all of the inventory)",
        )
        parser.add_argument("--failure-domain", metavar="VAR", help="at most one copy in each of its values")
        time_limit = "how long each host may read; the next run reads other parts (10m)"
        parser.add_argument("--time-limit", metavar="TIME", help=time_limit)
        forget = "only move aside the copies of a host that is not in the inventory any more; nothing is deleted"
        parser.add_argument("--forget", metavar="HOST", help=forget)

    def variables(self, args: argparse.Namespace) -> Variables:
        return given(
            copies=args.copies,
            min_copies=args.min_copies,
            peers=args.peers,
            failure_domain=args.failure_domain,
            scrub_time_limit=args.time_limit,
            forget=args.forget,
        )

    def variables_of(
        self, hosts: Sequence[str], variables: Mapping[str, object], inventory: Callable[[], Inventory]
    ) -> Mapping[str, object]:
        return {**peers(inventory(), hosts), **variables}

    def show(self, result: RunResult, given: Options, console: Console) -> None:
        # Hosts that did not answer, and copies that were not read, do not fail the heal, but a person should know them.
        summary.print_run(result, console, warn_of_left=True)
