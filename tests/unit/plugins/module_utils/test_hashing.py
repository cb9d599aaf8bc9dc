# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Contents are hashed by one loop, whoever reads them."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import hashing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.hashing import (
    CHUNK,
    chunks,
    hash_file,
    hash_of,
)

# A loop with one of these calls hashes.
HASHES = re.compile(r"digest\.update\(|\.update\((?:chunk|piece)\)")
# These do more than read: they tell a part of what they read, or write what they hash.
ALLOWED = {"hashing.py", "cache.py", "manifest.py", "objects.py"}


@pytest.mark.parametrize("size", [0, 1, CHUNK // 4, CHUNK + 1, 9 * CHUNK + 7])
def test_every_way_gives_the_hash_of_the_whole(size: int, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes((bytes(range(256)) * (size // 256 + 1))[:size])
    wanted = hashlib.sha256(path.read_bytes()).hexdigest(), size
    for large in (CHUNK * 16, CHUNK):  # Without and with a thread that reads on.
        with open(path, "rb") as stream:
            assert hash_file(stream.fileno(), large) == wanted
            os.lseek(stream.fileno(), 0, os.SEEK_SET)
            assert hash_of(chunks(stream.fileno())) == wanted


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = b"as it was" * CHUNK
    path.write_bytes(whole + b"grown")
    with open(path, "rb") as stream:
        assert hash_of(chunks(stream.fileno(), len(whole))) == (hashlib.sha256(whole).hexdigest(), len(whole))
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        assert hash_of(chunks(stream.fileno(), 0))[1] == 0
        assert hash_of(chunks(stream.fileno(), 99 * CHUNK))[1] == 9 * CHUNK + 5


def test_nobody_else_has_a_loop_that_hashes() -> None:
    plugins = Path(hashing.__file__).parents[2]
    found = set()
    for path in plugins.rglob("*.py"):
        for loop in ast.walk(ast.parse(path.read_text())):
            if isinstance(loop, (ast.For, ast.While)) and HASHES.search(ast.unparse(loop)):
                found.add(path.name)
    assert found <= ALLOWED, found - ALLOWED
