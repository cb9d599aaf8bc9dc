# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount points in and above the declared trees, and the paths that a rollback could not bring back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from .._host.mounts import AUTOFS
from .._host.paths import ancestors, is_ours
from .declaration import Declaration, excludes
from .entry import (
    ABSENT,
    Entry,
    Tree,
    path_of,
)

# File systems that hold no data of their own; their mounts are left out of a tree.
PSEUDO = {
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

# Snapshots of ZFS are mounted when somebody looks into them, and unmounted by themselves.
SNAPSHOTS = "/.zfs/snapshot/"

# File systems that give all files the owner and the mode of the options of their mount.
FIXED = {"vfat", "msdos", "exfat", "ntfs", "ntfs3", "cifs", "smb3"}
MASKED = "Mount it with uid=0 and dmask=022 (cifs: dir_mode=0755)"


def mounted(declared: Declaration, mounts: Mapping[str, str]) -> dict[str, str]:
    """The mount points (point -> kind) at, above and below the declared paths, without those that come and go by
    themselves. Pure."""
    found = {}
    for point, kind in mounts.items():
        if SNAPSHOTS in point or _is_automatic(declared, point, mounts):
            continue
        for path in declared.paths:
            above = point != "/" and f"{path}/".startswith(f"{point}/")
            matters = (above or f"{point}/".startswith(f"{path}/")) and kind not in PSEUDO
            if matters and not excludes(declared, point):
                found[point] = kind
    return dict(sorted(found.items()))


def _is_automatic(declared: Declaration, point: str, mounts: Mapping[str, str]) -> bool:
    """Whether the point lies below a mount of autofs that itself lies in a declared path."""
    above = [one for one, kind in mounts.items() if kind == AUTOFS and point.startswith(f"{one}/")]
    return any(f"{one}/".startswith(f"{path}/") for one in above for path in declared.paths)


def remounted(declared: Declaration, mounts: Mapping[str, str]) -> dict[str, str]:
    """Mount point -> why nothing at or below it can be put back: it is mounted now and was not, or the other way round.

    Pure. A checkpoint of version 0.1.0 does not tell.
    """
    if declared.mounts is None:
        return {}
    now = mounted(declared, mounts)
    gone = {one: f"{one} was a mount point ({kind}) and is no longer" for one, kind in declared.mounts.items()}
    gone.update({one: f"{one} comes and goes by itself, and is left alone" for one in gone if one in mounts})
    come = {one: f"{one} was no mount point, and {kind} is mounted there now" for one, kind in now.items()}
    return {one: why for one, why in {**gone, **come}.items() if (one in now) != (one in declared.mounts)}


def unprotected(declared: Declaration, lines: Sequence[str]) -> list[str]:
    """The paths of the lines that a rollback could not bring back, in words. Pure."""
    found = [
        f"{os.fsdecode(path_of(line))} does not exist: nothing is protected there"
        for line in lines
        if line.startswith(ABSENT)
    ]
    inside = [one for one in declared.mounts or () if any(f"{one}/".startswith(f"{path}/") for path in declared.paths)]
    if inside:
        found.append(
            f"{len(inside)} mount points cannot be replaced while they are mounted, only their contents: "
            f"{', '.join(inside[:10])}"
        )
    found += [
        f"{one} is a mount of autofs: nothing that is mounted below it by itself is protected"
        for one in inside
        if (declared.mounts or {})[one] == AUTOFS
    ]
    return found + _not_ours(declared, list(lines))


def _not_ours(declared: Declaration, lines: list[str]) -> list[str]:
    """The mounts without a directory that belongs to this user alone, for staging a rollback; in words. Pure."""
    tree, words = Tree(lines), []
    for mount in map(os.fsencode, declared.mounts or ()):
        found: list[Entry] = []
        for path in map(os.fsencode, declared.paths):
            chain = [one for one in (*ancestors(path), path) if (one + b"/").startswith(mount.rstrip(b"/") + b"/")]
            found += filter(None, map(tree.find, chain or [mount]))
        if found and not any(is_ours(entry.uid, entry.mode) for entry in found):
            top = found[0]
            kind = (declared.mounts or {}).get(os.fsdecode(mount), "")
            if kind in FIXED:
                words.append(
                    f"{os.fsdecode(mount)} is a mount of {kind}, whose owner (user {top.uid}) and mode ({top.mode:o}) "
                    f"are fixed, and with these no path on it can go back. {MASKED}"
                )
                continue
            who = f"user {top.uid}"
            if top.uid == os.geteuid():
                who = "everybody" if top.mode & 0o002 else f"group {top.gid}"
            words.append(
                f"{os.fsdecode(mount)} is a mount on which {who} can exchange staged files, and so can keep the paths "
                "on this mount, and no others, from going back. Give its top directory to root alone"
            )
    return words
