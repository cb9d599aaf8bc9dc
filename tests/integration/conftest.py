# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real hosts for the tests of the flows: one lab for the session, put back to its first state before each test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab, unavailable
from laboratory.existing import remove_orphans
from laboratory.machine import locked
from ready_ansible import run_module

# What the hosts of these tests protect and probe; the playbooks of the tests change nginx.
VARIABLES = """
evenkeel_resources:
  - files: {paths: [/etc/nginx, /srv/www, /etc/nftables.conf, /etc/ssh]}
  - services: {names: [nginx, nftables, ssh]}
evenkeel_probes:
  - http: {url: http://localhost/, status: 200}
  - service: {name: nginx}
evenkeel_soak: 1s
evenkeel_deadline: 6s
"""
# The tests of such a file share something that takes long to make: with -n they stay in one process.
TOGETHER = ("test_lab.py", "test_postgresql.py", "test_published_roles.py", "test_virtual_address.py")
# It runs on every host before every test: the commands that cost most run only where a test gave reason to.
_PRISTINE = """
set -e
pkill -KILL -f '[e]venkeel-[0-9a-f]*[.]pyz' || true
systemctl stop evenkeel-watch.timer 2>/dev/null || true
units=$(ls -d /etc/systemd/system/evenkeel-* /etc/systemd/system/sysinit.target.wants/evenkeel-* \
/etc/systemd/system/boot-complete.target.requires/evenkeel-* /run/systemd/system/evenkeel-* 2>/dev/null || true)
rm -rf /var/lib/evenkeel /usr/local/sbin/evenkeel-host /run/motd.d/evenkeel $units
[ -z "$units$(systemctl list-units --all --no-legend 'evenkeel-*')" ] || systemctl daemon-reload
if [ ! -d /var/lib/pristine ]; then
  mkdir -p /srv/www && echo "<h1>version 1</h1>" > /srv/www/index.html
  sed -i 's#root /var/www/html;#root /srv/www;#' /etc/nginx/sites-available/default
  mkdir /var/lib/pristine
  cp -a --parents /etc/nginx /srv/www /etc/nftables.conf /etc/ssh /var/lib/pristine
fi
nft flush ruleset
rsync -aHAX --checksum --delete /var/lib/pristine/etc/nginx/ /etc/nginx/
rsync -aHAX --checksum --delete /var/lib/pristine/srv/www/ /srv/www/
rsync -aHAX --checksum --delete /var/lib/pristine/etc/ssh/ /etc/ssh/
cp -a /var/lib/pristine/etc/nftables.conf /etc/nftables.conf
systemctl reset-failed 2>/dev/null || true
[ -L /etc/systemd/system/multi-user.target.wants/nginx.service ] || systemctl enable --quiet nginx
[ -L /etc/systemd/system/sysinit.target.wants/nftables.service ] || systemctl enable --quiet nftables
systemctl restart nginx ssh
systemctl start nftables
"""


