# SPDX-License-Identifier: GPL-3.0-or-later

"""The addresses of this host, and who answers for an address on the wire: ARP and neighbour discovery, asked by us.

An answer is the word of the machine that sends it. Nobody proves on such a network that an address is his.
"""

from __future__ import annotations

import ipaddress
import json
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Union

from .system import System

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
# Seconds after which a question is asked again.
_AGAIN = 0.2
_ARP, _TO_ALL = 0x0806, b"\xff" * 6
_SOLICIT, _ADVERTISE, _OURS, _THEIRS = 135, 136, 1, 2
# Socket options of Linux that Python does not name.
_ICMP6_FILTER, _HOPS = 1, 255
_MOST = 10_000


class Link(NamedTuple):
    """An interface of this host: its name, its hardware address, and the addresses that it has."""

    name: str
    hardware: str
    addresses: Sequence[ipaddress.IPv4Interface | ipaddress.IPv6Interface]


def links(system: System) -> list[Link]:
    """The interfaces that have a hardware address, as ``ip`` shows them. OSError where it shows none."""
    done = system.run(["ip", "-json", "address", "show"], 10.0)
    if done.rc:
        raise OSError(f"ip shows no addresses: {done.words}")
    try:
        return [
            Link(
                one["ifname"],
                one["address"],
                [
                    ipaddress.ip_interface(f"{of['local']}/{of['prefixlen']}")
                    for of in one["addr_info"]
                    if "local" in of
                ],
            )
            for one in json.loads(done.out)
            if one.get("link_type") == "ether"
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise OSError(f"ip shows addresses in an unknown form: {error}") from error


def holds(found: Iterable[Link], address: Address) -> bool:
    """Whether an interface has the address."""
    return any(one.ip == address for link in found for one in link.addresses)


def towards(found: Iterable[Link], address: Address) -> Link | None:
    """The interface that has the address, or else the first in whose network it is."""
    known = list(found)
    for link in known:
        if any(one.ip == address for one in link.addresses):
            return link
    return next((link for link in known if any(address in one.network for one in link.addresses)), None)


def ask(targets: Sequence[Address], link: Link, wait: float) -> dict[Address, set[str]]:
    """Address -> the hardware addresses that answer for it within ``wait`` seconds, this host's own left out.

    OSError where this process may not ask. A question is repeated, as it or its answer may be lost.
    """
    families = {4: _Arp, 6: _Discovery}
    asking = [
        families[version](link, [one for one in targets if one.version == version])
        for version in sorted({one.version for one in targets})
    ]
    found: dict[Address, set[str]] = {one: set() for one in targets}
    try:
        end, due = time.monotonic() + wait, 0.0
        for _number in range(_MOST):
            now = time.monotonic()
            if now >= end:
                break
            if now >= due:
                due = now + _AGAIN
                for one in asking:
                    one.send()
            ready = select.select([one.socket for one in asking], [], [], min(end, due) - now)[0]
            for one in asking:
                if one.socket in ready:
                    for target, hardware in one.receive().items():
                        if hardware != link.hardware:
                            found[target].add(hardware)
    finally:
        for one in asking:
            one.socket.close()
    return found


class _Asking:
    """Questions of one family through one socket."""

    socket: socket.socket

    def __init__(self, link: Link, targets: Sequence[Address]) -> None:
        self.link, self.targets = link, targets
        self.hardware = bytes.fromhex(link.hardware.replace(":", ""))
        self.open()

    def open(self) -> None:
        raise NotImplementedError

    def send(self) -> None:
        """Ask for all of them. A link that is down cannot be asked, which is no answer."""
        for target in self.targets:
            try:
                self.question(target)
            except OSError:
                continue

    def question(self, target: Address) -> None:
        raise NotImplementedError

    def receive(self) -> Mapping[Address, str]:
        """The answer that has arrived, if it is one to our questions."""
        raise NotImplementedError


class _Arp(_Asking):
    """ARP (RFC 826). The question bears an address of this host where it has one in that network, and otherwise none,
    as a probe of RFC 5227: so no table of neighbours is spoilt."""

    def open(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ARP))
        self.socket.bind((self.link.name, _ARP))

    def question(self, target: Address) -> None:
        sender = next((one.ip for one in self.link.addresses if one.ip != target and target in one.network), None)
        mine = sender.packed if sender is not None else bytes(4)
        words = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
        self.socket.sendto(
            words + self.hardware + mine + bytes(6) + target.packed, (self.link.name, _ARP, 0, 0, _TO_ALL)
        )

    def receive(self) -> Mapping[Address, str]:
        data = self.socket.recv(64)
        if len(data) < 28 or struct.unpack("!HHBBH", data[:8]) != (1, 0x0800, 6, 4, 2):
            return {}
        said = ipaddress.ip_address(data[14:18])
        return {said: data[8:14].hex(":")} if said in self.targets else {}


class _Discovery(_Asking):
    """Neighbour discovery (RFC 4861), by a raw socket of ICMPv6. An answer that a router has passed on counts for
    nothing."""

    def open(self) -> None:
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex(self.link.name)
        passed = [0xFFFFFFFF] * 8
        passed[_ADVERTISE >> 5] &= ~(1 << (_ADVERTISE & 31)) & 0xFFFFFFFF
        self.socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("8I", *passed))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.link.name.encode())
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self.index = index

    def question(self, target: Address) -> None:
        group = ipaddress.IPv6Address(int(ipaddress.IPv6Address("ff02::1:ff00:0")) | int(target) & 0xFFFFFF)
        words = struct.pack("!BBHI", _SOLICIT, 0, 0, 0) + target.packed + bytes([_OURS, 1]) + self.hardware
        self.socket.sendto(words, (str(group), 0, 0, self.index))

    def receive(self) -> Mapping[Address, str]:
        data, more, _flags, _sender = self.socket.recvmsg(256, 64)
        hops = [struct.unpack("i", value[:4])[0] for _level, kind, value in more if kind == socket.IPV6_HOPLIMIT]
        if (
            hops != [_HOPS]
            or len(data) < 32
            or data[:2] != bytes([_ADVERTISE, 0])
            or data[24:26] != bytes([_THEIRS, 1])
        ):
            return {}
        said = ipaddress.ip_address(data[8:24])
        return {said: data[26:32].hex(":")} if said in self.targets else {}
