# SPDX-License-Identifier: GPL-3.0-or-later

"""The restarts that a host owes: programs that still run what was replaced below them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..._errors import UsageError
from ..._host.system import System

# The level at which the restart of a unit is enough.
SERVICE = "service"


class Owed(Protocol):
    """``level``: what has to be restarted; ``unit``: empty for none; ``why`` in words; ``processes`` that need it."""

    @property
    def level(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def processes(self) -> Sequence[object]: ...


def owed(system: System) -> Sequence[Owed]:
    """All that is owed now. Raises UsageError where this library cannot tell."""
    try:
        from ..._services.owed import owed as found  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise UsageError("this version cannot tell which restarts are owed; nothing was touched") from error
    told: Sequence[Owed] = found(system)
    return told
