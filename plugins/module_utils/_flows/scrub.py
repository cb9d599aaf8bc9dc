# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading everything that a store holds, so that damage is found while an intact copy can still be had.

A batch is a pack, or the large contents whose names begin alike. Batches that were read longest ago come first. The
file ``scrub`` of the store tells when each batch was read, so that the next run carries on a run that ended early or
was killed. Nothing is locked while reading: a file in a store never changes, it can only go. Manifests and names are
small, and every run checks all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Callable

from .._dataclasses import asdict, dataclass, field
from .._errors import Busy, Damaged, EvenkeelError, UsageError
from .._host.durable import move_all, write_file
from .._host.durations import moment_text
from .._host.hashing import chunks, hash_of
from .._resources.registry import missing_data
from .._results.host import Damage, Scrubbed
from .._store.store import FOREIGN, Store, paths_of
from . import sealed, sealed_record
from .scrub_record import Batch, load

# Seconds between two updates of the record of the parts that were read.
_SAVE = 5.0
_MISSING = "it is missing"


@dataclass
class Found:
    """The damages of one store, by id."""

    contents: dict[str, str] = field(default_factory=dict)
    packs: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[tuple[str, str], str] = field(default_factory=dict)  # (name, id)
    outside: dict[tuple[str, str, str, str], str] = field(default_factory=dict)  # (name, id, kind, path)
    sealed: dict[str, str] = field(default_factory=dict)
    users: dict[str, list[str]] = field(default_factory=dict)  # of encrypted bundles: the checkpoints that need them


def scrub(store: Store, time_limit: float | None = None, share: int = 100, check_mode: bool = False) -> Scrubbed:
    """Read the store and the replicas in it.

    ``time_limit`` in seconds, checked between batches; ``share``: the part of the time, in percent, that is spent
    reading. Raises Damaged, with the same result, when anything was found; damaged files are put aside first. Raises
    EvenkeelError when something could not be put aside or written down.
    """
    if not 1 <= share <= 100:
        raise UsageError(f"share: {share} is not a percentage from 1 to 100")
    run = _Pass(store, share, check_mode)
    run.read(time_limit)
    damaged = [one for host in run.stores for one in run.check_checkpoints(host)]
    result = run.result(damaged)
    if damaged:
        checkpoints = sorted({point["name"] for one in damaged for point in one.checkpoints})
        paths = sorted({path for one in damaged for path in one.paths})
        theirs = " One of another host comes back with ft_recover alone." if FOREIGN in checkpoints else ""
        raise Damaged(
            f"{len(damaged)} things in {store.root} are damaged or missing. Checkpoints that need them: "
            f"{', '.join(checkpoints) or 'none'}; paths: {', '.join(paths[:10]) or 'none'}"
            f"{' and more' if len(paths) > 10 else ''}. The next checkpoint stores again the contents that this host "
            "still has. evenkeel heal (ft_heal) brings the others back from plain copies on other hosts, and changes "
            "nothing but stores; from encrypted copies ft_recover alone does, which puts the host back as well. "
            f"ft_replicate sends again what is damaged in copies of other hosts.{theirs}",
            **result.report(),
        )
    if run.left:
        raise EvenkeelError(
            f"no file that was read in {store.root} is damaged, but: {'; '.join(run.left)}. Look at the disk, then run "
            "again",
            **result.report(),
        )
    return result


