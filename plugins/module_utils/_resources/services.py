# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``services``: the administrator's unit files and drop-ins, which units are enabled and active, and whether
they run the programs and files on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypedDict, cast

from .._dataclasses import replace
from .._errors import EvenkeelError, RestoreFailed, ServiceFailed, UsageError
from .._files.step import Step
from .._host.options import Options, read
from .._host.system import System
from .._services import environment, links, outage, process, running, sockets, systemd
from .._services.outage import Down
from .._services.reload import reload
from .._services.service import SERVICES
from .._services.state import ServiceState
from .._services.unit import LISTENING, MOUNTING, Unit
from .._services.vital import is_vital
from . import json_line
from .kind import Programs, Restore, Sink, Spec, Suggestion, is_within, names_of

# Unit-file states that a verb of systemctl sets. The other states (static, generated, …) follow from the files.
_SETTABLE = {"enabled": "enable", "disabled": "disable", "masked": "mask"}
# The directories of the files that an administrator writes for a unit.
_OF_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/etc/systemd/system.control", "/run/systemd/system.control")
# Programs write below /run/systemd/system themselves (netplan, Pacemaker): of all units it is named, not taken back.
_OF_ALL = ("/etc/systemd/system", "/etc/systemd/system.control", "/run/systemd/system.control")
_BY_PROGRAMS = ("/10-netplan.conf", "/50-pacemaker.conf")
# netplan writes these units anew at each reload of systemd.
_OF_NETPLAN = "netplan-"
# The first word of a line that declares all units.
_ALL = "all"
# The key in such a line where the units that generators make are recorded. At first they were not.
_GENERATED = "generated"
# The key in such a line where all units that ran are recorded: the other units did not run.
_RUNNING = "running"
# Seconds to wait for a unit that is changing its state, where all units are declared.
_BRIEFLY = 2.0
# Every login goes through these services. They read all of their configuration anew when they are reloaded.
_ACCESS = ("ssh.service", "sshd.service")
# Packages come back over the network, by names: this service is restarted at the end, and not down until then.
_NAMES = ("systemd-resolved.service",)
# The word of the line with the variables that systemd gives to each service, and the action of a step for one of them.
_ENVIRONMENT = "environment"
# The key in a step for the start of the service to which it belongs.
_IDENTITY = "identity"
_FAILURES = ("systemctl", "list-units", "--state=failed")
_OF_CLUSTER = "a cluster manager starts and stops it"
# States of the unit files of services that start at the boot.
_BY_ITSELF = ("enabled", "enabled-runtime", "generated")
_IN_USE = "programs may use what it mounts"
_FOR_ALL = "its stop would take from the host what others need as well"
_REFUSES = "it refuses to be stopped by hand"
_ON_DEMAND = "others may have started it on demand"


class _Known(TypedDict):
    """A unit as every version records it."""

    name: str
    exists: bool
    enabled: str
    active: bool


class UnitRecord(_Known, total=False):
    """A unit as a checkpoint records it: ``links`` since version 0.2, other keys only where they apply.

    ``among_all``: no declaration names the unit, so that only its own files can cause a restart of it. ``passing``: it
    was on the way to another state, so that it may be active or not. ``clustered``: a cluster manager starts and stops
    it.
    """

    links: dict[str, str]
    triggers: list[str]
    failed: bool
    limits: list[str]
    among_all: bool
    passing: bool
    clustered: bool


class ProcessRecord(TypedDict):
    """A process as a checkpoint records it."""

    active: bool
    definition: process.Definition


