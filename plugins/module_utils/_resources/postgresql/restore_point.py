# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration of a PostgreSQL cluster, the restore point that a checkpoint records, and whether the cluster is at
it."""

from __future__ import annotations

import calendar
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from ..._errors import Damaged, Refused, UsageError
from ..._host.options import Options
from ..._host.options import read as read_options
from ..._host.system import System
from ..._host.trust import read_small
from .. import json_line
from . import cluster, wal

OPTIONS: Options = {
    "cluster": {"type": "str"},
    "data": {"type": "str"},
    "unit": {"type": "str"},
    "archive": {"type": "str"},
}
_KEYS = tuple(OPTIONS)
_PATH = r"(/[A-Za-z0-9_@+][A-Za-z0-9_.@+-]*)+"
_CLUSTER = r"([0-9]+)/([A-Za-z0-9_][A-Za-z0-9_.-]*)"
_UNIT = r"[A-Za-z0-9_.@:\\-]*"
# An idle server does not advance further in its log than this: records, and segments.
_RECORDS, _NEAR = 500, 8


class Record(TypedDict):
    """A restore point as a checkpoint and the archive record it: the declaration of its cluster, and its position."""

    archive: str
    cluster: str
    data: str
    unit: str
    base: str
    lsn: str
    point: str
    segment: str
    segment_size: int
    system: str
    timeline: int
    version: str


def check(spec: Mapping[str, object]) -> dict[str, str]:
    """The declaration with all its keys; UsageError names the bad key."""
    made = {key: value or "" for key, value in read_options(OPTIONS, spec, "postgresql").items()}
    found = re.fullmatch(_CLUSTER, made["cluster"])
    if made["cluster"] and found is None:
        raise UsageError(f"postgresql: cluster {made['cluster']!r} must be a version and a name, such as 15/main")
    if found is None and not made["data"]:
        raise UsageError("postgresql: name a cluster of Debian's, such as 15/main, or a data directory as data")
    if found is not None and made["unit"]:
        raise UsageError("postgresql: unit goes with data alone; a cluster is started by pg_ctlcluster")
    made["data"] = made["data"] or f"/var/lib/postgresql/{made['cluster']}"
    made["archive"] = made["archive"] or made["data"] + ".evenkeel"
    _refuse_words(made)
    if made["archive"].startswith(made["data"] + ".evenkeel-"):
        raise UsageError(
            f"postgresql: archive {made['archive']} has a name that a rollback uses itself; choose another"
        )
    for one, other in (("data", "archive"), ("archive", "data")):
        if (made[one] + "/").startswith(made[other] + "/"):
            raise UsageError(f"postgresql: {one} {made[one]} lies in {other}; they must stand side by side")
    return made


def _refuse_words(made: Mapping[str, str]) -> None:
    """Raise UsageError for paths and units with special characters, because they stand in configuration and in
    commands of the server."""
    for key in ("data", "archive"):
        if not re.fullmatch(_PATH, made[key]):
            raise UsageError(
                f"postgresql: {key} {made[key]!r} must be an absolute path of letters, digits and . _ @ + - alone"
            )
    if not re.fullmatch(_UNIT, made["unit"]) or made["unit"].startswith("-"):
        raise UsageError(f"postgresql: unit {made['unit']!r} is no name of a unit")


def server_of(spec: Mapping[str, object] | Record, system: System) -> cluster.Server:
    """The cluster of a declaration, or of a record, which holds a declaration."""
    declared: Mapping[str, object] = spec
    return cluster.Server({key: str(declared[key]) for key in _KEYS}, system)


def read(lines: Sequence[str]) -> Record:
    """The record of the first line of a cluster; Damaged where ``capture`` cannot have written it, Refused where the
    cluster could not be recorded."""
    for line in lines:
        if line.partition(" ")[0] in ("owner", "base", "wal", "elsewhere", "limits"):
            continue  # The line names a part of the archive, which ``archived`` reads, or what ``limits`` tells.
        with json_line.read(line) as (word, record):
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
                and int(record["timeline"]) > 0
                and re.fullmatch("[0-9]+", str(record["version"]))
                and made(record["point"])
                and int(record["segment_size"]) in [1 << power for power in range(20, 31)]
                and int(record["system"])
            )
            if not good:
                raise ValueError("not a restore point of ours")
            return cast(Record, record)
    raise Damaged("a manifest names no restore point of postgresql; nothing was changed")


def newest(server: cluster.Server, mine: str) -> Record | None:
    """The record of our newest restore point; None where it is of another declaration or store, can no longer be
    used, or is none of ours: the file is the cluster's owner's."""
    try:
        text = read_small(f"{server.spec['archive']}/last", cluster.LONGEST)[0].decode()
        found: Mapping[str, object] = read([f"cluster {text}"])
    except (OSError, ValueError, Damaged):
        return None
    record = cast(Record, {key: found[key] for key in Record.__annotations__})
    usable = {key: found[key] for key in _KEYS} == server.spec and record["base"].endswith(mine)
    paths = (f"{server.log}/{record['segment']}", f"{server.bases}/{record['base']}/backup_manifest")
    return record if usable and all(os.path.exists(path) for path in paths) else None


def made(point: str) -> int:
    """The epoch seconds at which the restore point was made; ValueError for another name."""
    return calendar.timegm(time.strptime(point.split("_")[1], "%Y%m%dT%H%M%S"))


def remember(server: cluster.Server, record: Record) -> None:
    """Make the record our newest restore point."""
    path = f"{server.spec['archive']}/last"
    script = 'umask 077; printf "%s" "$1" >"$2.tmp" && mv -fT -- "$2.tmp" "$2"'
    server.must(["/bin/sh", "-c", script, "sh", json.dumps(record), path])


def is_there(server: cluster.Server, record: Record, seen: cluster.Seen | None) -> bool:
    """Whether nothing was written since the restore point, or since a rollback to it. ``seen``: None where the server
    does not run."""
    size = int(record["segment_size"])
    if seen is not None:
        if seen["standby"] or seen["system"] != record["system"]:
            return False
        timeline = int(seen["segment"][:8], 16)
        now = wal.end_of_last(wal.position(seen["inserted"]), size)
        if now != wal.end_of_last(wal.position(seen["flushed"]), size):
            return False
    elif not server.identifier():
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
    """Whether no client changed data in this part of the log. False where the part cannot be read. The server keeps
    segments that are not archived yet."""
    names = wal.segments([part], size)
    if len(names) > _NEAR:
        return False
    span = ["-t", str(part.timeline), "-s", wal.words(part.start), "-e", wal.words(part.end)]
    for folder in (f"{server.data}/pg_wal", server.log):
        # pg_waldump waits five seconds for a missing segment, so read only where all segments are there.
        if all(os.path.exists(f"{folder}/{name}") for name in names):
            done = server.run(["pg_waldump", "-p", folder, *span, "-n", str(_RECORDS)])
            return done.rc == 0 and wal.quiet(done.out, _RECORDS)
    return False


def differences(server: cluster.Server, record: Record) -> list[str]:
    """Why the running cluster is not at the restore point, and did not go on from there, in words."""
    try:
        seen = server.read_state()
    except Refused as error:
        return [error.message]
    if seen["system"] != record["system"]:
        return [f"{server.name} is the cluster {seen['system']}, and was {record['system']}"]
    if seen["standby"]:
        return [f"{server.name} is still in recovery"]
    if is_there(server, record, seen):
        return []
    timeline = int(seen["segment"][:8], 16)
    if (server.history(timeline) or [(0, 0)])[-1] != (int(record["timeline"]), wal.position(record["lsn"])):
        return [f"{server.name} is not where {record['point']} was"]
    return []


def behind(lines: Sequence[str], system: System) -> dict[str, object]:
    """How far the cluster is ahead of the restore point of the lines: seconds, and bytes of log (None where that is not
    known). Raises EvenkeelError for lines that name none."""
    record = read(lines)
    server = server_of(record, system)
    seconds = round(max(0.0, server.system.now() - made(record["point"])), 1)
    seen = server.seen()
    if seen is None or seen["standby"] or seen["system"] != record["system"]:
        return {"seconds": seconds, "bytes": None}
    if is_there(server, record, seen):
        return {"seconds": 0.0, "bytes": 0}
    if int(seen["segment"][:8], 16) != int(record["timeline"]):
        return {"seconds": seconds, "bytes": None}
    size = int(record["segment_size"])
    end = -(-wal.position(record["lsn"]) // size) * size
    return {"seconds": seconds, "bytes": max(0, wal.position(seen["inserted"]) - end)}
