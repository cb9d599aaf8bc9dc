# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A person on a real host, with evenkeel-host and no controller."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from .conftest import Fleet

HOST = "web1"
CHANGED = "echo changed >/srv/www/index.html"
# R3: a host is back within this many seconds of its deadline; here beside all other tests.
LATE = 30.0


class Terminal:
    """A login over SSH with a terminal, as a person has it."""

    def __init__(self, fleet: Fleet, command: str, *options: str) -> None:
        argv = ["ssh", "-tt", "-F", str(fleet.lab.ssh_config), *options, "-l", "root", HOST, command]
        self.near, far = os.openpty()
        env = dict(os.environ, TERM="xterm")
        self.process = subprocess.Popen(argv, stdin=far, stdout=far, stderr=far, start_new_session=True, env=env)
        os.close(far)
        self.out = ""

    def sees(self, words: str, seconds: float = 30.0) -> str:
        end = time.monotonic() + seconds
        while words not in self.out and time.monotonic() < end:
            if select.select([self.near], [], [], 0.2)[0]:
                try:
                    self.out += os.read(self.near, 4096).decode(errors="replace")
                except OSError:
                    break
        assert words in self.out, self.out
        return self.out

    def types(self, line: str) -> None:
        os.write(self.near, line.encode())

    def lose(self) -> None:
        """The connection is closed, without a word."""
        self.process.kill()
        self.process.wait()

    def ends(self, seconds: float = 60.0) -> int:
        return self.process.wait(seconds)


@pytest.fixture
def host(fleet: Fleet) -> Fleet:
    """A host that a change has declared something on, and then confirmed."""
    spec = "name=before resources=[{files: {paths: [/srv/www, /usr/local]}}]"
    begun = fleet.module(HOST, "ft_checkpoint", name="before", confirm_within="5m", resources=_RESOURCES)
    assert begun["generation"] == 1, spec
    assert "goes back in" in fleet.on(HOST, "evenkeel-host status")
    new = fleet.lab.ssh(HOST, ["evenkeel-host", "confirm"])
    assert "Confirmed: before (generation 1) stays" in new.stdout
    return fleet


_RESOURCES = [{"files": {"paths": ["/srv/www", "/usr/local"]}}, {"services": {"names": ["nginx"]}}]


@pytest.fixture
def tried(host: Fleet) -> Iterator[Callable[..., Terminal]]:
    started = []

    def start(*words: str, options: tuple[str, ...] = ()) -> Terminal:
        one = Terminal(host, " ".join(["evenkeel-host try", *words]), *options)
        started.append(one)
        one.sees("Ctrl-C or a lost terminal")
        host.on(HOST, f"{CHANGED}; systemctl stop nginx; rm /usr/local/sbin/evenkeel-host")
        return one

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        os.close(one.near)


def came_back(fleet: Fleet, by: str, seconds: float = LATE) -> None:
    assert fleet.disarmed(HOST, seconds)
    event = fleet.state(HOST)
    assert (event["outcome"], event["by"]) == ("rolled_back", by)
    assert fleet.differs(HOST) == "" and fleet.serves(HOST)
    assert "No change is under way" in fleet.on(HOST, "evenkeel-host status"), "the command is back as well"


def test_it_is_kept_by_confirm_over_a_new_login(host: Fleet, tried: Callable[..., Terminal]) -> None:
    one = tried("10m")
    assert "files, services" in one.out
    host.on(HOST, "install -m 755 /dev/stdin /usr/local/sbin/mine <<'E'\n#!/bin/sh\nE")
    one.types("confirm\r")
    one.sees("this login is older than the change")
    host.on(HOST, "cp /var/lib/evenkeel/agent/*.pyz /root/host.pyz")
    new = host.lab.ssh(HOST, ["python3", "-I", "/root/host.pyz", "host", "confirm"])
    assert "Confirmed: try" in new.stdout
    assert one.ends() == 0 and "was confirmed by hand" in one.sees("was confirmed by hand")
    assert host.state(HOST)["outcome"] == "confirmed" and "changed" in host.on(HOST, "cat /srv/www/index.html")


