# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What would stop a transaction of files half-way, found before it begins: mounts, immutable files, room."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .._errors import Refused
from .._resources.entry import PINNED, Entry
from .._resources.step import Step
from .durable import inode_flags
from .objects import SMALL
from .tree import Parents, mount_points, opened

_CAP_LINUX_IMMUTABLE = 9
# File systems that can share data between files.
_SHARING = {"btrfs", "xfs", "bcachefs"}


def preflight(steps: Sequence[Step], directories: Sequence[str]) -> None:
    """What would fail half-way is refused before anything changes: mount points, immutable files."""
    mounts = set(mount_points())
    made = {os.fsencode(step.target) for step in steps if step.detail["op"] in ("put", "swap")}
    ours = {Entry.parse(line).path for line in directories}
    free = _may_unpin()
    seen: set[bytes] = set()
    with Parents() as parents:
        for step in steps:
            path = os.fsencode(step.target)
            op, parent = step.detail["op"], os.path.dirname(path)
            if (
                op != "meta"
                and step.action != "create"
                and any(one == path or one.startswith(path + b"/") for one in mounts)
            ):
                raise Refused(
                    f"{step.target} is a mount point or holds one, and cannot be replaced while it is mounted; "
                    "nothing was changed. Unmount it, then run again"
                )
            if op != "meta" and parent not in seen and parent not in made:
                seen.add(parent)
                fd, _name = parents.of(path)
                # Taken off on the way, and put back as recorded with the attributes of the directories.
                if inode_flags(fd) & PINNED and not (free and parent in ours):
                    raise Refused(_pinned(parent, " and is not part of the checkpoint" if free else ""))
            if step.action == "create" and parent not in made and _occupied(path, parents):
                raise Refused(
                    f"{step.target} is in the way: it is no directory where one has to be put back, or was made since "
                    "this was planned; nothing was changed. Move it away, then run again"
                )
            if step.action != "create" and not free:
                fd, name = parents.of(path)
                with opened(fd, name) as target:
                    if target is not None and inode_flags(target) & PINNED:
                        raise Refused(_pinned(path))
        _check_room(steps, made)


def _check_room(steps: Sequence[Step], made: set[bytes]) -> None:
    """Old and new lie side by side until the end: what cannot fit is refused before it fills a disk."""
    kinds = mount_points()
    mounts = sorted(kinds, key=len, reverse=True)
    needed: dict[bytes, list[int]] = {}
    for step in steps:
        path = os.fsencode(step.target)
        while os.path.dirname(path) in made:
            path = os.path.dirname(path)
        mount = next(one for one in mounts if path.startswith(one.rstrip(b"/") + b"/"))
        need = needed.setdefault(mount, [0, 0])
        for line in [step.detail["line"], *step.detail.get("tree", ())] if step.detail["op"] in ("put", "swap") else ():
            entry = Entry.parse(line)
            # Where data can be shared, only a small file certainly takes room.
            if not entry.sparse and not entry.link and (entry.size <= SMALL or kinds[mount] not in _SHARING):
                need[0] += entry.size
            need[1] += not entry.link
    for mount, (size, count) in needed.items():
        there = os.statvfs(mount)
        free = there.f_frsize * (there.f_bfree if os.geteuid() == 0 else there.f_bavail)
        where = os.fsdecode(mount)
        if there.f_flag & os.ST_RDONLY:
            raise Refused(f"{where} is mounted read-only; nothing was changed. Remount it writable, then run again")
        if size > free:
            raise Refused(
                f"{where} has {free} bytes free, and what is to be put back takes {size}; nothing was changed. "
                "Make room, then run again"
            )
        if there.f_files and count > there.f_ffree:
            raise Refused(
                f"{where} has {there.f_ffree} inodes free, and what is to be put back takes {count}; nothing was "
                "changed. Make room, then run again"
            )


def _occupied(path: bytes, parents: Parents) -> bool:
    """Whether something has the name of what is to be made."""
    fd, name = parents.of(path)
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _pinned(path: bytes, more: str = "") -> str:
    return (
        f"{os.fsdecode(path)} is immutable or append-only{more}; nothing was changed. "
        "Take the flag off with chattr -i -a, then run again"
    )


def _may_unpin() -> bool:
    """Whether this process may take immutable and append-only off."""
    with open("/proc/self/status") as stream:
        word = next((line.split()[1] for line in stream if line.startswith("CapEff:")), "0")
    return bool(int(word, 16) >> _CAP_LINUX_IMMUTABLE & 1)
