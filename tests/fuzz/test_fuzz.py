# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A short run of each parser of others' bytes: the inputs that were kept, and some by chance (see run.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = [sys.executable, str(HERE / "run.py")]
TARGETS = subprocess.run([*RUN, "--list"], capture_output=True, text=True, check=True).stdout.split()


def test_there_are_parsers() -> None:
    assert {"manifest", "bundle", "pack", "journal", "armed", "result", "status", "text"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_of_others_break_a_parser(target: str) -> None:
    done = subprocess.run([*RUN, target, "--seconds", "1"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
