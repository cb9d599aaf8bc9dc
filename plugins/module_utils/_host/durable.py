# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes that survive a power cut, and the few system calls that Python does not offer.

Every function keeps this order: the data of a file is on disk before its rename, and the rename is on disk before any
write that relies on it. An error of fsync is final for that file, because the kernel drops the dirty pages: it is
raised and never retried.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Callable, cast

_libc = ctypes.CDLL(None, use_errno=True)
# Directory, name, directory, name, flag -> 0, or another number with errno.
Renameat2 = Callable[[int, bytes, int, bytes, int], int]
_PR_SET_PDEATHSIG = 1
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
# The numbers of these calls hold the size of a long, but they read and write an int.
_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_SETFLAGS = 0x40006602 | struct.calcsize("l") << 16

# In the name of a file that is being written this stands before the id of the process.
TEMPORARY = ".tmp-"
# Above this number of files one syncfs is cheaper than an fsync of each.
_FEW = 16
# The kernel is told of so many new bytes of a file at once; and the flag for that (SYNC_FILE_RANGE_WRITE).
_EARLY = 16 * 1024 * 1024
_BEGIN = 2


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``; os.write may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def naming(path: str) -> Iterator[None]:
    """An OSError of the block that tells no path, as of a write to a full disk, tells this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = path
        raise


def fsync_dir(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace the file atomically and durably; when this returns, a power cut keeps the new content."""
    write_pieces(path, [data], mode)


def write_pieces(path: str, pieces: Iterable[bytes], mode: int = 0o600) -> None:
    """``write_file`` of a content in pieces."""
    temporary = f"{path}{TEMPORARY}{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        try:
            with naming(path):
                for piece in pieces:
                    write_all(fd, piece)
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:  # On a full disk nothing must stay of it.
        with suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_dir(os.path.dirname(path))


def append_line(path: str, line: bytes) -> None:
    """Append one line durably. A torn earlier line (without a newline) gets its newline first."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        with naming(path):
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            write_all(fd, (b"\n" if torn else b"") + line + b"\n")
            os.fsync(fd)
    finally:
        os.close(fd)
    fsync_dir(os.path.dirname(path))


def remove_file(path: str) -> None:
    """Remove the file, if it exists, durably."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    fsync_dir(os.path.dirname(path))


def syncfs(fd: int) -> None:
    """Write out the file system that ``fd`` is on."""
    if _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"syncfs: {os.strerror(code)}")


def sync_paths(paths: Iterable[str]) -> None:
    """Make files and directories durable: an fsync each for a few, one syncfs per file system for many."""
    todo = list(paths)
    seen: set[int] = set()
    for path in todo:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if len(todo) <= _FEW:
                os.fsync(fd)
            else:
                device = os.fstat(fd).st_dev
                if device not in seen:
                    seen.add(device)
                    syncfs(fd)
        finally:
            os.close(fd)


def early(fd: int, pieces: Iterable[bytes], libc: Any = _libc, size: int = _EARLY) -> Iterator[bytes]:
    """The pieces of a file, each after it was written there. The kernel begins to write them out meanwhile, ``size``
    bytes at once, so that a later fsync has less to do. Nothing is durable by that, and an error of it is one of that
    fsync."""
    begun = written = 0
    for piece in pieces:
        written += len(piece)
        if written - begun >= size:
            with suppress(AttributeError):  # A C library may lack the call.
                libc.sync_file_range(fd, ctypes.c_int64(begun), ctypes.c_int64(written - begun), _BEGIN)
            begun = written
        yield piece


