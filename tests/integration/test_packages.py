# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages on a real host, from a repository that drops a version as soon as it has a newer one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Fleet
from .test_restart import module

HOST = "web1"
NAMES = "ek-demo ek-lib ek-new ek-a ek-b ek-c ek-lost"
SLOW = "/run/ek-slow"  # the maintainer script of version 1 that it names does not end while it is there

# Version 1 of ek-demo, version 2 that needs the new ek-lib, and ek-new; `publish FILE…` makes them the repository.
SETUP = r"""
set -e
mkdir -p /srv/ek/all /srv/ek/repo
build() {
  name=$1 version=$2 tree=$(mktemp -d)
  mkdir -p $tree/DEBIAN $tree/usr/share/$name $tree/etc/$name
  { printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: A <a@example.org>\n' $name $version
    printf "$3"; echo 'Description: of the tests'; } > $tree/DEBIAN/control
  echo $version > $tree/usr/share/$name/version
  echo "as packaged in $version" > $tree/etc/$name/conf
  echo /etc/$name/conf > $tree/DEBIAN/conffiles
  for script in preinst postinst; do
    printf '#!/bin/sh\nmkdir -p /var/lib/%s\n[ %s != 1.0 ] || while grep -qs %s /run/ek-slow; do sleep 0.1; done\n' \
      $name $version $script > $tree/DEBIAN/$script
    chmod 755 $tree $tree/DEBIAN/$script
  done
  mkdir -p $tree/lib/systemd/system
  unit=$tree/lib/systemd/system/$name.service
  printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/cp /usr/share/%s/version /run/%s\n' \
    $name $name > $unit
  printf '[Install]\nWantedBy=multi-user.target\n[Unit]\nStartLimitIntervalSec=0\n' >> $unit
  printf 'deb-systemd-helper enable %s.service\nsystemctl daemon-reload\ndeb-systemd-invoke restart %s.service\n' \
    $name $name >> $tree/DEBIAN/postinst
  printf '#!/bin/sh\n[ "$1" != purge ] || { deb-systemd-helper purge '"'%s.service'"'; rm -rf /var/lib/%s; }\n' \
    $name $name > $tree/DEBIAN/postrm
  chmod 755 $tree/DEBIAN/postrm
  dpkg-deb --root-owner-group --build $tree /srv/ek/all/$name-$4.deb > /dev/null
  rm -r $tree
}
build ek-demo 1.0 '' 1
build ek-demo 1:2.0 'Depends: ek-lib\n' 2
build ek-lib 1.0 '' 1
build ek-new 1.0 '' 1
cat > /usr/local/bin/ek-publish <<'END'
#!/bin/sh
set -e
cd /srv/ek/repo
rm -f *
for name; do
  cp ../all/$name.deb .
  { dpkg-deb --field $name.deb; echo "Filename: ./$name.deb"; echo "Size: $(stat -c %s $name.deb)"
    echo "SHA256: $(sha256sum $name.deb | cut -d' ' -f1)"; echo; } >> Packages
done
apt-get -q update
END
chmod 755 /usr/local/bin/ek-publish
[ -e /etc/apt/sources.list.before ] || mv /etc/apt/sources.list /etc/apt/sources.list.before
echo 'deb [trusted=yes] file:/srv/ek/repo ./' > /etc/apt/sources.list
ek-publish ek-demo-1
apt-get -q install -y ek-demo
echo 'of the administrator' > /etc/ek-demo/conf
"""
CLEAN = f"""
rm -f {SLOW}
systemctl disable --now --quiet ek-demo ek-lib ek-new 2>/dev/null
dpkg --configure --pending
apt-mark -q unhold {NAMES} 2>/dev/null
dpkg --purge --force-all {NAMES} 2>/dev/null
[ ! -e /etc/apt/sources.list.before ] || mv /etc/apt/sources.list.before /etc/apt/sources.list
rm -rf /run/ek-* /var/lib/systemd/deb-systemd-helper-enabled/*/ek-* /var/lib/systemd/deb-systemd-helper-enabled/ek-*
rm -rf /srv/ek /usr/local/bin/ek-publish /var/cache/apt/archives/ek-*
rm -rf /var/lib/apt/lists/*srv_ek* /var/lib/ek-* /etc/ek-*
true
"""
UPGRADE = """
ek-publish ek-demo-2 ek-lib-1 ek-new-1
apt-get -q install -y -o Dpkg::Options::=--force-confnew ek-demo ek-new
apt-mark auto ek-demo
apt-get clean
"""
# All that dpkg and apt know of packages, as a judge that is not ours.
STATE = (
    "dpkg --get-selections | grep -v deinstall; apt-mark showauto; apt-mark showhold; dpkg --audit;"
    " dpkg-query -W -f '${Package} ${Version} ${Status}\\n' | grep -v config-files"
)
RESOURCES: list[dict[str, Any]] = [{"packages": {"keep": "all"}}, {"files": {"paths": ["/etc/ek-demo"]}}]


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    fleet.on(HOST, CLEAN)
    fleet.on(HOST, SETUP)
    yield fleet
    fleet.on(HOST, CLEAN)


