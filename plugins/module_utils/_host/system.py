# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Callable


@dataclass(frozen=True)
class Completed:
    """A finished command; ``rc`` is 127 when it could not be started and 124 when it ran out of time."""

    argv: tuple[str, ...]
    rc: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The last lines of what it said, for a message."""
        said = (self.err.strip() or self.out.strip()).splitlines()
        return " / ".join(said[-3:]) or f"exit code {self.rc}"


# What is ours alone: an interpreter's, a controller's and a linker's settings would change what a command does.
_OURS = ("PYTHON", "ANSIBLE", "LD_", "VIRTUAL_ENV", "CONDA", "_MEIPASS")
_PLACES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_LOCALES = ("/etc/default/locale", "/etc/locale.conf")


def run(argv: Sequence[str], timeout: float) -> Completed:
    """Run a command whose output is parsed: in our environment without what is ours alone, in the locale C.UTF-8.

    Never raises for what the command does. What it leaves running in the background is neither waited for nor killed.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return _run(argv, timeout, dict(kept, PATH=_path(), LC_ALL="C.UTF-8"))


def command(argv: Sequence[str], timeout: float) -> Completed:
    """Run a command of somebody else's (a hook, a probe) as the host would: in its own environment and locale."""
    return _run(argv, timeout, environment())


def environment(locales: Sequence[str] = _LOCALES) -> dict[str, str]:
    """The environment that this host gives to a command, whoever calls us: nothing of a login's or a controller's."""
    try:
        entry = pwd.getpwuid(os.geteuid())
        who = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": "/bin/sh"}
    except KeyError:
        who = {"HOME": "/"}
    kept = {key: os.environ[key] for key in ("TZ",) if key in os.environ}
    return {"PATH": _path(), **who, **kept, **_locale(locales)}


def _path() -> str:
    """Ours, and after it where a system keeps its commands: a login that is not root's lacks some."""
    own = [one for one in os.environ.get("PATH", "").split(os.pathsep) if one]
    return os.pathsep.join([*own, *(one for one in _PLACES if one not in own)])


def _locale(paths: Sequence[str]) -> dict[str, str]:
    for path in paths:
        with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            pairs = [line.partition("=") for line in shlex.split(stream.read(), comments=True)]
            return {key: value for key, _sign, value in pairs if re.fullmatch("LANG|LANGUAGE|LC_[A-Z]+", key)}
    return {"LANG": "C.UTF-8"}


def _run(argv: Sequence[str], timeout: float, variables: dict[str, str]) -> Completed:
    """Without a shell and without standard input; under the umask of a system, since ours is 077 in places."""
    words = tuple(str(word) for word in argv)
    # No pipes: these end with the last process that has them, not with the command.
    with _output() as out, _output() as err:
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=variables,
                start_new_session=True,
                umask=0o022,
            )
        except OSError as error:
            return Completed(words, 127, "", f"{words[0] if words else 'empty command'}: {error.strerror}")
        killed = ""
        try:
            rc = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            rc, killed = 124, f"\nkilled after {timeout:g} s"
        return Completed(words, rc, _said(out), _said(err) + killed)


def _output() -> IO[bytes]:
    """A file for what a command says; in memory where Python can, since a disk may be full or read-only."""
    make: Callable[[], IO[bytes]] = _memory if hasattr(os, "memfd_create") else tempfile.TemporaryFile
    stream = make()
    # Whoever opens /dev/stdout anew leaves no hole.
    fcntl.fcntl(stream, fcntl.F_SETFL, os.O_APPEND)
    return stream


def _memory() -> IO[bytes]:
    return os.fdopen(os.memfd_create("evenkeel"), "w+b")


def _said(stream: IO[bytes]) -> str:
    """All of it so far, without a seek: whoever still writes has the same position."""
    number = stream.fileno()
    return os.pread(number, os.fstat(number).st_size, 0).decode("utf-8", "replace")


def detached(
    argv: Sequence[str], cwd: str = "/", stdin: int = subprocess.DEVNULL, more: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that outlives us: a session of its own, nothing of ours open, and none of our environment.

    What a controller marks its own processes with (a session, a run) must not stick to a service. ``more``: variables
    of its environment, which, other than its words, only its own user can read.
    """
    return subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
        [str(word) for word in argv],
        cwd=cwd,
        env={**environment(), **(more or {})},
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
        umask=0o022,  # A rollback works under 077, which is not the service's.
    )


def _boot_id() -> str:
    """What changes with every boot. In a container the kernel's boot id does not: pid 1's start time does."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as stream:
            kernel = stream.read().strip()
    except OSError:
        kernel = "unknown"
    started = start_time(1)
    return f"{kernel}:{started}"


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process started, or None when there is no such process (Linux)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # A zombie (state Z) has exited; only its parent has not looked yet.
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def users(pid: int) -> set[int]:
    """Whose process it is, really, in effect, and by what it has saved; nobody's when there is none."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            return {int(word) for line in stream if line.startswith("Uid:") for word in line.split()[1:4]}
    except OSError:
        return set()


def send(pid: int, started: int, number: int) -> bool:
    """Send the signal to the process that started at this clock tick, and never to what has its id by now; whether it
    was sent."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except AttributeError:  # A Python that was built without.
        fd = -1
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # A kernel, or a sandbox, without.
            return False  # A thread, no process.
        fd = -1
    try:
        # Of what the descriptor holds the id cannot go to somebody else between this look and the signal.
        if start_time(pid) != started:
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)
    return True


@dataclass(frozen=True)
class System:
    """The effects that the library needs, as plain callables: a test passes its own, nothing is patched.

    ``memory``: the directory, ours alone, where it is kept which processes we have started; empty for nowhere.
    """

    run: Callable[[Sequence[str], float], Completed] = run
    command: Callable[[Sequence[str], float], Completed] = command
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    boot_id: Callable[[], str] = _boot_id
    has_systemd: Callable[[], bool] = lambda: os.path.isdir("/run/systemd/system") and os.geteuid() == 0
    memory: str = ""
