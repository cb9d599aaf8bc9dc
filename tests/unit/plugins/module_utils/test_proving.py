# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever has a checkpoint whole gives the same proof of it, and nobody else can give it."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import proving, replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Audited
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store, contents_in
from flows import checkpoint, receive, rollback

NONCE = b"n" * 32
MAC = "a" * 64


@pytest.fixture
def peer(tmp_path: Path, store: Store) -> Store:
    return Store(str(tmp_path / "peer"), store.system)


def take(store: Store, tree: Path, **options: Any) -> str:
    return str(checkpoint(store, "base", [{"files": {"paths": [str(tree)]}}], host="web1", **options)["id"])


def send(store: Store, peer: Store, tmp_path: Path, one: str) -> None:
    bundle = tmp_path / "bundle"
    replicas.export(store, "web1", one, [], str(bundle), from_replica=False)
    receive(peer, "web1", one, str(bundle), None, MAC)
    bundle.unlink()


def prove(
    store: Store, nonce: bytes = NONCE, limit: float = 1e6, own: bool = False, check_mode: bool = False
) -> Audited:
    return proving.prove(store, "web1", proving.Challenge(nonce, limit, own), check_mode)


def proofs(audited: Audited) -> dict[str, str]:
    return {one.id: one.proof for one in audited.held}


@pytest.mark.parametrize("kind", ["snapshot", "log"])
def test_all_whole_holders_give_the_same_proof_and_another_one_for_each_nonce(
    store: Store, peer: Store, tree: Path, tmp_path: Path, kind: str
) -> None:
    taken = []
    for number in range(4):
        (tree / "more").write_bytes(os.urandom(100_000 if number % 2 else 100))
        taken.append(take(store, tree, kind=kind))
        send(store, peer, tmp_path, taken[-1])
    own, copy = prove(store, own=True), prove(peer)
    assert proofs(own) == proofs(copy) and proofs(own).keys() == set(taken)
    assert len(set(proofs(own).values())) == 4 and all(one.state == "proved" for one in copy.held)
    assert own.latest == copy.latest == taken[-1] and [one.mac for one in copy.held] == [MAC] * 4
    assert not set(proofs(prove(peer, b"m" * 32)).values()) & set(proofs(copy).values())
    assert not own.changed and not copy.changed


def test_a_peer_whose_clock_is_behind_has_whole_copies(store: Store, peer: Store, tree: Path, tmp_path: Path) -> None:
    one = take(store, tree)
    send(store, peer, tmp_path, one)
    now = store.system.now()
    behind = Store(peer.root, replace(store.system, now=lambda: now - 30 * 86400))
    assert proofs(prove(behind)) == proofs(prove(store, own=True)) and not prove(behind).changed
    assert [found.state for found in replicas.candidates(behind, "web1").candidates] == ["verified"]


def test_the_manifest_alone_is_not_enough_for_a_proof(store: Store, tree: Path) -> None:
    """The proof as docs/copies.md defines it, from the contents: a host that has the manifest alone cannot answer."""
    one = take(store, tree)

    def keyed(*data: bytes) -> hmac.HMAC:
        return hmac.new(NONCE, b"".join(data), hashlib.sha256)

    contents = [b"".join(store.objects.read(sha)) for sha in contents_in(store.manifest(one))]
    head = b"evenkeel proof 1\n" + store.record_data(one)
    whole = keyed(head, *(keyed(data).digest() for data in contents)).hexdigest()
    assert contents and proofs(prove(store, own=True)) == {one: whole}
    assert whole != keyed(head).hexdigest()


def test_each_content_is_read_once_however_many_checkpoints_need_it(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "shared").write_bytes(os.urandom(100_000))
    for number in range(3):
        (tree / "more").write_text(str(number))
        take(store, tree)
    count: list[str] = []
    whole = Objects.read

    def read(self: Objects, sha: str) -> Iterator[bytes]:
        count.append(sha)
        return whole(self, sha)

    monkeypatch.setattr(Objects, "read", read)
    assert len(prove(store, own=True).held) == 3
    assert len(count) == len(set(count)) > 2