def take(fleet: Fleet, check: bool = False) -> dict[str, Any]:
    return module(fleet, "ft_checkpoint", check, name="before", resources=RESOURCES)


def test_a_version_that_the_mirror_dropped_comes_back(host: Fleet) -> None:
    host.on(HOST, "apt-mark hold ek-demo")
    assert take(host, check=True)["changed"]
    taken = take(host)
    assert taken["changed"] and not taken["failed"]
    assert take(host)["changed"] is False and take(host, check=True)["changed"] is False
    # The lab's own packages have no mirror here: it is said of them, and not of ek-demo.
    assert "package files of" in taken["left"][0]
    before = host.on(HOST, STATE)
    host.on(HOST, "apt-mark unhold ek-demo" + UPGRADE)
    after = host.on(HOST, STATE)
    assert "ek-demo 1:2.0" in after and "ek-new 1.0" in after
    assert host.on(HOST, "cat /etc/ek-demo/conf") == "as packaged in 1:2.0\n"

    foreseen = module(host, "ft_rollback", check=True, checkpoint="before")
    result = module(host, "ft_rollback", checkpoint="before")
    assert not result["failed"] and result["planned"] == foreseen["planned"]
    # What the package has written to a declared path is put back once more.
    assert [step for step in result["planned"] if step not in result["done"]] == []
    steps = [f"{step['action']} {step['target']}" for step in result["done"] if step["resource"] == "packages"]
    assert steps == [
        "downgrade ek-demo:all 1.0",
        "hold ek-demo:all",
        "manual ek-demo:all",
        "remove ek-lib:all",
        "remove ek-new:all",
    ]
    assert host.on(HOST, STATE) == before
    assert host.on(HOST, "cat /etc/ek-demo/conf /usr/share/ek-demo/version") == "of the administrator\n1.0\n"
    assert module(host, "ft_rollback", checkpoint="before")["changed"] is False

    undone = module(host, "ft_rollback", checkpoint="undo")
    assert not undone["failed"]
    assert host.on(HOST, STATE) == after


