# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The events of ansible-runner, which hold JSON of others: a value is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping

Event = Mapping[str, object]
_EMPTY: Mapping[str, object] = {}


def mapping(value: object) -> Mapping[str, object]:
    """``value`` if it is a mapping, else an empty mapping."""
    return value if isinstance(value, Mapping) else _EMPTY


def about(event: Event) -> tuple[str, Mapping[str, object]]:
    """The host of an event, and the result in the event."""
    data = mapping(event.get("event_data"))
    result = data.get("res")
    # A result that was too long to be read may have been a change.
    return str(data.get("host") or ""), result if isinstance(result, Mapping) else {"changed": True}
