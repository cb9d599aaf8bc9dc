# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proposal: choices with their reasons, verdicts on the targets, and the options that were not taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel.plan.group import Group

# Another copy or host is worth its price while it removes at least this share of the remaining failures.
WORTH = 0.1


@dataclass(frozen=True)
class Choice:
    """A choice of a proposal, with its reason in a sentence. what: the name of the choice."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """A target. asked, reached: its value, and the value of the proposal. remedies: each alone would meet it."""

    target: str
    asked: str
    reached: str
    met: bool
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """An option of a choice, its effect and its cost."""

    choice: str
    option: str
    effect: str
    cost: str
    chosen: bool = False


@dataclass(frozen=True)
class Proposal:
    """The proposal for one group.

    numbers: the numbers in the sentences, unrounded. placement: host -> hosts that keep its copies, where the file
    names hosts. variables: inventory variables for the roles. assumed, measured: as in Group.
    """

    group: str
    summary: str
    choices: tuple[Choice, ...]
    verdicts: tuple[Verdict, ...]
    alternatives: tuple[Alternative, ...]
    placement: dict[str, list[str]]
    variables: dict[str, object]
    numbers: dict[str, Any]
    assumed: tuple[str, ...]
    measured: tuple[str, ...]


@dataclass
class Draft:
    """A proposal in the making; every part adds to it."""

    group: Group
    choices: list[Choice] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    alternatives: list[Alternative] = field(default_factory=list)
    variables: dict[str, object] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def choose(self, what: str, value: str, why: str) -> None:
        """Add a choice and its reason."""
        self.choices.append(Choice(what, value, why))

    def judge(self, target: str, wanted: str, reached: str, met: bool, remedies: Sequence[str] = ()) -> None:
        """Add the verdict on a target; remedies count only where it is missed."""
        self.verdicts.append(Verdict(target, wanted, reached, met, () if met else tuple(remedies)))

    def offer(self, choice: str, option: str, effect: str, cost: str, chosen: bool = False) -> None:
        """Add one option of a choice."""
        self.alternatives.append(Alternative(choice, option, effect, cost, chosen))


def threshold(good: Callable[[float], bool], low: float, high: float) -> float:
    """The largest good value between low, which is good, and high, which is not good."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
