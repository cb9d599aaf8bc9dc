# SPDX-License-Identifier: GPL-3.0-or-later

"""The copies that a host keeps for others, as the headers of manifests and the times of files tell: no content is read,
and nothing is verified."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from .._results.host import Held
from .._store.store import LOGS, UNDO, Store
from . import sealed_record
from .scrub_record import Batch, load

# The folder of a replica in which the MACs of copies lie, each under the id of its checkpoint.
MACS = "macs"
# The kinds of batches of contents (see ``scrub_record.Batch``), which are folders of a store as well.
_KINDS = ("packs", "objects", sealed_record.SEALED)
_PACK, _INDEX = ".pack", ".idx"


def held(store: Store) -> tuple[dict[str, list[str]], list[Held]]:
    """(the ids of the checkpoints that are here, by the host whose they are; the newest of each host)."""
    folder = store.join("replicas")
    hosts = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    reads = load(store).verified if hosts else {}
    ids, found = {}, []
    for host in hosts:
        copies = Store(os.path.join(folder, host), store.system)
        points = copies.checkpoints(by_head=True)
        wrong = sealed_record.faults(copies)
        under = [(one.created, one.id, "") for sha, one in sealed_record.records(copies).items() if sha not in wrong]
        ids[host] = list(dict.fromkeys([*(one.id for one in points), *(ident for _created, ident, _name in under)]))
        named = {one for listed in copies.refs().values() for one in listed}
        damaged = len(named) - len(points) + len(wrong) + _not_back(copies)
        one = Held(host, count=len(ids[host]), damaged=damaged)
        # A peer does not know the name of an encrypted copy.
        plain = [(point.created, point.id, point.name) for point in points if point.name not in (UNDO, LOGS)]
        if plain or under:
            one.created, one.id, one.name = max([*plain, *under])
            one.mac = os.path.isfile(copies.join(MACS, one.id))
            one.verified = _verified(copies, host, one.id, reads)
        found.append(one)
    return ids, found


def _verified(copies: Store, host: str, newest: str, reads: Mapping[str, float]) -> float:
    """The time by which each content was hashed last, by a scrub or as it arrived: the earliest of these times."""
    times = [reads.get(key) or arrived for key, arrived in _batches(copies, host)]
    with suppress(OSError):
        times = times or [os.stat(copies.join("manifests", newest)).st_mtime]
    return min([*times, copies.system.now()])


def _batches(copies: Store, host: str) -> Iterator[tuple[str, float]]:
    """(key, time at which its first content arrived) of each batch of a scrub."""
    for kind in _KINDS:
        with suppress(FileNotFoundError), os.scandir(copies.join(kind)) as entries:
            for entry in entries:
                if kind != "packs" or entry.name.endswith(_PACK):
                    with suppress(FileNotFoundError):  # It was pruned meanwhile.
                        yield Batch(host, kind, entry.name).key, _oldest(entry)


def _oldest(entry: os.DirEntry[str]) -> float:
    if entry.is_file(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_mtime
    with os.scandir(entry.path) as files:
        times = [one.stat(follow_symlinks=False).st_mtime for one in files]
    return min(times, default=entry.stat(follow_symlinks=False).st_mtime)


def _not_back(copies: Store) -> int:
    """The number of contents that were put aside as damaged, and that did not arrive again."""
    folder = copies.join("quarantine")
    aside: set[str] = set()
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.endswith(_INDEX):
            with open(os.path.join(folder, name), "rb") as stream:
                aside.update(line[:64].decode("latin-1") for line in stream if not line.startswith(b"end "))
        elif not name.endswith(_PACK):
            aside.add(name)
    return sum(not (copies.objects.has(one) or os.path.exists(copies.join("manifests", one))) for one in aside)
