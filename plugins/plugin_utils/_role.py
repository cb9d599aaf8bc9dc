# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of a role of ours, checked for all hosts by one process: Ansible starts one for each host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory

_ROLES = os.path.normpath(os.path.join(os.path.realpath(__file__), "../../../roles"))


def refuse_arguments(role: str, inventory: Inventory, hosts: Iterable[str]) -> None:
    """Raise UsageError where a variable of a host is not what the role takes, in the words of Ansible."""
    spec = _arguments_of(role)
    for host in hosts:
        try:
            values = dict(inventory.values(host, spec))
        except AnsibleError as error:
            raise UsageError(f"{host}: {error}") from error
        wrong = ArgumentSpecValidator(spec).validate(values, validate_role_argument_spec=True).error_messages
        if wrong:
            raise UsageError(f"{host}: {'; '.join(map(str, wrong))}")


def _arguments_of(role: str) -> Mapping[str, Any]:
    with open(os.path.join(_ROLES, role, "meta", "argument_specs.yml"), encoding="utf-8") as stream:
        options: Mapping[str, Any] = yaml_load(stream)["argument_specs"]["main"]["options"]
    return options
