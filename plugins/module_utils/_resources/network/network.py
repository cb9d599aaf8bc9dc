# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``network``: the running addresses, routes, rules and name servers, and the files that configure them.

The files go back with all other files. Then the tool that manages an interface applies them where the running state
differs. State that the tool does not bring back is set with ``ip``.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from ..._dataclasses import dataclass, field
from ..._errors import EvenkeelError, RestoreFailed, UsageError
from ..._files.step import Step
from ..._host.mounts import mount_points
from ..._host.options import Options, read
from ..._host.system import System
from ..._services import systemd
from .. import json_line
from ..kind import Kind, Restore, Sink, Spec, Suggestion, is_within
from . import running, tools
from .running import Difference, State

# Files beside the tools' own files: files that all tools share, and files of programs that ask for an address.
_FILES = (
    *("/etc/hosts", "/etc/resolv.conf", "/etc/resolvconf", "/etc/resolvconf.conf", "/etc/iproute2", "/etc/dhcp"),
    *("/etc/dhcpcd.conf", "/etc/dhclient.conf"),
)
_RESOLVED = "/run/systemd/resolve/resolv.conf"
# The passes that set differences with ip. Each pass looks again, because a change may take away other state.
_PASSES = 6
# Seconds without a change after which a tool is done, seconds to wait for an address from a server, and seconds to
# wait for a tool.
_QUIET = 2.0
_LEASE = 20.0
_LIMIT = 20.0
_SHOWN = 5


@dataclass
class _ProgramFacts:
    """The routes and rules of programs as they were before systemd-networkd acted, if it did. ``is_open``: they are to
    be read before it acts."""

    is_open: bool
    state: State = field(default_factory=lambda: running.of(()))


@dataclass
class Recorded:
    """The state that the lines record. ``managed``: interface -> (its tool, the tool's name of its configuration).
    ``off``: the tools that were told to configure nothing. ``queues`` and ``switches``: whether the queues of
    interfaces, and ``off``, are recorded: they were not at first."""

    network: State
    only: list[str] = field(default_factory=list)
    excepts: set[str] = field(default_factory=set)
    managed: dict[str, tuple[str, str]] = field(default_factory=dict)
    units: dict[str, dict[str, object]] = field(default_factory=dict)
    off: list[str] = field(default_factory=list)
    queues: bool = False
    switches: bool = False


