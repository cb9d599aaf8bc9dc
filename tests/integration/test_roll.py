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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet, _exec

# Two of the web servers are balancers as well, on another port.
SERVERS, BALANCERS = [f"web{number}" for number in range(1, 7)], ["web5", "web6"]
HAPROXY = """
global
    stats socket /run/haproxy/admin.sock mode 660 level admin
    user haproxy
    group haproxy
defaults
    mode http
    retries 0
    option http-server-close
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
_STAT = """
import socket
one = socket.socket(socket.AF_UNIX)
one.connect("/run/haproxy/admin.sock")
one.sendall(b"show stat" + bytes([10]))
print(one.makefile().read())
"""
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
        argv = ["wrk", "-t1", "-c8", "-d3600s", "--timeout", "10s", "-s", "/root/pause.lua"]
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

    def restart(self, *words: str, hosts: Sequence[str] = SERVERS) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON result of ``evenkeel restart``. All but two of the hosts must stay healthy."""
        home = self.fleet.home
        (home / "drain.yml").write_text(DRAIN)
        (home / "probes.yml").write_text(PROBES)
        more = ["--limit", ":".join(hosts), "--probes", "probes.yml", "--min-healthy", str(len(hosts) - 2), "--json"]
        code, out = self.fleet.evenkeel("restart", *words, "-i", "inventory", *more, timeout=300)
        return code, json.JSONDecoder().raw_decode(out[out.index("{\n") :])[0]

    def servers(self, balancer: str) -> dict[str, str]:
        """Server -> what the balancer says of it."""
        told = self.fleet.on(balancer, f"python3 -c '{_STAT}'")
        rows = [line.split(",") for line in told.splitlines() if line.startswith("web,web")]
        return {row[1]: row[17] for row in rows}

    def all_serve(self) -> bool:
        return all(set(self.servers(name).values()) == {"UP"} for name in BALANCERS)

    def identities(self, hosts: Sequence[str] = SERVERS) -> list[str]:
        words = "systemctl show nginx --property=InvocationID --value"
        return [self.fleet.on(name, words).strip() for name in hosts]


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


@pytest.mark.long
def test_a_rolling_cold_restart_with_a_drain_costs_no_request(site: Site) -> None:
    was = site.identities()
    with site.load() as load:
        code, result = site.restart("nginx", "--waves", "2", "--drain", "drain.yml")
    assert code == 0, result
    print(f"cold: {load.failed} of {load.requests} requests failed, {result['seconds']:.1f} s")
    assert load.failed == 0, load.said
    assert all(a != b for a, b in zip(was, site.identities(), strict=True))
    assert site.all_serve()


def test_a_host_that_does_not_come_back_stops_the_roll_and_the_next_run_finishes_it(site: Site) -> None:
    fleet, few = site.fleet, SERVERS[:3]
    was = site.identities(few)
    fleet.on("web2", "echo 'no such directive;' > /etc/nginx/conf.d/probe.conf")
    with site.load() as load:
        code, result = site.restart("nginx", "--drain", "drain.yml", hosts=few)
    assert load.failed == 0, load.said
    now, rows = site.identities(few), result["hosts"]
    assert code == 4 and [rows[name]["state"] for name in few] == ["ok", "failed", "missing"]
    assert now[0] != was[0] and now[2:] == was[2:]
    assert "unknown directive" in rows["web2"]["msg"] and "stays drained at web/web2 on web5" in rows["web2"]["msg"]
    assert set(rows["web2"]["left"]) >= {"drained: web/web2 on web5", "drained: web/web2 on web6"}
    for name in BALANCERS:
        assert site.servers(name)["web1"] == "UP" and site.servers(name)["web2"] != "UP"

    # A change has no business there, a plan names it, and the same restart brings it back, first.
    fleet.playbook("site.yml", "- hosts: web2\n  tasks: [{ansible.builtin.ping: }]\n")
    code, refused = fleet.change("site.yml")
    assert code == 3 and "has failed since" in refused["reason"], refused
    fleet.on("web2", "rm /etc/nginx/conf.d/probe.conf")
    code, plan = site.restart("nginx", "--drain", "drain.yml", "--resume", "--plan", hosts=few)
    assert code == 0 and plan["hosts"]["web2"]["wave"] == 1 and "wave" not in plan["hosts"]["web1"]
    code, result = site.restart("nginx", "--drain", "drain.yml", "--resume", hosts=few)
    assert code == 0 and "roll that goes on" in str(result["hosts"]["web1"]["done"])
    assert site.identities(few)[0] == now[0] and all(
        a != b for a, b in zip(was[1:], site.identities(few)[1:], strict=True)
    )
    assert fleet.eventually(site.all_serve, 10)
    assert not fleet.on("web2", "ls /var/lib/evenkeel/restart", check=False)


