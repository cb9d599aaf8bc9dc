# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Draining at a real HAProxy, with two hosts behind it and a client that downloads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .conftest import Fleet, _exec

pytestmark = pytest.mark.long
SERVERS, BALANCER, CLIENT = ("web1", "web2"), "web3", "web4"
SET_UP = """
set -e
cat > /etc/haproxy/haproxy.cfg <<'END'
%s
END
systemctl reset-failed haproxy || true
systemctl restart haproxy
"""
CONFIGURATION = """
global
  stats socket /run/haproxy/admin.sock mode 660 level admin
  user haproxy
  group haproxy
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend all
  bind :8080
  default_backend web
backend web
  option httpchk GET /
  default-server check inter 200ms fall 1 rise 1
"""
# The kernel of the client may take the first 32 MB at once.
SIZE = 110_000_000


@pytest.fixture
def behind(fleet: Fleet) -> Iterator[Fleet]:
    addresses = {host.name: host.address for host in fleet.lab.hosts}
    lines = [f"  server {name} {addresses[name]}:80\n" for name in SERVERS]
    fleet.on(BALANCER, SET_UP % (CONFIGURATION + "".join(lines)))
    for name in SERVERS:
        fleet.on(name, f"truncate --size={SIZE} /srv/www/big; echo {name} > /srv/www/name")
    assert fleet.eventually(lambda: all(status(fleet, name) == "UP" for name in SERVERS), 10)
    yield fleet
    fleet.on(BALANCER, "systemctl stop haproxy")


def drain(fleet: Fleet, state: str, server: str = "web1", /, check: bool = False, **more: Any) -> dict[str, Any]:
    declared = {"backend": "web", "server": server}
    return fleet.module(BALANCER, "ft_drain", check, state=state, haproxy=declared, **more)


def haproxy(fleet: Fleet, command: str) -> str:
    """What HAProxy itself answers, asked by another program than ours."""
    words = f"import socket; s = socket.socket(1); s.connect('/run/haproxy/admin.sock'); s.sendall(b'{command}\\n');"
    return fleet.on(BALANCER, f'''python3 -c "{words} print(s.makefile().read())"''')


def status(fleet: Fleet, server: str) -> str:
    return next(line.split(",")[17] for line in haproxy(fleet, "show stat").splitlines() if f"web,{server}," in line)


def ask(fleet: Fleet, times: int = 6) -> set[str]:
    """The hosts that answer to some requests."""
    address = fleet.lab.host(BALANCER).address
    return set(fleet.on(CLIENT, f"for i in $(seq {times}); do curl -s http://{address}:8080/name; done").split())


@contextmanager
def download(fleet: Fleet, rate: str) -> Iterator[subprocess.Popen[str]]:
    """A download from web1, at so many bytes a second; it prints its size."""
    address = fleet.lab.host(BALANCER).address
    haproxy(fleet, "set server web/web2 state drain")
    command = f"curl -s --limit-rate {rate} -o /dev/null -w '%{{size_download}}' http://{address}:8080/big"
    with subprocess.Popen(
        [*_exec(fleet.lab, CLIENT), "sh", "-c", command], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert fleet.eventually(lambda: "web,web1,0,0,1" in haproxy(fleet, "show stat"), 5)
            haproxy(fleet, "set server web/web2 state ready")
            yield running
        finally:
            running.kill()
            fleet.on(CLIENT, "pkill curl", check=False)


def test_a_drain_waits_for_a_download_and_requests_come_again_afterwards(behind: Fleet) -> None:
    assert ask(behind) == {"web1", "web2"}
    with download(behind, "6M") as running:
        foreseen = drain(behind, "drained", check=True)
        assert foreseen["changed"] and foreseen["sessions"] == 1 and status(behind, "web1") == "UP"
        result = drain(behind, "drained", deadline="30s")
        assert running.wait(30) == 0 and running.communicate()[0] == str(SIZE)
    assert result["changed"] and result["done"] == result["planned"] == foreseen["planned"], result
    assert (result["state"], result["status"], result["sessions"]) == ("drained", "DRAIN", 0)
    assert result["waited"] > 1 and result["proved"][0] == "web goes on with web2"
    assert status(behind, "web1") == "DRAIN" and ask(behind) == {"web2"}

    refused = drain(behind, "drained")
    assert refused["error"] == "Refused" and "drained already" in refused["msg"]
    assert drain(behind, "drained", ours=True)["changed"] is False
    last = drain(behind, "drained", "web2")
    assert last["error"] == "Refused" and "backend web has no other server" in last["msg"]
    assert status(behind, "web2") == "UP"

    behind.on("web1", "systemctl stop nginx")
    behind.eventually(lambda: status(behind, "web1") == "DOWN", 5)
    sick = drain(behind, "ready", ours=True, deadline="2s")
    assert sick["error"] == "Unhealthy" and sick["left"] == ["web/web1"] and "DOWN (L4CON" in sick["msg"]
    behind.on("web1", "systemctl start nginx")
    quiet = drain(behind, "ready", ours=True)
    assert not quiet["changed"] and quiet["served"] == 0 and "no request" in quiet["proved"][1]
    assert ask(behind) == {"web1", "web2"}


def test_what_ends_no_session_and_what_somebody_else_has_set_stays(behind: Fleet) -> None:
    with download(behind, "1M") as running:
        result = drain(behind, "drained", deadline="2s")
        assert result["error"] == "ServiceFailed" and "1 sessions are left" in result["msg"], result
        assert "it is ready again, and HAProxy says UP" in result["msg"] and result["left"] == []
        assert status(behind, "web1") == "UP" and running.poll() is None

    with download(behind, "1M"):
        behind.on(BALANCER, "systemctl reload haproxy")
        assert behind.eventually(lambda: "web,web1,0,0,0" in haproxy(behind, "show stat"), 5)
        result = drain(behind, "drained", deadline="10s")
        assert result["changed"] and "1 processes of HAProxy that a reload has replaced" in result["said"], result

    haproxy(behind, "set server web/web1 state maint")
    for state, more in (("drained", {}), ("drained", {"ours": True}), ("ready", {"ours": True})):
        refused = drain(behind, state, **more)
        assert refused["error"] == "Refused" and "nothing was touched" in refused["msg"]
    assert status(behind, "web1") == "MAINT"
    looked = drain(behind, "look")
    assert looked["state"] == "maintenance" and "maintenance" in looked["obstacle"] and not looked["changed"]
