# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies of a host's checkpoints on its peers, as bundles that any transport can carry.

A bundle is a pack (see ``_store.objects``) of everything that the receiver lacks, the manifest last. The receiver
trusts nothing in it: it computes every hash itself, and reads no more than the bundle holds and than it has room for.
It keeps the copies of each host in a store of their own, below ``replicas`` of its store. There it removes only
checkpoints that its own retention drops, and nothing on a sender's word.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any, BinaryIO, Callable

from .._errors import Damaged, EvenkeelError, Refused, UsageError
from .._host.durable import ensure_dir, write_file
from .._resources import registry
from .._resources.bundled import Bundled
from .._resources.declared import refuse_outside
from .._results import Candidate, Candidates, Copied, Copies, Exported, Offered
from .._store import retention as keeping
from .._store.foreign import LINES, MANIFESTS, check_manifest, refuse_too_large
from .._store.manifest import LOG, Manifest
from .._store.objects import SMALL, Writer
from .._store.store import CHAIN, Store, objects_of, paths_of
from .rollback.flow import finish

_MAGIC = b"evenkeel-pack 1\n"
# The header before a content or a manifest.
_LINE = re.compile(rb"([0-9a-f]{64}|manifest) ([0-9]{1,15})\n")
# The folder of a replica in which the MACs of copies lie, each under the id of its checkpoint.
_MACS = "macs"
_MAC_LENGTH = 64
_MAC = re.compile("[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,200}")


def replica(store: Store, host: str) -> Store:
    """The store in which this host keeps the checkpoints of ``host``."""
    if not _HOST.fullmatch(host):
        raise UsageError(f"{host!r} cannot name the folder of a replica; use letters, digits, dots, dashes")
    return Store(store.join("replicas", host), store.system, is_replica=True)


def offer(store: Store, host: str, checkpoint: str) -> Offered:
    """On the source: the checkpoint that would be copied. Raises NotFound, Damaged."""
    manifest = store.manifest(store.resolve(checkpoint))
    held = [one.id for one in store.checkpoints()]
    lacking = registry.not_carried(manifest.sections)
    name, created, host = manifest.name, manifest.created, manifest.host
    return Offered(id=manifest.id, name=name, created=created, host=host, held=held, lacking=lacking)


def have(store: Store, host: str) -> Copies:
    """On a peer: ids of the checkpoints of ``host`` that are here, and how many have a MAC. ``receive`` has verified
    their contents."""
    copies = replica(store, host)
    ids = [one.id for one in copies.checkpoints()]
    return Copies(ids=ids, macs=sum(1 for one in ids if _mac_of(copies, one)))


def export(store: Store, host: str, checkpoint: str, known: list[str], path: str, from_replica: bool) -> Exported:
    """Write the bundle of a checkpoint to the new file ``path`` (mode 0600), without the contents of ``known``
    checkpoints.

    Every content is verified while it is read; Damaged names the first damaged content, and leaves no file.
    """
    source = replica(store, host) if from_replica else store
    held = {one for one in known if one != checkpoint and any(one in ids for ids in source.refs().values())}
    source.manifest(checkpoint)  # Whole, or it is not worth carrying.
    records = source.chain(checkpoint)
    while records[0].id != checkpoint and records[0].id in held:
        records.pop(0)  # The receiver has the beginning of the log.
    needed = {sha for record in records for sha in objects_of(record, beside=True)}
    for other in held:
        needed -= objects_of(source.record(other), beside=True)
    contents = Bundled(source.objects, {} if from_replica else registry.beside(records))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as stream:
            stream.write(_MAGIC)
            for sha in sorted(needed):
                stream.write(b"%s %d\n" % (sha.encode(), contents.size(sha)))
                for chunk in contents.read(sha):
                    stream.write(chunk)
                stream.write(b"\n")
            for record in records:
                data = source.record_data(record.id)
                stream.write(b"manifest %d\n" % len(data) + data + b"\n")
            size = stream.tell()
    except BaseException:
        os.unlink(path)
        raise
    return Exported(path=path, bytes=size, objects=len(needed))


def receive(store: Store, host: str, checkpoint: str, path: str, retention: Any = None, mac: str = "") -> Copied:
    """On a peer: store the bundle. The copy counts once this returns: re-hashed whole, and durable (I10).

    ``mac``: the MAC by which the controller will recognize the copy; it is kept beside the copy.
    """
    policy = keeping.check(retention)
    with store.locked():
        ensure_dir(store.join("replicas"))
    target = replica(store, host)
    with target.locked():
        result = _take(target, checkpoint, path)
        _keep_mac(target, checkpoint, mac)
        if policy is not None:
            target.prune(target.manifest(checkpoint).name, policy, {checkpoint})
            held = {one for ids in target.refs().values() for one in ids}
            for gone in set(os.listdir(target.join(_MACS)) if mac else ()) - held:
                os.unlink(target.join(_MACS, gone))
    return result


def verify(store: Store, host: str, checkpoint: str, mac: str = "") -> Copied:
    """On a peer: re-hash a copy that is here already. Damaged objects are put aside, to be sent again."""
    target = replica(store, host)
    with target.locked():
        manifest = target.manifest(checkpoint)
        wrong = target.verify(manifest)
        for sha in wrong:
            target.quarantine(sha)
        if not wrong:
            _keep_mac(target, checkpoint, mac)
    state = "damaged" if wrong else "verified"
    return Copied(id=checkpoint, state=state, wrong=list(wrong.values())[:20])


