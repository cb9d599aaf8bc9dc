# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE, reported
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.restart import ARGUMENTS, leading
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import check_variables, refused
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._drain import declared
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._evidence import ProbingAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._guard import earlier_hosts
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._outside import Outside, parted
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._restart import (
    Balancers,
    Steps,
    Wanted,
    comes_last,
    may_boot,
    refuse_here,
)

# Options of the task that concern the controller alone.
_HERE = ("group", "drain", "boot_within", "roll")


class ActionModule(ProbingAction):
    """The module, called once where that is enough; else the steps of a restart, with balancers, a boot or both."""

    ARGUMENTS = ARGUMENTS
    _outside: Outside | None = None
    # The temporary directories on the host before each boot.
    _made: Sequence[str | None] = ()

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        try:
            check_variables(variables)
            values = checked({**ARGUMENTS, "store": STORE}, self._task.args)
            wanted = self._wanted(values, variables)
            # The record stays until the service is healthy as seen from outside as well.
            outside = bool(parted(values["probes"])[1])
            needs_steps = bool(wanted.places) or outside or may_boot(values)
            if self._task.check_mode or not needs_steps:
                return super().run(tmp, task_vars)
            given = self.arguments(values, variables)
            inventory = Inventory(self, variables)
            balancers = Balancers(inventory, seconds(values["deadline"], "deadline"), str(values["store"]))
        except UsageError as error:
            return refused(error)
        ActionBase.run(self, tmp, task_vars)
        host = inventory.here()
        own = {name: value for name, value in given.items() if not name.startswith("_")}

        def ask(phase: str, **more: Any) -> Answer:
            return host.module("ft_restart", **own, _phase=phase, _values=more)

        def read_state(limit: float) -> Answer:
            # A process of its own: a connection to a host that goes down may hang for ever.
            (told,) = inventory.each(
                [wanted.host], lambda one: one.module("ft_restart", **own, _phase="look", _values={}), limit
            ).values()
            return told

        try:
            return reported(Steps(wanted, ask, balancers, self._measured, self._reset, read_state).run())
        finally:
            for path in filter(None, self._made):  # The files hold the arguments of the module.
                with contextlib.suppress(Exception):
                    self._remove_tmp_path(path)

    def _wanted(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> Wanted:
        inventory = Inventory(self, dict(variables))
        leading(values["last"])
        refuse_here(inventory, str(variables["inventory_hostname"]), values)
        try:
            drained = declared(inventory, values["drain"])
        except AnsibleError as error:
            raise UsageError(f"drain: {str(error).rstrip('.')}. Nothing was touched") from error
        return Wanted(
            str(variables["inventory_hostname"]),
            drained,
            values["roll"],
            self._is_last(values, variables),
            bool(values["scope"]),
            seconds(values["boot_within"], "boot_within"),
        )

    def _is_last(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> bool:
        """Whether no host of the play comes after those of this batch, but hosts that lead as these do."""
        everyone = list(variables.get("ansible_play_hosts_all") or [])
        batch = list(variables.get("ansible_play_batch") or [])
        earlier = earlier_hosts(everyone, self._task.get_play().order, batch)
        return earlier is not None and comes_last(everyone, earlier, batch, (values["roll"] or {}).get("leaders") or ())

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        own, items = parted(values["probes"])
        given = {name: value for name, value in self._task.args.items() if name not in _HERE}
        more = {"_values": {"roll": values["roll"], "now": self._is_last(values, variables)}}
        if not items:
            return {**given, **more}
        self._outside = self.outside(items, values, variables)
        return {**given, **more, "probes": own}

    def _reset(self) -> None:
        with contextlib.suppress(Exception):
            self._made = [*self._made, self._connection._shell.tmpdir]
            self._connection._shell.tmpdir = None  # A boot may have removed it.
            self._connection.reset()

    def completed(self, result: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode or result.get("failed") or result.get("unreachable"):
            return result
        return dict(self._measured(result))

    def _measured(self, result: Answer) -> Answer:
        """The result of a restart that went well on the host, with the probes that are measured from outside."""
        if self._outside is None:
            return result
        measured = self._outside.measure()
        health = result.get("health") or {"state": "pass", "probes": []}
        wrong = [one for one in measured if one["state"] != "pass"]
        sick, warned = ([_words_on(one) for one in wrong if one["severity"] == how] for how in ("fail", "warn"))
        health = {**health, "probes": [*health["probes"], *measured], "state": "fail" if sick else health["state"]}
        found = {**result, "health": health}
        if warned:
            found["warnings"] = [*(found.get("warnings") or []), *warned]
        if not sick:
            return found
        name = str((result.get("before") or {}).get("name") or "the service")
        msg = f"{name} was restarted, but is not healthy as seen from outside: {'; '.join(sick)}"
        return reported({**found, "failed": True, "msg": msg, "error": "Unhealthy", "left": [name]})


def _words_on(answer: Mapping[str, Any]) -> str:
    return f"{answer['kind']} {answer['target']} from {answer['source']}: {answer['state']}, {answer['detail']}"
