# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The labs that exist on this machine, as podman and the kernel know them."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from laboratory import machine
from laboratory.machine import nft, podman, process_identity, say


@dataclass(frozen=True)
class Network:
    """The network of a lab, and with its labels the record on this machine that the lab exists.

    ``root`` is the lab's folder; ``owner`` the identity of the process whose end is also the lab's, or nothing.
    """

    name: str
    subnet: str
    root: Path
    owner: str


def networks(lab: str | None = None) -> list[Network]:
    """The networks of a lab, of which there is one or none; without a name those of all labs of this machine."""
    found = []
    for entry in json.loads(podman("network", "ls", "--format", "json")):
        labels = entry.get("labels") or {}
        root = Path(labels.get("evenkeel.lab.root", ""))
        if root.parent.name == machine.STATE.name and lab in (None, root.name):
            subnet = entry["subnets"][0]["subnet"]
            found.append(Network(entry["name"], subnet, root, labels.get("evenkeel.lab.owner", "")))
    return found


def containers(lab: str) -> list[tuple[str, str, bool, str]]:
    """Containers of a lab: host, state, whether it ever ran, container id."""
    found = json.loads(podman("ps", "--all", "--filter", f"label=evenkeel.lab={lab}", "--format", "json") or "[]")
    return [
        (
            entry["Labels"]["evenkeel.lab.host"],
            entry["State"],
            entry["State"] not in ("created", "initialized", "configured"),
            entry["Id"],
        )
        for entry in found
    ]


def random_subnet() -> str:
    """A subnet for a new lab, from a range that podman itself takes subnets from; it refuses one that is in use.

    It is most likely not that of a lab that has just gone: for a minute, Ansible uses the connections that it had to
    the old hosts for new hosts with the same addresses.
    """
    return f"10.{96 + secrets.randbelow(32)}.{secrets.randbelow(256)}.0/24"


def firewall_table(lab: str) -> str:
    """Name of the table in the machine's firewall that disconnects hosts of a lab."""
    return f"evenkeel_{lab.replace('-', '_')}"


def remove(lab: str) -> None:
    """Remove the containers, the network and the firewall table of a lab, as far as they are there."""
    ids = [container for _, _, _, container in containers(lab)]
    if ids:
        podman("rm", "--force", "--time", "0", *ids)
    for network in networks(lab):
        podman("network", "rm", network.name)
    table = f"bridge {firewall_table(lab)}"
    nft(f"add table {table}\ndelete table {table}\n")


def remove_orphans() -> None:
    """Remove the labs whose process has ended without removing them."""
    for network in networks():
        pid = network.owner.partition(":")[0]
        if pid and process_identity(int(pid)) != network.owner:
            say(f"lab '{network.root.name}': removed, its process was killed")
            remove(network.root.name)
            shutil.rmtree(network.root, ignore_errors=True)
