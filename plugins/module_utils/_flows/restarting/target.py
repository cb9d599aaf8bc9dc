# SPDX-License-Identifier: GPL-3.0-or-later

"""The target of a restart, checked before anything is touched."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..._dataclasses import dataclass, field, replace
from ..._errors import UsageError
from ..._health import probes as probing
from ..._health.probe import Probe
from ..._health.wait import Times
from ..._host import logins
from ..._host.processes import program_name, start_time
from ..._host.system import System
from ..._services import outage, running, systemd
from ..._services.container import ContainerService
from ..._services.process import ProcessService
from ..._services.service import Service, declared_service
from ..._services.state import ServiceState
from ..._services.systemd import SystemdService
from ..._services.unit import Unit

# The modes of a service, of a host, and the rungs of a ladder.
COLD, WARM = SERVICE_MODES = ("cold", "warm")
REBOOT, SOFT_REBOOT, KEXEC = HOST_MODES = ("reboot", "soft-reboot", "kexec")
ROLLBACK = "rollback"
HOST = "host"
OWED = "owed"


class Request(NamedTuple):
    """The arguments of ``ft_restart``: one of ``name`` (a systemd unit), ``process``, ``container``, ``owed`` and
    ``scope`` says what is restarted."""

    name: str | None
    process: Mapping[str, object] | None
    mode: str | None
    probes: object
    times: Times
    container: Mapping[str, object] | None = None
    owed: bool = False
    scope: str | None = None
    ladder: Sequence[str] = ()
    rollback_to: str = "latest"
    last: Sequence[str] = ()

    @property
    def how(self) -> str:
        """The mode, or the ladder, in words."""
        return f"ladder {' '.join(self.ladder)}" if self.ladder else self.mode or (REBOOT if self.scope else COLD)

    @property
    def hash(self) -> str:
        """Names this request on this host: the same target, restarted in the same mode."""
        told = json.dumps([self.name, self.process, self.container, self.owed, self.scope, self.how], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:32]


def check(request: Request) -> list[Probe]:
    """The probes of a request that makes sense, whatever the host has. Raises UsageError."""
    kinds = {
        "name": bool(request.name),
        "process": bool(request.process),
        "container": bool(request.container),
        "owed": request.owed,
        "scope": bool(request.scope),
    }
    chosen = [name for name, given in kinds.items() if given]
    if len(chosen) != 1:
        raise UsageError(
            f"give either name, a systemd unit, or process, container, owed or scope; {' and '.join(chosen) or 'none'}"
            " was given, and nothing was touched"
        )
    allowed = HOST_MODES if request.scope else (COLD,) if request.owed else SERVICE_MODES
    if request.mode is not None and request.ladder:
        raise UsageError("give either mode or ladder; nothing was touched")
    if request.mode is not None and request.mode not in allowed:
        takes = f"{chosen[0]} takes {', '.join(allowed)}"
        raise UsageError(f"mode {request.mode} is for another target, as {takes}; nothing was touched")
    if request.ladder and (request.scope or request.owed):
        raise UsageError(f"a ladder is for one service, and {chosen[0]} was given; nothing was touched")
    if len(set(request.ladder)) != len(request.ladder):
        raise UsageError("ladder names a rung twice; nothing was touched")
    soak, deadline = request.times.soak, request.times.deadline
    if soak > deadline:
        raise UsageError(f"a soak of {soak:g} s cannot pass within a deadline of {deadline:g} s; nothing was touched")
    return probing.check(request.probes)


@dataclass(frozen=True)
class Target:
    """A service as it is before. ``unit``: its properties, where it is a unit of systemd. ``started``: the clock tick
    at which its main process started. ``along``: the services that stop and start with it, where it is a socket.
    ``dependents``: the units that run and that systemd stops with it; they have to run again afterwards. ``sockets``:
    the sockets that systemd holds open for it, where connections wait while it restarts. ``rivals``: the units that
    run and that its start would stop. ``spared``: the processes that its stop leaves alone, each with its start.
    ``awaited``: the units in a job of somebody else, for which its start would wait. ``ending``: the unit, of those
    that stop with it, to which this process belongs."""

    service: Service
    before: ServiceState
    own: Probe
    unit: Unit | None = None
    started: int | None = None
    along: Sequence[Unit] = ()
    dependents: Sequence[str] = ()
    sockets: Sequence[ServiceState] = ()
    rivals: Sequence[str] = ()
    awaited: Sequence[str] = ()
    ending: str = ""
    spared: Mapping[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.before.name

    @property
    def main(self) -> int:
        """The main process of the unit; 0 where there is none."""
        return self.unit.main if self.unit is not None else 0

    def still_runs(self) -> bool:
        """Whether the main process from before still runs."""
        return self.started is not None and start_time(self.main) == self.started

    def go_on(self) -> list[str]:
        """The processes from before that still run, beside the main process, in words."""
        return [
            f"{program_name(pid) or 'a process'}[{pid}]"
            for pid, started in self.spared.items()
            if pid != self.main and start_time(pid) == started
        ]

    def verb(self, mode: str) -> str:
        """The act. A service that does not run has no connections to keep: it is only started. A service that is just
        starting may have read its configuration already, and starts anew. Where systemd holds its sockets, a service
        that cannot reload hands them over to the process that comes after it."""
        if self.before.active:
            return "reload" if mode == WARM and (self.before.can_reload or not self.sockets) else "restart"
        return "restart" if self.before.text.startswith("activating (start") else "start"

    def refusal(self, mode: str) -> str:
        """Why it cannot be restarted in this mode; empty where it can."""
        before, unit = self.before, self.unit
        if not before.exists:
            return f"there is no {self.service.what.removeprefix('such ')} {before.name} on this host"
        if mode == WARM and before.active and not before.can_reload and not self.sockets:
            hint = ", or give the unit an ExecReload or a socket unit" if unit is not None else ""
            return (
                f"{before.name} cannot be restarted warm: it has no way to reload, and no socket that stays open. Use"
                f" mode cold, one host at a time{hint}"
            )
        if self.ending and self.verb(mode) != "reload":
            return (
                f"this process belongs to {self.ending}, which stops with {before.name} and would end it: restart it"
                " from another login"
            )
        if self.rivals and self.verb(mode) != "reload":
            return (
                f"the start of {before.name} would stop {', '.join(self.rivals)}, which conflicts with it"
                " (Conflicts=) and runs: stop that first, if it is meant"
            )
        if self.awaited and self.verb(mode) != "reload":
            return (
                f"the start of {before.name} would wait for {', '.join(self.awaited)}, which a job of systemd holds up:"
                " look at it (systemctl list-jobs), and wait for its end"
            )
        return "" if unit is None else _refusal_of(unit, before, self.verb(mode))

    def warnings(self) -> list[str]:
        """Sentences on its state before, for the result."""
        said = []
        if self.unit is not None and self.before.text.startswith("failed"):
            said.append(
                f"{self.name} had failed before ({self.unit.result}); the count of its failures is reset, since systemd"
                " refuses to start what failed too often"
            )
        if self.unit is not None and self.unit.outdated:
            said.append(
                f"{self.name}: its unit file has changed, and systemd still goes by the one before; run systemctl"
                " daemon-reload and restart it again"
            )
        return said


def _refusal_of(unit: Unit, before: ServiceState, verb: str) -> str:
    if before.name.endswith(".slice"):
        return (
            f"{before.name} is a slice: its stop ends all units in it, such as logins, and its start starts none of"
            " them. Restart these units"
        )
    if before.name.endswith(".device"):
        return f"{before.name} is a device, which systemd neither starts nor stops"
    if unit.load == "masked":
        return f"{before.name} is masked, so that it cannot be started: unmask it (systemctl unmask), or leave it be"
    if unit.load not in ("loaded", ""):
        return f"systemd could not load {before.name} ({unit.load}): mend its unit file (systemctl status tells more)"
    if not unit.starts and verb != "reload":
        return f"{before.name} refuses to be started by hand (RefuseManualStart=): restart the unit that starts it"
    if not unit.stops and verb == "restart":
        return (
            f"{before.name} refuses to be stopped by hand (RefuseManualStop=, CanStop): reload it with mode warm, or"
            " restart the host"
        )
    if unit.is_job and verb != "reload":
        return (
            f"{before.name} is of Type=oneshot and does not stay active: it runs to its end, and then nothing of it is"
            " there that could be proved or probed. Run it with systemctl start"
        )
    if verb == "restart" and outage.ends_us(unit):
        return f"this process belongs to {before.name} and would end with it: restart it from another login"
    return ""


def target_of_request(request: Request, system: System) -> Target:
    """The service of a request in its present state. Raises UsageError, and ServiceFailed for a silent manager."""
    service = declared_service(request.name, request.process, request.container)
    return target_of_service(service, system)


def target_of_service(service: Service, system: System) -> Target:
    """The service in its present state. Raises UsageError, and ServiceFailed where its manager does not answer."""
    if isinstance(service, ContainerService):
        inspected = service.inspect(system)
        if inspected.unit:
            raise UsageError(
                f"container {service.name} is run by the unit {inspected.unit}, which would take its stop for a"
                f" failure. Nothing was touched: give name: {inspected.unit}"
            )
        own: Mapping[str, object] = {"container": dict(service.definition)}
        return Target(service, inspected.state, _own(own))
    if isinstance(service, ProcessService):
        return Target(service, service.observe(system), _own({"process": dict(service.definition)}))
    unit: Unit | None = None
    if isinstance(service, SystemdService):
        ((before, unit),) = systemd.view([service.name], system)
    else:
        before = service.observe(system)
    if not before.exists:
        return Target(service, before, _own({"name": service.name}))
    started = start_time(unit.main) if unit is not None and unit.main else None
    along = systemd.along(unit, system) if unit is not None else ()
    dependents = systemd.running_dependents(unit, system) if unit is not None and before.active else []
    dependents = [one for one in dependents if one not in [unit.id for unit in along]]
    sockets = held_open(unit.triggered_by, system) if unit is not None and before.active else ()
    target = Target(service, before, _own({"name": service.name}), unit, started, along, dependents, sockets)
    if unit is None:
        return target
    rivals, awaited = systemd.rivals(unit, system), systemd.awaited(unit, system)
    ending = next((one.id for one in [*along, *systemd.describe(dependents, system)] if outage.ends_us(one)), "")
    return replace(target, rivals=rivals, awaited=awaited, spared=_spared(unit), ending=ending)


def _spared(unit: Unit) -> dict[int, int]:
    """The processes of the unit that its stop leaves alone, each with its start. The processes of this very login end
    with it, and do not count."""
    if unit.kill_mode not in ("process", "none"):
        return {}
    ours = set(logins.above(os.getpid()))
    starts = {pid: start_time(pid) for pid in running.processes([unit.id])[unit.id] if pid not in ours}
    return {pid: started for pid, started in starts.items() if started is not None}


def watched(names: Sequence[str]) -> list[Probe]:
    """Probes of units that restart with another one: they have to run for the soak as well."""
    return probing.check([{"service": {"name": name}} for name in names])


def held_open(units: Sequence[str], system: System) -> list[ServiceState]:
    """The sockets among the units that stay open without their service, which has taken them over now. A socket with a
    process for each connection (``Accept=yes``) never counts as running."""
    names = [one for one in units if one.endswith(".socket")]
    return [state for state in systemd.observe(names, system) if state.text == "active (running)"] if names else []


def _own(declared: Mapping[str, object]) -> Probe:
    """The probe of the service itself, so that a restart of its own accord in the soak does not pass."""
    return probing.check([{"service": dict(declared)}])[0]


def refuse(target: Target, mode: str) -> None:
    """Raise UsageError where the target cannot be restarted in this mode."""
    why = target.refusal(mode)
    if why:
        raise UsageError(f"{why.rstrip('.')}. Nothing was touched")
