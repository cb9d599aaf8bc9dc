# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as Normal
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import answer


class ActionModule(Normal):
    """The module as it is, its answer bounded. meta/runtime.yml names it for all that have no action of their own."""

    def _execute_module(self, *args: Any, **options: Any) -> dict[str, Any]:
        return answer(self._connection, lambda: super(ActionModule, self)._execute_module(*args, **options))
