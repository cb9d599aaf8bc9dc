# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The restarts that a host owes, on hosts that are made of files: what counts, at which level, and what does not."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import job
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting.target import Request
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import Owed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import owed as owing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.kernels import order
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.owed import owed

RUNS = "6.1.0-18-amd64"
BUILD = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)"
LIBRARY = "/usr/lib/libz.so.1.3"
SESSION = "user.slice/user-1000.slice/session-3.scope"


class Host:
    """A host below a directory: files in ``root``, processes in ``proc``, and a systemd that knows ``units``."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "root", folder / "proc"
        self.units: dict[str, dict[str, str]] = {}
        self.version = "257 (257.5-2)"
        self.asked: list[tuple[str, ...]] = []
        self.add("/usr/lib/ek/init")
        self.add(LIBRARY)
        kernel = self.proc / "sys" / "kernel"
        kernel.mkdir(parents=True)
        (kernel / "osrelease").write_text(f"{RUNS}\n")
        (kernel / "version").write_text(f"{BUILD}\n")
        self.process(1, "systemd", "init.scope", program="/usr/lib/ek/init")

    def add(self, path: str, content: bytes = b"\x7fELF") -> Path:
        found = self.root / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_bytes(content)
        return found

    def process(
        self, pid: int, name: str, place: str, *mapped: str, program: str = "/usr/sbin/app", world: str = "mnt:[1]"
    ) -> Path:
        """A process in a control group. ``mapped``: paths, or whole lines of the kernel."""
        folder = self.proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "ns" / "mnt").symlink_to(world)
        (folder / "root").symlink_to(self.root)
        (folder / "exe").symlink_to(program)
        (folder / "stat").write_text(f"{pid} ({name}) S 1 {pid} {pid} 0 -1 0 " + "0 " * 12 + f"{pid} 0 0\n")
        (folder / "cgroup").write_text(f"0::/{place}\n")
        lines = [one if "-" in one.split(" ")[0] else f"7f00-7f01 r-xp 00000000 08:01 77   {one}" for one in mapped]
        (folder / "maps").write_text("".join(f"{line}\n" for line in lines))
        return folder

    def service(self, pid: int, name: str, *mapped: str, program: str = "/usr/sbin/app", **more: str) -> Path:
        """A process of a service, which is its main process unless that is known already."""
        unit = f"{name}.service"
        self.units.setdefault(unit, {"Id": unit, "LoadState": "loaded", "MainPID": str(pid), **more})
        return self.process(pid, name, f"system.slice/{unit}", *mapped, program=program)

    def run(self, argv: Sequence[str], _timeout: float) -> Completed:
        self.asked.append(tuple(argv))
        if "--property=Version" in argv:
            return Completed(tuple(argv), 0, f"{self.version}\n", "")
        blocks = ["\n".join(f"{key}={value}" for key, value in self.units[unit].items()) for unit in argv[4:]]
        return Completed(tuple(argv), 0, "\n\n".join(blocks), "")

    @property
    def system(self) -> System:
        return System(run=self.run, has_systemd=lambda: True)

    def owes(self, system: System | None = None) -> list[Owed]:
        return owed(system or self.system, str(self.proc), str(self.root))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def levels(found: Sequence[Owed]) -> dict[str, str]:
    return {one.unit: one.level for one in found}


def test_a_host_on_which_nothing_was_replaced_owes_nothing(host: Host) -> None:
    host.service(20, "app", LIBRARY)
    assert host.owes() == []


def test_a_service_that_runs_a_replaced_library_owes_a_restart(host: Host) -> None:
    host.service(20, "app", f"{LIBRARY} (deleted)")
    assert host.owes() == [Owed("service", "app.service", [LIBRARY], ["app[20]"])]


def test_a_service_whose_program_was_replaced_owes_a_restart(host: Host) -> None:
    host.add("/usr/sbin/app")
    host.service(20, "app", program="/usr/sbin/app (deleted)")
    assert host.owes() == [Owed("service", "app.service", ["/usr/sbin/app"], ["app[20]"])]


def test_a_library_that_has_gone_with_its_old_version_counts(host: Host) -> None:
    host.service(20, "app", "/opt/app/lib/libx.so.1.2.3 (deleted)")
    assert host.owes()[0].why == ["/opt/app/lib/libx.so.1.2.3"]


def test_another_file_of_the_same_file_system_at_its_name_counts_without_the_mark(host: Host) -> None:
    found = os.stat(host.root / LIBRARY.lstrip("/"))
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    host.service(20, "same", f"7f00-7f01 r-xp 00000000 {device} {found.st_ino}   {LIBRARY}")
    host.service(21, "layered", f"7f00-7f01 r-xp 00000000 ff:99 {found.st_ino + 1}   {LIBRARY}")
    assert host.owes() == []
    host.service(22, "other", f"7f00-7f01 r-xp 00000000 {device} {found.st_ino + 1}   {LIBRARY}")
    assert levels(host.owes()) == {"other.service": "service"}


@pytest.mark.parametrize(
    "path",
    [
        "/memfd:JITCode:QtQml",
        "/memfd:runc_cloned:/proc/self/exe",
        "/dev/shm/x",
        "/dev/zero",
        "/SYSV00000000",
        "/tmp/ffiR9RirH",
        "/var/tmp/x.so",
        "/run/user/0/x.so",
        "/[aio]",
        "/i915",
        "/drm mm object",
        "/var/lib/graylog-server/.cache/JNA/temp/jna9813714574390699375.tmp",
        "/var/lib/nagios3/spool/checkresults/nebmodkl9VxP",
        "/root/ffiAb12Cd",
        "/home/kit/.cache/x.so",
    ],
)
def test_files_that_programs_make_for_themselves_do_not_count(host: Host, path: str) -> None:
    host.service(20, "app", f"{path} (deleted)")
    host.service(21, "program", program=f"{path} (deleted)")
    assert host.owes() == []


def test_data_and_files_that_are_really_named_so_do_not_count(host: Host) -> None:
    host.add("/opt/real (deleted)")
    host.service(20, "app", "/opt/real (deleted)", f"7f00-7f01 r--p 00000000 08:01 9   {LIBRARY} (deleted)")
    assert host.owes() == []


def test_containers_do_not_count_and_sandboxes_of_services_do(host: Host, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    contained = host.process(30, "pause", "machine.slice/c.scope", f"{LIBRARY} (deleted)", world="mnt:[2]")
    (contained / "root").unlink()
    (contained / "root").symlink_to(tmp_path / "image")
    assert host.owes() == []
    host.units["app.service"] = {"Id": "app.service", "LoadState": "loaded", "MainPID": "31"}
    host.process(31, "app", "system.slice/app.service", f"{LIBRARY} (deleted)", world="mnt:[3]")
    assert levels(host.owes()) == {"app.service": "service"}


def test_a_service_that_changed_its_root_directory_alone_counts(host: Host, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = host.service(20, "named", f"{LIBRARY} (deleted)")
    (folder / "root").unlink()
    (folder / "root").symlink_to(tmp_path / "empty")
    assert levels(host.owes()) == {"named.service": "service"}


def test_units_are_found_below_the_control_group_of_our_own_systemd(host: Host) -> None:
    (host.proc / "1" / "cgroup").write_text("0::/machine.slice/libpod-1.scope/init.scope\n")
    folder = host.service(20, "app", f"{LIBRARY} (deleted)")
    (folder / "cgroup").write_text("1:name=systemd:/machine.slice/libpod-1.scope/system.slice/app.service\n0::/\n")
    assert levels(host.owes()) == {"app.service": "service"}


def test_logins_and_processes_without_a_unit_are_named_and_nothing_more(host: Host) -> None:
    host.process(20, "bash", SESSION, f"{LIBRARY} (deleted)")
    host.process(21, "tmux", "user.slice/user-1000.slice/user@1000.service/app.slice/x.service", f"{LIBRARY} (deleted)")
    host.process(22, "lost", "", f"{LIBRARY} (deleted)")
    assert host.owes() == [Owed("process", "", [LIBRARY], ["bash[20]", "tmux[21]", "lost[22]"])]


@pytest.mark.parametrize(
    "more",
    [
        {"Type": "oneshot"},
        {"Transient": "yes"},
        {"LoadState": "not-found"},
        {"Type": "simple", "TriggeredBy": "job.timer", "UnitFileState": "static"},
    ],
)
def test_a_unit_that_cannot_be_started_again_as_it_was_is_not_to_be_restarted(host: Host, more: dict[str, str]) -> None:
    host.service(20, "job", f"{LIBRARY} (deleted)", **more)
    assert host.owes() == [Owed("process", "", [LIBRARY], ["job[20]"])]


def test_a_service_that_runs_by_itself_and_has_a_timer_too_is_restarted(host: Host) -> None:
    host.service(20, "app", f"{LIBRARY} (deleted)", TriggeredBy="app.timer", UnitFileState="enabled")
    host.service(21, "asked", f"{LIBRARY} (deleted)", TriggeredBy="asked.socket", UnitFileState="static")
    assert levels(host.owes()) == {"app.service": "service", "asked.service": "service"}


def test_a_connection_of_a_socket_is_a_login(host: Host) -> None:
    host.service(20, "rsync@4-10.0.0.1:873-10.0.0.2:41234", f"{LIBRARY} (deleted)")
    host.service(21, "sshd@4-77", f"{LIBRARY} (deleted)", UnitFileState="static")
    assert levels(host.owes()) == {"": "process"}


@pytest.mark.parametrize("name", ["sshd@inside", "run-backup"])
def test_a_service_that_an_administrator_has_enabled_is_neither_a_login_nor_of_systemd(host: Host, name: str) -> None:
    host.service(20, name, f"{LIBRARY} (deleted)", UnitFileState="enabled")
    assert levels(host.owes()) == {f"{name}.service": "service"}


def test_units_of_a_change_under_way_are_ours(host: Host) -> None:
    host.service(20, "evenkeel-watch", f"{LIBRARY} (deleted)")
    assert host.owes() == []


def test_processes_that_a_restart_leaves_alone_do_not_make_it_due(host: Host) -> None:
    host.service(20, "ssh", KillMode="process")
    host.process(25, "sshd", "system.slice/ssh.service", f"{LIBRARY} (deleted)")
    host.service(40, "app", KillMode="control-group")
    host.process(39, "survivor", "system.slice/app.service", f"{LIBRARY} (deleted)")
    assert host.owes() == [Owed("process", "", [LIBRARY], ["sshd[25]", "survivor[39]"])]
    host.process(41, "worker", "system.slice/app.service", f"{LIBRARY} (deleted)")
    assert host.owes()[0] == Owed("service", "app.service", [LIBRARY], ["worker[41]"])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dbus", {}),
        ("dbus-broker", {}),
        ("systemd-logind", {}),
        ("getty@tty1", {}),
        ("gdm", {}),
        ("auditd", {"RefuseManualStop": "yes"}),
        ("early", {"RefuseManualStart": "yes"}),
    ],
)
def test_units_that_a_running_system_needs_owe_a_soft_reboot(host: Host, name: str, more: dict[str, str]) -> None:
    host.service(20, name, f"{LIBRARY} (deleted)", **more)
    assert levels(host.owes()) == {f"{name}.service": "soft-reboot"}
    host.version = "252.39-1~deb12u2"
    assert levels(host.owes()) == {f"{name}.service": "reboot"}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "docker",
            "containerd",
            "openvpn@office",
            "openvpn-server@a",
            "NetworkManager",
            "wpa_supplicant",
            "bird",
            "frr",
        ),
        *(
            "tinc@x",
            "strongswan-starter",
            "ipsec",
            "libvirtd",
            "virtlogd",
            "virtlockd",
            "xendomains",
            "corosync",
            "drbd",
        ),
        *("pacemaker", "systemd-nspawn@web", "networking"),
        *("systemd-networkd", "nftables", "multipathd", "iscsid", "ifup@eth0", "firewalld", "dhclient"),
    ],
)
def test_a_unit_on_which_others_depend_is_restarted_only_by_its_name(host: Host, name: str) -> None:
    host.service(20, name, f"{LIBRARY} (deleted)")
    assert host.owes() == [Owed("by-name", f"{name}.service", [owing.BY_NAME_WHY, LIBRARY], [f"{name}[20]"])]


def test_a_restart_of_what_is_owed_names_what_it_leaves_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.service(20, "docker", f"{LIBRARY} (deleted)")
    monkeypatch.setattr(job, "owed", lambda _system: host.owes())
    made = job.Every(Request(None, None, None, [], Times(0.0, 0.0, 0.0), owed=True), [], host.system)
    assert made.predicted().left == [f"docker.service: {owing.BY_NAME_WHY}"] and not made.result.planned
    done = made.carry_out()
    assert not done.done and done.left == made.left and "docker.service" in (done.warnings or [""])[0]
    assert [one.unit for one in done.owed] == ["docker.service"]


def test_the_first_process_owes_a_soft_reboot_where_there_is_one(host: Host) -> None:
    (host.proc / "1" / "maps").write_text("7f00-7f01 r-xp 0 08:01 9   /usr/lib/libc.so.6 (deleted)\n")
    (found,) = host.owes()
    assert (found.level, found.unit) == ("soft-reboot", "") and "/usr/lib/libc.so.6" in found.why[0]
    (host.root / "run/systemd").mkdir(parents=True)
    (host.root / "run/systemd/container").write_text("podman\n")
    assert [one.level for one in host.owes()] == ["reboot"]


def test_systemd_is_asked_for_its_version_only_where_it_matters(host: Host) -> None:
    host.service(20, "app", f"{LIBRARY} (deleted)")
    host.owes()
    assert len(host.asked) == 1


def test_a_unit_file_or_a_script_that_changed_after_the_start_is_owed(host: Host) -> None:
    started = time.clock_gettime(time.CLOCK_BOOTTIME) - 60
    folder = host.service(20, "app", program="/usr/bin/python3")
    ticks = int(started * os.sysconf("SC_CLK_TCK"))
    (folder / "stat").write_text("20 (app) S 1 20 20 0 -1 0 " + "0 " * 12 + f"{ticks} 0 0\n")
    script, program = host.add("/usr/bin/app.py", b"#!/usr/bin/python3\n"), host.add("/usr/bin/sh")
    control = host.add("/etc/systemd/system.control/app.service.d/50-CPUWeight.conf", b"[Service]\n")
    line = "{{ path={0} ; argv[]={0} {1} ; ignore_errors=no }}"
    host.units["app.service"]["ExecStart"] = line.format("/usr/bin/python3", script)
    assert host.owes() == [Owed("service", "app.service", [f"{script} changed after its start"], ["app[20]"])]
    # Machine code is mapped by whoever runs it: the program of the line may have become another one.
    host.units["app.service"]["ExecStart"] = line.format(program, "")
    assert host.owes() == []
    host.units["app.service"]["NeedDaemonReload"] = "yes"
    assert "not read them again" in host.owes()[0].why[0]
    later = replace(host.system, now=lambda: time.time() + 120)  # as if the file were older than the process
    host.units["app.service"] = {**host.units["app.service"], "NeedDaemonReload": "no", "FragmentPath": str(script)}
    assert host.owes() and not host.owes(later)
    host.units["app.service"] = {**host.units["app.service"], "FragmentPath": "", "DropInPaths": str(control)}
    assert host.owes() == []


@pytest.fixture
def scripted(host: Host) -> Host:
    """A host with a service that reads the file /home/kit/app.env, which is newer than the service."""
    folder = host.service(20, "app", EnvironmentFiles=f"{host.root}/home/kit/app.env (ignore_errors=no)")
    ticks = int((time.clock_gettime(time.CLOCK_BOOTTIME) - 60) * os.sysconf("SC_CLK_TCK"))
    (folder / "stat").write_text("20 (app) S 1 20 20 0 -1 0 " + "0 " * 12 + f"{ticks} 0 0\n")
    (host.root / "home/kit").mkdir(parents=True)
    return host


@pytest.mark.parametrize("through", ["pipe", "link"])
def test_a_pipe_in_place_of_a_file_of_a_unit_is_not_waited_for(scripted: Host, through: str) -> None:
    place = scripted.root / "home/kit" / ("app.env" if through == "pipe" else "pipe")
    os.mkfifo(place)
    if through == "link":
        (scripted.root / "home/kit/app.env").symlink_to(place)
    (found,) = owed(scripted.system, str(scripted.proc), str(scripted.root), seconds=0.3)
    assert found.unit == "app.service" and found.why[0].endswith("app.env changed after its start")


@pytest.mark.skipif(os.geteuid() != 0, reason="a device needs root")
def test_a_device_in_place_of_a_file_of_a_unit_is_not_opened(scripted: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mknod(scripted.root / "home/kit/device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/watchdog
    (scripted.root / "home/kit/app.env").symlink_to(scripted.root / "home/kit/device")
    opened: list[int] = []
    really = os.open

    def noted(path: str, flags: int, *more: int) -> int:
        opened.append(flags & os.O_PATH)
        return really(path, flags, *more)

    monkeypatch.setattr(os, "open", noted)
    assert scripted.owes()[0].unit == "app.service" and opened and all(opened)


def test_a_file_of_a_unit_that_holds_us_up_is_given_up(scripted: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(owing, "newer", lambda _paths, _than: str(over.wait(5)))  # as a file system that is away
    monkeypatch.setattr(owing, "_FILES", 0.1)
    (scripted.proc / "20/maps").write_text(f"7f00-7f01 r-xp 00000000 08:01 77   {LIBRARY} (deleted)\n")
    found = owed(scripted.system, str(scripted.proc), str(scripted.root), seconds=0.2)
    over.set()
    assert [(one.level, one.unit) for one in found] == [("service", "app.service"), ("unknown", "")]
    assert "not all files of units" in found[1].why[0]


def test_a_newer_kernel_is_owed_a_reboot_and_an_older_one_is_not(host: Host) -> None:
    host.add("/boot/vmlinuz-6.1.0-9-amd64")
    host.add(f"/boot/vmlinuz-{RUNS}")
    host.add("/boot/vmlinuz-6.1.0-21-amd64.old")
    host.add("/boot/vmlinuz-0-rescue-0123")
    (host.root / "lib/modules/6.9.0-1-amd64/kernel").mkdir(parents=True)  # a removed kernel has left its modules
    assert host.owes() == []
    host.add("/boot/vmlinuz-6.1.0-20-amd64")
    host.add("/lib/modules/6.1.0-21-amd64/vmlinuz")
    (found,) = host.owes()
    assert (found.level, found.unit) == ("reboot", "")
    assert found.why == [f"the kernel 6.1.0-21-amd64 is installed, and {RUNS} runs"]


def test_a_kernel_that_the_boot_has_passed_over_is_not_owed(host: Host) -> None:
    host.add("/boot/vmlinuz-6.1.0-20-amd64")
    assert host.owes()
    assert not host.owes(replace(host.system, now=lambda: time.time() + 10 * 365 * 86400))


def test_a_kernel_of_another_flavour_is_not_owed(host: Host) -> None:
    host.add("/boot/vmlinuz-6.1.0-20-rt-amd64")
    host.add("/boot/vmlinuz-6.1.0-20-cloud-amd64")
    assert host.owes() == []


def test_a_container_has_no_kernel_of_its_own(host: Host) -> None:
    host.add("/boot/vmlinuz-6.1.0-20-amd64")
    (host.proc / "1" / "environ").write_text("container=lxc\0")
    assert host.owes() == []


@pytest.mark.parametrize(("build", "is_owed"), [(BUILD, False), (BUILD.replace("76", "90"), True)])
def test_a_new_build_of_the_same_release_is_owed_a_reboot(host: Host, build: str, is_owed: bool) -> None:
    text = f"{RUNS} (debian-kernel@lists.debian.org) {build}\0".encode()
    header = bytearray(0x400)
    header[0x202:0x206], header[0x20E:0x210] = b"HdrS", (0x180).to_bytes(2, "little")
    host.add(f"/boot/vmlinuz-{RUNS}", bytes(header[:0x380]) + text)
    assert bool(host.owes()) is is_owed


def test_releases_are_ordered_as_packages_are() -> None:
    rising = [
        *("5.14.0-427.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64", "5.14.0-427.20.1.el9_4.x86_64"),
        *("6.1.0-9-amd64", "6.1.0-18-amd64", "6.8.0-rc7", "6.8.0", "6.8.1-arch1-1", "6.10.2"),
    ]
    assert sorted(set(rising), key=order) == rising


def test_the_distribution_asks_for_a_reboot(host: Host) -> None:
    host.add("/run/reboot-required", b"*** System restart required ***\n")
    host.add("/run/reboot-required.pkgs", b"linux-base\nlibc6\nlibc6\n")
    (found,) = host.owes()
    assert found.level == "reboot" and found.why[0].endswith("linux-base, libc6")


def test_what_is_told_is_bounded(host: Host) -> None:
    for number in range(30):
        host.process(100 + number, "x" * 15, SESSION, f"/opt/{number}/{'y' * 4000} (deleted)")
    (found,) = host.owes()
    assert len(found.processes) == len(found.why) == 6 and found.why[-1] == "and 25 more"
    assert max(map(len, found.why)) <= 300


@pytest.mark.skipif(os.geteuid() != 0, reason="processes of another user need root")
def test_roots_processes_come_first_and_a_look_that_takes_too_long_says_so(host: Host) -> None:
    host.service(90, "app", f"{LIBRARY} (deleted)")
    for pid in range(20, 40):
        os.chown(host.process(pid, "user", SESSION, *[f"/opt/{at}" for at in range(50)]), 1000, 1000)
    asked: list[int] = []

    def clock() -> float:
        asked.append(1)
        return len(asked) / 100

    found = host.owes(replace(host.system, monotonic=clock))
    assert levels(found[:1]) == {"app.service": "service"} and found[-1].level == "unknown"
    assert "not all processes" in found[-1].why[0]


def test_nobody_who_holds_up_a_read_holds_us_up(host: Host) -> None:
    host.service(20, "app", f"{LIBRARY} (deleted)")
    folder = host.process(21, "stuck", SESSION)
    (folder / "maps").unlink()
    os.mkfifo(folder / "maps")  # as a process whose mappings cannot be read
    began = time.monotonic()
    found = owed(host.system, str(host.proc), str(host.root), seconds=0.3)
    assert time.monotonic() - began < 2
    assert [one.level for one in found] == ["service", "unknown"]
    with (folder / "maps").open("w"):  # let the reader go
        pass
    assert threading.active_count() >= 1


def test_a_systemd_that_does_not_answer_is_said(host: Host) -> None:
    host.service(20, "app", f"{LIBRARY} (deleted)")
    silent = replace(host.system, run=lambda argv, _timeout: Completed(tuple(argv), 1, "", "no bus"))
    found = host.owes(silent)
    assert [one.level for one in found] == ["process", "unknown"] and "no bus" in found[1].why[0]


def test_a_host_without_systemd_names_its_processes(host: Host) -> None:
    host.service(20, "app", f"{LIBRARY} (deleted)")
    assert levels(host.owes(replace(host.system, has_systemd=lambda: False))) == {"": "process"}
