# SPDX-License-Identifier: GPL-3.0-or-later

"""The state of one service, whatever runs it."""

from __future__ import annotations

from .._dataclasses import dataclass


@dataclass(frozen=True)
class ServiceState:
    """``started`` in epoch seconds; ``identity`` changes with every start and with nothing else (empty while down).

    ``enabled`` is the unit-file state of systemd, empty for a process. ``text`` is the state in the words of the
    service manager. ``touched`` in epoch seconds: the newest start, stop or reload. ``queued``: a job of the service
    manager waits for the service, early at boot for example. ``health``: of a container that has a check of its own, in
    the words of its engine.
    """

    name: str
    exists: bool
    enabled: str
    active: bool
    text: str
    started: float | None
    identity: str
    restarts: int
    can_reload: bool
    queued: bool = False
    touched: float = 0.0
    health: str = ""
