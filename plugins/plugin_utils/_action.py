# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of a module that works on one host: its arguments are checked first, its answer is bounded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.plugins.action.normal import ActionModule as Normal
from ansible.utils.display import Display
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE, reported
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import EvenkeelError, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import REMOVED, Options
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _arguments, _library, _variables
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer, answer

_COLLECTION = "evenkeel.fault_tolerance"
_PLAYBOOKS = os.path.normpath(os.path.join(os.path.realpath(__file__), "../../../playbooks"))


def check_variables(variables: Mapping[str, Any], refuse: bool = True) -> None:
    """UsageError for a misspelt name of our variables; a warning for an unknown name, and for an old name.

    ``refuse`` False: only a warning for a misspelt name as well, because it is too late to refuse.
    """
    names = _variables.written(variables)
    wrong = _variables.misspelt(names)
    if wrong and refuse:
        raise UsageError(f"{'; '.join(wrong)}. Nothing was touched")
    for said in [*wrong, *_variables.unread(names)]:
        Display().warning(said)
    for said in _variables.replaced(names):
        Display().deprecated(said, version=REMOVED, collection_name=_COLLECTION)


def hidden(action: ActionBase) -> bool:
    """Whether nobody chose the task, which the tag ``never`` keeps from runs that do not choose it: Ansible takes the
    tag ``always`` of our roles for the stronger one."""
    tags = set(action._task.tags)
    return {"always", "never"} <= tags and tags.isdisjoint(context.CLIARGS.get("tags") or ())


def check_peers(action: ActionBase, variables: Mapping[str, Any]) -> None:
    """A warning where a role or playbook of ours takes the hosts whose health counts for those that hold copies."""
    role = getattr(action._task, "_role", None)
    file = os.path.realpath(str(action._task.get_path() or "").rpartition(":")[0])
    ours = os.path.dirname(file) == _PLAYBOOKS if role is None else role.get_name().startswith(f"{_COLLECTION}.")
    if ours and "evenkeel_group" in variables and "evenkeel_peers" not in variables:
        said = "evenkeel_group names only hosts whose health counts now: name hosts that hold copies in evenkeel_peers"
        Display().deprecated(said, version=REMOVED, collection_name=_COLLECTION)


def refused(error: UsageError, **more: Any) -> dict[str, object]:
    """The result of a task whose arguments or variables are wrong. No host was asked anything."""
    return reported({"failed": True, "msg": error.message, "error": "UsageError", **more})


def code_of(error: Exception) -> str:
    """The word of the key ``error``. An error of Ansible, or of a value, comes from what the user has written."""
    return error.code if isinstance(error, EvenkeelError) else UsageError.code


class HostAction(Normal):
    """Run the module whose ``ARGUMENTS`` these are.

    ``REFUSES_NAMES`` False: the module only reads, or ends a change, so a misspelt variable must not stop it."""

    ARGUMENTS: Options = {}
    REFUSES_NAMES = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables, written = task_vars or {}, self._task.args
        if hidden(self):
            return {"skipped": True, "changed": False, "skip_reason": "it has the tag never"}
        try:
            check_variables(variables, self.REFUSES_NAMES)
            values = _arguments.checked({**self.ARGUMENTS, "store": STORE}, written)
            self._task.args = self.arguments(values, variables)
        except UsageError as error:
            return refused(error)
        try:
            return self.completed(dict(super().run(tmp, task_vars)))
        finally:
            self._task.args = written  # for the next attempt of the task

    def arguments(self, values: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, object]:
        """The arguments that the module gets. values: the checked arguments of the task. Raises UsageError."""
        return dict(self._task.args)

    def completed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result of the task, given the result of the module."""
        return result

    def _execute_module(self, *args: Any, **options: Any) -> dict[str, Any]:
        """The answer of the module, from the library on the host where it lies there."""
        name = (self._task.resolved_action or self._task.action).rpartition(".")[2]
        if options.get("wrap_async") or options.get("module_name"):
            return self._sent(*args, **options)

        def send(module: str, arguments: Mapping[str, Any]) -> Answer:
            return self._sent(
                *args, **{**options, "module_name": f"{_COLLECTION}.{module}", "module_args": dict(arguments)}
            )

        return dict(_library.call(name, self._task.args, send, self, options.get("task_vars") or {}))

    def _sent(self, *args: Any, **options: Any) -> dict[str, Any]:
        return answer(self._connection, lambda: super(HostAction, self)._execute_module(*args, **options))
