# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Large files are written out while they come in, and arrive as they were."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import durable
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import objects as store_objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects, Writer


class Libc:
    """Notes which part of a file the kernel is to begin with, and whether all of it was in the file by then."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []

    def sync_file_range(self, fd: int, start: Any, count: Any, flag: int) -> int:
        assert flag == 2 and os.fstat(fd).st_size >= start.value + count.value
        self.begun.append((start.value, count.value))
        return 0


def test_the_kernel_begins_with_each_part_of_a_content_once_it_is_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = Libc()
    monkeypatch.setattr(store_objects, "early", partial(durable.early, libc=libc, size=1 << 20))
    data = os.urandom(3_000_000)
    path = tmp_path / "came"
    path.write_bytes(data)
    objects = Objects(str(tmp_path / "store"))
    writer = Writer(objects)
    with path.open("rb") as stream:
        sha = writer.add_stream(stream, len(data))
    assert libc.begun == [(0, 1 << 20), (1 << 20, 1 << 20)]
    writer.publish()
    assert b"".join(objects.read(sha)) == data


def test_a_c_library_without_the_call_hinders_nothing(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as stream:
        assert list(durable.early(stream.fileno(), [b"ab", b"c"], object(), 1)) == [b"ab", b"c"]
