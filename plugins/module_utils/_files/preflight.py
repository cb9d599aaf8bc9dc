# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths that cannot be put back now, found before the first path changes: mounts, immutable files, ACLs, room."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from .._errors import EvenkeelError
from .._host.durable import inode_flags
from .._host.mounts import free_bytes, mount_of, mount_points, mounts, visible
from .._host.paths import Parents, ancestors, opened
from .._store.objects import SMALL
from .entry import PINNED, Entry
from .making import no_place_for
from .step import META, PathStep

_CAP_LINUX_IMMUTABLE = 9
# File systems that can share data between files.
_SHARING = {"btrfs", "xfs", "bcachefs"}
MOUNTED = "it is a mount point or holds one, and cannot be replaced while it is mounted; unmount it"
NO_ROOM = "no room"


def preflight(
    steps: Sequence[PathStep], directories: Sequence[Entry], away: Mapping[str, str], root: str
) -> dict[str, str]:
    """Target -> why, for each step that cannot be carried out now. Only looks.

    ``away``: mount points of which nothing at or below them can be put back, and why. ``root``: that of the store.
    """
    found: dict[str, str] = {}
    made = made_by(steps)
    mounted = {path for one in mount_points() for path in (one, *ancestors(one))}
    checks = _Preflight(mounted, made, {entry.path for entry in directories}, _may_unpin())
    missing = [(os.fsencode(one), why) for one, why in away.items()]
    with Parents() as parents:
        for step in steps:
            why = step.blocked
            why = why or next((words for one, words in missing if (step.path + b"/").startswith(one + b"/")), "")
            try:
                why = why or checks.refuses(step, parents)
            except (OSError, EvenkeelError) as error:
                why = getattr(error, "message", "") or str(error)
            if why:
                found[step.target] = why
    found.update(short_of_room([step for step in steps if step.target not in found], root))
    return {**found, **below(steps, found)}


def below(steps: Sequence[PathStep], blocked: Collection[str]) -> dict[str, str]:
    """Target -> why, for each path that cannot be made because a directory above it cannot be made. Pure."""
    gone = {os.fsencode(one) for one in blocked} & made_by(steps)
    found = {}
    for step in steps if gone else ():
        above = next((one for one in ancestors(step.path) if one in gone), None)
        if above is not None:
            found[step.target] = f"{os.fsdecode(above)}, in which it lies, cannot be made"
    return found


def made_by(steps: Sequence[PathStep]) -> set[bytes]:
    """The directories that the steps make. Pure."""
    return {step.path for step in steps if step.makes_directory}


class _Preflight(NamedTuple):
    """``mounted``: mount points, and the directories above them. ``made``: directories that steps make. ``ours``:
    directories that get their own attributes at the end. ``free``: whether immutable and append-only can be taken
    off."""

    mounted: set[bytes]
    made: set[bytes]
    ours: set[bytes]
    free: bool

    def refuses(self, step: PathStep, parents: Parents) -> str:
        """Why this step cannot be carried out, in words; empty when it can."""
        path, parent = step.path, os.path.dirname(step.path)
        if step.op != META:
            if path in self.mounted and step.action != "create":
                return MOUNTED
            if parent not in self.made:
                fd, _name = parents.of(path)
                # The flag is taken off on the way, and set as recorded with the attributes of the directories.
                if inode_flags(fd) & PINNED and not (self.free and parent in self.ours):
                    return _pinned(parent, " and is not part of the checkpoint" if self.free else "")
                if step.action == "create" and _occupied(path, parents):
                    return "another object was made in its place since this was planned"
        if step.action != "create" and not self.free:
            fd, name = parents.of(path)
            with opened(fd, name) as target:
                if target is not None and inode_flags(target) & PINNED:
                    return _pinned(path)
        return self._has_no_place(step, parents)

    def _has_no_place(self, step: PathStep, parents: Parents) -> str:
        """Why the file system does not keep an ACL or another extended attribute of the step; empty where it does."""
        entries = step.makes or ([step.entry] if step.entry is not None else [])
        keys = sorted({key for entry in entries for key, _value in entry.xattrs})
        there = step.path
        while keys and os.path.dirname(there) in self.made:
            there = os.path.dirname(there)
        for key in keys:
            try:
                os.getxattr(there if there in self.mounted else parents.of(there)[0], key)
            except OSError as error:
                if error.errno == errno.ENOTSUP:
                    return no_place_for(key)
        return ""


def short_of_room(steps: Sequence[PathStep], root: str) -> dict[str, str]:
    """Target -> why, for each path without room: old and new lie side by side until the end.

    Small files come first, so that as many as possible are put back. ``root``: that of the store.
    """
    table = {mount.point: mount for mount in visible(mounts())}
    home = table.get(mount_of(os.fsencode(root), table))
    needed: dict[bytes, list[tuple[int, int, str]]] = {}
    mount_in: dict[bytes, bytes] = {}
    for step in steps:
        path, parent = step.path, os.path.dirname(step.path)
        if parent not in mount_in:
            mount_in[parent] = mount_of(parent, table)
        mount = path if path in table else mount_in[parent]
        on = table.get(mount)
        # Data can be shared with the store within one file system, under whatever mount points.
        shares = on is not None and home is not None and on.kind in _SHARING and on.device == home.device
        size = count = 0
        for entry in step.makes:
            # Where data can be shared, only a small file certainly takes room. Nobody knows the holes of a file.
            if not entry.sparse and not entry.link and (entry.size <= SMALL or not shares):
                size += entry.size
            count += not entry.link
        needed.setdefault(mount, []).append((size, count, step.target))
    found = {}
    for mount, needs in needed.items():
        try:
            there = os.statvfs(mount)
        except OSError as error:  # A dead mount.
            found.update({target: f"{os.fsdecode(mount)}: {error.strerror}" for _size, _count, target in needs})
            continue
        room = free_bytes(there, os.geteuid() == 0)
        inodes = there.f_ffree if there.f_files else sum(count for _size, count, _target in needs)
        where = os.fsdecode(mount)
        for size, count, target in sorted(needs):
            if there.f_flag & os.ST_RDONLY:
                found[target] = f"{where} is mounted read-only; remount it writable"
            elif size > room:
                found[target] = f"{NO_ROOM}: {where} has {room} bytes free, and this takes {size}; make room"
            elif count > inodes:
                found[target] = f"{NO_ROOM}: {where} has {inodes} inodes free; make room"
            else:
                room, inodes = room - size, inodes - count
    return found


def _occupied(path: bytes, parents: Parents) -> bool:
    """Whether an object has the name of the object that is to be made."""
    fd, name = parents.of(path)
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _pinned(path: bytes, more: str = "") -> str:
    return f"{os.fsdecode(path)} is immutable or append-only{more}; take the flag off with chattr -i -a"


def _may_unpin() -> bool:
    """Whether this process may take immutable and append-only off."""
    with open("/proc/self/status") as stream:
        word = next((line.split()[1] for line in stream if line.startswith("CapEff:")), "0")
    return bool(int(word, 16) >> _CAP_LINUX_IMMUTABLE & 1)
