# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Probes: one measurement of health each. Pass, fail, or unknown: could not be measured."""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .._errors import ServiceFailed, UsageError
from .._host.durations import seconds
from .._host.hashing import chunks, hash_of
from .._host.options import Options, mapping, meant, one_of, read
from .._host.system import System
from .._services import process, systemd
from .._services.state import ServiceState

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
_TIMEOUT = {"type": "str", "default": "5s"}
_BODY_LIMIT = 1 << 20
# A probe ends itself at its timeout. One that does not (a dripping answer, a hung mount) is given up this much later.
_GRACE = 1.0
_ELSEWHERE = "is not as wanted; it leads through a symlink, and nothing is told of what lies there"


@dataclass(frozen=True)
class ProbeResult:
    """``identity`` and ``restarts`` are a service's, to notice a restart between two rounds."""

    kind: str
    target: str
    state: str
    detail: str
    seconds: float
    identity: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Probe:
    """A checked declaration; ``measure`` returns (state, what was seen, the service if it is one)."""

    kind: str
    target: str
    timeout: float
    measure: Callable[[System], tuple[str, str, ServiceState | None]]


def check(probes: Any) -> list[Probe]:
    """The probes, ready to measure; none where none are declared. UsageError names the item and key that is wrong."""
    if probes is None:
        return []
    if not isinstance(probes, list):
        raise UsageError(f"probes must be a list, not {probes!r}; write for example - tcp: {{port: 80}}")
    made = []
    for number, item in enumerate(probes, 1):
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(f"probes, item {number}: {item!r} must have one key, the kind: {', '.join(_KINDS)}")
        ((kind, spec),) = item.items()
        if kind not in _KINDS:
            near = meant(str(kind), _KINDS)
            raise UsageError(f"probes, item {number}: unknown kind {kind!r}{near}; there are {', '.join(_KINDS)}")
        options, make = _KINDS[kind]
        found = read(options, spec, f"probes, item {number}: {kind}")
        try:
            timeout = seconds(found["timeout"], "timeout")
            if not timeout:
                raise UsageError("timeout must be more than 0")
            made.append(make(found, timeout))
        except UsageError as error:
            raise UsageError(f"probes, item {number}: {kind}: {error.message}") from error
    return made


def measure(probes: list[Probe], system: System) -> list[ProbeResult]:
    """One round: all at the same time, so that a slow one does not delay the others. None outlasts its timeout."""
    results: dict[int, ProbeResult] = {}

    def one(number: int) -> None:
        results[number] = _measure(probes[number], system)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(probes))]
    for thread in threads:
        thread.start()
    began = system.monotonic()
    for probe, thread in zip(probes, threads):
        thread.join(max(0.0, began + probe.timeout + _GRACE - system.monotonic()))
    return [results.get(number) or _late(probe) for number, probe in enumerate(probes)]


def _late(probe: Probe) -> ProbeResult:
    return ProbeResult(probe.kind, probe.target, UNKNOWN, f"no result within {probe.timeout:g} s", probe.timeout)


def _measure(probe: Probe, system: System) -> ProbeResult:
    began = system.monotonic()
    service = None
    try:
        state, detail, service = probe.measure(system)
    except Exception as error:  # Whatever it was: it was no measurement, and must not end the others.
        state, detail = UNKNOWN, f"{type(error).__name__}: {error}"
    took = round(system.monotonic() - began, 3)
    identity, restarts = (service.identity, service.restarts) if service is not None else ("", 0)
    return ProbeResult(probe.kind, probe.target, state, detail, took, identity, restarts)


_HTTP: Options = {
    "url": {"type": "str", "required": True},
    "status": {"type": "list", "elements": "int", "default": [200]},
    "body": {"type": "str"},
    "timeout": _TIMEOUT,
}


def _http(spec: dict[str, Any], timeout: float) -> Probe:
    try:
        url = urllib.parse.urlsplit(spec["url"])
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UsageError(f"url {spec['url']!r}: {error}") from error
    if url.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20\x7f]", spec["url"]):
        raise UsageError(f"url {spec['url']!r} is not an http or https address")
    if url.username is not None:
        raise UsageError("url holds a user or a password, which results and logs would show; use a command probe")
    wanted = spec["status"]
    if not wanted:
        raise UsageError("status is an empty list: no answer would pass")
    try:
        body = re.compile(spec["body"]) if spec["body"] else None
    except re.error as error:
        raise UsageError(f"body {spec['body']!r} is no regular expression: {error}") from error
    where = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))

    def ask(system: System) -> tuple[str, str, ServiceState | None]:
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, port, timeout=timeout)
        try:
            connection.request("GET", where, headers={"User-Agent": "evenkeel", "Connection": "close"})
            answer = connection.getresponse()
            text = answer.read(_BODY_LIMIT).decode("utf-8", "replace")
        except socket.gaierror as error:
            return UNKNOWN, f"{host} cannot be resolved: {error.strerror}", None
        except (OSError, http.client.HTTPException) as error:
            return FAIL, f"no answer: {error or type(error).__name__}", None
        finally:
            connection.close()
        if answer.status not in wanted:
            return FAIL, f"status {answer.status}, wanted {' or '.join(map(str, wanted))}", None
        if body is not None and not body.search(text):
            return FAIL, f"status {answer.status}, but the body does not match {body.pattern!r}", None
        return PASS, f"status {answer.status}", None

    return Probe("http", spec["url"], timeout, ask)


