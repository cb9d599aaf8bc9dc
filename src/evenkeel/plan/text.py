# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers as a person reads them: times, shares, odds, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

from evenkeel.reliability import YEAR


def time_text(seconds: float, rounded: Callable[[float], float] = round) -> str:
    """``45s``, ``1h30m``, ``12d``: two units at most, as the roles read durations."""
    if math.isinf(seconds):
        return "never"
    if seconds < 9.95:
        return f"{rounded(seconds * 10) / 10:g}s"
    # The unit that is rounded to, the larger one beside it, and from where on that is too fine.
    for small, large, names, below in (
        (1, 60, "sm", 3599.5),
        (60, 3600, "mh", 86370.0),
        (3600, 86400, "hd", 2 * YEAR),
    ):
        if seconds < below:
            most, rest = divmod(int(rounded(seconds / small)), large // small)
            return (f"{most}{names[1]}" if most else "") + (f"{rest}{names[0]}" if rest else "")
    return f"{seconds / YEAR:.0f}y"


def at_most_text(seconds: float) -> str:
    """A time that must not be exceeded: rounded down."""
    return time_text(seconds, math.floor)


def share_text(value: float) -> str:
    """A percentage with as many digits as it takes to see it: 5 %, 0.03 %, 1.2e-07 %."""
    percent = value * 100
    if 0.99 < value < 1:
        return nines_text(1 - value)
    return f"{percent:.3g} %" if percent >= 0.001 or percent == 0 else f"{percent:.1e} %"


def part_text(value: float) -> str:
    """A part of a whole: a percentage, or nearly all of it."""
    return "nearly all" if value > 0.995 else share_text(value)


def nines_text(down: float) -> str:
    """An availability from its complement, with two digits after the nines: 99.962 %."""
    if down <= 0:
        return "100 %"
    digits = min(15, max(0, 1 - math.floor(math.log10(down * 100))))
    text = f"{100 - down * 100:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def odds_text(chance: float) -> str:
    """``1 in 20,000``, or a percentage where it is no small chance."""
    if chance <= 0:
        return "never"
    return share_text(chance) if chance > 0.01 else f"1 in {float(f'{1 / chance:.2g}'):,.0f}"


def size_text(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:,.3g} GiB" if size < 1e14 else f"{size / 2**30:,.0f} GiB"


def plural(number: int, word: str) -> str:
    """The number with its noun: ``1 host``, ``3 copies``."""
    return f"{number} {word}" if number == 1 else f"{number} {word[:-1] + 'ies' if word.endswith('y') else word + 's'}"
