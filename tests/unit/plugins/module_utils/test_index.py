# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The index gives back every place as it was told, and knows nothing else."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import index as indices
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.index import Index, Place, line_of


def name(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


# The last is larger than what packs may be here: another store may have other limits.
PLACES = [(0, 0), (82, 1), (2**25 + 7, 65536), (2**40 - 1, 2**32 - 1)]


def lines(*numbers: int) -> bytes:
    return b"".join(line_of(name(number), *PLACES[number % len(PLACES)]) for number in numbers)


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_every_place_is_given_back(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(indices, "_PIECE", piece)
    index = Index()
    for pack in range(5):
        index.add(f"pack{pack}", lines(*range(pack * 8, pack * 8 + 8)))
    assert len(index) == 40
    for number in range(40):
        assert index.get(name(number)) == Place(f"pack{number // 8}", *PLACES[number % len(PLACES)])
        assert name(number) in index
    for other in (name(40), name(1)[:-1], name(1)[:-2], "", "no name", "\xe4" * 64):
        assert index.get(other) is None and other not in index


def test_the_newest_counts_but_the_trash_never_before_it() -> None:
    index = Index()
    index.add("old", lines(1, 2))
    index.add("new", lines(2))
    index.add("trash", lines(1, 2, 3), last=True)
    places = [index.get(name(number)) for number in (1, 2, 3)]
    assert [place.pack if place else "" for place in places] == ["old", "new", "trash"]


def test_what_is_dropped_is_unknown() -> None:
    index = Index()
    index.add("one", lines(1, 2))
    index.add("two", lines(3))
    index.add("one", lines(4))
    dropped = index.drop(name(1))
    assert dropped is not None and dropped.pack == "one" and index.drop(name(1)) is None
    index.drop_pack("one")
    assert [name(number) in index for number in range(1, 5)] == [False, False, True, False]


@pytest.mark.parametrize("odd", [b"x 1 1\n", name(1).encode() + b" one 1\n"])
def test_odd_lines_are_no_index(odd: bytes) -> None:
    with pytest.raises(ValueError):
        Index().add("pack", odd)
