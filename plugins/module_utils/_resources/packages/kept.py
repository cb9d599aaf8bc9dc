# SPDX-License-Identifier: GPL-3.0-or-later

"""Package files of replaced versions, kept in a folder of the store as long as a checkpoint has such a version. The
name of a file holds package, version and hash, so that there is no index to write."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import BinaryIO, Callable, NamedTuple
from urllib.parse import quote, unquote

from ..._errors import Damaged
from ..._host.durable import ensure_dir, fsync_dir
from ..._host.hashing import chunks, hash_file
from ..._host.trust import open_regular
from .package import Ident

FOLDER = "packages"
_NAME = r"([^,/]+),([^,/]+),([^,/]+),([0-9a-f]{64})"
_TEMPORARY = ".tmp-"
# Bytes that stay free on the file system of the store.
RESERVE = 64 << 20


class Kept(NamedTuple):
    """``path`` of a package file, and its SHA-256."""

    path: str
    sha256: str


def every(root: str) -> dict[Ident, Kept]:
    """The package files that are kept below the store ``root``."""
    folder = os.path.join(root, FOLDER)
    found = {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        words = re.fullmatch(_NAME, name)
        if words is not None:
            found[(words[1], words[2], unquote(words[3]))] = Kept(os.path.join(folder, name), words[4])
    return found


def put(root: str, ident: Ident, write: Callable[[BinaryIO], None]) -> None:
    """Keep the package file that ``write`` writes; durable on return. A failure leaves no file behind."""
    folder = os.path.join(root, FOLDER)
    ensure_dir(folder)
    path = os.path.join(folder, f"{_TEMPORARY}{os.getpid()}")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with os.fdopen(fd, "w+b") as stream:
            write(stream)
            stream.flush()
            os.fsync(fd)
            os.lseek(fd, 0, os.SEEK_SET)
            sha = hash_file(fd)[0]
        name, arch, version = ident
        os.rename(path, os.path.join(folder, f"{name},{arch},{quote(version, safe='')},{sha}"))
        fsync_dir(folder)
    except BaseException:
        if os.path.lexists(path):
            os.unlink(path)
        raise


def copy(source: str) -> Callable[[BinaryIO], None]:
    """A function for ``put`` that copies a file."""

    def write(stream: BinaryIO) -> None:
        with open_regular(source) as found:
            refuse_if_full(stream, os.fstat(found.fileno()).st_size)
            for piece in chunks(found.fileno()):
                stream.write(piece)

    return write


def refuse_if_full(stream: BinaryIO, size: int) -> None:
    """Raise OSError where so many bytes would leave too little room for the change that is under way."""
    room = os.fstatvfs(stream.fileno())
    if room.f_bavail * room.f_frsize < size + RESERVE:
        raise OSError(f"the file system of the store has no room for {size >> 20} MB")


def read(file: Kept) -> Iterator[bytes]:
    """The content of the file. Raises Damaged, before the first bytes, where the content has changed."""
    with open_regular(file.path) as stream:
        if hash_file(stream.fileno())[0] != file.sha256:
            raise Damaged(f"{file.path} is not what was kept: its hash is another")
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        yield from chunks(stream.fileno())


def forget(root: str, needed: Collection[Ident]) -> None:
    """Delete the package files that are no longer needed, and temporary files that a killed process has left."""
    folder = os.path.join(root, FOLDER)
    for ident, one in every(root).items():
        if ident not in needed:
            os.unlink(one.path)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        process = name.removeprefix(_TEMPORARY)
        if name.startswith(_TEMPORARY) and not os.path.exists(f"/proc/{process}"):
            os.unlink(os.path.join(folder, name))
