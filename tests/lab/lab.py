#!/usr/bin/env python
# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a fleet of real hosts on one machine, and remove it again without a trace.

Each host is a podman container that runs systemd as pid 1, answers over SSH and has an address of its own.
A lab is a named set of hosts with its own network; several labs stand side by side. What a person or a test
needs to reach it (key, known hosts, inventory) is in .lab/NAME/ at the root of the repository.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import ipaddress
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
STATE = HERE.parents[1] / ".lab"

RELEASES = ("bookworm", "trixie")
USERS = ("root", "ops")

# What must be there -> the Debian package that brings it. netavark is no command, but looked for like one.
TOOLS = {
    "podman": "podman",
    "runc": "runc",
    "netavark": "netavark",
    "aardvark-dns": "aardvark-dns",
    "iptables": "iptables",
    "nft": "nftables",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mmdebstrap": "mmdebstrap",
}
TOOL_PATH = ":".join(
    [
        os.environ.get("PATH", ""),
        "/usr/sbin",
        "/sbin",
        "/usr/lib/podman",
        "/usr/libexec/podman",
        "/usr/local/libexec/podman",
    ]
)

# web1 is at .11, web2 at .12 …; hosts that are added under other names are in the upper part of the subnet.
FIRST_ADDRESS = 11
FIRST_EXTRA_ADDRESS = 201
MAX_HOSTS = FIRST_EXTRA_ADDRESS - FIRST_ADDRESS
INOTIFY_INSTANCES = 4096
LOCK_MARK = "EVENKEEL_LAB_LOCK"
PATIENCE = 120.0  # seconds that a host may take to boot, on a machine that is busy with others

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SETTLED = ("running", "degraded")


class LabError(Exception):
    """What went wrong, where, and what to do next: written to be shown as it is."""


@dataclass(frozen=True)
class Host:
    """One host of a lab. ``rack`` is its failure domain, ``group`` its inventory group."""

    name: str
    address: str
    rack: str
    group: str = "web"


@dataclass(frozen=True)
class Network:
    """The network of a lab, and with its labels the record on this machine that the lab exists.

    ``root`` is the lab's folder; ``owner`` the identity of the process whose end is also the lab's, or nothing.
    """

    name: str
    subnet: str
    root: Path
    owner: str


def say(text: str) -> None:
    """Progress, for a person: on stderr, so that stdout stays what was asked for."""
    print(text, file=sys.stderr, flush=True)


def run(
    argv: Sequence[str], *, check: bool = True, input: str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, capture its output. A failure, or a timeout (seconds), is a LabError that quotes it.

    The command is in a session of its own and is let go on: Ctrl-C, or a signal to the process group, ends this
    script, but never a podman half-way, which would leave a network card or an address taken.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "PATH": TOOL_PATH},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed: 'lab.py up' installs it on Debian, as root") from error
    with process:
        try:
            output, errors = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise LabError(f"'{shlex.join(argv)}' did not end within {timeout:g} s") from error
    done = subprocess.CompletedProcess(argv, process.returncode, output, errors)
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise LabError(f"'{shlex.join(argv)}' failed (rc {done.returncode}): {' / '.join(said[-5:])}")
    return done


@functools.cache
def engine() -> tuple[str, ...]:
    """The podman command. runc where it is installed: crun refuses machines with hybrid cgroups."""
    found = shutil.which("runc", path=TOOL_PATH)
    return ("podman", "--log-level", "error", *(("--runtime", found) if found else ()))


def podman(*args: str, check: bool = True, input: str | None = None, timeout: float | None = None) -> str:
    """Run podman; its standard output, stripped."""
    return run([*engine(), *args], check=check, input=input, timeout=timeout).stdout.strip()


# -- The machine ---------------------------------------------------------------------------------------------


def unavailable() -> str | None:
    """Why no lab can run here, in one line; None when one can. Installs nothing: tests skip on it."""
    if os.geteuid() != 0:
        return "the lab needs root: its hosts have network addresses of their own"
    missing = [tool for tool in TOOLS if tool != "mmdebstrap" and not shutil.which(tool, path=TOOL_PATH)]
    if missing:
        return f"the lab needs {', '.join(missing)}: 'lab.py build' installs them on Debian"
    return None


