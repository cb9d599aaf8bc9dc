# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re

from ._errors import UsageError

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)")


def seconds(value: str | int | float, name: str = "duration") -> float:
    """Seconds of a duration: a number, or a text such as ``30s``, ``10m``, ``2h``, ``1d``, ``1h30m``.

    Raises UsageError, naming ``name``, for anything else, for negative and for non-finite values.
    """
    if not isinstance(value, bool):
        text = str(value).strip().lower()
        total, at = 0.0, 0
        while at < len(text):
            match = _FORM.match(text, at)
            if not match or (match.group(2) == "" and match.end() != len(text)):
                break
            total += float(match.group(1)) * _UNITS[match.group(2)]
            at = match.end()
        if text and at == len(text):
            return total
    raise UsageError(f"{name}: {value!r} is not a duration; write seconds or a text such as 30s, 10m or 2h")
