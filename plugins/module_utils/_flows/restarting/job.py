# SPDX-License-Identifier: GPL-3.0-or-later

"""The work of one act: of one service, or of every unit whose restart is owed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..._dataclasses import dataclass
from ..._errors import ServiceFailed, Unhealthy, UsageError
from ..._health.downtime import Downtime
from ..._health.probe import Probe
from ..._host.system import System
from ..._results.restart import Restarted
from ..._services import systemd
from ..._services.owed import BY_NAME, BY_NAME_WHY, SERVICE, owed
from ..._services.state import ServiceState
from ..._services.systemd import SystemdService
from .acting import Act, deed, planned
from .target import COLD, OWED, Request, refuse, target_of_request, target_of_service

_READ_AGAIN = ("daemon-reload", "systemd")


@dataclass(frozen=True)
class Tried:
    """A restart that was carried out, for the history."""

    target: str
    mode: str
    ok: bool
    seconds: float
    downtime: float | None = None


class Job(Protocol):
    """A restart whose request can be met. Making one raises UsageError where it cannot."""

    name: str
    result: Restarted
    tried: list[Tried]

    @property
    def before(self) -> ServiceState | None:
        """The state of its target; None where it has several."""

    def predicted(self) -> Restarted:
        """The result of a restart that has not been done."""

    def carry_out(self) -> Restarted:
        """Carry out the restart, and prove that it worked. Raises ServiceFailed and Unhealthy."""


class ServiceRestart:
    """The restart of one service."""

    def __init__(self, request: Request, probes: Sequence[Probe], system: System) -> None:
        self.request, self.probes = request, probes
        target = target_of_request(request, system)
        refuse(target, request.how)
        self.name, self.before = target.name, target.before
        self.act = Act(target, request.how, system)
        self.result = self.act.result
        self.tried: list[Tried] = []

    def predicted(self) -> Restarted:
        return planned(self.act.target, self.act.mode)

    def carry_out(self) -> Restarted:
        result = self.result
        good = False
        downtime = Downtime(self.probes)
        try:
            with downtime:
                self.act.carry_out(self.probes, self.request.times, downtime)
            good = True
        except (ServiceFailed, Unhealthy) as error:
            self._told(result, downtime)
            error.result = result.report()
            raise
        finally:
            self._told(result, downtime)
            self.tried.append(Tried(self.name, self.act.mode, good, result.seconds, result.downtime))
        result.proved = [*result.proved, *filter(None, [downtime.words])]
        return result

    def _told(self, result: Restarted, downtime: Downtime) -> None:
        result.seconds = round(result.seconds, 3)
        result.downtime = downtime.seconds
        result.downtime_of = downtime.name if downtime.seconds is not None else ""


class Every:
    """The restarts of all units that are owed. Units that refuse, or that only a person restarts, are named, and so is
    what no unit can mend."""

    def __init__(self, request: Request, probes: Sequence[Probe], system: System) -> None:
        self.request, self.probes, self.system = request, probes, system
        self.name = OWED
        self.before: ServiceState | None = None
        self.tried: list[Tried] = []
        self.left: list[str] = []
        found = owed(system)
        self.result = Restarted(mode=COLD, owed=[one for one in found if one.level != SERVICE])
        self.names: list[str] = []
        self.outdated = False
        for one in found:
            if one.level == SERVICE and one.unit:
                self._plan(one.unit)
            elif one.level == BY_NAME:
                self.left.append(f"{one.unit}: {BY_NAME_WHY}")
        if self.outdated:
            self.result.planned.insert(0, deed(*_READ_AGAIN))
        self.result.changed = bool(self.names)

    def _plan(self, unit: str) -> None:
        target = target_of_service(SystemdService(unit), self.system)
        why = target.refusal(COLD)
        if why or not target.before.active:
            self.left.append(f"{unit}: {why or 'it does not run'}")
        elif unit not in self.names:
            self.names.append(unit)
            self.outdated |= target.unit is not None and target.unit.outdated
            self.result.planned += planned(target, COLD).planned

    def predicted(self) -> Restarted:
        self.result.left = list(self.left)
        return self.result

    def carry_out(self) -> Restarted:
        """Restart one after the other, and ask the host again. Raises Unhealthy at the first that is not healthy."""
        result, system = self.result, self.system
        if self.outdated:  # A restart goes by the unit files that systemd has read.
            systemd.daemon_reload(system, self.names)
            result.done = [deed(*_READ_AGAIN)]
        for name in self.names:
            target = target_of_service(SystemdService(name), system)
            if target.refusal(COLD) or not target.before.active:
                continue  # The unit has ended meanwhile, with another unit. Its debt is told below.
            act = Act(target, COLD, system)
            good = False
            try:
                act.carry_out(self.probes, self.request.times, Downtime(()))
                good = True
            except (ServiceFailed, Unhealthy) as error:
                result.left = [name, *self.left]
                error.result = {**result.report(), "health": act.result.report().get("health")}
                raise
            finally:
                seconds = round(act.result.seconds, 3)
                result.seconds = round(result.seconds + seconds, 3)
                self.tried.append(Tried(name, COLD, good, seconds))
                result.done = [*result.done, *act.result.done]
                result.warnings = [*(result.warnings or []), *(act.result.warnings or [])] or None
            result.proved += act.result.proved
        return self._prove_paid()

    def _prove_paid(self) -> Restarted:
        result = self.result
        found = owed(self.system)
        result.owed = [one for one in found if one.level != SERVICE]
        due = {one.unit: f"{one.unit}: {'; '.join(one.why)}" for one in found if one.level == SERVICE}
        still = [said for unit, said in due.items() if unit in self.names]
        others = [
            said for unit, said in due.items() if unit not in self.names and not any(unit in why for why in self.left)
        ]
        result.left = [*still, *self.left, *others]
        if still:
            raise Unhealthy(f"units were restarted and still owe a restart: {'; '.join(still)}", **result.report())
        if result.left:
            result.warnings = [*(result.warnings or []), f"restarts are still owed: {'; '.join(result.left)}"]
        elif self.names:
            result.proved.append("no restart of a service is owed any more")
        return result


def check_here(request: Request) -> None:
    """Raise UsageError for a restart that no single call can carry out."""
    if request.scope:
        raise UsageError(
            "only the controller can restart a whole host, and nothing was touched: call this by its full name,"
            " evenkeel.fault_tolerance.ft_restart, from a playbook"
        )
