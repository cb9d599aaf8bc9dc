# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import reported as report
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.modules.ft_guard import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _guard, _holders
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import check_variables, code_of, hidden
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._outside import Outside, parted
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import (
    COLLECTION,
    FOR_ALL,
    PROBES_VARIABLE,
    Host,
    Inventory,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._role import refuse_arguments
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import reclaim

# A single round of probes.
_ONCE = Times(0.0, 0.0, 1.0)


class ActionModule(ActionBase):
    """Measure, then decide. The plugin itself reaches the hosts of the group, and never the host of the task."""

    BYPASS_HOST_LOOP = True
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        reclaim()
        variables = task_vars or {}
        if hidden(self):  # The task is not skipped, which its role would take for a condition.
            return {"changed": False, "msg": "nothing was decided: the task has the tag never"}
        inventory = Inventory(self, variables)
        try:
            check_variables(variables)
            inventory.refuse_facts(variables["inventory_hostname"], FOR_ALL)
            params = checked({**ARGUMENTS, "store": STORE}, self._task.args)
            return self._decide(inventory, params, variables)
        except (EvenkeelError, AnsibleError, ValueError) as error:
            return _result(_guard.Decision([str(error)]), error=code_of(error))

    def _decide(
        self, inventory: Inventory, params: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> dict[str, object]:
        question = replace(self._question(inventory, params, variables), restart=params["restart"])
        decision = _guard.decide(question)
        moves = [f"another host takes the address of {', '.join(decision.aside)}"] if decision.aside else []
        if moves and not inventory.predicts:
            why = _holders.hand_over(inventory, decision.aside, params["store"])
            decision = replace(decision, reasons=[why] if why else [])
        return _result(
            decision,
            error="Refused",
            planned=moves,
            done=[f"measured {len(question.hosts)} hosts", *([] if inventory.predicts or decision.reasons else moves)],
            proved=[_words_on(host, measured) for host, measured in question.hosts.items()],
            healthy=decision.healthy,
            unhealthy=decision.unhealthy,
            unknown=decision.unknown,
            in_flight=decision.in_flight,
        )

    def _question(
        self, inventory: Inventory, params: Mapping[str, Any], variables: Mapping[str, Any]
    ) -> _guard.Question:
        """Measure every host, after a check of everything that the user has written."""
        group = inventory.hosts_of(params["group"])
        wave = inventory.hosts_of(params["wave"] or variables.get("ansible_play_batch") or [])
        everyone = variables.get("ansible_play_hosts_all") or []
        present = variables.get("ansible_play_hosts") or []
        earlier: list[str] = []
        if params["confirmed"] and not self._task.check_mode:
            known = _guard.earlier_hosts(everyone, self._task.get_play().order, wave)
            if known is None:
                raise ValueError(
                    "order: shuffle leaves open which hosts were in earlier batches: choose another order for the play."
                )
            earlier = known

        hosts = list(dict.fromkeys([*group, *wave, *earlier]))
        for host in hosts:
            check_variables(inventory.variables(host))
        _refuse_declarations(inventory, everyone if params["confirmed"] else [], wave if _is_of_begin(self) else [])
        # Before any host is asked: nobody has to wait thirty seconds for the refusal of a malformed budget.
        _guard.check_budgets(params["min_healthy"], params["max_unavailable"])
        domain = params["guard_domain"]
        domains = {host: inventory.variable(host, domain) for host in hosts} if domain else None
        addresses = _holders.declared(inventory, hosts)
        parts = {host: parted(_probes(inventory, host, params["probes"])) for host in hosts}
        # Nothing is compared here, because no host has changed yet.
        outside = {
            host: Outside(inventory, host, items, _ONCE, group, wave, store=params["store"])
            for host, (_own, items) in parts.items()
        }

        def measure(host: Host) -> Answer:
            result = host.module(
                "ft_health",
                probes=parts[host.name][0],
                measured=outside[host.name].measure(apart=False),
                soak="0s",
                deadline="0s",
                store=inventory.store(host.name, params["store"]),
                addresses=addresses[host.name],
            )
            return {key: result.get(key) for key in ("state", "host_state", "address", "msg", "unreachable")}

        told = inventory.each(hosts, measure, seconds(params["timeout"], "timeout"))
        return _guard.Question(
            group,
            wave,
            {host: _guard.measured(told[host], params["change"]) for host in hosts},
            params["min_healthy"],
            params["max_unavailable"],
            domains,
            failed=[host for host in everyone if host not in present],
            earlier=earlier,
            addresses=addresses,
        )


def _refuse_declarations(inventory: Inventory, hosts: Sequence[str], wave: Sequence[str]) -> None:
    """UsageError for what is malformed: in all arguments of the hosts of this wave, and in the declarations of the
    others."""
    refuse_arguments("begin", inventory, wave)
    for host in hosts:
        if host not in wave:
            _check_declarations(inventory, host)


def _is_of_begin(action: ActionBase) -> bool:
    """Whether the task is the one that begins a change."""
    role = getattr(action._task, "_role", None)
    return role is not None and role.get_name() == f"{COLLECTION}.begin"


def _probes(inventory: Inventory, host: str, given: Any) -> Any:
    """The probes of a host, before it is asked. UsageError names the fault."""
    if given is not None:
        return given
    declared = inventory.variable(host, PROBES_VARIABLE, [])
    try:
        return checked({PROBES_VARIABLE: ARGUMENTS["probes"]}, {PROBES_VARIABLE: declared})[PROBES_VARIABLE]
    except UsageError as error:
        raise UsageError(f"{host}: {error.message}") from error


def _check_declarations(inventory: Inventory, host: str) -> None:
    """UsageError for a malformed declaration of a host whose batch is still to come: no batch before it may change."""
    for name in ("resources", "quiesce", "retention"):
        variable = f"evenkeel_{name}"
        try:
            declared = inventory.variable(host, variable)
        except AnsibleError:  # The value may need facts of its own batch. The checkpoint checks it.
            continue
        try:
            checked({variable: checkpoint.ARGUMENTS[name]}, {variable: declared})
        except UsageError as error:
            raise UsageError(f"{host}: {error.message}") from error


def _words_on(host: str, measured: _guard.Measured) -> str:
    state, detail = measured.state, "" if measured.state == "pass" else measured.detail
    parts = [state if measured.reachable else "unreachable", measured.flight or "", detail]
    return f"{host}: " + "; ".join(part for part in parts if part)


def _result(decision: _guard.Decision, error: str, **more: Any) -> dict[str, object]:
    reasons = decision.reasons
    refused = {"failed": True, "msg": " ".join(reasons), "error": error} if reasons else {}
    return report(
        {"decision": "refuse" if reasons else "proceed", "reasons": reasons, "left": reasons, **more, **refused}
    )
