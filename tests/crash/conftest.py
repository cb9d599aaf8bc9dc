# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a test stages gets a name of its own: a rollback stages as high up as it can, often at ``/``."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import transaction


def leftovers(below: Path) -> list[Path]:
    """Staging directories: all that are ``below``, and above it those of the test that is running."""
    above = [one for folder in below.parents for one in folder.glob(os.environ["EVENKEEL_STAGE"] + "*")]
    return above + list(below.rglob(".evenkeel-*"))


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that the test has staged stays on this machine, and what stayed fails it."""
    own = f"{transaction.STAGE}{zlib.crc32(os.fsencode(tmp_path)):08x}-"
    monkeypatch.setattr(transaction, "STAGE", own)
    monkeypatch.setenv("EVENKEEL_STAGE", own)  # For the programs that the test starts.
    yield
    found = leftovers(tmp_path)
    for path in found:
        shutil.rmtree(path)
    assert not found
