#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a checkpoint on other hosts, against ``rsync -aHAX`` over SSH with the same data: wall time.

The hosts are containers of the lab, on one machine: source and receivers share its processors and its disk, so a copy
to three hosts costs here what three hosts of their own would share. Ours is measured from the beginning of the task
ft_replicate to its end, with all its connections, and is durable and hashed then. rsync is measured on the source,
once as it returns, and once with ``sync`` on the receiver after it. Quote the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from evenkeel.collection import collections_path

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from lab import Lab, unavailable

OURS = "evenkeel.fault_tolerance.ft_replicate"
SMALL, LARGE = "/srv/small", "/srv/large"
# 50 files a directory, of 100 bytes to 8 KiB; and files of 32 MiB.
BUILD = """
import os, random, sys
chance, files, mebibytes = random.Random(1), int(sys.argv[1]), int(sys.argv[2])
for number in range(files):
    folder = f"/srv/small/part-{number // 5000:03}/unit-{number // 50 % 100:02}.d"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{number:07}.conf", "wb") as out:
        out.write(os.urandom(min(8192, int(chance.lognormvariate(7, 1)) + 100)))
os.makedirs("/srv/large")
for number in range(mebibytes // 32):
    with open(f"/srv/large/{number}", "wb") as out:
        for _piece in range(32):
            out.write(os.urandom(1 << 20))
os.sync()
"""


class Bench:
    """The lab and a controller's directory."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab, self.home = lab, home
        (home / "hosts.yml").write_text(lab.inventory.read_text())

    def on(self, host: str, script: str) -> str:
        return self.lab.exec(host, ["sh", "-c", script]).stdout

    def task(self, module: str, /, **options: object) -> tuple[float, list[str]]:
        """Seconds from the beginning of a task on web1 to its end, and the transports of the copies."""
        now = {"ansible.builtin.set_fact": {"at": "{{ at | default([]) + [lookup('pipe', 'date +%s.%N')] }}"}}
        say = {"ansible.builtin.copy": {"dest": str(self.home / "said"), "content": "{{ [at, found] | to_json }}"}}
        tasks = [now, {module: options, "register": "found"}, now]
        tasks.append({**say, "delegate_to": "localhost", "vars": {"ansible_connection": "local"}})
        (self.home / "play.yml").write_text(json.dumps([{"hosts": "web1", "gather_facts": False, "tasks": tasks}]))
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml"]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections_path()), "ANSIBLE_PIPELINING": "1"}
        done = subprocess.run(argv, cwd=self.home, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        (began, ended), found = json.loads((self.home / "said").read_text())
        copies = found.get("copies", [])
        return float(ended) - float(began), [one["transport"] or one["detail"] for one in copies]

    def forget(self, tree: str) -> None:
        """Take a checkpoint of the tree, and remove all copies."""
        self.task("evenkeel.fault_tolerance.ft_checkpoint", name="bench", resources=[{"files": {"paths": [tree]}}])
        for host in self.lab.hosts:
            self.on(host.name, "rm -rf /var/lib/evenkeel/replicas /srv/copy; sync")

    def send_library(self, peers: Sequence[str]) -> None:
        """Make a small copy on each peer: the library goes to a host once, and stays there."""
        self.forget("/etc/ssh")
        self.task(OURS, copies=len(peers), peers=list(peers))

    def rsync(self, tree: str) -> float:
        there = f"root@{self.lab.host('web2').address}"
        client = "ssh -i /root/bench -o StrictHostKeyChecking=yes -o BatchMode=yes"
        script = f"date +%s.%N; rsync -aHAX -e '{client}' {tree}/ {there}:/srv/copy/ >&2; date +%s.%N"
        began, ended = map(float, self.on("web1", script).split())
        return ended - began

    def sync(self) -> float:
        began = time.monotonic()
        self.on("web2", "sync")
        return time.monotonic() - began

    def let_rsync_in(self) -> None:
        self.on("web1", "rm -f /root/bench*; ssh-keygen -q -t ed25519 -N '' -f /root/bench")
        key, name = self.on("web1", "cat /root/bench.pub").strip(), self.lab.host("web2").address
        self.on("web2", f"echo '{key}' >>/root/.ssh/authorized_keys")
        host_key = self.on("web2", "cat /etc/ssh/ssh_host_ed25519_key.pub").strip()
        self.on("web1", f"echo '{name} {host_key}' >>/root/.ssh/known_hosts")


def compare(bench: Bench, tree: str, label: str) -> None:
    """A first copy, and one with nothing new, of both."""
    bench.forget(tree)
    ours, ways = bench.task(OURS, copies=1, peers=["web2"])
    again, _held = bench.task(OURS, copies=1, peers=["web2"])
    theirs = bench.rsync(tree)
    synced = theirs + bench.sync()
    theirs_again = bench.rsync(tree)
    print(f"{label}: first copy by {ways[0]}")
    print(f"  evenkeel {ours:7.2f} s; rsync {theirs:7.2f} s, with sync {synced:7.2f} s")
    print(f"  speed of rsync's: {theirs / ours:.2f}; of rsync with sync: {synced / ours:.2f} (wanted: 0.9)")
    print(f"  without what a task with nothing new takes: {theirs / max(ours - again, 0.01):.2f} of rsync's speed")
    floor, _none = bench.task("ansible.builtin.ping")
    print(
        f"  nothing new: evenkeel {again:.2f} s; rsync {theirs_again:.2f} s: {theirs_again / again:.2f} times as fast"
        " (wanted: 5);"
    )
    print(f"    it is two calls of a module, one after the other, and Ansible takes {2 * floor:.2f} s for two of ping")


def several(bench: Bench, tree: str) -> None:
    """Three copies along a chain against one."""
    peers = ["web2", "web3", "web4"]
    bench.forget(tree)
    one, _ways = bench.task(OURS, copies=1, peers=["web2"])
    bench.forget(tree)
    three, ways = bench.task(OURS, copies=3, peers=peers, transport="chain")
    print(f"three copies by {', '.join(ways)}: {three:.2f} s; one: {one:.2f} s:")
    print(f"  {three / one:.2f} times as long (wanted: 1.5)")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="small files (default: 20,000)")
    parser.add_argument("--mib", type=int, default=512, help="MiB of large files (default: 512)")
    parser.add_argument("--hosts", type=int, choices=(2, 4), default=4, help="with 4, three copies too (default: 4)")
    parser.add_argument("--lab", default="bench", help="name of the lab (default: bench)")
    args = parser.parse_args(argv)
    reason = unavailable()
    if reason:
        print(f"Left out: copies on other hosts ({reason})")
        return
    home = Path(tempfile.mkdtemp(prefix="evenkeel-bench-"))
    try:
        with Lab(args.lab, hosts=args.hosts) as lab:
            bench = Bench(lab, home)
            lab.exec("web1", ["rm", "-rf", SMALL, LARGE])
            lab.exec("web1", ["python3", "-c", BUILD, str(args.files), str(args.mib)])
            bench.let_rsync_in()
            bench.send_library([host.name for host in lab.hosts][1:])
            compare(bench, SMALL, f"{args.files} small files")
            compare(bench, LARGE, f"{args.mib} MiB of large files")
            if args.hosts == 4:
                several(bench, LARGE)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
