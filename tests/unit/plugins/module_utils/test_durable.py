# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System calls that Python does not offer, where the C library does not offer them either."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import durable


class Musl:
    """A C library that lacks the function renameat2, as musl and old versions of glibc do."""

    syscall = durable._libc.syscall


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.skipif(durable._NUMBER is None, reason="we do not know the number of renameat2 on this machine")
def test_names_are_exchanged_where_the_c_library_lacks_the_function(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_libc", Musl())
    durable.exchange(folder, b"one", folder, b"two")
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["2", "1"]
    with pytest.raises(FileExistsError):
        durable.rename_new(folder, b"one", folder, b"two")
    durable.rename_new(folder, b"one", folder, b"three")
    assert (tmp_path / "three").read_text() == "2"


def test_on_a_machine_that_we_do_not_know_the_call_is_missing_as_in_an_old_kernel(
    folder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_libc", Musl())
    monkeypatch.setattr(durable, "_NUMBER", None)
    with pytest.raises(OSError, match="the C library lacks it") as failed:
        durable.exchange(folder, b"one", folder, b"two")
    assert failed.value.errno == errno.ENOSYS
