# SPDX-License-Identifier: GPL-3.0-or-later

"""The calls that the library on a host answers (``ft_call``): of every module that works on one host."""

from __future__ import annotations

from typing import Any, Callable

from .._host.options import Options, Params
from . import (
    accept,
    checkpoint,
    drain,
    exchange,
    health,
    info,
    offsite,
    recover,
    repeat,
    replicate,
    restart,
    rollback,
    scrub,
    settle,
    suggest,
)

CALLS: dict[str, tuple[Options, Callable[[Params, bool], Any]]] = {
    "accept": (accept.ARGUMENTS, accept.work),
    "checkpoint": (checkpoint.ARGUMENTS, checkpoint.work),
    "drain": (drain.ARGUMENTS, drain.work),
    "health": (health.ARGUMENTS, health.work),
    "info": (info.ARGUMENTS, info.work),
    "offsite": (offsite.ARGUMENTS, offsite.work),
    "recover": (recover.OPTIONS, recover.work),
    "repeat": (repeat.OPTIONS, repeat.work),
    "replicate": (replicate.OPTIONS, exchange.work),
    "restart": (restart.OPTIONS, restart.work),
    "rollback": (rollback.ARGUMENTS, rollback.work),
    "scrub": (scrub.ARGUMENTS, scrub.work),
    "settle": (settle.ARGUMENTS, settle.work),
    "suggest": (suggest.ARGUMENTS, suggest.work),
}