class Services(Programs):
    """Services, enabled and active as they were, and running the files on disk.

    The administrator's unit files and drop-ins, and the links by which the units are enabled, are part of it. The
    result C(left) names state of a unit that a rollback could not restore.

    Give C(names) or C(processes), or both. With neither, all units of the host are meant: those that are enabled or can
    be, and those that run. Such a unit is reloaded or started anew only where a file is put back that is its own by its
    name, as C(/etc/nginx) is of C(nginx), or where it was started, stopped or reloaded since. A unit that the change
    has started is stopped, unless others may have started it on demand.

    except: Units that are left alone where all are meant. For example V([docker.service]).

    names: Systemd units. They are recorded under their own names, also where an alias is written; a pattern or a
    template is refused. For example V([nginx, php-fpm.service]).

    processes: Services without systemd, as the option C(process) of M(evenkeel.fault_tolerance.ft_restart). For
    example V([{name: app, pidfile: /run/app.pid, argv: [/opt/app/serve]}]).
    """

    name = SERVICES
    order = 90
    unseen = ("reload", "restart", "leave")
    on_plain_host: Spec = {}
    options: Options = {
        "names": {"type": "list", "elements": "str"},
        "except": {"type": "list", "elements": "str", "default": []},
        "processes": {"type": "list", "elements": "dict", "options": dict(process.OPTIONS)},
    }

    def __init__(self, system: System | None = None) -> None:
        """``system`` answers for the units' own names when a declaration is checked."""
        self.system = system or System()

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration with all its keys; UsageError names the bad key."""
        found = read(self.options, spec, self.name)
        names, processes = found["names"], found["processes"] or []
        if names is None and found["processes"] is None:
            if not self.system.has_systemd():
                raise UsageError(
                    "services: there is no systemd here, which could tell all units; name them or processes"
                )
            excepts = _own_names(found["except"], self.system)
            return {"names": None, "processes": [], **({"except": excepts} if excepts else {})}
        if not names and not processes:
            raise UsageError(
                "services: name at least one unit in names, or one process in processes; leave out both for all units"
            )
        if found["except"]:
            raise UsageError("services: except is for all units; take it out, or take names and processes out")
        return {"names": _own_names(names or [], self.system), "processes": [process.check(one) for one in processes]}

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        if any(spec["names"] is None for spec in beside):
            return None, []
        named = sorted({name for spec in beside for name in spec["names"]})
        return ({"except": named} if named else {}), []

    def trees(self, spec: Spec) -> list[str]:
        """The files that an administrator writes for the units, and for the template of an instance.

        These are unit files, drop-ins, the properties that ``systemctl set-property`` keeps, and scripts of System V.
        The drop-ins are for any name of the unit, for its prefixes, and for its type.
        """
        if spec["names"] is None:
            # Nobody but systemctl edit writes there for the units by which people come in.
            return [*_OF_ALL, *(f"/run/systemd/system/{unit}.d" for unit in LISTENING)]
        found: set[str] = set()
        for unit in spec["names"]:
            known = links.names(unit)
            for name in known:
                stem, _dot, kind = name.rpartition(".")
                parts = stem.split("-")
                prefixes = ["-".join(parts[:end]) + f"-.{kind}" for end in range(1, len(parts))]
                for one in (name, *prefixes, kind):
                    found |= {f"/etc/systemd/system/{one}.d", f"/run/systemd/system/{one}.d"}
            for name in sorted({unit, links.template(unit)}):
                found |= {f"/etc/systemd/system/{name}", f"/etc/systemd/system.control/{name}.d"}
                found.add(f"/run/systemd/system.control/{name}.d")
        # systemd makes the unit of a script of System V by a generator.
        made = [unit for unit in spec["names"] if links.is_made(unit)]
        with suppress(ServiceFailed):
            described = systemd.describe(made, self.system) if self.system.has_systemd() else []
            found |= {unit.source for unit in described if unit.source.startswith("/etc/init.d/")}
        return sorted(found)

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """A line for each service, without values that change by themselves: equal states give equal lines."""
        names, lines, reader = spec["names"], [], links.reader()
        every = names is None
        if every:
            names = _all_but(spec.get("except", ()), system)
            lines.append(json_line.write(_ALL, {"except": spec.get("except", []), _GENERATED: True, _RUNNING: True}))
        variables = environment.read_variables(system) if names else {}
        if variables:
            lines.append(json_line.write(_ENVIRONMENT, environment.record(variables, system)))
        for seen, unit in systemd.view(names, system):
            # Record the state in which the unit settles, not a state on the way.
            limit = _BRIEFLY if every else 30.0
            state = systemd.settled(seen.name, system, limit) if systemd.passing(seen) else seen
            known: UnitRecord = {
                "name": unit.id or state.name,
                "exists": state.exists,
                "enabled": state.enabled,
                "active": state.active,
                "links": links.of(unit.id or state.name, reader),
            }
            if every:
                known["among_all"] = True
            triggers = [one.name for one in systemd.observe(_triggers(unit.triggered_by), system) if one.active]
            if triggers:
                known["triggers"] = sorted(triggers)
            if _failed(state):
                known["failed"] = True
            if systemd.passing(state):
                known["passing"] = True
            if unit.clustered:
                known["clustered"] = True
            limits = _limits(state, unit) + ([] if every else _kept_up(state, unit))
            if limits:
                known["limits"] = limits
            lines.append(json_line.write("unit", known))
        for definition in spec["processes"]:
            active = process.observe(definition, system).active
            lines.append(json_line.write("process", {"active": active, "definition": definition}))
        return lines

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        units, processes = _recorded(lines)
        excepts = systemd.observe(spec.get("except", ()), self.system)
        found = [f"except: there is no unit {one.name} on this host" for one in excepts if not one.exists]
        found += [f"{unit['name']}: {words}" for unit in units for words in unit.get("limits", ())]
        for own in processes:
            made = own["definition"]
            if not own["active"] and not any(map(os.path.lexists, (made["pidfile"], made["argv"][0]))):
                nothing = f"there is neither {made['pidfile']} nor {made['argv'][0]}"
                found.append(f"{made['name']}: {nothing}: what a change makes of it is stopped, no more")
        return found

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """The steps that bring the services back to their record and have them run the files on disk. The steps are
        the same at any time while other kinds are put back."""
        units, processes = _recorded(lines)
        names = [unit["name"] for unit in units]
        seen = systemd.view(names, at.system)
        states, described = [state for state, _unit in seen], [unit for _state, unit in seen]
        pids = running.processes([unit.id for unit in described]) if not at.boot else {}
        # Services that did not run at the checkpoint stop first, so that a port or a lock is free for its former
        # holder.
        first, last = _variables(lines, at.system), list[Step]()
        reader = links.reader()
        linked = [step for unit in units for step in _links(unit, reader)]
        for unit, live, known in zip(units, states, described):
            steps = last if unit["active"] or unit.get("passing") else first
            for trigger in systemd.observe([one for one in unit.get("triggers", ()) if one not in names], at.system):
                if not trigger.active and _waits_for_boot(trigger, live):
                    note = f"{trigger.name} is not active, and starts at the next boot: {unit['name']} runs without it"
                    last.append(Step(SERVICES, "leave", trigger.name, "its service runs", {"note": note}))
                elif not trigger.active:
                    last.append(Step(SERVICES, "start", trigger.name, f"it starts {unit['name']}"))
            steps += [] if "links" in unit else _enablement(unit, replace(live, name=known.id or live.name))
            mine = running.since_start(pids.get(known.id, ()), known.main)
            steps += _with_failed(_activity(live, unit, known, mine, _with_variables(at, live, first), {}), live, at)
            last += _until_boot(known, at) if unit.get("among_all") else []
            if _failed(live) and not (unit["active"] or unit.get("failed") or unit.get("passing")):
                steps.append(Step(SERVICES, "reset-failed", live.name, "had not failed"))
        for recorded in processes:
            definition = recorded["definition"]
            try:
                live = process.observe(definition, at.system)
            except ServiceFailed:  # The proof tells it.
                continue
            steps = last if recorded["active"] else first
            known = Unit(live.name, files=tuple(definition["argv"][:2]), reloads=live.can_reload)
            steps += _with_failed(_activity(live, recorded, known, (), at, {"process": definition}), live, at)
        came = _came(lines, at.system, at)
        for known, spared in came:
            stays = _spare(known, "it did not run at the checkpoint", spared, [], at)
            first += stays if spared else [Step(SERVICES, "stop", known.id, "came with the change")]
        up = [(unit, known) for unit, live, known in zip(units, states, described) if live.active and unit["active"]]
        last += _taken_along([*described, *(known for known, _why in came)], up, [*first, *last], at.system)
        why = "something was put back" if at.changed or at.steps else "units changed" if linked else ""
        why = why or next((f"the unit file of {known.id} changed" for known in described if known.outdated), "")
        reload = [Step(SERVICES, "daemon-reload", "systemd", why, {"units": names})] if units and why else []
        for steps in (
            first,
            last,
        ):  # Sockets and paths come first, after variables: they must not start units meanwhile.
            steps.sort(key=lambda step: (step.action != _ENVIRONMENT, not step.target.endswith((".socket", ".path"))))
        return linked + reload + first + last

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out all steps, and return the steps that were done. A reload that fails becomes a restart.

        Early at boot systemd only queues the jobs, and nothing waits for them. Raises RestoreFailed at the end where
        steps failed, with sentences on the steps that are ``left``.
        """
        done: list[Step] = []
        left: list[str] = []
        for step in steps:
            try:
                try:
                    words = _carry_out(step, step.action, at)
                    done.append(replace(step, why=f"{step.why}; {words}") if words else step)
                except ServiceFailed as error:
                    if step.action != "reload" or "spared" in step.detail:
                        raise
                    _carry_out(step, "restart", at)
                    done.append(replace(step, action="restart", why=f"reload failed: {error.message}"))
            except EvenkeelError as error:
                left.append(f"{step.target}: {error.message}")
        if not at.boot and any(step.action == "daemon-reload" for step in done):
            _forget_failures(at)
        if left:
            raise RestoreFailed(
                f"services are not as they were: {'; '.join(left)}",
                done=[step.shown() for step in done],
                left=left,
            )
        return done

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        units, processes = _recorded(lines)
        wrong = []
        names, reader = [unit["name"] for unit in units], links.reader()
        for unit, (seen, known) in zip(units, systemd.view(names, system)):
            # Where the record leaves it open, nobody waits for it: it may start and fail for ever.
            is_on_its_way = systemd.passing(seen) and not _is_open(unit, known)
            live = systemd.settled(unit["name"], system) if is_on_its_way else seen
            may_run = not unit["active"] and (outage.stays_up(known) or outage.on_demand(known, system))
            may_be_down = unit["active"] and not live.active and _has_ended(unit, known, system)
            if unit["active"] != live.active and not (may_run or may_be_down or _is_open(unit, known)):
                wrong.append(f"{live.name} is {live.text}, and was {'active' if unit['active'] else 'not active'}")
            if unit["enabled"] in _SETTABLE and live.enabled != unit["enabled"]:
                wrong.append(f"{live.name} is {live.enabled or 'not there'}, and was {unit['enabled']}")
            for trigger in systemd.observe(unit.get("triggers", ()), system):
                if not trigger.active and not _waits_for_boot(trigger, live):
                    wrong.append(f"{trigger.name}, which starts {live.name}, is {trigger.text}, and was active")
            wrong += [f"{step.target}: {step.action} is still to be done, {step.why}" for step in _links(unit, reader)]
        came = [one.id for one, spared in _came(lines, system) if not spared]
        wrong += [f"{name} runs, and came with the change" for name in came]
        for one in processes:
            try:
                state = process.observe(one["definition"], system)
            except ServiceFailed as error:
                wrong.append(f"{one['definition']['name']}: {error.message}")
                continue
            if one["active"] != state.active:
                wrong.append(f"{state.name} is {state.text}, and was {'running' if one['active'] else 'not running'}")
        return wrong

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        return [line for line in lines if any(f'"{unit}"' in line for unit in LISTENING)]

    def programs(self, lines: Sequence[str]) -> set[str]:
        units, processes = _recorded(lines)
        return {unit["name"] for unit in units} | {one["definition"]["name"] for one in processes}

    def named(self, lines: Sequence[str]) -> set[str]:
        return {unit["name"] for unit in _recorded(lines)[0] if not unit.get("among_all")}

    def carried(self, lines: Sequence[str]) -> list[str]:
        """A unit without a record may run there, as it did before the recovery. The disks may be others, and so may the
        variables of systemd."""
        found = []
        for line in lines:
            with json_line.read(line) as (word, record):
                if word == _ENVIRONMENT or (record.get("among_all") and str(record["name"]).endswith(MOUNTING)):
                    continue
                mine = {key: value for key, value in record.items() if word != _ALL or key != _RUNNING}
                found.append(json_line.write(word, mine))
        return found

    def leave_open(self, lines: Sequence[str], name: str) -> tuple[list[str], bool]:
        """As for a unit of a cluster."""
        found = []
        for line in lines:
            with json_line.read(line) as (word, record):
                is_it = word == "unit" and record["name"] == name
                found.append(json_line.write(word, {**record, "clustered": True}) if is_it else line)
        return found, found != list(lines)

    def recorded_down(self, lines: Sequence[str]) -> set[str]:
        units = _recorded(lines)[0]
        return {unit["name"] for unit in units if not (unit["active"] or unit.get("passing") or unit.get("clustered"))}

    def will_stop(self, steps: Sequence[Step], at: Restore) -> Down:
        """The services that are to be restarted, and the services that depend on them. The caller notes them before
        they stop, in case of a kill."""
        mine = [step for step in steps if step.resource == SERVICES]
        if at.boot:
            return Down()  # No service runs yet.
        names = [step.target for step in mine if step.action == "restart" and "process" not in step.detail]
        ends = {step.target for step in mine if step.action == "stop"}
        definitions = [step.detail["process"] for step in mine if step.action == "restart" and "process" in step.detail]
        may = [name for name in names if name not in (*_ACCESS, *_NAMES) and not is_vital(name)]
        return outage.foresee(may, definitions, ends, at.system)

    def start_stopped(self, down: Down, at: Restore) -> tuple[list[Step], dict[str, str]]:
        started, left = outage.bring_up(down, at.system, wait=not at.boot)
        return [Step(SERVICES, "start", name, "was stopped while files came back") for name in started], left

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        every = any(one.get("names") is None and not one.get("processes") for one in declared)
        if spec["names"] is None and not every:
            yield "without a limit"
        known: set[str] = set()
        for one in declared:
            if one.get("names"):
                named = read(self.options, {"names": one["names"]}, self.name)["names"]
                # The units' own names count too, for the aliases that this host knows.
                known |= {*map(systemd.unit_name, named), *_own_names(named, system)}
        mine = [process.check(one) for given in declared for one in given.get("processes") or []]
        names = set(spec["names"] or ())
        yield from sorted(names - known) if not every else ()
        for one in spec["processes"]:
            if one not in mine:
                yield f"process {names_of(one)}"
        for line in lines:
            with json_line.read(line) as (word, record):
                if word == "unit" and record["name"] not in names and not every:
                    yield str(record["name"])
                if word == "process" and record["definition"] not in spec["processes"]:
                    yield f"process {names_of(record['definition'])}"

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> set[str]:
        """The links of the units, recorded and present, and directories that hold nothing but such links."""
        found = {path for unit in _recorded(lines)[0] for path in unit.get("links", {})}
        names = [unit["name"] for unit in _recorded(lines)[0]] if spec["names"] is None else spec["names"]
        reader = links.reader()
        for name in names if changed else ():
            found |= links.of(name, reader).keys()
        held = {path for path in changed if links.is_pulling(path) and set(links.in_folder(path)) <= found}
        return found | held

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """A declaration of the units whose files or links changed."""
        units = {path: units for path in changed if (units := links.units_of(path))}
        names = sorted({unit for found in units.values() for unit in found})
        return ({"names": names} if names else None), set(units)

    def may_have_tree(self, path: str) -> bool:
        """Whether the path may be a file of a unit: its name may be an alias that this host no longer knows."""
        return os.path.dirname(path) in _OF_UNITS


