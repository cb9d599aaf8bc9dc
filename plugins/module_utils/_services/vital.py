# SPDX-License-Identifier: GPL-3.0-or-later

"""Units that a host cannot do without while it runs: a rollback and a restart of all that is owed leave them up."""

from __future__ import annotations

# Units that a running system cannot do without, or that end the logins or containers of others.
KEPT = (
    *("dbus.", "dbus-broker.", "systemd-logind.", "elogind.", "lxcfs.", "rc-local."),
    *("getty@", "serial-getty@", "container-getty@", "autovt@", "console-getty."),
    *("display-manager.", "gdm.", "gdm3.", "sddm.", "lightdm.", "lxdm.", "xdm.", "slim.", "greetd.", "ly."),
    *("kdm.", "nodm.", "wdm.", "emergency.", "rescue."),
)
# Beginnings of the names of units that a rollback never stops: the network, the firewall, file systems, and what all
# programs talk to. A stop would cut the host off, or take from it what no start gives back.
_VITAL = (
    *KEPT,
    *("systemd-journald", "systemd-udevd", "networking.", "network.", "ifup@", "NetworkManager.", "systemd-networkd"),
    *(
        "dhcpcd",
        "dhclient",
        "wpa_supplicant",
        "iwd.",
        "connman.",
        "wicked",
        "netplan-",
        "openvswitch",
        "ovs-",
        "ovsdb-",
    ),
    *("nftables.", "iptables.", "ip6tables.", "netfilter-persistent.", "firewalld.", "ufw.", "shorewall", "ferm."),
    *("ebtables.", "arptables.", "ipset.", "blk-availability.", "lvm2-", "dm-event.", "multipathd.", "iscsi"),
    *("open-iscsi", "zfs-", "netfs.", "rbdmap.", "cryptdisks"),
)


def is_vital(name: str) -> bool:
    """Whether the host would be cut off, or lose what no start gives back, while the unit is down."""
    return name.startswith(_VITAL)
