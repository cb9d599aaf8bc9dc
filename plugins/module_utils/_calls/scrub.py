# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_scrub: its options, and the reading of a store that they ask for."""

from __future__ import annotations

import os

from .._host.options import Options, Params
from .._results.host import Scrubbed

ARGUMENTS: Options = {
    "time_limit": {"type": "str"},
    "share": {"type": "int", "default": 50},
}


def work(params: Params, check_mode: bool) -> Scrubbed:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.scrub import scrub
    from .._host.durations import seconds_or_none
    from .._host.system import System
    from .._store.store import Store

    os.nice(19)  # Where the scheduler of the disk knows priorities, it takes them from this.
    limit = seconds_or_none(params["time_limit"], "time_limit")
    return scrub(Store(params["store"], System()), limit, params["share"], check_mode)
