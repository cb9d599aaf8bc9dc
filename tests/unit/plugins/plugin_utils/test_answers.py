# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a peer answers has its form, or the peer has failed."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import (
    read,
    silence,
    without_twins,
    words,
)

COPY = {
    "id": "a" * 64,
    "host": "web1",
    "name": "protected",
    "created": "2026-11-23T23:50:11.123456Z",
    "state": "verified",
    "detail": "",
}


def test_an_honest_answer_is_read_and_nothing_else_in_it() -> None:
    found = read("candidates", {"candidates": [{**COPY, "more": "x"}], "ansible_facts": {"a": 1}})
    assert list(found) == ["candidates", "place"] and "more" not in found["candidates"][0]
    assert found["candidates"][0]["name"] == "protected"


@pytest.mark.parametrize(
    "candidates",
    [
        None,
        5,
        {"id": 1},
        [1],
        [{"id": 5, "name": None, "created": {"a": 1}, "state": "verified"}],
        [{**COPY, "id": "A" * 64}],
        [{**COPY, "id": "a" * 63}],
        [{**COPY, "name": "../x"}],
        [{**COPY, "name": ["x"]}],
        [{**COPY, "name": ""}],
        [{**COPY, "created": "9999"}],
        [{**COPY, "created": ""}],
        [{**COPY, "host": "a b"}],
        [{**COPY, "state": "none"}],
        [COPY, {**COPY, "state": ["verified"]}],
        [COPY] * 20_001,
    ],
)
def test_nonsense_is_a_failure_of_the_peer(candidates: Any) -> None:
    found = read("candidates", {"candidates": candidates})
    assert found["failed"] and len(found["msg"]) < 500 and found["error"] == "Damaged"


@pytest.mark.parametrize("path", ["/tmp/x\n!touch /tmp/y", "tmp/x", "/tmp/$(x)", "/tmp/a b", 5, None, "/" + "a" * 5000])
def test_a_path_that_sftp_could_take_for_a_command_is_refused(path: Any) -> None:
    assert read("export", {"path": path, "bytes": 5})["failed"]


@pytest.mark.parametrize("size", [-1, True, "5", 5.0, None, 1 << 63])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    assert read("export", {"path": "/tmp/x", "bytes": size})["failed"]
    assert read("land", {"path": "/tmp/x", "room": size})["failed"]


def test_what_a_failed_host_says_is_one_bounded_line() -> None:
    found = read("have", {"failed": True, "msg": "\x1b[2Jgone\n" + "x" * 100_000, "error": {"a": 1}})
    assert found["msg"].startswith("\\x1b[2Jgone\\n") and len(found["msg"]) < 400
    assert read("have", {"failed": 1, "msg": {"a": ["b"]}})["msg"] == "{'a': ['b']}"
    assert words("a\u202eb") == "a\\u202eb"


SEALED = {
    "sha256": "b" * 64,
    "base": "",
    "size": 1000,
    "nonce": "c" * 64,
    "tag": "d" * 64,
    "key": "e" * 16,
    "card": "gAAAAA==",
}


def test_an_encrypted_copy_has_its_names_in_its_card() -> None:
    (found,) = read("candidates", {"candidates": [{**COPY, "host": "", "name": "", "sealed": SEALED}]})["candidates"]
    assert found["sealed"] == SEALED
    base = {"id": "a" * 64, "sha256": "b" * 64, "bytes": 5, "length": 1}
    assert read("have", {"ids": [], "bases": [base], "sealed": 1, "plain": 2})["bases"] == [base]


@pytest.mark.parametrize(
    "wrong",
    [{"base": "../x"}, {"size": -1}, {"nonce": ""}, {"tag": None}, {"key": "e" * 17}, {"card": "a b"}, {"sha256": 5}],
)
def test_a_record_of_an_encrypted_bundle_has_its_form(wrong: dict[str, Any]) -> None:
    assert read("candidates", {"candidates": [{**COPY, "sealed": {**SEALED, **wrong}}]})["failed"]
    assert read("have", {"ids": [], "bases": [wrong]})["failed"]


def test_each_store_answers_once() -> None:
    told = {name: {"held": [], "place": place} for name, place in (("a", "1" * 64), ("b", "2" * 64), ("c", "1" * 64))}
    told["d"] = told["e"] = {"held": [], "place": ""}  # Of a version before, which does not tell.
    found = without_twins(told)
    assert [name for name, answer in found.items() if answer.get("failed")] == ["c"]
    assert found["c"]["msg"] == "it is a under another name, by its store" and silence(found["c"]) == "does not count"
