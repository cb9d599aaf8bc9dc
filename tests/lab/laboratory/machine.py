# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that carries the labs: its commands, its tools, its firewall, and the lock on the labs."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Each lab of this repository has a folder of its own here.
STATE = Path(__file__).resolve().parents[3] / ".lab"
# Each tool that a lab needs, with the Debian package that brings it. netavark is no command, but found like one.
TOOLS = {
    "podman": "podman",
    "runc": "runc",
    "netavark": "netavark",
    "aardvark-dns": "aardvark-dns",
    "iptables": "iptables",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mmdebstrap": "mmdebstrap",
}
TOOL_PATH = ":".join(
    [
        os.environ.get("PATH", ""),
        "/usr/sbin",
        "/sbin",
        "/usr/lib/podman",
        "/usr/libexec/podman",
        "/usr/local/libexec/podman",
    ]
)
INOTIFY_INSTANCES = 4096
LOCK_MARK = "EVENKEEL_LAB_LOCK"


class LabError(Exception):
    """An error to be shown as it is: it says what went wrong, where, and what to do next."""


def say(text: str) -> None:
    """Progress, for a person: on stderr, so that stdout stays what was asked for."""
    print(text, file=sys.stderr, flush=True)


def run(
    argv: Sequence[str], *, check: bool = True, input: str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, capture its output. A failure, or a timeout (seconds), is a LabError that quotes it.

    The command is in a session of its own and is let go on: Ctrl-C, or a signal to the process group, ends this
    script, but never a podman half-way, which would leave a network card or an address taken.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "PATH": TOOL_PATH},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed: 'lab.py up' installs it on Debian, as root") from error
    with process:
        try:
            output, errors = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise LabError(f"'{shlex.join(argv)}' did not end within {timeout:g} s") from error
    done = subprocess.CompletedProcess(argv, process.returncode, output, errors)
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise LabError(f"'{shlex.join(argv)}' failed (rc {done.returncode}): {' / '.join(said[-5:])}")
    return done


@functools.cache
def engine() -> tuple[str, ...]:
    """The podman command. runc where it is installed: crun refuses machines with hybrid cgroups."""
    found = shutil.which("runc", path=TOOL_PATH)
    return ("podman", "--log-level", "error", *(("--runtime", found) if found else ()))


def podman(*args: str, check: bool = True, input: str | None = None, timeout: float | None = None) -> str:
    """Run podman; its standard output, stripped."""
    return run([*engine(), *args], check=check, input=input, timeout=timeout).stdout.strip()


def hosts_first() -> None:
    """Give hosts the processors before any other program, as a host has its own: together they count as one process."""
    for name, weight in (("cpu/libpod_parent/cpu.shares", 10240), ("libpod_parent/cpu.weight", 1000)):
        with contextlib.suppress(OSError):  # No such group: podman has another one for them.
            Path("/sys/fs/cgroup", name).write_text(str(weight))


def unavailable() -> str | None:
    """Why no lab can run here, in one line; None when one can. Installs nothing: tests skip on it."""
    if os.geteuid() != 0:
        return "the lab needs root: its hosts have network addresses of their own"
    missing = [tool for tool in TOOLS if tool != "mmdebstrap" and not shutil.which(tool, path=TOOL_PATH)]
    if missing:
        return f"the lab needs {', '.join(missing)}: 'lab.py build' installs them on Debian"
    return None


def prepare_machine() -> None:
    """Make sure of root and of every tool; on Debian, install those that are missing."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root, its hosts have network addresses of their own: run it with sudo")
    apt = shutil.which("apt-get")
    wanted = [tool for tool in TOOLS if apt or tool != "mmdebstrap"]
    missing = [tool for tool in wanted if not shutil.which(tool, path=TOOL_PATH)]
    if not missing:
        return
    packages = sorted({TOOLS[tool] for tool in missing})
    if not apt:
        raise LabError(f"missing on this machine: {', '.join(missing)}. Install them and try again")
    say(f"installing {' '.join(packages)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    # Another command of ours may install the same at this moment.
    with locked():
        run(["apt-get", "update", "--quiet=2"])
        run(["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *packages])
    engine.cache_clear()


def allow_hosts() -> None:
    """Raise the machine's limit of inotify instances: systemd needs six a host, and fails units when there are none."""
    allowed = Path("/proc/sys/fs/inotify/max_user_instances")
    if (before := int(allowed.read_text())) < INOTIFY_INSTANCES:
        allowed.write_text(str(INOTIFY_INSTANCES))
        say(f"raised fs.inotify.max_user_instances from {before} to {INOTIFY_INSTANCES}, until this machine restarts")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one command at a time change the labs of this repository.

    The kernel ends the lock with the process, but a podman that a killed process had started goes on. It is
    waited for: a container that is removed while podman works on it leaves its address taken for ever.
    """
    STATE.mkdir(exist_ok=True)
    fd = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another lab command to end")
            fcntl.flock(fd, fcntl.LOCK_EX)
        end = time.monotonic() + 30
        while any(started_under_lock(process) for process in Path("/proc").glob("[0-9]*")) and time.monotonic() < end:
            time.sleep(0.1)
        os.environ[LOCK_MARK] = str(STATE)
        yield
    finally:
        os.environ.pop(LOCK_MARK, None)
        os.close(fd)


def started_under_lock(process: Path) -> bool:
    """Whether a process, given as its folder in /proc, is a podman that was started under the lock of these labs."""
    try:
        return (process / "comm").read_text() == "podman\n" and f"{LOCK_MARK}={STATE}".encode() in (
            process / "environ"
        ).read_bytes().split(b"\0")
    except OSError:
        return False


def process_identity(pid: int) -> str | None:
    """``pid:start time``, which no later process has again; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}"


def in_parallel(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Do the same for each item, a few at a time; the first failure is raised once all have ended."""
    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def replace_file(path: Path, content: str, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old or the new content, also after a kill."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(content)
    new.chmod(mode)
    new.rename(path)


def nft(rules: str) -> None:
    """Apply rules to the machine's firewall, all or none."""
    run(["nft", "--file", "-"], input=rules)


def banner(address: str, port: int = 22) -> bool:
    """Whether an SSH server greets at an address, within a second."""
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
