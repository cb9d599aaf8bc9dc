# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``services``: the administrator's unit files and drop-ins, enabled and active as they were, and running
what is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._errors import EvenkeelError, RestoreFailed, ServiceFailed, UsageError
from .._services import process, systemd
from .._services.state import ServiceState
from .._system import System
from . import own_line
from .kind import Kind, Restore
from .step import Step

_UNIT_DIRECTORIES = (
    "/etc/systemd/system/",
    "/etc/systemd/system.control/",
    "/usr/local/lib/systemd/system/",
    "/usr/lib/systemd/system/",
    "/lib/systemd/system/",
)
# Unit-file states that can be put back; the others (static, generated, …) follow from the files.
_SETTABLE = {"enabled": "enable", "disabled": "disable", "masked": "mask"}


def check(spec: dict[str, Any]) -> dict[str, Any]:
    """The declaration with all its keys; UsageError names the bad one."""
    unknown = set(spec) - {"names", "processes"}
    if unknown:
        raise UsageError(f"services: unknown key {sorted(unknown)[0]!r}; it takes names and processes")
    names = spec.get("names") or []
    if not isinstance(names, list) or not all(isinstance(one, str) and one and "/" not in one for one in names):
        raise UsageError(f"services: names must be a list of units, not {names!r}")
    processes = spec.get("processes") or []
    if not isinstance(processes, list):
        raise UsageError(f"services: processes must be a list of mappings, not {processes!r}")
    if not names and not processes:
        raise UsageError("services: name at least one unit in names, or one process in processes")
    return {
        "names": sorted({systemd.unit_name(name) for name in names}),
        "processes": [process.check(one) for one in processes],
    }


def trees(spec: dict[str, Any]) -> list[str]:
    """What an administrator makes of the units: unit files, drop-ins, and what ``systemctl set-property`` keeps. Those
    of an instance's template as well."""
    found = []
    for unit in spec["names"]:
        stem, dot, kind = unit.rpartition(".")
        template = stem.partition("@")[0] + "@" + dot + kind if "@" in stem else unit
        for name in sorted({unit, template}):
            found += [f"/etc/systemd/system/{name}", f"/etc/systemd/system/{name}.d"]
            found.append(f"/etc/systemd/system.control/{name}.d")
    return found


def capture(spec: dict[str, Any], system: System) -> list[str]:
    """A line for each service, without anything that changes by itself: equal states give equal lines."""
    lines = []
    for seen in systemd.observe(spec["names"], system):
        # Not what it happens to be on the way to another state.
        state = systemd.settled(seen.name, system) if systemd.passing(seen) else seen
        known = {"name": state.name, "exists": state.exists, "enabled": state.enabled, "active": state.active}
        if _failed(state):
            known["failed"] = True
        lines.append(own_line.write("unit", known))
    for definition in spec["processes"]:
        active = process.observe(definition, system).active
        lines.append(own_line.write("process", {"active": active, "definition": definition}))
    return lines


def down(then: Sequence[str]) -> set[str]:
    """The units that the lines record as not active."""
    return {unit["name"] for unit in _recorded(then)[0] if not unit["active"]}


def _failed(state: ServiceState) -> bool:
    return state.text.startswith("failed")


