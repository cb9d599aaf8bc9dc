# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services without systemd: a command that stays in the foreground, known by its pid file.

The pid file holds the pid alone, for whoever reads it (kill, a monitor, the service itself, which may write it too).
What we have started is kept in the store, with the time at which the process started, so that a pid that has gone to
somebody else is never taken for the service, and never signalled. Where there is no store the time is the second line
of the pid file. A pid file often lies where its service can write: one of somebody else's names, at the most, a process
of that user's which runs the command.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import time
from typing import Any

from .._errors import EvenkeelError, ServiceFailed, UsageError
from .._host.durable import ensure_dir, write_all, write_file
from .._host.options import Options, read
from .._host.paths import open_dir
from .._host.system import System, detached, send, start_time, users
from .._host.trust import open_regular, owners, read_small, stranger, trusted
from .state import ServiceState

OPTIONS: Options = {
    "name": {"type": "str", "required": True},
    "pidfile": {"type": "str", "required": True},
    "argv": {"type": "list", "elements": "str", "required": True},
    "chdir": {"type": "str", "default": "/"},
    "reload_signal": {"type": "str"},
    "stop_signal": {"type": "str", "default": "TERM"},
}
_STOP_LIMIT = 10.0
# How long a fresh process must live to count as started.
_ALIVE = 0.5
# The most bytes of a file that holds the id of a process.
_LONGEST = 128
# As much of a script's first line as the kernel reads.
_LINE = 256


def check(definition: Any) -> dict[str, Any]:
    """The definition with all its keys; UsageError names the bad one."""
    made = read(OPTIONS, definition, "process")
    where = f"process {made['name']}"
    if not os.path.isabs(made["argv"][0]):
        raise UsageError(f"{where}: argv must be a list that begins with an absolute path")
    for key in ("pidfile", "chdir"):
        if not os.path.isabs(made[key]):
            raise UsageError(f"{where}: {key} must be an absolute path")
    for key in ("reload_signal", "stop_signal"):
        made[key] = (made[key] or "").upper().removeprefix("SIG")
        if made[key] and "SIG" + made[key] not in signal.Signals.__members__:
            raise UsageError(f"{where}: {key} {definition[key]!r} is no signal; write HUP or TERM")
    return made


def _running(definition: dict[str, Any], system: System) -> tuple[int, int] | None:
    """(pid, start time) of the service, or None: the process that we started, or else the pid file's, if it counts."""
    return _remembered(definition, system) or _named(definition)[0]


def _named(definition: dict[str, Any]) -> tuple[tuple[int, int] | None, str]:
    """The process that the pid file names, or None and, where there is one that it may not name, why, in words."""
    pidfile, argv = definition["pidfile"], definition["argv"]
    try:
        data, owner = read_small(pidfile, _LONGEST)
        written = os.stat(pidfile, follow_symlinks=False).st_mtime
        words = data.split()
        pid = int(words[0])
    except (ValueError, IndexError, FileNotFoundError):
        return None, ""
    except OSError as error:
        return None, f"its pid file {pidfile} is not believed: {error.strerror}"
    started = start_time(pid)
    if started is None or (len(words) > 1 and words[1] != b"%d" % started):
        return None, ""
    if not stranger(pidfile, trusted()) and owner in trusted():
        return ((pid, started), "") if len(words) > 1 or _runs(pid, argv, started, written) else (None, "")
    # Somebody else can write it, and could end by it whatever root may end.
    theirs = owner if owner not in trusted() else os.stat(os.path.dirname(pidfile)).st_uid
    why = stranger(pidfile, {*trusted(), theirs})
    if not why and (users(pid) != {theirs} or not _runs(pid, argv, started, written)):
        why = f"uid {theirs} can write it, and process {pid} is not that user's, or does not run the command"
    return (None, f"its pid file {pidfile} is not believed: {why}") if why else ((pid, started), "")


def _remembered(definition: dict[str, Any], system: System) -> tuple[int, int] | None:
    """The process of the service that we started, if it still runs."""
    with contextlib.suppress(OSError, ValueError):
        data, _owner = read_small(_memory(definition, system), _LONGEST)
        pid, started, boot = data.decode().split()
        if start_time(int(pid)) == int(started) and boot == system.boot_id():
            return int(pid), int(started)
    return None


def _memory(definition: dict[str, Any], system: System) -> str:
    """Where it is kept which process of the service we started; FileNotFoundError when that is nowhere."""
    if not system.memory:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "memory")
    key = "\0".join((definition["name"], definition["pidfile"]))
    return os.path.join(system.memory, hashlib.sha256(os.fsencode(key)).hexdigest()[:32])


def _remember(definition: dict[str, Any], pid: int, started: int | None, system: System) -> bool:
    """Keep, where we may write, which process is the service. Whether it is kept."""
    try:
        path = _memory(definition, system)
        ensure_dir(system.memory)
        write_file(path, f"{pid} {started} {system.boot_id()}\n".encode())
    except (FileNotFoundError, PermissionError):
        return False
    return True


