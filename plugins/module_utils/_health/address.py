# SPDX-License-Identifier: GPL-3.0-or-later

"""A service address that moves between hosts has one holder, as seen on the wire."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from .._errors import UsageError
from .._host import wire
from .._host.system import System
from .probe import CONTROLLER, FAIL, HOST, PASS, PEER, UNKNOWN, Measurement, Probe

# Seconds in which all holders answer; the whole of it is waited for, as a second holder may be the slower one.
_ANSWERS = 1.0


class AddressProbe(Probe):
    """Exactly one machine answers for an address: this host, or another on its network."""

    kind = "address"
    SOURCES = (HOST, CONTROLLER, PEER)
    OPTIONS = {
        "address": {"type": "str", "required": True},
        "interface": {"type": "str"},
    }

    def prepare(self, declared: Mapping[str, Any]) -> str:
        try:
            self._address = ipaddress.ip_address(declared["address"])
        except ValueError as error:
            raise UsageError(f"address {declared['address']!r} is not an address such as 10.0.0.100") from error
        self._interface = declared["interface"]
        return str(self._address)

    def measure(self, system: System) -> Measurement:
        found = wire.links(system)
        if self._interface:
            link = next((one for one in found if one.name == self._interface), None)
        else:
            link = wire.towards(found, self._address)
        if link is None:
            where = f"no interface {self._interface}" if self._interface else "no interface in its network"
            return Measurement(UNKNOWN, f"the machine that asks has {where}; name one by interface, or ask elsewhere")
        try:
            holders = wire.ask([self._address], link, min(_ANSWERS, self.timeout))[self._address]
        except PermissionError:
            return Measurement(UNKNOWN, "only root can ask on the wire")
        if wire.holds(found, self._address):
            holders = holders | {link.hardware}
        if not holders:
            return Measurement(FAIL, f"nobody answers for it on {link.name}")
        said = ", ".join(sorted(holders))
        return Measurement(FAIL, f"{len(holders)} holders: {said}") if len(holders) > 1 else Measurement(PASS, said)
