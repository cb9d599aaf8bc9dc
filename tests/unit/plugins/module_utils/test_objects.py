# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, MIB + 1, 16 * MIB - 1, 16 * MIB, 24 * MIB + 7])
def test_a_content_is_named_by_its_sha256_however_it_is_read(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    with open(tmp_path / "file", "rb") as stream:
        assert Hasher().add_file(stream.fileno()) == (hashlib.sha256(data).hexdigest(), size)
