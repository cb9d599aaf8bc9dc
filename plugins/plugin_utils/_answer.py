# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bound the answer of one host to one module: in memory, and to text that a terminal only shows.

A host that was taken over prints as much as it likes where a result is expected, and Ansible reads all of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.text import harmless

# The result of a module on a host, which nobody changes.
Answer = Mapping[str, Any]
# Above what this process takes already. Our longest result (module_utils/_host/text.py) needs a third of it.
ROOM = 64 << 20
# Ansible prints warnings in lines, each of them an event, and compares the lines of a difference: so many warnings are
# taken of one host, and so many characters of a text.
_WARNINGS, _LONGEST = 50, 2000
# Keys that a host can set besides its own result. No module of ours sets them.
_NOT_OURS = ("ansible_facts", "ansible_stats")
# With others the programs of the module run below this process, and would have no more memory either.
_REMOTE = ("ssh", "paramiko", "paramiko_ssh")


def answer(connection: Any, execute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of ``execute``, a module on the host of ``connection``."""
    remote = getattr(connection, "transport", "") in _REMOTE
    try:
        with little_memory() if remote else contextlib.nullcontext():
            result = shown(execute())
    except (MemoryError, RecursionError) as error:
        how = "longer" if isinstance(error, MemoryError) else "nested deeper"
        return {
            "failed": True,
            "changed": False,
            "error": "BadAnswer",
            "msg": f"its answer is {how} than any of ours, and was not read: look at the host itself, it may run"
            " something else than Evenkeel",
        }
    return result


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """The result, with nothing in it that Ansible would print and a terminal would do more with than show it."""
    found: dict[str, Any] = harmless(result)
    if isinstance(found.get("msg"), str):
        found["msg"] = found["msg"].replace("\n", " ")
    if found.get("msg") != result.get("msg"):
        found.pop("exception", None)  # Ansible's own record of the error prints the message as it came
    for key in ("warnings", "deprecations"):
        if isinstance(found.get(key), list):
            first = [_cut(one) for one in found[key][:_WARNINGS]]
            found[key] = [one for one in first if isinstance(one, str) or not _draws(one)]
    if isinstance(found.get("diff"), (list, dict)):
        found["diff"] = _lines(found["diff"])
    for key in _NOT_OURS:
        found.pop(key, None)
    return found


def _cut(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"


def _lines(value: Any) -> Any:
    """A difference, each text of it as the one line that ours are."""
    if isinstance(value, str):
        line, end, _more = value.partition("\n")
        return _cut(line) + end
    if isinstance(value, list):
        return [_lines(one) for one in value]
    return {key: _lines(one) for key, one in value.items()} if isinstance(value, dict) else value


def _draws(value: Any) -> bool:
    """Whether a record of Ansible's holds text that would have been changed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(_draws(getattr(value, one.name)) for one in dataclasses.fields(value))
    if isinstance(value, (list, tuple)):
        return any(map(_draws, value))
    if isinstance(value, dict):
        return any(map(_draws, value.values()))
    return isinstance(value, str) and (len(value) > _LONGEST or harmless(value) != value)


@contextlib.contextmanager
def little_memory(room: int = ROOM) -> Iterator[None]:
    """Within, this process may take ``room`` bytes more. It is one of Ansible's for a single task on a single host."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            most = int(stream.read().split()[5]) * resource.getpagesize() + room
    except OSError:  # no Linux
        yield
        return
    if before[0] != resource.RLIM_INFINITY:
        most = min(most, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
