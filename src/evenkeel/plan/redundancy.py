# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copies of each host's checkpoints, and the cost of a loss, from the answers of the hosts alone.

Copies on a host that did not answer are not known, and count for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evenkeel.shared import LOGS, UNDO

# The answer of each host to ft_info, with ``state`` (see ``RunResult``).
Answers = Mapping[str, Mapping[str, Any]]
ANSWERED, SILENT, GONE, NOT_ASKED = "answered", "silent", "gone", "not asked"


@dataclass(frozen=True)
class Copy:
    """The newest copy of a host's checkpoints on a peer, and the failure domain of that peer.

    created: epoch seconds of the checkpoint; None where the peer gives no date. behind: seconds by which it is older
    than the newest checkpoint; 0 for a copy of that; None where it is not known. verified: epoch seconds by which all
    of it was hashed last. damaged: the number of damages that the peer knows. count: the checkpoints that it keeps.
    """

    peer: str
    domain: str
    id: str
    created: float | None
    behind: float | None
    verified: float | None
    damaged: int
    mac: bool
    count: int

    @property
    def whole(self) -> bool:
        """Whether it is there, and no damage of it is known."""
        return bool(self.id) and not self.damaged

    @property
    def newest(self) -> bool:
        """Whether it is a whole copy of the newest checkpoint."""
        return self.whole and self.behind == 0


@dataclass(frozen=True)
class Owner:
    """A host whose checkpoints have copies, or shall have them.

    standing: whether it answered, did not answer (silent), is gone from the inventory, or was not asked. wanted: the
    number of copies that there shall be, None where that is not declared. created: epoch seconds of its newest
    checkpoint, or where it has none of its own (not ``own``), of the newest copy.
    """

    host: str
    standing: str
    domain: str
    wanted: int | None
    own: bool
    created: float | None
    copies: tuple[Copy, ...] = ()

    @property
    def holders(self) -> set[str]:
        """The hosts that are known to have its newest checkpoint."""
        return {one.peer for one in self.copies if one.newest} | ({self.host} if self.own else set())


@dataclass(frozen=True)
class Loss:
    """The loss of a host, or of a failure domain with its hosts.

    owners: each host whose newest checkpoint would be gone, with the seconds by which the newest copy that is left
    would be older; None where none would be left, or its age is not known.
    """

    domain: bool
    name: str
    owners: dict[str, float | None]


@dataclass(frozen=True)
class Redundancy:
    """variable: the inventory variable of the failure domain; empty for none. silent: hosts that did not answer.
    unasked: the number of hosts of the inventory that were not asked."""

    variable: str
    owners: list[Owner] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    unasked: int = 0


def redundancy(answers: Answers) -> Redundancy | None:
    """The copies that the answers tell of; None where there are none, and none are declared."""
    said = {host: row for host, row in answers.items() if row["state"] == "ok"}
    listed = {host: row.get("listed") or {} for host, row in said.items()}
    domains = {host: str(one.get("domain") or "") for host, one in listed.items()}
    held: dict[str, dict[str, Mapping[str, Any]]] = {}
    places: dict[str, str] = {}
    for peer, row in said.items():
        # A host that the inventory has under two names holds each copy once.
        is_first = places.setdefault(str(row.get("place") or peer), peer) == peer
        for one in row.get("holds") or [] if is_first else []:
            host = str(one.get("host") or "")
            if host == peer:  # The host got a copy of its own under another name: both are lost at once.
                continue
            held.setdefault(host, {})[peer] = {**one, "ids": (row.get("replicas") or {}).get(host) or []}
    declared = [host for host, one in listed.items() if one.get("copies") is not None]
    gone = {str(host) for one in listed.values() for host in one.get("gone") or []}
    owners = []
    for host in dict.fromkeys([*(host for host in answers if host in held or host in declared), *sorted(held)]):
        standing = ANSWERED if host in said else SILENT if host in answers else GONE if host in gone else NOT_ASKED
        owners.append(_owner(host, standing, said.get(host, {}), held.get(host, {}), domains))
    if not owners:
        return None
    return Redundancy(
        variable=next((str(one["variable"]) for one in listed.values() if one.get("variable")), ""),
        owners=owners,
        losses=losses(owners, domains),
        silent=[host for host in answers if host not in said],
        unasked=max([0, *(int(one.get("hosts") or 0) - len(answers) for one in listed.values())]),
    )


