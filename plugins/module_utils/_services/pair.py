# SPDX-License-Identifier: GPL-3.0-or-later

"""A pair of commands that drain a host and end that, for a balancer without a runtime API of its own here."""

from __future__ import annotations

from collections.abc import Mapping

from .._dataclasses import dataclass
from .._errors import UsageError
from .._host.options import Options

OPTIONS: Options = {
    "drain": {"type": "list", "elements": "str", "required": True},
    "undrain": {"type": "list", "elements": "str", "required": True},
    "check": {"type": "list", "elements": "str"},
}
_MOST, _LONGEST = 100, 4096


@dataclass(frozen=True)
class Pair:
    """``check``: ends with 0 when the host is drained, otherwise with another code; empty where nothing tells."""

    drain: list[str]
    undrain: list[str]
    check: list[str]

    @property
    def name(self) -> str:
        return self.drain[0]


def check(declared: Mapping[str, object]) -> Pair:
    """The declared commands. UsageError for a command that cannot be one."""
    return Pair(*(_argv(declared, key) for key in OPTIONS))


def _argv(declared: Mapping[str, object], key: str) -> list[str]:
    words = declared.get(key) or []
    if not isinstance(words, list) or len(words) > _MOST:
        raise UsageError(f"{key} is no list of at most {_MOST} words; nothing was touched")
    for word in words:
        if not isinstance(word, str) or len(word) > _LONGEST or "\0" in word:
            raise UsageError(f"{key} has a word that is no text of at most {_LONGEST} characters; nothing was touched")
    if not all(words[:1]) or (OPTIONS[key].get("required") and not words):
        raise UsageError(f"{key} names no program; nothing was touched")
    return [*words]