def _own_names(names: list[str], system: System) -> list[str]:
    """The units' own names, also where aliases were declared: links, drop-ins and the verification use these names.

    Raises UsageError for a pattern or a template, which name no single unit.
    """
    if not all(one and "/" not in one for one in names):
        raise UsageError(f"services: names must be a list of units, not {names!r}")
    for name in names:
        try:
            systemd.check_name(name)
        except UsageError as error:
            raise UsageError(f"services: {error.message}") from error
    units = [systemd.unit_name(name) for name in names]
    with suppress(ServiceFailed):  # The capture will report that systemd does not answer.
        units = systemd.own_names(units, system) if system.has_systemd() else units
    return sorted(set(units))


def _triggers(names: Sequence[str]) -> list[str]:
    """The sockets and paths among the units. A timer is none: it starts its unit at a time of its own."""
    return [name for name in names if name.endswith((".socket", ".path"))]


def _limits(state: ServiceState, unit: Unit) -> list[str]:
    """Sentences on the actions that a rollback cannot take for the unit."""
    if not state.exists:
        return ["there is no such unit on this host: what a change makes of it is stopped and taken away, no more"]
    if unit.load == "masked":
        return ["it runs although it is masked: once it is stopped it cannot be started again"] if state.active else []
    found = []
    if unit.load not in ("loaded", ""):
        found.append(f"systemd cannot read its unit file ({unit.load})")
    if unit.transient:
        found.append("it is transient: once it is stopped nothing of it is left to be started again")
    if not unit.starts:
        found.append("it refuses to be started by hand: where a change stops it, it stays down")
    if not unit.stops:
        found.append(
            "it refuses to be stopped by hand: it is "
            + ("reloaded, never restarted" if unit.reloads else "not restarted when its files come back")
        )
    if unit.source.startswith("/etc/init.d/"):
        found.append("it is a script of System V: systemd does not know whether what it started still runs")
    elif unit.enabled == "generated":
        source = unit.source or "files that systemd does not tell"
        found.append(f"it is made by a generator from {source}: it comes back as far as that is declared in files")
    if systemd.passing(state):
        found.append(f"it was {state.text}: it is neither started nor stopped")
    if unit.clustered:
        found.append("a cluster manager starts and stops it: it is neither started, nor stopped, nor restarted")
    return found


