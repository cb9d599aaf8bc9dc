# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dead-man's second hand: a process that waits, outside of all units and sessions, with all it needs in memory."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import time
from contextlib import suppress

from .._errors import Refused
from .._host.system import send, start_time
from .._store.store import Store
from .timers import python, words_of

# Seconds within which a watcher must have said that it is there.
_READY = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start(store: Store, number: int, agent: str) -> None:
    """Start the watcher of the change of this number. Raises Refused when it does not say that it is there."""
    reading, writing = os.pipe()
    argv = [python(), *words_of(agent), "--store", store.root, "watch", "--generation", str(number)]
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
            argv,
            cwd="/",
            env={"PATH": os.environ.get("PATH") or _PATH},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o022,
        )
        os.close(writing)
        writing = -1
        said = os.read(reading, 16) if select.select([reading], [], [], _READY)[0] else b""
        process.wait(_READY)  # It has left a child behind.
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"the dead-man cannot be armed: its watcher: {error}; nothing was changed") from error
    finally:
        for fd in (reading, writing):
            if fd >= 0:
                os.close(fd)
    if said != b"ready\n":
        raise Refused(
            "the dead-man cannot be armed: its watcher does not start; nothing was changed. "
            f"Try {python()} -I {agent} --store {store.root} check"
        )


def apart() -> None:
    """Leave who started us: parent, session, control groups; be spared by what kills for want of memory, and by
    signals that are meant for a session. All this as far as the host allows it."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.environ.setdefault("PATH", _PATH)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        signal.signal(number, _unless_down)
    with suppress(OSError):
        _put("/proc/self/oom_score_adj", "-1000")
    with suppress(OSError):
        _leave_groups()


def like_others() -> None:
    """Give up what keeps us from being killed for want of memory: what we start has it from us, and must not keep it.
    Should we be killed now, the other hand goes on."""
    with suppress(OSError):
        _put("/proc/self/oom_score_adj", "0")


def _leave_groups() -> None:
    """Move out of the control groups of units and sessions: beside those that systemd, pid 1, has made."""
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
    """Move into this group, or into one of our ``own`` in it, which belongs to no unit."""
    try:
        if own:
            place = os.path.join(place, "evenkeel")
            os.makedirs(place, exist_ok=True)
        _put(os.path.join(place, "cgroup.procs"), str(os.getpid()))
    except OSError:
        return False
    return True


def _unless_down(_number: int, _frame: object) -> None:
    """End only where the host goes down."""
    with suppress(OSError), open("/proc/1/comm") as stream:
        if "shutdow" in stream.read():
            os._exit(0)


def ready() -> None:
    """Tell who started us, and keep nothing of theirs."""
    with suppress(OSError):
        os.write(1, b"ready\n")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.close(nothing)


def take(path: str, wait: float = 0.0) -> int | None:
    """A descriptor that holds this file or directory for us alone, or None when another process has it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(fd)
                return None
        time.sleep(0.1)


def watching(agent: str) -> bool:
    """Whether a watcher that was started from this zipapp is there; one that somebody has stopped goes on."""
    fd = take(agent)
    if fd is None:
        wake(agent)
        return True
    os.close(fd)
    return False


def wake(path: str) -> None:
    """Let go on who holds this file or directory, where somebody has stopped it."""
    with suppress(OSError):
        inode = os.stat(path).st_ino
        with open("/proc/locks") as stream:
            lines = [line.split() for line in stream]
        for words in lines:
            if words[1] == "FLOCK" and words[-3].rpartition(":")[2] == str(inode):
                pid = int(words[-4])
                started = start_time(pid)
                if started is not None and _is_stopped(pid):
                    send(pid, started, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return stream.read().rpartition(b")")[2].split()[0] in (b"T", b"t")


def _put(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
