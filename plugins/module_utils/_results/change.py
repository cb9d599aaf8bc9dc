# SPDX-License-Identifier: GPL-3.0-or-later

"""The results of checkpoints, of changes and of rollbacks."""

from __future__ import annotations

from typing import Any, TypedDict

from .._dataclasses import dataclass, field
from .result import LEFT_OUT, Result


@dataclass
class Owed:
    """A restart that is due, because something that was replaced or removed still runs.

    ``level``: ``service``, ``soft-reboot`` or ``reboot``; ``by-name`` for a unit that only a person restarts,
    ``process`` for processes that their users have to end, and ``unknown`` where not everything could be looked at.
    ``unit``: empty where it is not one unit alone. ``why``: some of the replaced files, or sentences. ``processes``:
    some of the processes, written as ``name[pid]``.
    """

    level: str
    unit: str
    why: list[str] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)


@dataclass
class Accepted(Result):
    """``ft_accept``. ``accepted``: the end of the change that had left the host in doubt. ``restart``: the restart that
    no run had finished."""

    generation: int = 0
    accepted: Any = None
    restart: Any = None


@dataclass
class Checkpointed(Result):
    """``ft_checkpoint``. ``armed`` and ``generation``: the change that it began; ``remaining``: the seconds that were
    left to confirm it as the host answered."""

    id: str = ""
    name: str = ""
    kind: str = "snapshot"
    root: str = ""
    generation: int | None = None
    armed: Any = None
    remaining: float | None = field(default=None, metadata=LEFT_OUT)
    stats: dict[str, float] = field(default_factory=dict)
    consistency: str | None = field(default=None, metadata=LEFT_OUT)
    kept: dict[str, list[str]] = field(default_factory=dict)
    protects: list[str] = field(default_factory=list)
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)


class Holder(TypedDict):
    """A unit, or processes without a unit, that still use the files of ``paths`` as they were before the replacement.

    ``unit`` is empty for processes without a unit; ``processes`` are written as ``name[pid]``.
    """

    unit: str
    processes: list[str]
    paths: list[str]


@dataclass
class RolledBack(Result):
    """``ft_rollback``. ``armed`` and ``generation``: the change that it is itself, if it has to be confirmed."""

    id: str = ""
    undo: str = ""
    pause: float = 0.0
    generation: int | None = None
    armed: Any = None
    notes: list[str] = field(default_factory=list)
    restart_needed: list[Holder] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)


@dataclass
class ChangedPath:
    """A path and its difference: ``new``, ``removed``, ``replaced``, ``changed``, or a list of ``content``,
    ``content or time``, ``mode`` and ``owner`` with commas. ``_host/kernel.py`` has the words for
    the running kernel."""

    path: str
    what: str


@dataclass
class Outside:
    """The paths outside of the declared resources that a change has changed: the first paths, and the number of all.
    ``complete``: whether all places could be looked at."""

    paths: list[ChangedPath] = field(default_factory=list)
    count: int = 0
    complete: bool = False


@dataclass
class Settled(Result):
    """``ft_settle``, for a change that is confirmed, is kept open, or was over already. ``remaining``: seconds until
    the deadline of a change that is kept open. ``owed``: the restarts that are due once it is confirmed."""

    generation: int = 0
    outcome: str = ""
    by: str = ""
    health: Any = None
    login: str | None = field(default=None, metadata=LEFT_OUT)
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)
    armed: Any = field(default=None, metadata=LEFT_OUT)
    outside: Any = None
    remaining: float | None = field(default=None, metadata=LEFT_OUT)
    owed: list[Owed] | None = field(default=None, metadata=LEFT_OUT)


@dataclass
class SettledBack(RolledBack):
    """``ft_settle``, for a change that it rolled back: ``health`` was measured before, ``health_after`` after that."""

    outcome: str = ""
    by: str = ""
    health: Any = None
    health_after: Any = None
    login: str = ""
    outside: Any = None


@dataclass
class Suggested(Result):
    """``ft_suggest``: the paths that the last change changed, and the resources that would have covered them."""

    outside: Any = None
    suggested: list[Any] = field(default_factory=list)
