# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of a host's checkpoints on its peers, as bundles that any transport can carry.

A bundle is a pack (see ``_store.objects``) of everything that the receiver lacks, the manifest last. The receiver
trusts nothing in it: it computes every hash itself, and reads no more than the bundle holds and than it has room for.
It keeps the copies of each host in a store of their own, below ``replicas`` of its store. There it removes only
checkpoints that its own retention drops, and nothing on a sender's word.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from typing import Any, BinaryIO, Callable, NamedTuple, Protocol

from .._dataclasses import dataclass
from .._errors import Damaged, EvenkeelError, Refused, UsageError
from .._host.durable import ensure_dir, remove_file, write_file
from .._resources import registry
from .._resources.bundled import Bundled
from .._resources.declared import refuse_outside
from .._resources.registry import machine_of
from .._results.copies import Candidate, Candidates, Copied, Copies, Exported, Offered
from .._store import retention as keeping
from .._store.foreign import LINES, MANIFESTS, check_form, check_manifest, refuse_too_large
from .._store.manifest import LOG, Manifest
from .._store.objects import SMALL, Writer
from .._store.store import CHAIN, FOREIGN, Store, contents_in, objects_of, paths_of
from .held import MACS
from .rollback.flow import finish

_MAGIC = b"evenkeel-pack 1\n"
# The header before a content or a manifest.
_MANIFEST = b"manifest"
_LINE = rb"([0-9a-f]{64}|manifest) ([0-9]{1,15})\n"
_MAC_LENGTH = 64
_MAC = re.compile("[0-9a-f]{64}")
_ID = _MAC  # Both are written as a SHA-256 is.
# A content in the line of a manifest, and its size where the line tells it.
_CONTENT = "(?: size=([0-9]+))? (?:sha256|beside)=([0-9a-f]{64})"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,200}"


def replica(store: Store, host: str) -> Store:
    """The store in which this host keeps the checkpoints of ``host``."""
    if not re.fullmatch(_HOST, host):
        raise UsageError(f"{host!r} cannot name the folder of a replica; use letters, digits, dots, dashes")
    return Store(store.join("replicas", host), store.system, is_replica=True)


def offer(store: Store, host: str, checkpoint: str, foreign: bool = False) -> Offered:
    """On the source: the checkpoint that would be copied. ``foreign``: ``host`` is another host, of which this one may
    have got checkpoints. Raises NotFound, Damaged, Refused."""
    manifest = store.manifest(store.resolve(checkpoint, foreign))
    held = [one.id for one in store.checkpoints(by_head=True)] + (store.refs().get(FOREIGN, []) if foreign else [])
    lacking = registry.not_carried(manifest.sections)
    name, created, host = manifest.name, manifest.created, manifest.host
    offered = Offered(id=manifest.id, name=name, created=created, host=host, held=held, lacking=lacking)
    offered.has_log = registry.has_log(manifest.sections)
    return offered


def note_encrypted(store: Store, host: str, encrypted: bool) -> None:
    """On the source: note whether the copies of ``host`` leave it encrypted. A disk that is full hinders no copy: the
    next run notes it."""
    path = _encrypted(store, host)
    with suppress(OSError):
        if not encrypted:
            remove_file(path)
        elif not os.path.lexists(path):
            ensure_dir(os.path.dirname(path))
            write_file(path, b"")


def was_encrypted(store: Store, host: str) -> bool:
    """On the source: whether the last copies of ``host`` left it encrypted."""
    return os.path.lexists(_encrypted(store, host))


def _encrypted(store: Store, host: str) -> str:
    return store.join("encrypted", os.path.basename(replica(store, host).root))


def have(store: Store, host: str) -> Copies:
    """On a peer: ids of the checkpoints of ``host`` that are here, and how many have a MAC. ``receive`` has verified
    their contents."""
    copies = replica(store, host)
    ids = _ids(copies)
    return Copies(ids=ids, macs=sum(1 for one in ids if mac_of(copies, one)))


def newest(store: Store, host: str) -> str:
    """On a peer: the id of the newest checkpoint of ``host`` that it holds; empty without one."""
    copies = replica(store, host)
    found = []
    for last in {ids[-1] for ids in copies.refs().values() if ids}:
        with suppress(Damaged):
            found.append((copies.record(last, whole=False).created, last))
    return max(found)[1] if found else ""


