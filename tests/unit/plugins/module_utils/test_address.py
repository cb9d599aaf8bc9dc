# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who holds a service address: the answers on the wire, and the probe that counts the holders."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import wire
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System

from .conftest import SYSTEM

OWN, FIRST, SECOND = "02:00:00:00:00:0b", "02:00:00:00:00:0c", "02:00:00:00:00:0d"
SHOWN: list[dict[str, Any]] = [
    {"ifname": "lo", "link_type": "loopback", "address": "00:00:00:00:00:00", "addr_info": []},
    {
        "ifname": "eth0",
        "link_type": "ether",
        "address": OWN,
        "addr_info": [
            {"local": "10.0.0.11", "prefixlen": 24},
            {"local": "fe80::1", "prefixlen": 64},
            {"label": "eth0:peer"},
        ],
    },
]
VIP, VIP6 = ipaddress.ip_address("10.0.0.100"), ipaddress.ip_address("fd00::100")


def machine(shown: Any = SHOWN, rc: int = 0) -> System:
    out = shown if isinstance(shown, str) else json.dumps(shown)
    return replace(SYSTEM, run=lambda argv, timeout: Completed(tuple(argv), rc, out, ""))


LINK = wire.links(machine())[0]


def test_the_links_are_those_that_ip_shows() -> None:
    (link,) = wire.links(machine())
    assert (link.name, link.hardware, [str(one) for one in link.addresses]) == (
        "eth0",
        OWN,
        ["10.0.0.11/24", "fe80::1/64"],
    )
    assert wire.towards([link], VIP) == link and wire.towards([link], ipaddress.ip_address("192.0.2.1")) is None
    assert wire.holds([link], ipaddress.ip_address("10.0.0.11")) and not wire.holds([link], VIP)


@pytest.mark.parametrize(("shown", "rc"), [("", 127), ("{", 0), ([{"link_type": "ether"}], 0)])
def test_what_ip_does_not_show_is_an_error(shown: Any, rc: int) -> None:
    with pytest.raises(OSError, match="ip shows"):
        wire.links(machine(shown, rc))


class Heard(socket.socket):
    """A socket that hears one packet."""

    def __init__(self, packet: bytes, hops: int = 255) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.packet, self.hops = packet, hops

    def recv(self, size: int, flags: int = 0) -> bytes:
        return self.packet[:size]

    def recvmsg(self, size: int, more: int = 0, flags: int = 0) -> Any:
        level = socket.IPPROTO_IPV6
        return self.packet[:size], [(level, socket.IPV6_HOPLIMIT, struct.pack("i", self.hops))], 0, ("fe80::2",)


def asking(kind: type, packet: bytes, hops: int = 255) -> dict[Any, str]:
    class Asking(kind):
        def open(self) -> None:
            self.socket = Heard(packet, hops)

    one = Asking(LINK, [VIP, VIP6])
    with one.socket:
        return dict(one.receive())


def arp(operation: int = 2, sender: str = "10.0.0.100") -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + bytes.fromhex(FIRST.replace(":", ""))
    return head + ipaddress.ip_address(sender).packed + bytes(10)


def advertised(target: str = "fd00::100", kind: int = 136) -> bytes:
    head = struct.pack("!BBHI", kind, 0, 0, 0) + ipaddress.ip_address(target).packed
    return head + bytes([2, 1]) + bytes.fromhex(FIRST.replace(":", ""))


def test_an_answer_of_arp_counts_only_as_one_to_our_question() -> None:
    assert asking(wire._Arp, arp()) == {VIP: FIRST}
    for other in (arp(operation=1), arp(sender="10.0.0.12"), arp()[:20], b""):
        assert asking(wire._Arp, other) == {}


def test_an_answer_of_neighbour_discovery_counts_only_from_the_same_network() -> None:
    assert asking(wire._Discovery, advertised()) == {VIP6: FIRST}
    assert asking(wire._Discovery, advertised(), hops=64) == {}
    for other in (advertised("fd00::5"), advertised(kind=135), advertised()[:24], b""):
        assert asking(wire._Discovery, other) == {}


def look(monkeypatch: pytest.MonkeyPatch, answers: Any, shown: Any = SHOWN, **options: Any) -> tuple[str, str]:
    def ask(targets: Any, link: wire.Link, wait: float) -> dict[Any, set[str]]:
        if isinstance(answers, OSError):
            raise answers
        return {target: set(answers) for target in targets}

    monkeypatch.setattr(wire, "ask", ask)
    declared = probes.check([{"address": {"address": "10.0.0.100", **options}}])
    (result,) = probes.measure(declared, machine(shown))
    return result.state, result.detail


def test_one_holder_passes_and_none_and_two_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, [FIRST]) == ("pass", FIRST)
    assert look(monkeypatch, []) == ("fail", "nobody answers for it on eth0")
    assert look(monkeypatch, [SECOND, FIRST]) == ("fail", f"2 holders: {FIRST}, {SECOND}")


def test_this_host_counts_as_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = [{**SHOWN[1], "addr_info": [{"local": "10.0.0.100", "prefixlen": 32}]}]
    assert look(monkeypatch, [], holds) == ("pass", OWN)
    assert look(monkeypatch, [FIRST], holds) == ("fail", f"2 holders: {OWN}, {FIRST}")


def test_what_cannot_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, PermissionError(1, "not permitted")) == ("unknown", "only root can ask on the wire")
    assert look(monkeypatch, [FIRST], interface="eth7")[0] == "unknown"
    assert look(monkeypatch, [FIRST], "no json")[0] == "unknown"
    elsewhere = [{**SHOWN[1], "addr_info": [{"local": "192.0.2.1", "prefixlen": 24}]}]
    assert look(monkeypatch, [FIRST], elsewhere)[0] == "unknown"


def test_a_text_that_is_no_address_is_refused() -> None:
    with pytest.raises(UsageError, match="is not an address"):
        probes.check([{"address": {"address": "10.0.0.100/24"}}])
