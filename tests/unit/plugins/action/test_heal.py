# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a host in directories: each kind of damage is found and healed, and nothing is ever deleted.

Most tests run the controller's half and the hosts' half in this process. The last ones run Ansible.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action import ft_heal
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.every import call
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import package
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import retention, whereabouts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects, Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Seals, find
from flows import checkpoint, rollback

from .conftest import Fleet
from .test_replicate_recover import replicate, temporary

OPTIONS, WORK = call("heal")
Twist = Callable[[str, Mapping[str, Any], dict[str, Any]], dict[str, Any]]


@dataclass
class Peer:
    """A host of the small fleet, as the controller reaches it. twist: what it answers instead."""

    name: str
    home: Path
    check_mode: bool
    twist: Twist | None = None

    def module(self, _name: str, /, **arguments: Any) -> dict[str, Any]:
        params = {name: option.get("default") for name, option in OPTIONS.items()} | arguments
        try:
            result = WORK(params, self.check_mode).report()
        except EvenkeelError as error:
            result = {"failed": True, "msg": error.message, "error": error.code, **error.result}
        except OSError as error:
            result = {"failed": True, "msg": str(error), "error": "OSError"}
        answer: dict[str, Any] = json.loads(json.dumps(result))
        return self.twist(arguments["_phase"], arguments["_values"], answer) if self.twist else answer

    def directory(self) -> str:
        return str(self.home)

    def put(self, local: str, remote: str) -> None:
        shutil.copyfile(local, remote)

    fetch = put


