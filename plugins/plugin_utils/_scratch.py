# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private directories on the controller. The next run at the latest removes the directories of a killed run.

They lie beside the directories of Ansible's own runs (``local_tmp``). Each holds a file ``lock`` that its run has
locked, so that a killed run is told from a living run. The driver looks after them too.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from ansible import constants as C

_PREFIX = "evenkeel-"


def run() -> str:
    """The name that all processes of this run of Ansible share, and no other run."""
    return hashlib.sha256(f"{os.uname().nodename} {C.DEFAULT_LOCAL_TMP}".encode()).hexdigest()[:12]


@contextlib.contextmanager
def scratch_directory() -> Iterator[str]:
    """A new directory, removed at the end."""
    reclaim()
    path = tempfile.mkdtemp(prefix=_PREFIX, dir=_top())
    lock = os.open(os.path.join(path, "unlocked"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(os.path.join(path, "unlocked"), os.path.join(path, "lock"))  # ``lock`` never exists without being locked
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def reclaim() -> None:
    """Remove the directories of killed runs of this user: the kernel has released their locks."""
    with contextlib.suppress(OSError), os.scandir(_top()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_unlocked(entry)


def _remove_unlocked(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):
        if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
            return
        lock = os.open(os.path.join(entry.path, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(lock)


def _top() -> str:
    """The directory in which Ansible makes a directory for each run."""
    return os.path.dirname(str(C.DEFAULT_LOCAL_TMP))