def test_who_is_logged_in_hears_of_it(host: Fleet, tried: Callable[..., Terminal]) -> None:
    other = Terminal(host, "sleep 100")
    time.sleep(2)
    one = tried("10m")
    words = "a change is under way on this host, try"
    other.sees(words)
    assert words in host.on(HOST, "cat /run/motd.d/evenkeel; journalctl -t evenkeel -o cat -n 1")
    late = Terminal(host, "")
    late.sees(words)
    one.types("rollback\r")
    other.sees("the change try was rolled back")
    assert "rolled back" in host.on(HOST, "cat /run/motd.d/evenkeel; journalctl -t evenkeel -o cat -n 1")
    for terminal in (other, late):
        terminal.lose()


def test_it_comes_back_by_doing_nothing(host: Fleet, tried: Callable[..., Terminal]) -> None:
    one = tried("10s")
    one.sees("its time to confirm is over", 60)
    came_back(host, "deadline")
    assert one.ends() == 2


@pytest.mark.parametrize(
    "how", ["connection", *(pytest.param(how, marks=pytest.mark.long) for how in ("SIGHUP", "Ctrl-C")), "killed"]
)
def test_it_comes_back_with_a_lost_terminal(host: Fleet, tried: Callable[..., Terminal], how: str) -> None:
    one = tried("20s" if how == "killed" else "10m")
    if how == "connection":
        one.lose()
    elif how == "Ctrl-C":
        one.types("\x03")
    else:
        host.on(HOST, f"pkill {'-HUP' if how == 'SIGHUP' else '-KILL'} -f '[e]venkeel-.*host --store .* try'")
    came_back(host, "deadline" if how == "killed" else "operator", 60)
    if how == "Ctrl-C":
        assert one.ends() == 2 and "Rolled back to try" in one.sees("Rolled back to try")


def test_it_comes_back_by_a_boot(host: Fleet, tried: Callable[..., Terminal]) -> None:
    tried("10m")
    host.lab.reboot(HOST)
    assert host.eventually(lambda: host.serves(HOST), 60)
    came_back(host, "boot")


def test_a_shared_connection_that_lay_open_confirms_nothing(host: Fleet, tried: Callable[..., Terminal]) -> None:
    master = ("-o", f"ControlPath={host.home}/master", "-o", "ControlMaster=auto", "-o", "ControlPersist=60")
    one = tried("10m", options=master)
    argv = ["ssh", "-F", str(host.lab.ssh_config), *master, "-l", "root", HOST]
    host.on(HOST, "cp /var/lib/evenkeel/agent/*.pyz /root/host.pyz")
    shared = subprocess.run([*argv, "python3 -I /root/host.pyz host confirm"], capture_output=True, text=True)
    assert shared.returncode == 3 and "is older than the change" in shared.stderr
    one.types("rollback\r")
    assert one.ends() == 2
    came_back(host, "operator")
    subprocess.run([*argv, "-O", "exit"], capture_output=True, check=False)


def test_a_rollback_on_the_host_has_to_be_confirmed(host: Fleet) -> None:
    host.on(HOST, f"{CHANGED}; systemctl stop nginx")
    done = host.lab.ssh(HOST, ["evenkeel-host", "rollback", "before", "--confirm-within", "10s"])
    assert "undone in 10 s unless it is confirmed" in done.stdout and host.serves(HOST)
    assert host.disarmed(HOST, LATE) and "changed" in host.on(HOST, "cat /srv/www/index.html")
    host.lab.ssh(HOST, ["evenkeel-host", "rollback", "before"])
    host.lab.ssh(HOST, ["evenkeel-host", "confirm"])
    assert host.serves(HOST) and host.state(HOST)["outcome"] == "confirmed"
