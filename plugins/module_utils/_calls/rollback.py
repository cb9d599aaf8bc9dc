# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_rollback: its options, and the rollback that they ask for."""

from __future__ import annotations

from .._host.options import Options, Params, renamed
from .._results.change import RolledBack
from .._services import quiescing

ARGUMENTS: Options = {
    "checkpoint": {"type": "str", "default": "latest", **renamed("to")},
    "kinds": {"type": "list", "elements": "str", **renamed("resources")},
    "paths": {"type": "list", "elements": "str"},
    "strategy": {"type": "str", "choices": ["paths", "swap"], "default": "paths"},
    "quiesce": quiescing.OPTION,
    "generation": {"type": "int"},
    "confirm_within": {"type": "str"},
}


def work(params: Params, check_mode: bool) -> RolledBack:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    # The agent that is armed holds it, so that Ansible has to send it.
    from .._flows import console, keeping  # noqa: F401
    from .._flows.rollback.flow import Request, rollback
    from .._host.durations import seconds_or_none
    from .._host.system import System
    from .._store.store import Store

    request = Request(
        to=params["checkpoint"],
        kinds=params["kinds"],
        paths=params["paths"] or (),
        generation=params["generation"],
        swap=params["strategy"] == "swap",
        confirm_within=seconds_or_none(params["confirm_within"], "confirm_within"),
        quiesce=params["quiesce"],
    )
    return rollback(Store(params["store"], System()), request, check_mode)
