# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that a declaration takes, in the words of Ansible's argument specs, and a declaration read by them.

A kind of resource, a probe, a quiesce hook, a retention each declare their options beside their code. The argument
specs of modules are made of the same mappings, so that a default stands in one place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Union

from .._errors import UsageError

Option = dict[str, Any]
Options = Mapping[str, Option]
Scalar = Union[str, int, float]
# The arguments of a call, by their names in the specification.
Params = Mapping[str, Any]

# Arguments that the action plugin of a module sets, where the host does one part of the work in each call. They are no
# options of the user's.
PHASE: Options = {
    "_phase": {"type": "str"},
    "_values": {"type": "dict"},
    "_secrets": {"type": "list", "elements": "str", "no_log": True},
}
# The types of numbers, in words.
# The version that removes old names of options and variables.
REMOVED = "0.3.0"
_NUMBERS = {"int": "a whole number", "float": "a number"}


def mapping(options: Options) -> Option:
    """The option that takes a mapping with these options."""
    return {"type": "dict", "options": dict(options)}


def one_of(kinds: Mapping[str, Option]) -> Option:
    """The option that takes a list of mappings, each with one key: one of ``kinds``."""
    names = list(kinds)
    return {
        "type": "list",
        "elements": "dict",
        "options": dict(kinds),
        "mutually_exclusive": [names],
        "required_one_of": [names],
    }


def renamed(old: str) -> Option:
    """The part of an option's specification about its old name, which goes on working for one minor version."""
    alias = {"name": old, "version": REMOVED, "collection_name": "evenkeel.fault_tolerance"}
    return {"aliases": [old], "deprecated_aliases": [alias]}


def given(value: Any) -> Any:
    """The value without the keys that were not given: Ansible sets them to None."""
    if isinstance(value, dict):
        return {key: given(one) for key, one in value.items() if one is not None}
    return [given(one) for one in value] if isinstance(value, list) else value


def read(options: Options, declared: Any, where: str) -> dict[str, Any]:
    """Every option with its value: the declared value, otherwise the default, otherwise None.

    Takes what Ansible takes: a text for a list of one text, a text for a number. UsageError names, after ``where``, a
    key that is unknown or missing and a value of another type.
    """
    if not isinstance(declared, Mapping):
        raise UsageError(f"{where} takes a mapping, not {shown(declared)}")
    for key in declared:
        if key not in options:
            takes = f"it takes {', '.join(sorted(options))}" if options else f"it takes none, write {where}: {{}}"
            raise UsageError(f"{where}: unknown key {key!r}{meant(str(key), options)}; {takes}")
    for key, option in options.items():
        if option.get("required") and declared.get(key) in (None, "", []):
            raise UsageError(f"{where}: {key} is missing")
    return {
        key: _default(option) if declared.get(key) is None else _value(option, declared[key], f"{where}: {key}")
        for key, option in options.items()
    }


def shown(value: object) -> str:
    """A value in a wrong place, for a message: of a mapping its keys alone, because a value in it may be secret."""
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    return "a list" if isinstance(value, list) else repr(value)


def one_word(value: str, option: Option, name: str) -> str:
    """The value, one of the option's choices. UsageError names the choices."""
    if value not in option["choices"]:
        raise UsageError(f"{name} must be {' or '.join(option['choices'])}, not {value!r}")
    return value


def meant(key: str, known: Iterable[str], likeness: float = 0.7) -> str:
    """The words that ask for the known key that is nearly this one (``likeness`` up to 1); empty without such a key."""
    from difflib import get_close_matches  # Loading this module takes longer than using it.

    near = get_close_matches(key, list(known), 1, likeness)
    return f" (did you mean {near[0]}?)" if near else ""


def _default(option: Option) -> Any:
    default = option.get("default")
    return list(default) if isinstance(default, list) else default


def _value(option: Option, value: Any, where: str) -> Any:
    kind = option["type"]
    if kind == "list":
        elements = {"type": option["elements"], "options": option.get("options")}
        return [_value(elements, one, where) for one in _listed(value)]
    if kind == "dict":
        return read(option["options"], value, where) if option.get("options") is not None else dict(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        raise UsageError(f"{where} must be true or false, not {shown(value)}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        words = "something else" if option.get("no_log") else shown(value)
        raise UsageError(f"{where} must be {_NUMBERS.get(kind, 'a text')}, not {words}")
    return _number(value, where, kind) if kind in _NUMBERS else str(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]


def _number(value: Scalar, where: str, kind: str) -> Scalar:
    try:
        found = int(str(value)) if kind == "int" else float(value)
        if math.isfinite(found):
            return found
    except ValueError:
        pass
    raise UsageError(f"{where} must be {_NUMBERS[kind]}, not {value!r}") from None
