# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

r"""Names of files as valid UTF-8, and back: Ansible takes no others, and prints them as they are.

A byte that is no UTF-8 is written ``\xe9``, and so are the bytes of a character that would move, colour or reverse what
a terminal shows; a new line and a tab are left as they are. A backslash that would read as the beginning of one is
written ``\x5c``. Nothing else changes, so that the name of nearly every file is itself.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable

_READS_SO = re.compile(r"\\(?=x(?:5c|[0189a-f][0-9a-f]))")
_ESCAPE = re.compile(r"\\x(5c|[0189a-f][0-9a-f])")
# Halves of pairs (a byte that is no UTF-8 is one to Python), controls of both sets, and what turns the direction round.
_ODD = re.compile("[\ud800-\udfff\x00-\x08\x0b-\x1f\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
# What a result may hold, in characters of JSON, and a text in it: the driver takes no longer ones from a host. What it
# names goes up to there, and how much more there is.
LONGEST_RESULT = 2_000_000
LONGEST_TEXT = 100_000


def escape(text: str) -> str:
    """The text, as Python has a name with such bytes, as valid UTF-8."""
    return _odd_ones(_READS_SO.sub(r"\\x5c", text))


def _odd_ones(text: str) -> str:
    return _ODD.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _raw(found[0])), text)


def unescape(text: str) -> str:
    """The inverse of ``escape``."""
    if not _ESCAPE.search(text):
        return text
    named = _ESCAPE.sub(lambda found: chr(int(found[1], 16) + (0xDC00 if found[1] >= "80" else 0)), text)
    return named.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def sentence(text: str) -> str:
    """The same for what is printed as a line."""
    return escape(text).replace("\n", " ")


def _raw(text: str) -> bytes:
    return b"".join(
        bytes([ord(one) - 0xDC00]) if 0xDC80 <= ord(one) <= 0xDCFF else one.encode("utf-8", "surrogatepass")
        for one in text
    )


def escaped(value: Any) -> Any:
    """All strings in a result, keys too."""
    return _each(value, escape)


def harmless(value: Any) -> Any:
    """The same for what another host has escaped, or should have: what is escaped already is not escaped again."""
    return _each(value, _odd_ones)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_each(key, change): _each(one, change) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each(one, change) for one in value]
    return value


def bounded(result: dict[str, Any]) -> dict[str, Any]:
    """The result, its lists and texts cut off where there is no room for more.

    A user may have millions of files with long names: what root says of other things must arrive nevertheless.
    """
    room = [LONGEST_RESULT]
    # What is no list is short, and decides; so it comes first.
    order = sorted(result, key=lambda key: isinstance(result[key], (list, dict)))
    cut = {key: _bounded(result[key], room) for key in order}
    return {key: cut[key] for key in result}


def _bounded(value: Any, room: list[int]) -> Any:
    if isinstance(value, str):
        cut = value if len(value) <= LONGEST_TEXT else value[: LONGEST_TEXT - 1] + "…"
        room[0] -= len(cut) if cut.isascii() else len(json.dumps(cut))
        return cut
    if isinstance(value, dict):
        room[0] -= sum(len(str(key)) for key in value)
        return {key: _bounded(one, room) for key, one in value.items()}
    if isinstance(value, list):
        kept: list[Any] = []
        for one in value:
            if room[0] <= 0:
                # Where every item is a sentence, one more can say so.
                more = f"and {len(value) - len(kept)} more"
                return [*kept, more] if isinstance(one, str) else kept
            kept.append(_bounded(one, room))
        return kept
    room[0] -= 8
    return value


def named(value: Any, paths: bool = False) -> Any:
    """The arguments of a module, with the names of files in them (``paths``, ``exclude``) as they are on the host."""
    if isinstance(value, str):
        return unescape(value) if paths else value
    if isinstance(value, dict):
        return {key: named(one, key in ("paths", "exclude")) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(one, paths) for one in value]
    return value
