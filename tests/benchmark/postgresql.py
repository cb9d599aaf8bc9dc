#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoint of a PostgreSQL cluster under pgbench, and its rollback against copying the base plus replay.

The peer is what a restore by hand cannot do without: ``cp -a`` of the same base, and a server that replays the same
log to the same restore point and becomes writable, then ``sync``. Ours is a whole process on a server that runs, with
all that it verifies, the undo, and the stop and start of the cluster. Needs root, and PostgreSQL as Debian installs it.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evenkeel.collection import collections_path

ROOT = Path(__file__).parents[2]
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[4]))
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
LIBRARY = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
PROGRAM = f"""
import json, sys
sys.path.insert(0, sys.argv[1])
from {LIBRARY}._dataclasses import replace
from {LIBRARY}._flows import checkpoint as taking
from {LIBRARY}._flows.rollback.flow import Request, rollback
from {LIBRARY}._store.store import Store
from {LIBRARY}._host.system import System
store = Store(sys.argv[3], replace(System(), has_systemd=lambda: False))
if sys.argv[2] == "checkpoint":
    request = taking.Request("bench", [{{"postgresql": {{"data": sys.argv[4]}}}}])
    made = taking.checkpoint(store, request)
    (section,) = store.manifest(made.id).sections
    record = json.loads(next(line[8:] for line in section.lines if line.startswith("cluster ")))
    print(json.dumps({{"seconds": made.stats["seconds"], "record": record}}))
else:
    rollback(store, Request("bench"))
"""


class Cluster:
    """A cluster below ``home`` as the role sets one up, with pgbench's tables in it."""

    def __init__(self, home: Path, scale: int) -> None:
        self.home, self.data, self.archive = home, home / "data", home / "data.evenkeel"
        self.run("initdb", "-D", self.data, "-A", "peer", "--no-sync")
        self.run("mkdir", "-p", self.archive / "wal", self.archive / "base")
        shutil.copy(ROOT / "roles/postgresql/files/archive_wal.py", home)
        with open(self.data / "postgresql.conf", "a") as stream:
            stream.write(
                f"listen_addresses = ''\nunix_socket_directories = '{home}'\narchive_mode = on\nmax_wal_size = 8GB\n"
                f"archive_command = '/usr/bin/python3 -IS {home}/archive_wal.py %p %f {self.archive}/wal'\n"
            )
        self.run("pg_ctl", "-D", self.data, "-l", home / "log", "-w", "start")
        self.run("pgbench", "-h", home, "-iq", "-s", str(scale), "postgres")

    def run(self, *argv: str | Path) -> None:
        environment = {**os.environ, "PATH": f"{BINARIES[-1].parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [*AS_POSTGRES, *argv],
            cwd="/",
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{done.stderr[-3000:]}")

    @contextmanager
    def load(self) -> Iterator[None]:
        """pgbench with four clients, for as long as it takes."""
        argv = [str(BINARIES[-1]), "-h", str(self.home), "-n", "-c", "4", "-j", "2", "-T", "3600", "postgres"]
        with subprocess.Popen([*AS_POSTGRES, *argv], cwd="/", stdout=subprocess.DEVNULL, stderr=-3) as process:
            time.sleep(1.0)
            try:
                yield
            finally:
                process.terminate()

    def ours(self, verb: str) -> tuple[float, str]:
        """Seconds of the whole process, and what it says."""
        os.sync()
        store = str(self.home.parent / "store")
        argv = [sys.executable, "-c", PROGRAM, str(collections_path()), verb, store, str(self.data)]
        began = time.monotonic()
        said = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
        return time.monotonic() - began, said

    def by_hand(self, record: dict[str, Any]) -> float:
        """Seconds to copy the base of the checkpoint beside the cluster and to replay the log to its restore point."""
        copy = self.home / "copy"
        settings = (
            f"restore_command = 'cp {self.archive}/wal/%f %p'\nrecovery_target_name = '{record['point']}'\n"
            f"recovery_target_timeline = '{record['timeline']}'\nrecovery_target_action = promote\n"
            f"archive_command = ''\nport = 5433\n"
        )
        os.sync()
        began = time.monotonic()
        self.run("cp", "-a", self.archive / "base" / record["base"], copy)
        (copy / "recovery.signal").touch()
        os.chown(copy / "recovery.signal", *postgres())
        with open(copy / "postgresql.conf", "a") as stream:
            stream.write(settings)
        self.run("pg_ctl", "-D", copy, "-l", self.home / "log", "-w", "start")
        ready = ["-h", self.home, "-p", "5433", "-d", "postgres", "-XAtqc", "select 1 / (not pg_is_in_recovery())::int"]
        while subprocess.run([*AS_POSTGRES, "psql", *map(str, ready)], cwd="/", stdout=-3, stderr=-3).returncode != 0:
            time.sleep(0.02)
        os.sync()
        seconds = time.monotonic() - began
        self.run("pg_ctl", "-D", copy, "-m", "immediate", "-w", "stop")
        shutil.rmtree(copy)
        return seconds


def postgres() -> tuple[int, int]:
    owner = pwd.getpwnam("postgres")
    return owner.pw_uid, owner.pw_gid


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):8.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})"


def measure(cluster: Cluster, runs: int, load: float) -> None:
    cluster.ours("checkpoint")  # with the base backup
    checkpoints, inside, ours, theirs = [], [], [], []
    record: dict[str, Any] = {}
    for _ in range(runs):
        with cluster.load():
            time.sleep(load)
            seconds, said = cluster.ours("checkpoint")
        checkpoints.append(seconds)
        made = json.loads(said)
        inside.append(made["seconds"])
        record = made["record"]
    for run in range(runs):
        with cluster.load():
            time.sleep(load)
        for which in (0, 1) if run % 2 else (1, 0):
            if which:
                theirs.append(cluster.by_hand(record))
            else:
                ours.append(cluster.ours("rollback")[0])
        for old in cluster.home.glob("data.evenkeel-old-*"):
            shutil.rmtree(old)
    base = sum(one.stat().st_size for one in (cluster.archive / "base").rglob("*") if one.is_file()) >> 20
    log = len(list((cluster.archive / "wal").glob("0" * 7 + "1" + "?" * 16))) * 16
    print(f"\nPostgreSQL under pgbench, a base of {base} MiB and about {log} MiB of log (median of {runs})")
    print(f"  checkpoint     {shown(checkpoints)}  wanted 0.50")
    print(f"  of this        {shown(inside)}  without the start of Python")
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"  rollback       {shown(ours)}  {ratio:5.2f} times copy and replay, wanted 1.5")
    print(f"  copy, replay   {shown(theirs)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=int, default=20, help="of pgbench: 15 MiB each")
    parser.add_argument("--load", type=float, default=3.0, help="seconds of load before each measurement")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", help="where to work (default: TMPDIR); its file system is what is measured")
    args = parser.parse_args()
    if os.geteuid() != 0 or not BINARIES:
        print("Left out: PostgreSQL (it needs root and Debian's packages postgresql and postgresql-contrib)")
        return 0
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        os.chmod(folder, 0o755)  # Root's, where the store lies.
        home = Path(folder) / "home"
        home.mkdir()
        os.chmod(home, 0o755)
        os.chown(home, *postgres())
        cluster = Cluster(home, args.scale)
        try:
            measure(cluster, args.runs, args.load)
        finally:
            cluster.run("pg_ctl", "-D", cluster.data, "-m", "immediate", "stop")
    return 0


if __name__ == "__main__":
    sys.exit(main())
