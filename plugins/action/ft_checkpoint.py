# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.checkpoint import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import HostAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._outside import parted

# Seconds from the deadline of a host in which the controller starts nothing more there.
_MARGIN = 2.0
# Seconds for which tasks are predicted where nothing is armed.
_ENDLESS = 1e9


class ActionModule(HostAction):
    """The module, after a check of its arguments on the controller."""

    ARGUMENTS = ARGUMENTS

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self._called = time.time()
        return super().run(tmp, task_vars)

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        """The host gets the probes that it measures itself. The others, with the secrets in them, stay here."""
        given = super().arguments(values, variables)
        return {**given, "probes": parted(values["probes"])[0]} if values["probes"] else given

    def completed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The answer, and for the role change the time on this clock until which tasks may run on the host: the next
        task may find out only when the last host of the wave has answered. A prediction arms nothing, and has no end.

        The time counts from the call and what the checkpoint took on the host, as the answer may come long after it was
        given."""
        left = _ENDLESS if self._task.check_mode else result.get("remaining")
        if not isinstance(left, (int, float)):
            return result
        took = (result.get("stats") or {}).get("seconds")
        took = took if isinstance(took, (int, float)) and took > 0 else 0.0
        return {**result, "_here_until": self._called + min(took, time.time() - self._called) + left - _MARGIN}
