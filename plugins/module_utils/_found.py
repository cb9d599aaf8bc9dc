# SPDX-License-Identifier: GPL-3.0-or-later

"""The library of this collection, found on a host where a checkpoint or a copy has left it, or sent there.

This file imports nothing of the library: the controller sends its text alone (``plugin_utils/_direct.py``).
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from contextlib import suppress
from importlib.util import MAGIC_NUMBER

# Some builds of Python lack one of these.
with suppress(ImportError):
    import bz2
with suppress(ImportError):
    import zlib

# The bytes of the largest library.
_LARGEST = 1 << 26
# The beginning of data that are compressed by bzip2.
_BZIP2 = b"BZh"


def load(store: str, digest: str, sent: bytes = b"") -> bool:
    """Have Python import ``evenkeel_agent`` from the library of these sources, or from the one that was ``sent``,
    compressed. Return False where there is none to be trusted, or this host does not allow files in memory."""
    try:
        data = _unpacked(sent) if sent else library(store, digest)
        memory = os.memfd_create("evenkeel") if data else -1
    except (AttributeError, NameError, OSError, ValueError):  # Some builds of Python, and some sandboxes, lack these.
        return False
    if memory < 0:
        return False
    with open(memory, "wb", closefd=False) as stream:
        stream.write(data)
    sys.path.insert(0, f"/proc/self/fd/{memory}")
    return True


def loads() -> str:
    """The compression (bz2 or zlib) of a library that can be sent to the Python of this host; empty where it cannot
    load any."""
    with suppress(AttributeError, OSError):
        os.close(os.memfd_create("evenkeel"))
        return next((name for name in ("bz2", "zlib") if name in globals()), "")
    return ""


def _unpacked(sent: bytes) -> bytes:
    if sent.startswith(_BZIP2):
        return bz2.decompress(sent)
    try:
        return zlib.decompress(sent)
    except zlib.error as error:
        raise ValueError(str(error)) from error


def library(store: str, digest: str) -> bytes:
    """The library of these sources, as the dead-man of this Python has it; empty where there is none to be trusted."""
    start = f"evenkeel-{hashlib.sha256(MAGIC_NUMBER + digest.encode()).hexdigest()[:12]}"
    folder = os.path.join(os.path.abspath(os.path.expanduser(os.path.expandvars(store))), "agent")
    try:
        name = next(name for name in sorted(os.listdir(folder)) if name.startswith(start))
        if not all(map(_is_safe, _ways(folder))):
            return b""
        fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as stream:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or not _is_safe(found):
                return b""
            data = stream.read(_LARGEST)
    except (OSError, StopIteration):
        return b""
    return data if name == f"{start}{hashlib.sha256(data).hexdigest()}.pyz" else b""


def _ways(folder: str) -> list[os.stat_result]:
    """The directory and all above it."""
    found = [os.lstat(folder)]
    while folder != "/":
        folder = os.path.dirname(folder)
        found.append(os.lstat(folder))
    return found


def _is_safe(found: os.stat_result) -> bool:
    """Whether only root and this user can replace it, or an entry of theirs in it. No symlink is followed."""
    shared = found.st_mode & 0o022 and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX)
    return found.st_uid in (0, os.geteuid()) and not shared and not stat.S_ISLNK(found.st_mode)
