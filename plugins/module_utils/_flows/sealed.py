# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted copies: bundles that leave their host sealed, and that a peer stores and verifies without any key.

::

    <store>/replicas/<host>/sealed/<sha256>     a bundle, encrypted by openssl, named by the SHA-256 of the ciphertext
    <store>/replicas/<host>/records/<sha256>    what is known about it: one JSON line, and the SHA-256 of that line

A bundle is a whole checkpoint, or what a checkpoint needs beyond a single ``base``, which the peer holds sealed too. So
a checkpoint is a chain of bundles, the whole one first. A bundle and its record are never changed or replaced.

The controller gives each bundle a secret of its own. The source proves with it which ciphertext it has made: the tag.
It stands behind the ciphertext on its way to a peer, and in the record. The controller checks the tags of a chain, and
the host that takes the chain in compares each ciphertext with them. So a peer can neither change, shorten, mix nor
exchange bundles, though the cipher itself does not notice that.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from .._dataclasses import asdict, dataclass
from .._errors import Damaged, EvenkeelError
from .._host import openssl
from .._host.durable import early, ensure_dir, fsync_dir, move_all, write_all, write_file
from .._host.hashing import CHUNK, chunks, hash_of, passing
from .._host.trust import open_regular
from .._results.copies import Candidate, Copied, Copies, Sealed
from .._store import retention as keeping
from .._store.foreign import check_created, refuse_too_large
from .._store.proof import LONGEST, TRAILER_SIZE, tag_of, trailer_of
from .._store.store import Store, time_of
from . import replicas
from .sealed_record import (
    HEX,
    RECORDS,
    SEALED,
    Record,
    bundle_path,
    file_of,
    reach,
    record,
    record_path,
    records,
    shas,
)

# The words of a receiver on the bundle on which the next one may build.
BASE = ("id", "sha256", "bytes", "length")
# Behind a ciphertext: its SHA-256, that of its base, its tag.
_TRAILER = rb"([0-9a-f]{64}) ([0-9a-f]{64}|-{64}) ([0-9a-f]{64})\n"


# -- on the source


@dataclass(frozen=True)
class Sealing:
    """A bundle that is encrypted while it is written: what ``replicas.Bundle`` is to a plain copy."""

    bundle: replicas.Bundle
    base: str
    secret: str

    @property
    def contents(self) -> Sequence[str]:
        return self.bundle.contents

    @property
    def size(self) -> int:
        """Bytes that ``write`` writes."""
        return self.bundle.size + openssl.OVERHEAD + TRAILER_SIZE

    def write(self, stream: BinaryIO) -> None:
        """Write ciphertext and trailer. Raises Damaged at a damaged content: then no trailer is written."""
        with openssl.encrypted(self.secret, self.bundle.write) as cipher:
            sha, _size = hash_of(_copied(iter(lambda: cipher.read(CHUNK), b""), stream.write))
        stream.write(trailer_of(sha, self.base, tag_of(self.secret, sha, self.base)))


def seal(store: Store, host: str, checkpoint: str, wanted: Mapping[str, Any], secret: str) -> Sealing:
    """The sealed bundle of a checkpoint, relative to the base that the controller wants.

    ``wanted``: ``id``, ``sha256``, ``bytes`` and ``length`` (of its chain) of the base, or nothing. The bundle is whole
    where the base is no longer here, and where the chain would become longer than ``LONGEST`` or more than twice as
    large as a whole bundle.
    """
    openssl.check()
    whole = replicas.bundle(store, host, checkpoint, [], from_replica=False)
    base = str(wanted.get("sha256") or "")
    with suppress(Damaged):
        if base and int(wanted["length"]) < LONGEST:
            # A receiver with the base has all records of its log, too.
            known = [one.id for one in store.chain(str(wanted["id"]))]
            part = replicas.bundle(store, host, checkpoint, known, from_replica=False)
            if int(wanted["bytes"]) + part.size <= 2 * _size(whole):
                return Sealing(part, base, secret)
    return Sealing(whole, "", secret)


def _size(whole: replicas.Bundle) -> float:
    """Bytes of a whole bundle. A bundle that cannot be made any more, as an old content is gone here, counts as
    infinitely long."""
    try:
        return whole.size
    except Damaged:
        return math.inf


# -- on a peer


