# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's archive_command: ``archive_wal.py %p %f DIRECTORY``.

Puts a copy of the file into the directory under its name, durably, and never over another file. Ends with 0 only when
the copy is there and on disk; in every other case PostgreSQL keeps the file and tries again.
"""

from __future__ import annotations

import os
import sys

CHUNK = 1 << 20


def archive(source: str, name: str, folder: str) -> None:
    """Raises OSError; FileExistsError when there is a file of this name with another content."""
    target, temporary = os.path.join(folder, name), os.path.join(folder, f".{name}.tmp")
    # The leftover of an earlier attempt; a file whose fsync failed is never used again.
    if os.path.lexists(temporary):
        os.unlink(temporary)
    if os.path.lexists(target):
        if not same(source, target):
            raise FileExistsError(f"{target} exists with another content; two servers archive to one place")
        sync(target, os.O_RDONLY | os.O_NOFOLLOW)
    else:
        try:
            copy(source, temporary)
            os.link(temporary, target)  # fails where the name is taken
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def copy(source: str, target: str) -> None:
    with open(source, "rb") as stream:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb", buffering=0) as copied:
            while chunk := stream.read(CHUNK):
                view = memoryview(chunk)
                while view:
                    view = view[copied.write(view) :]
            os.fsync(fd)


def sync(path: str, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def same(one: str, other: str) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while True:
            chunk = first.read(CHUNK)
            if chunk != second.read(CHUNK):
                return False
            if not chunk:
                return True


if __name__ == "__main__":
    try:
        archive(*sys.argv[1:])
    except (OSError, TypeError) as error:
        sys.exit(f"archive_wal.py {' '.join(sys.argv[1:])}: {error}")
