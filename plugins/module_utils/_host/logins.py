# SPDX-License-Identifier: GPL-3.0-or-later

"""The age of the login by which this process came: a login that was open before a change does not prove access."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .processes import login_of, read_stat

NEW, OLD, NOT_SHOWN, CONSOLE = "new", "old", "not shown", "console"
# Each of these programs serves one login. The listening server above them is older than every login.
_SERVERS = frozenset(("sshd", "sshd-session", "dropbear", "dropbearmulti", "tinysshd"))
# The major numbers of terminals that belong to the machine: virtual consoles, /dev/console, serial lines, hypervisors'.
_CONSOLES = frozenset((4, 5, 188, 204, 229))


class Ancestor(NamedTuple):
    """``started``: seconds after boot. ``terminal``: the device number of its controlling terminal, or 0."""

    pid: int
    name: str
    started: float
    terminal: int = 0


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


def of_person(since: float, ancestors: Iterable[Ancestor] | None = None, now: float | None = None) -> str:
    """The age of the login in which a person typed this command: ``new`` or ``old`` as in ``age``, ``console`` at a
    terminal of the machine itself, ``not shown`` elsewhere, such as in tmux, which serves one login after the other."""
    if now is None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    at_console = False
    for ancestor in _ancestors(os.getpid()) if ancestors is None else ancestors:
        if ancestor.name in _SERVERS:
            return NEW if now - ancestor.started <= since else OLD
        at_console = at_console or os.major(ancestor.terminal) in _CONSOLES
    return CONSOLE if at_console else NOT_SHOWN


def home() -> str:
    """The home of the account by which somebody logged in and became root here; empty for root or unknown."""
    name, user = os.environ.get("SUDO_USER") or os.environ.get("DOAS_USER"), login_of("self")
    try:
        found = pwd.getpwnam(name) if name else pwd.getpwuid(user) if user > 0 else None
    except KeyError:
        return ""
    return found.pw_dir if found is not None and found.pw_uid and os.path.isabs(found.pw_dir) else ""


def is_open(user: int) -> bool:
    """Whether this user is logged in over SSH now. A login is told by a mark of the kernel that no other user can make;
    -1 stands for a user that is not known."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if user >= 0 else []
    return any(login_of(pid) == user and (stat := read_stat(pid)) is not None and stat.name in _SERVERS for pid in pids)


def above(pid: int) -> list[int]:
    """The process, and those above it up to the first one."""
    return [one.pid for one in _ancestors(pid)]


def _ancestors(pid: int) -> Iterator[Ancestor]:
    """The process, then its parent, and so on up to the first process."""
    while pid > 0:
        stat = read_stat(pid)
        if stat is None:
            return
        yield Ancestor(pid, stat.name, stat.started, stat.terminal)
        pid = stat.parent