def chain(known: Mapping[str, Record], sha: str) -> list[Record]:
    """The records that a checkpoint needs, that of the whole bundle first. Damaged where one is missing."""
    found = reach(known, sha)
    if not found or found[0].base:
        missing = found[0].base if found else sha
        raise Damaged(
            f"the encrypted bundle {missing[:12]} or its record is missing or damaged"
            if len(found) < LONGEST
            else f"the encrypted bundle {sha[:12]} needs more than {LONGEST} bundles"
        )
    return found


def problem(target: Store, sha: str, also: Callable[[bytes], object] = len) -> str:
    """The fault of a bundle in words, or nothing where its file is there and has its name for a hash. ``also`` gets
    all that is read."""
    try:
        with open_regular(bundle_path(target, sha)) as stream:
            found, _size = hash_of(_copied(chunks(stream.fileno()), also))
    except OSError as error:
        return f"the encrypted bundle {sha[:12]} cannot be read: {error.strerror}"
    return "" if found == sha else f"the encrypted bundle {sha[:12]} is damaged: its SHA-256 is {found}"


def have(store: Store, host: str, wanted: str, key: str, mac: str = "", check_mode: bool = False) -> Copies:
    """On a peer: the state of the encrypted copy of a checkpoint that was made with this ``key``, and the bundles on
    which the next bundle of the key can build. Damaged bundles are put aside, so that they are sent again."""
    target = replicas.replica(store, host)
    found = replicas.have(store, host)
    found.plain, found.ids = len(found.ids), []
    found.bases, known = [], records(target)
    verdicts: dict[str, str] = {}
    for sha, one in known.items():
        if one.key != key:
            continue
        with suppress(Damaged):
            links = chain(known, sha)
            if one.id == wanted and found.state != "verified":
                wrong = _check(target, links, verdicts)
                found.id, found.wrong, found.state = wanted, wrong[:20], "damaged" if wrong else "verified"
            elif all(_has_size(target, link) for link in links):
                size = sum(link.size for link in links)
                found.bases.append({"id": one.id, "sha256": sha, "bytes": size, "length": len(links)})
    if not check_mode:
        _put_aside(target, [sha for sha, fault in verdicts.items() if fault])
        if found.state == "verified" and mac:
            with target.locked():
                replicas.keep_mac(target, wanted, mac)
    found.sealed = len(known)
    return found


def _check(target: Store, links: Sequence[Record], verdicts: dict[str, str]) -> list[str]:
    """Hash the bundles of a chain, each once; sentences on their faults."""
    for link in links:
        if link.sha256 not in verdicts:
            verdicts[link.sha256] = problem(target, link.sha256)
    return [fault for link in links if (fault := verdicts[link.sha256])]


def _has_size(target: Store, link: Record) -> bool:
    with suppress(OSError):
        return os.lstat(bundle_path(target, link.sha256)).st_size == link.size
    return False


def _put_aside(target: Store, names: Sequence[str]) -> None:
    if names:
        with target.locked():
            for sha in names:
                put_aside(target, sha)


def put_aside(target: Store, sha: str) -> None:
    """Move a damaged bundle and its record to quarantine: the copies that need it no longer count. Under the lock."""
    paths = ((bundle_path(target, sha), sha), (record_path(target, sha), f"record-{sha}"))
    pairs = [*paths, *((target.objects.in_trash(path), name) for path, name in paths)]
    move_all([(path, target.join("quarantine", name)) for path, name in pairs if os.path.lexists(path)])


def users(known: Mapping[str, Record], sha: str) -> list[str]:
    """The checkpoints that need a bundle."""
    return sorted({one.id for name, one in known.items() if sha in [link.sha256 for link in reach(known, name)]})


def receive(
    store: Store,
    host: str,
    checkpoint: str,
    incoming: replicas.Incoming,
    told: Mapping[str, Any],
    retention: Any = None,
) -> Copied:
    """On a peer: store a sealed bundle. The copy counts once this returns: every bundle of its chain was hashed, and
    is durable (I10).

    ``told``: by the controller, the parts of the record that are not in the trailer, and the ``mac``.
    """
    policy = keeping.check(retention)
    with store.locked():
        ensure_dir(store.join("replicas"))
    target = replicas.replica(store, host)
    with target.locked():
        for name in (SEALED, RECORDS):
            ensure_dir(target.join(name))
        made = _take(target, checkpoint, incoming, told)
        replicas.keep_mac(target, checkpoint, str(told.get("mac") or ""))
        left = []
        if policy is not None:
            try:
                left = prune(target, made, policy, [str(group) for group in told.get("groups", [])])
            except (EvenkeelError, OSError) as error:
                left = [f"old copies in {target.root} were not forgotten: {error}"]
    return Copied(id=checkpoint, state="verified", objects=1, bytes=incoming.size, left=left)


