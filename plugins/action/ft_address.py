# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.address import ARGUMENTS
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action import HostAction


class ActionModule(HostAction):
    """The module, after a check of its arguments on the controller."""

    ARGUMENTS = ARGUMENTS
