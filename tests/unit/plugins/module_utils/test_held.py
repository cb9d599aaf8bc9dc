# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host tells of the copies that it keeps: from headers and times, and never more than it knows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.host import KeptCopies
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, receive, scrub

MAC = "a" * 64


@pytest.fixture
def peer(tmp_path: Path, store: Store) -> Store:
    return Store(str(tmp_path / "peer"), store.system)


def send(store: Store, peer: Store, tree: Path, name: str = "protected", retention: Any = None, **options: Any) -> str:
    """Take a checkpoint, and bring a copy of it to the peer."""
    found = str(checkpoint(store, name, [{"files": {"paths": [str(tree)]}}], **options)["id"])
    bundle = f"{store.root}.bundle"
    held = replicas.have(peer, "web1").ids
    replicas.export(store, "web1", found, held, bundle, from_replica=False)
    receive(peer, "web1", found, bundle, retention=retention, mac=MAC)
    os.unlink(bundle)
    return found


def held(peer: Store) -> KeptCopies:
    (one,) = info(peer)["holds"]
    return KeptCopies(**one)


def test_the_newest_copy_is_told_with_its_mac_and_the_time_at_which_it_was_hashed_last(
    store: Store, peer: Store, tree: Path
) -> None:
    first = send(store, peer, tree)
    (tree / "a").write_text("new")
    newest = send(store, peer, tree)
    assert first != newest
    one = held(peer)
    date = store.manifest(newest).created
    assert (one.host, one.id, one.name, one.created, one.count) == ("web1", newest, "protected", date, 2)
    assert (one.mac, one.damaged) == (True, 0)
    os.unlink(peer.join("replicas/web1/macs", newest))
    assert not held(peer).mac
    assert info(peer)["replicas"] == {"web1": [first, newest]}
    assert info(store)["holds"] == []


def test_a_copy_was_verified_when_its_part_that_was_read_longest_ago_was_read_or_arrived(
    store: Store, peer: Store, tree: Path
) -> None:
    send(store, peer, tree)
    (pack,) = Path(peer.join("replicas/web1/packs")).glob("*.pack")
    arrived = os.stat(pack).st_mtime - 1000
    os.utime(pack, (arrived, arrived))
    assert held(peer).verified == arrived
    later = replace(peer.system, now=lambda: peer.system.now() + 5000)
    scrub(Store(peer.root, later))
    # Both the pack and the large contents were read; then a part arrives that no scrub has read.
    scrubbed = KeptCopies(**info(Store(peer.root, later))["holds"][0]).verified
    assert scrubbed is not None and scrubbed > arrived + 5000
    (tree / "a").write_text("new")
    send(store, peer, tree)
    found = KeptCopies(**info(Store(peer.root, later))["holds"][0]).verified
    assert found is not None and arrived + 900 < found < scrubbed
    # A clock that was set back has hashed nothing in the future.
    early = replace(peer.system, now=lambda: 1000.0)
    assert info(Store(peer.root, early))["holds"][0]["verified"] == 1000.0


def test_damage_is_told_until_the_contents_are_back(store: Store, peer: Store, tree: Path) -> None:
    newest = send(store, peer, tree)
    for path in (
        *Path(peer.join("replicas/web1/packs")).glob("*.pack"),
        *Path(peer.join("replicas/web1/objects")).glob("*/*"),
    ):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-3])
        path.chmod(0o400)
    assert held(peer).damaged == 0  # nobody has looked yet
    with pytest.raises(Damaged):
        scrub(peer)
    assert held(peer).damaged >= 2
    bundle = f"{store.root}.bundle"
    replicas.export(store, "web1", newest, [], bundle, from_replica=False)
    receive(peer, "web1", newest, bundle)
    assert held(peer).damaged == 0
    Path(peer.join("replicas/web1/manifests", newest)).unlink()
    one = held(peer)
    assert (one.id, one.count, one.damaged, one.verified) == ("", 0, 1, None)


def test_damage_counts_as_long_as_a_checkpoint_here_needs_the_content(store: Store, peer: Store, tree: Path) -> None:
    send(store, peer, tree)
    (large,) = [one for one in Path(peer.join("replicas/web1/objects")).glob("*/*") if one.stat().st_size == 200_000]
    large.chmod(0o600)
    large.write_bytes(b"")
    with pytest.raises(Damaged):
        scrub(peer)
    assert held(peer).damaged == 1
    (tree / "sub" / "large").write_text("small")
    send(store, peer, tree)
    assert held(peer).damaged == 1
    (tree / "a").write_text("new")
    send(store, peer, tree, retention={"last": 1})
    assert (held(peer).count, held(peer).damaged) == (1, 0)


def test_copies_that_cannot_be_looked_at_hinder_no_answer_about_the_host(store: Store, peer: Store, tree: Path) -> None:
    newest = send(store, peer, tree)
    os.makedirs(peer.join("replicas/db9/refs/odd"), 0o700)
    Path(peer.join("replicas/file")).write_text("no store")
    found = info(peer)
    assert {one["host"]: one["id"] for one in found["holds"]} == {"web1": newest, "db9": "", "file": ""}
    assert found["replicas"] == {"web1": [newest], "db9": [], "file": []}
    assert [said.split(" in ")[0] for said in found["left"]] == ["the copies of db9", "the copies of file"]


def test_a_log_whose_beginning_is_missing_is_no_copy(store: Store, peer: Store, tree: Path) -> None:
    first = send(store, peer, tree, kind="log")
    (tree / "a").write_text("new")
    second = send(store, peer, tree, kind="log")
    assert held(peer).id == second
    Path(peer.join("replicas/web1/manifests", first)).unlink()
    assert (held(peer).id, held(peer).damaged) == ("", 2)


def test_a_checkpoint_of_logs_alone_is_not_the_newest(store: Store, peer: Store, tree: Path) -> None:
    whole = send(store, peer, tree)
    (tree / "a").write_text("new")
    send(store, peer, tree, name="logs")
    assert (held(peer).id, held(peer).count) == (whole, 2)


def test_no_content_and_no_line_of_a_manifest_is_read(
    store: Store, peer: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(store, peer, tree)

    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("it is read")

    monkeypatch.setattr(Manifest, "read", never)
    monkeypatch.setattr(type(peer.objects), "read", never)
    assert held(peer).count == 1
