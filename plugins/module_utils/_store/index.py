# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where in the packs a content lies: for a million of them a dictionary of names and tuples would take 350 MiB."""

from __future__ import annotations

from binascii import Error, unhexlify
from io import BytesIO
from itertools import repeat
from operator import add, lshift
from typing import NamedTuple

# A place is one number: that of the pack, then the offset, then the size.
_SIZE, _OFFSET = 32, 40
# Bytes of lines that are taken apart at once.
_PIECE = 1024 * 1024


class Place(NamedTuple):
    pack: str
    offset: int
    size: int


class Index:
    """SHA-256 (hexadecimal) -> place."""

    def __init__(self) -> None:
        self._packs: list[str] = []
        self._places: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, sha: str) -> bool:
        return _key(sha) in self._places

    def get(self, sha: str) -> Place | None:
        found = self._places.get(_key(sha))
        if found is None:
            return None
        pack, rest = divmod(found, 1 << (_OFFSET + _SIZE))
        return Place(self._packs[pack], rest >> _SIZE, rest & ((1 << _SIZE) - 1))

    def add(self, pack: str, lines: bytes, last: bool = False) -> None:
        """What the ``lines`` of an index say of the pack; with ``last`` only of what was nowhere else. Raises
        ValueError when they are odd."""
        first = len(self._packs) << (_OFFSET + _SIZE)
        self._packs.append(pack)
        stream = BytesIO(lines)
        for part in iter(lambda: stream.read(_PIECE) + stream.readline(), b""):
            words = part.split()
            offsets = map(lshift, map(int, words[1::3]), repeat(_SIZE))
            numbers = map(add, map(add, offsets, map(int, words[2::3])), repeat(first))
            found = zip(map(unhexlify, words[::3]), numbers)
            self._places.update([one for one in found if one[0] not in self._places] if last else found)

    def drop(self, sha: str) -> Place | None:
        """Forget the content; where it was."""
        place = self.get(sha)
        self._places.pop(_key(sha), None)
        return place

    def drop_pack(self, pack: str) -> None:
        """Forget all that is found in the pack."""
        numbers = {number for number, name in enumerate(self._packs) if name == pack}
        kept = ((sha, place) for sha, place in self._places.items() if place >> (_OFFSET + _SIZE) not in numbers)
        self._places = dict(kept)


def _key(sha: str) -> bytes:
    """The name as it is kept; b"", which none is, of what is no name."""
    try:
        return unhexlify(sha)
    except (Error, ValueError):
        return b""


def line_of(sha: str, offset: int, size: int) -> bytes:
    """A line of an index."""
    return b"%s %d %d\n" % (sha.encode("ascii"), offset, size)
