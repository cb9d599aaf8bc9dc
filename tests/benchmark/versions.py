#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two versions of Evenkeel side by side: checkpoints and rollbacks of files, by two checkouts, in turn.

Each version has a tree of its own with the same files, and the program of its own ``checkpoint.py``. They take turns at
going first. A ratio is the median of the ratios of the runs, of the second version to the first.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds, seconds of a processor, and MiB of memory at most."""

    seconds: float
    processor: float
    mebibytes: float


class Version:
    """A checkout; its tree and its store are below ``home``."""

    def __init__(self, checkout: Path, home: Path) -> None:
        self.collections, self.tree, self.store = checkout / ".build", home / "tree", home / "store"
        spec = importlib.util.spec_from_file_location("of_a_version", checkout / "tests/benchmark/checkpoint.py")
        if spec is None or spec.loader is None or not self.collections.is_dir():
            raise SystemExit(f"{checkout} is no checkout in which `make unit` has run")
        self.bench = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.bench)

    def run(self, flow: str) -> Cost:
        """The cost of a checkpoint or a rollback, as a process of its own."""
        os.sync()
        argv = [sys.executable, "-c", self.bench.PROGRAM, str(self.collections), flow, str(self.store), str(self.tree)]
        began = time.monotonic()
        process = os.posix_spawn(sys.executable, argv, self.bench.ENVIRONMENT)
        _pid, status, usage = os.wait4(process, 0)
        if status:
            raise SystemExit(f"{flow} of {self.collections} ended with {os.waitstatus_to_exitcode(status)}")
        return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)

    def first(self) -> Cost:
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir(mode=0o700)
        return self.run("checkpoint")


def compare(title: str, versions: Sequence[Version], runs: int, work: Callable[[Version, int], Cost]) -> None:
    """Print the medians of the work by both versions, and the ratios."""
    found: list[list[Cost]] = [[], []]
    for run in range(runs):
        for number in (0, 1) if run % 2 == 0 else (1, 0):
            found[number].append(work(versions[number], run))
    print(f"{title} (median of {runs})")
    for at, word in enumerate(("seconds", "seconds of a processor", "MiB")):
        before, now = ([cost[at] for cost in costs] for costs in found)
        ratio = statistics.median(two / one for one, two in zip(before, now, strict=True))
        print(
            f"  {word:23} {statistics.median(before):8.2f} {statistics.median(now):8.2f}  ratio {ratio:.2f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", type=Path, nargs=2, metavar="CHECKOUT", help="the first, and the second version")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        versions = [Version(one, Path(folder) / str(number)) for number, one in enumerate(args.checkouts)]
        bench = versions[1].bench
        for one in versions:
            bench.build(one.tree, args.files)
        time.sleep(bench.SETTLED)

        def back(version: Version, run: int) -> Cost:
            bench.drift(version.tree, args.files, run)
            return version.run("rollback")

        compare(f"first checkpoint of {args.files} files", versions, args.runs, lambda one, _run: one.first())
        compare("no change", versions, args.runs, lambda one, _run: one.run("checkpoint"))
        compare("rollback of 1 % drift", versions, args.runs, back)


if __name__ == "__main__":
    main()
