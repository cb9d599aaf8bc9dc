# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks of package managers, and who holds them."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence

from .processes import read_stat

# The locks that dpkg and rpm hold while they change packages.
DPKG = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")
RPM = ("/usr/lib/sysimage/rpm/.rpm.lock", "/var/lib/rpm/.rpm.lock")


def holder(paths: Sequence[str]) -> str:
    """The program that holds a lock on one of the files, in words; "" where no program does. A lock file alone is no
    lock."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            # The layout of struct flock in the C library of this machine.
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _whence, _start, _length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        except (OSError, struct.error):
            continue
        finally:
            os.close(fd)
        if kind != fcntl.F_UNLCK:
            stat = read_stat(pid)
            return f"{path} is held by process {pid} ({stat.name if stat else 'of which no name can be read'})"
    return ""
