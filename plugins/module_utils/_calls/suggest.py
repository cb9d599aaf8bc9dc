# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_suggest: what a host could declare."""

from __future__ import annotations

from .._host.options import Options, Params
from .._results.change import Suggested

ARGUMENTS: Options = {}


def work(params: Params, check_mode: bool) -> Suggested:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.suggest import suggest
    from .._host.system import System
    from .._store.store import Store

    return suggest(Store(params["store"], System()))