def _ids(store: Store) -> list[str]:
    """The ids that names list. A manifest that has been damaged since is found by whoever needs it."""
    listed = {one for ids in store.refs().values() for one in ids}
    return sorted(one for one in listed if _ID.fullmatch(one))


def lacking(store: Store, host: str, checkpoint: str) -> list[str]:
    """On a peer: the faults of a copy that show without reading its contents: a manifest that is not whole, a content
    that is missing or has another size.

    A copy is listed only after its contents were hashed here (I10). A later scrub hashes them again, and puts damaged
    ones aside, so that they are missing here.
    """
    target = replica(store, host)
    try:
        lines = [line for section in target.manifest(checkpoint).sections for line in section.lines]
    except Damaged as error:
        return [error.message]
    wrong = []
    for sha, size in {(found[2], found[1]) for line in lines for found in re.finditer(_CONTENT, line)}:
        try:
            there = target.objects.size(sha)
        except Damaged as error:
            wrong.append(error.message)
            continue
        if size and there != int(size):
            wrong.append(f"object {sha} has {there} bytes of {size}")
    return wrong


def mark(store: Store, host: str, checkpoint: str, mac: str) -> None:
    """On a peer: keep the MAC of a copy that is here, where it is another one than before."""
    target = replica(store, host)
    if mac and mac_of(target, checkpoint) != mac:
        with target.locked():
            keep_mac(target, checkpoint, mac)


@dataclass(frozen=True)
class Bundle:
    """A bundle that can be written: the contents, in the order of the checkpoint's lines, then the manifests.

    The same checkpoint for a receiver with the same checkpoints is the same bundle, wherever it is written.
    """

    source: Bundled
    contents: Sequence[str]
    manifests: Sequence[bytes]

    @property
    def size(self) -> int:
        """Bytes that ``write`` writes. Raises Damaged for a missing content."""
        contents = sum(len(_head(sha.encode(), size)) + size + 1 for sha, size in self._sizes())
        manifests = sum(len(_head(_MANIFEST, len(one))) + len(one) + 1 for one in self.manifests)
        return len(_MAGIC) + contents + manifests

    def _sizes(self) -> Iterator[tuple[str, int]]:
        return ((sha, self.source.size(sha)) for sha in self.contents)

    def write(self, stream: BinaryIO) -> None:
        """Write it, and verify every content meanwhile. Raises Damaged at the first damaged content."""
        stream.write(_MAGIC)
        for sha, size, chunks in self.source.read_many(self.contents):
            stream.write(_head(sha.encode(), size))
            for chunk in chunks:
                stream.write(chunk)
            stream.write(b"\n")
        for data in self.manifests:
            stream.write(_head(_MANIFEST, len(data)) + data + b"\n")


@dataclass(frozen=True)
class Incoming:
    """A bundle that comes in: its stream, and the bytes that were announced. No more of them are read."""

    stream: BinaryIO
    size: int

    def parts(self) -> Generator[Incoming, None, None]:
        """The bundles in it, each to be read to its end before the next."""
        yield self


def _head(word: bytes, size: int) -> bytes:
    return b"%s %d\n" % (word, size)


def bundle(store: Store, host: str, checkpoint: str, known: Collection[str], from_replica: bool) -> Bundle:
    """The bundle of a checkpoint, without the contents of ``known`` checkpoints. Raises Damaged for a checkpoint whose
    manifests are not whole."""
    source = replica(store, host) if from_replica else store
    held = {one for one in known if one != checkpoint and any(one in ids for ids in source.refs().values())}
    source.manifest(checkpoint)  # Whole, or it is not worth carrying.
    records = source.chain(checkpoint)
    while records[0].id != checkpoint and records[0].id in held:
        records.pop(0)  # The receiver has the beginning of the log.
    needed = dict.fromkeys(sha for record in records for sha in contents_in(record, beside=True))
    for other in held:
        with suppress(Damaged):  # The receiver then gets contents that it has.
            for sha in objects_of(source.record(other), beside=True):
                needed.pop(sha, None)
    contents = Bundled(source.objects, {} if from_replica else registry.beside(records))
    return Bundle(contents, list(needed), [source.record_data(record.id) for record in records])


def export(store: Store, host: str, checkpoint: str, known: list[str], path: str, from_replica: bool) -> Exported:
    """Write the bundle of a checkpoint to the new file ``path`` (mode 0600), without the contents of ``known``
    checkpoints.

    Every content is verified while it is read; Damaged names the first damaged content, and leaves no file.
    """
    return save(bundle(store, host, checkpoint, known, from_replica), path)


