# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that somebody can hold up for ever: nobody waits for it longer than he has said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Callable


class _Work:
    """Work in a thread that keeps no process from its end."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._done = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def ends(self, seconds: float) -> bool:
        """Whether the work is done within that time. Raises the error by which it ended."""
        if not self._done.wait(seconds):
            return False
        if self._error is not None:
            raise self._error
        return True


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Whether the work is done within that time; its error is raised here. Work that is not done goes on in a thread,
    and keeps no process from its end."""
    return _Work(work).ends(seconds)


def steadily(pause: float, whole: float, steps: Callable[[], Iterable[object]]) -> bool:
    """Whether all steps are done; an error of theirs is raised here. Nobody waits for longer than ``whole`` seconds,
    nor once ``pause`` seconds have passed without a step."""
    count = 0
    gives_up = False

    def work() -> None:
        nonlocal count
        for _step in steps():
            count += 1
            if gives_up:
                return

    running, end, known = _Work(work), time.monotonic() + whole, 0
    while not running.ends(min(pause, max(end - time.monotonic(), 0.0))):
        if count == known or time.monotonic() >= end:
            gives_up = True
            return False
        known = count
    return True
