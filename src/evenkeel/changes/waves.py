# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The waves of a change: the hosts that change at the same time, and the order of the waves."""

from __future__ import annotations

from evenkeel.outcome import UsageError
from evenkeel.shared import waves

by_domain = waves.by_domain
split = waves.split


def parse(text: str) -> tuple[str, ...]:
    """The sizes of the waves in a text such as ``1,25%,100%``. UsageError names the wrong part."""
    try:
        return waves.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