class Outgoing(Protocol):
    """A bundle that can be carried to another host, plain or encrypted."""

    @property
    def contents(self) -> Sequence[str]: ...
    @property
    def size(self) -> int: ...
    def write(self, stream: BinaryIO) -> None: ...


def save(made: Outgoing, path: str) -> Exported:
    """Write it to the new file ``path`` (mode 0600). An error leaves no file. Refused where there is no room for it."""
    refuse_too_large(made.size, os.path.dirname(path), "the bundle of a checkpoint")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as stream:
            made.write(stream)
            size = stream.tell()
    except BaseException:
        os.unlink(path)
        raise
    return Exported(path=path, bytes=size, objects=len(made.contents))


@contextmanager
def opened(path: str) -> Iterator[Incoming]:
    """The bundle in a file."""
    with open(path, "rb") as stream:
        yield Incoming(stream, os.fstat(stream.fileno()).st_size)


def receive(
    store: Store, host: str, checkpoint: str, incoming: Incoming, retention: Any = None, mac: str = ""
) -> Copied:
    """On a peer: store the bundle. The copy counts once this returns: re-hashed whole, and durable (I10).

    ``mac``: the MAC by which the controller will recognize the copy; it is kept beside the copy.
    """
    policy = keeping.check(retention)
    with store.locked():
        ensure_dir(store.join("replicas"))
    target = replica(store, host)
    with target.locked():
        result = _take(target, checkpoint, incoming)
        keep_mac(target, checkpoint, mac)
        if policy is not None:
            result.left = forget(target, checkpoint, policy)
    return result


def forget(target: Store, checkpoint: str, policy: keeping.Policy) -> list[str]:
    """Forget the copies that the policy drops. This copy counts even where that cannot be done; why, in words."""
    try:
        target.prune(target.manifest(checkpoint).name, policy, {checkpoint})
        if not os.path.isdir(target.join("records")):  # Encrypted copies have MACs there, too.
            forget_macs(target, {one for ids in target.refs().values() for one in ids})
    except (EvenkeelError, OSError) as error:
        return [f"old copies in {target.root} were not forgotten: {error}"]
    return []


def keep_mac(target: Store, checkpoint: str, mac: str) -> None:
    """Keep the newest MAC of each copy alone: the key may have been replaced."""
    if mac and mac_of(target, checkpoint) != mac:
        ensure_dir(target.join(MACS))
        write_file(target.join(MACS, checkpoint), f"{mac}\n".encode("ascii"))


def forget_macs(target: Store, checkpoints: Collection[str]) -> None:
    """Keep the MACs of these checkpoints alone."""
    folder = target.join(MACS)
    for gone in set(os.listdir(folder) if os.path.isdir(folder) else ()).difference(checkpoints):
        os.unlink(os.path.join(folder, gone))


def mac_of(source: Store, checkpoint: str) -> str:
    """The MAC that is kept beside a copy; empty without one."""
    try:
        with open(source.join(MACS, checkpoint), "rb") as stream:
            found = stream.read(_MAC_LENGTH).decode("ascii")
    except (OSError, ValueError):
        return ""
    return found if _MAC.fullmatch(found) else ""


def candidates(store: Store, host: str) -> Candidates:
    """On a peer: every checkpoint of ``host`` that it holds, newest first, each re-hashed now. Changes nothing."""
    source = replica(store, host)
    found = []
    seen: set[str] = set()
    faults: dict[str, str] = {}  # of each content that was read: checkpoints share most of theirs
    for ids in source.refs().values():
        before: Manifest | None = None
        for checkpoint in ids:
            if checkpoint in seen:
                continue
            seen.add(checkpoint)
            one = Candidate(checkpoint, mac_of(source, checkpoint))
            try:
                manifest = before = source.manifest(checkpoint, before)
                check_form(manifest)
                one.host, one.name, one.created = manifest.host, manifest.name, manifest.created
                machine = machine_of(manifest.sections)
                one.release, one.architecture = machine.release, machine.architecture
                needed = source.contents_of(manifest)
                faults.update({sha: source.objects.verify(sha) or "" for sha in sorted(needed - faults.keys())})
                wrong = {sha: faults[sha] for sha in needed if faults[sha]}
                one.bytes = 0 if wrong else sum(map(source.objects.size, needed))
                if wrong:
                    named = [f"{path}: {wrong[sha]}" for path, sha in paths_of(manifest) if sha in wrong]
                    one.detail = "; ".join(named[:10])
                else:
                    one.state = "verified"
            except Damaged as error:
                one.detail = error.message
            found.append(one)
    return Candidates(candidates=sorted(found, key=lambda one: (one.created, one.id), reverse=True))


