# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles in the shape of published ones, run well, run until they fail, and run until nobody can log in any more.

Each case has a fresh host; those of one role run at the same time. The judge looks at all of the host, whether it was
declared or not (whole_host.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import Lab

from .conftest import Fleet
from .whole_host import differences

HERE = Path(__file__).parent
ROLES = HERE / "roles"

RESOURCES: list[dict[str, Any]] = [
    {"files": {"paths": ["/etc", "/root", "/home", "/opt", "/srv", "/usr/local", "/var/spool/cron"]}},
    {"packages": {}},
    {"users": {}},
    {"firewall": {}},
    {"sysctl": {"names": ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.all.accept_redirects"]}},
    {
        "services": {
            "names": [
                *("ssh", "nginx", "nftables", "firewall", "docker", "postgresql", "fail2ban", "node_exporter"),
                *("apt-daily.timer", "apt-daily-upgrade.timer", "getty-static", "systemd-binfmt", "systemd-journald"),
            ]
        }
    },
]
RESOURCES[0]["files"]["exclude"] = [".ansible"]
RESOURCES[4]["sysctl"]["names"] += [
    *("net.ipv4.conf.all.send_redirects", "net.ipv4.tcp_syncookies", "net.ipv4.icmp_echo_ignore_broadcasts"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.ip_forward"),
]
PROBES = [{"service": {"name": "ssh"}}, {"service": {"name": "nginx"}}]
# Not declared above, and therefore allowed to differ after any of the roles.
OUTSIDE = ("path /var/mail", "path /var/lib/(docker|postgresql|node_exporter)(/|$)")


@dataclass(frozen=True)
class Case:
    """One run of a role. ``end``: well, fails or shut out. ``user``: who logs in; ops becomes root by sudo."""

    name: str
    end: str
    variables: dict[str, Any] = field(default_factory=dict)
    user: str = "root"


def well(**variables: Any) -> Case:
    return Case("well", "well", variables)


def fails(name: str, **variables: Any) -> Case:
    return Case(name, "fails", variables)


def shut_out(name: str, user: str = "root", **variables: Any) -> Case:
    return Case(name, "shut out", variables, user)


@dataclass(frozen=True)
class Role:
    """A role with its cases. ``makes``: what is another afterwards, among more. ``outside``: what it changes besides
    what is declared."""

    name: str
    makes: tuple[str, ...]
    cases: tuple[Case, ...]
    outside: tuple[str, ...] = ()


TABLE = (
    Role(
        "ssh_hardening",
        ("path /etc/ssh/sshd_config", "path /etc/ssh/moduli", "path /etc/systemd/system/ssh.service.d/hardening.conf"),
        (
            well(ssh_hardening_max_sessions=2),
            fails("its last demand is not met", ssh_hardening_expected={"maxauthtries": "2"}),
            shut_out("only somebody else may come", ssh_hardening_allow_users=["nobody"]),
            shut_out("it listens where nobody is", ssh_hardening_listen_to=["127.0.0.1"]),
            shut_out("keys are looked for elsewhere", ssh_hardening_authorized_keys="/etc/ssh/keys/%u"),
            shut_out("each session gets a command", ssh_hardening_force_command="/bin/false"),
        ),
    ),
    Role(
        "os_hardening",
        ("path /etc/login.defs", "value net/ipv4/conf/all/rp_filter", "package telnet-client", "path /usr/bin/su"),
        (
            well(),
            fails("its last demand is not met", os_hardening_wanted=7),
            shut_out("access.conf refuses all", os_hardening_access=["-:ALL:ALL"]),
            shut_out("the shell of root is none", os_hardening_root_shell="/usr/sbin/nologin"),
            shut_out("nologin, and sudo may not either", "ops", os_hardening_nologin=True),
        ),
        # Ansible's module user makes the homes that accounts of the system have not got.
        outside=("path /usr/bin/(su|chsh|chfn|gpasswd)$", "path /var/(list|spool/news|spool/uucp)(/|$)"),
    ),
    Role(
        "nginx",
        ("path /etc/nginx/nginx.conf", "path /etc/nginx/sites-enabled/default", "path /srv/site/index.html"),
        (
            well(),
            fails("a site is broken", nginx_vhosts=[{"server_name": "x", "root": "/srv/x", "extra": "listen nine;"}]),
            fails("an upstream is unknown", nginx_upstreams=[{"name": "app", "servers": ["nobody.invalid:80"]}]),
            shut_out("it opens its own ports only", nginx_firewall_ports=[80, 443]),
        ),
    ),
    Role(
        "firewall",
        ("rules", "unit firewall.service", "path /etc/systemd/system/multi-user.target.wants/firewall.service"),
        (
            well(),
            fails("its last demand is not met", firewall_checked_port=2222),
            fails("one of its rules is none", firewall_additional_rules=["tcp dport none accept"]),
            shut_out("port 22 is forgotten", firewall_allowed_tcp_ports=[80]),
            shut_out("and who is connected as well", firewall_allowed_tcp_ports=[80], firewall_drop_established=True),
            shut_out("all are blocked", firewall_blocked=["0.0.0.0/0"], firewall_drop_established=True),
        ),
    ),
    Role(
        "security_updates",
        ("package ek-tool", "package ek-old", "package fail2ban", "unit fail2ban.service", "path /etc/ssh/sshd_config"),
        (
            well(security_updates_hold=["ek-tool"]),
            fails("the jail is broken", security_updates_fail2ban="enabled = maybe\n"),
            fails("an option of sshd is none", security_updates_ssh_options={"PermitRoot": "no"}),
            shut_out("root may not come", security_updates_ssh_options={"PermitRootLogin": "no"}),
            shut_out(
                "sshd does not start",
                security_updates_ssh_options={"PermitRoot": "no"},
                security_updates_ssh_validate=False,
            ),
            # A line that is none locks nobody out: sudo passes over it since 1.9.3.
            shut_out("sudo asks for a password", "ops", security_updates_sudoers=["ops ALL=(ALL:ALL) ALL"]),
        ),
    ),
    Role(
        "postgresql",
        ("package postgresql-15", "user postgres", "unit postgresql.service", "path /etc/cron.d/postgresql-dump"),
        (
            well(),
            fails("it does not start", postgresql_options={"shared_buffers": "much"}),
            fails("a database has no name", postgresql_databases=["a/b"]),
            shut_out("the home of root is its own", postgresql_owned=["/var/lib/postgresql/15/main", "/root"]),
        ),
    ),
    Role(
        "docker",
        ("package docker-ce", "group docker", "rules", "path /etc/docker/daemon.json", "value net/ipv4/ip_forward"),
        (
            well(),
            fails("its configuration is no JSON", docker_daemon_options="{,}"),
            fails("a user is unknown", docker_users=["ops", "no:body"]),
            shut_out("a container gets port 22", docker_published=[8080, 22]),
        ),
    ),
    Role(
        "node_exporter",
        ("user node-exp", "path /usr/local/bin/node_exporter", "unit node_exporter.service"),
        (
            well(),
            fails("it does not know a flag", node_exporter_flags=["--no-such-flag"]),
            shut_out("hosts.deny names all", node_exporter_shut=["ALL: ALL"]),
        ),
    ),
    Role(
        "users_sudo",
        ("user alice", "path /home/alice/.ssh/authorized_keys", "path /etc/sudoers.d/20-admins"),
        (
            well(users_sudo_removed=["carol"]),
            fails("a rule of sudo is none", users_sudo_rules=["%admins ALL"]),
            shut_out("another key for root", users_sudo_exclusive_keys={"/root/.ssh/authorized_keys": "ssh-rsa x"}),
            shut_out("the account of root expires", users_sudo_expired=["root"]),
            shut_out("sudo wants a terminal", "ops", users_sudo_defaults=["requiretty", "!visiblepw"]),
            shut_out("who logs in is removed", "ops", users_sudo_removed=["carol", "ops"]),
        ),
    ),
)  # fmt: skip
SHORT: tuple[str, ...] = ()


@dataclass(repr=False)
class Trial:
    """What became of one case. ``back``: all of the host after what went well was rolled back by command."""

    role: Role
    case: Case
    host: str
    code: int = -1
    said: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    back: dict[str, str] = field(default_factory=dict)
    back_code: int = -1
    login: bool = False

    @property
    def mine(self) -> dict[str, Any]:
        """The driver's own words on the host."""
        found = [one for one in self.result.get("hosts", []) if one["host"] == self.host]
        return dict(found[0]) if found else {}

    def left(self, now: dict[str, str]) -> dict[str, str]:
        """What is not as before although it was declared."""
        outside = re.compile("|".join((*OUTSIDE, *self.role.outside)))
        return {
            name: how
            for name, how in differences(self.before, now).items()
            # Removed, a package that was not there before keeps its configuration until somebody purges it.
            if not outside.match(name) and not re.fullmatch(r"not there => \S+ deinstall ok config-files", how)
        }

    def __repr__(self) -> str:
        where = f"{self.role.name}, {self.case.name} ({self.host}): exit {self.code}, event {self.event}"
        return f"{where}\n{self.said}"


def whole(fleet: Fleet, host: str) -> dict[str, str]:
    script = (HERE / "whole_host.py").read_text()
    done = fleet.lab.exec(host, ["python3", "-"], input=script)
    return dict(json.loads(done.stdout))


def process_of(fleet: Fleet, host: str) -> str:
    """The id, on this machine, of the first process of a host."""
    from lab import podman

    return podman("inspect", "--format", "{{.State.Pid}}", fleet.lab._container(host))


def in_mounts_of(fleet: Fleet, host: str, script: str) -> None:
    """Run a script among the mounts of a host with the rights of this machine, for what a container may not do.

    In its network as well: each has values of the kernel of its own, and what is mounted over one covers no other's.
    """
    command = ["nsenter", "--target", process_of(fleet, host), "--mount", "--net", "sh", "-ec", script]
    subprocess.run(command, check=True)


def prepare(fleet: Fleet, host: str) -> None:
    """A host with a repository of its own, and with kernel values that can be written."""
    fleet.lab.exec(host, ["sh", "-s"], input=(ROLES / "prepare.sh").read_text())
    make_values_writable(fleet, host)
    in_mounts_of(fleet, host, "echo 0 >/proc/sys/net/ipv4/ip_forward")  # Of a new network it is what the machine's is.


def make_values_writable(fleet: Fleet, host: str) -> None:
    """Give a host the kernel values that are its own, those of its network, to write as well."""
    values = "/proc/sys/net"
    in_mounts_of(fleet, host, f"mount --bind {values} {values}; mount -o remount,bind,rw {values}")


def try_case(fleet: Fleet, trial: Trial) -> None:
    host, role, case = trial.host, trial.role, trial.case
    prepare(fleet, host)
    trial.before = whole(fleet, host)
    play = {
        "hosts": host,
        "gather_facts": False,
        "vars": case.variables,
        "roles": [str(ROLES / role.name)],
    }
    name = fleet.playbook(f"{host}.yml", yaml.safe_dump([play]))
    inventory = f"inventory-{case.user}"
    within = "180s" if case.end == "shut out" else "5m"
    words = ["change", name, "-i", inventory, "--limit", host, "--json", "--confirm-within", within]
    trial.code, trial.said = fleet.evenkeel(*words, timeout=600)
    if "{\n" in trial.said:
        trial.result = json.JSONDecoder().raw_decode(trial.said[trial.said.index("{\n") :])[0]
    for _ in range(20):
        if not fleet.armed(host):
            break
        time.sleep(3)
    trial.event = fleet.state(host)
    trial.after = whole(fleet, host)
    trial.login = fleet.lab.ssh(host, ["true"], user=case.user).returncode == 0
    if case.end == "well":
        trial.back_code, said = fleet.evenkeel("rollback", "-i", inventory, "--limit", host, timeout=600)
        trial.said += said
        trial.back = whole(fleet, host)


def fleet_of(lab: Lab, home: Path) -> Fleet:
    fleet = Fleet(lab, home, [host.name for host in lab.hosts])
    for user in ("root", "ops"):
        there = home / f"inventory-{user}"
        (there / "group_vars").mkdir(parents=True)
        (there / "hosts.yml").write_text(lab.inventory_as(user).read_text())
        variables = {
            "evenkeel_resources": RESOURCES,
            "evenkeel_probes": PROBES,
            "evenkeel_soak": "1s",
            "evenkeel_deadline": "10s",
            "ansible_become": user != "root",
        }
        (there / "group_vars" / "all.yml").write_text(yaml.safe_dump(variables))
    return fleet


@pytest.fixture(
    scope="module",
    params=[pytest.param(role, id=role.name, marks=[] if role.name in SHORT else pytest.mark.long) for role in TABLE],
)
def trials(lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Trial]]:
    """All cases of a role, tried at the same time on as many hosts."""
    role: Role = request.param
    names = [host.name for host in lab.hosts][: len(role.cases)]
    assert len(names) == len(role.cases), "a host for each case"
    fleet = fleet_of(lab, tmp_path_factory.mktemp(role.name))
    found = [Trial(role, case, host) for case, host in zip(role.cases, names, strict=True)]
    try:
        for host in names:
            if fleet.on(host, "ls -d /var/lib/evenkeel /var/lib/pristine", check=False):
                lab.recreate(host)
        with ThreadPoolExecutor(len(found)) as pool:
            for done in [pool.submit(try_case, fleet, trial) for trial in found]:
                done.result()
        yield found
    finally:
        for host in names:
            lab.recreate(host)


def of(trials: list[Trial], end: str) -> list[Trial]:
    return [trial for trial in trials if trial.case.end == end]


def test_what_goes_well_is_confirmed_and_there(trials: list[Trial]) -> None:
    for trial in of(trials, "well"):
        assert trial.code == 0, trial
        assert (trial.mine["state"], trial.event["outcome"]) == ("confirmed", "confirmed"), trial
        changed = differences(trial.before, trial.after)
        assert set(trial.role.makes) <= changed.keys(), (trial.role.makes, sorted(changed))


def test_what_went_well_can_be_rolled_back_by_command(trials: list[Trial]) -> None:
    for trial in of(trials, "well"):
        assert trial.back_code == 0, trial
        assert trial.left(trial.back) == {}, trial


def test_a_role_that_fails_at_its_end_leaves_nothing_of_what_is_declared(trials: list[Trial]) -> None:
    wrong = {}
    for trial in of(trials, "fails"):
        left = trial.left(trial.after)
        if (trial.code, trial.mine.get("state"), left) != (2, "rolled_back", {}):
            wrong[trial.case.name] = (trial.code, trial.mine.get("why"), left)
    assert wrong == {}


def test_a_role_that_shuts_everybody_out_is_undone_by_the_host_itself(trials: list[Trial]) -> None:
    wrong = {}
    for trial in of(trials, "shut out"):
        left = trial.left(trial.after)
        by, late = trial.event.get("by"), trial.event.get("at", 1e99) - trial.mine.get("until", 0)
        if (trial.code, trial.login, by, late <= 10, left) != (2, True, "deadline", True, {}):
            wrong[trial.case.name] = (trial.code, trial.login, by, late, trial.mine.get("why"), left)
    assert wrong == {}
