# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.settle import ARGUMENTS, MEASURING
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import hidden, refused
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._evidence import ProbingAction
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._scratch import reclaim

# ssh takes the first value of an option, so these words stand before all settings of the user.
_NEW_LOGIN = "-o ControlMaster=no -o ControlPath=none"
# Where the driver names an empty directory for this run, its commands share one login: no login in it is older than the
# run, and hosts may limit logins. The driver ends that login with the run, and ssh itself so many seconds after it.
_SOCKETS, _PERSIST = "EVENKEEL_SOCKETS", 10
_NOT_BEGUN = (
    "no generation is given: nothing was armed on this host in this run, so nothing goes back, and the host stays as"
    " its tasks have left it. Begin a change before its tasks, with the role begin or ft_checkpoint;"
    " evenkeel_generations ends a change of another run"
)


class ActionModule(ProbingAction):
    """The module, over a login of its own: an older login would confirm a change that locks new logins out."""

    ARGUMENTS = ARGUMENTS
    REFUSES_NAMES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        reclaim()
        if self._task.args.get("generation") is None and not hidden(self):
            return refused(UsageError(_NOT_BEGUN))
        connection = self._connection
        if connection.has_option("ssh_args"):
            theirs = connection.get_option("ssh_args") or ""
            login = self._new_login(str((task_vars or {}).get("inventory_hostname")))
            connection.set_option("ssh_args", f"{login} {theirs}".strip())
        return super().run(tmp, task_vars)

    def _new_login(self, host: str) -> str:
        """The options of a login that this host of the inventory shares with no other, whatever their addresses are."""
        directory = os.environ.get(_SOCKETS, "")
        if not directory:
            return _NEW_LOGIN
        # As short as the names of Ansible, as the paths of sockets are limited. ssh expands the character %.
        name = hashlib.sha256(host.encode("utf-8", "surrogateescape")).hexdigest()[:10]
        path = shlex.quote(f'ControlPath="{os.path.join(directory, name).replace("%", "%%")}"')
        return f"-o ControlMaster=auto -o ControlPersist={_PERSIST} -o {path}"

    def is_measured(self, values: Mapping[str, Any]) -> bool:
        return values["verdict"] in MEASURING and not self._task.check_mode
