# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``postgresql``: a whole cluster, back to a restore point in its archived write-ahead log.

Beside the cluster lies its archive: ``wal/`` (segments, put there by ``archive_command``) and ``base/`` (base backups,
see ``wal.Base``). A checkpoint is a named restore point whose segment is safely in ``wal/``. A rollback recovers a
copy of a base to that point while the cluster still runs, with a server of one process that nobody can connect to;
then the cluster is stopped, the two directories are exchanged in one system call, and it starts again. The old
directory is kept. A base, and the log before the oldest one, go with the last checkpoint of a base, an old directory
with the undo of its rollback (``forget``).

PostgreSQL's own tools do all that touches its files, as the owner of the cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from .._errors import Damaged, EvenkeelError, Refused, RestoreFailed, UsageError
from .._services import systemd
from .._store.durable import exchange, fsync_dir, syncfs
from .._store.objects import Hasher, tag
from .._system import System
from . import cluster, own_line, wal
from .kind import Kind, Restore, Sink
from .step import Step

_KEYS = ("archive", "cluster", "data", "unit")
_PATH = re.compile(r"(/[A-Za-z0-9_@+][A-Za-z0-9_.@+-]*)+")
_CLUSTER = re.compile(r"([0-9]+)/([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_UNIT = re.compile(r"[A-Za-z0-9_.@:\\-]*")
# Configuration that the log does not hold, where it lies in the data directory.
_CONFIGURATION = ("pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf", "postgresql.conf")
# A directory with this file in it is a copy of ours; without it, it may be somebody's data.
_MARK = "evenkeel.staged"
_ARCHIVED = 60.0
# In an old directory: the tag of the store and the restore point that was its undo.
_UNDO = "evenkeel.undo"
# So many bytes of log are replayed from one base at least, however small the cluster is.
_REPLAY = 1 << 30
# A server that nobody writes to does not get further in its log than this, in records and segments.
_RECORDS, _NEAR = 500, 8
_REPLICAS = """select coalesce(nullif(application_name, ''), 'unnamed') || ' at '
|| coalesce(client_addr::text, 'this host') from pg_stat_replication
union select 'slot ' || slot_name from pg_replication_slots"""


def check(spec: dict[str, Any]) -> dict[str, Any]:
    """The declaration with all its keys; UsageError names the bad one."""
    unknown = set(spec) - set(_KEYS)
    if unknown:
        raise UsageError(f"postgresql: unknown key {sorted(unknown)[0]!r}; it takes {', '.join(_KEYS)}")
    made = {key: str(spec.get(key) or "") for key in _KEYS}
    found = _CLUSTER.fullmatch(made["cluster"])
    if made["cluster"] and found is None:
        raise UsageError(f"postgresql: cluster {made['cluster']!r} must be a version and a name, such as 15/main")
    if found is None and not made["data"]:
        raise UsageError("postgresql: name a cluster of Debian's, such as 15/main, or a data directory as data")
    if found is not None and made["unit"]:
        raise UsageError("postgresql: unit goes with data alone; a cluster is started by pg_ctlcluster")
    made["data"] = made["data"] or f"/var/lib/postgresql/{made['cluster']}"
    made["archive"] = made["archive"] or made["data"] + ".evenkeel"
    _refuse_words(made)
    for one, other in (("data", "archive"), ("archive", "data")):
        if (made[one] + "/").startswith(made[other] + "/"):
            raise UsageError(f"postgresql: {one} {made[one]} lies in {other}; they must stand side by side")
    return made


def _refuse_words(made: dict[str, Any]) -> None:
    """Paths stand in configuration and in commands of the server: nothing but plain names."""
    for key in ("data", "archive"):
        if not _PATH.fullmatch(made[key]):
            raise UsageError(
                f"postgresql: {key} {made[key]!r} must be an absolute path of letters, digits and . _ @ + - alone"
            )
    if not _UNIT.fullmatch(made["unit"]) or made["unit"].startswith("-"):
        raise UsageError(f"postgresql: unit {made['unit']!r} is no name of a unit")


def trees(spec: dict[str, Any]) -> list[str]:
    """The configuration: it is not in the log."""
    if spec["cluster"]:
        return [f"/etc/postgresql/{spec['cluster']}", f"{spec['data']}/postgresql.auto.conf"]
    return [f"{spec['data']}/{name}" for name in _CONFIGURATION]


# -- capture


def capture(spec: dict[str, Any], sink: Sink, system: System) -> list[str]:
    """One line that names a restore point: the newest one of ours when nothing was written since, else a new one."""
    return _captured(spec, sink, system, renew=True)


def _captured(spec: dict[str, Any], sink: Sink, system: System, renew: bool) -> list[str]:
    server = cluster.Server({key: spec[key] for key in _KEYS}, system)
    cluster.refuse(server)
    seen = server.look()
    cluster.refuse_live(server, seen)
    mine = tag(sink.objects.root) if sink.objects is not None else ""
    last = _last(server, mine)
    if last is not None and _is_as(server, last, seen):
        return [own_line.write("cluster", last)]
    if isinstance(sink, Hasher):
        return [own_line.write("cluster", dict(server.spec, point="to be made", lsn=seen["inserted"]))]
    base = _newest_base(server, seen, mine)
    if base is None or (renew and _outgrown(server, base, seen)):
        _restore_point(server, seen, "")  # pg_basebackup would wait for an archive that does not work, silently
        base = _take_base(server, mine)
    record = _restore_point(server, seen, base.name)
    _remember(server, record)
    return [own_line.write("cluster", record)]


def before(spec: dict[str, Any], sink: Sink, system: System) -> list[str]:
    """The same ahead of a rollback, where a cluster that cannot be recorded is no reason not to put it back: its
    directory is kept."""
    try:
        return _captured(spec, sink, system, renew=False)
    except EvenkeelError as error:
        return [own_line.write("kept", {"data": spec["data"], "why": error.message})]


def _last(server: cluster.Server, mine: str) -> dict[str, Any] | None:
    """The record of the newest restore point of ours, if it is of this declaration and store and can still be used."""
    try:
        with open(f"{server.spec['archive']}/last") as stream:
            record = dict(json.load(stream))
        usable = {key: record[key] for key in _KEYS} == server.spec and record["base"].endswith(mine)
        paths = (f"{server.log}/{record['segment']}", f"{server.bases}/{record['base']}/backup_manifest")
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return record if usable and all(os.path.exists(path) for path in paths) else None


def _remember(server: cluster.Server, record: dict[str, Any]) -> None:
    path = f"{server.spec['archive']}/last"
    script = 'umask 077; printf "%s" "$1" >"$2.tmp" && mv -fT -- "$2.tmp" "$2"'
    server.must(["/bin/sh", "-c", script, "sh", json.dumps(record), path])


def _newest_base(server: cluster.Server, seen: dict[str, Any], mine: str) -> wal.Base | None:
    """The base of this store with the least of the log between it and now; None when no base leads there, or when the
    log has a gap: what a standby replays that takes over later is not in the archive of its own."""
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


def _outgrown(server: cluster.Server, base: wal.Base, seen: dict[str, Any]) -> bool:
    """Whether the log since the base is larger than the base: a new one then costs no more than what was written, ends
    what a rollback has to replay, and lets the log before it go. Not where there is no room for both."""
    since = wal.position(seen["inserted"]) - base.start
    if since <= _REPLAY:
        return False
    try:
        with open(f"{server.bases}/{base.name}/backup_manifest", "rb") as stream:
            size = sum(int(one["Size"]) for one in json.load(stream)["Files"])
    except (OSError, ValueError, KeyError, TypeError):
        return True  # Nothing could be put back from it.
    return since > size and _free(server.bases) > size * 1.2


def _free(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _take_base(server: cluster.Server, mine: str) -> wal.Base:
    """Take a base backup and verify it. It waits until the log that it needs is in the archive."""
    address = server.address()
    if address is None:
        raise Refused(f"postgresql: {server.name} is not running; start it, then run again")
    new = f"{server.bases}/new"
    server.must(["rm", "-rf", "--", new], cluster.LONG)
    words = ["--wal-method=none", "--checkpoint=fast", "--manifest-checksums=SHA256", "--no-password", "-l", "evenkeel"]
    server.must(["pg_basebackup", "-h", address[0], "-p", address[1], "-D", new, *words], cluster.LONG)
    server.must(["pg_verifybackup", "--no-parse-wal", "--quiet", new], cluster.LONG)
    with open(f"{new}/backup_manifest", "rb") as stream:
        text = stream.read()
    (need,) = json.loads(text)["WAL-Ranges"]
    start, end = wal.position(need["Start-LSN"]), wal.position(need["End-LSN"])
    base = wal.Base(int(need["Timeline"]), start, end, hashlib.sha256(text).hexdigest()[:16], mine)
    server.must(["mv", "-T", "--", new, f"{server.bases}/{base.name}"])
    fsync_dir(server.bases)
    return base


def _restore_point(server: cluster.Server, seen: dict[str, Any], base: str) -> dict[str, Any]:
    """Make a restore point and wait until its segment is in the archive; the record of it."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(server.system.now()))
    point = f"evenkeel_{stamp}_{secrets.token_hex(4)}"
    made = server.ask(
        f"select pg_create_restore_point('{point}')", "select pg_switch_wal()", "select pg_current_wal_insert_lsn()"
    )
    lsn, size, timeline = wal.position(made[0]), int(seen["segment_size"]), int(seen["segment"][:8], 16)
    segment = wal.segment_name(timeline, (lsn - 1) // size, size)
    _wait_archived(server, segment)
    return dict(
        server.spec,
        base=base,
        lsn=made[0],
        point=point,
        segment=segment,
        segment_size=size,
        system=seen["system"],
        timeline=timeline,
        version=seen["version"],
    )


def _wait_archived(server: cluster.Server, name: str) -> None:
    """Until ``archive_command`` succeeded for the file, which it does when the copy is durable. Raises Refused."""
    waiting = f"{server.data}/pg_wal/archive_status/{name}.ready"
    end = server.system.monotonic() + _ARCHIVED
    asked = server.system.monotonic() + 1.0
    while os.path.exists(waiting):
        now = server.system.monotonic()
        if now >= end:
            cluster.decline(server, f"{name} is not archived after {_ARCHIVED:g} s; archiving is too slow, or it hangs")
        if now >= asked:
            asked = now + 1.0
            failing = server.look()["failing"]
            if failing:
                cluster.decline(server, f"archiving fails at {failing}; the server's log says why")
        server.system.sleep(0.005)
    if not os.path.exists(f"{server.log}/{name}"):
        cluster.decline(
            server, f"its archive_command succeeds, and {name} is not in {server.log}; the role postgresql sets it up"
        )


# -- compare


def _is_as(server: cluster.Server, record: dict[str, Any], seen: dict[str, Any] | None) -> bool:
    """Whether nothing was written since the restore point, or since a rollback to it. ``seen`` None: not running."""
    size = int(record["segment_size"])
    if seen is not None:
        if seen["standby"] or seen["system"] != record["system"]:
            return False
        timeline = int(seen["segment"][:8], 16)
        now = wal.end_of_last(wal.position(seen["inserted"]), size)
        if now != wal.end_of_last(wal.position(seen["flushed"]), size):
            return False
    else:
        control = server.control()
        if control["Database cluster state"] != "shut down":
            return False
        timeline = int(control["Latest checkpoint's TimeLineID"])
        now = wal.end_of_last(wal.position(control["Latest checkpoint location"]), size)
    forks = server.history(timeline)
    start = wal.position(record["lsn"])
    legs = None if forks is None else wal.route(int(record["timeline"]), start, forks, timeline, now)
    return legs is not None and all(_quiet(server, part, size) for leg in legs for part in wal.parts(leg, size))


def _quiet(server: cluster.Server, part: wal.Leg, size: int) -> bool:
    """Whether nobody changed anything there, as far as it can be read. The server keeps what is not archived yet."""
    names = wal.segments([part], size)
    if len(names) > _NEAR:
        return False
    span = ["-t", str(part.timeline), "-s", wal.words(part.start), "-e", wal.words(part.end)]
    for folder in (f"{server.data}/pg_wal", server.log):
        # It waits five seconds for a segment that is not there.
        if all(os.path.exists(f"{folder}/{name}") for name in names):
            done = server.run(["pg_waldump", "-p", folder, *span, "-n", str(_RECORDS)])
            return done.rc == 0 and wal.quiet(done.out, _RECORDS)
    return False


# -- plan


def _recorded(lines: Sequence[str]) -> dict[str, Any]:
    """The record; Damaged when the line is not one that ``capture`` writes."""
    for line in lines:
        with own_line.read(line) as (word, record):
            if word == "kept":
                raise Refused(
                    f"postgresql: {record['data']} could not be recorded then ({record['why']}): what it was is in a "
                    f"directory {record['data']}.evenkeel-old-… only. Nothing was changed; leave postgresql out, or "
                    "exchange the directories by hand while the server is stopped"
                )
            declared = check({key: record[key] for key in _KEYS})
            good = (
                word == "cluster"
                and declared == {key: record[key] for key in _KEYS}
                and re.fullmatch(r"evenkeel_[0-9]{8}T[0-9]{6}_[0-9a-f]{8}", record["point"])
                and re.fullmatch(r"[0-9A-F]{24}", record["segment"])
                and wal.Base.parse(record["base"])
                and wal.position(record["lsn"])
                and int(record["timeline"])
                and int(record["segment_size"]) in [1 << power for power in range(20, 31)]
                and int(record["system"])
            )
            if not good:
                raise ValueError("not a restore point of ours")
            return record
    raise Damaged("a manifest names no restore point of postgresql; nothing was changed")


def plan(then: Sequence[str], at: Restore) -> list[Step]:
    """What brings the cluster back to the restore point; everything that this needs is verified here, before anything
    is changed. Raises Refused and Damaged."""
    record = _recorded(then)
    server = cluster.Server({key: record[key] for key in _KEYS}, at.system)
    cluster.refuse(server)
    seen = server.seen()
    system = seen["system"] if seen else server.identifier()
    if system != record["system"]:
        cluster.decline(server, f"it is the cluster {system}, and the checkpoint is of the cluster {record['system']}")
    if seen is not None and seen["standby"]:
        cluster.decline(server, "it is a standby; roll back the primary")
    if _is_as(server, record, seen):
        if seen is None:
            return [] if at.boot else [Step("postgresql", "start", server.name, "is not running", record)]
        touched = any((path + "/").startswith(tree + "/") for tree in trees(server.spec) for path in at.changed)
        return [Step("postgresql", "restart", server.name, "its configuration changed", record)] if touched else []
    replay = _verify(server, record)
    why = f"to {record['point']} at {record['lsn']} on timeline {record['timeline']}, {replay} segments after its base"
    return [Step("postgresql", "restore", server.name, why, record)]


def _verify(server: cluster.Server, record: dict[str, Any]) -> int:
    """The base and every segment up to the restore point; how many segments that are. Raises Damaged, Refused."""
    try:
        legs, names, text = _needed(server, record)
        folder, size = f"{server.bases}/{record['base']}", int(record["segment_size"])
        commands = [["pg_verifybackup", "--no-parse-wal", "--quiet", folder]]
        for leg in legs:
            # A record that goes on in the next segment is there on the next timeline.
            end = leg.end if leg is legs[-1] else leg.end - leg.end % size
            if leg.start < end:
                span = ["-t", str(leg.timeline), "-s", wal.words(leg.start), "-e", wal.words(end)]
                commands.append(["pg_waldump", "--quiet", "-p", server.log, *span])
        for command in commands:
            done = server.run(command, cluster.LONG)
            if done.rc != 0:
                raise Damaged(done.words)
    except Damaged as error:
        raise Damaged(
            f"postgresql: {server.name} cannot be put back: {error.message}. Nothing was changed; roll back to another "
            "checkpoint, or leave postgresql out"
        ) from error
    _refuse_space(server, sum(int(one["Size"]) for one in json.loads(text)["Files"]) + size * 4)
    return len(names)


def _needed(server: cluster.Server, record: dict[str, Any]) -> tuple[list[wal.Leg], list[str], bytes]:
    """The way through the log to the restore point, its segments, and the manifest of the base; all of it is there.
    Raises Damaged with what is not."""
    size, lsn, timeline = int(record["segment_size"]), wal.position(record["lsn"]), int(record["timeline"])
    base = wal.Base.parse(record["base"])
    forks = server.history(timeline)
    legs = wal.route(base.timeline, base.start, forks, timeline, lsn) if base and forks is not None else None
    if base is None or legs is None:
        raise Damaged(f"the history of timeline {timeline} is missing or does not lead to it")
    if timeline > 1 and not os.path.exists(f"{server.log}/{timeline:08X}.history"):
        raise Damaged(f"{timeline:08X}.history is not in {server.log}")
    names = wal.segments(legs, size)
    for name in names:
        problem = _segment_problem(f"{server.log}/{name}", name, record, size)
        if problem:
            raise Damaged(f"{server.log}/{name}: {problem}")
    manifest = f"{server.bases}/{base.name}/backup_manifest"
    try:
        with open(manifest, "rb") as stream:
            text = stream.read()
    except OSError as error:
        raise Damaged(f"{manifest}: {error.strerror}") from error
    if hashlib.sha256(text).hexdigest()[:16] != base.digest:
        raise Damaged(f"{manifest} is not the one that was written")
    return legs, names, text


def _segment_problem(path: str, name: str, record: dict[str, Any], size: int) -> str:
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size != size:
                return "it is not whole"
            return wal.wrong_header(stream.read(64), name, int(record["system"]), size)
    except OSError as error:
        return str(error.strerror)


def _refuse_space(server: cluster.Server, need: int) -> None:
    """A file system that is full would take the running server down; where the copy shares its data it fills none."""
    parent = os.path.dirname(server.data)
    shares = os.stat(parent).st_dev == os.stat(server.bases).st_dev and _file_system(parent) in ("xfs", "btrfs")
    free = _free(parent)
    if not shares and free < need * 1.05:
        cluster.decline(server, f"a copy of its base takes {need >> 20} MiB, and {parent} has {free >> 20} MiB left")


def _file_system(path: str) -> str:
    """The type of the file system of the path."""
    best, kind = "", ""
    with open("/proc/self/mountinfo") as stream:
        for line in stream:
            fields, _dash, rest = line.partition(" - ")
            at = fields.split(" ")[4]
            if (path + "/").startswith(at.rstrip("/") + "/") and len(at) >= len(best):
                best, kind = at, rest.split(" ")[0]
    return kind


# -- apply


def apply(steps: Sequence[Step], at: Restore) -> list[Step]:
    """Carry out the steps. Raises RestoreFailed with what is ``left``."""
    done = []
    for step in steps:
        server = cluster.Server({key: step.detail[key] for key in _KEYS}, at.system)
        try:
            if step.action == "restore":
                done.append(_restored(server, step, at.boot, tag(at.objects.root)))
            else:
                _tidy(server)
                if step.action == "restart":
                    _control(server, "stop", at.boot)
                _control(server, "start", at.boot)
                done.append(step)
        except (EvenkeelError, OSError) as error:
            message = error.message if isinstance(error, EvenkeelError) else f"postgresql {server.name}: {error}"
            raise RestoreFailed(message, done=[one.shown() for one in done], left=[message]) from error
    return done


def _restored(server: cluster.Server, step: Step, boot: bool, mine: str) -> Step:
    record = step.detail
    _tidy(server)
    try:
        _recover(server, record)
    except (EvenkeelError, OSError):
        _tidy(server)  # Where there is no room, the running server is short of it as well.
        raise
    replicas = _replicas(server)
    running = bool(cluster.postmaster(server.data))
    _mark_undo(server, mine)  # While it still runs: where there is no room for it, nothing has happened yet.
    if running:
        _control(server, "stop", boot)
    if cluster.postmaster(server.data):
        raise EvenkeelError(f"postgresql {server.name} does not stop, and it still has its old data")
    try:
        _exchange(server)
    except OSError:
        if running:
            _control(server, "start", boot)
        raise
    old = _put_aside(server)
    _remember(server, record)
    said = f"{step.why}; the old data is kept in {old}"
    if replicas:
        said += f"; to be rebuilt: {', '.join(replicas)}"
    if not boot:
        _start_recovered(server, record, old)
    elif running:
        _control(server, "start", boot)
    return replace(step, why=said)


def _mark_undo(server: cluster.Server, mine: str) -> None:
    """Note in the data directory, which is about to be put aside, with which undo it may go. One that stays live has
    the note to no end: it is put aside with a note of that day, or with none."""
    undo, path = _last(server, mine), f"{server.data}/{_UNDO}"
    if undo is None:
        server.must(["rm", "-f", "--", path])
    else:
        server.must(["/bin/sh", "-c", 'printf "%s" "$1" >"$2"', "sh", f"{mine} {undo['point']}", path])


def _replicas(server: cluster.Server) -> list[str]:
    """Who follows the log that ends here, in words."""
    try:
        return server.ask(_REPLICAS)
    except Refused:
        return ["whatever followed it (it was not running, or did not answer)"]


def _start_recovered(server: cluster.Server, record: dict[str, Any], old: str) -> None:
    """Start it and prove where it is; the old data again when it does not start. Raises EvenkeelError."""
    try:
        _control(server, "start")
        wrong = _differences(server, record)
        if wrong:
            raise EvenkeelError("; ".join(wrong))
    except EvenkeelError as error:
        _give_back(server, old, error.message)
    # Until its history is in the archive, another recovery could take the same number for its timeline.
    try:
        _wait_archived(server, f"{int(server.look()['segment'][:8], 16):08X}.history")
    except Refused as error:
        raise EvenkeelError(
            f"postgresql {server.name} is back at {record['point']}, but not archiving: {error}"
        ) from error


def _tidy(server: cluster.Server) -> None:
    """What a killed run left: a copy of ours is removed, the old data gets the name under which it is kept."""
    server.must(["rm", "-f", "--", f"{server.data}/{_MARK}"])
    if not os.path.lexists(server.stage):
        return
    if os.path.exists(f"{server.stage}/{_MARK}"):
        pids = cluster.postmaster(server.stage)
        if pids:
            server.run(["kill", "-KILL", str(abs(int(pids[0])))])
            server.system.sleep(0.5)
        server.must(["rm", "-rf", "--", server.stage], cluster.LONG)
    elif not os.listdir(server.stage):
        os.rmdir(server.stage)
    else:
        _put_aside(server)


def _recover(server: cluster.Server, record: dict[str, Any]) -> None:
    """Make the staging directory the cluster as it was at the restore point, cleanly shut down, and durable."""
    found = os.stat(server.data)
    os.mkdir(server.stage, 0o700)
    fd = os.open(server.stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if found.st_uid != os.geteuid():
            os.fchown(fd, found.st_uid, found.st_gid)
        server.must(["touch", "--", f"{server.stage}/{_MARK}"])
        source = f"{server.bases}/{record['base']}/."
        server.must(["cp", "-a", "--reflink=auto", "--", source, f"{server.stage}/"], cluster.LONG)
        server.must(["touch", "--", f"{server.stage}/recovery.signal"])
        # What it says of its configuration was meant for the cluster.
        server.must(["truncate", "-s", "0", "--", f"{server.stage}/postgresql.auto.conf"])
        done = server.run(_recovery(server, record), cluster.LONG)
        fatal = [line.partition(":  ")[2] for line in done.err.splitlines() if "FATAL" in line or "PANIC" in line]
        problem = "" if done.rc == 0 else "; ".join(fatal) or done.words
        if not problem:
            problem = _not_reached(server, record)
        if problem:
            said = f"postgresql {server.name}: the recovery to {record['point']} failed: {problem}"
            raise EvenkeelError(f"{said}. The cluster itself was not touched; roll back to another checkpoint")
        for name in (*_CONFIGURATION, cluster.PATRONI):
            if os.path.exists(f"{server.data}/{name}"):
                server.must(["cp", "-a", "--", f"{server.data}/{name}", f"{server.stage}/{name}"])
            else:
                server.must(["rm", "-f", "--", f"{server.stage}/{name}"])
        syncfs(fd)
    finally:
        os.close(fd)


def _recovery(server: cluster.Server, record: dict[str, Any]) -> list[str]:
    """The command that recovers the staging directory: a server of one process without socket, workers or archiver,
    and without the configuration of the cluster but for what decides whether and how its log can be replayed."""
    live = server.control()
    settings = {
        "config_file": "/dev/null",
        "hba_file": "/dev/null",
        "ident_file": "/dev/null",
        "restore_command": f'cp --reflink=auto "{server.log}/%f" "%p"',
        "recovery_target_name": record["point"],
        "recovery_target_timeline": str(record["timeline"]),
        "recovery_target_action": "promote",
        "hot_standby": "off",
        "archive_mode": "on",
        "archive_command": "false",
        "wal_level": "logical" if live["wal_level setting"] == "logical" else "replica",
        "wal_log_hints": live["wal_log_hints setting"],
        "max_prepared_transactions": str(max(int(live["max_prepared_xacts setting"]), 256)),
        "track_commit_timestamp": live["track_commit_timestamp setting"],
        "shared_buffers": "128MB",
        "logging_collector": "off",
        "log_destination": "stderr",
    }
    words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return ["postgres", "--single", "-D", server.stage, *words, "template1"]


def _not_reached(server: cluster.Server, record: dict[str, Any]) -> str:
    """What is wrong with the staging directory after its recovery; empty when it is what was asked for."""
    staged = cluster.Server(dict(server.spec, data=server.stage), server.system)
    control = staged.control()
    timeline = int(control["Latest checkpoint's TimeLineID"])
    forks = staged.history(timeline) or []
    if control["Database system identifier"] != record["system"] or control["Database cluster state"] != "shut down":
        return f"it is {control['Database cluster state']}"
    if not forks or forks[-1] != (int(record["timeline"]), wal.position(record["lsn"])):
        return "it ended somewhere else in the log"
    return ""


def _exchange(server: cluster.Server) -> None:
    """From here on the name of the data directory means the recovered one."""
    parent = os.path.dirname(server.data)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        exchange(fd, os.fsencode(os.path.basename(server.stage)), fd, os.fsencode(os.path.basename(server.data)))
        os.fsync(fd)
    finally:
        os.close(fd)


def _put_aside(server: cluster.Server) -> str:
    """Give the old data the name under which it is kept; the name."""
    stamp = f"{server.data}.evenkeel-old-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(server.system.now()))}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    old = next(one for one in names if not os.path.lexists(one))
    os.rename(server.stage, old)
    fsync_dir(os.path.dirname(old))
    server.must(["rm", "-f", "--", f"{server.data}/{_MARK}"])
    return old


def _give_back(server: cluster.Server, old: str, why: str) -> NoReturn:
    """The recovered cluster does not start: the old data again."""
    said = f"postgresql {server.name} does not start on what was recovered: {why}"
    try:
        if cluster.postmaster(server.data):
            _control(server, "stop")
        os.rename(old, server.stage)
        server.must(["touch", "--", f"{server.data}/{_MARK}"])
        _exchange(server)
        _control(server, "start")
    except (EvenkeelError, OSError) as error:
        raise EvenkeelError(f"{said}; and its old data, {old} or {server.stage}, not either: {error}") from error
    raise EvenkeelError(f"{said}. It runs with its old data again; the attempt is in {server.stage}")


def _control(server: cluster.Server, verb: str, boot: bool = False) -> None:
    """Start or stop it, and wait for that, except for a start early at boot. Raises EvenkeelError."""
    version, _slash, name = server.spec["cluster"].partition("/")
    unit = server.spec["unit"] or (f"postgresql@{version}-{name}" if name else "")
    if boot and unit and verb == "start" and server.system.has_systemd():
        systemd.act(verb, unit, server.system, wait=False)
    elif server.spec["unit"] and not boot and server.system.has_systemd():
        systemd.act(verb, unit, server.system)
    elif name and not boot:
        mode = ["-m", "fast"] if verb == "stop" else []
        done = server.system.run(["pg_ctlcluster", version, name, verb, *mode], 600.0)
        if done.rc != 0:
            raise EvenkeelError(f"pg_ctlcluster {version} {name} {verb}: {done.words}")
    else:
        rest = ["-m", "fast"] if verb == "stop" else ["-l", f"{server.data}.log"]
        server.must(["pg_ctl", "-D", server.data, "-w", "-t", "600", verb, *rest], 610.0)


# -- verify


def verify(then: Sequence[str], system: System) -> list[str]:
    """What is not as recorded, in words. What clients wrote after a rollback is no difference."""
    record = _recorded(then)
    server = cluster.Server({key: record[key] for key in _KEYS}, system)
    return _differences(server, record)


def _differences(server: cluster.Server, record: dict[str, Any]) -> list[str]:
    try:
        seen = server.look()
    except Refused as error:
        return [error.message]
    if seen["system"] != record["system"]:
        return [f"{server.name} is the cluster {seen['system']}, and was {record['system']}"]
    if seen["standby"]:
        return [f"{server.name} is still in recovery"]
    if _is_as(server, record, seen):
        return []
    timeline = int(seen["segment"][:8], 16)
    if (server.history(timeline) or [(0, 0)])[-1] != (int(record["timeline"]), wal.position(record["lsn"])):
        return [f"{server.name} is not where {record['point']} was"]
    return []


# -- what the store does not hold


def lost(then: Sequence[str]) -> dict[str, str]:
    """data directory -> what of its base or its log is not there. What is in them a rollback verifies."""
    found = {}
    for line in then:
        try:
            record = _recorded([line])
        except EvenkeelError:
            continue  # It names none.
        server = cluster.Server({key: record[key] for key in _KEYS}, System())
        try:
            _needed(server, record)
        except Damaged as error:
            found[server.data] = error.message
    return found


def forget(store: str, system: System, stay: Sequence[str], go: Sequence[str]) -> None:
    """Remove what the checkpoints that go needed and none of those that stay does: bases of this store, then the log
    before the oldest base that is there, whoever's it is; and the old directories of which the undo goes.

    Raises Damaged when a line is none of ours, and what it needs is unknown; EvenkeelError when a removal fails.
    """
    mine = tag(store)
    needed, kept = _records(stay)
    gone, _kept = _records(go)
    bases, points = {one["base"] for one in needed}, {one["point"] for one in needed}
    for spec in {one["archive"]: one for one in gone}.values():
        server = cluster.Server({key: spec[key] for key in _KEYS}, system)
        if not os.path.isdir(server.data) or not os.path.isdir(server.bases):
            continue  # There is no cluster any more that could say whose all this is.
        ended = {one["base"] for one in gone} - bases
        found = [base.name for base in server.taken() if base.store == mine and base.name in ended]
        _remove(server, [f"{server.bases}/{name}" for name in found], f"{server.bases}/gone")
        _trim(server, int(spec["segment_size"]))
        if server.data not in kept:
            ended = {f"{mine} {one['point']}" for one in gone if one["point"] not in points}
            _remove(server, [old for old in _olds(server) if _undo_of(old) in ended], f"{server.data}.evenkeel-gone")


def _records(lines: Sequence[str]) -> tuple[list[dict[str, Any]], set[str]]:
    """The records among the lines, and the data directories that could not be recorded."""
    records: list[dict[str, Any]] = []
    kept: set[str] = set()
    for line in lines:
        if line.startswith("cluster "):
            records.append(_recorded([line]))
        elif line.startswith("kept "):
            with own_line.read(line) as (_word, record):
                kept.add(str(record["data"]))
    return records, kept


def _remove(server: cluster.Server, paths: Sequence[str], leftover: str) -> None:
    """Remove the directories. A kill leaves the rest under a name that is taken for nothing else."""
    for path in [leftover, *paths]:
        if path != leftover:
            os.rename(path, leftover)
            fsync_dir(os.path.dirname(path))
        if os.path.isdir(leftover):
            server.must(["find", leftover, "-mindepth", "1", "-delete"], cluster.LONG)
            os.rmdir(leftover)


def _trim(server: cluster.Server, size: int) -> None:
    """Remove the log before the oldest base. Histories of timelines stay."""
    if os.path.lexists(f"{server.bases}/new"):
        return  # What a base that is being taken needs is not known yet.
    oldest = min((base.start for base in server.taken()), default=0)
    names = sorted(name for name in os.listdir(server.log) if wal.precedes(name, oldest, size))
    for at in range(0, len(names), 1000):
        server.must(["rm", "-f", "--", *(f"{server.log}/{name}" for name in names[at : at + 1000])])


def _olds(server: cluster.Server) -> list[str]:
    """The directories that rollbacks have put aside."""
    folder, name = os.path.split(server.data)
    pattern = re.compile(re.escape(name) + r"\.evenkeel-old-[0-9]{8}T[0-9]{6}(-[0-9]+)?")
    return [os.path.join(folder, one) for one in sorted(os.listdir(folder)) if pattern.fullmatch(one)]


def _undo_of(old: str) -> str:
    try:
        with open(f"{old}/{_UNDO}") as stream:
            return stream.read(100)
    except (OSError, ValueError):
        return ""


KIND = Kind(
    check=check,
    capture=capture,
    plan=plan,
    apply=apply,
    verify=verify,
    trees=trees,
    before=before,
    lost=lost,
    forget=forget,
    consistent=True,
)
