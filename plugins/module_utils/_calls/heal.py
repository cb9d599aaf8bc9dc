# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_heal: its options, and its phases on a host."""

from __future__ import annotations

import os

from .._errors import EvenkeelError
from .._host.options import PHASE, Options, Params
from .._results.result import Result
from .._store import retention
from . import exchange

ARGUMENTS: Options = {
    "copies": {"type": "int", "default": 2},
    "min_copies": {"type": "int"},
    "peers": {"type": "list", "elements": "str", "required": True},
    "failure_domain": {"type": "str"},
    "host": {"type": "str"},
    "orphans": {"type": "bool", "default": False},
    "forget": {"type": "str"},
    "retention": retention.OPTION,
    "time_limit": {"type": "str", "default": "10m"},
    "timeout": {"type": "str", "default": "1h"},
}
# The options of the module: in addition, the phase of which the controller asks.
OPTIONS: Options = {**ARGUMENTS, **PHASE}


def work(params: Params, check_mode: bool) -> Result:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows import possession, proving
    from .._host.system import System
    from .._store.store import Store

    values = params["_values"] or {}
    if params["_phase"] == "prove":
        os.nice(19)  # Where the scheduler of the disk knows priorities, it takes them from this.
        challenge = proving.Challenge(bytes.fromhex(values["nonce"]), float(values["time_limit"]), values["own"])
        store = Store(params["store"], System())
        audited = proving.prove(store, params["host"], challenge, check_mode)
        try:
            audited.place = store.place(str(values.get("run", "")), not check_mode)
        except EvenkeelError as error:
            if not challenge.own:  # The copies of such a place must not count.
                raise
            audited.left.append(error.message)
        return audited
    if params["_phase"] == "possess":
        os.nice(19)
        challenge = proving.Challenge(bytes.fromhex(values["nonce"]), float(values["time_limit"]))
        store = Store(params["store"], System())
        possessed = possession.possess(store, params["host"], challenge, check_mode)
        possessed.place = store.place(str(values.get("run", "")), not check_mode)
        return possessed
    if params["_phase"] == "owners":
        return proving.owners(Store(params["store"], System()))
    if params["_phase"] == "mark":
        return proving.mark(Store(params["store"], System()), params["host"], values["macs"])
    if params["_phase"] == "forget":
        return proving.forget(Store(params["store"], System()), params["host"], check_mode)
    return exchange.work(params, check_mode)
