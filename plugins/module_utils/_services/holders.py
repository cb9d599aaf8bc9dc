# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who still works with files that were replaced: what needs a restart to see the new ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any

from .._host.processes import start_time

# How the kernel shows the path of a file that has lost its name (d_path in fs/d_path.c).
_GONE = b" (deleted)"


def holders(
    was: Callable[[bytes], bytes | None],
    moved: Callable[[bytes], bytes | None] = lambda _path: None,
    lost: Mapping[str, Mapping[int, int]] | None = None,
    proc: str = "/proc",
    goes_on: Callable[[], bool] = lambda: True,
) -> list[dict[str, Any]]:
    """Units, or processes without one, that have files open, mapped or as their directory which ``was`` knows.

    ``was``: the path that the file had, for the path at which it lost its name; None for files that are no concern.
    ``moved``: the same for the path at which the kernel shows it, whether it has a name or not.
    ``lost``: path -> the processes, as id -> when it started, that had it and do not show it any more.
    ``goes_on``: whether there is still time; root's processes are looked at first, and of users' as many as it lets.
    Each: ``unit`` (empty without one), ``processes`` as ``name[pid]`` and ``paths``, sorted. Sees what this user may.
    """
    found: dict[str, tuple[set[str], set[str]]] = {}
    for pid in sorted(filter(str.isdigit, os.listdir(proc)), key=lambda pid: (_is_users(proc, pid), int(pid))):
        folder = os.path.join(proc, pid)
        used = takewhile(lambda _path: goes_on(), _used(folder))
        known = {(was(path[: -len(_GONE)]) if path.endswith(_GONE) else None) or moved(path) for path in used} - {None}
        known |= {
            os.fsencode(path) for path, held in (lost or {}).items() if start_time(int(pid)) == held.get(int(pid), -1)
        }
        if known:
            name = f"{_read(folder, 'comm').strip().decode(errors='replace')}[{pid}]"
            unit = _unit(_read(folder, "cgroup"))
            processes, paths = found.setdefault(unit or name, (set(), set()))
            processes.add(name)
            paths.update(os.fsdecode(path) for path in known if path is not None)
    return [
        {"unit": "" if {key} == processes else key, "processes": sorted(processes), "paths": sorted(paths)}
        for key, (processes, paths) in sorted(found.items())
    ]


def _is_users(proc: str, pid: str) -> bool:
    """Whether it is another's than root's."""
    try:
        return os.stat(os.path.join(proc, pid)).st_uid != 0
    except OSError:
        return True


def _used(folder: str) -> Iterator[bytes]:
    """What the process has mapped (its program and libraries among it), open, and as its directory."""
    for line in set(_read(folder, "maps").splitlines()):
        fields = line.split(None, 5)
        if len(fields) == 6:
            yield fields[5]
    links = [os.path.join(folder, one) for one in ("cwd", "root")]
    with suppress(OSError):  # It has ended, or is not ours to look into.
        links += [os.path.join(folder, "fd", one) for one in os.listdir(os.path.join(folder, "fd"))]
    for link in links:
        try:
            yield os.readlink(os.fsencode(link))
        except OSError:
            continue


def _unit(cgroup: bytes) -> str:
    """The unit in the lines of /proc/PID/cgroup; empty where there is none."""
    for line in cgroup.splitlines():
        for part in reversed(line.split(b":", 2)[-1].split(b"/")):
            if part.endswith(b".service"):
                return os.fsdecode(part)
    return ""


def _read(folder: str, name: str) -> bytes:
    try:
        with open(os.path.join(folder, name), "rb", buffering=0) as stream:
            return stream.read()
    except OSError:
        return b""
