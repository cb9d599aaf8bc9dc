# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mathematics of the collection, for Python: ``from evenkeel.reliability import availability``.

The functions are those of the collection's library and of its filters; they are written once, there.
"""

from __future__ import annotations

import sys

from evenkeel.collection import collections_path

_ROOT = str(collections_path())
if _ROOT not in sys.path:
    sys.path.append(_ROOT)

import ansible_collections  # noqa: E402

# The package `ansible` brings an ansible_collections of its own, which hides every other one on the path.
_OURS = f"{_ROOT}/ansible_collections"
if _OURS not in list(ansible_collections.__path__):
    ansible_collections.__path__.append(_OURS)

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
