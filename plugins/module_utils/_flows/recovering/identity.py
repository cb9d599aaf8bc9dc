# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that make a host this host and no other: with ``identity: keep`` a spare keeps its own. Pure.

docs/recovery.md shows the table with reasons, and a test compares both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """A part of the identity. ``paths``: patterns of paths, each with all below it; ``*`` stands for anything but a
    slash. ``at_boot``: a change takes effect at the next boot alone."""

    name: str
    paths: Sequence[str]
    at_boot: bool = False


_UNITS = tuple(f"/etc/systemd/system/{more}*.{kind}" for kind in ("mount", "automount", "swap") for more in ("", "*/"))

IDENTITY = (
    Part("name", ("/etc/hostname", "/etc/HOSTNAME", "/etc/hosts"), at_boot=True),
    Part("machine id", ("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostid"), at_boot=True),
    Part(
        "keys of the host",
        ("/etc/ssh/ssh_host_*", "/etc/dropbear/dropbear_*_host_key", "/etc/krb5.keytab", "/etc/salt/minion_id")
        + ("/etc/salt/pki/minion", "/etc/puppetlabs/puppet/ssl", "/etc/chef/client.pem")
        + ("/etc/pki/consumer", "/etc/pki/entitlement", "/etc/insights-client/machine-id"),
    ),
    Part(
        "access",
        ("/root/.ssh", "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d", "/etc/systemd/system/ssh.socket.d")
        + (
            "/etc/systemd/system/sshd.socket.d",
            "/etc/sudoers",
            "/etc/sudoers.d",
            "/etc/doas.conf",
        ),
    ),
    Part(
        "network",
        ("/etc/network/interfaces", "/etc/network/interfaces.d", "/etc/netplan", "/etc/systemd/network")
        + ("/etc/NetworkManager/system-connections", "/etc/sysconfig/network", "/etc/sysconfig/network-scripts")
        + ("/etc/resolv.conf", "/etc/dhcpcd.conf", "/etc/dhcpcd.duid", "/etc/udev/rules.d/70-persistent-*")
        + ("/etc/udev/rules.d/75-persistent-*", "/etc/cloud/cloud.cfg.d/*network*")
        + ("/etc/keepalived/keepalived.conf", "/etc/keepalived/evenkeel-address.json"),
        at_boot=True,
    ),
    Part("cloud-init", ("/etc/cloud",), at_boot=True),
    Part(
        "disks",
        ("/etc/fstab", "/etc/crypttab", "/etc/mdadm", "/etc/mdadm.conf", "/etc/lvm", "/etc/multipath")
        + ("/etc/multipath.conf", "/etc/zfs/zpool.cache", "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostid")
        + ("/etc/nvme/hostnqn", *_UNITS),
        at_boot=True,
    ),
    Part(
        "boot",
        ("/boot", "/etc/default/grub", "/etc/default/grub.d", "/etc/kernel/cmdline", "/etc/kernel/entry-token")
        + ("/etc/initramfs-tools/conf.d/resume", "/var/cache/debconf/config.dat")
        + ("/var/cache/debconf/passwords.dat",),
        at_boot=True,
    ),
)

# The parts to which the tables of disks belong, and the files of the network.
DISKS, NETWORK = ("disks", "boot"), ("network",)


def _expression(part: Part) -> str:
    patterns = (re.escape(path).replace(r"\*", "[^/]*") for path in part.paths)
    return "|".join(patterns)


_PARTS = {f"p{number}": part for number, part in enumerate(IDENTITY)}
_ANY = "|".join(rf"(?P<{group}>(?:{_expression(part)}))(?=/|\Z)" for group, part in _PARTS.items())


def concerns(root: str) -> bool:
    """Whether a path of the identity can lie at, below or above the root."""
    known = [path.partition("*")[0] for part in IDENTITY for path in part.paths]
    return any(f"{one}/".startswith(root.rstrip("/") + "/") or f"{root}/".startswith(one) for one in known)


class Own(NamedTuple):
    """``top``: the highest path of the identity at or above a path."""

    part: Part
    top: bytes


def own(path: bytes) -> Own | None:
    """The part of the identity to which the path belongs; None where it belongs to none."""
    found = re.match(_ANY, os.fsdecode(path))
    if found is None or found.lastgroup is None:
        return None
    return Own(_PARTS[found.lastgroup], os.fsencode(found[0]))
