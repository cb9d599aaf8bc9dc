# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A named set of hosts with a network of its own."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from laboratory import machine
from laboratory.existing import Network, containers, firewall_table, networks, random_subnet, remove, remove_orphans
from laboratory.hosts import (
    MAX_HOSTS,
    USERS,
    Host,
    inventory,
    kernel_options,
    keygen,
    limit,
    make_host,
    ssh_config,
    write,
)
from laboratory.image import RELEASES, build_image
from laboratory.machine import (
    LabError,
    allow_hosts,
    banner,
    engine,
    hosts_first,
    in_parallel,
    locked,
    nft,
    podman,
    prepare_machine,
    process_identity,
    replace_file,
    run,
    say,
)

PATIENCE = 120.0  # seconds that a host may take to boot on a busy machine
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SETTLED = ("running", "degraded")
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Lab:
    """A named fleet.

    ``hosts`` is how many there shall be (web1, web2, …); None keeps what a lab has, or makes five.
    As a context manager the lab is started on entry, and removed on exit unless it was there before; if the
    process is killed in between, the next ``up`` of any lab removes it. All methods raise LabError.
    """

    def __init__(self, name: str = "dev", hosts: int | None = None, release: str | None = None) -> None:
        if not NAME.fullmatch(name):
            raise LabError(f"'{name}' is no name for a lab: lower-case letters, digits and '-', at most 31")
        if hosts is not None and not 1 <= hosts <= MAX_HOSTS:
            raise LabError(f"a lab has 1 to {MAX_HOSTS} hosts, not {hosts}")
        if release not in (None, *RELEASES):
            raise LabError(f"no lab host is built of release '{release}': one of {', '.join(RELEASES)}")
        self.name = name
        self.path = machine.STATE / name
        self._wanted = hosts
        self._release = release
        self._owner: str | None = None
        self._existed = False
        self.entered: Counter[str] = Counter()  # host -> commands that were run there from its console
        self._pid_files: dict[str, tuple[str, Path]] = {}  # host -> id of its container, file with its pid

    # How a test or a person reaches the hosts.

    @property
    def inventory(self) -> Path:
        """Inventory for ``ansible-playbook -i``, as root."""
        return self.inventory_as("root")

    def inventory_as(self, user: str) -> Path:
        """Inventory for a user: ``root``, or ``ops``, who becomes root by sudo without a password."""
        return self.path / ("inventory.yml" if user == "root" else f"inventory-{user}.yml")

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``: key, known hosts, keep-alives, and each host by its name."""
        return self.path / "ssh_config"

    @property
    def hosts(self) -> list[Host]:
        """The hosts of the lab as it was started."""
        record = self._record()
        if not record:
            raise LabError(f"no lab '{self.name}' in {machine.STATE}: start it with 'lab.py up --name {self.name}'")
        return [Host(**host) for host in record["hosts"]]

    def host(self, name: str) -> Host:
        """One host by its name."""
        hosts = {host.name: host for host in self.hosts}
        if name not in hosts:
            raise LabError(f"lab '{self.name}' has no host '{name}': it has {', '.join(hosts)}")
        return hosts[name]

    # Up and down.

    def __enter__(self) -> Lab:
        self._owner = process_identity(os.getpid())
        self._existed = (self.path / "lab.json").exists()
        try:
            return self.up()
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._existed:
            self.down()

    def up(self) -> Lab:
        """Start the lab, or go on from the parts of it that are there: none, all, or those that a killed run left.

        Returns when every host has booted and answers over SSH with the key it was given.
        """
        start = time.monotonic()
        prepare_machine()
        with locked():
            self._remove_leftovers()
            record = self._record()
            release = self._release or record.get("release") or RELEASES[0]
            if record and record["release"] != release:
                raise LabError(
                    f"lab '{self.name}' runs {record['release']}, not {release}: "
                    f"'lab.py down --name {self.name}' first, or choose another --name"
                )
            image = build_image(release)
            network = self._network()
            hosts = [Host(**host) for host in record.get("hosts", [])]
            if self._wanted is not None or not hosts:
                names = [f"web{number}" for number in range(1, (self._wanted or 5) + 1)]
                hosts = [make_host(network.subnet, name, []) for name in names]
            self._reconcile(release, image, network, hosts)
        say(f"lab '{self.name}': {len(hosts)} hosts answer, after {time.monotonic() - start:.1f} s")
        return self

    def down(self) -> None:
        """Remove every container, network, rule and file of the lab. No lab is no error."""
        if os.geteuid() != 0:
            raise LabError("removing a lab needs root: run it with sudo")
        with locked():
            self._refuse_others()
            existed = self.path.exists() or networks(self.name)
            remove(self.name)
            shutil.rmtree(self.path, ignore_errors=True)
        say(f"lab '{self.name}': {'removed' if existed else 'nothing to remove'}")

    def add(self, name: str, *, group: str = "web", rack: str | None = None) -> Host:
        """Start one more, fresh host; it joins the inventory."""
        if not NAME.fullmatch(name):
            raise LabError(f"'{name}' is no name for a host: lower-case letters, digits and '-', at most 31")
        with locked():
            record, hosts = self._record(), self.hosts
            if any(host.name == name for host in hosts):
                raise LabError(
                    f"lab '{self.name}' has a host '{name}' already: 'recreate' puts a fresh one in its place"
                )
            new = make_host(self._network().subnet, name, hosts, group=group, rack=rack)
            self._reconcile(record["release"], build_image(record["release"]), self._network(), [*hosts, new])
        return new

    def recreate(self, name: str, *more: str) -> Host:
        """Put a fresh host in the place of one: same name and address, fresh disk, host keys of its own.

        more: hosts to replace with it, because they would not answer meanwhile.
        """
        host = self.host(name)
        with locked():
            self._refuse_others()
            record = self._record()
            for one in (name, *more):
                podman("rm", "--force", "--time", "0", "--ignore", self._container(one))
                shutil.rmtree(self.path / "hosts" / one, ignore_errors=True)
                self.connect(one)
            self._reconcile(record["release"], build_image(record["release"]), self._network(), self.hosts)
        return host

    # Actions on hosts.

    def exec(
        self,
        host: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as root, from its console: works when the network or sshd does not.

        With ``check`` a return code other than 0 is a LabError.
        """
        self.host(host)
        self.entered[host] += 1
        interactive = () if input is None else ("--interactive",)
        through_podman = [*engine(), "exec", *interactive, self._container(host)]
        done = run([*(self._inside(host) or through_podman), *argv], check=check, input=input, timeout=timeout)
        if done.returncode < 0:  # the end by a signal, as shells number it
            done.returncode = 128 - done.returncode
        return done

    def ssh(
        self,
        host: str,
        argv: Sequence[str],
        *,
        user: str = "root",
        check: bool = True,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host over SSH, as ``root`` or ``ops``."""
        self.host(host)
        return run(
            ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", "-l", user, host, shlex.join(argv)],
            check=check,
            timeout=timeout,
        )

    def started(self, host: str) -> int | None:
        """When pid 1 of a host started, in clock ticks of the machine; None while it is down.

        The boot id of a container is the machine's and never changes: this does, with every restart.
        """
        pid = self._pid(self.host(host).name)
        identity = process_identity(pid) if pid else None
        return int(identity.partition(":")[2]) if identity else None

    def traffic(self, host: str) -> tuple[object, ...]:
        """What differs once somebody was on a host: its start, the commands of ``exec``, and the TCP that it received.

        A host that has the same as before was neither entered nor asked anything since.
        """
        pid, segments = self._pid(self.host(host).name), None
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
            names, values = (line.split() for line in lines if line.startswith("Tcp:"))
            segments = values[names.index("InSegs")]
        return self.started(host), self.entered[host], segments

    def reboot(self, host: str, *, timeout: float = PATIENCE) -> float:
        """Reboot a host from inside and wait until it has booted again. Seconds it took.

        Needs no network: a host that is disconnected, or whose sshd is broken, reboots as well.
        """
        before, start = self.started(host), time.monotonic()
        if before is None:
            raise LabError(f"'{host}' is stopped: 'lab.py start {host}'")
        self.exec(host, ["systemctl", "reboot"], check=False)  # cut off by its own effect
        while self.started(host) in (None, before):
            if time.monotonic() - start > timeout:
                raise LabError(f"'{host}' did not go down for its reboot within {timeout:g} s")
            time.sleep(0.05)
        self.booted(host, timeout=timeout - (time.monotonic() - start))
        return time.monotonic() - start

    def booted(self, host: str, *, timeout: float = PATIENCE) -> str:
        """Wait until a host's boot is over: ``running``, or ``degraded`` when a unit failed."""
        end = time.monotonic() + timeout
        while True:
            left = max(1.0, end - time.monotonic())
            state = self.exec(
                host, ["systemctl", "is-system-running", "--wait"], check=False, timeout=left
            ).stdout.strip()
            if state in SETTLED:
                return state
            if time.monotonic() > end:
                raise LabError(f"'{host}' did not boot within {timeout:g} s: see 'lab.py exec {host} -- journalctl -b'")
            time.sleep(0.1)

    def stop(self, host: str, *, now: bool = False) -> None:
        """Shut a host down; ``now`` pulls the plug instead. Its disk stays."""
        self.host(host)
        podman("stop", "--time", "0" if now else "30", self._container(host))

    def start(self, host: str) -> None:
        """Start a stopped host and wait until it answers over SSH."""
        self.host(host)
        podman("start", self._container(host))
        self._answers(host)

    def disconnect(self, host: str) -> None:
        """Make a host silently unreachable: packets to and from it are dropped, also after its reboot."""
        address = self.host(host).address
        # In the bridge, where a local sender is not told that its packet was dropped, and what a host does with
        # a firewall of its own cannot undo it. ARP passes: the machine must believe that the host is there.
        # One transaction, the same on every call.
        table = f"bridge {firewall_table(self.name)}"
        rules = f"add table {table}\nadd set {table} cut {{ type ipv4_addr; }}\n"
        for hook in ("input", "forward", "output"):
            rules += f"add chain {table} {hook} {{ type filter hook {hook} priority 0; }}\nflush chain {table} {hook}\n"
            rules += "".join(f"add rule {table} {hook} ip {end} @cut drop\n" for end in ("saddr", "daddr"))
        nft(f"{rules}add element {table} cut {{ {address} }}\n")

    def connect(self, host: str) -> None:
        """Undo ``disconnect``."""
        address = self.host(host).address
        if address in self._cut():
            nft(f"delete element bridge {firewall_table(self.name)} cut {{ {address} }}\n")

    def status(self) -> list[tuple[Host, str]]:
        """Each host with its state: running, booting, degraded, no ssh, disconnected, stopped, missing."""
        states = {label: state for label, state, _, _ in containers(self.name)}
        cut = self._cut()

        def state(host: Host) -> str:
            if host.name not in states:
                return "missing"
            if states[host.name] != "running":
                return "stopped"
            if host.address in cut:
                return "disconnected"
            if not banner(host.address):
                return "no ssh"
            says = self.exec(host.name, ["systemctl", "is-system-running"], check=False).stdout.strip()
            return "booting" if says in ("initializing", "starting") else says or "unknown"

        with ThreadPoolExecutor() as pool:
            hosts = self.hosts
            return list(zip(hosts, pool.map(state, hosts), strict=True))

    # Internals.

    def _inside(self, host: str) -> list[str]:
        """The words that run a command in a host, with the capabilities of its pid 1; none while it is down.

        They do what podman's exec does, in a small part of its time: tests ask their hosts thousands of questions.
        """
        pid = self._pid(host)
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return []
        mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)
        capabilities = "".join(f",+cap_{number}" for number in range(64) if mask >> number & 1)
        return [
            *("nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"),
            *("setpriv", f"--bounding-set=-all{capabilities}", "--", "env", "-i", f"PATH={HOST_PATH}"),
            *("TERM=xterm", "container=podman", f"HOSTNAME={host}", "HOME=/root"),
        ]

    def _pid(self, host: str) -> int | None:
        """Pid 1 of a host, as this machine counts; None while the host is down."""
        for known in (True, False):
            if not known or host not in self._pid_files:
                found = podman("inspect", "--format", "{{.Id}} {{.PidFile}}", self._container(host)).split(" ", 1)
                self._pid_files[host] = (found[0], Path(found[1]))
            container, path = self._pid_files[host]
            with suppress(OSError, ValueError):
                pid = int(path.read_text())
                if container in Path(f"/proc/{pid}/cgroup").read_text():
                    return pid
        return None

    def _container(self, host: str) -> str:
        return f"evenkeel-{self.name}-{host}"

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads((self.path / "lab.json").read_text())
        except FileNotFoundError:
            return {}
        return dict(record)

    def _cut(self) -> set[str]:
        """Addresses of the hosts that are disconnected now, as the kernel knows them."""
        done = run(["nft", "--json", "list", "set", "bridge", firewall_table(self.name), "cut"], check=False)
        if done.returncode:
            return set()
        return {
            str(address)
            for entry in json.loads(done.stdout)["nftables"]
            for address in entry.get("set", {}).get("elem", [])
        }

    def _refuse_others(self) -> None:
        """Container names are the machine's: a living lab of the same name elsewhere is not ours to touch."""
        for network in networks(self.name):
            if network.root != self.path and network.root.is_dir():
                raise LabError(
                    f"a lab '{self.name}' runs from {network.root}: choose another --name, or take that one down"
                )

    def _remove_leftovers(self) -> None:
        """Remove labs whose process was killed, and remains of a lab of our name that has no record."""
        remove_orphans()
        self._refuse_others()
        ours = [network.root for network in networks(self.name)] == [self.path]
        if not (ours and (self.path / "lab.json").exists()):
            remove(self.name)
            shutil.rmtree(self.path, ignore_errors=True)

    def _network(self) -> Network:
        """The lab's network, made if it is not there."""
        if not networks(self.name):
            labels = [f"--label=evenkeel.lab.root={self.path}"]
            if self._owner:
                labels.append(f"--label=evenkeel.lab.owner={self._owner}")
            # The name is never used again: what podman remembers of a name outlives the network.
            name = f"evenkeel-{self.name}-{secrets.token_hex(3)}"
            create = [*engine(), "network", "create", "--disable-dns", *labels]
            for _ in range(20):
                done = run([*create, f"--subnet={random_subnet()}", name], check=False)
                if done.returncode == 0:
                    break
            else:
                raise LabError(f"no network for lab '{self.name}': {done.stderr.strip()}")
        return networks(self.name)[0]

    def _reconcile(self, release: str, image: str, network: Network, hosts: list[Host]) -> None:
        """Make containers, keys and files those of ``hosts``."""
        allow_hosts()
        self._write_files(hosts)
        wanted = {host.name for host in hosts}
        running: list[str] = []
        stopped: list[str] = []
        gone: list[str] = []
        for name, state, ever_started, container in containers(self.name):
            # One that never ran may lack its keys: a run was killed between its creation and its start.
            complete = ever_started and (self.path / "hosts" / name).is_dir()
            if name not in wanted or not complete:
                gone.append(container)
            else:
                (running if state == "running" else stopped).append(name)
        if gone:
            podman("rm", "--force", "--time", "0", *gone)
        for name in {path.name for path in (self.path / "hosts").iterdir()} - wanted:
            shutil.rmtree(self.path / "hosts" / name)
        fresh = [host for host in hosts if host.name not in running + stopped]
        if fresh:
            say(f"lab '{self.name}': starting {' '.join(host.name for host in fresh)}")
            in_parallel(lambda host: self._create(image, network, host), fresh)
            self._give_identity(fresh)
            self._write_files(hosts)
        if stopped:
            say(f"lab '{self.name}': starting {' '.join(stopped)} again")
        to_start = [self._container(name) for name in [*(host.name for host in fresh), *stopped]]
        in_parallel(lambda container: podman("start", container), to_start)
        hosts_first()
        # Only now is the lab there: the next run begins anew if this one was killed before.
        record = {"release": release, "hosts": [asdict(host) for host in hosts]}
        replace_file(self.path / "lab.json", json.dumps(record, indent=2) + "\n")
        self._hand_over()
        cut = self._cut()
        in_parallel(self._answers, [host.name for host in hosts if host.address not in cut])

    def _create(self, image: str, network: Network, host: Host) -> None:
        number = int(ipaddress.ip_address(host.address))
        podman(
            *("create", "--name", self._container(host.name), "--hostname", host.name),
            *("--label", f"evenkeel.lab={self.name}", "--label", f"evenkeel.lab.host={host.name}"),
            # The network card stays the same over a restart, so that nobody's ARP cache is wrong after it.
            f"--mac-address=02:65:{number.to_bytes(4).hex(':')}",
            *("--network", network.name, "--ip", host.address),
            # /etc/hosts and /etc/resolv.conf are the host's own files, not mounts that nothing can replace.
            *("--no-hosts", "--dns", "none"),
            *("--systemd", "always", "--restart", "always", "--stop-signal", "SIGRTMIN+3"),
            *("--pids-limit", "0", "--ulimit", limit("nofile", 16384), "--ulimit", limit("nproc", 32000)),
            *("--cap-add", "NET_ADMIN,NET_RAW"),
            *(image, "/sbin/init"),
            *kernel_options(),
        )

    def _give_identity(self, hosts: list[Host]) -> None:
        """Write the name, the keys and the logins of each new host to its disk, before its first boot."""
        names = [self._container(host.name) for host in hosts]
        authorized = (self.path / "key.pub").read_text()
        resolv = Path("/etc/resolv.conf")
        nameservers = resolv.read_text() if resolv.exists() else ""
        try:
            for host in hosts:
                disk = Path(podman("mount", self._container(host.name)))
                disk.chmod(0o755)  # podman takes the right to write to / away
                keys = self.path / "hosts" / host.name
                keys.mkdir(exist_ok=True)
                keygen(keys / "ssh_host_ed25519_key", host.name)
                for key in keys.iterdir():
                    shutil.copy(key, disk / "etc/ssh" / key.name)
                write(disk / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{host.address} {host.name}\n")
                write(disk / "etc/resolv.conf", nameservers)
                for home, user in ((disk / "root", 0), (disk / "home/ops", 1000)):
                    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
                    write(home / ".ssh/authorized_keys", authorized, mode=0o600)
                    for path in (home / ".ssh", home / ".ssh/authorized_keys"):
                        os.chown(path, user, user)
        finally:
            podman("umount", *names, check=False)

    def _write_files(self, hosts: list[Host]) -> None:
        """Write the files by which the hosts are reached."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        (self.path / "hosts").mkdir(exist_ok=True)
        keygen(self.path / "key", f"lab {self.name}")
        known = ""
        for host in hosts:
            public = self.path / "hosts" / host.name / "ssh_host_ed25519_key.pub"
            if public.exists():
                known += f"{host.name},{host.address} {' '.join(public.read_text().split()[:2])}\n"
        replace_file(self.path / "known_hosts", known)
        replace_file(self.ssh_config, ssh_config(self.path, hosts))
        for user in USERS:
            replace_file(self.inventory_as(user), inventory(self.ssh_config, self.path / "key", hosts, user))

    def _hand_over(self) -> None:
        """Under sudo, give the files by which the hosts are reached to the person who called."""
        user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
        if user and group:
            for path in (self.path, *self.path.rglob("*")):
                os.chown(path, int(user), int(group))

    def _failed_units(self, host: str) -> str:
        listed = self.exec(host, ["systemctl", "--failed", "--plain", "--no-legend"], check=False).stdout
        return ", ".join(line.split()[0] for line in listed.splitlines())

    def _answers(self, host: str, timeout: float = PATIENCE) -> None:
        """Wait until a host has booted and lets us in: address, both keys and pid 1, proved in one go."""
        end, said = time.monotonic() + timeout, "no answer"
        address = self.host(host).address
        while time.monotonic() < end:
            if banner(address):
                done = self.ssh(host, ["systemctl", "is-system-running", "--wait"], check=False, timeout=timeout)
                said = (done.stdout.strip() or done.stderr.strip() or said).splitlines()[-1]
                if said in SETTLED:
                    if said == "degraded":
                        say(f"'{host}' is degraded: {self._failed_units(host)} failed")
                    return
            time.sleep(0.1)
        raise LabError(
            f"'{host}' ({address}) does not answer over SSH after {timeout:g} s: {said}. "
            f"Look at 'lab.py exec --name {self.name} {host} -- journalctl -b'"
        )
