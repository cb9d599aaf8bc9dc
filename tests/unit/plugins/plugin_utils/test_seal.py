# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys for encrypted copies: what follows from them, and what a peer cannot make the controller take."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.proof import LONGEST, tag_of
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _seal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._seal import Key, Seals, find

OLD, NEW = "o" * 32, "n" * 40


def offered(number: int) -> dict[str, Any]:
    return {
        "id": f"{number:064x}",
        "host": "web1.example",
        "name": "before",
        "created": f"2026-11-29T10:00:{number:02}Z",
    }


def copy(number: int, base: str = "", key: str = NEW, owner: str = "h1", **more: Any) -> dict[str, Any]:
    """An entry in a peer's list, of a bundle that was made with the key."""
    made, names = Key.of(key, owner), offered(number)
    nonce, sha = f"{number:02x}" * 32, f"{number + 100:064x}"
    record = {"sha256": sha, "base": base, "size": 1000, "nonce": nonce, "key": made.name, "card": made.card(names)}
    record["tag"] = tag_of(made.secret(names["id"], nonce), sha, base)
    sealed = {**record, **{name: value for name, value in more.items() if name in record}}
    rest = {name: value for name, value in more.items() if name not in record}
    entry = {"id": names["id"], "host": "", "name": "", "created": "", "mac": "", "state": "verified", "detail": ""}
    return {**entry, **rest, "sealed": sealed}


def chain(length: int, **more: Any) -> list[dict[str, Any]]:
    """Copies of which each builds on the one before it."""
    made: list[dict[str, Any]] = []
    for number in range(length):
        made.append(copy(number, made[-1]["sealed"]["sha256"] if made else "", **more))
    return made


def seals(*keys: str, owner: str = "h1") -> Seals:
    return find(list(keys), owner)


def test_keys_of_hosts_purposes_and_bundles_all_differ() -> None:
    ours, theirs = Key.of(OLD, "h1"), Key.of(OLD, "h2")
    found = [ours.secret("a", "b"), ours.secret("ab", ""), theirs.secret("a", "b"), ours.group("a"), ours.name]
    found += [Key.of(NEW, "h1").secret("a", "b"), theirs.name, theirs.group("a"), ours.derived.hex()]
    assert len(set(found)) == len(found) and OLD not in str(found)
    assert ours.secret("a", "b") == Key.of(OLD, "h1").secret("a", "b")


def test_a_chain_of_ours_is_opened() -> None:
    copies = chain(3)
    (first, _second, third) = seals(NEW).opened(copies)
    assert (first["host"], first["name"], first["state"]) == ("web1.example", "before", "verified")
    assert third["created"] == offered(2)["created"] and [one for one, _record in third["sealed"]] == [
        one["id"] for one in copies
    ]
    values = seals(OLD, NEW).adopting(third["sealed"])
    assert values["secrets"] == [Key.of(NEW, "h1").secret(one["id"], one["sealed"]["nonce"]) for one in copies]
    assert [one["sha256"] for one in values["seal"]["chain"]] == [one["sealed"]["sha256"] for one in copies]
    assert seals(NEW).fetching(third["sealed"]) == {"seal": {"sha256": copies[2]["sealed"]["sha256"]}}


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "f" * 64},
        {"base": ""},
        {"nonce": "f" * 64},
        {"tag": "f" * 64},
        {"card": "gAAAAA"},
        {"card": Key.of(NEW, "h2").card(offered(1))},
        {"card": Key.of(NEW, "h1").card(offered(2))},
    ],
)
def test_a_record_that_was_changed_is_no_copy(change: dict[str, Any]) -> None:
    copies = chain(2)
    copies[1]["sealed"].update(change)
    first, second = seals(NEW).opened(copies)
    assert first["state"] == "verified" and second["state"] == "damaged" and second["sealed"] is None


def test_records_of_other_checkpoints_and_of_other_hosts_prove_nothing() -> None:
    first, second = chain(2)
    assert seals(NEW).opened([{**second, "id": first["id"]}])[0]["state"] == "damaged"
    (found,) = seals(NEW).opened([second])  # what it builds on is missing
    assert found["state"] == "damaged" and "missing" in found["detail"]
    assert seals(NEW).opened([copy(1, owner="h2")])[0]["state"] == "locked"
    stolen = copy(1, owner="h2")
    stolen["sealed"]["key"] = Key.of(NEW, "h1").name
    assert seals(NEW).opened([stolen])[0]["state"] == "damaged"


def test_a_chain_without_end_ends() -> None:
    copies = chain(LONGEST + 1)
    found = seals(NEW).opened(copies)
    assert found[LONGEST - 1]["state"] == "verified" and found[LONGEST]["state"] == "damaged"


def test_a_copy_that_no_key_reads_is_locked_and_says_so() -> None:
    for keys, said in (([OLD], "no key of evenkeel_encryption_key"), ([], "evenkeel_encryption_key is not set")):
        (found,) = Seals([Key.of(key, "h1") for key in keys]).opened(chain(1))
        assert found["state"] == "locked" and said in found["detail"] and not found["name"]
    plain = {"id": "a" * 64, "host": "h1", "name": "before", "state": "verified", "sealed": ""}
    assert seals(NEW).opened([plain]) == [plain]


def test_the_first_key_encrypts_and_each_bundle_has_a_secret_of_its_own() -> None:
    ours = seals(NEW, OLD)
    answer = {"bases": [{"id": offered(n)["id"], "sha256": f"{n:064x}", "bytes": 5, "length": 2} for n in (3, 1)]}
    held = [offered(n)["id"] for n in (0, 1, 2)]
    known = ours.known(held, answer)
    assert known == (offered(1)["id"], f"{1:064x}", "5", "2") and ours.known(held, {}) == ()
    first, whole = ours.sealing("c", known), ours.sealing("c", ())
    assert first["secrets"] != whole["secrets"] and first == ours.sealing("c", known)
    assert first["seal"]["sha256"] == f"{1:064x}" and "sha256" not in whole["seal"] and whole["seal"]
    assert seals(NEW).sealing("c", known)["secrets"] != first["secrets"]  # the next run
    ours.sealing(offered(5)["id"], ())
    told = ours.receiving(offered(5), ())["seal"]
    assert told["key"] == Key.of(NEW, "h1").name and len(told["groups"]) == 2 and "before" not in str(told)


def test_without_a_key_all_is_plain_but_not_where_copies_were_encrypted() -> None:
    none = find(None, "h1")
    assert not none and none.asking() == none.sealing("c", ()) == none.receiving(offered(1), ()) == {}
    assert none.known(["b", "a", "c"], {"ids": ["a", "b", "d"]}) == ("a", "b")
    assert none.refusal({"sealed": 0}) == "" and "is not set" in none.refusal({"sealed": 1})
    assert seals(NEW).refusal({"sealed": 1}) == ""
    assert _seal.leftovers("h1", {}) == []


@pytest.mark.parametrize("wrong", ["", [], "short", {"a": 1}, 7, [OLD, "short"], [OLD, None]])
def test_a_malformed_key_is_refused_and_not_shown(wrong: Any) -> None:
    with pytest.raises(UsageError) as caught:
        find(wrong, "h1")
    assert "evenkeel_encryption_key" in caught.value.message and "short" not in caught.value.message
