# SPDX-License-Identifier: GPL-3.0-or-later

"""Restarting a service: cold or warm, proved, and healthy afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._errors import ServiceFailed, Unhealthy, UsageError
from .._health import probes as probing
from .._health.probe import PASS, ProbeResult
from .._health.wait import CRASH_LOOP, Health, Times, wait
from .._host.system import System
from .._results import Restarted
from .._services import process, systemd
from .._services.reload import ASKED, reload
from .._services.service import SERVICES
from .._services.state import ServiceState


@dataclass(frozen=True)
class Request:
    """The arguments of ``ft_restart``: a systemd unit by its ``name``, or a ``process``."""

    name: str | None
    process: Any
    mode: str
    probes: Any
    times: Times


def restart(request: Request, system: System, check_mode: bool = False) -> Restarted:
    """Restart one service.

    The service itself is probed too, so that a restart of its own accord in the soak does not pass.
    Raises UsageError with nothing touched, ServiceFailed or Unhealthy after the restart was tried.
    """
    restarting = _Restarting(request, system)
    return restarting.predicted() if check_mode else restarting.carry_out()


class _Restarting:
    """A restart, from its request to its result. Raises UsageError for a request that cannot be met."""

    def __init__(self, request: Request, system: System) -> None:
        if bool(request.name) == bool(request.process):
            raise UsageError("give either name, a systemd unit, or process")
        self.request = request
        self.system = system
        self.process = process.check(request.process) if request.process is not None else None
        soak, deadline = request.times.soak, request.times.deadline
        if soak > deadline:
            raise UsageError(
                f"a soak of {soak:g} s cannot pass within a deadline of {deadline:g} s; nothing was touched"
            )
        own = {"service": {"process": self.process} if self.process is not None else {"name": request.name}}
        self.probes = probing.check([own]) + probing.check(request.probes)
        self.before = before = self._observe()
        if not before.exists:
            raise UsageError(f"there is no unit {before.name} on this host; nothing was touched")
        if request.mode == "warm" and before.active and not before.can_reload:
            raise UsageError(
                f"{before.name} cannot be restarted warm: it has no way to reload. Nothing was touched; "
                "use mode cold, one host at a time, or give the unit an ExecReload"
            )
        # A service that does not run has no connections to keep: it is only started.
        self.verb = "start" if not before.active else "reload" if request.mode == "warm" else "restart"
        planned = [{"resource": SERVICES, "action": self.verb, "target": before.name}]
        self.result = Restarted(changed=True, planned=planned, mode=request.mode, before=before)
        # The proof in words that a reload was taken; empty without a proof.
        self.shown, self.words = "", ASKED

    def predicted(self) -> Restarted:
        """The result of a restart that has not been done."""
        self.result.after = self.before
        return self.result

    def carry_out(self) -> Restarted:
        """Restart the service, and prove that it runs anew and is healthy."""
        result, before = self.result, self.before
        try:
            after = self._act()
        except ServiceFailed as error:
            result.after, result.left = self._observe(), [before.name]
            error.result = result.report()
            raise
        result.after, result.done = after, result.planned
        just = ProbeResult("service", after.name, PASS, after.text, 0.0, after.identity, after.restarts)
        health = wait(self.probes, self.request.times, self.system, earlier=[just])
        result.health = health
        result.warnings = health.warnings() or None
        if health.state != PASS:
            result.left = [before.name]
            raise Unhealthy(self._why_unhealthy(health), **result.report())
        if self.verb != "reload":
            result.proved = [f"{before.name}: {before.identity or 'not running'} became {after.identity}"]
            return result
        result.proved = [f"{before.name} was told to reload, and kept its processes' identity {after.identity}"]
        if self.shown:
            result.proved.append(f"{before.name} took it: {self.words}")
        else:
            result.warnings = [*(result.warnings or []), f"{before.name}: the reload was {self.words}"]
        return result

    def _act(self) -> ServiceState:
        if self.process is not None:
            return process.act(self.verb, self.process, self.system)
        if self.verb != "reload":
            return systemd.act(self.verb, self.before.name, self.system)
        reloaded = reload(self.before.name, self.system)
        self.shown, self.words = reloaded.shown, reloaded.words
        return reloaded.state

    def _why_unhealthy(self, health: Health) -> str:
        name = self.before.name
        sick = [one for one in health.probes if one.state != PASS and one.decides]
        why = "; ".join(f"{one.kind} {one.target}: {one.detail}" for one in sick)
        if health.restarts > CRASH_LOOP:
            why = f"crash loop, {health.restarts} restarts in {health.waited:.1f} s"
        log = systemd.last_words(name, self.system) if self.process is None else ""
        mode = self.request.mode
        return f"{name} was restarted ({mode}), but is not healthy: {why or 'it did not hold for the soak'}{log}"

    def _observe(self) -> ServiceState:
        if self.process is not None:
            return process.observe(self.process, self.system)
        return systemd.observe([self.request.name or ""], self.system)[0]