def _kept_up(state: ServiceState, unit: Unit) -> list[str]:
    """The sentence on a unit that is neither stopped nor reloaded when its files come back."""
    if not state.active or unit.reloads or not unit.stops:
        return []
    why = outage.spared(unit, running.processes([unit.id])[unit.id] if unit.acts_on_host else ())
    return [f"it is not restarted when its files come back: {why}"] if why else []


def _failed(state: ServiceState) -> bool:
    return state.text.startswith("failed")


def _recorded(lines: Sequence[str]) -> tuple[list[UnitRecord], list[ProcessRecord]]:
    """(units, processes) of the lines; Damaged where ``capture`` cannot have written a line."""
    units: list[UnitRecord] = []
    processes: list[ProcessRecord] = []
    for line in lines:
        with json_line.read(line) as (word, record):
            if word == "unit":
                systemd.check_name(record["name"])
                units.append(cast(UnitRecord, record))
            elif word == "process":
                processes.append(cast(ProcessRecord, record))
            elif word == _ALL:
                _marks([line])
            elif word == _ENVIRONMENT:
                environment.check(record)
            else:
                raise ValueError(f"{word} is neither a unit nor a process")
    return units, processes


def _recorded_variables(lines: Sequence[str], system: System) -> dict[str, str]:
    """The variables of systemd in the lines; an older record has none, and that of another boot counts for nothing."""
    found: dict[str, str] = {}
    for line in lines:
        with json_line.read(line) as (word, record):
            boot, variables = environment.check(record) if word == _ENVIRONMENT else ("", {})
            found.update(variables if boot == system.boot_id() else {})
    return found


