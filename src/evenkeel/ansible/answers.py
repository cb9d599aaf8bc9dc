# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The answers of hosts are read here alone: in the form that our modules promise, bounded, or not at all.

A host that was taken over can answer anything. An answer that cannot be read here puts that host in doubt, and no
other host. Behind this place every number is a number, every text is short enough to be shown, and every name of a
checkpoint can stand in a command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from evenkeel.shared import BAD_ANSWER

# The ``error`` of a host whose answer could not be read.
BAD = BAD_ANSWER
# The characters of a text that are kept, the entries of a list, the values of a whole answer, and its depth.
LONGEST_TEXT = 20_000
LONGEST_LIST = 20_000
MOST_VALUES = 400_000
DEEPEST = 30
# No number of a module is larger, in seconds or another unit.
_LARGEST = 1e12
_ID = re.compile(r"[0-9A-Za-z]{0,64}")
# The key of a form for every key that has no form of its own.
_OTHERS = "*"


class BadAnswer(Exception):
    """An answer that none of our modules gives: the place of the fault, and the value there."""


def read(said: object) -> Mapping[str, Any]:
    """The result of a task of ours in a form on which the driver can rely. Raises BadAnswer."""
    if not isinstance(said, Mapping):
        raise BadAnswer("there is no result in it, or the result is too long")
    try:
        return _Reader().mapping(said, "", _RESULT)
    except RecursionError:  # another bound on the depth than ours came first
        raise BadAnswer("it is nested too deep") from None


class _Reader:
    """An answer that is being read; counts its values."""

    def __init__(self) -> None:
        self.counted = 0

    def mapping(self, said: object, where: str, form: Mapping[str, _Form], depth: int = 0) -> dict[str, object]:
        if not isinstance(said, Mapping):
            raise _wrong(where, "a mapping", said)
        found: dict[str, object] = {}
        for key, value in said.items():
            name = cut(str(key), 200)
            place = f"{where}.{name}" if where else name
            known = form.get(name, form.get(_OTHERS))
            if value is None or known is None:
                found[name] = self.plain(value, place, depth + 1)
            else:
                found[name] = self.value(value, place, known, depth + 1)
        return found

    def value(self, value: object, where: str, form: _Form, depth: int) -> object:
        """A value, as ``form`` reads it."""
        if isinstance(form, dict):
            return self.mapping(value, where, form, depth)
        if isinstance(form, list):
            if not isinstance(value, list):
                raise _wrong(where, "a list", value)
            return [self.value(item, f"{where}[{at}]", form[0], depth + 1) for at, item in enumerate(_some(value))]
        if form is _step and isinstance(value, Mapping):
            return self.plain(value, where, depth)
        self.count(where, depth)
        return form(value, where)

    def plain(self, value: object, where: str, depth: int) -> object:
        """A value without a form of ours, made fit to be shown: finite, bounded, and without a type of Ansible's."""
        self.count(where, depth)
        if isinstance(value, str):
            return cut(value, LONGEST_TEXT)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            return value if abs(value) <= _LARGEST and math.isfinite(value) else None
        if isinstance(value, Mapping):
            return self.mapping(value, where, {}, depth)
        if isinstance(value, (list, tuple)):
            return [self.plain(item, where, depth + 1) for item in _some(list(value))]
        return cut(str(value), LONGEST_TEXT)

    def count(self, where: str, depth: int) -> None:
        """Count a value. Raises BadAnswer for too many values, or too deep nesting."""
        self.counted += 1
        if self.counted > MOST_VALUES:
            raise BadAnswer(f"it holds more than {MOST_VALUES} values")
        if depth > DEEPEST:
            raise BadAnswer(f"{cut(where, 200)} is nested more than {DEEPEST} deep")


def _some(values: list[object]) -> list[object]:
    return values[:LONGEST_LIST]


