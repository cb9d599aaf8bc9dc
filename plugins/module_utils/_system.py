# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable


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


def run(argv: Sequence[str], timeout: float) -> Completed:
    """Run a command without a shell and without standard input; never raises for what the command does."""
    command = tuple(str(word) for word in argv)
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    try:
        process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Completed(command, 127, "", f"{command[0] if command else 'empty command'}: {error.strerror}")
    try:
        out, err = process.communicate(timeout=timeout)
        rc = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        rc, err = 124, err + f"\nkilled after {timeout:g} s".encode()
    return Completed(command, rc, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def detached(
    argv: Sequence[str], cwd: str = "/", stdin: int = subprocess.DEVNULL, environment: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process that outlives us: a session of its own, nothing of ours open, and none of our ``environment``.

    What a controller marks its own processes with (a session, a run) must not stick to a service.
    """
    common = ("PATH", "HOME", "USER", "LANG", "TZ")
    kept = {key: value for key, value in os.environ.items() if environment or key in common}
    return subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
        [str(word) for word in argv],
        cwd=cwd,
        env=kept,
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


@dataclass(frozen=True)
class System:
    """The effects that the library needs, as plain callables: a test passes its own, nothing is patched."""

    run: Callable[[Sequence[str], float], Completed] = run
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    boot_id: Callable[[], str] = _boot_id
    has_systemd: Callable[[], bool] = lambda: os.path.isdir("/run/systemd/system") and os.geteuid() == 0