def _take(target: Store, checkpoint: str, incoming: replicas.Incoming, told: Mapping[str, Any]) -> Record:
    """Hash the ciphertext while it is written; then, in this order, the bundle and its record become durable."""
    refuse_too_large(incoming.size, target.root, "an encrypted bundle")
    path = target.join("tmp", f"sealed-{os.getpid()}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    try:
        size = incoming.size - TRAILER_SIZE
        sha, came = hash_of(early(fd, _copied(_pieces(incoming.stream, size), partial(write_all, fd))))
        if came < size:
            raise Damaged(f"the encrypted bundle is cut off: it lacks {size - came} bytes")
        trailer = re.fullmatch(_TRAILER, incoming.stream.read(TRAILER_SIZE))
        if trailer is None or trailer[1].decode() != sha:
            raise Damaged("the encrypted bundle arrived damaged, or is cut off: its SHA-256 is not the announced one")
        base = trailer[2].decode().strip("-")
        made = Record.of(
            {**told, "id": checkpoint, "sha256": sha, "base": base, "size": size, "tag": trailer[3].decode()}
        )
        check_created(made.created, target.system.now())
        _refuse_another(target, made)
        if base:
            _build_on(target, base)
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    os.rename(path, bundle_path(target, sha))  # A file of this name has this content, or is damaged.
    fsync_dir(target.join(SEALED))
    line = json.dumps(asdict(made), sort_keys=True).encode()
    data = line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"
    write_file(record_path(target, sha), data, 0o400)
    return made


def _refuse_another(target: Store, made: Record) -> None:
    """Damaged where this ciphertext is here already, as the bundle of another checkpoint: its record must stay."""
    with suppress(FileNotFoundError):
        os.lstat(record_path(target, made.sha256))
        held = record(target, made.sha256)
        if (held.id, held.base, held.nonce, held.tag) != (made.id, made.base, made.nonce, made.tag):
            raise Damaged(
                f"the encrypted bundle {made.sha256[:12]} is here already, as another one; nothing was changed"
            )


def _build_on(target: Store, base: str) -> None:
    """Damaged unless the chain of the base is whole here, and short enough."""
    links = chain(records(target), base)
    verdicts: dict[str, str] = {}
    wrong = _check(target, links, verdicts)
    for sha, fault in verdicts.items():
        if fault:
            put_aside(target, sha)
    if wrong or len(links) >= LONGEST:
        why = "; ".join(wrong[:5]) or f"it has {len(links)} bundles already"
        raise Damaged(f"the encrypted bundle cannot build on {base[:12]}: {why}. Send it again, whole")


def prune(target: Store, newest: Record, policy: keeping.Policy, groups: Sequence[str]) -> list[str]:
    """Forget the bundles of these groups that the policy does not keep and on which no kept bundle builds.

    Nothing is forgotten while a record cannot be read: nobody can tell what it needs. That is told in words. A scrub
    puts such a record aside.
    """
    known = records(target)
    unknown = len(shas(target)) - len(known)
    if unknown > 0:
        return [
            f"old copies in {target.root} were not forgotten: {unknown} records of encrypted bundles are damaged. "
            "A scrub (ft_scrub) puts them aside"
        ]
    of_name = {one.id: time_of(one.created) for one in known.values() if one.group in groups}
    now = target.system.now()
    kept = keeping.keep(list(of_name.items()), policy, datetime.datetime.fromtimestamp(now, datetime.timezone.utc))
    stays = {sha for sha, one in known.items() if one.group not in groups or one.id in kept or one.id == newest.id}
    needed = {link.sha256 for sha in stays for link in reach(known, sha)}
    # A bundle without a record was left by a kill, or lost its record.
    gone = sorted((set(known) | set(filter(HEX.fullmatch, os.listdir(target.join(SEALED))))) - needed)
    before, thrown = policy.trash(now)
    target.objects.empty_trash(before)
    for name in (RECORDS, SEALED):  # No record without its bundle.
        paths = [file_of(target, name, sha) for sha in gone]
        target.objects.throw_away([path for path in paths if os.path.exists(path)], thrown)
    held = {known[sha].id for sha in needed} | {one for ids in target.refs().values() for one in ids}
    replicas.forget_macs(target, held)
    return []


def candidates(store: Store, host: str) -> list[Candidate]:
    """On a peer: every encrypted copy of a checkpoint of ``host``, each bundle hashed now. Changes nothing."""
    target = replicas.replica(store, host)
    found = []
    verdicts: dict[str, str] = {}
    known = records(target)
    for sha, one in known.items():
        shown = Sealed(one.sha256, one.base, one.size, one.nonce, one.tag, one.key, one.card)
        copy = Candidate(one.id, replicas.mac_of(target, one.id), created=one.created, sealed=shown)
        try:
            links = chain(known, sha)
            wrong = _check(target, links, verdicts)
            copy.bytes = 0 if wrong else sum(link.size for link in links)
        except Damaged as error:
            wrong = [error.message]
        copy.state, copy.detail = "damaged" if wrong else "verified", "; ".join(wrong[:10])
        found.append(copy)
    return found


@dataclass(frozen=True)
class Chain:
    """The ciphertexts of a chain, one after the other, as a peer gives them back. Each is hashed while it is written.

    ``trailers``: each with the trailer that it had, for another peer.
    """

    target: Store
    links: Sequence[Record]
    trailers: bool = False

    @property
    def contents(self) -> Sequence[str]:
        return [link.sha256 for link in self.links]

    @property
    def size(self) -> int:
        """Bytes that ``write`` writes."""
        return sum(link.size + (TRAILER_SIZE if self.trailers else 0) for link in self.links)

    def write(self, stream: BinaryIO) -> None:
        """Write them. Raises Damaged at the first damaged bundle."""
        for link in self.links:
            with open_regular(bundle_path(self.target, link.sha256)) as source:
                sha, size = hash_of(_copied(chunks(source.fileno(), link.size), stream.write))
            if sha != link.sha256 or size != link.size:
                raise Damaged(f"the encrypted bundle {link.sha256[:12]} is damaged: its SHA-256 is {sha}")
            if self.trailers:
                stream.write(trailer_of(sha, link.base, link.tag))


def give_back(store: Store, host: str, sha: str) -> Chain:
    """On a peer: the chain of an encrypted copy."""
    target = replicas.replica(store, host)
    return Chain(target, chain(records(target), sha))


def pass_on(store: Store, host: str, sha: str) -> Chain:
    """On a peer: a single bundle as it once came, for another peer. The base comes first: see ``chain``."""
    target = replicas.replica(store, host)
    return Chain(target, [record(target, sha)], trailers=True)


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """So many bytes of the stream, or as many as it has."""
    while size > 0 and (piece := stream.read(min(CHUNK, size))):
        size -= len(piece)
        yield piece


def _copied(pieces: Iterator[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
    for piece in pieces:
        write(piece)
        yield piece


# -- on the host that gets a checkpoint back


class Link(NamedTuple):
    """A bundle of a chain whose tag the controller has checked, and its secret."""

    sha256: str
    size: int
    secret: str


@dataclass(frozen=True)
class Incoming(replicas.Incoming):
    """A chain of sealed bundles that comes in."""

    links: Sequence[Link]

    def parts(self) -> Generator[replicas.Incoming, None, None]:
        """The plain bundles, the whole one first. Damaged after a bundle whose ciphertext is another one: what came
        with it must not be used."""
        if self.size != sum(link.size for link in self.links) or not 0 < len(self.links) <= LONGEST:
            raise Damaged("the encrypted copy is not as large as its records say")
        openssl.check()
        for link in self.links:
            yield from self._part(link)

    def _part(self, link: Link) -> Generator[replicas.Incoming, None, None]:
        digest = hashlib.sha256()

        def feed(stream: BinaryIO) -> None:
            for piece in passing(_pieces(self.stream, link.size), digest):
                stream.write(piece)

        with openssl.decrypted(link.secret, feed) as plain:
            yield replicas.Incoming(plain, link.size - openssl.OVERHEAD)
        if digest.hexdigest() != link.sha256:
            raise Damaged(f"the encrypted bundle {link.sha256[:12]} arrived damaged: its SHA-256 is another one")


def incoming(came: replicas.Incoming, told: Sequence[Mapping[str, Any]], secrets: Sequence[str]) -> Incoming:
    """The chain in a stream, as the controller has ``told`` of it; ``secrets``: of its bundles, in the same order."""
    links = [Link(str(one["sha256"]), int(one["size"]), secret) for one, secret in zip(told, secrets)]
    return Incoming(came.stream, came.size, links)
