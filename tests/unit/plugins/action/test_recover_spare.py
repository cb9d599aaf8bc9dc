# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A spare in the place of a lost host: which one, as whom, from which copy, and what is told of it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action.ft_recover import (
    Copy,
    Recovery,
    _holders,
    _unfit,
    choose,
)

from .conftest import Fleet, Run
from .test_guard import NOWHERE
from .test_replicate_recover import CHECKPOINT, lose, replicate, turns


def recover(fleet: Fleet, where: str, *words: str, **options: Any) -> Run:
    given = {"host": "h1", "peers": "all", "store": "{{ evenkeel_store }}", **options}
    return fleet.play([{"evenkeel.fault_tolerance.ft_recover": given}], where, *words)


def peers(fleet: Fleet, **options: Any) -> list[str]:
    return [one["peer"] for one in replicate(fleet, **options).results["h1"]["copies"]]


def another(fleet: Fleet, *taken: str) -> str:
    return next(host for host in reversed(fleet.hosts) if host not in ("h1", *taken))


def name(fleet: Fleet) -> str:
    return (fleet.directory("h1") / "data" / "name").read_text()


SURVEY = {
    "obstacle": "",
    "waits": "",
    "room": 10**12,
    "release": "",
    "architecture": "",
    "host": "another one",
    "held": False,
    "stands_for": "",
}
COPY = Copy("h2", "1" * 64, "h1", "base", "2026-11-29T00:00:00.000000Z", "verified", bytes=100)


def test_a_spare_tells_what_it_got_how_old_it_is_and_how_long_it_took(fleet: Fleet) -> None:
    (peer,) = peers(fleet, copies=1)
    spare = another(fleet, peer)
    lose(fleet)
    run = recover(fleet, spare)
    assert run.rc == 0, run.output
    result = run.results[spare]
    assert name(fleet) == "I am h1\n"
    assert result["identity"] == "keep" and result["left_out"] == [] and result["source"] == peer
    assert 0 <= result["age"] < 120 and 0 < result["seconds"] < 60 and result["created"].endswith("Z")
    assert re.fullmatch(
        rf"recovered h1 onto {spare} from checkpoint base \({result['id'][:12]}\) of {result['created']} on {peer},"
        r" \d+ s old, in \d+ s",
        result["done"][0],
    )
    # Nobody asks the lost host for copies of itself, and a second run has nothing to do.
    assert "h1" not in [one["peer"] for one in result["candidates"]]
    again = recover(fleet, spare).results[spare]
    assert again["changed"] is False and again["restored"] == result["restored"]
    assert not again["done"][0].startswith("recovered")
    # It is no checkpoint of the spare. It goes on from there in the name of the lost host alone.
    assert replicate(fleet, spare, checkpoint=result["id"], copies=1).results[spare]["error"] == "Refused"
    run = replicate(fleet, spare, checkpoint=result["id"], host="h1", copies=1)
    assert run.rc == 0 and run.results[spare]["id"] == result["id"], run.output
    told = recover(fleet, spare, "--check").results[spare]
    assert told["changed"] is True and told["left_out"] == [] and told["age"] >= result["age"]


def test_the_lost_host_must_not_answer_where_a_spare_becomes_it(fleet: Fleet) -> None:
    (peer,) = peers(fleet, copies=1)
    spare = another(fleet, peer)
    lose(fleet)
    turns(fleet, "h1", "ft_recover", SURVEY)
    run = recover(fleet, spare, identity="take")
    assert run.rc == 2 and run.results[spare]["error"] == "Refused"
    assert "h1 still answers: two hosts must not be h1" in run.results[spare]["msg"]
    assert not (fleet.directory("h1") / "data").exists()
    # Something listens at its address, and lets nobody in.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        fleet.hosts["h1"].update(NOWHERE, ansible_host="127.0.0.1", ansible_ssh_port=port)
        del fleet.hosts["h1"]["ansible_port"]
        run = recover(fleet, spare, identity="take")
    assert f"something answers at 127.0.0.1 port {port}" in run.results[spare]["msg"]
    assert not (fleet.directory("h1") / "data").exists()
    run = recover(fleet, spare, identity="take")
    assert run.rc == 0 and run.results[spare]["identity"] == "take", run.output
    assert name(fleet) == "I am h1\n"


