# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Probes against real sockets, a real HTTP server, real processes and files: pass, fail, and what is neither."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import (
    Measurement,
    Probe,
    ProbeResult,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import process

from .conftest import SYSTEM
from .fake_systemd import Unit, machine


def look(probe: dict[str, Any], system: System = SYSTEM) -> ProbeResult:
    (result,) = probes.measure(probes.check([probe]), system)
    return result


class Site(http.server.BaseHTTPRequestHandler):
    """``/status/N`` answers N, ``/body`` a text, ``/moved`` sends to ``/body``, ``/drip`` never comes to an end."""

    def do_GET(self) -> None:
        if self.path.startswith("/drip"):
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                while not stopping.wait(0.1):
                    self.wfile.write(b"X-More: 1\r\n")
            return
        status = {"/body": 200, "/moved": 302}.get(self.path.partition("?")[0], 404)
        if self.path.startswith("/status/"):
            status = int(self.path.rpartition("/")[2])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/body")
        self.end_headers()
        self.wfile.write(f"<h1>version 2</h1>{self.path} for {self.headers['Host']}".encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


stopping = threading.Event()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    stopping.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    stopping.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "more", "state", "words"),
    [
        ("/body", {}, "pass", "status 200"),
        ("", {}, "fail", "status 404, wanted 200"),
        ("/status/503", {}, "fail", "status 503, wanted 200"),
        ("/status/204", {"status": 204}, "pass", "status 204"),
        ("/status/401", {"status": [200, 401]}, "pass", "status 401"),
        ("/status/401", {"status": ["200", "403"]}, "fail", "status 401, wanted 200 or 403"),
        ("/body", {"body": "version [2-9]"}, "pass", "status 200"),
        ("/body", {"body": "version 1"}, "fail", "the body does not match 'version 1'"),
        ("/body?a=b%20c", {"body": r"/body\?a=b%20c for 127\.0\.0\.1:\d+$"}, "pass", "status 200"),
        # A redirect is an answer of its own, and is not followed.
        ("/moved", {}, "fail", "status 302, wanted 200"),
        ("/moved", {"status": 302}, "pass", "status 302"),
    ],
)
def test_http(site: str, path: str, more: dict[str, Any], state: str, words: str) -> None:
    result = look({"http": {"url": site + path, **more}})
    assert (result.kind, result.target, result.state) == ("http", site + path, state)
    assert words in result.detail


def test_a_body_that_takes_years_to_match_ends_at_the_timeout(site: str) -> None:
    """And it stops nothing else meanwhile: the server chooses its text."""
    ticks: list[float] = []

    def tick() -> None:
        for _ in range(10):
            time.sleep(0.02)
            ticks.append(time.monotonic())

    ticker = threading.Thread(target=tick)
    ticker.start()
    result = look({"http": {"url": f"{site}/body?{'a' * 40}!", "body": "(a+)+#", "timeout": "2s"}})
    assert len(ticks) == 10
    ticker.join()
    assert (result.state, result.seconds < 4) == ("unknown", True)
    assert result.detail == "status 200, but the body took longer than 2 s to match '(a+)+#'"


def test_nobody_listening_is_a_failure(closed_port: int) -> None:
    for probe in ({"http": {"url": f"http://127.0.0.1:{closed_port}/"}}, {"tcp": {"port": closed_port}}):
        result = look(probe)
        assert result.state == "fail" and "refused" in result.detail


def test_a_server_that_does_not_answer_fails_at_the_timeout(silent: int) -> None:
    result = look({"http": {"url": f"http://127.0.0.1:{silent}/", "timeout": "200ms"}})
    assert result.state == "fail" and "timed out" in result.detail
    assert 0.2 <= result.seconds < 2


@pytest.mark.parametrize("more", [{}, {"body": "version 2"}, {"body": "version 1"}])
def test_an_answer_that_comes_too_late_is_named_as_such(site: str, more: dict[str, str]) -> None:
    clock = itertools.count(0.0, 2.0)
    (probe,) = probes.check([{"http": {"url": f"{site}/body", "timeout": "1s", **more}}])
    result = probe.measure(replace(SYSTEM, monotonic=lambda: next(clock)))
    assert (result.state, result.detail) == ("unknown", "status 200, but no whole answer within 1 s")


