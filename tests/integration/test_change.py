# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The main job on real hosts: any playbook becomes a transaction over the fleet."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from .conftest import Fleet

GOOD = """
- hosts: site
  gather_facts: false
  tasks:
    - name: Publish version 2
      ansible.builtin.copy: {dest: /srv/www/index.html, content: "<h1>version 2</h1>", mode: "0644"}
    - name: Set a header
      ansible.builtin.copy:
        dest: /etc/nginx/conf.d/header.conf
        content: "add_header X-Version 2;"
        mode: "0644"
      notify: Reload nginx
  handlers:
    - name: Reload nginx
      ansible.builtin.systemd_service: {name: nginx, state: reloaded}
"""
BAD = GOOD.replace("add_header X-Version 2;", "add_header X-Version").replace("state: reloaded", "state: restarted")
SLOW = (
    GOOD
    + """
  post_tasks:
    - name: Take long
      ansible.builtin.command: sleep 8
      changed_when: false
"""
)
QUICK = SLOW.replace("sleep 8", "sleep 1")


def test_a_broken_change_stops_at_the_first_host_and_is_undone(fleet: Fleet) -> None:
    code, result = fleet.change(fleet.playbook("site.yml", BAD), "--waves", "1,100%")
    assert code == 2
    assert [fleet.touched(host) for host in fleet.names] == [True, False, False, False, False]
    assert fleet.differs("web1") == ""
    assert fleet.serves("web1")
    states = {one["host"]: one["state"] for one in result["hosts"]}
    assert states == {"web1": "rolled_back", **dict.fromkeys(fleet.names[1:], "not_begun")}


def test_the_repaired_change_is_confirmed_and_then_changes_nothing(fleet: Fleet) -> None:
    playbook = fleet.playbook("site.yml", GOOD)
    code, result = fleet.change(playbook, "--waves", "1,100%", "--limit", "web1,web2")
    assert code == 0
    assert {one["state"] for one in result["hosts"]} == {"confirmed"} and len(result["hosts"]) == 2
    assert all(
        fleet.serves(host, "version 2") and fleet.state(host)["outcome"] == "confirmed" for host in fleet.names[:2]
    )
    assert all(one["changed"] for one in result["hosts"])
    code, result = fleet.change(playbook, "--limit", "web1")
    assert code == 0 and not any(one["changed"] for one in result["hosts"])


@pytest.mark.long
def test_a_change_that_drops_port_22_is_undone_by_the_hosts_themselves(fleet: Fleet) -> None:
    locked = """
- hosts: site
  gather_facts: false
  tasks:
    - name: Lock everybody out
      ansible.builtin.copy:
        dest: /etc/nftables.conf
        content: |
          flush ruleset
          table inet filter {
            chain input {
              type filter hook input priority 0;
              tcp dport 22 drop;
            }
          }
        mode: "0755"
    - name: Load it
      ansible.builtin.systemd_service: {name: nftables, state: reloaded}
    - name: Go on
      ansible.builtin.command: uptime
      changed_when: false
"""
    began = time.time()
    code, result = fleet.change(fleet.playbook("site.yml", locked), "--waves", "2", "--confirm-within", "30s")
    ended = time.time()
    assert code == 2
    touched = ["web1", "web2"]
    for host in touched:
        event = fleet.state(host)
        assert (event["outcome"], event["by"]) == ("rolled_back", "deadline")
        (mine,) = [one for one in result["hosts"] if one["host"] == host]
        assert mine["state"] == "rolled_back" and mine["by"] == "deadline"
        assert event["at"] <= mine["until"] + 10
        assert fleet.differs(host) == "" and fleet.serves(host)
        assert "dport 22" not in fleet.on(host, "nft list ruleset")
        assert ended <= event["at"] + 30, f"the run ended {ended - event['at']:.0f} s after the host was back"
    assert ended - began < 30 + 60
    assert not any(fleet.touched(host) for host in fleet.names[2:])


