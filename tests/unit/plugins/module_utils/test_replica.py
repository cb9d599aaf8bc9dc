# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy counts once its receiver has re-hashed it; a damaged one is named and never used."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    NotFound,
    Refused,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import exchange, replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.proving import Challenge, prove
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Copied
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import FOREIGN, Store
from flows import adopt, checkpoint, info, receive, rollback, scrub

from .conftest import copy_of, differences


@pytest.fixture
def peer(tmp_path: Path, store: Store) -> Store:
    return Store(str(tmp_path / "peer"), store.system)


def send(store: Store, peer: Store, tmp_path: Path, known: Any = ()) -> Copied:
    offered = replicas.offer(store, "web1", "latest")
    bundle = tmp_path / "bundle"
    announced = replicas.bundle(store, "web1", offered.id, known, from_replica=False).size
    replicas.export(store, "web1", offered.id, list(known), str(bundle), from_replica=False)
    assert announced == bundle.stat().st_size
    try:
        return receive(peer, "web1", offered.id, str(bundle))
    finally:
        os.unlink(bundle)


def test_a_source_tells_its_checkpoints_the_oldest_first(store: Store, tree: Path) -> None:
    taken = []
    for number in range(5):
        (tree / "a").write_text(f"number {number}")
        taken.append(checkpoint(store, "base", [{"files": {"paths": [str(tree)]}}])["id"])
    assert replicas.offer(store, "web1", "latest").held == taken


def test_a_lost_host_comes_back_from_its_copy(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    copy = copy_of(tree)
    taken = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}], host="web1")
    assert send(store, peer, tmp_path).state == "verified"
    shutil.rmtree(tree)
    shutil.rmtree(store.root)
    (found,) = replicas.candidates(peer, "web1").candidates
    assert (found.id, found.state) == (taken["id"], "verified")
    bundle = str(tmp_path / "back")
    replicas.export(peer, "web1", found.id, [], bundle, from_replica=True)
    adopt(store, "web1", found.id, bundle)
    rollback(store, found.id)
    assert differences(copy, tree) == ""


def test_a_checkpoint_of_another_host_is_for_a_recovery_alone(
    store: Store, peer: Store, tree: Path, tmp_path: Path
) -> None:
    """A spare that rolled back to it would become the lost host, without a check."""
    theirs = checkpoint(store, "base", [{"files": {"paths": [str(tree)]}}], host="web3")["id"]
    bundle = str(tmp_path / "bundle")
    replicas.export(store, "web3", theirs, [], bundle, from_replica=False)
    spare = Store(str(tmp_path / "spare"), store.system)
    adopt(spare, "web3", theirs, bundle, elsewhere=True)
    for wanted in ("latest", "base", theirs[:12], FOREIGN):
        with pytest.raises(NotFound):
            spare.resolve(wanted)
    with pytest.raises(Refused, match=r"is of another host, web3, .* ft_recover"):
        rollback(spare, theirs)
    assert replicas.offer(spare, "web3", theirs, foreign=True).held == [theirs]
    assert info(spare)["checkpoints"] == [] and prove(spare, "spare", Challenge(b"1", 9.0, own=True)).held == []
    # Its own checkpoints of the same name do not follow it, and retention counts each apart.
    (tree / "a").write_text("second")
    own = checkpoint(spare, "base", [{"files": {"paths": [str(tree)]}}], host="spare", kind="log")
    assert own["kind"] == "snapshot" and spare.resolve("latest") == spare.resolve("base") == own["id"]
    last = checkpoint(spare, "base", [{"files": {"paths": [str(tree)]}}], retention={"last": 1}, host="spare")["id"]
    assert spare.refs() == {"base": [last], FOREIGN: [theirs]}
    # One that is damaged does not end the retention for good.
    manifest = Path(spare.join("manifests", theirs))
    manifest.chmod(0o600)
    manifest.write_text("damaged")
    with pytest.raises(Damaged, match="One of another host comes back with ft_recover alone"):
        scrub(spare, check_mode=True)
    found = checkpoint(spare, "base", [{"files": {"paths": [str(tree)]}}], retention={"last": 1}, host="spare")
    assert "warnings" not in found and f"forgot checkpoint {theirs[:12]}" in found["done"]
    assert spare.refs() == {"base": [found["id"]]} and Path(spare.join("quarantine", theirs)).exists()


def test_a_checkpoint_that_a_change_needs_comes_back_though_it_is_damaged_here(
    store: Store, peer: Store, tree: Path, tmp_path: Path
) -> None:
    """Its change is overdue, and every module would undo it first."""
    resources = [{"files": {"paths": [str(tree)]}}]
    taken = checkpoint(store, "before", resources, host="web1", confirm_within=60.0)
    send(store, peer, tmp_path)
    (tree / "a").write_text("changed")
    Path(store.join("manifests", taken["id"])).write_text("damaged")
    rebooted = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    with pytest.raises(Damaged):
        checkpoint(rebooted, "later", resources)
    bundle = str(tmp_path / "back")
    replicas.export(peer, "web1", taken["id"], [], bundle, from_replica=True)
    adopt(rebooted, "web1", taken["id"], bundle)
    checkpoint(rebooted, "later", resources)
    assert (tree / "a").read_text() == "first"


