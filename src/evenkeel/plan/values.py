# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of a plan file. Each reader raises ValueError with the end of a sentence about the value."""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

# Nobody counts further, and every number up to here is a floating point number.
_MOST = 10**12


def share(text: object) -> float:
    """A number between 0 and 1, or a percentage such as ``99.95%``."""
    try:
        if isinstance(text, bool):
            raise InvalidOperation
        percent = isinstance(text, str) and text.strip().endswith("%")
        number = Decimal(str(text).strip().rstrip("%").strip()) / (100 if percent else 1)
        if number.is_nan():
            raise InvalidOperation
    except ArithmeticError:
        raise ValueError("is not a share; write a number between 0 and 1, or a percentage such as 99.95%") from None
    if not 0 <= number <= 1:
        raise ValueError("is not between 0 and 1 (or 0% and 100%)")
    return float(number)


def size(text: object) -> float:
    """Bytes of ``2GiB``, ``500MB`` or a plain number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B|)\s*", str(text)) if not isinstance(text, bool) else None
    if not found:
        raise ValueError("is not a size; write bytes, or a text such as 500MB or 2GiB")
    return _finite(float(found[1]) * _SIZES[found[2]])


def rate(text: object) -> float:
    """Failures a year: a number, 0 or more, or a percentage."""
    value = str(text).strip() if not isinstance(text, bool) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]-?\d+)?)\s*(%?)", value)
    if not found:
        raise ValueError("is not a rate; write failures a year, such as 2% or 0.02")
    return _finite(float(found[1]) / (100 if found[2] else 1))


def _finite(number: float) -> float:
    if math.isinf(number):
        raise ValueError("is more than any number; write a smaller one")
    return number


def price(value: object) -> float:
    """An amount of money, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        raise ValueError(f"is not a price; write a number up to {_MOST:,}")
    return float(value)


def count(value: object) -> int:
    """A whole number, at least 1."""
    return _whole(value, 1, "a number")


def natural(value: object) -> int:
    """A whole number, at least 0."""
    return _whole(value, 0, "a whole number")


def _whole(value: object, least: int, noun: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"is not {noun} of at least {least}")
    if value > _MOST:
        raise ValueError(f"is more than {_MOST:,}; write a smaller number")
    return value


def word(value: object) -> str:
    """A text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not a text")
    return value
