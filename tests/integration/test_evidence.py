# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Prometheus sees hosts get worse, and a change goes back; one that answers nothing lets none stay."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import Fleet
from .test_change import GOOD, SLOW

CONFIGURATION = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - {job_name: web, static_configs: [{targets: ['127.0.0.1:%d']}]}
"""


def program(directory: Path) -> str:
    """Prometheus as Debian packages it, without its service."""
    found = shutil.which("prometheus")
    if found is None:
        for command in (["apt-get", "download", "prometheus"], ["sh", "-c", "dpkg -x prometheus_*.deb ."]):
            if subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode:
                pytest.skip("there is no prometheus here, and its package cannot be had")
        found = str(directory / "usr/bin/prometheus")
    return found


def exporter(fleet: Fleet) -> http.server.ThreadingHTTPServer:
    """Metrics of what each host serves: a page of version 2 counts as slow."""
    addresses = {host.name: host.address for host in fleet.lab.hosts if host.name in fleet.names}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = []
            for name, address in addresses.items():
                with suppress(OSError), urllib.request.urlopen(f"http://{address}/", timeout=0.5) as page:
                    lines.append(f'page_seconds{{node="{name}"}} {0.5 if b"version 2" in page.read() else 0.1}\n')
            self.send_response(200)
            self.end_headers()
            self.wfile.write("".join(lines).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Server:
    """A Prometheus on an address of this machine."""

    def __init__(self, directory: Path, metrics: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        (directory / "prometheus.yml").write_text(CONFIGURATION % metrics)
        words = [f"--web.listen-address=127.0.0.1:{port}", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        with (directory / "log").open("w") as log:
            self.process = subprocess.Popen([program(directory), *words], cwd=directory, stdout=log, stderr=log)

    def knows(self, number: int) -> bool:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{self.url}/api/v1/query?query=page_seconds", timeout=2) as page,
        ):
            return bool(page.read().count(b"page_seconds") == number)
        return False

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(fleet: Fleet, tmp_path: Path) -> Iterator[Server]:
    metrics = exporter(fleet)
    directory = tmp_path / "prometheus"
    directory.mkdir()
    started = Server(directory, metrics.server_address[1])
    try:
        assert fleet.eventually(lambda: started.knows(len(fleet.names)), 60), (directory / "log").read_text()
        yield started
    finally:
        started.end()
        metrics.shutdown()
        metrics.server_close()


def probes(fleet: Fleet, text: str) -> tuple[str, str]:
    (fleet.home / "probes.yml").write_text(text)
    return "--probes", "probes.yml"


def test_a_canary_that_is_worse_than_its_peers_goes_back_and_no_other_host_is_touched(
    fleet: Fleet, server: Server
) -> None:
    compare = f"- compare: {{url: '{server.url}', query: page_seconds, label: node, max_ratio: 2}}\n"
    words = probes(fleet, compare)
    code, result = fleet.change(
        fleet.playbook("site.yml", GOOD), "--waves", "1,100%", "--soak", "5s", "--deadline", "5s", *words
    )
    assert code == 2
    assert [fleet.touched(host) for host in fleet.names] == [True, False, False, False, False]
    assert fleet.differs("web1") == ""
    why = result["hosts"][0]["why"]
    assert "compare page_seconds from controller: fail, the value 0.5, with 0.1 on 4 unchanged hosts" in why


@pytest.mark.long
def test_hosts_seen_from_the_controller_and_a_peer_are_confirmed_and_a_silent_prometheus_confirms_none(
    fleet: Fleet, server: Server
) -> None:
    words = probes(
        fleet,
        "- http: {url: 'http://{{ ansible_host }}/', from: controller}\n"
        "- tcp: {port: 80, from: peer}\n"
        f"- prometheus: {{url: '{server.url}', max: 1,"
        " query: 'page_seconds{node=\"{{ inventory_hostname }}\"}'}\n",
    )
    playbook = fleet.playbook("site.yml", GOOD)
    code, result = fleet.change(playbook, "--waves", "1,100%", *words)
    assert code == 0, result
    sources = [probe["source"] for probe in result["hosts"][0]["probes"]]
    assert sources == ["controller", "controller", "peer web2"]
    server.end()
    code, result = fleet.change(fleet.playbook("site.yml", GOOD.replace("version 2", "version 3")), *words)
    # The guard, which measures first, has nothing against a group without a limit; the wave goes back.
    assert code == 2 and fleet.serves("web1", "version 2")
    assert "from controller: unknown, no answer: [Errno 111] Connection refused" in result["hosts"][0]["why"]


@pytest.mark.long
def test_a_change_stops_while_its_playbook_runs_once_a_query_says_so(fleet: Fleet, server: Server) -> None:
    stop = f"- prometheus: {{url: '{server.url}', query: 'max(page_seconds) > 0.3'}}\n"
    (fleet.home / "stop.yml").write_text(stop)
    began = time.monotonic()
    slow = SLOW.replace("sleep 8", "sleep 300")
    code, result = fleet.change(fleet.playbook("site.yml", slow), "--waves", "1", "--stop-if", "@stop.yml")
    assert code == 2 and time.monotonic() - began < 250
    assert "stop_if: prometheus max(page_seconds) > 0.3 says that the change must stop" in result["reason"]
    assert fleet.differs("web1") == "" and not fleet.touched("web2")
