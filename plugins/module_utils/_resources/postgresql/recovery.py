# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a cluster of PostgreSQL to a restore point. First the base and the log are verified. A server of one process,
to which nobody can connect, recovers a copy of the base while the cluster still runs. Then the cluster stops, the two
directories are exchanged in one system call, and the cluster starts again. The old directory is kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from typing import NoReturn, cast

from ..._dataclasses import replace
from ..._errors import Damaged, EvenkeelError, Refused
from ..._files.step import Step
from ..._host.durable import exchange, fsync_dir, syncfs
from ..._host.mounts import file_system_of
from ..._host.trust import open_regular, read_small
from ..._services import systemd
from . import cluster, limits, restore_point, wal

# Files of configuration in the data directory: the log does not hold them.
CONFIGURATION = ("pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf", "postgresql.conf")
# A directory with this file in it is a copy of ours; a directory without it may hold a user's data.
_MARK = "evenkeel.staged"
# The file in an old directory that names the tag of the store and the restore point of the undo.
_UNDO = "evenkeel.undo"
_ARCHIVED = 60.0
# The ends of the names of compressed segments.
_PACKED = ("gz", "zst", "lz4", "bz2", "xz")
_UNKNOWN = "whatever followed it (it was not running, or did not answer)"
_REPLICAS = """select coalesce(nullif(application_name, ''), 'unnamed') || ' at '
|| coalesce(client_addr::text, 'this host') from pg_stat_replication
union select 'slot ' || slot_name from pg_replication_slots"""


class Unfinished(EvenkeelError):
    """The time was over before all was verified."""


def verify(
    server: cluster.Server,
    record: restore_point.Record,
    so_far: str = "Nothing was changed",
    seconds: float = cluster.LONG,
) -> int:
    """Verify the base and every segment up to the restore point; return the number of segments. ``so_far``: what was
    changed, for the message of the error. Raises Damaged, Refused; Unfinished where less than a day was too short."""
    end = server.system.monotonic() + seconds
    try:
        legs, names, text = needed(server, record)
        folder, size = f"{server.bases}/{record['base']}", int(record["segment_size"])
        commands = [["pg_verifybackup", "--no-parse-wal", "--quiet", folder]]
        for leg in legs:
            # A record that continues in the next segment stands in a segment of the next timeline.
            upto = leg.end if leg is legs[-1] else leg.end - leg.end % size
            if leg.start < upto:
                span = ["-t", str(leg.timeline), "-s", wal.words(leg.start), "-e", wal.words(upto)]
                commands.append(["pg_waldump", "--quiet", "-p", server.log, *span])
        for command in commands:
            done = server.run(command, max(0.1, end - server.system.monotonic()))
            if seconds < cluster.LONG and not done.has_answered:
                raise Unfinished(done.words)
            if done.rc != 0:
                raise Damaged(done.words)
    except Damaged as error:
        raise Damaged(
            f"postgresql: {server.name} cannot be put back: {error.message}. {so_far}; roll back to another "
            "checkpoint, or leave postgresql out"
        ) from error
    base = sum(int(one["Size"]) for one in json.loads(text)["Files"])
    _refuse_space(server, base, replayed(len(names), size), so_far)
    return len(names)


def needed(server: cluster.Server, record: restore_point.Record) -> tuple[list[wal.Leg], list[str], bytes]:
    """(the legs of the log to the restore point, the names of their segments, the text of the base's manifest).
    Raises Damaged where a part is missing or damaged."""
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
    try:
        text = cluster.manifest(server, base.name)
    except OSError as error:
        raise Damaged(f"{server.bases}/{base.name}/backup_manifest: {error.strerror}") from error
    if hashlib.sha256(text).hexdigest()[:16] != base.digest:
        raise Damaged(f"{server.bases}/{base.name}/backup_manifest is not the one that was written")
    return legs, names, text


def _segment_problem(path: str, name: str, record: restore_point.Record, size: int) -> str:
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size != size:
                return "it is not whole"
            return wal.wrong_header(stream.read(64), name, int(record["system"]), size)
    except OSError as error:
        return str(error.strerror)


def replayed(segments: int, size: int) -> int:
    """Bytes that the replay of the segments takes beside the base. A server of one process makes no restart points, so
    that every segment that it has replayed stays until the end; then it writes segments of its own."""
    return (segments + 4) * size


def _refuse_space(server: cluster.Server, base: int, log: int, so_far: str) -> None:
    """Refuse where the base and the log that is replayed on it would not fit: a full file system would take the running
    server down. A copy that shares the blocks of its source takes only the room of the blocks that the log changes."""
    parent = os.path.dirname(server.data)
    shares = os.stat(parent).st_dev == os.stat(server.bases).st_dev and file_system_of(parent) in ("xfs", "btrfs")
    need, free = log + (0 if shares else base), cluster.free(parent)
    if free < need * 1.05:
        cluster.decline(
            server,
            f"a copy of its base and the log that is replayed on it take {need >> 20} MiB, and {parent} has "
            f"{free >> 20} MiB left",
            so_far,
        )


