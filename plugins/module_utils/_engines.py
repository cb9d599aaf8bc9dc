# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps states on this host, and what each can and cannot do."""

from __future__ import annotations

import glob
import os
import shutil
from typing import Any

from ._store.durable import clone, write_all
from ._store.tree import mount_points

# What there is to ask of an engine; each has some.
CAPABILITIES = {
    "in_place": "puts a host back where it is",
    "atomic": "all old or all new after a kill or a power cut",
    "incremental": "a further checkpoint costs what has changed",
    "log": "back to any record between two checkpoints",
    "shares_data": "large files share their data with the copy in the store instead of being written again",
    "survives_host": "is still there when the host and its disks are gone",
    "encrypted": "cannot be read by who has the storage alone",
    "verified": "every content is hashed again before it is used",
}


def engines(store: str) -> list[dict[str, Any]]:
    """Each with ``name``, ``available``, ``why`` not, and ``can``: what of ``CAPABILITIES`` it has here. Reads only."""
    objects = {"in_place", "atomic", "incremental", "log", "verified"}
    if shares_data(store):
        objects.add("shares_data")
    postgresql = "" if _has_postgresql() else "PostgreSQL's own programs are not installed on this host"
    restic = "" if shutil.which("restic") else "restic is not installed on this host"
    btrfs = "" if shutil.which("btrfs") else "btrfs-progs is not installed on this host"
    if "btrfs" not in mount_points().values():
        btrfs = "no btrfs is mounted on this host"
    return [
        _engine("objects", "", objects),
        _engine("postgresql", postgresql, {"in_place", "atomic", "incremental", "log", "verified"}),
        # btrfs verifies what it reads, but a rollback reads nothing.
        _engine("btrfs", btrfs, {"in_place", "atomic", "incremental", "log", "shares_data"}),
        _engine("replicas", "", {"survives_host", "incremental", "verified"}),
        _engine("restic", restic, {"survives_host", "incremental", "encrypted", "verified"}),
    ]


def _engine(name: str, why: str, can: set[str]) -> dict[str, Any]:
    return {"name": name, "available": not why, "why": why, "can": {one: one in can for one in CAPABILITIES}}


def _has_postgresql() -> bool:
    places = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    return shutil.which("pg_basebackup", path=os.pathsep.join([*places, os.environ.get("PATH", "")])) is not None


def shares_data(store: str) -> bool:
    """Whether the file system of the store can clone files; tried on two that have no name."""
    place = os.path.abspath(store)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    fds: list[int] = []
    try:
        for _number in range(2):
            fds.append(os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600))
        write_all(fds[0], bytes(4096))
        return clone(fds[0], fds[1])
    except OSError:
        return False  # No such files here (or no room for one): then no clones that matter either.
    finally:
        for fd in fds:
            os.close(fd)