@pytest.mark.long
def test_a_package_that_was_rolled_back_is_installed_again_as_new(host: Fleet) -> None:
    trees = ["/etc/ek-new", "/etc/systemd/system/multi-user.target.wants"]
    declared: list[dict[str, Any]] = [{"packages": {"names": ["ek-new"]}}, {"files": {"paths": trees}}]
    module(host, "ft_checkpoint", name="before", resources=declared)
    host.on(HOST, "ek-publish ek-demo-1 ek-new-1")
    change = "apt-get -q install -y ek-new; systemctl is-enabled ek-new; cat /etc/ek-new/conf"
    first = host.on(HOST, f"({change}) 2>&1 | tail -n 2")
    assert first == "enabled\nas packaged in 1.0\n"
    host.on(HOST, "echo kept > /var/lib/ek-new/data")
    result = module(host, "ft_rollback", checkpoint="before")
    assert not result["failed"] and result["left"] == [], result
    known = "dpkg -l ek-new 2>&1 | grep ^rc; ls -d /etc/ek-new /var/lib/dpkg/info/ek-new*; cat /var/lib/ek-new/data"
    assert host.on(HOST, f"{known} 2>/dev/null") == "kept\n"
    assert host.on(HOST, f"({change}) 2>&1 | tail -n 2") == first


@pytest.mark.long
def test_what_would_take_other_packages_along_is_refused(host: Fleet) -> None:
    module(host, "ft_checkpoint", name="before", resources=[{"packages": {"keep": "all", "names": ["ek-lib"]}}])
    host.on(HOST, UPGRADE)
    after = host.on(HOST, STATE)
    refused = module(host, "ft_rollback", checkpoint="before")
    assert refused["failed"] and "ek-demo (Remv)" in refused["msg"] and refused["done"] == []
    assert host.on(HOST, STATE) == after and host.on(HOST, "ls /var/lib/evenkeel/resume", check=False) == ""


# Version 1 of these: ek-b's script wants what version 2 was content without, and shows what a script is given; ek-c
# depends on the version 1 of ek-lost, whose package file nobody has; ek-a is like all the others.
LOST = r"""
set -e
rm -rf /srv/ek/lost; mkdir /srv/ek/lost; cd /srv/ek/lost
make() {
  mkdir -p tree/DEBIAN tree/etc/$1
  printf "Package: $1\nVersion: $2\nArchitecture: all\nMaintainer: A <a@example.org>\n$3Description: x\n" \
    > tree/DEBIAN/control
  echo $1 > tree/etc/$1/conf; echo /etc/$1/conf > tree/DEBIAN/conffiles
  printf "#!/bin/sh\n$4\n" > tree/DEBIAN/postinst; chmod 755 tree/DEBIAN/postinst
  dpkg-deb --root-owner-group --build tree $1_$2_all.deb > /dev/null
  rm -r tree
}
for version in 1 2; do make ek-a $version; make ek-lost $version; done
make ek-b 1 '' 'echo "$(umask) $LANG" > /run/ek-script
test -e /srv/ek/good || { echo "ek-b: no good" >&2; exit 1; }'
make ek-b 2
make ek-c 1 'Depends: ek-lost (= 1)\n'; make ek-c 2
cp ek-[abc]_1_all.deb /var/cache/apt/archives/
touch /srv/ek/good
echo LANG=de_DE.UTF-8 > /etc/default/locale
dpkg --install ek-lost_1_all.deb; dpkg --install ek-[abc]_1_all.deb
rm ek-lost_1_all.deb
"""


