# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heal of encrypted copies: bundles go from peer to peer as they are, and no peer can read one of them.

Most tests run the controller's half and the hosts' half in this process. The last one runs Ansible.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action import ft_replicate
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas, sealed, sealed_record
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._carry import Carrier
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import find

from .conftest import Fleet
from .test_encrypted_copies import KEY, MARKER, bundles, contents, replica
from .test_heal import Small, claims_place_of
from .test_replicate_recover import lose, recover, replicate, temporary


def send(small: Small, checkpoint: str, peers: list[str]) -> None:
    """What ft_replicate does: the same bundle to these peers, on the newest one that all of them have."""
    seals, source = small.seals("h1"), Store(str(small.own()), System())
    offered = replicas.offer(source, "h1", checkpoint)
    entry = {"id": offered.id, "host": offered.host, "name": offered.name, "created": offered.created}
    mac = small.keys("h1").mac("h1", entry)
    asking, path = seals.asking()["seal"]["key"], small.home / "sealed"
    stores = {peer: Store(str(small.home / peer), System()) for peer in peers}
    have = [sealed.have(store, "h1", checkpoint, asking).report() for store in stores.values()]
    (known,) = {seals.known(offered.held, one) for one in have}
    asked = seals.sealing(checkpoint, known)
    replicas.save(sealed.seal(source, "h1", checkpoint, asked["seal"], asked["secrets"][0]), str(path))
    for store in stores.values():
        told = {**seals.receiving(entry, known)["seal"], "mac": mac}
        with replicas.opened(str(path)) as incoming:
            sealed.receive(store, "h1", checkpoint, incoming, told)
    path.unlink()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Six hosts. h1 has two checkpoints, and h2 and h3 have encrypted copies of both."""
    monkeypatch.setattr(package, "leave", lambda *_any: None)
    fleet = Small(tmp_path, {f"h{number}": f"r{number}" for number in range(1, 7)}, key=KEY)
    data = tmp_path / "data-h1"
    data.mkdir()
    (data / "customers-of-ACME").write_bytes(MARKER * 20)
    (data / "large").write_bytes(MARKER * 9000)
    first = fleet.take()
    send(fleet, first, ["h2", "h3"])
    (data / "name").write_bytes(MARKER + b"second")
    send(fleet, fleet.take(), ["h2", "h3"])
    return fleet


def heal(small: Small, **options: Any) -> dict[str, Any]:
    """The heal of h1, which is gone, by a task of h6."""
    small.task = "h6"
    small.gone = {"h1"}
    return small.heal("h1", **options)


def ids(small: Small) -> list[str]:
    return Store(str(small.own()), System()).refs()["base"]


def whole(small: Small, one: str) -> list[str]:
    """The peers that would offer this checkpoint for a recovery, with a chain and a MAC of ours."""
    found = []
    for peer in sorted(small.racks):
        if small.copy(peer).is_dir():
            held = sealed.candidates(Store(str(small.home / peer), System()), "h1")
            opened = small.seals("h1").opened(json.loads(json.dumps([asdict(copy) for copy in held])))
            found += [
                peer for copy in opened if copy["id"] == one and copy["sealed"] and small.keys("h1").know("h1", copy)
            ]
    return found


def asdict(copy: Any) -> dict[str, Any]:
    return {**vars(copy), "sealed": vars(copy.sealed)}


def of(small: Small, peer: str, checkpoint: str) -> Path:
    """The bundle of a checkpoint on a peer."""
    known = sealed_record.records(Store(str(small.copy(peer)), System()))
    (sha,) = [sha for sha, one in known.items() if one.id == checkpoint]
    return small.copy(peer) / "sealed" / sha


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def listen(small: Small, peer: str) -> list[str]:
    """The phases of which a peer will be asked."""
    phases: list[str] = []

    def note(phase: str, _values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        phases.append(phase)
        return answer

    small.liars[peer] = note
    return phases


def shown(small: Small) -> bytes:
    """All that lies on peers."""
    files = [path for peer in small.racks if peer != "h1" for path in (small.home / peer).rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def test_whole_copies_are_proved_and_nothing_changes(small: Small) -> None:
    before = small.files()
    result = heal(small)
    assert not result["changed"] and not result.get("failed") and "warnings" not in result, result
    assert {(one["peer"], one["id"], one["state"]) for one in result["copies"]} == {
        (peer, one, "good") for peer in ("h2", "h3") for one in ids(small)
    }
    assert len(result["proved"]) == 2 and small.files() == before


@pytest.mark.parametrize("which", [0, 1], ids=["the base", "what builds on it"])
def test_a_damaged_bundle_is_put_aside_and_the_chain_goes_to_a_third_peer(small: Small, which: int) -> None:
    first, second = ids(small)
    path = of(small, "h2", [first, second][which])
    damage(path)
    result = heal(small)
    assert not result.get("failed"), result
    assert any(f"on h2 is damaged: the encrypted bundle {path.name[:12]}" in said for said in result["warnings"])
    assert not path.exists() and (small.copy("h2") / "quarantine" / path.name).exists()
    (third,) = set(whole(small, second)) - {"h3"}
    assert third not in ("h1", "h2") and f"on {third} from h3" in result["done"][0]
    assert len(whole(small, first)) >= 2
    again = heal(small)
    assert not again["changed"] and not again.get("failed"), again
    for word in (MARKER[:12], b"customers", b"large"):
        assert word not in shown(small)
    assert not list(small.home.glob("h[2-6]/replicas/h1/packs/*"))


def test_where_no_other_peer_is_left_it_is_rebuilt_where_it_lies(small: Small) -> None:
    first, second = ids(small)
    damage(of(small, "h2", first))
    small.gone = {"h1"}
    result = heal(small, peers=["h2", "h3"])
    assert not result.get("failed"), result
    assert all(said.startswith("rebuilt") for said in result["done"] if "put aside" not in said), result
    assert whole(small, first) == whole(small, second) == ["h2", "h3"]


def test_only_what_a_peer_lacks_is_sent(small: Small) -> None:
    second = ids(small)[1]
    damage(of(small, "h2", second))
    phases = listen(small, "h2")
    heal(small, peers=["h2", "h3"])
    assert whole(small, second) == ["h2", "h3"] and phases == ["possess", "land", "receive"]


def test_without_the_variable_no_peer_with_encrypted_copies_gets_a_plain_one(small: Small) -> None:
    before = small.files()
    small.key = None
    result = small.heal(peers=["h2", "h3"])
    assert result["failed"] and "0 of 2 copies" in result["msg"], result
    assert [one.split(" ")[0] for one in result["left"] if "it gets no plain copy" in one] == ["h2", "h3"]
    assert small.files() == before


@pytest.mark.parametrize("dead", [set(), {"h2", "h3"}], ids=["they are up", "they are down"])
def test_without_the_variable_no_other_peer_gets_a_plain_one(small: Small, dead: set[str]) -> None:
    replicas.note_encrypted(Store(str(small.own()), System()), "h1", True)
    before, small.key, small.dead = small.files(), None, dead
    result = small.heal()
    assert result["failed"] and "no peer gets a plain one" in result["msg"], result
    assert any("evenkeel_encryption_key is not set: no peer gets a plain copy" in one for one in result["left"])
    assert small.files() == before


@pytest.mark.parametrize("dead", [set(), {"h2", "h3"}], ids=["they are up", "they are down"])
def test_without_the_variable_a_host_whose_copies_are_encrypted_sends_none(small: Small, dead: set[str]) -> None:
    replicas.note_encrypted(Store(str(small.own()), System()), "h1", True)
    before, small.key, small.dead = small.files(), None, dead
    replication = placed(small)
    assert "no peer got a plain copy" in replication.broken and set(replication.entries) == {"h2", "h3"}
    assert small.files() == before
    small.dead = set()
    for peer in ("h2", "h3"):
        shutil.rmtree(small.copy(peer))
    replication = placed(small)
    assert not replication.broken and [one.state for one in replication.entries.values()] == ["verified"] * 2


def placed(small: Small) -> ft_replicate.Replication:
    """What ft_replicate does with two copies."""
    inventory: Any = small
    here: Any = small.here()
    carrier = Carrier("ft_replicate", "h1", lambda name: small.store(name, ""), checkpoint="latest", retention=None)
    offered = carrier.phase(here, "offer", encrypted=bool(small.seals("h1")))
    offered = {**offered, "mac": small.keys("h1").mac("h1", offered)}
    scratch = small.home / "scratch"
    scratch.mkdir(exist_ok=True)
    made = ft_replicate.Replication(
        inventory, "h1", here, carrier, offered, str(scratch), 60.0, "relay", small.seals("h1")
    )
    made.place(2, [peer for peer in small.racks if peer != "h1"], None)
    shutil.rmtree(scratch)
    return made


def test_plain_copies_on_purpose_are_made_once_no_peer_has_encrypted_ones(small: Small) -> None:
    replicas.note_encrypted(Store(str(small.own()), System()), "h1", True)
    small.key = None
    for peer in ("h2", "h3"):
        shutil.rmtree(small.copy(peer))
    result = small.heal()
    assert not result.get("failed") and len(small.holders(small.newest())) == 2, result
    assert not replicas.was_encrypted(Store(str(small.own()), System()), "h1")


def test_check_mode_says_what_would_be_done_and_changes_nothing(small: Small) -> None:
    damage(of(small, "h2", ids(small)[1]))
    before = small.files()
    small.check_mode = True
    result = heal(small)
    assert small.files() == before and result["done"] == []
    assert any(said.startswith("place ") for said in result["planned"]) and any(
        "put aside" in s for s in result["planned"]
    )


def claims(phase: str, _values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A peer that kept the records and none of the bundles."""
    for one in answer.get("candidates", []) if phase == "possess" else []:
        one.update(state="verified", detail="")
        one["sealed"]["proof"] = "ab" * 32
    return answer


