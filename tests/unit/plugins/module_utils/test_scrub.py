# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a scrub finds, names and puts aside; that it is carried on, and that what it put aside is stored again."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import scrub as scrubbing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, receive, rollback, scrub

from .conftest import copy_of, differences


def protect(store: Store, tree: Path, name: str = "before", **more: Any) -> str:
    return str(checkpoint(store, name, [{"files": {"paths": [str(tree)]}}], **more)["id"])


def contents(store: Store) -> dict[str, bytes]:
    """Path below the store -> content, without who held the lock and what a scrub remembers."""
    paths = [path for path in Path(store.root).rglob("*") if path.is_file()]
    found = {str(path.relative_to(store.root)): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if name not in ("lock", "scrub")}


def spoil(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.chmod(0o600)
    path.write_bytes(data.replace(old, new, 1))
    path.chmod(0o400)


def damage(store: Store, **options: Any) -> dict[str, Any]:
    with pytest.raises(Damaged) as caught:
        scrub(store, **options)
    return {**caught.value.result, "msg": caught.value.message}


@pytest.fixture
def pack(store: Store, tree: Path) -> Path:
    """The only pack of the store, after one checkpoint."""
    protect(store, tree)
    (path,) = Path(store.join("packs")).glob("*.pack")
    return path


@pytest.fixture
def large(store: Store, pack: Path) -> Path:
    """A large content that one path has."""
    (path,) = [one for one in Path(store.join("objects")).rglob("*/*") if one.stat().st_size == 200_000]
    return path


def test_a_whole_store_is_read_and_nothing_changes(store: Store, tree: Path, pack: Path) -> None:
    before = contents(store)
    found = scrub(store)
    assert (found["changed"], found["damaged"], found["left"], found["unverified"]) == (False, [], [], 0)
    size = sum(len(data) for name, data in before.items() if name.startswith("objects") or name.endswith(".pack"))
    assert found["complete"] and found["stats"]["bytes"] == size and found["oldest"] and found["last_pass"]
    assert contents(store) == before


def test_a_store_that_is_not_there_is_not_made(store: Store) -> None:
    assert scrub(store)["damaged"] == [] and not os.path.exists(store.root)


def test_a_damaged_pack_is_put_aside_and_only_what_is_bad_in_it_is_lost(store: Store, tree: Path, pack: Path) -> None:
    copy = copy_of(tree)
    spoil(pack, b"first", b"f1rst")
    before = contents(store)
    foretold = damage(store, check_mode=True)
    assert contents(store) == before and not os.path.exists(store.join("scrub"))
    found = damage(store)
    assert {**found, "stats": 0, "done": [], "last_pass": 0, "oldest": 0} == {
        **foretold,
        "stats": 0,
        "last_pass": 0,
        "oldest": 0,
    }
    (at_pack, content) = found["damaged"]
    assert (at_pack["kind"], at_pack["id"]) == ("pack", pack.stem)
    assert content["kind"] == "object" and content["checkpoints"][0]["name"] == "before"
    assert content["paths"] == [f"{tree}/a", f"{tree}/sub/hard"] and f"{tree}/a" in found["msg"]
    assert found["changed"] and (Path(store.root) / "quarantine" / pack.name).exists() and not pack.exists()
    again = damage(store)
    assert [(one["id"], one["problem"]) for one in again["damaged"]] == [(content["id"], "it is missing")]
    assert not again["changed"]
    with pytest.raises(Damaged, match="nothing was changed"):
        (tree / "a").write_text("other")
        rollback(store, "before")
    shutil.rmtree(tree)
    copy_of(copy).rename(tree)
    assert foretell(store, tree)["planned"] == ["store 1 contents again that the store has lost"]
    taken = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    assert taken["changed"] and taken["stats"]["new_objects"] == 1
    assert taken["done"] == ["stored 1 contents again that the store had lost"]
    assert scrub(store)["damaged"] == []
    (tree / "a").write_text("other")
    rollback(store, "before")
    assert differences(copy, tree) == ""


def foretell(store: Store, tree: Path) -> dict[str, Any]:
    return checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}], check_mode=True)


