# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service address of two balancers under a constant load: who has it after each fault, and how long nobody had it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab, unavailable
from laboratory.machine import nft

from .conftest import Fleet, _exec

pytestmark = pytest.mark.long

PAIR, CLIENT = ("web1", "web2"), "web3"
PROGRAM = "/etc/keepalived/evenkeel-address"
V6 = "fd00:e::100"
HAPROXY = """
global
    user haproxy
    group haproxy
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend all
    bind :::8080 v4v6
    default_backend web
backend web
    option httpchk GET /
"""
VARIABLES = """
pair:
  hosts: {{web1: , web2: }}
  vars:
    evenkeel_virtual_addresses: [{address}/24, '{v6}/64']
    evenkeel_virtual_members: [pair]
    evenkeel_virtual_router_id: 51
    evenkeel_probes:
      - http: {{url: 'http://localhost:8080/', status: 200, timeout: 1s}}
      - service: {{name: haproxy, timeout: 1s}}
    evenkeel_resources:
      - files: {{paths: [/etc/haproxy]}}
"""
ROLE = """
- hosts: pair
  gather_facts: false
  roles: [{role: evenkeel.fault_tolerance.virtual_address}]
"""
# A request each 20 ms over a new connection; none may take longer than half a second.
LOAD = """
import http.client, json, signal, sys, time
ends = []
signal.signal(signal.SIGINT, lambda *_: ends.append(1))
good, failed, last, gap = 0, 0, time.monotonic(), 0.0
while not ends:
    try:
        one = http.client.HTTPConnection(sys.argv[1], 8080, timeout=0.5)
        one.request("GET", "/")
        is_good = one.getresponse().status == 200
        one.close()
    except Exception:
        is_good = False
    now = time.monotonic()
    if is_good:
        good, gap, last = good + 1, max(gap, now - last), now
    else:
        failed += 1
    time.sleep(0.02)
print(json.dumps({"good": good, "failed": failed, "gap": round(max(gap, time.monotonic() - last), 2)}))
"""


@dataclass
class Load:
    """The requests of one fault. gap: the longest time between two good answers."""

    good: int = 0
    failed: int = 0
    gap: float = 0.0


