# SPDX-License-Identifier: GPL-3.0-or-later

"""The processes of a service: the files that they run and hold, compared with the files on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from .._files.declaration import STAGE
from .._host.processes import Stat, mappings, patiently, read_entry, read_stat, start_time
from .places import Places

_GONE = " (deleted)"


def processes(units: Iterable[str], proc: str = "/proc") -> dict[str, list[int]]:
    """Unit -> its processes. Processes of a user's service manager never count for a unit of the system."""
    found: dict[str, list[int]] = {unit: [] for unit in units}
    places = Places(proc)
    for pid in filter(str.isdigit, os.listdir(proc)):
        unit = places.unit(pid)
        if unit in found and not unit.startswith("user@"):
            found[unit].append(int(pid))
    return found


def replaced(pids: Iterable[int], changed: Sequence[str], since: float, proc: str = "/proc") -> str:
    """A program or library that one of the processes runs, and that differs on disk or is put back; empty without one.
    ``since``: replacements before that time do not count."""
    for path, gone in sorted(set().union(*(_mapped(pid, proc) for pid in pids))):
        if touches([path], changed) or (gone and (f"/{STAGE}" in path or is_newer(path, since))):
            return path
    return ""


def newer(files: Iterable[str], than: float) -> str:
    """The first of the files that was moved to its place, or changed, after ``than`` (epoch seconds); or empty. Files
    below /run do not count: they are made at each reload of systemd, or by the service itself."""
    return next((path for path in files if not path.startswith("/run/") and is_newer(path, than)), "")


def touches(files: Iterable[str], changed: Sequence[str]) -> str:
    """The first of the files that is put back, by itself or with a directory that is put back as a whole; or empty.
    A directory whose contents are named among the changed paths is itself there for its attributes only."""
    roots = set(changed)
    for path in files:
        for place in (path, os.path.realpath(path)):
            if place in roots:
                return path
            above = os.path.dirname(place)
            while above not in ("", "/"):
                if above in roots and not any(other.startswith(above + "/") for other in roots):
                    return path
                above = os.path.dirname(above)
    return ""


def writes(pids: Iterable[int], changed: Sequence[str], proc: str = "/proc") -> str:
    """A file at or below the paths that one of the processes has open for writing; empty without one."""
    for pid in pids:
        for number in _list(f"{proc}/{pid}/fd"):
            try:
                path = os.readlink(f"{proc}/{pid}/fd/{number}")
            except OSError:
                continue
            if touches([path], changed) and _flags(pid, number, proc) & os.O_ACCMODE:
                return path
    return ""


def workers(pid: int, proc: str = "/proc") -> dict[int, int]:
    """The children of the process that run its own program, each with the clock tick at which it started. Another
    program is a job, which comes and goes by itself."""
    stats = (read_stat(entry, proc) for entry in filter(str.isdigit, os.listdir(proc)))
    alive = [stat for stat in stats if stat is not None and not stat.has_ended]
    own = next((stat for stat in alive if stat.pid == pid), None)
    found = [stat for stat in alive if own is not None and stat.parent == pid and _is_same_program(own, stat, proc)]
    return {stat.pid: stat.ticks for stat in found}


def _is_same_program(first: Stat, other: Stat, proc: str) -> bool:
    """Whether two processes run the same file. In a container root may not see that of another user: names decide."""
    try:
        # The file itself is not asked: it may lie in a file system that answers no more.
        return os.readlink(f"{proc}/{first.pid}/exe") == os.readlink(f"{proc}/{other.pid}/exe")
    except OSError:
        return first.name == other.name


def logs(pid: int, proc: str = "/proc") -> dict[str, int]:
    """The regular files that the process appends to, each with its length."""
    found = {}
    for number in _list(f"{proc}/{pid}/fd"):
        try:
            path = os.readlink(f"{proc}/{pid}/fd/{number}")
            if path.startswith("/") and _flags(pid, number, proc) & os.O_APPEND and os.path.isfile(path):
                found[path] = os.stat(path).st_size
        except OSError:
            continue
    return found


def since_start(pids: Iterable[int], main: int) -> list[int]:
    """The processes that are not older than the main process: older processes survived a stop, and survive the next."""
    first = start_time(main) if main else None
    return [pid for pid in pids if first is None or (start_time(pid) or 0) >= first]


def _mapped(pid: int, proc: str) -> set[tuple[str, bool]]:
    """(path, whether the file has lost this name) of the program and the libraries that the process has mapped; some
    may be missing where the process holds us up, which a rollback tells by its note on ``restart_needed``."""

    def read() -> Iterator[str]:
        for piece in mappings(pid, proc):
            yield ""
            yield from (os.fsdecode(one.path) for one in piece if one.is_code and one.path.startswith(b"/"))

    return {(path.removesuffix(_GONE), path.endswith(_GONE)) for path in patiently(pid, read, proc)[0] if path}


def is_newer(path: str, than: float) -> bool:
    """Whether the file was moved to its place, or changed, after ``than`` (epoch seconds)."""
    try:
        return max(os.stat(path).st_ctime, os.lstat(path).st_ctime) > than
    except OSError:
        return False


def _flags(pid: int, number: str, proc: str) -> int:
    for line in read_entry(pid, f"fdinfo/{number}", proc).splitlines():
        if line.startswith(b"flags:"):
            return int(line.split()[1], 8)
    return 0


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