def test_only_what_the_peer_lacks_travels(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    first = send(store, peer, tmp_path)
    (tree / "a").write_text("second")
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    second = send(store, peer, tmp_path, replicas.have(peer, "web1").ids)
    assert first.objects > 5 and second.objects == 1
    assert [one.state for one in replicas.candidates(peer, "web1").candidates] == ["verified", "verified"]


def test_a_peer_that_is_not_told_which_checkpoint_is_meant_looks_at_the_newest(
    store: Store, peer: Store, tree: Path, tmp_path: Path
) -> None:
    asked = {"store": peer.root, "host": "web1", "_phase": "have", "_values": {"id": "", "mac": ""}}
    assert (exchange.work(asked, False).report().get("id"), replicas.newest(peer, "web1")) == (None, "")
    for name in ("a", "b", "a"):
        (tree / "a").write_text(f"now {name}")
        store.system.sleep(1)
        newest = checkpoint(store, name, [{"files": {"paths": [str(tree)]}}])["id"]
        send(store, peer, tmp_path)
    replicas.mark(peer, "web1", newest, "e" * 64)
    told = exchange.work(asked, False).report()
    assert (told["id"], told["state"], told["mac"]) == (newest, "verified", "e" * 64)


def test_a_content_of_many_checkpoints_is_read_once_and_counts_against_each_of_them(
    store: Store, peer: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer has a limited time to answer for all the checkpoints that it holds, before a lost host comes back."""
    for number in range(3):
        (tree / "new").write_text(f"number {number}")
        checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
        send(store, peer, tmp_path)
    read: list[str] = []
    verify = Objects.verify

    def noted(self: Objects, sha: str) -> str | None:
        read.append(sha)
        return verify(self, sha)

    monkeypatch.setattr(Objects, "verify", noted)
    assert [one.state for one in replicas.candidates(peer, "web1").candidates] == ["verified"] * 3
    assert len(read) == len(set(read)) > 5
    for path in Path(peer.root).rglob("*.pack"):
        os.chmod(path, 0o600)
        path.write_bytes(path.read_bytes().replace(b"first", b"f1rst"))
    assert [f"{tree}/a" in one.detail for one in replicas.candidates(peer, "web1").candidates] == [True] * 3


def test_a_bundle_with_a_flipped_byte_is_never_a_copy(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    taken = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    bundle = tmp_path / "bundle"
    replicas.export(store, "web1", taken["id"], [], str(bundle), from_replica=False)
    whole = bundle.read_bytes()
    for at in range(0, len(whole), 997):
        bundle.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(Damaged):
            receive(peer, "web1", taken["id"], str(bundle))
        assert replicas.candidates(peer, "web1").candidates == []
    for end in (10, len(whole) // 2, len(whole) - 30):
        bundle.write_bytes(whole[:end])
        with pytest.raises(Damaged):
            receive(peer, "web1", taken["id"], str(bundle))


def test_a_copy_with_a_flipped_byte_is_named_by_path(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    send(store, peer, tmp_path)
    for path in Path(peer.root).rglob("*.pack"):
        os.chmod(path, 0o600)
        path.write_bytes(path.read_bytes().replace(b"first", b"f1rst"))
    (found,) = replicas.candidates(peer, "web1").candidates
    assert found.state == "damaged" and f"{tree}/a" in found.detail
    with pytest.raises(Damaged):
        replicas.export(peer, "web1", found.id, [], str(tmp_path / "b"), from_replica=True)
    assert not (tmp_path / "b").exists()


def test_a_damaged_copy_is_mended_by_sending_it_whole(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    taken = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    send(store, peer, tmp_path)
    for path in Path(peer.root).rglob("*.pack"):
        os.chmod(path, 0o600)
        path.write_bytes(path.read_bytes().replace(b"first", b"f1rst"))
    with pytest.raises(Damaged, match="put aside"):
        send(store, peer, tmp_path)
    assert "is missing" in replicas.lacking(peer, "web1", taken["id"])[0]
    assert send(store, peer, tmp_path).state == "verified"
    assert replicas.lacking(peer, "web1", taken["id"]) == []
    assert replicas.candidates(peer, "web1").candidates[0].state == "verified"


def test_a_copy_that_lacks_something_is_found_without_reading_it(
    store: Store, peer: Store, tree: Path, tmp_path: Path
) -> None:
    (tree / "large").write_bytes(b"x" * 100_000)
    taken = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    send(store, peer, tmp_path)
    assert replicas.lacking(peer, "web1", taken["id"]) == []
    objects = (Path(peer.root) / "replicas" / "web1" / "objects").glob("*/*")
    (large,) = (path for path in objects if path.stat().st_size == 100_000)
    large.chmod(0o600)
    os.truncate(large, 99_999)
    assert "has 99999 bytes of 100000" in replicas.lacking(peer, "web1", taken["id"])[0]
    large.unlink()
    assert "is missing" in replicas.lacking(peer, "web1", taken["id"])[0]
    manifest = Path(peer.root) / "replicas" / "web1" / "manifests" / taken["id"]
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert "manifest" in replicas.lacking(peer, "web1", taken["id"])[0]


@pytest.mark.parametrize("host", ["", "..", "../web1", "a/b", ".hidden", "a\nb"])
def test_a_host_name_cannot_lead_out_of_the_replicas(peer: Store, host: str) -> None:
    with pytest.raises(UsageError, match="cannot name the folder"):
        replicas.have(peer, host)


def test_a_doctored_manifest_is_not_its_id(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    taken = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    bundle = tmp_path / "bundle"
    replicas.export(store, "web1", taken["id"], [], str(bundle), from_replica=False)
    whole = bundle.read_bytes()
    evil = whole.replace(f"f {tree}/a ".encode(), f"f {tree}/b ".encode())
    assert evil != whole
    bundle.write_bytes(evil)
    with pytest.raises(Damaged, match="manifest .* is damaged"):
        receive(peer, "web1", taken["id"], str(bundle))