def prepare_machine() -> None:
    """Make sure of root and of every tool; on Debian what is missing is installed."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root, its hosts have network addresses of their own: run it with sudo")
    apt = shutil.which("apt-get")
    wanted = [tool for tool in TOOLS if apt or tool != "mmdebstrap"]
    missing = [tool for tool in wanted if not shutil.which(tool, path=TOOL_PATH)]
    if not missing:
        return
    packages = sorted({TOOLS[tool] for tool in missing})
    if not apt:
        raise LabError(f"missing on this machine: {', '.join(missing)}. Install them and try again")
    say(f"installing {' '.join(packages)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run(["apt-get", "update", "--quiet=2"])
    run(["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *packages])
    engine.cache_clear()


def allow_hosts() -> None:
    """Raise the machine's limit of inotify instances: systemd needs six a host, and fails units when there are none."""
    allowed = Path("/proc/sys/fs/inotify/max_user_instances")
    if (before := int(allowed.read_text())) < INOTIFY_INSTANCES:
        allowed.write_text(str(INOTIFY_INSTANCES))
        say(f"raised fs.inotify.max_user_instances from {before} to {INOTIFY_INSTANCES}, until this machine restarts")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One command at a time changes the labs of this repository.

    The kernel ends the lock with the process, but a podman that a killed process had started goes on: it is
    waited for, because what is removed under its hands would leave its address taken for ever.
    """
    STATE.mkdir(exist_ok=True)
    fd = os.open(STATE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another lab command to end")
            fcntl.flock(fd, fcntl.LOCK_EX)
        end = time.monotonic() + 30
        while any(started_under_lock(process) for process in Path("/proc").glob("[0-9]*")) and time.monotonic() < end:
            time.sleep(0.1)
        os.environ[LOCK_MARK] = str(STATE)
        yield
    finally:
        os.environ.pop(LOCK_MARK, None)
        os.close(fd)


def started_under_lock(process: Path) -> bool:
    """Whether a process, given as its folder in /proc, is a podman that was started under the lock of these labs."""
    try:
        return (process / "comm").read_text() == "podman\n" and f"{LOCK_MARK}={STATE}".encode() in (
            process / "environ"
        ).read_bytes().split(b"\0")
    except OSError:
        return False


def process_identity(pid: int) -> str | None:
    """``pid:start time``, which no later process has again; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}"


