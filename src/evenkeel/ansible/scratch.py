# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The private directory of a session: in memory if it stays there, and removed with its session, also after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PREFIX = "evenkeel-"
_MEMORY = "/dev/shm"
# Bytes that a session may need.
_ROOM = 4 << 20
# logind keeps a file for each user who has logged in, and one for each user whose processes outlive the logout.
_USERS, _LINGER = "/run/systemd/users", "/var/lib/systemd/linger"
# The user ids of people begin here.
_PEOPLE = 1000


@contextmanager
def scratch_directory(local_tmp: object, machine: str = "") -> Iterator[Path]:
    """A directory (0700); at its end the SSH connections in it are closed, and it is removed.

    local_tmp: Ansible's setting of that name, the directory in which Ansible makes a directory for each of its runs.
    machine: the directory in which this machine has its memory, and the files of logind.
    """
    root = _root(machine)
    reclaim(root)
    if isinstance(local_tmp, str):
        reclaim(Path(local_tmp).parent)  # the bundles of our plugins lie there
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    lock = os.open(scratch / "unlocked", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (scratch / "unlocked").rename(scratch / "lock")  # The file ``lock`` never exists without the lock.
    try:
        yield scratch
    finally:
        hang_up(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def _root(machine: str = "") -> Path:
    """A directory in memory in which we can write and that has room; the usual temporary directory where there is no
    such directory that stays. The runtime directory of a login lasts as long as a process of that login."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for candidate in (runtime if _ours(runtime) else "", machine + _MEMORY if _stays(machine) else ""):
        if candidate and os.access(candidate, os.W_OK | os.X_OK) and _room(candidate) >= _ROOM:
            return Path(candidate)
    return Path(tempfile.gettempdir())


def _room(path: str) -> int:
    """Bytes that we can write into a file system."""
    found = os.statvfs(path)
    # A file system in memory that has no limit counts no blocks.
    return found.f_bavail * found.f_frsize if found.f_blocks else _ROOM


def _stays(machine: str) -> bool:
    """Whether files of this user stay in /dev/shm: logind removes those of a person who logs out (RemoveIPC), whatever
    service of that person still runs."""
    if os.getuid() < _PEOPLE or not os.path.isdir(machine + _USERS):
        return True
    try:
        return os.path.exists(os.path.join(machine + _LINGER, pwd.getpwuid(os.getuid()).pw_name))
    except KeyError:
        return False


def _ours(path: str) -> bool:
    """Whether nobody but us can rename what lies in a directory. Under su and sudo -E it is that of another user."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


def reclaim(root: Path) -> None:
    """Remove the directories of killed sessions of this user: the kernel has released their locks."""
    for path in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            lock = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def hang_up(directory: Path) -> None:
    """End the SSH masters whose sockets lie below the directory; they would linger for a minute."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # Nothing else is read of a process of another user: its name and its command line may lie in memory that
            # holds up whoever reads it, for ever.
            if process.uids().real != os.getuid():
                continue
            if process.name() == "ssh" and any(f"{directory}/" in word for word in process.cmdline()):
                process.terminate()
