# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host: its name, address and keys, and the texts by which people and Ansible reach it."""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from laboratory.machine import LabError, run

USERS = ("root", "ops")
# web1 has address .11, web2 .12 and so on. Hosts with other names are in the upper part of the subnet.
FIRST_ADDRESS = 11
FIRST_EXTRA_ADDRESS = 201
MAX_HOSTS = FIRST_EXTRA_ADDRESS - FIRST_ADDRESS


@dataclass(frozen=True)
class Host:
    """One host of a lab. ``rack`` is its failure domain, ``group`` its inventory group."""

    name: str
    address: str
    rack: str
    group: str = "web"


def make_host(subnet: str, name: str, others: Sequence[Host], *, group: str = "web", rack: str | None = None) -> Host:
    """A host with the address that its name gives it, or the first free one. Racks alternate with it."""
    base = ipaddress.ip_network(subnet).network_address
    numbered = re.fullmatch(r"web([1-9][0-9]*)", name)
    if numbered and int(numbered[1]) <= MAX_HOSTS:
        offset = FIRST_ADDRESS + int(numbered[1]) - 1
    else:
        taken = {host.address for host in others}
        offset = next((n for n in range(FIRST_EXTRA_ADDRESS, 255) if str(base + n) not in taken), 0)
        if not offset:
            raise LabError(f"no address is left for '{name}' in {subnet}: recreate a host instead of adding one")
    return Host(name, str(base + offset), rack or f"r{2 - offset % 2}", group)


def ssh_config(state: Path, hosts: Sequence[Host]) -> str:
    """Text of the ssh_config: host keys are always checked, a silent connection ends within 15 seconds."""

    def quoted(path: Path) -> str:
        return '"' + str(path).replace("%", "%%") + '"'

    entries = "".join(f"\nHost {host.name}\n    HostName {host.address}\n" for host in hosts)
    return f"""\
Host *
    User root
    IdentityFile {quoted(state / "key")}
    IdentitiesOnly yes
    PasswordAuthentication no
    UserKnownHostsFile {quoted(state / "known_hosts")}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    HostKeyAlgorithms ssh-ed25519
    UpdateHostKeys no
    ConnectTimeout 10
    ServerAliveInterval 5
    ServerAliveCountMax 3
{entries}"""


def inventory(config: Path, key: Path, hosts: Sequence[Host], user: str) -> str:
    """Text of an Ansible inventory."""
    text = json.dumps  # every JSON string is a YAML string
    lines = ["all:", "  vars:"]
    lines += [f"    ansible_user: {user}", f"    ansible_ssh_private_key_file: {text(str(key))}"]
    lines += [f"    ansible_ssh_common_args: {text(f'-F {shlex.quote(str(config))}')}"]
    lines += ["    ansible_python_interpreter: /usr/bin/python3"]
    if user != "root":
        lines += ["    ansible_become: true"]
    lines += ["  children:"]
    for group in dict.fromkeys(host.group for host in hosts):
        lines += [f"    {group}:", "      hosts:"]
        for host in hosts:
            if host.group == group:
                lines += [f"        {host.name}: {{ansible_host: {host.address}, rack: {host.rack}}}"]
    return "---\n" + "\n".join(lines) + "\n"


def keygen(path: Path, comment: str) -> None:
    """Make a key pair at ``path`` unless it is there."""
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Write a file to a host's disk, in place of the one from the image."""
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)


def kernel_options() -> list[str]:
    """Options of a host's kernel command line. In a container, systemd reads its own arguments as such."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    return ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]  # systemd of Debian 13 refuses the older cgroups otherwise


def limit(name: str, wanted: int) -> str:
    """A ulimit for a host; one above the machine's own would be refused."""
    import resource

    hard = resource.getrlimit({"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}[name])[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return f"{name}={value}:{value}"