class Terms(NamedTuple):
    """The terms on which a host takes a checkpoint of ``host`` into its own store.

    ``declared``: the resources of ``host``; with it, a checkpoint that holds other resources is Refused. So is a
    checkpoint that names another host, unless it is ``proved``: the controller recognizes it as a checkpoint of
    ``host``. ``elsewhere``: ``host`` is another host than this one.
    """

    declared: Any = None
    proved: bool = False
    elsewhere: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Terms:
        """The terms of a copy, from the values that the controller has sent."""
        return cls(values.get("declared"), values.get("proved") is True, values.get("elsewhere") is True)


def adopt(store: Store, host: str, checkpoint: str, incoming: Incoming, terms: Terms | None = None) -> Copied:
    """On the host to be recovered: add the bundle to its own store, for a rollback to follow. A checkpoint of another
    host is listed apart (``FOREIGN``): only a recovery puts it back."""
    terms = terms or Terms()
    with store.locked():
        with suppress(EvenkeelError):  # Missing contents may come with this bundle.
            finish(store)
        name = FOREIGN if terms.elsewhere else ""
        return _take(store, checkpoint, incoming, lambda manifest: _check_terms(store, host, manifest, terms), name)


def _check_terms(store: Store, host: str, manifest: Manifest, terms: Terms) -> None:
    """Refused where the terms do not let the store take this checkpoint of ``host``."""
    if terms.declared is None:
        return
    if not terms.proved and manifest.host != host:
        raise Refused(
            f"checkpoint {manifest.id[:12]} names the host {manifest.host}, not {host}, and nothing proves either. "
            "Nothing was changed. To restore it all the same, allow it: undeclared of ft_recover, --undeclared of "
            "the driver"
        )
    refuse_outside(manifest, terms.declared, host, terms.proved, store.system)


def has_adopted(store: Store, host: str, checkpoint: str, terms: Terms) -> bool:
    """Whether ``adopt`` would bring nothing: the checkpoint is listed here, every content is whole, and the terms let
    the store take it. Each content is read."""
    listed = (
        store.refs().get(FOREIGN, []) if terms.elsewhere else [one for ids in store.own_refs().values() for one in ids]
    )
    if checkpoint not in listed:
        return False
    try:
        manifest = store.manifest(checkpoint)
        _check_terms(store, host, manifest, terms)
        return all(store.objects.verify(sha) is None for sha in objects_of(manifest, beside=True))
    except EvenkeelError:
        return False


def _take(
    target: Store,
    checkpoint: str,
    incoming: Incoming,
    judge: Callable[[Manifest], None] = lambda _manifest: None,
    name: str = "",
) -> Copied:
    """Store the bundle. Before anything in it can be found, ``judge`` gets the whole checkpoint, and may raise.

    ``name``: list it under this name, and not under its own.
    """
    writer = Writer(target.objects)
    try:
        refuse_too_large(incoming.size, target.root, "the bundle of a checkpoint")
        came, manifests = _read_parts(incoming, writer, target.root, checkpoint)
        whole, taken, needed = _chain(target, manifests, checkpoint)
        judge(whole)
        # A log is sent every minute, and its base may be large: what arrived before is read again by a scrub.
        held = {sha for sha in needed - objects_of(whole) if target.objects.has(sha)}
        received, size = writer.new_objects, writer.new_bytes
        writer.publish()
    except BaseException:
        writer.discard()
        raise
    target.objects.take_back(needed)
    # Contents that came were hashed on their way in. Contents that were here may have been damaged since.
    wrong = {sha: why for sha in sorted(needed - came - held) if (why := target.objects.verify(sha))}
    for sha in wrong:
        target.quarantine(sha)
    if wrong:
        raise Damaged(
            f"{len(wrong)} contents of checkpoint {checkpoint[:12]} are missing or damaged here; they were put aside. "
            f"Send it again, whole: {'; '.join(list(wrong.values())[:5])}"
        )
    for record, data in taken:
        target.add_manifest([data], record, name)
    return Copied(id=checkpoint, state="verified", objects=received, bytes=size)


