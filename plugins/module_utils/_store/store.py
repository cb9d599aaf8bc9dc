# SPDX-License-Identifier: GPL-3.0-or-later

"""The store of one host: checkpoints, their names, one lock.

::

    <root>/FORMAT            version and hash
    <root>/secret            tells this store from others, see whereabouts.py; it is never copied and never shown
    <root>/lock              held (flock) by whoever writes; the kernel drops it with the process
    <root>/objects, packs    contents
    <root>/manifests/<id>    checkpoints
    <root>/refs/<name>       ids, one per line, the newest last: the only mutable files; they make checkpoints visible
    <root>/amid              ids of checkpoints that were taken in the middle of a change
    <root>/journal/<n>/      an unfinished rollback
    <root>/trash/            files that nothing names any more, for a time of grace
    <root>/operations/       records of operations that are repeated
    <root>/restart*          the restart that is open, the roll that it belongs to, and the restarts so far
    <root>/started/          processes without systemd that we have started
    <root>/tmp, quarantine   leftovers to reclaim; damaged objects
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import stat
import urllib.parse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, Callable, NamedTuple

from .._dataclasses import dataclass, replace
from .._errors import Busy, Damaged, EvenkeelError, NotFound, Refused, UsageError
from .._host import locks, trust
from .._host.durable import TEMPORARY, ensure_dir, fsync_dir, move_all, write_file, write_pieces
from .._host.processes import Stopped, ask_to_stop, start_time, stoppable
from .._host.system import System
from . import retention, whereabouts
from .manifest import LOG, Manifest, Section
from .objects import Objects, Writer

FORMAT = b"evenkeel-store 1 sha256\n"
# The name of the checkpoint of the state that a rollback replaced.
UNDO = "undo"
# The name of the checkpoints that hold nothing but state with a log of its own, so that they can be taken often.
LOGS = "logs"
# The name of the checkpoints that a recovery makes of the recorded one, and goes back to.
RECOVERY = "recovery"
# Here a host lists the checkpoints of other hosts that it was given for a recovery. No checkpoint can have this name.
FOREIGN = "of another host"
LATEST = "latest"
# The file of the checkpoints that were taken in the middle of a change, and the word for a change that stays.
AMID, STAYS = "amid", "stays"
RESERVED = (LATEST,)
# The checkpoints that ``latest`` does not mean.
_APART = (UNDO, LOGS)
# The longest file name, less the suffix that it has while it is written.
_LONGEST = 255 - len(TEMPORARY) - 10
# After this number of log records the next checkpoint is whole again, so that reading a log takes bounded time.
CHAIN = 100
_ID = re.compile("[0-9a-f]{64}")
# The date of a checkpoint.
_DATE = "%Y-%m-%dT%H:%M:%S.%fZ"
# The words of a line that name a content begin so.
_NAMING = ("sha256=", "beside=")
# The number of digits at the beginning of an id that may stand for it.
_SHORTEST = 8
# The word for a holder of the lock that gives way, and the most seconds that it is waited for before it is asked to.
_GIVES_WAY, _PATIENCE = "gives-way", 5.0
# Deletes data outside of the store, given the lines of manifests that stay and of manifests that go.
Forget = Callable[[Sequence[str], Sequence[str]], None]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in a list: enough to choose by, without reading its objects."""

    id: str
    name: str
    names: list[str]
    kind: str
    created: str
    host: str
    resources: list[str]


class Pruning(NamedTuple):
    """The effect of retention: id -> why it stays, ids that go, contents that the checkpoints which stay need."""

    kept: dict[str, list[str]]
    gone: list[str]
    needed: set[str]