def _variables(lines: Sequence[str], system: System) -> list[Step]:
    """The steps that take away new variables which systemd gives to each service, and name those that differ."""
    then = _recorded_variables(lines, system)
    now = environment.read_variables(system) if then else {}
    if not now:
        return []
    why = "systemd gives it to every service that starts"
    return [
        *(Step(SERVICES, _ENVIRONMENT, name, why) for name in now if name not in then),
        *(Step(SERVICES, "leave", name, why, {"note": note}) for name, note in environment.notes(then, now).items()),
    ]


def _with_variables(at: Restore, live: ServiceState, steps: Sequence[Step]) -> Restore:
    """The circumstances for a service: one that has started since has the variables of the change."""
    has = (live.started or 0.0) > at.began and any(step.action == _ENVIRONMENT for step in steps)
    return at._replace(affecting=[*at.affecting, "variables of systemd"]) if has else at


def _until_boot(unit: Unit, at: Restore) -> list[Step]:
    """The step that names a file which somebody has written for the unit until the next boot, and which stays."""
    mine = [
        one
        for one in unit.files
        if one.startswith("/run/systemd/system/")
        and not (one.endswith(_BY_PROGRAMS) or os.path.basename(one).startswith(_OF_NETPLAN))
    ]
    path = next((one for one in mine if one not in at.changed and running.is_newer(one, at.began)), "")
    note = (
        f"{unit.id} keeps {path}, which was written since, until the next boot: remove it, or declare the unit by name"
    )
    return [Step(SERVICES, "leave", unit.id, "a file lasts until the next boot", {"note": note})] if path else []


