# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The place of a store: one store has one under all its names, and who cannot read the store cannot give it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import whereabouts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    with Store(str(made), System()).locked():
        return made


def place(root: Path, nonce: str = "run", *, may_write: bool = False) -> str:
    return Store(str(root), System()).place(nonce, may_write)


def test_one_store_has_one_place_under_all_its_names_and_another_one_in_each_run(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "name").symlink_to(root)
    assert whereabouts.of(str(tmp_path / "other" / "name"), read(root), boot(), "run") == place(root)
    assert place(root) == place(root, may_write=True) != place(root, "another run")


def read(root: Path) -> bytes:
    return whereabouts.read_secret(str(root))


def boot() -> str:
    return System().boot_id()


def test_nobody_gives_the_place_who_knows_all_but_the_secret(root: Path, tmp_path: Path) -> None:
    guesses = [whereabouts.of(str(root), key, boot(), "run") for key in (b"", bytes(32), b"run")]
    assert place(root) not in guesses
    secret = root / "secret"
    assert secret.stat().st_mode & 0o7777 == 0o400 and len(read(root)) == 32
    others = tmp_path / "others"
    with Store(str(others), System()).locked():
        pass
    assert read(others) != read(root)


def test_a_copy_of_a_disk_is_another_place(root: Path, tmp_path: Path) -> None:
    """As a whole file system it has the same inodes, and as a directory the same boot."""
    assert whereabouts.of(str(root), read(root), "the boot of another host", "run") != place(root)
    shutil.copytree(root, tmp_path / "copy")
    assert read(tmp_path / "copy") == read(root) and place(tmp_path / "copy") != place(root)


@pytest.mark.parametrize(
    ("kind", "is_one"),
    [("nfs4", True), ("cifs", True), ("fuse.glusterfs", True), ("ext4", False), ("fuse.fuse-overlayfs", False)],
)
def test_a_store_that_hosts_share_is_one_place(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_one: bool
) -> None:
    """Each of them has another boot, and another number of the device."""
    device = os.stat(root).st_dev
    number = b"%d:%d" % (os.major(device), os.minor(device))
    monkeypatch.setattr(whereabouts, "mounts", lambda: [mounts.Mount(b"/mnt", b"/", number, kind, 1, 0)])
    there = whereabouts.of(str(root), read(root), "the boot of another host", "run")
    assert (there == place(root)) is is_one
    assert there != whereabouts.of(str(root), b"x" * 32, "the boot of another host", "run")


def test_a_run_that_may_not_write_leaves_a_store_without_a_secret(root: Path, tmp_path: Path) -> None:
    (root / "secret").unlink()
    assert place(root) == place(root) and not (root / "secret").exists()
    assert place(tmp_path / "none") == place(tmp_path / "none", may_write=True)
    assert not (tmp_path / "none").exists(), "nobody makes a store by a question"
    with Store(str(root), System()).locked():  # An older version made it.
        made = read(root)
    assert len(made) == 32
    (root / "secret").write_bytes(made[:5])
    assert place(root, may_write=True) and len(read(root)) == 32 and not read(root).startswith(made[:5])


def test_copies_of_another_host_have_no_secret(root: Path) -> None:
    with replicas.replica(Store(str(root), System()), "h2").locked():
        pass
    assert [path.parent for path in root.rglob("secret")] == [root]


def test_a_store_without_a_secret_has_no_place_and_says_why(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "secret").unlink()

    def full(path: str, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with monkeypatch.context() as patched:
        patched.setattr(whereabouts, "write_file", full)
        with pytest.raises(EvenkeelError, match=f"No space left on device: {root}/secret.*free space"):
            place(root, may_write=True)
        with Store(str(root), System()).locked():  # Nobody is kept from going back.
            pass
    (root / "secret").mkdir()
    with pytest.raises(EvenkeelError, match="can be neither read nor made"):
        place(root)
