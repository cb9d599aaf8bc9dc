# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions of a heal: whose proof is right, which copies count, and which copy is rebuilt where. Pure.

Nothing is ever deleted by a plan, and a copy that may be bad is neither counted nor the source of another copy while
there is a better one.
"""

from __future__ import annotations

import hmac
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import retention
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement

# The states of a checkpoint on a host. GOOD: it was read, and proved. UNREAD: it is claimed, there was no time to read
# it. DAMAGED: the host says so itself. FALSE: its proof is wrong. DISPUTED: two hosts give different proofs, and nobody
# can tell which is right. NONE: it is not there. REFUSED: the host did not take it in this run.
GOOD, UNREAD, DAMAGED, FALSE, DISPUTED, NONE, REFUSED = (
    "good",
    "unread",
    "damaged",
    "false",
    "disputed",
    "none",
    "refused",
)
COUNTS = (GOOD, UNREAD)


def judge(owner: str, proofs: Mapping[str, str]) -> dict[str, str]:
    """The verdict on each host that gave a proof of one checkpoint: good, false or disputed.

    The owner's own store decides. Without a proof of the owner, more hosts than for any other proof decide: two hosts
    cannot give the same wrong proof unless they are in league.
    """
    if owner in proofs:
        right = proofs[owner]
    else:
        most = Counter(proofs.values()).most_common(2)
        if len(most) == 2 and most[0][1] == most[1][1]:
            return dict.fromkeys(proofs, DISPUTED)
        right = most[0][0] if most else ""
    return {host: GOOD if hmac.compare_digest(proof, right) else FALSE for host, proof in proofs.items()}


@dataclass
class Told:
    """The result so far.

    aside: damaged files that hosts have put aside, or would. missing: checkpoints that no host can give, and copies
    that could not be rebuilt. short: checkpoints with too few copies. gone: why the owner of the task was not reached.
    """

    copies: list[dict[str, str]] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    gone: str = ""

    def few(self, said: str, enough: bool) -> None:
        """Tell of fewer copies than are wanted. ``enough``: they are enough for the run not to fail."""
        for sort in (self.warnings, self.left) if enough else (self.short,):
            sort.append(said)


@dataclass(frozen=True)
class Step:
    """A copy to be made: on ``target``, from the first of ``sources`` that can give it. ``why``: the state there."""

    target: str
    sources: tuple[str, ...]
    why: str


@dataclass
class Standing:
    """Where one checkpoint of ``owner`` stands.

    own: its state in the owner's store; None where that store is not looked at. peers: its state on each peer that
    answered. domains: the failure domain of each peer, or None. wary: peers with any damage in this run; they get a
    copy that they do not have only when no other peer is left.
    """

    owner: str
    copies: int
    peers: dict[str, str]
    domains: Mapping[str, str | None] | None
    own: str | None = None
    wary: Collection[str] = ()
    failed: dict[str, str] = field(default_factory=dict)  # target -> why it did not take the copy

    def domain(self, peer: str) -> str:
        return peer if self.domains is None else str(self.domains.get(peer))

    def counted(self) -> list[str]:
        """Peers whose copies count: one in each failure domain, those that were read before those that were not."""
        found: dict[str, str] = {}
        for state in COUNTS:
            for peer in self._ordered(state):
                found.setdefault(self.domain(peer), peer)
        return list(found.values())

    def sources(self) -> tuple[str, ...]:
        """Hosts that may give the checkpoint, the surest first. The receiver reads and hashes the checkpoint again."""
        own = {GOOD: [self.owner]}.get(self.own or "", [])
        later = {UNREAD: [self.owner]}.get(self.own or "", [])
        return (*own, *self._ordered(GOOD), *later, *self._ordered(UNREAD), *self._ordered(DISPUTED))

    def steps(self) -> list[Step]:
        """The copies to be made now. Empty when enough are there, when there is no source, or no place is left."""
        sources = self.sources()
        if not sources:
            return []
        found = []
        if self.own == DAMAGED and self.owner not in self.failed:
            found.append(Step(self.owner, tuple(one for one in sources if one != self.owner), DAMAGED))
        counted = self.counted()
        taken = {self.domain(peer) for peer in counted}
        for peer in self._ordered(DAMAGED):  # rebuilt where it lies: the other contents of the copy are there
            if self.domain(peer) not in taken:
                taken.add(self.domain(peer))
                counted.append(peer)
                found.append(Step(peer, sources, DAMAGED))
        found += [Step(peer, sources, NONE) for peer in self._places(counted)]
        return [one for one in found if one.sources]

    def _places(self, counted: list[str]) -> list[str]:
        """Peers that get a copy in addition to the counted ones."""
        # Peers that do not answer are not among the peers here.
        known = [peer for peer, state in self.peers.items() if state == NONE]
        closed = set(self.peers) - set(known) - set(counted)
        first = self._choose(counted, closed | (set(self.wary) - set(counted)))
        return first + self._choose([*counted, *first], closed)

    def _choose(self, holding: Collection[str], closed: Collection[str]) -> list[str]:
        return _placement.choose(self.owner, self.copies, list(self.peers), self.domains, holding, closed)

    def _ordered(self, state: str) -> list[str]:
        return [one for one in _placement.preference(self.owner, list(self.peers)) if self.peers[one] == state]

    def took(self, target: str) -> None:
        """The target has received the checkpoint, and verified it."""
        if target == self.owner:
            self.own = GOOD
        else:
            self.peers[target] = GOOD

    def refused(self, target: str, why: str) -> None:
        """The target has not received it."""
        self.failed[target] = why
        if target != self.owner:
            self.peers[target] = REFUSED


@dataclass(frozen=True)
class Known:
    """A checkpoint that is known to be the owner's: by a MAC of ours, or because the owner itself has it."""

    id: str
    host: str
    name: str
    created: str


def wanted(known: Mapping[str, Known], policy: retention.Policy | None, now: datetime) -> list[str]:
    """The ids that are to have copies, the oldest first: those that the retention keeps, and always the newest."""
    ordered = sorted(known.values(), key=lambda one: (one.created, one.id))
    if policy is None or not ordered:
        return [one.id for one in ordered]
    keep = {ordered[-1].id}
    for name in {one.name for one in ordered}:
        taken = [(one.id, datetime.fromisoformat(one.created)) for one in ordered if one.name == name]
        keep |= set(retention.keep(taken, policy, now))
    return [one.id for one in ordered if one.id in keep]


def has_forgotten(own: Mapping[str, str], copied: Collection[str], newest: str) -> bool:
    """Whether the owner's store is new or was lost: but for the newest, it knows none of the checkpoints that are to
    have copies, and has fewer of that name. Retention alone leaves a store as many checkpoints as copies. own: the name
    of each checkpoint in it."""
    older = set(copied) - {newest}
    before = [one for one, name in own.items() if one != newest and name == own.get(newest)]
    return len(older) > len(before) and not older & own.keys()


def owners_without_task(listed: Mapping[str, Sequence[str]], cared_for: Collection[str]) -> list[str]:
    """The hosts whose copies peers hold (``listed``, by peer) and that no task of this run cares for; those that most
    peers list first. A single peer can make names up, so that its order is by chance, another one in each run."""
    count = Counter(owner for owners in listed.values() for owner in set(owners))
    return sorted(count.keys() - set(cared_for), key=lambda owner: (-count[owner], random.random()))