@dataclass
class Pair:
    fleet: Fleet
    address: str

    def has(self, host: str) -> bool:
        """Whether the host has the address, by the kernel's word."""
        shown = self.fleet.on(host, "ip -o address show", check=False)
        return f" {self.address}/" in shown and f" {V6}/" in shown

    def holder(self) -> str:
        """The host that has the address, once exactly one has."""
        assert self.fleet.eventually(lambda: [self.has(name) for name in PAIR].count(True) == 1, 15), self.words()
        return next(name for name in PAIR if self.has(name))

    def settled(self) -> tuple[str, str]:
        """(the holder, the other one), with the other one ready to take over."""
        holder = self.holder()
        other = next(name for name in PAIR if name != holder)
        assert self.fleet.eventually(lambda: self.state(other) == "BACKUP", 20), self.words()
        return holder, other

    def state(self, host: str) -> str:
        return self.fleet.on(host, "cat /run/evenkeel-address.state", check=False).strip()

    def answer(self) -> set[str]:
        """Who answers for the address, by arping's word."""
        said = self.fleet.on(CLIENT, f"arping -b -c 3 -w 2 -I eth0 {self.address}", check=False)
        return set(re.findall(r"\[([0-9A-F:]{17})\]", said))

    def words(self) -> str:
        told = [f"{name}: {self.fleet.on(name, f'{PROGRAM} status 2>&1', check=False)}" for name in PAIR]
        return "; ".join(
            [*told, *(self.fleet.on(name, "journalctl -u keepalived -n 20", check=False) for name in PAIR)]
        )

    def probe(self) -> list[tuple[str, str]]:
        """State and detail of our own probe, from the client, for both addresses."""
        probes = [{"address": {"address": one}} for one in (self.address, V6)]
        told = self.fleet.module(CLIENT, "ft_health", probes=probes)
        return [(one["state"], one["detail"]) for one in told["probes"]]

    def has_one_holder(self) -> None:
        """By three judges."""
        assert len(self.answer()) == 1, self.words()
        assert [self.has(name) for name in PAIR].count(True) == 1, self.words()
        assert [state for state, _detail in self.probe()] == ["pass", "pass"], self.words()

    @contextmanager
    def load(self, what: str) -> Iterator[Load]:
        load = Load()
        words = [*_exec(self.fleet.lab, CLIENT), "python3", "/root/load.py", self.address]
        running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        time.sleep(1.0)
        try:
            yield load
            time.sleep(1.0)
        finally:
            self.fleet.on(CLIENT, "pkill -INT -f [l]oad.py", check=False)
            load.__dict__.update(json.loads(running.communicate(timeout=30)[0]))
            print(
                f"{what}: nobody answered for {load.gap} s, {load.failed} of {load.good + load.failed} requests failed"
            )
        assert load.good > 50

    def role(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.fleet.playbook("role.yml", ROLE)
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", "role.yml", *words]
        return subprocess.run(
            argv, cwd=self.fleet.home, env=self.fleet.environment(), capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with Lab(os.environ.get("EVENKEEL_LAB", "flows") + "-address", hosts=3) as lab:
        home = tmp_path_factory.mktemp("address")
        (home / "inventory").mkdir()
        (home / "inventory/hosts.yml").write_text(lab.inventory.read_text())
        address = lab.host("web1").address.rpartition(".")[0] + ".150"
        (home / "inventory/groups.yml").write_text(VARIABLES.format(address=address, v6=V6))
        made = Pair(Fleet(lab, home, [*PAIR]), address)
        servers = "".join(f"    server {one.name} {one.address}:80 check inter 300ms\n" for one in lab.hosts)
        for name in PAIR:
            made.fleet.on(name, f"cat > /etc/haproxy/haproxy.cfg <<'END'\n{HAPROXY}{servers}END\n")
            made.fleet.on(name, "systemctl enable --now --quiet haproxy && systemctl restart haproxy")
        made.fleet.on(CLIENT, f"cat > /root/load.py <<'END'\n{LOAD}END\n")
        made.fleet.on(CLIENT, "ip address replace fd00:e::13/64 dev eth0")
        done = made.role()
        assert done.returncode == 0, done.stdout + done.stderr
        yield made
        made.fleet.end()


@contextmanager
def cut(hosts: tuple[str, ...], fleet: Fleet, rule: str) -> Iterator[None]:
    """Packets between the two are dropped, as the rule says, by their own firewalls and in both directions."""
    for name in hosts:
        other = fleet.lab.host(next(one for one in PAIR if one != name)).address
        lines = "".join(
            f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}\n"
            f"add rule inet cut {hook} ip {end} {other} {rule} drop\n"
            for hook, end in (("input", "saddr"), ("output", "daddr"))
        )
        fleet.on(name, f"nft -f - <<'END'\nadd table inet cut\n{lines}END\n")
    try:
        yield
    finally:
        for name in hosts:
            fleet.on(name, "nft delete table inet cut")


@contextmanager
def unplugged(fleet: Fleet, host: str) -> Iterator[None]:
    """No frame reaches the host, and none comes from it."""
    hardware = fleet.on(host, "cat /sys/class/net/eth0/address").strip()
    hooks = ("input", "forward", "output")
    table = "add table bridge evenkeel_unplugged\n" + "".join(
        f"add chain bridge evenkeel_unplugged {hook} {{ type filter hook {hook} priority 0; }}\n"
        + "".join(
            f"add rule bridge evenkeel_unplugged {hook} ether {end} {hardware} drop\n" for end in ("saddr", "daddr")
        )
        for hook in hooks
    )
    # Broadcasts bear no address of the host: what goes out to its port is dropped as well.
    port = fleet.on(host, "cat /sys/class/net/eth0/iflink").strip()
    name = next(one.name for one in Path("/sys/class/net").iterdir() if (one / "ifindex").read_text().strip() == port)
    table += "".join(f'add rule bridge evenkeel_unplugged {hook} oifname "{name}" drop\n' for hook in hooks[1:])
    nft(table)
    try:
        yield
    finally:
        nft("delete table bridge evenkeel_unplugged\n")


def both_at_once(pair: Pair, seconds: float) -> float:
    """For how long, in all, both hosts had the address in this time."""
    end, found, last = time.monotonic() + seconds, 0.0, time.monotonic()
    while time.monotonic() < end:
        both = all(pair.has(name) for name in PAIR)
        now = time.monotonic()
        found += now - last if both else 0.0
        last = now
        time.sleep(0.1)
    return found


def kill_keepalived(pair: Pair, holder: str) -> None:
    pair.fleet.on(holder, "pkill -KILL -x keepalived")


def kill_the_part_that_moves_it(pair: Pair, holder: str) -> None:
    pair.fleet.on(holder, "kill -KILL $(pgrep -x keepalived | tail -n 1)")


def stop_haproxy(pair: Pair, holder: str) -> None:
    pair.fleet.on(holder, "systemctl stop haproxy")


def freeze_haproxy(pair: Pair, holder: str) -> None:
    pair.fleet.on(holder, "pkill -STOP -x haproxy")


def break_python(pair: Pair, holder: str) -> None:
    pair.fleet.on(holder, f"chmod a-x {PROGRAM}")


MEND = f"pkill -CONT -x haproxy; chmod 700 {PROGRAM}; systemctl start haproxy keepalived"


@pytest.mark.parametrize(
    "fault", [kill_keepalived, kill_the_part_that_moves_it, stop_haproxy, freeze_haproxy, break_python]
)
def test_a_fault_of_the_holder_moves_the_address_and_its_return_does_not(
    pair: Pair, fault: Callable[[Pair, str], None]
) -> None:
    holder, other = pair.settled()
    with pair.load(fault.__name__) as load:
        fault(pair, holder)
        assert pair.fleet.eventually(lambda: pair.has(other) and not pair.has(holder), 15), pair.words()
        assert len(pair.answer()) == 1
        pair.fleet.on(holder, MEND, check=False)
        assert pair.settled() == (other, holder)
    assert load.gap < 10
    pair.has_one_holder()


def test_a_crash_of_the_holder_moves_the_address_and_its_boot_does_not(pair: Pair) -> None:
    holder, other = pair.settled()
    with pair.load("crash of the host") as load:
        pair.fleet.lab.stop(holder, now=True)
        assert pair.fleet.eventually(lambda: pair.has(other), 15), pair.words()
        assert len(pair.answer()) == 1
        pair.fleet.lab.start(holder)
        assert pair.settled() == (other, holder)
    assert load.gap < 8
    pair.has_one_holder()


@pytest.mark.parametrize("rule", ["meta l4proto 112", ""], ids=["of VRRP", "of all of IP"])
def test_a_cut_between_the_two_leaves_one_holder(pair: Pair, rule: str) -> None:
    pair.settled()
    with pair.load(f"cut {rule or 'of all of IP'}") as load:
        with cut(PAIR, pair.fleet, rule):
            twice = both_at_once(pair, 15)
            pair.has_one_holder()
            assert both_at_once(pair, 5) == 0, pair.words()
        pair.settled()
    print(f"both had the address for {twice:.1f} s")
    assert twice < 4 and load.gap < 8
    pair.has_one_holder()


def test_the_other_one_takes_over_during_a_cut_when_the_holder_crashes(pair: Pair) -> None:
    with cut(PAIR, pair.fleet, ""):
        both_at_once(pair, 6)
        holder = pair.holder()
        other = next(name for name in PAIR if name != holder)
        with pair.load("haproxy stops during a cut") as load:
            stop_haproxy(pair, holder)
            assert pair.fleet.eventually(lambda: pair.has(other) and not pair.has(holder), 15), pair.words()
        assert load.gap < 10
        pair.fleet.on(holder, MEND, check=False)
    pair.settled()
    pair.has_one_holder()


def test_a_holder_that_sees_nobody_gives_the_address_up(pair: Pair) -> None:
    holder, other = pair.settled()
    with pair.load("unplugged") as load:
        with unplugged(pair.fleet, holder):
            assert pair.fleet.eventually(lambda: not pair.has(holder) and pair.has(other), 15), pair.words()
            assert "no majority" in pair.fleet.on(holder, f"{PROGRAM} status")
            assert len(pair.answer()) == 1
        assert pair.settled() == (other, holder)
    assert load.gap < 8
    pair.has_one_holder()


def test_nobody_has_the_address_while_nobody_is_healthy(pair: Pair) -> None:
    for name in PAIR:
        stop_haproxy(pair, name)
    assert pair.fleet.eventually(lambda: not any(pair.has(name) for name in PAIR), 15), pair.words()
    assert pair.probe() == [("fail", "nobody answers for it on eth0")] * 2
    pair.fleet.on(PAIR[1], "systemctl start haproxy")
    assert pair.fleet.eventually(lambda: pair.has(PAIR[1]), 15), pair.words()
    pair.fleet.on(PAIR[0], "systemctl start haproxy")
    assert pair.settled() == (PAIR[1], PAIR[0])


def test_the_probe_finds_two_holders(pair: Pair) -> None:
    pair.settled()
    for name in PAIR:
        pair.fleet.on(name, "systemctl stop keepalived")
        pair.fleet.on(name, f"ip address add {pair.address}/24 dev eth0 && ip address add {V6}/64 dev eth0 nodad")
    try:
        for state, detail in pair.probe():
            assert state == "fail" and detail.startswith("2 holders: "), detail
        assert len(pair.answer()) == 2
    finally:
        # Our program removes it before the start.
        for name in PAIR:
            pair.fleet.on(name, "systemctl start keepalived")
    pair.settled()
    pair.has_one_holder()


def test_the_role_changes_nothing_twice_and_keeps_what_works_where_it_is_given_nonsense(pair: Pair) -> None:
    holder, other = pair.settled()
    again = pair.role("--check", "--diff")
    assert again.returncode == 0 and again.stdout.count("changed=0") == 2, again.stdout
    assert pair.role().stdout.count("changed=0") == 2
    # A run was cut after it wrote the files; the next one sees on the host what is still to be done.
    pair.fleet.on(
        holder,
        "echo '# cut' >> /etc/systemd/system/keepalived.service.d/evenkeel.conf; systemctl daemon-reload;"
        " cp -p /etc/keepalived/keepalived.conf /root/whole; echo >> /etc/keepalived/keepalived.conf;"
        " systemctl reload keepalived; cp -p /root/whole /etc/keepalived/keepalived.conf; systemctl disable keepalived",
    )
    assert pair.role().returncode == 0
    read = "cmp /etc/keepalived/keepalived.conf /run/evenkeel-address.read && systemctl is-enabled keepalived"
    assert pair.fleet.on(holder, f"{read}; systemctl show -P NeedDaemonReload keepalived").split() == ["enabled", "no"]
    assert pair.role().stdout.count("changed=0") == 2
    shown = pair.fleet.on(holder, "sha256sum /etc/keepalived/*")
    for wrong, said in (
        ({"evenkeel_virtual_router_id": 256}, "router_id 256 is not between 1 and 255"),
        ({"evenkeel_virtual_addresses": [pair.address]}, "has no length of its prefix"),
        ({"evenkeel_virtual_members": ["web1"]}, "members must be 2 to 16"),
        ({"evenkeel_virtual_witnesses": ["192.0.2.1"]}, "cannot be asked on the wire"),
        ({"evenkeel_virtual_adresses": []}, "no variable is named evenkeel_virtual_adresses"),
    ):
        done = pair.role("-e", json.dumps(wrong))
        assert done.returncode and said in " ".join(done.stdout.split()), done.stdout
    assert pair.fleet.on(holder, "sha256sum /etc/keepalived/*") == shown

    # A changed configuration is read without a move of the address.
    with pair.load("reload") as load:
        done = pair.role("-e", json.dumps({"evenkeel_virtual_witnesses": []}))
        assert done.returncode == 0, done.stdout
        done = pair.role(
            "-e", json.dumps({"evenkeel_virtual_addresses": [f"{pair.address}/24", f"{V6}/64", "fd00:e::101/64"]})
        )
        assert done.returncode == 0, done.stdout
        assert pair.role().returncode == 0
    assert load.failed == 0 and pair.settled() == (holder, other)
    assert "fd00:e::101" not in pair.fleet.on(holder, "ip address show")
    pair.has_one_holder()


CHANGE = """
- hosts: pair
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {dest: /etc/haproxy/note, content: "{{ note }}", mode: "0644"}
    - ansible.builtin.service: {name: haproxy, state: restarted}
"""


def test_a_change_has_the_holder_hand_the_address_over_before_it_begins(pair: Pair) -> None:
    pair.settled()
    pair.fleet.playbook("site.yml", CHANGE)
    words = ["--limit", "pair", "--waves", "1", "-e", "note=one"]
    with pair.load("a change of both, one by one") as load:
        code, result = pair.fleet.change("site.yml", *words, timeout=300)
        assert code == 0, result
    assert load.gap < 6
    # Each was changed while the other one had the address.
    assert pair.settled() == ("web1", "web2")
    assert [pair.fleet.on(name, "cat /etc/haproxy/note") for name in PAIR] == ["one", "one"]

    # Nobody else could take it: nothing is begun.
    holder, other = pair.settled()
    stop_haproxy(pair, other)
    assert pair.fleet.eventually(lambda: pair.state(other) == "FAULT", 15)
    with pair.load("a change that is refused") as load:
        code, result = pair.fleet.change("site.yml", "--limit", holder, "-e", "note=two", timeout=120)
    assert code == 3 and "no host outside of the wave is healthy and ready to take it" in str(result), result
    assert load.failed == 0 and pair.has(holder)
    assert pair.fleet.on(holder, "cat /etc/haproxy/note") == "one"
    pair.fleet.on(other, MEND, check=False)
    pair.settled()
