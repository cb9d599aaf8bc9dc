# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The request for a change: the playbook, and the limits of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evenkeel.ansible.options import Options
from evenkeel.outcome import Spec

DEFAULT_WAVES = "1,25%,100%"
DEFAULT_CONFIRM_WITHIN = "10m"
DEFAULT_AT_MOST = "1h"
# The hosts that go back after a failure: only unconfirmed hosts, the wave that failed, or every host of the change.
STOP, WAVE, ALL = "stop", "wave", "all"
ON_FAILURE = (STOP, WAVE, ALL)


@dataclass(frozen=True)
class Terms:
    """The checked terms of a whole change. Times in seconds.

    ident: the name under which each host remembers the change. hold_after: the wave after which a person must let the
    change go on; 0 for no wave.
    """

    on_failure: str = STOP
    at_most: float = 3600.0
    pause: float = 0.0
    bake: float = 0.0
    hold_after: int = 0
    ident: str = ""

    def unit(self, number: int, wave: Sequence[str], total: int) -> dict[str, object]:
        """The change as the hosts of wave ``number`` remember it, with the number of hosts that share its end."""
        if self.on_failure == ALL:
            return {"id": self.ident, "hosts": total}
        return {"id": f"{self.ident}.{number}", "hosts": len(wave) if self.on_failure == WAVE else 0}

    def holds(self, number: int, wave: Sequence[str], total: int) -> bool:
        """Whether the hosts of wave ``number`` wait for others, or for a person, before they are confirmed."""
        together = {STOP: 1, WAVE: len(wave), ALL: total}[self.on_failure]
        return together > 1 or number == self.hold_after


@dataclass(frozen=True)
class Request:
    """A requested change. None leaves a value to the inventory variable of the same name.

    waves: as ``1,25%,100%``. min_healthy, max_unavailable: a number, a percentage or ``quorum``, as ft_guard takes
    them. confirm_within, at_most, soak, deadline, pause, bake: durations. on_failure: stop, wave or all. hold_after:
    the number of a wave. reboot: never or planned. reboots: the number of boots that the change may take if it plans
    them. probes, resources: lists as the modules take them. notify: a URL for outcomes. stop_if: commands and queries
    that can stop the change at any moment.
    """

    playbook: str
    options: Options
    waves: str | None = None
    min_healthy: str | None = None
    max_unavailable: str | None = None
    guard_domain: str | None = None
    confirm_within: str | None = None
    at_most: str | None = None
    on_failure: str | None = None
    pause: str | None = None
    bake: str | None = None
    hold_after: int | None = None
    reboot: str | None = None
    reboots: int | None = None
    soak: str | None = None
    deadline: str | None = None
    probes: Sequence[Spec] | None = None
    resources: Sequence[Spec] | None = None
    notify: str | None = None
    stop_if: Sequence[Spec] | None = None

    def variables(self) -> dict[str, object]:
        """The variables of our own playbooks that were given here."""
        given = {
            "evenkeel_min_healthy": self.min_healthy,
            "evenkeel_max_unavailable": self.max_unavailable,
            "evenkeel_guard_domain": self.guard_domain,
            "evenkeel_confirm_within": self.confirm_within,
            "evenkeel_at_most": self.at_most,
            "evenkeel_reboot": self.reboot,
            "evenkeel_reboots": self.reboots,
            "evenkeel_soak": self.soak,
            "evenkeel_deadline": self.deadline,
            "evenkeel_probes": self.probes,
            "evenkeel_resources": self.resources,
        }
        return {name: value for name, value in given.items() if value is not None}
