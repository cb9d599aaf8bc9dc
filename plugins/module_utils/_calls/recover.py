# SPDX-License-Identifier: GPL-3.0-or-later

"""The call of ft_recover: its options, and its phases on a host."""

from __future__ import annotations

from .._host.options import PHASE, Options
from .exchange import work

__all__ = ["ARGUMENTS", "OPTIONS", "work"]

ARGUMENTS: Options = {
    "host": {"type": "str"},
    "checkpoint": {"type": "str", "default": "latest"},
    "peers": {"type": "list", "elements": "str", "required": True},
    "timeout": {"type": "str", "default": "10m"},
    "undeclared": {"type": "bool", "default": False},
}
# The options of the module: in addition, the phase of which the controller asks.
OPTIONS: Options = {**ARGUMENTS, **PHASE}
