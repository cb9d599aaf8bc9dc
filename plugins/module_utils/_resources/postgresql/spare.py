# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a cluster that another host has lost onto this host, a spare: from the contents of a copy of its checkpoint.

A spare has PostgreSQL of the same version, and no cluster at the place, or one in which nobody has made anything. The
data and the archive at the place are kept beside it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import time
from collections.abc import Sequence
from typing import cast

from ..._dataclasses import asdict, replace
from ..._errors import Damaged, EvenkeelError, Refused
from ..._files.step import Step
from ..._host.paths import DIRECTORY, open_dir
from ..._host.trust import open_regular
from ..._store.objects import Objects
from .. import json_line
from ..kind import Restore
from . import archived, cluster, recovery, restore_point, wal
from .restore_point import Record

# The first number that PostgreSQL gives to an object that somebody makes.
_FIRST = 16384
_NUMBER = "[0-9]+"
_SO_FAR = "Its archive has the files of the copy now, and its data was not touched"
_NOT_TOUCHED = "Its data was not touched"
# The key of a step whose base and log are still to be verified.
VERIFY = "verify"


def is_spare(server: cluster.Server, record: Record, seen: cluster.Seen | None) -> bool:
    """Whether the place of the cluster is free for it. False where the cluster of the record is there.

    Raises Refused where something else is there that somebody may need.
    """
    data = server.data
    if not os.path.lexists(f"{data}/PG_VERSION"):
        found = os.listdir(data) if os.path.isdir(data) else []
        if os.path.islink(data) or (os.path.lexists(data) and not os.path.isdir(data)):
            cluster.decline(server, f"{data} is no directory; move it away")
        others = sorted(set(found) - {*recovery.CONFIGURATION, cluster.PATRONI})
        if others:
            cluster.decline(server, f"{data} is no data directory, and holds {', '.join(others[:5])}; move it away")
        return True
    system = seen["system"] if seen else server.identifier()
    if system == record["system"]:
        return False
    if not system:  # The cluster is made of the recorded base and log. The present data stay.
        if server.version() != str(record["version"]):
            cluster.decline(
                server,
                f"{data}/global/pg_control is gone, and it is of version {server.version()}, while the checkpoint is "
                f"of {record['version']}; move {data} away, and run again",
            )
        return False
    made = _made(server, running=seen is not None)
    if made:
        cluster.decline(
            server,
            f"it is the cluster {system}, and the checkpoint is of the cluster {record['system']}. Somebody has made "
            f"something in it ({made}), so it is not replaced: if nobody needs it, stop it and move {data} away",
        )
    return True


def ahead(server: cluster.Server, record: Record) -> list[str]:
    """A sentence where the cluster of the record runs here, and went on beyond the restore point: a standby that has
    taken over, for example. Empty elsewhere."""
    seen = server.seen()
    if seen is None or seen["standby"] or seen["system"] != record["system"]:
        return []
    if restore_point.is_there(server, record, seen):
        return []
    timeline, lsn = int(seen["segment"][:8], 16), wal.position(seen["inserted"])
    forks = server.history(int(record["timeline"]))
    if forks is not None and wal.route(timeline, lsn, forks, int(record["timeline"]), wal.position(record["lsn"])):
        return []
    return [
        f"postgresql: {server.name} runs here as the cluster {record['system']} of the checkpoint, on timeline "
        f"{timeline} at {seen['inserted']}, and the copy ends on timeline {record['timeline']} at {record['lsn']}: it "
        f"would replace what was written here since. If nobody needs that, stop {server.name}, and run again (its data "
        "is kept); or leave postgresql out (kinds)"
    ]


def _made(server: cluster.Server, running: bool) -> str:
    """A sign in words that somebody has made a table, a database, a tablespace or a role in the cluster; empty where
    there is none. Roles show in a server that runs alone."""
    for folder, _folders, names in os.walk(f"{server.data}/base"):
        for name in [os.path.basename(folder), *names]:
            number = re.match(_NUMBER, name)
            if number and int(number[0]) >= _FIRST:
                return f"{folder}/{name}" if name in names else folder
    for name in os.listdir(f"{server.data}/pg_tblspc"):
        return f"the tablespace {os.path.realpath(f'{server.data}/pg_tblspc/{name}')}"
    roles = server.ask(f"select rolname from pg_roles where oid >= {_FIRST} limit 5") if running else []
    return f"the role {roles[0]}" if roles else ""


