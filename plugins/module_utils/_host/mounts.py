# SPDX-License-Identifier: GPL-3.0-or-later

"""The mount table: mount points, and the file system on which a path lies."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from .paths import ancestors

# The type of a mount of which others are made by themselves.
AUTOFS = "autofs"
# Directories below which programs mount and unmount.
OF_PROGRAMS = (
    *("/proc", "/sys", "/dev", "/run", "/snap", "/media", "/var/snap", "/var/lib/docker", "/var/lib/containers"),
    *("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/rancher", "/var/lib/lxcfs", "/var/lib/lxd"),
    *("/var/lib/incus", "/var/lib/machines", "/var/lib/libvirt", "/var/lib/nfs"),
)
# File systems of other hosts.
REMOTE = r"nfs\d*|cifs|smb3|ceph|glusterfs|afs|9p|ncpfs|lustre|beegfs|orangefs|gfs2|ocfs2"
# The bytes that count as free where a file system does not count them.
_UNCOUNTED = 1 << 60


class Mount(NamedTuple):
    """``root``: the directory of the file system on ``device`` that is visible at ``point``. ``kind``: the type of the
    file system. ``parent``: the number of the mount whose directory this mount covers. ``options`` of this mount
    alone, ``own`` options of the file system. ``source``: the device, or a word for it."""

    point: bytes
    root: bytes
    device: bytes
    kind: str
    number: int
    parent: int
    options: str = ""
    source: bytes = b""
    own: str = ""

    @property
    def is_of_user(self) -> bool:
        """Whether a user other than root has mounted it, as every user can with FUSE."""
        by = re.search("(?:^|,)user_id=([0-9]+)", self.own)
        return self.kind.startswith("fuse") and by is not None and int(by[1]) != 0


def mounts(process: str = "self") -> list[Mount]:
    """All mounts in the mount namespace of the process (its id, or ``self``), in the order of mounting unless some
    were moved."""
    return list(each(process))


def is_apart(proc: str = "/proc") -> bool:
    """Whether this process has a view of the file systems of its own, as units of systemd have: a file system may be
    read-only in it, or hidden, that the host has."""
    try:
        with open(f"{proc}/1/comm", "rb") as stream:
            is_systemd = stream.read().strip() == b"systemd"
        return is_systemd and os.readlink(f"{proc}/self/ns/mnt") != os.readlink(f"{proc}/1/ns/mnt")
    except OSError:  # Not everybody may look at pid 1.
        return False


def each(process: str) -> Iterator[Mount]:
    """As ``mounts``, one by one: a user may fill a namespace with any number of mounts."""
    with open(f"/proc/{process}/mountinfo", "rb") as stream:
        for line in stream:
            fields = line.rstrip(b"\n").split(b" ")
            # The kernel writes blanks and backslashes as octal escapes.
            root, point = (_unescaped(field) for field in fields[3:5])
            # Users of FUSE choose a part of the type themselves.
            kind, source, own = fields[fields.index(b"-") + 1 :][:3]
            words, options, more = (one.decode("ascii", "backslashreplace") for one in (kind, fields[5], own))
            place = (point, root, fields[2], words, int(fields[0]), int(fields[1]))
            yield Mount(*place, options, _unescaped(source), more)


def _unescaped(field: bytes) -> bytes:
    return field.decode("unicode_escape").encode("latin-1")


def mount_points() -> dict[bytes, str]:
    """Mount point -> type of the file system, for each mount of our namespace that no other mount hides."""
    return {mount.point: mount.kind for mount in visible(mounts())}


def automounts() -> set[bytes]:
    """The mount points below which file systems are mounted and unmounted by themselves, each under a name of its own
    (indirect maps of autofs)."""
    return {one.point for one in visible(mounts()) if one.kind == AUTOFS and "indirect" in one.own.split(",")}


def visible(found: Sequence[Mount]) -> list[Mount]:
    """The mounts that no other mount hides. Pure."""
    placed = [mount for mount in found if mount.parent != mount.number]  # The very first mount is its own parent.
    by_number = {mount.number: mount for mount in placed}
    covered: dict[int, set[bytes]] = {}
    for mount in placed:
        covered.setdefault(mount.parent, set()).add(mount.point)

    def is_hidden(mount: Mount) -> bool:
        # Hidden by a mount on top of it, or by a mount on a parent of it that covers a directory above.
        if mount.point in covered.get(mount.number, ()):
            return True
        above: Mount | None = mount
        while above is not None:
            siblings = covered.get(above.parent, set())
            if any(folder in siblings for folder in ancestors(above.point) if folder != above.point):
                return True
            above = by_number.get(above.parent)
        return False

    return [mount for mount in found if not is_hidden(mount)]


def mount_of(path: bytes, points: Collection[bytes]) -> bytes:
    """The mount point at or above the path that is nearest to it; ``/``, or nothing for a relative path, without
    such a mount point. Pure."""
    while path not in points and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def file_system_of(path: str) -> str:
    """The type of the file system on which the path lies; empty where the mount table does not tell."""
    points = mount_points()
    return points.get(mount_of(os.fsencode(path), points), "")


def free_bytes(found: os.statvfs_result, reserved: bool = False) -> int:
    """The bytes that are free on a file system, with those that are ``reserved`` for root. One without a size, such as
    ramfs and some of FUSE, does not count what it has: it has room."""
    if not found.f_blocks:
        return _UNCOUNTED
    return found.f_frsize * (found.f_bfree if reserved else found.f_bavail)
