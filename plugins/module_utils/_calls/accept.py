# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_accept: its options, and the end of a doubt that they ask for."""

from __future__ import annotations

from .._host.options import Options, Params
from .._results.change import Accepted

ARGUMENTS: Options = {"generation": {"type": "int"}, "undrained": {"type": "bool", "default": False}}


def work(params: Params, check_mode: bool) -> Accepted:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.accepting import accept
    from .._host.system import System
    from .._store.store import Store

    return accept(Store(params["store"], System()), params["generation"], params["undrained"], check_mode)
