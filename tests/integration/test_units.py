# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units as administrators and packages have them: enabled in many ways, by aliases, with what systemd refuses."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Fleet

HOST = "web1"
SERVICE = "[Service]\nExecStart=/bin/sleep inf\n{more}[Install]\nWantedBy=multi-user.target\n{install}"
SCRIPT = """#!/bin/sh
### BEGIN INIT INFO
# Provides: ek-sysv
# Required-Start: $remote_fs
# Required-Stop: $remote_fs
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
case "$1" in
start) setsid sleep inf </dev/null >/dev/null 2>&1 & echo $! >/run/ek-sysv.pid ;;
stop) kill $(cat /run/ek-sysv.pid) ;;
esac
"""
# What each unit is set up with (in its Install section, and by commands), and what the change does to it.
UNITS = {
    "ek-disabled": ("", "systemctl enable {u}", "systemctl disable {u}"),
    "ek-enabled": ("", "true", "systemctl enable {u}"),
    "ek-alias": ("Alias=ek-also.service\n", "systemctl enable {u}", "systemctl disable ek-also"),
    "ek-aliased": ("", "systemctl enable {u}", "echo Alias=ek-new.service >>{f}; systemctl reenable {u}"),
    "ek-moved": ("", "systemctl enable {u}", "sed -i s/multi-user/graphical/ {f}; systemctl reenable {u}"),
    "ek-added": ("", "systemctl enable {u}", "systemctl add-requires graphical.target {u}"),
    "ek-both": ("RequiredBy=graphical.target\n", "systemctl enable {u}", "rm /etc/systemd/system/*.requires/{u}"),
    "ek-masked": ("", "systemctl enable {u}", "rm -f {f}; systemctl mask --now {u}"),
    "ek-mask-run": ("", "systemctl enable --now {u}", "systemctl mask --runtime {u}; systemctl stop {u}"),
    "ek-unmasked": ("", "rm {f}; systemctl mask {u}", "systemctl unmask {u}; {file}"),
    "ek-runtime": ("", "systemctl enable --runtime {u}", "systemctl disable --runtime {u}; systemctl enable {u}"),
    "ek-static": ("", "sed -i '/Install/,$d' {f}; systemctl start {u}", "rm {f}; systemctl stop {u}"),
    "ek-preset": ("", "systemctl enable {u}", "echo disable {u} >{p}; systemctl preset {u}; rm {p}"),
    "ek-pulls": ("", "systemctl add-wants {u} ek-static.service", "rm -r {f}.wants"),
    "ek-empty": ("", "true", "mkdir -p {d}/graphical.target.wants; touch {d}/graphical.target.wants/{u}"),
    "ek-edit": ("", "true", "mkdir -p {f}.d; printf '[Service]\\nNice=5\\n' >{f}.d/x.conf"),
    "ek-prop": ("", "systemctl start {u}", "systemctl set-property {u} MemoryMax=1G"),
    "ek-prop-run": ("", "systemctl start {u}", "systemctl set-property --runtime {u} MemoryMax=1G"),
    "ek-all": ("", "systemctl start {u}", "mkdir -p {d}/ek-.service.d; echo '[Service]' >{d}/ek-.service.d/x.conf"),
}


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    clear(fleet)
    yield fleet
    clear(fleet)


def clear(fleet: Fleet) -> None:
    fleet.on(
        HOST,
        "systemctl stop 'ek*.socket' 'ek*.timer' 'ek*.path'; systemctl kill --signal=KILL 'ek*.service';"
        " systemctl stop 'ek*.service'; rm -rf /etc/systemd/system/ek* /etc/systemd/system/*/ek*"
        " /run/systemd/system/ek* /run/systemd/system/*/ek* /etc/systemd/system.control/ek*"
        " /run/systemd/system.control/ek* /etc/rc?.d/*ek-*"
        " /etc/init.d/ek-* /srv/ek /run/ek*;"
        " rmdir /etc/systemd/system/graphical.target.*;"
        " systemctl daemon-reload; systemctl reset-failed; true",
    )


def service(name: str, more: str = "", install: str = "") -> str:
    text = SERVICE.format(more=more, install=install)
    return f"printf %s {shlex.quote(text)} >/etc/systemd/system/{name}.service"


