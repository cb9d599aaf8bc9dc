# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change is one thing over all its hosts: all keep it or none, whatever fails, and whoever is killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from .conftest import Fleet
from .test_change import GOOD

FAILS = """
    - name: Fail on the last host
      ansible.builtin.command: "false"
      when: inventory_hostname == bad | default('web3')
  handlers:"""
BAD = GOOD.replace("\n  handlers:", FAILS)
LONG = GOOD + "  post_tasks:\n    - {name: Take long, ansible.builtin.command: sleep 32, changed_when: false}\n"
TEAM = ("web1", "web2", "web3")
ALL = ("--on-failure", "all", "--limit", ",".join(TEAM), "--waves", "1,100%")


def states(result: Mapping[str, Any]) -> dict[str, str]:
    return {one["host"]: one["state"] for one in result["hosts"]}


def unchanged(fleet: Fleet) -> None:
    for host in TEAM:
        assert fleet.differs(host) == "" and fleet.serves(host), host


def test_a_failure_on_the_last_host_leaves_no_host_changed(fleet: Fleet) -> None:
    code, result = fleet.change(fleet.playbook("site.yml", BAD), *ALL)
    assert code == 2 and set(states(result).values()) == {"rolled_back"}
    assert all(fleet.touched(host) for host in TEAM), "every wave had begun"
    unchanged(fleet)
    assert "went back with the others: web3: failed in 'Fail on the last host'" in result["hosts"][0]["why"]

    code, result = fleet.change(fleet.playbook("site.yml", GOOD), *ALL)
    assert code == 0 and set(states(result).values()) == {"confirmed"}
    assert all(fleet.serves(host, "version 2") and not fleet.armed(host) for host in TEAM)
    assert len({fleet.state(host)["change"] for host in TEAM}) == 1


@pytest.mark.long
def test_the_wave_that_failed_goes_back_together_and_waves_before_keep_the_change(fleet: Fleet) -> None:
    words = ["--on-failure", "wave", "--waves", "1,2,2", "-e", "bad=web3"]
    code, result = fleet.change(fleet.playbook("site.yml", BAD), *words)
    assert code == 5
    assert states(result) == {
        "web1": "confirmed",
        **dict.fromkeys(("web2", "web3"), "rolled_back"),
        **dict.fromkeys(("web4", "web5"), "not_begun"),
    }
    assert all(fleet.differs(host) == "" for host in fleet.names[1:]) and fleet.serves("web1", "version 2")


@pytest.mark.long
def test_a_host_that_dies_while_it_is_held_takes_the_change_back_from_all(fleet: Fleet) -> None:
    playbook = fleet.playbook("site.yml", GOOD)
    running = fleet.start("change", playbook, "-i", "inventory", *ALL, "--pause", "40s")
    assert fleet.eventually(lambda: '"held"' in fleet.on("web1", "cat /var/lib/evenkeel/armed", check=False), 120)
    fleet.on("web1", "systemctl stop nginx")
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 2, out
    assert "web1 became unhealthy after it was held" in out and not fleet.touched("web2")
    fleet.on("web1", "systemctl start nginx")
    unchanged(fleet)


@pytest.mark.long
def test_a_host_that_cannot_go_back_is_named_and_stops_no_other(fleet: Fleet) -> None:
    running = fleet.start(
        "change", fleet.playbook("site.yml", BAD), "-i", "inventory", *ALL, "-e", "bad=web3", "--confirm-within", "60s"
    )
    assert fleet.eventually(lambda: '"held"' in fleet.on("web1", "cat /var/lib/evenkeel/armed", check=False), 120)
    fleet.on("web1", "find /var/lib/evenkeel/packs /var/lib/evenkeel/objects -type f -delete")
    out, _ = running.communicate(timeout=180)
    assert running.returncode == 4, out
    assert all(fleet.differs(host) == "" for host in TEAM[1:])
    assert "web1" in out and "in doubt" in out


