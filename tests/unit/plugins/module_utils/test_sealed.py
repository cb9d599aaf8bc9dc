# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted copies: a peer verifies them without a key, keeps what they need, and takes nothing that is not whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import (
    making_room,
    replicas,
    sealed,
    sealed_record,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.held import copies_for_others
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import openssl
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.copies import Copied
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import foreign
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.proof import LONGEST
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback, scrub

from .conftest import copy_of, differences

KEY, GROUP = "a" * 16, "b" * 32


@dataclass
class Fleet:
    """A host, and a peer for its encrypted copies."""

    store: Store
    peer: Store
    tree: Path

    def take(self, **options: Any) -> str:
        resources = [{"files": {"paths": [str(self.tree)]}}]
        return str(checkpoint(self.store, "before", resources, host="web1", **options)["id"])

    def made(self, base: Mapping[str, Any] | None = None) -> bytes:
        """The sealed bundle of the newest checkpoint."""
        found = io.BytesIO()
        sealing = sealed.seal(self.store, "web1", self.newest, base or {}, self.secret(self.newest))
        sealing.write(found)
        assert sealing.size == len(found.getvalue())
        return found.getvalue()

    def receive(self, data: bytes, retention: Any = None, **told: Any) -> Copied:
        values = {"nonce": "c" * 64, "key": KEY, "group": GROUP, "groups": [GROUP], "card": "card", **told}
        values.setdefault("created", self.store.manifest(self.newest).created)
        came = replicas.Incoming(io.BytesIO(data), len(data))
        return sealed.receive(self.peer, "web1", self.newest, came, values, retention)

    def send(self, retention: Any = None) -> Copied:
        bases = {one["id"]: one for one in sealed.have(self.peer, "web1", self.newest, KEY).bases}
        held = [one.id for one in self.store.checkpoints() if one.id in bases]
        return self.receive(self.made(bases[held[-1]] if held else None), retention)

    @property
    def newest(self) -> str:
        return replicas.offer(self.store, "web1", "latest").id

    @staticmethod
    def secret(checkpoint: str) -> str:
        return hashlib.sha256(checkpoint.encode()).hexdigest()

    def state(self, checkpoint: str) -> str | None:
        return sealed.have(self.peer, "web1", checkpoint, KEY).state

    def chain(self, checkpoint: str) -> sealed.Chain:
        (found,) = [one for one in sealed.candidates(self.peer, "web1") if one.id == checkpoint]
        assert found.sealed is not None
        return sealed.give_back(self.peer, "web1", found.sealed.sha256)

    def adopt(self, checkpoint: str, change: Any = None) -> Copied:
        """Bring a checkpoint back, as the controller does; ``change``: of the bytes on their way."""
        chain, stream = self.chain(checkpoint), io.BytesIO()
        chain.write(stream)
        data = change(stream.getvalue()) if change else stream.getvalue()
        came = replicas.Incoming(io.BytesIO(data), chain.size)
        told = [{"sha256": link.sha256, "size": link.size} for link in chain.links]
        secrets = [self.secret(link.id) for link in chain.links]
        return replicas.adopt(self.store, "web1", checkpoint, sealed.incoming(came, told, secrets))

    @property
    def copies(self) -> Path:
        return Path(self.peer.root, "replicas", "web1")


@pytest.fixture
def fleet(store: Store, tree: Path, tmp_path: Path) -> Fleet:
    return Fleet(store, Store(str(tmp_path / "peer"), store.system), tree)


@pytest.mark.parametrize("kind", ["snapshot", "log"])
def test_every_checkpoint_of_a_chain_comes_back(fleet: Fleet, tmp_path: Path, kind: str) -> None:
    ids = []
    for number in range(4):
        (fleet.tree / "a").write_text(f"number {number}")
        (fleet.tree / f"only-{number}").write_bytes(os.urandom(100_000))
        if number:
            (fleet.tree / f"only-{number - 1}").unlink()
        ids.append(fleet.take(kind=kind))
        assert fleet.send().state == "verified"
        copy_of(fleet.tree).rename(tmp_path / f"copy-{number}")
    assert [len(fleet.chain(one).links) for one in ids] == [1, 2, 3, 4]
    assert [path.stat().st_size < 350_000 for path in (fleet.copies / "sealed").iterdir()].count(True) == 3
    shutil.rmtree(fleet.store.root)
    for number in (3, 1):
        fleet.adopt(ids[number])
        # The checkpoints on whose bundles it was built are not in the store, unless the log needs them.
        if kind == "snapshot":
            assert fleet.store.refs()["before"] == ([ids[3]] if number == 3 else [ids[1], ids[3]])
        rollback(fleet.store, ids[number])
        assert differences(tmp_path / f"copy-{number}", fleet.tree) == ""


