# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`evenkeel plan`: propose how to tolerate faults."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from evenkeel import reliability
from evenkeel.commands.arguments import add_json
from evenkeel.commands.base import Command, readers, refusal
from evenkeel.outcome import Exit, UsageError
from evenkeel.plan.compare import fleet_of
from evenkeel.plan.file import read_plan
from evenkeel.plan.group import Group
from evenkeel.plan.proposal import Proposal
from evenkeel.plan.propose import propose
from evenkeel.show.display import Screen
from evenkeel.show.plan import show, show_simulation, summary, variables_yaml

if TYPE_CHECKING:
    from evenkeel.plan.simulate import Played


class Plan(Command):
    """The command reaches no host, so nothing can be touched or stopped."""

    name = "plan"
    text = "propose how to tolerate faults, with numbers and reasons"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="targets and groups, YAML (see docs/reliability.md)")
        status = "output of evenkeel status --json, to plan by"
        parser.add_argument("--status", metavar="FILE", help=status)
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--vars", action="store_true", help="print inventory variables for the roles, YAML")
        add_json(form)
        parser.add_argument("--simulate", action="store_true", help="play the proposal, and compare")
        years = "time to simulate (%(default).0f)"
        parser.add_argument("--host-years", type=float, default=100_000.0, metavar="N", help=years)
        parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random numbers (%(default)s)")

    def main(self, args: argparse.Namespace) -> int:
        try:
            if not 100.0 <= args.host_years <= 1e7:
                raise UsageError(f"--host-years {args.host_years:g}: give at least 100 and at most 10,000,000")
            if args.seed < 0:
                raise UsageError(f"--seed {args.seed}: give 0 or more")
            groups = read_plan(args.file, args.status or "")
            proposals = [propose(group) for group in groups]
            played = _play(groups, proposals, args.host_years, args.seed) if args.simulate else []
        except (UsageError, reliability.UsageError) as error:
            with readers():
                if args.json:
                    print(refusal(self.name, Exit.USAGE, str(error)))
                Screen(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
            return Exit.USAGE
        with readers() as errors:
            if args.json:
                print(_document(proposals, played))
            elif args.vars:
                print(variables_yaml(proposals), end="")
            else:
                _print(proposals, played)
        return Exit.USAGE if errors else Exit.DONE


def _play(groups: list[Group], proposals: list[Proposal], host_years: float, seed: int) -> list[Played]:
    """Raises UsageError where that would not end."""
    from evenkeel.plan.simulate import MOST_EVENTS, events, play  # it loads numpy, which nothing else needs

    years = host_years / len(groups)
    fleets = [fleet_of(group, proposal) for group, proposal in zip(groups, proposals, strict=True)]
    for group, fleet in zip(groups, fleets, strict=True):
        expected = events(fleet, years)
        if expected > MOST_EVENTS:
            raise UsageError(
                f"groups.{group.name}: {expected:.1e} events would be played, and {MOST_EVENTS:,} are the most; give"
                " fewer --host-years, or correct the times between failures and changes, and the rate of lost stores"
            )
    return [play(fleet, years, seed) for fleet in fleets]


def _print(proposals: list[Proposal], played: list[Played]) -> None:
    console = Screen(highlight=False)
    for proposal in proposals:
        show(proposal, console)
    console.print()
    for proposal in proposals:
        console.print(summary(proposal))
    for proposal, simulation in zip(proposals, played, strict=False):
        show_simulation(proposal, simulation, console)


def _document(proposals: list[Proposal], played: list[Played]) -> str:
    document: dict[str, object] = {
        "command": "plan",
        "exit_code": 0,
        "groups": [asdict(proposal) for proposal in proposals],
    }
    if played:
        document["simulated"] = [asdict(simulation) for simulation in played]
    return json.dumps(finite(document), indent=2)


def finite(value: object) -> object:
    """``value`` for JSON, which has no infinity: null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