def test_one_package_that_cannot_come_back_keeps_no_other_one(host: Fleet) -> None:
    host.on(HOST, LOST)
    names = ["ek-a", "ek-b", "ek-c", "ek-lost"]
    taken = module(host, "ft_checkpoint", name="before", resources=[{"packages": {"keep": "all", "names": names}}])
    assert "package files of 1 packages" in taken["left"][0] and "ek-lost 1" in taken["left"][0]
    before = host.on(HOST, STATE)
    host.on(HOST, "cd /srv/ek/lost; dpkg --install ek-lost_2_all.deb ek-[abc]_2_all.deb; rm /srv/ek/good")
    # Removed with the configuration file that it brought.
    host.on(HOST, "dpkg --remove ek-a; rm -r /etc/ek-a")
    result = module(host, "ft_rollback", checkpoint="before")
    assert result["failed"], result
    assert any(one.startswith("ek-lost:all: nobody has the package file of version 1") for one in result["left"]), (
        result
    )
    assert any(one.startswith("ek-c:all: apt refuses: ek-c : Depends: ek-lost (= 1)") for one in result["left"]), result
    assert any(one.startswith("ek-b:all: ek-b: no good; installed ek-b package post") for one in result["left"]), result
    assert [one["target"] for one in result["done"]] == ["ek-a:all 1"]
    assert host.on(HOST, "cat /etc/ek-a/conf /run/ek-script") == "ek-a\n0022 de_DE.UTF-8\n"
    # Its cause is gone: the same again does the rest.
    host.on(HOST, "touch /srv/ek/good")
    result = module(host, "ft_rollback", checkpoint="before")
    assert [one["target"] for one in result["done"]] == ["ek-b:all 1"] and len(result["left"]) >= 2, result
    host.on(HOST, "sed -i 's/^/#/' /etc/default/locale")
    host.on(
        HOST,
        "cd /srv/ek/lost; mkdir -p x; dpkg-deb -R ek-lost_2_all.deb x; sed -i 's/^Version: 2/Version: 1/' "
        "x/DEBIAN/control; dpkg-deb -b x /var/cache/apt/archives/ek-lost_1_all.deb",
    )
    result = module(host, "ft_rollback", checkpoint="before")
    assert not result["failed"] and host.on(HOST, STATE) == before, result


# A file that moved from ek-demo to a package of its own, as an upgrade splits them: the older one declares nothing.
MOVED = r"""
set -e
cd /srv/ek; rm -rf moved; mkdir moved; cd moved
make() {
  mkdir -p tree/DEBIAN tree/usr/share/ek-moved
  printf "Package: $1\nVersion: $2\nArchitecture: all\nMaintainer: A <a@example.org>\n$3Description: x\n" \
    > tree/DEBIAN/control
  [ -z "$4" ] || echo "$1" > tree/usr/share/ek-moved/file
  dpkg-deb --root-owner-group --build tree $1_$2_all.deb > /dev/null
  rm -r tree
}
make ek-a 1 '' file; make ek-a 2 'Depends: ek-b\n' ''; make ek-b 2 'Replaces: ek-a (<< 2)\n' file
cp ek-a_1_all.deb /var/cache/apt/archives/
dpkg --install ek-a_1_all.deb
"""


@pytest.mark.long
def test_a_file_that_moved_to_another_package_moves_back(host: Fleet) -> None:
    host.on(HOST, MOVED)
    module(host, "ft_checkpoint", name="before", resources=[{"packages": {"keep": "all", "names": ["ek-a", "ek-b"]}}])
    before = host.on(HOST, STATE)
    host.on(HOST, "cd /srv/ek/moved; dpkg --install ek-b_2_all.deb ek-a_2_all.deb")
    assert host.on(HOST, "cat /usr/share/ek-moved/file") == "ek-b\n"
    result = module(host, "ft_rollback", checkpoint="before")
    assert not result["failed"], result
    assert host.on(HOST, STATE) == before and host.on(HOST, "cat /usr/share/ek-moved/file") == "ek-a\n"


def test_data_of_what_was_not_there_before_stay_or_are_purged_as_declared(host: Fleet) -> None:
    names = ["ek-demo", "ek-lib", "ek-new"]
    module(host, "ft_checkpoint", name="kept", resources=[{"packages": {"keep": "all", "names": names}}])
    module(
        host, "ft_checkpoint", name="purged", resources=[{"packages": {"keep": "all", "names": names, "purge": True}}]
    )
    host.on(HOST, UPGRADE)
    assert not module(host, "ft_rollback", checkpoint="kept")["failed"]
    assert "ek-new" in host.on(HOST, "dpkg -l | grep ^rc; ls /etc")
    host.on(HOST, UPGRADE)
    result = module(host, "ft_rollback", checkpoint="purged")
    assert not result["failed"] and "purge ek-new:all" in [f"{one['action']} {one['target']}" for one in result["done"]]
    assert "ek-new" not in host.on(HOST, "dpkg -l | grep ^rc; ls /etc; true")


