# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments are checked here on the controller, by Ansible's own argument specs, before any host is touched.

Ansible itself checks the arguments of a module on the host. There it names the wrong key, but not its item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import (
    Option,
    Options,
    given,
    meant,
)

# Rules that this module checks itself, in words of its own.
_NESTED = ("options", "mutually_exclusive", "required_one_of")


def checked(options: Options, arguments: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The arguments as a module gets them: with defaults, each of its type, and without keys that were not given.

    UsageError names every wrong argument, with its place: ``resources[1].files.exlude``. where: the place of
    ``arguments``, empty for the arguments of a task.
    """
    values: dict[str, Any] = {}
    wrong = list(_check(options, arguments, where, values))
    if wrong:
        raise UsageError(f"{'; '.join(wrong)}. Nothing was touched")
    return values


def _check(options: Options, arguments: Mapping[str, Any], where: str, values: dict[str, Any]) -> Iterator[str]:
    """Check the arguments, and put their values into ``values``; the faults, in words."""
    known = {*options, *(alias for option in options.values() for alias in option.get("aliases", []))}
    for name in sorted(set(arguments) - known, key=str):
        takes = f"there are {', '.join(sorted(options))}" if options else "there are none"
        yield f"{where}{name} is no option{meant(str(name), known)}; {takes}"
    flat = {name: {key: one for key, one in option.items() if key not in _NESTED} for name, option in options.items()}
    result = ArgumentSpecValidator(flat).validate({name: arguments[name] for name in arguments if name in known})
    for error in result.errors.errors:
        if not isinstance(error, UnsupportedError):
            yield f"{where.rstrip('.')}: {error.msg}" if where else str(error.msg)
    for said in result._deprecations:
        from ansible.utils.display import Display  # This module loads all settings of Ansible.

        Display().deprecated(said["msg"], version=said.get("version"), collection_name=said.get("collection_name"))
    for name, option in options.items():
        values[name] = result.validated_parameters.get(name)
        yield from _not_text(option, arguments.get(name), where + name)
        if option.get("options") is not None and values[name] is not None:
            yield from _deeper(option, values, name, where)


def _deeper(option: Option, values: dict[str, Any], name: str, where: str) -> Iterator[str]:
    """Check the value of the option ``name``, a mapping or a list of mappings."""
    single = option["type"] == "dict"
    found = []
    for number, item in enumerate([values[name]] if single else values[name]):
        place = f"{where}{name}" if single else f"{where}{name}[{number}]"
        one: dict[str, Any] = {}
        if isinstance(item, Mapping):
            unknown = set(item) - set(option["options"])
            if "required_one_of" in option and len(given(dict(item))) != 1 and not unknown:
                yield f"{place} must have one key, one of {', '.join(option['options'])}"
            yield from _check(option["options"], item, f"{place}.", one)
        found.append(given(one))
    values[name] = found[0] if single else found


def _not_text(option: Option, value: Any, where: str) -> Iterator[str]:
    """The fault of a yes or no where words are expected: Ansible would convert it to the text True."""
    if option.get("elements") == "str" and isinstance(value, list):
        for number, one in enumerate(value):
            if one is None or isinstance(one, bool):
                yield f"{where}[{number}] must be a text, not {one!r}: write it in quotes"
