# SPDX-License-Identifier: GPL-3.0-or-later

"""A scan: all entries of the declared trees as they are now."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Sequence
from functools import partial

from .._dataclasses import dataclass, field
from .._errors import UsageError
from .._store.objects import Hasher, Writer
from .ahead import Ahead
from .cache import Cache
from .declaration import Declaration
from .entry import (
    SOCKET,
    Tree,
    path_of,
)
from .reading import recorded
from .rereading import reread
from .walk import Walk


@dataclass
class Scan:
    """The present paths of the declared trees.

    ``entries`` are sorted by path. ``holding``: directories that hold an excluded path. ``unread``: paths that a
    tolerant look could not read whole -> why. ``inodes``: directory -> its device and inode number. ``parted``: files
    that have further names elsewhere.
    """

    entries: Tree
    holding: set[bytes] = field(default_factory=set)
    unread: dict[bytes, str] = field(default_factory=dict)
    inodes: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    parted: Sequence[bytes] = ()

    def lines(self) -> list[str]:
        """The lines that a checkpoint can record: all but sockets and contents that were not read."""
        if not self.unread:
            return [line for line in self.entries.lines if line[0] != SOCKET]
        return [
            line
            for line in self.entries.lines
            if line[0] != SOCKET and (line.startswith("d ") or path_of(line) not in self.unread)
        ]


def scan(
    declared: Declaration,
    sink: Writer | Hasher,
    skip: Sequence[str] = (),
    tolerant: bool = False,
    cached: bool = True,
    then: Sequence[str] = (),
) -> Scan:
    """Read the declared trees, contents into ``sink``; ``skip`` are paths that are never part of them (the store).

    Files that the stat cache of the sink's store knows are not read again. The scan updates the cache of a Writer's
    store, unless ``cached`` is False. Raises UsageError for a path that leads through a symlink or cannot be read,
    EvenkeelError for an unstable file. A ``tolerant`` look notes all of that instead, and goes on: a host that goes
    back must not wait for files that only the undo needs. It reads through holes, and attributes, without end only in
    files that had them in the lines of the checkpoint, ``then``.
    """
    cache = Cache(sink.objects, declared) if cached and sink.objects is not None else None
    ahead = Ahead(cache)
    walk = Walk(declared, sink, skip, cache, ahead, tolerant)
    walk.reader.recorded = recorded(then)
    collects = gc.isenabled()
    gc.disable()  # Nothing that is made here has cycles, and looking for cycles takes a fifth of the time.
    try:
        for path in declared.paths:
            walk.each(os.fsencode(path))
        reread(walk.reader, walk.found, walk.inodes)
    except PermissionError as error:
        raise UsageError(
            f"{error.filename or path} cannot be read: {error.strerror}; run with the rights to read it (become), or "
            "exclude it (not even root can read a mount of FUSE that another user has made)"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{walk.found.last()} lies too deep to be read; exclude a directory above it") from error
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # Each directory on the way down is open.
        raise UsageError(
            f"{walk.found.last()} lies too deep to be read with as many open files as are allowed; "
            "exclude a directory above it, or raise the limit (ulimit -n)"
        ) from error
    finally:
        ahead.close()
        if collects:
            gc.enable()
    found = walk.found
    found.drop_gone()
    if len(declared.paths) > 1:
        found.arrange()
    if cache is not None and isinstance(sink, Writer) and (cache.stale or walk.reader.worth_saving(len(found.lines))):
        sink.afterwards(partial(cache.save, found.lines, found.keys))
    return Scan(Tree(found.linked()), walk.holding, walk.reader.unread, walk.inodes, found.parted())
