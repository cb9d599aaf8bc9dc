# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services under systemd: observed with one call, acted on with proof."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from .._errors import ServiceFailed
from .._host.system import Completed, System, send, start_time
from . import running
from . import unit as facts
from .state import ServiceState
from .unit import Unit

_PROPERTIES = (
    "Id,LoadState,UnitFileState,ActiveState,SubState,InvocationID,NRestarts,CanReload,Job,ActiveEnterTimestampMonotonic"
)
_TIMEOUT = 120.0
_TAKES_ALONG = "RequiredBy,RequisiteOf,BoundBy,ConsistsOf,PropagatesStopTo"
# A unit counts as started before its program has read its configuration: it must live this long to be proved.
_ALIVE = 0.3
# What a program says as it ends reaches the journal a little later.
_LOGGED = 0.5
_UNIT_FILES = ("enable", "disable", "mask", "unmask")
# What these are for is a state: where it holds they succeeded, even if systemctl complains that the unit is not loaded
# or that its file is gone.
_TO_A_STATE = ("stop", "disable", "mask", "unmask", "reset-failed")
# States on the way to another: wait for what they become.
_PASSING = ("activating", "deactivating", "reloading", "refreshing")


def unit_name(name: str) -> str:
    """``nginx`` means ``nginx.service``."""
    return name if name.endswith((".service", *facts.OTHERS)) else name + ".service"


def observe(names: Sequence[str], system: System) -> list[ServiceState]:
    """The states of the units, in the order asked. Raises ServiceFailed when systemd does not answer."""
    if not names:
        return []
    units = [unit_name(name) for name in names]
    blocks = [dict(line.split("=", 1) for line in block) for block in _show(_PROPERTIES, units, system)]
    return [_state(unit, block, system) for unit, block in zip(units, blocks)]


def describe(names: Sequence[str], system: System) -> list[Unit]:
    """What is known of the units besides their states, in the order asked. Raises ServiceFailed as ``observe`` does."""
    if not names:
        return []
    found = []
    for block in _show(facts.PROPERTIES, [unit_name(name) for name in names], system):
        values: dict[str, list[str]] = {}
        for line in block:
            key, _sign, value = line.partition("=")
            values.setdefault(key, []).append(value)
        found.append(facts.read(values))
    return found


def _show(properties: str, units: Sequence[str], system: System) -> list[list[str]]:
    """For each unit the lines that systemd tells of it."""
    done = system.run(["systemctl", "show", f"--property={properties}", "--", *units], 30.0)
    found = done.out.strip().split("\n\n")
    if done.rc != 0 or len(found) != len(units):
        raise ServiceFailed(f"systemd does not tell the state of {', '.join(units)}: {done.words}")
    return [[line for line in block.splitlines() if "=" in line] for block in found]


def with_dependents(unit: str, system: System) -> list[str]:
    """The unit after all that systemd stops with it, each after what depends on it."""
    seen = {unit}
    ordered: list[str] = []

    def visit(name: str) -> None:
        argv = ["systemctl", "show", f"--property={_TAKES_ALONG}", "--value", "--", name]
        done = system.run(argv, 30.0)
        if done.rc != 0:
            raise ServiceFailed(f"systemd does not tell what depends on {name}: {done.words}; nothing was touched")
        for one in done.out.split():
            # A target has nothing to stand still, and its start would start what somebody has stopped.
            if one not in seen and not one.endswith(".target"):
                seen.add(one)
                visit(one)
        ordered.append(name)

    visit(unit)
    return ordered


