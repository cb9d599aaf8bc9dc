# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A group with a quorum: etcd on three hosts restarts with its leader last, and loses no write that it acknowledged."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .conftest import Fleet, _exec

MEMBERS, CLIENT = ["web1", "web2", "web3"], "web4"
LEADS = """#!/bin/sh
# Exits with 0 where the member on this host leads.
ETCDCTL_API=3 etcdctl --endpoints=http://127.0.0.1:2379 endpoint status --write-out=json --command-timeout=5s |
python3 -c 'import json, sys; one = json.load(sys.stdin)[0]["Status"]
sys.exit(one["leader"] != one["header"]["member_id"])'
"""
# Prints each number once it is acknowledged, and never asks twice for the same number.
WRITER = """
import json, base64, sys, time, urllib.request
number, members = 0, sys.argv[1:]
while True:
    number += 1
    body = {"key": base64.b64encode(b"n%08d" % number).decode(), "value": base64.b64encode(b"x").decode()}
    try:
        url = members[number % len(members)] + "/v3/kv/put"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=3).read()
        print(number, time.time(), flush=True)
    except OSError as error:
        print("failed", number, error, file=sys.stderr, flush=True)
    time.sleep(0.02)
"""
# Prints again and again how many members accept connections.
COUNTER = """
import socket, sys, time
def is_up(address):
    try:
        socket.create_connection((address, 2379), timeout=1).close()
    except OSError:
        return False
    return True
while True:
    print(sum(map(is_up, sys.argv[1:])), flush=True)
    time.sleep(0.02)
"""


@dataclass
class Etcd:
    fleet: Fleet

    def url(self, name: str, port: int = 2379) -> str:
        return f"http://{self.fleet.lab.host(name).address}:{port}"

    def start(self) -> None:
        cluster = ",".join(f"{name}={self.url(name, 2380)}" for name in MEMBERS)
        for name in MEMBERS:
            settings = {
                "ETCD_NAME": name,
                "ETCD_LISTEN_CLIENT_URLS": "http://0.0.0.0:2379",
                "ETCD_ADVERTISE_CLIENT_URLS": self.url(name),
                "ETCD_LISTEN_PEER_URLS": self.url(name, 2380),
                "ETCD_INITIAL_ADVERTISE_PEER_URLS": self.url(name, 2380),
                "ETCD_INITIAL_CLUSTER": cluster,
                "ETCD_INITIAL_CLUSTER_STATE": "new",
            }
            lines = "".join(f'{key}="{value}"\\n' for key, value in settings.items())
            self.fleet.on(
                name,
                f"printf '{lines}' > /etc/default/etcd; rm -rf /var/lib/etcd/default; systemctl start --no-block etcd;"
                f" cat > /usr/local/bin/is-leader <<'END'\n{LEADS}END\nchmod 755 /usr/local/bin/is-leader",
            )

    def leader(self) -> str:
        found = [name for name in MEMBERS if self.leads(name)]
        return found[0] if len(found) == 1 else ""

    def leads(self, name: str) -> bool:
        return self.fleet.lab.exec(name, ["/usr/local/bin/is-leader"], check=False).returncode == 0

    def keys(self) -> set[int]:
        words = f"ETCDCTL_API=3 etcdctl --endpoints={self.url('web1')} get n --prefix --keys-only"
        return {int(line[1:]) for line in self.fleet.on(CLIENT, words).split()}


@pytest.fixture
def etcd(fleet: Fleet) -> Iterator[Etcd]:
    made = Etcd(fleet)
    made.start()
    assert fleet.eventually(lambda: bool(made.leader()), 60)
    yield made
    for name in MEMBERS:
        fleet.on(name, "systemctl stop etcd; rm -rf /var/lib/etcd/default /usr/local/bin/is-leader")


@pytest.mark.long
def test_the_leader_restarts_last_and_no_acknowledged_write_is_lost(etcd: Etcd) -> None:
    fleet, leader = etcd.fleet, etcd.leader()
    probe = {"http": {"url": "http://localhost:2379/health", "body": "true"}}
    (fleet.home / "probes.yml").write_text(json.dumps([probe]))
    fleet.on(CLIENT, f"cat > /root/writer.py <<'END'\n{WRITER}END")
    fleet.on(CLIENT, f"cat > /root/counter.py <<'END'\n{COUNTER}END")
    on_client = [*_exec(fleet.lab, CLIENT), "python3"]
    addresses = [fleet.lab.host(name).address for name in MEMBERS]
    with (
        subprocess.Popen([*on_client, "/root/counter.py", *addresses], stdout=subprocess.PIPE, text=True) as counter,
        subprocess.Popen(
            [*on_client, "/root/writer.py", *map(etcd.url, MEMBERS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as writer,
    ):
        time.sleep(2)
        words = ["restart", "etcd", "-i", "inventory", "--limit", ":".join(MEMBERS), "--min-healthy", "2"]
        words += ["--last", "/usr/local/bin/is-leader", "--probes", "probes.yml", "--json"]
        code, out = fleet.evenkeel(*words)
        time.sleep(2)
        fleet.on(CLIENT, "pkill -f '[w]riter.py'; pkill -f '[c]ounter.py'")
        told, missed = writer.communicate(timeout=10)
        up = list(map(int, counter.communicate(timeout=10)[0].split()))
    result = json.JSONDecoder().raw_decode(out[out.index("{\n") :])[0]
    assert code == 0, result
    began = {name: row["after"]["started"] for name, row in result["hosts"].items()}
    assert max(began, key=began.__getitem__) == leader, began
    acknowledged = [(int(number), float(at)) for number, at in (line.split() for line in told.splitlines())]
    assert {number for number, _at in acknowledged} <= etcd.keys(), "an acknowledged write is gone"
    # Each member is asked for a third of the writes, so two of three go on while one restarts.
    times = [at for _number, at in acknowledged]
    pause = max(b - a for a, b in itertools.pairwise(times))
    print(f"{len(acknowledged)} writes, {len(missed.splitlines())} not acknowledged, the longest pause {pause:.1f} s")
    assert len(acknowledged) > 100 and pause < 10
    assert len(up) > 100 and min(up) == 2, "two of three members are the quorum, and one of them restarts"