def plan(server: cluster.Server, record: Record, lines: Sequence[str], at: Restore) -> Step:
    """The step that brings the cluster here. Raises Refused, and Damaged where the copy lacks a part of it."""
    for line in lines:
        if line.startswith("elsewhere "):
            with json_line.read(line) as (_word, told):
                cluster.decline(
                    server,
                    f"the copy does not hold the database, because {told['program']} looks after it: restore it with "
                    "that program, or recover the host without postgresql",
                )
    listed = archived.read(lines)
    if not listed.files:
        cluster.decline(server, "the checkpoint names no base and no log, so that it can go back on its own host alone")
    here = _server(server, record, listed)
    if os.path.lexists(f"{server.data}/PG_VERSION") and server.version() != str(record["version"]):
        cluster.decline(server, f"it is of version {server.version()}, and the checkpoint of {record['version']}")
    cluster.refuse_place(here, here.owner[0] if here.owner else 0)
    cluster.refuse_programs(here)
    lacking = listed if _is_foreign(here, record, listed) else archived.lacking(here, listed)
    number = refuse_lack(here, record, listed, lacking, at.objects)
    where = f"{record['point']} at {record['lsn']} on timeline {record['timeline']}"
    why = f"to {where}, with {number} files of its archive from the copy"
    return Step("postgresql", "recover", server.name, why, {**record, "listed": asdict(listed)})


def _server(server: cluster.Server, record: Record, listed: archived.Listed) -> cluster.Server:
    """The cluster as it is to be here."""
    try:
        owner = pwd.getpwnam(listed.user).pw_uid, grp.getgrnam(listed.group).gr_gid
    except KeyError:
        cluster.decline(server, f"there is no user {listed.user} here; install PostgreSQL {record['version']}")
    return server._replace(owner=owner, release=str(record["version"]))


def refuse_lack(
    server: cluster.Server, record: Record, listed: archived.Listed, lacking: archived.Listed, objects: Objects
) -> int:
    """Verify that all contents of what the archive lacks are in the store, and that there is room for them, and for the
    recovery from the whole ``listed``; their number. Raises Damaged, Refused."""
    wrong = [f"{path}: {why}" for path, sha in lacking.files.items() if (why := objects.verify(sha))]
    if wrong:
        raise Damaged(
            f"postgresql: {server.name}: the copy lacks {len(wrong)} files of its base or log: {'; '.join(wrong[:5])}. "
            "Nothing was changed; recover it from another copy"
        )
    archive, size = str(server.spec["archive"]), int(record["segment_size"])
    coming = {path: objects.size(sha) for path, sha in lacking.files.items()}
    base = sum(
        coming[path] if path in coming else _size(f"{archive}/{path}") for path in listed.files if _is_base(path)
    )
    log = recovery.replayed(sum(not _is_base(path) for path in listed.files), size)
    needs = {archive: sum(coming.values()), server.data: base + log}
    parents = {place: _parent(place) for place in needs}
    for parent in set(parents.values()):
        device = os.stat(parent).st_dev
        need = sum(size for place, size in needs.items() if os.stat(parents[place]).st_dev == device)
        if cluster.free(parent) < need * 1.05:
            left = cluster.free(parent) >> 20
            cluster.decline(server, f"it takes {need >> 20} MiB, and {parent} has {left} MiB left")
    return len(coming)


def _is_base(path: str) -> bool:
    return path.startswith("base/")


