# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leftovers of programs that are gone, and files that only look like them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import traces

GONE = int(Path("/proc/sys/kernel/pid_max").read_text())


@pytest.mark.parametrize(
    ("name", "text", "age", "is_trace"),
    [
        ("app.pid", f"{GONE}\n", 0.0, True),
        ("app.pid", f"{GONE}\n", 1e9, True),
        ("app.lock", f" {GONE}\n", 0.0, True),
        ("app.lock", f"{GONE}\n", 1e9, False),
        ("app.lck", f"{GONE}\n", 1e9, False),
        ("lock", f"{GONE}\n", 1e9, False),
        ("app.pid", f"{GONE + 1}\n", 0.0, False),
        ("schema.lock", "20261129\n", 0.0, False),
        ("app.pid", "own", 0.0, False),
    ],
)
def test_a_number_that_no_process_can_have_is_no_trace(
    tmp_path: Path, name: str, text: str, age: float, is_trace: bool
) -> None:
    path = tmp_path / name
    path.write_text(f"{os.getpid()}\n" if text == "own" else text)
    os.utime(path, (time.time() - age, time.time() - age))
    assert traces.clear(os.fsencode(path), False) == is_trace == (not path.exists())
