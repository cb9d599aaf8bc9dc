# SPDX-License-Identifier: GPL-3.0-or-later

"""The copies that a host keeps for others, as the headers of manifests and the times of files tell: no content is read,
and nothing is verified."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from .._errors import EvenkeelError
from .._results.host import KeptCopies
from .._store.store import LOGS, UNDO, Store
from . import sealed_record
from .scrub_record import Batch, load

# The folder of a replica in which the MACs of copies lie, each under the id of its checkpoint.
MACS = "macs"
# The kinds of batches of contents (see ``scrub_record.Batch``), which are folders of a store as well.
_KINDS = ("packs", "objects", sealed_record.SEALED)
_PACK, _INDEX = ".pack", ".idx"
# A content in the line of a manifest.
_CONTENT = rb" (?:sha256|beside)=([0-9a-f]{64})"


def copies_for_others(store: Store) -> tuple[dict[str, list[str]], list[KeptCopies], list[str]]:
    """(the ids of the checkpoints that are here, by the host whose they are; the newest of each host; sentences on
    copies that could not be looked at).

    The answer of a host is first of all about its change: copies that it keeps for others never hinder the answer.
    """
    folder = store.join("replicas")
    hosts = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    reads = load(store).verified if hosts else {}
    ids: dict[str, list[str]] = {}
    found, left = [], []
    for host in hosts:
        try:
            ids[host], one = _of(Store(os.path.join(folder, host), store.system), host, reads)
        except (EvenkeelError, OSError, ValueError) as error:
            ids[host], one = [], KeptCopies(host)
            left.append(f"the copies of {host} in {folder} could not be looked at: {error}")
        found.append(one)
    return ids, found, left


def _of(copies: Store, host: str, reads: Mapping[str, float]) -> tuple[list[str], KeptCopies]:
    """The ids of the copies of one host, and the newest of them."""
    points = copies.checkpoints(by_head=True)
    wrong = sealed_record.faults(copies)
    under = [(one.created, one.id, "") for sha, one in sealed_record.records(copies).items() if sha not in wrong]
    ids = list(dict.fromkeys([*(one.id for one in points), *(ident for _created, ident, _name in under)]))
    named = {one for listed in copies.refs().values() for one in listed}
    one = KeptCopies(host, count=len(ids), damaged=len(named) - len(points) + len(wrong) + _count_missing(copies))
    # A peer does not know the name of an encrypted copy.
    plain = [(point.created, point.id, point.name) for point in points if point.name not in (UNDO, LOGS)]
    if plain or under:
        one.created, one.id, one.name = max([*plain, *under])
        one.mac = os.path.isfile(copies.join(MACS, one.id))
        one.verified = _verified(copies, host, one.id, reads)
    return ids, one


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
                    with suppress(FileNotFoundError):  # The file was pruned meanwhile.
                        yield Batch(host, kind, entry.name).key, _oldest(entry)


def _oldest(entry: os.DirEntry[str]) -> float:
    if entry.is_file(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_mtime
    with os.scandir(entry.path) as files:
        times = [one.stat(follow_symlinks=False).st_mtime for one in files]
    return min(times, default=entry.stat(follow_symlinks=False).st_mtime)


def _count_missing(copies: Store) -> int:
    """The number of contents that were put aside as damaged, that did not arrive again, and that a checkpoint here
    still needs. The lines of manifests are read only where a content is away."""
    away = {one for one in _aside(copies) if not copies.objects.has(one)}
    needed: set[str] = set()
    folder = copies.join("manifests")
    for name in os.listdir(folder) if away else []:
        with suppress(FileNotFoundError), open(os.path.join(folder, name), "rb") as stream:
            for line in stream:
                needed |= away.intersection(one.decode("ascii") for one in re.findall(_CONTENT, line))
    return len(needed)


def _aside(copies: Store) -> Iterator[str]:
    """The names of the contents that were put aside, in packs too. Manifests and encrypted bundles are named here as
    well: no manifest needs them as a content."""
    folder = copies.join("quarantine")
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.endswith(_INDEX):
            with open(os.path.join(folder, name), "rb") as stream:
                yield from (line[:64].decode("latin-1") for line in stream if re.match(rb"[0-9a-f]{64} ", line))
        elif re.fullmatch("[0-9a-f]{64}", name):
            yield name
