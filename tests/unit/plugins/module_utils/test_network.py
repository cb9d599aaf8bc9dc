# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource network: what is compared, what a tool is asked, and the real thing in a network of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import flows
import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    Refused,
    RestoreFailed,
    Unhealthy,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore, is_within
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.network import running, tools
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.network.network import Network
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback, settle

Facts = dict[str, Any]
Argv = tuple[str, ...]
FOREVER = 4294967295


def link(name: str, *addresses: Facts, up: bool = True, **more: Any) -> Facts:
    return {"ifname": name, "flags": ["UP"] if up else [], "mtu": 1500, "addr_info": list(addresses), **more}


def address(local: str, length: int = 24, **more: Any) -> Facts:
    family = "inet6" if ":" in local else "inet"
    return {"family": family, "local": local, "prefixlen": length, "scope": "global", **more}


def route(dst: str, **more: Any) -> Facts:
    return {"dst": dst, "dev": "eth0", "flags": [], **more}


class Host:
    """A host as ``ip``, ``networkctl``, ``nmcli``, ``ifup`` and ``systemctl`` show it.

    ``answers``: what happens when a command that begins so is run.
    """

    def __init__(self) -> None:
        self.links = [link("lo"), link("eth0", address("10.0.0.2"))]
        self.routes: list[Facts] = [route("default", gateway="10.0.0.1")]
        self.rules: list[Facts] = [{"priority": 0, "src": "all", "table": "local"}]
        self.networkd = ""
        self.nmcli = self.connections = ""
        self.networking = "enabled"
        self.queues: list[Facts] = []
        self.ifstate = ""
        self.units: dict[str, tuple[str, str]] = {}
        self.ran: list[Argv] = []
        self.clock = 0.0
        self.answers: dict[Argv, Callable[[], object] | str] = {}

    def system(self) -> System:
        return replace(
            System(),
            run=self.run,
            monotonic=lambda: self.clock,
            sleep=self.sleep,
            has_systemd=lambda: bool(self.units),
        )

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        words = tuple(argv)
        if words[:2] == ("ip", "-json"):
            return Completed(words, 0, json.dumps(self._shown(words)), "")
        if words[0] == "networkctl" and "list" in words:
            return Completed(words, 0, self.networkd, "")
        if words[0] == "nmcli" and "status" in words:
            return Completed(words, 0, self.nmcli, "")
        if words[0] == "nmcli" and "show" in words:
            return Completed(words, 0, self.connections, "")
        if words[:2] == ("tc", "-json"):
            return Completed(words, 0, json.dumps(self.queues), "")
        if words == ("nmcli", "networking"):
            return Completed(words, 0, f"{self.networking}\n", "")
        if words[0] == "ifquery":
            return Completed(words, 0, self.ifstate, "")
        if words[:2] == ("systemctl", "show"):
            return Completed(words, 0, self._units(words), "")
        self.ran.append(words)
        for beginning, answer in self.answers.items():
            if words[: len(beginning)] == beginning:
                if isinstance(answer, str):
                    return Completed(words, 1, "", answer)
                answer()
        if words[:1] == ("systemctl",) and words[-1] in self.units:
            enabled, active = self.units[words[-1]]
            verb = next(one for one in words[1:] if not one.startswith("-"))
            active = {"start": "active", "restart": "active", "stop": "inactive"}.get(verb, active)
            self.units[words[-1]] = ({"enable": "enabled", "disable": "disabled"}.get(verb, enabled), active)
        return Completed(words, 0, "", "")

    def _shown(self, words: Argv) -> list[Facts]:
        if "address" in words:
            return self.links
        found = self.routes if "route" in words else self.rules
        family = "inet6" if "-6" in words else "inet"
        return [
            one for one in found if ("inet6" if ":" in str(one) and ":" in one.get("dst", "") else "inet") == family
        ]

    def _units(self, words: Argv) -> str:
        names = words[words.index("--") + 1 :]
        known = {name: self.units.get(name, ("", "inactive")) for name in names}
        return "\n\n".join(
            f"Id={name}\nLoadState={'loaded' if name in self.units else 'not-found'}\nUnitFileState={enabled}\n"
            f"ActiveState={active}\nSubState=x\nInvocationID=1"
            for name, (enabled, active) in known.items()
        )

    def changed(self) -> list[Argv]:
        return [words for words in self.ran if words[0] not in ("networkctl", "nmcli", "systemctl", "ifup", "ifdown")]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(running, "_IF_INET6", "/")
    return Host()


