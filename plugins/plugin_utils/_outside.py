# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure hosts from outside: the probes that say ``from: controller`` or ``from: peer``.

The host decides. It gets the results as the option ``measured`` of its module. The probes themselves, with the secrets
in them, stay here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes as probing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.compare import CompareProbe
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.probe import (
    CONTROLLER,
    FAIL,
    HOST,
    PASS,
    PEER,
    UNKNOWN,
    WARNS,
    Probe,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times, wait
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.text import escape
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answers import words
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._guard import earlier_hosts
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import PROBES_VARIABLE, Inventory

# A declaration: one key, the kind, and its options.
Item = Mapping[str, Mapping[str, Any]]
# Peers that are asked, one after the other, until one answers.
_PEERS = 3
# Seconds that the way to a peer may take.
_WAY = 30.0
# Variables that decide what counts as evidence.
_OURS = (PROBES_VARIABLE, "evenkeel_group", "evenkeel_unchanged")


def source_of(item: Item) -> str:
    """The place from which a declared probe is measured."""
    ((kind, options),) = item.items()
    return str(options.get("from") or probing.PROBES[kind].SOURCES[0])


def parted(probes: Sequence[Item] | None) -> tuple[list[Item], list[Item]]:
    """The probes that the host measures itself, and the probes that are measured from outside of it."""
    own = [item for item in probes or [] if source_of(item) == HOST]
    return own, [item for item in probes or [] if source_of(item) != HOST]


@dataclass
class Outside:
    """The probes of one host that are measured from outside. Raises UsageError for a probe that cannot be.

    group: hosts from which a peer is taken. late: hosts that are taken last, because they change at the same time.
    unchanged: hosts that the change has not reached, None where nothing is compared.
    """

    inventory: Inventory
    host: str
    items: Sequence[Item]
    times: Times
    group: Sequence[str] = ()
    late: Sequence[str] = ()
    unchanged: Sequence[str] | None = None
    store: str = ""
    _probes: dict[str, list[Probe]] = field(default_factory=dict)
    _told: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.items:
            self.inventory.refuse_facts(self.host, _OURS)
        self._items: dict[str, list[Item]] = {CONTROLLER: [], PEER: []}
        for item in self.items:
            self._take(item)
        # A peer measures the declarations that it is sent; here they are only checked.
        self._probes = {source: probing.check([*items]) for source, items in self._items.items()}

    def _take(self, item: Item) -> None:
        ((kind, options),) = item.items()
        if kind == CompareProbe.kind:
            self._compare(options)
        else:
            self._items[source_of(item)].append({kind: self._addressed(kind, options)})

    def _compare(self, options: Mapping[str, Any]) -> None:
        """Compare this host with the unchanged hosts, or say why there is nothing to compare with."""
        kind, needed = CompareProbe.kind, int(options["min_samples"])
        hosts = self.unchanged or []
        unchanged = options.get("unchanged") or [name for host in hosts for name in self._names(host)]
        given = {**options, "host": options.get("host") or self._names(self.host), "unchanged": unchanged}
        if options.get("unchanged") or len(hosts) >= needed:
            self._items[CONTROLLER].append({kind: given})
            return
        probing.check([{kind: given}])
        why = f"not judged: {len(hosts)} hosts of the group are unchanged, and min_samples is {needed}"
        if self.unchanged is None:
            why = "not judged: it is asked only of hosts that a change has reached"
        told = _result(kind, str(options["query"]), UNKNOWN, why)
        self._told.append({**told, "severity": WARNS, "source": CONTROLLER})

    def _names(self, host: str) -> list[str]:
        """The names under which a server may know a host."""
        return list(dict.fromkeys([host, self.inventory.address(host)]))

    def _addressed(self, kind: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options, with the address of the host where they would lead to the machine that measures."""
        if self.inventory.is_here(self.host):
            return options
        if kind == "tcp" and _is_loopback(str(options.get("host") or "127.0.0.1")):
            return {**options, "host": self.inventory.address(self.host)}
        if kind == "http":
            (probe,) = probing.check([{kind: options}])
            if isinstance(probe, probing.HttpProbe) and _is_loopback(probe.host):
                raise UsageError(
                    f"probes: http: url {options['url']!r} is measured from the {options['from']}, and leads to that"
                    " machine: write the address of the host, as http://{{ inventory_hostname }}/. Nothing was touched"
                )
        return options

    def measure(self, apart: bool = True) -> list[dict[str, str]]:
        """The results, as the option ``measured`` of a module takes them.

        apart: in processes of their own, so that a probe that hangs cannot delay this process.
        """
        works: dict[str, Callable[[], dict[str, Any]]] = {}
        if self._probes[CONTROLLER]:
            works[CONTROLLER] = self._here
        if self._probes[PEER]:
            works[PEER] = self._there
        rounds = max([one.timeout for probes in self._probes.values() for one in probes], default=0.0)
        limit = max(self.times.soak, self.times.deadline) + rounds + _PEERS * _WAY
        found = self.inventory.at_once(works, limit) if apart else {name: work() for name, work in works.items()}
        return [*self._told, *(one for source, told in found.items() for one in self._read(source, told))]

    def _here(self) -> dict[str, object]:
        times = Times(self.times.soak, max(self.times.soak, self.times.deadline), self.times.interval)
        health = wait(self._probes[CONTROLLER], times, System(), partial(probing.measure, here=CONTROLLER))
        return {"state": health.state, "probes": [asdict(one) for one in health.probes], "place": CONTROLLER}

    def _there(self) -> dict[str, object]:
        """Ask the next peers until one answers."""
        peers = self._peers()
        why = "the group has no other host" if not peers else ""
        for name in peers[:_PEERS]:
            peer = self.inventory.connect(name)
            try:
                result = peer.module(
                    "ft_health",
                    probes=[
                        {kind: {**options, "from": HOST}}
                        for item in self._items[PEER]
                        for kind, options in item.items()
                    ],
                    soak=str(self.times.soak),
                    deadline=str(self.times.deadline),
                    interval=str(self.times.interval),
                    store=self.inventory.store(name, self.store),
                )
            except AnsibleConnectionFailure as error:
                why = why or f"{name} is unreachable: {words(str(error))}"
                continue
            finally:
                peer.close()
            if result.get("unreachable") or not isinstance(result.get("probes"), list):
                why = why or f"{name} gave no answer: {words(str(result.get('msg') or ''))}"
                continue
            return {"state": result.get("state"), "probes": result["probes"], "place": f"peer {name}"}
        return {"msg": f"no peer has measured it: {why}"}

    def _peers(self) -> list[str]:
        """The other hosts of the group, the next host first, and hosts that change at the same time last."""
        group = list(self.group)
        at = group.index(self.host) if self.host in group else -1
        around = [name for name in [*group[at + 1 :], *group[: max(at, 0)]] if name != self.host]
        return sorted(around, key=lambda name: name in self.late)

    def _read(self, source: str, told: Answer) -> list[dict[str, str]]:
        """The results of one place, a result for each probe in every case."""
        probes, said = self._probes[source], told.get("probes")
        place = words(str(told.get("place") or source), 200)
        if not isinstance(said, list) or len(said) != len(probes):
            why = words(str(told.get("msg") or "the answer lacks probes"))
            found = [_result(one.kind, one.target, UNKNOWN, why) for one in probes]
        else:
            found = [_read(one, result) for one, result in zip(probes, said, strict=True)]
            deciding = [one for probe, one in zip(probes, found, strict=True) if probe.severity != WARNS]
            if told.get("state") != PASS and all(one["state"] == PASS for one in deciding):
                for one in deciding:
                    one.update(state=FAIL, detail=f"not for the whole soak; last: {one['detail']}")
        return [{**one, "severity": probe.severity, "source": place} for probe, one in zip(probes, found, strict=True)]


def _read(probe: Probe, said: Any) -> dict[str, str]:
    if not isinstance(said, Mapping) or said.get("state") not in (PASS, FAIL, UNKNOWN):
        return _result(probe.kind, probe.target, UNKNOWN, "the answer cannot be read")
    return _result(probe.kind, probe.target, str(said["state"]), words(str(said.get("detail") or "")))


def _result(kind: str, target: str, state: str, detail: str) -> dict[str, str]:
    return {"kind": kind, "target": escape(target), "state": state, "detail": escape(detail)}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


def unchanged(group: Sequence[str], variables: Mapping[str, Any], order: str | None) -> list[str]:
    """The hosts of the group that the running play has not reached, batch by batch; none where that is not known."""
    batch = list(variables.get("ansible_play_batch") or [])
    everyone = list(variables.get("ansible_play_hosts_all") or [])
    earlier = earlier_hosts(everyone, order, batch)
    return [] if earlier is None else [name for name in group if name not in earlier and name not in batch]
