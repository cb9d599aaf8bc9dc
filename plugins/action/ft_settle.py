# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.settle import ARGUMENTS, MEASURING
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._evidence import ProbingAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import reclaim

# ssh takes the first value of an option, so these words stand before all settings of the user.
_NEW_LOGIN = "-o ControlMaster=no -o ControlPath=none"


class ActionModule(ProbingAction):
    """The module, over a login of its own: an older login would confirm a change that locks new logins out."""

    ARGUMENTS = ARGUMENTS
    REFUSES_NAMES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        reclaim()
        connection = self._connection
        if connection.has_option("ssh_args"):
            theirs = connection.get_option("ssh_args") or ""
            connection.set_option("ssh_args", f"{_NEW_LOGIN} {theirs}".strip())
        return super().run(tmp, task_vars)

    def is_measured(self, values: Mapping[str, Any]) -> bool:
        return values["verdict"] in MEASURING and not self._task.check_mode