@pytest.fixture
def kind(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    (tmp_path / "etc").mkdir()
    one = Network(host.system(), str(tmp_path / "etc"))
    monkeypatch.setitem(registry.KINDS, "network", one)
    return one


def at(host: Host, store: Store, **more: Any) -> Restore:
    return Restore(host.system(), store.objects, **more)


def lines_of(kind: Network, host: Host, **spec: Any) -> list[str]:
    return kind.capture(kind.check(spec), Hasher(), host.system())


def test_a_kernel_without_ipv6_is_not_asked_for_it(
    kind: Network, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ip(argv: Sequence[str], timeout: float) -> Completed:
        asked.extend(argv)
        return Completed(tuple(argv), 2, "", "not supported") if "-6" in argv else host.run(argv, timeout)

    kind.system = replace(host.system(), run=ip)
    with pytest.raises(Refused, match="ip does not tell what is there"):
        kind.check({})
    monkeypatch.setattr(running, "_IF_INET6", str(tmp_path / "if_inet6"))
    asked.clear()
    assert any("10.0.0.2" in line for line in kind.capture(kind.check({}), Hasher(), kind.system))
    assert "-4" in asked and "-6" not in asked


def test_equal_networks_have_equal_lines_whatever_passes(kind: Network, host: Host) -> None:
    host.links[1]["addr_info"] += [address("10.0.0.9", dynamic=True, valid_life_time=300), address("fe80::1", 64)]
    host.links[1]["addr_info"][1]["scope"] = "global"
    host.links[1]["addr_info"][2]["scope"] = "link"
    host.routes += [route("10.9.0.0/24", protocol="zebra"), route("192.0.2.0/24", flags=["linkdown"])]
    host.routes += [route("10.0.0.0/24", protocol="kernel", prefsrc="10.0.0.9")]
    before = lines_of(kind, host)
    host.links[1]["addr_info"][1].update(local="10.0.0.77", valid_life_time=12)
    host.links[1]["addr_info"][2]["local"] = "fe80::2"
    host.links[1].update(operstate="DOWN", qdisc="other")
    host.links.append(link("veth12ab", address("172.17.0.9")))
    host.links.append(link("wg0", address("10.200.0.1"), linkinfo={"info_kind": "wireguard"}))
    host.routes[1] = route("10.9.9.0/24", protocol="80")
    host.rules.append({"priority": 9, "src": "10.9.9.9", "table": "main", "protocol": "bird"})
    host.routes[2]["flags"] = []
    host.routes[3] = route("10.0.0.0/24", protocol="kernel", prefsrc="10.0.0.77")
    host.routes.append(route("0.0.0.0/1", dev="wg0", table="51820"))
    host.rules += [{"priority": 7, "src": "all", "fwmark": "0xca6c", "not": None, "table": "51820"}]
    host.rules += [{"priority": 8, "src": "all", "table": "main", "suppress_prefixlen": 0}]
    assert lines_of(kind, host) == before
    assert any(line.startswith("lease") for line in before)


def test_a_vpn_counts_where_it_is_declared(kind: Network, host: Host) -> None:
    host.links.append(link("wg0", address("10.200.0.1"), linkinfo={"info_kind": "wireguard"}))
    found = lines_of(kind, host, interfaces=["wg*"])
    assert any("10.200.0.1" in line for line in found) and not any("10.0.0.2" in line for line in found)
    assert not any("10.200.0.1" in line for line in lines_of(kind, host))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"interfaces": ["eth7"]}, "no interface 'eth7'; there are eth0, lo"),
        ({"names": ["eth0"]}, "unknown key 'names'"),
        ({"except": ["web1"]}, "'web1' in except is no address"),
    ],
)
def test_a_bad_declaration_is_named(kind: Network, spec: Facts, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        kind.check(spec)


def test_without_ip_there_is_no_way_back(kind: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(UsageError, match="install iproute2"):
        kind.check({})


@pytest.mark.parametrize(
    "line",
    [
        'link {"dev": "--help", "kind": "", "mtu": 1500, "up": true}',
        'link {"dev": "eth0", "kind": "", "mtu": "x", "up": true}',
        'address {"dev": "eth0", "family": "inet", "local": "10.0.0.2; reboot", "prefixlen": 24}',
        'address {"dev": "eth0", "family": "decnet", "local": "10.0.0.2", "prefixlen": 24}',
        'route {"dev": "eth0", "dst": "-batch", "family": "inet"}',
        'route {"dev": "eth0", "dst": "default", "family": "inet", "nexthops": [{"dev": "a b"}]}',
        'rule {"family": "inet", "src": "all", "table": "main\\nx"}',
        'managed {"configuration": "", "dev": "eth0", "tool": "rm"}',
        'unit {"active": true, "enabled": "", "name": "ssh.service"}',
        "route eth0",
        'scope {"except": ["x"], "interfaces": []}',
        "strange {}",
    ],
)
def test_a_doctored_line_is_refused(kind: Network, host: Host, store: Store, line: str) -> None:
    with pytest.raises(Damaged, match="refused"):
        kind.plan([line], at(host, store))


def test_nothing_is_applied_where_nothing_differs(kind: Network, host: Host, store: Store) -> None:
    host.networkd = "2 eth0 ether routable configured\n"
    host.units = {"systemd-networkd.service": ("enabled", "active")}
    lines = lines_of(kind, host)
    assert kind.plan(lines, at(host, store, changed=[f"{kind.etc}/nginx/nginx.conf"])) == []
    assert kind.verify(lines, host.system()) == [] and host.ran == []


def test_an_address_that_moves_between_hosts_is_left_alone(
    kind: Network, host: Host, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = running.moved
    monkeypatch.setattr(running, "moved", lambda: moved(str(tmp_path)))
    (tmp_path / "etc/keepalived").mkdir()
    (tmp_path / "var/lib/pacemaker/cib").mkdir(parents=True)
    (tmp_path / "etc/keepalived/keepalived.conf").write_text(
        "vrrp_instance a {\n  unicast_src_ip 10.0.0.2\n  virtual_ipaddress {\n    10.0.0.10/24 dev eth0\n  }\n}\n"
    )
    (tmp_path / "var/lib/pacemaker/cib/cib.xml").write_text('<nvpair id="x" name="ip" value="10.0.0.11"/>')
    host.links[1]["addr_info"] += [address("10.0.0.10"), address("10.0.0.13", protocol="keepalived")]
    lines = lines_of(kind, host, **{"except": ["10.0.0.12"]})
    assert '"10.0.0.2"' in str(lines) and '"local": "10.0.0.1' not in str(lines)
    host.links[1]["addr_info"][1:] = [address("10.0.0.11"), address("10.0.0.12")]
    host.routes.append(route("10.0.0.0/24", protocol="kernel", prefsrc="10.0.0.12"))
    # What made one known may be gone, or come only now.
    (tmp_path / "var/lib/pacemaker/cib/cib.xml").unlink()
    assert kind.plan(lines, at(host, store)) == []
    host.links[1]["addr_info"].append(address("10.0.0.14"))
    assert len(kind.plan(lines, at(host, store))) == 1
    (tmp_path / "etc/keepalived/more.conf").write_text("virtual_ipaddress_excluded { 10.0.0.14 }")
    assert kind.plan(lines, at(host, store)) == []


def test_ip_sets_what_no_tool_manages(kind: Network, host: Host, store: Store) -> None:
    lines = lines_of(kind, host)
    host.links[1]["addr_info"] = [address("10.0.0.3")]
    host.routes.clear()

    def back() -> None:
        host.links[1]["addr_info"].append(address("10.0.0.2"))

    def gone() -> None:
        host.links[1]["addr_info"] = [address("10.0.0.2")]

    host.answers = {
        ("ip", "-4", "address", "replace", "10.0.0.2/24"): back,
        ("ip", "-4", "address", "del", "10.0.0.3/24"): gone,
        ("ip", "-4", "route", "replace"): lambda: host.routes.append(route("default", gateway="10.0.0.1")),
    }
    steps = kind.plan(lines, at(host, store))
    assert [(step.action, step.target) for step in steps] == [("set", "eth0")]
    assert "address 10.0.0.2/24 is missing" in steps[0].why and "10.0.0.3/24 was not there" in steps[0].why
    assert kind.apply(steps, at(host, store)) == steps and kind.verify(lines, host.system()) == []
    assert host.ran == [
        ("ip", "-4", "address", "replace", "10.0.0.2/24", "dev", "eth0", "scope", "global"),
        ("ip", "-4", "route", "replace", "default", "via", "10.0.0.1", "dev", "eth0"),
        ("ip", "-4", "address", "del", "10.0.0.3/24", "dev", "eth0"),
    ]


@pytest.mark.parametrize(
    ("shown", "commands"),
    [
        ({"networkd": "2 eth0 ether routable configured\n"}, [("networkctl", "reconfigure", "eth0")]),
        (
            {"nmcli": "lo:unmanaged:\neth0:connected:12-ab\neth1:connected (externally):77\n"},
            [("nmcli", "--wait", "30", "connection", "up", "uuid", "12-ab", "ifname", "eth0")],
        ),
        ({"ifstate": "lo=lo\neth0=home\n"}, [("ifdown", "--force", "eth0"), ("ifup", "--force", "eth0=home")]),
    ],
)
def test_the_tool_that_manages_an_interface_applies_it(
    kind: Network, host: Host, store: Store, shown: dict[str, str], commands: list[Argv]
) -> None:
    vars(host).update(shown)
    lines = lines_of(kind, host)
    vars(host).update(networkd="", nmcli="", ifstate="")  # What manages it now does not matter.
    host.links[1]["addr_info"] = []
    host.answers = {commands[-1]: lambda: host.links[1]["addr_info"].append(address("10.0.0.2"))}
    steps = kind.plan(lines, at(host, store))
    assert [(step.action, step.target) for step in steps] == [("apply", "eth0")]
    assert kind.apply(steps, at(host, store)) == steps
    assert host.ran == commands


def test_a_tool_reads_files_that_were_put_back_once(kind: Network, host: Host, store: Store) -> None:
    host.units = {"systemd-networkd.service": ("enabled", "active"), "NetworkManager.service": ("disabled", "inactive")}
    lines = lines_of(kind, host)
    paths = [f"{kind.etc}/systemd/network/a.network", f"{kind.etc}/NetworkManager/x"]
    steps = kind.plan(lines, at(host, store, changed=paths))
    assert [(step.action, step.target) for step in steps] == [("reload", "networkd")]
    assert kind.apply(steps, at(host, store)) == steps and host.ran == [("networkctl", "reload")]
    assert kind.plan(lines, at(host, store)._replace(undone=steps)) == steps, "one that failed is to be done"
    assert kind.plan(lines, at(host, store, changed=paths, steps=steps)) == []


def test_an_interface_takes_over_its_connection_once_that_is_back(kind: Network, host: Host, store: Store) -> None:
    """NetworkManager goes on with what it has applied, and would bring it back at the next roaming."""
    host.units = {"NetworkManager.service": ("enabled", "active")}
    host.nmcli = "eth0:connected:12-ab\neth1:connected:34-cd\n"
    mine = f"{kind.etc}/NetworkManager/system-connections/a b.nmconnection"
    host.connections = f"eth0:{mine}\neth1:{kind.etc}/NetworkManager/system-connections/c.nmconnection\n:{mine}\nx\n"
    steps = kind.plan(lines_of(kind, host), at(host, store, changed=[mine]))
    assert kind.apply(steps, at(host, store)) == steps
    reads = [("nmcli", "general", "reload"), ("nmcli", "connection", "reload")]
    assert host.ran == [*reads, ("nmcli", "--wait", "30", "device", "reapply", "eth0")]
    host.answers = {("nmcli", "--wait"): "cannot be reapplied"}
    with pytest.raises(RestoreFailed, match="NetworkManager: nmcli --wait 30 device reapply eth0: cannot be reapplied"):
        kind.apply(steps, at(host, store))


@pytest.mark.parametrize("name", ["ifcfg-eth0", "route-eth0", "rule6-eth0", "keys-eth0"])
def test_network_manager_reads_profiles_in_the_form_of_sysconfig(
    kind: Network, host: Host, store: Store, name: str
) -> None:
    host.units = {"NetworkManager.service": ("enabled", "active")}
    folder = f"{kind.etc}/sysconfig/network-scripts"
    host.connections = f"eth0:{folder}/ifcfg-eth0\neth1:{folder}/ifcfg-eth1\n"
    steps = kind.plan(lines_of(kind, host), at(host, store, changed=[f"{folder}/{name}"]))
    assert [(step.action, step.target) for step in steps] == [("reload", "NetworkManager")]
    assert kind.apply(steps, at(host, store)) == steps
    reads = [("nmcli", "general", "reload"), ("nmcli", "connection", "reload")]
    assert host.ran == [*reads, ("nmcli", "--wait", "30", "device", "reapply", "eth0")]


def test_netplan_applies_its_files(kind: Network, host: Host, store: Store) -> None:
    steps = kind.plan(lines_of(kind, host), at(host, store, changed=[f"{kind.etc}/netplan/50-cloud.yaml"]))
    kind.apply(steps, at(host, store))
    assert host.ran == [("netplan", "apply")]
    host.answers = {("netplan",): "no backend"}  # It may still have what the change gave it.
    with pytest.raises(RestoreFailed, match="netplan: netplan apply: no backend"):
        kind.apply(steps, at(host, store))


def test_a_tool_that_took_over_is_stopped_before_the_old_one_starts(kind: Network, host: Host, store: Store) -> None:
    host.units = {"systemd-networkd.service": ("enabled", "active"), "NetworkManager.service": ("disabled", "inactive")}
    lines = lines_of(kind, host)
    host.units = {"systemd-networkd.service": ("disabled", "inactive"), "NetworkManager.service": ("enabled", "active")}
    words = kind.verify(lines, host.system())
    assert len(words) == 2 and words[0].startswith("systemd-networkd.service")
    steps = kind.plan(lines, at(host, store))
    expected = [("stop", "Net"), ("disable", "Net"), ("enable", "sys"), ("start", "sys")]
    assert [(step.action, step.target[:3]) for step in steps] == expected
    assert kind.apply(steps, at(host, store)) == steps and kind.verify(lines, host.system()) == []


def test_early_at_boot_units_alone_go_back(kind: Network, host: Host, store: Store) -> None:
    host.units = {"NetworkManager.service": ("disabled", "inactive")}
    lines = lines_of(kind, host)
    host.units = {"NetworkManager.service": ("enabled", "inactive")}
    host.links[1]["addr_info"] = []
    steps = kind.plan(lines, at(host, store, boot=True))
    assert [(step.action, step.target) for step in steps] == [("disable", "NetworkManager.service")]
    assert kind.apply(steps, at(host, store, boot=True)) == steps and host.changed() == []


def test_a_dynamic_address_is_there_again_or_not(kind: Network, host: Host, store: Store) -> None:
    host.networkd = "2 eth0 ether routable configured\n"
    host.links[1]["addr_info"] = [address("10.0.0.9", dynamic=True)]
    host.routes = [route("default", gateway="10.0.0.1", protocol="dhcp")]
    lines = lines_of(kind, host)
    host.links[1]["addr_info"], host.routes = [], []
    began = host.clock

    def later() -> None:
        if host.clock - began > 8:
            host.links[1]["addr_info"] = [address("10.0.0.10", dynamic=True)]
            host.routes = [route("default", gateway="10.0.0.254", protocol="dhcp")]

    sleep = host.sleep
    host.sleep = lambda seconds: (sleep(seconds), later())[0]  # type: ignore[method-assign,func-returns-value]
    there = at(host, store)
    steps = kind.plan(lines, there)
    assert "a dynamic address (inet) is missing" in steps[0].why
    assert kind.apply(steps, there) == steps and kind.verify(lines, host.system()) == []
    assert host.changed() == []


def test_a_dynamic_address_in_place_of_a_static_one_goes(kind: Network, host: Host, store: Store) -> None:
    lines = lines_of(kind, host)
    host.links[1]["addr_info"].append(address("10.0.0.9", dynamic=True))

    def gone() -> None:
        del host.links[1]["addr_info"][1]

    host.answers = {("ip", "-4", "address", "flush", "dev", "eth0", "dynamic"): gone}
    assert kind.apply(kind.plan(lines, at(host, store)), at(host, store)) and kind.verify(lines, host.system()) == []
    host.links[1]["addr_info"].append(address("2001:db8::9", 64, dynamic=True))  # A router came.
    assert kind.verify(lines, host.system()) == []


def test_a_card_that_came_stays_and_a_bridge_goes(kind: Network, host: Host, store: Store) -> None:
    lines = lines_of(kind, host)
    host.links.append(link("eth1", address("10.7.0.1")))
    host.routes.append(route("10.8.0.0/16", dev="eth1"))
    assert kind.plan(lines, at(host, store)) == []
    host.links.append(link("br0", address("10.0.0.2"), linkinfo={"info_kind": "bridge"}))
    host.links[1].update(master="br0", addr_info=[])
    steps = kind.plan(lines, at(host, store))
    assert [step.target for step in steps] == ["br0", "eth0"]
    with pytest.raises(RestoreFailed):  # This one answers, and does nothing.
        kind.apply(steps, at(host, store))
    assert host.ran[:2] == [
        ("ip", "link", "set", "dev", "eth0", "nomaster"),
        ("ip", "-4", "address", "replace", "10.0.0.2/24", "dev", "eth0", "scope", "global"),
    ]
    assert ("ip", "link", "delete", "dev", "br0") in host.ran and (
        "ip",
        "link",
        "delete",
        "dev",
        "eth0",
    ) not in host.ran


def test_what_cannot_be_set_is_left_with_its_reason(kind: Network, host: Host, store: Store) -> None:
    lines = lines_of(kind, host)
    host.links[1]["addr_info"] = []
    host.answers = {("ip", "-4", "address"): "RTNETLINK answers: Operation not permitted"}
    with pytest.raises(RestoreFailed, match="10.0.0.2/24 is missing .*Operation not permitted") as failed:
        kind.apply(kind.plan(lines, at(host, store)), at(host, store))
    assert failed.value.result["done"] == [] and len(failed.value.result["left"]) == 1


def test_a_tool_that_does_nothing_more_is_not_waited_for(kind: Network, host: Host, store: Store) -> None:
    host.networkd = "2 eth0 ether routable configured\n"
    lines = lines_of(kind, host)
    host.links[1]["addr_info"] = []
    with pytest.raises(RestoreFailed):
        kind.apply(kind.plan(lines, at(host, store)), at(host, store))
    assert 1 < host.clock < 4 and ("networkctl", "reconfigure", "eth0") in host.ran


def test_what_is_gone_for_good_is_said_before(kind: Network, host: Host, store: Store) -> None:
    host.links.append(link("bond0", linkinfo={"info_kind": "bond"}))
    lines = lines_of(kind, host)
    assert "bond0" in kind.not_restorable({}, lines)[0]
    del host.links[2]
    assert "bond0 is gone" in kind.obstacles(lines, at(host, store))[0]


def test_name_servers_that_a_program_writes_are_compared(kind: Network, host: Host, store: Store) -> None:
    written = Path(kind.etc, "run.conf")
    written.write_text("nameserver 10.0.0.53\nsearch example.org\n")
    os.symlink("run.conf", Path(kind.etc, "resolv.conf"))
    lines = lines_of(kind, host)
    written.write_text("nameserver 192.0.2.1\n")
    (step,) = kind.plan(lines, at(host, store))
    assert step.target == "resolver" and "10.0.0.53 is missing" in step.why
    host.answers = {
        ("systemctl", "try-restart", "systemd-resolved.service"): lambda: written.write_text(
            "search example.org\nnameserver 10.0.0.53\n"
        )
    }
    kind.apply([step], at(host, store))
    assert kind.verify(lines, host.system()) == []
    written.write_text("nameserver 192.0.2.1\n")
    host.links[1]["addr_info"].append(address("10.0.0.9", dynamic=True))
    assert '"any": true' in str(lines_of(kind, host))


def test_another_hosts_interfaces_have_to_be_declared(kind: Network, host: Host) -> None:
    lines = lines_of(kind, host)
    assert list(kind.outside({}, lines, [{}], host.system())) == []
    assert list(kind.outside({}, lines, [{"interfaces": ["lo"]}], host.system())) == ["of the interface eth0"]


def test_files_of_a_tool_suggest_it(kind: Network, host: Host, store: Store) -> None:
    paths = {f"{kind.etc}/network/interfaces": "content", "/etc/nginx": "mode"}
    assert kind.suggest(paths, [], at(host, store)) == ({}, {f"{kind.etc}/network/interfaces"})
    assert kind.suggest({"/etc/nginx": "mode"}, [], at(host, store)) == (None, set())


def test_the_files_of_every_tool_are_of_those_that_give_access() -> None:
    files = Network().trees({})
    assert all(path in files for tool in tools.TOOLS for path in tool.files)
    assert [path for path in files if not any(is_within(path, one) for one in access.PATHS)] == []
    assert running.is_ours("eth0", "veth", []) and not running.is_ours("docker0", "bridge", [])


# In a network of its own, with the kernel's own answers.
_REAL = (
    f"import sys; sys.path.append({str(Path(flows.__file__).parent)!r})"
    + """
sys.path.insert(0, sys.argv[1])
import re, subprocess
from flows import checkpoint, rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.network.network import Network
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
def sh(text): subprocess.run(["sh", "-ec", text], check=True)
def state():
    words = ["address show", "-4 route show table all", "-6 route show table all", "rule show", "-6 rule show"]
    text = "".join(subprocess.check_output(["ip", *one.split()], text=True) for one in words)
    # The carrier of a bridge and a local route come some time later, and numbers are those of making.
    passing = r"^[0-9]+: (?=[a-z])|NO-CARRIER,|,LOWER_UP| (qdisc|state) \\S+|.*(ff00::/8|fe80|lft).*| linkdown"
    passing += "|.*table local proto kernel.*"
    return "\\n".join(sorted({re.sub(passing, "", line.strip()) for line in text.splitlines()}))
registry.KINDS["network"] = Network(etc=sys.argv[3])
store = Store(sys.argv[2], System(has_systemd=lambda: False))
sh('''
ip link add e0 type veth peer name e1; ip link add br9 type bridge; ip link set e1 master br9
for one in lo e0 e1 br9; do ip link set $one up; done
ip address add 10.9.0.2/24 brd + dev e0; ip address add 10.9.0.3/24 dev e0 label e0:1
ip address add 10.8.0.1 peer 10.8.0.2/32 dev e0; ip -6 address add fd00::2/64 dev e0 nodad
ip route add default via 10.9.0.1 metric 100; ip -6 route add default via fd00::1
ip route add 10.50.0.0/16 via 10.9.0.1 dev e0 table 100 proto static mtu 1400
ip route add blackhole 10.66.0.0/16; ip -6 route add unreachable fd01::/48
ip route add 10.51.0.0/16 nexthop via 10.9.0.1 weight 1 nexthop via 10.9.0.4 weight 2
ip route add 10.77.0.0/16 via inet6 fd00::1; ip route add 10.78.0.1 via 1.2.3.4 dev e0 onlink
ip rule add from 10.9.0.0/24 lookup 100 priority 50
ip rule add fwmark 0x1/0xff to 1.2.3.0/24 iif e0 lookup 200 priority 60
ip rule add not from all fwmark 0x1 lookup 300 priority 70
ip rule add from 9.9.9.9 blackhole priority 80
ip rule add uidrange 100-200 ipproto tcp dport 80-90 lookup 101 priority 90
''')
before = state()
checkpoint(store, "before", [{"network": {}}])
same = rollback(store, "before")
assert not same["changed"], same
sh(sys.argv[4])
changed = state()
planned = rollback(store, "before", check_mode=True)
assert state() == changed != before, (state(), changed)
result = rollback(store, "before")
after = state()
assert after == before, "\\n".join(sorted(set(before.splitlines()) ^ set(after.splitlines())))
assert result["done"] == planned["planned"] and result["left"] == [], result
same = rollback(store, "before")
assert not same["changed"], same
print(result["proved"])
"""
)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="a network of its own needs root, and ip")
@pytest.mark.parametrize(
    "change",
    [
        "ip address flush dev e0",
        "ip link set e0 down",
        "ip address add 10.9.0.77/24 dev e0; ip address del 10.9.0.2/24 dev e0",
        "ip route replace default via 10.9.0.254 metric 100; ip -6 route replace default via fd00::9",
        "ip route flush table 100; ip rule flush; ip rule add lookup main priority 32766",
        "ip rule add from all blackhole priority 1; ip -6 rule add from all unreachable priority 1",
        "ip link delete br9",
        "ip link add br0 type bridge; ip link set e0 master br0; ip link set br0 up; ip address flush dev e0;"
        "ip address add 10.9.0.2/24 dev br0",
        "ip link set e0 mtu 1300; ip route del 10.9.0.0/24 dev e0; ip route add blackhole default",
        "ip route flush table main; ip -6 route flush table main",
    ],
)
def test_a_real_network_comes_back(tmp_path: Path, change: str) -> None:
    base = next(path for path in sys.path if os.path.isdir(os.path.join(path, "ansible_collections", "evenkeel")))
    argv = ["unshare", "--net", sys.executable, "-c", _REAL, base, str(tmp_path / "store"), str(tmp_path), change]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "network: " in done.stdout


def test_the_files_come_back_before_the_tool_reads_them(
    kind: Network, host: Host, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.networkd = "2 eth0 ether routable configured\n"
    host.units = {"systemd-networkd.service": ("enabled", "active")}
    files = Path(kind.etc, "systemd", "network")
    files.mkdir(parents=True)
    (files / "a.network").write_text("Address=10.0.0.2/24")
    resolv = Path(kind.etc, "resolv.conf")
    resolv.write_text("nameserver 10.0.0.53\n")
    mine = Store(store.root, host.system())
    checkpoint(mine, "before", [{"network": {}}])
    (files / "a.network").write_text("Address=10.0.0.3/24")
    host.links[1]["addr_info"] = [address("10.0.0.3")]

    def reload() -> None:
        host.links[1]["addr_info"] = [address((files / "a.network").read_text()[8:-3])]
        resolv.write_text("written by the tool\n")

    host.answers = {("networkctl", "reload"): reload}
    planned = rollback(mine, "before", check_mode=True)["planned"]
    result = rollback(mine, "before")
    assert host.ran == [("networkctl", "reload")]
    assert resolv.read_text() == "nameserver 10.0.0.53\n" and result["left"] == []
    assert [one for one in planned if one["resource"] == "network"] == [
        one for one in result["done"] if one["resource"] == "network"
    ]
    assert not rollback(mine, "before")["changed"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_host_goes_back_with_its_network_after_its_files_and_can_undo_that(
    kind: Network, host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    monkeypatch.setattr(watcher, "is_running", lambda _agent: True)
    monkeypatch.setattr(access, "PATHS", (kind.etc,))
    host.networkd = "2 eth0 ether routable configured\n"
    interfaces = Path(kind.etc, "network", "interfaces")
    interfaces.parent.mkdir()
    interfaces.write_text("10.0.0.2")
    mine = Store(store.root, replace(host.system(), monotonic=time.monotonic))
    other = Path(kind.etc).with_name("other")
    other.write_text("old")
    resources = [{"network": {}}, {"files": {"paths": [str(other)]}}]
    generation = checkpoint(mine, "before", resources, confirm_within=60.0)["generation"]
    if whole:
        other.write_text("new")
    interfaces.write_text("10.0.0.3")
    host.links[1]["addr_info"] = [address("10.0.0.3")]
    read: list[str] = []

    def reconfigure() -> None:
        read.append(interfaces.read_text())
        host.links[1]["addr_info"] = [address(read[-1])]

    host.answers = {("networkctl", "reconfigure"): reconfigure}
    with pytest.raises(Unhealthy) as ended:
        settle(mine, generation, [], 0.0, 1.0, 0.1, verdict="roll_back")
    assert read == ["10.0.0.2"] and ended.value.result["left"] == []
    # The undo has the network and its files as they were before either went back.
    rollback(mine, "undo")
    assert read == ["10.0.0.2", "10.0.0.3"] and interfaces.read_text() == "10.0.0.3"
    assert other.read_text() == ("new" if whole else "old")


class Reconfigured(NamedTuple):
    """A host whose rules and routes systemd-networkd has taken away, with their record."""

    lines: list[str]
    rule: Facts
    route: Facts
    daemons: list[Facts]


@pytest.fixture
def reconfigured(kind: Network, host: Host) -> Reconfigured:
    """systemd-networkd removes the rules and routes of others as it configures an interface."""
    host.networkd = "2 eth0 ether routable configured\n"
    vpn = {"priority": 5210, "src": "all", "fwmark": "0x80000", "table": "52", "protocol": "77"}
    mesh = route("203.0.113.0/24", gateway="10.0.0.1", protocol="77")
    protocols = ("bird", "zebra", "bgp", "188", "babel", "keepalived", "18", "99")
    daemons = [route(f"198.51.{at}.0/24", gateway="10.0.0.1", protocol=one) for at, one in enumerate(protocols)]
    host.rules += [vpn, dict(vpn, priority=7, protocol="keepalived")]
    host.routes += [mesh, *daemons]
    lines = lines_of(kind, host)
    assert "203.0.113" not in str(lines) and "5210" not in str(lines)
    host.links[1]["addr_info"] = []

    def reconfigure() -> None:
        host.links[1]["addr_info"].append(address("10.0.0.2"))
        del host.rules[1:], host.routes[1:]

    host.answers = {
        ("networkctl", "reconfigure"): reconfigure,
        ("ip", "-4", "rule", "add"): lambda: host.rules.append(vpn),
        ("ip", "-4", "route", "add"): lambda: host.routes.append(mesh),
    }
    return Reconfigured(lines, vpn, mesh, daemons)


def test_a_rule_and_a_route_of_a_program_that_networkd_takes_away_are_set_again(
    kind: Network, host: Host, store: Store, reconfigured: Reconfigured
) -> None:
    """A routing daemon sets its own, and may have others by now."""
    steps = kind.plan(reconfigured.lines, at(host, store))
    assert kind.apply(steps, at(host, store)) == steps
    assert host.rules[1:] == [reconfigured.rule] and host.routes[1:] == [reconfigured.route]
    assert host.changed() == [
        ("ip", "-4", "route", "add", "203.0.113.0/24", "via", "10.0.0.1", "dev", "eth0", "proto", "77"),
        ("ip", "-4", "rule", "add", "from", "all", "fwmark", "0x80000", "protocol", "77")
        + ("priority", "5210", "lookup", "52"),
    ]


@pytest.mark.parametrize("why", ["not permitted", "another route", "no device"])
def test_what_a_program_had_set_and_cannot_be_set_again_is_a_note(
    kind: Network, host: Host, store: Store, reconfigured: Reconfigured, why: str
) -> None:
    networkd = host.answers["networkctl", "reconfigure"]
    if why == "no device":
        reconfigured.route["dev"] = "wg0"
        host.links.append(link("wg0"))

    def reconfigure() -> None:
        assert callable(networkd)
        networkd()
        host.routes += [dict(reconfigured.route, gateway="10.0.0.9", protocol="bird")] if why == "another route" else []
        host.links = [one for one in host.links if one["ifname"] != "wg0"]

    host.answers["networkctl", "reconfigure"] = reconfigure
    if why == "not permitted":
        host.answers["ip", "-4", "route", "add"] = why
    steps = kind.plan(reconfigured.lines, at(host, store))
    done = kind.apply(steps, at(host, store))
    notes = [one.detail["note"] for one in done if one.action == "leave"]
    assert len(notes) == 1 and "route 203.0.113.0/24" in notes[0] and "which a program had set" in notes[0]
    assert ("(not permitted)" in notes[0]) == (why == "not permitted")
    assert any(argv[2:4] == ("route", "add") for argv in host.changed()) == (why == "not permitted")


def test_routes_of_programs_are_not_read_where_networkd_does_not_act(
    kind: Network, host: Host, store: Store, reconfigured: Reconfigured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "of_programs", lambda *_words: pytest.fail("read"))
    about = json.dumps({"dev": "eth0", "tool": "NetworkManager", "configuration": "aa-bb"})
    lines = [line for line in reconfigured.lines if not line.startswith("managed ")] + [f"managed {about}"]
    host.answers = {("nmcli",): lambda: host.links[1]["addr_info"].append(address("10.0.0.2"))}
    kind.apply(kind.plan(lines, at(host, store)), at(host, store))
    assert [argv[:5] for argv in host.ran] == [("nmcli", "--wait", "30", "connection", "up")]
    assert kind.verify(lines, host.system()) == []


def test_ipv6_is_switched_on_again_where_an_address_of_it_is_missing(
    kind: Network, host: Host, store: Store, tmp_path: Path
) -> None:
    kind.conf = str(tmp_path)
    for device in ("eth0", "lo"):
        (tmp_path / device).mkdir()
        (tmp_path / device / "disable_ipv6").write_text("1\n")
    six = address("2001:db8::2", 64)
    host.links[1]["addr_info"].append(six)
    lines = lines_of(kind, host)
    host.links[1]["addr_info"].remove(six)

    def refused_while_off() -> None:
        if (tmp_path / "eth0/disable_ipv6").read_text() == "0":
            host.links[1]["addr_info"].append(six)

    host.answers = {("ip", "-6", "address", "replace"): refused_while_off}
    kind.apply(kind.plan(lines, at(host, store)), at(host, store))
    assert kind.verify(lines, host.system()) == [] and (tmp_path / "lo/disable_ipv6").read_text() == "1\n"


def test_a_network_manager_that_was_switched_off_is_switched_on(kind: Network, host: Host, store: Store) -> None:
    """It remembers that over a boot, after which the host would have no network."""
    lines = lines_of(kind, host)
    host.networking = "disabled"
    assert 'off {"tool": "NetworkManager"}' in lines_of(kind, host)
    assert kind.plan(lines_of(kind, host), at(host, store)) == []
    assert kind.verify(lines, host.system()) == ["NetworkManager was told to configure nothing"]
    host.answers = {("nmcli", "networking", "on"): lambda: setattr(host, "networking", "enabled")}
    steps = kind.plan(lines, at(host, store))
    assert [(step.action, step.target) for step in steps] == [("switch on", "NetworkManager")]
    assert kind.apply(steps, at(host, store)) == steps and kind.verify(lines, host.system()) == []
    host.networking, host.answers = "disabled", {("nmcli", "networking", "on"): "no permission"}
    with pytest.raises(RestoreFailed, match="NetworkManager: nmcli networking on: no permission"):
        kind.apply(kind.plan(lines, at(host, store)), at(host, store))


def test_a_queue_that_a_change_gave_to_an_interface_goes(kind: Network, host: Host, store: Store) -> None:
    """netem with a loss of 100 % keeps everybody out."""
    own = {"kind": "fq_codel", "handle": "0:", "dev": "eth0", "root": True, "options": {"limit": 10240}}
    loss = {"kind": "netem", "handle": "8001:", "dev": "eth0", "root": True, "options": {"loss-random": {"loss": 1.0}}}
    host.queues = [own, dict(loss, dev="veth12")]
    lines = lines_of(kind, host)
    assert not any(line.startswith("queue {") for line in lines)
    host.queues = [loss]
    host.answers = {("tc", "qdisc", "del", "dev", "eth0", "root"): lambda: host.queues.remove(loss)}
    # A record that has no queues tells nothing of them.
    assert kind.plan([line for line in lines if line != "queues {}"], at(host, store)) == []
    steps = kind.plan(lines, at(host, store))
    assert [step.why for step in steps] == ["queue netem was not there"]
    assert kind.apply(steps, at(host, store)) == steps and kind.verify(lines, host.system()) == []


def test_a_host_keeps_its_shaping_and_is_not_reconfigured_for_it(kind: Network, host: Host, store: Store) -> None:
    """``tc`` prints a counter among the options, and a queue that is removed takes classes and filters along."""
    host.networkd = "2 eth0 ether routable configured\n"
    shaping = {"kind": "htb", "handle": "1:", "dev": "eth0", "root": True, "options": {"direct_packets_stat": 3}}
    host.queues = [shaping]
    lines = lines_of(kind, host)
    assert [one for one in kind.not_restorable({}, lines) if "queue" in one] == [
        "network: eth0 has the queue htb, which is not made again with its classes and filters"
    ]
    host.queues = [dict(shaping, options={"direct_packets_stat": 4})]
    assert lines_of(kind, host) == lines and kind.plan(lines, at(host, store)) == []
    # A record of an earlier version has the options.
    old = [line.replace('"kind": "htb"', '"kind": "htb", "options": {"direct_packets_stat": 2}') for line in lines]
    assert old != lines and kind.plan(old, at(host, store)) == [] and kind.verify(old, host.system()) == []
    for queues in ([], [dict(shaping, kind="fq")]):
        host.queues = queues
        steps = kind.plan(lines, at(host, store))
        assert [(one.action, one.target, one.why) for one in steps] == [("leave", "eth0", "queue htb is missing")]
        done = kind.apply(steps, at(host, store))
        assert [one.detail["note"] for one in done] == ["network: eth0: queue htb is missing"]
        assert host.ran == [] and kind.verify(lines, host.system()) == []


def test_a_rollback_without_a_queue_ends_well_and_names_it(kind: Network, host: Host, store: Store) -> None:
    """A host that lost it at a boot does not try for an hour."""
    mine = Store(store.root, replace(host.system(), monotonic=time.monotonic))
    host.queues = [{"kind": "htb", "handle": "1:", "dev": "eth0", "root": True}]
    report = checkpoint(mine, "before", [{"network": {}}])
    assert any("eth0 has the queue htb" in one for one in report["left"])
    host.queues = []
    result = rollback(mine, "before")
    assert result["left"] == [] and "network: eth0: queue htb is missing" in result["notes"]
    assert [one["action"] for one in result["done"]] == ["leave"] and host.changed() == []


def test_a_queue_that_cannot_be_removed_has_no_tool_apply_anything(kind: Network, host: Host, store: Store) -> None:
    host.networkd = "2 eth0 ether routable configured\n"
    lines = lines_of(kind, host)
    host.queues = [{"kind": "netem", "handle": "8001:", "dev": "eth0", "root": True}]
    host.answers = {("tc", "qdisc", "del"): "not permitted"}
    steps = kind.plan(lines, at(host, store))
    assert [one.action for one in steps] == ["set"]
    with pytest.raises(RestoreFailed, match="queue netem was not there .*not permitted"):
        kind.apply(steps, at(host, store))
    assert not any(argv[0] == "networkctl" for argv in host.ran)


def test_a_record_that_tells_nothing_of_switches_leaves_them(kind: Network, host: Host, store: Store) -> None:
    """Nor does a record of a host whose NetworkManager did not run, and did not tell."""
    told = lines_of(kind, host)
    old = [line for line in told if line != "switches {}"]
    host.networking = ""
    silent = lines_of(kind, host)
    assert silent == old != told and kind.plan(told, at(host, store)) == []
    host.networking = "disabled"
    for lines in (old, silent):
        assert kind.plan(lines, at(host, store)) == [] and kind.verify(lines, host.system()) == []
    assert "switches {}" in lines_of(kind, host)
