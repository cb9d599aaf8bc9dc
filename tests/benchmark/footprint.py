#!/usr/bin/env python3
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The footprint of a change over 100,000 files, against ``find -newerct`` over the same tree, in turn.

Quote the ratio, and the seconds of the processor: other work on the machine slows both alike.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from evenkeel.collection import make_importable

LIBRARY = "ansible_collections.evenkeel.fault_tolerance.plugins.module_utils"
# Seconds that each walk may take over 100,000 files.
LIMIT = 1.0


def build(tree: Path, files: int) -> None:
    """Directories of 20 files, as below /usr."""
    for number in range(files):
        folder = tree / f"part-{number // 2000:03}" / f"{number // 20 % 100:02}"
        if number % 20 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{number:07}").touch()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, seconds of the processor) of the work, its children among them."""
    began, used = time.monotonic(), os.times()
    work()
    now = os.times()
    return time.monotonic() - began, sum(now[:4]) - sum(used[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    make_importable()
    footprint = import_module(f"{LIBRARY}._files.footprint")
    with tempfile.TemporaryDirectory() as home:
        tree, path = Path(home) / "tree", f"{home}/before"
        build(tree, args.files)

        def walk() -> object:
            return footprint.Walk([os.fsencode(tree)], lambda _path: False)

        def record() -> None:
            footprint.record(path, {}, walk())

        def compare() -> None:
            with gzip.open(path) as stream:
                found = list(footprint.differences(footprint.Recorded(stream), walk(), lambda _path: False))
            assert found == [(os.fsencode(changed), "content")], found

        def find() -> None:
            argv = ["find", str(tree), "-xdev", "-newerct", f"@{since}"]
            said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
            assert str(changed) in said.splitlines()

        record()
        since = time.time()
        time.sleep(0.1)
        changed = tree / "part-000/00/file-0000003"
        changed.write_text("changed")
        figures: dict[str, list[tuple[float, float]]] = {}
        for _run in range(args.runs):
            for name, work in (("find -newerct", find), ("compare", compare)):
                figures.setdefault(name, []).append(timed(work))
        changed.write_text("")
        figures["record"] = [timed(record) for _run in range(args.runs)]
        size = os.path.getsize(path)
    middle = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in figures.items()}
    for name, (seconds, processor) in middle.items():
        ratio = seconds / middle["find -newerct"][0]
        print(f"{name:14} {seconds:6.2f} s, processor {processor:5.2f} s, {ratio:4.1f} of find")
    print(f"the record of {args.files} files takes {size / 1024:.0f} KiB")
    over = [name for name in ("record", "compare") if middle[name][1] > LIMIT * args.files / 100_000]
    if over:
        sys.exit(f"more than {LIMIT:g} s of the processor for 100,000 files: {', '.join(over)}")


if __name__ == "__main__":
    main()
