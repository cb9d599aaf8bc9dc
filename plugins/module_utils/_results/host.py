# SPDX-License-Identifier: GPL-3.0-or-later

"""The results that tell the state of a host and of its store."""

from __future__ import annotations

from typing import Any

from .._dataclasses import dataclass, field
from .change import Owed
from .result import LEFT_OUT, Result

# Begins the sentence of a spot check that could not be made.
NOT_COMPARED = "what is declared was not compared with the newest checkpoint"


@dataclass
class HostState:
    """The memory of a host: its newest change, and whether anything is under way, in doubt, or was interrupted.
    ``restart``: the restart that is open there, without its token."""

    generation: int = 0
    armed: Any = None
    last: Any = None
    doubt: Any = None
    interrupted: bool = False
    restart: Any = None


@dataclass
class KeptCopies:
    """The copies of the checkpoints of ``host`` that another host keeps: their number, and the newest of them
    that stands alone (no undo, and no checkpoint of logs alone).

    ``mac``: whether the newest has a MAC. ``verified``: by when each content was hashed last, in epoch seconds; None
    without a checkpoint. ``damaged``: checkpoints, and contents that checkpoints here need, that are known to be
    damaged and did not arrive again.
    """

    host: str
    id: str = ""
    name: str = ""
    created: str = ""
    count: int = 0
    mac: bool = False
    verified: float | None = None
    damaged: int = 0


@dataclass
class Listed:
    """Facts of the inventory, which the controller adds. ``copies``: how many there shall be of the host's checkpoints.
    ``variable`` and ``domain``: the failure domain of the host; empty for none. ``hosts``: the number of hosts in the
    inventory. ``gone``: hosts of which the host holds copies, and that the inventory does not have."""

    copies: int | None = None
    variable: str = ""
    domain: str = ""
    hosts: int = 0
    gone: list[str] = field(default_factory=list)


@dataclass
class Remembered(HostState, Result):
    """``ft_info``. ``owed`` and ``spot_check``: None when they were not asked for. ``listed``: the controller adds
    it. ``place``: of the store (``Store.place``)."""

    checkpoints: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    outside: Any = None
    owed: list[Owed] | None = None
    replicas: dict[str, list[str]] = field(default_factory=dict)
    holds: list[KeptCopies] = field(default_factory=list)
    place: str = ""
    spot_check: list[str] | None = None
    listed: Listed | None = field(default=None, metadata=LEFT_OUT)


@dataclass
class Measured(Result):
    """``ft_health``: the last round of probes, the seconds it took, and the memory of the host."""

    state: str = ""
    probes: list[Any] = field(default_factory=list)
    waited: float = 0.0
    soaked: float = 0.0
    restarts: int = 0
    host_state: Any = None
    address: Any = field(default=None, metadata=LEFT_OUT)
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)


@dataclass
class Prepared(Result):
    """``ft_address``: the interface and the witnesses that were chosen, and the configuration for keepalived."""

    interface: str = ""
    witnesses: list[str] = field(default_factory=list)
    configuration: str = ""
    warnings: list[str] | None = field(default=None, metadata=LEFT_OUT)


@dataclass
class Damage:
    """A content or a manifest that is damaged or missing, with the checkpoints and the paths that need it.

    ``host``: empty, or the host whose copy it is.
    """

    host: str
    kind: str
    id: str
    problem: str
    checkpoints: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} {self.id if self.id.startswith('/') else self.id[:12]}: {self.problem}"


@dataclass
class Scrubbed(Result):
    """``ft_scrub``. Times as in manifests."""

    damaged: list[Damage] = field(default_factory=list)
    complete: bool = False
    oldest: str | None = None
    unverified: int = 0
    last_pass: str | None = None
    stats: dict[str, float] = field(default_factory=dict)
