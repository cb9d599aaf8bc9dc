# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of modules that take probes: it measures the probes that the host does not measure itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import times_of
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import HostAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._outside import Item, Outside, parted, unchanged
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory

# Options that are for the controller alone.
_HERE = ("group", "unchanged")


class ProbingAction(HostAction):
    """A module with the option ``probes``. It gets the probes that the host measures, and the results of the others."""

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        own, items = parted(values["probes"])
        given = {name: value for name, value in self._task.args.items() if name not in _HERE}
        if not items:
            return given
        outside = self.outside(items, values, variables)
        measured = outside.measure() if self.is_measured(values) else []
        return {**given, "probes": own, "measured": [*(values["measured"] or []), *measured]}

    def is_measured(self, values: Mapping[str, Any]) -> bool:
        """Whether the module looks at health at all."""
        return True

    def outside(self, items: Sequence[Item], values: Mapping[str, Any], variables: Mapping[str, Any]) -> Outside:
        """The probes that are measured from outside of this host. Raises UsageError."""
        inventory = Inventory(self, dict(variables))
        play = list(variables.get("ansible_play_hosts_all") or [])
        try:
            group = inventory.hosts_of(values["group"] or play)
            given = values.get("unchanged")
            order = self._task.get_play().order
            rest = unchanged(group, variables, order) if given is None else inventory.hosts_of(given)
            return Outside(
                inventory,
                str(variables["inventory_hostname"]),
                items,
                times_of(values),
                group,
                late=list(variables.get("ansible_play_batch") or []),
                unchanged=rest if "unchanged" in values else None,
                store=str(values["store"]),
            )
        except AnsibleError as error:
            raise UsageError(f"{str(error).rstrip('.')}. Nothing was touched") from error
