# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library is not sent again to a host where a checkpoint has left it: it answers from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.package import digest
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_call import CALLS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _direct
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer

# Once for a playbook: the processes of its tasks are forks of the one that loads this.
_DIGEST = digest()

Send = Callable[[str, Mapping[str, Any]], Answer]


def call(
    module: str, arguments: Mapping[str, Any], send: Send, action: ActionBase, variables: Mapping[str, Any]
) -> Answer:
    """The result of ``module``, from the library of this version on the host, or from one that is sent there. The
    module itself is sent only where the Python of the host cannot load such a library, or no file can be put there.

    send: sends a module of this collection with arguments, and returns its result. action: has the connection to the
    host. variables: those of that host.
    """
    name = module.removeprefix("ft_")
    if name not in CALLS:
        return send(module, arguments)
    found: Answer | None = None
    if _direct.is_possible(action):
        found = _direct.ask(action, variables, name, arguments, _DIGEST)
    if found is None:
        store = arguments.get("store", STORE["default"])
        asked = {"name": name, "library": _DIGEST, "store": store, "arguments": dict(arguments)}
        found = send("ft_call", asked)
        if packing := _direct.packing(found):
            path = _put(action, _direct.packed(name, packing))
            found = send("ft_call", {**asked, "sent": path}) if path else found
    return found if found.get("absent") is not True else send(module, arguments)


def _put(action: ActionBase, data: bytes) -> str:
    """The path of a new file on the host; empty where there is no room for it, or no such file may be written: with
    pipelining, modules need none."""
    try:
        return _direct.put(action, data)
    except (AnsibleError, OSError):
        return ""
