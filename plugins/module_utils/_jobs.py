# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Ansible has left running on this host: it must not change it once more after it has gone back.

A job is known by what Ansible makes of it: a script in a directory of its own (``ansible-tmp-…``), the wrapper of
``async``, or the shell around them, which ends with ``&& sleep 0``. It counts only when it is root's, or of the account
that logs in for a change. To a job belong its descendants and its process groups.
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

from ._system import System

_SCRIPT = re.compile(r"/ansible-tmp-[0-9.]+-\d+-\d+/(AnsiballZ_\w+|async_wrapper)(\.py)?$")
_SHELL = re.compile(r"(ansible-tmp-|BECOME-SUCCESS-|/python[0-9.]*|/platform-python[0-9.]*).* && sleep 0$", re.DOTALL)
# What our own modules call themselves: whoever settles this change is not what it has left running.
OURS = "evenkeel"
_PR_SET_NAME = 15
# Half of an installation is worse than one that goes on: these are named, not killed.
_WHOLE = {"dpkg", "apt-get", "apt", "rpm", "dnf", "yum", "microdnf", "zypper"}
# Seconds that a job has to end by itself, once asked to.
_TERM, _KILL = 2.0, 1.0


@dataclass(frozen=True)
class Process:
    """``started`` in seconds after boot."""

    pid: int
    parent: int
    group: int
    user: int
    started: float
    name: str
    argv: list[str]

    @property
    def is_job(self) -> bool:
        """Whether Ansible started it, from how it looks."""
        if any(_SCRIPT.search(word) for word in self.argv[:4]):
            return True
        name = os.path.basename(self.argv[0]) if self.argv else ""
        return name in ("sh", "dash", "bash", "ksh") and self.argv[1:2] == ["-c"] and bool(_SHELL.search(self.argv[-1]))

    @property
    def words(self) -> str:
        said = " ".join(self.argv)
        return f"pid {self.pid}: {said if len(said) <= 200 else said[:200] + '…'}"


@dataclass
class Ended:
    """Jobs in words: those that were ended, and those that still run."""

    ended: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)


def end(system: System, since: float, before: float, wait: float, users: Iterable[int] = ()) -> Ended:
    """Wait ``wait`` seconds for the jobs that were started between ``since`` and ``before`` (seconds after boot), then
    end those that still run. ``users``: whose they may be, besides root's and ours.

    Where this machine plays several hosts (no systemd, or no root) it cannot be told whose job it is: they are waited
    for, and left alone.
    """
    whose = {0, os.geteuid(), *users}
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
        for pid in _members(found):
            with suppress(OSError):
                os.kill(pid, number)
        limit = system.monotonic() + patience
        while _members(found) and system.monotonic() < limit:
            system.sleep(0.1)
    # Whoever was waiting for a package manager runs on with it.
    left = {one.pid for one in _jobs(whose, since, before)} | set(_members(found))
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


def _jobs(users: set[int], since: float, before: float) -> list[Process]:
    """All jobs but us, what we run in, and what runs a module of ours."""
    everything = _processes()
    own = _lineage(os.getpid(), everything)
    found = [
        one
        for one in everything.values()
        if one.pid not in own and one.user in users and since <= one.started < before and one.is_job
    ]
    return [job for job in found if not any(everything[pid].name == OURS for pid in _tree(job, everything))]


def _members(jobs: Iterable[Process]) -> list[int]:
    """What of these jobs runs now, but those in which a package manager is at work."""
    everything = _processes()
    own = _lineage(os.getpid(), everything)
    trees = [_tree(job, everything) for job in jobs]
    return sorted(
        pid
        for tree in trees
        if not any(os.path.basename((everything[one].argv or [""])[0]) in _WHOLE for one in tree)
        for pid in tree - own
    )


def _tree(job: Process, everything: dict[int, Process]) -> set[int]:
    """The job, its descendants, and who is in a process group that one of them leads."""
    tree: set[int] = set()
    same = everything.get(job.pid)
    more = {job.pid} if same is not None and same.started == job.started else set()
    groups = {job.pid} if job.group == job.pid else set()
    while more:
        tree |= more
        groups |= {pid for pid in more if everything[pid].group == pid}
        more = {
            one.pid
            for one in everything.values()
            if one.parent in tree or (one.group in groups and one.started >= job.started)
        } - tree
    return tree


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
        user = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
    if stat[0] in (b"Z", b"X"):
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return Process(pid, int(stat[1]), int(stat[2]), user, int(stat[19]) / os.sysconf("SC_CLK_TCK"), name, argv)
