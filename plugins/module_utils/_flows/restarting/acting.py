# SPDX-License-Identifier: GPL-3.0-or-later

"""The restart of one service, proved, measured, and healthy afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from ..._errors import ServiceFailed, Unhealthy
from ..._health.downtime import Downtime
from ..._health.probe import PASS, Probe, ProbeResult
from ..._health.wait import CRASH_LOOP, Health, Times, wait
from ..._host.system import System
from ..._resources import registry
from ..._results.restart import Restarted
from ..._services import systemd
from ..._services.container import ContainerService
from ..._services.process import ProcessService
from ..._services.reload import reload
from ..._services.state import ServiceState
from ..._services.stopping import was_killed
from ..._services.unit import CAP
from .target import WARM, Target, watched

# Systemd's word on a unit whose program has ended, and that counts as active nevertheless.
_EXITED = "active (exited)"
# The most processes that a message names.
_SHOWN = 10


def deed(action: str, target: str) -> dict[str, str]:
    """A step of a restart, as the result shows it."""
    return registry.programs().step(action, target).shown()


def planned(target: Target, mode: str) -> Restarted:
    """The result of a restart that has not been done."""
    verb = target.verb(mode)
    along = [*(one.id for one in target.along), *target.dependents] if verb != "reload" else []
    names = [target.name, *along]
    steps = [deed(verb if name == target.name else "restart", name) for name in names]
    warnings = target.warnings() or None
    return Restarted(
        changed=True, planned=steps, mode=mode, before=target.before, after=target.before, warnings=warnings
    )


class Act:
    """A restart, from its target to its result. ``result`` is filled in, also where the restart fails."""

    def __init__(self, target: Target, mode: str, system: System) -> None:
        self.target, self.mode, self.system = target, mode, system
        self.verb = target.verb(mode)
        self.result = planned(target, mode)
        self.result.after = None
        self.crash_loop = False
        # Units that stopped with it and do not run again.
        self.down: list[str] = []
        # Sentences for the result: facts that were measured, and warnings.
        self.facts: list[str] = []
        self.warnings = target.warnings()

    def carry_out(self, probes: Sequence[Probe], times: Times, downtime: Downtime) -> Restarted:
        """Restart the service, and prove that it runs anew and is healthy. Raises ServiceFailed and Unhealthy."""
        result = self.result
        began = self.system.monotonic()
        downtime.acting()
        try:
            after = self._act()
        except ServiceFailed as error:
            result.seconds = self.system.monotonic() - began
            result.warnings = self.warnings or None
            raise self._failed(error) from error
        downtime.acted()
        just = ProbeResult("service", after.name, PASS, after.text, 0.0, after.identity, after.restarts)
        result.after, result.done = after, result.planned
        health = wait([self.target.own, *watched(self._others()), *probes], times, self.system, earlier=[just])
        result.health, result.proved = health, self.facts
        result.seconds = self.system.monotonic() - began
        if health.probes[0].detail == _EXITED != self.target.before.text:
            self.warnings.append(f"{after.name} counts as active, but its program has ended: it is {_EXITED}")
        result.warnings = [*self.warnings, *health.warnings()] or None
        if health.state != PASS:
            self.crash_loop = health.restarts > CRASH_LOOP
            result.left, result.proved = [self.target.name], []
            raise Unhealthy(self._why_unhealthy(health), **result.report())
        return result

    def _others(self) -> Sequence[str]:
        """The units that restarted, or reloaded, with it."""
        if self.verb != "reload":
            return self.target.dependents
        others = self.target.unit.reloads_too if self.target.unit is not None else ()
        return [one.name for one in systemd.observe(others, self.system) if one.active]

    def _act(self) -> ServiceState:
        target, system = self.target, self.system
        before, moment = target.before, system.now()
        if self.verb == "reload" and target.unit is not None:
            reloaded = reload(before.name, system)
            self.facts = [f"{before.name} was told to reload, and kept its processes' identity {before.identity}"]
            if reloaded.shown:
                self.facts.append(f"{before.name} took it: {reloaded.words}")
            else:
                self.warnings.append(f"{before.name}: the reload was {reloaded.words}")
            return reloaded.state
        if isinstance(target.service, (ContainerService, ProcessService)):
            after, killed = target.service.carry_out(self.verb, system)
        else:
            after = systemd.act(self.verb, before.name, system, endless=CAP)
            killed = self.verb == "restart" and target.unit is not None and was_killed(target.unit, moment, system)
        if self.verb == "reload":
            self.facts = [f"{before.name} was told to reload, and kept its processes' identity {after.identity}"]
            self.warnings.append(f"{before.name}: the reload was asked, not shown")
            return after
        if self.verb == "restart" and target.still_runs():
            raise ServiceFailed(
                f"{before.name} was started anew while its process {target.main} from before goes on (its KillMode="
                " leaves it alone): end that process, then restart it again"
            )
        down = systemd.units_down(target.dependents, system) if self.verb == "restart" else {}
        if down:
            self.down = list(down)
            raise ServiceFailed(
                f"{before.name} was restarted, and units that ran before it and stopped with it do not run again:"
                f" {'; '.join(f'{name} is {state}' for name, state in down.items())}"
            )
        left = target.go_on() if self.verb == "restart" else []
        if left:
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            self.warnings.append(
                f"{before.name}: {len(left)} of its processes from before go on with what they had loaded, as its"
                f" KillMode leaves them alone: {', '.join(left[:_SHOWN])}{more}"
            )
        if killed:
            self.warnings.append(
                f"{before.name} did not stop by itself in its time and was killed: it may have lost what it had not"
                " written yet"
            )
        self.facts = [f"{before.name}: {before.identity or 'not running'} became {after.identity}"]
        if self.mode == WARM:
            self._report_sockets()
        return after

    def _report_sockets(self) -> None:
        """Tell whether the sockets stayed open, so that no connection was refused."""
        before = {state.name: state.identity for state in self.target.sockets}
        if not before:
            return
        now = {state.name: state.identity for state in systemd.observe(list(before), self.system) if state.active}
        for name, identity in before.items():
            if now.get(name) == identity:
                self.facts.append(
                    f"{name} stayed open, so that new connections waited; open ones ended with the old process"
                )
            else:
                self.warnings.append(f"{name} did not stay open meanwhile: connections may have been refused")

    def _failed(self, error: ServiceFailed) -> ServiceFailed:
        """The error of a restart that could not be proved, with all that is known."""
        result, target = self.result, self.target
        result.after, result.left = target.service.observe(self.system), self.down or [target.name]
        if target.before.active and result.after.active and result.after.identity == target.before.identity:
            error.message += f"; {target.name} still runs, with the identity {result.after.identity} from before"
            result.changed = self.verb == "reload" or bool(target.along or target.dependents)
        elif systemd.passing(result.after):
            goes_on = target.before.identity == systemd.last_start(target.name, self.system) != ""
            error.message += f"; it is {result.after.text} now{', and was not restarted yet' if goes_on else ''}"
        error.result = result.report()
        return error

    def _why_unhealthy(self, health: Health) -> str:
        name = self.target.name
        sick = [one for one in health.probes if one.state != PASS and one.decides]
        why = "; ".join(f"{one.kind} {one.target}: {one.detail}" for one in sick)
        if health.restarts > CRASH_LOOP:
            why = f"crash loop, {health.restarts} restarts in {health.waited:.1f} s"
        log = systemd.last_words(name, self.system) if self.target.unit is not None else ""
        return f"{name} was restarted ({self.mode}), but is not healthy: {why or 'it did not hold for the soak'}{log}"
