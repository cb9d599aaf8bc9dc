# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions of the collection that the driver uses as they are: durations, numbers of hosts, the places of copies."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evenkeel.collection import make_importable
from evenkeel.outcome import Spec

make_importable()

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (  # noqa: E402
    BAD_ANSWER,
    Busy,
    Damaged,
    NotFound,
    Refused,
    RestoreFailed,
    Unhealthy,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError as BadValue  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import (  # noqa: E402
    command as run_command,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import (  # noqa: E402
    REMOVED,
    Option,
    Options,
    read,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results import change as results  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import LOGS, UNDO  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _waves as waves  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import choose  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._variables import KNOWN, misspelt  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._waves import hosts_of_budget  # noqa: E402

# The codes of failures that decide an exit code; docs/errors.md explains all codes.
USAGE, NOT_FOUND, REFUSED, BUSY = BadValue.code, NotFound.code, Refused.code, Busy.code
DAMAGED, RESTORE_FAILED, UNHEALTHY = Damaged.code, RestoreFailed.code, Unhealthy.code

__all__ = [
    "BAD_ANSWER",
    "BUSY",
    "DAMAGED",
    "KNOWN",
    "LOGS",
    "NOT_FOUND",
    "OF_A_CHANGE",
    "REBOOT",
    "REFUSED",
    "REMOVED",
    "RESTORE_FAILED",
    "UNDO",
    "UNHEALTHY",
    "USAGE",
    "BadValue",
    "choose",
    "declarations",
    "duration",
    "hosts_of_budget",
    "misspelt",
    "prometheus",
    "results",
    "run_command",
    "seconds",
    "stop_conditions",
    "waves",
]

# The limits of a change that are durations, and all options of ft_checkpoint that a variable of the same name sets.
DURATIONS = ("confirm_within", "at_most", "soak", "deadline")
OF_A_CHANGE = (
    "resources",
    "probes",
    "quiesce",
    "retention",
    "outside",
    "reboots",
    "require_restorable",
    *DURATIONS,
)

# The choices of a change: whether its playbook boots the hosts.
REBOOT = ("never", "planned")
_TIMEOUT: Options = {"timeout": {"type": "str", "default": "5s"}}


def stop_conditions(given: object) -> list[Mapping[str, Mapping[str, object]]]:
    """The conditions of --stop-if, each value of its type. BadValue names a wrong value, with its place."""
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.prometheus import SERVER

    argv: Option = {"type": "list", "elements": "str", "required": True}
    known: dict[str, Options] = {"command": {"argv": argv, **_TIMEOUT}, "prometheus": {**SERVER, **_TIMEOUT}}
    if not isinstance(given, list):
        raise BadValue(f"it must be a list of {' or '.join(known)}")
    found: list[Mapping[str, Mapping[str, object]]] = []
    for number, item in enumerate(given, 1):
        kind = next(iter(item), None) if isinstance(item, Mapping) and len(item) == 1 else None
        if kind not in known:
            raise BadValue(f"item {number} must have one key, {' or '.join(known)}")
        values = read(known[str(kind)], item[kind], f"item {number}: {kind}")
        found.append({kind: {**values, "timeout": seconds(values["timeout"], "timeout")}})
    return found


def declarations(given: Mapping[str, object], prefix: str = "") -> Mapping[str, list[Spec]]:
    """Declarations and limits of a change, and places of a drain, each value of its type. BadValue names a wrong value,
    with its place.

    given: drain, reboot, an option of ``OF_A_CHANGE`` or several, under these names after ``prefix``.
    """
    # Ansible prints its opinion of the user's settings when it is loaded; each of its own programs does so as well.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        # These modules know every kind and probe, which takes a tenth of a second to load.
        from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls import checkpoint
        from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import draining
        from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked

        reboot: Option = {"type": "str", "choices": list(REBOOT)}
        known = {
            "drain": draining.OPTION,
            "reboot": reboot,
            **{name: checkpoint.ARGUMENTS[name] for name in OF_A_CHANGE},
        }
        options = {f"{prefix}{name}": option for name, option in known.items()}
        found: Mapping[str, list[Spec]] = checked({name: options[name] for name in given}, given)
    for name in DURATIONS:
        if (value := given.get(f"{prefix}{name}")) is not None:
            seconds(value if isinstance(value, (int, float)) else str(value), f"{prefix}{name}")
    return found


def prometheus(declared: Mapping[str, object]) -> Callable[[str, float], Sequence[Any]]:
    """The function that asks a declared server: query, seconds -> series. BadValue for a wrong declaration."""
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.prometheus import Server

    return Server(declared).ask


def duration(value: object) -> float:
    """Seconds of ``90``, ``30s``, ``1h30m``, ``60d``, ``5y`` or ``never`` (infinite). Raises ValueError."""
    if isinstance(value, str) and value.strip() == "never":
        return math.inf
    try:
        if isinstance(value, (str, int, float)):
            return seconds(value)
    except BadValue:
        pass
    raise ValueError("is not a duration; write seconds, or a text such as 30s, 1h30m, 60d or 5y")