def test_a_bundle_that_was_cut_off_changed_or_announced_larger_is_never_a_copy(fleet: Fleet) -> None:
    taken = fleet.take()
    whole = fleet.made()
    wrong = [whole[:end] for end in (0, 10, 200, len(whole) // 2, len(whole) - 1)]
    wrong += [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (0, 20, len(whole) // 2, len(whole) - 190)
    ]
    for data in wrong:
        with pytest.raises(Damaged):
            fleet.receive(data)
    came = replicas.Incoming(io.BytesIO(whole), 1 << 60)
    with pytest.raises(EvenkeelError, match="has room for"):
        sealed.receive(fleet.peer, "web1", taken, came, {})
    for told in ({"created": "9999-01-01T00:00:00.000000Z"}, {"card": "a b"}, {"nonce": "../x"}, {"group": 5}):
        with pytest.raises(Damaged):
            fleet.receive(whole, **told)
    assert fleet.state(taken) is None and sealed.candidates(fleet.peer, "web1") == []
    assert not [path for path in fleet.copies.rglob("*") if path.is_file() and path.name not in ("FORMAT", "lock")]
    assert fleet.receive(whole).state == "verified" and fleet.state(taken) == "verified"


def test_what_a_peer_has_is_never_replaced(fleet: Fleet) -> None:
    """A host that was taken over sends the same checkpoint again, as something that nobody can read."""
    taken = fleet.take()
    made = fleet.made()
    fleet.receive(made)
    (first,) = (fleet.copies / "sealed").iterdir()
    before = first.read_bytes()
    fleet.receive(fleet.made())
    (fleet.tree / "a").write_text("second")
    fleet.take()
    with pytest.raises(Damaged, match="here already, as another one"):
        fleet.receive(made)
    assert first.read_bytes() == before and len(list((fleet.copies / "records").iterdir())) == 2
    assert fleet.state(taken) == "verified"


def test_a_damaged_bundle_is_put_aside_and_nothing_builds_on_it(fleet: Fleet) -> None:
    first = fleet.take()
    fleet.send()
    (bundle,) = (fleet.copies / "sealed").iterdir()
    (fleet.tree / "a").write_text("second")
    second = fleet.take()
    base = {"id": first, "sha256": bundle.name, "bytes": bundle.stat().st_size, "length": 1}
    part = fleet.made(base)
    bundle.chmod(0o600)
    with bundle.open("r+b") as stream:
        stream.seek(99)
        stream.write(b"\0\0")
    with pytest.raises(Damaged, match="Send it again, whole"):
        fleet.receive(part)
    assert (fleet.copies / "quarantine" / bundle.name).exists() and not bundle.exists()
    with pytest.raises(Damaged, match="missing"):
        fleet.receive(part)
    assert fleet.send().state == "verified" and fleet.state(second) == "verified" and fleet.state(first) is None


def test_a_copy_is_as_large_as_the_bundles_that_it_needs(fleet: Fleet) -> None:
    for number in range(2):
        (fleet.tree / "large").write_bytes(os.urandom(50_000 + number))
        fleet.take()
        fleet.send()
    known = {one.id: one.bytes for one in sealed.candidates(fleet.peer, "web1")}
    assert known == {one: fleet.chain(one).size for one in known} and max(known.values()) > 100_000


def test_a_link_in_the_place_of_a_bundle_is_no_copy(fleet: Fleet, tmp_path: Path) -> None:
    taken = fleet.take()
    fleet.send()
    (bundle,) = (fleet.copies / "sealed").iterdir()
    bundle.rename(tmp_path / "elsewhere")
    bundle.symlink_to(tmp_path / "elsewhere")
    chain = fleet.chain(taken)
    with pytest.raises(OSError):
        chain.write(io.BytesIO())
    (found,) = sealed.candidates(fleet.peer, "web1")
    assert found.state == "damaged" and "cannot be read" in found.detail
    assert fleet.state(taken) == "damaged" and (tmp_path / "elsewhere").exists()


def test_a_chain_does_not_become_long_nor_larger_than_twice_a_whole_bundle(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "LONGEST", 4)
    lengths = []
    for number in range(6):
        (fleet.tree / "a").write_text(f"number {number}")
        taken = fleet.take()
        fleet.send()
        lengths.append(len(fleet.chain(taken).links))
    assert lengths == [1, 2, 3, 4, 1, 2]
    lengths = []
    for _number in range(4):
        (fleet.tree / "bulk").write_bytes(os.urandom(1_500_000))
        taken = fleet.take()
        fleet.send()
        lengths.append(len(fleet.chain(taken).links))
        assert fleet.chain(taken).size <= 2 * len(fleet.made())
    assert lengths == [3, 4, 1, 2]


def test_retention_keeps_the_bundles_on_which_kept_copies_build(fleet: Fleet) -> None:
    ids = []
    for number in range(4):
        (fleet.tree / "a").write_text(f"number {number}")
        ids.append(fleet.take())
        if number == 2:  # whole, as from another controller
            fleet.receive(fleet.made(), {"last": 3, "grace": "0s"})
        else:
            fleet.send({"last": 1 if number == 3 else 3, "grace": "0s"})
    kept = {one.id for one in sealed.candidates(fleet.peer, "web1")}
    assert kept == {ids[2], ids[3]}
    assert {path.name for path in (fleet.copies / "sealed").iterdir()} == {
        path.name for path in (fleet.copies / "records").iterdir()
    }
    assert fleet.state(ids[3]) == "verified"
    # Copies of another name stay.
    (fleet.tree / "a").write_text("last")
    taken = fleet.take()
    fleet.receive(fleet.made(), {"last": 1, "grace": "0s"}, group="d" * 32, groups=["d" * 32])
    assert {one.id for one in sealed.candidates(fleet.peer, "web1")} == {*kept, taken}


def test_bytes_that_were_changed_on_the_way_back_enter_no_store(fleet: Fleet) -> None:
    first = fleet.take()
    fleet.send()
    (fleet.tree / "a").write_text("second")
    second = fleet.take()
    fleet.send()
    shutil.rmtree(fleet.store.root)
    length = fleet.chain(second).size
    # Also in the manifest of the base, which is not used.
    for at in (17, 3000, fleet.chain(first).size - 20, length - 20):
        with pytest.raises(Damaged):
            fleet.adopt(second, lambda data, at=at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for end in (100, length - 1):
        with pytest.raises((Damaged, EvenkeelError)):
            fleet.adopt(second, lambda data, end=end: data[:end])
    with pytest.raises((Damaged, EvenkeelError)):  # the bundles in another order
        cut = fleet.chain(first).size
        fleet.adopt(second, lambda data: data[cut:] + data[:cut])
    assert fleet.store.refs() == {} and len(fleet.store.objects.index()) == 0
    fleet.adopt(second)
    assert [one.id for one in fleet.store.checkpoints()] == [second]


def test_a_secret_that_is_not_that_of_the_bundle_changes_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = fleet.take()
    fleet.send()
    shutil.rmtree(fleet.store.root)
    monkeypatch.setattr(Fleet, "secret", staticmethod(lambda _checkpoint: "f" * 64))
    with pytest.raises(Damaged):
        fleet.adopt(taken)
    assert fleet.store.refs() == {}


def test_a_damaged_content_ends_the_bundle_without_its_proof(fleet: Fleet) -> None:
    fleet.take()
    for path in Path(fleet.store.root).rglob("*.pack"):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b"first", b"f1rst"))
    stream = io.BytesIO()
    sealing = sealed.seal(fleet.store, "web1", fleet.newest, {}, "e" * 64)
    with pytest.raises(Damaged, match="object .* is damaged"):
        sealing.write(stream)
    with pytest.raises(Damaged):
        fleet.receive(stream.getvalue())


def test_a_scrub_names_damage_without_a_key(fleet: Fleet) -> None:
    first = fleet.take()
    fleet.send()
    (base,) = (fleet.copies / "sealed").iterdir()
    (fleet.tree / "a").write_text("second")
    second = fleet.take()
    fleet.send()
    assert scrub(fleet.peer)["complete"]
    base.chmod(0o600)
    base.write_bytes(base.read_bytes()[:-1])
    with pytest.raises(Damaged) as caught:
        scrub(fleet.peer)
    found = {one["id"]: one for one in caught.value.result["damaged"]}
    assert {point["id"] for point in found[base.name]["checkpoints"]} == {first, second}
    (other,) = set(found) - {base.name}
    assert found[other]["problem"] == f"the bundle {base.name[:12]}, on which it builds, is missing"
    assert fleet.send().state == "verified"  # whole: nothing is left to build on
    record = next((fleet.copies / "records").iterdir())
    record.chmod(0o600)
    record.write_bytes(record.read_bytes().replace(b"card", b"cart"))
    with pytest.raises(Damaged, match="record|damaged"):
        scrub(fleet.peer)
    assert (fleet.copies / "quarantine" / f"record-{record.name}").exists()


def test_a_record_of_another_form_is_none_of_ours(fleet: Fleet) -> None:
    fleet.take()
    fleet.send()
    (path,) = (fleet.copies / "records").iterdir()
    good = json.loads(path.read_bytes().split(b"\n")[0])
    path.chmod(0o600)
    for wrong in ({"base": "../../etc"}, {"size": -1}, {"size": True}, {"sha256": "f" * 64}, {"id": None}, {"card": 1}):
        line = json.dumps({**good, **wrong}).encode()
        path.write_bytes(line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")
        with pytest.raises(Damaged):
            sealed_record.record(replicas.replica(fleet.peer, "web1"), path.name)
    line = json.dumps({**good, "base": good["sha256"]}).encode()  # it builds on itself
    path.write_bytes(line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")
    (found,) = sealed.candidates(fleet.peer, "web1")
    assert found.state == "damaged" and f"more than {LONGEST}" in found.detail


def test_without_openssl_nothing_is_sent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.take()
    monkeypatch.setattr(openssl, "environment", lambda: {"PATH": "/nowhere"})
    with pytest.raises(EvenkeelError, match="openssl is not installed on this host"):
        sealed.seal(fleet.store, "web1", fleet.newest, {}, "e" * 64)


def test_a_peer_in_check_mode_puts_nothing_aside(fleet: Fleet) -> None:
    taken = fleet.take()
    fleet.send()
    (bundle,) = (fleet.copies / "sealed").iterdir()
    bundle.chmod(0o600)
    bundle.write_bytes(b"")
    assert sealed.have(fleet.peer, "web1", taken, KEY, check_mode=True).state == "damaged" and bundle.exists()
    assert sealed.have(fleet.peer, "web1", taken, "f" * 16).state is None and bundle.exists()
    assert replace(fleet, peer=fleet.store).state(taken) is None


def test_a_peer_tells_of_encrypted_copies_without_a_key(fleet: Fleet) -> None:
    first = fleet.take()
    fleet.send()
    (fleet.tree / "a").write_text("new")
    newest = fleet.take()
    fleet.send()
    ids, (one,), left = copies_for_others(fleet.peer)
    assert left == [] and ids.keys() == {"web1"} and set(ids["web1"]) == {first, newest}
    assert (one.id, one.name, one.count, one.damaged) == (newest, "", 2, 0) and one.verified
    for bundle in Path(fleet.peer.join("replicas/web1/sealed")).iterdir():
        bundle.unlink()
    _ids, (one,), _left = copies_for_others(fleet.peer)
    assert (one.id, one.damaged) == ("", 2)


def test_retention_frees_room_for_an_encrypted_copy_before_it_comes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        (fleet.tree / "a").write_text(str(number))
        newest = fleet.take()
        fleet.receive(fleet.made())
    monkeypatch.setattr(foreign, "room", lambda place: 0)
    making_room.make_room(fleet.peer, "web1", 10, [fleet.peer.root], {"last": 1})
    assert copies_for_others(fleet.peer)[0] == {"web1": [newest]}


def test_a_peer_tells_of_its_state_after_it_put_an_encrypted_bundle_aside(fleet: Fleet) -> None:
    taken = fleet.take()
    fleet.send()
    (bundle,) = (fleet.copies / "sealed").iterdir()
    bundle.chmod(0o600)
    bundle.write_bytes(b"")
    assert fleet.state(taken) == "damaged" and not bundle.exists()
    _ids, (one,), left = copies_for_others(fleet.peer)
    assert (one.id, one.count, one.damaged, left) == ("", 0, 0, [])
    fleet.send()
    _ids, (one,), left = copies_for_others(fleet.peer)
    assert (one.id, one.count, one.damaged, left) == (taken, 1, 0, [])


def test_a_bundle_that_needs_no_old_content_is_sent_where_an_old_one_is_lost_here(fleet: Fleet) -> None:
    (fleet.tree / "large").write_bytes(os.urandom(100_000))
    old = fleet.take()
    fleet.send()
    (fleet.tree / "new").write_text("new")
    new = fleet.take()
    sha = hashlib.sha256((fleet.tree / "large").read_bytes()).hexdigest()
    os.unlink(fleet.store.objects.path(sha))
    fleet.send()
    assert [fleet.state(one) for one in (old, new)] == ["verified", "verified"]
