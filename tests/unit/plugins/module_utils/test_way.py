# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A path that others can exchange is not trusted: every directory and every symlink on the way counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Unhealthy, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.trust import (
    open_regular,
    read_small,
    stranger,
    trusted,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, settle

from .conftest import SYSTEM

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's directory needs root")
USER = 12345


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "one" / "two"
    path.mkdir(parents=True)
    return path / "store"


def owned(path: Path) -> None:
    os.chown(path, USER, USER, follow_symlinks=False)


def linked(path: Path, owner: int, inside: int = 0) -> None:
    """Move the directory away, to belong to ``inside``, and have a symlink of this owner lead to it."""
    os.chown(path, inside, inside)
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    os.chown(path, owner, owner, follow_symlinks=False)


def test_directories_of_ours_alone_are_believed(deep: Path) -> None:
    assert stranger(str(deep), trusted()) == ""
    assert stranger(str(deep / "not" / "there"), trusted()) == ""


@needs_root
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda deep: owned(deep.parent), "directory .*/one/two belongs to uid 12345"),
        (lambda deep: owned(deep.parent.parent), "directory .*/one belongs to uid 12345"),
        (lambda deep: deep.parent.chmod(0o777), "directory .*/one/two has mode 777"),
        (lambda deep: deep.parent.parent.chmod(0o775), "directory .*/one has mode 775"),
        (lambda deep: linked(deep.parent, USER), "symlink .*/one/two belongs to uid 12345"),
        (lambda deep: linked(deep.parent.parent, USER), "symlink .*/one belongs to uid 12345"),
        (lambda deep: linked(deep.parent, 0, USER), "directory .*/one/real belongs to uid 12345"),
    ],
)
def test_a_store_that_others_could_exchange_is_refused(deep: Path, harm: Callable[[Path], None], words: str) -> None:
    Store(str(deep), SYSTEM)
    harm(deep)
    with pytest.raises(UsageError, match=f"is not trusted, because the {words}.*Nothing was done"):
        checkpoint(Store(str(deep), SYSTEM), "before", [{"files": {"paths": ["/etc/hostname"]}}], confirm_within=60.0)
    assert not os.path.lexists(deep)


@needs_root
@pytest.mark.parametrize("harm", [lambda deep: deep.parent.chmod(0o777), lambda deep: owned(deep.parent)])
def test_a_change_that_opens_a_directory_above_the_store_keeps_no_host_from_going_back(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("before")
    store = Store(str(deep), SYSTEM)
    begun = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)
    (tree / "file").write_text("after")
    harm(deep)
    with pytest.raises(UsageError, match="is not trusted"):
        Store(str(deep), SYSTEM)
    with pytest.raises(Unhealthy):
        settle(Store(str(deep), SYSTEM, armed=True), begun["generation"], [], 0.0, 1.0, 0.1, verdict="roll_back")
    assert (tree / "file").read_text() == "before"
    owned(deep)
    with pytest.raises(UsageError, match="is not trusted"):
        Store(str(deep), SYSTEM, armed=True)


@needs_root
def test_a_link_of_roots_and_a_sticky_directory_do_no_harm(deep: Path) -> None:
    linked(deep.parent, 0)
    deep.parent.parent.chmod(0o1777)
    checkpoint(Store(str(deep), SYSTEM), "before", [{"files": {"paths": ["/etc/hostname"]}}])
    assert Store(str(deep), SYSTEM).resolve("before")


@needs_root
@pytest.mark.parametrize("what", ["a user's", "a link", "written"])
def test_a_store_that_others_have_made_is_refused(deep: Path, what: str) -> None:
    deep.mkdir()
    if what == "written":
        deep.chmod(0o777)
        Store(str(deep), SYSTEM)  # There is nothing in it.
        (deep / "armed").touch()
    else:
        linked(deep, 0) if what == "a link" else owned(deep)
    with pytest.raises(UsageError, match="is not trusted, because it (belongs to uid|is no directory|has mode 777)"):
        Store(str(deep), SYSTEM)


@needs_root
def test_where_somebody_was_first_nothing_is_stored(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the making, as in a directory that all may write to."""
    store = Store(str(deep / "more"), SYSTEM)

    def first(path: str) -> None:
        os.makedirs(path)
        owned(Path(path).parent)

    monkeypatch.setattr(f"{Store.__module__}.ensure_dir", first)
    with pytest.raises(UsageError, match="belongs to uid 12345"), store.locked():
        pass
    assert os.listdir(deep / "more") == []


def test_links_without_end_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        stranger(str(tmp_path / "a" / "store"), trusted())


def test_what_is_no_small_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    for name, words in (("fifo", "no regular file"), ("link", "symbolic links"), (".", "no regular file")):
        with pytest.raises(OSError, match=words):
            open_regular(str(tmp_path / name))
    assert read_small(str(tmp_path / "file"), 5) == (b"12345", os.geteuid())
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_small(str(tmp_path / "file"), 4)