@dataclass
class Fleet:
    """Hosts of the lab, and the driver as a user calls it from the directory ``home``."""

    lab: Lab
    home: Path
    names: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def on(self, host: str, script: str, check: bool = True) -> str:
        """What a shell script prints, run as root from the host's console."""
        return self.lab.exec(host, ["sh", "-c", script], check=check).stdout

    def differs(self, host: str) -> str:
        """What rsync would change to make the protected trees what they were at first; empty when nothing."""
        trees = ("/etc/nginx/", "/srv/www/", "/etc/ssh/", "/etc/nftables.conf")
        judge = "rsync -aHAX --checksum --delete -n -i"
        return self.on(host, "; ".join(f"{judge} /var/lib/pristine{tree} {tree}" for tree in trees))

    def serves(self, host: str, text: str = "version 1") -> bool:
        return text in self.on(host, "curl -s --max-time 3 http://localhost/", check=False)

    def touched(self, host: str) -> bool:
        """Whether a change ever began there."""
        return self.on(host, "cat /var/lib/evenkeel/generation", check=False).strip() not in ("", "0")

    def state(self, host: str) -> dict[str, Any]:
        """The last line of the host's own events; empty when there is none."""
        lines = self.on(host, "cat /var/lib/evenkeel/events", check=False).splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def armed(self, host: str) -> bool:
        return bool(self.on(host, "ls /var/lib/evenkeel/armed", check=False).strip())

    def disarmed(self, host: str, seconds: float = 30) -> bool:
        """Whether no change waits for its confirmation there, at the latest after a while."""
        return self.eventually(lambda: not self.armed(host), seconds)

    def playbook(self, name: str, text: str) -> str:
        (self.home / name).write_text(text)
        return name

    def start(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "evenkeel.cli", *words]
        process = subprocess.Popen(
            argv, cwd=self.home, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.started.append(process)
        return process

    def start_playbook(self, path: Path) -> subprocess.Popen[str]:
        """Start ansible-playbook on a file; ``end`` kills it like a driver."""
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", str(path)]
        process = subprocess.Popen(argv, cwd=self.home, env=self.environment(), text=True)
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kill the drivers that a failed or interrupted test left, with the processes that they started."""
        for process in self.started:
            if process.poll() is None:
                driver = psutil.Process(process.pid)
                for one in [*driver.children(recursive=True), driver]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
                process.wait()

    def evenkeel(self, *words: str, timeout: float = 180) -> tuple[int, str]:
        """Exit code and output of the driver; fails the test when it does not end in time."""
        with self.start(*words) as process:
            try:
                out, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail(f"evenkeel {' '.join(words)} did not end within {timeout:g} s: {process.communicate()[0]}")
        print(out)
        return process.returncode, out

    def change(self, playbook: str, *words: str, timeout: float = 180) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON result of ``evenkeel change``."""
        code, out = self.evenkeel("change", playbook, "-i", "inventory", "--json", *words, timeout=timeout)
        found = out[out.index("{\n") :] if "{\n" in out else out[out.index("{") :]
        return code, json.JSONDecoder().raw_decode(found)[0]

    def module(self, host: str, which: str, /, check: bool = False, **arguments: Any) -> dict[str, Any]:
        """The result of a module of ours on the host; ``said`` is what a user is warned of on the terminal."""
        words = [host, "-i", "inventory", "-m", f"evenkeel.fault_tolerance.{which}", *(["--check"] if check else [])]
        words += ["-a", json.dumps(arguments)] if arguments else []
        done = run_module(words, self.home, self.environment())
        assert "=> {" in done.stdout, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout.partition("=> ")[2])
        return dict(result, failed=done.returncode != 0, said=" ".join(done.stderr.split()))

    def environment(self) -> dict[str, str]:
        return {**os.environ, "ANSIBLE_FORKS": "10", "ANSIBLE_PIPELINING": "1", "NO_COLOR": "1", "COLUMNS": "140"}

    def eventually(self, condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.3)
        return condition()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, give each test to the first process that is free; the tests of some files stay together.

    xdist's own mark for this, ``xdist_group``, has no effect with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(TOGETHER) else nodeid

    return Scheduling(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    """After ``-n``: take down the labs of processes that were killed before they did so themselves."""
    if config.getoption("numprocesses", None) and not unavailable():
        with locked():
            remove_orphans()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    # Tests that run side by side each have hosts of their own.
    name = "-".join([os.environ.get("EVENKEEL_LAB", "flows"), *filter(None, [os.environ.get("PYTEST_XDIST_WORKER")])])
    with Lab(name, hosts=6) as started:
        yield started


@pytest.fixture(scope="session")
def pristine() -> dict[str, tuple[object, ...]]:
    """How each host that was put back to its first state was found right afterwards."""
    return {}


@pytest.fixture
def fleet(lab: Lab, tmp_path: Path, pristine: dict[str, tuple[object, ...]]) -> Iterator[Fleet]:
    """Five hosts web1 … web5 with nginx serving version 1, and a fresh directory with an inventory. web6 is a spare."""
    names = [host.name for host in lab.hosts]
    used = [name for name in names if lab.traffic(name) != pristine.get(name)]
    running = [subprocess.Popen([*_exec(lab, name), "sh", "-c", _PRISTINE]) for name in used]
    assert all(process.wait(timeout=60) == 0 for process in running)
    pristine.update({name: lab.traffic(name) for name in used})
    inventory = tmp_path / "inventory"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(lab.inventory.read_text())
    (inventory / "group_vars" / "all.yml").write_text(VARIABLES)
    (inventory / "groups.yml").write_text("site: {hosts: {web1: , web2: , web3: , web4: , web5: }}\n")
    fleet = Fleet(lab, tmp_path, names[:5])
    yield fleet
    fleet.end()


def _exec(lab: Lab, host: str) -> list[str]:
    from lab import engine

    lab.entered[host] += 1
    return [*engine(), "exec", lab._container(host)]
