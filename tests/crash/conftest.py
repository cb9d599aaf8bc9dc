# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a test stages gets a name of its own: a rollback stages as high up as it can, often at ``/``. And what its
programs import is compiled once: there are thousands of them, and with compiling it each takes twice as long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import declaration, transaction

from evenkeel.collection import collections_path

LIBRARY = transaction.__name__[: -len("._files.transaction")]


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The programs themselves write nothing of this (``-B``): it would be counted among their system calls."""
    parts = ", ".join(f"{LIBRARY}.{name}" for name in ("_deadman.agent", "_flows.checkpoint", "_flows.scrub"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("compiled")))
        program = f"import sys; sys.path.insert(0, {str(collections_path())!r}); import {parts}"
        writing = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        subprocess.run([sys.executable, "-c", program], check=True, env=writing)
        yield


def leftovers(below: Path) -> list[Path]:
    """Staging directories: all that are ``below``, and above it those of the test that is running."""
    above = [one for folder in below.parents for one in folder.glob(os.environ["EVENKEEL_STAGE"] + "*")]
    return above + list(below.rglob(".evenkeel-*"))


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that the test has staged stays on this machine, and what stayed fails it."""
    own = f"{declaration.STAGE}{zlib.crc32(os.fsencode(tmp_path)):08x}-"
    monkeypatch.setattr(declaration, "STAGE", own)
    monkeypatch.setenv("EVENKEEL_STAGE", own)  # For the programs that the test starts.
    yield
    found = leftovers(tmp_path)
    for path in found:
        shutil.rmtree(path)
    assert not found