def _links(unit: UnitRecord, reader: links.Reader | None = None) -> list[Step]:
    """The steps that bring back the recorded set of the unit's links."""
    then: dict[str, str] = unit.get("links", {})
    live = links.of(unit["name"], reader) if "links" in unit else {}
    gone = [Step(SERVICES, "unlink", path, f"{unit['name']} was not enabled so") for path in live if path not in then]
    back = [
        Step(SERVICES, "link", path, f"{unit['name']} was enabled so", {"to": to})
        for path, to in then.items()
        if live.get(path) != to
    ]
    return gone + back


def _enablement(unit: UnitRecord, live: ServiceState) -> list[Step]:
    """The steps that enable, disable or mask a unit that was recorded without its links. Files are put back first: a
    unit file that is missing now will be back, and the file of a new unit may be gone."""
    wanted = unit["enabled"] if unit["exists"] else "disabled"
    if live.enabled == wanted:
        return []
    steps = [Step(SERVICES, "unmask", live.name, "is masked")] if live.enabled.startswith("masked") else []
    if wanted == "disabled":
        settable = live.enabled in ("enabled", "enabled-runtime") or (bool(steps) and unit["exists"])
    else:
        settable = wanted in _SETTABLE
    if settable:
        steps.append(Step(SERVICES, _SETTABLE[wanted], live.name, f"is {live.enabled or 'not there'}"))
    return steps


def _activity(
    live: ServiceState,
    then: UnitRecord | ProcessRecord,
    unit: Unit,
    pids: Sequence[int],
    at: Restore,
    detail: dict[str, object],
) -> list[Step]:
    """The step that stops, starts, reloads or restarts the service, by a verb that systemd does not refuse; ``leave``
    where there is no such verb."""
    name = live.name
    why, anew, is_own = _concern(live, unit, pids, at, bool(then.get("among_all")))
    if unit.clustered or then.get("clustered"):
        if live.active and why and unit.reloads:
            rest = _spare(unit, why, _OF_CLUSTER, pids, at) if anew else []
            return [Step(SERVICES, "reload", name, why, {**detail, "spared": _OF_CLUSTER}), *rest]
        return _spare(unit, why, _OF_CLUSTER, pids, at) if live.active else []
    if then.get("passing") and not live.active:
        return []
    if not then["active"] and not then.get("passing"):
        # At boot a unit that the change enabled is queued, and would start even after its link is gone.
        up = live.active or live.queued or systemd.passing(live)
        # A service that starts on demand may run, but not with the programs of the change.
        wanted = up and (bool(why) or not outage.on_demand(unit, at.system))
        if wanted and outage.stays_up(unit):
            return _spare(unit, "it was not active", _FOR_ALL, pids, at)
        return [Step(SERVICES, "stop", name, "was not active", detail)] if wanted and unit.stops else []
    if not live.active:
        # The start of a socket stops its service.
        vital = is_vital(name) and any(one.active for one in systemd.observe(unit.triggers, at.system))
        starts = unit.starts and not vital and not _has_ended(then, unit, at.system)
        return [Step(SERVICES, "start", name, f"is {live.text}", detail)] if starts else []
    if not why:
        return []
    is_older = 0.0 < (live.started or 0.0) <= at.began
    spared = outage.spared(unit, pids, is_older) if unit.stops and "process" not in detail else ""
    if then.get("among_all") and name.endswith(MOUNTING):
        spared = _IN_USE
    if unit.reloads and (spared or not anew or not unit.stops):
        reloaded = Step(SERVICES, "reload", name, why, {**detail, "spared": spared} if spared else detail)
        return [reloaded, *(_not_anew(unit, (why, is_own), spared, pids, at) if anew else ())]
    if spared:
        # Any file may be that of a unit which somebody has named, and no process shows what it has read.
        is_told = anew or (spared == outage.DONE and not then.get("among_all"))
        return _spare(unit, why if is_told else "", spared, pids, at)
    if unit.stops:
        return [Step(SERVICES, "restart", name, why, detail)]
    return _not_anew(unit, (why, is_own), "", pids, at) if anew else []


def _with_failed(planned: Sequence[Step], live: ServiceState, at: Restore) -> list[Step]:
    """The steps of a service, and those that failed before while the same start of the service still runs."""
    found = list(planned)
    for failed in at.failed(SERVICES, live.name):
        if live.active and failed.detail.get(_IDENTITY) == live.identity:
            found += [failed] if not any(one.action in ("stop", "restart", failed.action) for one in found) else []
    return [
        replace(step, detail={**step.detail, _IDENTITY: live.identity}) if step.action in Services.unseen else step
        for step in found
    ]


