# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_replicate: its options, and its phases on a host."""

from __future__ import annotations

from .._host.options import PHASE, Options
from .._store import retention
from .exchange import work

__all__ = ["ARGUMENTS", "OPTIONS", "work"]

ARGUMENTS: Options = {
    "copies": {"type": "int", "default": 2},
    "min_copies": {"type": "int"},
    "peers": {"type": "list", "elements": "str", "required": True},
    "failure_domain": {"type": "str"},
    "checkpoint": {"type": "str", "default": "latest"},
    "host": {"type": "str"},
    "transport": {"type": "str", "default": "auto", "choices": ["auto", "ssh", "chain", "relay"]},
    "retention": retention.OPTION,
    "timeout": {"type": "str", "default": "1h"},
}
# The options of the module: in addition, the phase of which the controller asks.
OPTIONS: Options = {**ARGUMENTS, **PHASE}
