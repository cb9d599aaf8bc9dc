# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Six hosts in three racks, each with two copies in other racks: a store is wiped, then a whole rack is destroyed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import preference

from .conftest import Fleet

RACKS = {"web1": "a", "web2": "a", "web3": "b", "web4": "b", "web5": "c", "web6": "c"}
VARIABLES = """
evenkeel_peers: [web1, web2, web3, web4, web5, web6]
evenkeel_failure_domain: place
evenkeel_copies: 2
evenkeel_resources:
  - files: {paths: [/srv/www]}
"""


# A Python that says where another store is: the peer knows all about that store but its secret.
LIAR = r"""#!/usr/bin/python3
import hashlib, hmac, os, re, subprocess, sys
given = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
done = subprocess.run(["/usr/bin/python3", *sys.argv[1:]], input=given, capture_output=True)
told = given + b"".join(open(one, "rb").read() for one in sys.argv[1:] if os.path.isfile(one))
run = re.search(rb'run[\\"]+: ?[\\"]+([0-9a-f]{12})', told)
facts = os.path.join("/", "etc", "facts")
with open(facts) as facts:
    parts = ["place", run[1].decode() if run else "", *facts.read().split(), "."]
    words = "\0".join(parts).encode()
place = b'"place": "' + hmac.new(b"", words, hashlib.sha256).hexdigest().encode() + b'"'
answer, lies = re.subn(rb'"place": "[0-9a-f]{64}"', place, done.stdout)
with open("/var/lies", "a") as stream:
    stream.write(f"{run and run[1].decode()}\n" * lies)
sys.stdout.buffer.write(answer)
sys.stderr.buffer.write(done.stderr)
sys.exit(done.returncode)
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


def protected(fleet: Fleet, *peers: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the copies by their peers, and all words of a protection of web1 with two copies."""
    declared = f"evenkeel_peers: [{', '.join(peers)}]\nevenkeel_resources: [files: {{paths: [/srv/www]}}]\n"
    (fleet.home / "inventory" / "host_vars").mkdir(exist_ok=True)
    (fleet.home / "inventory" / "host_vars" / "web1.yml").write_text(declared)
    code, found = run(fleet, "protect", "--limit", "web1")
    row = found["hosts"]["web1"]
    return code, {one["peer"]: one["state"] for one in row.get("copies", [])}, json.dumps(row)


def test_no_peer_passes_for_another_one_and_two_names_or_a_clone_are_what_they_are(fleet: Fleet) -> None:
    liar, honest, third = preference("web1", ["web2", "web3", "web4"])
    code, copies, said = protected(fleet, honest, third)
    assert code == 0 and copies == dict.fromkeys((honest, third), "good"), said
    fleet.on(third, "rm -rf /var/lib/evenkeel/replicas/web1")

    # The liar is asked first, and holds a copy of its own.
    boot = "$(cat /proc/sys/kernel/random/boot_id):$(cut -d ' ' -f 22 /proc/1/stat)"
    facts = fleet.on(honest, f"echo {boot} $(stat -c '%d %i' /var/lib/evenkeel)")
    fleet.lab.exec(liar, ["sh", "-c", "cat >/usr/local/bin/liar; chmod 755 /usr/local/bin/liar"], input=LIAR)
    fleet.on(liar, f"echo '{facts.strip()}' >/etc/facts; rm -f /var/lies")
    (fleet.home / "inventory" / "host_vars" / f"{liar}.yml").write_text(
        "ansible_python_interpreter: /usr/local/bin/liar\n"
    )
    try:
        code, copies, said = protected(fleet, liar, honest)
        lies = fleet.on(liar, "sort -u /var/lies").split()
        assert lies and "None" not in lies, f"it does not know the run: {lies}"
    finally:
        fleet.on(liar, "rm -f /usr/local/bin/liar /etc/facts /var/lies")
        (fleet.home / "inventory" / "host_vars" / f"{liar}.yml").unlink()
    assert code == 0 and copies == dict.fromkeys((liar, honest), "good") and "under another name" not in said, said

    # A clone of the honest host has its secret.
    secret = fleet.on(honest, "base64 /var/lib/evenkeel/secret")
    fleet.lab.exec(third, ["sh", "-c", "cd /var/lib/evenkeel; rm secret; base64 -d >secret"], input=secret)
    code, copies, said = protected(fleet, honest, third)
    assert code == 0 and copies == dict.fromkeys((honest, third), "good"), said

    # The same host under two names.
    fleet.on(third, "rm -rf /var/lib/evenkeel/replicas/web1")
    address = next(host.address for host in fleet.lab.hosts if host.name == honest)
    alias = (
        f"all:\n  hosts:\n    alias: {{ansible_host: {address}, ansible_ssh_extra_args: -o HostKeyAlias={address}}}\n"
    )
    (fleet.home / "inventory" / "alias.yml").write_text(alias)
    code, copies, said = protected(fleet, honest, "alias")
    assert code != 0 and "under another name, by its store" in said and list(copies.values()).count("good") < 2, said
