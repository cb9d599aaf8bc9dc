# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Six hosts in three racks, each with two copies in other racks: a store is wiped, then a whole rack is destroyed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Fleet

RACKS = {"web1": "a", "web2": "a", "web3": "b", "web4": "b", "web5": "c", "web6": "c"}
VARIABLES = """
evenkeel_peers: [web1, web2, web3, web4, web5, web6]
evenkeel_failure_domain: place
evenkeel_copies: 2
evenkeel_resources:
  - files: {paths: [/srv/www]}
"""


def run(fleet: Fleet, command: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command on all six hosts."""
    code, out = fleet.evenkeel(command, *words, "-i", "inventory", "--json", timeout=900)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(out[out.index('{\n  "command"') :])[0]
    return code, found


def good(result: dict[str, Any]) -> dict[str, set[str]]:
    """The racks in which each host has a copy that was read in this run."""
    found: dict[str, set[str]] = {}
    for row in result["hosts"].values():
        for copy in row.get("copies", []):
            if copy["state"] == "good":
                found.setdefault(copy["host"], set()).add(RACKS[copy["peer"]])
    return found


@pytest.mark.long
def test_a_wiped_store_and_a_destroyed_rack_cost_nothing_that_was_protected(fleet: Fleet) -> None:
    hosts = "".join(f"    {host}: {{place: {rack}}}\n" for host, rack in RACKS.items())
    (fleet.home / "inventory" / "places.yml").write_text(f"six:\n  hosts:\n{hosts}")
    (fleet.home / "inventory" / "group_vars" / "six.yml").write_text(VARIABLES)
    for host in RACKS:
        fleet.on(host, f"echo '<h1>{host}</h1>' >/srv/www/index.html; dd if=/dev/urandom of=/srv/www/big bs=1M count=2")
    sums = {host: fleet.on(host, "sha256sum /srv/www/*") for host in RACKS}
    code, result = run(fleet, "protect")
    assert code == 0, result
    assert all(len(racks) == 2 and RACKS[host] not in racks for host, racks in good(result).items()), result

    # The store of web1 is wiped, with its copies of others, and a copy elsewhere is damaged.
    fleet.on("web1", "rm -rf /var/lib/evenkeel")
    damaged = next(copy["peer"] for copy in result["hosts"]["web3"]["copies"] if copy["peer"] != "web1")
    fleet.on(damaged, "printf X | dd of=$(ls /var/lib/evenkeel/replicas/web3/objects/*/*) bs=1 seek=999 conv=notrunc")
    code, result = run(fleet, "heal")
    assert code == 0, result
    assert good(result).keys() == RACKS.keys() and all(len(racks) == 2 for racks in good(result).values())
    said = "; ".join(warning for row in result["hosts"].values() for warning in row.get("warnings", []))
    assert (
        "of web3's checkpoint" in said and f"on {damaged} was damaged (/srv/www/big" in said and "rebuilt from" in said
    )
    assert "on web1 was lost (its store was empty), rebuilt from" in said
    fleet.on("web1", "rm -rf /srv/www/*")
    code, _said = fleet.evenkeel("rollback", "-i", "inventory", "--limit", "web1", timeout=600)
    assert code == 0 and fleet.on("web1", "sha256sum /srv/www/*") == sums["web1"]

    # A rack burns down: its copies are placed anew, its hosts are named, and nothing of theirs is lost.
    for host in ("web5", "web6"):
        fleet.lab.stop(host, now=True)
    try:
        code, result = run(fleet, "heal")
        assert code == 2, result
        assert all(result["hosts"][host]["state"] == "unreachable" for host in ("web5", "web6")), result
        assert good(result) == {host: {"a", "b"} for host in RACKS}, result
    finally:
        for host in ("web5", "web6"):
            fleet.lab.recreate(host)
    for host in ("web5", "web6"):
        code, said = fleet.evenkeel("recover", host, "-i", "inventory", timeout=600)
        assert code == 0 and fleet.on(host, "sha256sum /srv/www/*") == sums[host], said
