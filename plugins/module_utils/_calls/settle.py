# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_settle: its options, and the end of a change that they ask for."""

from __future__ import annotations

from .._health import probes
from .._health.evidence import OPTION as MEASURED
from .._host.options import Options, Params
from .._results.change import Settled

# The verdicts for which health is measured.
MEASURING = ("probe", "hold")
_VERDICTS = ["probe", "hold", "extend", "approve", "decide", "roll_back", "take_back"]
ARGUMENTS: Options = {
    "generation": {"type": "int", "required": True},
    "probes": probes.OPTION,
    "measured": MEASURED,
    "group": {"type": "list", "elements": "str"},
    "unchanged": {"type": "list", "elements": "str"},
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "2m"},
    "interval": {"type": "str", "default": "1s"},
    "verdict": {"type": "str", "choices": _VERDICTS, "default": "probe"},
    "reason": {"type": "str"},
}


def work(params: Params, check_mode: bool) -> Settled:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._flows.settle import Request, settle
    from .._health.wait import times_of
    from .._host.system import System
    from .._store.store import Store

    request = Request(
        params["generation"],
        params["probes"],
        times_of(params),
        params["verdict"],
        params["measured"] or [],
        params["reason"] or "",
    )
    return settle(Store(params["store"], System(), armed=True), request, check_mode)