@pytest.mark.parametrize("old", [b"evenkeel-pack 1", b" 5\nfirst", b"first\n"])
def test_a_pack_that_is_damaged_between_its_contents_loses_none(
    store: Store, tree: Path, pack: Path, old: bytes
) -> None:
    """What is stored again may be, byte for byte, the pack that the bad one was: it is not put aside with it."""
    spoil(pack, old, old.replace(b"\n", b"\x0b").replace(b"pack 1", b"pack 9"))
    found = damage(store)
    assert [one["kind"] for one in found["damaged"]] == ["pack"] and found["damaged"][0]["paths"] == []
    assert scrub(store)["damaged"] == []
    assert store.verify(store.manifest(store.resolve("before"))) == {}


def test_a_damaged_large_content_is_put_aside(store: Store, tree: Path, large: Path) -> None:
    spoil(large, large.read_bytes()[:9], b"otherwise")
    found = damage(store)
    (content,) = found["damaged"]
    assert content["paths"] == [f"{tree}/sub/large"] and "SHA-256" in content["problem"]
    assert os.listdir(store.join("quarantine")) == [content["id"]] and not large.exists()
    protect(store, tree)
    assert scrub(store)["damaged"] == []


@pytest.mark.parametrize("where", ["manifests", "objects", "packs"])
def test_what_is_missing_is_named(store: Store, tree: Path, large: Path, pack: Path, where: str) -> None:
    checkpoint_id = store.resolve("before")
    {"manifests": Path(store.join("manifests", checkpoint_id)), "objects": large, "packs": pack}[where].unlink()
    for found in (damage(store, check_mode=True), damage(store)):
        assert {point["id"] for one in found["damaged"] for point in one["checkpoints"]} == {checkpoint_id}
        paths = {path for one in found["damaged"] for path in one["paths"]}
        expected = {"manifests": set(), "objects": {f"{tree}/sub/large"}}
        assert paths == expected[where] if where in expected else f"{tree}/sub/deep/c" in paths


def test_a_damaged_manifest_is_put_aside_and_named(store: Store, tree: Path, pack: Path) -> None:
    checkpoint_id = store.resolve("before")
    spoil(Path(store.join("manifests", checkpoint_id)), b"/a 644", b"/b 644")
    found = damage(store)
    assert [(one["kind"], one["id"], one["checkpoints"]) for one in found["damaged"]] == [
        ("manifest", checkpoint_id, [{"name": "before", "id": checkpoint_id}])
    ]
    assert os.listdir(store.join("quarantine")) == [checkpoint_id]
    with pytest.raises(Damaged):
        scrub(store)


def test_copies_of_other_hosts_are_read_too(store: Store, tree: Path, pack: Path, tmp_path: Path) -> None:
    peer = Store(str(tmp_path / "peer"), store.system)
    bundle = str(tmp_path / "bundle")
    replicas.export(store, "web1", store.resolve("before"), [], bundle, from_replica=False)
    receive(peer, "web1", store.resolve("before"), bundle)
    assert scrub(peer)["stats"]["files"] > 2
    (path,) = Path(peer.join("replicas", "web1", "packs")).glob("*.pack")
    spoil(path, b"first", b"f1rst")
    found = damage(peer)
    assert {one["host"] for one in found["damaged"]} == {"web1"} and found["damaged"][1]["paths"][0] == f"{tree}/a"
    receive(peer, "web1", store.resolve("before"), bundle)
    assert scrub(peer)["damaged"] == []


def test_what_lies_in_the_trash_is_read_too(store: Store, tree: Path, pack: Path) -> None:
    shutil.rmtree(tree)
    tree.mkdir()
    protect(store, tree, retention={"last": 1})
    (trashed,) = Path(store.join("trash", "packs")).glob("*.pack")
    assert scrub(store)["damaged"] == []
    spoil(trashed, b"first", b"f1rst")
    assert {tuple(one["paths"]) for one in damage(store)["damaged"]} == {()}
    assert not trashed.exists() and scrub(store)["damaged"] == []


