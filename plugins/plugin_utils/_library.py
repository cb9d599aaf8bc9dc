# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library is not sent again to a host where a checkpoint has left it: it answers from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.every import CALLS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.package import digest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _direct
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer

# Once for a playbook: the processes of its tasks are forks of the one that loads this.
_DIGEST = digest()

Send = Callable[[str, Mapping[str, Any]], Answer]


def call(
    module: str, arguments: Mapping[str, Any], send: Send, action: ActionBase, variables: Mapping[str, Any]
) -> Answer:
    """The result of ``module``, from the library of this version on the host, or from one that is sent there. The
    module itself is sent with ``async``, and where the Python of the host cannot load such a library.

    send: sends a module of this collection with arguments, and returns its result. action: has the connection to the
    host. variables: those of that host, or of the host that delegates the task to it.
    """
    name = module.removeprefix("ft_")
    if name in CALLS and _direct.is_possible(action):
        found = _direct.ask(action, variables, name, arguments, _DIGEST)
        if found.get("absent") is not True:
            return found
    return send(module, arguments)
