# SPDX-License-Identifier: GPL-3.0-or-later

"""Notices to people on the host: a message to all terminals (``wall``), a line in the journal, a message of the day.

Notices are a courtesy: where a notice fails, the change goes on without it, and no notice delays the change for
longer than a moment. The message of the day lies in ``/run``: no checkpoint holds it, and a boot removes it.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress

from .._host.text import sentence
from .._host.trust import stranger
from .._resources import ours
from .._store.store import Store
from . import command, units

# pam_motd of Linux-PAM 1.3.1 and newer shows the files of this directory at a login.
MOTD = "/run/motd.d"
LOG = "/dev/log"
WALL = "wall"
_NOTICE, _WARNING = 5, 4
_DAEMON = 3 << 3
# Seconds to wait for wall, which does not wait for terminals itself.
_PATIENCE = 3.0
_LONGEST = 60


def armed(store: Store, name: str, until: float) -> None:
    """Tell that a change is under way, and goes back at ``until`` (epoch seconds)."""
    words = _under_way(name, until)
    _tell(store, words, _NOTICE, aloud=True)
    _post(store, words)


def extended(store: Store, name: str, until: float) -> None:
    """Tell that the deadline of the change was moved. Only the message of the day does, because controllers move
    deadlines all the time."""
    _post(store, _under_way(name, until))


def rolled_back(store: Store, name: str, by: str) -> None:
    """Tell that the change was rolled back."""
    words = f"the change {_short(name)} was rolled back at {_clock(store.system.now())} (by: {_short(by)})"
    _tell(store, words, _WARNING, aloud=True)
    _post(store, words)


def in_doubt(store: Store, name: str, number: int) -> None:
    """Tell that the rollback could not put back this number of things."""
    things = "1 thing" if number == 1 else f"{number} things"
    words = f"this host is in doubt since the change {_short(name)}: {things} could not be put back"
    _tell(store, words, _WARNING, aloud=True)
    _post(store, words)


def over(store: Store, name: str, outcome: str) -> None:
    """Tell that the change or the doubt has ended, and that nobody need look at the host."""
    _tell(store, f"the change {_short(name)} is over: {_short(outcome)}", _NOTICE, aloud=False)
    if command.is_host(store):
        with suppress(OSError):
            os.unlink(_motd(store))


def _under_way(name: str, until: float) -> str:
    return f"a change is under way on this host, {_short(name)}. It goes back at {_clock(until)} unless it is confirmed"


def _short(name: str) -> str:
    """A name that somebody chose, as short text of a single line without control characters."""
    text = sentence(name)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _status_command() -> str:
    return "evenkeel-host status" if ours.is_ours(ours.COMMAND) else "evenkeel status, on the controller"


def _tell(store: Store, words: str, severity: int, aloud: bool) -> None:
    """Write to the journal, and with ``aloud`` also to all terminals."""
    if not command.is_host(store):
        return
    text = f"{words}. Look: {_status_command()}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.setblocking(False)
        log.connect(LOG)
        log.send(f"<{_DAEMON | severity}>evenkeel[{os.getpid()}]: {text}".encode("utf-8", "replace"))
    if aloud and (wall := shutil.which(WALL, path="/usr/bin:/bin")):
        store.system.run([wall, f"Evenkeel: {text}"], _PATIENCE)


def _post(store: Store, words: str) -> None:
    """Put the message of the day in place."""
    path = _motd(store)
    folder = os.path.dirname(path)
    if not command.is_host(store) or not os.path.isdir(os.path.dirname(folder)):
        return
    # The temporary file lies beside the directory, because every file in the directory is shown.
    temporary = f"{folder}-evenkeel-{os.getpid()}"
    with suppress(OSError):
        if not os.path.isdir(folder):
            os.mkdir(folder)
            os.chmod(folder, 0o755)
        if stranger(path, {0}):
            return
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, f"\nEvenkeel: {words}.\n          Look: {_status_command()}\n\n".encode("utf-8", "replace"))
        finally:
            os.close(fd)
        os.rename(temporary, path)


def _motd(store: Store) -> str:
    """The file of this store's message of the day; a store that is not the default has a file of its own."""
    return os.path.join(MOTD, "evenkeel" + units.unit(store, "motd")[len("evenkeel-motd") :])
