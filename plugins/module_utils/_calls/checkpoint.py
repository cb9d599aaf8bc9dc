# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_checkpoint: its options, and the checkpoint that they ask for."""

from __future__ import annotations

from .._files import places
from .._health import probes
from .._host.options import Options, Params
from .._resources import registry
from .._results.change import Checkpointed
from .._services import quiescing
from .._store import retention

ARGUMENTS: Options = {
    "name": {"type": "str"},
    "kind": {"type": "str", "choices": ["snapshot", "log"], "default": "snapshot"},
    "resources": {**registry.OPTION, "default": registry.DEFAULT},
    "quiesce": quiescing.OPTION,
    "confirm_within": {"type": "str"},
    "at_most": {"type": "str", "default": "1h"},
    "reboots": {"type": "int", "default": 0},
    "probes": probes.OPTION,
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "2m"},
    "interval": {"type": "str", "default": "1s"},
    "change": {
        "type": "dict",
        "options": {"id": {"type": "str", "required": True}, "hosts": {"type": "int", "required": True}},
    },
    "retention": retention.OPTION,
    "host": {"type": "str"},
    "outside": {"type": "dict", "options": dict(places.OPTIONS)},
    "only_logs": {"type": "bool", "default": False},
    "require_restorable": {"type": "bool", "default": False},
}


def work(params: Params, check_mode: bool) -> Checkpointed:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._deadman import package
    from .._flows.checkpoint import Request, checkpoint
    from .._flows.rollback.flow import finish
    from .._health.wait import times_of
    from .._host.durations import seconds, seconds_or_none
    from .._host.system import System
    from .._store.store import Store

    request = Request(
        name=params["name"],
        resources=params["resources"],
        confirm_within=seconds_or_none(params["confirm_within"], "confirm_within"),
        retention=params["retention"],
        host=params["host"],
        kind=params["kind"],
        quiesce=params["quiesce"],
        require_restorable=params["require_restorable"],
        only_logs=params["only_logs"],
        outside=params["outside"],
        at_most=seconds(params["at_most"], "at_most"),
        reboots=params["reboots"],
        probes=params["probes"],
        times=times_of(params),
        change=(change["id"], change["hosts"]) if (change := params["change"]) else ("", 0),
    )
    store = Store(params["store"], System())
    result = checkpoint(store, request, check_mode)
    if not check_mode and request.confirm_within is None:
        package.leave(store, finish)
    return result


def _sent() -> None:
    """Import what only the agent that is armed needs, so that Ansible sends it. Nothing calls this function: to load
    all of that takes as long as a checkpoint of a small host."""
    from .._flows import console, keeping  # noqa: F401
