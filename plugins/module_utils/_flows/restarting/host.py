# SPDX-License-Identifier: GPL-3.0-or-later

"""The restart of a whole host: started so that the answer gets out, and proved by what only a boot changes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time

from ..._errors import ServiceFailed, UsageError
from ..._host.package_locks import DPKG, RPM, holder
from ..._host.system import System
from ..._services import systemd
from ..._services.kernels import newer_kernel
from ..._services.state import ServiceState
from .target import HOST, KEXEC, REBOOT, SOFT_REBOOT

# The first version of systemd that starts the services anew and keeps the kernel.
_SOFT = 254
# Only a boot of the services starts this unit.
_EVERY_BOOT = "sysinit.target"
# Seconds until the host goes down, so that the answer gets out.
_DELAY = 1
_UNIT = "evenkeel-restart-"
_PACKAGES = (*DPKG, *RPM)
_KEXEC_LOADED, _KEXEC_DISABLED = "/sys/kernel/kexec_loaded", "/proc/sys/kernel/kexec_load_disabled"


def observe(system: System) -> ServiceState:
    """The host as a service that runs since its boot. Its units may still be starting, or have failed."""
    started = system.now() - system.monotonic()
    word = system.run(["systemctl", "is-system-running"], 30.0).out.strip()[:40] or "unknown"
    return ServiceState(HOST, True, "", True, f"booted ({word})", started, system.boot_id(), 0, can_reload=False)


def identity(mode: str, system: System) -> str:
    """A text that the boot of this mode changes, and nothing else."""
    if mode != SOFT_REBOOT:
        told = system.boot_id()
        if "unknown" in told or "None" in told:  # An id that could not be read would differ, and prove nothing.
            raise ServiceFailed(f"this host does not tell which boot it runs ({told}); try again")
        return told
    done = system.run(["systemctl", "show", "--property=InvocationID", "--value", "--", _EVERY_BOOT], 30.0)
    if done.rc != 0 or not done.out.strip():
        raise ServiceFailed(f"systemd does not tell when it started its services: {done.words}")
    return done.out.strip()


def check(mode: str, system: System, root: str = "") -> None:
    """Raise UsageError where this host cannot be restarted in this mode. ``root``: the directory above its kernels, and
    above the files of the kernel that runs."""
    if not system.has_systemd():
        raise UsageError("only root restarts a host, and only one that systemd runs; nothing was touched")
    if mode == SOFT_REBOOT:
        version = systemd_version(system)
        if version < _SOFT:
            raise UsageError(
                f"systemd {version} cannot restart its services and keep the kernel (soft-reboot); {_SOFT} can. Nothing"
                f" was touched: use mode {REBOOT}"
            )
    if mode == KEXEC:
        why = "" if shutil.which("kexec") else "kexec-tools is not installed"
        is_loaded = _first(root + _KEXEC_LOADED) == "1"
        why = why or ("" if is_loaded or _loadable(root) else "no kernel is loaded, or can be")
        # The restart would load the kernel that runs.
        why = why or ("" if is_loaded else _newer_kernel(root, system))
        if why:
            raise UsageError(f"kexec is not possible: {why}. Nothing was touched: use mode {REBOOT}")

    why = _busy(system)
    if why:
        raise UsageError(f"this host is not to go down now: {why}. Nothing was touched: wait for its end, or end it")


def _busy(system: System) -> str:
    """The work that a boot would cut off, in words: a run of a package manager, or a program that blocks a shutdown."""
    held = holder(_PACKAGES)
    if held:
        return held
    asked = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "ListInhibitors"]
    done = system.run(["busctl", "call", *asked], 10.0)
    try:
        words = shlex.split(done.out)[2:] if done.rc == 0 else []
    except ValueError:
        return ""
    # A row has: the blocked things, the program, its reason, the mode, the user and the process.
    rows = [words[at : at + 6] for at in range(0, len(words) - 5, 6)]
    found = [row for row in rows if "shutdown" in row[0].split(":") and row[3].startswith("block")]
    return "; ".join(f"{row[1][:60]} (process {row[5]}) blocks a shutdown: {row[2][:120]}" for row in found[:3])


def last_words(generation: int, system: System) -> str:
    """The last words of the command that was to restart the host, for a message."""
    return systemd.last_words(f"{_UNIT}{generation}.service", system)


def systemd_version(system: System) -> int:
    """The version of systemd; 0 where it does not tell."""
    found = re.match(r"systemd (\d+)", system.run(["systemctl", "--version"], 30.0).out)
    return int(found[1]) if found else 0


def start(mode: str, generation: int, system: System, root: str = "") -> None:
    """Have systemd restart the host in a moment. Raises ServiceFailed where it does not take that."""
    if mode == KEXEC and _first(root + _KEXEC_LOADED) != "1":
        kernel, image = _loadable(root) or ("", "")
        done = system.run(["kexec", "--load", kernel, f"--initrd={image}", "--reuse-cmdline"], 60.0)
        if done.rc != 0:
            raise ServiceFailed(f"the kernel {kernel} could not be loaded: {done.words}; the host was not restarted")
    unit = f"{_UNIT}{generation}"
    argv = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={_DELAY}s"]
    done = system.run([*argv, "--timer-property=AccuracySec=100ms", "systemctl", mode], 30.0)
    if done.rc != 0:
        raise ServiceFailed(f"systemd-run: {done.words}; the host was not restarted")


def _newer_kernel(root: str, system: System) -> str:
    booted = system.now() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return newer_kernel(booted, root=root)


def _loadable(root: str) -> tuple[str, str] | None:
    """The files of the running kernel and of its initial file system, where it may be loaded; else None."""
    release = os.uname().release
    kernel = f"{root}/boot/vmlinuz-{release}"
    images = [f"{root}/boot/{name}" for name in (f"initrd.img-{release}", f"initramfs-{release}.img")]
    found = next(filter(os.path.isfile, images), "")
    if _first(root + _KEXEC_DISABLED) != "0" or not os.path.isfile(kernel) or not found:
        return None
    return kernel, found


def _first(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(16).strip()
    except OSError:
        return ""
