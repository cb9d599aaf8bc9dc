# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible has left running on this host: it must not change it once more after it has gone back.

A job is known by what Ansible makes of it: a script in a directory of its own (``ansible-tmp-…``), the wrapper of
``async``, or the shell around them, which ends with ``&& sleep 0``. Any user can give a process such words, and one of
a program that gains rights by being started too. So a job counts only when it is root's (or ours) altogether, or was
started by the login of the change, which no user can pretend; and when its program is Python or a shell, which gain
none. To a job belong its descendants and its process groups.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from .system import System, send, users

_SCRIPT = re.compile(r"/ansible-tmp-[0-9.]+-\d+-\d+/(AnsiballZ_\w+|async_wrapper)(\.py)?$")
_SHELL = re.compile(r"(ansible-tmp-|BECOME-SUCCESS-|/python[0-9.]*|/platform-python[0-9.]*).* && sleep 0$", re.DOTALL)
_PYTHON = re.compile(r"(python|platform-python|pypy)[0-9.]*")
_SHELLS = ("sh", "dash", "bash", "ksh", "ash", "busybox", "zsh", "mksh")
# What our own modules call themselves: whoever settles this change is not what it has left running.
OURS = "evenkeel"
_PR_SET_NAME = 15
# Half of an installation is worse than one that goes on: these are named, not killed.
_WHOLE = {"dpkg", "apt-get", "apt", "rpm", "dnf", "yum", "microdnf", "zypper"}
# Seconds that a job has to end by itself, once asked to.
_TERM, _KILL = 2.0, 1.0


@dataclass(frozen=True)
class Process:
    """``ticks``: when it started, in ticks of the clock after boot. ``users``: whose it is, really, in effect and by
    what it has saved. ``program``: the name of what it runs, whatever it calls itself. ``login``: who logged in to
    start it, by the kernel's word, which nobody but root can change; -1 where nobody did.
    """

    pid: int
    parent: int
    group: int
    users: set[int]
    ticks: int
    name: str
    program: str
    argv: list[str]
    login: int = -1

    @property
    def started(self) -> float:
        """In seconds after boot."""
        return self.ticks / os.sysconf("SC_CLK_TCK")

    @property
    def script(self) -> str:
        """What a Python runs; empty for another program."""
        words = (word for word in self.argv[1:] if not word.startswith("-"))
        return next(words, "") if _PYTHON.fullmatch(self.program) else ""

    @property
    def is_job(self) -> bool:
        """Whether Ansible started it, from how it looks."""
        shell = self.program in _SHELLS and self.argv[1:2] == ["-c"] and bool(_SHELL.search(self.argv[-1]))
        return shell or bool(_SCRIPT.search(self.script))

    @property
    def is_installing(self) -> bool:
        return self.program in _WHOLE or os.path.basename(self.script) in _WHOLE

    @property
    def words(self) -> str:
        said = " ".join(self.argv)
        return f"pid {self.pid}: {said if len(said) <= 200 else said[:200] + '…'}"


@dataclass(frozen=True)
class _Whose:
    """These ``users`` alone, since what somebody else has started may only have gained their rights; or whoever it
    runs as, where it was started by the ``login`` of the change."""

    users: set[int]
    login: int

    def __contains__(self, one: Process) -> bool:
        return bool(one.users) and (one.users <= self.users or one.login == self.login >= 0)


@dataclass
class Ended:
    """Jobs in words: those that were ended, and those that still run."""

    ended: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)


def end(system: System, since: float, before: float, wait: float, login: int = -1) -> Ended:
    """Wait ``wait`` seconds for the jobs that were started between ``since`` and ``before`` (seconds after boot), then
    end those that still run. ``login``: whose logins the change came by, -1 where that is not known.

    Where this machine plays several hosts (no systemd, or no root) it cannot be told whose job it is: they are waited
    for, and left alone.
    """
    whose = _Whose({0, os.geteuid()}, login)
    found = _jobs(whose, since, before)
    limit = system.monotonic() + wait
    # A job of async goes on whoever waits; the others may be about to end.
    while any(not _is_async(job) for job in found) and system.monotonic() < limit:
        system.sleep(0.1)
        found = _jobs(whose, since, before)
    if not found or not system.has_systemd():
        return Ended()
    result = Ended()
    named = {job.pid: job.words for job in found if not _around(job, found)}
    for number, patience in ((signal.SIGTERM, _TERM), (signal.SIGKILL, _KILL)):
        for one in _members(found, whose):
            with suppress(OSError):
                send(one.pid, one.ticks, number)
        limit = system.monotonic() + patience
        while _members(found, whose) and system.monotonic() < limit:
            system.sleep(0.1)
    # Whoever was waiting for a package manager runs on with it.
    left = {one.pid for one in [*_jobs(whose, since, before), *_members(found, whose)]}
    for pid, words in named.items():
        (result.running if pid in left else result.ended).append(words)
    return result