def test_what_is_pruned_while_it_is_looked_for_is_not_missing(
    store: Store, tree: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = store.refs()
    first = stale["before"][0]
    shutil.rmtree(tree)
    tree.mkdir()
    protect(store, tree, retention={"last": 1, "grace": 0})
    seen = [stale]
    refs = store.refs
    monkeypatch.setattr(store, "refs", lambda: seen.pop(0) if seen else refs())
    assert scrub(store)["damaged"] == []
    # Its manifest is there still when it is read, and what it needs is not.
    seen.append(stale)
    os.rename(store.join("trash", "manifests", first), store.join("manifests", first))
    store.objects.empty_trash(float("inf"))
    assert scrub(store)["damaged"] == []


def test_a_disk_that_takes_no_more_writes_still_gets_its_damage_told(
    store: Store, tree: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object) -> None:
        raise OSError(30, os.strerror(30))

    for name in ("write_file", "move_all"):
        monkeypatch.setattr(scrubbing, name, fails)
    with pytest.raises(EvenkeelError, match="no file that was read .* Read-only file system"):
        scrub(store)
    spoil(large, large.read_bytes()[:9], b"otherwise")
    found = damage(store)
    assert found["damaged"][0]["paths"] == [f"{tree}/sub/large"] and not found["changed"] and large.exists()
    assert any(one.startswith("could not put aside object") for one in found["left"])


# -- many runs make a pass


class Time:
    """A clock on which each reading of it takes a second, and that counts the sleeping."""

    def __init__(self) -> None:
        self.at, self.slept = 1_000_000.0, 0.0

    def __call__(self) -> float:
        self.at += 1.0
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.at += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def timed(store: Store, tree: Path, pack: Path, time: Time) -> Store:
    """With a pack and five folders of large contents."""
    system = replace(store.system, now=time, monotonic=time, sleep=time.sleep)
    for number in range(3):
        (tree / f"large-{number}").write_text(f"{number}" * 70_000)
    protect(store, tree)
    return Store(store.root, system)


def test_a_run_that_ends_early_is_carried_on_by_the_next(timed: Store) -> None:
    counts, passes = [], []
    for _ in range(20):
        found = scrub(timed, time_limit=8)
        assert not found["complete"]
        counts.append(found["unverified"])
        passes.append(found["last_pass"])
    assert counts[0] > 2 and counts == sorted(counts, reverse=True) and counts[-1] == 0
    assert passes[0] is None and counts.index(0) == passes.index(next(one for one in passes if one))
    assert len(set(passes)) > 2  # and from then on pass after pass, the oldest first


def test_every_run_reads_something_however_little_time_it_has(timed: Store) -> None:
    counts = [scrub(timed, time_limit=0)["unverified"] for _ in range(3)]
    assert counts[0] - 2 == counts[1] - 1 == counts[2]


def test_the_oldest_reading_is_reported(timed: Store, tree: Path) -> None:
    first = scrub(timed)
    assert first["oldest"] and first["unverified"] == 0
    (tree / "new").write_text("new" * 40_000)
    protect(timed, tree)
    before = scrub(timed, time_limit=0)
    assert before["oldest"] == first["oldest"] and before["unverified"] == 0  # the new ones came first
    assert scrub(timed)["oldest"] > first["oldest"]


@pytest.mark.parametrize("text", [b"", b"{}", b'{"began": 1, "verified": {}}\nwrong\n', b"\xff\n\n"])
def test_a_damaged_memory_of_what_was_read_is_not_believed(timed: Store, text: bytes) -> None:
    scrub(timed)
    path = Path(timed.join("scrub"))
    path.write_bytes(text or path.read_bytes().replace(b"100001", b"100000"))
    assert scrub(timed, time_limit=0)["unverified"] > 0


def test_what_was_read_in_the_future_is_read_now(timed: Store, time: Time) -> None:
    time.at += 1e6
    scrub(timed)
    time.at -= 1e6
    assert scrub(timed, time_limit=0)["unverified"] > 0


def test_a_share_of_the_time_is_left_to_others(timed: Store, time: Time) -> None:
    scrub(timed)
    assert time.slept == 0
    files = scrub(timed, share=25)["stats"]["files"]
    # Each piece of a file takes a second to read. The pack has more than one.
    assert time.slept % 3.0 == 0 and 3.0 * files < time.slept < 6.0 * files
    for share in (0, 101):
        with pytest.raises(UsageError, match="percentage"):
            scrub(timed, share=share)


def test_an_index_that_is_not_whole_is_written_anew(store: Store, pack: Path) -> None:
    index = pack.with_suffix(".idx")
    whole = index.read_bytes()
    spoil(index, b"end ", b"and ")
    found = scrub(store)
    assert found["changed"] and found["done"] == [f"index pack {pack.stem[:12]} anew"] and found["damaged"] == []
    assert sorted(index.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_content_that_cannot_be_read_is_damaged(store: Store, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advise = os.posix_fadvise

    def fails(fd: int, *rest: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(large):
            raise OSError(5, os.strerror(5))
        advise(fd, *rest)

    monkeypatch.setattr(os, "posix_fadvise", fails)
    (content,) = damage(store)["damaged"]
    assert "Input/output error" in content["problem"]
