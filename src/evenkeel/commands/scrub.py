# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel scrub`: read everything that the stores of hosts hold."""

from __future__ import annotations

import argparse

from evenkeel.commands.arguments import Variables, given
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.shared import DAMAGED


class Scrub(PlaybookCommand):
    """The command fails on damage. Damage that no copy mends leaves a host in doubt."""

    name = "scrub"
    text = "read everything that the stores of hosts hold, to find damage"
    lost_is_doubt = True
    doubtful_errors = PlaybookCommand.doubtful_errors | {DAMAGED}

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        time_limit = "stop after this time; the next run goes on from there"
        parser.add_argument("--time-limit", metavar="TIME", help=time_limit)
        share = "percentage of the time to spend reading (50)"
        parser.add_argument("--share", type=int, metavar="N", help=share)

    def variables(self, args: argparse.Namespace) -> Variables:
        return given(scrub_time_limit=args.time_limit, scrub_share=args.share)
