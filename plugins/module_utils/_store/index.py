# SPDX-License-Identifier: GPL-3.0-or-later

"""The index of packs: the place of each content. A million contents in a dictionary of tuples would take 350 MiB."""

from __future__ import annotations

from binascii import Error, unhexlify
from io import BytesIO
from itertools import repeat
from operator import add, lshift
from typing import NamedTuple

# A place is one number: the number of the pack, then the offset, then the size.
_SIZE, _OFFSET = 32, 40
# Bytes of lines that are parsed at once.
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
        """Add the contents of the pack by the ``lines`` of its index; with ``last`` only those that no other pack has.
        Raises ValueError for a malformed line."""
        first = len(self._packs) << (_OFFSET + _SIZE)
        self._packs.append(pack)
        stream = BytesIO(lines)
        for part in iter(lambda: stream.read(_PIECE) + stream.readline(), b""):
            words = part.split()
            offsets = map(lshift, map(int, words[1::3]), repeat(_SIZE))
            numbers = map(add, map(add, offsets, map(int, words[2::3])), repeat(first))
            found = zip(map(unhexlify, words[::3]), numbers)
            self._places.update([pair for pair in found if pair[0] not in self._places] if last else found)

    def drop(self, sha: str) -> Place | None:
        """Forget the content; its former place."""
        place = self.get(sha)
        self._places.pop(_key(sha), None)
        return place

    def drop_pack(self, pack: str) -> None:
        """Forget all contents of the pack."""
        numbers = {number for number, name in enumerate(self._packs) if name == pack}
        kept = ((sha, place) for sha, place in self._places.items() if place >> (_OFFSET + _SIZE) not in numbers)
        self._places = dict(kept)


def _key(sha: str) -> bytes:
    """The name in binary; b"", which is the name of no content, for a malformed name."""
    try:
        return unhexlify(sha)
    except (Error, ValueError):
        return b""


def line_of(sha: str, offset: int, size: int) -> bytes:
    """The line of an index for one content."""
    return b"%s %d %d\n" % (sha.encode("ascii"), offset, size)
