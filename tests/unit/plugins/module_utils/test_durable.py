# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""System calls that Python does not offer, where the C library does not offer them either."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import durable


class Musl:
    """A C library that lacks the function renameat2, as musl and old versions of glibc do."""

    syscall = ctypes.CDLL(None, use_errno=True).syscall


MACHINE = os.uname().machine


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.skipif(MACHINE not in ("x86_64", "aarch64"), reason="we do not know the number of renameat2 there")
def test_names_are_exchanged_where_the_c_library_lacks_the_function(folder: int, tmp_path: Path) -> None:
    call = durable.renameat2_of(Musl(), MACHINE)
    durable.exchange(folder, b"one", folder, b"two", call)
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["2", "1"]
    with pytest.raises(FileExistsError):
        durable.rename_new(folder, b"one", folder, b"two", call)
    durable.rename_new(folder, b"one", folder, b"three", call)
    assert (tmp_path / "three").read_text() == "2"


@pytest.mark.parametrize("rename", [durable.exchange, durable.rename_new])
def test_on_a_machine_that_we_do_not_know_the_call_is_missing_as_in_an_old_kernel(
    folder: int, rename: Callable[..., None]
) -> None:
    with pytest.raises(OSError, match="the C library lacks it") as failed:
        rename(folder, b"one", folder, b"two", durable.renameat2_of(Musl(), "another"))
    assert failed.value.errno == errno.ENOSYS


def test_a_full_disk_is_told_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        durable.append_line("/dev/full", b"a line")

    def full(_fd: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write_all", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/name'"):
        durable.write_file(f"{tmp_path}/name", b"content")
    assert os.listdir(tmp_path) == []
