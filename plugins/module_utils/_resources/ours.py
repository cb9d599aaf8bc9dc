# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths of Evenkeel itself, which are part of no tree: no checkpoint holds them, and no rollback removes them."""

from __future__ import annotations

import os

from .._host.trust import read_small

# The command for a person on the host (see ``_deadman/command.py``). Files with its second line are ours.
COMMAND = "/usr/local/sbin/evenkeel-host"
MARK = b"# evenkeel-host, a part of Evenkeel (the Ansible collection evenkeel.fault_tolerance)."
_LONGEST = 16384


def paths(store: str) -> list[str]:
    """The store, and the command where it is ours: a file of the same name that somebody else wrote is protected like
    all others."""
    return [os.path.realpath(store), *([os.path.realpath(COMMAND)] if is_ours(COMMAND) else [])]


def is_ours(path: str) -> bool:
    """Whether root wrote this file, and it says that it is ours."""
    try:
        data, owner = read_small(path, _LONGEST)
    except OSError:
        return False
    return owner == 0 and data.split(b"\n", 2)[1:2] == [MARK]
