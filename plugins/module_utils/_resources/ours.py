# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths of Evenkeel itself, which are part of no tree: no checkpoint holds them, and no rollback removes them."""

from __future__ import annotations

import glob
import os
from contextlib import suppress

from .._host.durable import write_file
from .._host.trust import read_small, stranger

# The command for a person on the host (see ``_deadman/command.py``), and files for the boot loader, the kernel and
# systemd (see ``_deadman/loader.py``). All have the same second line, which marks them as ours.
COMMAND = "/usr/local/sbin/evenkeel-host"
GRUB_CUSTOM = "/boot/grub/custom.cfg"
KERNEL_ARGUMENTS = "/etc/default/grub.d/zz-evenkeel.cfg"
MANAGER = "/etc/systemd/system.conf.d/zz-evenkeel.conf"
# The kernel from before the change. The path is ours as long as GRUB_CUSTOM is ours.
KEPT = "/boot/evenkeel"
# An entry for systemd-boot, on the partition that holds the host's entries. It sorts behind all other entries.
BOOT_ENTRIES = tuple(f"{root}/loader/entries/00-evenkeel.conf" for root in ("/boot", "/efi", "/boot/efi"))
KERNEL_INSTALL = "/etc/kernel/install.d/95-evenkeel.install"
MARK = b"# evenkeel-host, a part of Evenkeel (the Ansible collection evenkeel.fault_tolerance)."
# Present while a change is armed: apt and dpkg name the files that they are about to replace (see
# ``packages/replacing.py``).
HOOKS = ("/etc/apt/apt.conf.d/zz-evenkeel", "/etc/dpkg/dpkg.cfg.d/zz-evenkeel")
# The same for dnf: a file in each of these directories, and Python's translation of it.
DNF_PLUGINS = ("/usr/lib/python3*/site-packages/dnf-plugins", "/usr/lib/python3/dist-packages/dnf-plugins")
DNF_HOOK = "zz_evenkeel.py"
_LONGEST = 16384


def paths(store: str) -> list[str]:
    """The store, and the files that are ours. A file of the same name that somebody else wrote is protected like all
    other files."""
    names = (COMMAND, GRUB_CUSTOM, KERNEL_ARGUMENTS, *BOOT_ENTRIES, KERNEL_INSTALL, MANAGER, *_hooks())
    found = [path for path in names if is_ours(path)]
    kept = [KEPT] if GRUB_CUSTOM in found else []
    kept += [kept_of(entry) for entry in BOOT_ENTRIES if entry in found]
    return [os.path.realpath(path) for path in (store, *found, *kept)]


def kept_of(entry: str) -> str:
    """Where the kernel of an entry for systemd-boot is. The path is ours as long as the entry is ours."""
    return os.path.join(os.path.dirname(os.path.dirname(entry)), "evenkeel")


def is_ours(path: str) -> bool:
    """Whether the file belongs to root and has our second line."""
    try:
        data, owner = read_small(path, _LONGEST)
    except OSError:
        return False
    if path.endswith(".pyc"):  # The file holds the text of our file that describes the file.
        return owner == 0 and MARK in data
    return owner == 0 and data.split(b"\n", 2)[1:2] == [MARK]


def place(path: str, data: bytes, mode: int = 0o644) -> str:
    """Write a file of ours, and return why it could not be written; empty where it is in place. The times of its
    directory stay, so that a checkpoint sees no difference."""
    folder = os.path.dirname(path)
    try:
        if os.path.lexists(path) and not is_ours(path):
            return f"{path} is there, and is not ours"
        if not os.path.isdir(folder):
            return f"there is no directory {folder}"
        other = stranger(path, {0})
        if other:
            return other
        if not _holds(path, data):
            times = os.stat(folder)
            write_file(path, data, mode)
            os.chmod(path, mode)
            os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    except OSError as error:
        return str(error)
    return ""


def take_hooks_away() -> None:
    """Remove the files by which package managers call us. The times of their directories stay."""
    for path in _hooks():
        with suppress(OSError):
            if is_ours(path):
                times = os.stat(os.path.dirname(path))
                os.unlink(path)
                os.utime(os.path.dirname(path), ns=(times.st_atime_ns, times.st_mtime_ns))


def _hooks() -> list[str]:
    """The files by which package managers call us; those of dnf as far as they are there."""
    name, _dot, _end = DNF_HOOK.partition(".")
    there = [f"{folder}/{word}" for folder in DNF_PLUGINS for word in (DNF_HOOK, f"__pycache__/{name}.*.pyc")]
    return [*HOOKS, *(path for pattern in there for path in sorted(glob.glob(pattern)))]


def _holds(path: str, data: bytes) -> bool:
    with suppress(OSError), open(path, "rb") as stream:
        return stream.read() == data
    return False
