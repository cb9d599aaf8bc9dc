# SPDX-License-Identifier: GPL-3.0-or-later

"""A glance at the watcher of a change. The timer that looks after the watcher starts the agent every few seconds, and
this file alone answers it while all is well: the agent takes three times as long to load.

This file imports nothing of the library. The watcher looks after the units of the change; whatever else is not as
expected is left to the agent.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress

# Seconds between two checks of the watcher.
TICK = 20.0
# Seconds before the deadline from which on the agent itself waits for it: no check would come before it.
NEAR = TICK + 5.0
_TASK, _GENERATION = "deadline", "--generation"


def is_enough(argv: Sequence[str]) -> bool:
    """Whether an agent that was started with these arguments has nothing to do: its change waits for a deadline that is
    not near, and so does its watcher."""
    if len(argv) != 6 or (argv[1], argv[3], argv[4]) != ("--store", _TASK, _GENERATION):
        return False
    agent, store, number = argv[0], argv[2], argv[5]
    try:
        return _waits(store, int(number)) and _is_watched(agent)
    except Exception:  # The agent tells what is wrong.
        return False


def _waits(store: str, generation: int) -> bool:
    """Whether the change of this generation is under way in this boot, and its deadline is not near."""
    with open(os.path.join(store, "armed"), "rb") as stream:
        change = json.loads(stream.read())
    with open("/proc/sys/kernel/random/boot_id") as stream:
        boot = f"{stream.read().strip()}:{int(_stat(1)[19])}"
    is_of_now = (change["generation"], change["boot_id"], change["back"]) == (generation, boot, "")
    return bool(is_of_now and change["due"] - time.monotonic() > NEAR)


def _is_watched(agent: str) -> bool:
    """Whether a process of root that runs our own Python locks the agent, as its watcher does, and is not stopped."""
    with open(agent, "rb") as stream, suppress(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False  # The list of locks may show a file of another file system that has the same number.
    inode = str(os.stat(agent).st_ino)
    with open("/proc/locks") as stream:
        locks = [line.split() for line in stream]
    pids = [int(lock[-4]) for lock in locks if lock[1] == "FLOCK" and lock[-3].rpartition(":")[2] == inode]
    return any(map(_is_ours, pids))


def _is_ours(pid: int) -> bool:
    with open(f"/proc/{pid}/status", "rb") as stream:
        users = [line.split()[1:4] for line in stream if line.startswith(b"Uid:")]
    is_same = os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
    return users == [[b"%d" % os.geteuid()] * 3] and is_same and _stat(pid)[0] not in (b"T", b"t", b"Z", b"X")


def _stat(pid: int) -> Sequence[bytes]:
    """The fields of the kernel's line on this process, from its state on."""
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return stream.read().rpartition(b")")[2].split()