@pytest.mark.long
def test_warm_restarts_and_changes_cost_no_request_and_plain_ansible_does(site: Site) -> None:
    fleet = site.fleet
    with site.load() as load:
        code, result = site.restart("nginx", "--mode", "warm", "--waves", "2")
    print(f"warm: {load.failed} of {load.requests} requests failed, {result['seconds']:.1f} s")
    assert code == 0 and load.failed == 0, load.said
    changed = """
- hosts: web
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {dest: /etc/nginx/conf.d/probe.conf, content: "add_header X-Probe new;", mode: "0644"}
    - ansible.builtin.service: {name: nginx, state: reloaded}
"""
    fleet.playbook("site.yml", changed)
    with site.load() as load:
        code, result = fleet.change("site.yml", "--waves", "2", "--min-healthy", "4")
    print(f"change: {load.failed} of {load.requests} requests failed, {result['seconds']:.1f} s")
    assert code == 0 and load.failed == 0, load.said
    plain = """
- hosts: web
  gather_facts: false
  serial: 2
  tasks: [{ansible.builtin.service: {name: nginx, state: restarted}}]
"""
    fleet.playbook("plain.yml", plain)
    with site.load() as load:
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", "plain.yml"]
        subprocess.run(argv, cwd=fleet.home, env=fleet.environment(), check=True, capture_output=True)
    print(f"plain Ansible, serial 2, restarted: {load.failed} of {load.requests} requests failed")
    assert load.failed > 0, "nothing to compare with: the load did not notice restarts without a drain"


@pytest.mark.long
def test_kills_at_any_moment_leave_nobody_drained_after_the_next_run(site: Site) -> None:
    """Twenty-four kills: half of them spread over the time of a roll, half a moment after a host was drained."""
    fleet = site.fleet
    began = time.monotonic()
    assert site.restart("nginx", "--waves", "2", "--drain", "drain.yml")[0] == 0
    whole = time.monotonic() - began
    words = ["restart", "nginx", "-i", "inventory", "--limit", ":".join(SERVERS), "--probes", "probes.yml"]
    words += ["--min-healthy", "4", "--waves", "2", "--drain", "drain.yml"]

    def drained() -> set[str]:
        return {name for one in BALANCERS for name, state in site.servers(one).items() if state != "UP"}

    left = 0
    with site.load() as load:
        for number in range(24):
            fleet.start(*words)
            if number % 2:
                assert fleet.eventually(lambda: bool(drained()), whole + 30)
                time.sleep(number / 12)
            else:
                time.sleep(whole * (number + 1) / 24)
            fleet.end()
            out = drained()
            left += bool(out)
            assert len(out) <= 2, f"more than the budget is out: {out}"
            if number % 4 == 3:
                assert site.restart("nginx", "--waves", "2", "--drain", "drain.yml")[0] == 0
                assert fleet.eventually(site.all_serve, 10)
    print(f"{left} of 24 kills left a host drained; {load.failed} of {load.requests} requests failed")
    assert load.failed == 0 and left >= 6, load.said
    for name in SERVERS:
        assert not fleet.on(name, "ls /var/lib/evenkeel/restart", check=False)