def _taken_along(
    known: Sequence[Unit], up: Sequence[tuple[UnitRecord, Unit]], steps: Sequence[Step], system: System
) -> list[Step]:
    """The steps that start what goes down with a unit that is stopped. ``up``: what runs, and ran at the checkpoint."""
    takes = {unit.id: unit.takes for unit in known}
    may = {then["name"]: (then, unit) for then, unit in up if unit.starts and not (unit.is_job or _is_open(then, unit))}
    starting = {step.target for step in steps if step.action in ("start", "restart")}
    found: dict[str, str] = {}
    for stopped in (step.target for step in steps if step.action == "stop"):
        down = [stopped]
        for name in down:
            down += [one for one in takes.get(name, ()) if one not in down]
        found.update({one: stopped for one in down[1:] if one in may and one not in starting})
    return [
        Step(SERVICES, "start", name, f"stops with {stopped}")
        for name, stopped in found.items()
        if not _has_ended(*may[name], system)
    ]


def _is_open(then: UnitRecord, unit: Unit) -> bool:
    """Whether the record leaves open if the unit is to run."""
    return bool(then.get("passing") or then.get("clustered") or unit.clustered)


def _has_ended(then: UnitRecord | ProcessRecord, unit: Unit, system: System) -> bool:
    """Whether a unit that is down has done its work, and is started on demand: a job of a timer, which runs again at
    its time, or a service that ended well by itself, as when nobody asks it. The record tells if the boot starts it:
    the change may have disabled it."""
    if not then.get("among_all"):
        return False
    triggers = [one.name for one in systemd.observe(unit.triggered_by, system) if one.active]
    # An automount lets a mount go that nobody uses.
    if unit.id.endswith(".mount") and any(one.endswith(".automount") for one in triggers):
        return True
    is_job = then.get("enabled") not in _BY_ITSELF and any(one.endswith(".timer") for one in triggers)
    return is_job or (bool(triggers) and unit.result == "success" and systemd.ended_by_itself(unit.id, system))


def _waits_for_boot(trigger: ServiceState, live: ServiceState) -> bool:
    """Whether a socket can only start once its service is down, and nobody may stop that."""
    return live.active and is_vital(trigger.name)


def _put_back_for(unit: Unit, pids: Sequence[int], at: Restore) -> str:
    """The first file that is put back and that the unit reads or runs; or empty."""
    return running.touches(unit.files, at.changed) or running.replaced(pids, at.changed, at.since)


def _spare(unit: Unit, why: str, spared: str, pids: Sequence[int], at: Restore) -> list[Step]:
    """The step that leaves a unit up and names it for a restart; none where nothing of its own is put back now, and
    there is no ``why``."""
    own = _put_back_for(unit, pids, at) or _named_after(unit, at.changed)
    if not (at.changed or at.affecting) or not (why or own):
        return []
    why = why or f"{own} was put back"
    what = "the host" if spared == _FOR_ALL else "it, or the host,"
    to_do = "stop it where nothing needs it" if spared == _ON_DEMAND else f"restart {what} when that suits"
    note = f"{unit.id} stays up: {why}, and {spared}: {to_do}"
    return [Step(SERVICES, "leave", unit.id, why, {"note": note, "owed": [own] if own else []})]


def _not_anew(unit: Unit, cause: tuple[str, bool], spared: str, pids: Sequence[int], at: Restore) -> list[Step]:
    """The step that names a unit which a reload alone does not bring back, and which is not started anew. It is left
    where the ``cause`` (why, and whether a file of its own) is certain; else it may be as it was, and a note names
    it."""
    why, is_own = cause
    spared = spared or (outage.spared(unit, pids) if is_vital(unit.id) else "")
    if not spared and is_own:
        return [Step(SERVICES, "leave", unit.id, why)]
    return _spare(unit, why, spared or _REFUSES, pids, at)


def _concern(
    live: ServiceState, unit: Unit, pids: Sequence[int], at: Restore, among_all: bool = False
) -> tuple[str, bool, bool]:
    """(why the rollback concerns the running service, or an empty text; whether a reload is not enough; whether the
    reason is a file of its own, and not that it may hold more of the change)."""
    if not live.active:
        return "", False, False
    started = live.started or 0.0
    own = running.touches(unit.files, at.changed) or running.newer(unit.files, max(at.since, started))
    mapped = "" if own else running.replaced(pids, at.changed, at.since)
    if own or mapped:
        return f"{own or mapped} is not what it was started with", True, True
    why = "files changed" if at.changed else f"{at.affecting[0]} were put back" if at.affecting else ""
    if not why or not unit.is_service:
        return "", False, False
    if among_all and live.touched <= at.began and not _named_after(unit, at.changed):
        return "", False, False
    if (not started or started > at.began) and live.name not in _ACCESS:
        return why, True, False  # The service may hold more of the change than a reload undoes.
    held = running.writes(pids, at.changed)
    return (f"it writes {held}", True, False) if held else (why, False, False)


def _named_after(unit: Unit, changed: Sequence[str]) -> str:
    """The first path below /etc that has the name of the unit or of its program, perhaps with a suffix; or empty."""
    stem = unit.id.rpartition(".")[0].partition("@")[0]
    programs = {os.path.basename(path) for path in unit.files if "/bin/" in path or "/sbin/" in path}
    words = {word.removeprefix("systemd-") for word in {stem, *programs}}
    below = [path for path in changed if is_within(path, "/etc")]
    return next((path for path in below if words & {part.split(".")[0] for part in path.split("/")[2:]}), "")