def move_all(moves: Sequence[tuple[str, str]]) -> None:
    """Rename each (from, to) within a file system, and make the target directories; durable when this returns."""
    folders: set[str] = set()
    for source, target in moves:
        if os.path.dirname(target) not in folders:
            ensure_dir(os.path.dirname(target))
        os.rename(source, target)
        folders |= {os.path.dirname(source), os.path.dirname(target)}
    sync_paths(sorted(folders))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent``, which forked it, ends in any way."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def renameat2_of(libc: Any, machine: str) -> Renameat2 | None:
    """The call renameat2 on this machine. None where the C library lacks it, and we do not know its number."""
    if hasattr(libc, "renameat2"):
        return cast(Renameat2, libc.renameat2)
    # musl and old versions of glibc lack the function, not the call.
    number = {"x86_64": 316, "aarch64": 276}.get(machine) if struct.calcsize("P") == 8 else None
    return None if number is None else partial(libc.syscall, ctypes.c_long(number))


_RENAMEAT2 = renameat2_of(_libc, os.uname().machine)


def exchange(source_fd: int, source: bytes, target_fd: int, target: bytes, call: Renameat2 | None = _RENAMEAT2) -> None:
    """Swap two names atomically, whatever their types (renameat2 with RENAME_EXCHANGE)."""
    if call is None:
        raise _lacking(target)
    if call(source_fd, source, target_fd, target, _RENAME_EXCHANGE) != 0:
        raise _failed("exchange", target)


def rename_new(
    source_fd: int, source: bytes, target_fd: int, target: bytes, call: Renameat2 | None = _RENAMEAT2
) -> None:
    """Rename without replacing: FileExistsError where the name exists (renameat2 with RENAME_NOREPLACE)."""
    if call is None:
        raise _lacking(target)
    if call(source_fd, source, target_fd, target, _RENAME_NOREPLACE) != 0:
        raise _failed("noreplace", target)


def _lacking(target: bytes) -> OSError:
    return OSError(errno.ENOSYS, "renameat2: the C library lacks it", os.fsdecode(target))


def _failed(label: str, target: bytes) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"renameat2 {label}: {os.strerror(code)}", os.fsdecode(target))


def inode_flags(fd: int) -> int:
    """The flags that lsattr shows (FS_IOC_GETFLAGS); 0 where the file system has none."""
    import fcntl

    try:
        return int.from_bytes(fcntl.ioctl(fd, _GETFLAGS, bytes(8))[:4], sys.byteorder)
    except OSError as error:
        if error.errno in (errno.EIO, errno.EBADF):
            raise
        return 0


def project(fd: int) -> int:
    """The project id of the open file, for quotas (FS_IOC_FSGETXATTR); 0 where the file system has none."""
    import fcntl

    try:
        return int.from_bytes(fcntl.ioctl(fd, 0x801C581F, bytes(28))[12:16], sys.byteorder)
    except OSError:
        return 0


def set_inode_flags(fd: int, wanted: int, mask: int) -> int:
    """Set the flags in ``mask`` as in ``wanted``, and leave the others unchanged.

    Returns the flags of ``mask`` that could not be set, because the file system lacks them or we may not set them.
    """
    import fcntl

    now = inode_flags(fd)
    bits = (now ^ wanted) & mask
    # All flags at once; each by itself where that is refused, so that an unknown flag does not hinder the others.
    for group in [bits, *(1 << at for at in range(32) if bits & 1 << at)]:
        if (now ^ wanted) & mask & group:
            try:
                fcntl.ioctl(fd, _SETFLAGS, (now ^ group).to_bytes(4, sys.byteorder) + bytes(4))
            except OSError as error:
                if error.errno in (errno.EIO, errno.ENOSPC, errno.EBADF, errno.EROFS):
                    raise
            now = inode_flags(fd)
    return (now ^ wanted) & mask


def clone(source: int, target: int) -> bool:
    """Share the data of ``source`` with the empty file ``target`` where the file system can; False elsewhere."""
    import fcntl

    try:
        fcntl.ioctl(target, 0x40049409, source)  # FICLONE
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def ensure_dir(path: str, mode: int = 0o700) -> None:
    """Make the directory and its missing parents, durably. NotADirectoryError where the path is another type."""
    path = os.path.abspath(path)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            ensure_dir(parent, 0o755)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            return
        fsync_dir(parent)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
