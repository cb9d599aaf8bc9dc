# SPDX-License-Identifier: GPL-3.0-or-later

"""The memory that a store has of restarts.

::

    <store>/restart               the open restart, one JSON record, durable before its step begins
    <store>/restart.generation    the number of the newest restart
    <store>/restarts              the restarts that were carried out, one JSON line each, the newest last
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TypeVar

from ..._dataclasses import asdict, dataclass, fields, replace
from ..._errors import Damaged
from ..._host.durable import append_line, remove_file, write_file
from ..._host.processes import start_time
from ..._host.system import System
from ..._store.store import Store
from .decision import ACTING, STAGES, Record

# The number of restarts that are remembered, and the lines that may stand in the file until it is made shorter.
KEPT, _MOST = 500, 600
# The longest name of a roll.
LONGEST_ROLL = 200
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "Drained": (list,),
}
_Fact = TypeVar("_Fact", "Record", "Entry")


@dataclass(frozen=True)
class Entry:
    """A restart that was carried out. ``seconds``: until it was healthy, or until it was known that it is not.
    ``downtime``: seconds for which it did not answer, or None where nobody measured. ``request``: a hash of the target
    and the mode. ``roll``: the roll that it belonged to, and ``hosts`` the number of hosts of that roll."""

    at: float
    target: str
    mode: str
    ok: bool
    seconds: float
    downtime: float | None = None
    request: str = ""
    roll: str = ""
    hosts: int = 0


def read(store: Store) -> Record | None:
    """The open restart of this host, or None. Raises Damaged."""
    record = _read(store, "restart", Record)
    if record is None:
        return None
    if record.stage not in STAGES or not all(isinstance(one, Mapping) for one in record.drained):
        raise _damaged(store, "restart", "its stage is unknown, or what is drained is no list of mappings")
    return replace(record, drained=tuple(record.drained))


def write(store: Store, record: Record) -> Record:
    """Under the lock of the store. Durable once this returns."""
    write_file(store.join("restart"), json.dumps({**asdict(record), "drained": list(record.drained)}).encode())
    return record


def remove(store: Store) -> None:
    """Under the lock: no restart is open any more."""
    remove_file(store.join("restart"))


def next_generation(store: Store) -> int:
    """Under the lock: a number that no restart of this host has had. Durable once this returns. Raises Damaged."""
    try:
        with open(store.join("restart.generation"), "rb") as stream:
            newest = int(stream.read(32))
    except FileNotFoundError:
        newest = 0
    except ValueError as error:
        raise _damaged(store, "restart.generation", error) from error
    known = read(store)
    newest = max(newest, known.generation if known is not None else 0) + 1
    write_file(store.join("restart.generation"), b"%d\n" % newest)
    return newest


def of_this_process(record: Record, system: System) -> Record:
    """The record with this process as the one that acts."""
    return replace(record, pid=os.getpid(), started=start_time(os.getpid()) or 0, boot=system.boot_id())


def is_running(record: Record | None, system: System) -> bool:
    """Whether the process that acts on the target still lives."""
    if record is None or record.stage != ACTING or not record.pid or record.boot != system.boot_id():
        return False
    return start_time(record.pid) == record.started


def shown(record: Record | None, system: System) -> dict[str, object] | None:
    """The record for a result, without its token; ``running``: the process that acts still lives."""
    if record is None:
        return None
    told = {name: value for name, value in asdict(record).items() if name != "token"}
    return {**told, "drained": list(record.drained), "running": is_running(record, system)}


def history(store: Store) -> list[Entry]:
    """The restarts that were carried out, the oldest first. A torn line does not count."""
    found = []
    for line in _lines(store):
        try:
            found.append(_typed(Entry, json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            continue
    return found


def add_history(store: Store, entry: Entry) -> None:
    """Under the lock. The oldest entries go where there are many."""
    line = json.dumps(asdict(entry)).encode()
    lines = _lines(store)
    if len(lines) < _MOST:
        append_line(store.join("restarts"), line)
    else:
        write_file(store.join("restarts"), b"".join(one + b"\n" for one in [*lines[1 - KEPT :], line]))


def _lines(store: Store) -> list[bytes]:
    try:
        with open(store.join("restarts"), "rb") as stream:
            return [line for line in stream.read().split(b"\n") if line]
    except FileNotFoundError:
        return []


def _read(store: Store, name: str, kind: type[_Fact]) -> _Fact | None:
    try:
        with open(store.join(name), "rb") as stream:
            return _typed(kind, json.loads(stream.read()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(store, name, error) from error


def _typed(kind: type[_Fact], values: object) -> _Fact:
    """The record of these values; a newer version may have written more. ValueError or TypeError for wrong types."""
    if not isinstance(values, Mapping):
        raise ValueError("it is no mapping")
    found = kind(**{one.name: values[one.name] for one in fields(kind) if one.name in values})
    for one in fields(kind):
        value, types = getattr(found, one.name), _TYPES[str(one.type)]
        if value != () and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise ValueError(f"{one.name} is {type(value).__name__}")
    return found


def _damaged(store: Store, name: str, error: object) -> Damaged:
    return Damaged(
        f"{store.join(name)} is damaged ({str(error)[:100]}), so that it is not known whether this host is in the"
        " middle of a restart, or drained. Nothing was touched: look at the host and at what sends it requests, and"
        " remove that file"
    )
