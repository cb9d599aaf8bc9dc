#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a transaction costs: wall time of ``evenkeel change`` against plain ``ansible-playbook`` of the same playbook,
and of ``evenkeel restart`` against a play that restarts the service.

Twenty lab hosts, one wave, ten tasks or one restart, both with the same configuration, in turn, so that a machine that
gets slower slows both. Each run begins with no open connection, as that of a person who has done nothing else in the
last minute; ``--warm`` lets ``ansible-playbook`` keep those of its run before. Quote the ratio, not the seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "lab"))
from lab import Lab, unavailable

VARIABLES = """
evenkeel_resources:
  - files: {paths: [/etc/nginx, /srv/www]}
  - services: {names: [nginx]}
evenkeel_probes:
  - tcp: {port: 80}
"""
# Ten tasks as a site's playbook has them; the number changes with every run, so that every run changes something.
PLAYBOOK = """
- hosts: web
  gather_facts: false
  tasks:
    - ansible.builtin.file: {path: /srv/www, state: directory, mode: "0755"}
    - ansible.builtin.copy: {dest: /srv/www/index.html, content: "number {{ number }}", mode: "0644"}
    - ansible.builtin.copy: {dest: /srv/www/robots.txt, content: "User-agent: *", mode: "0644"}
    - ansible.builtin.copy: {dest: /etc/nginx/conf.d/a.conf, content: "# {{ number }}", mode: "0644"}
    - ansible.builtin.lineinfile: {path: /etc/nginx/conf.d/b.conf, line: "# b", create: true, mode: "0644"}
    - ansible.builtin.command: nginx -t
    - ansible.builtin.file: {path: /etc/nginx/conf.d/c.conf, state: touch, mode: "0644"}
    - ansible.builtin.stat: {path: /etc/nginx/nginx.conf}
    - ansible.builtin.slurp: {src: /srv/www/index.html}
    - ansible.builtin.systemd_service: {name: nginx, state: reloaded}
"""
RESTART = """
- hosts: web
  gather_facts: false
  tasks: [{ansible.builtin.systemd_service: {name: nginx, state: restarted}}]
"""


def seconds(argv: list[str], home: Path, connections: Path | None = None) -> float:
    """The duration of a program that opens its connections in this directory, or in one of its own."""
    environment = {**os.environ, "ANSIBLE_PIPELINING": "1", "ANSIBLE_FORKS": "20", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory(prefix="cp") as new:
        environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(connections or new)
        began = time.monotonic()
        done = subprocess.run(argv, cwd=home, env=environment, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        for left in Path(new).iterdir():
            subprocess.run(["ssh", "-o", f"ControlPath={left}", "-O", "exit", "-"], capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return took


def compare(
    what: str, name: str, words: tuple[list[str], list[str]], home: Path, runs: int, connections: Path | None
) -> None:
    """Run both in turn, and print the ratio."""
    plain, ours = words
    # Once each, not counted: caches, the agent on the hosts.
    seconds([*plain, "-e", "number=0"], home, connections)
    seconds([*ours, "-e", "number=0.5"], home)
    pairs = []
    for run in range(1, runs + 1):
        one = seconds([*plain, "-e", f"number={run}"], home, connections)
        other = seconds([*ours, "-e", f"number={run}.5"], home)
        pairs.append((one, other))
        print(f"run {run}: plain {one:5.1f} s   {name} {other:5.1f} s   ratio {other / one:.2f}", flush=True)
    ratios = [other / one for one, other in pairs]
    print(
        f"{what}: plain {statistics.median(one for one, _ in pairs):.1f} s, "
        f"{name} {statistics.median(other for _, other in pairs):.1f} s, "
        f"ratio {statistics.median(ratios):.2f} (median of {len(ratios)}, {min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=["change", "restart"])
    parser.add_argument("--warm", action="store_true")
    args = parser.parse_args()
    reason = unavailable()
    if reason:
        print(f"Left out: transactions on hosts ({reason})")
        return 0
    with Lab("bench", hosts=args.hosts) as lab, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "inventory" / "group_vars").mkdir(parents=True)
        (home / "inventory" / "hosts.yml").write_text(lab.inventory.read_text())
        (home / "inventory" / "group_vars" / "all.yml").write_text(VARIABLES)
        (home / "site.yml").write_text(PLAYBOOK)
        (home / "restart.yml").write_text(RESTART)
        plain = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory"]
        ours = [sys.executable, "-m", "evenkeel.cli"]
        more = ["-i", "inventory", "--waves", "100%"]
        changes = ([*plain, "site.yml"], [*ours, "change", "site.yml", *more])
        restarts = ([*plain, "restart.yml"], [*ours, "restart", "nginx", *more, "--limit", "web"])
        connections = home / "cp" if args.warm else None
        if args.only != "restart":
            compare(f"{args.hosts} hosts, 10 tasks, one wave", "change", changes, home, args.runs, connections)
        if args.only != "change":
            compare(f"{args.hosts} hosts, one restart, one wave", "restart", restarts, home, args.runs, connections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
