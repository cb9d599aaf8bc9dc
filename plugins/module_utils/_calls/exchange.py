# SPDX-License-Identifier: GPL-3.0-or-later

"""The phases of ft_replicate and of ft_recover on a host."""

from __future__ import annotations

from .._host.options import Params
from .._results.result import Result


def work(params: Params, check_mode: bool) -> Result:
    # The imports stand here, as the controller imports the calls for their options alone.
    from .._deadman import package
    from .._flows import exchange
    from .._flows.rollback.flow import finish
    from .._host.system import System
    from .._store.store import Store

    result = exchange.work(params, check_mode)
    if not check_mode:
        package.leave(Store(params["store"], System()), finish)  # a host is asked for several phases
    return result
