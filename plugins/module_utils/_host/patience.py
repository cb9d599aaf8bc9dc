# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that somebody can hold up for ever: nobody waits for it longer than he has said."""

from __future__ import annotations

import threading
from typing import Callable


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Whether the work is done within that time. Work that is not done goes on in a thread, and keeps no process from
    its end."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    return done.wait(seconds)
