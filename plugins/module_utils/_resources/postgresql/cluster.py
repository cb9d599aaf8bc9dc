# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster of PostgreSQL: questions to its server and its files, and the reasons to refuse to record it or put it
back."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, cast

from ..._errors import EvenkeelError, Refused
from ..._host.commands import Completed, environment
from ..._host.mounts import free_bytes, mounts
from ..._host.processes import arguments, user_ids
from ..._host.system import System
from ..._host.trust import open_regular, read_small, stranger, trusted
from . import wal

# Seconds for a command that answers at once, and for a command that copies or reads a whole cluster.
QUICK, LONG = 30.0, 86400.0
# The file in which Patroni keeps the settings of its cluster, as it last read them.
PATRONI = "patroni.dynamic.json"
# The most bytes that are read of a small file in the owner's directories.
LONGEST = 1 << 20
# The most bytes of the manifest of a base: that is more than half a million files.
_LONGEST_MANIFEST = 128 << 20
_OLDEST = 13
# Programs that carry base backups and the log to another place.
_BACKUPS = re.compile(r"pgbackrest|barman|wal-g|wal-e|pg_probackup", re.IGNORECASE)
_LOOK = """select json_build_object(
'version', current_setting('server_version_num')::int / 10000, 'data', current_setting('data_directory'),
'system', (select system_identifier::text from pg_control_system()), 'standby', pg_is_in_recovery(),
'segment_size', (select setting::bigint from pg_settings where name = 'wal_segment_size'),
'archive_mode', current_setting('archive_mode'), 'wal_level', current_setting('wal_level'),
'command', concat(current_setting('archive_library', true), ' ', current_setting('archive_command')),
'failing', (select last_failed_wal from pg_stat_archiver
    where last_failed_time > coalesce(last_archived_time, '-infinity')),
'tablespaces', (select count(*) from pg_tablespace where spcname not in ('pg_default', 'pg_global')),
'segment', case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_insert_lsn()) end,
'inserted', case when not pg_is_in_recovery() then pg_current_wal_insert_lsn() end,
'flushed', case when not pg_is_in_recovery() then pg_current_wal_flush_lsn() end)"""


class Seen(TypedDict):
    """The state of a running server, as the server tells it. A standby tells no position in the log."""

    system: str
    version: str
    standby: bool
    data: str
    tablespaces: int
    archive_mode: str
    wal_level: str
    command: str
    failing: str | None
    segment_size: int
    segment: str
    inserted: str
    flushed: str