_TCP: Options = {
    "port": {"type": "int", "required": True},
    "host": {"type": "str", "default": "127.0.0.1"},
    "timeout": _TIMEOUT,
}


def _tcp(spec: dict[str, Any], timeout: float) -> Probe:
    host, port = spec["host"], spec["port"]
    if not 0 < port < 65536:
        raise UsageError(f"port {port} is not between 1 and 65535")

    def ask(system: System) -> tuple[str, str, ServiceState | None]:
        try:
            socket.create_connection((host, port), timeout).close()
        except socket.gaierror as error:
            return UNKNOWN, f"{host} cannot be resolved: {error.strerror}", None
        except OSError as error:
            return FAIL, f"no connection: {error}", None
        return PASS, "accepts connections", None

    return Probe("tcp", f"{host}:{port}", timeout, ask)


_SERVICE: Options = {
    "name": {"type": "str"},
    "process": mapping(process.OPTIONS),
    "timeout": _TIMEOUT,
}


def _service(spec: dict[str, Any], timeout: float) -> Probe:
    if bool(spec["name"]) == bool(spec["process"]):
        raise UsageError("give either name, a systemd unit, or process")
    definition = process.check(spec["process"]) if spec["process"] else None
    target = definition["name"] if definition is not None else systemd.unit_name(spec["name"])

    def ask(system: System) -> tuple[str, str, ServiceState | None]:
        try:
            if definition is not None:
                state = process.observe(definition, system)
            else:
                (state,) = systemd.observe([target], system)
        except ServiceFailed as error:
            return UNKNOWN, error.message, None
        if not state.exists:
            return FAIL, "there is no such unit", state
        return PASS if state.active and not systemd.passing(state) else FAIL, state.text, state

    return Probe("service", str(target), timeout, ask)


_COMMAND: Options = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "rc": {"type": "int", "default": 0},
    "timeout": _TIMEOUT,
}


def _command(spec: dict[str, Any], timeout: float) -> Probe:
    argv, wanted = spec["argv"], spec["rc"]

    def ask(system: System) -> tuple[str, str, ServiceState | None]:
        done = system.command(argv, timeout)
        if done.rc in (124, 127) and done.rc != wanted:
            return UNKNOWN, done.words, None
        said = f"exit code {done.rc}" + (f", wanted {wanted}: {done.words}" if done.rc != wanted else "")
        return PASS if done.rc == wanted else FAIL, said, None

    return Probe("command", argv[0], timeout, ask)


_FILE: Options = {
    "path": {"type": "str", "required": True},
    "sha256": {"type": "str", "required": True},
    "timeout": _TIMEOUT,
}


def _file(spec: dict[str, Any], timeout: float) -> Probe:
    path, wanted = spec["path"], spec["sha256"].lower()
    if not os.path.isabs(path) or not re.fullmatch("[0-9a-f]{64}", wanted):
        raise UsageError("path must be absolute, and sha256 64 hexadecimal digits")

    def ask(system: System) -> tuple[str, str, ServiceState | None]:
        end = system.monotonic() + timeout
        try:
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                place = f"/proc/self/fd/{at}"
                # Whoever owns a directory on the way can have it lead to what is nobody's business.
                direct = os.readlink(place) == os.path.normpath(path)
                if not stat.S_ISREG(os.fstat(at).st_mode):
                    state, words = (UNKNOWN, "cannot be read: it is no regular file") if direct else (FAIL, _ELSEWHERE)
                    return state, words, None
                found = _digest(place, lambda: system.monotonic() < end)
            finally:
                os.close(at)
        except FileNotFoundError:
            return FAIL, _ELSEWHERE if os.path.lexists(path) else "is not there", None
        except OSError as error:
            return UNKNOWN, f"cannot be read: {error.strerror}", None
        if found == wanted:
            return PASS, "as wanted", None
        if found is None:
            return UNKNOWN, f"could not be read within {timeout:g} s", None
        return FAIL, f"has the SHA-256 {found}" if direct else _ELSEWHERE, None

    return Probe("file", path, timeout, ask)


def _digest(path: str, goes_on: Callable[[], bool]) -> str | None:
    """The SHA-256 of a file; None when there was no time for all of it."""
    with open(path, "rb") as stream:
        found, _size = hash_of(takewhile(lambda _chunk: goes_on(), chunks(stream.fileno())))
    return found if goes_on() else None


# kind -> its options, how it is made of a declaration that has been read by them
_KINDS: dict[str, tuple[Options, Callable[[dict[str, Any], float], Probe]]] = {
    "http": (_HTTP, _http),
    "tcp": (_TCP, _tcp),
    "service": (_SERVICE, _service),
    "command": (_COMMAND, _command),
    "file": (_FILE, _file),
}
# The option ``probes`` of modules and roles.
OPTION = one_of({kind: mapping(options) for kind, (options, _make) in _KINDS.items()})
