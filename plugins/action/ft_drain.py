# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.drain import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.draining import KINDS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import HostAction


class ActionModule(HostAction):
    """The module, after a check of its arguments on the controller."""

    ARGUMENTS = ARGUMENTS

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        given = [kind for kind in KINDS if values[kind] is not None]
        if len(given) != 1:
            raise UsageError(f"give one of {' and '.join(KINDS)}. Nothing was touched")
        KINDS[given[0]][1](values[given[0]])
        return dict(self._task.args)
