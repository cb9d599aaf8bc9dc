# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``postgresql``: a whole cluster, back to a restore point in its archived write-ahead log.

Beside the cluster lies its archive: ``wal/`` (segments, put there by ``archive_command``) and ``base/`` (base
backups, see ``wal.Base``). A checkpoint is a named restore point whose segment is safely in ``wal/``. A rollback
recovers a copy of a base to that point while the cluster still runs, with a server of one process to which nobody can
connect. Then the cluster stops, the two directories are exchanged in one system call, and the cluster starts again.
The old directory is kept.

``forget`` deletes a base together with the last checkpoint that needs it, the log before the oldest base, and an old
directory together with the undo of its rollback.

PostgreSQL's own tools do all work on its files, as the owner of the cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence

from ..._dataclasses import asdict
from ..._errors import Damaged, EvenkeelError, Refused, RestoreFailed
from ..._files.step import Step
from ..._host.durable import fsync_dir
from ..._host.locales import has_locale
from ..._host.system import System
from ..._store.objects import Hasher, tag
from .. import json_line
from ..kind import Kind, Restore, Sink, Spec, names_of
from . import archived, cluster, limits, recovery, restore_point, spare, wal

# A base serves at least for so many bytes of log, however small the cluster is.
_REPLAY = 1 << 30
# Seconds for the verification of base and log while all else waits for a host that goes back by itself.
_VERIFY = 20.0
# The name of a base backup that is being taken.
_NEW = "new"
# The program that the role postgresql names in ``archive_command``.
_PROGRAM = "/usr/local/lib/evenkeel_archive_wal.py"