def test_a_time_limit_reads_the_newest_and_then_others_for_each_nonce(store: Store, tree: Path) -> None:
    taken = []
    for number in range(6):
        (tree / "more").write_text(f"{number}" * 50)
        taken.append(take(store, tree))
    clock = iter(range(1_000_000))
    slow = Store(store.root, replace(store.system, monotonic=lambda: float(next(clock))))
    seen = set()
    for nonce in range(8):
        audited = prove(slow, bytes([nonce]) * 32, limit=2, own=True)
        read = {one.id for one in audited.held if one.state == "proved"}
        assert taken[-1] in read and len(read) < 6
        assert {one.state for one in audited.held} == {"proved", "unread"}
        assert audited.held == prove(Store(store.root, slow.system), bytes([nonce]) * 32, limit=2, own=True).held
        seen |= read
    assert len(seen) > 2


def test_an_undo_is_read_and_is_not_the_newest(store: Store, tree: Path) -> None:
    one = take(store, tree)
    (tree / "more").write_text("x")
    undo = str(rollback(store, "base")["undo"])
    audited = prove(store, own=True)
    assert audited.latest == one == audited.held[0].id and undo in proofs(audited)


def test_damage_is_put_aside_and_named_by_path_and_in_check_mode_only_named(store: Store, tree: Path) -> None:
    (tree / "large").write_bytes(os.urandom(100_000))
    take(store, tree)
    path = next(path for path in Path(store.root).glob("objects/*/*") if path.stat().st_size == 100_000)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    first = prove(store, own=True, check_mode=True)
    assert path.exists() and first.done == [] and first.planned
    second = prove(store, own=True)
    assert not path.exists() and second.planned == first.planned == second.done
    for audited in (first, second, prove(store, own=True)):
        (one,) = audited.held
        assert one.state == "damaged" and one.proof == "" and f"{tree}/large (object" in one.detail
    assert len(list(Path(store.root).glob("quarantine/*"))) == 1
    assert prove(store, own=True).before == 1


def test_a_damaged_name_is_said_and_stops_nothing(store: Store, tree: Path) -> None:
    one = take(store, tree)
    ref = Path(store.root) / "refs" / "base"
    ref.write_text(ref.read_text() + "xyz\n../../etc/passwd\n")
    audited = prove(store, own=True)
    assert proofs(audited).keys() == {one} and "2 ids" in audited.left[0]


def test_a_store_that_is_not_there_holds_nothing_and_is_not_made(store: Store, peer: Store) -> None:
    assert prove(peer).held == [] and not os.path.exists(peer.root)
    assert proving.owners(peer).hosts == [] and proving.forget(peer, "web1").done == []
    assert proving.forget(peer, "web1").proved == ["no copies of web1 are here"]
    with pytest.raises(UsageError):
        proving.forget(peer, "../web1")


def test_copies_of_a_host_are_moved_aside_when_it_is_named(
    store: Store, peer: Store, tree: Path, tmp_path: Path
) -> None:
    one = take(store, tree)
    send(store, peer, tmp_path, one)
    assert proving.owners(peer).hosts == ["web1"]
    assert proving.forget(peer, "web1", check_mode=True).planned and prove(peer).held
    assert proving.forget(peer, "web1").done and prove(peer).held == [] and proving.owners(peer).hosts == []
    (aside,) = Path(peer.root).glob("quarantine/replicas/web1@*")
    assert (aside / "manifests" / one).exists()
    # Moved back, they are as before.
    aside.rename(Path(peer.root) / "replicas" / "web1")
    assert proofs(prove(peer)) == proofs(prove(store, own=True))


def test_a_mac_is_kept_beside_copies_that_are_there_alone(
    store: Store, peer: Store, tree: Path, tmp_path: Path
) -> None:
    one = take(store, tree)
    send(store, peer, tmp_path, one)
    other = "b" * 64
    assert proving.mark(peer, "web1", {one: other, "c" * 64: other}).changed
    assert [held.mac for held in prove(peer).held] == [other]
    assert os.listdir(Path(peer.root) / "replicas" / "web1" / "macs") == [one]
