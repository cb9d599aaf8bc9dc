# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds copies of whom, and the cost of a loss: from the answers of hosts, of which some are missing or lie."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from evenkeel.ansible.answers import BadAnswer, read
from evenkeel.ansible.options import Options
from evenkeel.commands.status import StatusResult
from evenkeel.outcome import Exit, RunResult
from evenkeel.plan.redundancy import Loss, Owner, Redundancy, redundancy
from evenkeel.show.redundancy import print_redundancy
from evenkeel.show.summary import print_status

# 2026-11-29T10:00Z
AT = 1795946400.0
OLD, NEW = "2026-11-29T08:00:00.000000Z", "2026-11-29T09:55:00.000000Z"
RACKS = {"web1": "r1", "web2": "r1", "web3": "r2"}


def copy(owner: str, ident: str = "", created: str = NEW, **more: Any) -> dict[str, Any]:
    found = {"host": owner, "id": ident or f"{owner}new", "name": "protected", "created": created, "count": 2}
    return {**found, "mac": True, "verified": AT - 600, "damaged": 0, **more}


def row(host: str, *holds: Mapping[str, Any], gone: tuple[str, ...] = (), copies: int | None = 2) -> dict[str, Any]:
    """The answer of a host with two checkpoints."""
    points = [{"id": f"{host}old", "name": "protected", "created": OLD}]
    points.append({"id": f"{host}new", "name": "protected", "created": NEW})
    points.append({"id": "undo", "name": "undo", "created": "2026-11-29T09:59:00Z"})
    listed = {"copies": copies, "variable": "rack", "domain": RACKS.get(host, "r3"), "hosts": 3, "gone": list(gone)}
    return {"state": "ok", "checkpoints": points, "holds": list(holds), "listed": listed}


