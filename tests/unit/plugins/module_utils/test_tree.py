# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which mounts count: those that a path leads to."""

from __future__ import annotations

import random

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import tree
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.tree import Mount, mount_points


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
    monkeypatch.setattr(tree, "mounts", lambda: found)
    for seed in range(10):  # It is not that of mounting once one was moved.
        assert mount_points() == {point.encode(): kind for point, kind in seen.items()}
        random.Random(seed).shuffle(found)