@dataclass
class Small:
    """A fleet in this process: the part of ``Inventory`` that a heal uses."""

    home: Path
    racks: dict[str, str]
    dead: set[str] = field(default_factory=set)
    liars: dict[str, Twist] = field(default_factory=dict)
    task: str = "h1"
    check_mode: bool = False
    gone: set[str] = field(default_factory=set)
    key: str | None = None
    # Another name of a host -> the host.
    names: dict[str, str] = field(default_factory=dict)

    @property
    def predicts(self) -> bool:
        return self.check_mode

    def here(self) -> Peer:
        return Peer(self.task, self.home, self.check_mode, self.liars.get(self.task))

    def has(self, name: str) -> bool:
        return name in self.racks and name not in self.gone

    def hosts_of(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.has(name)]

    def store(self, name: str, _given: str) -> str:
        return str(self.home / self.names.get(name, name))

    def keys(self, _owner: str) -> Keys:
        return Keys(["k" * 32], "a test")

    def seals(self, owner: str) -> Seals:
        return find(self.key, owner)

    def variable(self, name: str, _variable: str) -> str:
        return self.racks[name]

    def each(self, names: Iterable[str], work: Callable[[Any], Any], _timeout: float) -> dict[str, Any]:
        lost = {"unreachable": True, "msg": "no route"}
        return {
            name: lost if name in self.dead else work(Peer(name, self.home, self.check_mode, self.liars.get(name)))
            for name in dict.fromkeys(names)
        }

    # What tests do and ask.

    def heal(self, owner: str | None = None, **options: Any) -> dict[str, Any]:
        defaults = {name: option.get("default") for name, option in ft_heal.ARGUMENTS.items()}
        params = {**defaults, "store": "", "peers": sorted(self.racks), "failure_domain": "rack", **options}
        inventory: Any = self
        healing = ft_heal.Healing(inventory, params, self.check_mode)
        scratch = self.home / "scratch"
        scratch.mkdir(exist_ok=True)
        healing.heal(owner or self.task, owner is None, str(scratch))
        assert list(scratch.iterdir()) == [], "a bundle was left"
        return dict(healing.result())

    def heal_orphans(self, everyone: set[str], present: set[str]) -> dict[str, Any]:
        inventory: Any = self
        defaults = {name: option.get("default") for name, option in ft_heal.ARGUMENTS.items()}
        params = {**defaults, "store": "", "peers": sorted(self.racks), "failure_domain": "rack"}
        healing = ft_heal.Healing(inventory, params, self.check_mode)
        healing.heal_orphans((everyone, present), str(self.home / "scratch"))
        return dict(healing.result())

    def own(self, host: str = "h1") -> Path:
        return self.home / host

    def copy(self, peer: str, owner: str = "h1") -> Path:
        return self.home / peer / "replicas" / owner

    def take(self, owner: str = "h1", name: str = "base") -> str:
        """A checkpoint of small contents and large ones."""
        store = Store(str(self.home / owner), System())
        paths = [str(self.home / f"data-{owner}")]
        return str(checkpoint(store, name, [{"files": {"paths": paths}}], host=owner)["id"])

    def holders(self, one: str, owner: str = "h1") -> list[str]:
        """The peers that would offer this checkpoint for a recovery, each after a reading of its own."""
        found = []
        for peer in sorted(self.racks):
            if peer != owner and peer not in self.dead and self.copy(peer, owner).is_dir():
                held = replicas.candidates(Store(str(self.home / peer), System()), owner).candidates
                found += [peer for copy in held if copy.id == one and copy.state == "verified" and copy.mac]
        return found

    def newest(self) -> str:
        """The newest checkpoint of h1."""
        return Store(str(self.own()), System()).refs()["base"][-1]

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.home.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Six hosts in three racks. h1 has a checkpoint, and two copies of it."""
    monkeypatch.setattr(package, "leave", lambda *_any: None)
    fleet = Small(tmp_path, {f"h{number}": f"r{(number + 1) // 2}" for number in range(1, 7)})
    data = tmp_path / "data-h1"
    data.mkdir()
    (data / "name").write_text("I am h1\n")
    (data / "more").write_text("also small\n")
    (data / "big").write_bytes(random.Random(1).randbytes(200_000))
    fleet.take()
    assert len(fleet.heal()["done"]) == 2
    return fleet


def one(place: Path, pattern: str) -> Path:
    found = sorted(path for path in place.glob(pattern) if path.is_file())[0]
    found.chmod(0o600)
    return found


def flip(pattern: str, at: int = -3) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        path = one(place, pattern)
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)

    return damage


def cut(pattern: str, to: int) -> Callable[[Path], None]:
    return lambda place: os.truncate(one(place, pattern), to)


def delete(pattern: str) -> Callable[[Path], None]:
    return lambda place: one(place, pattern).unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "bit flip in an object": flip("objects/*/*"),
    "bit flip in a pack": flip("packs/*.pack"),
    "bit flip in a manifest": flip("manifests/*"),
    "bit flip in the first bytes of a manifest": flip("manifests/*", 1),
    "truncated object": cut("objects/*/*", 1000),
    "empty object": cut("objects/*/*", 0),
    "truncated pack": cut("packs/*.pack", 40),
    "empty pack": cut("packs/*.pack", 0),
    "truncated manifest": cut("manifests/*", 100),
    "empty manifest": cut("manifests/*", 0),
    "deleted object": delete("objects/*/*"),
    "deleted pack": delete("packs/*.pack"),
    "deleted manifest": delete("manifests/*"),
    "object and manifest deleted": lambda place: (delete("objects/*/*")(place), delete("manifests/*")(place))[-1],
    "all contents deleted": lambda place: list(map(shutil.rmtree, (place / "objects", place / "packs"))).clear(),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("victim", ["a peer", "the owner"])
def test_each_kind_of_damage_on_any_one_copy_is_found_and_healed(small: Small, kind: str, victim: str) -> None:
    newest = small.newest()
    holders = small.holders(newest)
    host = "h1" if victim == "the owner" else holders[0]
    place = small.own() if victim == "the owner" else small.copy(host)
    DAMAGES[kind](place)
    result = small.heal()
    assert not result.get("failed"), result
    (said,) = result["warnings"]
    assert newest[:12] in said and f"on {host} was damaged" in said and "rebuilt from" in said
    source = said.rpartition(" ")[2]
    assert source != host and source in ("h1", *holders)
    assert small.holders(newest) == holders
    own = Store(str(small.own()), System())
    assert own.verify(own.manifest(newest)) == {}
    # What was bad was put aside, not deleted; and all is well now.
    if "deleted" not in kind:
        assert list((place / "quarantine").iterdir())
    again = small.heal()
    assert not again["changed"] and "warnings" not in again, again


def test_a_pack_that_is_damaged_beside_its_contents_is_written_anew(small: Small) -> None:
    """Its index still finds them; without the index they would be lost."""
    newest, (peer, _other) = ids(small)
    flip("packs/*.pack", 3)(small.copy(peer))
    result = small.heal()
    assert "warnings" not in result and result["done"][0].startswith(f"{peer}: put aside pack"), result
    for index in small.copy(peer).glob("packs/*.idx"):
        index.unlink()
    assert peer in small.holders(newest) and not small.heal()["changed"]


def test_what_the_owner_lost_is_restorable_again(small: Small) -> None:
    DAMAGES["all contents deleted"](small.own())
    small.heal()
    (small.home / "data-h1" / "big").write_bytes(b"")
    rollback(Store(str(small.own()), System()), "base")
    assert (small.home / "data-h1" / "big").stat().st_size == 200_000


def test_a_store_that_holds_nothing_gets_its_checkpoints_back_the_oldest_first(small: Small) -> None:
    first = small.newest()
    (small.home / "data-h1" / "name").write_text("second\n")
    second = small.take()
    small.heal()
    shutil.rmtree(small.own())
    result = small.heal()
    assert not result.get("failed") and "its store was empty" in result["warnings"][0], result
    assert Store(str(small.own()), System()).refs() == {"base": [first, second]}


def test_a_store_that_is_new_gets_its_older_checkpoints_back_and_its_newest_stays_the_newest(small: Small) -> None:
    first = small.newest()
    shutil.rmtree(small.own())
    (small.home / "data-h1" / "name").write_text("bare\n")
    bare = small.take()
    result = small.heal()
    assert not result.get("failed") and "its store is new or was lost" in "".join(result["warnings"]), result
    store = Store(str(small.own()), System())
    assert store.refs() == {"base": [first, bare]} and store.resolve("latest") == bare
    assert not small.heal()["changed"]


def test_an_older_copy_that_a_peer_has_kept_is_not_brought_to_a_store_that_has_its_own_before_the_newest(
    small: Small,
) -> None:
    first = small.newest()
    for text in ("second", "third"):
        (small.home / "data-h1" / "name").write_text(f"{text}\n")
        small.take()
    store = Store(str(small.own()), System())
    store.prune("base", retention.Policy({"last": 2}, 0.0), set())
    small.heal()
    assert first not in store.refs()["base"] and len(small.holders(first)) == 2


def test_a_stale_replica_and_a_lost_one_are_brought_up_to_date(small: Small) -> None:
    first = small.newest()
    stale, lost = small.holders(first)
    shutil.copytree(small.copy(stale), small.home / "kept", symlinks=True)
    (small.home / "data-h1" / "name").write_text("second\n")
    second = small.take()
    small.heal()
    assert small.holders(second) == [stale, lost]
    shutil.rmtree(small.copy(stale))
    shutil.move(small.home / "kept", small.copy(stale))
    shutil.rmtree(small.copy(lost))
    assert small.holders(second) == []
    result = small.heal()
    assert not result.get("failed") and small.holders(second) == small.holders(first) == [stale, lost]


@pytest.mark.parametrize("how", ["deleted", "garbled"])
def test_a_mac_that_is_gone_is_kept_again_so_that_a_recovery_knows_the_copy(small: Small, how: str) -> None:
    newest = small.newest()
    holders = small.holders(newest)
    path = small.copy(holders[0]) / "macs" / newest
    path.unlink() if how == "deleted" else path.write_text("f" * 64)
    result = small.heal()
    assert result["done"] == [f"kept the MAC of 1 copies of h1 on {holders[0]}"], result
    assert small.holders(newest) == holders and not small.heal()["changed"]


def test_the_only_good_copy_heals_all_others(small: Small) -> None:
    """As a cluster that healed only where a part was bad, and failed where another was missing altogether."""
    newest = small.newest()
    good, missing = small.holders(newest)
    DAMAGES["bit flip in a manifest"](small.own())
    shutil.rmtree(small.copy(missing))
    result = small.heal()
    assert not result.get("failed") and all(said.endswith(f"from {good}") for said in result["done"][:1]), result
    assert small.holders(newest) == [good, missing]
    own = Store(str(small.own()), System())
    assert own.verify(own.manifest(newest)) == {}


def test_without_a_good_copy_nothing_is_deleted_and_the_loss_is_named(small: Small) -> None:
    newest = small.newest()
    for place in [small.own(), *map(small.copy, small.holders(newest))]:
        DAMAGES["bit flip in a pack"](place)
    before = small.files()
    result = small.heal()
    assert result["failed"] and result["error"] == "Damaged" and newest[:12] in result["msg"]
    kept = set(small.files().values())
    assert all(data in kept for path, data in before.items() if not path.endswith(".idx"))
    # The pieces are enough once another host is back with the rest: nothing was given up.
    assert Store(str(small.own()), System()).refs() == {"base": [newest]}


def test_check_mode_says_what_would_be_done_and_changes_nothing(small: Small) -> None:
    newest = small.newest()
    first, second = small.holders(newest)
    DAMAGES["bit flip in an object"](small.copy(first))
    shutil.rmtree(small.copy(second))
    before = small.files()
    small.check_mode = True
    result = small.heal()
    assert small.files() == before and result["done"] == [] and not result.get("failed")
    place, rebuild, aside = sorted(result["planned"], key=lambda said: (":" in said.split(" ")[0], said))
    assert place.startswith("place ") and rebuild.startswith("rebuild ") and f"on {first} from h1" in rebuild
    assert aside.startswith(f"{first}: put aside object")
    small.check_mode = False
    assert small.heal()["planned"] and small.holders(newest) == [first, second]


# -- peers that lie


def ids(small: Small) -> tuple[str, list[str]]:
    newest = small.newest()
    return newest, small.holders(newest)


def claims(proof: Callable[[str], str]) -> Twist:
    """A peer without the contents that says that it has proved them."""

    def twist(phase: str, values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if phase == "prove":
            for entry in answer["held"]:
                entry.update(state="proved", proof=proof(values["nonce"]), detail="")
        return answer

    return twist


@pytest.mark.parametrize("lie", ["made up", "replayed"])
def test_a_peer_that_does_not_hold_what_it_claims_is_found_and_another_one_gets_a_copy(small: Small, lie: str) -> None:
    newest, (liar, honest) = ids(small)
    if lie == "replayed":
        heard: list[str] = []

        def hear(phase: str, _values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
            heard.extend(entry["proof"] for entry in answer.get("held", ()) if phase == "prove")
            return answer

        small.liars[liar] = hear
        assert not small.heal()["changed"]
        small.liars[liar] = claims(lambda _nonce: heard[0])
    else:
        small.liars[liar] = claims(lambda nonce: nonce)
    shutil.rmtree(small.copy(liar) / "packs")
    result = small.heal()
    assert not result.get("failed"), result
    assert f"{liar} does not hold what it claims" in result["warnings"][0]
    (copied,) = [copy for copy in result["copies"] if copy["peer"] == liar]
    assert copied["state"] == "false"
    held = small.holders(newest)
    assert honest in held and liar not in held and len(held) == 2
    assert len({small.racks[peer] for peer in held}) == 2


def test_a_name_without_contents_is_no_copy(small: Small) -> None:
    """A peer that lost or dropped the contents, and kept the names."""
    newest, (liar, _honest) = ids(small)
    for name in ("packs", "objects", "manifests"):
        shutil.rmtree(small.copy(liar) / name)
        (small.copy(liar) / name).mkdir(0o700)
    result = small.heal()
    assert f"on {liar} was damaged" in result["warnings"][0] and liar in small.holders(newest)


def test_of_an_owner_that_is_gone_most_proofs_decide_and_without_a_majority_neither_counts(small: Small) -> None:
    newest, _holders = ids(small)
    small.heal(copies=3)
    three = small.holders(newest)
    small.dead.add("h1")
    small.task = three[0]
    small.liars[three[1]] = claims(lambda nonce: nonce)
    result = small.heal("h1")
    assert f"{three[1]} does not hold what it claims" in result["warnings"][0] and not result.get("failed")
    # One says this, the other that: nobody can tell, and a third one gets what turns out to be whole.
    shutil.rmtree(small.copy(three[2]))
    result = small.heal("h1", copies=1)
    assert sum("disagree" in said for said in result["warnings"]) == 2
    (placed,) = result["done"]
    assert not result.get("failed") and small.holders(newest), placed


def test_an_owner_that_lies_can_neither_destroy_nor_alter_copies(small: Small) -> None:
    newest, holders = ids(small)
    before = {path: data for path, data in small.files().items() if "/replicas/" in path}
    small.liars["h1"] = claims(lambda nonce: nonce)
    result = small.heal()
    assert all(f"{peer} does not hold what it claims" in "; ".join(result["warnings"]) for peer in holders)
    after = small.files()
    assert all(after[path] == data for path, data in before.items())
    assert set(holders) <= set(small.holders(newest))


@pytest.mark.parametrize(
    "nonsense",
    [
        {"held": 5},
        {"held": [{"id": "x"}], "before": 0, "planned": [], "left": []},
        {"held": [{"id": "a" * 64, "state": "proved"}], "before": 0, "planned": [], "left": []},
        {"held": [{"id": "a" * 64, "state": "good"}], "before": 0, "planned": [], "left": []},
        {"held": [], "before": -1, "planned": [], "left": []},
        {"failed": True, "msg": "\x1b[2J no"},
    ],
)
def test_nonsense_is_the_failure_of_that_peer(small: Small, nonsense: dict[str, Any]) -> None:
    newest, (liar, _honest) = ids(small)
    small.liars[liar] = lambda phase, _values, answer: nonsense if phase == "prove" else answer
    result = small.heal()
    assert not result.get("failed") and len(set(small.holders(newest)) - {liar}) == 2
    (said,) = [said for said in result["left"] if said.startswith(f"{liar} did not answer as it should")]
    assert said.isprintable()


def test_a_checkpoint_that_a_peer_made_up_is_neither_copied_nor_brought_to_the_owner(small: Small) -> None:
    newest, (liar, _honest) = ids(small)
    evil = Store(str(small.copy(liar)), System())
    (small.home / "evil").write_text("evil")
    forged = str(checkpoint(evil, "base", [{"files": {"paths": [str(small.home / "evil")]}}], host="h1")["id"])
    result = small.heal()
    assert not result.get("failed") and not result["changed"]
    assert any(forged[:12] in said and "left alone" in said for said in result["left"])
    assert forged not in Store(str(small.own()), System()).refs()["base"]
    shutil.rmtree(small.own())
    small.heal()
    assert Store(str(small.own()), System()).refs() == {"base": [newest]}


def test_a_peer_that_says_that_it_took_a_copy_counts_until_the_next_run(small: Small) -> None:
    newest, holders = ids(small)
    target = holders[0]
    audits: list[dict[str, Any]] = []

    def listen(_phase: str, _values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        audits.extend(answer.get("held", []))
        return answer

    small.liars[target] = listen
    small.heal()
    shutil.rmtree(small.copy(target))

    def swallow(phase: str, values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if phase == "receive":
            shutil.rmtree(small.copy(target))
        return answer

    small.liars[target] = swallow
    assert small.heal()["done"]
    (entry,) = [entry for entry in audits if entry["id"] == newest][:1]
    held = {"before": 0, "latest": newest, "planned": [], "left": [], "held": [entry]}
    small.liars[target] = lambda phase, _values, answer: held if phase == "prove" else answer
    assert f"{target} does not hold what it claims" in small.heal()["warnings"][0]
    assert len(small.holders(newest)) == 2


# -- peers that are gone


def test_copies_on_peers_that_are_unreachable_or_gone_are_placed_anew_in_other_domains(small: Small) -> None:
    newest, holders = ids(small)
    rack = small.racks[holders[0]]
    small.dead = {host for host, where in small.racks.items() if where == rack}
    result = small.heal()
    assert not result.get("failed"), result
    held = small.holders(newest)
    assert len(held) == 2 and len({small.racks[peer] for peer in held}) == 2
    # They come back: nothing is deleted, and nothing new is copied.
    small.dead = set()
    assert not small.heal()["changed"] and len(small.holders(newest)) == 3
    # Left the inventory for good.
    small.gone = {held[0]}
    del small.racks[held[0]]
    small.heal()
    assert len({small.racks[peer] for peer in small.holders(newest)}) >= 2


def test_a_host_under_two_names_holds_one_copy(small: Small) -> None:
    """Neither is the owner under another name a place for a copy of its own."""
    one = small.newest()
    holders = small.holders(one)
    small.names = {"h8": holders[0], "h9": "h1"}
    small.racks = {name: f"r-{name}" for name in ("h1", *holders, *small.names)}
    told = small.heal(copies=3)
    assert told["failed"] and f"2 of 3 copies of base ({one[:12]})" in told["msg"]
    assert "h9: it is h1 under another name, by its store" in told["msg"] and not small.copy("h1").exists()
    assert any("does not count" in said and "h8" in said for said in told["left"])


def claims_place_of(small: Small, honest: str) -> Twist:
    """A peer that says what it can know of the place of another peer: all but its secret."""

    def twist(_phase: str, values: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        root = str(small.home / honest)
        return {**answer, "place": whereabouts.of(root, b"", System().boot_id(), str(values["run"]))}

    return twist


def test_a_peer_that_claims_the_store_of_another_costs_no_copy_of_it(small: Small) -> None:
    """It is asked first, and holds a copy as well: one of the two names would not count."""
    one = small.newest()
    honest = small.holders(one)
    order = _placement.preference("h1", sorted(small.racks))
    liar = order[0]
    if liar in honest:
        liar, honest = honest[0], honest[1:]
    small.liars[liar] = claims_place_of(small, honest[-1])
    told = small.heal()
    assert not told.get("failed") and not any("does not count" in said for said in told["left"])
    assert set(honest) <= set(small.holders(one))


def test_a_full_disk_of_a_peer_is_told_with_its_place(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(small.copy(small.holders(small.newest())[0]))

    def full(*_any: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Writer, "add", full)
    said = "; ".join(small.heal()["left"])
    assert re.search(rf"did not get .*No space left on device: '{small.home}/h\d'", said), said


def test_check_mode_makes_no_secret_of_a_store_and_a_run_makes_one_on_each(small: Small) -> None:
    secrets = [small.home / name / "secret" for name in small.racks if (small.home / name / "FORMAT").exists()]
    assert len({path.read_bytes() for path in secrets}) == len(secrets) > 1
    for path in secrets:
        path.unlink()
    before = small.files()
    small.check_mode = True
    assert not small.heal().get("failed") and small.files() == before
    small.check_mode = False
    assert not small.heal().get("failed")
    kept = [path.read_bytes() for path in secrets]
    small.take()
    small.heal()
    assert [path.read_bytes() for path in secrets] == kept, "each store keeps its own"
    for secret in kept:
        assert sum(secret in data for data in small.files().values()) == 1, "a secret left its store"


def test_the_copies_of_a_store_that_nobody_can_tell_from_others_do_not_count(small: Small) -> None:
    one = small.newest()
    first, second = small.holders(one)
    (small.home / first / "secret").unlink()
    (small.home / first / "secret").mkdir()  # Nobody can read it.
    told = small.heal()
    assert any(
        said.startswith(f"{first} did not answer as it should: nobody can tell the store") for said in told["left"]
    )
    assert not told.get("failed") and len(set(small.holders(one)) - {first}) == 2 and second in small.holders(one)
    (small.own() / "secret").unlink()
    (small.own() / "secret").mkdir()
    told = small.heal()
    assert not told.get("failed") and not told.get("unreachable"), "what the host itself has can still be copied"
    assert any(said.startswith("h1: nobody can tell the store") for said in told["left"])


def test_too_few_domains_are_named_and_whatever_can_be_is_done(small: Small) -> None:
    newest, _holders = ids(small)
    small.dead = {host for host in small.racks if small.racks[host] != "r1"}
    result = small.heal()
    assert result["failed"] and result["error"] == "EvenkeelError" and "1 of 2 copies of base" in result["msg"]
    assert small.holders(newest) == ["h2"]


def test_fewer_copies_than_wanted_are_a_warning_where_they_are_enough(small: Small) -> None:
    found = small.heal(copies=4, min_copies=3)
    assert not found.get("failed") and "3 of 4 copies" in found["warnings"][0] and found["warnings"] == found["left"]
    assert small.heal(copies=4, min_copies=4)["failed"] and small.heal(copies=4)["failed"]
    with pytest.raises(ValueError, match="min_copies: 5"):
        small.heal(copies=4, min_copies=5)


def test_a_checkpoint_of_a_change_gets_no_copies(small: Small) -> None:
    (small.home / "data-h1" / "name").write_text("changed\n")
    change = small.take(name="before-change")
    small.heal()
    assert small.holders(change) == [] and len(small.holders(small.newest())) == 2
    (small.home / "data-h1" / "name").write_text("protected\n")
    protected = small.take()
    small.heal()
    assert small.holders(change) == [] and len(small.holders(protected)) == 2


def test_a_heal_says_what_a_copy_from_the_owner_lacks(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "not_carried", lambda sections: ["postgresql: another program backs it up"])
    newest, holders = ids(small)
    assert small.heal()["left"] == []
    for peer in holders:
        shutil.rmtree(small.copy(peer))
    assert small.heal()["left"] == [f"copies of {newest[:12]}: postgresql: another program backs it up"]


def test_an_owner_that_cannot_be_reached_is_told_and_its_copies_are_healed_from_peer_to_peer(small: Small) -> None:
    newest, holders = ids(small)
    DAMAGES["bit flip in a pack"](small.copy(holders[0]))
    small.dead = {"h1"}
    result = small.heal()
    assert result["unreachable"] and "h1 cannot be reached" in result["msg"] and small.holders(newest) == holders
    assert f"rebuilt from {holders[1]}" in result["done"][0]


def test_a_peer_that_holds_encrypted_copies_gets_no_plain_one(small: Small) -> None:
    newest, holders = ids(small)
    for peer in set(small.racks) - {"h1", holders[0]}:
        shutil.rmtree(small.copy(peer), ignore_errors=True)
        record = small.copy(peer) / "records" / ("a" * 64)
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    result = small.heal()
    assert result["failed"] and "1 of 2 copies of base" in result["msg"] and "hold encrypted copies" in result["msg"]
    assert small.holders(newest) == holders[:1] and result["done"] == []


def test_a_peer_that_refuses_is_replaced_and_its_damage_is_named(small: Small) -> None:
    newest, (full, other) = ids(small)
    DAMAGES["bit flip in an object"](small.copy(full))
    refusal = {"failed": True, "msg": "no space left", "error": "OSError"}
    small.liars[full] = lambda phase, _values, answer: refusal if phase == "land" else answer
    result = small.heal()
    assert result["failed"] and result["error"] == "Damaged" and f"on {full} is damaged and could not" in result["msg"]
    held = small.holders(newest)
    assert len(held) == 2 and full not in held and other in held


def test_a_source_that_dies_is_replaced_by_the_next(small: Small) -> None:
    newest, (lost, other) = ids(small)
    shutil.rmtree(small.copy(lost))
    broken = {"failed": True, "msg": "input/output error", "error": "OSError"}
    small.liars["h1"] = lambda phase, _values, answer: broken if phase == "export" else answer
    result = small.heal()
    assert result["done"][0].endswith(f"on {lost} from {other}") and small.holders(newest) == sorted([lost, other])


def test_hosts_that_left_the_inventory_or_the_run_are_looked_after_from_peer_to_peer(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, holders = ids(small)
    third = next(host for host in small.racks if host not in ("h1", *holders))
    (small.home / f"data-{third}").mkdir()
    (small.home / f"data-{third}" / "name").write_text(third)
    small.take(third)
    small.task = third
    small.heal()
    small.dead = {"h1"}
    for gone, played in (({"h1"}, (set(), {third})), (set(), ({"h1", third}, {third}))):
        small.gone = set(gone)
        DAMAGES["deleted pack"](small.copy(holders[0]))
        result = small.heal_orphans(*played)
        assert f"on {holders[0]} was damaged" in result["warnings"][0] and small.holders(newest) == holders
    # A host of the inventory that is not part of the run is left to its own task.
    DAMAGES["deleted pack"](small.copy(holders[0]))
    assert not small.heal_orphans({third}, {third})["planned"]
    small.gone = {"h1"}
    monkeypatch.setattr(ft_heal, "ORPHANS", 0)
    result = small.heal_orphans(set(), {third})
    assert not result["planned"] and "copies of 1 hosts that are gone; those of 0" in result["left"][-1]


# -- time, retention, repetition


def test_the_newest_is_always_read_and_the_rest_as_far_as_there_is_time(small: Small) -> None:
    first, holders = ids(small)
    (small.home / "data-h1" / "big").write_bytes(random.Random(2).randbytes(150_000))
    second = small.take()
    small.heal()
    DAMAGES["bit flip in an object"](small.copy(holders[0]))  # of one of the two
    result = small.heal(time_limit="0s")
    unread = [said for said in result["left"] if "in time" in said]
    assert any(first[:12] in said for said in unread) and not any(second[:12] in said for said in unread)
    # Missing contents are found without reading.
    shutil.rmtree(small.copy(holders[1]) / "objects")
    assert f"on {holders[1]} was damaged" in "; ".join(small.heal(time_limit="0s")["warnings"])
    small.heal()
    assert small.holders(first) == small.holders(second) == holders


def test_only_what_the_retention_keeps_gets_copies_and_no_copy_goes(small: Small) -> None:
    first, holders = ids(small)
    (small.home / "data-h1" / "name").write_text("second\n")
    second = small.take()
    shutil.rmtree(small.copy(holders[0]))
    small.heal(retention={"last": 1})
    assert small.holders(second) == holders and small.holders(first) == [holders[1]]


def test_damage_that_comes_again_is_said(small: Small) -> None:
    _newest, holders = ids(small)
    DAMAGES["bit flip in an object"](small.copy(holders[0]))
    assert not [said for said in small.heal()["warnings"] if "damage again" in said]
    DAMAGES["bit flip in a pack"](small.copy(holders[0]))
    assert [said for said in small.heal()["warnings"] if said.startswith(f"{holders[0]} has damage again")]


def test_a_content_that_reads_wrong_once_is_not_put_aside(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that fails must not have all good copies put aside."""
    _newest, holders = ids(small)
    whole = Objects.read
    failed: list[str] = []

    def read(self: Any, sha: str) -> Any:
        if not failed and holders[0] in self.root:
            failed.append(sha)
            raise OSError(5, "Input/output error")
        return whole(self, sha)

    monkeypatch.setattr(Objects, "read", read)
    result = small.heal()
    assert failed and not result["changed"] and not result.get("failed")
    assert any("whole at the second" in said and said.startswith(holders[0]) for said in result["left"])


