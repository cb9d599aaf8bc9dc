# SPDX-License-Identifier: GPL-3.0-or-later

"""Probes: each class measures health in its own way."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Callable

from .._errors import ServiceFailed, UsageError
from .._host.hashing import chunks, hash_of
from .._host.options import mapping, meant, one_of, read, shown
from .._host.system import System
from .._services import systemd
from .._services.container import OPTIONS as CONTAINER_OPTIONS
from .._services.process import OPTIONS as PROCESS_OPTIONS
from .._services.service import Service, declared_service
from .address import AddressProbe
from .compare import CompareProbe
from .probe import CONTROLLER, FAIL, HOST, PASS, PEER, UNKNOWN, Measurement, Probe, ProbeResult, split_url
from .prometheus import PrometheusProbe
from .reaching import reach

_BODY_LIMIT = 1 << 20
# A probe ends itself at its timeout. A probe that does not (a dripping answer, a hung mount) is given up this much
# later.
_GRACE = 1.0
_ELSEWHERE = "is not as wanted; it leads through a symlink, so nothing more is told of the file"


def check(probes: object) -> list[Probe]:
    """The declared probes, ready to be measured; none where none are declared.

    UsageError names the item and the key that is wrong.
    """
    if probes is None:
        return []
    if not isinstance(probes, list):
        raise UsageError(f"probes must be a list, not {shown(probes)}; write for example - tcp: {{port: 80}}")
    return [_checked(item, f"probes, item {number}") for number, item in enumerate(probes, 1)]


def _checked(item: object, where: str) -> Probe:
    if not isinstance(item, dict) or len(item) != 1:
        # A value may be secret, and a slip in the indentation puts it here.
        found = ", ".join(map(str, item)) or "none" if isinstance(item, dict) else "none"
        raise UsageError(f"{where}: a probe must have one key, the kind: {', '.join(PROBES)}; it has {found}")
    ((kind, declared),) = item.items()
    if kind not in PROBES:
        raise UsageError(f"{where}: unknown kind {kind!r}{meant(str(kind), PROBES)}; there are {', '.join(PROBES)}")
    values = read(PROBES[kind].options(), declared, f"{where}: {kind}")
    try:
        return PROBES[kind](values)
    except UsageError as error:
        raise UsageError(f"{where}: {kind}: {error.message}") from error


def measure(probes: Sequence[Probe], system: System, here: str = HOST) -> list[ProbeResult]:
    """A round: all probes at the same time, so that a slow probe does not delay the others.

    ``here``: the place of this process. A probe that is to be measured from another place is unknown.
    """
    results: dict[int, ProbeResult] = {}

    def measure_one(number: int) -> None:
        results[number] = _measure(probes[number], system, here)

    threads = [threading.Thread(target=measure_one, args=(number,), daemon=True) for number in range(len(probes))]
    for thread in threads:
        thread.start()
    began = system.monotonic()
    for probe, thread in zip(probes, threads):
        thread.join(max(0.0, began + probe.timeout + _GRACE - system.monotonic()))
    return [results.get(number) or _given_up(probe) for number, probe in enumerate(probes)]


def _given_up(probe: Probe) -> ProbeResult:
    late = f"no result within {probe.timeout:g} s"
    return ProbeResult(
        probe.kind, probe.target, UNKNOWN, late, probe.timeout, severity=probe.severity, source=probe.source
    )


def _measure(probe: Probe, system: System, here: str) -> ProbeResult:
    began = system.monotonic()
    try:
        found = probe.measure(system) if probe.source == here or probe.final else _from_elsewhere(probe)
    except Exception as error:  # No exception of a probe may end the other probes.
        found = Measurement(UNKNOWN, f"{type(error).__name__}: {error}")
    took = round(system.monotonic() - began, 3)
    identity, restarts = (found.service.identity, found.service.restarts) if found.service is not None else ("", 0)
    return ProbeResult(
        probe.kind, probe.target, found.state, found.detail, took, identity, restarts, probe.severity, probe.source
    )


def _from_elsewhere(probe: Probe) -> Measurement:
    return Measurement(UNKNOWN, f"it is to be measured from the {probe.source}, and was not")


class HttpProbe(Probe):
    """An HTTP server answers with a wanted status, and its body matches."""

    kind = "http"
    SOURCES = (HOST, CONTROLLER, PEER)
    OPTIONS = {
        "url": {"type": "str", "required": True},
        "status": {"type": "list", "elements": "int", "default": [200]},
        "body": {"type": "str"},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        url = split_url(declared["url"], "a command probe")
        self._port = url.port
        if not declared["status"]:
            raise UsageError("status is an empty list: no answer would pass")
        try:
            self._body = re.compile(declared["body"]) if declared["body"] else None
        except re.error as error:
            raise UsageError(f"body {declared['body']!r} is no regular expression: {error}") from error
        import http.client  # This module takes longer to load than most calls take, and few probes need it.

        self.host = url.hostname or ""
        self._statuses: list[int] = declared["status"]
        self._connection = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        return str(declared["url"])

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self._port or self._connection.default_port

    def measure(self, system: System) -> Measurement:
        from http.client import HTTPException

        end = system.monotonic() + self.timeout
        connection = self._connection(self.host, self._port, timeout=self.timeout)
        try:
            connection.request("GET", self._path, headers={"User-Agent": "evenkeel", "Connection": "close"})
            answer = connection.getresponse()
            text = answer.read(_BODY_LIMIT).decode("utf-8", "replace")
        except socket.gaierror as error:
            return Measurement(UNKNOWN, f"{self.host} cannot be resolved: {error.strerror}")
        except (OSError, HTTPException) as error:
            return Measurement(FAIL, f"no answer: {error or type(error).__name__}")
        finally:
            connection.close()
        if answer.status not in self._statuses:
            return Measurement(FAIL, f"status {answer.status}, wanted {' or '.join(map(str, self._statuses))}")
        left = end - system.monotonic()
        if left <= 0:
            return Measurement(UNKNOWN, f"status {answer.status}, but no whole answer within {self.timeout:g} s")
        if self._body is not None:
            matches = _matches(self._body, text, left)
            words = "does not match" if matches is not None else f"took longer than {self.timeout:g} s to match"
            if not matches:
                state = UNKNOWN if matches is None else FAIL
                return Measurement(state, f"status {answer.status}, but the body {words} {self._body.pattern!r}")
        return Measurement(PASS, f"status {answer.status}")


def _matches(pattern: re.Pattern[str], text: str, seconds: float) -> bool | None:
    """Whether the pattern is in the text; None where that is not known after that time.

    A server chooses the text, and with it how long the search takes: it may be years. A search in this process would
    stop all its threads as well, so a child searches, and ends at the limit.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            # The child holds our locks as well, and must not outlive a killed parent.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(seconds) + 2)
            os.write(writing, b"1" if pattern.search(text) else b"0")
        finally:
            os._exit(0)
    os.close(writing)
    try:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        answer = os.read(reading, 1) if poll.poll(max(0.0, seconds) * 1000) else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return answer == b"1" if answer else None


