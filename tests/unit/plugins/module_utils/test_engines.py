# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an engine says it can do here is what it does."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._engines import CAPABILITIES
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._info import info
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._rollback import rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

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


def test_large_files_share_their_data_exactly_where_it_is_said(disk: tuple[str, Path]) -> None:
    kind, place = disk
    (place / "tree").mkdir()
    (place / "tree" / "large").write_bytes(os.urandom(LARGE))
    store = Store(str(place / "store"), SYSTEM)
    (objects,) = (one for one in info(store)["engines"] if one["name"] == "objects")
    assert objects["can"]["shares_data"] == (kind != "ext4")
    assert sorted(os.listdir(place)) in (["tree"], ["lost+found", "tree"])
    before = used(place)
    checkpoint(store, "before", [{"files": {"paths": [str(place / "tree")]}}])
    assert (used(place) - before < LARGE // 2) == objects["can"]["shares_data"]
    (place / "tree" / "large").unlink()
    before = used(place)
    rollback(store, "before")
    # What was deleted is in the store still, or it was never there twice.
    assert (used(place) - before < LARGE // 2) == objects["can"]["shares_data"]


def test_every_engine_answers_for_every_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in info(Store(str(tmp_path / "store"), SYSTEM))["engines"]}

    assert all(set(one["can"]) == set(CAPABILITIES) for one in told().values())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not told()["restic"]["available"] and "not installed" in told()["restic"]["why"]
    (tmp_path / "restic").touch(0o755)
    assert told()["restic"]["available"] and told()["restic"]["why"] == ""
