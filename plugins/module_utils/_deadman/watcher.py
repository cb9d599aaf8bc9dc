# SPDX-License-Identifier: GPL-3.0-or-later

"""The timer by a watcher: a process outside of all units and sessions that waits with its code in memory."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress

from .._errors import Refused
from .._host import locks
from .._host.commands import search_path
from .._host.processes import read_stat, send_signal, start_time
from .._host.system import System
from .._store.store import Store
from .invocation import agent_arguments, python
from .units import trusted_python

# Seconds within which a new watcher must have reported that it runs.
_READY = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class WatcherTimer:
    """The backend of the watcher (see ``Timer``). It reads the deadline from the store."""

    def is_available(self, system: System) -> bool:
        return True

    def prepare(self, store: Store, agent: str) -> None:
        """Do nothing: a watcher has no files."""

    def arm(self, store: Store, number: int, agent: str) -> None:
        is_running(agent)  # No stranger may hold what the new watcher locks.
        start(store, number, agent)

    def ensure(self, store: Store, number: int, due: float, agent: str, patience: float) -> None:
        if not is_running(agent):
            start(store, number, agent)

    def fire(self, store: Store) -> None:
        """Do nothing: the watcher sees the mark in the store by itself."""

    def disarm(self, store: Store) -> None:
        """Do nothing: the watcher sees the end of the change by itself."""


def start(store: Store, number: int, agent: str) -> None:
    """Start the watcher of the change of this number. Raises Refused where the watcher does not report that it
    runs."""
    reading, writing = os.pipe()
    argv = [
        trusted_python(store.system),
        *agent_arguments(agent),
        "--store",
        store.root,
        "watch",
        "--generation",
        str(number),
    ]
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
            argv,
            cwd="/",
            env={"PATH": search_path()},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o022,
        )
        os.close(writing)
        writing = -1
        report = os.read(reading, 16) if select.select([reading], [], [], _READY)[0] else b""
        process.wait(_READY)  # The child of the process goes on.
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"the dead-man cannot be armed: its watcher: {error}; nothing was changed") from error
    finally:
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
    if report != b"ready\n":
        raise Refused(
            "the dead-man cannot be armed: its watcher does not start; nothing was changed. "
            f"Try {python()} -I {agent} --store {store.root} check"
        )


def detach() -> None:
    """Leave the parent, the session and the control groups that started us. Become exempt from the OOM killer and
    from signals to a session, as far as the host allows."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.environ.setdefault("PATH", _PATH)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(number, _end_at_shutdown)
    with suppress(OSError):
        _put("/proc/self/oom_score_adj", "-1000")
    with suppress(OSError):
        _leave_groups()


def end_exemption() -> None:
    """End the exemption from the OOM killer, because processes that we start would inherit it. If the OOM killer ends
    us now, another timer goes on."""
    with suppress(OSError):
        _put("/proc/self/oom_score_adj", "0")


def _leave_groups() -> None:
    """Move out of the control groups of units and sessions, to a place beside the groups of systemd, pid 1."""
    with open("/proc/1/cgroup") as stream:
        lines = stream.read().split()
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        mounts = {"": ["", "/unified"], "name=systemd": ["/systemd"]}.get(controllers, ["/" + controllers])
        top = path[: -len("/init.scope")] if path.endswith("/init.scope") else path
        for place in (f"/sys/fs/cgroup{mount}{below}" for mount in mounts for below in (top, "")):
            if os.path.exists(os.path.join(place, "cgroup.procs")) and _join(
                place, controllers in ("", "name=systemd")
            ):
                break


def _join(place: str, own: bool) -> bool:
    """Move into this group, or with ``own`` into a group below it that belongs to no unit. Return False where the
    host refuses."""
    try:
        if own:
            place = os.path.join(place, "evenkeel")
            os.makedirs(place, exist_ok=True)
        _put(os.path.join(place, "cgroup.procs"), str(os.getpid()))
    except OSError:
        return False
    return True


def _end_at_shutdown(_number: int, _frame: object) -> None:
    """Handle a signal: end only when the host goes down."""
    if is_last_of_all():
        os._exit(0)


def is_last_of_all() -> bool:
    """Whether systemd has ended all units, and now kills the processes that are left."""
    with suppress(OSError), open("/proc/1/comm") as stream:
        return "shutdow" in stream.read()
    return False


def report_ready() -> None:
    """Report to the process that started us, and close its files."""
    with suppress(OSError):
        os.write(1, b"ready\n")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def lock(path: str, wait: float = 0.0) -> int | None:
    """A descriptor that locks this file or directory for us alone; None where another process holds the lock."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if locks.lock(fd, wait):
        return fd
    os.close(fd)
    return None


def is_running(agent: str) -> bool:
    """Whether a watcher runs that was started from this zipapp. A watcher that was stopped (SIGSTOP) is continued. A
    zipapp that a stranger has locked is replaced by a copy, for a watcher to lock."""
    fd = lock(agent)
    if fd is None and locks.is_strangers(agent):
        with open(agent, "rb") as stream:
            locks.replace(agent, stream.read(), 0o400)
        return False
    if fd is None:
        wake(agent)
        return True
    os.close(fd)
    return False


def wake(path: str) -> None:
    """Continue the process that locks this file or directory, where it was stopped (SIGSTOP)."""
    for pid in locks.holders(path):
        started = start_time(pid)
        if started is not None and _is_stopped(pid):
            send_signal(pid, started, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state in (b"T", b"t")


def _put(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
