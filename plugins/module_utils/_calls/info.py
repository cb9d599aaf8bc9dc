# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_info: what a host remembers of its changes and checkpoints."""

from __future__ import annotations

from .._host.options import PHASE, Options, Params
from .._results.host import Remembered

ARGUMENTS: Options = {
    "owed": {"type": "bool", "default": False},
    # The controller checks it, and sends its outline: see ``registry.outline``.
    "resources": {"type": "raw"},
    # The controller alone needs these.
    "copies": {"type": "int"},
    "failure_domain": {"type": "str"},
}
# The options of the module: in addition, the values of the controller.
OPTIONS: Options = {**ARGUMENTS, **PHASE}


def work(params: Params, check_mode: bool) -> Remembered:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.info import info
    from .._host.system import System
    from .._store.store import Store

    run = str((params["_values"] or {}).get("run", ""))
    return info(Store(params["store"], System()), params["owed"], params["resources"], run)
