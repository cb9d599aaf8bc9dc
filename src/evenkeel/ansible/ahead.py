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
        self._file: Path | None = None

    @property
    def fits(self) -> bool:
        """Whether there is a directory for the file that takes the place of the pipe."""
        return self._path.parent.is_dir()

    def write(self, file: Path) -> None:
        """Make the playbook that of ``file``, a file on the same file system, once a process waits for it."""
        self._file = file
        self.offer()

    def offer(self) -> None:
        """Give the playbook to the process that waits for it. Nobody may wait yet: call it again until the run has
        begun. A file takes the place of the pipe, as Ansible quotes its lines in messages of errors."""
        if self._file is None:
            return
        try:
            stream = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:  # Nobody waits.
                raise
            return
        file, self._file = self._file, None
        os.set_blocking(stream, True)
        with suppress(BrokenPipeError), open(stream, "wb") as pipe:
            text = file.read_bytes()
            os.replace(file, self._path)
            pipe.write(text)
