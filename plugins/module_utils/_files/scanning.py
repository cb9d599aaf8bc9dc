# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A scan: all entries of the declared trees as they are now."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from .._errors import UsageError
from .._store.objects import Hasher, Writer
from .ahead import Ahead
from .cache import Cache
from .declaration import Declaration
from .entry import (
    SOCKET,
    Entry,
    Tree,
    path_of,
)
from .walk import Walk


@dataclass
class Scan:
    """Entries on disk now, sorted by path; directories that hold something excluded; of a tolerant look what it could
    not read whole: path -> why; and which directory each is: path -> device, inode."""

    entries: Tree
    holding: set[bytes] = field(default_factory=set)
    unread: dict[bytes, str] = field(default_factory=dict)
    inodes: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """All that a checkpoint can record: no socket, and no content that was not read."""
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
) -> Scan:
    """Read the declared trees, contents into ``sink``; ``skip`` are paths that are never part of them (the store).

    What the stat cache of the sink's store knows is not read again; a Writer's is brought up to date with it, unless
    ``cached`` is False. Raises UsageError for a path that leads through a symlink or cannot be read, EvenkeelError for
    an unstable file. A ``tolerant`` look notes all of that instead, and goes on: a host that goes back must not wait
    for what only the undo wants.
    """
    cache = Cache(sink.objects, declared) if cached and sink.objects is not None else None
    ahead = Ahead(cache)
    walk = Walk(declared, sink, skip, cache, ahead, tolerant)
    collects = gc.isenabled()
    gc.disable()  # There are no cycles in all that is made here, and looking for them takes a fifth of the time.
    try:
        for path in declared.paths:
            walk.each(os.fsencode(path))
        walk.read_again()
    except PermissionError as error:
        raise UsageError(f"{path} cannot be read: {error}; run with the rights to read it (become)") from error
    except RecursionError as error:
        raise UsageError(f"{walk.last()} lies too deep to be read; exclude what it is in") from error
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        # Each directory on the way down is open.
        raise UsageError(
            f"{walk.last()} lies too deep to be read with as many open files as are allowed; "
            "exclude what it is in, or raise the limit (ulimit -n)"
        ) from error
    finally:
        ahead.close()
        if collects:
            gc.enable()
    if walk.gone:
        gone = set(walk.gone)
        walk.choose([at for at in range(len(walk.lines)) if at not in gone])
    if len(declared.paths) > 1:
        walk.arrange()
    lines = walk.lines
    if any(len(places) > 1 for places in walk.shared.values()):
        # Which name of an inode comes first is no property of the file: the cache does not keep it.
        lines = list(lines)
        for places in walk.shared.values():
            first, *others = sorted(places)
            for place in others:
                lines[place] = Entry.parse(lines[place])._replace(link=path_of(lines[first])).line()
    if cache is not None and isinstance(sink, Writer) and (cache.stale or walk.worth_saving()):
        sink.afterwards(partial(cache.save, walk.lines, walk.keys))
    return Scan(Tree(lines), walk.holding, walk.unread, walk.inodes)
