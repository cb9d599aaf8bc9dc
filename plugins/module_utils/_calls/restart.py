# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_restart: its options, and the restart that they ask for."""

from __future__ import annotations

from .._health import probes
from .._host.options import Options, Params, mapping
from .._results import Restarted
from .._services import process

ARGUMENTS: Options = {
    "name": {"type": "str"},
    "process": mapping(process.OPTIONS),
    "mode": {"type": "str", "choices": ["cold", "warm"], "default": "cold"},
    "probes": probes.OPTION,
    "group": {"type": "list", "elements": "str"},
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "1m"},
    "interval": {"type": "str", "default": "1s"},
}


def work(params: Params, check_mode: bool) -> Restarted:
    # Here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.restart import Request, restart
    from .._health.wait import times_of
    from .._host.system import System
    from .._store.store import Store

    request = Request(params["name"], params["process"], params["mode"], params["probes"], times_of(params))
    return restart(request, Store(params["store"], System()).system, check_mode)
