# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which mounts count: those that a path leads to, whatever it is called."""

from __future__ import annotations

import builtins
import io
import random
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import mounts as mounts_module
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.mounts import (
    Mount,
    file_system_of,
    mount_points,
    mounts,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import cluster


@pytest.mark.parametrize(
    ("table", "seen"),
    [
        # (number, parent, point, kind)
        ([(2, 1, "/", "ext4"), (3, 2, "/a", "xfs")], {"/": "ext4", "/a": "xfs"}),
        # One over it.
        ([(2, 1, "/", "ext4"), (3, 2, "/a", "proc"), (4, 3, "/a", "xfs")], {"/": "ext4", "/a": "xfs"}),
        # One above it, with what is below that and below what is hidden.
        (
            [
                (2, 1, "/", "ext4"),
                (3, 2, "/a/b", "proc"),
                (4, 3, "/a/b/c", "sysfs"),
                (5, 2, "/a", "tmpfs"),
                (6, 5, "/a/d", "xfs"),
                (7, 2, "/a-b", "xfs"),
            ],
            {"/": "ext4", "/a": "tmpfs", "/a/d": "xfs", "/a-b": "xfs"},
        ),
        # One over another, which had one below it.
        (
            [(2, 1, "/", "ext4"), (3, 2, "/a", "xfs"), (4, 3, "/a/b", "proc"), (5, 3, "/a", "tmpfs")],
            {"/": "ext4", "/a": "tmpfs"},
        ),
        # The root that a host begins with is its own parent.
        ([(1, 1, "/", "rootfs"), (2, 1, "/proc", "proc")], {"/": "rootfs", "/proc": "proc"}),
        (
            [(1, 1, "/", "rootfs"), (2, 1, "/", "ext4"), (3, 2, "/a", "xfs")],
            {"/": "ext4", "/a": "xfs"},
        ),
    ],
)
def test_a_mount_that_another_hides_does_not_count(
    table: list[tuple[int, int, str, str]], seen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Mount(point.encode(), b"/", b"0:1", kind, number, parent) for number, parent, point, kind in table]
    monkeypatch.setattr(mounts_module, "mounts", lambda: found)
    for seed in range(10):  # It is not that of mounting once one was moved.
        assert mount_points() == {point.encode(): kind for point, kind in seen.items()}
        random.Random(seed).shuffle(found)


def mount_table(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the kernel say this in place of what is mounted."""
    real = builtins.open

    def opened(path: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
        if path != "/proc/self/mountinfo":
            return real(path, mode, *more, **options)
        return io.BytesIO(text.encode()) if "b" in mode else io.StringIO(text)

    monkeypatch.setattr(builtins, "open", opened)


def test_names_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [r"/a\040b", r"/tab\011", r"/line\012", r"/back\134x", "/vertical\v", "/ö"]
    lines = [f"{at} 1 0:{at} / {point} rw shared:1 - xfs /dev/x rw\n" for at, point in enumerate(points, 2)]
    mount_table(monkeypatch, "1 0 0:1 / / rw - ext4 /dev/y rw\n" + "".join(lines))
    named = ["/a b", "/tab\t", "/line\n", "/back\\x", "/vertical\v", "/ö"]
    assert [one.point for one in mounts()] == [b"/", *(name.encode() for name in named)]
    assert file_system_of("/a b/c/d") == file_system_of("/a b") == "xfs" and file_system_of("/a bc") == "ext4"


def test_a_mount_with_a_blank_in_its_name_is_seen_in_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "my data"
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n")
    server = cluster.Server({"data": str(data), "archive": str(data) + ".evenkeel", "cluster": ""}, System())
    point = str(data).replace(" ", r"\040")
    mount_table(monkeypatch, f"1 0 0:1 / / rw - ext4 /dev/y rw\n2 1 0:2 / {point}/pg_wal rw - xfs /dev/x rw\n")
    with pytest.raises(Refused, match="my data/pg_wal is a mount point"):
        cluster.refuse(server)


def test_the_mount_table_is_read_in_one_place() -> None:
    library = Path(mounts_module.__file__).parents[1]
    readers = {path.name for path in library.rglob("*.py") if "mountinfo" in path.read_text()}
    assert readers == {"mounts.py"}