def be_ours() -> None:
    """Call this process a module of ours."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, OURS.encode(), 0, 0, 0)


def boottime(system: System, monotonic: float) -> float:
    """A moment of the monotonic clock in seconds after boot, as processes are dated; a suspended host had both."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (system.monotonic() - monotonic)


def started(pid: int) -> float:
    """Seconds after boot at which the process started; 0 when there is none."""
    one = _process(pid)
    return one.started if one is not None else 0.0


def _is_async(job: Process) -> bool:
    return any("async_wrapper" in word for word in job.argv)


def _around(job: Process, jobs: Iterable[Process]) -> bool:
    """Whether it is but the shell around another of these jobs."""
    return any(other.parent == job.pid for other in jobs)


def _jobs(whose: _Whose, since: float, before: float) -> list[Process]:
    """All jobs but us, what we run in, and what runs a module of ours."""
    everything = _processes()
    own = _lineage(os.getpid(), everything)
    found = [
        one
        for one in everything.values()
        if one.pid not in own and one in whose and since <= one.started < before and one.is_job
    ]
    return [job for job in found if not any(one.name == OURS and one in whose for one in _tree(job, everything))]


def _members(jobs: Iterable[Process], whose: _Whose) -> list[Process]:
    """What of these jobs runs now, but those in which a package manager of these users is at work."""
    everything = _processes()
    own = _lineage(os.getpid(), everything)
    trees = [_tree(job, everything) for job in jobs]
    return [
        one
        for tree in trees
        if not any(one.is_installing and one in whose for one in tree)
        for one in tree
        if one.pid not in own
    ]


def _tree(job: Process, everything: dict[int, Process]) -> list[Process]:
    """The job, its descendants, and who is in a process group that one of them leads."""
    tree: set[int] = set()
    same = everything.get(job.pid)
    more = {job.pid} if same is not None and same.ticks == job.ticks else set()
    groups = {job.pid} if job.group == job.pid else set()
    while more:
        tree |= more
        groups |= {pid for pid in more if everything[pid].group == pid}
        more = {
            one.pid
            for one in everything.values()
            if one.parent in tree or (one.group in groups and one.ticks >= job.ticks)
        } - tree
    return [everything[pid] for pid in sorted(tree)]


def _lineage(pid: int, everything: dict[int, Process]) -> set[int]:
    """The process and its ancestors."""
    found = {pid, 1}
    while pid in everything and everything[pid].parent not in found:
        pid = everything[pid].parent
        found.add(pid)
    return found


def _processes() -> dict[int, Process]:
    found = (_process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return {one.pid: one for one in found if one is not None}


def _process(pid: int) -> Process | None:
    """None for what is gone, or has ended and was not looked at yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            head, _blank, tail = stream.read().rpartition(b")")
            stat = tail.split()
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            argv = stream.read().decode("utf-8", "replace").split("\0")[:-1]
    except OSError:
        return None
    if stat[0] in (b"Z", b"X"):
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return Process(pid, int(stat[1]), int(stat[2]), users(pid), int(stat[19]), name, _program(pid), argv, login_of(pid))


def login_of(pid: int | str) -> int:
    """Who logged in to start the process (a user id); -1 where nobody did, or the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/loginuid", "rb") as stream:
            found = int(stream.read())
    except (OSError, ValueError):
        return -1
    return found if found < 0xFFFFFFFF else -1


def _program(pid: int) -> str:
    """The name of the program that the process runs; empty where that is not ours to know."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
    except OSError:
        return ""
