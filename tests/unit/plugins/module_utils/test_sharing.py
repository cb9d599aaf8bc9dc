# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Large files share their data with the store where the file system can, and nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .conftest import SYSTEM

LARGE = 40 << 20


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(file system, where it is mounted): an image of its own."""
    kind, image, place = request.param, tmp_path / "image", tmp_path / "disk"
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control") or not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"this takes root, loop devices and mkfs.{kind}")
    place.mkdir()
    with open(image, "wb") as stream:
        stream.truncate(400 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield kind, place
    finally:
        subprocess.run(["umount", place], check=True)


def used(place: Path) -> int:
    subprocess.run(["sync", "--file-system", place], check=True)
    there = os.statvfs(place)
    return (there.f_blocks - there.f_bfree) * there.f_frsize


def test_large_files_share_their_data_where_the_file_system_can(disk: tuple[str, Path]) -> None:
    kind, place = disk
    (place / "tree").mkdir()
    (place / "tree" / "large").write_bytes(os.urandom(LARGE))
    store = Store(str(place / "store"), SYSTEM)
    before = used(place)
    checkpoint(store, "before", [{"files": {"paths": [str(place / "tree")]}}])
    assert (used(place) - before < LARGE // 2) == (kind != "ext4")
    (place / "tree" / "large").unlink()
    before = used(place)
    rollback(store, "before")
    # What was deleted is in the store still, or it was never there twice.
    assert (used(place) - before < LARGE // 2) == (kind != "ext4")