@pytest.mark.long
def test_a_checkpoint_with_too_few_copies_is_left_aside_and_named(fleet: Fleet) -> None:
    first = replicate(fleet, copies=2).results["h1"]
    (fleet.directory("h1") / "data" / "name").write_text("second")
    second = replicate(fleet, copies=1).results["h1"]
    lose(fleet)
    run = recover(fleet, "h1", min_copies=2)
    assert run.rc == 0 and run.results["h1"]["id"] == first["id"], run.output
    assert f"checkpoint {second['id'][:12]}" in run.results["h1"]["left"][0]
    assert "1 of 2 peers hold a verified copy" in run.results["h1"]["left"][0]
    run = recover(fleet, "h1", min_copies=3)
    assert run.rc == 2 and run.results["h1"]["error"] == "NotFound"
    assert "min_copies asks for 3" in run.results["h1"]["msg"] and "Nothing was changed" in run.results["h1"]["msg"]
    assert "min_copies is 0" in recover(fleet, "h1", min_copies=0).results["h1"]["msg"]


@pytest.mark.long
def test_a_peer_that_dies_in_the_middle_is_replaced_by_the_next(fleet: Fleet) -> None:
    """It has told of its copy, and is killed when it is to give the copy."""
    peers(fleet, copies=2)
    lose(fleet)
    spare = another(fleet, *peers_of(fleet))
    first = recover(fleet, spare, "--check").results[spare]["source"]
    calls, script = fleet.home / "calls", fleet.home / "dies.sh"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *-X\\ utf8*) echo >>{calls};; esac\n'
        f'[ "$(wc -l <{calls})" -gt 1 ] && kill -9 $$\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    fleet.hosts[first] |= {"ansible_python_interpreter": str(script), "ansible_pipelining": False}
    run = recover(fleet, spare)
    assert run.rc == 0, run.output
    result = run.results[spare]
    assert result["source"] in peers_of(fleet) and result["source"] != first and name(fleet) == "I am h1\n"
    assert any(one.startswith(f"{first}: {result['id'][:12]}") for one in result["left"])


def peers_of(fleet: Fleet) -> list[str]:
    return sorted(path.parents[2].name for path in fleet.home.glob("*/store/replicas/h1"))


@pytest.mark.long
def test_the_first_spare_that_can_is_named_and_nothing_is_touched(fleet: Fleet) -> None:
    (peer,) = peers(fleet, copies=1)
    lose(fleet)
    one, two = (host for host in fleet.hosts if host not in ("h1", peer))
    turns(fleet, one, "ft_recover", {**SURVEY, "obstacle": "a change is under way there"})
    run = recover(fleet, one, onto=["h1", one, two])
    assert run.rc == 0, run.output
    result = run.results[one]
    assert result["onto"] == two and result["changed"] is False
    assert f"{one}: a change is under way there" in result["left"]
    assert not (fleet.directory("h1") / "data").exists()
    turns(fleet, two, "ft_recover", {**SURVEY, "room": 1})
    run = recover(fleet, one, onto=[one, two])
    result = run.results[one]
    assert run.rc == 2 and result["error"] == "Refused"
    assert f"{two}: it has room for 1 bytes" in result["msg"] and f"{one}: a change is under way" in result["msg"]


def test_a_spare_with_an_open_change_is_refused_and_nothing_is_brought(fleet: Fleet) -> None:
    (peer,) = peers(fleet, copies=1)
    spare = another(fleet, peer)
    lose(fleet)
    turns(fleet, spare, "ft_recover", {**SURVEY, "obstacle": "a change is under way there"})
    result = recover(fleet, spare).results[spare]
    assert result["error"] == "Refused" and result["msg"].endswith("a change is under way there. Nothing was changed")
    # The same on the host itself. A doubt there is what a recovery ends.
    turns(fleet, "h1", "ft_recover", {**SURVEY, "obstacle": "it is in doubt", "waits": "a change is under way there"})
    result = recover(fleet, "h1").results["h1"]
    assert result["error"] == "Refused" and result["msg"] == "h1: a change is under way there. Nothing was changed"


