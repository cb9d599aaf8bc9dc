# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restarting a service: cold or warm, proved, and healthy afterwards."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .._errors import ServiceFailed, Unhealthy, UsageError
from .._health import probes as probing
from .._health.wait import CRASH_LOOP, wait
from .._host.system import System
from .._resources.registry import programs
from .._services import process, systemd
from .._services.reload import ASKED, reload
from .._services.state import ServiceState


def restart(
    name: str | None,
    definition: Any,
    mode: str,
    probes: Any,
    soak: float,
    deadline: float,
    interval: float,
    system: System,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Restart one service (``ft_restart``); the result as documented there. Times in seconds.

    The service itself is probed too, so that a restart of its own accord in the soak does not pass.
    Raises UsageError with nothing touched, ServiceFailed or Unhealthy after the restart was tried.
    """
    if bool(name) == bool(definition):
        raise UsageError("give either name, a systemd unit, or process")
    if definition is not None:
        definition = process.check(definition)
    if soak > deadline:
        raise UsageError(f"a soak of {soak:g} s cannot pass within a deadline of {deadline:g} s; nothing was touched")
    own = {"service": {"process": definition} if definition is not None else {"name": name}}
    measured = probing.check([own]) + probing.check(probes)
    before = _observe(name, definition, system)
    if not before.exists:
        raise UsageError(f"there is no unit {before.name} on this host; nothing was touched")
    if mode == "warm" and before.active and not before.can_reload:
        raise UsageError(
            f"{before.name} cannot be restarted warm: it has no way to reload. Nothing was touched; "
            "use mode cold, one host at a time, or give the unit an ExecReload"
        )
    # What does not run has no connections to keep: starting it is all that is asked.
    verb = "start" if not before.active else "reload" if mode == "warm" else "restart"
    planned = [{"resource": programs().name, "action": verb, "target": before.name}]
    result: dict[str, Any] = {"changed": True, "mode": mode, "before": asdict(before), "planned": planned}
    if check_mode:
        return dict(result, after=asdict(before), done=[], proved=[], left=[])
    try:
        words = ASKED
        shown = False
        if definition is not None:
            after = process.act(verb, definition, system)
        elif verb == "reload":
            reloaded = reload(before.name, system)
            after, shown, words = reloaded.state, bool(reloaded.shown), reloaded.words
        else:
            after = systemd.act(verb, before.name, system)
    except ServiceFailed as error:
        error.result = dict(result, after=asdict(_observe(name, definition, system)), left=[before.name])
        raise
    result.update(after=asdict(after), done=planned)
    just = probing.ProbeResult("service", after.name, probing.PASS, after.text, 0.0, after.identity, after.restarts)
    health = wait(measured, soak, deadline, interval, system, earlier=[just])
    result["health"] = asdict(health)
    if health.state != probing.PASS:
        why = "; ".join(f"{one.kind} {one.target}: {one.detail}" for one in health.probes if one.state != probing.PASS)
        if health.restarts > CRASH_LOOP:
            why = f"crash loop, {health.restarts} restarts in {health.waited:.1f} s"
        log = systemd.last_words(before.name, system) if definition is None else ""
        raise Unhealthy(
            f"{before.name} was restarted ({mode}), but is not healthy: {why or 'it did not hold for the soak'}{log}",
            **dict(result, left=[before.name]),
        )
    if verb != "reload":
        return dict(
            result, proved=[f"{before.name}: {before.identity or 'not running'} became {after.identity}"], left=[]
        )
    proved = [f"{before.name} was told to reload, and kept its processes' identity {after.identity}"]
    if shown:
        return dict(result, proved=[*proved, f"{before.name} took it: {words}"], left=[])
    return dict(result, proved=proved, left=[], warnings=[f"{before.name}: the reload was {words}"])


def _observe(name: str | None, definition: process.Definition | None, system: System) -> ServiceState:
    if definition is not None:
        return process.observe(definition, system)
    return systemd.observe([name or ""], system)[0]