def _chain(
    target: Store, manifests: list[bytes], checkpoint: str
) -> tuple[Manifest, list[tuple[Manifest, bytes]], set[str]]:
    """The whole wanted checkpoint; its record, before it the log that it follows, oldest first; and the names of all
    contents that they need.

    A single state is held at a time: a record of a few bytes can say that millions of lines stay.
    """
    records: list[Manifest] = []
    wanted: str | None = checkpoint
    for data in reversed(manifests):
        if wanted is None:
            raise Damaged("the bundle holds manifests that the checkpoint does not follow")
        records.insert(0, Manifest.parse(data, wanted))
        wanted = records[0].parent if records[0].kind == LOG else None
    made, length = None, 0
    if wanted is not None:
        made, length = target.manifest(wanted), len(target.chain(wanted))
    if length + len(records) > CHAIN:
        raise Damaged(f"the log of checkpoint {checkpoint[:12]} has more than {CHAIN} records")
    needed: set[str] = set()
    for record in records:
        check_manifest(record, target.system.now())
        made = record if made is None else record.following(made).check_root()
        needed |= objects_of(made, beside=True)
    if made is None:
        raise Damaged("the bundle has no manifest")
    return made, list(zip(records, manifests)), needed


def _read_parts(incoming: Incoming, writer: Writer, root: str, checkpoint: str) -> tuple[set[str], list[bytes]]:
    """``_read_bundle`` for each bundle that came. In several bundles only the manifests of the wanted checkpoint and of
    the log that it follows count: the other bundles bring contents that it shares with them."""
    came: set[str] = set()
    manifests: list[bytes] = []
    count = 0
    with closing(incoming.parts()) as parts:
        for part in parts:
            count += 1
            found, more = _read_bundle(part, writer, root)
            came |= found
            manifests += more
            if sum(map(len, manifests)) > MANIFESTS:
                raise Damaged(f"the manifests of the bundles are more than {MANIFESTS} bytes")
    if count < 2:
        return came, manifests
    known = {hashlib.sha256(data).hexdigest(): data for data in manifests}
    followed: list[bytes] = []
    wanted: str | None = checkpoint
    while wanted in known:
        data = known.pop(wanted)
        followed.insert(0, data)
        record = Manifest.read(BytesIO(data), wanted, whole=False)
        wanted = record.parent if record.kind == LOG else None
    return came, followed


def _read_bundle(incoming: Incoming, writer: Writer, root: str) -> tuple[set[str], list[bytes]]:
    """Contents into the writer (of the store at ``root``), each under the hash it really has; the names of those that
    it took, and the bytes of the manifests, in their order. Nothing is read or written for a length that the bundle
    does not have."""
    came: set[str] = set()
    manifests: list[bytes] = []
    size = lines = 0
    stream, left = incoming.stream, incoming.size - len(_MAGIC)
    if stream.readline(len(_MAGIC)) != _MAGIC:
        raise Damaged("this is not a bundle of version 1")
    while True:
        line = stream.readline(128) if left > 0 else b""
        if not line and manifests:
            return came, manifests
        found = re.fullmatch(_LINE, line)
        if found is None:
            raise Damaged("the bundle is cut off or garbled")
        word, length = found[1].decode("ascii"), int(found[2])
        left -= len(line) + length + 1
        if left < 0:
            raise Damaged(f"the bundle is cut off, or its lengths are wrong: it lacks {-left} bytes of {word[:12]}")
        if word == "manifest":
            size += length
            if len(manifests) >= CHAIN or size > MANIFESTS:
                raise Damaged(f"the manifests of the bundle are more than {CHAIN}, or than {MANIFESTS} bytes")
            manifests.append(stream.read(length))
            lines += manifests[-1].count(b"\n")
            if lines > LINES:
                raise Damaged(f"the manifests of the bundle have more than {LINES} lines")
            if stream.read(1) != b"\n":
                raise Damaged("the bundle is cut off within the manifest")
            continue
        if length > SMALL:
            refuse_too_large(length, root, "a content")
        # A small content is in a pack or nowhere.
        known = word in writer.objects.index() if length <= SMALL else writer.objects.has(word)
        if writer.add_stream(stream, length) != word or stream.read(1) != b"\n":
            raise Damaged(f"object {word} arrived damaged")
        if not known:
            came.add(word)
