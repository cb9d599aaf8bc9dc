# SPDX-License-Identifier: GPL-3.0-or-later

"""The results of restarts, of drains and of operations."""

from __future__ import annotations

from typing import Any

from .._dataclasses import dataclass, field
from .change import Owed
from .result import LEFT_OUT, Result


@dataclass
class Rung:
    """A rung of a ladder that was tried, or left out: ``why`` it did not lead to health; empty where it did."""

    rung: str
    ok: bool
    seconds: float
    why: str = ""


@dataclass
class Restarted(Result):
    """``ft_restart``: the service before and after.

    ``seconds``: until it was healthy. ``downtime``: seconds for which ``downtime_of`` did not answer, None where nobody
    measured. ``rungs``: of a ladder, in the order of the tries; ``next``: the rung that a controller has to carry out.
    ``owed``: the restarts that are owed above the level of services.
    """

    mode: str = ""
    before: Any = None
    after: Any = None
    seconds: float = 0.0
    downtime: float | None = None
    downtime_of: str = ""
    rungs: list[Rung] = field(default_factory=list)
    next: str = ""
    owed: list[Owed] = field(default_factory=list)
    health: Any = field(default=None, metadata=LEFT_OUT)
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)


@dataclass
class OpenRestart(Result):
    """``token`` and ``generation``: of the restart that has begun. ``deferred``: nothing has begun, because this host
    leads and comes last. ``earlier``: the restart that was taken over. ``restart``: the restart that is open, or was
    until its end. ``request``: the hash by which this host knows target and mode. ``rolled``: the last such restart by
    a roll: its roll and time, and whether it and all later ones succeeded; ``history``: the number and the mean seconds
    of all of them. ``boot``: the identity of the boot, where the host itself restarts. ``place``: of the store
    (``Store.place``).
    ``leads``: whether the host leads, None where nobody asked or it is not known. ``before``: the target, and
    ``target`` its name. ``refusal``: why it cannot be restarted as asked; empty where it can."""

    token: str = ""
    generation: int = 0
    deferred: bool = False
    earlier: Any = None
    restart: Any = None
    target: str = ""
    request: str = ""
    rolled: Any = None
    history: Any = None
    boot: str = ""
    place: str = ""
    leads: bool | None = None
    owed: list[Any] = field(default_factory=list)
    before: Any = None
    refusal: str = ""


@dataclass
class Observation:
    """A measurement of the verification: the host that made it, ``pass``, ``fail`` or ``unknown``, and the reason."""

    source: str
    state: str
    detail: str


@dataclass
class Operated(Result):
    """The answer about an operation, and its reason. ``after``: seconds to wait before asking again. ``open``: an
    attempt has begun whose end is not known. ``result``: the stored result, as JSON."""

    answer: str = ""
    why: str = ""
    after: float = 0.0
    verification: str = ""
    observations: list[Observation] = field(default_factory=list)
    open: bool = False
    attempts: int = 0
    token: str = ""
    checkpoint: str = ""
    at: float = 0.0
    result: str = ""


@dataclass
class Drained(Result):
    """``ft_drain``. ``kind`` and ``name``: the place. ``status``: its state in its own words. ``sessions``: those that
    are left, None where nothing tells. ``served``: requests that were answered since it was made ready, None where that
    was not measured. ``obstacle``: why a drain would be refused now; empty for nothing."""

    kind: str = ""
    name: str = ""
    state: str = ""
    status: str = ""
    sessions: int | None = None
    served: int | None = None
    waited: float = 0.0
    obstacle: str = ""
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)
