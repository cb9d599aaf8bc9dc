# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Making the object of one entry, whole, in a staging directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from .._errors import Damaged
from .._host.durable import (
    clone,
    set_inode_flags,
    write_all,
)
from .._store.store import Store
from .attributes import attributes
from .entry import ABOVE, EARLY, FLAGS, FORMATS, PINNED, Entry


def finish_folders(folders: Sequence[tuple[Entry, bytes]], stage: int) -> None:
    """Set the attributes of the directories of a staged tree, from the leaves up: no name comes or goes any more."""
    for entry, where in reversed(folders):
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage)
        try:
            attributes(entry, fd)
            set_inode_flags(fd, entry.flags, FLAGS)
        finally:
            os.close(fd)


def make(store: Store, entry: Entry, fd: int, name: bytes, staged: dict[bytes, tuple[int, bytes]]) -> None:
    """Make the object of the entry, complete, under ``name`` in the staging directory."""
    if entry.link in staged:
        source, first = staged[entry.link]
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    if entry.type == "f":
        target = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            if entry.flags & EARLY:
                set_inode_flags(target, entry.flags, EARLY)
            _fill(store, entry, target)
            attributes(entry, target)
            set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
        finally:
            os.close(target)
        return
    if entry.type == "l":
        os.symlink(entry.target, name, dir_fd=fd)
    elif entry.type in ("d", ABOVE):
        os.mkdir(name, 0o700, dir_fd=fd)
    else:
        os.mknod(name, FORMATS[entry.type] | 0o600, entry.rdev, dir_fd=fd)
    if entry.type in ("d", ABOVE) and os.geteuid() != 0:
        entry = entry._replace(mode=entry.mode | 0o700)  # It is to be filled; its own mode comes at the end.
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        attributes(entry, made, f"/proc/self/fd/{made}")
    finally:
        os.close(made)


def _fill(store: Store, entry: Entry, target: int) -> None:
    """Write the content, verified meanwhile. Where the file system can clone it, the copy is verified."""
    source = store.objects.loose_stream(entry.sha256)
    if source is not None:
        with source:
            if clone(source.fileno(), target):
                problem = store.objects.verify(entry.sha256)
                if problem:
                    raise Damaged(problem)
                return
    for chunk in store.objects.read(entry.sha256):
        if entry.sparse and chunk.count(0) == len(chunk):
            os.lseek(target, len(chunk), os.SEEK_CUR)
        elif entry.sparse:
            for at in range(0, len(chunk), 4096):
                block = chunk[at : at + 4096]
                if block.count(0) == len(block):
                    os.lseek(target, len(block), os.SEEK_CUR)
                else:
                    write_all(target, block)
        else:
            write_all(target, chunk)
    os.ftruncate(target, entry.size)