@pytest.mark.long
def test_a_change_that_breaks_sshd_is_undone(fleet: Fleet) -> None:
    broken = """
- hosts: site
  gather_facts: false
  tasks:
    - name: Break sshd
      ansible.builtin.copy: {dest: /etc/ssh/sshd_config.d/broken.conf, content: "Port none\\n", mode: "0644"}
    - name: Stop it, with every connection that it holds
      ansible.builtin.shell: "systemctl restart ssh; pkill -KILL sshd"
      changed_when: true
"""
    code, result = fleet.change(fleet.playbook("site.yml", broken), "--waves", "1", "--confirm-within", "40s")
    assert code == 2
    assert fleet.state("web1")["by"] == "deadline"
    assert fleet.differs("web1") == ""
    assert "web1" in result["reason"]
    assert fleet.lab.ssh("web1", ["true"]).returncode == 0


# Each takes a minute. A kill of a change over all its hosts (test_whole_change.py) is in make test.
@pytest.mark.long
@pytest.mark.parametrize("moment", range(10))
def test_kill_9_leaves_every_host_confirmed_or_rolled_back(fleet: Fleet, moment: int) -> None:
    """The driver of one change is killed, and Ansible alone of another at the same moment, each on two hosts."""
    teams = {"driver": ["web1", "web2"], "ansible": ["web3", "web4"]}
    running = {}
    for victim, team in teams.items():
        fleet.playbook(f"{victim}.yml", QUICK.replace("hosts: site", f"hosts: {':'.join(team)}"))
        words = ["-i", "inventory", "--waves", "1,100%", "--confirm-within", "15s"]
        running[victim] = fleet.start("change", f"{victim}.yml", *words)
    # From the first moments of the first wave into the second one.
    time.sleep(2 + 1.7 * moment)
    running["driver"].kill()
    for one in psutil.Process(running["ansible"].pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("ansible-playbook" in word for word in one.cmdline()):
                one.kill()
    for process in running.values():
        print(process.communicate(timeout=120)[0])
    # A module that had been started on a host still ends there, and may arm it.
    time.sleep(3)
    for team in teams.values():
        assert all(fleet.disarmed(host) for host in team)
    assert not _left_running(fleet.home)
    for host in (host for team in teams.values() for host in team):
        event = fleet.state(host)
        if not event or event["outcome"] == "rolled_back":
            assert fleet.differs(host) == "", host
            assert fleet.serves(host), host
        else:
            assert event["outcome"] == "confirmed" and fleet.serves(host, "version 2"), host
    words = ["--waves", "100%", "--limit", ",".join(host for team in teams.values() for host in team)]
    code, result = fleet.change(fleet.playbook("all.yml", GOOD), *words)
    assert code == 0, result["reason"]
    assert len(result["hosts"]) == 4 and all(fleet.serves(host, "version 2") for host in teams["ansible"])


def _left_running(home: Path) -> list[str]:
    """Command lines of Ansible's that still work in this directory."""
    found = []
    for one in psutil.process_iter(["cmdline", "cwd"]):
        if one.info["cwd"] == str(home) and any("ansible" in word for word in one.info["cmdline"] or []):
            found.append(" ".join(one.info["cmdline"]))
    return found


def test_a_reboot_in_the_middle_is_a_rollback(fleet: Fleet) -> None:
    process = fleet.start("change", fleet.playbook("site.yml", SLOW), "-i", "inventory", "--waves", "1")
    assert fleet.eventually(lambda: fleet.serves("web1", "version 2"), 90)
    fleet.lab.reboot("web1")
    out, _ = process.communicate(timeout=120)
    print(out)
    assert process.returncode == 2
    assert fleet.state("web1")["by"] == "boot"
    assert fleet.differs("web1") == "" and fleet.eventually(lambda: fleet.serves("web1"), 10)


@pytest.mark.parametrize("when", ["before", pytest.param("in the middle", marks=pytest.mark.long)])
def test_an_unreachable_host_stops_the_later_waves(fleet: Fleet, when: str) -> None:
    try:
        if when == "before":
            fleet.lab.disconnect("web2")
            code, _result = fleet.change(fleet.playbook("site.yml", GOOD), "--waves", "2,2,2")
        else:
            process = fleet.start(
                *("change", fleet.playbook("site.yml", SLOW), "-i", "inventory", "--waves", "2,2,2"),
                *("--confirm-within", "45s"),
            )
            assert fleet.eventually(lambda: fleet.serves("web2", "version 2"), 90)
            fleet.lab.disconnect("web2")
            out, _ = process.communicate(timeout=120)
            print(out)
            code = process.returncode
    finally:
        fleet.lab.connect("web2")
    assert code != 0
    assert not any(fleet.touched(host) and fleet.state(host).get("outcome") == "confirmed" for host in fleet.names[2:])
    assert not any(fleet.touched(host) for host in fleet.names[2:])
    assert fleet.eventually(lambda: not fleet.armed("web2"), 40)
    assert fleet.differs("web2") == ""


@pytest.mark.parametrize(
    ("playbook", "words", "code"),
    [
        (GOOD.replace("hosts: site", "hosts: nobody"), [], 1),
        (GOOD, ["--limit", "wbe1"], 1),
        (GOOD.replace("hosts: site", "hosts: site:&none"), [], 1),
        (GOOD.replace("tasks:", "taks:"), [], 1),
        (GOOD, ["--waves", "0"], 1),
        (GOOD, ["--waves", "150%"], 1),
    ],
)
def test_what_is_no_success_never_exits_0(fleet: Fleet, playbook: str, words: list[str], code: int) -> None:
    found, result = fleet.change(fleet.playbook("site.yml", playbook), *words)
    assert found == code
    assert result["reason"]
    if code == 1:
        assert not any(fleet.touched(host) for host in fleet.names)


@pytest.mark.long
def test_two_changes_at_once_on_one_host(fleet: Fleet) -> None:
    first = fleet.start("change", fleet.playbook("slow.yml", SLOW), "-i", "inventory", "--limit", "web1")
    assert fleet.eventually(lambda: fleet.armed("web1"), 90)
    code, result = fleet.change(fleet.playbook("site.yml", GOOD), "--limit", "web1")
    assert code == 3
    assert ("web1" in result["reason"] and "flight" in result["reason"]) or "under way" in result["reason"]
    out, _ = first.communicate(timeout=120)
    print(out)
    assert first.returncode == 0


def test_ctrl_c_rolls_back_what_is_in_flight_and_says_so(fleet: Fleet) -> None:
    process = fleet.start("change", fleet.playbook("site.yml", SLOW), "-i", "inventory", "--waves", "1")
    assert fleet.eventually(lambda: fleet.serves("web1", "version 2"), 90)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    print(out)
    assert process.returncode == 2
    assert "rolled back" in out and "web1" in out
    assert fleet.differs("web1") == "" and fleet.serves("web1")
    assert not fleet.touched("web2")


def test_no_secret_of_the_user_outlives_the_run(fleet: Fleet) -> None:
    """Neither in a file of the driver's on this machine, nor in what the hosts log or remember."""
    marker = f"secret-marker-{os.getpid()}"
    (fleet.home / "secret.yml").write_text(f"token: {marker}\n")
    playbook = fleet.playbook("site.yml", GOOD.replace("version 2", "version 2{{ token[:0] }}"))
    code, _ = fleet.change(playbook, "--waves", "100%", "-e", "@secret.yml", "-e", f"more={marker}", "--limit", "web1")
    assert code == 0
    places = [path for place in ("/dev/shm", "/tmp") for path in Path(place).glob("evenkeel*")]
    for path in (found for place in places for found in place.rglob("*") if found.is_file()):
        assert marker.encode() not in path.read_bytes(), path
    assert marker not in fleet.on("web1", "cat /var/lib/evenkeel/events; journalctl --no-pager | tail -200")