def _runs(pid: int, argv: list[str], started: int, written: float) -> bool:
    """Whether the process runs this program and was started with these words. Of its words a process can say what it
    likes, of its program it cannot.

    One that has given itself a title (nginx, gunicorn) says no words any more. It counts if the pid file, ``written``
    at that time, cannot name an earlier process.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            words = stream.read().split(b"\0")
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False
    wanted = [os.fsencode(word) for word in argv]
    interpreter = _interpreter(argv[0])
    if program != os.path.realpath(interpreter or argv[0]):
        return False
    # The kernel puts an interpreter, and one option at the most, before the words.
    first = next((at for at in (1, 2) if words[at : at + 1] == wanted[:1]), 0) if interpreter else 0
    if words[first : first + len(wanted)] == wanted:
        return True
    return b" " in words[0] and words[0] != wanted[0] and _age(started) >= time.time() - written


def _interpreter(program: str) -> str:
    """What runs the script, by its first line; empty for a program of its own."""
    try:
        with open_regular(os.path.realpath(program)) as stream:
            line = stream.readline(_LINE)
    except OSError:
        return ""
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    if len(words) == 2 and os.path.basename(words[0]) == "env":
        return shutil.which(words[1]) or ""
    return words[0] if words else ""


def _age(started: int) -> float:
    """For how many seconds a process runs that was started at this clock tick."""
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0]) - started / os.sysconf("SC_CLK_TCK")


def observe(definition: dict[str, Any], system: System) -> ServiceState:
    found = _running(definition, system)
    if found is None:
        why = _named(definition)[1]
        text = f"not running ({why})" if why else "not running"
        return ServiceState(definition["name"], True, "", False, text, None, "", 0, False)
    pid, started = found
    age = _age(started)
    can_reload = bool(definition["reload_signal"])
    text = f"running (pid {pid})"
    return ServiceState(definition["name"], True, "", True, text, system.now() - age, f"{pid}:{started}", 0, can_reload)


def act(verb: str, definition: dict[str, Any], system: System) -> ServiceState:
    """Do it and prove it: start, stop, restart, reload. The state afterwards. Raises ServiceFailed."""
    try:
        return _act(verb, definition, system)
    except OSError as error:
        raise ServiceFailed(f"process {definition['name']}: {verb} failed: {error}") from error


def _act(verb: str, definition: dict[str, Any], system: System) -> ServiceState:
    before = observe(definition, system)
    if verb in ("stop", "restart"):
        _stop(definition, system)
    if verb in ("start", "restart") and (verb == "restart" or not before.active):
        _start(definition, system)
    if verb == "reload":
        found = _running(definition, system)
        if found is None or not definition["reload_signal"]:
            why = "it is not running" if found is None else "it has no reload_signal"
            raise ServiceFailed(f"process {definition['name']} cannot be reloaded: {why}")
        send(*found, getattr(signal, "SIG" + definition["reload_signal"]))
        system.sleep(_ALIVE)
    after = observe(definition, system)
    wrong = {
        "start": not after.active,
        "restart": not after.active or after.identity == before.identity,
        "reload": after.identity != before.identity,
        "stop": after.active,
    }[verb]
    if wrong:
        command = " ".join(definition["argv"])
        raise ServiceFailed(f"process {definition['name']}: after {verb} it is {after.text}; its command: {command}")
    return after


def _start(definition: dict[str, Any], system: System) -> None:
    try:
        process = detached(definition["argv"], definition["chdir"])
    except OSError as error:
        raise ServiceFailed(f"process {definition['name']} cannot be started: {error}") from error
    started = start_time(process.pid)
    try:
        remembered = _remember(definition, process.pid, started, system)
        _write(definition["pidfile"], (f"{process.pid}\n" if remembered else f"{process.pid}\n{started}\n").encode())
    except (OSError, EvenkeelError):
        process.kill()  # What is not recorded could never be stopped.
        process.wait()
        raise
    end = system.monotonic() + _ALIVE
    while system.monotonic() < end:
        if process.poll() is not None:
            hint = "; its command must stay in the foreground" if process.returncode == 0 else ""
            raise ServiceFailed(
                f"process {definition['name']} ended at once, with exit code {process.returncode}{hint}"
            )
        system.sleep(0.05)


def _write(path: str, data: bytes) -> None:
    """The pid file, below directories that may be somebody else's, who must not lead us to those of others."""
    foreign = stranger(path, trusted())
    folder, name = os.path.split(path)
    if not foreign:
        os.makedirs(folder, exist_ok=True)
    fd = open_dir(os.fsencode(os.path.realpath(folder)))
    try:
        owner = os.fstat(fd).st_uid
        if foreign and (owner in trusted() or owners(path) - trusted() - {owner}):
            raise PermissionError(
                errno.EPERM, f"{foreign}, and has it lead to a directory that is not that user's", path
            )
        temporary = f".{name}.{os.urandom(8).hex()}"
        new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=fd)
        try:
            write_all(new, data)
            os.fchmod(new, 0o644)
            os.fsync(new)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=fd)
            raise
        finally:
            os.close(new)
        os.fsync(fd)
    finally:
        os.close(fd)


def _stop(definition: dict[str, Any], system: System) -> None:
    """Its stop signal, and KILL when that does not end it. What has its pid later is not signalled."""
    found = _running(definition, system)
    if found is None:
        return
    pid, started = found
    for word in (definition["stop_signal"], "KILL"):
        send(pid, started, getattr(signal, "SIG" + word))
        end = system.monotonic() + _STOP_LIMIT
        while system.monotonic() < end:
            _reap(pid)
            if start_time(pid) != started:
                return
            system.sleep(0.05)
    raise ServiceFailed(f"process {definition['name']} (pid {pid}) does not end, not even by KILL")


def _reap(pid: int) -> None:
    """Where the service is our own child (a test, an agent), let it go."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
