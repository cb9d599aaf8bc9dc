# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module runs on the host that is named, or not at all. Its answer is bounded in memory, and is harmless text.

A host that was taken over can print any amount where a result is expected, and Ansible reads all of it. Every module of
ours that an action starts, on any host, is started here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import resource
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.text import harmless

# The result of a module on a host, which nobody changes.
Answer = Mapping[str, Any]
# Bytes above the present use of this process. Our longest result (module_utils/_host/text.py) needs a third of them.
ROOM = 64 << 20
# Ansible prints each warning as an event of its own, and compares the lines of a difference. So a host may give this
# number of warnings, and this number of characters in a text.
_WARNINGS, _LONGEST = 50, 2000
# Keys that a host can set besides its own result, and by which it would give Ansible orders. No module of ours sets
# them. Ansible itself sets a key with the prefix where it reads an answer.
_NOT_OURS = ("ansible_facts", "ansible_stats", "add_host", "add_group", "results")
_INTERNAL, _PARSED = "_ansible_", "_ansible_parsed"
# With other connections the programs of the module run below this process, and would share its limit of memory.
_REMOTE = ("ssh", "paramiko", "paramiko_ssh")
_TOO_MUCH = (
    "its answer is {how} than any answer of Evenkeel, and was not read: look at the host itself, it may run something"
    " else"
)


def answer(connection: Any, execute: Callable[[], Answer]) -> dict[str, object]:
    """The result of ``execute``, a module on the host of ``connection``."""
    if why := elsewhere(connection):
        return {"failed": True, "changed": False, "error": "UsageError", "msg": why}
    try:
        with _limit(connection, ROOM):
            result = shown(execute())
    except (MemoryError, RecursionError) as error:
        said = _TOO_MUCH.format(how="longer" if isinstance(error, MemoryError) else "nested deeper")
        return {"failed": True, "changed": False, "error": "BadAnswer", "msg": said}
    return result


@contextlib.contextmanager
def bounded(connection: Any, room: int = ROOM) -> Iterator[None]:
    """The host of ``connection`` prints meanwhile no more than this memory holds. Raises AnsibleError where it does."""
    try:
        with _limit(connection, room):
            yield
    except MemoryError as error:
        raise AnsibleError(_TOO_MUCH.format(how="longer")) from error


def _limit(connection: Any, room: int) -> contextlib.AbstractContextManager[None]:
    remote = getattr(connection, "transport", "") in _REMOTE
    return little_memory(room) if remote else contextlib.nullcontext()


def elsewhere(connection: Any) -> str:
    """Why a module would not run on the host of this connection; empty where it would.

    Over the connections of network devices (network_cli, netconf, httpapi) Ansible runs modules on the controller.
    """
    how = getattr(connection, "ansible_name", "") or getattr(connection, "transport", "") or "this connection"
    if getattr(connection, "_remote_is_local", False):
        return (
            f"modules do not run on this host, but on the controller (ansible_connection: {how}): Evenkeel protects"
            " hosts on which its modules run. Leave network devices out"
        )
    if getattr(getattr(connection, "_shell", None), "_IS_WINDOWS", False):
        return f"this host has a shell of Windows (ansible_connection: {how}): Evenkeel protects hosts with Linux"
    return ""


def shown(result: Answer) -> dict[str, Any]:
    """The result, with all text that Ansible prints made harmless for a terminal."""
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
    for key in [*_NOT_OURS, *(key for key in found if key.startswith(_INTERNAL) and key != _PARSED)]:
        found.pop(key, None)
    return found


def _cut(value: Any) -> Any:
    return value if not isinstance(value, str) or len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"


def _lines(value: Any) -> Any:
    """A difference, each text of it as a single line, like the differences of our modules."""
    if isinstance(value, str):
        line, end, _more = value.partition("\n")
        return _cut(line) + end
    if isinstance(value, list):
        return [_lines(one) for one in value]
    return {key: _lines(one) for key, one in value.items()} if isinstance(value, dict) else value


def _draws(value: Any) -> bool:
    """Whether a record of Ansible holds text that is not harmless."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(_draws(getattr(value, one.name)) for one in dataclasses.fields(value))
    if isinstance(value, (list, tuple)):
        return any(map(_draws, value))
    if isinstance(value, dict):
        return any(map(_draws, value.values()))
    return isinstance(value, str) and (len(value) > _LONGEST or harmless(value) != value)


@contextlib.contextmanager
def little_memory(room: int = ROOM) -> Iterator[None]:
    """Limit this process to ``room`` more bytes. It is Ansible's process for a single task on a single host."""
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