def cut(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` characters: its beginning, and its end, which holds the reason of an error."""
    end = limit * 2 // 3
    return text if len(text) <= limit else f"{text[: limit - end - 3]} … {text[-end:]}"


def _wrong(where: str, wanted: str, value: object) -> BadAnswer:
    said = f"{value[:40]!r}" if isinstance(value, str) else f"of type {type(value).__name__}"
    return BadAnswer(f"{cut(where, 200) or 'it'} should be {wanted}, and is {said}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a text", value)
    return cut(value, LONGEST_TEXT)


def _ident(value: object, where: str) -> str:
    """The id of a checkpoint, which a person pastes into a command line."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _wrong(where, "the id of a checkpoint", value)
    return value


def _number(value: object, where: str) -> float:
    # The order matters: a huge whole number cannot be converted to a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise _wrong(where, "a number within reason", value)
    return value


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise _wrong(where, "a whole number, not negative", value)
    return value


def _yes_or_no(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _step(value: object, where: str) -> str:
    """A step that was planned or done: a sentence, or a mapping of anything."""
    return _text(value, where)


# The reader of one value, a list of one form, or the forms of the keys of a mapping. A key that is not named may hold
# anything. Every value may be null, by which a module says that it does not know the value.
_Form: TypeAlias = "Callable[[object, str], object] | list[_Form] | dict[str, _Form]"

_CHANGE: dict[str, _Form] = {
    "generation": _count,
    "checkpoint": _ident,
    "name": _text,
    "until": _number,
    "within": _number,
    "back": _text,
    "left": [_text],
    "tries_until": _number,
    "remaining": _number,
    "overdue": _number,
    "change": _text,
    "hosts": _count,
    "stage": _text,
}
_END: dict[str, _Form] = {
    "generation": _count,
    "outcome": _text,
    "by": _text,
    "at": _number,
    "checkpoint": _ident,
    "left": [_text],
    "until": _number,
    "rollback": _count,
    "written": {_OTHERS: _text},
    "change": _text,
    "hosts": _count,
    "boots": _count,
}
_CHECKPOINT: dict[str, _Form] = {
    "id": _ident,
    "name": _text,
    "names": [_text],
    "kind": _text,
    "created": _text,
    "host": _text,
    "resources": [_text],
}
_PROBE: dict[str, _Form] = {
    **dict.fromkeys(("kind", "target", "state", "detail", "identity", "severity", "source"), _text),
    "seconds": _number,
    "restarts": _count,
}
_HEALTH: dict[str, _Form] = {
    "state": _text,
    "probes": [_PROBE],
    "waited": _number,
    "soaked": _number,
    "restarts": _count,
}
_CHANGED: dict[str, _Form] = {"path": _text, "what": _text}
_OUTSIDE: dict[str, _Form] = {
    "paths": [_CHANGED],
    "count": _count,
    "complete": _yes_or_no,
}
_OWED: dict[str, _Form] = {"level": _text, "unit": _text, "why": [_text], "processes": [_text]}
_HELD: dict[str, _Form] = {
    "host": _text,
    "id": _ident,
    "name": _text,
    "created": _text,
    "count": _count,
    "mac": _yes_or_no,
    "verified": _number,
    "damaged": _count,
}
_LISTED: dict[str, _Form] = {
    "copies": _count,
    "variable": _text,
    "domain": _text,
    "hosts": _count,
    "gone": [_text],
}
_PLACE: dict[str, _Form] = {**dict.fromkeys(("host", "kind", "words"), _text), "options": {}}
_RESTART: dict[str, _Form] = {
    **dict.fromkeys(("target", "mode", "request", "stage", "roll", "identity", "boot"), _text),
    **dict.fromkeys(("generation", "hosts", "pid", "started"), _count),
    "at": _number,
    "running": _yes_or_no,
    "drained": [_PLACE],
}
_LOG: dict[str, _Form] = {
    **dict.fromkeys(("kind", "name", "created"), _text),
    "checkpoint": _ident,
    "copies": _count,
    "seconds": _number,
    "bytes": _count,
}
_HOST: dict[str, _Form] = {
    "restart": _RESTART,
    "generation": _count,
    "armed": _CHANGE,
    "last": _END,
    "doubt": _END,
    "interrupted": _yes_or_no,
}
_RESULT: dict[str, _Form] = {
    **_HOST,
    "msg": _text,
    "error": _text,
    "changed": _yes_or_no,
    "failed": _yes_or_no,
    "unreachable": _yes_or_no,
    "id": _ident,
    "outcome": _text,
    "by": _text,
    "login": _text,
    "remaining": _number,
    "state": _text,
    "planned": [_step],
    "done": [_step],
    "proved": [_text],
    "left": [_text],
    "replicas": {_OTHERS: [_ident]},
    "holds": [_HELD],
    "place": _ident,
    "spot_check": [_text],
    "listed": _LISTED,
    "checkpoints": [_CHECKPOINT],
    "health": _HEALTH,
    "health_after": _HEALTH,
    "probes": [_PROBE],
    "host_state": _HOST,
    "outside": _OUTSIDE,
    "owed": [_OWED],
    "logs": [_LOG],
    "suggested": [{_OTHERS: {}}],
}
