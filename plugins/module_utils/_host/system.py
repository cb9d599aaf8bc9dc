# SPDX-License-Identifier: GPL-3.0-or-later

"""The effects of the library in one object, so that a test passes its own and patches nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Callable

from .._dataclasses import dataclass
from .commands import Completed, command, run
from .processes import pids, start_time


def _boot_id() -> str:
    """An id that changes with every boot. In a container the boot id of the kernel does not; the start time of pid 1
    does."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as stream:
            kernel = stream.read().strip()
    except OSError:
        kernel = "unknown"
    started = start_time(1)
    return f"{kernel}:{started}"


@dataclass(frozen=True)
class System:
    """The effects that the library needs, as plain callables. ``pids``: the numbers of all processes.

    ``memory``: the directory, writable by us alone, that records which processes we have started; empty for none.
    """

    run: Callable[[Sequence[str], float], Completed] = run
    command: Callable[[Sequence[str], float], Completed] = command
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    pids: Callable[[], Sequence[int]] = pids
    boot_id: Callable[[], str] = _boot_id
    has_systemd: Callable[[], bool] = lambda: os.path.isdir("/run/systemd/system") and os.geteuid() == 0
    memory: str = ""
