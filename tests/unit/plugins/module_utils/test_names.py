# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which checkpoint a word means: the same in a store, among the copies on peers, and off site."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action.ft_recover import Copy, choose
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import NotFound
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store, meant
from flows import checkpoint

A, B, C, D = (letter * 64 for letter in "abcd")
TWIN = "a" * 12 + "0" * 52
HELD = [("base", A), ("other", B), ("base", C), ("undo", D)]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("latest", [C, B, A]),
        ("base", [C, A]),
        ("base~0", [C]),
        ("base~1", [A]),
        ("base~2", []),
        ("undo", [D]),
        (A, [A]),
        ("a" * 8, [A]),
        ("a" * 7, []),
        ("", []),
        ("none", []),
        ("none~0", []),
    ],
)
def test_what_a_word_can_mean(wanted: str, ids: list[str]) -> None:
    assert meant(wanted, HELD) == ids


def test_a_beginning_that_two_ids_have_means_neither() -> None:
    assert meant("a" * 8, [*HELD, ("base", TWIN)]) == []
    assert meant("a" * 13, [*HELD, ("base", TWIN)]) == [A]


def test_a_name_comes_before_the_same_word_as_anything_else() -> None:
    assert meant("a" * 8, [*HELD, ("a" * 8, B)]) == [B]
    assert meant("base~1", [*HELD, ("base~1", B)]) == [B]


def entry(name: str, checkpoint: str, day: int, state: str = "verified") -> Copy:
    return Copy("p", name=name, id=checkpoint, created=f"2026-11-{day:02}T00:00:00Z", state=state)


def test_copies_are_chosen_by_the_same_words() -> None:
    copies = [entry("base", C, 3), entry("base", A, 1), entry("other", B, 2), entry("base", TWIN, 9, "unproved")]
    copies += [entry("base", A, 1)]  # of another peer
    for wanted in ("latest", "base", "base~1", A, "a" * 8, "c" * 8):
        chosen = [group[0].id for group in choose(copies, wanted)]
        assert chosen == meant(wanted, [("base", A), ("other", B), ("base", C)])
    assert [len(group) for group in choose(copies, "base~1")] == [2]
    assert choose(copies, TWIN) == [[entry("base", TWIN, 9, "unproved")]]
    assert choose(copies, TWIN[:16]) == []


def test_a_store_knows_them_too(store: Store, tree: Path) -> None:
    ids = []
    for number in range(3):
        (tree / "a").write_text(str(number))
        ids.append(checkpoint(store, ("base", "other", "base")[number], [{"files": {"paths": [str(tree)]}}])["id"])
    held = [(("base", "other", "base")[number], one) for number, one in enumerate(ids)]
    for wanted in ("latest", "base", "base~1", "other~0", ids[1], ids[0][:8]):
        assert store.resolve(wanted) == meant(wanted, held)[0]
    with pytest.raises(NotFound, match="there are 2 of base"):
        store.resolve("base~2")