class Server(NamedTuple):
    """A cluster as declared, and the questions to it. All commands run as the owner of its data directory.

    ``owner`` (user id, group id) and ``release`` are those of a cluster that this host is still to get.
    """

    spec: dict[str, str]
    system: System
    owner: tuple[int, int] | None = None
    release: str = ""

    @property
    def data(self) -> str:
        return str(self.spec["data"])

    @property
    def log(self) -> str:
        return f"{self.spec['archive']}/wal"

    @property
    def bases(self) -> str:
        return f"{self.spec['archive']}/base"

    @property
    def stage(self) -> str:
        """The directory in which a copy is recovered, and which holds the old data for a moment after the
        exchange."""
        return self.data + ".evenkeel-new"

    @property
    def name(self) -> str:
        return str(self.spec["cluster"] or self.data)

    def run(self, argv: Sequence[str], timeout: float = QUICK) -> Completed:
        """Run the command as the owner, who gets no variable of ours. PostgreSQL's own commands come from the directory
        of their version."""
        owner = self.user()
        who: list[str] = []
        given = {"PATH": environment()["PATH"], "LC_ALL": "C.UTF-8"}
        if owner != os.geteuid():
            entry = pwd.getpwuid(owner)
            who = ["setpriv", f"--reuid={owner}", f"--regid={entry.pw_gid}", "--init-groups", "--"]
            given["HOME"] = entry.pw_dir
        # First the variables: the owner can read those of a process that has become the owner's. The tools look for
        # each other from a directory that their user can enter.
        clean = ["env", "-i", "--chdir=/", *(f"{name}={value}" for name, value in given.items())]
        return self.system.run([*clean, *who, self.found(argv[0]), *argv[1:]], timeout)

    def user(self) -> int:
        """The id of the user who owns the cluster."""
        return self.owner[0] if self.owner else os.stat(self.data).st_uid

    def must(self, argv: Sequence[str], timeout: float = QUICK) -> str:
        """The output of the command; EvenkeelError where it fails."""
        done = self.run(argv, timeout)
        if done.rc != 0:
            raise EvenkeelError(f"postgresql {self.name}: {os.path.basename(argv[0])} failed: {done.words}")
        return done.out

    def found(self, command: str) -> str:
        version = self.version()
        for folder in (f"/usr/lib/postgresql/{version}/bin", f"/usr/pgsql-{version}/bin"):
            if os.path.exists(f"{folder}/{command}"):
                return f"{folder}/{command}"
        return command

    def version(self) -> str:
        if self.release:
            return self.release
        try:
            found = read_small(f"{self.data}/PG_VERSION", 64)[0].decode("ascii").strip()
            if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", found):
                raise ValueError(found)
            return found
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "its PG_VERSION is none"
            raise Refused(
                f"postgresql: {self.data} is no data directory of PostgreSQL ({why}); nothing was changed"
            ) from error

    def identifier(self) -> str:
        """The cluster's identity, the first word of its control file; empty where the file is gone: pg_upgrade with
        links takes it away."""
        try:
            with open_regular(f"{self.data}/global/pg_control") as stream:
                return str(int.from_bytes(stream.read(8), sys.byteorder))
        except FileNotFoundError:
            return ""

    def address(self) -> tuple[str, str] | None:
        """(directory of the socket, port) of the server that runs on the data directory; None where no server
        does."""
        words = postmaster(self.data)
        return (words[4], words[3]) if len(words) > 7 and words[7].strip() == "ready" else None

    def ask(self, *statements: str) -> list[str]:
        """The lines of the server's answer to the statements. Raises Refused where the server does not run or does
        not answer."""
        address = self.address()
        if address is None:
            raise Refused(f"postgresql: {self.name} is not running; start it, then run again. Nothing was changed")
        words = [word for statement in statements for word in ("-c", statement)]
        argv = ["psql", "-h", address[0], "-p", address[1], "-d", "postgres", "-XAtqw", "-v", "ON_ERROR_STOP=1", *words]
        done = self.run(argv)
        if done.rc != 0:
            raise Refused(f"postgresql: {self.name} does not answer its owner: {done.words}")
        return done.out.splitlines()

    def read_state(self) -> Seen:
        """The state of the server. Raises Refused as ``ask`` does."""
        return cast(Seen, dict(json.loads(" ".join(self.ask(_LOOK)))))

    def seen(self) -> Seen | None:
        """The state of the server; None where it does not run or does not answer, which must not hinder a
        rollback."""
        try:
            return self.read_state()
        except Refused:
            return None

    def history(self, timeline: int) -> list[tuple[int, int]] | None:
        """The timelines before this timeline (see ``wal.forks``); None where its history is missing or damaged."""
        if timeline == 1:
            return []
        # The archive first: a recovery replaces it before the data.
        for folder in (self.log, f"{self.data}/pg_wal"):
            try:
                return wal.forks(read_small(f"{folder}/{timeline:08X}.history", LONGEST)[0].decode("utf-8", "replace"))
            except (OSError, ValueError):
                continue
        return None

    def taken(self) -> list[wal.Base]:
        """The base backups in the archive."""
        return [base for base in map(wal.Base.parse, os.listdir(self.bases)) if base is not None]

    def archived(self) -> set[str]:
        """The segments that are in the archive, or will be. The server marks a segment from another server as done
        although it is not in the archive.

        A segment moves from the cluster to the archive, and the directories are read in this order, so that no
        segment is missed."""
        here = os.listdir(f"{self.data}/pg_wal")
        done = os.listdir(f"{self.data}/pg_wal/archive_status")
        return {name for name in here if f"{name}.done" not in done} | set(os.listdir(self.log))

    def control(self) -> dict[str, str]:
        """The output of pg_controldata: label -> value."""
        lines = self.must(["pg_controldata", "-D", self.data]).splitlines()
        return {key: value.strip() for key, _colon, value in (line.partition(":") for line in lines)}


def manifest(server: Server, base: str) -> bytes:
    """The text of the manifest of a base. OSError where it cannot be read, and where it is longer than we read."""
    return read_small(f"{server.bases}/{base}/backup_manifest", _LONGEST_MANIFEST)[0]


def postmaster(folder: str) -> list[str]:
    """The lines of the pid file, where the process that wrote it still works in the directory; else an empty list."""
    try:
        words = read_small(f"{folder}/postmaster.pid", 4096)[0].decode().splitlines()
        return words if _works_in(abs(int(words[0])), os.path.realpath(folder)) else []
    except (OSError, ValueError, IndexError):
        return []


