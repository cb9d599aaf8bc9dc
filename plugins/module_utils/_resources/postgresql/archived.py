# SPDX-License-Identifier: GPL-3.0-or-later

"""The base and the log to a restore point, as contents that a checkpoint names and a copy of it holds.

The archive keeps them beside the store, so that they need no more room on the host. The hash of a base's file is in the
manifest of the base; each segment is hashed once. A recovery onto a spare makes the archive anew from the contents.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import cast

from ..._dataclasses import dataclass, field, replace
from ..._errors import Damaged, EvenkeelError, UsageError
from ..._host.durable import clone, fsync_dir, syncfs, write_all
from ..._host.hashing import hash_file
from ..._host.paths import open_file
from ..._store.objects import Hasher, Objects, Writer
from .. import json_line
from ..kind import Sink
from . import cluster, recovery, wal
from .restore_point import Record

_BASE = r"base (\S+?)(/?)(?: beside=([0-9a-f]{64}))?"
_LOG = r"wal ([0-9A-F]{24}|[0-9A-F]{8}\.history) beside=([0-9a-f]{64})"
_LOCALES = "select datcollate from pg_database union select datctype from pg_database"
_LOCALE = r"[A-Za-z0-9_.@-]{1,80}"
_MOST_LOCALES = 100
_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,60}"


@dataclass
class Listed:
    """The part of the archive that a checkpoint names. ``files``: path below the archive -> name of its content."""

    user: str = ""
    group: str = ""
    readable: bool = False  # The group may read the cluster (initdb --allow-group-access).
    libc: str = ""  # The C library, by which text is sorted; "" where it is not known.
    locales: list[str] = field(
        default_factory=list
    )  # The locales of the databases, without which the server does not start.
    folders: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def lines(server: cluster.Server, record: Record, sink: Sink) -> list[str]:
    """The lines that name the base and the log to the restore point::

        owner {"group": "postgres", "libc": "glibc 2.36", "locales": ["C.UTF-8"], "readable": false, "user": "postgres"}
        base <base>/<path> beside=<sha256>      a file of the base; the path is percent-encoded
        base <base>/<path>/                     a directory of the base
        wal <name> beside=<sha256>              a segment, or the history of a timeline

    Raises Damaged, naming the first part that is missing or damaged.
    """
    timeline = int(record["timeline"])
    try:
        if timeline > 1 and not isinstance(sink, Hasher):
            _keep_history(server, f"{timeline:08X}.history")
        _legs, names, text = recovery.needed(server, record)
        names += [f"{timeline:08X}.history"] if timeline > 1 else []
        sums = _Sums(server, sink)
        logs = [f"wal {name} beside={sums.of(name)}" for name in names]
        sums.save(names)
        base = [f"base {_quoted(one)}" for one in _base_lines(server, record["base"], text)]
    except Damaged as error:
        raise Damaged(
            f"postgresql: {server.name}: its archive does not lead to {record['point']}: {error.message}. Nothing was "
            "recorded; move a damaged file out of the archive, and the next checkpoint takes a new base"
        ) from error
    return [json_line.write("owner", _owner(server)), *base, *logs]


def _owner(server: cluster.Server) -> dict[str, object]:
    found = os.stat(server.data)
    names = {"user": pwd.getpwuid(found.st_uid).pw_name, "group": grp.getgrgid(found.st_gid).gr_name}
    locales: list[str] = []
    with suppress(EvenkeelError):  # Locales are worth a word at a recovery, and no failure now.
        locales = sorted(name for name in server.ask(_LOCALES) if re.fullmatch(_LOCALE, name))[:_MOST_LOCALES]
    return {**names, "readable": bool(found.st_mode & 0o040), "libc": libc(), "locales": locales}


def libc() -> str:
    """The C library of this host and its version, such as ``glibc 2.36``; empty where it is not known."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def _keep_history(server: cluster.Server, name: str) -> None:
    """Have the history of the timeline in the archive: the server does not archive one that began before archiving."""
    here, there = f"{server.data}/pg_wal/{name}", f"{server.log}/{name}"
    if os.path.exists(here) and not os.path.lexists(there):
        script = 'cp -- "$1" "$2.part" && sync -- "$2.part" && mv -nT -- "$2.part" "$2"'
        server.must(["/bin/sh", "-c", f"umask 077; {script}", "sh", here, there])
        fsync_dir(server.log)


def _quoted(line: tuple[bytes, str]) -> str:
    path, rest = line
    return urllib.parse.quote_from_bytes(path) + rest


