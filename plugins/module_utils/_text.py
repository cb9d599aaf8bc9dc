# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

r"""Names of files as valid UTF-8 and back: Ansible takes no others.

A byte that is no UTF-8 is written ``\xe9``. A backslash that would read as the beginning of one is written ``\x5c``.
Nothing else changes, so that the name of nearly every file is itself.
"""

from __future__ import annotations

import re
from typing import Any

_READS_SO = re.compile(r"\\(?=x(?:5c|[89a-f][0-9a-f]))")
_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")
_LONE = re.compile("[\ud800-\udfff]+")


def escape(text: str) -> str:
    """The text, as Python has a name with such bytes, as valid UTF-8."""
    return _LONE.sub(lambda found: "".join(f"\\x{byte:02x}" for byte in _raw(found[0])), _READS_SO.sub(r"\\x5c", text))


def unescape(text: str) -> str:
    """The inverse of ``escape``."""
    named = _ESCAPE.sub(lambda found: "\\" if found[1] == "5c" else chr(0xDC00 + int(found[1], 16)), text)
    return named.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") if named != text else text


def _raw(text: str) -> bytes:
    return b"".join(
        bytes([ord(one) - 0xDC00]) if 0xDC80 <= ord(one) <= 0xDCFF else one.encode("utf-8", "surrogatepass")
        for one in text
    )


def escaped(value: Any) -> Any:
    """All strings in a result, keys too."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {escaped(key): escaped(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(one) for one in value]
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
