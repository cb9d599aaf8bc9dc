# SPDX-License-Identifier: GPL-3.0-or-later

"""Services under systemd: many are observed with one call, and every act on a unit is proved."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from .._dataclasses import dataclass
from .._errors import ServiceFailed, UsageError
from .._host.commands import Completed
from .._host.processes import send_signal, start_time
from .._host.system import System
from . import cluster, running
from . import unit as facts
from .state import ServiceState
from .unit import Unit

_PROPERTIES = (
    "Id,LoadState,UnitFileState,ActiveState,SubState,InvocationID,NRestarts,CanReload,Job,"
    "ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic"
)
# The characters of a unit's name (systemd.unit(5)).
_NAME = r"[A-Za-z0-9:_.@\\-]{1,255}"
_TIMEOUT = 120.0
# The units that are listed, and how.
_KINDS = (".service", ".socket", ".timer", ".path")
_PLAIN = ("--plain", "--full", "--no-legend", "--no-pager")
# A unit counts as started before its program has read its configuration: it must live this long to be proved.
_ALIVE = 0.3
# Seconds until the last lines of a program that ended have reached the journal.
_LOGGED = 0.5
# Seconds to wait for the jobs of others.
_JOBS = 10.0
_UNIT_FILE_VERBS = ("enable", "disable", "mask", "unmask")
# These verbs aim at a state: where it holds they succeeded, even if systemctl complains that the unit is not loaded or
# that its file is gone.
_VERBS_OF_STATE = ("stop", "disable", "mask", "unmask", "reset-failed")
# Messages of systemd about a unit in the journal: its start begins, its start is done, its stop begins, it ended well.
_STARTS = ("7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf")
_STOPS, _ENDED = "de5b426a63be47a7b6ac3eaac82e2f6f", "7ad2d189f7e94e70a38c781354912448"
# States on the way to another state.
_PASSING = ("activating", "deactivating", "reloading", "refreshing")
# A unit that crashes again and again is on its way most of the time. systemd ignores a state that it does not know.
_FILES, _RUNNING = ["list-unit-files"], ["list-units", f"--state={','.join(('active', *_PASSING))}"]


def check_name(name: str) -> str:
    """The name, if it names one unit. UsageError for a pattern, a template, and what systemd would read as another."""
    why = ""
    if set(name) & set("*?["):
        why = "is a pattern, and stands for other units later on; name each of them"
    elif unit_name(name).partition("@")[2].startswith("."):
        why = "is a template, which cannot run; name its instances"
    elif not re.fullmatch(_NAME, name):
        why = "names no unit: letters, digits and : - _ . @ and \\ alone are possible"
    if why:
        raise UsageError(f"{name[:300]!r} {why}. Nothing was touched")
    return name


def unit_name(name: str) -> str:
    """The full name of the unit: ``nginx.service`` for ``nginx``."""
    return name if name.endswith((".service", *facts.OTHERS)) else name + ".service"


@dataclass(frozen=True)
class SystemdService:
    """The backend of a service under systemd."""

    unit: str
    what: ClassVar[str] = "such unit"

    @property
    def name(self) -> str:
        return unit_name(self.unit)

    def observe(self, system: System) -> ServiceState:
        return observe([self.unit], system)[0]

    def act(self, verb: str, system: System, wait: bool = True) -> ServiceState:
        return act(verb, self.unit, system, wait)


def observe(names: Sequence[str], system: System) -> list[ServiceState]:
    """The states of the units, in the order of the names. Raises ServiceFailed when systemd does not answer."""
    if not names:
        return []
    units = [unit_name(name) for name in names]
    blocks = [dict(line.split("=", 1) for line in block) for block in _show(_PROPERTIES, units, system)]
    return [_state(unit, block, system) for unit, block in zip(units, blocks)]


def every(system: System) -> list[str]:
    """The own names of the units that the host runs by itself: those that an administrator can enable, those that
    run, and the mounts that an administrator has written. Raises ServiceFailed when systemd does not answer."""
    found: dict[str, bool] = {}  # name -> whether a generator has made it, and nothing tells that it runs
    # A host of containers has thousands of mounts without a unit file.
    for words, types in ((_FILES, _KINDS), (_RUNNING, _KINDS), (_FILES, facts.MOUNTING)):
        listed = ",".join(one[1:] for one in types)
        done = system.run(["systemctl", *words, f"--type={listed}", *_PLAIN], 30.0)
        if done.rc != 0:
            raise ServiceFailed(f"systemd does not list its units: {done.words}")
        for line in done.out.splitlines():
            name, _blank, rest = line.partition(" ")
            state = rest.split()[0] if words == _FILES and rest.split() else ""
            # A unit that another one starts is of interest where it runs, and a template is nothing that runs.
            passed = ("alias", "transient", "bad", *(("static",) if types == _KINDS else ("generated",)))
            if name.endswith(types) and "@." not in name and state not in passed:
                found[name] = state == "generated"
    return sorted(
        {
            unit.id
            for unit, is_made in zip(describe(list(found), system), found.values())
            # A script of System V is of interest where it runs.
            if unit.is_of_the_host and not (is_made and unit.source.startswith("/etc/init.d/"))
        }
    )


def describe(names: Sequence[str], system: System) -> list[Unit]:
    """The properties of the units besides their states, in the order of the names. Raises ServiceFailed as ``observe``
    does."""
    if not names:
        return []
    return _units(_show(facts.PROPERTIES, [unit_name(name) for name in names], system), system)


def view(names: Sequence[str], system: System) -> list[tuple[ServiceState, Unit]]:
    """The results of ``observe`` and ``describe`` for the same moment, with one call of systemctl."""
    if not names:
        return []
    properties = ",".join(dict.fromkeys(f"{_PROPERTIES},{facts.PROPERTIES}".split(",")))
    units = [unit_name(name) for name in names]
    blocks = _show(properties, units, system)
    states = [_state(unit, dict(line.split("=", 1) for line in block), system) for unit, block in zip(units, blocks)]
    return list(zip(states, _units(blocks, system)))


def own_names(names: Sequence[str], system: System) -> list[str]:
    """The own name of each unit, also where an alias is given. Raises ServiceFailed as ``observe`` does."""
    if not names:
        return []
    blocks = _show("Id", [unit_name(name) for name in names], system)
    return [line[len("Id=") :] for block in blocks for line in block if line.startswith("Id=")]


def _units(blocks: Sequence[Sequence[str]], system: System) -> list[Unit]:
    found, of_cluster = [], _of_cluster(system)
    for block in blocks:
        values: dict[str, list[str]] = {}
        for line in block:
            key, _sign, value = line.partition("=")
            values.setdefault(key, []).append(value)
        unit = facts.read(values)
        found.append(unit._replace(clustered=unit.id in of_cluster or cluster.has_drop_in(unit.files)))
    return found


def _of_cluster(system: System) -> set[str]:
    """The services that a cluster manager of this host starts and stops. A configuration that it left behind when it
    was removed or disabled decides nothing."""
    units = cluster.units()
    managers = observe([cluster.MANAGER], system) if units else []
    is_used = any(one.active or passing(one) or one.enabled.startswith("enabled") for one in managers)
    return units if is_used else set()


def _show(properties: str, units: Sequence[str], system: System) -> list[list[str]]:
    """For each unit the lines that ``systemctl show`` prints. An empty line ends those of a unit, but a command may
    hold one as well: then the units are asked in halves, and at last one by one."""
    found = _blocks(properties, units, system)
    if len(found) > len(units) > 1:
        half = len(units) // 2
        return [*_show(properties, units[:half], system), *_show(properties, units[half:], system)]
    blocks = [block.split("\n") for block in (found if len(units) > 1 else ["\n".join(found)])]
    keys = properties.split(",")
    return [lines if _is_clear(lines, keys) else _one_by_one(keys, unit, system) for lines, unit in zip(blocks, units)]


def _blocks(properties: str, units: Sequence[str], system: System) -> list[str]:
    """The blocks of the answer, between empty lines: at least one for each unit. Raises ServiceFailed."""
    done = system.run(["systemctl", "show", f"--property={properties}", "--", *units], 30.0)
    found = done.out.strip().split("\n\n")
    if done.rc != 0 or len(found) < len(units):
        raise ServiceFailed(f"systemd does not tell the state of {', '.join(units)}: {done.words}")
    return found


def _is_clear(lines: Sequence[str], keys: Sequence[str]) -> bool:
    """Whether each line is a property. A text with a line break, such as a command, may look like other properties."""
    pairs = [line.partition("=")[::2] for line in lines]
    single = [key for key, _value in pairs if key not in facts.TEXTS]
    ends = (not value or value.endswith(facts.TEXTS.get(key, "")) for key, value in pairs)
    return (
        all("=" in line for line in lines)
        and {key for key, _value in pairs} <= set(keys)
        and len(single) == len(set(single))
        and all(ends)
    )


def _one_by_one(keys: Sequence[str], unit: str, system: System) -> list[str]:
    """The properties of a unit, of which each text was asked for alone: it is one line here, whatever it holds."""
    plain = ",".join(key for key in keys if key not in facts.TEXTS)
    found = [line for block in _blocks(plain, [unit], system) for line in block.split("\n")] if plain else []
    for key in keys:
        if key in facts.TEXTS:
            text = "\n\n".join(_blocks(key, [unit], system))
            found += [f"{key}={one}" for one in f"\n{text}".split(f"\n{key}=")[1:]]
    return found


def with_dependents(unit: str, system: System) -> list[str]:
    """The unit and all units that systemd stops with it. Each unit comes after the units that depend on it."""
    seen = {unit}
    ordered: list[str] = []

    def visit(name: str) -> None:
        argv = ["systemctl", "show", f"--property={facts.DEPENDENTS}", "--value", "--", name]
        done = system.run(argv, 30.0)
        if done.rc != 0:
            raise ServiceFailed(f"systemd does not tell what depends on {name}: {done.words}; nothing was touched")
        for dependent in done.out.split():
            # A target has no processes, and its start would start units that an administrator has stopped.
            if dependent not in seen and not dependent.endswith(".target"):
                seen.add(dependent)
                visit(dependent)
        ordered.append(name)

    visit(unit)
    return ordered


def running_dependents(unit: Unit, system: System) -> list[str]:
    """The units that run and that systemd stops with the unit, without itself. A job that just runs is none of them."""
    names = [name for name in with_dependents(unit.id, system) if name != unit.id] if unit.takes else []
    active = [state.name for state in observe(names, system) if state.active]
    return [one.id for one in describe(active, system) if not one.is_job]


def rivals(unit: Unit, system: System) -> list[str]:
    """The units that run and that a start of the unit stops, because they conflict with it."""
    return [state.name for state in observe(unit.conflicts, system) if state.active or passing(state)]


def awaited(unit: Unit, system: System) -> list[str]:
    """The units that just start, stop or wait for that, and for which a start of the unit would wait. A job that ends
    in a few seconds does not count."""
    end = system.monotonic() + _JOBS
    while unit.after:
        done = system.run(["systemctl", "list-jobs", *_PLAIN], 30.0)
        rows = [line.split() for line in done.out.splitlines()] if done.rc == 0 else []
        found = [row[1] for row in rows if len(row) > 1 and row[1] in unit.after]
        if not found or system.monotonic() >= end:
            return found
        system.sleep(0.5)
    return []


def reloaded_too(units: Sequence[str], system: System) -> dict[str, str]:
    """The units, of those that reload with another one, that did not -> why, once none of them is at it any more."""
    found = describe(units, system)
    end = system.monotonic() + max((one.patience("reload") for one in found), default=0.0)
    while any(passing(one) or one.queued or one.text.startswith("reload") for one in observe(units, system)):
        if system.monotonic() >= end:
            break
        system.sleep(0.2)
    wrong = {
        one.id: state.text if not state.active else f"its reload ended with {one.reload_result}"
        for state, one in view(units, system)
        if not state.active or one.reload_result not in ("", "success")
    }
    return {name: why + last_words(name, system) for name, why in wrong.items()}


def units_down(units: Sequence[str], system: System) -> dict[str, str]:
    """The units that do not run -> their state in words, once none of them is on the way or queued any more."""
    end = system.monotonic() + max((one.patience("restart") for one in describe(units, system)), default=0.0)
    while True:
        states = [state for state in observe(units, system) if not state.active]
        if not any(passing(state) or state.queued for state in states) or system.monotonic() >= end:
            return {state.name: f"{state.text}{last_words(state.name, system)}" for state in states}
        system.sleep(0.2)


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
        touched=system.now() - system.monotonic() + int(block.get("StateChangeTimestampMonotonic") or 0) / 1e6,
    )


def passing(state: ServiceState) -> bool:
    """Whether the unit is on the way to another state."""
    return state.text.split(" ")[0] in _PASSING


def last_start(name: str, system: System) -> str:
    """The identity that the unit got at its last start, also where it does not run any more."""
    (block,) = _show("InvocationID", [unit_name(name)], system)
    return next((line.partition("=")[2] for line in block if line.startswith("InvocationID=")), "")


def settled(name: str, system: System, limit: float = 30.0) -> ServiceState:
    """The state of the unit once it is not on the way to another, or after ``limit`` seconds."""
    end = system.monotonic() + limit
    while True:
        (state,) = observe([name], system)
        if not passing(state) or system.monotonic() >= end:
            return state
        system.sleep(0.1)


def act(verb: str, name: str, system: System, wait: bool = True, endless: float = 0.0) -> ServiceState:
    """Start, stop, restart, reload, enable, disable, mask, unmask or reset-failed, and prove it; the state afterwards.

    With ``wait`` False the job is only queued, and nothing is proved (early at boot). ``endless``: seconds for a stop
    without a limit of its own. Raises ServiceFailed.
    """
    unit = unit_name(name)
    if verb in ("start", "restart"):
        # A unit that failed too often refuses to start until its failures are reset.
        system.run(["systemctl", "reset-failed", "--", unit], 30.0)
    ((before, permits),) = view([unit], system)
    options = ["--quiet"] if verb in _UNIT_FILE_VERBS else []
    if verb == "unmask" and before.enabled == "masked-runtime":
        options.append("--runtime")
    if not wait and verb not in (*_UNIT_FILE_VERBS, "reset-failed"):
        options.append("--no-block")
    services = along(permits, system) if verb in ("start", "restart") and wait else []
    for service in services:
        system.run(["systemctl", "stop", "--", service.id], service.patience("stop"))
    try:
        done = system.run(["systemctl", *options, verb, "--", unit], permits.patience(verb, endless))
        if done.rc == 124:
            done = done._replace(err=permits.waited(verb, endless))
        state = before if not wait and done.rc == 0 else _proved(verb, unit, permits, before, done, system)
    except BaseException as error:
        down = _start_stopped(services, system)
        if down and isinstance(error, ServiceFailed):
            error.message += f"; {down}"
        raise
    down = _start_stopped(services, system)
    if down:
        raise ServiceFailed(f"{unit} is {state.text}, but {down}")
    return state


def along(unit: Unit, system: System) -> list[Unit]:
    """The services that run by a socket: it refuses to start while they run, so that they stop and start with it."""
    names = unit.triggers if unit.id.endswith(".socket") else ()
    return describe([state.name for state in observe(names, system) if state.active], system)


def _start_stopped(services: Sequence[Unit], system: System) -> str:
    """Start the units that were stopped with a socket; sentences on those that do not run again."""
    if not services:
        return ""
    asked = [system.run(["systemctl", "start", "--", one.id], one.patience("start")) for one in services]
    system.sleep(_ALIVE)
    try:
        states = observe([one.id for one in services], system)
    except ServiceFailed as error:
        return error.message
    down = [
        f"{one.id}, which was stopped with it, does not run again: {done.words if done.rc else state.text}"
        f"{last_words(one.id, system)}"
        for one, done, state in zip(services, asked, states)
        if not state.active
    ]
    return "; ".join(down)


def _proved(verb: str, unit: str, permits: Unit, before: ServiceState, done: Completed, system: System) -> ServiceState:
    """The state after the verb. Raises ServiceFailed when the state shows that the verb had no effect."""
    after = settled(unit, system) if done.rc == 0 else observe([unit], system)[0]
    if done.rc == 0 and after.active and verb in ("start", "restart"):
        system.sleep(_ALIVE)
        (later,) = observe([unit], system)
        if not later.active:
            log = last_words(permits.id, system)
            raise ServiceFailed(f"{unit} started and ended at once: it is {later.text}{log}")
    holds = _holds(verb, before, after)
    if holds and (done.rc == 0 or verb in _VERBS_OF_STATE):
        return after
    if done.rc == 0:
        why = f"ended well, but the unit is {after.text}"
        raise ServiceFailed(f"systemctl {verb} {unit} {why}{last_words(permits.id, system)}")
    raise ServiceFailed(f"systemctl {verb} {unit}: {done.words}{last_words(permits.id, system)}")


def _holds(verb: str, before: ServiceState, after: ServiceState) -> bool:
    """Whether the two states prove that the verb had its effect."""
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
    """Have systemd read its units again. Returns the units of ``names`` that systemd had lost and that were restarted.

    Where an alias comes back that another unit has named meanwhile, systemd takes the dead state of that name for the
    state of the unit: its processes run on, and a start of it fails (seen with version 257).
    """
    before = [(unit, start_time(unit.main)) for unit in describe(names, system) if unit.main]
    done = system.run(["systemctl", "daemon-reload"], _TIMEOUT)
    if done.rc != 0:
        raise ServiceFailed(f"systemctl daemon-reload: {done.words}")
    after = observe([unit.id for unit, _started in before], system)
    orphaned = [
        unit
        for (unit, started), state in zip(before, after)
        if not state.active and not passing(state) and started is not None and start_time(unit.main) == started
    ]
    for unit in orphaned:
        _end(unit, system)
        act("start", unit.id, system)
    return [unit.id for unit in orphaned]


def _end(unit: Unit, system: System) -> None:
    """Stop the processes of a unit that systemd has lost sight of, with its own kill mode and limit. Raises
    ServiceFailed."""
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
                    send_signal(pid, started, number)
        limit = system.monotonic() + patience
        while system.monotonic() < limit and any(
            started is not None and start_time(pid) == started for pid, started in pids.items()
        ):
            system.sleep(0.1)


def ended_by_itself(unit: str, system: System) -> bool:
    """Whether the last run of the unit ended well and nobody had it stopped, as the journal of this boot tells."""
    matches = [f"UNIT={unit}", "_PID=1", *(f"MESSAGE_ID={one}" for one in (*_STARTS, _STOPS, _ENDED))]
    words = ["--boot", "--lines=50", "--output=json", "--output-fields=MESSAGE_ID", "--no-pager", "--quiet"]
    done = system.run(["journalctl", *matches, *words], 10.0)
    stops = ended = False
    for line in done.out.splitlines() if done.rc == 0 else ():
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(line)["MESSAGE_ID"]
            stops = found == _STOPS or (stops and found not in _STARTS)
            ended = found == _ENDED or (ended and found not in _STARTS)
    return ended and not stops


def last_words(unit: str, system: System) -> str:
    """The last lines that the unit wrote to the journal, or that systemd wrote about it, for a message."""
    system.sleep(_LOGGED)
    for match in (f"_SYSTEMD_UNIT={unit}", f"--unit={unit}"):
        words = ["journalctl", match, "--since=-5min", "--lines=8", "--output=cat", "--no-pager", "--quiet"]
        done = system.run(words, 10.0)
        lines = [line.strip() for line in done.out.splitlines() if line.strip()]
        if done.rc == 0 and lines:
            return f"; its log: {' / '.join(dict.fromkeys(lines))}"
    return ""
