# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel restart`: restart a service, host by host."""

from __future__ import annotations

import argparse

from evenkeel.commands.arguments import Variables, add_guard, add_probes, given, specs
from evenkeel.commands.playbook import PlaybookCommand


class Restart(PlaybookCommand):
    """A restart on each host in turn. The guard measures the group before each host."""

    name = "restart"
    text = "restart a service, host by host, proved and only as health allows"

    def add_own_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("service", metavar="SERVICE", help="systemd unit")
        parser.add_argument("--mode", choices=["warm", "cold"], help="warm keeps serving while it restarts")
        add_guard(parser)
        add_probes(parser)

    def variables(self, args: argparse.Namespace) -> Variables:
        return given(
            service=args.service,
            mode=args.mode,
            min_healthy=args.min_healthy,
            max_unavailable=args.max_unavailable,
            guard_domain=args.guard_domain,
            probes=specs(args.probes, "probes"),
        )