class Store:
    """The store below ``root``. Creating the object touches nothing; see ``locked``.

    Raises UsageError for a store that other users could replace, or may have written to: its contents are run and
    trusted. ``armed``: a change is under way, and may have changed mode or owner of a directory above the store. That
    must not keep the host from going back: the store counts if nobody else can have made its own directory.
    ``is_replica``: it keeps the checkpoints of another host, with the contents that this host keeps beside its store.
    """

    def __init__(self, root: str, system: System, armed: bool = False, is_replica: bool = False) -> None:
        self.root = os.path.abspath(root)
        self._armed = armed
        self._is_replica = is_replica
        self.system = replace(system, memory=self.join("started"))
        self.objects = Objects(self.root)
        self._check_place()

    def join(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def place(self, nonce: str, may_write: bool = False) -> str:
        """The place of this store in the run of this ``nonce``: the same under every name of this host, and another one
        on every other host. It holds until the host boots.

        ``may_write``: a store without a secret gets one; else its place can be guessed, as that of a store which does
        not exist yet and holds nothing. Raises EvenkeelError where the secret can be neither read nor made: what the
        store holds must not count then.
        """
        try:
            secret = whereabouts.read_secret(self.root)
            if not secret and may_write and os.path.exists(self.join("FORMAT")):
                with self.locked():
                    whereabouts.make_secret(self.root)
                    secret = whereabouts.read_secret(self.root)
            return whereabouts.of(self.root, secret, self.system.boot_id(), nonce)
        except OSError as error:
            raise EvenkeelError(
                f"nobody can tell the store {self.root} from others: its secret can be neither read nor made"
                f" ({error.strerror}: {error.filename or self.root}). Make it writable, or free space, and run again"
            ) from error

    def age(self) -> int:
        """The seconds since this store was made."""
        return max(0, int(self.system.now() - os.stat(self.join("FORMAT")).st_mtime))

    def _check_place(self) -> None:
        why = trust.stranger(self.root, trust.trusted())
        if why and self._armed and self._is_ours():
            return
        if not why and os.path.lexists(self.root):
            found = os.lstat(self.root)
            if not stat.S_ISDIR(found.st_mode):
                why = "it is no directory, but " + ("a symlink" if stat.S_ISLNK(found.st_mode) else "something else")
            elif found.st_uid not in trust.trusted():
                why = f"it belongs to uid {found.st_uid}"
            elif found.st_mode & 0o022 and os.listdir(self.root):
                why = f"it has mode {stat.S_IMODE(found.st_mode):o}, so that others can have written to it"
        if why:
            raise UsageError(
                f"the store {self.root} is not trusted, because {why}. Nothing was done. The store and all directories "
                "above it must belong to root (or to you), and nobody else may write to them: change that, or use "
                "another store"
            )

    def _is_ours(self) -> bool:
        """Whether the directory is ours alone and holds a store: nobody else can have made or filled it."""
        try:
            place, mark = os.lstat(self.root), os.lstat(self.join("FORMAT"))
        except OSError:
            return False
        ours = {place.st_uid, mark.st_uid} <= trust.trusted()
        return ours and stat.S_ISDIR(place.st_mode) and not place.st_mode & 0o077

    @property
    def exists(self) -> bool:
        return os.path.exists(self.join("FORMAT"))

    def check_format(self) -> None:
        """Raises Damaged when this is not a store that this version can read."""
        try:
            with open(self.join("FORMAT"), "rb") as stream:
                found = stream.read(200)
        except FileNotFoundError:
            return
        if found != FORMAT:
            raise Damaged(
                f"{self.root} holds a store of the format {found!r}, and this version reads {FORMAT!r}; "
                "use the version of evenkeel that wrote it, or another store"
            )

    def check_whole(self) -> None:
        """Raises Damaged when the store has lost a directory, which is made before the file FORMAT. The way back does
        not ask: it goes as far as it can."""
        self.check_format()
        missing = [folder for folder in ("manifests", "refs") if not os.path.isdir(self.join(folder))]
        if missing and self.exists:
            raise Damaged(
                f"the store {self.root} has lost its directory {missing[0]}, and with it the checkpoints of this host; "
                "put the directory back, or move the store away: then a new one is made, and a recovery brings "
                "checkpoints that were copied to other hosts"
            )

    @contextmanager
    def locked(self, wait: float = 30.0, first: bool = False, spare: float = 0.0) -> Iterator[None]:
        """Lock the store for writing. It is made if it does not exist, and leftovers of a killed run are removed.

        ``first``: a holder that gives way (see ``giving_way``) is asked to end, not before ``spare`` seconds are over.
        Raises Busy, naming the holder, after ``wait`` seconds; UsageError when other users could write to the store.
        """
        self.check_format()
        ensure_dir(self.root)
        self._check_place()  # Another user may have made the directory a moment before.
        found = os.lstat(self.root)
        if found.st_uid != os.geteuid():
            raise UsageError(f"the store {self.root} belongs to uid {found.st_uid}; run as its owner, or use another")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.chmod(self.root, 0o700)
        umask = os.umask(0o077)
        fd = -1
        try:
            fd = self._acquire(wait, max(min(wait / 2, _PATIENCE), spare) if first else wait)
            _note_holder(fd, str(os.getpid()))
            if not self.exists:
                for folder in ("manifests", "refs", "packs", "objects"):
                    os.makedirs(self.join(folder), 0o700, exist_ok=True)
                # Durable with FORMAT, which is written into the same directory.
                write_file(self.join("FORMAT"), FORMAT)
            if not self._is_replica:
                with suppress(OSError):  # A full disk keeps nobody from going back.
                    whereabouts.make_secret(self.root)
            # This directory and its files need not survive a power cut.
            shutil.rmtree(self.join("tmp"), ignore_errors=True)
            os.makedirs(self.join("tmp"), 0o700, exist_ok=True)
            self._reclaim()
            self.objects._index = None
            yield
        finally:
            if fd >= 0:
                os.close(fd)
            os.umask(umask)

    def _reclaim(self) -> None:
        """Remove the files that killed processes were writing. Some files are written without the lock."""
        for folder in (self.root, self.join("manifests"), self.join("refs")):
            for name in os.listdir(folder) if os.path.isdir(folder) else []:
                writer = name.rpartition(TEMPORARY)[2] if TEMPORARY in name else ""
                if writer.isdigit() and not os.path.exists(f"/proc/{writer}"):
                    with suppress(OSError):
                        os.unlink(os.path.join(folder, name))

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Under the lock: what is done within ends with Busy as soon as a process that goes ``first`` waits for it."""
        with stoppable() as may_stop, open(self.join("lock"), "rb+", 0) as stream:
            try:
                if may_stop:
                    _note_holder(stream.fileno(), f"{os.getpid()}\n{_GIVES_WAY} {start_time(os.getpid())}")
                yield
            except Stopped as error:
                raise Busy(
                    f"ended for the change under way on this host, which needs the store {self.root} now. No "
                    "checkpoint was taken; run again once the change is over"
                ) from error
            finally:
                _note_holder(stream.fileno(), str(os.getpid()))

    def _acquire(self, wait: float, patience: float) -> int:
        """The open file of the lock, which we hold. A file that a stranger holds locked is replaced."""
        path = self.join("lock")
        end = self.system.monotonic() + wait
        patience += self.system.monotonic()
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if locks.lock(fd) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").split()
            os.close(fd)
            if self.system.monotonic() >= end:
                if locks.is_strangers(path):
                    locks.replace(path, b"", 0o600)
                    continue
                number = holder[0] if holder else "unknown"
                raise Busy(
                    f"the store {self.root} is in use by process {number}; wait until it is done, then run again"
                )
            if self.system.monotonic() >= patience and holder[1:2] == [_GIVES_WAY]:
                with suppress(ValueError, IndexError):  # The other process just writes it.
                    ask_to_stop(int(holder[0]), int(holder[2]))
            self.system.sleep(0.05)

    # -- reading

    def journals(self) -> list[str]:
        """The folders of the journals of changes of files that are not over, oldest first."""
        folder = self.join("journal")
        return [os.path.join(folder, one) for one in sorted(os.listdir(folder))] if os.path.isdir(folder) else []

    def refs(self) -> dict[str, list[str]]:
        """name -> ids, oldest first."""
        folder = self.join("refs")
        found: dict[str, list[str]] = {}
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if TEMPORARY not in entry:
                with open(os.path.join(folder, entry), "rb") as stream:
                    found[urllib.parse.unquote(entry)] = stream.read().decode("ascii", "backslashreplace").split()
        return found

    def amid_lines(self) -> list[list[str]]:
        """The words of the file ``amid``: an id, the generation of its change, and whether that stays."""
        try:
            with open(self.join(AMID), "rb") as stream:
                lines = [line.split() for line in stream.read().decode("ascii", "replace").splitlines()]
        except FileNotFoundError:
            return []
        return [words for words in lines if len(words) > 1]

    def own_refs(self) -> dict[str, list[str]]:
        """``refs`` without the checkpoints of other hosts."""
        return {name: ids for name, ids in self.refs().items() if name != FOREIGN}

    def record(self, checkpoint: str, whole: bool = True) -> Manifest:
        """The manifest as its file holds it: for a log its changes. Damaged if it is missing or does not match its id.

        Without ``whole`` its sections have no lines.
        """
        with self._record_file(checkpoint) as stream:
            return Manifest.read(stream, checkpoint, whole)

    def has_record(self, checkpoint: str) -> bool:
        """Whether its file is there and whole. The records that it follows may be missing."""
        try:
            return bool(self.record(checkpoint, whole=False))
        except Damaged:
            return False

    def _broken(self, checkpoint: str) -> str:
        """The id of the first record that cannot be read, from this checkpoint back through the records that it
        follows; empty where all can be read."""
        at = checkpoint
        while at:
            try:
                record = self.record(at, whole=False)
            except Damaged:
                return at
            at = (record.parent or "-") if record.kind == LOG else ""
        return ""

    def head(self, checkpoint: str) -> Manifest:
        """The record without its sections, from its header alone: nothing is verified. Damaged where it is missing or
        malformed."""
        with self._record_file(checkpoint) as stream:
            return Manifest.read_head(stream, checkpoint)

    def record_data(self, checkpoint: str) -> bytes:
        with self._record_file(checkpoint) as stream:
            return stream.read()

    @contextmanager
    def _record_file(self, checkpoint: str) -> Iterator[BinaryIO]:
        """The open file; Damaged when it is missing, or while it cannot be read."""
        if not _ID.fullmatch(checkpoint):
            raise Damaged(f"{checkpoint!r} in {self.join('refs')} is no id of a checkpoint: the name is damaged")
        try:
            with open(self.join("manifests", checkpoint), "rb") as stream:
                yield stream
        except OSError as error:
            raise Damaged(f"manifest {checkpoint} cannot be read from {self.root}: {error.strerror}") from error

    def chain(self, checkpoint: str, until: str | None = None) -> list[Manifest]:
        """The records from a snapshot (or from the successor of ``until``) up to this record, in order.

        Raises Damaged, naming the record at which the log is broken.
        """
        found = [self.record(checkpoint)]
        while found[-1].kind == LOG and found[-1].parent != until:
            parent = found[-1].parent or "-"
            try:
                found.append(self.record(parent))
            except Damaged as error:
                raise Damaged(
                    f"the log {found[-1].name} is broken at record {parent[:12]}: {error.message}. The records from "
                    f"{found[-1].id[:12]} on cannot be used; the records before it can"
                ) from error
        return found[::-1]

    def manifest(self, checkpoint: str, known: Manifest | None = None) -> Manifest:
        """The whole checkpoint. Raises Damaged when its record, or a record that it follows, is missing or damaged.

        ``known``: a whole checkpoint that was read before; a log that follows it is not read from its beginning again.
        """
        first, *rest = self.chain(checkpoint, known.id if known is not None else None)
        if not rest and first.kind != LOG:
            return first
        made = first.following(known) if first.kind == LOG and known is not None else first
        for record in rest:
            made = record.following(made)
        return made.check_root()

    def checkpoints(self, by_head: bool = False) -> list[Checkpoint]:
        """All readable checkpoints of this host, oldest first. A damaged one is missing here, and ``resolve`` names it.

        ``by_head``: read the headers alone. Then nothing is verified, and the kinds of resources are left out.
        """
        names: dict[str, list[str]] = {}
        for name, ids in self.own_refs().items():
            for checkpoint in ids:
                names.setdefault(checkpoint, [])
            if ids:
                names[ids[-1]].append(name)
        found = []
        seen: dict[str, Manifest | None] = {}
        for checkpoint, current in names.items():
            manifest = self._usable(checkpoint, seen, by_head)
            if manifest is None:
                continue
            kinds = [section.kind for section in manifest.sections]
            found.append(
                Checkpoint(checkpoint, manifest.name, current, manifest.kind, manifest.created, manifest.host, kinds)
            )
        now = self.system.now()
        return sorted(found, key=lambda checkpoint: (order_of(checkpoint.created, now), checkpoint.id))

    def _usable(self, checkpoint: str, seen: dict[str, Manifest | None], by_head: bool = False) -> Manifest | None:
        """The record without its lines, if it and all records that it follows can be read. ``seen``: known answers."""
        trail: list[Manifest] = []
        at = checkpoint
        while at not in seen:
            try:
                record = self.head(at) if by_head else self.record(at, whole=False)
            except Damaged:
                seen[at] = None
                break
            if record.kind != LOG:
                seen[at] = record
                break
            trail.append(record)
            at = record.parent or "-"
        for record in reversed(trail):
            seen[record.id] = record if seen[record.parent or "-"] else None
        return seen[checkpoint]

    def resolve(self, wanted: str, foreign: bool = False) -> str:
        """The id of the newest checkpoint of this host that ``wanted`` means (see ``meant``).

        ``latest`` means none that was taken in the middle of a change that was not confirmed.
        With ``foreign`` the whole id of a checkpoint of another host means that one; else it is Refused. Raises
        NotFound; Damaged when a checkpoint that cannot be read might be the wanted checkpoint.
        """
        refs = self.own_refs()
        held = [(name, checkpoint) for name, ids in refs.items() for checkpoint in ids]
        if wanted == LATEST:
            named = {name: ids for name, ids in refs.items() if name not in _APART}
            dated = {name: [(self.record(one, whole=False).created, one) for one in ids] for name, ids in named.items()}
            amid = {words[0] for words in self.amid_lines() if words[2:] != [STAYS]}
            held = [(name, one) for name, one in in_order(dated, self.system.now()) if one not in amid]
        found = meant(wanted, held)
        if found:
            return found[0]
        if wanted in self.refs().get(FOREIGN, ()):
            if foreign:
                return wanted
            raise Refused(
                f"checkpoint {wanted[:12]} is of another host, {self.record(wanted, whole=False).host}, and would make "
                "this host that one. Put it back with ft_recover, which knows what has to stay as it is here"
            )
        if wanted == LATEST and self.amid_lines():
            raise NotFound(
                f"no checkpoint in {self.root} is known to be good: they were taken in the middle of a change that was "
                "not confirmed. Look with ft_info, and name one of them"
            )
        if wanted == LATEST:
            raise NotFound(f"there is no checkpoint in {self.root}; take one with ft_checkpoint, or recover a replica")
        name, tilde, back = wanted.rpartition("~")
        if tilde and back.isdigit() and refs.get(name):
            raise NotFound(f"no checkpoint {wanted!r} in {self.root}; there are {len(refs[name])} of {name}")
        for _name, checkpoint in sorted(held):
            self.record(checkpoint)
        known = ", ".join(sorted(refs)) or "none"
        raise NotFound(f"no checkpoint {wanted!r} in {self.root}; there are: {known}")

    # -- writing, under the lock

    def commit(
        self, writer: Writer, name: str, host: str, sections: list[Section], base: Manifest | None = None
    ) -> Manifest:
        """Make a checkpoint of the sections visible under ``name``: objects, manifest, ref, in this order (I1).

        With ``base`` (see ``base_of``) only the changes since it are written.
        """
        check_name(name)
        newest = self._newest()
        text = self._next_time(newest).strftime(_DATE)
        manifest, pieces = Manifest.of(text, host, name, sections, newest.id if newest else None, base)
        writer.publish()
        self.add_manifest(pieces, manifest)
        return manifest

    def base_of(self, name: str, host: str, sections: list[Section]) -> Manifest | None:
        """The newest whole checkpoint of the name, if a record of the changes to these sections can follow it.

        None without such a checkpoint, when it cannot be read or has other declarations, and when its log is full.
        """
        ids = self.refs().get(name)
        try:
            if not ids or len(self.chain(ids[-1])) >= CHAIN:
                return None
            newest = self.manifest(ids[-1])
        except Damaged:
            return None
        follows = Manifest("", host, name, sections).can_follow(newest)
        return newest if follows and not is_ahead(newest.created, self.system.now()) else None

    def _newest(self) -> Manifest | None:
        """The newest checkpoint that can be read, without its lines."""
        taken = []
        for checkpoint in {id_ for ids in self.refs().values() for id_ in ids}:
            with suppress(OSError), open(self.join("manifests", checkpoint), "rb") as stream:
                # The date is not trusted yet: hashes are checked from the newest on, until one is right.
                created = stream.read(512).partition(b"\ncreated ")[2].partition(b"\n")[0].decode("latin-1")
                taken.append((order_of(created, self.system.now()), checkpoint))
        seen: dict[str, Manifest | None] = {}
        for _order, checkpoint in sorted(taken, reverse=True):
            found = self._usable(checkpoint, seen)
            if found is not None:
                return found
        return None

    def _next_time(self, newest: Manifest | None) -> datetime.datetime:
        """The time now, but later than the newest checkpoint even if the clock was set back. A date that lies far ahead
        counts for nothing: all dates to come would be wrong, and no other host would take copies."""
        now = datetime.datetime.fromtimestamp(self.system.now(), datetime.timezone.utc)
        if newest is None or is_ahead(newest.created, self.system.now()):
            return now
        return max(now, time_of(newest.created) + datetime.timedelta(microseconds=1))

    def add_manifest(self, pieces: Iterable[bytes], manifest: Manifest, name: str = "") -> None:
        """Store a manifest whose objects are durable, given its file in pieces, and add it to its name, or ``name``.

        One that comes back to its host may be older than those that are there. It is listed before them. On a peer it
        is listed as it comes.
        """
        name = name or manifest.name
        if self.objects.has_trash:
            self.objects.take_back(self.contents_of(manifest))
        if not self.has_record(manifest.id):
            write_pieces(self.join("manifests", manifest.id), pieces, 0o400)
        ids = self.refs().get(name, [])
        if manifest.id not in ids:
            place = len(ids)
            while place and not self._is_replica and self._is_later(ids[place - 1], manifest.created):
                place -= 1
            self._write_ref(name, [*ids[:place], manifest.id, *ids[place:]])

    def _is_later(self, checkpoint: str, created: str) -> bool:
        """Whether a checkpoint is here, and newer than the date."""
        now = self.system.now()
        with suppress(Damaged):
            return order_of(self.head(checkpoint).created, now) > order_of(created, now)
        return False

    def _write_ref(self, name: str, ids: list[str]) -> None:
        path = self.join("refs", _ref_file(name))
        if ids:
            write_file(path, "".join(f"{checkpoint}\n" for checkpoint in ids).encode("ascii"))
        elif os.path.exists(path):
            os.unlink(path)
            fsync_dir(os.path.dirname(path))

    def plan_prune(self, name: str, policy: retention.Policy, protect: set[str], coming: bool = False) -> Pruning:
        """The effect of the policy on a name, on the undos, on what recoveries made, and on the checkpoints of other
        hosts. Other names and the ids in ``protect`` stay.

        ``coming``: count a checkpoint of this name that is yet to be taken. Raises Damaged when any manifest cannot be
        read, because its contents could not be told from garbage; Refused when the newest checkpoint would go. One of
        another host that cannot be read goes: nothing here is brought back from it, and a recovery brings it again.
        """
        refs = self.refs()
        own = {*protect, *(one for named, ids in refs.items() if named != FOREIGN for one in ids)}
        broken = [one for one in refs.get(FOREIGN, []) if one not in own and self._broken(one)]
        refs[FOREIGN] = [one for one in refs.get(FOREIGN, []) if one not in broken]
        try:
            manifests = {id_: self.record(id_) for ids in [*refs.values(), sorted(protect)] for id_ in ids}
            # A record that others follow may have lost its line in refs.
            for follower in list(manifests.values()):
                while follower.kind == LOG and (follower.parent or "-") not in manifests:
                    follower = self.record(follower.parent or "-")
                    manifests[follower.id] = follower
        except Damaged as error:
            raise Damaged(
                f"nothing was pruned: {error.message}. evenkeel heal (ft_heal) brings that checkpoint back from a "
                "plain copy on another host, and changes nothing but the store. Or give it up by taking its line out "
                f"of the file that names it in {self.join('refs')}"
            ) from error
        now = datetime.datetime.fromtimestamp(self.system.now(), datetime.timezone.utc)
        # On a peer a person's checkpoints of that name are those of a name like others.
        prunes = (name, UNDO, FOREIGN, *(() if self._is_replica else (RECOVERY,)))
        keep = set(manifests) - {checkpoint for pruned in prunes for checkpoint in refs.get(pruned, [])} | protect
        kept: dict[str, list[str]] = {checkpoint: ["needed now"] for checkpoint in sorted(protect)}
        for pruned in prunes:
            taken = [(checkpoint, time_of(manifests[checkpoint].created)) for checkpoint in refs.get(pruned, [])]
            if coming and pruned == name:
                taken.append(("", self._next_time(self._newest())))
            rules = retention.keep(taken, policy, now)
            if pruned != FOREIGN and taken:  # The one that was taken last, whatever date a wrong clock gave it.
                rules.setdefault(taken[-1][0], ["newest"])
            newest = max(taken, key=lambda pair: (pair[1], pair[0]))[0] if taken else ""
            if pruned == name and newest not in keep | set(rules):
                raise Refused(
                    f"nothing was pruned: the retention would drop {newest[:12]}, the last good checkpoint of {name}; "
                    f"take a new one first, or add a rule that keeps the newest, such as last: 1"
                )
            kept.update(rules)
        keep |= set(kept)
        todo = sorted(keep - {""})
        while todo:
            follower = manifests[todo.pop()]
            if follower.kind == LOG and follower.parent and follower.parent not in keep:
                keep.add(follower.parent)
                todo.append(follower.parent)
                if follower.id in kept:
                    kept[follower.parent] = [f"{follower.id[:12]} follows it"]
        gone = sorted({*manifests, *broken} - keep)
        kept.pop("", None)
        return Pruning(
            kept,
            gone,
            {sha for checkpoint in keep if checkpoint in manifests for sha in self.contents_of(manifests[checkpoint])},
        )

    def prune(
        self, name: str, policy: retention.Policy, protect: set[str], forgetting: Mapping[str, Forget] | None = None
    ) -> Pruning:
        """Forget the checkpoints that the policy does not keep, as ``plan_prune`` says. Deletes nothing when it raises.

        Files that nothing names any more go to the trash, and are deleted there after the time of grace.
        ``forgetting``: kind -> the function that deletes its data outside of the store, before the last manifest that
        names that data is deleted.
        """
        made = self.plan_prune(name, policy, protect)
        before, thrown = policy.trash(self.system.now())
        broken = {self.join("manifests", one): one for one in map(self._broken, made.gone) if _ID.fullmatch(one)}
        move_all([(path, self.join("quarantine", one)) for path, one in broken.items() if os.path.exists(path)])
        self.objects.take_back(made.needed)
        kinds = forgetting or {}
        for kind, (stay, go) in self._lines_by_kind(kinds, before).items():
            kinds[kind](stay, go)
        self.objects.empty_trash(before)
        gone = [*made.gone, *self._orphans(protect | set(made.gone))]
        if gone:
            for named, ids in self.refs().items():
                if any(checkpoint in made.gone for checkpoint in ids):
                    self._write_ref(named, [checkpoint for checkpoint in ids if checkpoint not in made.gone])
            paths = [self.join("manifests", checkpoint) for checkpoint in filter(_ID.fullmatch, gone)]
            self.objects.throw_away(filter(os.path.exists, paths), thrown)
            self.objects.throw_away(list(self._unneeded(made.needed)), thrown)
        return made

    def _orphans(self, besides: Collection[str]) -> list[str]:
        """The manifests, ``besides`` these, that no name holds and no record of a log follows: a kill came before their
        names were written. None where a record cannot be read, because nobody can tell what it follows."""
        named = {*besides, *(checkpoint for ids in self.refs().values() for checkpoint in ids)}
        todo = list(named)
        while todo:
            try:
                record = self.head(todo.pop())
            except Damaged:
                return []
            if record.kind == LOG and record.parent and record.parent not in named:
                named.add(record.parent)
                todo.append(record.parent)
        return [one for one in sorted(os.listdir(self.join("manifests"))) if _ID.fullmatch(one) and one not in named]

    def _lines_by_kind(self, kinds: Collection[str], before: float) -> dict[str, tuple[list[str], list[str]]]:
        """For each kind (lines of manifests that stay, lines of manifests that were thrown away before that time).

        Manifests in the trash are read too. A log record holds changes: a line that it drops stands in the record that
        it follows, too.
        """
        found: dict[str, tuple[list[str], list[str]]] = {kind: ([], []) for kind in kinds}
        for folder in (self.join("manifests"), self.objects.in_trash(self.join("manifests"))):
            for entry in filter(_ID.fullmatch, os.listdir(folder) if kinds and os.path.isdir(folder) else []):
                path = os.path.join(folder, entry)
                with open(path, "rb") as stream:
                    data = stream.read()
                if not any(f"\nresource {kind} ".encode() in data for kind in kinds):
                    continue
                goes = folder != self.join("manifests") and os.lstat(path).st_mtime < before
                try:
                    record = Manifest.parse(data, entry)
                except Damaged as error:
                    raise Damaged(
                        f"nothing was deleted: {error.message}. Nobody can tell which data it needs; move {path} out "
                        "of the store"
                    ) from error
                for kind, line in record.written():
                    if kind in found:
                        found[kind][goes].append(line)
        return found

    def _unneeded(self, needed: set[str]) -> Iterator[str]:
        """Files of packs and objects without a needed content. A pack with one needed content stays whole."""
        packs = {place.pack for place in map(self.objects.index().get, needed) if place}
        for entry in os.listdir(self.join("packs")):
            if entry.rpartition(".")[0] not in packs:
                yield self.join("packs", entry)
        for folder in os.listdir(self.join("objects")):
            for entry in os.listdir(self.join("objects", folder)):
                if folder + entry not in needed:
                    yield self.join("objects", folder, entry)

    def quarantine(self, sha: str) -> None:
        """Move a damaged object to quarantine, so that the content can be stored again. A pack stays, for the audit."""
        self.objects.drop(sha)
        for path in (self.objects.path(sha), self.objects.in_trash(self.objects.path(sha))):
            if os.path.exists(path):
                move_all([(path, self.join("quarantine", sha))])

    def salvage(self, path: str) -> None:
        """Move a damaged pack and its index to quarantine; its whole contents are stored again first."""
        whole = [data for _sha, data in self.objects.pack_contents(path) if data is not None]
        bad = os.stat(path).st_ino
        self.objects.forget_pack(os.path.basename(path)[: -len(".pack")])
        writer = Writer(self.objects)
        for data in whole:
            writer.add(data)
        writer.publish()
        # With all contents whole, the pack that was just written may have the name of the damaged pack.
        if os.stat(path).st_ino == bad:
            files = [path, path[: -len(".pack")] + ".idx"]
            moves = [(file, self.join("quarantine", os.path.basename(file))) for file in files if os.path.exists(file)]
            move_all(moves)
        self.objects.forget_index()

    def contents_of(self, manifest: Manifest) -> set[str]:
        """The names of all contents of the checkpoint that this store has to hold."""
        return objects_of(manifest, self._is_replica)

    def missing(self, manifest: Manifest) -> dict[str, str]:
        """sha256 -> its fault, for every object of the checkpoint that is missing. None is read."""
        gone = sorted(sha for sha in self.contents_of(manifest) if not self.objects.has(sha))
        return {sha: f"object {sha} is missing from the store {self.root}" for sha in gone}

    def verify(self, *manifests: Manifest) -> dict[str, str]:
        """sha256 -> its fault, for every object of the checkpoints that is missing or damaged."""
        wrong = {}
        for sha in sorted({sha for manifest in manifests for sha in self.contents_of(manifest)}):
            problem = self.objects.verify(sha)
            if problem:
                wrong[sha] = problem
        return wrong


def time_of(created: str) -> datetime.datetime:
    """The time that a manifest names, aware, in UTC."""
    return datetime.datetime.fromisoformat(created.replace("Z", "+00:00"))


def is_ahead(created: str, now: float) -> bool:
    """Whether a date lies so far ahead of the clock that one of them is wrong."""
    latest = datetime.datetime.fromtimestamp(now, datetime.timezone.utc) + retention.SKEW
    return created > latest.strftime(_DATE)


def order_of(created: str, now: float) -> tuple[bool, str]:
    """The key by which dates sort, the oldest first. Dates that are ahead of the clock come before all others: they
    were written while it was wrong, and checkpoints since then are newer."""
    return not is_ahead(created, now), created


def in_order(dated: Mapping[str, Sequence[tuple[str, str]]], now: float) -> list[tuple[str, str]]:
    """(name, id), the oldest first, of name -> (date, id) in the order in which they were taken. Pure.

    Checkpoints of several names are in the order of their dates, but none is older than one before it of its name: the
    clock may have been behind.
    """
    found = []
    for name, ids in dated.items():
        latest = (False, "")
        for place, (created, one) in enumerate(ids):
            latest = max(latest, order_of(created, now))
            found.append((latest, place, one, name))
    return [(name, one) for _latest, _place, one, name in sorted(found)]


def paths_of(manifest: Manifest) -> list[tuple[str, str]]:
    """(path as written, or another name of the content; sha256) of every content in the checkpoint."""
    found = []
    for section in manifest.sections:
        for line in section.lines:
            _first, *words = line.split(" ")
            found += [(words[0], word[7:]) for word in words if word.startswith(_NAMING)]
    return found


def objects_of(manifest: Manifest, beside: bool = False) -> set[str]:
    """The names of all contents that the checkpoint needs; see ``contents_in``."""
    return set(contents_in(manifest, beside))


def contents_in(manifest: Manifest, beside: bool = False) -> Iterator[str]:
    """The names of all contents that the checkpoint needs, as often as they stand in its lines, in their order: in the
    lines of every kind they stand as ``sha256=``.

    ``beside``: also the contents that stand as ``beside=``. The host itself keeps them beside its store; a copy of the
    checkpoint holds them.
    """
    marks = _NAMING if beside else _NAMING[:1]
    for section in manifest.sections:
        for line in section.lines:
            if " sha256=" in line or " beside=" in line:
                yield from (word[7:] for word in line.split(" ") if word.startswith(marks))


def meant(wanted: str, listed: Sequence[tuple[str, str]]) -> list[str]:
    """The ids that ``wanted`` can mean, the newest first, among ``listed``: (name, id), the oldest first. Pure.

    ``latest`` means all checkpoints but the undos and the logs. A name means all its checkpoints, and ``name~N`` the
    N-th before its newest. An id means its checkpoint, and so does its beginning (8 digits or more) if no other id has
    the same.
    """

    def newest(of: Callable[[str], bool]) -> list[str]:
        return list(dict.fromkeys(checkpoint for name, checkpoint in reversed(listed) if of(name)))

    if wanted == LATEST:
        return newest(lambda name: name not in _APART)
    named = newest(lambda name: name == wanted)
    if named:
        return named
    base, tilde, back = wanted.rpartition("~")
    if tilde and back.isdigit():
        named = newest(lambda name: name == base)
        if named:
            return named[int(back) :][:1]
    ids = [found for found in newest(lambda _name: True) if len(wanted) >= _SHORTEST and found.startswith(wanted)]
    return ids if len(ids) == 1 else []


def _note_holder(fd: int, text: str) -> None:
    """Write into the file of the lock who holds it."""
    with suppress(OSError):  # A full disk must not keep the host from going back.
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{text}\n".encode(), 0)


def _ref_file(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def check_name(name: str) -> str:
    """Return the name if a checkpoint may have it; UsageError otherwise."""
    if (
        not name
        or len(name) > 120
        or name in RESERVED
        or not (name.isascii() and name.isprintable())
        or any(part in name for part in (" ", "/", TEMPORARY))
        or len(_ref_file(name)) > _LONGEST
    ):
        raise UsageError(
            f"{name!r} cannot name a checkpoint; use up to 120 printable ASCII characters without blanks, slashes and "
            f"{TEMPORARY!r}, most of them letters and digits, and not {' or '.join(RESERVED)}"
        )
    return name
