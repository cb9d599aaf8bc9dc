# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel protect`: take a checkpoint, and keep copies of it on other hosts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from evenkeel.ansible.targets import LOCAL, Inventory
from evenkeel.commands.arguments import Variables, add_resources, given, specs
from evenkeel.commands.playbook import PlaybookCommand
from evenkeel.shared import DAMAGED, NOT_FOUND


class Protect(PlaybookCommand):
    """Every host of the inventory may hold copies, unless the inventory or --peers names the peers."""

    name = "protect"
    text = "take a checkpoint and keep copies of it on other hosts"
    # A UsageError of a checkpoint need not be a wrong usage: the owner of a declared tree can make it too deep.
    usage_errors = frozenset({NOT_FOUND})
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
        ways = ("auto", "ssh", "chain", "relay")
        way = "how copies travel: straight, along a chain, or by the controller (auto)"
        parser.add_argument("--transport", choices=ways, help=way)
        text = "take and copy the log of databases alone, which is cheap: for a run every minute"
        parser.add_argument("--only-logs", action="store_true", help=text)
        add_resources(parser)

    def variables(self, args: argparse.Namespace) -> Variables:
        return given(
            copies=args.copies,
            min_copies=args.min_copies,
            transport=args.transport,
            peers=args.peers,
            failure_domain=args.failure_domain,
            only_logs=args.only_logs or None,
            resources=specs(args.resources, "resources"),
        )

    def variables_of(
        self, hosts: Sequence[str], variables: Mapping[str, object], inventory: Callable[[], Inventory]
    ) -> Mapping[str, object]:
        return {**peers(inventory(), hosts), **variables}


def peers(inventory: Inventory, hosts: Sequence[str]) -> Variables:
    """The hosts that may hold copies of a host for which the inventory names none: all hosts.

    The variable is another one than ``evenkeel_peers``, which it would replace on the hosts that have it.
    """
    said = ("evenkeel_peers", "evenkeel_group")
    if all(any(name in inventory.variables.get(host, {}) for name in said) for host in hosts):
        return {}
    return {"evenkeel_fleet": [host for host in inventory.order if host not in LOCAL]}
