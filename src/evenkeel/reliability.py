# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mathematics of the collection, for Python: ``from evenkeel.reliability import availability``.

The functions are those of the collection's library and of its filters; they are written once, there.
"""

from __future__ import annotations

from evenkeel.collection import make_importable

make_importable()

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._reliability import (  # noqa: E402
    YEAR,
    any_of,
    attempts_needed,
    availability,
    burn_rate,
    checkpoint_interval,
    error_budget,
    expected_time,
    k_of_n,
    ladder,
    loss_probability,
    mttdl,
    pairs,
    parallel,
    repeat_success,
    series,
    unavailability,
)

__all__ = [
    "YEAR",
    "UsageError",
    "any_of",
    "attempts_needed",
    "availability",
    "burn_rate",
    "checkpoint_interval",
    "error_budget",
    "expected_time",
    "k_of_n",
    "ladder",
    "loss_probability",
    "mttdl",
    "pairs",
    "parallel",
    "repeat_success",
    "series",
    "unavailability",
]
