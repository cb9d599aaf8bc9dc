# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine in qemu, by software emulation, and the way into it over SSH."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from image import disk, run

# Seconds that one boot may take.
BOOT = 600.0
SAVED = "ready"
# The firmware for systemd-boot: its code, and its variables as they are delivered.
FIRMWARE = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"))


@dataclass
class Machine:
    """One virtual machine, in a folder of its own beside the key that it lets in."""

    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def variables(self) -> Path:
        """The variables of the firmware, where it is UEFI."""
        return self.folder / "variables.fd"

    @property
    def console(self) -> str:
        """The text that the machine has written to its serial line."""
        return (self.folder / "console.log").read_text(errors="replace")

    def start(self, *options: str) -> None:
        """Switch it on. Its clock stands still with it, so that it goes on where it was saved."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ["nice", "-n", "19", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64,-svm", "-m", "768"]
        words += ["-display", "none", "-serial", f"file:{self.folder}/console.log", "-rtc", "clock=vm"]
        words += ["-monitor", f"unix:{self.folder}/monitor,server,nowait"]
        words += ["-drive", f"file={self.disk},format=qcow2,if=virtio,cache=unsafe", "-device", "virtio-rng-pci"]
        words += ["-netdev", f"user,id=lan,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        words += ["-device", "virtio-net-pci,netdev=lan,romfile="]
        if self.variables.exists():
            words += ["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE[0]}"]
            words += ["-drive", f"if=pflash,format=raw,file={self.variables}"]
        self.process = subprocess.Popen([*words, *options], stdin=subprocess.DEVNULL)

    def save(self) -> None:
        """Save the running machine in its disk, and switch it off."""
        assert self.process is not None
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(f"{self.folder}/monitor")
            monitor.sendall(f"savevm {SAVED}\nquit\n".encode())
            self.process.wait(300)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ssh(self, script: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """The shell script, run as root over a new login."""
        options = [f"-i{self.folder.parent}/key", "-p", str(self.port), "-F", "/dev/null", *self.ssh_options]
        words = ["ssh", *options, "root@127.0.0.1", script]
        try:
            return subprocess.run(words, check=False, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(words, 255, "", "no answer")

    # The host key is made with the image, on this machine.
    ssh_options = (
        *("-oBatchMode=yes", "-oConnectTimeout=5", "-oStrictHostKeyChecking=no"),
        *("-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR"),
    )

    def on(self, script: str) -> str:
        done = self.ssh(script, BOOT)
        assert done.returncode == 0, f"{script}: {done.returncode} {done.stdout}{done.stderr}\n{self.console[-2000:]}"
        return done.stdout

    def login(self, seconds: float = BOOT, script: str = "true", every: float = 1) -> float:
        """Wait until the script succeeds over a new login; the seconds that it took."""
        began = time.monotonic()
        while self.ssh(script, 20).returncode:
            assert time.monotonic() < began + seconds, f"no login within {seconds:g} s:\n{self.console[-3000:]}"
            assert self.process is not None and self.process.poll() is None, self.console[-3000:]
            time.sleep(every)
        return time.monotonic() - began


def key(folder: Path) -> Path:
    """The private key that the machines let in."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "key").exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    return folder / "key"


def efi(folder: Path, name: str) -> Machine:
    """A new machine with UEFI and systemd-boot, switched off."""
    image = disk(folder, key(folder).with_suffix(".pub"), efi=True)
    made = Machine(folder / name)
    shutil.rmtree(made.folder, ignore_errors=True)
    made.folder.mkdir()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", made.disk)
    shutil.copy(FIRMWARE[1], made.variables)
    return made


def base(folder: Path) -> Machine:
    """A machine that has booted once, has made the settings of its boot loader, and was saved in that state."""
    image = disk(folder, key(folder).with_suffix(".pub"))
    made = Machine(image.with_suffix(".saved"))
    if not made.folder.exists():
        first = Machine(folder / "first")
        shutil.rmtree(first.folder, ignore_errors=True)
        first.folder.mkdir()
        run("qemu-img", "convert", "-O", "qcow2", image, first.disk)
        first.start()
        try:
            first.login()
            first.on("update-grub && sync")
            first.save()
        finally:
            first.stop()
        first.folder.rename(made.folder)
    return made
