# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with more than twenty things that cannot go back, and shut to everybody: all the rest comes back by itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from .conftest import Fleet
from .test_published_roles import in_mounts_of, make_values_writable

HOST = "web6"
WITHIN = 90
# How long after the deadline somebody can log in again, and how long all that can go back may take.
ACCESS, REST = 10, 180

pytestmark = pytest.mark.long

# Shell functions for all scripts on the host.
TOOLS = r"""
set -eu
deb() { # NAME VERSION [SCRIPT [LINES]]: a package with a configuration file, and a maintainer script
  t=$(mktemp -d); mkdir -p $t/DEBIAN $t/opt/$1 $t/etc/$1
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n' \
    $1 $2 >$t/DEBIAN/control
  echo $2 >$t/opt/$1/version; echo "of $2" >$t/etc/$1/conf; echo /etc/$1/conf >$t/DEBIAN/conffiles
  [ -z "${3-}" ] || { printf '#!/bin/sh\n%s\n' "$4" >$t/DEBIAN/$3; chmod 755 $t/DEBIAN/$3; }
  chmod 755 $t; dpkg-deb --root-owner-group --build $t /var/cache/apt/archives/$1_$2_all.deb >/dev/null; rm -r $t
}
debs() { for one; do dpkg --force-confnew -i /var/cache/apt/archives/${one}_all.deb >/dev/null; done; }
unit() { # NAME LINES
  printf '[Unit]\nStartLimitIntervalSec=0\n%b\n[Install]\nWantedBy=multi-user.target\n' "$2" >/etc/systemd/system/$1
}
cd /srv/storm 2>/dev/null || true
"""


@dataclass(frozen=True)
class Thing:
    """One thing that changes while the host is armed.

    ``before``, ``change``: scripts on the host, before the checkpoint and after it. ``outside``, ``outside_before``:
    the same among the mounts of the host, with rights that it does not have. ``said``: what names it among what is
    left; None for what has to come back, and then ``judge`` prints what it printed before the change.
    """

    name: str
    before: str = ":"
    change: str = ":"
    outside_before: str = ""
    outside: str = ""
    said: str | None = None
    judge: str = ""


def lost(name: str, said: str, **scripts: str) -> Thing:
    return Thing(name, said=said, **scripts)


def kept(name: str, judge: str, **scripts: str) -> Thing:
    return Thing(name, judge=judge, **scripts)


