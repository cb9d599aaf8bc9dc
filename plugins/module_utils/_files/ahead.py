# SPDX-License-Identifier: GPL-3.0-or-later

"""A second process for the latter half of a look at a large tree, where there is a CPU for it.

A look at an unchanged tree mostly waits for the kernel's answers about one file after the other. The process asks about
the files that the stat cache knows, and marks the files that have not changed; the walk, which comes there later, need
not ask again. The walk itself looks at the files without a mark.
"""

from __future__ import annotations

import mmap
import os
import signal
from contextlib import suppress

from .._host.durable import die_with_parent
from .._host.paths import open_dir
from .cache import Cache, keys_of
from .entry import path_of

# Lines from which on a second process is worth its start.
MANY = 20_000


class Ahead:
    """The second process, which has to be closed. ``marks``: by the number of the line, 1 for a file that has not
    changed according to a status taken after the start, and that has no second name."""

    def __init__(self, cache: Cache | None) -> None:
        self._pid = 0
        count = len(cache.lines) if cache is not None else 0
        self.marks = mmap.mmap(-1, max(count, 1))
        if cache is None or count < MANY or len(os.sched_getaffinity(0)) < 2:
            return
        parent = os.getpid()
        with suppress(OSError):  # Without room for one more process the walk does all of the work.
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    die_with_parent(parent)
                    _mark_unchanged(cache, count // 2, self.marks)
                finally:
                    os._exit(0)

    def close(self) -> None:
        if self._pid:
            with suppress(ProcessLookupError, ChildProcessError):  # Where SIGCHLD is ignored nobody waits for it.
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            self._pid = 0


def _mark_unchanged(cache: Cache, at: int, marks: mmap.mmap) -> None:
    """From the line ``at`` on, mark the unchanged files in directories that hold no other directory."""
    while at < len(cache.lines):
        line = cache.lines[at]
        at += 1
        if line[0] != "d":
            continue
        path = path_of(line)
        cache.at = at
        leaves = cache.leaves(path, line[2 : line.find(" ", 2)] + "/")
        if leaves is None or not leaves.names:
            continue
        fd = open_dir(path)
        try:
            found = [os.stat(name, dir_fd=fd, follow_symlinks=False) for name in leaves.names]
        except OSError:
            continue
        finally:
            os.close(fd)
        start, count = leaves.start, len(leaves.names)
        lines = cache.still(range(start, start + count), found, keys_of(found))
        marks[start : start + count] = bytes(line is not None and info.st_nlink < 2 for line, info in zip(lines, found))