def _base_lines(server: cluster.Server, base: str, text: bytes) -> Iterator[tuple[bytes, str]]:
    """(path below ``base/``, the rest of the line) of everything in the base, whose manifest is ``text``."""
    try:
        known = {
            bytes.fromhex(one["Encoded-Path"]) if "Encoded-Path" in one else one["Path"].encode(): one
            for one in json.loads(text)["Files"]
        }
        if any(one["Checksum-Algorithm"] != "SHA256" for one in known.values()):
            raise ValueError("it has other checksums than SHA256")
        sums = {path: str(one["Checksum"]) for path, one in known.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{server.bases}/{base}/backup_manifest cannot be read: {error}") from error
    sums[b"backup_manifest"] = hashlib.sha256(text).hexdigest()
    top = os.fsencode(f"{server.bases}/{base}")
    folders = [os.path.relpath(at, top) for at, _folders, _names in os.walk(top)]
    here = os.fsencode(base)
    yield from ((b"%s/%s/" % (here, one), "") for one in sorted(folders) if one != b".")
    yield from ((b"%s/%s" % (here, path), f" beside={sums[path]}") for path in sorted(sums))


class _Sums:
    """The hashes of archived files: a cache in the store, as that of looks at trees. It is a hint only."""

    def __init__(self, server: cluster.Server, sink: Sink) -> None:
        self._folder = server.log
        self._root = sink.objects.root if sink.objects is not None else ""
        self._writes = isinstance(sink, Writer)
        name = hashlib.sha256(os.fsencode(f"postgresql {server.log}")).hexdigest()
        self._path = os.path.join(self._root, "cache", name)
        self._known: dict[str, list[object]] = {}
        try:
            with open(self._path, "rb") as stream:
                self._known = dict(json.loads(stream.read()))
        except (OSError, ValueError, TypeError):
            pass  # Without a cache everything is read.

    def of(self, name: str) -> str:
        """The hash of the archived file. Raises Damaged where it cannot be read."""
        try:
            with open_file(os.fsencode(f"{self._folder}/{name}")) as stream:
                found = os.fstat(stream.fileno())
                key = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
                known = self._known.get(name)
                if not isinstance(known, list) or known[:-1] != key:
                    self._known[name] = [*key, hash_file(stream.fileno())[0]]
        except (OSError, UsageError) as error:
            why = error.message if isinstance(error, UsageError) else error.strerror
            raise Damaged(f"{self._folder}/{name}: {why}") from error
        return str(self._known[name][-1])

    def save(self, names: Sequence[str]) -> None:
        """Keep the hashes of these files for the next checkpoint."""
        if not self._root or not self._writes:
            return
        temporary = os.path.join(self._root, "tmp", f"sums-{os.getpid()}")
        try:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            with open(temporary, "w", encoding="ascii") as stream:
                json.dump({name: self._known[name] for name in names}, stream)
            os.rename(temporary, self._path)
        except OSError:
            return  # Then the next checkpoint reads the files again.


def paths(archive: str, lines: Sequence[str]) -> dict[str, str]:
    """Name of each content of the lines -> path of the file in the archive."""
    return {sha: f"{archive}/{path}" for path, sha in read(lines).files.items()}


def read(lines: Sequence[str]) -> Listed:
    """The part of the archive that the lines name; Damaged for a line that ``lines`` cannot have written."""
    found = Listed()
    for line in lines:
        word = line.partition(" ")[0]
        if word == "owner":
            with json_line.read(line) as (_word, record):
                found.user, found.group = str(record["user"]), str(record["group"])
                found.readable = record["readable"] is True
                found.libc = str(record.get("libc", ""))[:40]
                found.locales = [str(one) for one in cast("list[object]", record.get("locales") or [])][:_MOST_LOCALES]
                if not all(re.fullmatch(_LOCALE, one) for one in found.locales):
                    raise ValueError("no names of locales")
                if not re.fullmatch(_USER, found.user) or not re.fullmatch(_USER, found.group):
                    raise ValueError("no names of a user and a group")
        elif word == "wal":
            log = re.fullmatch(_LOG, line)
            if log is None:
                raise Damaged(f"this line of a manifest is refused: {line[:200]!r}; nothing was changed")
            found.files[f"wal/{log[1]}"] = log[2]
        elif word == "base":
            _read_base(line, found)
    return found


def _read_base(line: str, found: Listed) -> None:
    base = re.fullmatch(_BASE, line)
    path = os.fsdecode(urllib.parse.unquote_to_bytes(base[1])) if base else ""
    parts = path.split("/")
    good = base is not None and len(parts) > 1 and not {"", ".", ".."} & set(parts) and "\0" not in path
    if base is None or not good or wal.Base.parse(parts[0]) is None or bool(base[2]) == bool(base[3]):
        raise Damaged(f"this line of a manifest is refused: {line[:200]!r}; nothing was changed")
    if base[3]:
        found.files[f"base/{path}"] = base[3]
    else:
        found.folders.append(f"base/{path}")


def lacking(server: cluster.Server, listed: Listed) -> Listed:
    """The part of the listed that the archive lacks, by its names (see ``differing``). A base is there or not as a
    whole."""

    def is_there(path: str) -> bool:
        top, name = path.split("/")[:2]
        folder = f"{server.spec['archive']}/{top}/{name}"
        return os.path.lexists(f"{folder}/backup_manifest" if top == "base" else folder)

    files = {path: sha for path, sha in listed.files.items() if not is_there(path)}
    return replace(listed, files=files, folders=[path for path in listed.folders if not is_there(path)])


def differing(server: cluster.Server, listed: Listed) -> str:
    """The first segment or history of the archive that has another content than the listed one, as its path below the
    archive; empty where there is none. Such an archive is that of another branch, which has taken the same timeline."""
    logs = [path for path in listed.files if path.startswith("wal/")]
    for path in sorted(logs, key=lambda one: (not one.endswith(".history"), one)):
        try:
            with open_file(os.fsencode(f"{server.spec['archive']}/{path}")) as stream:
                if hash_file(stream.fileno())[0] != listed.files[path]:
                    return path
        except FileNotFoundError:
            continue
        except (OSError, UsageError):
            return path
    return ""


def make(server: cluster.Server, listed: Listed, objects: Objects, owner: tuple[int, int], aside: str) -> None:
    """Make the archive anew from the contents in the store, durably, and put an older archive ``aside``. A kill leaves
    no half archive. Raises EvenkeelError, OSError."""
    archive = str(server.spec["archive"])
    new = _filled(server, listed, objects, owner)
    if os.path.lexists(archive):
        os.rename(archive, aside)
    os.rename(new, archive)
    fsync_dir(os.path.dirname(archive))


def add(server: cluster.Server, listed: Listed, objects: Objects, owner: tuple[int, int]) -> None:
    """Add the contents to the archive, durably, and never over a file that it has. Raises EvenkeelError, OSError."""
    archive = str(server.spec["archive"])
    new = _filled(server, listed, objects, owner)
    for folder in ("base", "wal"):
        names = sorted(os.listdir(f"{new}/{folder}"))
        for at in range(0, len(names), 500):
            paths = [f"{new}/{folder}/{name}" for name in names[at : at + 500]]
            server.must(["mv", "-n", "-t", f"{archive}/{folder}/", "--", *paths], cluster.LONG)
        fsync_dir(f"{archive}/{folder}")
    shutil.rmtree(new)


def _filled(server: cluster.Server, listed: Listed, objects: Objects, owner: tuple[int, int]) -> str:
    """The path of a new directory with the contents, which are durable.

    It is root's until it is whole, so that its owner cannot lead elsewhere what root writes.
    """
    new = f"{server.spec['archive']}.new"
    if os.path.lexists(new):
        shutil.rmtree(new)  # A kill has left it.
    os.mkdir(new, 0o700)
    top = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        cluster.refuse_exchanged(server, top, new)
        root = f"/proc/self/fd/{top}"
        bases = {"/".join(path.split("/")[:2]) for path in listed.files if path.startswith("base/")}
        for folder in ["wal", "base", *sorted(bases), *sorted(listed.folders)]:
            os.mkdir(f"{root}/{folder}", 0o700)
            os.chown(f"{root}/{folder}", *owner)
            os.chmod(f"{root}/{folder}", 0o750 if listed.readable and folder.startswith("base/") else 0o700)
        for path, sha in listed.files.items():
            _put(f"{root}/{path}", sha, objects, owner)
            os.chmod(f"{root}/{path}", 0o640 if listed.readable and path.startswith("base/") else 0o600)
        os.fchown(top, *owner)
        syncfs(top)
    finally:
        os.close(top)
    return new


def _put(path: str, sha: str, objects: Objects, owner: tuple[int, int]) -> None:
    """Write the content to the new file, sharing its blocks with the store where the file system can."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        source = objects.loose_stream(sha)
        shared = False
        if source is not None:
            with source:
                shared = clone(source.fileno(), fd)
        if not shared:
            for chunk in objects.read(sha):
                write_all(fd, chunk)
        os.fchown(fd, *owner)
    finally:
        os.close(fd)