# -- by Ansible


@pytest.mark.long
def test_a_fleet_heals_all_its_copies_and_those_of_a_host_that_is_gone_until_somebody_names_it(
    fleet: Fleet,
) -> None:
    assert replicate(fleet, "all", copies=2, failure_domain="rack").rc == 0
    task: dict[str, Any] = {"peers": "all", "failure_domain": "rack", "store": "{{ evenkeel_store }}"}
    orphans = {**task, "orphans": "{{ inventory_hostname == ansible_play_hosts | first }}"}

    def held(host: str) -> list[str]:
        found = []
        for peer in fleet.hosts:
            store = Store(str(fleet.directory(peer) / "store"), System())
            if peer != host and (Path(store.root) / "replicas" / host).is_dir():
                found += [peer for one in replicas.candidates(store, host).candidates if one.state == "verified"]
        return found

    # One of the copies of h1 is damaged, and so is the store of h2; h4 leaves the inventory, with a damaged copy left.
    # Then h3 has no peer in its own rack any more.
    first = held("h1")[0]
    DAMAGES["bit flip in a pack"](fleet.directory(first) / "store" / "replicas" / "h1")
    DAMAGES["deleted manifest"](fleet.directory("h2") / "store")
    orphan = [peer for peer in held("h4") if peer != "h4"]
    del fleet.hosts["h4"]
    DAMAGES["truncated pack"](fleet.directory(orphan[0]) / "store" / "replicas" / "h4")
    run = fleet.play([{"evenkeel.fault_tolerance.ft_heal": orphans}], "all")
    assert run.rc == 2 and "failed" not in run.results["h1"] and "failed" not in run.results["h2"], run.output
    assert run.results["h3"]["msg"].startswith("1 of 2 copies of base") and held("h3")
    assert f"on {first} was damaged" in "; ".join(run.results["h1"]["warnings"])
    assert any(said.startswith("h2's own checkpoint") and "rebuilt from" in said for said in run.results["h2"]["done"])
    assert any("of h4's checkpoint" in said and "was damaged" in said for said in run.results["h1"]["done"])
    for host in ("h1", "h2", "h4"):
        assert len({fleet.hosts[peer]["rack"] for peer in held(host)}) == 2, host
    assert not temporary(fleet)

    # Nobody needs the copies of h4 any more; those of h2 are needed.
    forget = {"evenkeel.fault_tolerance.ft_heal": {**task, "forget": "h4"}}
    both: list[dict[str, Any]] = [
        forget,
        {"evenkeel.fault_tolerance.ft_heal": {**task, "forget": "h2"}, "ignore_errors": True},
    ]
    run = fleet.play(both, "all")
    assert all(result["error"] == "UsageError" for result in run.results.values()) and held("h2")
    assert held("h4") == []
    for peer in orphan:
        (aside,) = (fleet.directory(peer) / "store" / "quarantine" / "replicas").glob("h4@*")
        assert list(aside.glob("manifests/*"))