class TcpProbe(Probe):
    """A port accepts connections."""

    kind = "tcp"
    SOURCES = (HOST, CONTROLLER, PEER)
    OPTIONS = {
        "port": {"type": "int", "required": True},
        "host": {"type": "str", "default": "127.0.0.1"},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        self._host, self._port = str(declared["host"]), int(declared["port"])
        if not 0 < self._port < 65536:
            raise UsageError(f"port {self._port} is not between 1 and 65535")
        return f"{self._host}:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        return self._host, self._port

    def measure(self, system: System) -> Measurement:
        try:
            reach(self._host, self._port, self.timeout)
        except socket.gaierror as error:
            return Measurement(UNKNOWN, f"{self._host} cannot be resolved: {error.strerror}")
        except OSError as error:
            return Measurement(FAIL, f"no connection: {error}")
        return Measurement(PASS, "accepts connections")


class ServiceProbe(Probe):
    """A service is active, and not on the way to another state. A container that checks itself is healthy as well."""

    kind = "service"
    OPTIONS = {
        "name": {"type": "str"},
        "process": mapping(PROCESS_OPTIONS),
        "container": mapping(CONTAINER_OPTIONS),
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        self._service: Service = declared_service(declared["name"], declared["process"], declared["container"])
        return self._service.name

    def measure(self, system: System) -> Measurement:
        try:
            state = self._service.observe(system)
        except ServiceFailed as error:
            return Measurement(UNKNOWN, error.message)
        if not state.exists:
            return Measurement(FAIL, f"there is no {self._service.what}", state)
        # An engine that has not checked the container yet (``starting``) does not know.
        is_well = state.active and not systemd.passing(state) and state.health in ("", "healthy")
        return Measurement(PASS if is_well else FAIL, state.text, state)


class CommandProbe(Probe):
    """A command ends with the wanted exit code."""

    kind = "command"
    SOURCES = (HOST, CONTROLLER, PEER)
    OPTIONS = {
        "argv": {"type": "list", "elements": "str", "required": True},
        "rc": {"type": "int", "default": 0},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        self._argv: list[str] = declared["argv"]
        self._wanted: int = declared["rc"]
        return str(self._argv[0])

    def measure(self, system: System) -> Measurement:
        done = system.command(self._argv, self.timeout)
        if done.rc == self._wanted:
            return Measurement(PASS, f"exit code {done.rc}")
        if not done.has_answered:
            return Measurement(UNKNOWN, done.words)
        return Measurement(FAIL, f"exit code {done.rc}, wanted {self._wanted}: {done.words}")


class FileProbe(Probe):
    """A file has the wanted SHA-256."""

    kind = "file"
    OPTIONS = {
        "path": {"type": "str", "required": True},
        "sha256": {"type": "str", "required": True},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        self._path, self._wanted = str(declared["path"]), str(declared["sha256"]).lower()
        if not os.path.isabs(self._path) or not re.fullmatch("[0-9a-f]{64}", self._wanted):
            raise UsageError("path must be absolute, and sha256 64 hexadecimal digits")
        return self._path

    def measure(self, system: System) -> Measurement:
        end = system.monotonic() + self.timeout
        try:
            at = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
            try:
                return self._of_open_file(f"/proc/self/fd/{at}", os.fstat(at), lambda: system.monotonic() < end)
            finally:
                os.close(at)
        except FileNotFoundError:
            return Measurement(FAIL, _ELSEWHERE if os.path.lexists(self._path) else "is not there")
        except OSError as error:
            return Measurement(UNKNOWN, f"cannot be read: {error.strerror}")

    def _of_open_file(self, place: str, info: os.stat_result, goes_on: Callable[[], bool]) -> Measurement:
        # The owner of a directory on the way can have the path lead to a file that the result must not tell of.
        direct = os.readlink(place) == os.path.normpath(self._path)
        if not stat.S_ISREG(info.st_mode):
            return Measurement(UNKNOWN, "cannot be read: it is no regular file") if direct else _elsewhere()
        found = _digest(place, goes_on)
        if found == self._wanted:
            return Measurement(PASS, "as wanted")
        if found is None:
            return Measurement(UNKNOWN, f"could not be read within {self.timeout:g} s")
        return Measurement(FAIL, f"has the SHA-256 {found}") if direct else _elsewhere()


def _elsewhere() -> Measurement:
    return Measurement(FAIL, _ELSEWHERE)


def _digest(path: str, goes_on: Callable[[], bool]) -> str | None:
    """The SHA-256 of a file; None when the time was over before its end."""
    with open(path, "rb") as stream:
        found, _size = hash_of(takewhile(lambda _chunk: goes_on(), chunks(stream.fileno())))
    return found if goes_on() else None


# kind -> its class. A new probe is added here.
PROBES: dict[str, type[Probe]] = {
    probe.kind: probe
    for probe in (
        HttpProbe,
        TcpProbe,
        ServiceProbe,
        CommandProbe,
        FileProbe,
        AddressProbe,
        PrometheusProbe,
        CompareProbe,
    )
}
# The option ``probes`` of modules and roles.
OPTION = one_of({kind: mapping(probe.options()) for kind, probe in PROBES.items()})