@pytest.mark.long
def test_a_part_comes_back_alone(fleet: Fleet) -> None:
    data = fleet.directory("h1") / "data"
    (data / "more").write_text("more")
    peers(fleet, copies=1)
    for path in (data / "name", data / "more"):
        path.unlink()
    result = recover(fleet, "h1", paths=[str(data / "more")]).results["h1"]
    assert (data / "more").exists() and not (data / "name").exists() and result["identity"] == "take"
    assert "has no users" in recover(fleet, "h1", kinds=["users"]).results["h1"]["msg"]


@pytest.mark.long
def test_a_recovery_that_was_killed_is_completed_by_the_next_call(fleet: Fleet) -> None:
    """The store remembers the rollback to the checkpoint that the recovery has made."""
    (peer,) = peers(fleet, copies=1)
    spare = another(fleet, peer)
    lose(fleet)
    first = recover(fleet, spare).results[spare]
    shutil.rmtree(fleet.directory("h1") / "data")
    wanted = {"checkpoint": first["restored"], "kinds": None, "paths": [], "undo": "", "changed": [], "down": {}}
    (fleet.directory(spare) / "store" / "resume").write_text(json.dumps({**wanted, "begun": True}))
    assert fleet.play([CHECKPOINT], spare).rc == 0
    assert name(fleet) == "I am h1\n"


def taken(owner: str, *targets: str, identity: str = "take") -> list[str]:
    """The warnings after a recovery of ``owner`` onto web1 by which these paths came back."""
    recovery = object.__new__(Recovery)
    recovery._owner, recovery._identity = owner, identity
    recovery._here = cast("Any", SimpleNamespace(name="web1"))
    return recovery._taken({"done": [{"action": "create", "target": target} for target in targets]})


def test_ssh_keys_that_come_back_are_named_also_on_the_host_itself() -> None:
    keys = "/etc/ssh/ssh_host_ed25519_key"
    assert taken("web1", keys, "/etc/fstab") == [
        "web1 owes a reboot: disks count from the next boot on",
        "web1 has its recorded SSH keys now, and shows them to new connections: correct known_hosts of the controller",
    ]
    assert "web1 has the SSH keys of web2 now" in taken("web2", keys)[0]
    assert taken("web2", "/etc/fstab") == ["web1 owes a reboot: disks count from the next boot on"]
    assert len(taken("web1", "/etc/dropbear/dropbear_rsa_host_key")) == 1
    assert not taken("web1", "/srv/x", "/etc/ssh/sshd_config") and not taken("web2", keys, identity="keep")