def _keep_mac(target: Store, checkpoint: str, mac: str) -> None:
    """Keep the newest MAC of each copy alone: the key may have been replaced."""
    if mac and _mac_of(target, checkpoint) != mac:
        ensure_dir(target.join(_MACS))
        write_file(target.join(_MACS, checkpoint), f"{mac}\n".encode("ascii"))


def _mac_of(source: Store, checkpoint: str) -> str:
    try:
        with open(source.join(_MACS, checkpoint), "rb") as stream:
            found = stream.read(_MAC_LENGTH).decode("ascii")
    except (OSError, ValueError):
        return ""
    return found if _MAC.fullmatch(found) else ""


def candidates(store: Store, host: str) -> Candidates:
    """On a peer: every checkpoint of ``host`` that it holds, newest first, each re-hashed now. Changes nothing."""
    source = replica(store, host)
    found = []
    seen: set[str] = set()
    for ids in source.refs().values():
        before: Manifest | None = None
        for checkpoint in ids:
            if checkpoint in seen:
                continue
            seen.add(checkpoint)
            one = Candidate(checkpoint, _mac_of(source, checkpoint))
            try:
                manifest = before = source.manifest(checkpoint, before)
                check_manifest(manifest, store.system.now())
                one.host, one.name, one.created = manifest.host, manifest.name, manifest.created
                wrong = source.verify(manifest)
                if wrong:
                    named = [f"{path}: {wrong[sha]}" for path, sha in paths_of(manifest) if sha in wrong]
                    one.detail = "; ".join(named[:10])
                else:
                    one.state = "verified"
            except Damaged as error:
                one.detail = error.message
            found.append(one)
    return Candidates(candidates=sorted(found, key=lambda one: (one.created, one.id), reverse=True))


def adopt(store: Store, host: str, checkpoint: str, path: str, declared: Any = None, proved: bool = False) -> Copied:
    """On the host to be recovered: add the bundle to its own store, for a rollback to follow.

    ``declared`` are the resources of ``host``. With it, a checkpoint that holds other resources is Refused. So is a
    checkpoint that names another host, unless it is ``proved``: the controller recognizes it as a checkpoint of
    ``host``.
    """

    def look(manifest: Manifest) -> None:
        if declared is not None and not proved and manifest.host != host:
            raise Refused(
                f"checkpoint {checkpoint} names the host {manifest.host}, not {host}, and nothing proves either. "
                "Nothing was changed. To restore it all the same, allow it: undeclared of ft_recover, --undeclared of "
                "the driver"
            )
        if declared is not None:
            refuse_outside(manifest, declared, host, proved, store.system)

    with store.locked():
        with suppress(EvenkeelError):  # Its missing contents may come with this bundle.
            finish(store)
        return _take(store, checkpoint, path, look)


def _take(
    target: Store, checkpoint: str, path: str, look: Callable[[Manifest], None] = lambda _manifest: None
) -> Copied:
    """Store the bundle. Before anything in it can be found, ``look`` gets the whole checkpoint, and may raise."""
    writer = Writer(target.objects)
    try:
        with open(path, "rb") as stream:
            refuse_too_large(os.fstat(stream.fileno()).st_size, target.root, "the bundle of a checkpoint")
            manifests = _read_bundle(stream, writer, target.root)
        whole, taken, needed = _chain(target, manifests, checkpoint)
        look(whole)
        # A log is sent every minute, and its base may be large: what arrived before is read again by a scrub.
        held = {sha for sha in needed - objects_of(whole) if target.objects.has(sha)}
        received, size = writer.new_objects, writer.new_bytes
        writer.publish()
    except BaseException:
        writer.discard()
        raise
    target.objects.take_back(needed)
    wrong = {sha: why for sha in sorted(needed - held) if (why := target.objects.verify(sha))}
    for sha in wrong:
        target.quarantine(sha)
    if wrong:
        raise Damaged(
            f"{len(wrong)} contents of checkpoint {checkpoint[:12]} are missing or damaged here; they were put aside. "
            f"Send it again, whole: {'; '.join(list(wrong.values())[:5])}"
        )
    for record, data in taken:
        target.add_manifest([data], record)
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


def _read_bundle(stream: BinaryIO, writer: Writer, root: str) -> list[bytes]:
    """Contents into the writer (of the store at ``root``), each under the hash it really has; the bytes of the
    manifests, in their order. Nothing is read or written for a length that the bundle does not have."""
    manifests: list[bytes] = []
    size = lines = 0
    end = os.fstat(stream.fileno()).st_size
    if stream.readline(64) != _MAGIC:
        raise Damaged("this is not a bundle of version 1")
    while True:
        line = stream.readline(128)
        if not line and manifests:
            return manifests
        found = _LINE.fullmatch(line)
        if found is None:
            raise Damaged("the bundle is cut off or garbled")
        word, length = found[1].decode("ascii"), int(found[2])
        if length > end - stream.tell():
            raise Damaged(f"the bundle is cut off, or its lengths are wrong: it lacks {length} bytes of {word[:12]}")
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
        if writer.add_stream(stream, length) != word or stream.read(1) != b"\n":
            raise Damaged(f"object {word} arrived damaged")
