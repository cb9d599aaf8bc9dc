# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_restart: its options, and its phases on a host."""

from __future__ import annotations

from .._errors import UsageError
from .._health import probes
from .._host.options import PHASE, Options, Params, mapping
from .._results.result import Result
from .._services import container, draining, process

ARGUMENTS: Options = {
    "name": {"type": "str"},
    "process": mapping(process.OPTIONS),
    "container": mapping(container.OPTIONS),
    "owed": {"type": "bool", "default": False},
    "scope": {"type": "str", "choices": ["host"]},
    "mode": {"type": "str", "choices": ["cold", "warm", "reboot", "soft-reboot", "kexec"]},
    "ladder": {"type": "list", "elements": "str", "choices": ["warm", "cold", "rollback", "reboot"]},
    "rollback_to": {"type": "str", "default": "latest"},
    "last": {"type": "list", "elements": "str"},
    "drain": draining.OPTION,
    "roll": mapping(
        {
            "id": {"type": "str", "required": True},
            "hosts": {"type": "int", "required": True},
            "leaders": {"type": "list", "elements": "str"},
        }
    ),
    "boot_within": {"type": "str", "default": "10m"},
    "probes": probes.OPTION,
    "group": {"type": "list", "elements": "str"},
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "1m"},
    "interval": {"type": "str", "default": "1s"},
}
# The options of the module: in addition, the phase of which the controller asks.
OPTIONS: Options = {**ARGUMENTS, **PHASE}


def leading(last: list[str] | None) -> tuple[str, ...]:
    """The command that tells whether a host leads; empty where nobody asks. UsageError for a command without words: an
    empty variable would mean that no host leads."""
    if last is not None and not "".join(last[:1]).strip():
        raise UsageError(
            "last is empty, so that no host could say whether it leads. Nothing was touched: give it a command, or"
            " leave it out"
        )
    return tuple(last or ())


def work(params: Params, check_mode: bool) -> Result:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.restarting.flow import Phase, work
    from .._flows.restarting.target import Request
    from .._health.wait import times_of
    from .._host.system import System
    from .._store.store import Store

    request = Request(
        name=params["name"],
        process=params["process"],
        mode=params["mode"],
        probes=params["probes"],
        times=times_of(params),
        container=params["container"],
        owed=params["owed"],
        scope=params["scope"],
        ladder=params["ladder"] or (),
        rollback_to=params["rollback_to"],
        last=leading(params["last"]),
    )
    phase = Phase(params["_phase"] or "", params["_values"] or {})
    return work(Store(params["store"], System()), request, phase, check_mode)
