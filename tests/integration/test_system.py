# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change where nothing is declared: a plain host comes back, and an upgraded package without a mirror."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Fleet
from .test_restart import module

HOST = "web1"
PACKAGE = """
set -e
for version in 1.0 2.0; do
  top=/run/ek-plain-$version
  rm -rf $top && mkdir -p $top/DEBIAN $top/etc $top/usr/share/ek-plain
  printf 'Package: ek-plain\\nVersion: %s\\nArchitecture: all\\nMaintainer: x <x@y>\\nDescription: x\\n' $version \
> $top/DEBIAN/control
  echo /etc/ek-plain.conf > $top/DEBIAN/conffiles
  echo "as shipped with $version" > $top/etc/ek-plain.conf
  echo "of $version" > $top/usr/share/ek-plain/data
  dpkg-deb --build $top /run/ek-plain-$version.deb
done
dpkg -i /run/ek-plain-1.0.deb
echo 'by hand' > /etc/ek-plain.conf
rm -rf /run/ek-plain-1.0*
nft 'add table inet guard; add chain inet guard input { type filter hook input priority 0; policy accept; }'
nft add rule inet guard input tcp dport 9 drop
systemctl enable --quiet --now rsync 2>/dev/null || true
"""
CLEAN = """
dpkg --purge --force-all ek-plain >/dev/null 2>&1
rm -rf /run/ek-plain-* /etc/ek-plain* /etc/systemd/system/ek-new.service /opt/ek-new
systemctl unmask --quiet nginx dbus 2>/dev/null
systemctl stop ek-new 2>/dev/null
systemctl daemon-reload
true
"""
# It ends with an error, so that the host goes back.
BREAK = """
- hosts: web
  gather_facts: false
  tasks:
    - ansible.builtin.shell: |
        echo 'this is no configuration' >> /etc/nginx/nginx.conf
        systemctl restart nginx
        nft flush ruleset
        nft 'add table inet closed; add chain inet closed input { type filter hook input priority 0; policy accept; }'
        nft add rule inet closed input tcp dport 80 drop
        systemctl mask --now dbus.service dbus.socket
        DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confnew install /run/ek-plain-2.0.deb
        rm -rf /run/ek-plain-2.0* /var/cache/apt/archives/*.deb /usr/local/bin/*
        printf '[Service]\\nExecStart=/bin/sleep 3000\\n' > /etc/systemd/system/ek-new.service
        systemctl daemon-reload && systemctl start ek-new
        echo new > /opt/ek-new
        useradd --system ek-user
        update-alternatives --install /usr/bin/ek-java ek-java /opt/ek-new 10
        echo 'ek-plain ek-plain/answer string changed' | debconf-set-selections
      args: {executable: /bin/bash}
    - ansible.builtin.fail: {msg: and now back}
"""
REMOVE = """
- hosts: web
  gather_facts: false
  tasks:
    - ansible.builtin.command: apt-get -q -y remove rsync
    - ansible.builtin.command: dpkg --remove ek-plain
    - ansible.builtin.fail: {msg: and now back}
"""
# A judge that is not ours.
STATE = """
dpkg-query -W -f '${Package} ${Version} ${Status}\\n' | grep -v config-files
find /etc /opt /usr/local /usr/share/ek-plain -xdev ! -path '*evenkeel*' ! -name ld.so.cache ! -name '*-' \
! -name boot-complete.target.requires -printf '%p %y %m %u %g %l\\n' | sort
cat /etc/nginx/nginx.conf /etc/ek-plain.conf /usr/share/ek-plain/data /var/cache/debconf/config.dat
update-alternatives --get-selections; ls -l /usr/bin/ek-* 2>&1
nft list ruleset
systemctl is-enabled nginx dbus.service dbus.socket ssh
systemctl is-active nginx dbus.service dbus.socket ssh ek-new
true
"""


@pytest.fixture
def plain(fleet: Fleet) -> Iterator[Fleet]:
    """A host of which the inventory declares nothing."""
    for path in (fleet.home / "inventory").rglob("*.yml"):
        text = re.sub(r"evenkeel_resources:\n(?:  .*\n)+", "", path.read_text())
        path.write_text(text)
    fleet.on(HOST, CLEAN)
    fleet.on(HOST, PACKAGE)
    yield fleet
    fleet.on(HOST, CLEAN)


def changed(fleet: Fleet, text: str) -> dict[str, Any]:
    fleet.playbook("plain.yml", text)
    code, result = fleet.change("plain.yml", "--limit", HOST)
    assert code == 2, result
    (host,) = result["hosts"]
    assert host["state"] == "rolled_back", host
    assert host["protects"][0] == "packages" and {"users", "network", "firewall", "services"} <= set(host["protects"])
    assert any("/etc" in one for one in host["protects"])
    return dict(host)


