# SPDX-License-Identifier: GPL-3.0-or-later

"""btrfs subvolumes, as the kernel and btrfs-progs show them. btrfs-progs make and delete subvolumes. The kernel
commits a snapshot before it reports success.

A subvolume records the transaction in which an inode of it was changed last. A snapshot starts with the number of its
source. A snapshot and its source still hold the same as long as their numbers are equal. (The generation is no such
sign, because a snapshot raises the generation of its source.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import NamedTuple

from ..._errors import Refused, UsageError
from ..._host.durable import syncfs
from ..._host.mounts import Mount, each, mounts
from ..._host.paths import open_dir
from ..._host.processes import start_time, user_ids
from ..._host.system import System

_TIMEOUT = 1800.0
# Seconds to detach a mount, and to look at the mounts of processes: a user may have any number of these.
_DETACH, _LOOK = 10.0, 5.0
# BTRFS_IOC_GET_SUBVOL_INFO, and four fields of struct btrfs_ioctl_get_subvol_info_args: flags, uuid, parent_uuid,
# ctransid.
_GET_INFO = 0x81F8943C
_INFO = struct.Struct("=288x Q 16s 16s 16x Q 152x")
_READ_ONLY = 1
# BTRFS_IOC_FS_INFO: after two numbers the id of the file system.
_GET_SYSTEM = 0x8400941F
# The inode number of the root of every subvolume.
_ROOT = 256


class Subvolume(NamedTuple):
    """``parent``: for a snapshot, the uuid of its source. ``changed``: the transaction of the last change."""

    uuid: str
    parent: str
    changed: int
    read_only: bool


def subvolume_at(path: str) -> Subvolume | None:
    """The subvolume at the path; None where the path is not the root of a subvolume.

    Raises UsageError for a symlink above the path, and OSError where the kernel does not answer the question.
    """
    try:
        parent = open_dir(os.fsencode(os.path.dirname(path)))
        try:
            fd = os.open(os.path.basename(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        finally:
            os.close(parent)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if os.fstat(fd).st_ino != _ROOT:
            return None
        import uuid  # Python's module takes longer to load than this one, and few hosts have subvolumes.

        flags, own, above, changed = _INFO.unpack(fcntl.ioctl(fd, _GET_INFO, bytes(_INFO.size)))
        return Subvolume(str(uuid.UUID(bytes=own)), str(uuid.UUID(bytes=above)), changed, bool(flags & _READ_ONLY))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return None  # Another file system.
    finally:
        os.close(fd)


def has_quota(path: str) -> bool:
    """Whether the file system of the path counts and limits what each subvolume holds."""
    import uuid

    try:
        with opened(path) as fd:
            system = uuid.UUID(bytes=fcntl.ioctl(fd, _GET_SYSTEM, bytes(1024))[16:32])
    except (OSError, UsageError):
        return False
    return os.path.isdir(f"/sys/fs/btrfs/{system}/qgroups")


def synced(path: str) -> Subvolume | None:
    """The subvolume at the path, once ``changed`` counts all earlier writes."""
    if subvolume_at(path) is not None:
        with opened(path) as fd:
            syncfs(fd)
    return subvolume_at(path)


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = open_dir(os.fsencode(path))
    try:
        yield fd
    finally:
        os.close(fd)


def same(kept: Subvolume, live: Subvolume) -> bool:
    """Whether one subvolume is a snapshot of the other, and neither was changed since."""
    return kept.changed == live.changed and (kept.parent == live.uuid or live.parent == kept.uuid)


def btrfs(system: System, *words: str) -> str:
    done = system.run(["btrfs", *words], _TIMEOUT)
    if done.rc == 127:
        raise Refused(f"subvolumes: {done.words}; install btrfs-progs on this host")
    if done.rc != 0:
        raise Refused(f"subvolumes: btrfs {' '.join(words)}: {done.words}")
    return done.out


def delete(path: str, system: System) -> None:
    btrfs(system, "subvolume", "delete", "--commit-after", path)


def mounted(path: bytes) -> set[str]:
    """Mount points at or below the path, and mount points elsewhere that show files at or below the path.

    Mounts of users below the path count for nothing: they hold no snapshot and no exchange up.
    """
    every = mounts()
    found = [one for one in every if not one.is_of_user]
    shows = _showing(path, found)
    over = {os.fsdecode(one.point) for one in every if one.point == path}
    return over | {os.fsdecode(one.point) for one in found if within(one.point, path) or shows(one)}


def uncover(path: bytes, system: System) -> None:
    """Detach what users have mounted over the path itself: that hides it, and its name could not be exchanged."""
    for one in mounts():
        if one.point == path and one.is_of_user:
            # Nothing asks the file system, which may never answer.
            system.run(["umount", "--lazy", "--no-canonicalize", "--internal-only", os.fsdecode(path)], _DETACH)


def mounted_elsewhere(path: bytes) -> dict[int, int]:
    """The processes (id -> start time) in whose own mount namespace a mount shows files at or below the path. Processes
    of root come first, then those of users while there is time."""
    shows, end = _showing(path, mounts()), time.monotonic() + _LOOK
    spaces = {os.stat("/proc/self/ns/mnt").st_ino: False}
    found = {}
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=lambda pid: (user_ids(int(pid)) != {0}, int(pid))):
        with suppress(OSError):  # The process has ended.
            space = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if space not in spaces:
                if time.monotonic() > end:
                    continue
                spaces[space] = any(shows(one) for one in takewhile(lambda _one: time.monotonic() < end, each(pid)))
            started = start_time(int(pid))
            if spaces[space] and started is not None:
                found[int(pid)] = started
    return found


def _showing(path: bytes, found: Sequence[Mount]) -> Callable[[Mount], bool]:
    """A function that tells whether a mount shows files at or below the path. ``found``: the mounts through which we
    reach the path."""
    # The last mount is on top.
    around = max((one for one in reversed(found) if within(path, one.point)), key=lambda one: len(one.point))
    inside = os.path.normpath(os.path.join(around.root, os.path.relpath(path, around.point)))
    return lambda one: one.device == around.device and within(one.root, inside)


def within(path: bytes, top: bytes) -> bool:
    return (path.rstrip(b"/") + b"/").startswith(top.rstrip(b"/") + b"/")
