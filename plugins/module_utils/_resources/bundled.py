# SPDX-License-Identifier: GPL-3.0-or-later

"""The contents of a bundle: those in the store, and those that the host keeps beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import BinaryIO

from .._errors import Damaged, UsageError
from .._host.hashing import chunks, passing
from .._host.paths import open_file
from .._store.objects import Objects


class Bundled:
    """Contents by their names. ``beside``: name -> the file beside the store that holds it.

    Programs of other users may write to such a file, so it is read as it is now, and no link on the way is followed.
    """

    def __init__(self, objects: Objects, beside: Mapping[str, str]) -> None:
        self._objects = objects
        self._beside = beside

    def size(self, sha: str) -> int:
        """Bytes of the content; Damaged when it is not there."""
        if sha not in self._beside or self._objects.has(sha):
            return self._objects.size(sha)
        with self._open(sha) as stream:
            return os.fstat(stream.fileno()).st_size

    def read(self, sha: str) -> Iterator[bytes]:
        """The content in chunks, as many bytes as ``size`` said. Damaged at its end when its hash is not its name."""
        if sha not in self._beside or self._objects.has(sha):
            yield from self._objects.read(sha)
            return
        digest = hashlib.sha256()
        with self._open(sha) as stream:
            yield from passing(chunks(stream.fileno(), os.fstat(stream.fileno()).st_size), digest)
        if digest.hexdigest() != sha:
            raise Damaged(f"{self._beside[sha]} is not what the checkpoint recorded: it was damaged or replaced since")

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """(name, size, chunks) of each content, in this order, as ``Objects.read_many``."""
        for is_beside, group in groupby(names, lambda sha: sha in self._beside and not self._objects.has(sha)):
            if is_beside:
                yield from ((sha, self.size(sha), self.read(sha)) for sha in group)
            else:
                yield from self._objects.read_many(group)

    def _open(self, sha: str) -> BinaryIO:
        path = self._beside[sha]
        try:
            return open_file(os.fsencode(path))
        except (OSError, UsageError) as error:
            why = error.message if isinstance(error, UsageError) else error.strerror
            raise Damaged(f"{path}, which the checkpoint needs, cannot be read: {why}") from error
