# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.restart import leading
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_roll import ARGUMENTS, TARGET
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _roll
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import check_variables, refused
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._drain import declared
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import FOR_ALL, Host, Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._restart import refuse_here
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._role import refuse_arguments
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import reclaim, run

# The variable by which the role drains a host.
DRAIN = "evenkeel_drain"


class ActionModule(ActionBase):
    """Look at every host of the play, and plan the roll. Nothing is restarted, and nothing is written."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        reclaim()
        variables = task_vars or {}
        try:
            check_variables(variables)
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
            return self._plan(Inventory(self, variables), params, variables)
        except (EvenkeelError, AnsibleError, ValueError) as error:
            return refused(UsageError(f"{str(error).rstrip('.')}. Nothing was touched"))

    def _plan(self, inventory: Inventory, params: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        hosts = list(variables.get("ansible_play_hosts_all") or [])
        inventory.refuse_facts(variables["inventory_hostname"], FOR_ALL)
        for host in hosts:
            check_variables(inventory.variables(host))
        refuse_arguments("restart", inventory, hosts)
        sizes = [part for text in params["waves"] for part in str(text).split(",")]
        domain = params["guard_domain"]
        _refuse_twice(inventory, hosts)
        given = {host: _targets(inventory, host, hosts[0], params) for host in hosts}
        for host in hosts:
            refuse_here(inventory, host, given[host])

        def read_state(host: Host) -> Answer:
            store = inventory.store(host.name, params["store"])
            return host.module("ft_restart", **given[host.name], store=store, _phase="look", _values={"run": run()})

        told = inventory.each(hosts, read_state, seconds(params["timeout"], "timeout"))
        seen = {host: _roll.seen(told[host], bool(params["last"])) for host in hosts}
        domains = {host: inventory.variable(host, domain) for host in hosts} if domain else None
        plan = _roll.plan(_roll.Question(seen, sizes, domains, bool(params["owed"]), params["resume"]))
        return _result(plan, seen)


def _targets(inventory: Inventory, host: str, first: str, params: Mapping[str, Any]) -> dict[str, object]:
    """The arguments that say what restarts on the host.

    Ansible templates an argument for the first host of the play alone, so that a variable of ours counts for each host
    as it is there.
    """
    found: dict[str, object] = {}
    for name, variable in TARGET:
        value = params[name]
        if host != first and value is not None and inventory.variable(first, variable) == value:
            value = inventory.variable(host, variable)
        if name == "last":
            leading(value)
        if value is not None:
            found[name] = value
    return found


def _refuse_twice(inventory: Inventory, hosts: Sequence[str]) -> None:
    """Raise UsageError where two hosts would be drained at the same place, as by a file that names one server."""
    whose: dict[str, str] = {}
    for host in hosts:
        for place in declared(inventory, inventory.variable(host, DRAIN)):
            other = whose.setdefault(json.dumps(place.record(), sort_keys=True), host)
            if other != host:
                raise UsageError(
                    f"drain: {place.words} stands for {other} and for {host}: name each host by itself there, as in"
                    ' server: "{{ inventory_hostname }}"'
                )


def _result(plan: _roll.Plan, seen: Mapping[str, _roll.Seen]) -> dict[str, object]:
    foreseen = _roll.forecast(plan, seen)
    reasons = list(plan.reasons.values())
    error = "UsageError" if plan.wrong else "Refused"
    failed = {"failed": True, "msg": f"{' '.join(reasons)} Nothing was touched.", "error": error} if reasons else {}
    return report(
        {
            "roll": {
                "id": plan.roll or secrets.token_hex(8),
                "hosts": max(1, plan.hosts),
                "leaders": [host for host in plan.order if seen[host].leads],
            },
            "group": list(seen),
            "against": dict(plan.reasons),
            "waves": [list(wave) for wave in plan.waves],
            "order": plan.order,
            "left_out": dict(plan.skipped),
            "notes": list(plan.notes),
            "forecast": vars(foreseen),
            "units": {host: list(one.owed) for host, one in seen.items() if one.owed},
            "above": {host: list(one.above) for host, one in seen.items() if one.above},
            "planned": [", ".join(wave) for wave in plan.waves],
            "done": [f"looked at {len(seen)} hosts"],
            "left": reasons,
            **failed,
        }
    )
