# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs of Ansible that still run on this host: they must not change it again after it has gone back.

A job is known by its form: a script in a directory ``ansible-tmp-…``, the wrapper of ``async``, or the shell around
them, which ends with ``&& sleep 0``. Any user can give a process such a command line, and a program that gains rights
at its start as well. So a job counts only when all its user ids are root's (or ours), or when the login of the change
started it, which no user can fake; and when its program is Python or a shell, which gain no rights. The descendants
and the process groups of a job belong to it.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from .._dataclasses import dataclass, field
from .processes import arguments, login_of, program_name, read_stat, send_signal, user_ids
from .system import System

_SCRIPT = r"/ansible-tmp-[0-9.]+-\d+-\d+/(AnsiballZ_\w+|async_wrapper)(\.py)?$"
_SHELL, _SHELL_END = r"ansible-tmp-|BECOME-SUCCESS-|/python|/platform-python", " && sleep 0"
_PYTHON = r"(python|platform-python|pypy)[0-9.]*"
_SHELLS = ("sh", "dash", "bash", "ksh", "ash", "busybox", "zsh", "mksh")
# The name of processes that run our modules. The module that settles a change is no job of that change.
OURS = "evenkeel"
_PR_SET_NAME = 15
# Package managers: half an installation is worse than an installation that goes on, so they are named, not killed.
_PACKAGE_MANAGERS = {"dpkg", "apt-get", "apt", "rpm", "dnf", "yum", "microdnf", "zypper"}
# Programs that a login leaves behind by themselves.
_OF_LOGINS = {
    *("ssh", "sshd", "sshd-session", "ssh-agent", "gpg-agent", "keyboxd", "dirmngr", "scdaemon", "tmux", "screen"),
    *("mosh-server", "dtach", "abduco", "zellij"),
    *("dbus-daemon", "dbus-broker", "dbus-launch", "systemd"),
}
# The directory of the server that VS Code starts over SSH.
_OF_EDITORS = "/.vscode-server/"
# Where logind makes no session of a login (a container), the login belongs to the unit of sshd.
_SESSION = r"session-[A-Za-z0-9]+\.scope|(?:sshd?|dropbear)(?:@[^/]*)?\.service"
# Seconds that a job has to end after SIGTERM, and after SIGKILL.
_TERM, _KILL = 2.0, 1.0


class Process(NamedTuple):
    """``ticks``: the start, in clock ticks after boot. ``users``: the real, effective and saved user ids. ``name``: as
    the process calls itself; ``program``: the base name of the file that it runs. ``login``: the user id of the login
    that started it, which the kernel keeps and root alone can change; -1 where no login did.
    """

    pid: int
    parent: int
    group: int
    users: set[int]
    ticks: int
    name: str
    program: str
    login: int = -1

    @property
    def started(self) -> float:
        """Seconds after boot."""
        return self.ticks / os.sysconf("SC_CLK_TCK")

    @property
    def argv(self) -> list[str]:
        """The command line. Only that of the change's own processes is read: a process decides on its length."""
        return [word.decode("utf-8", "replace") for word in arguments(self.pid)]

    @property
    def script(self) -> str:
        """The script that a Python runs; empty for another program."""
        words = (word for word in self.argv[1:] if not word.startswith("-"))
        return next(words, "") if re.fullmatch(_PYTHON, self.program) else ""

    @property
    def is_job(self) -> bool:
        """Whether the process has the form of a job of Ansible."""
        if self.program in _SHELLS:
            argv = self.argv
            return argv[1:2] == ["-c"] and argv[-1].endswith(_SHELL_END) and bool(re.search(_SHELL, argv[-1]))
        return bool(re.search(_SCRIPT, self.script))

    @property
    def is_installing(self) -> bool:
        """Whether the process is a package manager."""
        return self.program in _PACKAGE_MANAGERS or os.path.basename(self.script) in _PACKAGE_MANAGERS

    @property
    def words(self) -> str:
        """The pid, the program, and the script of a job, for a message. Command lines hold secrets: none is shown."""
        job = re.search(_SCRIPT, self.script)
        return f"pid {self.pid}: {self.program or self.name}{' ' + os.path.basename(self.script) if job else ''}"


@dataclass(frozen=True)
class _Owners:
    """The processes that may belong to the change. The user ids of such a process are all among ``users``, because a
    process of another user may only have gained their rights; or the ``login`` of the change started the process,
    whatever user it runs as."""

    users: set[int]
    login: int

    def __contains__(self, process: Process) -> bool:
        return bool(process.users) and (process.users <= self.users or process.login == self.login >= 0)


@dataclass
class Ended:
    """Jobs in words: jobs that were ended, and jobs that still run. ``beside``: what else goes on in the background."""

    ended: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    @property
    def left(self) -> list[str]:
        """Sentences on everything that goes on."""
        jobs = [f"a job of Ansible still runs, {one}" for one in self.running]
        return jobs + [f"started since the host was armed, and goes on in the background: {one}" for one in self.beside]