def restore(server: cluster.Server, step: Step, boot: bool, undo: str) -> Step:
    """Bring the cluster to the restore point of the step; return the step, with words on the old data and replicas.
    ``undo``: the undo with which the old data may be deleted, as ``undo_of`` returns it; empty for none. Raises
    EvenkeelError, OSError.

    On a server with an ``owner`` the data directory is that of another cluster, which is stopped, or it is empty: it is
    not started again.
    """
    record = cast(restore_point.Record, step.detail)
    tidy(server)
    try:
        _recover(server, record)
    except (EvenkeelError, OSError):
        tidy(server)  # Free the room: where the copy finds none, the running server is short of it as well.
        raise
    followers = [] if server.owner else _followers(server)
    running = bool(cluster.postmaster(server.data))
    _mark_undo(server, undo)  # While the cluster still runs: where this fails, nothing has happened yet.
    if running:
        control(server, "stop", boot)
    if cluster.postmaster(server.data):
        raise EvenkeelError(f"postgresql {server.name} does not stop, and it still has its old data")
    try:
        _exchange(server)
    except OSError:
        if running:
            control(server, "start", boot)
        raise
    old = _put_aside(server)
    restore_point.remember(server, record)
    said = step.why
    if os.listdir(old):
        said += f"; the old data is kept in {old}"
    else:
        os.rmdir(old)
    if not boot:
        _start_recovered(server, record, old)
        # The state that came back may have other subscriptions than the state that was replaced.
        followers += [one for one in _answer_to(server, limits.SUBSCRIPTIONS) if one not in followers]
    elif running:
        control(server, "start", boot)
    if followers:
        said += f"; to be rebuilt: {', '.join(followers)}"
    return replace(step, why=said)


def _mark_undo(server: cluster.Server, undo: str) -> None:
    """Note in the data directory, which is about to be put aside, the undo with which it may be deleted. A directory
    without a note is never deleted. In a directory that stays live the note has no effect: a later rollback replaces
    or deletes the note."""
    path = f"{server.data}/{_UNDO}"
    if undo:
        server.must(["/bin/sh", "-c", 'printf "%s" "$1" >"$2"', "sh", undo, path])
    else:
        server.must(["rm", "-f", "--", path])


def _followers(server: cluster.Server) -> list[str]:
    """The replicas that follow the log of the running cluster, and its subscriptions, in words: they have to be
    rebuilt."""
    return (
        [*_answer_to(server, _REPLICAS), *_answer_to(server, limits.SUBSCRIPTIONS)] if server.address() else [_UNKNOWN]
    )


def _answer_to(server: cluster.Server, question: str) -> list[str]:
    try:
        return server.ask(question)
    except Refused:
        return [_UNKNOWN]


def _kept(server: cluster.Server) -> list[str]:
    """The files that stay as they are. On a spare, and where the server does not answer, they come back from the
    base."""
    try:
        return [] if server.owner else limits.kept(server, CONFIGURATION)
    except Refused:
        return []


def _start_recovered(server: cluster.Server, record: restore_point.Record, old: str) -> None:
    """Start the recovered cluster and verify its position; where that fails, bring the old data back. Raises
    EvenkeelError."""
    try:
        control(server, "start")
        wrong = restore_point.differences(server, record)
        if wrong:
            raise EvenkeelError("; ".join(wrong))
    except EvenkeelError as error:
        if server.owner:
            raise EvenkeelError(
                f"postgresql {server.name} is recovered to {record['point']} in {server.data}, and does not start: "
                f"{error.message}. Its own log says why; what was here before is kept in {old}"
            ) from error
        _give_back(server, old, error.message)
    # Until the history of its timeline is in the archive, another recovery could take the same number for its
    # timeline.
    try:
        wait_archived(server, f"{int(server.read_state()['segment'][:8], 16):08X}.history")
    except Refused as error:
        raise EvenkeelError(
            f"postgresql {server.name} is back at {record['point']}, but not archiving: {error}"
        ) from error


def wait_archived(server: cluster.Server, name: str) -> None:
    """Wait until ``archive_command`` has succeeded for the file: then the copy is durable. Raises Refused."""
    waiting = f"{server.data}/pg_wal/archive_status/{name}.ready"
    end = server.system.monotonic() + _ARCHIVED
    asked = server.system.monotonic() + 1.0
    while os.path.exists(waiting):
        now = server.system.monotonic()
        if now >= end:
            cluster.decline(server, f"{name} is not archived after {_ARCHIVED:g} s; archiving is too slow, or it hangs")
        if now >= asked:
            asked = now + 1.0
            failing = server.read_state()["failing"]
            if failing:
                cluster.decline(server, f"archiving fails at {failing}; the server's log says why")
        server.system.sleep(0.005)
    if not os.path.exists(f"{server.log}/{name}"):
        packed = [one for one in os.listdir(server.log) if one.startswith(f"{name}.") and one[25:] in _PACKED]
        if packed:
            cluster.decline(server, f"{packed[0]} in {server.log} is compressed; archive the log as it is")
        cluster.decline(
            server, f"its archive_command succeeds, and {name} is not in {server.log}; the role postgresql sets it up"
        )