@pytest.mark.long
def test_a_playbook_longer_than_the_time_to_confirm_is_confirmed(fleet: Fleet) -> None:
    playbook = fleet.playbook("site.yml", LONG)
    code, result = fleet.change(playbook, "--limit", "web1", "--confirm-within", "25s")
    assert code == 0, result
    # Never beyond the cap, and back within one time to confirm after the driver was killed.
    code, result = fleet.change(playbook, "--limit", "web2", "--confirm-within", "20s", "--at-most", "30s")
    assert code == 2 and fleet.differs("web2") == "" and "did not end within the time to confirm" in str(result)
    running = fleet.start("change", playbook, "-i", "inventory", "--limit", "web3", "--confirm-within", "16s")
    assert fleet.eventually(lambda: "extended" in extensions(fleet, "web3"), 60)
    running.kill()
    killed = time.monotonic()
    assert fleet.disarmed("web3", 16 + 10)
    assert time.monotonic() - killed < 16 + 10 and fleet.differs("web3") == ""


def extensions(fleet: Fleet, host: str) -> str:
    """Whether the deadline of a host was moved: its record says when it was armed, and when it is due."""
    record = "import json; a = json.load(open('/var/lib/evenkeel/armed')); print(a['due'] - a['began'] - a['within'])"
    moved = fleet.on(host, f'python3 -c "{record}"', check=False).strip()
    return "extended" if moved and float(moved) > 1 else ""


@pytest.mark.long
@pytest.mark.parametrize("answer", ["confirm", "abort"])
def test_a_change_waits_for_a_person(fleet: Fleet, answer: str) -> None:
    playbook = fleet.playbook("site.yml", GOOD)
    words = ["-i", "inventory", *ALL, "--hold-after", "1", "--confirm-within", "30s"]
    running = fleet.start("change", playbook, *words)
    assert fleet.eventually(lambda: '"held"' in fleet.on("web1", "cat /var/lib/evenkeel/armed", check=False), 120)
    time.sleep(20)  # longer than it takes to begin the next wave, and than half of the time to confirm
    assert fleet.armed("web1") and not fleet.touched("web2")
    code, out = fleet.evenkeel(answer, "-i", "inventory")
    told, _ = running.communicate(timeout=180)
    if answer == "confirm":
        assert code == 0 and running.returncode == 0, out + told
        assert all(fleet.serves(host, "version 2") for host in TEAM)
    else:
        assert code == 2 and running.returncode == 2, out + told
        assert "waits no more" in told
        unchanged(fleet)


BOOTS = (
    GOOD
    + """
  post_tasks:
    - name: Boot the host
      ansible.builtin.reboot:
        reboot_timeout: 120
        boot_time_command: "cut -d ' ' -f 22 /proc/1/stat"  # true in a container as well
    - name: Go on
      ansible.builtin.copy: {dest: /srv/www/after.html, content: "after", mode: "0644"}
"""
)


def test_a_planned_boot_is_part_of_the_change(fleet: Fleet) -> None:
    words = ["--limit", "web1", "--reboot", "planned", "--confirm-within", "2m"]
    code, result = fleet.change(fleet.playbook("site.yml", BOOTS), *words)
    assert code == 0, result
    assert fleet.serves("web1", "version 2") and fleet.on("web1", "cat /srv/www/after.html") == "after"
    assert fleet.state("web1")["outcome"] == "confirmed"


@pytest.mark.long
def test_a_planned_boot_after_which_nobody_gets_in_is_a_rollback(fleet: Fleet) -> None:
    """The controller is killed during the boot: the host waits on for its confirmation, and goes back in time."""
    playbook = fleet.playbook("site.yml", BOOTS)
    words = ["--limit", "web1", "--reboot", "planned", "--confirm-within", "45s"]
    running = fleet.start("change", playbook, "-i", "inventory", *words)
    before = fleet.on("web1", "cut -d ' ' -f 22 /proc/1/stat")
    assert fleet.eventually(lambda: fleet.serves("web1", "version 2"), 60)
    assert fleet.eventually(
        lambda: fleet.on("web1", "cut -d ' ' -f 22 /proc/1/stat", check=False) not in ("", before), 60
    )
    running.kill()
    fleet.lab.booted("web1")
    assert fleet.armed("web1") and fleet.serves("web1", "version 2")
    assert fleet.disarmed("web1", 60)
    assert fleet.state("web1")["by"] == "deadline" and fleet.differs("web1") == ""
    assert fleet.eventually(lambda: fleet.serves("web1"), 10)


