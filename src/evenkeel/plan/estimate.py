# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Means and rates of samples, with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its confidence interval, from so many independent samples."""

    mean: float
    low: float
    high: float
    samples: int

    def holds(self, value: float) -> bool:
        """Whether ``value`` is within the interval."""
        return self.low <= value <= self.high


def mean_of(samples: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of independent samples with Student's interval (quantile by Cornish and Fisher's expansion)."""
    values = np.asarray(samples, dtype=float)
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    z, v = NormalDist().inv_cdf(0.5 + confidence / 2), count - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    half = t * float(values.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def rate_of(events: int, exposure: float, confidence: float = CONFIDENCE) -> Estimate:
    """A rate from ``events`` in ``exposure``, with the Poisson interval (chi-square by Wilson and Hilferty)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def bound(count: int, side: float) -> float:
        return count * max(0.0, 1 - 1 / (9 * count) + side * z / (3 * math.sqrt(count))) ** 3 if count else 0.0

    return Estimate(events / exposure, bound(events, -1) / exposure, bound(events + 1, 1) / exposure, events)
