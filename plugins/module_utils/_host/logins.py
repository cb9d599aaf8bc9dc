# SPDX-License-Identifier: GPL-3.0-or-later

"""The age of the login by which this process came: a login that was open before a change does not prove access."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .processes import read_stat

NEW, OLD, NOT_SHOWN = "new", "old", "not shown"
# Each of these programs serves one login. The listening server above them is older than every login.
_SERVERS = frozenset(("sshd", "sshd-session", "dropbear", "dropbearmulti", "tinysshd"))


@dataclass(frozen=True)
class Ancestor:
    """``started``: seconds after boot."""

    pid: int
    name: str
    started: float


def age(since: float, ancestors: Iterable[Ancestor] | None = None, now: float | None = None) -> str:
    """``new`` or ``old``, compared with the moment ``since`` seconds ago; ``not shown`` where no ancestor of this
    process serves logins.

    Over a shared connection every command starts anew below the server of the old login. Where the process below the
    server is as old as the server, the login belongs to a person who works on this host, not to this process.
    """
    if now is None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    below: Ancestor | None = None
    for ancestor in _ancestors(os.getpid()) if ancestors is None else ancestors:
        if ancestor.name in _SERVERS and below is not None:
            if now - ancestor.started <= since:
                return NEW
            return OLD if now - below.started <= since else NOT_SHOWN
        below = ancestor
    return NOT_SHOWN


def _ancestors(pid: int) -> Iterator[Ancestor]:
    """The process, then its parent, and so on up to the first process."""
    while pid > 0:
        stat = read_stat(pid)
        if stat is None:
            return
        yield Ancestor(pid, stat.name, stat.started)
        pid = stat.parent
