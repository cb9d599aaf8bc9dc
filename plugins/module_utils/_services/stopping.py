# SPDX-License-Identifier: GPL-3.0-or-later

"""How a unit stopped: by itself, or killed by systemd when its time was over."""

from __future__ import annotations

import re

from .._host.system import System
from .unit import Unit

# The words of systemd about a unit whose stop took longer than its limit.
_TIMED_OUT = r"State '(?:stop|deactivating|final)[^']{0,40}' timed out|[Ss]top\S{0,40} timed out\. (?:Kill|Termin)"


def was_killed(unit: Unit, since: float, system: System) -> bool:
    """Whether systemd says that the unit did not stop in its time, after this moment (seconds since the epoch).

    False as well where no journal is kept.
    """
    if unit.end is None or system.now() - since < unit.end:
        return False
    # The first process alone: a service can write the same words.
    argv = ["journalctl", "_PID=1", f"UNIT={unit.id}", f"--since=@{since:.6f}", "--output=cat", "--no-pager", "--quiet"]
    done = system.run([*argv, "--lines=200"], 10.0)
    return done.rc == 0 and bool(re.search(_TIMED_OUT, done.out))
