# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of rpm: Debian's own rpm and dnf, on a host whose dpkg has been made to say that it has nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ready_ansible import run_module

from .conftest import Fleet
from .test_packages import rollback_to_its_death

HOST = "web6"
TOOLS = "rpm python3-rpm dnf dnf-plugins-core createrepo-c file"
HIDE = "printf '#!/bin/sh\\n' > /usr/local/bin/dpkg-query; chmod 755 /usr/local/bin/dpkg-query"
CLEAN = """
rm -f /usr/local/bin/dpkg-query /run/ek-slow
! command -v rpm > /dev/null || rpm -qa 'ek-*' | xargs -r rpm -e --nodeps
rm -rf /srv/ek /usr/local/bin/ek-publish /usr/local/bin/ek-offer /etc/yum.repos.d/ek.repo /usr/share/ek-* /etc/ek-*
sed -i '/installonly/d' /etc/dnf/dnf.conf 2>/dev/null
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
ALL: list[dict[str, Any]] = [{"packages": {"keep": "all"}}]
ON_CHANGE: list[dict[str, Any]] = [{"packages": {}}]
PLUGIN = "/usr/lib/python3/dist-packages/dnf-plugins/zz_evenkeel.py"
KEPT = "ls /var/lib/evenkeel/packages 2>/dev/null | cut -d, -f1-3"
SPEC = """
cat > /srv/ek/one.spec << 'EOF'
Name: {name}
Version: {version}
Release: 1
Summary: x
License: x
{head}
%description
x
%install
mkdir -p %{{buildroot}}/usr/share/{place} %{{buildroot}}/etc
cd %{{buildroot}}/usr/share/{place}
echo {version} > version
ln version hard
ln -s version link
head -c 300000 /dev/zero > large
echo {version} > %{{buildroot}}/etc/{name}.conf
%files
/usr/share/{place}
{files}
EOF
rpmbuild -bb --quiet --target {arch} --define '_rpmdir /srv/ek/all' --define '_binary_payload {payload}' \
  --define '_build_name_fmt %{{NAME}}-%{{VERSION}}-%{{RELEASE}}.%{{ARCH}}.rpm' /srv/ek/one.spec 2> /dev/null
