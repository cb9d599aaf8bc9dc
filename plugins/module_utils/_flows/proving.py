# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that a host really has the checkpoints that it names, and the end of copies that nobody wants any more.

The controller sends a nonce that nobody can know before. The proof of a checkpoint is an HMAC, keyed with the nonce,
over its manifest and over the HMACs of its contents in the order of its lines. All holders of the same checkpoint give
the same proof, and nobody can give it without reading every content. The same reading checks the SHA-256 of each
content. Damaged files are put aside, so that they can be stored again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Callable

from .._dataclasses import dataclass
from .._errors import Busy, Damaged
from .._host.durable import move_all
from .._host.durations import moment_text
from .._host.hashing import chunks, hash_of
from .._results.copies import Audited, Examined, Owners
from .._results.result import Result
from .._store.foreign import check_form
from .._store.manifest import Manifest
from .._store.store import UNDO, Store, contents_in, order_of, paths_of
from . import replicas, sealed_record

# Paths that the detail of a damaged checkpoint names.
_PATHS = 5
_MISSING = "is missing"


@dataclass(frozen=True)
class Challenge:
    """The question of the controller. ``own``: about the host's own checkpoints, and not about copies.

    ``time_limit``: seconds, checked between contents. The newest checkpoint is always read whole.
    """

    nonce: bytes
    time_limit: float
    own: bool = False


def prove(store: Store, host: str, challenge: Challenge, check_mode: bool = False) -> Audited:
    """Every checkpoint of ``host`` that is named here: proved, damaged, or not read in time.

    Damaged contents, packs and manifests are put aside, unless in check mode.
    """
    source = store if challenge.own else replicas.replica(store, host)
    source.check_format()
    before = _put_aside_before(source)
    reading = _Reading(source, challenge, check_mode)
    held = [reading.examine(one) for one in reading.order()]
    now = source.system.now()
    dated = [(order_of(one.created, now), one.id) for one in held if one.created and one.name != UNDO]
    return Audited(
        changed=bool(reading.done),
        planned=list(reading.done),
        done=[] if check_mode else list(reading.done),
        left=reading.left,
        held=held,
        latest=max(dated)[1] if dated else "",
        before=before,
        sealed=int(replicas.was_encrypted(store, host)) if challenge.own else len(sealed_record.shas(source)),
    )


def owners(store: Store) -> Owners:
    """The hosts of which this host holds copies."""
    folder = store.join("replicas")
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return Owners(hosts=[host for host in found if os.path.isdir(os.path.join(folder, host))])


def mark(store: Store, host: str, macs: dict[str, str]) -> Result:
    """Keep these MACs beside the copies of these checkpoints."""
    target = replicas.replica(store, host)
    held = {one for ids in target.refs().values() for one in ids}
    held |= {one.id for one in sealed_record.records(target).values()}
    with target.locked():
        for checkpoint in sorted(held & macs.keys()):
            replicas.keep_mac(target, checkpoint, macs[checkpoint])
    return Result(changed=bool(held & macs.keys()))


def forget(store: Store, host: str, check_mode: bool = False) -> Result:
    """Move the copies of ``host`` aside: nothing finds them any more, and nothing is deleted."""
    target = replicas.replica(store, host)
    if not os.path.isdir(target.root):
        return Result(proved=[f"no copies of {host} are here"])
    aside = store.join("quarantine", "replicas", f"{host}@{moment_text(store.system.now())}")
    done = [f"moved the copies of {host} to {aside}"]
    if not check_mode:
        with store.locked(), target.locked():
            move_all([(target.root, aside)])
    return Result(changed=True, planned=done, done=[] if check_mode else done)


