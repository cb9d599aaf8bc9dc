# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions of the collection that the driver uses as they are: durations, numbers of hosts, the places of copies."""

from __future__ import annotations

import math

from evenkeel.collection import make_importable

make_importable()

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (  # noqa: E402
    BAD_ANSWER,
    Busy,
    Damaged,
    NotFound,
    Refused,
    RestoreFailed,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError as BadValue  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._guard import hosts_of_budget  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import choose  # noqa: E402

# The codes of failures that decide an exit code; docs/errors.md tells of all.
USAGE, NOT_FOUND, REFUSED, BUSY = BadValue.code, NotFound.code, Refused.code, Busy.code
DAMAGED, RESTORE_FAILED = Damaged.code, RestoreFailed.code

__all__ = [
    "BAD_ANSWER",
    "BUSY",
    "DAMAGED",
    "NOT_FOUND",
    "REFUSED",
    "RESTORE_FAILED",
    "USAGE",
    "BadValue",
    "choose",
    "duration",
    "hosts_of_budget",
    "seconds",
]


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
