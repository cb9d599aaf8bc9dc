# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is declared and not in the newest checkpoint is named, and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import spot_check as checking
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.registry import outline
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint


def files(*paths: Path, exclude: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [{"files": {"paths": list(map(str, paths)), "exclude": list(exclude)}}]


def spot_check(store: Store, resources: Any) -> list[str]:
    return checking.spot_check(store, outline(resources))


def one(store: Store, resources: Any) -> str:
    """The only sentence."""
    (found,) = spot_check(store, resources)
    return found


def test_a_checkpoint_that_has_everything_says_nothing(store: Store, tree: Path, tmp_path: Path) -> None:
    assert one(store, files(tree)).startswith("no checkpoint has been taken")
    for kind in ("snapshot", "log", "log"):
        (tree / kind).write_text("more")
        checkpoint(store, "p", files(tree, exclude=("*.log",)), kind=kind)
        assert spot_check(store, files(tree, exclude=("*.log",))) == []
    # Declared, and on this host there is no such thing: there is nothing to be missed.
    assert spot_check(store, files(tree, tmp_path / "nowhere")) == []
    assert spot_check(store, []) == []


def test_a_path_that_exists_and_was_not_recorded_is_named(store: Store, tree: Path, tmp_path: Path) -> None:
    late = tmp_path / "late with blank"
    checkpoint(store, "p", files(tree, late))
    late.write_text("it came afterwards")
    assert one(store, files(tree, late)).startswith(
        f"{late}: it exists, and nothing of it was recorded (the checkpoint p"
    )
    other = tmp_path / "live2"  # begins like the path that was recorded
    other.mkdir()
    assert one(store, files(tree, other)).startswith(f"{other}: it exists")


def test_a_kind_that_is_missing_is_named(store: Store, tree: Path) -> None:
    checkpoint(store, "p", files(tree))
    found = one(store, [*files(tree), {"sysctl": {"names": ["vm.swappiness"]}}, {"services": {"names": ["nginx"]}}])
    assert found.startswith("sysctl, services: declared, and not in the checkpoint p of 20")


@pytest.mark.parametrize("pattern", ["*", "*.html", "/*/tree/*"])
def test_an_exclude_that_leaves_out_everything_is_named(store: Store, tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "tree"
    (root / "html").mkdir(parents=True)
    (root / "html" / "index.html").write_text("page")
    declared = files(root, exclude=(pattern if pattern[0] != "/" else f"{root}/*",))
    checkpoint(store, "p", declared)
    assert "leaves out all of it" in one(store, declared)
    (root / "html" / "kept.txt").write_text("kept")
    checkpoint(store, "p", files(root, exclude=("*.html",)))
    assert spot_check(store, files(root, exclude=("*.html",))) == []


def test_a_tree_that_was_empty_and_no_longer_is_is_named(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "empty").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(root / "socket"))  # no checkpoint records it
        checkpoint(store, "p", files(root))
        assert spot_check(store, files(root)) == []
        (root / "empty" / "mounted").write_text("back")
        assert "no file in it was recorded, and there are some now" in one(store, files(root))


@pytest.mark.parametrize("kinds", [("snapshot", "snapshot"), ("log", "log"), ("log", "snapshot")])
def test_a_tree_that_was_emptied_is_named(store: Store, tmp_path: Path, kinds: tuple[str, str]) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(40):
        (root / f"{number} %").write_text("data")
    checkpoint(store, "p", files(root), kind=kinds[0])
    for number in range(35):
        (root / f"{number} %").unlink()
    checkpoint(store, "p", files(root), kind=kinds[1])
    assert spot_check(store, files(root)) == []  # 6 of 41 are left
    shutil.rmtree(root)
    root.mkdir()
    for number in range(40):
        (root / f"new {number}").write_text("data")
    checkpoint(store, "p", files(root), kind=kinds[1])
    assert spot_check(store, files(root)) == []
    for number in range(38):
        (root / f"new {number}").unlink()
    checkpoint(store, "p", files(root), kind=kinds[1])
    assert "3 of 41 entries are left since the checkpoint before it" in one(store, files(root))


def test_a_link_to_a_place_that_is_not_declared_is_named(store: Store, tree: Path, tmp_path: Path) -> None:
    link = tmp_path / "www"
    link.symlink_to(tree)
    checkpoint(store, "p", files(link))
    assert f"{link}: it is a symlink to {tree}, which is not declared" in one(store, files(link))
    checkpoint(store, "p", files(link, tree))
    assert spot_check(store, files(link, tree)) == []


def test_system_stands_for_what_it_stood_for_in_the_checkpoint(store: Store, tree: Path, monkeypatch: Any) -> None:
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.registry import KINDS

    for name, kind in KINDS.items():
        if kind.on_plain_host is not None:
            own = files(tree)[0]["files"] if name == "files" else None
            monkeypatch.setattr(kind, "for_plain_host", lambda beside, taken, own=own: (own, []))
    checkpoint(store, "p", [{"system": {}}])
    assert spot_check(store, [{"system": {}}]) == []
    checkpoint(store, "p", files(tree))
    assert one(store, [{"system": {}}]).startswith("system: declared, and not in the checkpoint")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("text", "text declares nothing"),
        ([{"filez": {}}], "unknown kind filez"),
        ([{"files": {"paths": ["relative"]}}], "not an absolute path"),
        ([{"files": {}, "users": {}}], "declares nothing"),
        ([{"files": {"paths": ["/etc"], "exlude": []}}], "exlude"),
    ],
)
def test_a_declaration_that_is_wrong_is_refused(wrong: object, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        outline(wrong)


def test_a_checkpoint_that_cannot_be_read_is_a_sentence_and_no_failure(store: Store, tree: Path) -> None:
    newest = str(checkpoint(store, "p", files(tree))["id"])
    path = store.join("manifests", newest)
    os.chmod(path, 0o600)
    with open(path, "ab") as stream:
        stream.write(b"x\n")
    assert "is damaged" in one(store, files(tree))


def test_the_sentences_are_few_and_short(store: Store, tree: Path, tmp_path: Path) -> None:
    checkpoint(store, "p", files(tree))
    paths = [tmp_path / ("x" * 200) / ("y" * 200) / f"late{number}" for number in range(30)]
    for path in paths:
        path.mkdir(parents=True)
    found = spot_check(store, files(tree, *paths))
    assert len(found) == 21 and found[-1] == "10 more differences like these"
    assert max(map(len, found)) < 500
