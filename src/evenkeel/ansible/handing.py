# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program that stands for a run of one of our playbooks: it hands its terminal to the process that has loaded Ansible
(answering.py), and ends as the copy ends that carries out the run. Where that process does not take the run, it becomes
ansible-playbook itself. The kernel kills it when its parent dies.

usage: handing.py SOCKET PARENT PROGRAM WORD...
SOCKET: the path of the socket of that process. PARENT: the process id of the parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
# The seconds that the process has to take the run over. It may stand still, and hosts wait.
_PATIENCE = 10.0


def main() -> None:
    path, parent, *argv = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before that
        sys.exit(137)
    with socket.socket(socket.AF_UNIX) as ready:
        process = _taken_by(ready, path, argv)
        if process is not None:
            _end_as(process, ready)
    os.execvp(argv[0], argv)


def _taken_by(ready: socket.socket, path: str, argv: list[str]) -> int | None:
    """A handle of the process that has taken the run over. Nothing of the run has begun where there is none."""
    request = json.dumps({"argv": argv, "env": dict(os.environ), "cwd": os.getcwd()}).encode() + b"\n"
    with suppress(OSError):
        ready.settimeout(_PATIENCE)
        ready.connect(path)
        sent = socket.send_fds(ready, [request], [0, 1, 2])
        ready.sendall(request[sent:])
        _taken, handles, _flags, _address = socket.recv_fds(ready, 1, 1)
        if handles:
            ready.settimeout(None)
            ready.sendall(b"+")  # The run begins.
            return handles[0]
    return None


def _end_as(process: int, ready: socket.socket) -> None:
    """Wait for the end of the process, and end in the same way; never returns."""

    def hand_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, hand_on)
    select.select([process], [], [])
    code = b""
    with suppress(OSError):
        code = ready.recv(16, socket.MSG_DONTWAIT)
    if not code.endswith(b"\n"):
        os.kill(os.getpid(), signal.SIGKILL)  # The run was killed.
    os._exit(int(code))


if __name__ == "__main__":
    main()
