# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies that are encrypted before they leave their host: what a peer's disk shows, and what a peer can do to them."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas, sealed, sealed_record
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.modules import ft_replicate
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _direct

from .conftest import Fleet
from .test_guard import NOWHERE
from .test_replicate_recover import killed, lose, recover, replicate, temporary

KEY = "correct horse battery staple, and more of it"
MARKER = b"the password of the bank is swordfish"


@pytest.fixture
def fleet(fleet: Fleet) -> Fleet:
    for host in fleet.hosts.values():
        host["evenkeel_encryption_key"] = KEY
    secret = fleet.directory("h1") / "data" / "customers-of-ACME"
    secret.write_bytes(MARKER * 20)
    (fleet.directory("h1") / "data" / "large").write_bytes(MARKER * 9000)
    return fleet


def peer_of(run: Any) -> str:
    return str(run.results["h1"]["copies"][0]["peer"])


def replica(fleet: Fleet, peer: str, owner: str = "h1") -> Path:
    return fleet.directory(peer) / "store" / "replicas" / owner


def bundles(fleet: Fleet, peer: str) -> list[Path]:
    return sorted((replica(fleet, peer) / "sealed").iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def rewrite(path: Path, **values: Any) -> None:
    """Change a record, and its own hash with it."""
    line = json.dumps({**json.loads(path.read_bytes().split(b"\n")[0]), **values}, sort_keys=True).encode()
    path.chmod(0o600)
    path.write_bytes(line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")


def test_a_peers_disk_shows_no_content_and_no_name_and_the_host_comes_back(fleet: Fleet) -> None:
    before = contents(fleet.directory("h1") / "data")
    run = replicate(fleet, copies=2)
    assert run.rc == 0, run.output
    for copy in run.results["h1"]["copies"]:
        shown = b"".join(name.encode() + data for name, data in contents(replica(fleet, copy["peer"])).items())
        assert len(shown) > 300_000
        for word in (MARKER[:12], b"customers", b"large", b"data/", b"name base", bytes(str(fleet.home), "ascii")):
            assert word not in shown, word
        (bundle,) = bundles(fleet, copy["peer"])
        assert bundle.stat().st_mode & 0o777 == 0o400
        assert hashlib.sha256(bundle.read_bytes()).hexdigest() == bundle.name
    assert KEY not in run.output
    again = replicate(fleet, copies=2)
    assert again.results["h1"]["changed"] is False
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 0, run.output
    assert contents(fleet.directory("h1") / "data") == before
    assert not temporary(fleet)


@pytest.mark.long
def test_what_is_new_travels_alone_and_every_checkpoint_comes_back(fleet: Fleet) -> None:
    data = fleet.directory("h1") / "data"
    first = replicate(fleet, copies=1).results["h1"]
    (data / "name").write_text("second")
    (data / "large").unlink()
    second = replicate(fleet, copies=1)
    peer, states = peer_of(second), contents(data)
    small, large = sorted(path.stat().st_size for path in bundles(fleet, peer))
    assert small < 5000 < 300_000 < large
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 0 and contents(data) == states, run.output
    run = recover(fleet, checkpoint=first["id"])
    assert run.rc == 0 and (data / "name").read_text() == "I am h1\n" and (data / "large").stat().st_size > 300_000


@pytest.mark.long
def test_without_the_key_or_with_another_one_nothing_changes_and_it_is_said(fleet: Fleet) -> None:
    replicate(fleet, copies=1)
    lose(fleet)
    for key, said in ((None, "evenkeel_encryption_key is not set"), ("f" * 32, "no key of evenkeel_encryption_key")):
        fleet.hosts["h1"].pop("evenkeel_encryption_key")
        if key:
            fleet.hosts["h1"]["evenkeel_encryption_key"] = key
        run = recover(fleet)
        assert run.rc == 2 and run.results["h1"]["error"] == "NotFound", run.output
        assert "locked" in run.results["h1"]["msg"] and said in run.results["h1"]["msg"]
        assert not (fleet.directory("h1") / "data").exists()
        fleet.hosts["h1"]["evenkeel_encryption_key"] = KEY
    assert recover(fleet).rc == 0


@pytest.mark.long
@pytest.mark.parametrize("wrong", ["", "short"])
def test_a_malformed_key_sends_nothing(fleet: Fleet, wrong: Any) -> None:
    fleet.hosts["h1"]["evenkeel_encryption_key"] = wrong
    run = replicate(fleet, copies=1)
    assert run.rc == 2 and "a key is a text of 32 characters" in run.results["h1"]["msg"]
    assert not list(fleet.home.glob("*/store/replicas"))


@pytest.mark.long
def test_a_key_is_replaced_by_a_list(fleet: Fleet) -> None:
    first = replicate(fleet, copies=1).results["h1"]
    fleet.hosts["h1"]["evenkeel_encryption_key"] = ["n" * 40, KEY]
    again = replicate(fleet, copies=1)
    assert again.results["h1"]["id"] == first["id"] and again.results["h1"]["changed"] is True
    records = [json.loads(one.read_bytes().split(b"\n")[0]) for one in replica(fleet, peer_of(again)).glob("records/*")]
    assert len({one["key"] for one in records}) == 2 and {one["base"] for one in records} == {""}
    fleet.hosts["h1"]["evenkeel_encryption_key"] = "n" * 40
    lose(fleet)
    assert recover(fleet).rc == 0


@pytest.mark.long
def test_plain_copies_do_not_count_once_there_is_a_key_and_none_is_sent_where_there_is_none_any_more(
    fleet: Fleet,
) -> None:
    del fleet.hosts["h1"]["evenkeel_encryption_key"]
    peer = peer_of(replicate(fleet, copies=1))
    fleet.hosts["h1"]["evenkeel_encryption_key"] = KEY
    run = replicate(fleet, copies=1)
    assert run.rc == 0 and run.results["h1"]["changed"] is True and len(bundles(fleet, peer)) == 1
    (warning,) = run.results["h1"]["warnings"]
    assert f"lie on {peer} (1)" in warning and "replicas/h1" in warning
    del fleet.hosts["h1"]["evenkeel_encryption_key"]
    (fleet.directory("h1") / "data" / "name").write_text("second")
    before = contents(replica(fleet, peer))
    (fleet.directory("h1") / "store" / "encrypted" / "h1").unlink()
    run = replicate(fleet, copies=3)
    assert run.rc == 2 and f"{peer} ({peer}): failed, it holds encrypted copies" in run.results["h1"]["msg"]
    assert contents(replica(fleet, peer)) == before


@pytest.mark.long
def test_a_key_that_is_missing_by_mistake_sends_no_plain_copy_to_any_peer(fleet: Fleet) -> None:
    peer = peer_of(replicate(fleet, copies=1))
    others = [host for host in fleet.hosts if host not in ("h1", peer)]
    del fleet.hosts["h1"]["evenkeel_encryption_key"]
    (fleet.directory("h1") / "data" / "name").write_text("second")
    for more in ({}, NOWHERE):  # Once it is up and refuses, once it is down.
        fleet.hosts[peer].update(more)
        for words in (["--check"], []):
            run = replicate(fleet, "h1", *words, copies=1)
            assert run.rc == 2 and "no peer got a plain copy" in run.results["h1"]["msg"], run.output
            assert [one["peer"] for one in run.results["h1"]["copies"]] == [peer]
        assert not any(replica(fleet, other).exists() for other in others)
    # What docs/copies.md says of plain copies on purpose.
    for key in NOWHERE:
        del fleet.hosts[peer][key]
    shutil.rmtree(replica(fleet, peer))
    run = replicate(fleet, copies=2)
    assert run.rc == 0 and {one["state"] for one in run.results["h1"]["copies"]} == {"verified"}, run.output
    assert not (fleet.directory("h1") / "store" / "encrypted" / "h1").exists()


@pytest.mark.long
def test_a_host_that_was_recovered_from_encrypted_copies_knows_that_they_are(fleet: Fleet) -> None:
    replicate(fleet, copies=1)
    lose(fleet)
    assert recover(fleet).rc == 0
    assert (fleet.directory("h1") / "store" / "encrypted" / "h1").exists()


@pytest.mark.long
def test_a_peer_can_neither_alter_nor_mix_nor_exchange_bundles(fleet: Fleet) -> None:
    """Each of them changes what it holds so that its own hashes agree. One of them is left as it was."""
    first = replicate(fleet, copies=3).results["h1"]
    (fleet.directory("h1") / "data" / "name").write_text("second")
    second = replicate(fleet, copies=3).results["h1"]
    peers = [one["peer"] for one in second["copies"]]
    states = contents(fleet.directory("h1") / "data")
    lose(fleet)
    # A flipped bit, under the name that it has now, in the place of the old one.
    folder = replica(fleet, peers[0])
    for path in (folder / "records").iterdir():
        values = json.loads(path.read_bytes().split(b"\n")[0])
        if values["id"] == second["id"]:
            data = bytearray((folder / "sealed" / path.name).read_bytes())
            data[40] ^= 1
            name = hashlib.sha256(data).hexdigest()
            (folder / "sealed" / name).write_bytes(data)
            rewrite(path, sha256=name)
            path.rename(path.with_name(name))
    # The newest checkpoint 'builds' on nothing, the older one is named as the newest.
    for path in (replica(fleet, peers[1]) / "records").iterdir():
        newest = json.loads(path.read_bytes().split(b"\n")[0])["id"] == second["id"]
        rewrite(path, **({"base": ""} if newest else {"id": second["id"]}))
    run = recover(fleet)
    assert run.rc == 0, run.output
    result = run.results["h1"]
    assert result["source"] == peers[2] and result["id"] == second["id"]
    assert contents(fleet.directory("h1") / "data") == states
    found = {(one["peer"], one["id"]): (one["state"], one["detail"]) for one in result["candidates"]}
    assert found[peers[0], second["id"]][0] == "damaged" and "not the one" in found[peers[0], second["id"]][1]
    assert found[peers[0], first["id"]][0] == "verified"
    assert [one["state"] for one in result["candidates"] if one["peer"] == peers[1]] == ["damaged"] * 2


@pytest.mark.long
def test_a_peer_cannot_pass_off_the_copy_of_another_host(fleet: Fleet) -> None:
    peer = peer_of(replicate(fleet, copies=1))
    other = next(host for host in fleet.hosts if host not in ("h1", peer))
    replicate(fleet, other, copies=3)
    shutil.rmtree(replica(fleet, peer))
    shutil.copytree(replica(fleet, peer, other), replica(fleet, peer))
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 2 and not (fleet.directory("h1") / "data").exists()
    assert [one["state"] for one in run.results["h1"]["candidates"] if one["peer"] == peer] == ["locked"]


@pytest.mark.long
def test_a_scrub_finds_a_flipped_bit_without_the_key_and_it_is_sent_anew(fleet: Fleet) -> None:
    peer = peer_of(replicate(fleet, copies=1))
    (bundle,) = bundles(fleet, peer)
    data = bytearray(bundle.read_bytes())
    data[1000] ^= 1
    bundle.chmod(0o600)
    bundle.write_bytes(data)
    for host in fleet.hosts.values():
        del host["evenkeel_encryption_key"]
    run = fleet.play([{"evenkeel.fault_tolerance.ft_scrub": {"store": "{{ evenkeel_store }}"}}], peer)
    assert run.rc == 2
    (damage,) = run.results[peer]["damaged"]
    assert (damage["host"], damage["kind"], damage["id"]) == ("h1", "sealed", bundle.name)
    assert not bundle.exists() and (replica(fleet, peer) / "quarantine" / bundle.name).exists()
    fleet.hosts["h1"]["evenkeel_encryption_key"] = KEY
    assert replicate(fleet, copies=1).rc == 0
    run = fleet.play([{"evenkeel.fault_tolerance.ft_scrub": {"store": "{{ evenkeel_store }}"}}], peer)
    assert run.rc == 0 and run.results[peer]["stats"]["bytes"] > 300_000


@pytest.mark.long
def test_a_bundle_goes_from_peer_to_peer_without_the_key(fleet: Fleet, tmp_path: Path) -> None:
    """For a heal: the other peer hashes it, and the controller knows it again."""
    (fleet.directory("h1") / "data" / "more").write_text("second")
    peer = peer_of(replicate(fleet, copies=1))
    other = next(host for host in fleet.hosts if host not in ("h1", peer))
    source, target = (Store(str(fleet.directory(name) / "store"), System()) for name in (peer, other))
    (copy,) = sealed.candidates(source, "h1")
    assert copy.sealed is not None
    record = sealed_record.records(Store(str(replica(fleet, peer)), System()))[copy.sealed.sha256]
    path = tmp_path / "bundle"
    replicas.save(sealed.pass_on(source, "h1", record.sha256), str(path))
    told = {**{key: getattr(record, key) for key in ("nonce", "key", "group", "created", "card")}, "mac": copy.mac}
    with replicas.opened(str(path)) as incoming:
        sealed.receive(target, "h1", copy.id, incoming, told)
    shutil.rmtree(replica(fleet, peer))
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 0 and run.results["h1"]["source"] == other, run.output


@pytest.mark.long
def test_what_a_killed_run_leaves_on_its_way_is_encrypted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = killed(fleet, monkeypatch)
    data = bundle.read_bytes()
    assert len(data) > 300_000 and data.startswith(b"Salted__") and MARKER[:12] not in data and b"customers" not in data


@pytest.mark.parametrize("direct", [True, False])
def test_no_answer_of_a_call_shows_a_secret(direct: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The controller prints the answers of hosts where it is asked to (-vvv)."""
    call: dict[str, Any] = {"_phase": "discard", "_values": {"path": str(tmp_path / "no")}, "_secrets": ["5ec4e7" * 9]}
    call |= {"peers": [], "store": str(tmp_path / "store")}
    if direct:
        asked = {"name": "replicate", "library": "", "arguments": call, "check": False, "diff": False, "log": True}
        program = _direct.program({**asked, "mark": "m"}) + _direct.archive("replicate", "bz2")
        subprocess.run([sys.executable, *shlex.split(_direct._OPTIONS)], input=program, check=True)
    else:
        with patch_module_args(call), pytest.raises(SystemExit):
            ft_replicate.main()
    said = capfd.readouterr().out
    assert '"invocation": ' in said and "5ec4e7" not in said
