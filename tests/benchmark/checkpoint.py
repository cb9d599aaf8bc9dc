#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoint and rollback of trees of files, against restic, borg and rsync: wall time and peak memory.

Each tool works on the same tree, in turn, in every run, so that a machine that gets slower slows all. Everything of
ours is durable when it returns, and its start is counted. The peers neither compress nor (borg) encrypt; rsync is
followed by ``sync`` where it writes. They are those that PATH finds; what is missing is left out. Quote the ratios,
not the seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from evenkeel.collection import collections_path

LIBRARY = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
PROGRAM = f"""
import sys
sys.path.insert(0, sys.argv[1])
from {LIBRARY}._dataclasses import replace
from {LIBRARY}._flows import checkpoint as taking
from {LIBRARY}._flows.rollback.flow import Request, rollback
from {LIBRARY}._store.store import Store
from {LIBRARY}._host.system import System
store = Store(sys.argv[3], replace(System(), has_systemd=lambda: False))
if sys.argv[2] == "checkpoint":
    taking.checkpoint(store, taking.Request("bench", [{{"files": {{"paths": [sys.argv[4]]}}}}]))
else:
    rollback(store, Request("bench"))
"""
# As it is once installed: with its bytecode, which a development environment may do without.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
    "RESTIC_PASSWORD": "bench",
    "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
}
# A file that changed less than this before a pass is read again in the next: seconds to wait once a tree is made.
SETTLED = 50
US, RESTIC, BORG, RSYNC, HASHLIB = "evenkeel", "restic", "borg", "rsync", "hashlib alone"


class Run(NamedTuple):
    seconds: float
    kib: int
    """Peak resident memory of the process and its children."""


def timed(*commands: Sequence[str], cwd: str = "/") -> Run:
    """Run the commands one after the other; what others have left unwritten is not theirs to write."""
    os.sync()
    began, peak = time.monotonic(), 0
    for argv in commands:
        process = subprocess.Popen(
            argv, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        said = process.stderr.read() if process.stderr else ""
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}:\n{said[-3000:]}")
        peak = max(peak, usage.ru_maxrss)
    return Run(time.monotonic() - began, peak)


def build(tree: Path, files: int, seed: int = 1) -> None:
    """A tree as configuration is: 50 files a directory, sizes of 100 bytes to 8 KiB."""
    chance = random.Random(seed)
    for number in range(files):
        folder = tree / f"part-{number // 5000:03}" / f"unit-{number // 50 % 100:02}.d"
        if number % 50 == 0:
            folder.mkdir(parents=True)
        size = min(8192, int(chance.lognormvariate(7, 1)) + 100)
        (folder / f"{number:07}.conf").write_bytes(chance.randbytes(size))


