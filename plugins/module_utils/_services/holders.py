# SPDX-License-Identifier: GPL-3.0-or-later

"""Holders: processes that still use files which were replaced, and need a restart to use the new files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import takewhile

from .._host.processes import mappings, patiently, read_entry, start_time
from .._results.change import Holder
from .places import Places

# The kernel appends this to the path of a file that has lost its name (d_path in fs/d_path.c).
_DELETED = b" (deleted)"


def holders(
    replaced: Callable[[bytes], bytes | None],
    moved: Callable[[bytes], bytes | None] = lambda _path: None,
    former: Mapping[str, Mapping[int, int]] | None = None,
    proc: str = "/proc",
    goes_on: Callable[[], bool] = lambda: True,
    skip: Callable[[str], object] = lambda _process: None,
) -> list[Holder]:
    """Units, and processes without a unit, that have a replaced file open, mapped, or as their directory.

    ``replaced``: the original path of a file, for the path at which it lost its name; None for an unrelated file.
    ``moved``: the original path of a file, for the path at which the kernel shows it, with a name or without.
    ``former``: path -> the processes, as id -> start time, that used it and do not show it any more.
    ``goes_on``: whether there is still time; processes of root come first, then those of users while there is time.
    ``skip``: is called with each process that holds us up, as ``name[pid]``; some of its mappings may be missing.
    Processes that we may not read are missing.
    """
    found: dict[str, tuple[set[str], set[str]]] = {}
    places = Places(proc)
    for pid in sorted(filter(str.isdigit, os.listdir(proc)), key=lambda pid: (_is_of_user(proc, pid), int(pid))):

        def original(path: bytes) -> bytes | None:
            return (replaced(path[: -len(_DELETED)]) if path.endswith(_DELETED) else None) or moved(path)

        def used(pid: str = pid) -> Iterator[bytes | None]:
            for piece in takewhile(lambda _piece: goes_on(), mappings(pid, proc)):
                yield None  # The reading goes on, though the piece may name no file.
                for path in takewhile(lambda _path: goes_on(), dict.fromkeys(one.path for one in piece)):
                    yield original(path)

        seen, is_all = patiently(pid, used, proc)
        if not is_all:
            skip(_shown(pid, proc))
        # Nobody can hold up whoever reads these, however many there are.
        seen |= {original(path) for path in takewhile(lambda _path: goes_on(), _open(pid, proc))}
        known = seen - {None}
        known |= {
            os.fsencode(path)
            for path, users in (former or {}).items()
            if start_time(int(pid)) == users.get(int(pid), -1)
        }
        if known:
            name = _shown(pid, proc)
            names, paths = found.setdefault(places.service(pid) or name, (set(), set()))
            names.add(name)
            paths.update(os.fsdecode(path) for path in known if path is not None)
    return [
        {"unit": "" if {key} == processes else key, "processes": sorted(processes), "paths": sorted(paths)}
        for key, (processes, paths) in sorted(found.items())
    ]


def _shown(pid: str, proc: str) -> str:
    return f"{read_entry(pid, 'comm', proc).strip().decode(errors='replace')}[{pid}]"


def _is_of_user(proc: str, pid: str) -> bool:
    """Whether the process belongs to another user than root."""
    try:
        return os.stat(os.path.join(proc, pid)).st_uid != 0
    except OSError:
        return True


def _open(pid: str, proc: str) -> Iterator[bytes]:
    """The paths that the process has open, and as its directory."""
    for link in _links(os.path.join(proc, pid)):
        with suppress(OSError):
            yield os.readlink(os.fsencode(link))


def _links(folder: str) -> Iterator[str]:
    yield from (os.path.join(folder, name) for name in ("cwd", "root"))
    with suppress(OSError), os.scandir(os.path.join(folder, "fd")) as found:
        yield from (one.path for one in found)