class PostgreSQL(Kind):
    """A PostgreSQL cluster: its configuration as files, its data as a restore point in its archived log.

    The role C(postgresql) sets it up. Give C(cluster), or C(data) and C(unit).

    cluster: Version and name of a cluster of Debian's. For example V(15/main).

    data: Data directory. By default where Debian puts that of C(cluster). For example V(/var/lib/pgsql/data).

    unit: The systemd unit that runs the server of C(data). For example V(postgresql.service).

    archive: Directory of the archived log and the base backups. By default the data directory with C(.evenkeel) behind
    it. For example V(/srv/archive/main).
    """

    name = "postgresql"
    since = "0.2.0"
    order = 70
    options = restore_point.OPTIONS
    consistent = True
    all_or_nothing = True
    read_at_start = False
    keeps_data_outside = True
    unseen = ("restart",)
    has_log = True
    behind = staticmethod(restore_point.behind)

    def check(self, spec: Spec) -> dict[str, object]:
        return dict(restore_point.check(spec))

    def trees(self, spec: Spec) -> list[str]:
        """The configuration, which is not in the log, and the program of the role that archives: a spare needs it."""
        program = [_PROGRAM] if os.path.exists(_PROGRAM) else []
        if spec["cluster"]:
            return [f"/etc/postgresql/{spec['cluster']}", f"{spec['data']}/postgresql.auto.conf", *program]
        return [*(f"{spec['data']}/{name}" for name in recovery.CONFIGURATION), *program]

    def may_have_tree(self, path: str) -> bool:
        return path == _PROGRAM

    def trees_as_a_whole(self, spec: Spec) -> list[str]:
        return [spec["data"], spec["archive"]]

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """A line that names a restore point: our newest restore point where nothing was written since, else a new
        restore point."""
        return _captured(spec, sink, system, renew=True)

    def capture_for_undo(self, spec: Spec, sink: Sink, system: System, local_only: bool) -> list[str]:
        """As ``capture``, but ahead of a rollback: a cluster that cannot be recorded does not stop the rollback,
        which keeps the old directory."""
        try:
            return _captured(spec, sink, system, renew=False)
        except EvenkeelError as error:
            return [json_line.write("kept", {"data": spec["data"], "why": error.message})]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """The step that brings the cluster back to the restore point. Verifies the base and the log that the step
        needs, before anything is changed. Raises Refused and Damaged."""
        record = restore_point.read(lines)
        server = restore_point.server_of(record, at.system)
        seen = server.seen()
        if spare.is_spare(server, record, seen):
            return [spare.plan(server, record, lines, at)]
        cluster.refuse(server)
        if seen is not None and seen["standby"]:
            cluster.decline(server, "it is a standby; roll back the primary")
        if restore_point.is_there(server, record, seen):
            if seen is None:
                return [] if at.boot else [Step(self.name, "start", server.name, "is not running", dict(record))]
            trees = [f"{tree}/" for tree in self.trees(server.spec)]
            came = any(f"{path}/".startswith(tree) for tree in trees for path in at.changed)
            if not came and not at.failed(self.name, server.name):
                return []
            return [Step(self.name, "restart", server.name, "its configuration changed", dict(record))]
        where = f"{record['point']} at {record['lsn']} on timeline {record['timeline']}"
        listed = archived.read(lines)
        if listed.files and all(map(at.objects.has, listed.files.values())):
            # The checkpoint comes from a copy, and its contents have come with it.
            other = archived.differing(server, listed)
            if other and seen is not None:
                cluster.decline(
                    server,
                    f"{server.spec['archive']}/{other} has another content than in the copy: the cluster has gone its "
                    "own way, or the file is damaged. Stop the cluster, and run again: its data and archive are kept",
                )
            if other:
                return [spare.plan(server, record, lines, at)]
        lacking = archived.lacking(server, listed)
        if lacking.files and all(map(at.objects.has, lacking.files.values())):
            number = spare.refuse_lack(server, record, listed, lacking, at.objects)
            why = f"to {where}, with {number} files of its archive from the copy"
            return [Step("postgresql", "restore", server.name, why, {**record, "listed": asdict(listed)})]
        return [_verified(server, record, where, at.unattended)]

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out the steps. Raises RestoreFailed at the end with the clusters that failed in ``left``."""
        done, left = [], []
        for step in steps:
            server = restore_point.server_of(step.detail, at.system)
            try:
                if step.action == "recover":
                    done.append(spare.recover(step, at))
                elif step.action == "restore":
                    whole = spare.complete(step, at)
                    done.append(recovery.restore(server, whole, at.boot, _undo(server, at)))
                else:
                    recovery.tidy(server)
                    if step.action == "restart":
                        recovery.control(server, "stop", at.boot)
                    recovery.control(server, "start", at.boot)
                    done.append(step)
            except (EvenkeelError, OSError) as error:
                message = error.message if isinstance(error, EvenkeelError) else f"postgresql {server.name}: {error}"
                left.append(message)
        if left:
            raise RestoreFailed("; ".join(left), done=[one.shown() for one in done], left=left)
        return done

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        """Sentences on the differences. Data that clients wrote after a rollback is no difference."""
        record = restore_point.read(lines)
        server = restore_point.server_of(record, system)
        return restore_point.differences(server, record)

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        return limits.sentences(lines)

    def missing_data(self, lines: Sequence[str]) -> dict[str, str]:
        """data directory -> the part of its base or its log that is missing. A rollback verifies their contents."""
        found = {}
        for line in lines:
            if not line.startswith("cluster "):
                continue  # The line names no restore point.
            try:
                record = restore_point.read([line])
            except EvenkeelError:
                continue
            server = restore_point.server_of(record, System())
            try:
                recovery.needed(server, record)
            except Damaged as error:
                found[server.data] = error.message
        return found

    def lacks_here(self, lines: Sequence[str]) -> list[str]:
        if not any(line.startswith("cluster ") for line in lines):
            return []
        name = restore_point.server_of(restore_point.read(lines), System()).name
        missing = [one for one in archived.read(lines).locales if not has_locale(one)]
        said = f"postgresql: {name} does not start without the locales of its databases, of which this host lacks"
        more = "make them there (locale-gen, or the package of the language), or leave postgresql out (kinds)"
        return [f"{said} {', '.join(missing[:10])}: {more}"] if missing else []

    def in_use(self, lines: Sequence[str], at: Restore) -> list[str]:
        if not any(line.startswith("cluster ") for line in lines):
            return []
        record = restore_point.read(lines)
        return spare.ahead(restore_point.server_of(record, at.system), record)

    def beside(self, spec: Spec, lines: Sequence[str]) -> dict[str, str]:
        return archived.paths(str(spec["archive"]), lines)

    def not_carried(self, lines: Sequence[str]) -> list[str]:
        """A sentence where a copy does not hold the database: another program carries it, or nothing does."""
        if any(line.startswith("wal ") for line in lines):
            return []
        found = [line for line in lines if line.startswith("elsewhere ")]
        for line in found:
            with json_line.read(line) as (_word, told):
                return [
                    f"postgresql: {told['program']} looks after the log of the cluster, so that copies of the "
                    "checkpoint hold its configuration alone: recover the database with that program"
                ]
        return ["postgresql: the checkpoint names no base and no log, so that copies of it do not hold the database"]

    def forget(self, store: str, system: System, stay: Sequence[str], go: Sequence[str]) -> None:
        """Remove the data that only the lines ``go`` need.

        These are bases of this store, then the log before the oldest base of any store, and the old directories whose
        undo goes.

        Raises Damaged for a line that is not ours, because its needs are unknown; EvenkeelError where a removal
        fails.
        """
        mine = tag(store)
        needed, kept = _records(stay)
        gone, _kept = _records(go)
        bases, points = {one["base"] for one in needed}, {one["point"] for one in needed}
        for spec in {one["archive"]: one for one in gone}.values():
            server = restore_point.server_of(spec, system)
            if not all(map(os.path.isdir, (server.data, server.bases, server.log))):
                continue  # The cluster is gone, and could not tell the owner of the files.
            ended = {one["base"] for one in gone} - bases
            found = [base.name for base in server.taken() if base.store == mine and base.name in ended]
            _remove(server, [f"{server.bases}/{name}" for name in found], f"{server.bases}/gone")
            _trim(server, int(spec["segment_size"]))
            if server.data not in kept:
                ended = {f"{mine} {one['point']}" for one in gone if one["point"] not in points}
                olds = [old for old in recovery.olds(server) if recovery.undo_of(old) in ended]
                _remove(server, olds, f"{server.data}.evenkeel-gone")

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        if spec not in [restore_point.check(one) for one in declared]:
            yield names_of(spec)
        archived.read(lines)
        for line in lines:
            if line.partition(" ")[0] not in ("cluster", "kept"):
                continue
            with json_line.read(line) as (_word, record):
                if any(record[key] != value for key, value in spec.items() if key in record):
                    yield f"another cluster ({names_of(record)})"


def _captured(spec: Spec, sink: Sink, system: System, renew: bool) -> list[str]:
    server = restore_point.server_of(spec, system)
    cluster.refuse(server)
    seen = server.read_state()
    cluster.refuse_live(server, seen)
    mine = tag(sink.objects.root) if sink.objects is not None else ""
    last = restore_point.newest(server, mine)
    if last is not None and restore_point.is_there(server, last, seen) and _is_whole(server, last):
        return _lines(server, last, seen, sink, renew)
    if isinstance(sink, Hasher):
        return [json_line.write("cluster", dict(server.spec, point="to be made", lsn=seen["inserted"]))]
    base = _base(server, seen, mine, renew)
    record = _restore_point(server, seen, base.name)
    restore_point.remember(server, record)
    return _lines(server, record, seen, sink, renew)


def _verified(server: cluster.Server, record: restore_point.Record, where: str, unattended: bool) -> Step:
    """The step back to a restore point whose base and log are verified.

    They are files of the cluster's owner, and so are the processes that verify them. So where the host goes back by
    itself they hinder nothing else: the cluster alone refuses, and what takes longer is verified in its own turn.
    """
    try:
        number = recovery.verify(server, record, seconds=_VERIFY if unattended else cluster.LONG)
    except recovery.Unfinished:
        why = f"to {where}, after its base and log are verified, which takes longer than {_VERIFY:g} s"
        return Step("postgresql", "restore", server.name, why, {**record, spare.VERIFY: True})
    except Damaged as error:
        if unattended:
            raise Refused(error.message) from error
        raise
    return Step("postgresql", "restore", server.name, f"to {where}, {number} segments after its base", dict(record))


def _undo(server: cluster.Server, at: Restore) -> str:
    """The undo of this rollback, in which the state of the cluster is recorded: the tag of its store and its restore
    point. Empty where there is none: then the old directory is the only place of this state."""
    records, _kept = _records(at.undo)
    found = [one["point"] for one in records if one["data"] == server.data]
    return f"{tag(at.objects.root)} {found[0]}" if found else ""


def _is_whole(server: cluster.Server, record: restore_point.Record) -> bool:
    """Whether the archive has all segments that lead to the restore point. A new base closes a gap."""
    base, forks = wal.Base.parse(record["base"]), server.history(int(record["timeline"]))
    if base is None or forks is None:
        return False
    end = wal.position(record["lsn"])
    legs = wal.route(base.timeline, base.start, forks, int(record["timeline"]), end)
    return legs is not None and server.archived().issuperset(wal.segments(legs, int(record["segment_size"])))


def _lines(
    server: cluster.Server, record: restore_point.Record, seen: cluster.Seen, sink: Sink, whole: bool
) -> list[str]:
    """The lines of a checkpoint at the restore point. An undo goes back on this host alone, and is not ``whole``."""
    first = json_line.write("cluster", record)
    other = cluster.other_backup(seen)
    more = limits.lines(server, seen, recovery.CONFIGURATION) if whole else []
    if other:
        return [first, json_line.write("elsewhere", {"program": other}), *more]
    return [first, *(archived.lines(server, record, sink) if whole else []), *more]


def _base(server: cluster.Server, seen: cluster.Seen, mine: str, renew: bool) -> wal.Base:
    """The base for a restore point that is made now: the newest base that leads here, or with ``renew`` a new base.
    Raises Refused where no base leads here, and none is taken: a full file system would take the server down."""
    base = _newest_base(server, seen, mine)
    if base is not None and not (renew and _outgrown(server, base, seen)):
        return base
    if not renew:
        cluster.decline(server, "no base leads to its present state, and an undo does not copy the whole cluster first")
    server.must(["rm", "-rf", "--", f"{server.bases}/{_NEW}"], cluster.LONG)  # A kill has left it.
    (size,) = server.ask("select sum(pg_database_size(oid))::bigint from pg_database")
    need, free = int(size) * 11 // 10 + 4 * int(seen["segment_size"]), cluster.free(server.bases)
    if free < need and base is not None:
        return base
    if free < need:
        cluster.decline(
            server,
            f"a base backup takes up to {need >> 20} MiB, and {server.bases} has {free >> 20} MiB left; make room, or "
            "declare an archive on a larger file system",
        )
    _restore_point(server, seen, "")  # pg_basebackup would silently wait for an archive that does not work.
    return _take_base(server, mine)


def _newest_base(server: cluster.Server, seen: cluster.Seen, mine: str) -> wal.Base | None:
    """The base of this store with the least log between it and now. None where no base leads here, or where the log
    has a gap: log that a standby replayed before it took over is not in its own archive."""
    timeline, lsn, size = int(seen["segment"][:8], 16), wal.position(seen["inserted"]), int(seen["segment_size"])
    forks = server.history(timeline)
    if forks is None:
        return None
    have = server.archived()

    def leads(base: wal.Base) -> bool:
        if not os.path.exists(f"{server.bases}/{base.name}/backup_manifest"):
            return False
        legs = wal.route(base.timeline, base.start, forks, timeline, lsn)
        whole = legs is not None and have.issuperset(wal.segments(legs, size))
        return whole and wal.route(base.timeline, base.end, forks, timeline, lsn) is not None

    usable = [base for base in server.taken() if base.store == mine and leads(base)]
    return max(usable, key=lambda base: base.start) if usable else None


def _outgrown(server: cluster.Server, base: wal.Base, seen: cluster.Seen) -> bool:
    """Whether the log since the base is larger than the base. A new base costs no more than the written log, shortens
    the replay of a rollback, and lets the older log go."""
    since = wal.position(seen["inserted"]) - base.start
    if since <= _REPLAY:
        return False
    try:
        text = cluster.manifest(server, base.name)
        if hashlib.sha256(text).hexdigest()[:16] != base.digest:
            return True
        size = sum(int(one["Size"]) for one in json.loads(text)["Files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True  # The base is of no use.
    return since > size


def _take_base(server: cluster.Server, mine: str) -> wal.Base:
    """Take a base backup and verify it. Waits until the archive has the log that the backup needs. Where it fails,
    nothing of it is left: the running server may need the room."""
    address = server.address()
    if address is None:
        raise Refused(f"postgresql: {server.name} is not running; start it, then run again")
    new = f"{server.bases}/{_NEW}"
    words = ["--wal-method=none", "--checkpoint=fast", "--manifest-checksums=SHA256", "--no-password", "-l", "evenkeel"]
    try:
        server.must(["pg_basebackup", "-h", address[0], "-p", address[1], "-D", new, *words], cluster.LONG)
        server.must(["pg_verifybackup", "--no-parse-wal", "--quiet", new], cluster.LONG)
        text = cluster.manifest(server, _NEW)
    except (EvenkeelError, OSError):
        server.run(["rm", "-rf", "--", new], cluster.LONG)
        raise
    (need,) = json.loads(text)["WAL-Ranges"]
    start, end = wal.position(need["Start-LSN"]), wal.position(need["End-LSN"])
    base = wal.Base(int(need["Timeline"]), start, end, hashlib.sha256(text).hexdigest()[:16], mine)
    server.must(["mv", "-T", "--", new, f"{server.bases}/{base.name}"])
    fsync_dir(server.bases)
    return base


def _restore_point(server: cluster.Server, seen: cluster.Seen, base: str) -> restore_point.Record:
    """Make a restore point, wait until its segment is in the archive, and return its record."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(server.system.now()))
    point = f"evenkeel_{stamp}_{secrets.token_hex(4)}"
    made = server.ask(
        f"select pg_create_restore_point('{point}')", "select pg_switch_wal()", "select pg_current_wal_insert_lsn()"
    )
    lsn, size, timeline = wal.position(made[0]), int(seen["segment_size"]), int(seen["segment"][:8], 16)
    segment = wal.segment_name(timeline, (lsn - 1) // size, size)
    recovery.wait_archived(server, segment)
    return restore_point.Record(
        archive=server.spec["archive"],
        cluster=server.spec["cluster"],
        data=server.spec["data"],
        unit=server.spec["unit"],
        base=base,
        lsn=made[0],
        point=point,
        segment=segment,
        segment_size=size,
        system=seen["system"],
        timeline=timeline,
        version=seen["version"],
    )


def _records(lines: Sequence[str]) -> tuple[list[restore_point.Record], set[str]]:
    """(the records among the lines, the data directories that could not be recorded)."""
    records: list[restore_point.Record] = []
    kept: set[str] = set()
    for line in lines:
        if line.startswith("cluster "):
            records.append(restore_point.read([line]))
        elif line.startswith("kept "):
            with json_line.read(line) as (_word, record):
                kept.add(str(record["data"]))
    return records, kept


def _remove(server: cluster.Server, paths: Sequence[str], leftover: str) -> None:
    """Remove the directories. A kill leaves the rest at ``leftover``, a name that has no other use."""
    for path in [leftover, *paths]:
        if path != leftover:
            os.rename(path, leftover)
            fsync_dir(os.path.dirname(path))
        if os.path.isdir(leftover):
            server.must(["find", leftover, "-mindepth", "1", "-delete"], cluster.LONG)
            os.rmdir(leftover)


def _trim(server: cluster.Server, size: int) -> None:
    """Remove the log before the oldest base. Histories of timelines stay."""
    if os.path.lexists(f"{server.bases}/{_NEW}"):
        return  # A base backup is under way, and we do not know yet which log it needs.
    oldest = min((base.start for base in server.taken()), default=0)
    names = sorted(name for name in os.listdir(server.log) if wal.precedes(name, oldest, size))
    for at in range(0, len(names), 1000):
        server.must(["rm", "-f", "--", *(f"{server.log}/{name}" for name in names[at : at + 1000])])
