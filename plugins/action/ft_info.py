# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.info import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.registry import outline
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.host import NOT_COMPARED, Listed
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import HostAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import run

# Arguments that the host does not need.
_OURS = ("copies", "failure_domain", "resources")
# The controller itself is never a host of the fleet.
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class ActionModule(HostAction):
    """The module, after a check of its arguments on the controller, which adds what the inventory says."""

    ARGUMENTS = ARGUMENTS
    REFUSES_NAMES = False
    _listed = Listed()
    _hosts: frozenset[str] = frozenset()
    _not_compared = ""

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        """The arguments that the host needs. The words of the inventory on the host stay here.

        A template that does not work here, as where it needs facts, keeps nobody from the rest of the answer.
        """
        variable, resources = values["failure_domain"] or "", values["resources"]
        self._hosts = frozenset(map(str, variables.get("groups", {}).get("all", ()))) - _LOCAL
        self._listed = Listed(values["copies"], variable, "", len(self._hosts))
        with suppress(AnsibleError):
            domain = self._templar.template(variables.get(variable))
            self._listed = replace(self._listed, domain="" if domain is None else str(domain))
        given = {key: value for key, value in super().arguments(values, variables).items() if key not in _OURS}
        given["_values"] = {"run": run()}
        try:
            found = self._templar.template(variables.get(resources)) if isinstance(resources, str) else resources
            return given if found is None else {**given, "resources": outline(found)}
        except (AnsibleError, UsageError) as error:
            self._not_compared = f"{NOT_COMPARED}: {f'{resources}: ' if isinstance(resources, str) else ''}{error}"
        return given

    def completed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The answer of the host, and what the inventory says, in place of anything that the host says of that."""
        holds = result.get("holds")
        held = [str(one.get("host")) for one in holds if isinstance(one, Mapping)] if isinstance(holds, list) else []
        if self._not_compared and not result.get("failed"):
            result["spot_check"] = [self._not_compared]
        return {**result, "listed": asdict(replace(self._listed, gone=sorted(set(held) - self._hosts)))}
