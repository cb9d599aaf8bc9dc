# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A playbook that is given to ansible-playbook before it is written.

ansible-playbook takes half a second and more to load and to read the inventory. So it is started early, with a pipe in
the place of its playbook: it takes pipes, and waits until somebody writes the playbook into this one.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


class Awaited:
    """A playbook at ``path`` that is not written yet. Raises OSError where there can be no pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self._path = path
        # It counts neither as a reader nor as a writer, and leads to the pipe when the path leads to it no more.
        self._pipe: int | None = os.open(path, os.O_PATH | os.O_CLOEXEC)

    @property
    def fits(self) -> bool:
        """Whether there is a directory for the file that takes the place of the pipe."""
        return self._path.parent.is_dir()

    def write(self, file: Path) -> None:
        """Make the playbook that of ``file``, a file on the same file system, both for a process that has opened the
        pipe, and for one that opens the path later."""
        text = file.read_bytes()
        os.replace(file, self._path)
        self._text = text
        self.offer()

    def offer(self) -> None:
        """Write the playbook into the pipe, where a process waits there. One that was about to open the pipe as the
        file took its place does so a moment later: call it again until the run has begun."""
        if self._pipe is None:
            return
        try:
            stream = os.open(f"/proc/self/fd/{self._pipe}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:  # Nobody waits.
                raise
            return
        os.set_blocking(stream, True)
        with suppress(BrokenPipeError), open(stream, "wb") as pipe:
            pipe.write(self._text)
        self.close()

    def close(self) -> None:
        """Offer it no more."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
