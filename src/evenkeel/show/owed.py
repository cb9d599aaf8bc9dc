# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restarts that are due on a host, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evenkeel.outcome import Owed
from evenkeel.show.display import text

# Level -> the kind of restart that it stands for, the most far-reaching first.
_LEVELS = {
    "reboot": "a reboot",
    "soft-reboot": "a soft-reboot",
    "service": "a restart",
    "by-name": "a restart by name",
}
SERVICE = "service"
BOOTS = ("reboot", "soft-reboot")
# The most units, and the most characters of a reason, that are shown.
_UNITS = 5
_LONGEST = 200


def words(owed: Sequence[Owed]) -> list[str]:
    """A sentence for each level at which something is due. Hosts that owe the same have the same words."""
    found = []
    for level, what in _LEVELS.items():
        some = [one for one in owed if one["level"] == level]
        named = [_thing(one) for one in some[:_UNITS]]
        more = f" and {len(some) - _UNITS} more" if len(some) > _UNITS else ""
        found += [f"owed {what}: {', '.join(named)}{more}"] if named else []
    for one in owed:
        if one["level"] == "process":
            # An id differs from host to host.
            names = dict.fromkeys(text(name, _LONGEST).partition("[")[0] for name in one["processes"])
            found.append(f"until they end, processes run replaced files ({_first(one['why'])}): {', '.join(names)}")
        elif one["level"] not in _LEVELS:
            found.append(f"whether more restarts are owed is not known: {_first(one['why'])}")
    return found


def hosts_of(owed: Iterable[tuple[str, Sequence[Owed]]], *levels: str) -> list[str]:
    """The hosts on which something is due at one of the levels."""
    return [host for host, found in owed if any(one["level"] in levels for one in found)]


def _thing(owed: Owed) -> str:
    why = _first(owed["why"])
    return f"{text(owed['unit'], _LONGEST)} ({why})" if owed["unit"] else why


def _first(why: Sequence[str]) -> str:
    """The first reason, and the number of the others: the last may say how many are not named."""
    more = len(why) - 1
    return text(why[0], _LONGEST) + (f" and {more} more" if more > 0 else "") if why else "no reason was given"