def test_tls_is_not_spoken_to_what_does_not_speak_it(site: str) -> None:
    result = look({"http": {"url": site.replace("http:", "https:")}})
    assert result.state == "fail" and "SSL" in result.detail


def test_an_answer_that_drips_is_given_up_and_the_others_are_not_held_up(site: str) -> None:
    began = time.monotonic()
    slow, fast = probes.measure(
        probes.check([{"http": {"url": site + "/drip", "timeout": 0.2}}, {"http": {"url": site + "/body"}}]), SYSTEM
    )
    assert (slow.state, slow.detail) == ("unknown", "no result within 0.2 s")
    assert fast.state == "pass"
    assert time.monotonic() - began < 4


def test_a_name_that_cannot_be_resolved_is_unknown() -> None:
    for probe in (
        {"http": {"url": "http://no-such-host.invalid/"}},
        {"tcp": {"host": "no-such-host.invalid", "port": 80}},
    ):
        result = look(probe)
        assert result.state == "unknown" and "no-such-host.invalid cannot be resolved" in result.detail


def test_tcp(silent: int) -> None:
    result = look({"tcp": {"port": silent}})
    assert (result.state, result.target) == ("pass", f"127.0.0.1:{silent}")
    assert look({"tcp": {"host": "localhost", "port": str(silent)}}).state == "pass"


@pytest.mark.parametrize(
    ("argv", "more", "state", "words"),
    [
        (["true"], {}, "pass", "exit code 0"),
        (["sh", "-c", "echo broken >&2; exit 3"], {}, "fail", "exit code 3, wanted 0: broken"),
        (["sh", "-c", "exit 3"], {"rc": 3}, "pass", "exit code 3"),
        (["/nonexistent/command"], {}, "unknown", "/nonexistent/command: No such file"),
        (["/nonexistent/command"], {"rc": 127}, "pass", "exit code 127"),
        (["sleep", "30"], {"timeout": 0.2}, "unknown", "killed after 0.2 s"),
        (["sh", "-c", "kill -9 $$"], {}, "unknown", "ended by signal 9"),
        (["sh", "-c", "exit 139"], {}, "unknown", "exit code 139"),
        (["sh", "-c", "exit 255"], {}, "fail", "exit code 255, wanted 0"),
    ],
)
def test_command(argv: list[str], more: dict[str, Any], state: str, words: str) -> None:
    result = look({"command": {"argv": argv, **more}})
    assert (result.kind, result.target, result.state) == ("command", argv[0], state)
    assert words in result.detail


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    assert look({"file": {"path": str(path), "sha256": wanted.upper()}}).state == "pass"
    path.write_bytes(b"y")
    result = look({"file": {"path": str(path), "sha256": wanted}})
    assert result.state == "fail" and hashlib.sha256(b"y").hexdigest() in result.detail
    path.unlink()
    result = look({"file": {"path": str(path), "sha256": wanted}})
    assert (result.state, result.detail) == ("fail", "is not there")
    path.mkdir()
    result = look({"file": {"path": str(path), "sha256": wanted}})
    assert result.state == "unknown" and "cannot be read" in result.detail


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """Opening alone can hang, or do something."""
    os.mkfifo(tmp_path / "fifo")
    result = look({"file": {"path": str(tmp_path / "fifo"), "sha256": "0" * 64}})
    assert (result.state, result.detail) == ("unknown", "cannot be read: it is no regular file")


def test_a_file_without_end_is_given_up(tmp_path: Path) -> None:
    with open(tmp_path / "hole", "wb") as stream:
        stream.truncate(1 << 42)
    before = threading.active_count()
    result = look({"file": {"path": str(tmp_path / "hole"), "sha256": "0" * 64, "timeout": 0.2}})
    assert (result.state, result.detail) == ("unknown", "could not be read within 0.2 s")
    assert threading.active_count() == before