def test_a_lost_host_that_is_back_when_its_copy_has_come_is_not_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bringing a copy may take hours: the lost host is asked again before the first change."""
    recovery = bare(monkeypatch, "h3", {"id": "1" * 64, "left_out": [], "notes": []}, identity="take")
    cast("Any", recovery._inventory).each = lambda hosts, *_: {host: {"host": "h1"} for host in hosts}
    # Without a host to be put back: to call ft_rollback would end in an AttributeError.
    refused = recovery._restore(Copy("h2"))
    assert refused["error"] == "Refused" and refused["msg"].startswith("h1 still answers: two hosts must not be h1.")
    assert refused["msg"].endswith(". Nothing but the store of Evenkeel was changed")


def bare(monkeypatch: pytest.MonkeyPatch, here: str, surveyed: dict[str, Any], **more: str) -> Recovery:
    """A recovery of h1 onto ``here``, which tells this of itself."""
    seals = SimpleNamespace(opened=list, fetching=lambda _chain: {}, adopting=lambda _chain: {})
    inventory: Any = SimpleNamespace(
        here=lambda: SimpleNamespace(name=here),
        hosts_of=list,
        keys=lambda _owner: SimpleNamespace(know=lambda *_: True),
        refuse_facts=lambda *_: None,
        seals=lambda _owner: seals,
        resources=lambda _owner: None,
        share_address=lambda *_: False,
    )
    told = {"host": "h1", "checkpoint": "latest", "store": "/s", "undeclared": False, "timeout": "1h", "identity": None}
    params = {**told, **more, "kinds": None, "paths": None, "min_copies": 1, "onto": None, "peers": ["h1", "h2", here]}
    recovery = Recovery(inventory, params)
    monkeypatch.setattr(recovery._carrier, "phase", lambda *_words, **_more: surveyed)
    return recovery


def test_a_copy_that_lies_on_the_spare_itself_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(bare(monkeypatch, "h3", SURVEY)._peers) == {"h2", "h3"}


def test_a_spare_that_stands_in_for_another_host_is_taken_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {**SURVEY, "stands_for": "h7"}
    assert _unfit(taken, COPY, "h3") == "it stands in for h7; if it is free again, name it"
    # It goes on with the same host, and a recovery of itself is over.
    assert (
        _unfit({**SURVEY, "stands_for": "h1"}, COPY, "h3") == _unfit({**SURVEY, "stands_for": "h3"}, COPY, "h3") == ""
    )
    recovery = bare(monkeypatch, "h3", taken)
    assert recovery._survey_here(COPY, True) == ("", False)
    assert recovery._warnings == recovery._left == ["h3 stands in for h7, and loses the state of h7 now"]


def test_the_spare_on_which_a_run_has_begun_is_taken_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery = bare(monkeypatch, "h3", SURVEY)
    recovery._onto = ["h3", "h4"]
    told = {"h3": SURVEY, "h4": {**SURVEY, "stands_for": "h1"}}
    recovery._inventory = cast("Any", SimpleNamespace(each=lambda *_: told, share_address=lambda *_: False))
    assert recovery._chosen(COPY, True)["onto"] == "h4"


def test_lack_of_room_ends_a_recovery_before_anything_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**SURVEY, "room": 99}
    why = "it has room for 99 bytes, and the copy of 2026-11-29T00:00:00.000000Z takes 100: free some"
    assert bare(monkeypatch, "h3", small)._survey_here(COPY, True) == (f"h3: {why}. Nothing was changed", False)
    assert _unfit(small, COPY, "h3") == why
    # A run before has brought it.
    held = {**small, "held": True}
    assert bare(monkeypatch, "h3", held)._survey_here(COPY, True) == ("", True) and _unfit(held, COPY, "h3") == ""


def test_what_a_run_before_has_brought_is_not_brought_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery = bare(monkeypatch, "h3", {})
    offered = {key: value for key, value in asdict(COPY).items() if key != "peer"}
    inventory = cast("Any", recovery._inventory)
    inventory.each = lambda hosts, *_: {host: {"candidates": [offered] if host == "h2" else []} for host in hosts}
    answers = {
        "survey": {**SURVEY, "held": True, "room": 0},
        "derive": {"failed": True, "msg": "it is damaged", "error": "Damaged"},
    }
    # To bring it would end in a KeyError.
    monkeypatch.setattr(recovery._carrier, "phase", lambda _host, phase, **_more: answers[phase])
    found = recovery.run(False)
    assert (found["source"], found["msg"]) == ("h3", "it is damaged")


def test_no_older_checkpoint_comes_where_the_newest_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another copy of the same checkpoint may: a peer can send more than the checkpoint has."""
    recovery = bare(monkeypatch, "h3", SURVEY)
    newest, older = [COPY, replace(COPY, peer="h4")], [replace(COPY, id="2" * 64)]
    large = {"failed": True, "msg": "no room", "error": "Refused", "no_room": True}
    answers = {"h2": large, "h4": {"failed": True, "msg": "cut", "error": "OSError"}}
    asked = []

    def fetch(peer: str, checkpoint: str, *_more: Any) -> dict[str, Any]:
        asked.append((peer, checkpoint))
        return answers.get(peer, {})

    cast("Any", recovery._inventory).each = lambda hosts, ask, _seconds: {host: ask(host) for host in hosts}
    monkeypatch.setattr(recovery._carrier, "fetch", fetch)
    monkeypatch.setattr(recovery._carrier, "deliver", lambda *_words, **_more: {})
    assert recovery._bring([newest, older], True) == (None, {"failed": True, "msg": "no room", "error": "Refused"})
    assert asked == [(copy.peer, copy.id) for copy in newest]
    del answers["h4"]
    assert recovery._bring([newest, older], True) == (newest[1], {})


