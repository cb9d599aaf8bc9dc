# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of rpm: Debian's own rpm and dnf, on a host whose dpkg has been made to say that it has nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Fleet
from .test_packages import rollback_to_its_death

HOST = "web6"
TOOLS = "rpm python3-rpm dnf dnf-plugins-core createrepo-c file"
HIDE = "printf '#!/bin/sh\\n' > /usr/local/bin/dpkg-query; chmod 755 /usr/local/bin/dpkg-query"
CLEAN = """
rm -f /usr/local/bin/dpkg-query /run/ek-slow
! command -v rpm > /dev/null || rpm -qa 'ek-*' | xargs -r rpm -e --nodeps
rm -rf /srv/ek /usr/local/bin/ek-publish /etc/yum.repos.d/ek.repo /usr/share/ek-*
true
"""
SETUP = r"""
set -e
mkdir -p /srv/ek/all /srv/ek/repo /etc/yum.repos.d /etc/dnf/vars /etc/dnf/plugins
build() {
  { printf 'Name: %s\nEpoch: %s\nVersion: %s\nRelease: 1\nBuildArch: noarch\nSummary: x\nLicense: x\n' $1 $2 $3
    printf "$4\n%%description\nx\n%%install\nmkdir -p %%{buildroot}/usr/share/$1\n"
    echo "echo $3 > %{buildroot}/usr/share/$1/version"
    printf "%%files\n/usr/share/$1\n"; printf "$5"; } > /srv/ek/$1.spec
  rpmbuild -bb --quiet --define '_rpmdir /srv/ek/all' \
    --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' /srv/ek/$1.spec 2> /dev/null
}
build ek-base 0 1.0 'Provides: /bin/sh' ''
build ek-lib 0 1.0 '' ''
build ek-demo 1 1.0 '' '%%post\nwhile [ -e /run/ek-slow ]; do sleep 0.1; done\n'
build ek-demo 1 2.0 'Requires: ek-lib' ''
printf '#!/bin/sh\nset -e\ncd /srv/ek/repo; rm -f *.rpm\nfor name; do cp ../all/$name-1.noarch.rpm .; done\n' \
  > /usr/local/bin/ek-publish
echo 'createrepo_c -q .; rm -rf /var/cache/dnf/ek*' >> /usr/local/bin/ek-publish
chmod 755 /usr/local/bin/ek-publish
printf '[ek]\nname=ek\nbaseurl=file:///srv/ek/repo\ngpgcheck=0\n' > /etc/yum.repos.d/ek.repo
echo 12 > /etc/dnf/vars/releasever
printf '[main]\nenabled=0\n' > /etc/dnf/plugins/local.conf
ek-publish ek-base-1.0 ek-demo-1.0
dnf -q -y install ek-demo
"""
UPGRADE = "ek-publish ek-base-1.0 ek-demo-2.0 ek-lib-1.0; dnf -q -y upgrade; dnf -q -y mark remove ek-demo"
STATE = (
    "rpm -qa | sort; rpm -qa | xargs rpm -V; cat /usr/share/ek-*/version;"
    " dnf -q -C '--disablerepo=*' repoquery --userinstalled"
)
ALL: list[dict[str, Any]] = [{"packages": {}}]


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    fleet.on(HOST, CLEAN)
    wanted = (
        f"dpkg-query -W {TOOLS} || {{ apt-get -qq update && apt-get -qq install -y --no-install-recommends {TOOLS}; }}"
    )
    fleet.on(HOST, wanted, check=False)
    if not fleet.on(HOST, "command -v rpmbuild", check=False):
        pytest.skip("rpm and dnf could not be installed on the host: no Debian mirror is within reach")
    fleet.on(HOST, SETUP)
    fleet.on(HOST, HIDE)
    yield fleet
    fleet.on(HOST, CLEAN)


def test_versions_of_rpm_come_back_offline_and_after_a_kill(host: Fleet) -> None:
    foreseen = host.module(HOST, "ft_checkpoint", True, name="before", resources=ALL)
    taken = host.module(HOST, "ft_checkpoint", name="before", resources=ALL)
    assert foreseen["changed"] and taken["changed"] and taken["left"] == []
    assert host.module(HOST, "ft_checkpoint", name="before", resources=ALL)["changed"] is False
    host.module(HOST, "ft_checkpoint", name="lib", resources=[{"packages": {"names": ["ek-lib"]}}])
    before = host.on(HOST, STATE)
    host.on(HOST, UPGRADE)
    after = host.on(HOST, STATE)
    assert "ek-demo-2.0-1.noarch" in after and "ek-lib-1.0-1.noarch" in after

    refused = host.module(HOST, "ft_rollback", checkpoint="lib")
    assert refused["failed"] and "ek-lib is needed by" in refused["msg"] and refused["done"] == []
    assert host.on(HOST, STATE) == after

    host.on(HOST, "touch /run/ek-slow")
    running = threading.Thread(target=rollback_to_its_death, args=[host, HOST])
    running.start()
    assert host.eventually(lambda: host.on(HOST, "pgrep -f '/[r]pm-tmp'", check=False) != "", 60)
    host.on(HOST, "kill -9 $(cat /var/lib/evenkeel/lock) $(pgrep -f '[w]ork.json|/[r]pm-tmp'); rm /run/ek-slow")
    running.join(60)
    assert "ek-demo-2.0-1.noarch" in host.on(HOST, "rpm -qa") and host.on(HOST, "ls /var/lib/evenkeel/resume") != ""
    result = host.module(HOST, "ft_rollback", checkpoint="before")
    assert not result["failed"], result
    assert host.on(HOST, STATE) == before
    assert host.module(HOST, "ft_rollback", checkpoint="before")["changed"] is False

    assert not host.module(HOST, "ft_rollback", checkpoint="undo")["failed"]
    assert host.on(HOST, STATE) == after
