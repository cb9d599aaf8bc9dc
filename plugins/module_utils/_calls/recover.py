# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_recover: its options, and its phases on a host."""

from __future__ import annotations

from .._host.options import PHASE, Options, Params
from .._results.result import Result
from . import exchange

ARGUMENTS: Options = {
    "host": {"type": "str"},
    "checkpoint": {"type": "str", "default": "latest"},
    "peers": {"type": "list", "elements": "str", "required": True},
    "timeout": {"type": "str", "default": "1h"},
    "undeclared": {"type": "bool", "default": False},
    "identity": {"type": "str", "choices": ["keep", "take"]},
    "kinds": {"type": "list", "elements": "str"},
    "paths": {"type": "list", "elements": "str"},
    "min_copies": {"type": "int", "default": 1},
    "onto": {"type": "list", "elements": "str"},
}
# The options of the module: in addition, the phase of which the controller asks.
OPTIONS: Options = {**ARGUMENTS, **PHASE}


def work(params: Params, check_mode: bool) -> Result:
    """The result of one phase: those of this host alone, or those by which checkpoints are carried."""
    if params["_phase"] not in ("survey", "derive"):
        return exchange.work(params, check_mode)
    # The imports stand here, as the controller imports the calls for their options alone.
    from .._deadman import package
    from .._flows import replicas
    from .._flows.recovering import flow
    from .._flows.rollback.flow import finish
    from .._host.system import System
    from .._store.store import Store

    values, store = params["_values"] or {}, Store(params["store"], System())
    if params["_phase"] == "survey":
        about = str(values.get("id", "")), str(params["host"]), replicas.Terms.of(values)
        return flow.survey(store, *about, run=str(values.get("run", "")))
    part = values.get("kinds"), values.get("paths") or ()
    request = flow.Request(values["id"], values["identity"], *part, elsewhere=values.get("elsewhere") is True)
    result = flow.prepare(store, request, check_mode)
    if not check_mode:
        package.leave(store, finish)
    return result
