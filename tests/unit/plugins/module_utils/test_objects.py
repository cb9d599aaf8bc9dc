# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.hashing import CHUNK
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import (
    SMALL,
    Hasher,
    Objects,
    Reader,
    Writer,
)

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, MIB + 1, 16 * MIB - 1, 16 * MIB, 24 * MIB + 7])
def test_a_content_is_named_by_its_sha256_however_it_is_read(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    with open(tmp_path / "file", "rb") as stream:
        assert Hasher().add_file(stream.fileno()) == (hashlib.sha256(data).hexdigest(), size)


@pytest.mark.parametrize("size", [SMALL + 1, 20 * CHUNK])
@pytest.mark.parametrize("writes", [False, True])
def test_what_is_added_to_a_file_as_it_is_read_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, writes: bool
) -> None:
    # Whoever owns it can do so for ever, with holes and for nothing.
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    objects = Objects(str(tmp_path / "store"))
    fd, times = os.open(tmp_path / "file", os.O_RDWR), 0

    def growing(call: Callable[..., Any]) -> Callable[..., Any]:
        def read(*words: Any) -> Any:
            nonlocal times
            times += 1
            if times < 200:
                os.ftruncate(fd, os.fstat(fd).st_size + 10 * CHUNK)
            return call(*words)

        return read

    monkeypatch.setattr(os, "readv", growing(os.readv))
    monkeypatch.setattr(os, "read", growing(os.read))
    writer: Writer | Hasher = Writer(objects) if writes else Hasher(objects)
    sha, read = writer.add_file(fd)
    monkeypatch.undo()
    assert (sha, read) == (hashlib.sha256(data).hexdigest(), size) and times < 200
    if isinstance(writer, Writer):
        writer.publish()
        assert objects.verify(sha) is None and objects.size(sha) == size


def test_a_content_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    writer = Writer(Objects(str(tmp_path)))
    with pytest.raises(Damaged, match="too early"):
        writer.add_stream(io.BytesIO(b"x" * 100_000), 200_000)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_neighbours_are_read_from_one_open_pack_and_a_damaged_content_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(str(tmp_path))
    writer = Writer(objects)
    names = [writer.add(b"content %d" % number) for number in range(20)]
    writer.publish()
    opened: list[object] = []
    whole = open

    def open_it(path: Any, *words: Any, **more: Any) -> Any:
        opened.append(path)
        return whole(path, *words, **more)

    monkeypatch.setattr("builtins.open", open_it)
    with closing(Reader(objects)) as reader:
        assert [b"".join(reader.read(sha)) for sha in names] == [b"content %d" % number for number in range(20)]
        assert len(opened) == 2  # The index of the pack, and its contents.
        (pack,) = tmp_path.glob("packs/*.pack")
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes().replace(b"content 7", b"content X"))
        with pytest.raises(Damaged, match=f"object {names[7]} is damaged"):
            b"".join(reader.read(names[7]))
        assert b"".join(reader.read(names[8])) == b"content 8"