@pytest.mark.long
def test_the_role_protect_reads_the_store_and_repairs_what_it_finds(fleet: Fleet) -> None:
    role = {"ansible.builtin.import_role": {"name": "evenkeel.fault_tolerance.protect"}}
    words = ("-e", "evenkeel_copies=1", "-e", "evenkeel_peers=all")
    (fleet.directory("h1") / "data" / "old").write_text("first")
    assert fleet.play([role], "h1", *words).rc == 0
    # The host does not have this content any more, so that no new checkpoint stores it again.
    (fleet.directory("h1") / "data" / "old").write_text("second")
    pack = one(fleet.directory("h1") / "store", "packs/*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"first", b"fjrst"))
    run = fleet.play([role], "h1", *words)
    assert run.rc == 0 and "are damaged or missing" not in run.results["h1"].get("msg", ""), run.output
    assert any(said.startswith("h1's own checkpoint") for said in run.results["h1"]["done"]), run.output
    store = Store(str(fleet.directory("h1") / "store"), System())
    assert all(store.verify(store.manifest(taken)) == {} for taken in store.refs()["protected"])


@pytest.mark.long
def test_the_role_protect_fails_on_damage_of_a_host_whose_copies_are_encrypted(fleet: Fleet) -> None:
    fleet.hosts["h1"]["evenkeel_encryption_key"] = "k" * 40
    role = {"ansible.builtin.import_role": {"name": "evenkeel.fault_tolerance.protect"}}
    words = ("-e", "evenkeel_copies=1", "-e", "evenkeel_peers=all")
    (fleet.directory("h1") / "data" / "old").write_text("first")
    assert fleet.play([role], "h1", *words).rc == 0
    (fleet.directory("h1") / "data" / "old").write_text("second")
    pack = one(fleet.directory("h1") / "store", "packs/*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"first", b"fjrst"))
    run = fleet.play([role], "h1", *words)
    assert run.rc == 2 and "are damaged or missing" in run.results["h1"]["msg"], run.output
