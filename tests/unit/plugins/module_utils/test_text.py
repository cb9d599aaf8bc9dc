# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names that are not UTF-8 leave a host in one way, and come back in the same."""

from __future__ import annotations

import random

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._text import escape, escaped, named, unescape


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
    ],
)
def test_only_what_must_be_is_written_otherwise(raw: bytes, shown: str) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    assert escape(name) == shown and unescape(shown) == name
    shown.encode("utf-8")


def test_every_name_comes_back() -> None:
    chance = random.Random(1)
    alphabet = [b"\\", b"x", b"5", b"c", b"e", b"9", b"\xe9", b"\xc3", b"\xa9", b"\xff", b"/"]
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
