# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names that are not UTF-8 leave a host in one way, and come back in the same."""

from __future__ import annotations

import json
import random

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import report, reported
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.text import (
    LONGEST_RESULT,
    bounded,
    escape,
    escaped,
    named,
    sentence,
    unescape,
)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"/srv/caf\xe9", r"/srv/caf\xe9"),
        (b"/srv/caf\xc3\xa9", "/srv/caf\u00e9"),
        (rb"/srv/caf\xe9", r"/srv/caf\x5cxe9"),
        (rb"/srv/a\x5c", r"/srv/a\x5cx5c"),
        (b"\\\xe9", r"\\xe9"),
        (rb"C:\xyz \x41 \n \xE9 \x7f", r"C:\xyz \x41 \n \xE9 \x7f"),
        (b"line\nbreak", "line\nbreak"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"\x1b[2J\x07\r", r"\x1b[2J\x07\x0d"),
        (rb"\x1b", r"\x5cx1b"),
        (rb"dev-disk-by\x2duuid", r"dev-disk-by\x2duuid"),
        ("\x9b2J".encode(), r"\xc2\x9b2J"),
        ("\u202egnp.exe".encode(), r"\xe2\x80\xaegnp.exe"),
        ("a\tb\u200d\u2705".encode(), "a\tb\u200d\u2705"),
    ],
)
def test_only_what_must_be_is_written_otherwise(raw: bytes, shown: str) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    assert escape(name) == shown and unescape(shown) == name
    shown.encode("utf-8")


def test_every_name_comes_back() -> None:
    chance = random.Random(1)
    alphabet = [
        b"\\",
        b"x",
        b"5",
        b"c",
        b"e",
        b"9",
        b"\xe9",
        b"\xc3",
        b"\xa9",
        b"\xff",
        b"/",
        b"\x1b",
        b"1",
        b"b",
        b"0",
        b"\n",
    ]
    for _ in range(5000):
        raw = b"".join(chance.choices(alphabet, k=chance.randrange(12)))
        shown = escape(raw.decode("utf-8", "surrogateescape"))
        shown.encode("utf-8")
        assert unescape(shown).encode("utf-8", "surrogateescape") == raw, raw


def test_bytes_that_together_are_utf_8_are_that_name() -> None:
    assert unescape(r"caf\xc3\xa9") == "caf\u00e9"


def test_half_of_a_pair_is_no_name_and_breaks_nothing() -> None:
    escape("\ud83d x").encode("utf-8")


def test_all_of_a_result_and_the_paths_of_the_arguments() -> None:
    name, shown = "/a\udce9", r"/a\xe9"
    assert escaped({name: [name, {"k": (name, 1, None, True)}]}) == {shown: [shown, {"k": [shown, 1, None, True]}]}
    given = {
        "resources": [{"files": {"paths": [shown], "exclude": [shown]}}],
        "probes": [{"command": {"argv": [shown]}}],
    }
    assert named(given) == {
        "resources": [{"files": {"paths": [name], "exclude": [name]}}],
        "probes": [{"command": {"argv": [shown]}}],
    }
    assert given["resources"] == [{"files": {"paths": [shown], "exclude": [shown]}}]


def test_a_sentence_is_one_line() -> None:
    assert sentence("/a\nok: [web1]\x1b[2J") == r"/a ok: [web1]\x1b[2J"


def test_a_result_is_bounded_and_says_how_much_more_there_is() -> None:
    steps = [{"action": "replace", "target": "t" * 4000} for _ in range(5000)]
    result = {"done": ["d" * 4000] * 5000, "planned": steps, "msg": "what happened", "armed": {"generation": 3}, "n": 7}
    cut = bounded(result)
    assert (cut["msg"], cut["armed"], cut["n"]) == ("what happened", {"generation": 3}, 7)
    assert len(str(cut)) < 1.1 * LONGEST_RESULT
    kept = len(cut["done"]) - 1
    assert cut["done"][-1] == f"and {5000 - kept} more" and kept > 450
    assert list(cut) == list(result)
    assert len(json.dumps(bounded({"done": ["\U0001f600" * 200] * 20_000}))) < 1.1 * LONGEST_RESULT
    assert bounded({"done": ["a", {"b": 1}], "msg": ""}) == {"done": ["a", {"b": 1}], "msg": ""}


def test_what_a_host_has_escaped_is_not_escaped_again_on_the_controller() -> None:
    told = reported({"done": [r"/caf\xe9"], "msg": "a\nb\x1b"})
    assert told["done"] == [r"/caf\xe9"] and told["msg"] == r"a b\x1b"
    assert report({"done": [r"/caf\xe9"]})["done"] == [r"/caf\x5cxe9"]