"""


def build(name: str, version: str, arch: str = "noarch", head: str = "", payload: str = "w3.zstdio") -> str:
    """The script that builds a package with files of each sort. Each architecture and each kernel has its place."""
    place = f"{name}-{version}" if "kernel" in name else f"{name}-{arch}"
    files = "%config(noreplace) /etc/ek-conf.conf" if name == "ek-conf" else f"%exclude /etc/{name}.conf"
    words = {"name": name, "version": version, "arch": arch, "head": head, "payload": payload}
    return SPEC.format(**words, place=place, files=files)


PAIRS = [("ek-conf", "noarch"), ("ek-kernel", "noarch"), ("ek-multi", "i686"), ("ek-multi", "x86_64")]
BUILD = "set -e\n" + "".join(
    [
        *(build(name, version, arch) for name, arch in PAIRS for version in ("1.0", "2.0")),
        build("ek-old", "1.0", payload="w2.xzdio"),
        build("ek-new", "1.0", head="Obsoletes: ek-old < 2"),
        build("ek-gone", "1.0", payload="w9.gzdio"),
        build("ek-direct", "1.0"),
        build("ek-direct", "2.0"),
    ]
)
# The repository has new versions alone, as mirrors of some distributions do.
REPOSITORY = """
cat > /usr/local/bin/ek-offer << 'EOF'
set -e
cd /srv/ek/repo; rm -rf *
for name; do cp ../all/$name.rpm .; done
createrepo_c -q .; rm -rf /var/cache/dnf/ek*
EOF
"""
OLD = "ek-conf-1.0* ek-kernel-1.0* ek-multi-1.0* ek-old-1.0* ek-gone-1.0* ek-direct-1.0* ek-demo-1.0* ek-base*"
NEW = "ek-conf-2.0* ek-kernel-2.0* ek-multi-2.0* ek-new-1.0* ek-direct-2.0* ek-demo-2.0* ek-lib* ek-base*"


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
    assert not result["failed"], result["msg"]
    assert host.on(HOST, STATE) == before
    assert host.module(HOST, "ft_rollback", checkpoint="before")["changed"] is False

    assert not host.module(HOST, "ft_rollback", checkpoint="undo")["failed"]
    assert host.on(HOST, STATE) == after


@pytest.fixture
def offers(host: Fleet) -> Fleet:
    """A host with a package of each sort, and a repository that has their next versions alone."""
    host.on(HOST, BUILD + REPOSITORY)
    host.on(HOST, "sed -i '/installonly/d' /etc/dnf/dnf.conf; echo installonlypkgs=ek-kernel >> /etc/dnf/dnf.conf")
    offer(host, OLD)
    host.on(HOST, "dnf -q -y install ek-conf ek-kernel ek-multi.i686 ek-multi.x86_64 ek-old ek-gone ek-direct")
    host.on(HOST, "echo by hand >> /etc/ek-conf.conf")
    offer(host, NEW)
    return host


def offer(host: Fleet, names: str) -> None:
    host.on(HOST, f'cd /srv/ek/all; set -- {names}; sh /usr/local/bin/ek-offer $(basename -s .rpm -a "$@")')


def test_what_dnf_replaces_is_kept_and_comes_back_without_a_repository(offers: Fleet) -> None:
    state = STATE + "; cat /etc/ek-conf.conf; find /usr/share/ek-* -printf '%p %y %n %s %l\\n' | sort"
    before = offers.on(HOST, state)
    taken = offers.module(HOST, "ft_checkpoint", name="before", resources=ON_CHANGE, confirm_within="10m")
    assert taken["armed"] and taken["left"] == [] and taken["stats"]["new_objects"] == 0
    assert offers.on(HOST, KEPT) == ""
    # The module of Ansible loads plugins, as the command does.
    words = {"name": "*", "state": "latest", "use_backend": "dnf4"}
    offers.on(HOST, "dnf -q -y remove ek-gone; dnf -q -y install ek-new")
    done = run_module(
        [HOST, "-i", "inventory", "-m", "ansible.builtin.dnf", "-a", json.dumps(words)],
        offers.home,
        offers.environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert offers.on(HOST, "rpm -q ek-kernel").split() == ["ek-kernel-1.0-1.noarch", "ek-kernel-2.0-1.noarch"]
    assert set(offers.on(HOST, KEPT).split()) == {
        *("ek-gone,noarch,0%3A1.0-1", "ek-old,noarch,0%3A1.0-1", "ek-conf,noarch,0%3A1.0-1"),
        *("ek-multi,i686,0%3A1.0-1", "ek-multi,x86_64,0%3A1.0-1", "ek-direct,noarch,0%3A1.0-1"),
        "ek-demo,noarch,1%3A1.0-1",
    }, "what goes is kept, and nothing else: an older kernel stays beside the newer one"
    offers.on(HOST, "rm -rf /srv/ek/repo /var/cache/dnf/*")
    after = offers.on(HOST, state)
    result = offers.module(HOST, "ft_rollback", checkpoint="before")
    assert not result["failed"], result["msg"]
    assert offers.on(HOST, state) == before
    plugins = "/usr/lib/python3/dist-packages/dnf-plugins"
    assert "zz" not in offers.on(HOST, f"ls {plugins} {plugins}/__pycache__")
    # A host that goes back by itself makes no package files: the undo takes the newer versions from the repository.
    offers.on(HOST, "mkdir /srv/ek/repo")
    offer(offers, NEW)
    result = offers.module(HOST, "ft_rollback", checkpoint="undo")
    assert not result["failed"], result["msg"]
    assert offers.on(HOST, state) == after


def test_what_rpm_itself_has_replaced_is_named_and_comes_back_from_a_repository(offers: Fleet) -> None:
    before = offers.on(HOST, STATE)
    assert offers.module(HOST, "ft_checkpoint", name="before", resources=ON_CHANGE, confirm_within="10m")["armed"]
    offer(offers, f"{OLD} {NEW}")
    offers.on(HOST, "dnf -q -y upgrade ek-conf; dnf -q -y history undo last; dnf -q -y reinstall ek-gone")
    offers.on(HOST, "dnf -q -y upgrade ek-conf; dnf -q -y downgrade ek-conf")
    assert offers.on(HOST, KEPT).split() == ["ek-conf,noarch,0%3A1.0-1", "ek-gone,noarch,0%3A1.0-1"]
    offers.on(HOST, "cd /srv/ek/all; rpm -U --quiet ek-direct-2.0* 2> /dev/null")
    offer(offers, NEW)
    foreseen = offers.module(HOST, "ft_rollback", True, checkpoint="before")
    assert "ek-direct:noarch 0:1.0-1: its package file is not in the store" in foreseen["left"], foreseen
    refused = offers.module(HOST, "ft_rollback", checkpoint="before")
    assert refused["failed"] and "neither dnf's cache nor a repository has it" in refused["msg"]
    assert "ek-direct-2.0-1.noarch" in offers.on(HOST, "rpm -qa"), (
        "the newer version stays where no file of the older is"
    )
    offer(offers, OLD)
    result = offers.module(HOST, "ft_rollback", checkpoint="before")
    assert not result["failed"], result["msg"]
    assert offers.on(HOST, STATE) == before


def test_dnf_goes_on_where_the_agent_or_the_store_is_gone(offers: Fleet) -> None:
    assert offers.module(HOST, "ft_checkpoint", name="before", resources=ON_CHANGE, confirm_within="10m")["armed"]
    offers.on(HOST, "for one in /var/lib/evenkeel/agent/*.pyz; do echo broken > $one; done")
    assert "is not as it was installed" in offers.on(HOST, "dnf -q -y upgrade ek-conf 2>&1")
    offers.on(
        HOST,
        "systemctl stop evenkeel-deadman.timer; pkill -KILL -f '[e]venkeel-[0-9a-f]*[.]pyz'; rm -rf /var/lib/evenkeel",
    )
    offers.on(HOST, f"ls {PLUGIN} && dnf -q -y upgrade ek-multi")
    found = offers.on(HOST, "rpm -q ek-conf ek-multi").split()
    assert sorted(found) == ["ek-conf-2.0-1.noarch", "ek-multi-2.0-1.i686", "ek-multi-2.0-1.x86_64"]
    offers.on(HOST, f"rm -f {PLUGIN}")