def _recorded(then: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(units, processes) of the lines; Damaged when one is not of those that ``capture`` writes."""
    found: dict[str, list[dict[str, Any]]] = {"unit": [], "process": []}
    for line in then:
        with own_line.read(line) as (word, one):
            found[word].append(one)
    return found["unit"], found["process"]


def plan(then: Sequence[str], system: System, changed: Sequence[str], since: float) -> list[Step]:
    """What makes the services as recorded, and run what is on disk.

    ``changed``: paths that were put back. ``since``: epoch seconds of the checkpoint; a service that was started
    after it may hold more of the change than a reload undoes, and is restarted.
    """
    units, processes = _recorded(then)
    # What did not run goes first, so that a port or a lock is free for what had it.
    first: list[Step] = []
    last: list[Step] = []
    if units and any(_holds_units(path) for path in changed):
        first.append(Step("services", "daemon-reload", "systemd", "unit files changed"))
    for unit, live in zip(units, systemd.observe([unit["name"] for unit in units], system)):
        steps = last if unit["active"] else first
        steps += _enablement(unit, live)
        steps += _activity(unit["name"], unit["active"], live, changed, since, {})
        if _failed(live) and not unit["active"] and not unit.get("failed"):
            steps.append(Step("services", "reset-failed", live.name, "had not failed"))
    for one in processes:
        definition = one["definition"]
        live = process.observe(definition, system)
        steps = last if one["active"] else first
        steps += _activity(definition["name"], one["active"], live, changed, since, {"process": definition})
    return first + last


def _holds_units(path: str) -> bool:
    """Whether the path is a unit file's, or a directory's that holds some and was put back as a whole."""
    return any(path.startswith(one) or one.startswith(path + "/") for one in _UNIT_DIRECTORIES)


def _enablement(unit: dict[str, Any], live: ServiceState) -> list[Step]:
    """Files come first: a unit that is gone now will be back, and one that did not exist may be gone."""
    wanted = unit["enabled"] if unit["exists"] else "disabled"
    if live.enabled == wanted:
        return []
    steps = [Step("services", "unmask", live.name, "is masked")] if live.enabled.startswith("masked") else []
    if wanted == "disabled":
        settable = live.enabled in ("enabled", "enabled-runtime") or (bool(steps) and unit["exists"])
    else:
        settable = wanted in _SETTABLE
    if settable:
        steps.append(Step("services", _SETTABLE[wanted], live.name, f"is {live.enabled or 'not there'}"))
    return steps


def _activity(
    name: str, active: bool, live: ServiceState, changed: Sequence[str], since: float, detail: dict[str, Any]
) -> list[Step]:
    if not active:
        # At boot what the change enabled is queued, and would start once its link is gone.
        up = live.active or live.queued or systemd.passing(live)
        return [Step("services", "stop", name, "was not active", detail)] if up else []
    if not live.active:
        return [Step("services", "start", name, f"is {live.text}", detail)]
    if not changed:
        return []
    if live.can_reload and live.started is not None and live.started <= since:
        return [Step("services", "reload", name, "files changed", detail)]
    return [Step("services", "restart", name, "files changed", detail)]


def apply(steps: Sequence[Step], system: System, boot: bool = False) -> list[Step]:
    """Carry out the steps, all of them; those that were done. A reload that fails becomes a restart.

    ``boot``: early at boot, where jobs are queued and nothing is waited for. Raises RestoreFailed at the end, with
    what is ``left``.
    """
    done: list[Step] = []
    left: list[str] = []
    for step in steps:
        try:
            try:
                _one(step, step.action, system, boot)
                done.append(step)
            except ServiceFailed as error:
                if step.action != "reload":
                    raise
                _one(step, "restart", system, boot)
                done.append(replace(step, action="restart", why=f"reload failed: {error.message}"))
        except EvenkeelError as error:
            left.append(f"{step.target}: {error.message}")
    if left:
        raise RestoreFailed(
            f"services are not as they were: {'; '.join(left)}",
            done=[step.shown() for step in done],
            left=left,
        )
    return done


def _one(step: Step, verb: str, system: System, boot: bool) -> None:
    if "process" in step.detail:
        process.act(verb, step.detail["process"], system)
    elif verb == "daemon-reload":
        systemd.daemon_reload(system)
    elif boot and verb == "reload":
        systemd.act("reload-or-restart", step.target, system, wait=False)
    else:
        systemd.act(verb, step.target, system, wait=not boot)


def verify(then: Sequence[str], system: System) -> list[str]:
    """What is not as recorded, in words."""
    units, processes = _recorded(then)
    wrong = []
    for unit in units:
        live = systemd.settled(unit["name"], system)
        if unit["active"] != live.active:
            wrong.append(f"{live.name} is {live.text}, and was {'active' if unit['active'] else 'not active'}")
        if unit["enabled"] in _SETTABLE and live.enabled != unit["enabled"]:
            wrong.append(f"{live.name} is {live.enabled or 'not there'}, and was {unit['enabled']}")
    for one in processes:
        state = process.observe(one["definition"], system)
        if one["active"] != state.active:
            wrong.append(f"{state.name} is {state.text}, and was {'running' if one['active'] else 'not running'}")
    return wrong


KIND = Kind(
    check=check,
    capture=lambda spec, _sink, system: capture(spec, system),
    plan=lambda then, at: plan(then, at.system, at.changed, at.since),
    apply=lambda steps, at: apply(steps, at.system, at.boot),
    verify=verify,
    trees=trees,
)


@dataclass
class Down:
    """``units`` that went down for an exchange of files, and have to be up again; ``left``: what could not be stopped,
    in words."""

    units: list[str]
    left: list[str] = field(default_factory=list)


def take_down(steps: Sequence[Step], at: Restore) -> Down:
    """Stop what has to be restarted."""
    down = Down([])
    for step in steps:
        try:
            _one(step, "stop", at.system, at.boot)
            down.units.append(step.target)
        except EvenkeelError as error:
            down.left.append(f"{step.target}: {error.message}")
    return down


def bring_up(down: Down, at: Restore) -> tuple[list[Step], list[str]]:
    """Start what went down and is not up."""
    return [], []