NOT_COMING_BACK = (
    lost(
        "a package whose file nobody has",
        "ek-lost",
        before="deb ek-lost 1.0; debs ek-lost_1.0; rm /var/cache/apt/archives/ek-lost_1.0_all.deb; deb ek-lost 2.0",
        change="debs ek-lost_2.0",
    ),
    lost(
        "a package whose script fails",
        "ek-post",
        before="deb ek-post 1.0 postinst '! test -e /run/ek-storm'; deb ek-post 2.0; debs ek-post_1.0",
        change="debs ek-post_2.0",
    ),
    lost(
        "a package that does not let go",
        "ek-stay",
        before="deb ek-stay 1.0 prerm 'test \"$1\" != failed-upgrade'; debs ek-stay_1.0;"
        " deb ek-stay 2.0 prerm 'exit 1'",
        change="debs ek-stay_2.0",
    ),
    lost(
        "a file that something is mounted over",
        "/srv/storm/bound",
        before="echo 1 >bound",
        change="echo 2 >bound",
        outside="touch /run/ek-other; mount --bind /run/ek-other /srv/storm/bound",
    ),
    lost(
        "a directory that something is mounted over",
        "/srv/storm/over",
        before="mkdir over; echo 1 >over/file",
        change="echo 2 >over/file",
        outside="mount -t tmpfs ek /srv/storm/over; echo 3 >/srv/storm/over/file; mount -o remount,ro /srv/storm/over",
    ),
    lost(
        "a mount in a directory that is new",
        "/srv/storm/new",
        change="mkdir -p new/mount",
        outside="mount -t tmpfs ek /srv/storm/new/mount; touch /srv/storm/new/mount/file",
    ),
    lost(
        "a mount that is gone",
        "/srv/storm/gone",
        before="mkdir gone",
        outside_before="mount -t tmpfs ek /srv/storm/gone; echo 1 >/srv/storm/gone/file",
        outside="umount /srv/storm/gone",
    ),
    lost(
        "a file on a mount that is read-only now",
        "/srv/storm/ro",
        before="mkdir ro",
        outside_before="mount -t tmpfs ek /srv/storm/ro; echo 1 >/srv/storm/ro/file",
        outside="echo 2 >/srv/storm/ro/file; mount -o remount,ro /srv/storm/ro",
    ),
    lost(
        "a device that nobody may make",
        "/srv/storm/device",
        outside_before="mknod /srv/storm/device c 1 3",
        change="rm device",
    ),
    lost(
        "an extended attribute that nobody may set",
        "/srv/storm/attribute",
        before="echo 1 >attribute",
        outside_before="setfattr -n security.ek -v 1 /srv/storm/attribute",
        change="rm attribute; echo 2 >attribute",
    ),
    lost(
        "a file that a program writes again and again",
        "/srv/storm/again",
        before="echo 1 >again",
        change="setsid sh -c 'while :; do date +%N >/srv/storm/again; sleep 0.01; done' >/dev/null 2>&1 &",
    ),
    lost(
        "a directory that a program makes again and again",
        "/srv/storm/remade",
        change="setsid sh -c 'while :; do mkdir -p /srv/storm/remade/a; sleep 0.01; done' >/dev/null 2>&1 &",
    ),
    lost(
        "a unit that does not start",
        "ek-fails.service",
        before="unit ek-fails.service"
        " '[Service]\\nExecStartPre=/bin/sh -c \"! test -e /run/ek-storm\"\\nExecStart=sleep inf'",
        change="systemctl stop ek-fails",
    ),
    lost(
        "a unit that nobody may start",
        "ek-nostart.service",
        before="unit ek-nostart.service 'RefuseManualStart=yes\\n[Service]\\nExecStart=sleep inf';"
        " unit ek-starter.service 'Requires=ek-nostart.service\\n[Service]\\nType=oneshot\\nExecStart=true'",
        change="systemctl stop ek-nostart",
    ),
    lost(
        "a unit that nobody may stop",
        "ek-nostop.service",
        before="unit ek-nostop.service 'RefuseManualStop=yes\\n[Service]\\nExecStart=sleep inf'",
        change="systemctl start ek-nostop",
    ),
    lost(
        "a unit whose stop does not end",
        "ek-hangs.service",
        before="unit ek-hangs.service '[Service]\\nExecStart=sleep inf\\nExecStop=sleep inf\\nTimeoutStopSec=infinity'",
        change="systemctl start ek-hangs",
    ),
    lost(
        "a socket whose port another has",
        "ek-port.socket",
        before="unit ek-port.socket '[Socket]\\nListenStream=127.0.0.1:7777\\nAccept=yes';"
        " unit ek-port@.service '[Service]\\nExecStart=true'",
        change="systemctl stop ek-port.socket; setsid python3 -c 'import socket, time; s = socket.socket();"
        ' s.bind(("127.0.0.1", 7777)); s.listen(); time.sleep(9999)\' >/dev/null 2>&1 & sleep 1',
    ),
    lost(
        "a unit whose file, of no package, is gone",
        "ek-file.service",
        before="printf '[Service]\\nExecStart=sleep inf\\n' >/usr/lib/systemd/system/ek-file.service",
        change="systemctl stop ek-file; rm /usr/lib/systemd/system/ek-file.service",
    ),
    lost(
        "a value of an interface that is gone",
        "ek0/",
        before="ip link add ek0 type veth peer name ek1",
        change="ip link delete ek0",
    ),
    lost(
        "a value that cannot be written any more",
        "net/ipv4/tcp_keepalive_probes",
        change="sysctl -qw net.ipv4.tcp_keepalive_probes=3",
        outside="k=/proc/sys/net/ipv4/tcp_keepalive_probes; mount --bind $k $k; mount -o remount,bind,ro $k",
    ),
)
IMMUTABLE = (
    lost(
        "a file that is immutable",
        "/srv/storm/immutable",
        before="echo 1 >immutable",
        change="echo 2 >immutable",
        outside="chattr +i /srv/storm/immutable",
    ),
    lost(
        "a directory that is immutable",
        "/srv/storm/closed",
        before="mkdir closed",
        change="touch closed/added",
        outside="chattr +i /srv/storm/closed",
    ),
)
COMING_BACK = (
    kept("a file", "cat file", before="echo 1 >file", change="echo 2 >file"),
    kept("a directory that is new", "ls -d added 2>&1", change="mkdir -p added/more; echo 1 >added/more/file"),
    kept("a directory that was removed", "ls gone1/*", before="mkdir gone1; touch gone1/a", change="rm -r gone1"),
    kept("a file that became a pipe", "stat -c %F pipe", before="touch pipe", change="rm pipe; mkfifo pipe"),
    # It is no state, and stays.
    Thing("a socket that is new", change="python3 -c 'import socket; socket.socket(1).bind(\"a.s\")'"),
    kept("a file of eight terabytes, nearly all holes", "ls huge 2>&1", change="truncate -s 8T huge; echo x >>huge"),
    kept("a log that grows", "ls log 2>&1", change="(while :; do date; sleep 0.02; done >log) >/dev/null 2>&1 &"),
    kept("a name that is not UTF-8", "ls -b latin* 2>&1", change="touch \"$(printf 'latin-\\351')\""),
    kept(
        "a parent that became a symlink",
        "ls -ld /srv/parent | cut -c1; cat /srv/parent/child/file",
        before="mkdir -p /srv/parent/child /srv/else/child; echo 1 >/srv/parent/child/file;"
        " echo 9 >/srv/else/child/file",
        change="rm -r /srv/parent; ln -s /srv/else /srv/parent",
    ),
    kept(
        "a parent that became a file",
        "cat /srv/below/child/file",
        before="mkdir -p /srv/below/child; echo 1 >/srv/below/child/file",
        change="rm -r /srv/below; echo >/srv/below",
    ),
    kept(
        "a declared directory that became a symlink",
        "ls -ld /srv/linked | cut -c1; cat /srv/linked/file",
        before="mkdir -p /srv/linked; echo 1 >/srv/linked/file",
        change="rm -r /srv/linked; ln -s /srv/else /srv/linked",
    ),
    kept(
        "accounts, although somebody holds their lock",
        "id dave 2>&1; id eve 2>&1; getent shadow dave",
        before="useradd dave",
        change="userdel dave; useradd eve; setsid python3 -c 'import fcntl, time;"
        ' f = open("/etc/.pwd.lock", "r+"); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(999)\' >/dev/null 2>&1 & sleep 1',
    ),
    kept(
        "a package and its configuration",
        "dpkg-query -W ek-good; cat /etc/ek-good/conf /opt/ek-good/version",
        before="deb ek-good 1.0; debs ek-good_1.0; deb ek-good 2.0; echo mine >/etc/ek-good/conf",
        change="debs ek-good_2.0; rm /etc/ek-good/conf",
    ),
    kept("a value of the kernel", "sysctl -n net.ipv4.tcp_syncookies", change="sysctl -qw net.ipv4.tcp_syncookies=0"),
    kept(
        "a service, stopped and disabled",
        "systemctl is-active nginx; systemctl is-enabled nginx; curl -s localhost | head -c 40",
        change="systemctl disable --now --quiet nginx; echo nonsense >/etc/nginx/nginx.conf",
    ),
    kept(
        "a socket, stopped and masked",
        "systemctl is-active ek-door.socket; systemctl is-enabled ek-door.socket 2>&1",
        before="unit ek-door.socket '[Socket]\\nListenStream=127.0.0.1:7778\\nAccept=yes';"
        " unit ek-door@.service '[Service]\\nExecStart=true'; systemctl enable --quiet ek-door.socket",
        change="systemctl stop ek-door.socket; rm /etc/systemd/system/ek-door.socket;"
        " systemctl mask --quiet ek-door.socket",
    ),
    kept("what sshd is told", "sshd -T | grep -i allow", change="echo AllowUsers nobody >>/etc/ssh/sshd_config"),
    kept(
        "the firewall",
        "nft -s list ruleset",
        change="nft flush ruleset;"
        " nft 'table inet shut { chain input { type filter hook input priority 0; policy drop; }; }'",
    ),
)  # fmt: skip
RESOURCES: list[dict[str, Any]] = [
    {"files": {"paths": ["/etc", "/srv/storm", "/srv/parent/child", "/srv/below/child", "/srv/linked"]}},
    {"packages": {"names": ["ek-lost", "ek-post", "ek-stay", "ek-good"]}},
    {"users": {}},
    {"firewall": {}},
    {
        "sysctl": {
            "names": ["net.ipv4.conf.ek0.rp_filter", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_syncookies"],
        }
    },
    {
        "services": {
            "names": [
                *("ssh", "nginx", "ek-door.socket", "ek-fails", "ek-nostart", "ek-nostop", "ek-hangs"),
                *("ek-port.socket", "ek-file"),
            ]
        }
    },
]
STARTED = "systemctl daemon-reload; systemctl start ek-fails ek-starter ek-port.socket ek-door.socket ek-file"


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    fleet.lab.recreate(HOST)
    make_values_writable(fleet, HOST)
    rules = (
        "table inet filter { chain input { type filter hook input priority filter; tcp dport { 22, 80 } accept; }; }"
    )
    fleet.on(HOST, f"echo '{rules}' >/etc/nftables.conf; systemctl enable --now --quiet nftables")
    yield fleet
    # What is mounted and immutable goes with the host, once nothing protects it.
    in_mounts_of(fleet, HOST, "chattr -i /srv/storm/immutable /srv/storm/closed 2>/dev/null || true")
    fleet.lab.recreate(HOST)


def told(fleet: Fleet) -> str:
    """All that the host says about how its last change ended."""
    return json.dumps(fleet.state(HOST)) + json.dumps(fleet.module(HOST, "ft_info"))


def test_what_cannot_go_back_keeps_nothing_else_from_it(host: Fleet) -> None:
    fleet = host
    things = [*NOT_COMING_BACK, *(IMMUTABLE if _immutable(fleet) else ()), *COMING_BACK]
    fleet.on(HOST, f"{TOOLS}\nmkdir -p /srv/storm; cd /srv/storm\n" + "\n".join(one.before for one in things))
    in_mounts_of(fleet, HOST, "\n".join(one.outside_before for one in things))
    fleet.on(HOST, STARTED)
    judged = judgements(fleet, things)
    made = fleet.module(HOST, "ft_checkpoint", name="calm", resources=RESOURCES, confirm_within=f"{WITHIN}s")
    assert not made["failed"], made
    assert "ek-lost" in json.dumps(made["left"]), made["left"]
    due = time.time() + WITHIN  # At the latest: armed a little before.
    fleet.on(HOST, f"{TOOLS}\ntouch /run/ek-storm\n" + "\n".join(one.change for one in things))
    in_mounts_of(fleet, HOST, "\n".join(one.outside for one in things))
    assert time.time() < due - 5, "the storm took too long to begin"
    assert not _login(fleet)

    time.sleep(max(0.0, due + ACCESS - time.time()))
    came_back_in = _login(fleet)

    def differ() -> dict[str, tuple[str, str]]:
        now = judgements(fleet, things)
        return {name: (judged[name], now[name]) for name in judged if now[name] != judged[name]}

    def unnamed() -> list[str]:
        said = told(fleet) if _login(fleet) else json.dumps(fleet.state(HOST))
        return [one.name for one in things if one.said and not re.search(re.escape(one.said), said)]

    # The host says what is left once its first attempt is over.
    while (wrong := differ()) or not fleet.state(HOST):
        if time.time() > due + ACCESS + REST:
            break
        time.sleep(3)
    missing = unnamed()
    assert (came_back_in, wrong, missing) == (True, {}, []), fleet.on(
        HOST, "tail -n 3 /var/lib/evenkeel/events; journalctl -u evenkeel-deadman -o cat --no-pager -n 20", check=False
    )


def test_a_ruleset_with_one_table_that_cannot_be_loaded_does_not_keep_us_out(host: Fleet) -> None:
    """A rule names an interface by its number, and that is gone: what shut us out goes all the same."""
    fleet = host
    fleet.on(HOST, "ip link add ek0 type veth peer name ek1")
    fleet.on(HOST, "nft 'table inet ek { chain input { type filter hook input priority 0; iif ek0 accept; }; }'")
    resources: list[dict[str, Any]] = [{"firewall": {}}]
    made = fleet.module(HOST, "ft_checkpoint", name="calm", resources=resources, confirm_within="10s")
    assert not made["failed"], made
    fleet.on(HOST, "ip link delete ek0; nft 'add rule inet filter input tcp dport 22 drop; flush table inet ek'")
    fleet.on(HOST, "nft 'insert rule inet filter input tcp dport 22 drop'")
    assert not _login(fleet)
    assert fleet.eventually(lambda: _login(fleet), 10 + ACCESS + 5), fleet.state(HOST)
    assert "ek" in json.dumps(fleet.state(HOST).get("left")), fleet.state(HOST)


def judgements(fleet: Fleet, things: Sequence[Thing]) -> dict[str, str]:
    """Name of each thing that has to come back -> what its judge prints now."""
    mine = [one for one in things if one.judge]
    said = fleet.on(HOST, "cd /srv/storm\n" + "\n".join(f"{one.judge}; echo; echo ----" for one in mine), check=False)
    return dict(zip((one.name for one in mine), said.split("----\n"), strict=False))


def _login(fleet: Fleet) -> bool:
    from lab import run

    words = ["ssh", "-F", str(fleet.lab.ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=3", "-l", "root"]
    return run([*words, HOST, "true"], check=False, timeout=30).returncode == 0


def _immutable(fleet: Fleet) -> bool:
    """Whether files of this host can be made immutable from this machine."""
    try:
        in_mounts_of(fleet, HOST, "touch /run/ek-flag /srv/ek-flag; chattr +i /srv/ek-flag; chattr -i /srv/ek-flag")
    except Exception:
        return False
    return True
