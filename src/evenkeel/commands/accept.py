# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel accept`: take hosts that are in doubt as they are."""

from __future__ import annotations

import argparse

from evenkeel.commands.arguments import Variables, given
from evenkeel.commands.playbook import PlaybookCommand


class Accept(PlaybookCommand):
    """The doubt of the hosts ends; nothing else changes on them."""

    name = "accept"
    text = "take hosts that are in doubt as they are, so that they may be changed again"
    lost_is_doubt = True
    question = True

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("hosts", nargs="+", metavar="HOST", help="looked at, and right as it is")
        seen = "they get requests again wherever an unfinished restart has drained them"
        parser.add_argument("--undrained", action="store_true", help=seen)

    def variables(self, args: argparse.Namespace) -> Variables:
        return given(hosts=args.hosts, undrained=args.undrained or None)