@pytest.mark.long
def test_a_host_that_is_sick_after_a_planned_boot_goes_back_long_before_its_deadline(fleet: Fleet) -> None:
    """The controller is killed during the boot: the host sees by itself that nginx does not serve any more."""
    sick = BOOTS.replace("  post_tasks:\n", "  post_tasks:\n    - command: systemctl disable nginx\n", 1)
    words = ["--limit", "web1", "--reboot", "planned", "--confirm-within", "10m"]
    running = fleet.start("change", fleet.playbook("site.yml", sick), "-i", "inventory", *words)
    before = fleet.on("web1", "cut -d ' ' -f 22 /proc/1/stat")
    assert fleet.eventually(
        lambda: fleet.on("web1", "cut -d ' ' -f 22 /proc/1/stat", check=False) not in ("", before), 120
    )
    running.kill()
    assert fleet.disarmed("web1", 150)
    assert fleet.state("web1")["by"] == "health" and fleet.differs("web1") == ""
    assert fleet.eventually(lambda: fleet.serves("web1"), 10)


# The moments of a change over five hosts at which its driver is killed, in seconds; most in make test-long.
MOMENTS = [pytest.param(3 * n + 2, marks=() if n == 6 else pytest.mark.long) for n in range(20)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_before_the_decision_leaves_no_host_changed(fleet: Fleet, moment: int) -> None:
    playbook = fleet.playbook("site.yml", GOOD)
    running = fleet.start("change", playbook, "-i", "inventory", *ALL, "--bake", "300s", "--confirm-within", "20s")
    time.sleep(moment)
    running.kill()
    running.communicate(timeout=60)
    time.sleep(3)
    assert all(fleet.disarmed(host, 40) for host in TEAM)
    unchanged(fleet)
    nothing_waits(fleet)


def decided(fleet: Fleet) -> Callable[[], bool]:
    """Whether every host has been told that all are to keep the change."""
    told = "grep -qs -e decided -e confirmed /var/lib/evenkeel/armed /var/lib/evenkeel/events && echo yes"
    return lambda: all(fleet.on(host, told, check=False) for host in TEAM)


def killed_in_the_last_step(fleet: Fleet, within: str, seconds: float = 0.0) -> None:
    """The driver is killed so many seconds after the last host was told that all are to keep the change."""
    running = fleet.start(
        "change", fleet.playbook("site.yml", GOOD), "-i", "inventory", *ALL, "--confirm-within", within
    )
    assert fleet.eventually(decided(fleet), 240)
    time.sleep(seconds)
    running.kill()
    running.communicate(timeout=60)
    time.sleep(2)  # A module that had been started on a host still ends there.


def nothing_waits(fleet: Fleet) -> None:
    code, out = fleet.evenkeel("resume", "-i", "inventory")
    assert code == 0 and "no change waits" in out


LAST_MOMENTS = [pytest.param(n / 2, marks=() if n == 0 else pytest.mark.long) for n in range(10)]


@pytest.mark.long
@pytest.mark.parametrize("seconds", LAST_MOMENTS)
def test_a_kill_in_the_last_step_is_resumed_and_all_hosts_keep_the_change(fleet: Fleet, seconds: float) -> None:
    killed_in_the_last_step(fleet, "2m", seconds)
    code, out = fleet.evenkeel("resume", "-i", "inventory")
    assert code == 0, out
    assert all(fleet.serves(host, "version 2") and not fleet.armed(host) for host in TEAM)
    nothing_waits(fleet)


@pytest.mark.long
def test_a_split_that_a_kill_left_is_taken_back_once_a_host_has_gone_back(fleet: Fleet) -> None:
    killed_in_the_last_step(fleet, "30s")
    probes = [{"http": {"url": "http://localhost/", "status": 200}}]
    fleet.module("web1", "ft_settle", generation=1, probes=probes)  # as the killed run was about to
    assert fleet.state("web1").get("outcome") == "confirmed"
    assert all(fleet.disarmed(host, 60) for host in TEAM)
    assert fleet.serves("web1", "version 2"), "a split that no host can see"
    code, out = fleet.evenkeel("resume", "-i", "inventory")
    if code != 2:  # the killed run had confirmed all of them
        assert code == 0 and all(fleet.serves(host, "version 2") for host in TEAM)
        pytest.skip("the run was killed too late")
    assert "did not keep it" in out
    unchanged(fleet)
    nothing_waits(fleet)
