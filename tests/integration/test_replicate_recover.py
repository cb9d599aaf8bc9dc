# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Four hosts in two racks, two copies of each: one loses everything, and a spare takes the place of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Fleet
from .test_guard import playbook

VARIABLES = """
evenkeel_peers: [web1, web2, web3, web4]
evenkeel_failure_domain: rack
evenkeel_copies: 2
evenkeel_resources:
  - files: {paths: [/etc/nginx, /srv/www]}
  - services: {names: [nginx]}
"""
TREES = ("/etc/nginx/", "/srv/www/")


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.long), "sudo"])
def four(fleet: Fleet, request: pytest.FixtureRequest) -> Fleet:
    """The fleet, reached as root, or as a user that needs sudo for everything and may not read what root writes."""
    (fleet.home / "inventory" / "group_vars" / "web.yml").write_text(VARIABLES)
    if request.param == "sudo":
        ops = Path(fleet.lab.inventory).with_name("inventory-ops.yml").read_text()
        (fleet.home / "inventory" / "hosts.yml").write_text(ops)
    for host in (*fleet.names, "web6"):
        fleet.on(host, f"echo '<h1>{host}</h1>' > /srv/www/index.html; chown 1000:33 /srv/www/index.html")
        fleet.on(
            host,
            "rm -rf /var/before ~root/.ansible/tmp/* ~ops/.ansible/tmp/*; mkdir /var/before;"
            " cp -a --parents /etc/nginx /srv/www /var/before",
        )
    return fleet


def racks(fleet: Fleet) -> dict[str, str]:
    """Rack of each host, as the lab's inventory has it."""
    lines = (fleet.home / "inventory" / "hosts.yml").read_text().splitlines()
    return {line.split(":")[0].strip(): line.split("rack: ")[1].strip("} ") for line in lines if "rack: " in line}


def differs(fleet: Fleet, host: str, owner: str) -> str:
    """What rsync would change on ``host`` to make it what ``owner`` was before; empty when nothing."""
    if host != owner:
        fleet.on(owner, "tar -C /var --format=posix --xattrs -cf /tmp/before.tar before")
        data = fleet.on(owner, "base64 -w0 /tmp/before.tar")
        fleet.lab.exec(host, ["sh", "-c", "rm -rf /var/before; base64 -d | tar -C /var -xf - --xattrs"], input=data)
    judge = "rsync -aHAX --checksum --delete -n -i"
    return fleet.on(host, "; ".join(f"{judge} /var/before{tree} {tree}" for tree in TREES))


def copies(fleet: Fleet, owner: str) -> list[str]:
    return [h for h in fleet.names[:4] if fleet.on(h, f"ls -d /var/lib/evenkeel/replicas/{owner}", check=False).strip()]


def holders(fleet: Fleet, owner: str) -> dict[str, str]:
    """The peers, each with its rack, that the status shows with a whole copy of the owner's newest checkpoint."""
    _code, said = fleet.evenkeel("status", "-i", "inventory", "--json")
    told = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]["redundancy"]
    (found,) = [one for one in told["owners"] if one["host"] == owner]
    assert found["wanted"] == 2
    return {one["peer"]: one["domain"] for one in found["copies"] if not one["damaged"] and one["behind"] == 0}


def flip(fleet: Fleet, peer: str, owner: str) -> None:
    """Change a byte of a content in a copy: of the page, which is in a pack."""
    pack = f"/var/lib/evenkeel/replicas/{owner}/packs"
    fleet.on(peer, f"sed -i 's#<h1>{owner}#<h2>{owner}#' $(grep -l '<h1>{owner}' {pack}/*.pack)")


def test_a_host_that_lost_everything_and_a_spare_are_recovered_byte_for_byte(four: Fleet) -> None:
    code, said = playbook(four, "protect", "-e", "evenkeel_hosts=web1,web2,web3,web4")
    assert code == 0, said
    rack = racks(four)
    for owner in four.names[:4]:
        held = copies(four, owner)
        assert len(held) == 2 and owner not in held
        assert {rack[host] for host in held} == {"r1", "r2"}
    leftovers = "ls -d /var/tmp/evenkeel-* ~root/.ansible/tmp/* ~ops/.ansible/tmp/* 2>/dev/null || true"
    assert [four.on(host, leftovers) for host in four.names[:4]] == [""] * 4

    # Each host is known to have two copies in two racks; of a copy that is gone nobody says that it is there.
    bad, good = copies(four, "web1")
    assert holders(four, "web1") == {bad: rack[bad], good: rack[good]}
    four.on(good, "mv /var/lib/evenkeel/replicas/web1 /var/tmp/kept")
    assert holders(four, "web1") == {bad: rack[bad]}
    four.on(good, "mv /var/tmp/kept /var/lib/evenkeel/replicas/web1")

    # The key by which copies are known stays here.
    key = four.home / "inventory" / ".evenkeel-key"
    assert key.stat().st_mode & 0o777 == 0o600
    stores = "grep -rlF '{}' /var/lib/evenkeel /var/tmp ~root ~ops 2>/dev/null || true"
    assert [four.on(host, stores.format(key.read_text().strip())) for host in four.names[:4]] == [""] * 4

    # One loses its files and its store, and one of its copies is not what it was.
    four.on("web1", "systemctl stop nginx; rm -rf /etc/nginx/* /srv/www/* /var/lib/evenkeel")
    bad, good = copies(four, "web1")
    flip(four, bad, "web1")
    code, said = playbook(four, "recover", "-e", "evenkeel_hosts=web1", "-v")
    assert code == 0, said
    assert f'"source": "{good}"' in said and f"{bad}: damaged" in said
    assert differs(four, "web1", "web1") == ""
    assert four.serves("web1", "<h1>web1</h1>")

    # A fresh host takes the place of another.
    four.lab.recreate("web6")
    code, said = playbook(four, "recover", "-e", "evenkeel_hosts=web6", "-e", "evenkeel_recover_host=web2")
    assert code == 0, said
    assert differs(four, "web6", "web2") == ""
    assert four.serves("web6", "<h1>web2</h1>")

    # What is not declared any more is not restored, unless somebody says so.
    declared = VARIABLES.replace("[/etc/nginx, /srv/www]", "[/etc/nginx]")
    (four.home / "inventory" / "group_vars" / "web.yml").write_text(declared)
    four.on("web1", "echo newer > /srv/www/index.html")
    code, said = playbook(four, "recover", "-e", "evenkeel_hosts=web1")
    assert code == 2 and "does not declare for web1" in said and "files /srv/www" in said
    assert four.serves("web1", "newer")
    code, said = playbook(four, "recover", "-e", "evenkeel_hosts=web1", "-e", "evenkeel_undeclared=true")
    assert code == 0 and differs(four, "web1", "web1") == "", said
    (four.home / "inventory" / "group_vars" / "web.yml").write_text(VARIABLES)

    # Nothing whole is left of web1: that is a failure, and nothing is touched.
    flip(four, good, "web1")
    four.on("web1", "rm -rf /var/lib/evenkeel; echo new > /srv/www/index.html")
    code, said = playbook(four, "recover", "-e", "evenkeel_hosts=web1")
    assert code == 2 and "No peer has a verified copy" in said
    assert four.serves("web1", "new")
