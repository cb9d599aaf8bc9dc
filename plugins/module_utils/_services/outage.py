# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services that are down while their files come back: what stops with them, what would start them meanwhile, and all
of it up again."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._errors import ServiceFailed
from .._host.system import System
from . import process, running, systemd
from .unit import Unit


@dataclass
class Down:
    """What went down, as plain JSON (``Down(**stored)`` is the inverse of ``asdict``).

    ``units``: in the order of their stop; they have to be up again. ``processes``: definitions of the same. ``ends``:
    stopped with them, and to stay so. ``left``: what could not be stopped, in words.
    """

    units: list[str] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All that goes down."""
        return [*self.units, *(one["name"] for one in self.processes), *self.ends]

    def only(self, names: Collection[str]) -> Down:
        """These of what has to be up again."""
        return Down(
            units=[one for one in self.units if one in names],
            processes=[one for one in self.processes if one["name"] in names],
        )

    def and_then(self, more: Down) -> Down:
        """This and what went down after it, each once."""
        return Down(
            units=list(dict.fromkeys([*self.units, *more.units])),
            processes=[*self.processes, *(one for one in more.processes if one not in self.processes)],
            ends=list(dict.fromkeys([*self.ends, *more.ends])),
        )


def on_demand(unit: Unit, system: System) -> bool:
    """Whether a socket, path or timer that is active starts the unit when it is wanted."""
    return any(state.active for state in systemd.observe(unit.triggered_by, system))


def foresee(names: Sequence[str], processes: Sequence[dict[str, Any]], ends: Collection[str], system: System) -> Down:
    """What has to go down for these units: what would start them again first, then what depends on them, then they."""
    left: list[str] = []
    wanted: list[str] = []
    for unit in systemd.describe(names, system):
        if not unit.stops:
            continue
        if _ends_us(unit):
            left.append(f"{unit.id}: it is not stopped while files come back, this would end with it")
            continue
        group = systemd.with_dependents(unit.id, system)
        for one in systemd.describe(group, system):
            wanted += one.triggered_by
        wanted += group
    unique = list(dict.fromkeys(wanted))
    states = {state.name for state in systemd.observe(unique, system) if state.active or systemd.passing(state)}
    units = [unit.id for unit in systemd.describe(unique, system) if unit.id in states and unit.stops]
    return Down(
        units=[name for name in units if name not in ends],
        processes=[one for one in processes if process.observe(one, system).active],
        ends=[name for name in units if name in ends],
        left=left,
    )


def _ends_us(unit: Unit) -> bool:
    """Whether we are one of the processes that its stop ends, as in a login without a session of its own."""
    if unit.kill_mode in ("process", "none"):
        return False
    return os.getpid() in running.processes([unit.id])[unit.id]


def take_down(down: Down, system: System) -> Down:
    """Stop it, all at once, since systemd knows the order; what is still up afterwards is ``left``, and no gate.

    Those that set no limit of their own come after the others, which would be waited for as long as these.
    """
    left = list(down.left)
    try:
        units = systemd.describe([*down.units, *down.ends], system)
        endless = {unit.id for unit in units if unit.is_service and unit.end is None}
        for late in (False, True):
            names = [name for name in (*down.units, *down.ends) if (name in endless) is late]
            left += _stop(names, system) if names else []
    except ServiceFailed as error:
        left.append(error.message)
    for definition in down.processes:
        try:
            process.act("stop", definition, system)
        except ServiceFailed as error:
            left.append(error.message)
    return replace(down, left=left)


def _stop(names: Sequence[str], system: System) -> list[str]:
    """What is still up afterwards, in words."""
    limit = max(unit.patience("stop") for unit in systemd.describe(names, system))
    done = system.run(["systemctl", "stop", "--", *names], limit)
    return [
        f"{state.name} could not be stopped: {done.words if done.rc else state.text}"
        for state in systemd.observe(names, system)
        if state.active or systemd.passing(state)
    ]


def bring_up(down: Down, system: System, wait: bool = True) -> tuple[list[str], dict[str, str]]:
    """(what was started, what could not be -> why): in the reverse order of its stop, sockets first."""
    started: list[str] = []
    left: dict[str, str] = {}
    # A socket refuses to start once its service runs.
    names = list(reversed(down.units))
    names.sort(key=lambda name: not name.endswith(".socket"))
    for name in names:
        try:
            # A unit that was started meanwhile may have started it as well.
            (now,) = systemd.observe([name], system)
            if now.active or not now.exists:
                continue
            systemd.act("start", now.name, system, wait=wait)
            started.append(now.name)
        except ServiceFailed as error:
            left[name] = error.message
    for definition in down.processes:
        try:
            if not process.observe(definition, system).active:
                process.act("start", definition, system)
                started.append(definition["name"])
        except ServiceFailed as error:
            left[definition["name"]] = error.message
    return started, left
