# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library is not sent again to a host where a checkpoint has left it: a small module answers from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.package import digest
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_call import CALLS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer

# Once for a playbook: the processes of its tasks are forks of the one that loads this.
_DIGEST = digest()

Send = Callable[[str, Mapping[str, Any]], Answer]


def call(module: str, arguments: Mapping[str, Any], send: Send) -> Answer:
    """The result of ``module``, sent whole only where the host has no library of this version that answers it.

    send: sends a module of this collection with arguments, and returns its result.
    """
    name = module.removeprefix("ft_")
    if name in CALLS:
        store = arguments.get("store", STORE["default"])
        asked = {"name": name, "library": _DIGEST, "store": store, "arguments": dict(arguments)}
        found = send("ft_call", asked)
        if found.get("absent") is not True:
            return found
    return send(module, arguments)