def end_jobs(system: System, since: float, before: float, wait: float, login: int = -1) -> Ended:
    """Wait ``wait`` seconds for the jobs that started between ``since`` and ``before`` (seconds after boot), then end
    the jobs that still run. ``login``: the user id by which the change logged in, -1 where that is not known.

    Where this machine plays several hosts (no systemd, or no root) the owner of a job cannot be told: jobs are waited
    for, and left alone.
    """
    owners = _Owners({0, os.geteuid()}, login)
    found = _jobs(system, owners, since, before)
    limit = system.monotonic() + wait
    # An async job goes on however long we wait; the others may be about to end.
    while any(not _is_async(job) for job in found) and system.monotonic() < limit:
        system.sleep(0.1)
        found = _jobs(system, owners, since, before)
    if not found or not system.has_systemd():
        return Ended()
    result = Ended()
    named = {job.pid: job.words for job in found if not _is_outer_shell(job, found)}
    for number, patience in ((signal.SIGTERM, _TERM), (signal.SIGKILL, _KILL)):
        for process in _members(system, found, owners):
            with suppress(OSError):
                send_signal(process.pid, process.ticks, number)
        limit = system.monotonic() + patience
        while _members(system, found, owners) and system.monotonic() < limit:
            system.sleep(0.1)
    # A job that waits for a package manager runs on together with it.
    left = {process.pid for process in [*_jobs(system, owners, since, before), *_members(system, found, owners)]}
    for pid, words in named.items():
        (result.running if pid in left else result.ended).append(words)
    return result


def running(system: System, since: float, before: float, login: int = -1) -> list[str]:
    """The jobs that started between ``since`` and ``before`` and still run, in words; see ``end_jobs``. None are named
    where this machine plays several hosts."""
    if not system.has_systemd():
        return []
    found = _jobs(system, _Owners({0, os.geteuid()}, login), since, before)
    return [job.words for job in found if not _is_outer_shell(job, found)]


def left_behind(system: System, since: float, before: float, login: int = -1, proc: str = "/proc") -> list[str]:
    """The processes that a login has left behind, in words: started between ``since`` and ``before`` (seconds after
    boot) by root or by the ``login`` of the change, no job of Ansible, and without a parent, as after ``nohup … &``.
    They are named, and never ended: they may be somebody else's."""
    owners = _Owners({0, os.geteuid()}, login)
    return [
        process.words
        for process in _processes(system, proc).values()
        if process.parent == 1
        and since <= process.started < before
        and process in owners
        and not process.is_job
        and process.name != OURS
        and process.program not in _OF_LOGINS
        and not any(_OF_EDITORS in word for word in process.argv[:2])
        and _is_of_login(process.pid, proc)
    ]


def _is_of_login(pid: int, proc: str = "/proc") -> bool:
    """Whether systemd counts the process to a login."""
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return False
    return any(re.fullmatch(_SESSION, part) for line in lines for part in line.split("/"))


def mark_as_ours() -> None:
    """Give this process the name of our modules."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, OURS.encode(), 0, 0, 0)


def boottime(system: System, monotonic: float) -> float:
    """Convert a moment of the monotonic clock to seconds after boot, the clock by which processes are dated. The
    difference between the two clocks is the time for which the host was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - (system.monotonic() - monotonic)


def started(pid: int) -> float:
    """Seconds after boot at which the process started; 0 when there is no such process."""
    stat = read_stat(pid)
    return stat.started if stat is not None and not stat.has_ended else 0.0


def _is_async(job: Process) -> bool:
    return any("async_wrapper" in word for word in job.argv)


def _is_outer_shell(job: Process, jobs: Iterable[Process]) -> bool:
    """Whether the job is only the shell around another of these jobs."""
    return any(other.parent == job.pid for other in jobs)


def _jobs(system: System, owners: _Owners, since: float, before: float) -> list[Process]:
    """All jobs but this process, its ancestors, and jobs that run a module of ours."""
    processes = _processes(system)
    lineage = _lineage(os.getpid(), processes)
    found = [
        process
        for process in processes.values()
        if process.pid not in lineage and process in owners and since <= process.started < before and process.is_job
    ]

    def runs_ours(job: Process) -> bool:
        return any(process.name == OURS and process in owners for process in _tree(job, processes))

    return [job for job in found if not runs_ours(job)]


def _members(system: System, jobs: Iterable[Process], owners: _Owners) -> list[Process]:
    """The processes of these jobs that run now, without the jobs in which a package manager of these owners works."""
    processes = _processes(system)
    lineage = _lineage(os.getpid(), processes)
    trees = [_tree(job, processes) for job in jobs]
    return [
        process
        for tree in trees
        if not any(process in owners and process.is_installing for process in tree)
        for process in tree
        if process.pid not in lineage
    ]


def _tree(job: Process, processes: dict[int, Process]) -> list[Process]:
    """The job, its descendants, and the members of process groups that any of these leads."""
    tree: set[int] = set()
    current = processes.get(job.pid)
    more = {job.pid} if current is not None and current.ticks == job.ticks else set()
    groups = {job.pid} if job.group == job.pid else set()
    while more:
        tree |= more
        groups |= {pid for pid in more if processes[pid].group == pid}
        more = {
            process.pid
            for process in processes.values()
            if process.parent in tree or (process.group in groups and process.ticks >= job.ticks)
        } - tree
    return [processes[pid] for pid in sorted(tree)]


def _lineage(pid: int, processes: dict[int, Process]) -> set[int]:
    """The process and its ancestors."""
    found = {pid, 1}
    while pid in processes and processes[pid].parent not in found:
        pid = processes[pid].parent
        found.add(pid)
    return found


def _processes(system: System, proc: str = "/proc") -> dict[int, Process]:
    found = (_process(pid, proc) for pid in system.pids())
    return {process.pid: process for process in found if process is not None}


def _process(pid: int, proc: str) -> Process | None:
    """The process, or None when it is gone or has ended."""
    stat = read_stat(pid, proc)
    if stat is None or stat.has_ended:
        return None
    users, program, login = user_ids(pid, proc), program_name(pid, proc), login_of(pid, proc)
    return Process(pid, stat.parent, stat.group, users, stat.ticks, stat.name, program, login)
