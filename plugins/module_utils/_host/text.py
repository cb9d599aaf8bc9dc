# SPDX-License-Identifier: GPL-3.0-or-later

r"""File names as valid UTF-8, and back: Ansible takes no other text, and prints it unchanged.

A byte that is no UTF-8 is written ``\xe9``. So are the bytes of a character that would move, colour or reverse the text
of a terminal, but for a new line and a tab. A backslash that would read as the start of such an escape is written
``\x5c``. Nothing else changes, so that nearly every file name stands for itself.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable

_LIKE_ESCAPE = re.compile(r"\\(?=x(?:5c|[0189a-f][0-9a-f]))")
_ESCAPE = re.compile(r"\\x(5c|[0189a-f][0-9a-f])")
# Surrogates (Python decodes a byte that is not UTF-8 to a surrogate), control characters, and characters that turn the
# direction of text.
_UNSAFE = re.compile("[\ud800-\udfff\x00-\x08\x0b-\x1f\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")
# The part of an address before the host.
_PASSWORD, _TOKEN = r"(//[^/@:\s]*):[^/\s]*@", r"(https?://)[^/@:\s]+@"
# The largest size of a result, in characters of JSON, and of a text in it: the driver refuses larger results. Longer
# lists are cut, and say how many items are missing.
LONGEST_RESULT = 2_000_000
LONGEST_TEXT = 100_000


def escape(text: str) -> str:
    """Escape a text in which Python represents such bytes by surrogates; valid UTF-8."""
    return _escape_unsafe(_LIKE_ESCAPE.sub(r"\\x5c", text) if "\\" in text else text)


def _escape_unsafe(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text  # Nearly every text of a result, of which there may be a million.
    return _UNSAFE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _raw(found[0])), text)


def masked(text: str) -> str:
    """The text without the passwords and tokens of addresses in it."""
    return re.sub(_TOKEN, r"\1***@", re.sub(_PASSWORD, r"\1:***@", text))


def unescape(text: str) -> str:
    """The inverse of ``escape``."""
    if not _ESCAPE.search(text):
        return text
    named = _ESCAPE.sub(lambda found: chr(int(found[1], 16) + (0xDC00 if found[1] >= "80" else 0)), text)
    return named.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def sentence(text: str) -> str:
    """``escape`` for a text that is printed as one line."""
    return escape(text).replace("\n", " ")


def _raw(text: str) -> bytes:
    return b"".join(
        bytes([ord(char) - 0xDC00]) if 0xDC80 <= ord(char) <= 0xDCFF else char.encode("utf-8", "surrogatepass")
        for char in text
    )


def escaped(value: Any) -> Any:
    """``escape`` of all strings in a result, keys included."""
    return _each(value, escape)


def harmless(value: Any) -> Any:
    """Escape the unsafe characters that another host should have escaped, and leave its escapes unchanged."""
    return _each(value, _escape_unsafe)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_each(key, change): _each(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_each(item, change) for item in value]
    return value


def bounded(result: dict[str, Any]) -> dict[str, Any]:
    """The result, with its lists and texts cut to the largest size.

    A user may have millions of files with long names: the rest of the result must arrive nevertheless.
    """
    room = [LONGEST_RESULT]
    # Plain values are short and important, so they come before lists.
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
        return {key: _bounded(item, room) for key, item in value.items()}
    if isinstance(value, list):
        kept: list[Any] = []
        for item in value:
            if room[0] <= 0:
                # A list of sentences gets one more, which tells the number of missing items.
                more = f"and {len(value) - len(kept)} more"
                return [*kept, more] if isinstance(item, str) else kept
            kept.append(_bounded(item, room))
        return kept
    room[0] -= 8
    return value


def named(value: Any, paths: bool = False) -> Any:
    """The arguments of a module, with the file names in them (``paths``, ``exclude``) unescaped."""
    if isinstance(value, str):
        return unescape(value) if paths else value
    if isinstance(value, dict):
        return {key: named(item, key in ("paths", "exclude")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(item, paths) for item in value]
    return value
