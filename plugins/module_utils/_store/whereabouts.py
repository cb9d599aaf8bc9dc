# SPDX-License-Identifier: GPL-3.0-or-later

"""The place of a store: words that are the same under all its names, and that nobody gives who cannot read the store.

A host says where its store is, and others count copies by that. Device, inode and boot id can be guessed, so that a
peer could claim to be another one. Therefore each store keeps a secret, which never leaves it. The place is a MAC of
these facts and of the name of the run, so that an answer from another run is of no use.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re

from .._host.durable import write_file
from .._host.mounts import REMOTE, mounts

SECRET = "secret"
_SIZE = 32
# File systems that several hosts can have at the same time. A layer of a container is its own.
_SHARED = re.compile(rf"{REMOTE}|smb2|gpfs|virtiofs|fuse\.(?!fuse-overlayfs).*")


def read_secret(root: str) -> bytes:
    """The secret of the store below ``root``; empty where it has none that is whole. Raises OSError."""
    try:
        fd = os.open(os.path.join(root, SECRET), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        found = os.read(fd, _SIZE + 1)
    finally:
        os.close(fd)
    return found if len(found) == _SIZE else b""


def make_secret(root: str) -> None:
    """Give the store a secret, durably, if it has none. Its lock is held. Raises OSError."""
    if not read_secret(root):
        write_file(os.path.join(root, SECRET), os.urandom(_SIZE), 0o400)


def of(root: str, secret: bytes, boot_id: str, nonce: str) -> str:
    """The place. The facts tell a store from a copy of its disk, which has the same secret. Where hosts share a file
    system, they have the same store, and other facts."""
    there = root
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    found, rest = os.stat(there), os.path.relpath(root, there)
    facts = "shared" if secret and _is_shared(found.st_dev) else f"{boot_id}\0{found.st_dev}\0{found.st_ino}\0{rest}"
    return hmac.new(secret, os.fsencode(f"place\0{nonce}\0{facts}"), hashlib.sha256).hexdigest()


def _is_shared(device: int) -> bool:
    number = b"%d:%d" % (os.major(device), os.minor(device))
    return any(one.device == number and _SHARED.fullmatch(one.kind) for one in mounts())
