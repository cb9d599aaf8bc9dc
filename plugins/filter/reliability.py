# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The functions of module_utils/_reliability.py as filters of the same names; each is documented in NAME.yml."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _reliability
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError


def _filter(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (UsageError, TypeError) as error:  # TypeError: missing or unknown arguments
            raise AnsibleFilterError(f"{function.__name__}: {error}") from error

    return call


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {name: _filter(function) for name, function in _reliability.FUNCTIONS.items()}
