# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies that go straight from host to host, along a chain, or by the controller: what each leaves, and what a stolen
key is worth."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Fleet

# In the place of the client of web1 for a time: it keeps a copy of the key, and waits until it may go on.
WAITS = """#!/bin/sh
for word; do case "$word" in IdentityFile=*) cp "${word#IdentityFile=}" /root/stolen;; esac; done
touch /root/waits
while [ -e /root/waits ]; do sleep 0.1; done
exec /usr/bin/ssh "$@"
"""
# It stops after half a MiB until it may go on.
STOPS = """#!/bin/sh
(head -c 524288; touch /root/waits; while [ -e /root/waits ]; do sleep 0.1; done; cat) | exec /usr/bin/ssh "$@"
"""
CLIENT = "/usr/local/sbin/ssh"
KEYS = "cat ~root/.ssh/authorized_keys ~ops/.ssh/authorized_keys"


@pytest.fixture
def hosts(fleet: Fleet) -> Iterator[Fleet]:
    """web1 with 4 MiB and some small files to copy. The files of keys are as they were at the end."""
    fleet.on("web1", "head -c 4194304 /dev/urandom >/srv/www/large; rm -f /root/waits /root/stolen")
    before = {name: fleet.on(name, KEYS) for name in fleet.names[:3]}
    yield fleet
    fleet.on("web1", f"rm -f /root/waits {CLIENT}")
    for name, keys in before.items():
        assert fleet.on(name, KEYS) == keys
        assert fleet.on(name, "ls -d /var/tmp/evenkeel-* 2>/dev/null || true") == ""


def as_user(fleet: Fleet, user: str) -> None:
    if user != "root":
        text = fleet.lab.inventory_as(user).read_text()
        (fleet.home / "inventory" / "hosts.yml").write_text(text)


def replicate(fleet: Fleet, **options: Any) -> dict[str, Any]:
    """The result of copies of web1's trees, by default one on web2."""
    resources = [{"files": {"paths": ["/etc/nginx", "/srv/www"]}}]
    assert not fleet.module("web1", "ft_checkpoint", name="base", resources=resources)["failed"]
    return fleet.module("web1", "ft_replicate", **{"copies": 1, "peers": ["web2"], **options})


def client(fleet: Fleet, script: str) -> None:
    path = fleet.home / "client"
    path.write_text(script)
    fleet.lab.exec("web1", ["sh", "-c", f"cat >{CLIENT}; chmod 755 {CLIENT}"], input=script)


def waits(fleet: Fleet) -> None:
    assert fleet.eventually(lambda: bool(fleet.on("web1", "ls /root/waits", check=False).strip()), 120)


def start(fleet: Fleet) -> Any:
    play = fleet.home / "copy.yml"
    tasks = [
        {"evenkeel.fault_tolerance.ft_checkpoint": {"name": "base", "resources": [{"files": {"paths": ["/srv/www"]}}]}},
        {"evenkeel.fault_tolerance.ft_replicate": {"copies": 1, "peers": ["web2"]}, "register": "found"},
        {"ansible.builtin.copy": {"content": "{{ found.copies[0] }}", "dest": "/root/found"}},
    ]
    play.write_text(json.dumps([{"hosts": "web1", "gather_facts": False, "tasks": tasks}]))
    return fleet.start_playbook(play)


@pytest.mark.parametrize("user", ["root", pytest.param("ops", marks=pytest.mark.long)])
def test_a_copy_goes_straight_to_its_peer_and_along_a_chain(hosts: Fleet, user: str) -> None:
    as_user(hosts, user)
    found = replicate(hosts)
    assert [(one["transport"], one["state"], one["reason"]) for one in found["copies"]] == [("ssh", "verified", "")]
    again = replicate(hosts, copies=1)
    assert again["changed"] is False and again["copies"][0]["detail"] == "held already"
    hosts.on("web2", "rm -rf /var/lib/evenkeel/replicas")
    found = replicate(hosts, copies=2, peers=["web2", "web3"], transport="chain")
    assert [(one["transport"], one["state"]) for one in found["copies"]] == [("chain", "verified")] * 2
    for peer in ("web2", "web3"):
        pack = "cd /var/lib/evenkeel/replicas/web1/objects && for one in */*; do sha256sum $one; done"
        for line in hosts.on(peer, pack).splitlines():
            digest, name = line.split()
            assert digest == name.replace("/", "")