def in_parallel(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Do the same for each item, a few at a time; the first failure is raised once all have ended."""
    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def replace_file(path: Path, content: str, mode: int = 0o600) -> None:
    """Write a file so that a reader, or a killed run, sees the old or the new content."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(content)
    new.chmod(mode)
    new.rename(path)


# -- The image -----------------------------------------------------------------------------------------------


def image_name(release: str) -> str:
    """The image of a release for the recipe as it is now: a changed recipe is another image."""
    recipe = hashlib.sha256()
    for part in ("packages.txt", "configure.sh"):
        recipe.update((HERE / part).read_bytes())
    return f"localhost/evenkeel-lab:{release}-{recipe.hexdigest()[:12]}"


def build_image(release: str, *, force: bool = False, containerfile: bool = False) -> str:
    """The image of a release, built unless podman's storage has it. Returns its name."""
    image = image_name(release)
    if not force and run([*engine(), "image", "exists", image], check=False).returncode == 0:
        return image
    say(f"building {image}, which takes a minute or two")
    start = time.monotonic()
    if containerfile or not shutil.which("mmdebstrap", path=TOOL_PATH):
        built = build_from_containerfile(release)
    else:
        built = build_with_mmdebstrap(release)
    podman("tag", built, image)
    say(f"built {image} in {time.monotonic() - start:.0f} s")
    # What earlier recipes left. An image with hosts on it is refused, and goes the next time.
    for old in podman("images", "--quiet", "--no-trunc", "--filter", f"label=evenkeel.lab.release={release}").split():
        if old.removeprefix("sha256:") != built:
            podman("rmi", old, check=False)
    return image


def build_from_containerfile(release: str) -> str:
    """Build with podman alone. LAB_BASE_IMAGE names another base than the official image. Returns the id."""
    base = os.environ.get("LAB_BASE_IMAGE", f"debian:{release}-slim")
    return podman(
        *("build", "--quiet", "--squash-all", "--isolation", "chroot"),
        *("--label", f"evenkeel.lab.release={release}"),
        *("--build-arg", f"BASE={base}", "--file", str(HERE / "Containerfile"), str(HERE)),
    ).splitlines()[-1]


def build_with_mmdebstrap(release: str) -> str:
    """Build from packages, through this machine's own mirrors. Returns the image's id."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    packages = ",".join(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    work = STATE / "build"
    # A killed build leaves its tree here.
    run(["rm", "-rf", "--one-file-system", str(work)])
    work.mkdir(mode=0o755)
    try:
        with (
            subprocess.Popen(
                # In a mount namespace of its own: what it mounts is gone when it is killed.
                [
                    "unshare",
                    "--mount",
                    "mmdebstrap",
                    "--mode=root",
                    "--variant=minbase",
                    "--format=tar",
                    f"--include={packages}",
                ]
                + [f"--aptopt={option}" for option in apt_options()]
                + [f'--customize-hook=cp {shlex.quote(str(HERE / "configure.sh"))} "$1/configure.sh"']
                + ['--customize-hook=chroot "$1" sh /configure.sh', '--customize-hook=rm "$1/configure.sh"']
                + [release, "-", *apt_sources(release)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "PATH": TOOL_PATH, "TMPDIR": str(work)},
            ) as tree,
            subprocess.Popen(
                [*engine(), "import", "--quiet", "--change", f"LABEL=evenkeel.lab.release={release}"]
                + ["--change", "STOPSIGNAL=SIGRTMIN+3", "--change", 'CMD=["/sbin/init"]', "-"],
                stdin=tree.stdout,
                stdout=subprocess.PIPE,
                text=True,
            ) as imported,
        ):
            assert tree.stdout and tree.stderr and imported.stdout
            tree.stdout.close()  # podman holds the only reading end, so that mmdebstrap ends when podman does
            said = []
            for line in tree.stderr:
                said.append(line.strip())
                if line.startswith("I: ") and line.endswith("...\n"):
                    say(f"  {line[3:].strip()}")
            image = imported.stdout.read().strip().removeprefix("sha256:")
    finally:
        run(["rm", "-rf", "--one-file-system", str(work)])
    if tree.returncode or imported.returncode or not image:
        if image:
            podman("rmi", image, check=False)  # made of half an archive
        reasons = [line for line in said if line.startswith("E: ")] or said[-5:]
        raise LabError(f"the image of {release} could not be built: {' / '.join(reasons)}")
    return image


def apt_sources(release: str) -> list[str]:
    """This machine's Debian mirrors, as sources.list lines of a release; none where they are not Debian's."""
    here = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line).get(
        "VERSION_CODENAME", ""
    )
    fields = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    targets = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], check=False).stdout
    sources = []
    for target in targets.splitlines():
        origin, suite, component, uri = target.split("|", 3)
        base, dash, pocket = suite.partition("-")
        # Where apt was never updated the origin is not known, and stays as it was written in the format.
        if origin not in ("Debian", "$(ORIGIN)") or component != "main" or not uri.startswith("http"):
            continue
        if base in (here, "stable", "oldstable") and pocket in ("", "updates", "security"):
            sources.append(f"deb {uri} {release}{dash}{pocket} main")
    return list(dict.fromkeys(sources))


def apt_options() -> list[str]:
    """How this machine's apt gets at its mirrors (proxies, clock checks, retries): hosts need the same."""
    dump = run(["apt-config", "dump"], check=False).stdout.splitlines()
    return [line for line in dump if re.match(r"Acquire::(https?::|Check-|Retries|ForceIPv)", line)]


# -- The lab -------------------------------------------------------------------------------------------------


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
        self.path = STATE / name
        self._wanted = hosts
        self._release = release
        self._owner: str | None = None
        self._existed = False

    # What a test or a person needs to reach the hosts.

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
            raise LabError(f"no lab '{self.name}' in {STATE}: start it with 'lab.py up --name {self.name}'")
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
        """Make the lab what it shall be, from what is there: nothing, all of it, or what a killed run left.

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

    def recreate(self, name: str) -> Host:
        """Put a fresh host in the place of one: same name and address, fresh disk, host keys of its own."""
        host = self.host(name)
        with locked():
            self._refuse_others()
            record = self._record()
            podman("rm", "--force", "--time", "0", "--ignore", self._container(name))
            shutil.rmtree(self.path / "hosts" / name, ignore_errors=True)
            self.connect(name)
            self._reconcile(record["release"], build_image(record["release"]), self._network(), self.hosts)
        return host

    # What happens to hosts.

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
        interactive = () if input is None else ("--interactive",)
        return run(
            [*engine(), "exec", *interactive, self._container(host), *argv],
            check=check,
            input=input,
            timeout=timeout,
        )

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
        pid = podman("inspect", "--format", "{{.State.Pid}}", self._container(self.host(host).name))
        identity = process_identity(int(pid)) if pid != "0" else None
        return int(identity.partition(":")[2]) if identity else None

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

    # From here on: how it is done.

    def _container(self, host: str) -> str:
        return f"evenkeel-{self.name}-{host}"

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads((self.path / "lab.json").read_text())
        except FileNotFoundError:
            return {}
        return dict(record)

    def _cut(self) -> set[str]:
        """Addresses of the hosts that are disconnected now: what the kernel says, no record of our own."""
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
        """Remove labs whose process was killed, and what is left under our name without a record of it."""
        for network in networks():
            pid = network.owner.partition(":")[0]
            if pid and process_identity(int(pid)) != network.owner:
                say(f"lab '{network.root.name}': removed, its process was killed")
                remove(network.root.name)
                shutil.rmtree(network.root, ignore_errors=True)
        self._refuse_others()
        ours = [network.root for network in networks(self.name)] == [self.path]
        if not (ours and (self.path / "lab.json").exists()):
            remove(self.name)
            shutil.rmtree(self.path, ignore_errors=True)

    def _network(self) -> Network:
        """The lab's network, made if it is not there; podman chooses its subnet so that none collide."""
        if not networks(self.name):
            labels = [f"--label=evenkeel.lab.root={self.path}"]
            if self._owner:
                labels.append(f"--label=evenkeel.lab.owner={self._owner}")
            # The name is never used again: what podman remembers of a name outlives the network.
            podman("network", "create", "--disable-dns", *labels, f"evenkeel-{self.name}-{secrets.token_hex(3)}")
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
        """Write into each new host's disk, before its first boot, who it is and who may log in."""
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
        """Write what is needed to reach the hosts."""
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
        """Under sudo, what is needed to reach the hosts belongs to the person who called."""
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


def networks(lab: str | None = None) -> list[Network]:
    """The networks of a lab, of which there is one or none; without a name those of all labs of this machine."""
    found = []
    for entry in json.loads(podman("network", "ls", "--format", "json")):
        labels = entry.get("labels") or {}
        root = Path(labels.get("evenkeel.lab.root", ""))
        if root.parent.name == STATE.name and lab in (None, root.name):
            subnet = entry["subnets"][0]["subnet"]
            found.append(Network(entry["name"], subnet, root, labels.get("evenkeel.lab.owner", "")))
    return found


def firewall_table(lab: str) -> str:
    """Name of the table in the machine's firewall that disconnects hosts of a lab."""
    return f"evenkeel_{lab.replace('-', '_')}"


def containers(lab: str) -> list[tuple[str, str, bool, str]]:
    """Containers of a lab: host, state, whether it ever ran, container id."""
    found = json.loads(podman("ps", "--all", "--filter", f"label=evenkeel.lab={lab}", "--format", "json") or "[]")
    return [
        (
            entry["Labels"]["evenkeel.lab.host"],
            entry["State"],
            entry["State"] not in ("created", "initialized", "configured"),
            entry["Id"],
        )
        for entry in found
    ]


def remove(lab: str) -> None:
    """Remove the containers, the network and the firewall table of a lab, as far as they are there."""
    ids = [container for _, _, _, container in containers(lab)]
    if ids:
        podman("rm", "--force", "--time", "0", *ids)
    for network in networks(lab):
        podman("network", "rm", network.name)
    table = f"bridge {firewall_table(lab)}"
    nft(f"add table {table}\ndelete table {table}\n")


def nft(rules: str) -> None:
    """Apply rules to the machine's firewall, all or none."""
    run(["nft", "--file", "-"], input=rules)


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
    """Write a file of a host's disk, in place of whatever the image has there."""
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(mode)


def kernel_options() -> list[str]:
    """What a host's kernel command line would say: in a container, systemd reads its own arguments for it."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return []
    return ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]  # systemd of Debian 13 refuses the older cgroups otherwise


def limit(name: str, wanted: int) -> str:
    """A ulimit for a host; one above the machine's own would be refused."""
    import resource

    hard = resource.getrlimit({"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}[name])[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return f"{name}={value}:{value}"


def banner(address: str, port: int = 22) -> bool:
    """Whether an SSH server greets at an address, within a second."""
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


# -- The command line ----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    assert __doc__
    top = argparse.ArgumentParser(
        prog="lab.py",
        description=__doc__,
        epilog="Example: lab.py up --hosts 5 && ansible -i .lab/dev/inventory.yml web -m ping; lab.py down",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, *, host: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name != "build":
            sub.add_argument("--name", default="dev", help="which lab (default: dev)")
        if host:
            sub.add_argument("host", metavar="HOST", help=host)
        return sub

    up = command("up", "start a lab, or bring one that is there to what is asked for")
    up.add_argument("--hosts", type=int, metavar="N", help="how many (default: as many as it has, or five)")
    up.add_argument("--release", choices=RELEASES, help=f"Debian release of the hosts (default: {RELEASES[0]})")
    command("down", "remove a lab: every container, network and file of it")
    command("status", "show each host with its address and state")
    which = command("inventory", "print the path of the lab's inventory")
    which.add_argument("--user", choices=USERS, default="root", help="whom to log in as (default: root)")
    ssh = command("ssh", "log in to a host, or run a command there, over SSH", host="name of the host")
    ssh.add_argument("--user", choices=USERS, default="root", help="whom to log in as (default: root)")
    ssh.add_argument("argv", nargs=argparse.REMAINDER, metavar="[-- CMD]", help="a command instead of a shell")
    run_ = command(
        "exec",
        "run a command on a host's console, which needs neither network nor sshd",
        host="name of the host",
    )
    run_.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command")
    command("reboot", "reboot a host from inside, and wait for it", host="name of the host")
    command("start", "start a stopped host", host="name of the host")
    stop = command("stop", "shut a host down", host="name of the host")
    stop.add_argument("--now", action="store_true", help="pull the plug")
    command("disconnect", "drop all packets to and from a host", host="name of the host")
    command("connect", "undo disconnect", host="name of the host")
    add = command("add", "start one more, fresh host", host="name of the new host")
    add.add_argument("--group", default="web", help="its inventory group (default: web)")
    command("recreate", "put a fresh host in the place of one, with its name and address", host="name of the host")
    build = command("build", "build the image of the hosts, if it is not there or its recipe changed")
    build.add_argument("--release", choices=RELEASES, default=RELEASES[0], help=f"(default: {RELEASES[0]})")
    build.add_argument("--force", action="store_true", help="build it even so")
    build.add_argument("--containerfile", action="store_true", help="build it without mmdebstrap")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (of exec and ssh: the command's own)."""
    args = parser().parse_args(argv)
    try:
        return perform(args)
    except LabError as error:
        say(f"lab.py: {error}")
        if args.command == "up":
            say(f"lab.py: 'up' again goes on, 'down --name {args.name}' removes what there is")
        return 1
    except KeyboardInterrupt:
        say("lab.py: interrupted; run the same again to go on, or 'lab.py down' to remove what is there")
        return 130


def perform(args: argparse.Namespace) -> int:
    """Do what the command line asks for."""
    if args.command == "build":
        prepare_machine()
        with locked():
            print(build_image(args.release, force=args.force, containerfile=args.containerfile))
        return 0
    if args.command == "up":
        print(Lab(args.name, args.hosts, args.release).up().inventory)
        return 0
    lab = Lab(args.name)
    if args.command == "down":
        lab.down()
        return 0
    if args.command == "inventory":
        lab.hosts  # noqa: B018  a path to nothing would be no answer
        print(lab.inventory_as(args.user))
        return 0
    if args.command == "ssh":
        lab.host(args.host)
        command = [arg for n, arg in enumerate(args.argv) if n or arg != "--"]
        os.execvp("ssh", ["ssh", "-F", str(lab.ssh_config), "-l", args.user, args.host, *command])
    if os.geteuid() != 0:
        raise LabError(f"'{args.command}' needs root: run it with sudo")
    if args.command == "status":
        for host, state in lab.status():
            print(f"{host.name:12} {host.address:15} {host.rack:6} {state}")
    elif args.command == "exec":
        lab.host(args.host)
        command = [arg for n, arg in enumerate(args.argv) if n or arg != "--"]
        if not command:
            raise LabError("exec needs a command: lab.py exec HOST -- CMD")
        terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        os.execvp(engine()[0], [*engine(), "exec", "--interactive", *terminal, lab._container(args.host), *command])
    elif args.command == "reboot":
        say(f"'{args.host}' rebooted in {lab.reboot(args.host):.1f} s")
    elif args.command == "stop":
        lab.stop(args.host, now=args.now)
    elif args.command == "add":
        say(f"added {lab.add(args.host, group=args.group)}")
    else:
        getattr(lab, args.command)(args.host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