def _state(unit: str, block: dict[str, str], system: System) -> ServiceState:
    entered = int(block.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    active = block["ActiveState"] in ("active", "reloading", "refreshing")
    return ServiceState(
        name=unit,
        exists=block["LoadState"] not in ("not-found", ""),
        enabled=block.get("UnitFileState", ""),
        active=active,
        text=f"{block['ActiveState']} ({block['SubState']})",
        started=system.now() - system.monotonic() + entered if active and entered else None,
        identity=block.get("InvocationID", "") if active else "",
        restarts=int(block.get("NRestarts") or 0),
        can_reload=block.get("CanReload") == "yes",
        queued=block.get("Job", "") not in ("", "0"),
    )


def passing(state: ServiceState) -> bool:
    """Whether the unit is on the way to another state."""
    return state.text.split(" ")[0] in _PASSING


def settled(name: str, system: System, limit: float = 30.0) -> ServiceState:
    """The state of the unit once it is not on the way to another, or after ``limit`` seconds."""
    end = system.monotonic() + limit
    while True:
        (state,) = observe([name], system)
        if not passing(state) or system.monotonic() >= end:
            return state
        system.sleep(0.1)


def act(verb: str, name: str, system: System, wait: bool = True) -> ServiceState:
    """Do it and prove it: start, stop, restart, reload, enable, disable, mask, unmask, reset-failed. The state after.

    With ``wait`` False the job is only queued, and nothing is proved (early at boot). Raises ServiceFailed.
    """
    unit = unit_name(name)
    if verb in ("start", "restart"):
        # A unit that failed too often refuses to start until this is forgotten.
        system.run(["systemctl", "reset-failed", "--", unit], 30.0)
    (before,), (permits,) = observe([unit], system), describe([unit], system)
    options = ["--quiet"] if verb in _UNIT_FILES else []
    if verb == "unmask" and before.enabled == "masked-runtime":
        options.append("--runtime")
    if not wait and verb not in (*_UNIT_FILES, "reset-failed"):
        options.append("--no-block")
    services = _make_way(permits, system) if verb in ("start", "restart") and wait else []
    try:
        done = system.run(["systemctl", *options, verb, "--", unit], permits.patience(verb))
        if not wait and done.rc == 0:
            return before
        return _proved(verb, unit, permits, before, done, system)
    finally:
        for one in services:
            system.run(["systemctl", "start", "--", one.id], one.patience("start"))


def _make_way(unit: Unit, system: System) -> list[Unit]:
    """A socket refuses to start while its service runs: stop that. What has to be started again."""
    names = unit.triggers if unit.id.endswith(".socket") else ()
    running = [one.name for one in observe(names, system) if one.active]
    services = describe(running, system)
    for one in services:
        system.run(["systemctl", "stop", "--", one.id], one.patience("stop"))
    return services


def _proved(verb: str, unit: str, permits: Unit, before: ServiceState, done: Completed, system: System) -> ServiceState:
    """The state after the verb. Raises ServiceFailed when it did not do what it is for."""
    after = settled(unit, system) if done.rc == 0 else observe([unit], system)[0]
    if done.rc == 0 and after.active and verb in ("start", "restart"):
        system.sleep(_ALIVE)
        (later,) = observe([unit], system)
        if not later.active:
            log = last_words(permits.id, system)
            raise ServiceFailed(f"{unit} started and ended at once: it is {later.text}{log}")
    holds = _holds(verb, before, after)
    if holds and (done.rc == 0 or verb in _TO_A_STATE):
        return after
    if done.rc == 0:
        why = f"ended well, but the unit is {after.text}"
        raise ServiceFailed(f"systemctl {verb} {unit} {why}{last_words(permits.id, system)}")
    why = permits.waited(verb) if done.rc == 124 else done.words
    raise ServiceFailed(f"systemctl {verb} {unit}: {why}{last_words(permits.id, system)}")


def _holds(verb: str, before: ServiceState, after: ServiceState) -> bool:
    """The proof, by what is observed."""
    return {
        "start": after.active,
        "restart": after.active and after.identity != before.identity,
        "reload": after.active and after.identity == before.identity,
        "stop": not after.active and not passing(after),
        "enable": after.enabled not in ("disabled", "masked", "masked-runtime"),
        "disable": after.enabled not in ("enabled", "enabled-runtime"),
        "mask": after.enabled == "masked",
        "unmask": not after.enabled.startswith("masked"),
        "reset-failed": not after.text.startswith("failed"),
    }[verb]


def daemon_reload(system: System, names: Sequence[str] = ()) -> list[str]:
    """Have systemd read its units anew. Returns those of ``names`` that it lost sight of, and that were started anew.

    Where an alias comes back, and another unit has named it meanwhile, systemd takes the state of that name, which is
    dead, for the state of the unit: its processes run on, and a start of it fails (seen with version 257).
    """
    before = [(one, start_time(one.main)) for one in describe(names, system) if one.main]
    done = system.run(["systemctl", "daemon-reload"], _TIMEOUT)
    if done.rc != 0:
        raise ServiceFailed(f"systemctl daemon-reload: {done.words}")
    after = observe([unit.id for unit, _started in before], system)
    lost = [
        unit
        for (unit, started), state in zip(before, after)
        if not state.active and not passing(state) and started is not None and start_time(unit.main) == started
    ]
    for unit in lost:
        _end(unit, system)
        act("start", unit.id, system)
    return [unit.id for unit in lost]


def _end(unit: Unit, system: System) -> None:
    """Stop what systemd has lost sight of, as systemd would: by the unit's own way and limit. Raises ServiceFailed."""
    every = running.processes([unit.id])[unit.id] if unit.kill_mode == "control-group" else []
    pids = {pid: start_time(pid) for pid in (unit.main, *every)}
    if os.getpid() in pids:
        raise ServiceFailed(
            f"systemd has lost sight of {unit.id}, which still runs (pid {unit.main}), and this would end with it: end "
            "it by hand, then start it"
        )
    for number, patience in ((signal.SIGTERM, unit.patience("stop")), (signal.SIGKILL, 1.0)):
        for pid, started in pids.items():
            if started is not None:
                with suppress(OSError):
                    send(pid, started, number)
        limit = system.monotonic() + patience
        while system.monotonic() < limit and any(
            started is not None and start_time(pid) == started for pid, started in pids.items()
        ):
            system.sleep(0.1)


def last_words(unit: str, system: System) -> str:
    """The unit's own last words, what a person would look up next; systemd's about it when it said nothing itself."""
    system.sleep(_LOGGED)
    for which in (f"_SYSTEMD_UNIT={unit}", f"--unit={unit}"):
        words = ["journalctl", which, "--since=-5min", "--lines=8", "--output=cat", "--no-pager", "--quiet"]
        done = system.run(words, 10.0)
        said = [line.strip() for line in done.out.splitlines() if line.strip()]
        if done.rc == 0 and said:
            return f"; its log: {' / '.join(dict.fromkeys(said))}"
    return ""
