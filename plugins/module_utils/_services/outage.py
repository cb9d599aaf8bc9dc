# SPDX-License-Identifier: GPL-3.0-or-later

"""Services that are down while their files come back: they stop together with the units that depend on them and the
units that would start them meanwhile, and all of them start again."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from .._dataclasses import dataclass, field, replace
from .._errors import ServiceFailed
from .._host.system import System
from . import running, systemd
from .process import Definition, ProcessService
from .service import Service
from .systemd import SystemdService
from .unit import Unit
from .vital import is_vital

# Why a unit that has no process any more is not run once more.
DONE = "it ran to its end before the checkpoint, and would do its work once more"


@dataclass
class Down:
    """The services that went down, as plain JSON (``Down(**stored)`` is the inverse of ``asdict``).

    ``units``: in the order of their stop; they have to start again. ``processes``: services without systemd, which have
    to start again too. ``ends``: units that stopped with them and stay down. ``left``: services that could not be
    stopped, in words.
    """

    units: list[str] = field(default_factory=list)
    processes: list[Definition] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The names of all services that go down."""
        return [*self.units, *(process["name"] for process in self.processes), *self.ends]

    def only(self, names: Collection[str]) -> Down:
        """The services of these names that have to start again."""
        return Down(
            units=[unit for unit in self.units if unit in names],
            processes=[process for process in self.processes if process["name"] in names],
        )

    def and_then(self, more: Down) -> Down:
        """The services, and the services that went down after them, each once."""
        return Down(
            units=list(dict.fromkeys([*self.units, *more.units])),
            processes=[*self.processes, *(process for process in more.processes if process not in self.processes)],
            ends=list(dict.fromkeys([*self.ends, *more.ends])),
        )


def on_demand(unit: Unit, system: System) -> bool:
    """Whether an active socket, path or timer starts the unit on demand."""
    return any(state.active for state in systemd.observe(unit.triggered_by, system))


def stays_up(unit: Unit) -> bool:
    """Whether the unit stays up even where it did not run before: its command of stop acts on all of the host."""
    return is_vital(unit.id) and unit.acts_on_host


def spared(unit: Unit, pids: Collection[int], is_older: bool = False) -> str:
    """Why a rollback does not stop the unit to start it anew, in words; empty where it does. ``pids``: its
    processes. ``is_older``: it was started before the checkpoint."""
    if is_vital(unit.id):
        return "the host cannot do without it meanwhile"
    if unit.acts_on_host and not pids:
        return "it has no process, and its stop takes down what it set up on the host"
    if is_older and unit.type == "oneshot" and not pids:
        return DONE
    return next((f"{one} would stop with it" for one in unit.takes if is_vital(one)), "")


def foresee(names: Sequence[str], processes: Sequence[Definition], ends: Collection[str], system: System) -> Down:
    """The services that have to go down for these units: first the units that would start them again, then the units
    that depend on them, then the units themselves."""
    left: list[str] = []
    wanted: list[str] = []
    for unit in systemd.describe(names, system):
        if not unit.stops:
            continue
        if ends_us(unit):
            left.append(f"{unit.id}: it is not stopped while files come back, this would end with it")
            continue
        group = systemd.with_dependents(unit.id, system)
        for member in systemd.describe(group, system):
            wanted += member.triggered_by
        wanted += group
    unique = list(dict.fromkeys(wanted))
    states = {state.name for state in systemd.observe(unique, system) if state.active or systemd.passing(state)}
    found = [unit for unit in systemd.describe(unique, system) if unit.id in states and unit.stops]
    units, jobs = [unit.id for unit in found], [unit.id for unit in found if unit.is_job and unit.id not in ends]
    left += [
        f"{name}: it is stopped in the middle of its work, and not started again: see what it did" for name in jobs
    ]
    running = []
    for service in map(ProcessService, processes):
        try:
            running += [service.definition] if service.observe(system).active else []
        except ServiceFailed as error:
            left.append(f"{service.name}: {error.message}")
    return Down(
        units=[name for name in units if name not in (*ends, *jobs)],
        processes=running,
        ends=[name for name in units if name in (*ends, *jobs)],
        left=left,
    )


def ends_us(unit: Unit) -> bool:
    """Whether the stop of the unit would end this process, as in a login without a session of its own."""
    if unit.kill_mode in ("process", "none"):
        return False
    return os.getpid() in running.processes([unit.id])[unit.id]


def take_down(down: Down, system: System) -> Down:
    """Stop the services at once, since systemd knows the order. A service that is still up is ``left``: it does not
    hold the others up.

    Units without a limit of their own stop after the others, which would otherwise be waited for as long.
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
            ProcessService(definition).act("stop", system)
        except ServiceFailed as error:
            left.append(error.message)
    return replace(down, left=left)


def _stop(names: Sequence[str], system: System) -> list[str]:
    """Stop the units; the units that are still up, in words."""
    limit = max(unit.patience("stop") for unit in systemd.describe(names, system))
    done = system.run(["systemctl", "stop", "--", *names], limit)
    return [
        f"{state.name} could not be stopped: {done.words if done.rc else state.text}"
        for state in systemd.observe(names, system)
        if state.active or systemd.passing(state)
    ]


def bring_up(down: Down, system: System, wait: bool = True) -> tuple[list[str], dict[str, str]]:
    """Start the services in the reverse order of their stop; (started services, name -> why another did not start)."""
    started: list[str] = []
    left: dict[str, str] = {}
    # A unit may be a job by its files that came back.
    jobs = {unit.id for unit in systemd.describe(down.units, system) if unit.is_job}
    names = [name for name in reversed(down.units) if name not in jobs]
    # Sockets first: a socket refuses to start once its service runs.
    names.sort(key=lambda name: not name.endswith(".socket"))
    services: list[Service] = [*map(SystemdService, names), *map(ProcessService, down.processes)]
    for service in services:
        try:
            # A unit that was started meanwhile may have started this service as well.
            state = service.observe(system)
            if state.active or not state.exists:
                continue
            service.act("start", system, wait)
            started.append(state.name)
        except ServiceFailed as error:
            left[service.name] = error.message
    return started, left
