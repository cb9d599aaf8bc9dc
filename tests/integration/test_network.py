# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change that cuts the network of a host: it is back with its address, by its own tool or without one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .conftest import Fleet
from .test_system_state import open_to_us

HOST = "web1"
FILE = "/etc/systemd/network/10-eth0.network"
RESOURCES: list[dict[str, dict[str, str]]] = [{"network": {}}]
SEEN = "ip -4 -o address show; ip -6 -o address show scope global; ip route show table all | grep -v fe80; ip rule"
# The host itself makes the change, as its controller is cut off by the first command.
AWAY = "setsid sh -c 'sleep 0.5; {}' >/dev/null 2>&1 &"


def seen(fleet: Fleet) -> list[str]:
    lines = fleet.on(HOST, SEEN).replace(" linkdown", "").splitlines()
    return sorted(" ".join(line.split()) for line in lines if "multicast ff00" not in line)


@pytest.fixture
def networkd(fleet: Fleet) -> Iterator[Fleet]:
    """The host with its address by a file of systemd-networkd."""
    route = fleet.on(HOST, "ip -4 route show default").split()
    gateway, device = route[route.index("via") + 1], route[route.index("dev") + 1]
    address = fleet.lab.host(HOST).address
    text = f"[Match]\nName={device}\n[Network]\nAddress={address}/24\nGateway={gateway}\nLinkLocalAddressing=no\n"
    was = " ".join(route)
    try:
        fleet.on(HOST, f"printf '{text.encode('unicode_escape').decode()}' > {FILE}; systemctl start systemd-networkd")
        fleet.on(HOST, f"ip route del {was}", check=False)  # What podman has set beside.
        assert fleet.eventually(lambda: "proto static" in fleet.on(HOST, "ip route show default"), 20)
        yield fleet
    finally:
        fleet.on(HOST, f"systemctl stop systemd-networkd.socket systemd-networkd; rm -f {FILE}; ip route flush default")
        fleet.on(HOST, f"ip address replace {address}/24 brd + dev {device}; ip route replace {was}")


def test_a_changed_file_of_networkd_that_locks_out_is_taken_back_and_applied(networkd: Fleet) -> None:
    fleet = networkd
    before, text = seen(fleet), fleet.on(HOST, f"stat -c '%a %Y' {FILE}; cat {FILE}")
    begun = fleet.module(HOST, "ft_checkpoint", name="before", resources=RESOURCES, confirm_within="10s")
    assert not begun["failed"], begun
    change = (
        f"sed -i s/^Address=.*/Address=192.0.2.77\\/24/ {FILE}; networkctl reload; ip rule add blackhole priority 9"
    )
    fleet.on(HOST, AWAY.format(change))
    assert fleet.eventually(lambda: not open_to_us(fleet), 8)
    assert fleet.eventually(lambda: open_to_us(fleet), 40) and fleet.disarmed(HOST)
    assert (fleet.state(HOST)["outcome"], fleet.state(HOST)["by"]) == ("rolled_back", "deadline"), fleet.state(HOST)
    assert seen(fleet) == before and fleet.on(HOST, f"stat -c '%a %Y' {FILE}; cat {FILE}") == text
    # Nothing differs, so nothing is applied.
    again = fleet.module(HOST, "ft_rollback", checkpoint="before")
    assert not again["failed"] and again["changed"] is False and again["done"] == []


@pytest.mark.long
def test_addresses_that_no_tool_manages_are_set_as_they_were(fleet: Fleet) -> None:
    fleet.on(HOST, "ip address add 198.51.100.7/24 dev eth0; ip route replace 203.0.113.0/24 via 198.51.100.1")
    before = seen(fleet)
    begun = fleet.module(HOST, "ft_checkpoint", name="before", resources=RESOURCES, confirm_within="10s")
    assert not begun["failed"], begun
    armed = time.monotonic()
    try:
        fleet.on(
            HOST,
            AWAY.format("ip address flush dev eth0; ip link set eth0 mtu 1300; ip address add 192.0.2.1/24 dev eth0"),
        )
        assert fleet.eventually(lambda: not open_to_us(fleet), 8)
        assert fleet.eventually(lambda: open_to_us(fleet), 40) and fleet.disarmed(HOST)
        print(f"reachable again {time.monotonic() - armed:.1f} s after it was armed for 10 s")
        assert fleet.state(HOST)["outcome"] == "rolled_back", fleet.state(HOST)
        assert seen(fleet) == before and "mtu 1500" in fleet.on(HOST, "ip link show eth0")
        # By hand, with what is planned shown beforehand.
        fleet.on(HOST, "ip route del 203.0.113.0/24; ip address del 198.51.100.7/24 dev eth0")
        planned = fleet.module(HOST, "ft_rollback", check=True, checkpoint="before")
        assert "203.0.113.0/24 via 198.51.100.1" in planned["planned"][0]["why"], planned
        result = fleet.module(HOST, "ft_rollback", checkpoint="before")
        assert not result["failed"] and result["done"] == planned["planned"] and seen(fleet) == before
    finally:
        fleet.on(HOST, "ip address del 198.51.100.7/24 dev eth0", check=False)