def commands(name: str, text: str) -> str:
    unit, folder = f"{name}.service", "/etc/systemd/system"
    preset = f"/etc/systemd/system-preset/00-{name}.preset"
    words = text.replace("{file}", service(name, install=UNITS[name][0])).replace("{d}", folder)
    words = words.replace("{f}", f"{folder}/{unit}").replace("{u}", unit).replace("{p}", preset)
    return f"mkdir -p /etc/systemd/system-preset; {words}"


def looks(fleet: Fleet) -> dict[str, str]:
    """Files and links of our units, and what systemd says of each."""
    folders = (
        "/etc/systemd/system /etc/systemd/system.control /run/systemd/system /run/systemd/system.control /etc/rc?.d"
    )
    found = {"links": fleet.on(HOST, f"find {folders} -name '*ek*' -printf '%p %y %l\\n' 2>/dev/null | sort")}
    found["below"] = fleet.on(HOST, f"find {folders} -path '*ek*' -type f -exec sha256sum {{}} + 2>/dev/null | sort")
    for name in [*UNITS, "ek-sysv", "ek-t@one", "ek-t@two"]:
        words = "Id,LoadState,UnitFileState,ActiveState,NeedDaemonReload,MemoryMax,Nice"
        found[name] = fleet.on(HOST, f"systemctl show -p {words} {name} | xargs")
        found[name] += "\n".join(line for line in (found["links"] + found["below"]).splitlines() if name in line)
    return found


def settle_back(fleet: Fleet, begun: dict[str, Any]) -> dict[str, Any]:
    return fleet.module(HOST, "ft_settle", generation=begun["generation"], verdict="roll_back")


def begin(fleet: Fleet, *names: str, **more: Any) -> dict[str, Any]:
    resources = [{kind: spec} for kind, spec in more.items()] + [{"services": {"names": list(names)}}]
    result = fleet.module(HOST, "ft_checkpoint", name="before", resources=resources, confirm_within="10m")
    assert not result["failed"], result
    return result


def test_units_come_back_as_they_were_however_they_were_enabled(host: Fleet) -> None:
    made = ["set -e"] + [service(name, install=install) for name, (install, _, _) in UNITS.items()]
    made += [
        service("ek-t@", install="DefaultInstance=one\n"),
        f"printf %s {shlex.quote(SCRIPT)} >/etc/init.d/ek-sysv; chmod 755 /etc/init.d/ek-sysv",
        "systemctl daemon-reload",
    ]
    made += [commands(name, before) for name, (_, before, _) in UNITS.items()]
    made += ["systemctl enable ek-t@one ek-sysv", "systemctl start ek-t@one ek-sysv", "systemctl daemon-reload"]
    host.on(HOST, "\n".join(made))
    was = looks(host)
    names = [name if name != "ek-alias" else "ek-also" for name in UNITS]
    begun = begin(host, *names, "ek-t@one", "ek-t@two", "ek-sysv")
    assert len([words for words in begun["left"] if "System V" in words]) == 1, begun["left"]
    changes = [commands(name, change) for name, (_, _, change) in UNITS.items()]
    changes += ["systemctl disable --now ek-t@one; systemctl enable --now ek-t@two"]
    changes += ["systemctl disable --now ek-sysv; rm /etc/init.d/ek-sysv; systemctl daemon-reload"]
    host.on(HOST, "\n".join(changes))
    now = looks(host)
    # What is set for all of a prefix shows in no name but its own.
    assert [name for name in was if was[name] == now[name]] == ["ek-all"]
    result = settle_back(host, begun)
    assert result["outcome"] == "rolled_back" and result["left"] == [], result
    now = looks(host)
    assert {name: now[name] for name in was if was[name] != now[name]} == {
        name: was[name] for name in was if was[name] != now[name]
    }
    again = host.module(HOST, "ft_rollback", check=True, checkpoint="before")
    assert again["planned"] == [] and not again["changed"]


