# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths of Evenkeel itself, which are part of no tree: no checkpoint holds them, and no rollback removes them."""

from __future__ import annotations

import os

from .._host.trust import read_small

# The command for a person on the host (see ``_deadman/command.py``), and files for the boot loader, the kernel and
# systemd (see ``_deadman/loader.py``). All have the same second line: by that they are ours.
COMMAND = "/usr/local/sbin/evenkeel-host"
GRUB_CUSTOM = "/boot/grub/custom.cfg"
KERNEL_ARGUMENTS = "/etc/default/grub.d/zz-evenkeel.cfg"
MANAGER = "/etc/systemd/system.conf.d/zz-evenkeel.conf"
# The kernel of before the change. It is ours as long as GRUB_CUSTOM is.
KEPT = "/boot/evenkeel"
MARK = b"# evenkeel-host, a part of Evenkeel (the Ansible collection evenkeel.fault_tolerance)."
_LONGEST = 16384


def paths(store: str) -> list[str]:
    """The store, and the files that are ours: one of the same name that somebody else wrote is protected like all
    others."""
    found = [path for path in (COMMAND, GRUB_CUSTOM, KERNEL_ARGUMENTS, MANAGER) if is_ours(path)]
    return [os.path.realpath(path) for path in (store, *found, *([KEPT] if GRUB_CUSTOM in found else []))]


def is_ours(path: str) -> bool:
    """Whether root wrote this file, and it says that it is ours."""
    try:
        data, owner = read_small(path, _LONGEST)
    except OSError:
        return False
    return owner == 0 and data.split(b"\n", 2)[1:2] == [MARK]
