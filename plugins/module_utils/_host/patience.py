# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that somebody can hold up for ever: nobody waits for it longer than he has said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Callable

# Seconds for which a thread waits for more work before it ends.
_LINGERS = 0.2


class _Worker(threading.Thread):
    """A thread that does one work after another, as each process of a host may be a work of its own: to start a thread
    takes longer than to read a process. It keeps no process from its end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.works: SimpleQueue[_Work] = SimpleQueue()

    def run(self) -> None:
        while True:
            try:
                self.works.get(timeout=_LINGERS).carry_out(self)
            except Empty:
                with suppress(ValueError):  # A work is on its way to a worker that was just taken.
                    _idle.remove(self)
                    return


# Workers without work.
_idle: list[_Worker] = []


class _Work:
    """Work in a thread, begun at once."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._done = threading.Event()
        self._error: BaseException | None = None
        worker = None
        with suppress(IndexError):
            worker = _idle.pop()
        if worker is None or not worker.is_alive():  # A process that was forked has no threads of its parent.
            worker = _Worker()
            worker.start()
        worker.works.put(self)

    def carry_out(self, worker: _Worker) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
        finally:
            _idle.append(worker)
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
