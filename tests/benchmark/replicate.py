#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a checkpoint on other hosts, against ``rsync -aHAX`` over SSH with the same data: wall and processor time.

The hosts are containers of the lab, on one machine: source and receivers share its processors and its disk, so a copy
to three hosts costs here what three hosts of their own would share. Ours is measured from the beginning of the task
ft_replicate to its end, with all its connections, and is durable and hashed then. rsync is measured on the source,
once as it returns, and once with ``sync`` on the receiver after it. Quote the ratios, not the seconds.

Processor time is that of all hosts together. For ours it leaves out the controller, and what the kernel does for a
process that nobody waited for. On a machine that does other work it says more than the wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evenkeel.collection import collections_path

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from lab import Lab, unavailable

OURS = "evenkeel.fault_tolerance.ft_"
KEY = "evenkeel_encryption_key"
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


# Of the processes that live, and of those that they have waited for.
_PROCESSORS = """cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^.*) //' | awk '{s+=$12+$13+$14+$15} END {print s/100}'"""


class Cost(NamedTuple):
    """Seconds from the beginning to the end, and seconds of processor time on all hosts."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.processor:.2f} s of a processor)"


class Bench:
    """The lab and a controller's directory."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab, self.home = lab, home
        (home / "hosts.yml").write_text(lab.inventory.read_text())

    def on(self, host: str, script: str) -> str:
        return self.lab.exec(host, ["sh", "-c", script]).stdout

    def task(self, module: str, /, *, on: str = "web1", key: str = "", **options: object) -> tuple[Cost, list[str]]:
        """The cost of a task on one host, or on all, and the transports of the copies. key: encrypts them."""
        now = {"ansible.builtin.set_fact": {"at": "{{ at | default([]) + [lookup('pipe', 'date +%s.%N')] }}"}}
        every = "{{ ansible_play_hosts | map('extract', hostvars) | map(attribute='at') | list }}"
        say = {"ansible.builtin.copy": {"dest": str(self.home / "said"), "content": "{{ [every, found] | to_json }}"}}
        tasks = [now, {module: options, "register": "found"}, now]
        local = {"ansible_connection": "local", "every": every}
        tasks.append({**say, "delegate_to": "localhost", "run_once": True, "vars": local})
        play = {"hosts": on, "gather_facts": False, "tasks": tasks, "vars": {KEY: key} if key else {}}
        (self.home / "play.yml").write_text(json.dumps([play]))
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [program, "-i", "hosts.yml", "-f", str(len(self.lab.hosts)), "play.yml"]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections_path()), "ANSIBLE_PIPELINING": "1"}
        before = self.processors()
        done = subprocess.run(argv, cwd=self.home, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        times, found = json.loads((self.home / "said").read_text())
        wall = max(float(one[1]) for one in times) - min(float(one[0]) for one in times)
        ways = [one["transport"] or one["detail"] for one in found.get("copies", []) if isinstance(one, dict)]
        return Cost(wall, self.processors() - before), ways

    def processors(self) -> float:
        """Seconds of processor time of all hosts until now."""
        return sum(float(self.on(host.name, _PROCESSORS)) for host in self.lab.hosts)

    def checkpoint(self, tree: str, on: str = "web1") -> None:
        self.task(f"{OURS}checkpoint", on=on, name="bench", resources=[{"files": {"paths": [tree]}}])

    def forget(self, tree: str) -> None:
        """Take a checkpoint of the tree, and remove all copies."""
        self.checkpoint(tree)
        for host in self.lab.hosts:
            self.on(host.name, "rm -rf /var/lib/evenkeel/replicas /srv/copy; sync")

    def copy(self, copies: int = 1, **options: Any) -> tuple[Cost, list[str]]:
        peers = [host.name for host in self.lab.hosts][1 : copies + 1]
        return self.task(f"{OURS}replicate", copies=copies, peers=peers, **options)

    def send_library(self) -> None:
        """Make a small copy on each peer: the library goes to a host once, and stays there."""
        self.forget("/etc/ssh")
        self.copy(len(self.lab.hosts) - 1)

    def rsync(self, tree: str, back: bool = False) -> Cost:
        """Copy the tree to web2; with ``back`` from there into an empty tree."""
        there = f"root@{self.lab.host('web2').address}:/srv/copy/"
        client = "ssh -i /root/bench -o StrictHostKeyChecking=yes -o BatchMode=yes"
        source, target = (there, f"{tree}/") if back else (f"{tree}/", there)
        script = f"date +%s.%N; rsync -aHAX -e '{client}' {source} {target} >&2; date +%s.%N; times"
        before = self.processors()
        began, ended, _shell, here = self.on("web1", script).splitlines()
        # Nobody on the host waits for what runs in it by exec.
        spent = sum(60 * float(minutes) + float(rest) for minutes, rest in re.findall(r"(\d+)m([\d.]+)s", here))
        return Cost(float(ended) - float(began), spent + self.processors() - before)

    def limit(self, megabits: int) -> None:
        """Have each host send no more than so many Mbit a second, as a network card of its own would."""
        for host in self.lab.hosts:
            self.on(host.name, f"tc qdisc replace dev eth0 root tbf rate {megabits}mbit burst 1mb latency 100ms")

    def sync(self, host: str = "web2") -> float:
        began = time.monotonic()
        self.on(host, "sync")
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
    ours, ways = bench.copy()
    again, _held = bench.copy()
    theirs = bench.rsync(tree)
    synced = theirs.wall + bench.sync()
    theirs_again = bench.rsync(tree)
    print(f"{label}: first copy by {ways[0]}")
    print(f"  evenkeel {ours}; rsync {theirs}, with sync {synced:.2f} s")
    print(
        f"  speed of rsync's: {theirs.wall / ours.wall:.2f}; of rsync with sync: {synced / ours.wall:.2f} (wanted: 0.9)"
    )
    rest = max(ours.wall - again.wall, 0.01)
    print(f"  without what a task with nothing new takes: {theirs.wall / rest:.2f} of rsync's speed")
    floor, _none = bench.task("ansible.builtin.ping")
    print(f"  nothing new: evenkeel {again}; rsync {theirs_again}:")
    print(f"    {theirs_again.wall / again.wall:.2f} times as fast (wanted: 5); Ansible takes {floor} for a ping")


def several(bench: Bench, tree: str, megabits: int = 0) -> None:
    """Three copies along a chain against one; with a limit the network decides, and not the processors that all hosts
    share."""
    if megabits:
        bench.limit(megabits)
        print(f"each host sends {megabits} Mbit/s at most:")
    bench.forget(tree)
    one, _ways = bench.copy()
    bench.forget(tree)
    three, ways = bench.copy(3, transport="chain")
    print(f"three copies by {', '.join(ways)}: {three}; one: {one}:")
    print(f"  {three.wall / one.wall:.2f} times as long (wanted: 1.5)")


def encrypted(bench: Bench, tree: str) -> None:
    """An encrypted first copy against a plain one."""
    bench.forget(tree)
    plain, _ways = bench.copy()
    bench.forget(tree)
    sealed, _ways = bench.copy(key=secrets.token_hex(32))
    print(f"encrypted: {sealed}; plain: {plain}: {plain.wall / sealed.wall:.2f} of its speed (wanted: 0.8)")


def recover(bench: Bench, files: int) -> None:
    """A host whose store and files are gone, against rsync and ``sync``."""
    bench.on("web1", f"rm -rf {SMALL} {LARGE} && python3 -c '{BUILD}' {files} 0")
    bench.forget(SMALL)
    bench.copy()
    bench.rsync(SMALL)
    bench.on("web1", f"rm -rf {SMALL} && mkdir {SMALL} && sync")
    theirs = bench.rsync(SMALL, back=True)
    synced = theirs.wall + bench.sync("web1")
    lost = "find /var/lib/evenkeel -mindepth 1 -maxdepth 1 ! -name agent -exec rm -rf {} +"
    bench.on("web1", f"mv {SMALL} /srv/theirs && {lost} && sync")
    ours, _ways = bench.task(f"{OURS}recover", peers=["web2"], undeclared=True)
    differing = bench.on("web1", f"rsync -aHAXni --delete /srv/theirs/ {SMALL}/; rm -rf /srv/theirs")
    print(f"recovery of {files} files: evenkeel {ours}; rsync {theirs}, with sync {synced:.2f} s:")
    print(f"  speed of rsync with sync: {synced / ours.wall:.2f} (wanted: 1); differing: {len(differing.splitlines())}")


def growth(name: str, sizes: Sequence[int], files: int, home: Path) -> None:
    """Every host of labs of several sizes has a copy on another one, all at the same time."""
    print(f"hosts, each with {files} files and one copy | first copies | nothing new")
    for size in sizes:
        with Lab(name, hosts=size) as lab:
            bench = Bench(lab, home)
            peers = [host.name for host in lab.hosts]
            for peer in peers:
                bench.on(peer, f"rm -rf {SMALL} {LARGE}; python3 -c '{BUILD}' {files} 0")
            bench.checkpoint(SMALL, on="all")
            first, _ways = bench.task(f"{OURS}replicate", on="all", copies=1, peers=peers)
            again, _ways = bench.task(f"{OURS}replicate", on="all", copies=1, peers=peers)
            print(f"{size:5} | {first} | {again}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="small files (default: 20,000)")
    parser.add_argument("--mib", type=int, default=512, help="MiB of large files (default: 512)")
    parser.add_argument("--hosts", type=int, choices=(2, 4), default=4, help="with 4, three copies too (default: 4)")
    parser.add_argument("--limit", type=int, default=0, help="three copies, too, by hosts that send so many Mbit/s")
    parser.add_argument("--recover", type=int, default=0, help="recover so many files, too (wanted: 100,000)")
    parser.add_argument("--growth", type=int, nargs="*", default=(), help="labs of so many hosts, too (wanted: 2 8 32)")
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
            bench.send_library()
            if args.files:
                compare(bench, SMALL, f"{args.files} small files")
            if args.mib:
                compare(bench, LARGE, f"{args.mib} MiB of large files")
                encrypted(bench, LARGE)
                if args.hosts == 4:
                    several(bench, LARGE)
                    if args.limit:
                        several(bench, LARGE, args.limit)
            if args.recover:
                recover(bench, args.recover)
        if args.growth:
            growth(args.lab, args.growth, 1000, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
