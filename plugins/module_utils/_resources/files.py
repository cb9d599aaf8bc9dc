# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``files``: trees as they were, down to owner, mode, times, ACLs, xattrs, links and holes."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._errors import Damaged, EvenkeelError, UsageError
from .._store.durable import inode_flags
from .._store.objects import SMALL, Hasher, Writer
from .._store.tree import ancestors, check_path, mount_points, open_dir
from .entry import ABOVE, ABSENT, EARLY, FLAGS, PINNED, TYPES, Entry
from .step import Step

# Our own traces inside a declared tree: staging areas, and the units of the dead-man.
_OWN_NAMES = (
    b".evenkeel-*",
    b"evenkeel-deadman*.service",
    b"evenkeel-deadman*.timer",
    b"evenkeel-boot*.service",
)
# File systems that hold no data of their own; a mount of one is left out of a tree.
_PSEUDO = {
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "debugfs",
    "tracefs",
    "securityfs",
}
_TRIES = 3


def check(spec: dict[str, Any]) -> dict[str, Any]:
    """The declaration with all its keys; UsageError names the bad one."""
    unknown = set(spec) - {"paths", "exclude"}
    if unknown:
        raise UsageError(f"files: unknown key {sorted(unknown)[0]!r}; it takes paths and exclude")
    for key in ("paths", "exclude"):
        value = spec.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise UsageError(f"files: {key} must be a list of texts, not {value!r}")
    if not spec.get("paths"):
        raise UsageError("files: paths is empty; name at least one absolute path")
    paths = {check_path(os.fsencode(one.rstrip("/") or "/")) for one in spec["paths"]}
    if b"/" in paths:
        raise UsageError("files: / cannot be protected as a whole; name the trees that matter, such as /etc")
    return {
        "paths": sorted(os.fsdecode(path) for path in paths),
        "exclude": sorted(set(spec.get("exclude", []))),
    }


@dataclass
class Scan:
    """What is on disk now: entries sorted by path, and directories that hold something excluded."""

    entries: list[Entry] = field(default_factory=list)
    holding: set[bytes] = field(default_factory=set)

    def lines(self) -> list[str]:
        return [entry.line() for entry in self.entries]


