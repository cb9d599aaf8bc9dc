# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A group of hosts as a plan knows it: its targets, its numbers, and its reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from evenkeel.shared import hosts_of_budget


@dataclass(frozen=True)
class Targets:
    """availability: of the group. rto: until a failed host serves again. rpo: work that may be lost. durability: chance
    that a host's checkpoints survive a year."""

    availability: float
    rto: float
    rpo: float
    durability: float


@dataclass(frozen=True)
class Step:
    """A rung of the restart ladder: its time, and its chance to be the cure."""

    name: str
    time: float
    chance: float


@dataclass(frozen=True)
class Now:
    """The numbers that hosts report (`evenkeel status --json`); None where they do not know a number yet.

    interval: median time between checkpoints. copies: the least number of other hosts that hold a host's checkpoints.
    confirmed, rolled_back: the number of last changes that ended so.
    """

    interval: float | None = None
    copies: int | None = None
    confirmed: int = 0
    rolled_back: int = 0


@dataclass(frozen=True)
class Group:
    """A group of hosts; times in seconds, sizes in bytes, money a month.

    hosts: host -> failure domain; named: whether the file names them. domain_*: of a whole failure domain, which only
    the simulator plays. store_*: of one host's store of checkpoints.
    needed_share: the text of ``needed`` where it grows with the hosts (quorum, a percentage); else empty.
    assumed, measured: sentences about values that were not in the file, and about values that were measured.
    """

    name: str
    targets: Targets
    hosts: dict[str, str]
    named: bool
    failure_domain: str
    needed: int
    mtbf: float
    mttr: float
    common_cause: float
    domain_mtbf: float
    domain_mttr: float
    checkpoint_cost: float
    size: float
    bandwidth: float
    store_failure_rate: float
    store_repair: float
    store_common_cause: float
    generation_good: float
    success: float
    permanent: float
    attempts_target: float
    delay: float
    ladder: tuple[Step, ...]
    detection: float
    roll_time: float
    roll_risk: float
    change_time: float
    change_failure: float
    change_every: float
    soak: float
    deadline: float
    host_price: float | None
    gib_price: float | None
    currency: str
    now: Now = field(default_factory=Now)
    assumed: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    needed_share: str = ""

    def needed_of(self, hosts: int) -> int:
        """The number of hosts that must serve in a group of this size."""
        if not self.needed_share or hosts == len(self.hosts):
            return self.needed
        return hosts_of_budget(self.needed_share, hosts, "needed", round_up=True)