class Network(Kind):
    """Addresses, routes, rules and name servers as they run, with the files of the tool that configures them.

    The tool is ifupdown, netplan, systemd-networkd or NetworkManager, with its units, C(/etc/hosts) and
    C(/etc/resolv.conf). A rollback has the tool apply its files where the running state differs, and sets state that is
    still missing with C(ip). Where nothing differs nothing is applied. Addresses that a server or a router gives have
    to be there again, and may differ. Routes of routing daemons stay as they are.

    interfaces: Names or patterns of interfaces. The default is all but those that containers, virtual machines and VPNs
    make. For example V([eth0, 'wg*']).

    except: Addresses and networks that are left alone, because they move between hosts. Addresses of
    keepalived and Pacemaker are known from their configuration. For example V([192.0.2.10, '2001:db8:7::/64']).
    """

    name = "network"
    since = "0.2.0"
    order = 45
    of_the_machine = True
    options: Options = {
        "interfaces": {"type": "list", "elements": "str", "default": []},
        "except": {"type": "list", "elements": "str", "default": []},
    }
    changed_by_programs = True
    read_at_start = False
    applies_files = True
    changes_files = True
    unseen = ("reload",)
    on_plain_host: Spec = {}

    def __init__(self, system: System | None = None, etc: str = "/etc", conf: str = "/proc/sys/net/ipv6/conf") -> None:
        """``system`` runs ip for the check of a declaration. ``etc``: the directory of the files. ``conf``: that of the
        kernel's values of interfaces."""
        self.system = system or System()
        self.etc = etc
        self.conf = conf

    def check(self, spec: Spec) -> dict[str, object]:
        """The declaration; UsageError where the program ip is missing, or an interface of that name."""
        found = read(self.options, spec, self.name)
        only, excepts = sorted(set(found["interfaces"])), sorted(set(found["except"]))
        for one in excepts:
            try:
                ipaddress.ip_network(one, strict=False)
            except ValueError:
                raise UsageError(f"network: {one!r} in except is no address and no network; write 192.0.2.10") from None
        if not shutil.which("ip"):
            raise UsageError("network: the program ip is missing; install iproute2")
        live = running.read_network(only, self.system).links
        for one in only:
            if not set(one) & set("*?[") and one not in live:
                there = ", ".join(sorted(running.read_network(["*"], self.system).links))
                raise UsageError(f"network: there is no interface {one!r}; there are {there}")
        return {key: value for key, value in (("interfaces", only), ("except", excepts)) if value}

    def trees(self, spec: Spec) -> list[str]:
        """The files of all tools, also of tools that are not installed; but no file that is a mount of its own."""
        paths = [*_FILES, *(path for tool in tools.TOOLS for path in tool.files)]
        mounted = mount_points()
        return sorted(one for one in map(self._here, paths) if os.fsencode(one) not in mounted)

    def _here(self, path: str) -> str:
        return self.etc + path[len("/etc") :]

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """A line of a word and a record for each fact: ``link``, ``address``, ``lease`` (a dynamic address exists),
        ``route``, ``rule``, ``dns``, ``queue``; ``managed``, ``unit`` and ``off`` for the tools; ``queues`` and
        ``switches`` (for ``off``) where these are looked at; ``scope`` for the declaration, with the addresses that
        were known to move between hosts."""
        then = Recorded(running.of(()), spec.get("interfaces", []), {*spec.get("except", []), *running.moved()})
        then.queues = shutil.which("tc") is not None
        network = self._read_network(then, system)
        lines = []
        if then.only or then.excepts:
            lines.append(json_line.write("scope", {"interfaces": then.only, "except": sorted(then.excepts)}))
        for device, (tool, configuration) in sorted(tools.managed(system).items()):
            if device in network.links:
                about = {"dev": device, "tool": tool, "configuration": configuration}
                lines.append(json_line.write("managed", about))
        lines += [json_line.write("unit", one) for one in tools.units(system).values()]
        switches = tools.switches(system)
        lines += [json_line.write("off", {"tool": one}) for one, is_on in switches.items() if not is_on]
        lines += [json_line.write("switches", {})] if switches else []
        lines += [json_line.write("queues", {})] if then.queues else []
        return lines + sorted(network.facts)

    def _read_network(self, then: Recorded, system: System) -> State:
        found = running.read_network(then.only, system, then.excepts, then.queues)
        resolver = running.resolver(self._here("/etc/resolv.conf"), _RESOLVED)
        if resolver is None:
            return found
        # A server of dynamic addresses also gives name servers, which may differ each time.
        resolver = {"any": bool(resolver["servers"])} if found.leases else resolver
        return running.of([*found.facts.values(), (running.DNS, resolver)])

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        then = recorded(lines)
        made = {"", "veth", *running.MADE_ANEW}
        bare = [one["dev"] for one in then.network.links.values() if one["kind"] not in made]
        words = [
            f"network: no known tool manages {device}: it is set as it was while it is there, and not made anew"
            for device in sorted(set(bare) - set(then.managed))
        ]
        words += [
            f"network: {one['dev']} has the queue {one['kind']}, which is not made again with its classes and filters"
            for one in then.network.records(running.QUEUE)
        ]
        mounted = mount_points()
        for path in ("/etc/hosts", "/etc/resolv.conf"):
            if os.fsencode(self._here(path)) in mounted:
                words.append(f"network: {path} is a mount of its own, and is not put back")
        return words

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """The steps: first the units of tools, then the tools whose files were put back, then each interface that
        differs.

        Early at boot only the units: the programs that they start read the files.
        """
        then, detail = recorded(lines), {"lines": list(lines)}
        steps = []
        live_units = tools.units(at.system) if then.units else {}
        for name, unit in then.units.items():
            todo = tools.verbs(unit, live_units[name]) if name in live_units else []
            steps += [Step(self.name, verb, name, "it was in another state", detail) for verb in todo]
        # Stop units before others start: no two tools may configure an interface.
        steps.sort(key=lambda step: tools.VERBS.index(step.action))
        if at.boot:
            return steps
        for name in self._switched_off(then, at.system):
            steps.append(Step(self.name, "switch on", name, "it was told to configure nothing", detail))
        for tool in tools.TOOLS:
            failed = [path for step in at.failed(self.name, tool.name) for path in step.detail.get("paths", ())]
            paths = self._put_back_for(tool, at) or failed
            if paths and _is_in_use(tool, then):
                why = f"{paths[0]} was put back" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
                steps.append(Step(self.name, "reload", tool.name, why, {**detail, "paths": paths}))
        now = self._read_network(then, at.system)
        found = running.differences(then.network, now)
        for target, group in _grouped(found).items():
            words = "; ".join(one.shown for one in group[:_SHOWN])
            more = f" and {len(group) - _SHOWN} more" if len(group) > _SHOWN else ""
            by_tool = target in then.managed and any(one.word != running.QUEUE for one in group)
            steps.append(Step(self.name, "apply" if by_tool else "set", target, words + more, detail))
        return steps + [self._leaving(one, detail=detail) for one in running.missing_queues(then.network, now)]

    def _switched_off(self, then: Recorded, system: System) -> list[str]:
        found = tools.switches(system) if then.switches else {}
        return [name for name, is_on in found.items() if not is_on and name not in then.off]

    def _leaving(self, difference: Difference, because: str = "", detail: Mapping[str, object] | None = None) -> Step:
        """The step that names what nobody sets again."""
        note = f"network: {difference.target}: {difference.shown}{because}"
        return Step(self.name, "leave", difference.target, difference.shown, {**(detail or {}), "note": note})

    def _put_back_for(self, tool: tools.Tool, at: Restore) -> list[str]:
        """The files of the tool that were put back, and that the tool has not read since."""
        known = {path for step in at.steps if step.resource == self.name for path in step.detail.get("paths", ())}
        mine = [self._here(path) for path in tool.files]
        return sorted({path for path in at.changed if any(is_within(path, one) for one in mine)} - known)

    def obstacles(self, lines: Sequence[str], at: Restore) -> list[str]:
        then = recorded(lines)
        words = []
        for device, (name, _configuration) in sorted(then.managed.items()):
            if not shutil.which(tools.BY_NAME[name].command):
                words.append(f"network: {device} was managed by {name}, which is not installed: ip sets what it can")
        try:
            there = self._read_network(then, at.system).links
        except EvenkeelError as error:
            return [*words, error.cause]
        for device, link in then.network.links.items():
            if device not in there and device not in then.managed and link["kind"] not in running.MADE_ANEW:
                words.append(f"network: the interface {device} is gone, and nothing here makes it anew")
        return words

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out the steps of the units, then of the tools, then set state with ``ip``. RestoreFailed names the
        differences that are left."""
        then = recorded(steps[0].detail["lines"]) if steps else Recorded(running.of(()))
        failed: dict[str, str] = {}
        programs = _ProgramFacts(not at.boot)
        for step in steps:
            if step.target in tools.NETWORKD and step.action in ("start", "reload"):
                self._read_programs(programs, then, at.system)
            if step.target in tools.UNITS:
                try:
                    systemd.act(step.action, step.target, at.system, wait=not at.boot)
                except EvenkeelError as error:
                    failed[step.target] = error.cause
            elif step.action == "switch on":
                words = tools.apply([[*tools.BY_NAME[step.target].switch, "on"]], at.system)
                failed.update({step.target: words} if words else {})
            elif step.action == "reload":
                tool = tools.BY_NAME[step.target]
                words = tools.apply(tool.reload, at.system)
                words = tools.apply(tool.reapply(step.detail.get("paths", ()), at.system), at.system) or words
                failed.update({step.target: words} if words else {})
        if not at.boot:
            if any(step.action in ("switch on", "reload", "start") for step in steps):
                self._settled(then, _QUIET, at.system)
            self._apply(then, programs, failed, at.system)
        notes = self._give_back(programs, at.system)
        if not at.boot:
            gone = running.missing_queues(then.network, self._read_network(then, at.system))
            notes += [self._leaving(one) for one in gone]
        steps = [step for step in steps if step.action != "leave"]
        wrong = _grouped(self._differences(then, at.system)) if not at.boot else {}
        left = [f"{target}: {one.shown}{_because(failed, target, then)}" for target in wrong for one in wrong[target]]
        own = {*tools.UNITS, *tools.BY_NAME}
        left += [f"{target}: {words}" for target, words in failed.items() if target in own]
        done = [step for step in steps if step.target not in wrong and step.target not in failed]
        if left:
            raise RestoreFailed(
                f"the network is not as recorded: {'; '.join(left[:20])}",
                done=[one.shown() for one in [*done, *notes]],
                left=left,
            )
        return [*(step for step in steps if step.target not in wrong), *notes]

    def _apply(self, then: Recorded, programs: _ProgramFacts, failed: dict[str, str], system: System) -> None:
        """Have tools apply their configuration, then set the remaining differences with ip. ``failed`` gets target ->
        why."""
        running.allow_ipv6(self._differences(then, system), self.conf)
        asked = False
        # No tool removes a queue that it did not set.
        found = [one for one in self._differences(then, system) if one.word != running.QUEUE]
        for device in _grouped(found):
            tool, configuration = then.managed.get(device, ("", ""))
            if tool:
                if tool in tools.NETWORKD:
                    self._read_programs(programs, then, system)
                words = tools.apply(tools.BY_NAME[tool].renew(device, configuration), system)
                failed.update({device: words} if words else {})
                asked = True
        if asked:
            self._settled(then, _LIMIT, system)
        for number in range(_PASSES):
            now = self._read_network(then, system)
            for one, argv in running.commands(running.differences(then.network, now), now, removing=number % 2 == 1):
                done = system.run(argv, running.TIMEOUT)
                if done.rc != 0:
                    failed[one.target] = f"{' '.join(argv)}: {done.words}"
        if any(one.word == running.DNS for one in self._differences(then, system)):
            words = tools.apply(tools.BY_NAME["resolved"].reload, system)
            failed.update({running.RESOLVER: words} if words else {})
            self._settled(then, _QUIET, system)

    def _read_programs(self, programs: _ProgramFacts, then: Recorded, system: System) -> None:
        """Read the routes and rules of programs before systemd-networkd acts for the first time."""
        if programs.is_open:
            programs.is_open = False
            with suppress(EvenkeelError):  # Units can go back without ip.
                programs.state = running.of_programs(self._read_network(then, system), system)

    def _give_back(self, programs: _ProgramFacts, system: System) -> list[Step]:
        """Set the routes and rules of programs again that systemd-networkd took away; a step that names each of those
        that are still missing."""
        if not programs.state.facts:
            return []
        now = running.of_programs(running.of(()), system)
        missing = running.can_be_set(running.missing_from(programs.state, now), system)
        failed: dict[str, str] = {}
        for one, argv in running.commands(missing, now, removing=False):
            # A route that a program sets in this moment is not replaced.
            done = system.run(["add" if word == "replace" else word for word in argv], running.TIMEOUT)
            failed.update({one.shown: f" ({done.words})"} if done.rc != 0 else {})
        still = running.missing_from(programs.state, running.of_programs(running.of(()), system))
        return [self._leaving(one, f", which a program had set{failed.get(one.shown, '')}") for one in still]

    def _settled(self, then: Recorded, limit: float, system: System) -> None:
        """Wait until the network is as recorded, or until it no longer changes, or for ``limit`` seconds."""
        begun = changed = system.monotonic()
        seen = None
        while True:
            found = self._differences(then, system)
            now = system.monotonic()
            if seen is None or found != seen:
                seen, changed = found, now
            lease = any(one.word == running.LEASE and one.missing for one in found)
            limit = max(limit, _LEASE) if lease else limit
            if not found or now - begun >= limit or (now - changed >= _QUIET and not lease):
                return
            system.sleep(0.2)

    def _differences(self, then: Recorded, system: System) -> list[Difference]:
        return running.differences(then.network, self._read_network(then, system))

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        then = recorded(lines)
        live = tools.units(system) if then.units else {}
        words = [
            f"{name} is not as it was: {' and '.join(tools.verbs(unit, live[name]))} is to be done"
            for name, unit in then.units.items()
            if name in live and tools.verbs(unit, live[name])
        ]
        words += [f"{name} was told to configure nothing" for name in self._switched_off(then, system)]
        return words + [f"{one.target}: {one.shown}" for one in self._differences(then, system)]

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        return list(lines)

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        missing = {one for given in declared for one in given.get("except", [])} - set(spec.get("except", []))
        if missing:
            yield f"with what is left alone now ({', '.join(sorted(missing))})"
        patterns = [one.get("interfaces", []) for one in declared]
        for name, link in recorded(lines).network.links.items():
            if not any(running.is_ours(name, str(link["kind"]), only) for only in patterns):
                yield f"of the interface {name}"

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """A declaration of the whole network, where a changed file belongs to a tool."""
        mine = self.trees({})
        found = {path for path in changed if any(is_within(path, one) for one in mine)}
        return ({} if found and shutil.which("ip") else None), found


def _is_in_use(tool: tools.Tool, then: Recorded) -> bool:
    """Whether the tool can read its files anew, is installed, and (where it has units) ran at the checkpoint."""
    runs = [bool(then.units[unit]["active"]) for unit in tool.units if unit in then.units]
    there = not tool.command or shutil.which(tool.command) is not None
    return bool(tool.reload) and there and (not runs or any(runs))


def _grouped(found: Sequence[Difference]) -> dict[str, list[Difference]]:
    groups: dict[str, list[Difference]] = {}
    for one in found:
        groups.setdefault(one.target, []).append(one)
    return dict(sorted(groups.items()))


def _because(failed: Mapping[str, str], target: str, then: Recorded) -> str:
    tool = then.managed.get(target, ("", ""))[0]
    words = failed.get(target) or failed.get(tool)
    return f" ({words})" if words else ""


def recorded(lines: Sequence[str]) -> Recorded:
    """The record of the lines. Raises Damaged for a line that ``capture`` cannot have written."""
    facts = []
    found = Recorded(running.of(()))
    for line in lines:
        with json_line.read(line) as (word, record):
            if word == "scope":
                found.only = [str(one) for one in record["interfaces"]]
                found.excepts = {str(ipaddress.ip_network(str(one), strict=False)) for one in record["except"]}
            elif word == "managed":
                device, tool, configuration = (str(record[key]) for key in ("dev", "tool", "configuration"))
                if tool not in tools.BY_NAME or not all(map(running.is_word, (device, configuration or "none"))):
                    raise ValueError("no tool of ours")
                found.managed[device] = (tool, configuration)
            elif word == "unit":
                if record["name"] not in tools.UNITS or not isinstance(record["active"], bool):
                    raise ValueError("no unit of a tool")
                found.units[record["name"]] = {key: record[key] for key in ("name", "enabled", "active")}
            elif word in ("queues", "switches"):
                setattr(found, word, True)
            elif word == running.QUEUE:
                facts.append(running.checked(word, running.queue(record)))
            elif word == "off":
                found.off.append(tools.BY_NAME[str(record["tool"])].name)
            elif word in (
                running.LINK,
                running.ADDRESS,
                running.LEASE,
                running.ROUTE,
                running.RULE,
                running.DNS,
            ):
                facts.append(running.checked(word, record))
            else:
                raise ValueError("no word of ours")
    found.excepts |= running.moved()
    found.network = running.without(facts, found.excepts)
    return found