@pytest.mark.parametrize("holders", [["h2", "h3"], ["h2", "h3", "h4", "h5"]])
def test_peers_that_claim_without_holding_are_named_even_where_they_are_more(small: Small, holders: list[str]) -> None:
    first, second = ids(small)
    liars = holders[1:]
    for peer in holders[2:]:
        shutil.copytree(small.copy("h2"), small.copy(peer))
    for peer in liars:
        shutil.rmtree(small.copy(peer) / "sealed")
        small.liars[peer] = claims
    phases = listen(small, "h2")
    result = heal(small)
    named = {said.split(" ")[0] for said in result["warnings"] if "does not hold what it claims" in said}
    assert named == set(liars), result
    assert not result.get("failed") and len(whole(small, second)) == len(whole(small, first)) == 2
    assert {one["state"] for one in result["copies"] if one["peer"] in liars} == {"false"}
    # One bundle to see who lies, and both once for the new peer.
    assert phases.count("export") == 3


def test_a_false_size_keeps_the_controller_from_no_bundle_of_another_peer(small: Small) -> None:
    """The tag of a record proves no size: two peers that claim another one, too, are no majority that decides."""
    first, second = ids(small)

    def smaller(phase: str, values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        answer = claims(phase, values, answer)
        for one in answer.get("candidates", []):
            one["sealed"]["size"] -= 1
        return answer

    for peer in ("h4", "h5"):
        shutil.copytree(small.copy("h2"), small.copy(peer))
    for peer in ("h3", "h4", "h5"):
        shutil.rmtree(small.copy(peer) / "sealed")
        small.liars[peer] = smaller
    result = heal(small)
    named = {said.split(" ")[0] for said in result["warnings"] if "does not hold what it claims" in said}
    assert named == {"h3", "h4", "h5"}, result
    assert not any("h2 gave another bundle" in said for said in result["left"])
    assert not result.get("failed") and len(whole(small, second)) == len(whole(small, first)) == 2


def test_a_peer_that_gives_another_bundle_is_not_passed_on(small: Small) -> None:
    """It proves what it has, and hands out something else."""
    first, second = ids(small)
    shutil.rmtree(small.copy("h2"))

    def other(phase: str, _values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if phase == "export":
            damage(Path(answer["path"]))
        return answer

    small.liars["h3"] = other
    result = heal(small)
    assert result["failed"] and "1 of 2 copies" in result["msg"], result
    assert any("h3 gave another bundle" in said for said in result["left"])
    assert whole(small, first) == whole(small, second) == ["h3"]


def test_copies_that_no_key_reads_do_not_count_and_that_is_said(small: Small) -> None:
    small.key = "another key, long enough to be a key of ours"
    before = small.files()
    result = heal(small)
    assert "no key of evenkeel_encryption_key" in "; ".join(result["left"]), result
    assert result["warnings"] == ["no peer that was reached has an encrypted copy of h1 that counts"]
    assert result["copies"] == [] and small.files() == before


def test_the_newest_of_a_host_that_is_there_is_left_to_ft_replicate(small: Small) -> None:
    first, second = ids(small)
    for one in (first, second):
        damage(of(small, "h2", one))
    result = small.heal()
    assert result["failed"] and "ft_replicate sends it again" in result["msg"], result
    assert whole(small, second) == ["h3"] and len(whole(small, first)) == 2


def test_a_lost_mac_is_kept_again(small: Small) -> None:
    second = ids(small)[1]
    (small.copy("h2") / "macs" / second).unlink()
    assert whole(small, second) == ["h3"]
    result = heal(small)
    assert result["done"] == ["kept the MAC of 1 copies of h1 on h2"], result
    assert whole(small, second) == ["h2", "h3"]


def test_the_newest_is_always_read_and_the_rest_as_far_as_there_is_time(small: Small) -> None:
    (small.home / "data-h1" / "large").unlink()
    small.key = "another key, long enough to be a key of ours"  # so that it builds on nothing
    third = small.take()
    send(small, third, ["h2", "h3"])
    small.seals = lambda owner: find([KEY, "another key, long enough to be a key of ours"], owner)  # type: ignore[method-assign]
    result = heal(small, time_limit="0s")
    states = {(one["id"], one["state"]) for one in result["copies"]}
    assert states == {(third, "good"), *((one, "unread") for one in ids(small) if one != third)}, result


@pytest.mark.long
def test_the_copies_of_a_host_that_is_gone_are_healed_by_ansible_and_the_host_comes_back(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        host["evenkeel_encryption_key"] = KEY
    (fleet.directory("h1") / "data" / "customers-of-ACME").write_bytes(MARKER * 20)
    (fleet.directory("h1") / "data" / "large").write_bytes(MARKER * 9000)
    before = contents(fleet.directory("h1") / "data")
    run = replicate(fleet, copies=2)
    first, second = (one["peer"] for one in run.results["h1"]["copies"])
    damage(bundles(fleet, first)[0])
    gone = fleet.hosts.pop("h1")
    task = {"peers": "all", "store": "{{ evenkeel_store }}", "orphans": True}
    run = fleet.play([{"evenkeel.fault_tolerance.ft_heal": task}], "h2")
    (third,) = set(fleet.hosts) - {first, second}
    said = "; ".join(run.results["h2"]["done"])
    assert f"on {third} from {second}" in said and bundles(fleet, third), run.output
    for peer in fleet.hosts:
        on_disk = b"".join(name.encode() + data for name, data in contents(replica(fleet, peer)).items())
        for word in (MARKER[:12], b"customers", b"large", b"packs"):
            assert word not in on_disk, (peer, word)
    assert not temporary(fleet) and KEY not in run.output
    shutil.rmtree(replica(fleet, second))
    fleet.hosts["h1"] = gone
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 0 and run.results["h1"]["source"] == third, run.output
    assert contents(fleet.directory("h1") / "data") == before


def test_the_owner_under_another_name_gets_no_encrypted_copy_of_its_own(small: Small) -> None:
    small.racks = {name: name for name in ("h1", "h2", "h3", "h9")}
    small.names = {"h9": "h1"}
    told = small.heal(copies=3)
    assert not (small.own() / "replicas" / "h1").exists()
    assert any("h9 does not count: it is h1 under another name, by its store" in said for said in told["left"])


def test_a_peer_that_claims_the_store_of_another_costs_no_copy_in_a_replication_or_a_heal(small: Small) -> None:
    """The liar is asked first, and claims the store of each other host in turn."""
    first = placed(small)
    order = list(first.entries)
    for honest in ("h1", *order[1:]):
        small.liars = {order[0]: claims_place_of(small, honest)}
        replication = placed(small)
        assert [one.state for one in replication.entries.values()] == ["verified"] * 2, replication.entries
        told = small.heal()
        assert not told.get("failed") and not any("under another name" in said for said in told["left"])


def test_a_peer_that_nobody_can_tell_from_others_gets_no_copy_that_counts(small: Small) -> None:
    first = next(iter(placed(small).entries))
    for name in (first, "h1"):  # The owner's own may be lost: its checkpoints are worth a copy all the more.
        (small.home / name / "secret").unlink()
        (small.home / name / "secret").mkdir()
    replication = placed(small)
    assert replication.entries[first].state == "failed" and "nobody can tell" in replication.entries[first].detail
    assert [one.state for one in replication.entries.values()].count("verified") == 2
    assert any("nobody can tell the store" in said for said in replication.offered["lacking"])
