# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that belong to one run of Ansible: all of them are found and ended.

Ansible's workers and SSH's masters start sessions of their own and outlive their parents, so neither process groups nor
the tree of parents finds them all. A mark in the environment finds them: every process inherits it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import psutil

from evenkeel.ansible.answering import MARK

# Seconds for the environment of a process of another user, and the users one of whose processes has taken longer.
_PATIENCE = 1.0
_held_up_by: set[int] = set()

# Starts the program in argv[1:] so that the kernel kills it when its parent dies (PR_SET_PDEATHSIG survives exec).
# The changed parent id shows a parent that died before that.
DIE_WITH_PARENT = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,9,0,0,0)\n"
    "os.getppid()==int(sys.argv[1]) or sys.exit(137)\n"
    "os.execvp(sys.argv[2],sys.argv[2:])"
)


def marked(ident: str) -> list[psutil.Process]:
    """Every living process of the run ``ident`` that this user may see, this process excepted."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _mark_of(process) == ident and _alive(process):
                found.append(process)
    return found


def end_all(ident: str, grace: float = 2.0, spare: int | None = None) -> None:
    """End every process of the run: TERM, up to ``grace`` seconds to comply, then KILL until none is left.

    spare: a process id to leave alone.
    """
    stop = time.monotonic() + grace
    for process in _others(ident, spare):
        with contextlib.suppress(psutil.Error):
            process.terminate()
    while _others(ident, spare) and time.monotonic() < stop:
        time.sleep(0.05)
    # A process may fork between the listing and the kill, so there is more than one round. A process may also be
    # unkillable (waiting for a dead network file system), so the number of rounds is limited.
    for _ in range(40):
        left = _others(ident, spare)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def _others(ident: str, spare: int | None) -> list[psutil.Process]:
    return [process for process in marked(ident) if process.pid != spare]


def _mark_of(process: psutil.Process) -> str | None:
    """The run to which the process belongs. Root alone may read the environment of another user's process, whose memory
    can be made to hold up the reader for ever: of such a user no further process is asked."""
    user = process.uids().real
    if user == os.getuid():
        return process.environ().get(MARK)
    if os.getuid() or user in _held_up_by:
        return None
    found: list[str | None] = []

    def read() -> None:
        with contextlib.suppress(psutil.Error, OSError):
            found.append(process.environ().get(MARK))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(_PATIENCE)
    if reader.is_alive():
        _held_up_by.add(user)
    return found[0] if found else None


def _alive(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)
