# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library is not sent again to a host where an armed change has left it: a small module answers from there."""

from __future__ import annotations

from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.package import digest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import HostAction

# Once for a playbook: the processes of its tasks are forks of the one that loads this.
_DIGEST = digest()


class FromLibrary(HostAction):
    """The module ``ft_NAME`` of ``CALL``, sent whole only where the host has no library of this version."""

    CALL = ""

    def _execute_module(self, *args: Any, **options: Any) -> dict[str, Any]:
        if not options.get("wrap_async"):
            store = self._task.args.get("store", STORE["default"])
            call = {"name": self.CALL, "library": _DIGEST, "store": store, "arguments": self._task.args}
            module = {"module_name": "evenkeel.fault_tolerance.ft_call", "module_args": call}
            found = super()._execute_module(*args, **{**options, **module})
            if found.get("absent") is not True:
                return found
        return super()._execute_module(*args, **options)
