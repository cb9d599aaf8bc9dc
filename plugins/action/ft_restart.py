# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._adapter import reported
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.restart import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._evidence import ProbingAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._outside import Outside, parted


class ActionModule(ProbingAction):
    """The module; then the probes that are measured from outside, of the service that was restarted."""

    ARGUMENTS = ARGUMENTS
    _outside: Outside | None = None

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        own, items = parted(values["probes"])
        given = {name: value for name, value in self._task.args.items() if name != "group"}
        if not items:
            return given
        self._outside = self.outside(items, values, variables)
        return {**given, "probes": own}

    def completed(self, result: dict[str, Any]) -> dict[str, Any]:
        if self._outside is None or self._task.check_mode or result.get("failed") or result.get("unreachable"):
            return result
        measured = self._outside.measure()
        health = result.get("health") or {"state": "pass", "probes": []}
        wrong = [one for one in measured if one["state"] != "pass"]
        sick, warned = ([_words_on(one) for one in wrong if one["severity"] == how] for how in ("fail", "warn"))
        health = {**health, "probes": [*health["probes"], *measured], "state": "fail" if sick else health["state"]}
        result = {**result, "health": health, "warnings": [*(result.get("warnings") or []), *warned]}
        if not sick:
            return reported(result)
        name = str((result.get("after") or {}).get("name") or "the service")
        msg = f"{name} was restarted, but is not healthy as seen from outside: {'; '.join(sick)}"
        return reported({**result, "failed": True, "error": "Unhealthy", "msg": msg, "left": [name]})


def _words_on(one: Mapping[str, Any]) -> str:
    return f"{one['kind']} {one['target']} from {one['source']}: {one['state']}, {one['detail']}"