def test_what_a_unit_does_not_permit_is_said_first_and_never_tried(host: Fleet) -> None:
    """As auditd has it: it refuses to be stopped by hand, and to be started anew."""
    daemon = "[Unit]\nRefuseManualStop=yes\n[Service]\nExecStart=/bin/sleep inf\nExecReload=/bin/true\n"
    host.on(
        HOST,
        f"printf %s {shlex.quote(daemon)} >/etc/systemd/system/ek-audit.service; systemctl daemon-reload;"
        " systemctl start ek-audit; mkdir -p /srv/ek; echo v1 >/srv/ek/conf",
    )
    begun = begin(host, "ek-audit", "ek-none", files={"paths": ["/srv/ek"]})
    assert any("ek-audit.service: it refuses to be stopped by hand" in words for words in begun["left"])
    assert any("ek-none.service: there is no such unit" in words for words in begun["left"])
    host.on(HOST, "echo v2 >/srv/ek/conf")
    result = settle_back(host, begun)
    assert result["outcome"] == "rolled_back" and result["left"] == [], result
    (done,) = [step for step in result["done"] if step["target"] == "ek-audit.service"]
    assert done["action"] == "reload" and "asked, not shown" in done["why"]


@pytest.mark.parametrize(("name", "words"), [("ek@*", "is a pattern"), ("ek@.service", "is a template")])
def test_what_stands_for_other_units_later_on_is_refused(host: Fleet, name: str, words: str) -> None:
    result = host.module(HOST, "ft_checkpoint", name="before", resources=[{"services": {"names": [name]}}])
    assert result["failed"] and words in result["msg"]


def test_a_reload_is_shown_by_the_service_or_called_asked(host: Fleet) -> None:
    result = host.module(HOST, "ft_restart", name="nginx", mode="warm")
    assert "new worker" in " ".join(result["proved"]) and "asked" not in result["said"]
    host.on(
        HOST,
        "systemd-run --unit=ek-port --quiet python3 -m http.server 8443; sleep 2;"
        " echo 'server { listen 8443; }' >/etc/nginx/conf.d/ek.conf",
    )
    result = host.module(HOST, "ft_restart", name="nginx", mode="warm")
    host.on(HOST, "rm /etc/nginx/conf.d/ek.conf; systemctl stop ek-port")
    assert result["failed"] and "keeps its old configuration" in result["msg"] and "8443" in result["msg"]
    host.on(
        HOST,
        f"{service('ek-mute', 'ExecReload=/bin/true' + chr(10))}; systemctl daemon-reload; systemctl start ek-mute",
    )
    result = host.module(HOST, "ft_restart", name="ek-mute", mode="warm")
    assert not result["failed"] and "asked, not shown" in result["said"]
    assert not any("took it" in words for words in result["proved"])


def test_commands_of_others_have_the_hosts_own_environment(host: Fleet) -> None:
    host.on(HOST, "echo LANG=de_DE.UTF-8 >/etc/default/locale; mkdir -p /srv/ek")
    script = "umask >/srv/ek/umask; env >/srv/ek/env; touch /srv/ek/file"
    result = host.module(
        HOST,
        "ft_checkpoint",
        name="before",
        resources=[{"files": {"paths": ["/srv/www"]}}],
        quiesce=[{"command": {"argv": ["sh", "-c", script], "after": ["true"]}}],
    )
    host.on(HOST, "rm /etc/default/locale")
    assert not result["failed"], result
    variables = host.on(HOST, "cat /srv/ek/env")
    assert host.on(HOST, "cat /srv/ek/umask; stat -c %a /srv/ek/file").split() == ["0022", "644"]
    assert "LANG=de_DE.UTF-8" in variables and "HOME=/root" in variables
    assert not [line for line in variables.splitlines() if line.startswith(("PYTHON", "ANSIBLE", "LC_ALL", "SSH_"))]


@pytest.mark.long
def test_a_unit_is_waited_for_as_long_as_it_allows_itself(host: Fleet) -> None:
    more = "ExecStop=/bin/sleep 130\nTimeoutStopSec=300\n"
    host.on(
        HOST,
        f"{service('ek-slow', more)}; systemctl daemon-reload; systemctl start ek-slow; mkdir -p /srv/ek;"
        " echo v1 >/srv/ek/conf",
    )
    begun = begin(host, "ek-slow", files={"paths": ["/srv/ek"]})
    host.on(HOST, "echo v2 >/srv/ek/conf")
    result = settle_back(host, begun)
    assert result["outcome"] == "rolled_back" and result["left"] == [], result
    assert host.on(HOST, "systemctl is-active ek-slow").strip() == "active"