def _all_but(excepts: Sequence[str], system: System) -> list[str]:
    return [name for name in systemd.every(system) if name not in excepts]


def _came(lines: Sequence[str], system: System, at: Restore | None = None) -> list[tuple[Unit, str]]:
    """Where all units are recorded: the units that run and have no record, so that they did not run at the checkpoint,
    each with the words why it stays up, if it does. With an older record, only the units count that have lost their
    unit file, or will lose it. ``at``: of a plan."""
    marks = _marks(lines)
    excepts = [name for one in marks for name in one.excepts]
    if not marks:
        return []
    is_told, all_told = all(one.generated for one in marks), all(one.running for one in marks)
    known = {unit["name"] for unit in _recorded(lines)[0]}
    names = [name for name in _all_but(excepts, system) if name not in known]
    changed = at.changed if at else ()
    found = []
    for live, unit in systemd.view(names, system):
        if unit.id.endswith(MOUNTING) and not all_told:
            continue  # An older record, and that of another host, has no mounts.
        if at is None and systemd.passing(live):
            live = systemd.settled(live.name, system, _BRIEFLY)  # The unit may be on its way down.
        own = (f"/{unit.id}", f"/{links.template(unit.id)}")
        files = [path for path in unit.files if path.endswith(own) or path == unit.source]
        gone = not live.exists or any(path in changed or not os.path.lexists(path) for path in files)
        untold = unit.enabled == "generated" and not (is_told or unit.source.startswith("/etc/init.d/"))
        up = live.active or systemd.passing(live) or (at is not None and live.queued)
        came = gone or (all_told and _was_down(live, unit, system, at))
        if up and came and not untold and unit.stops:
            # Nobody enables a static unit, and systemd does not tell which program has started it.
            is_shared = not gone and unit.enabled == "static" and "@" not in unit.id
            is_shared = is_shared and not running.touches(unit.files, changed)
            spared = _FOR_ALL if outage.stays_up(unit) else _ON_DEMAND if is_shared else ""
            found.append((unit._replace(id=live.name), spared))
    return found


def _forget_failures(at: Restore) -> None:
    """Have systemd forget the units that failed since the change began and have no file any more, as they end without
    their program: the host would count as degraded."""
    listed = at.system.run([*_FAILURES, "--plain", "--full", "--no-legend", "--no-pager"], 30.0).out.splitlines()
    names = [words[0] for words in map(str.split, listed) if words[1:2] == ["not-found"]]
    with suppress(ServiceFailed):
        gone = [one.name for one in systemd.observe(names, at.system) if one.touched > at.began]
        for name in gone:
            systemd.act("reset-failed", name, at.system)


def _was_down(live: ServiceState, unit: Unit, system: System, at: Restore | None) -> bool:
    """Whether a unit without a record, of which the file stays, did not run at the checkpoint: it is none that others
    start on demand, and none that the record passed over under the file that it had."""
    if unit.clustered or unit.is_of_a_connection or unit.is_of_snapd or outage.on_demand(unit, system):
        return False
    if at is None:
        return True
    passed_over = (live.started or 0.0) <= at.began and bool(running.touches(unit.files, at.changed))
    return not passed_over and not (at.boot and unit.enabled == "static")  # A boot starts units of its own.


class _Mark(NamedTuple):
    """A line that declares all units: those that are left alone, whether generated units are recorded too, and whether
    a unit without a record did not run."""

    excepts: list[str]
    generated: bool
    running: bool


def _marks(lines: Sequence[str]) -> list[_Mark]:
    """The records of the lines that declare all units."""
    found = []
    for line in lines:
        with json_line.read(line) as (word, record):
            if word == _ALL:
                excepts = [str(name) for name in record["except"]]
                found.append(_Mark(excepts, bool(record.get(_GENERATED)), bool(record.get(_RUNNING))))
    return found


def _carry_out(step: Step, verb: str, at: Restore) -> str:
    """Carry out the step with this verb; return words for its reason, or an empty text."""
    if "process" in step.detail:
        process.act(verb, step.detail["process"], at.system)
    elif verb == "daemon-reload":
        return "; ".join(sockets.daemon_reload(step.detail["units"] if not at.boot else (), at.system))
    elif verb == "link":
        links.make(step.target, step.detail["to"])
    elif verb == "unlink":
        links.remove(step.target)
    elif verb == _ENVIRONMENT:
        words, note = environment.take_away(step.target, at.system)
        step.detail.update({"note": note} if note else {})
        return words
    elif verb == "leave" and "note" in step.detail:
        return ""  # The unit is named for a restart.
    elif verb == "leave":
        raise ServiceFailed(f"{step.why}, and it refuses to be restarted by hand: restart the host when that suits")
    elif at.boot and verb == "reload":
        systemd.act("reload" if "spared" in step.detail else "reload-or-restart", step.target, at.system, wait=False)
    elif verb == "reload":
        return reload(step.target, at.system).words
    else:
        systemd.act(verb, step.target, at.system, wait=not at.boot)
    return ""
