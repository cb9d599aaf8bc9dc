# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On which hosts the copies of each host's checkpoints lie: as ``ft_replicate`` chooses them, written once, there."""

from __future__ import annotations

from collections.abc import Mapping

from evenkeel.collection import make_importable

make_importable()

from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _placement  # noqa: E402


def place(hosts: Mapping[str, str], copies: int) -> dict[str, list[str]]:
    """Host -> the hosts that ``ft_replicate`` asks first for its copies. hosts: host -> failure domain."""
    return {host: _placement.choose(host, copies, list(hosts), hosts) for host in hosts}
