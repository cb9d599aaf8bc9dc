# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers, taken in at one place: in the form that our modules promise, bounded, or not at all.

A host that was taken over answers what it likes. What cannot be read here makes that host one in doubt, and no other:
behind this every number is one, every text is short enough to be shown, and every name of a checkpoint can stand in a
command line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

# The ``error`` of a host whose answer could not be read.
BAD = "BadAnswer"
# Of a text no more is kept; of a list no more entries; in all no more values, and no deeper.
LONGEST_TEXT = 20_000
LONGEST_LIST = 20_000
MOST_VALUES = 400_000
DEEPEST = 30
# A number beyond this is none of ours, in seconds or whatever else.
_LARGEST = 1e12
_ID = re.compile(r"[0-9A-Za-z]{0,64}")
# In a form: every key that is not named.
_OTHERS = "*"


class BadAnswer(Exception):
    """What a host answered is not what our modules answer: where, and what it is instead."""


def read(said: object) -> dict[str, Any]:
    """The result of a task of ours as the rest of the driver may rely on it. Raises BadAnswer."""
    if not isinstance(said, Mapping):
        raise BadAnswer("there is no result in it, or one that is too long")
    try:
        return _Reader().mapping(said, "", _RESULT)
    except RecursionError:  # another bound on the depth than ours came first
        raise BadAnswer("it is nested too deep") from None


class _Reader:
    """One answer on its way in; counts what it holds."""

    def __init__(self) -> None:
        self.values = 0

    def mapping(self, said: Any, where: str, form: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
        if not isinstance(said, Mapping):
            raise _wrong(where, "a mapping", said)
        found = {}
        for key, value in said.items():
            name = _cut(str(key), 200)
            place = f"{where}.{name}" if where else name
            known = form.get(name, form.get(_OTHERS))
            if value is None or known is None:
                found[name] = self.plain(value, place, depth + 1)
            else:
                found[name] = self.one(value, place, known, depth + 1)
        return found

    def one(self, value: Any, where: str, form: Any, depth: int) -> Any:
        if isinstance(form, dict):
            return self.mapping(value, where, form, depth)
        if isinstance(form, list):
            if not isinstance(value, list):
                raise _wrong(where, "a list", value)
            return [self.one(item, f"{where}[{at}]", form[0], depth + 1) for at, item in enumerate(_some(value))]
        if form is _step and isinstance(value, Mapping):
            return self.plain(value, where, depth)
        self.count(where, depth)
        return form(value, where)

    def plain(self, value: Any, where: str, depth: int) -> Any:
        """A value of no form of ours, as one that can be shown: finite, bounded, and without a type of Ansible's."""
        self.count(where, depth)
        if isinstance(value, str):
            return _cut(value, LONGEST_TEXT)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            return value if abs(value) <= _LARGEST and math.isfinite(value) else None
        if isinstance(value, Mapping):
            return self.mapping(value, where, {}, depth)
        if isinstance(value, (list, tuple)):
            return [self.plain(item, where, depth + 1) for item in _some(list(value))]
        return _cut(str(value), LONGEST_TEXT)

    def count(self, where: str, depth: int) -> None:
        self.values += 1
        if self.values > MOST_VALUES:
            raise BadAnswer(f"it holds more than {MOST_VALUES} values")
        if depth > DEEPEST:
            raise BadAnswer(f"{_cut(where, 200)} is nested more than {DEEPEST} deep")


def _some(values: list[Any]) -> list[Any]:
    return values[:LONGEST_LIST]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _wrong(where: str, wanted: str, value: object) -> BadAnswer:
    said = f"{value[:40]!r}" if isinstance(value, str) else f"of type {type(value).__name__}"
    return BadAnswer(f"{_cut(where, 200) or 'it'} should be {wanted}, and is {said}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a text", value)
    return _cut(value, LONGEST_TEXT)


def _ident(value: Any, where: str) -> str:
    """The id of a checkpoint, which is to be pasted into a command line."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise _wrong(where, "the id of a checkpoint", value)
    return value


def _number(value: Any, where: str) -> float:
    # In this order: a huge whole number cannot be made a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise _wrong(where, "a number within reason", value)
    return value


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise _wrong(where, "a whole number, not negative", value)
    return value


def _yes_or_no(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _step(value: Any, where: str) -> str:
    """A step that was planned or done: a sentence, or a mapping of anything."""
    return _text(value, where)


# A form is how one value is read, a list of one form, or the forms of the keys of a mapping. A key that is not named
# may hold anything, and every value may be null: a module says so what it does not know.
_Form = Any

_CHANGE: dict[str, _Form] = {
    "generation": _count,
    "checkpoint": _ident,
    "name": _text,
    "until": _number,
    "within": _number,
    "back": _text,
    "left": [_text],
    "tries_until": _number,
    "overdue": _number,
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
}
_CHECKPOINT: dict[str, _Form] = {
    "id": _ident,
    "name": _text,
    "names": [_text],
    "kind": _text,
    "created": _text,
    "host": _text,
    "left": [_text],
}
_PROBE: dict[str, _Form] = {"kind": _text, "target": _text, "restarts": _count}
_HEALTH: dict[str, _Form] = {"state": _text, "probes": [_PROBE]}
_HOST: dict[str, _Form] = {
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
    "state": _text,
    "planned": [_step],
    "done": [_step],
    "proved": [_step],
    "left": [_text],
    "replicas": {_OTHERS: [_ident]},
    "checkpoints": [_CHECKPOINT],
    "health": _HEALTH,
    "health_after": _HEALTH,
    "probes": [_PROBE],
    "host_state": _HOST,
}
