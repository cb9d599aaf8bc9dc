# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The request for a change: the playbook, and how carefully it is to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evenkeel.ansible.options import Options
from evenkeel.outcome import Spec

DEFAULT_WAVES = "1,25%,100%"
DEFAULT_CONFIRM_WITHIN = "10m"


@dataclass(frozen=True)
class Request:
    """A change that somebody asks for. None leaves a value to the inventory variable of the same name.

    waves: as ``1,25%,100%``. min_healthy, max_unavailable: a number, a percentage or ``quorum``, as ft_guard takes
    them. confirm_within, soak, deadline: durations. probes, resources: lists as the modules take them.
    """

    playbook: str
    options: Options
    waves: str | None = None
    min_healthy: str | None = None
    max_unavailable: str | None = None
    guard_domain: str | None = None
    confirm_within: str | None = None
    soak: str | None = None
    deadline: str | None = None
    probes: Sequence[Spec] | None = None
    resources: Sequence[Spec] | None = None

    def variables(self) -> dict[str, object]:
        """The variables of our own playbooks that were given here."""
        given = {
            "evenkeel_min_healthy": self.min_healthy,
            "evenkeel_max_unavailable": self.max_unavailable,
            "evenkeel_guard_domain": self.guard_domain,
            "evenkeel_confirm_within": self.confirm_within,
            "evenkeel_soak": self.soak,
            "evenkeel_deadline": self.deadline,
            "evenkeel_probes": self.probes,
            "evenkeel_resources": self.resources,
        }
        return {name: value for name, value in given.items() if value is not None}