@pytest.mark.long
def test_hosts_that_cannot_meet_get_their_copies_by_the_controller_and_no_key(hosts: Fleet) -> None:
    address = hosts.lab.host("web1").address
    hosts.on("web2", f"nft add table ip cut; nft 'add chain ip cut input {{ type filter hook input priority 0; }}';"
             f" nft add rule ip cut input ip saddr {address} tcp dport 22 drop")  # fmt: skip
    found = replicate(hosts)["copies"][0]
    assert (found["transport"], found["state"]) == ("relay", "verified")
    assert "timed out" in found["reason"]
    hosts.on("web2", "rm -rf /var/lib/evenkeel/replicas; nft flush ruleset")
    # No key at any time: whatever would make one would be seen.
    made = "/usr/local/sbin/ssh-keygen"
    hosts.on("web1", f"printf '#!/bin/sh\\ntouch /root/made\\n' >{made}; chmod 755 {made}; rm -f /root/made")
    changed = hosts.on("web2", "stat -c %z /root/.ssh /root/.ssh/authorized_keys")
    found = replicate(hosts, transport="relay")["copies"][0]
    assert (found["transport"], found["state"], found["reason"]) == ("relay", "verified", "")
    assert hosts.on("web2", "stat -c %z /root/.ssh /root/.ssh/authorized_keys") == changed
    assert hosts.on("web1", f"rm {made}; ls /root/made 2>&1 || true").startswith("ls:")


@pytest.mark.long
@pytest.mark.parametrize("user", ["root", "ops"])
def test_a_stolen_key_of_a_running_transfer_is_worth_nothing(hosts: Fleet, user: str) -> None:
    as_user(hosts, user)
    client(hosts, WAITS)
    running = start(hosts)
    waits(hosts)
    home = "/root" if user == "root" else f"/home/{user}"
    assert "restrict,expiry-time=" in hosts.on("web2", f"head -1 {home}/.ssh/authorized_keys")
    hosts.on("web2", "echo secret >/root/secret; chmod 600 /root/secret; rm -f /tmp/pwned")
    there = f"{user}@{hosts.lab.host('web2').address}"
    options = "-F none -i /root/stolen -o StrictHostKeyChecking=accept-new -o BatchMode=yes -o ConnectTimeout=5"
    # A first connection sends nothing, and keeps the FIFO open, so that further ones do not end the transfer.
    hosts.on("web1", f"(sleep 45 | /usr/bin/ssh {options} {there} x) >/dev/null 2>&1 &")
    time.sleep(1)
    attempts = [
        f"/usr/bin/ssh {options} {there} 'id; cat /root/secret; touch /tmp/pwned'",
        f"/usr/bin/ssh {options} -A -X {there} 'cat /root/secret'",
        f"/usr/bin/ssh {options} -tt {there}",
        f"/usr/bin/ssh {options} -W 127.0.0.1:80 {there}",
        f"/usr/bin/ssh {options} -o ExitOnForwardFailure=yes -R 18080:127.0.0.1:22 {there} && echo uid=forwarded",
        # These send something, which ends the transfer and so the use of the key.
        f"sftp {options} {there}:/etc/passwd /root/got",
        f"scp -O {options} /etc/hostname {there}:/tmp/pwned",
    ]
    for attempt in attempts:
        said = hosts.on("web1", f"(timeout 5 {attempt}) </dev/null 2>&1; true", check=False)
        assert "uid=" not in said and "secret" not in said and "HTTP" not in said, attempt
        refusal = {"-tt": "PTY allocation request failed", "-W": "prohibited", "-R": "forwarding failed"}
        assert all(words in said for flag, words in refusal.items() if f" {flag} " in attempt), said
    assert hosts.on("web2", "ls /tmp/pwned; ss -Hltn sport = 18080", check=False) == ""
    assert hosts.on("web1", "ls /root/got", check=False) == ""
    # What the thief sends is refused, and the controller carries the copy.
    hosts.on("web1", f"head -c 100000 /dev/urandom | /usr/bin/ssh {options} {there} x; rm /root/waits", check=False)
    assert running.wait(120) == 0
    found = hosts.on("web1", "cat /root/found")
    assert "'transport': 'relay'" in found.replace('"', "'") and "verified" in found
    said = hosts.on("web1", f"/usr/bin/ssh {options} {there} id </dev/null 2>&1", check=False)
    assert "Permission denied" in said


