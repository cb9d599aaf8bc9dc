# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes of this host, each with the programs and libraries that it runs and that were replaced since it started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Callable, NamedTuple

from .._files.declaration import STAGE
from .._host.patience import within
from .._host.processes import mapped, read_stat
from .places import Places

# The kernel appends this to the path of a file that has lost its name (d_path in fs/d_path.c).
_DELETED = b" (deleted)"
# Files in memory, and files that programs make for themselves, map and remove: libffi, JNA, compilers at run time.
_PASSING = (b"/memfd:", b"/dev/", b"/proc/", b"/sys/", b"/run/", b"/var/run/", b"/tmp/", b"/var/tmp/")
_MADE_BY_PROGRAMS = re.compile(rb"/var/|.*/(?:\.|te?mp/)|.*/(?:ffi\w{6}|jna-?\d+\.tmp)$", re.DOTALL)
# The most paths of one process.
_PATHS = 50


class Process(NamedTuple):
    """A process. ``place``: the unit to which it belongs; empty without one. ``ticks``: its start,
    in clock ticks after boot. ``stale``: replaced files that it runs."""

    pid: int
    name: str
    place: str
    ticks: int
    stale: tuple[str, ...]


def read_processes(
    goes_on: Callable[[], bool], seconds: float, proc: str = "/proc", root: str = ""
) -> tuple[list[Process], str]:
    """The processes of this host that we may read, and why these are not all; empty where they are.

    Processes of root come first. A process can hold up whoever reads its mappings, and a file system whoever asks for
    a file: after ``seconds`` nobody waits any more.
    """
    found: list[Process] = []
    ends: list[str] = []

    def read() -> None:
        try:
            reader = _Reader(goes_on, proc, root)
        except OSError as error:
            ends.append(f"processes cannot be compared with the first of them (pid 1): {error.strerror}")
            return
        for pid in sorted(filter(str.isdigit, os.listdir(proc)), key=lambda pid: (_is_of_user(proc, pid), int(pid))):
            one = reader.process(pid)
            if not goes_on():
                return
            if one is not None:
                found.append(one)
        ends.append("")

    within(seconds, read)
    return list(found), ends[0] if ends else f"not all processes could be looked at in {seconds:g} s"


class _Reader:
    """Reads processes, and asks for each file once."""

    def __init__(self, goes_on: Callable[[], bool], proc: str, root: str) -> None:
        self.goes_on = goes_on
        self.proc = proc
        self.root = root
        self.world, self.top = _world(f"{proc}/1")
        self.units = Places(proc)
        self.places: dict[str, str] = {self.world: root}
        self.files: dict[bytes, tuple[int, int] | None] = {}

    def process(self, pid: str) -> Process | None:
        """The process; None for a thread of the kernel, for one that has ended, and for one of a container."""
        folder = f"{self.proc}/{pid}"
        try:
            program = os.readlink(os.fsencode(f"{folder}/exe"))
            world, top = _world(folder)
        except OSError:
            return None
        # A service in a sandbox has mounts of its own, but the root directory of the host. A container has neither. A
        # service that has changed its root directory only shows its files under their names for us.
        if world != self.world and top != self.top:
            return None
        stat = read_stat(pid, self.proc)
        if stat is None:
            return None
        at = os.fsencode(self.places.setdefault(world, f"{folder}/root"))
        stale = dict.fromkeys(shown for shown, number in self._run(pid, program) if self._is_stale(shown, number, at))
        names = [os.fsdecode(shown.removesuffix(_DELETED)) for shown in stale]
        return Process(int(pid), stat.name, self.units.unit(pid), stat.ticks, tuple(dict.fromkeys(names))[:_PATHS])

    def _run(self, pid: str, program: bytes) -> Iterator[tuple[bytes, tuple[int, int] | None]]:
        """The program and the mapped code of a process, as the kernel shows them, with device and inode."""
        yield program, _number(os.fsencode(f"{self.proc}/{pid}/exe"))
        for one in mapped(pid, self.proc):
            if not self.goes_on():
                return
            if one.is_code and one.path.startswith(b"/"):
                yield one.path, one.number

    def _is_stale(self, shown: bytes, number: tuple[int, int] | None, at: bytes) -> bool:
        """Whether the file, as the kernel shows it, is not the file of that name any more."""
        path = shown.removesuffix(_DELETED)
        if path.startswith(_PASSING) or path.rfind(b"/") <= 0:
            return False
        if os.fsencode(f"/{STAGE}") in path:
            return True
        now = self._now(at + shown)
        if path == shown:
            # File systems of several layers give a mapped file numbers of another device than its name.
            return now is not None and number is not None and now[0] == number[0] and now[1] != number[1]
        if now is not None:  # A file whose own name ends so.
            return False
        new = self._now(at + path)
        return not _MADE_BY_PROGRAMS.match(path) if new is None else new != number

    def _now(self, path: bytes) -> tuple[int, int] | None:
        if path not in self.files:
            self.files[path] = _number(path)
        return self.files[path]


def _world(folder: str) -> tuple[str, tuple[int, int]]:
    """The mount namespace of a process, and device and inode of its root directory. Raises OSError."""
    top = os.stat(f"{folder}/root/")
    return os.readlink(f"{folder}/ns/mnt"), (top.st_dev, top.st_ino)


def _number(path: bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_of_user(proc: str, pid: str) -> bool:
    """Whether the process belongs to another user than root."""
    try:
        return os.stat(f"{proc}/{pid}").st_uid != 0
    except OSError:
        return True
