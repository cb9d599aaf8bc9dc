# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services without systemd: a command that stays in the foreground, known by its pid file.

The pid file holds the pid and, in a second line, the time at which the process started, so that a pid that has
gone to somebody else is never taken for the service, and never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from .._errors import ServiceFailed, UsageError
from .._store.durable import write_file
from .._system import System, detached, start_time
from .state import ServiceState

_KEYS = {"name", "pidfile", "argv", "chdir", "reload_signal", "stop_signal"}
_STOP_LIMIT = 10.0
# How long a fresh process must live to count as started.
_ALIVE = 0.5


def check(definition: Any) -> dict[str, Any]:
    """The definition with all its keys; UsageError names the bad one."""
    if not isinstance(definition, dict):
        raise UsageError(f"process: {definition!r} must be a mapping with name, pidfile and argv")
    unknown = set(definition) - _KEYS
    if unknown:
        raise UsageError(f"process: unknown key {sorted(unknown)[0]!r}; it takes {', '.join(sorted(_KEYS))}")
    for key in ("name", "pidfile", "argv"):
        if not definition.get(key):
            raise UsageError(f"process: {key} is missing")
    argv = definition["argv"]
    if not isinstance(argv, list) or not os.path.isabs(str(argv[0])):
        raise UsageError(f"process {definition['name']}: argv must be a list that begins with an absolute path")
    made = {"chdir": "/", "reload_signal": "", "stop_signal": "TERM", **definition}
    for key in ("pidfile", "chdir"):
        if not os.path.isabs(str(made[key])):
            raise UsageError(f"process {definition['name']}: {key} must be an absolute path")
    for key in ("reload_signal", "stop_signal"):
        made[key] = str(made[key]).upper().removeprefix("SIG")
        if made[key] and "SIG" + made[key] not in signal.Signals.__members__:
            raise UsageError(f"process {definition['name']}: {key} {definition[key]!r} is no signal; write HUP or TERM")
    return dict(made, argv=[str(word) for word in argv])


def _running(definition: dict[str, Any]) -> tuple[int, int] | None:
    """(pid, start time) of the service, or None: the pid file's process, if it is the one that was started."""
    try:
        with open(definition["pidfile"]) as stream:
            words = stream.read().split()
        pid = int(words[0])
    except (OSError, ValueError, IndexError):
        return None
    started = start_time(pid)
    if started is None or (len(words) > 1 and words[1] != str(started)):
        return None
    if len(words) == 1 and not _runs(pid, definition["argv"]):
        return None
    return pid, started


def _runs(pid: int, argv: list[str]) -> bool:
    """Whether the process was started with these words, for a pid file that somebody else wrote."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            words = stream.read().split(b"\0")
    except OSError:
        return False
    return [os.fsencode(word) for word in argv] == words[: len(argv)]


def observe(definition: dict[str, Any], system: System) -> ServiceState:
    found = _running(definition)
    if found is None:
        return ServiceState(definition["name"], True, "", False, "not running", None, "", 0, False)
    pid, started = found
    with open("/proc/uptime") as stream:
        age = float(stream.read().split()[0]) - started / os.sysconf("SC_CLK_TCK")
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
        found = _running(definition)
        if found is None or not definition["reload_signal"]:
            why = "it is not running" if found is None else "it has no reload_signal"
            raise ServiceFailed(f"process {definition['name']} cannot be reloaded: {why}")
        os.kill(found[0], getattr(signal, "SIG" + definition["reload_signal"]))
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
    os.makedirs(os.path.dirname(definition["pidfile"]), exist_ok=True)
    try:
        process = detached(definition["argv"], definition["chdir"])
    except OSError as error:
        raise ServiceFailed(f"process {definition['name']} cannot be started: {error}") from error
    try:
        write_file(definition["pidfile"], f"{process.pid}\n{start_time(process.pid)}\n".encode(), 0o644)
    except OSError:
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


def _stop(definition: dict[str, Any], system: System) -> None:
    """Its stop signal, and KILL when that does not end it. What has its pid later is not signalled."""
    found = _running(definition)
    if found is None:
        return
    pid, started = found
    for word in (definition["stop_signal"], "KILL"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, "SIG" + word))
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