@pytest.mark.long
@pytest.mark.parametrize("victim", ["source", "target", "controller", "network"])
def test_a_kill_in_the_middle_leaves_no_half_copy_and_a_rerun_completes(hosts: Fleet, victim: str) -> None:
    client(hosts, STOPS)
    running = start(hosts)
    waits(hosts)
    assert hosts.on("web2", "ls /var/lib/evenkeel/replicas/web1/refs", check=False) == ""
    assert hosts.eventually(lambda: "evenkeel" not in hosts.on("web2", KEYS), 20)  # From the first byte on.
    if victim == "controller":
        hosts.end()
    elif victim == "network":
        hosts.lab.disconnect("web1")
        time.sleep(25)
        hosts.lab.connect("web1")
    elif victim == "source":  # The client, and the module that feeds it.
        each = "for one in $(pgrep -f '[u]sr/local/sbin/ssh'); do echo $(ps -o ppid= -p $one) $one; done"
        hosts.on("web1", f"{each} | xargs kill -9", check=False)
    else:
        hosts.on("web2", "kill -9 $(cat /var/lib/evenkeel/replicas/web1/lock)")
    hosts.on("web1", f"rm -f /root/waits {CLIENT}")
    running.wait(180)
    free = "flock -n /var/lib/evenkeel/replicas/web1/lock echo free"
    assert hosts.eventually(lambda: "free" in hosts.on("web2", free, check=False), 90)
    found = replicate(hosts)
    assert found["copies"][0]["state"] == "verified"
    packs = "cd /var/lib/evenkeel/replicas/web1 && ls tmp; for one in objects/*/*; do sha256sum $one; done"
    for line in hosts.on("web2", packs).splitlines():
        digest, name = line.split()
        assert digest == name.replace("objects", "").replace("/", "")
    # What a kill left on a host goes with the next call after the time for the transfer, which is made to be over here.
    for host in ("web1", "web2"):
        hosts.on(host, "rm -f /var/tmp/evenkeel-bundle-*/until")
    time.sleep(16)
    for name in ("web1", "web2"):
        hosts.module(name, "ft_info")


@pytest.mark.long
def test_logins_of_all_kinds_get_their_copy_straight_or_with_the_reason(hosts: Fleet) -> None:
    """Login shells, greetings and settings of sshd, each as a host may have them."""
    as_user(hosts, "ops")
    cases = [
        ("echo 'echo Hello; stty -a' >>/home/ops/.bashrc; echo Welcome >/etc/motd", "true", "ssh", ""),
        ("mv /home/ops/.ssh/authorized_keys /home/ops/k; ln -s /home/ops/k /home/ops/.ssh/authorized_keys",
         "mv -f /home/ops/k /home/ops/.ssh/authorized_keys", "relay", "could not be changed"),
        ("printf 'Match User ops\\nForceCommand sh -c \"$SSH_ORIGINAL_COMMAND\"\\n' >>/etc/ssh/sshd_config;"
         " systemctl restart ssh", "", "relay", "ForceCommand"),
        ("mkdir -p /etc/ssh/k; cp /home/ops/.ssh/authorized_keys /etc/ssh/k/ops; chmod 644 /etc/ssh/k/ops; sed -i"
         " '1i AuthorizedKeysFile /etc/ssh/k/%u' /etc/ssh/sshd_config; systemctl restart ssh", "", "ssh", ""),
    ]  # fmt: skip
    restore = "rsync -aHAX --checksum --delete /var/lib/pristine/etc/ssh/ /etc/ssh/; systemctl restart ssh"
    hosts.on("web2", "cp -a /home/ops/.bashrc /root/bashrc")
    for prepare, undo, transport, reason in cases:
        hosts.on("web2", f"rm -rf /var/lib/evenkeel/replicas; {prepare}")
        found = replicate(hosts)["copies"][0]
        hosts.on("web2", f"{undo or 'true'}; cp -a /root/bashrc /home/ops/.bashrc; : >/etc/motd; {restore}")
        assert (found["transport"], found["state"]) == (transport, "verified"), prepare
        assert reason in found["reason"], prepare
