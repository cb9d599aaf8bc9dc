# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_address: its options, and the preparation that they ask for."""

from __future__ import annotations

from .._health.probes import OPTION
from .._host.options import Options, Params
from .._results.host import Prepared

ARGUMENTS: Options = {
    "addresses": {"type": "list", "elements": "str", "required": True},
    "address": {"type": "str", "required": True},
    "members": {"type": "list", "elements": "str", "required": True},
    "router_id": {"type": "int", "required": True},
    "interface": {"type": "str"},
    "witnesses": {"type": "list", "elements": "str"},
    "probes": OPTION,
}


def work(params: Params, check_mode: bool) -> Prepared:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.taking_over import Wanted, prepare
    from .._host.system import System

    wanted = Wanted(
        params["addresses"],
        params["address"],
        params["members"],
        params["router_id"],
        params["interface"] or "",
        params["witnesses"],
        params["probes"] or [],
    )
    return prepare(wanted, System(), check_mode)