def test_a_plain_host_comes_back_and_an_upgraded_package_without_a_mirror(plain: Fleet) -> None:
    before = plain.on(HOST, STATE)
    changed(plain, BREAK)
    assert plain.on(HOST, STATE) == before
    assert plain.serves(HOST) and "ek-user" not in plain.on(HOST, "cat /etc/passwd")
    assert "zz-evenkeel" not in plain.on(HOST, "ls /etc/apt/apt.conf.d /etc/dpkg/dpkg.cfg.d")
    assert plain.on(HOST, "ls /var/lib/evenkeel/packages").startswith("ek-plain,all,1.0,")
    # It counts as changed by hand, as it did before.
    assert "/etc/ek-plain.conf" in plain.on(HOST, "dpkg --verify ek-plain", check=False)


@pytest.mark.long
def test_removed_packages_come_back(plain: Fleet) -> None:
    before = plain.on(HOST, STATE)
    changed(plain, REMOVE)
    assert plain.on(HOST, STATE) == before


def test_the_first_checkpoint_of_a_plain_host_is_small_and_quick(plain: Fleet) -> None:
    taken = module(plain, "ft_checkpoint", name="before")
    assert not taken["failed"] and taken["left"], taken
    print(taken["stats"], plain.on(HOST, "du -sb /var/lib/evenkeel"))
    assert int(plain.on(HOST, "du -sb /var/lib/evenkeel").split()[0]) < 5_000_000
    assert taken["stats"]["seconds"] < 3


TAKEN = """
set -e
make() {  # name, field, then the files that it has
  top=/run/ek-taken/$1 && mkdir -p $top/DEBIAN $top/usr/share/ek-taken
  printf 'Package: %s\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@y>\\n%sDescription: x\\n' $1 "$2" \
> $top/DEBIAN/control
  for one in $3; do echo "of $1" > $top/usr/share/ek-taken/$one; done
  dpkg-deb --root-owner-group --build $top /run/ek-taken/$1.deb
}
rm -rf /run/ek-taken
make ek-stays '' 'own shared'
make ek-goes '' 'all'
make ek-takes 'Replaces: ek-stays, ek-goes
' 'shared all'
dpkg -i /run/ek-taken/ek-stays.deb /run/ek-taken/ek-goes.deb
apt-mark auto ek-stays
mkdir -p /srv/ek-app /var/lib/ek-data
chmod 755 /srv/ek-app
rm -rf /etc/adjtime /var/lib/systemd/linger
"""
NOT_TAKEN = """
dpkg --purge ek-takes ek-stays ek-goes >/dev/null 2>&1
rm -rf /run/ek-taken /srv/ek-* /home/ek-new /ek-swap /var/lib/ek-* /etc/adjtime /var/lib/systemd/linger
sed -i '/^# key$/d' /home/ops/.ssh/authorized_keys
true
"""
BESIDE = """
- hosts: web
  gather_facts: false
  tasks:
    - ansible.builtin.shell: |
        dpkg -i /run/ek-taken/ek-takes.deb
        chmod 711 /root; chmod 700 /srv /var/lib /usr/local/bin; chown 7:7 /opt
        chmod 700 /srv/ek-app; setfacl -m u:ops:rwx /var/lib/ek-data; mkdir /home/ek-new; touch /ek-swap
        loginctl enable-linger www-data ops; printf '0.0 0 0.0\\n0\\nLOCAL\\n' > /etc/adjtime
        echo '# key' >> /home/ops/.ssh/authorized_keys
      args: {executable: /bin/bash}
    - ansible.builtin.fail: {msg: and now back}
"""


def test_what_lies_beside_the_trees_is_back_or_named(plain: Fleet) -> None:
    state = (
        "stat -c '%n %a %u:%g' /root /srv /var/lib /usr/local/bin /opt; tail /usr/share/ek-taken/*; dpkg -V ek-stays"
    )
    state += (
        "; ls /var/lib/systemd/linger | grep -v ops; apt-mark showauto ek-stays; dpkg-query -W -f '${Status}' ek-takes"
    )
    try:
        plain.on(HOST, TAKEN)
        before = plain.on(HOST, state, check=False)
        host = changed(plain, BESIDE)
        assert plain.on(HOST, state, check=False) == before and "of ek-goes" in before
        assert "services of ops run without a login" in str(host)  # People may choose that for themselves.
        assert {one["path"]: one["what"] for one in host["outside"]["paths"]} == {
            "/ek-swap": "new",
            "/home/ek-new": "new",
            "/srv/ek-app": "mode",
            "/var/lib/ek-data": "mode, changed",
            "/etc/adjtime": "value",
            "/var/lib/systemd/linger": "new",
            "/home/ops/.ssh/authorized_keys": "content",
        }
    finally:
        plain.on(HOST, NOT_TAKEN)
