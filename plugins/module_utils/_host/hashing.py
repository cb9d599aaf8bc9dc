# SPDX-License-Identifier: GPL-3.0-or-later

"""The SHA-256 of contents that are too large for memory: one loop over chunks, whatever reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hmac

# A chunk fits into the cache of the CPU, from one hand to the next.
CHUNK = 256 * 1024
# From this size on a thread that reads ahead pays off.
_LARGE = 64 * CHUNK


def hash_of(chunks: Iterable[bytes | memoryview], digest: hashlib._Hash | hmac.HMAC | None = None) -> tuple[str, int]:
    """The hash of all chunks together, and their size. ``digest``: instead of a SHA-256, such as one with a key."""
    digest, size = digest or hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def passing(pieces: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """The pieces as they come, while the digest takes each."""
    for piece in pieces:
        digest.update(piece)
        yield piece


def hash_file(fd: int, large: int = _LARGE) -> tuple[str, int]:
    """Hash and size of an open file's content from its offset on, as fast as it can be read. ``large``: the size from
    which on a thread reads ahead.

    The owner of the file can add holes faster than anybody reads: bytes beyond its size at the start are ignored.
    """
    return hash_of(_fast(fd, large))


def chunks(fd: int, most: int | None = None) -> Iterator[bytes]:
    """The content of an open file from its offset on; with ``most`` no more bytes of it."""
    while most is None or most > 0:
        chunk = os.read(fd, CHUNK if most is None else min(CHUNK, most))
        if not chunk:
            return
        most = None if most is None else most - len(chunk)
        yield chunk


def _fast(fd: int, large: int) -> Iterator[memoryview]:
    """The content in chunks, each valid until the next; for a large file a thread reads ahead."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    most = os.fstat(fd).st_size - os.lseek(fd, 0, os.SEEK_CUR)
    if most < large:
        buffer = memoryview(bytearray(CHUNK))
        while True:
            count = min(os.readv(fd, [buffer]), most)
            if count <= 0:
                return
            most -= count
            yield buffer[:count]
    from concurrent.futures import ThreadPoolExecutor

    buffers = [memoryview(bytearray(16 * CHUNK)) for _turn in range(2)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(os.readv, fd, buffers[:1])
        while True:
            count = min(ahead.result(), most)
            if count <= 0:
                return
            most -= count
            full = buffers[0][:count]
            buffers.reverse()
            ahead = reader.submit(os.readv, fd, buffers[:1])
            yield full
