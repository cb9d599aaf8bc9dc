# SPDX-License-Identifier: GPL-3.0-or-later

"""The calls that the library on a host answers (``ft_call``): what is asked most often."""

from __future__ import annotations

from typing import Any, Callable

from .._host.options import Options, Params
from . import checkpoint, health, info, rollback, settle

CALLS: dict[str, tuple[Options, Callable[[Params, bool], Any]]] = {
    "checkpoint": (checkpoint.ARGUMENTS, checkpoint.work),
    "health": (health.ARGUMENTS, health.work),
    "info": (info.ARGUMENTS, info.work),
    "rollback": (rollback.ARGUMENTS, rollback.work),
    "settle": (settle.ARGUMENTS, settle.work),
}