def test_the_lost_host_is_not_its_own_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inventory may have it under another name: its store tells, and so does its address."""
    itself = {**SURVEY, "taken": True, "place": "1" * 64}
    recovery = bare(monkeypatch, "h3", itself)
    inventory: Any = recovery._inventory
    inventory.each = lambda *_: {"h1": itself, "h3": itself}
    why = "h3 is h1 under another name (one store answers to both)"
    assert recovery._survey_here(COPY, True) == (f"{why}: recover h1 onto itself. Nothing was changed", False)
    recovery._onto = ["h3"]
    assert why in str(recovery._chosen(COPY, True)["msg"])
    # Its address alone makes the recovery ask.
    inventory.share_address, itself["taken"] = lambda *_: True, False
    assert why in str(recovery._chosen(COPY, True)["msg"])
    # It took the checkpoint as the host itself, and goes back to it.
    assert bare(monkeypatch, "h1", itself)._survey_here(COPY, True) == ("", False)


@pytest.mark.parametrize(
    "owner", [{"unreachable": True, "msg": "no route"}, {"failed": True, "msg": "x"}, {**SURVEY, "place": "2" * 64}]
)
def test_a_copy_of_the_disk_of_the_lost_host_can_be_its_spare(
    monkeypatch: pytest.MonkeyPatch, owner: dict[str, Any]
) -> None:
    """A machine made from last night's backup has the store of the lost host, and perhaps its address."""
    for by_store in (True, False):
        clone = {**SURVEY, "taken": by_store, "place": "1" * 64}
        recovery = bare(monkeypatch, "h3", clone)
        inventory: Any = recovery._inventory
        inventory.each, inventory.share_address = lambda *_, c=clone: {"h1": owner, "h3": c}, lambda *_: True
        why = (
            "its store has that checkpoint as its own: it may be h1, or a copy of its disk"
            if by_store
            else "h1 has the same address: it may be h1, or have come in its place"
        )
        assert recovery._survey_here(COPY, True) == ("", False)
        assert recovery._warnings == recovery._left == [f"h3: {why}"]
        recovery._onto = ["h3"]
        assert recovery._chosen(COPY, True)["onto"] == "h3"


def test_a_host_under_two_names_is_one_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery = bare(monkeypatch, "h3", {})
    held = {"candidates": [{"id": COPY.id, "state": "verified", "created": COPY.created}], "place": "1" * 64}
    recovery._inventory = cast("Any", SimpleNamespace(each=lambda names, *_: dict.fromkeys(names, held)))
    recovery._seals = cast("Any", SimpleNamespace(opened=list))
    recovery._keys = cast("Any", SimpleNamespace(know=lambda *_: True, where="here"))
    recovery._least = 2
    told = recovery.run(False)
    assert told["error"] == "NotFound" and "1 of 2 peers hold a verified copy" in str(told["msg"])
    assert "both count as one holder" in str(told["left"])


def test_a_peer_that_does_not_tell_its_store_from_others_is_no_further_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy is as good as any, and may be the one of another peer."""
    recovery = bare(monkeypatch, "h3", {})
    recovery._peers = ["h2", "h3", "h4"]
    held = {"candidates": [{"id": COPY.id, "state": "verified", "created": COPY.created}], "place": ""}
    told = {"h2": held, "h3": held, "h4": {**held, "place": "1" * 64}}
    recovery._inventory = cast("Any", SimpleNamespace(each=lambda *_: told))
    recovery._seals = cast("Any", SimpleNamespace(opened=list))
    recovery._keys = cast("Any", SimpleNamespace(know=lambda *_: True, where="here"))
    recovery._gather()
    (copies,) = choose(recovery._candidates, "latest")
    assert len(copies) == 3 and _holders(copies) == _holders(copies[:2]) == _holders(copies[2:]) == 1
    assert [said.partition(":")[0] for said in recovery._left] == ["h2", "h3"]


def test_a_peer_that_claims_the_store_of_another_hides_no_copy_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery = bare(monkeypatch, "h3", {})
    recovery._peers = ["liar", "h2", "h3"]
    copy = {"id": COPY.id, "state": "verified", "created": COPY.created}
    told = {
        "liar": {"candidates": [], "place": "1" * 64},
        "h2": {"candidates": [copy], "place": "1" * 64},
        "h3": {"candidates": [copy], "place": "2" * 64},
    }
    recovery._inventory = cast("Any", SimpleNamespace(each=lambda *_: told))
    recovery._seals = cast("Any", SimpleNamespace(opened=list))
    recovery._keys = cast("Any", SimpleNamespace(know=lambda *_: True, where="here"))
    recovery._gather()
    (copies,) = choose(recovery._candidates, "latest")
    assert [one.peer for one in copies] == ["h2", "h3"] and _holders(copies) == 2