@pytest.mark.parametrize("way", ["link", "directory", "relative"])
def test_a_file_probe_tells_nothing_of_what_a_link_leads_to(tmp_path: Path, way: str) -> None:
    """The owner of a directory on the way could have root tell of any file. What is as wanted is known to who asks."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("1234")
    (tmp_path / "link").symlink_to(
        {"link": tmp_path / "there" / "file", "relative": Path("there/file")}.get(way, Path("there"))
    )
    path, right = str(tmp_path / "link") + ("/file" if way == "directory" else ""), hashlib.sha256(b"1234").hexdigest()
    wrong = look({"file": {"path": path, "sha256": "0" * 64}})
    assert wrong.state == "fail" and "through a symlink" in wrong.detail and right not in wrong.detail
    assert look({"file": {"path": path, "sha256": right}}).state == "pass"
    if way != "directory":
        (tmp_path / "there" / "file").unlink()
        assert look({"file": {"path": path, "sha256": right}}).detail == wrong.detail
        (tmp_path / "there" / "file").mkdir()
        assert look({"file": {"path": path, "sha256": right}}).detail == wrong.detail


@pytest.mark.parametrize(
    ("unit", "state", "words"),
    [
        (Unit("web.service"), "pass", "active (running)"),
        (Unit("web.service", active="failed", sub="failed"), "fail", "failed (failed)"),
        (Unit("web.service", active="activating", sub="start"), "fail", "activating (start)"),
        (Unit("web.service", active="reloading", sub="reload"), "fail", "reloading (reload)"),
        (Unit("web.service", file=False, active="inactive"), "fail", "there is no such unit"),
    ],
)
def test_a_unit(unit: Unit, state: str, words: str) -> None:
    unit.restarts = 7
    result = look({"service": {"name": "web"}}, machine(unit).system())
    assert (result.target, result.state, result.detail) == ("web.service", state, words)
    assert result.restarts == 7
    assert result.identity == ("id0" if unit.active in ("active", "reloading") else "")


def test_a_systemd_that_does_not_answer_is_unknown() -> None:
    host = machine(Unit("web.service"))
    host.broken = "Failed to connect to bus"
    result = look({"service": {"name": "web"}}, host.system())
    assert result.state == "unknown" and "Failed to connect to bus" in result.detail


def test_a_process(tmp_path: Path) -> None:
    made = {
        "name": "p",
        "pidfile": str(tmp_path / "pid"),
        "argv": [sys.executable, "-c", "import time; time.sleep(60)"],
    }
    probe = {"service": {"process": made}}
    assert (look(probe).state, look(probe).detail) == ("fail", "not running")
    state = process.act("start", process.check(made), SYSTEM)
    try:
        assert (look(probe).state, look(probe).target, look(probe).identity) == ("pass", "p", state.identity)
    finally:
        process.act("stop", process.check(made), SYSTEM)


def test_a_measurement_that_breaks_is_unknown_and_ends_no_other(silent: int) -> None:
    class Broken(Probe):
        kind = "broken"
        OPTIONS: ClassVar[Mapping[str, Any]] = {}

        def prepare(self, declared: Mapping[str, Any]) -> str:
            return "it"

        def measure(self, system: System) -> Measurement:
            raise RuntimeError("bug")

    made = [Broken({"timeout": "1s", "severity": "fail"}), *probes.check([{"tcp": {"port": silent}}])]
    first, second = probes.measure(made, SYSTEM)
    assert (first.state, first.detail, second.state) == ("unknown", "RuntimeError: bug", "pass")


def test_a_round_measures_all_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    met = "touch $0; until [ -e a ] && [ -e b ] && [ -e c ]; do sleep 0.01; done"
    made: list[dict[str, Any]] = []
    for name in "abc":
        waits = {"argv": ["sh", "-c", f"cd {tmp_path}; {met}", name], "timeout": 20.0}
        made += [{"command": waits}, {"command": {"argv": ["false"]}}]
    assert [one.state for one in probes.measure(probes.check(made), SYSTEM)] == ["pass", "fail"] * 3
    assert probes.measure([], SYSTEM) == []


GOOD = {"http": {"url": "http://localhost/"}}


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ("http", "must have one key, the kind: http, tcp, service, command, file"),
        ({}, "must have one key"),
        ({"tcp": {"port": 1}, "http": {}}, "must have one key, the kind: http, .*; it has tcp, http"),
        ({"tcp": {"port": 1, "severity": "info"}}, "severity must be fail or warn, not 'info'"),
        ({"ping": {}}, "unknown kind 'ping'; there are http, tcp"),
        ({"tcp": 80}, "tcp takes a mapping, not 80"),
        ({"tcp": {}}, "tcp: port is missing"),
        (
            {"tcp": {"port": 80, "hots": "x"}},
            r"tcp: unknown key 'hots' \(did you mean host\?\); it takes from, host, port, severity, timeout",
        ),
        ({"tcp": {"port": "http"}}, "tcp: port must be a whole number, not 'http'"),
        ({"tcp": {"port": None}}, "tcp: port is missing"),
        ({"tcp": {"port": 0}}, "tcp: port 0 is not between"),
        ({"tcp": {"port": 65536}}, "tcp: port 65536 is not between"),
        ({"tcp": {"port": 80, "timeout": "soon"}}, "tcp: timeout: 'soon' is not a duration"),
        ({"tcp": {"port": 80, "timeout": 0}}, "tcp: timeout must be more than 0"),
        ({"http": {"url": ""}}, "http: url is missing"),
        ({"http": {"url": "localhost/x"}}, "http: url 'localhost/x' is not an http or https address"),
        ({"http": {"url": "ftp://localhost/"}}, "http: url 'ftp://localhost/' is not"),
        ({"http": {"url": "http:///x"}}, "http: url 'http:///x' is not"),
        ({"http": {"url": "http://a/b c"}}, "http: url 'http://a/b c' is not"),
        ({"http": {"url": "http://a:x/"}}, "http: url 'http://a:x/': Port could not"),
        ({"http": {**GOOD["http"], "status": "2xx"}}, "http: status must be a whole number, not '2xx'"),
        ({"http": {**GOOD["http"], "status": [200, None]}}, "http: status must be a whole number, not None"),
        ({"http": {**GOOD["http"], "status": []}}, "http: status is an empty list"),
        ({"http": {**GOOD["http"], "body": "("}}, r"http: body '\(' is no regular expression"),
        ({"service": {}}, "service: give either name, a systemd unit, or process"),
        ({"service": {"name": ""}}, "service: give either name"),
        (
            {"service": {"name": "a", "process": {"name": "b", "pidfile": "/p", "argv": ["/b"]}}},
            "service: give either name",
        ),
        ({"service": {"process": {"name": "b"}}}, "service: process: pidfile is missing"),
        ({"command": {"argv": [True]}}, "command: argv must be a text, not True"),
        ({"command": {"argv": []}}, "command: argv is missing"),
        ({"command": {"argv": ["true"], "rc": "ok"}}, "command: rc must be a whole number, not 'ok'"),
        ({"file": {"path": "/x"}}, "file: sha256 is missing"),
        ({"file": {"path": "x", "sha256": "0" * 64}}, "file: path must be absolute"),
        ({"file": {"path": "/x", "sha256": "0" * 63}}, "file: .* 64 hexadecimal digits"),
    ],
)
def test_a_bad_declaration_names_the_item_and_the_key(probe: Any, words: str) -> None:
    with pytest.raises(UsageError, match="^probes, item 2: .*" + words):
        probes.check([GOOD, probe])


def test_the_probes_are_a_list() -> None:
    with pytest.raises(UsageError, match="probes must be a list"):
        probes.check(GOOD)
    assert probes.check([]) == []


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for url in (
        *("http://admin:hunter2@localhost/", "http://admin:hunter2/@localhost/", "http://admin:hunter2#@localhost/"),
        *("admin:hunter2@localhost/", "ftp://admin:hunter2@localhost/", "http://admin:hunter2 @localhost/"),
        "http://hunter2@localhost:x/",
    ):
        for kind, more in (("http", {}), ("prometheus", {"query": "up", "max": 1})):
            with pytest.raises(UsageError, match=f"item 1: {kind}: url holds a user or a password") as error:
                probes.check([{kind: {"url": url, **more}}])
            assert "hunter2" not in error.value.message
    assert probes.check([{"http": {"url": "http://localhost/@user"}}])
