# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restarts that a real host owes: a library that a change replaced is named until its service was restarted."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .conftest import Fleet

HOST = "web1"
LIBRARY = "/usr/local/lib/libek-owed.so"
UNIT = "ek-owed.service"
# A service in a sandbox of its own, as most services have it.
INSTALL = f"""
set -e
cp "$(ls /usr/lib/*/libgpg-error.so.0)" {LIBRARY}
cat > /etc/systemd/system/{UNIT} <<'END'
[Service]
Type=exec
PrivateTmp=yes
ExecStart=/usr/bin/python3 -c "import ctypes, signal; ctypes.CDLL('{LIBRARY}'); open('/tmp/ready', 'w'); signal.pause()"
END
systemctl daemon-reload
systemctl restart {UNIT}
"""
CLEAR = f"systemctl stop {UNIT}; rm -f {LIBRARY} /etc/systemd/system/{UNIT}; systemctl daemon-reload"
# The handler of the task is lost, as with a run that fails before its handlers.
UPGRADE = f"""
- hosts: {HOST}
  gather_facts: false
  tasks:
    - name: Replace the library by another file
      ansible.builtin.shell: cp {LIBRARY} {LIBRARY}.new && mv {LIBRARY}.new {LIBRARY}
"""


@pytest.fixture
def host(fleet: Fleet) -> Iterator[Fleet]:
    fleet.on(HOST, INSTALL)
    assert fleet.eventually(lambda: LIBRARY in fleet.on(HOST, f"cat /proc/{main(fleet)}/maps"), 10)
    yield fleet
    fleet.on(HOST, CLEAR)


def main(fleet: Fleet) -> str:
    return fleet.on(HOST, f"systemctl show --property=MainPID --value {UNIT}").strip()


def test_a_library_that_a_change_replaced_is_owed_until_its_service_was_restarted(host: Fleet) -> None:
    pid = main(host)
    upgrade = host.playbook("upgrade.yml", UPGRADE)
    code, said = host.evenkeel("change", upgrade, "-i", "inventory", "--limit", HOST, "--soak", "0s")
    assert code == 0 and f"owed a restart: {UNIT} ({LIBRARY})" in " ".join(said.split())
    assert f"evenkeel restart -i inventory --limit {HOST} --owed" in said
    status = host.evenkeel("status", "-i", "inventory", "--limit", HOST, "--json")[1]
    told = json.loads(status[status.index("{\n") :])
    (found,) = [one for one in told["hosts"][HOST]["owed"] if one["unit"] == UNIT]
    assert found == {"level": "service", "unit": UNIT, "why": [LIBRARY], "processes": [f"python3[{pid}]"]}
    assert f"owed a restart: {UNIT}" in host.on(HOST, "evenkeel-host status")
    code, said = host.evenkeel("restart", "--owed", "-i", "inventory", "--limit", HOST)
    assert code == 0 and f"restart {UNIT}" in said
    assert host.eventually(lambda: LIBRARY in host.on(HOST, f"cat /proc/{main(host)}/maps"), 10)
    assert UNIT not in host.on(HOST, "evenkeel-host status")
