# SPDX-License-Identifier: GPL-3.0-or-later

"""The calls that the library on a host answers (``ft_call``): all that a change needs between its guard and its end."""

from __future__ import annotations

from typing import Any, Callable

from .._host.options import Options, Params
from . import checkpoint, rollback, settle

CALLS: dict[str, tuple[Options, Callable[[Params, bool], Any]]] = {
    "checkpoint": (checkpoint.ARGUMENTS, checkpoint.work),
    "rollback": (rollback.ARGUMENTS, rollback.work),
    "settle": (settle.ARGUMENTS, settle.work),
}