def _size(path: str) -> int:
    """Bytes of the file in the archive; 0 where it is missing, which the recovery finds."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _parent(place: str) -> str:
    place = os.path.dirname(place)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


def recover(step: Step, at: Restore) -> Step:
    """Carry out the step; return it with words on what was here before. Raises EvenkeelError, OSError.

    The cluster that is here stops first: it would archive to the place that the archive takes.
    """
    record, listed = _parts(step)
    server = _server(restore_point.server_of(record, at.system), record, listed)
    owner = server.owner or (0, 0)
    said = ""
    _make_place(server, owner)
    if cluster.postmaster(server.data):
        recovery.control(server._replace(owner=None, release=""), "stop", at.boot)
    if cluster.postmaster(server.data):
        raise EvenkeelError(f"postgresql {server.name}: the cluster that is here does not stop; nothing was replaced")
    lacking = archived.lacking(server, listed)
    if _is_foreign(server, record, listed) or not os.path.isdir(server.log) or not os.path.isdir(server.bases):
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at.system.now()))
        aside = f"{server.spec['archive']}.old-{stamp}"
        had = os.path.lexists(str(server.spec["archive"]))
        archived.make(server, listed, at.objects, owner, aside)
        said = f"; the archive that was here is kept in {aside}" if had else ""
    elif lacking.files:
        archived.add(server, lacking, at.objects, owner)
    recovery.verify(server, record, _SO_FAR)
    done = recovery.restore(server, replace(step, detail=dict(record)), at.boot, "")
    said += _sorts_otherwise(listed)
    return replace(done, why=done.why + said + ("" if at.boot else _proved(server)))


def complete(step: Step, at: Restore) -> Step:
    """Add to the archive of a cluster that is here what it lacks for the step, and verify what is still to be verified;
    the step alone. Raises EvenkeelError, OSError."""
    if VERIFY in step.detail:
        record = cast(Record, {key: value for key, value in step.detail.items() if key != VERIFY})
        recovery.verify(restore_point.server_of(record, at.system), record, _NOT_TOUCHED)
        return replace(step, detail=dict(record))
    if "listed" not in step.detail:
        return step
    record, listed = _parts(step)
    server = restore_point.server_of(record, at.system)
    found = os.stat(server.data)
    archived.add(server, archived.lacking(server, listed), at.objects, (found.st_uid, found.st_gid))
    recovery.verify(server, record, _SO_FAR)
    return replace(step, detail=dict(record), why=step.why + _sorts_otherwise(listed))


def _sorts_otherwise(listed: archived.Listed) -> str:
    """Words on indexes that have to be built again, because this host may sort text otherwise; empty where it does
    not, or where the copy does not tell."""
    here = archived.libc()
    if listed.libc in ("", here):
        return ""
    return (
        f"; its indexes on text were built by {listed.libc}, and this host has {here or 'another C library'}, which "
        "may sort otherwise: run REINDEX DATABASE in each of its databases"
    )


def _parts(step: Step) -> tuple[Record, archived.Listed]:
    """The record of the step, and the part of the archive that it may bring."""
    record = cast(Record, {key: value for key, value in step.detail.items() if key != "listed"})
    return record, archived.Listed(**step.detail["listed"])


def _make_place(server: cluster.Server, owner: tuple[int, int]) -> None:
    """Make the missing directories down to that of the data, as those of the owner.

    Each is given away by its descriptor: by its name, the owner of the directory above could lead elsewhere.
    """
    missing = []
    place = server.data
    while not os.path.lexists(place):
        missing.append(os.path.basename(place))
        place = os.path.dirname(place)
    fd = open_dir(os.fsencode(place))
    try:
        for name in reversed(missing):
            os.mkdir(name, 0o700, dir_fd=fd)
            below = os.open(name, DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
            place = os.path.join(place, name)
            cluster.refuse_exchanged(server, fd, place)
            os.fchmod(fd, 0o700 if place == server.data else 0o755)
            os.fchown(fd, *owner)
    finally:
        os.close(fd)


def _is_foreign(server: cluster.Server, record: Record, listed: archived.Listed) -> bool:
    """Whether a segment in the archive is of another cluster, or of another branch of this cluster: a spare that has
    served since an earlier recovery has gone its own way."""
    size = int(record["segment_size"])
    for name in sorted(os.listdir(server.log)) if os.path.isdir(server.log) else []:
        if re.fullmatch("[0-9A-F]{24}", name):
            try:
                with open_regular(f"{server.log}/{name}") as stream:
                    head = stream.read(64)
            except OSError:
                return True
            if wal.wrong_header(head, name, int(record["system"]), size).startswith("it is of the cluster"):
                return True
    return bool(archived.differing(server, listed))


def _proved(server: cluster.Server) -> str:
    """The words of the server on itself."""
    try:
        seen = server._replace(owner=None).read_state()
    except Refused as error:
        return f"; it was started, and does not answer now: {error.message}"
    timeline = int(seen["segment"][:8], 16)
    return f"; it runs as the cluster {seen['system']} on timeline {timeline} at {seen['inserted']}"
