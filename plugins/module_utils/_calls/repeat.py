# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_repeat: its options, and its phases on a host."""

from __future__ import annotations

from .._health import probes
from .._host.options import PHASE, Options, Params
from .._results.restart import Operated

ARGUMENTS: Options = {
    "id": {"type": "str", "required": True},
    "module": {"type": "str"},
    "tasks": {"type": "str"},
    "args": {"type": "dict"},
    "verify": {**probes.OPTION, "required": True},
    "class": {"type": "str", "choices": ["idempotent", "compensatable", "once"], "default": "idempotent"},
    "restore": {"type": "str"},
    "attempts": {"type": "int", "default": 5},
    "unreachable_attempts": {"type": "int", "default": 5},
    "deadline": {"type": "str", "default": "10m"},
    "backoff": {"type": "str", "default": "1s"},
    "backoff_limit": {"type": "str", "default": "30s"},
    "retry_budget": {"type": "str", "default": "100%"},
    "vote": {"type": "str", "default": "1 of 1"},
    "voters": {"type": "list", "elements": "str"},
    "group": {"type": "list", "elements": "str"},
    "verify_within": {"type": "str", "default": "10s"},
    "soak": {"type": "str", "default": "0s"},
    "interval": {"type": "str", "default": "1s"},
}
# The options of the module: in addition, the phase of which the controller asks.
OPTIONS: Options = {**ARGUMENTS, **PHASE}


def work(params: Params, check_mode: bool) -> Operated:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows import operations
    from .._host.system import System
    from .._store.store import Store

    store = Store(params["store"], System())
    return operations.work(store, params, check_mode)
