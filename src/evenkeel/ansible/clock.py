# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The time by which deadlines are counted: epoch seconds, for people, that nobody can set while a change goes on."""

from __future__ import annotations

import time


def running() -> float:
    """Seconds since the boot of this machine, with those for which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_BOOT = time.time() - running()


def now() -> float:
    """The time. Where the clock of this machine is set meanwhile, its date is that of the clock before."""
    return _BOOT + running()


def since_boot(date: float) -> float:
    """The moment in seconds of ``running``, which counts the same in every process."""
    return date - _BOOT


def counted(date: float) -> float:
    """The same moment by this clock, for a date that was just read from the clock that can be set."""
    return date + now() - time.time()
