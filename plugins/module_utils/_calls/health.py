# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_health: its options, and the measurement that they ask for."""

from __future__ import annotations

from .._dataclasses import replace
from .._health.evidence import OPTION as MEASURED
from .._health.evidence import evidence
from .._health.probes import OPTION
from .._host.options import Options, Params
from .._results.host import Measured

ARGUMENTS: Options = {
    "probes": OPTION,
    "measured": MEASURED,
    "group": {"type": "list", "elements": "str"},
    "unchanged": {"type": "list", "elements": "str"},
    "soak": {"type": "str", "default": "0s"},
    "deadline": {"type": "str", "default": "0s"},
    "interval": {"type": "str", "default": "1s"},
    "addresses": {"type": "list", "elements": "str"},
}


def work(params: Params, check_mode: bool) -> Measured:
    # The imports stand here, as the controller imports this file for ARGUMENTS alone.
    from .._errors import Unhealthy
    from .._flows.holding import part
    from .._flows.info import host_state
    from .._health.probe import PASS
    from .._health.probes import check
    from .._health.wait import times_of, wait
    from .._host.system import System
    from .._store.store import Store

    times = times_of(params)
    times = replace(times, deadline=max(times.soak, times.deadline))
    system = Store(params["store"], System()).system
    health = wait([*check(params["probes"]), *evidence(params["measured"])], times, system)
    result = Measured(
        **vars(health), host_state=host_state(params["store"], system), warnings=health.warnings() or None
    )
    if params["addresses"]:
        result.address = part(params["addresses"], system)
    if health.state != PASS:
        result.left = health.wrong()
        why = "; ".join(result.left) or "it did not hold for the soak"
        raise Unhealthy(f"not healthy: {why}", **result.report())
    result.proved = health.passed()
    return result