@pytest.mark.parametrize(
    "script", ["preinst", pytest.param("postinst", marks=pytest.mark.long)]
)  # while it is unpacked, while it is configured
def test_kill_9_in_the_middle_is_finished_by_the_next_run(host: Fleet, script: str) -> None:
    take(host)
    before = host.on(HOST, STATE)
    host.on(HOST, UPGRADE + f"echo {script} > {SLOW}")
    after = host.on(HOST, STATE)
    running = threading.Thread(target=rollback_to_its_death, args=[host, HOST])
    running.start()
    waits = f"(ek-demo.|tmp.ci/){script}"
    assert host.eventually(lambda: host.on(HOST, f"pgrep -f '[ ]/.*{waits}'", check=False) != "", 60)
    host.on(HOST, f"kill -9 $(cat /var/lib/evenkeel/lock) $(pgrep -f '[a]pt-get|/usr/bin/[d]pkg|[ ]/.*{waits}')")
    host.on(HOST, f"rm {SLOW}")
    running.join(60)
    assert host.on(HOST, "dpkg --audit") != "" and host.on(HOST, "ls /var/lib/evenkeel/resume") != ""
    result = module(host, "ft_rollback", checkpoint="before")
    assert not result["failed"], result
    assert host.on(HOST, STATE) == before
    assert host.on(HOST, "cat /etc/ek-demo/conf") == "of the administrator\n"
    assert host.on(HOST, "ls /var/lib/evenkeel/resume", check=False) == ""
    # The undo is what was there before it all began, not what the kill left.
    assert not module(host, "ft_rollback", checkpoint="undo")["failed"]
    assert host.on(HOST, STATE) == after


def test_a_reboot_puts_packages_back_before_their_services_start(host: Fleet) -> None:
    resources = [*RESOURCES, {"services": {"names": ["ek-demo"]}}]
    assert module(host, "ft_checkpoint", name="before", resources=resources, confirm_within="10m")["armed"]
    before = host.on(HOST, STATE)
    host.on(HOST, UPGRADE)
    assert host.on(HOST, "cat /run/ek-demo") == "1:2.0\n"
    host.lab.reboot(HOST)
    assert host.eventually(lambda: bool(host.state(HOST)), 60)
    assert (host.state(HOST)["outcome"], host.state(HOST)["by"]) == ("rolled_back", "boot")
    assert host.on(HOST, STATE) == before
    assert host.eventually(lambda: host.on(HOST, "cat /run/ek-demo", check=False) == "1.0\n", 20)


def rollback_to_its_death(fleet: Fleet, host: str) -> None:
    with contextlib.suppress(AssertionError, ValueError):
        fleet.module(host, "ft_rollback", checkpoint="before")


def test_what_dpkg_was_told_to_leave_out_or_to_divert_is_there_again(host: Fleet) -> None:
    """The change keeps files of the next version out, and puts a program of its own in the place of another's."""
    fleet = host
    take(fleet)
    files = "cat /usr/share/ek-demo/version /usr/bin/nproc | md5sum; dpkg-divert --list '*nproc'"
    before = fleet.on(HOST, files)
    fleet.on(HOST, "echo 'path-exclude=/usr/share/ek-*' >/etc/dpkg/dpkg.cfg.d/ek")
    fleet.on(HOST, "dpkg-divert --local --rename --add /usr/bin/nproc; printf '#!/bin/sh\\n' >/usr/bin/nproc")
    try:
        fleet.on(HOST, UPGRADE)
        assert fleet.on(HOST, files, check=False) != before
        result = module(fleet, "ft_rollback", checkpoint="before")
        assert result["left"] == [] and fleet.on(HOST, files) == before
    finally:
        fleet.on(HOST, "rm -f /etc/dpkg/dpkg.cfg.d/ek; dpkg-divert --rename --remove /usr/bin/nproc", check=False)
