# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes with a boot in them on a virtual machine with a boot loader, a kernel and file systems of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import FIRMWARE, SAVED, Machine, base, efi

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / ".build/vm/measured"
# The state that comes back: what the tests change, and what shows it.
STATE = (
    "sha256sum /etc/fstab /etc/systemd/system/lan.service /srv/www/index.html /boot/grub/grub.cfg;"
    " ls /boot /etc/systemd/system /etc/default/grub.d 2>/dev/null | grep -v -e evenkeel -e boot-complete;"
    " findmnt -rno TARGET,SOURCE -t ext4; uname -r"
)
# The guard of evenkeel change would not wait as long as an emulated machine may take, so that the modules are called.
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Begin
      evenkeel.fault_tolerance.ft_checkpoint:
        name: before-boot
        resources:
          - files: {{paths: [/etc, /boot, /srv/www]}}
          - services: {{names: [lan, site, ssh]}}
        confirm_within: {within}s
        reboots: 1
        probes:
          - http: {{url: http://localhost/, timeout: 20s}}
          - command: {{argv: [sh, -c, "findmnt --fstab -rno TARGET -t ext4 | xargs -n 1 mountpoint -q"], timeout: 20s}}
        soak: 5s
        deadline: 40s
        outside: {{paths: []}}
      register: begun
      failed_when: begun.warnings is defined or begun.failed | default(false)
    - name: Change the host
      ansible.builtin.shell: |
        set -e
        echo version 2 >/srv/www/index.html
        {change}
    - name: Boot it
      ansible.builtin.reboot: {{reboot_timeout: 900, reboot_command: systemctl reboot}}
    - name: Confirm
      evenkeel.fault_tolerance.ft_settle:
        generation: "{{{{ begun.generation }}}}"
        probes: [{{http: {{url: http://localhost/, timeout: 20s}}}}]
"""
# A kernel of the same version under a newer name, whose initramfs the test makes.
KERNEL = "cp /boot/vmlinuz-$(uname -r) /boot/vmlinuz-9.9.9-new; {initrd} >/boot/initrd.img-9.9.9-new; update-grub"
INSTALL = KERNEL.replace("update-grub", "kernel-install add 9.9.9-new /boot/vmlinuz-9.9.9-new")
SELECTED = "tr -d '\\0\\6' </sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
EFI_STATE = (
    "find /boot /etc/kernel -type f ! -name random-seed | sort | xargs sha256sum; cat /srv/www/index.html;"
    f" ls /sys/firmware/efi/efivars | grep -e OneShot -e EntryDefault; {SELECTED}; uname -r"
)
HANGS = """printf '[Unit]\\nDefaultDependencies=no\\nBefore=sysinit.target\\n[Service]\\nType=oneshot\\n\
TimeoutStartSec=infinity\\nExecStart=sleep infinity\\n[Install]\\nRequiredBy=sysinit.target\\n' \
>/etc/systemd/system/hangs.service; systemctl enable -q hangs.service"""
FSTAB = "mkdir -p /srv/data; echo 'UUID=12345678-1234-1234-1234-123456789abc /srv/data ext4 {options} 0 2' >>/etc/fstab"
NETWORK = "sed -i s/10.0.2.15/10.99.0.15/ /etc/systemd/system/lan.service"
# Name -> what the change does, how the host comes back (by), and the seconds to confirm.
BROKEN = {
    "network": (NETWORK, "deadline", 400),
    "fstab": (FSTAB.format(options="defaults"), "deadline", 400),
    "fstab-nofail": (FSTAB.format(options="defaults,nofail"), "health", 1200),
    "unit": (HANGS, "deadline", 400),
    "unloadable": (KERNEL.format(initrd="echo broken") + "; echo none >/boot/vmlinuz-9.9.9-new", "boot", 1200),
    "panic": (KERNEL.format(initrd="echo broken"), "boot", 1200),
}


@contextmanager
def making() -> Iterator[Path]:
    """The folder of the machines; of two processes of pytest one makes what is in it."""
    folder = ROOT / ".build/vm"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture
def vm() -> Iterator[Machine]:
    with making() as folder:
        saved = base(folder)
    machine = Machine(folder / f"machine-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}")
    shutil.rmtree(machine.folder, ignore_errors=True)
    shutil.copytree(saved.folder, machine.folder, ignore=shutil.ignore_patterns("monitor"))
    machine.start("-loadvm", SAVED)
    try:
        machine.login()
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def efi_vm() -> Iterator[Machine]:
    """A machine that systemd-boot has started."""
    if not FIRMWARE[0].exists():
        pytest.skip(f"{FIRMWARE[0]} is missing: install ovmf, dosfstools and mtools")
    with making() as folder:
        machine = efi(folder, f"efi-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}")
    machine.start()
    try:
        machine.login()
        yield machine
    finally:
        machine.stop()


def change(vm: Machine, home: Path, script: str, within: int) -> subprocess.Popen[bytes]:
    """A change that runs this script, boots the host, and confirms."""
    (home / "site.yml").write_text(PLAYBOOK.format(change=script.replace("\n", "\n        "), within=within))
    environment = reached(vm, home)
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", "site.yml"]
    with open(home / "said", "w", encoding="utf-8") as said:
        return subprocess.Popen(argv, cwd=home, env=environment, stdout=said, stderr=said, start_new_session=True)


def reached(vm: Machine, home: Path) -> dict[str, str]:
    """Write an inventory with the machine, and return the environment in which Ansible reaches it."""
    where = f"ansible_host=127.0.0.1 ansible_port={vm.port} ansible_user=root"
    (home / "inventory").write_text(f"vm {where} ansible_python_interpreter=/usr/bin/python3\n")
    return {
        **os.environ,
        "ANSIBLE_TIMEOUT": "60",
        "ANSIBLE_PRIVATE_KEY_FILE": str(vm.folder.parent / "key"),
        "ANSIBLE_SSH_COMMON_ARGS": " ".join(["-F", "/dev/null", *vm.ssh_options]),
    }


def evenkeel(vm: Machine, home: Path, words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "evenkeel.cli", *words.split()]
    return subprocess.run(argv, cwd=home, env=reached(vm, home), capture_output=True, text=True, check=False)


def ends(running: subprocess.Popen[bytes]) -> None:
    """Kill the controller with all that it has started."""
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def last(vm: Machine) -> dict[str, object]:
    return dict(json.loads(vm.on("tail -n 1 /var/lib/evenkeel/events")))


def test_a_good_kernel_is_tried_and_confirmed(vm: Machine, tmp_path: Path) -> None:
    script = KERNEL.format(initrd="cat /boot/initrd.img-$(uname -r)")
    running = change(vm, tmp_path, script, 1500)
    assert running.wait(1500) == 0, (tmp_path / "said").read_text() + vm.console[-3000:]
    assert last(vm)["outcome"] == "confirmed"
    assert "vmlinuz-9.9.9-new" in vm.on("cat /proc/cmdline")
    # It is the default as the configuration says, with nothing of ours in it.
    vm.on("! grep -q evenkeel /boot/grub/grub.cfg && ! ls /boot/evenkeel /boot/grub/custom.cfg 2>/dev/null")
    before = vm.on("cat /proc/sys/kernel/random/boot_id").strip()
    vm.ssh("systemctl reboot")
    vm.login(script=f"! grep -q {before} /proc/sys/kernel/random/boot_id")
    assert "vmlinuz-9.9.9-new" in vm.on("cat /proc/cmdline")


@pytest.mark.parametrize("name", BROKEN)
def test_a_host_that_the_change_breaks_at_boot_comes_back(vm: Machine, tmp_path: Path, name: str) -> None:
    script, by, within = BROKEN[name]
    before = vm.on(STATE)
    comes_back(vm, tmp_path, name, script, by, within)
    assert vm.on(STATE) == before
    assert vm.on("cat /srv/www/index.html") == "version 1\n"
    assert "/boot/evenkeel" not in vm.on("cat /proc/cmdline")


def comes_back(vm: Machine, home: Path, name: str, script: str, by: str, within: int) -> None:
    """Change the host, and wait until it has come back by itself."""
    boot = vm.on("cat /proc/sys/kernel/random/boot_id").strip()
    running = change(vm, home, script, within)
    # The controller is killed as the host goes down, so that nobody from outside helps it.
    while "Restarting system" not in vm.console:
        assert running.poll() is None, (home / "said").read_text()
        time.sleep(1)
    began = time.monotonic()
    ends(running)
    # Not all the time: a sick host that the user has logged in to waits for that user.
    over = f"[ ! -e /var/lib/evenkeel/armed ] && ! grep -q {boot} /proc/sys/kernel/random/boot_id"
    vm.login(within + 600, f"{over} && [ ! -e /var/lib/evenkeel/reboot ] && systemctl is-active -q site", every=10)
    with open(MEASURED, "a", encoding="utf-8") as measured:
        measured.write(f"{name}: {time.monotonic() - began:.0f} s from the boot to a login with the old state\n")
    event = last(vm)
    assert (event["outcome"], event["by"], event["left"]) == ("rolled_back", by, []), vm.console[-3000:]


def test_systemd_boot_tries_a_good_kernel_and_it_is_confirmed(efi_vm: Machine, tmp_path: Path) -> None:
    old = efi_vm.on(SELECTED)
    running = change(efi_vm, tmp_path, INSTALL.format(initrd="cat /boot/initrd.img-$(uname -r)"), 1500)
    assert running.wait(1500) == 0, (tmp_path / "said").read_text() + efi_vm.console[-3000:]
    assert last(efi_vm)["outcome"] == "confirmed"
    assert (old, efi_vm.on(SELECTED)) == (old, "vm-9.9.9-new.conf") and old != "vm-9.9.9-new.conf"
    # It is the default as the configuration says, with nothing of ours in it.
    efi_vm.on("! grep -rq evenkeel /boot/efi/loader && ! find /boot /etc/kernel | grep evenkeel")
    efi_vm.on("! ls /sys/firmware/efi/efivars | grep -e OneShot -e EntryDefault")
    before = efi_vm.on("cat /proc/sys/kernel/random/boot_id").strip()
    efi_vm.ssh("systemctl reboot")
    efi_vm.login(script=f"! grep -q {before} /proc/sys/kernel/random/boot_id")
    assert efi_vm.on(SELECTED) == "vm-9.9.9-new.conf"


def test_systemd_boot_leaves_a_kernel_that_panics(efi_vm: Machine, tmp_path: Path) -> None:
    before = efi_vm.on(EFI_STATE)
    comes_back(efi_vm, tmp_path, "systemd-boot-panic", INSTALL.format(initrd="echo broken"), "boot", 1200)
    assert "Unable to mount root fs" in efi_vm.console
    assert efi_vm.on(EFI_STATE) == before


def test_kexec_restarts_a_host_without_its_boot_loader(vm: Machine, tmp_path: Path) -> None:
    """Without its configuration GRUB would wait at its prompt for ever."""
    vm.on("mv /boot/grub/grub.cfg /boot/grub/away")
    before = vm.on("cat /proc/sys/kernel/random/boot_id")
    done = evenkeel(vm, tmp_path, "restart --mode kexec -i inventory --limit vm -T 60")
    assert done.returncode == 0 and "restarted" in done.stderr + done.stdout, done.stdout + done.stderr
    assert vm.on("cat /proc/sys/kernel/random/boot_id") != before and vm.on("systemctl is-active site") == "active\n"


def test_a_new_kernel_is_owed_a_reboot(vm: Machine, tmp_path: Path) -> None:
    vm.on("cp /boot/vmlinuz-$(uname -r) /boot/vmlinuz-9.9.9-1-cloud-amd64")
    done = evenkeel(vm, tmp_path, "status --json -i inventory -T 60")
    (host,) = json.loads(done.stdout)["hosts"].values()
    (owed,) = [one for one in host["owed"] if one["level"] == "reboot"]
    assert any("the kernel 9.9.9-1-cloud-amd64 is installed" in why for why in owed["why"]), owed