def drift(tree: Path, files: int, run: int) -> None:
    """Change 1 % of the files: of these 80 % other contents, 10 % gone, 10 % new ones."""
    chance = random.Random(run)
    for turn, number in enumerate(chance.sample(range(files), max(1, files // 100))):
        folder = tree / f"part-{number // 5000:03}" / f"unit-{number // 50 % 100:02}.d"
        path = folder / f"{number:07}.conf"
        if turn % 10 == 0:
            path.unlink(missing_ok=True)
        elif turn % 10 == 1:
            (folder / f"new-{run}-{turn}").write_text("new")
        else:
            path.write_text(f"changed in run {run}")


class Tools:
    """What each tool is called with; its repositories are below ``home``."""

    def __init__(self, home: Path, tree: Path) -> None:
        self.home, self.tree = home, tree
        self.present = [one for one in (RESTIC, BORG, RSYNC) if shutil.which(one)]

    def fresh(self, tool: str) -> None:
        """An empty repository."""
        path = self.home / tool
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.home / "cache", ignore_errors=True) if tool == RESTIC else None
        if tool == RESTIC:
            timed([RESTIC, "init", "-q", "-r", str(path), *self.cache])
        elif tool == BORG:
            ENVIRONMENT["BORG_BASE_DIR"] = str(self.home / "borg-base")
            timed([BORG, "init", "-e", "none", str(path)])
        elif tool == US:
            # So that the directory itself is not what is measured.
            path.mkdir(mode=0o700)

    @property
    def cache(self) -> list[str]:
        return ["--cache-dir", str(self.home / "cache")]

    def save(self, tool: str) -> Run:
        path, tree = str(self.home / tool), str(self.tree)
        if tool == RESTIC:
            return timed([RESTIC, "backup", "-q", "--compression", "off", "-r", path, *self.cache, tree])
        if tool == BORG:
            return timed([BORG, "create", "-C", "none", f"{path}::{time.monotonic_ns()}", tree])
        if tool == RSYNC:
            return timed([RSYNC, "-aHAX", f"{tree}/", f"{path}/"])
        return timed([sys.executable, "-c", PROGRAM, str(collections_path()), "checkpoint", path, tree])

    def restore(self, tool: str) -> Run:
        path, tree = str(self.home / tool), str(self.tree)
        if tool == RESTIC:
            return timed([RESTIC, "restore", "latest", "-q", "-r", path, *self.cache, "--target", "/"])
        if tool == RSYNC:
            return timed([RSYNC, "-aHAX", "--delete", f"{path}/", f"{tree}/"], ["sync"])
        return timed([sys.executable, "-c", PROGRAM, str(collections_path()), "rollback", path, tree])


def report(title: str, runs: dict[str, list[Run]], wanted: dict[str, float]) -> None:
    """Medians of all tools; of each peer the ratio of its time to ours, and what it shall be at least."""
    ours = runs[US]
    print(f"\n{title} (median of {len(ours)})")
    for tool, found in runs.items():
        seconds = [one.seconds for one in found]
        line = f"  {tool:14} {statistics.median(seconds):8.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})"
        line += f"  {statistics.median(one.kib for one in found) / 1024:7.0f} MiB"
        if tool != US:
            ratio = statistics.median(one.seconds / other.seconds for one, other in zip(found, ours, strict=True))
            line += f"  {ratio:5.2f} times ours" + (f", wanted {wanted[tool]:g}" if tool in wanted else "")
        print(line, flush=True)


def interleaved(runs: int, tools: Sequence[str], one: Callable[[str, int], Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {tool: [] for tool in tools}
    for run in range(runs):
        for tool in tools:
            found[tool].append(one(tool, run))
    return found


def first(home: Path, files: int, runs: int) -> None:
    tools = Tools(home, home / "tree")
    build(tools.tree, files)

    def one(tool: str, _run: int) -> Run:
        tools.fresh(tool)
        # borg puts what it has read out of the page cache, and the next one would read from the disk.
        for path in tools.tree.rglob("*.conf"):
            path.read_bytes()
        return tools.save(tool)

    used = [US, *(tool for tool in tools.present if tool != RSYNC)]
    report(f"first checkpoint of {files} files", interleaved(runs, used, one), {RESTIC: 2.0, BORG: 2.0})


def again(home: Path, files: int, runs: int) -> None:
    """The pass that finds nothing changed; then rollback of 1 % drift."""
    tools = Tools(home, home / "tree")
    build(tools.tree, files)
    time.sleep(SETTLED)
    used = [US, *tools.present]
    for tool in used:
        tools.fresh(tool)
        tools.save(tool)
    found = interleaved(runs, used, lambda tool, _run: tools.save(tool))
    report(f"no-change pass of {files} files", found, {RESTIC: 2.5, BORG: 2.5, RSYNC: 1.0})

    # A tree for each, at rest before it drifts: what the one has put back the next would else have to read again.
    used = [tool for tool in (US, RSYNC, RESTIC) if tool in used]
    own = {tool: Tools(home, home / f"tree-of-{tool}") for tool in used}
    for its in own.values():
        build(its.tree, files)
    time.sleep(SETTLED)
    for tool, its in own.items():
        its.fresh(tool)
        its.save(tool)

    def back(tool: str, run: int) -> Run:
        if tool == US and run:
            time.sleep(SETTLED)
        drift(own[tool].tree, files, run)
        return own[tool].restore(tool)

    report(f"rollback of 1 % drift of {files} files", interleaved(runs, used, back), {RSYNC: 1.0, RESTIC: 3.0})


def large(home: Path, mib: int, runs: int) -> None:
    """One large file against its hash alone, on the file system of ``home``."""
    tools = Tools(home, home / "tree")
    tools.tree.mkdir()
    with open(tools.tree / "large", "wb") as stream:
        for _number in range(mib):
            stream.write(os.urandom(1 << 20))
    hashing = (
        "import hashlib, sys\nd, f = hashlib.sha256(), open(sys.argv[1], 'rb', buffering=0)\n"
        "while b := f.read(1 << 20): d.update(b)"
    )

    def one(tool: str, _run: int) -> Run:
        if tool == HASHLIB:
            return timed([sys.executable, "-c", hashing, str(tools.tree / "large")])
        tools.fresh(tool)
        return tools.save(tool)

    report(f"first checkpoint of one file of {mib} MiB", interleaved(runs, [US, HASHLIB], one), {HASHLIB: 0.8})


def growth(home: Path, files: int) -> None:
    """Lines of docs/performance/growth.txt: files, tool, then seconds and MiB of the first checkpoint, of the next
    without a change, and (ours) of the rollback of 1 % drift."""
    tools = Tools(home, home / "tree")
    build(tools.tree, files)
    time.sleep(SETTLED)
    for tool in [US, *(tool for tool in tools.present if tool != RSYNC)]:
        tools.fresh(tool)
        found = [tools.save(tool), tools.save(tool)]
        if tool == US:
            drift(tools.tree, files, 0)
            found.append(tools.restore(US))
        print(files, tool, *(f"{one.seconds:.2f} {one.kib / 1024:.0f}" for one in found), flush=True)
        shutil.rmtree(home / tool)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--first", type=int, default=20_000, help="files of the first checkpoint; 0 leaves it out")
    parser.add_argument("--again", type=int, default=100_000, help="files of the other passes; 0 leaves them out")
    parser.add_argument("--large", type=int, default=1024, help="MiB of the large file; 0 leaves it out")
    parser.add_argument("--growth", type=int, nargs="*", default=[], help="sizes of trees to tell the growth over")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", help="where to work (default: TMPDIR); its file system is what is measured")
    args = parser.parse_args()
    for tool, word in ((RESTIC, "version"), (BORG, "--version"), (RSYNC, "--version")):
        found = shutil.which(tool) and subprocess.run([tool, word], capture_output=True, text=True, check=True).stdout
        print((found or f"{tool} is missing and left out").splitlines()[0])
    for size, what in ((args.first, first), (args.again, again), (args.large, large)):
        if size:
            with tempfile.TemporaryDirectory(dir=args.dir) as folder:
                what(Path(folder), size, args.runs)
    for size in args.growth:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            growth(Path(folder), size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