class _Pass:
    """A run over the store and the replicas in it."""

    def __init__(self, store: Store, share: int, check_mode: bool) -> None:
        folder = store.join("replicas")
        hosts = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        replicas = {host: Store(os.path.join(folder, host), store.system, is_replica=True) for host in hosts}
        self.stores = {"": store, **replicas}
        for one in self.stores.values():
            one.check_format()
        self.store = store
        self.system = store.system
        self.share = share
        self.check_mode = check_mode
        self.found = {host: Found() for host in self.stores}
        self.done: list[str] = []
        self.left: list[str] = []
        self.started = self.system.monotonic()
        self.batches, self.files, self.bytes = 0, 0, 0
        self.state = load(store)
        self.all = [batch for host in self.stores for batch in self._batches(host)]

    def _batches(self, host: str) -> Iterator[Batch]:
        store = self.stores[host]
        for kind in ("packs", "objects", sealed_record.SEALED):
            names: set[str] = set()
            for folder in (store.join(kind), store.objects.in_trash(store.join(kind))):
                names |= set(os.listdir(folder)) if os.path.isdir(folder) else set()
            yield from (Batch(host, kind, name) for name in sorted(names) if kind != "packs" or name[-5:] == ".pack")

    # -- contents

    def read(self, time_limit: float | None) -> None:
        """Read batch after batch, at least one batch; note damaged files and put them aside."""
        verified = self.state.verified
        saved = self.started
        for batch in sorted(self.all, key=lambda batch: (verified.get(batch.key, 0.0), batch.key)):
            now = self.system.monotonic()
            if time_limit is not None and self.batches and now - self.started >= time_limit:
                break
            if now - saved > _SAVE:
                self._save()
                saved = now
            at = self.system.now()
            self._read(batch)
            verified[batch.key] = at
            self.batches += 1
        present = {batch.key for batch in self.all}
        self.state.verified = {key: at for key, at in verified.items() if key in present}
        if all(verified.get(key, 0.0) >= self.state.began for key in present):
            self.state.passed = self.state.began = self.system.now()
        self._save()

    def _save(self) -> None:
        if not self.check_mode and self.store.exists:
            line = json.dumps(asdict(self.state), sort_keys=True).encode()
            data = line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"
            try:
                write_file(self.store.join("scrub"), data)
            except OSError as error:
                # On a disk that fails, the contents that can still be read count most.
                self.left.append(f"could not write down what was read: {error}")

    def _read(self, batch: Batch) -> None:
        store, found = self.stores[batch.host], self.found[batch.host]
        folder = store.join(batch.kind, *([batch.name] if batch.kind == "objects" else []))
        for where in (folder, store.objects.in_trash(folder)):
            names = [batch.name] if batch.kind != "objects" else os.listdir(where) if os.path.isdir(where) else []
            for name in sorted(names):
                path = os.path.join(where, name)
                sha = batch.name + name if batch.kind == "objects" else name.partition(".")[0]
                problem = self._problem(path, sha)
                if problem and batch.kind == sealed_record.SEALED:
                    found.sealed[sha] = problem
                    found.users[sha] = sealed.users(sealed_record.records(store), sha)
                    self._act(store, f"put aside encrypted bundle {sha[:12]}", partial(sealed.put_aside, store, sha))
                elif problem and batch.kind == "packs":
                    found.packs[sha] = problem
                    with suppress(OSError):
                        bad = [one for one, data in store.objects.pack_contents(path) if data is None]
                        found.contents.update(dict.fromkeys(bad, f"it is damaged in the pack {sha[:12]}"))
                    self._act(store, f"put aside pack {sha[:12]}", partial(store.salvage, path))
                elif problem:
                    found.contents[sha] = problem
                    self._put_aside(store, path, f"object {sha[:12]}", sha)
                elif batch.kind == "packs" and os.path.exists(path) and not store.objects.index_is_whole(path):
                    self._act(store, f"index pack {sha[:12]} anew", partial(store.objects.index_anew, path))

    def _problem(self, path: str, sha: str) -> str:
        """The damage of the file, in words; empty when it is intact, and when it is not there (any more)."""
        try:
            with open(path, "rb", buffering=0) as stream:
                # Read from the disk and not from memory, and leave in memory the files that others need.
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                found, _size = hash_of(self._slowly(chunks(stream.fileno())))
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        self.files += 1
        return "" if found == sha else f"it is damaged: its SHA-256 is {found}"

    def _slowly(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces, with pauses, so that reading and hashing take no more than the share of the time."""
        while True:
            began = self.system.monotonic()
            piece = next(pieces, b"")
            if not piece:
                return
            yield piece
            self.bytes += len(piece)
            if self.share < 100:
                self.system.sleep((self.system.monotonic() - began) * (100 - self.share) / self.share)

    def _put_aside(self, store: Store, path: str, what: str, name: str) -> None:
        self._act(store, f"put aside {what}", partial(move_all, [(path, store.join("quarantine", name))]))

    def _act(self, store: Store, what: str, act: Callable[[], object]) -> None:
        """Change something in a store, under its lock, unless in check mode."""
        if not self.check_mode:
            try:
                with store.locked():
                    act()
            except FileNotFoundError:
                return  # The file was pruned meanwhile.
            except (Busy, OSError) as error:
                self.left.append(f"could not {what}: {error}")
                return
        self.done.append(what)

    # -- checkpoints

    def check_checkpoints(self, host: str) -> list[Damage]:
        """Read every manifest; everything that is damaged in the store."""
        store, found = self.stores[host], self.found[host]
        refs = store.refs()
        store.objects.forget_index()
        bad = {sha for sha in found.contents if store.objects.verify(sha)}
        missing: dict[str, set[tuple[str, str]]] = {}
        uses: dict[str, list[tuple[str, str, str]]] = {}
        manifest = None
        for name, one in ((name, one) for name, ids in refs.items() for one in ids):
            try:
                manifest = store.manifest(one, manifest)
            except Damaged as error:
                found.checkpoints[name, one] = error.message
                continue
            # Data outside of a replica lies on the host whose copy the replica is, if anywhere.
            elsewhere = missing_data(manifest.sections) if not host else {}
            found.outside.update({(name, one, *what): problem for what, problem in elsewhere.items()})
            gone = {sha for sha in store.contents_of(manifest) if sha in bad or not store.objects.has(sha)}
            for sha in gone - bad:
                missing.setdefault(sha, set()).add((name, one))
            if gone:
                for path, sha in paths_of(manifest):
                    if sha in gone:
                        uses.setdefault(sha, []).append((name, one, path))
        # Without the lock, a checkpoint that is pruned while we look seems to be missing.
        held = {(name, one) for name, ids in store.refs().items() for one in ids}
        for sha, needed in missing.items():
            if needed & held:
                found.contents.setdefault(sha, _MISSING)
        found.checkpoints = {key: problem for key, problem in found.checkpoints.items() if key in held}
        for _name, one in found.checkpoints:
            path = store.join("manifests", one)
            if os.path.exists(path) and not store.has_record(one):  # The record itself is damaged, and none before it.
                self._put_aside(store, path, f"manifest {one[:12]}", one)
        damaged = [_damage(host, "pack", pack, problem) for pack, problem in found.packs.items()]
        for (name, one), problem in found.checkpoints.items():
            damaged.append(_damage(host, "manifest", one, problem, [(name, one, "")]))
        for (name, one, kind, path), problem in found.outside.items():
            if (name, one) in held:
                damaged.append(_damage(host, kind, path, problem, [(name, one, path)]))
        for sha, problem in sorted(found.contents.items()):
            damaged.append(_damage(host, "object", sha, problem, [use for use in uses.get(sha, []) if use[:2] in held]))
        return damaged + self._check_sealed(host)

    def _check_sealed(self, host: str) -> list[Damage]:
        """Read every record of an encrypted bundle; all bundles that no copy can use. Their names are not known here:
        the beginnings of the ids of their checkpoints stand for them."""
        store, found = self.stores[host], self.found[host]
        known = sealed_record.records(store)
        for sha, problem in sealed_record.faults(store).items():
            found.users.setdefault(sha, sealed.users(known, sha))
            if sha not in known:
                self._put_aside(store, sealed_record.record_path(store, sha), f"record {sha[:12]}", f"record-{sha}")
            found.sealed.setdefault(sha, problem)
        return [
            _damage(host, "sealed", sha, problem, [(one[:12], one, "") for one in found.users.get(sha, [])])
            for sha, problem in sorted(found.sealed.items())
        ]

    def result(self, damaged: list[Damage]) -> Scrubbed:
        times = [self.state.verified.get(batch.key, 0.0) for batch in self.all]
        oldest = min(times, default=0.0)
        seconds = round(self.system.monotonic() - self.started, 3)
        return Scrubbed(
            changed=bool(self.done),
            planned=list(self.done),
            done=[] if self.check_mode else list(self.done),
            proved=[f"{self.files} files of {self.bytes} bytes were read"],
            left=self.left + list(map(str, damaged)),
            damaged=damaged,
            complete=self.batches == len(self.all),
            oldest=moment_text(oldest) if oldest else None,
            unverified=sum(not at for at in times),
            last_pass=moment_text(self.state.passed) if self.state.passed else None,
            stats={"files": self.files, "bytes": self.bytes, "seconds": seconds},
        )


def _damage(host: str, kind: str, name: str, problem: str, uses: Sequence[tuple[str, str, str]] = ()) -> Damage:
    """The damage of a content or a manifest; ``uses``: (name of a checkpoint, its id, path in it)."""
    points = sorted({(point, one) for point, one, _path in uses})
    checkpoints = [{"name": point, "id": one} for point, one in points]
    return Damage(host, kind, name, problem, checkpoints, sorted({path for _point, _one, path in uses if path}))