def _owner(
    host: str,
    standing: str,
    row: Mapping[str, Any],
    copies_of: Mapping[str, Mapping[str, Any]],
    domains: Mapping[str, str],
) -> Owner:
    """A host, given its own answer and what its peers hold of it."""
    points = _copied([one for one in row.get("checkpoints") or [] if one.get("name") not in (UNDO, LOGS)], copies_of)
    dated = points or [one for one in copies_of.values() if one.get("id")]
    # A host tells its own checkpoints the oldest first, and knows of dates that were wrong.
    newest: Mapping[str, Any] = (
        points[-1] if points else max(dated, key=lambda one: str(one.get("created")), default={})
    )
    date = _epoch(newest.get("created"))
    own = {str(one.get("id")): _epoch(one.get("created")) for one in points}
    copies = []
    for peer, one in copies_of.items():
        ident = str(one.get("id") or "")
        if ident and ident not in own:
            # A peer cannot tell an encrypted copy of a log from others. The host can.
            mine = [known for known in map(str, one["ids"]) if known in own]
            ident = max(mine, key=lambda known: own[known] or 0.0, default=ident)
        created = own.get(ident) or _epoch(one.get("created"))
        behind = None if date is None or created is None else max(0.0, date - created)
        # Another checkpoint of the same date is no copy of the newest.
        behind = 0.0 if ident and ident == newest.get("id") else behind or None
        copies.append(
            Copy(
                peer=peer,
                domain=domains.get(peer, ""),
                id=ident,
                created=created,
                behind=behind,
                verified=one.get("verified"),
                damaged=one.get("damaged") or 0,
                mac=bool(one.get("mac")),
                count=one.get("count") or 0,
            )
        )
    wanted = (row.get("listed") or {}).get("copies")
    return Owner(host, standing, domains.get(host, ""), wanted, bool(points), date, tuple(copies))


def _copied(points: list[Mapping[str, Any]], copies_of: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The checkpoints of names of which a peer holds copies: those of changes and of recoveries get none. All of them
    where no peer holds any."""
    there = {str(ident) for one in copies_of.values() for ident in (one.get("id"), *one["ids"]) if ident}
    names = {one.get("name") for one in copies_of.values() if one.get("id")}
    names |= {one.get("name") for one in points if str(one.get("id")) in there}
    return [one for one in points if one.get("name") in names] or points


def losses(owners: Iterable[Owner], domains: Mapping[str, str]) -> list[Loss]:
    """The losses of one host or one domain that would leave a newest checkpoint without a copy. ``domains``: the
    domain of each host that answered; empty for none. A domain of one host is listed as that host."""
    known = [owner for owner in owners if owner.holders]
    found = [Loss(False, host, _owners_without_copy(known, {host})) for host in domains]
    for name in sorted(set(domains.values()) - {""}):
        hosts = {host for host, domain in domains.items() if domain == name}
        if len(hosts) > 1:
            found.append(Loss(True, name, _owners_without_copy(known, hosts)))
    return [loss for loss in found if loss.owners]


def _owners_without_copy(owners: Iterable[Owner], hosts: Collection[str]) -> dict[str, float | None]:
    """The owners whose newest checkpoint lies on these hosts alone, each with the age of what would be left."""
    found: dict[str, float | None] = {}
    for owner in owners:
        if owner.holders <= set(hosts):
            ages = [
                one.behind for one in owner.copies if one.whole and one.peer not in hosts and one.behind is not None
            ]
            found[owner.host] = min(ages, default=None)
    return found


def _epoch(created: object) -> float | None:
    """The date of a manifest in epoch seconds; None for any other text."""
    try:
        return datetime.fromisoformat(str(created)).timestamp()
    except (ValueError, OverflowError):
        return None