def _works_in(pid: int, folder: str) -> bool:
    """Whether the process works in the directory, as a server does in its data directory."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") == folder
    except PermissionError:  # Root in a container need not be allowed to see that; the command line names it as well.
        return os.fsencode(folder) in arguments(pid)


# -- reasons to refuse


def refuse(server: Server) -> None:
    """Raise Refused for a cluster that can neither be recorded nor put back. Reads only files."""
    if int(server.version().split(".")[0]) < _OLDEST:
        decline(server, f"it is of version {server.version()}; base backups can be verified from {_OLDEST} on")
    refuse_place(server, os.stat(server.data).st_uid)
    data = server.data
    if os.path.islink(f"{data}/pg_wal"):
        decline(server, "its pg_wal is a symbolic link to another place, which a rollback could not exchange with it")
    if os.listdir(f"{data}/pg_tblspc"):
        decline(server, "it has tablespaces, which lie outside of its directory; move their tables to pg_default")
    if os.path.exists(f"{data}/standby.signal"):
        decline(server, "it is a standby; the primary's checkpoint is the one to go back to")
    refuse_programs(server)


def refuse_place(server: Server, owner: int) -> None:
    """Raise Refused for directories that cannot be exchanged, or that users other than the owner could exchange."""
    data = server.data
    if os.path.realpath(data) != data:
        decline(server, f"{data} is a symbolic link or lies behind one; declare {os.path.realpath(data)} as data")
    for at in (os.fsdecode(one.point) for one in mounts()):
        if (at + "/").startswith(data + "/"):
            decline(
                server, f"{at} is a mount point, and a directory is exchanged as a whole; move the cluster below it"
            )
    owners = {*trusted(), owner}
    for place in (data, str(server.spec["archive"])):
        # Both directories are trusted, and a recovery copies their contents. The check of a name below them includes
        # the directories themselves.
        why = stranger(f"{place}/any", owners)
        if why:
            decline(server, f"{why}, and so can exchange {place}; it has to be root's or its owner's alone")


def refuse_programs(server: Server) -> None:
    """Raise Refused while Patroni works against us, and where a program that we need is missing."""
    if _patroni({0, server.user()}) and not _paused(server.data):
        decline(server, "Patroni runs, and would act against it; `patronictl pause` first")
    for command in ("psql", "pg_basebackup", "pg_verifybackup", "pg_waldump", "pg_controldata", "postgres"):
        found = server.found(command)
        if not os.path.isabs(found) and shutil.which(found) is None:
            decline(server, f"{command} is not installed here; install PostgreSQL's server and client programs")


def refuse_exchanged(server: Server, fd: int, path: str) -> None:
    """Raise EvenkeelError where the directory is not the new one that we made at the path: its name may be that of
    another by now, which must not be given away."""
    if os.fstat(fd).st_uid != os.geteuid() or os.listdir(fd):
        raise EvenkeelError(f"postgresql {server.name}: another user has put something at {path}; run again")


def decline(server: Server, why: str, so_far: str = "Nothing was changed") -> None:
    raise Refused(f"postgresql: {server.name}: {why}. {so_far}")


def _patroni(users: set[int]) -> bool:
    """Whether Patroni runs as one of these users. Any other can give a process that name, and no rights to go with
    it."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        found = user_ids(pid)
        if found and found <= users:
            words = [os.path.basename(word) for word in arguments(pid)[:4]] or [b""]
            if {b"patroni", b"patroni.py"} & set(words if words[0].startswith(b"python") else words[:1]):
                return True
    return False


def _paused(data: str) -> bool:
    """Whether Patroni's settings in the data directory say that its cluster is paused."""
    try:
        return json.loads(read_small(f"{data}/{PATRONI}", LONGEST)[0]).get("pause") is True
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def refuse_live(server: Server, seen: Seen) -> None:
    """Raise Refused for a running server that cannot be recorded."""
    if seen["standby"]:
        decline(server, "it is a standby; take the checkpoint on the primary")
    if os.path.realpath(seen["data"]) != server.data:
        decline(server, f"its data directory is {seen['data']}; declare that as data")
    if seen["tablespaces"]:
        decline(server, "it has tablespaces, which lie outside of its directory; move their tables to pg_default")
    if seen["archive_mode"] == "off" or seen["wal_level"] == "minimal":
        mode, level = seen["archive_mode"], seen["wal_level"]
        decline(server, f"archive_mode is {mode} and wal_level {level}; the role postgresql sets up archiving")
    if seen["failing"]:
        decline(server, f"archiving fails at {seen['failing']}; the server's log says why")
    if not os.path.isdir(server.log) or not os.path.isdir(server.bases):
        decline(
            server, f"{server.log} or {server.bases} is missing; the role postgresql makes them and sets up archiving"
        )


def other_backup(seen: Seen) -> str:
    """The program that looks after the cluster's log already, by its name in the setting; empty where none does."""
    found = _BACKUPS.search(seen["command"])
    return found[0] if found else ""


def free(path: str) -> int:
    """Bytes that are free on the file system of the path."""
    return free_bytes(os.statvfs(path))
