# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether this process came over a login that is newer than a change: a login that lay open before proves nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NEW, OLD, NOT_SHOWN = "new", "old", "not shown"
# What serves one login each. The listening one above them is older than every login.
_SERVERS = frozenset(("sshd", "sshd-session", "dropbear", "dropbearmulti", "tinysshd"))


@dataclass(frozen=True)
class Ancestor:
    """``started``: seconds after boot."""

    pid: int
    name: str
    started: float


def age(since: float, ancestors: Iterable[Ancestor] | None = None, now: float | None = None) -> str:
    """``new`` or ``old`` against a moment ``since`` seconds ago; ``not shown`` where no server of logins is above us.

    Connections that are shared start every command anew below the server of the old login. Where what lies below it is
    as old as the server, the login is somebody's who works on this host, not the one that this process came over.
    """
    if now is None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    below: Ancestor | None = None
    for one in _ancestors(os.getpid()) if ancestors is None else ancestors:
        if one.name in _SERVERS and below is not None:
            if now - one.started <= since:
                return NEW
            return OLD if now - below.started <= since else NOT_SHOWN
        below = one
    return NOT_SHOWN


def _ancestors(pid: int) -> Iterator[Ancestor]:
    """The process, then its parent, and so on up to the first."""
    ticks = os.sysconf("SC_CLK_TCK")
    while pid > 0:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stream:
                head, _bracket, rest = stream.read().rpartition(b")")
        except OSError:
            return
        fields = rest.split()
        yield Ancestor(pid, head.partition(b"(")[2].decode("utf-8", "replace"), int(fields[19]) / ticks)
        pid = int(fields[1])
