# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rolling restarts under load: two balancers in front of web servers, and not one failed request."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet, _exec

SERVERS, BALANCERS = ["web1", "web2", "web3", "web4"], ["web5", "web6"]
HAPROXY = """
global
    stats socket /run/haproxy/admin.sock mode 660 level admin
    user haproxy
    group haproxy
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 20s
    timeout server 20s
frontend all
    bind :8080
    default_backend web
backend web
    option httpchk GET /
    default-server check inter 300ms fall 2 rise 1
"""
# Each connection asks again after 20 ms.
PAUSE = "function delay() return 20 end"
DRAIN = """
- haproxy: {hosts: [web5, web6], backend: web, server: "{{ inventory_hostname }}"}
"""
PROBES = "- http: {url: http://localhost/, status: 200}\n"


@dataclass
class Load:
    """Requests through both balancers, all the while. failed: those without an answer of the site."""

    requests: int = 0
    failed: int = 0
    said: list[str] = field(default_factory=list)

    def read(self, output: str) -> None:
        """Add what wrk says at its end."""
        self.said.append(output)
        self.requests += int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
        for number in re.findall(r"(?:connect|read|write|timeout) (\d+)", output):
            self.failed += int(number)
        for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output):
            self.failed += int(number)


@dataclass
class Site:
    fleet: Fleet

    @contextmanager
    def load(self) -> Iterator[Load]:
        """A constant load. Each balancer is asked by the other one."""
        load = Load()
        argv = ["wrk", "-t1", "-c8", "-d600s", "--timeout", "10s", "-s", "/root/pause.lua"]
        running = []
        for asking, asked in (BALANCERS, BALANCERS[::-1]):
            url = f"http://{self.fleet.lab.host(asked).address}:8080/"
            words = [*_exec(self.fleet.lab, asking), *argv, url]
            running.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        time.sleep(1.0)
        try:
            yield load
            time.sleep(1.0)
        finally:
            for asking in BALANCERS:
                self.fleet.on(asking, "pkill -INT wrk", check=False)
            for process in running:
                load.read(process.communicate(timeout=30)[0])
        assert load.requests > 50, load.said

    def restart(self, *words: str, timeout: float = 240) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON result of ``evenkeel restart``, two hosts at a time."""
        home = self.fleet.home
        (home / "drain.yml").write_text(DRAIN)
        (home / "probes.yml").write_text(PROBES)
        more = ["--limit", ":".join(SERVERS), "--probes", "probes.yml", "--min-healthy", "2", "--json"]
        code, out = self.fleet.evenkeel("restart", *words, "-i", "inventory", *more, timeout=timeout)
        return code, json.JSONDecoder().raw_decode(out[out.index("{\n") :])[0]

    def servers(self, balancer: str) -> dict[str, str]:
        """Server -> what the balancer says of it."""
        told = self.fleet.on(balancer, "echo 'show stat' | socat - /run/haproxy/admin.sock 2>/dev/null || python3 -c '"
        "import socket; s=socket.socket(socket.AF_UNIX); s.connect(\"/run/haproxy/admin.sock\");"
        " s.sendall(b\"show stat\\n\"); print(s.makefile().read())'")
        rows = [line.split(",") for line in told.splitlines() if line.startswith("web,web")]
        return {row[1]: row[17] for row in rows}

    def all_serve(self) -> bool:
        return all(set(self.servers(name).values()) == {"UP"} for name in BALANCERS)

    def identities(self) -> list[str]:
        words = "systemctl show nginx --property=InvocationID --value"
        return [self.fleet.on(name, words).strip() for name in SERVERS]


@pytest.fixture
def site(fleet: Fleet) -> Iterator[Site]:
    servers = "".join(f"    server {name} {fleet.lab.host(name).address}:80\n" for name in SERVERS)
    for name in BALANCERS:
        script = f"cat > /etc/haproxy/haproxy.cfg <<'END'\n{HAPROXY}{servers}END\n"
        fleet.on(name, script + f"echo '{PAUSE}' > /root/pause.lua; systemctl restart haproxy")
    made = Site(fleet)
    assert fleet.eventually(made.all_serve, 10)
    yield made
    for name in BALANCERS:
        fleet.on(name, "systemctl stop haproxy; rm /root/pause.lua")


@pytest.mark.parametrize("mode", ["cold", "warm"])
def test_a_rolling_restart_costs_no_request(site: Site, mode: str) -> None:
    was = site.identities()
    drain = ["--drain", "drain.yml"] if mode == "cold" else []
    with site.load() as load:
        code, result = site.restart("nginx", "--mode", mode, "--waves", "2", *drain)
    assert code == 0, result
    print(f"{mode}: {load.failed} of {load.requests} requests failed, {result['seconds']:.1f} s")
    assert load.failed == 0, load.said
    assert all(a != b for a, b in zip(was, site.identities(), strict=True)) is (mode == "cold")
    assert site.all_serve()