def fleet(**rows: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Three hosts in two racks; each of them has copies on the two others."""
    full: dict[str, Mapping[str, Any]] = {
        host: row(host, *(copy(other) for other in RACKS if other != host)) for host in RACKS
    }
    return {**full, **rows}


def found(answers: Mapping[str, Mapping[str, Any]]) -> Redundancy:
    told = redundancy(answers)
    assert told is not None
    return told


def owner(told: Redundancy, host: str) -> Owner:
    (one,) = [one for one in told.owners if one.host == host]
    return one


def shown(told: Redundancy, width: int = 200) -> str:
    stream = io.StringIO()
    print_redundancy(told, Console(file=stream, width=width), AT)
    return stream.getvalue()


def line(told: Redundancy, host: str) -> str:
    (one,) = [one for one in shown(told).splitlines() if one.startswith(f"{host} ")][:1]
    return " ".join(one.split())


def test_copies_in_all_domains_cost_nothing_when_one_is_lost() -> None:
    told = found(fleet())
    assert told.losses == [] and told.silent == [] and told.unasked == 0
    assert owner(told, "web1").holders == {"web1", "web2", "web3"}
    assert line(told, "web1") == "web1 5 min 5 min 10 min 2 of 2: web2 (r1), web3 (r2)"
    assert "The loss of one host or one rack leaves a copy of every newest checkpoint above." in shown(told)


def test_a_copy_that_is_behind_is_named_and_is_what_a_loss_would_leave() -> None:
    told = found(fleet(web3=row("web3", copy("web1", "web1old", OLD), copy("web2"))))
    assert told.losses == [Loss(True, "r1", {"web1": 6900.0})]
    assert "1 of 2: web2 (r1); web3 (r2) is 115 min behind" in line(told, "web1")
    assert "rack r1 web1 (a copy 115 min older is left)" in " ".join(shown(told).split())


def test_a_copy_with_known_damage_or_without_a_checkpoint_counts_for_nothing() -> None:
    none = copy("web2", id="", created="", count=0, mac=False, verified=None, damaged=1)
    told = found(fleet(web3=row("web3", copy("web1", damaged=3), none)))
    assert told.losses == [Loss(True, "r1", {"web1": None, "web2": None})]
    assert "web3 (r2) has 3 damages" in line(told, "web1")
    told = found(fleet(web3=row("web3", copy("web1", mac=False), {**none, "damaged": 0})))
    assert "2 of 2: web2 (r1), web3 (r2); web3 (r2) without a MAC" in line(told, "web1")
    assert "web3 (r2) has no whole one" in line(told, "web2")


@pytest.mark.parametrize("name", ["before-change", "recovery"])
def test_a_newer_checkpoint_of_a_name_without_copies_hides_no_copy_of_the_newest(name: str) -> None:
    changed = row("web1", copy("web2"), copy("web3"))
    changed["checkpoints"].append({"id": "other", "name": name, "created": "2026-11-29T09:58:00.000000Z"})
    assert "2 of 2: web2 (r1), web3 (r2)" in line(found(fleet(web1=changed)), "web1")
    # Nor where the peers do not know the names, as they hold encrypted copies.
    sealed = {host: copy("web1", name="") for host in ("web2", "web3")}
    rows = {host: {**row(host, one), "replicas": {"web1": ["web1new"]}} for host, one in sealed.items()}
    assert "2 of 2: web2 (r1), web3 (r2)" in line(found(fleet(web1=changed, **rows)), "web1")


def test_a_newer_copy_of_a_log_hides_no_copy_of_the_newest_checkpoint() -> None:
    """The peers cannot tell an encrypted copy of a log from others, and name it as the newest."""

    def peer(host: str, *ids: str) -> dict[str, Any]:
        log = copy("web1", "web1log", "2026-11-29T09:59:00.000000Z")
        others = [copy(other) for other in RACKS if other not in (host, "web1")]
        return {**row(host, log, *others), "replicas": {"web1": [*ids, "web1log"]}}

    told = found(fleet(web2=peer("web2", "web1old"), web3=peer("web3", "web1old", "web1new")))
    assert [(one.peer, one.id, one.newest) for one in owner(told, "web1").copies] == [
        ("web2", "web1old", False),
        ("web3", "web1new", True),
    ]
    assert line(told, "web1") == "web1 5 min 5 min 10 min 1 of 2: web3 (r2); web2 (r1) is 115 min behind"
    assert told.losses == []


def test_a_host_that_did_not_answer_holds_nothing_that_is_known() -> None:
    told = found(fleet(web2={"state": "unreachable", "msg": "no route"}))
    assert told.silent == ["web2"]
    # Its own checkpoint counts for nothing either: of web2 only the copies on the two others are known.
    assert owner(told, "web2").holders == {"web1", "web3"} and not owner(told, "web2").own
    assert told.losses == []
    assert "did not answer" in line(told, "web2") and "not known" in line(told, "web2")
    assert "Copies on web2 (no answer) are not known, and count for nothing here." in shown(told)
    told = found(fleet(web2={"state": "unreachable", "msg": ""}, web3={"state": "failed", "msg": ""}))
    assert told.losses == [Loss(False, "web1", {"web1": None, "web2": None, "web3": None})]


def test_hosts_that_were_not_asked_are_said_to_be_unknown() -> None:
    told = found({"web1": fleet()["web1"]})
    assert told.unasked == 2
    assert [(one.host, one.standing) for one in told.owners] == [
        ("web1", "answered"),
        ("web2", "not asked"),
        ("web3", "not asked"),
    ]
    assert "2 hosts of the inventory (not asked)" in shown(told)


def test_a_host_that_is_gone_from_the_inventory_is_shown_and_its_last_copy_costs() -> None:
    told = found(fleet(web3=row("web3", copy("web1"), copy("web2"), copy("db9"), gone=("db9",))))
    assert owner(told, "db9").standing == "gone"
    assert "1: web3 (r2); gone from the inventory; kept until somebody says otherwise" in line(told, "db9")
    assert told.losses == [Loss(False, "web3", {"db9": None})]


def test_a_host_that_lost_its_store_still_has_its_copies() -> None:
    lost = {**row("web1", copy("web2"), copy("web3")), "checkpoints": []}
    told = found(fleet(web1=lost))
    assert owner(told, "web1").holders == {"web2", "web3"}
    assert "web1 none 5 min 10 min 2 of 2: web2 (r1), web3 (r2)" in line(told, "web1")


def test_without_copies_and_without_a_declaration_nothing_is_said() -> None:
    alone = {host: row(host, copies=None) for host in RACKS}
    assert redundancy(alone) is None and redundancy({}) is None
    told = found({**alone, "web1": row("web1")})
    assert [one.host for one in told.owners] == ["web1"] and "0 of 2" in line(told, "web1")
    assert told.losses == [Loss(False, "web1", {"web1": None}), Loss(True, "r1", {"web1": None})]


def test_without_failure_domains_each_host_is_one() -> None:
    rows = fleet()
    for one in rows.values():
        one["listed"].update(variable="", domain="")
    told = found(rows)
    assert told.losses == []
    assert "The loss of one host leaves a copy" in shown(told) and "()" not in shown(told)


def test_dates_that_are_none_are_not_known_and_dates_in_the_future_are_named() -> None:
    told = found(fleet(web3=row("web3", copy("web1", "x", "yesterday"), copy("web2", "y", "2036-01-01T00:00:00Z"))))
    assert "web3 (r2) has another than the newest" in line(told, "web1")
    assert "web2 5 min in the future" in line(told, "web2")


def test_the_same_date_makes_no_copy_of_another_checkpoint() -> None:
    told = found(fleet(web3=row("web3", copy("web1", "forged", NEW), copy("web2"))))
    assert owner(told, "web1").holders == {"web1", "web2"}


def test_many_losses_are_cut_and_no_line_is_wider_than_the_terminal() -> None:
    rows = {f"host{number}": row(f"host{number}") for number in range(40)}
    told = found({host: {**one, "listed": {**one["listed"], "domain": ""}} for host, one in rows.items()})
    text = shown(told, 80)
    assert len(told.losses) == 40 and "and 28 more such losses" in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_of_others_are_shown_as_harmless_text() -> None:
    told = found(fleet(web3=row("web3", copy("\x1b[31mred" * 60), copy("web1"), gone=("\x1b[31mred" * 60,))))
    assert "\x1b" not in shown(told) and "\\x1b[31mred" in shown(told)


def test_status_shows_copies_and_spot_checks_and_its_document_holds_them() -> None:
    missed = {"spot_check": ["/srv/www: it exists, and nothing of it was recorded"]}
    rows = {host: {**one, **missed} if host != "web3" else one for host, one in fleet().items()}
    rows["web3"] = {**rows["web3"], "left": ["the copies of db9 could not be looked at"]}
    stream = io.StringIO()
    print_status(RunResult("status", Exit.DONE, "", rows, [], 1.0), Console(file=stream, width=120), Options())
    assert "web1, web2: /srv/www: it exists, and nothing of it was recorded\n" in stream.getvalue()
    assert "web3: the copies of db9 could not be looked at\n" in stream.getvalue()
    assert "cannot bring back" not in stream.getvalue()
    assert "copies of" in stream.getvalue()
    whole = StatusResult("status", Exit.DONE, "", rows, [], 1.0, redundancy=redundancy(rows))
    document = json.loads(json.dumps(whole.to_dict()))
    assert document["redundancy"]["owners"][0]["copies"][0]["peer"] == "web2"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("holds", {"web1": 1}),
        ("holds", [copy("web1", "not an id!")]),
        ("holds", [copy("web1", count=-1)]),
        ("holds", [copy("web1", verified=1e300)]),
        ("holds", [copy("web1", damaged="many")]),
        ("holds", [copy("web1", mac="yes")]),
        ("spot_check", "text"),
        ("spot_check", [1]),
        ("listed", [1]),
        ("listed", {"hosts": "many"}),
    ],
)
def test_an_answer_of_another_form_is_a_bad_answer(key: str, value: object) -> None:
    with pytest.raises(BadAnswer, match=key):
        read({key: value})


def test_answers_are_bounded_and_may_lack_all_of_it() -> None:
    told = read({"holds": [copy("x" * 50_000, "id", verified=None)], "spot_check": None, "listed": None})
    assert len(told["holds"][0]["host"]) == 20_000
    assert redundancy({"web1": {**told, "state": "ok"}}) is not None
    assert redundancy({"web1": {"state": "ok", "holds": [{}]}}) is not None


def test_a_host_under_two_names_holds_a_copy_once() -> None:
    web2, place = row("web2", copy("web1")), "1" * 64
    told = found({"web1": row("web1"), "web2": {**web2, "place": place}, "web2b": {**web2, "place": place}})
    assert [one.peer for one in owner(told, "web1").copies] == ["web2"]
    told = found({"web1": row("web1"), "web2": {**web2, "place": place}, "web3": {**web2, "place": "2" * 64}})
    assert [one.peer for one in owner(told, "web1").copies] == ["web2", "web3"]
    itself = {**row("web1", copy("web1")), "place": place}
    told = found({"web1": itself, "web1b": {**row("web1b", copy("web1")), "place": place}, "web2": web2})
    assert [one.peer for one in owner(told, "web1").copies] == ["web2"]
