# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The YAML of a plan file, key by key: nothing is lost in silence, and every error names its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from evenkeel.outcome import UsageError

T = TypeVar("T")

EXPECTED = {
    "groups": "add at least one group, such as groups: {web: {hosts: 3}}",
    "hosts": "write their number, or host: failure domain lines",
}

NO_NAME = "is not read as a text; write it in quotes"

_MERGE = "tag:yaml.org,2002:merge"


def is_name(value: object) -> bool:
    """Whether a value of YAML is a text or a number. Nothing, yes, no and a date are neither."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


class _Loader(yaml.SafeLoader):
    """YAML without the silent loss of a key that stands there twice, and without keys that are read as no text."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain text", key.start_mark)
        if key.tag == _MERGE:
            continue
        name = loader.construct_object(key)
        if not is_name(name):
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} {NO_NAME}", key.start_mark)
        if str(name) in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{str(name)!r} stands there twice", key.start_mark)
        seen.add(str(name))
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


class Section:
    """A mapping of the file, taken key by key. A key that nobody took is a mistake of the writer's."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: {value!r} is not a mapping; write key: value lines below it")
        self.where, self.value = where, value
        self.known: list[str] = []

    def at(self, key: str) -> str:
        """The place of ``key``, for messages."""
        return f"{self.where}.{key}" if not self.where.endswith(": ") else f"{self.where}{key}"

    def has(self, key: str) -> bool:
        """Whether ``key`` has a value here; from now on it is known."""
        self.known.append(key)
        return self.value.get(key) is not None

    def take(self, key: str, read: Callable[[object], T]) -> T:
        """The value of ``key``, which must be there."""
        if not self.has(key):
            raise UsageError(f"{self.at(key)}: is missing; {EXPECTED.get(key, 'add it')}")
        try:
            return read(self.value[key])
        except ValueError as error:
            raise UsageError(f"{self.at(key)}: {self.value[key]!r} {error}") from None

    def section(self, key: str) -> Section:
        """The mapping below ``key``; an empty one where there is none."""
        return Section(self.at(key), self.value[key] if self.has(key) else {})

    def refuse(self, key: str, problem: str) -> UsageError:
        """The error about the value of ``key``."""
        return UsageError(f"{self.at(key)}: {self.value.get(key)!r} {problem}")

    def close(self) -> None:
        """Nothing else may stand here."""
        for key in self.value:
            if key not in self.known:
                near = difflib.get_close_matches(str(key), self.known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(self.known)}"
                raise UsageError(f"{self.at(str(key))}: is not a key that evenkeel plan knows; {hint}")


def load(path: str) -> object:
    """The document in a file of YAML. Raises UsageError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UsageError(f"{path}: {why}; give the path of a plan, such as docs/examples/plan.yml") from None
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, TypeError, RecursionError) as error:  # a date that is none, a key that can be none
        raise UsageError(f"{path}: {' '.join(str(error).split())[:200]}; correct the YAML there") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{path}: {place}{getattr(error, 'problem', None) or error}; correct the YAML there") from None