class _Walk:
    def __init__(self, spec: dict[str, Any], sink: Writer | Hasher, skip: Sequence[str]) -> None:
        self.sink = sink
        self.found: dict[bytes, Entry] = {}
        self.holding: set[bytes] = set()
        self.inodes: dict[tuple[int, int], list[bytes]] = {}
        self.patterns = [os.fsencode(pattern) for pattern in spec["exclude"]]
        self.skipped = {os.fsencode(path) for path in skip}
        self.pseudo = {path for path, kind in mount_points().items() if kind in _PSEUDO}

    def excluded(self, path: bytes, name: bytes) -> bool:
        if path in self.skipped or path in self.pseudo or any(fnmatch.fnmatchcase(name, own) for own in _OWN_NAMES):
            return True
        return any(fnmatch.fnmatchcase(path if b"/" in one else name, one) for one in self.patterns)

    def root(self, path: bytes) -> None:
        """A declared path, and the directories above it."""
        try:
            for above in ancestors(path):
                fd = open_dir(above, path)
                try:
                    if above not in self.found:
                        # Without its time, which changes with whatever else happens in it.
                        self.found[above] = _entry(above, os.fstat(fd), ABOVE, _xattrs(fd))._replace(mtime=0)
                finally:
                    os.close(fd)
            fd = open_dir(os.path.dirname(path))
        except (FileNotFoundError, NotADirectoryError):
            self.found[path] = Entry(path, ABSENT)
            return
        try:
            self.visit(path, os.path.basename(path), fd)
        except FileNotFoundError:
            self.found[path] = Entry(path, ABSENT)
        finally:
            os.close(fd)

    def visit(self, path: bytes, name: bytes, parent: int) -> None:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        form = stat.S_IFMT(info.st_mode)
        if form == stat.S_IFDIR:
            self.directory(path, name, parent)
        elif form == stat.S_IFREG:
            self.file(path, name, parent)
        else:
            target = os.readlink(name, dir_fd=parent) if form == stat.S_IFLNK else b""
            # An O_PATH descriptor has no xattr calls; the name below the parent's descriptor has.
            xattrs = _xattrs(f"/proc/self/fd/{parent}/".encode() + name)
            self.add(_entry(path, info, TYPES[form], xattrs)._replace(target=target), info)

    def directory(self, path: bytes, name: bytes, parent: int) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            entry = _entry(path, os.fstat(fd), "d", _xattrs(fd))
            self.found[path] = entry._replace(flags=inode_flags(fd) & FLAGS)
            for below in sorted(os.fsencode(one) for one in os.listdir(fd)):
                child = path + b"/" + below
                if self.excluded(child, below):
                    self.holding.update([path, *ancestors(path)])
                    continue
                try:
                    self.visit(child, below, fd)
                except FileNotFoundError:
                    continue  # Gone since it was listed: then it is not part of this moment.
        finally:
            os.close(fd)

    def file(self, path: bytes, name: bytes, parent: int) -> None:
        """A regular file, read again when it changed meanwhile; UsageError when it never holds still (I11)."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _attempt in range(_TRIES):
            fd = os.open(name, flags, dir_fd=parent)
            try:
                before = os.fstat(fd)
                if not stat.S_ISREG(before.st_mode):
                    continue
                xattrs, word = _xattrs(fd), inode_flags(fd) & FLAGS
                if before.st_size <= SMALL:
                    data = os.read(fd, SMALL + 1)
                    sha, size = self.sink.add(data) if len(data) == before.st_size else "", len(data)
                else:
                    sha, size = self.sink.add_file(fd)
                # The count of blocks alone can lag behind while the kernel allocates them.
                sparse = before.st_blocks * 512 < before.st_size and os.lseek(fd, 0, os.SEEK_HOLE) < before.st_size
                after = os.fstat(fd)
            finally:
                os.close(fd)
            if size == before.st_size and _moment(before) == _moment(after):
                entry = _entry(path, before, "f", xattrs)
                self.add(entry._replace(size=size, sha256=sha, sparse=sparse, flags=word), before)
                return
        raise EvenkeelError(
            f"{os.fsdecode(path)} is unstable: it changed each of the {_TRIES} times it was read; "
            "exclude it, or stop what writes it while the checkpoint is taken"
        )

    def add(self, entry: Entry, info: os.stat_result) -> None:
        self.found[entry.path] = entry
        if info.st_nlink > 1:
            self.inodes.setdefault((info.st_dev, info.st_ino), []).append(entry.path)


def scan(spec: dict[str, Any], sink: Writer | Hasher, skip: Sequence[str] = ()) -> Scan:
    """Read the declared trees, contents into ``sink``; ``skip`` are paths that are never part of them (the store).

    Raises UsageError for a path that leads through a symlink or cannot be read, EvenkeelError for an unstable file.
    """
    walk = _Walk(spec, sink, skip)
    for path in spec["paths"]:
        try:
            walk.root(os.fsencode(path))
        except PermissionError as error:
            raise UsageError(f"{path} cannot be read: {error}; run with the rights to read it (become)") from error
    for paths in walk.inodes.values():
        first, *others = sorted(set(paths))
        for other in others:
            walk.found[other] = walk.found[other]._replace(link=first)
    return Scan([walk.found[path] for path in sorted(walk.found)], walk.holding)


def _entry(path: bytes, info: os.stat_result, kind: str, xattrs: tuple[tuple[str, bytes], ...]) -> Entry:
    rdev = info.st_rdev if kind in "cb" else 0
    return Entry(
        path,
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        rdev=rdev,
        xattrs=xattrs,
    )


def _moment(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _xattrs(where: int | bytes) -> tuple[tuple[str, bytes], ...]:
    """Name and value of all that can be read, ACLs among them; none where the file system has none."""
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError:
        return ()
    return tuple((name, os.getxattr(where, name, follow_symlinks=follow)) for name in sorted(names))


def recorded(lines: Sequence[str], spec: dict[str, Any]) -> list[Entry]:
    """The entries that the lines are, if a scan of ``spec`` could have written them. Pure.

    Raises Damaged for a path outside of the declared ones, below what is no directory, relative or out of order, and
    for a hard link to what is not recorded: a doctored checkpoint reaches nothing that was not declared.
    """
    declared = {os.fsencode(path) for path in check(spec)["paths"]}
    above = {one for path in declared for one in ancestors(path)}
    found: dict[bytes, Entry] = {}
    last = b""
    for line in lines:
        entry = Entry.parse(line)
        path = entry.path
        try:
            check_path(path)
        except UsageError as error:
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}: {error.message}") from error
        parent = found.get(os.path.dirname(path))
        first = found.get(entry.link)
        wrong = ""
        if path <= last:
            wrong = "it is out of order"
        elif entry.type == ABOVE and path in above:
            if path != b"/" and (parent is None or parent.type not in ("d", ABOVE)):
                wrong = "it lies below what is no directory"
        elif path not in declared and (entry.type in (ABOVE, ABSENT) or parent is None or parent.type == ABOVE):
            wrong = "it lies outside of the declared paths"
        elif entry.type != ABSENT and (parent is None or parent.type not in ("d", ABOVE)):
            wrong = "it lies below what is no directory"
        elif entry.link and (first is None or first.type != entry.type or first.link or entry.type == "d"):
            wrong = "it is a hard link to what is not recorded"
        if wrong:
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}: {wrong}; nothing was changed")
        found[path] = entry
        last = path
    return list(found.values())


def compare(then: Sequence[Entry], now: Scan) -> list[Step]:
    """What a rollback does: from the scan of now back to the entries of then. Pure.

    Each step's detail has ``op`` and the manifest line of what shall be: ``put`` a new object in place, ``swap`` it
    with one of another type, ``meta`` set attributes of what stays, ``delete``. In an order that can be carried out:
    parents before children, deletions after, from the leaves up.
    """
    live = {entry.path: entry for entry in now.entries}
    wanted = {entry.path: entry for entry in then}
    replaced = _linked(then, live)
    steps: list[Step] = []
    gone: set[bytes] = set()
    for entry in then:
        found = live.get(entry.path)
        path = os.fsdecode(entry.path)
        if entry.type == ABSENT or (entry.type == ABOVE and found is not None and found.type in ("d", ABOVE)):
            continue
        if found is not None and found.type == ABSENT:
            found = None
        why = entry.differs(found)
        if entry.path in replaced and not why:
            why = ["hard link"]
        if not why:
            continue
        detail: dict[str, Any] = {"line": entry.line()}
        if found is None:
            steps.append(Step("files", "create", path, "", dict(detail, op="put")))
        elif found.type != entry.type:
            if found.type == "d":
                if entry.path in now.holding:
                    raise UsageError(
                        f"{path} has become a directory that holds excluded files; nothing was changed. "
                        "Move them away, then run again"
                    )
                gone.add(entry.path)
            op = "swap" if found.type == "d" or entry.type in ("d", ABOVE) else "put"
            steps.append(Step("files", "replace", path, ", ".join(why), dict(detail, op=op)))
        elif entry.type == "d" or (entry.path not in replaced and _in_place(entry, found, why)):
            steps.append(Step("files", "attributes", path, ", ".join(why), dict(detail, op="meta")))
        else:
            steps.append(Step("files", "replace", path, ", ".join(why), dict(detail, op="put")))
    return steps + _deletions(live, wanted, now.holding, gone)


def swapped(
    steps: Sequence[Step], then: Sequence[Entry], now: Scan, spec: dict[str, Any], mounts: Collection[bytes]
) -> list[Step]:
    """The steps with one ``swap`` for each declared directory that can be put back as a whole. Pure.

    It cannot where it holds a mount or something excluded, shares an inode with a file elsewhere, or where an
    immutable or append-only flag is in the way. The step's ``tree`` are the manifest lines of all that is in it.
    """
    live = {entry.path: entry for entry in now.entries}
    found = list(steps)
    for root in map(os.fsencode, spec["paths"]):
        inside = root + b"/"
        tree = [entry for entry in then if (entry.path + b"/").startswith(inside)]
        below = [step for step in found if os.fsencode(step.target).startswith(inside)]
        old = live.get(root)
        if (
            not below
            or old is None
            or not tree
            or old.type != "d"
            or tree[0].type != "d"
            or old.flags & PINNED
            or any(entry.flags & PINNED for entry in tree)
            or root in now.holding
            or any((mount + b"/").startswith(inside) for mount in mounts)
            or any(entry.link and entry.path.startswith(inside) != entry.link.startswith(inside) for entry in then)
        ):
            continue
        detail = {"op": "swap", "line": tree[0].line(), "tree": [entry.line() for entry in tree[1:]]}
        first = found.index(below[0])
        found = [step for step in found if not (os.fsencode(step.target) + b"/").startswith(inside)]
        found.insert(first, Step("files", "swap", os.fsdecode(root), f"{len(below)} paths in it differ", detail))
    return found


def _in_place(entry: Entry, live: Entry, why: Sequence[str]) -> bool:
    """Whether all that differs can be set on the object that is there."""
    return set(why) <= {"time", "flags"} and not (entry.flags ^ live.flags) & EARLY


def _linked(then: Sequence[Entry], live: dict[bytes, Entry]) -> set[bytes]:
    """Paths that must be replaced because another name of their inode is: the names stay one inode."""
    groups: dict[bytes, list[Entry]] = {}
    for entry in then:
        if entry.link:
            groups.setdefault(entry.link, []).append(entry)
    recorded = {entry.path: entry for entry in then}
    replaced: set[bytes] = set()
    for first, others in groups.items():
        members = [recorded[first], *others] if first in recorded else others
        if any(member.differs(live.get(member.path)) for member in members):
            replaced.update(member.path for member in members)
    return replaced


def _deletions(
    live: dict[bytes, Entry], wanted: dict[bytes, Entry], holding: set[bytes], gone: set[bytes]
) -> list[Step]:
    """A step for each topmost tree that was not there; directories that hold excluded files stay."""
    steps: list[Step] = []
    for path in sorted(live):
        entry, known = live[path], wanted.get(path)
        if entry.type in (ABOVE, ABSENT) or (known is not None and known.type != ABSENT):
            continue
        if any(above in gone for above in ancestors(path)):
            continue
        if entry.type == "d":
            if path in holding:
                continue
            gone.add(path)
        steps.append(Step("files", "delete", os.fsdecode(path), "was not there", {"op": "delete"}))
    return steps[::-1]


def directories(then: Sequence[Entry], steps: Sequence[Step]) -> list[str]:
    """Manifest lines of the directories whose attributes are set last, from the leaves up: their times change
    with every name that comes and goes in them."""
    known = {entry.path: entry for entry in then if entry.type in ("d", ABOVE)}
    touched: set[bytes] = set()
    for step in steps:
        path = os.fsencode(step.target)
        parent = os.path.dirname(path)
        if parent in known and known[parent].type == "d" and step.detail["op"] != "meta":
            touched.add(parent)
        if path in known and step.detail["op"] != "delete":
            touched.add(path)
    return [known[path].line() for path in sorted(touched, reverse=True)]
