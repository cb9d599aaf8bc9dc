# SPDX-License-Identifier: GPL-3.0-or-later

"""The calls that the library on a host answers (``_direct``): of every module that works on one host.

Each file of this room has the options of a module, and ``work``. A call loads its own file alone: to load all of them
takes longer than most calls.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Callable

from .._host.options import Options, Params

# The names of these modules, without ``ft_``.
CALLS = (
    "accept",
    "checkpoint",
    "heal",
    "health",
    "info",
    "offsite",
    "recover",
    "repeat",
    "replicate",
    "restart",
    "rollback",
    "scrub",
    "settle",
    "suggest",
)


def call(name: str) -> tuple[Options, Callable[[Params, bool], Any]]:
    """The options and the work of the module ``ft_NAME``."""
    found = vars(import_module(f".{name}", __package__))
    # With the options of the controller, where its half asks for phases.
    return found.get("OPTIONS", found["ARGUMENTS"]), found["work"]
