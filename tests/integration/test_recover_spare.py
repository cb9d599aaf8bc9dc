# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lost nginx host, with the whole of /etc, packages and accounts, on a fresh spare: as itself, then as the other.

rsync judges, with a list of the identity that is written here by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Fleet

VARIABLES = """
evenkeel_peers: [web2, web3]
evenkeel_copies: 2
evenkeel_resources:
  - files: {paths: [/etc, /srv/www]}
  - packages: {keep: all}
  - users: {}
  - services: {names: [nginx]}
evenkeel_probes:
  - http: {url: http://localhost/, status: 200}
  - service: {name: nginx}
"""
# The state of the lost host, with what has broken hosts that got another host's /etc.
LOST = r"""
set -e
echo '<h1>web1</h1>' > /srv/www/index.html
useradd -m -u 1234 shop
echo 'key=1' > /etc/shop.conf; chown shop:shop /etc/shop.conf; chmod 640 /etc/shop.conf
mkdir -p /tmp/shop/DEBIAN /tmp/shop/usr/share/shop && echo data > /tmp/shop/usr/share/shop/x
printf 'Package: shop-tools\nVersion: 1.0\nArchitecture: all\n' > /tmp/shop/DEBIAN/control
printf 'Maintainer: x <x@x>\nDescription: x\n' >> /tmp/shop/DEBIAN/control
dpkg-deb -b /tmp/shop /var/cache/apt/archives/shop-tools_1.0_all.deb >/dev/null
dpkg -i /var/cache/apt/archives/shop-tools_1.0_all.deb >/dev/null
echo 'UUID=0f3a5c1e-1111-2222-3333-444455556666 /data ext4 defaults 0 2' >> /etc/fstab
printf '[Mount]\nWhat=/dev/disk/by-label/gone\nWhere=/data\n' > /etc/systemd/system/data.mount
mkdir -p /etc/systemd/system/local-fs.target.requires /etc/udev/rules.d
ln -s ../data.mount /etc/systemd/system/local-fs.target.requires/data.mount
echo 'SUBSYSTEM=="net", ATTR{address}=="52:54:00:00:00:01", NAME="eth7"' > /etc/udev/rules.d/70-persistent-net.rules
mkdir -p /etc/netplan && echo 'network: {version: 2}' > /etc/netplan/50-lost.yaml
echo 'ListenAddress 192.0.2.77' > /etc/ssh/sshd_config.d/address.conf
ln -sfn /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
echo '192.0.2.77 web1' >> /etc/hosts
ln /etc/shop.conf /etc/shop.conf.link
systemctl enable --quiet nginx
rm -rf /var/before; mkdir /var/before; cp -a --parents /etc /srv/www /var/before
"""
# The spare: an account of the same name with another uid, a file that the lost host had not, a key for the controller.
SPARE = r"""
set -e
useradd -u 1500 shop
echo stale > /etc/stale.conf
echo 'network: {version: 2, spare: true}' > /etc/spare-netplan
mkdir -p /etc/netplan && mv /etc/spare-netplan /etc/netplan/50-spare.yaml
rm -f /srv/www/index.html
"""
# What stays of a spare, by another hand than the list of the library.
IDENTITY = (
    *("/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/ssh/ssh_host_*", "/etc/ssh/sshd_config"),
    *("/etc/ssh/sshd_config.d", "/etc/netplan", "/etc/resolv.conf", "/etc/udev/rules.d/70-persistent-net.rules"),
    *("/etc/fstab", "/etc/systemd/system/data.mount", "/etc/systemd/system/local-fs.target.requires/data.mount"),
    "/etc/network/interfaces",
)
NETWORK = ("/etc/netplan", "/etc/resolv.conf", "/etc/udev/rules.d/70-persistent-net.rules", "/etc/network/interfaces")
# rsync sees no difference in these: programs make them anew, or a login does.
OWN = ("/etc/.pwd.lock", *(f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")))
PRINT = (
    "for f in /etc/hostname /etc/hosts /etc/machine-id /etc/ssh/ssh_host_* /etc/ssh/sshd_config.d/* /etc/netplan/*"
    " /etc/resolv.conf /etc/udev/rules.d/70-persistent-net.rules /etc/fstab /etc/systemd/system/data.mount"
    " /etc/systemd/system/local-fs.target.requires/*; do [ -e $f ] && sha256sum $f; done;"
    " ip -o addr show scope global | cut -d' ' -f2,7; stat -c '%a %u %n' /root/.ssh/*; sha256sum /root/.ssh/*"
)


@pytest.fixture
def lost(fleet: Fleet) -> Iterator[Fleet]:
    """web1 is to be lost, and web6 is a fresh spare. Afterwards both are fresh."""
    (fleet.home / "inventory" / "group_vars" / "web.yml").write_text(VARIABLES)
    (fleet.home / "inventory" / "spares.yml").write_text("spares: {hosts: {web5: , web6: }}\n")
    fleet.lab.recreate("web6")
    fleet.on("web6", "mkdir -p /srv/www; touch /srv/www/index.html")
    fleet.on("web1", LOST)
    fleet.on("web6", SPARE)
    yield fleet
    fleet.lab.recreate("web6", "web1")  # web6 may show the keys of web1, by which nobody knows it


def differs(fleet: Fleet, exclude: tuple[str, ...]) -> str:
    """What rsync would change on web6 to make it what web1 was before."""
    filters = " ".join(f"--exclude='{path.removeprefix('/etc')}'" for path in exclude)
    judge = "rsync -aHAX --checksum --delete -n -i"
    return fleet.on("web6", f"{judge} {filters} /var/before/etc/ /etc/; {judge} /var/before/srv/www/ /srv/www/")


def carry(fleet: Fleet) -> None:
    """Give web6 the state of web1, for the judge alone."""
    data = fleet.on("web1", "tar -C /var --numeric-owner --format=posix --xattrs --acls -cf - before | base64 -w0")
    fleet.lab.exec("web6", ["sh", "-c", "base64 -d | tar -C /var -xf - --numeric-owner --xattrs --acls"], input=data)


@pytest.mark.long
def test_a_spare_takes_over_a_whole_host_and_stays_itself_or_becomes_it(lost: Fleet) -> None:
    code, said = lost.evenkeel("protect", "-i", "inventory", "--limit", "web1")
    assert code == 0, said
    carry(lost)
    before = lost.on("web6", PRINT)
    # The other spare has a change under way: it is passed over, and named.
    assert lost.module("web5", "ft_checkpoint", resources=[{"sysctl": {}}], confirm_within="20m")["changed"]

    code, said = lost.evenkeel("recover", "web1", "-i", "inventory", "--onto", "any")
    assert code == 0 and "onto web6" in said and "web5: a change is under way there" in " ".join(said.split()), said
    flat = " ".join(said.split())
    told = re.search(r"recovered web1 onto web6 from checkpoint protected .* (\d+ \w+) old, in (\d+) s; healthy", flat)
    assert told, said
    print(f"identity keep: RPO {told[1]}, RTO {told[2]} s")
    assert differs(lost, (*IDENTITY, *OWN)) == ""
    assert lost.on("web6", PRINT) == before
    assert lost.serves("web6", "<h1>web1</h1>")
    assert lost.on("web6", "id -u shop; dpkg-query -W -f '${Version}' shop-tools; ls /etc/stale.conf", check=False) == (
        "1234\n1.0"
    )
    assert "shop (1500, then 1234)" in flat
    # It boots: no mount waits for a disk of the lost host. The controller gets in.
    lost.lab.reboot("web6")
    assert lost.on("web6", "hostname").strip() == "web6" and lost.serves("web6", "<h1>web1</h1>")
    assert lost.module("web6", "ft_info")["failed"] is False
    code, said = lost.evenkeel("recover", "web1", "-i", "inventory", "--onto", "web6")
    assert code == 0 and "nothing to do" in said

    # It must not become a host that is there, and then it may.
    code, said = lost.evenkeel("recover", "web1", "-i", "inventory", "--onto", "web6", "--identity", "take")
    assert code == 3 and "web1 still answers" in said
    assert lost.on("web6", PRINT) == before
    lost.lab.stop("web1", now=True)
    code, said = lost.evenkeel("recover", "web1", "-i", "inventory", "--onto", "web6", "--identity", "take")
    flat = " ".join(said.split())
    assert code == 0 and "web6 owes a reboot" in flat and "has the SSH keys of web1 now" in flat, said
    told = re.search(r"(\d+ \w+) old, in (\d+) s; healthy", flat)
    assert told
    print(f"identity take: RPO {told[1]}, RTO {told[2]} s")
    # The engine of the lab mounts the host name into a container: it stays, and is named.
    assert "/etc/hostname (a mount point on this host)" in flat
    # A rule of the lost host names its network card, which is not here: the part network stays.
    assert "network stays as it is here: /etc/udev/rules.d/70-persistent-net.rules names" in flat
    assert differs(lost, ("/etc/hostname", *NETWORK, *OWN)) == ""
    assert lost.serves("web6", "<h1>web1</h1>")


@pytest.mark.long
@pytest.mark.parametrize("killed", ["controller", "target"])
def test_a_recovery_that_was_killed_is_completed_by_the_next(lost: Fleet, killed: str) -> None:
    code, said = lost.evenkeel("protect", "-i", "inventory", "--limit", "web1")
    assert code == 0, said
    carry(lost)
    before = lost.on("web6", PRINT)
    words = ("recover", "web1", "-i", "inventory", "--onto", "web6")
    process = lost.start(*words)
    begun = "ls -d /var/lib/evenkeel/resume /var/lib/evenkeel/journal/*"
    assert lost.eventually(lambda: bool(lost.on("web6", begun, check=False).strip()) or process.poll() is not None, 120)
    if killed == "controller":
        lost.end()
    else:
        lost.lab.stop("web6", now=True)
        process.communicate(timeout=180)
        assert process.returncode not in (0, 3)
        lost.lab.start("web6")
    assert lost.eventually(lambda: not lost.on("web6", "pgrep -f '[A]nsiballZ'", check=False).strip(), 120)
    code, said = lost.evenkeel(*words)
    assert code == 0, said
    assert differs(lost, (*IDENTITY, *OWN)) == "" and lost.on("web6", PRINT) == before
    assert lost.serves("web6", "<h1>web1</h1>")


@pytest.mark.long
def test_the_account_of_the_controller_is_not_locked_out(lost: Fleet) -> None:
    """The controller logs in as ops, whom the lost host did not know."""
    ops = Path(lost.lab.inventory).with_name("inventory-ops.yml").read_text()
    lost.on("web1", "sed -i '/^ops:/d' /etc/passwd /etc/shadow")
    code, said = lost.evenkeel("protect", "-i", "inventory", "--limit", "web1", "--copies", "1")
    assert code == 0, said
    (lost.home / "inventory" / "hosts.yml").write_text(ops)
    code, said = lost.evenkeel("recover", "web1", "-i", "inventory", "--onto", "web6")
    assert code == 3 and "by which the controller logs in here, is not in the checkpoint" in " ".join(said.split())
    assert lost.on("web6", "id -u shop; ls /etc/stale.conf") == "1500\n/etc/stale.conf\n"
