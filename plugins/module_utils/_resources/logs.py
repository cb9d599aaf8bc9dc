# SPDX-License-Identifier: GPL-3.0-or-later
# Written by make options.

"""The kinds whose state has a log of its own (``Kind.has_log``), for code that every wave sends to each host: it does
not carry all kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable

from .._host.system import System
from .postgresql import restore_point

# The kind -> how far its state is ahead of the first line of a checkpoint: ``seconds``, and ``bytes`` (None where that
# is not known).
BEHIND: dict[str, Callable[[Sequence[str], System], Mapping[str, object]]] = {
    "postgresql": restore_point.behind,
}