def tidy(server: cluster.Server) -> None:
    """Clear up after a killed run: remove a copy of ours, or give old data the name under which it is kept."""
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


def _recover(server: cluster.Server, record: restore_point.Record) -> None:
    """Recover the cluster's state at the restore point in the staging directory: cleanly shut down, and durable."""
    found = os.stat(server.data)
    owner = server.owner or (found.st_uid, found.st_gid)
    os.mkdir(server.stage, 0o700)
    fd = os.open(server.stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        cluster.refuse_exchanged(server, fd, server.stage)
        if owner[0] != os.geteuid():
            os.fchown(fd, *owner)
        server.must(["touch", "--", f"{server.stage}/{_MARK}"])
        source = f"{server.bases}/{record['base']}/."
        server.must(["cp", "-a", "--reflink=auto", "--", source, f"{server.stage}/"], cluster.LONG)
        server.must(["touch", "--", f"{server.stage}/recovery.signal"])
        # The settings in this file were meant for the cluster, not for the recovery.
        server.must(["truncate", "-s", "0", "--", f"{server.stage}/postgresql.auto.conf"])
        done = server.run(_recovery(server, record), cluster.LONG)
        fatal = [line.partition(":  ")[2] for line in done.err.splitlines() if "FATAL" in line or "PANIC" in line]
        problem = "" if done.rc == 0 else "; ".join(fatal) or done.words
        if not problem:
            problem = _not_reached(server, record)
        if problem:
            said = f"postgresql {server.name}: the recovery to {record['point']} failed: {problem}"
            raise EvenkeelError(f"{said}. The cluster itself was not touched; roll back to another checkpoint")
        kept = _kept(server)
        for name in (*CONFIGURATION, cluster.PATRONI, *kept):
            if os.path.exists(f"{server.data}/{name}"):
                server.must(["mkdir", "-p", "--", os.path.dirname(f"{server.stage}/{name}")])
                server.must(
                    ["cp", "-a", "--remove-destination", "--", f"{server.data}/{name}", f"{server.stage}/{name}"]
                )
            elif name not in kept:
                server.must(["rm", "-f", "--", f"{server.stage}/{name}"])
        syncfs(fd)
    finally:
        os.close(fd)


def _recovery(server: cluster.Server, record: restore_point.Record) -> list[str]:
    """The command that recovers the staging directory: a server of one process without socket, workers or archiver.
    From the cluster's configuration it takes only the settings that the replay of the log depends on."""
    is_gone = bool(server.owner) or not server.identifier()
    of = f"{server.bases}/{record['base']}" if is_gone else server.data
    live = cluster.Server(dict(server.spec, data=of), server.system).control()
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


def _not_reached(server: cluster.Server, record: restore_point.Record) -> str:
    """The fault of the staging directory after its recovery, in words; empty where it has none."""
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
    """Exchange the two directories: from here on, the data directory is the recovered directory."""
    parent = os.path.dirname(server.data)
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        exchange(fd, os.fsencode(os.path.basename(server.stage)), fd, os.fsencode(os.path.basename(server.data)))
        os.fsync(fd)
    finally:
        os.close(fd)


def _put_aside(server: cluster.Server) -> str:
    """Give the old data the name under which it is kept; return this path."""
    stamp = f"{server.data}.evenkeel-old-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(server.system.now()))}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    old = next(one for one in names if not os.path.lexists(one))
    os.rename(server.stage, old)
    fsync_dir(os.path.dirname(old))
    server.must(["rm", "-f", "--", f"{server.data}/{_MARK}"])
    return old


def _give_back(server: cluster.Server, old: str, why: str) -> NoReturn:
    """Bring the old data back, because the recovered cluster does not start. Raises EvenkeelError in any case."""
    said = f"postgresql {server.name} does not start on what was recovered: {why}"
    try:
        if cluster.postmaster(server.data):
            control(server, "stop")
        os.rename(old, server.stage)
        server.must(["touch", "--", f"{server.data}/{_MARK}"])
        _exchange(server)
        control(server, "start")
    except (EvenkeelError, OSError) as error:
        raise EvenkeelError(f"{said}; and its old data, {old} or {server.stage}, not either: {error}") from error
    raise EvenkeelError(f"{said}. It runs with its old data again; the attempt is in {server.stage}")


def control(server: cluster.Server, verb: str, boot: bool = False) -> None:
    """Start or stop the cluster, and wait for the end of that, but not for a start early at boot. Raises
    EvenkeelError."""
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


def olds(server: cluster.Server) -> list[str]:
    """The directories that rollbacks have put aside."""
    folder, name = os.path.split(server.data)
    pattern = re.compile(re.escape(name) + r"\.evenkeel-old-[0-9]{8}T[0-9]{6}(-[0-9]+)?")
    return [os.path.join(folder, one) for one in sorted(os.listdir(folder)) if pattern.fullmatch(one)]


def undo_of(old: str) -> str:
    """The undo with which an old directory may be deleted: the tag of its store and the restore point; "" where
    unknown."""
    try:
        return read_small(f"{old}/{_UNDO}", 1000)[0].decode()[:100]
    except (OSError, ValueError):
        return ""
