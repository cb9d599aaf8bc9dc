# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a change does to systemd, to Python and to the dead-man itself: the host puts itself back at its deadline,
never earlier, and once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Fleet, _exec

WITHIN = 20
# R3: the deadline holds within this many seconds.
LATE = 10.0
# The same where all the other tests run beside this one, and a Python takes seconds to start.
BUSY = 40.0
_AGENT = "pgrep -f '[e]venkeel-[0-9a-f]*[.]pyz.*deadline --gen' | head -n 1"
_WATCHER = "pkill -9 -f '[e]venkeel-[0-9a-f]*[.]pyz.*watch --gen'"
_UNITS = "/etc/systemd/system/evenkeel* /run/systemd/system/evenkeel*"
# As soon as the agent is at work.
_AT_WORK = f"""n=0; while [ $n -lt 1500 ]; do
p=$({_AGENT}); [ -n "$p" ] && {{ kill -%s $p; break; }}; n=$((n+1)); sleep 0.03; done"""
_ISOLATE = "systemctl isolate multi-user.target"
_REMOVE = f"rm -rf {_UNITS} /etc/systemd/system/*.timer; systemctl daemon-reload"
# name -> what a change does in the window, in words of a shell.
ATTACKS = {
    "nothing": "true",
    "timers stopped": "systemctl stop '*.timer'; systemctl stop 'evenkeel*'",
    "units removed": _REMOVE,
    "units removed, and another target": f"{_REMOVE}; {_ISOLATE}",
    "units masked": "systemctl mask --now evenkeel-deadman.timer evenkeel-deadman.service evenkeel-watch.timer",
    "another target": _ISOLATE,
    "rescue": "systemctl --no-block isolate rescue.target",
    "reloads": "for i in $(seq 10); do systemctl daemon-reload; sleep 2; done",
    "re-execs": "for i in $(seq 10); do systemctl daemon-reexec; sleep 2; done",
    "upgrades": """
        for one in /lib/systemd/systemd $(readlink -f /usr/bin/python3); do cp $one $one.new; mv $one.new $one; done
        cp -a /usr/lib/python3 /root/python3.new; rm -rf /usr/lib/python3; mv /root/python3.new /usr/lib/python3
        systemctl daemon-reexec""",
    "Python moved away": """
        mkdir -p /root/away/lib; mv /usr/bin/python3* /root/away; mv /usr/lib/python3* /root/away/lib""",
    "an environment for all units": """
        mkdir -p /etc/systemd/system/service.d /etc/systemd/system/timer.d; cd /etc/systemd/system
        printf '[Service]\\nEnvironment=PYTHONHOME=/nowhere LD_PRELOAD=/nowhere.so\\n' >service.d/a.conf
        printf '[Service]\\nUser=nobody\\nProtectSystem=strict\\nExecStartPre=false\\n' >service.d/b.conf
        printf '[Timer]\\nRandomizedDelaySec=1h\\nAccuracySec=1h\\n' >timer.d/a.conf
        systemctl set-environment PYTHONHOME=/nowhere PYTHONPATH=/nowhere PATH=/nowhere
        systemctl daemon-reload; """
    + _WATCHER,
    "the agent killed": _AT_WORK % "KILL",
    "the agent stopped": _AT_WORK % "STOP",
    "the watcher killed": _WATCHER,
    "the watcher stopped": _WATCHER.replace("-9", "-STOP"),
}
# What of these the host has to be freed from after the test.
_FREE = """
mv /root/away/lib/* /usr/lib/ 2>/dev/null; mv /root/away/python3* /usr/bin/ 2>/dev/null
rm -rf /etc/systemd/system/service.d /etc/systemd/system/timer.d; rm -f /etc/systemd/system/evenkeel*
systemctl unset-environment PYTHONHOME PYTHONPATH PATH; systemctl daemon-reload; systemctl start default.target
"""
# One on each of five hosts, in make test; those with the most to them.
QUICK = ["units removed, and another target", "reloads", "Python moved away", "an environment for all units", "rescue"]


def strike(fleet: Fleet, attacks: list[str], limit: float = LATE) -> None:
    """Arm a host for each of these, let a change attack it there at once, and judge how each has come back."""
    hosts = dict(zip(fleet.names, attacks, strict=False))
    running = []
    for host, attack in hosts.items():
        script = (
            "while [ ! -e /var/lib/evenkeel/armed ]; do sleep 0.05; done; cp /var/lib/evenkeel/armed /root/armed; "
            f"echo changed >/srv/www/index.html; {ATTACKS[attack]}"
        )
        argv = [*_exec(fleet.lab, host), "sh", "-c", script]
        running.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        arm(fleet, list(hosts))
        for host in hosts:
            fleet.disarmed(host, WITHIN + 40)
        for process in running:
            process.wait(timeout=60)
        time.sleep(3)  # Whoever would act once more does so now.
        for host in hosts:
            fleet.on(host, _FREE, check=False)
        for host, attack in hosts.items():
            judge(fleet, host, attack, limit)
    finally:
        for process in running:
            process.kill()


def arm(fleet: Fleet, hosts: list[str]) -> None:
    arguments = {
        "name": "attacked",
        "resources": [{"files": {"paths": ["/srv/www"]}}],
        "confirm_within": f"{WITHIN}s",
    }
    argv = [str(Path(sys.executable).with_name("ansible")), ":".join(hosts), "-i", "inventory"]
    argv += ["-m", "evenkeel.fault_tolerance.ft_checkpoint", "-a", json.dumps(arguments)]
    # A change may cut the connection of its own task; what counts is that the host was armed.
    subprocess.run(argv, cwd=fleet.home, env=fleet.environment(), capture_output=True, check=False, timeout=180)


def judge(fleet: Fleet, host: str, attack: str, limit: float) -> None:
    armed = json.loads(fleet.on(host, "cat /root/armed"))
    events = [json.loads(line) for line in fleet.on(host, "cat /var/lib/evenkeel/events", check=False).splitlines()]
    late = events[0]["at"] - armed["until"] if events else float("inf")
    print(f"{host}, {attack}: put back {late:+.1f} s after its deadline, {len(events)} times")
    assert [event["outcome"] for event in events] == ["rolled_back"], attack
    assert -0.5 < late < limit, f"{attack}: {late:+.1f} s"
    assert fleet.differs(host) == "", attack
    assert len(fleet.on(host, "cat /var/lib/evenkeel/refs/undo").split()) == 1, f"{attack}: went back twice"


def test_nothing_that_a_change_does_moves_the_deadline(fleet: Fleet) -> None:
    strike(fleet, QUICK, BUSY)


@pytest.mark.long
@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("first", range(0, len(ATTACKS), 5))
def test_the_deadline_holds_against_each_of_them(fleet: Fleet, first: int, turn: int) -> None:
    strike(fleet, list(ATTACKS)[first : first + 5])


@pytest.mark.long
def test_what_ansible_left_running_ends_before_the_host_goes_back(fleet: Fleet) -> None:
    """A job in the background writes to what is protected, long after the change was undone."""
    late = """
- hosts: web1
  gather_facts: false
  tasks:
    - ansible.builtin.shell: sleep 15; echo late >/srv/www/index.html
      async: 300
      poll: 0
    - ansible.builtin.command: "false"
"""
    code, result = fleet.change(fleet.playbook("site.yml", late), "--limit", "web1")
    assert code == 2
    assert "sleep 15" not in fleet.on("web1", "ps -eo args")
    time.sleep(16)
    assert fleet.differs("web1") == "", result
