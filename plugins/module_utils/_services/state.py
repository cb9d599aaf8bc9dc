# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of one service, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceState:
    """``started`` in epoch seconds; ``identity`` changes with every start and with nothing else (empty while down).

    ``enabled`` is systemd's unit-file state, empty for a process. ``text`` is the state in the service manager's words.
    ``queued``: the service manager is about to act on it, early at boot for example.
    """

    name: str
    exists: bool
    enabled: str
    active: bool
    text: str
    started: float | None
    identity: str
    restarts: int
    can_reload: bool
    queued: bool = False
