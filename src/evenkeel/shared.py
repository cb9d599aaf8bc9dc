# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver decides and reads as the collection does: durations, numbers of hosts, where copies lie. Written
once, there."""

from __future__ import annotations

from evenkeel.collection import make_importable

make_importable()

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError as BadValue  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durations import seconds  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._guard import hosts_of_budget  # noqa: E402
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import choose  # noqa: E402

__all__ = ["BadValue", "choose", "hosts_of_budget", "seconds"]
