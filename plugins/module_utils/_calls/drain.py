# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_drain: its options, and the drain that they ask for."""

from __future__ import annotations

from .._host.options import Options, Params, mapping
from .._results.restart import Drained
from .._services import haproxy, pair

ARGUMENTS: Options = {
    "state": {"type": "str", "choices": ["look", "drained", "ready"], "required": True},
    "haproxy": mapping(haproxy.OPTIONS),
    "command": mapping(pair.OPTIONS),
    "ours": {"type": "bool", "default": False},
    "deadline": {"type": "str", "default": "1m"},
}


def work(params: Params, check_mode: bool) -> Drained:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.drain import Request, drain
    from .._host.durations import seconds
    from .._host.system import System
    from .._store.store import Store

    declared = {"haproxy": params["haproxy"], "command": params["command"]}
    request = Request(params["state"], declared, params["ours"], seconds(params["deadline"], "deadline"))
    return drain(request, Store(params["store"], System()).system, check_mode)
