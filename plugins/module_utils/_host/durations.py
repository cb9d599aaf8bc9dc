# SPDX-License-Identifier: GPL-3.0-or-later

"""Durations and moments as users read and write them."""

from __future__ import annotations

import re
import time

from .._errors import UsageError

_DAY = 86400.0
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY, "w": 7 * _DAY, "y": 365 * _DAY}
# Nobody means a longer time.
_LONGEST = 1e15
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w|y|)")


def seconds(value: str | int | float, name: str = "duration") -> float:
    """Seconds of a duration: a number, or a text such as ``30s``, ``10m``, ``2h``, ``1d``, ``1h30m``, ``2w``, ``5y``.

    UsageError names ``name`` for anything else, and for a number that is negative, not finite, or far too large.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value <= _LONGEST:
            return float(value)
    elif isinstance(value, str):
        text = value.strip().lower()
        total, at = 0.0, 0
        while at < len(text):
            match = _FORM.match(text, at)
            if not match or (match.group(2) == "" and match.end() != len(text)):
                break
            total += float(match.group(1)) * _UNITS[match.group(2)]
            at = match.end()
        if text and at == len(text) and total <= _LONGEST:
            return total
    raise UsageError(f"{name}: {value!r} is not a duration; write seconds or a text such as 30s, 10m or 2h")


def seconds_or_none(value: str | int | float | None, name: str) -> float | None:
    """Seconds of a duration that may be left out."""
    return None if value is None else seconds(value, name)


def moment_text(moment: float) -> str:
    """A moment, in seconds since 1970, as a text such as 2026-11-29T10:04:11Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