class _Reading:
    """A reading of the checkpoints of a store. Each content is read once, however many checkpoints need it."""

    def __init__(self, source: Store, challenge: Challenge, check_mode: bool) -> None:
        self.source = source
        self.done: list[str] = []
        self.left: list[str] = []
        self._challenge = challenge
        self._check_mode = check_mode
        self._end = source.system.monotonic() + challenge.time_limit
        self._first = True
        self._macs: dict[str, bytes] = {}
        self._wrong: dict[str, str] = {}
        self._checked: set[str] = set()
        for pack in source.objects.packs():
            path = source.join(*(["trash"] if "/" in pack else []), "packs", pack.rpartition("/")[2])
            _forget_cached(path)
            if "/" not in pack and not source.objects.index_is_whole(path):
                self._check_pack(path)

    def order(self) -> list[str]:
        """The ids, the newest first. The others are in an order of the nonce, so that each of many runs that end early
        reads other checkpoints, and all hosts the same ones."""
        named = {one for ids in self.source.own_refs().values() for one in ids}
        broken = [one for one in named if len(one) != 64 or not set(one) <= set("0123456789abcdef")]
        if broken:
            self.left.append(f"{len(broken)} ids in {self.source.join('refs')} are damaged")
        found = sorted(named - set(broken), key=lambda one: self._keyed(one.encode()).digest())
        place = {one.id: at for at, one in enumerate(self.source.checkpoints()) if one.name != UNDO}
        newest = max(found, key=lambda one: (place.get(one, -1), one), default=None)
        return [*([newest] if newest else []), *(one for one in found if one != newest)]

    def examine(self, checkpoint: str) -> Examined:
        found = Examined(checkpoint, mac="" if self._challenge.own else replicas.mac_of(self.source, checkpoint))
        try:
            manifest = self.source.manifest(checkpoint)
            if not self._challenge.own:
                check_form(manifest)
        except Damaged as error:
            found.detail = error.message
            self._put_manifest_aside(checkpoint)
            return found
        found.host, found.name, found.created = manifest.host, manifest.name, manifest.created
        needed = list(dict.fromkeys(contents_in(manifest, beside=not self._challenge.own)))
        lacking = {sha: self._wrong.get(sha, _MISSING) for sha in needed if not self.source.objects.has(sha)}
        whole = not lacking and self._read(needed)
        wrong = {**lacking, **{sha: self._wrong[sha] for sha in needed if sha in self._wrong}}
        if wrong:
            found.detail = _detail(manifest, wrong)
        elif not whole:
            found.state, found.detail = "unread", "there was no time to read it"
        else:
            found.state, found.proof = "proved", self._proof(checkpoint, manifest)
        return found

    def _read(self, needed: Iterable[str]) -> bool:
        """Read contents that were not read yet; whether there was time for all. Damaged ones are put aside."""
        first, self._first = self._first, False
        bad = []
        whole = True
        for sha in needed:
            if sha in self._macs or sha in self._wrong:
                continue
            if not first and self.source.system.monotonic() >= self._end:
                whole = False
                break
            if not self._digest(sha):
                bad.append(sha)
        self._put_contents_aside(bad)
        return whole

    def _digest(self, sha: str) -> bool:
        """Read a content; whether it is whole. A content that reads wrong once is read again: memory and cables fail,
        too, and then the copy may be whole."""
        place = self.source.objects.index().get(sha)
        if place:
            self._check_pack(self.source.objects.pack_path(place.pack))
        problem = self._wrong.get(sha, "")
        for _attempt in range(0 if problem else 2):
            mac = self._keyed(b"")
            try:
                hash_of(self.source.objects.read(sha), mac)
            except Damaged as error:
                cause = error.__cause__
                problem = f"cannot be read ({cause.strerror})" if isinstance(cause, OSError) else "is damaged"
                problem = problem if self.source.objects.has(sha) else _MISSING
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            else:
                self._macs[sha] = mac.digest()
                if problem:
                    self.left.append(
                        f"object {sha[:12]} {problem} at the first reading and whole at the second: the memory, the "
                        "disk or its cable may be failing"
                    )
                return True
        self._wrong[sha] = problem
        return False

    def _proof(self, checkpoint: str, manifest: Manifest) -> str:
        made = self._keyed(b"evenkeel proof 1\n" + self.source.record_data(checkpoint))
        for sha in contents_in(manifest):  # those that both sides keep in a store
            made.update(self._macs[sha])
        return made.hexdigest()

    def _keyed(self, data: bytes) -> hmac.HMAC:
        return hmac.new(self._challenge.nonce, data, hashlib.sha256)

    # -- damage

    def _check_pack(self, path: str) -> None:
        """Put a pack aside that does not match its name. Its whole contents are stored again first."""
        name = os.path.basename(path)[: -len(".pack")]
        if name in self._checked or not os.path.exists(path):
            return
        self._checked.add(name)
        try:
            with open(path, "rb", buffering=0) as stream:
                if hash_of(chunks(stream.fileno()))[0] == name:
                    return
            bad = [sha for sha, data in self.source.objects.pack_contents(path) if data is None]
        except OSError as error:
            self.left.append(f"pack {name[:12]} cannot be read: {error.strerror}")
            return
        self._wrong.update(dict.fromkeys(bad, f"is damaged in the pack {name[:12]}"))
        self._aside(f"put aside pack {name[:12]}", lambda: self.source.salvage(path))

    def _put_contents_aside(self, bad: Iterable[str]) -> None:
        for sha in bad:
            if self.source.objects.has(sha):
                self._aside(f"put aside object {sha[:12]}", partial(self.source.quarantine, sha))

    def _put_manifest_aside(self, checkpoint: str) -> None:
        path = self.source.join("manifests", checkpoint)
        if os.path.exists(path) and not self.source.has_record(checkpoint):
            moves = [(path, self.source.join("quarantine", checkpoint))]
            self._aside(f"put aside manifest {checkpoint[:12]}", lambda: move_all(moves))

    def _aside(self, what: str, act: Callable[[], object]) -> None:
        """Change something in the store, under its lock, unless in check mode."""
        if not self._check_mode:
            try:
                with self.source.locked():
                    act()
            except FileNotFoundError:
                return  # The file was pruned meanwhile.
            except (Busy, OSError) as error:
                self.left.append(f"could not {what}: {error}")
                return
        self.done.append(what)


def _detail(manifest: Manifest, wrong: dict[str, str]) -> str:
    """The damage in words, by path."""
    named = [f"{path} (object {sha[:12]}) {wrong[sha]}" for path, sha in paths_of(manifest) if sha in wrong]
    more = len(named) - _PATHS
    return "; ".join(named[:_PATHS]) + (f"; and {more} more" if more > 0 else "")


def _forget_cached(path: str) -> None:
    """Let the next reading of the file come from the disk."""
    with suppress(OSError), open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _put_aside_before(source: Store) -> int:
    """The number of files that earlier runs have put aside."""
    folder = source.join("quarantine")
    return sum(1 for entry in os.listdir(folder) if entry != "replicas") if os.path.isdir(folder) else 0
