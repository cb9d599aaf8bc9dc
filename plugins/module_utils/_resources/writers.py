# SPDX-License-Identifier: GPL-3.0-or-later

"""Writers: programs that have files of declared trees open for writing."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from .._services.places import Places
from .kind import is_within

# The most seconds for a look at all open files of a host.
_LOOK = 1.0


def undeclared(
    roots: Sequence[str],
    leaves_out: Callable[[str], bool],
    programs: Collection[str],
    proc: str = "/proc",
    seconds: float = _LOOK,
) -> tuple[list[str], bool]:
    """(sentences on the programs that have a file below ``roots`` open for writing, and that no rollback stops, so that
    it replaces the file under them; whether there was time to look at all). ``leaves_out``: whether a path is not
    protected. ``programs``: the declared units."""
    found: dict[str, list[str]] = {}
    end, places = time.monotonic() + seconds, Places(proc)
    for pid in filter(str.isdigit, os.listdir(proc) if roots else []):
        if time.monotonic() > end:
            return _sentences(found), False
        with suppress(OSError):
            paths = [path for path in open_for_writing(f"{proc}/{pid}", roots, ()) if not leaves_out(path)]
            unit = places.service(pid) if paths else ""
            # A program that a person has started by hand ends with its work.
            if unit and unit not in programs:
                found.setdefault(unit, []).extend(paths)
    return _sentences(found), True


def _sentences(found: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"{unit} has {min(paths)}{f' and {len(set(paths)) - 1} more files' if len(set(paths)) > 1 else ''} open for "
        "writing, and nothing stops it for a rollback: it goes on with the file that the rollback replaces, and what "
        "it writes there is lost; name the unit in services, or exclude what it writes"
        for unit, paths in sorted(found.items())
    ]


def open_for_writing(process: str, roots: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """The files below ``roots``, and not below ``known``, that a process has open for writing. ``process``: its
    directory in /proc."""
    for name in os.listdir(f"{process}/fd"):
        with suppress(OSError):
            link = f"{process}/fd/{name}"
            path = os.readlink(link)
            # The text of the link decides first: a file elsewhere may be on a server that does not answer.
            if not any(is_within(path, root) for root in roots) or any(is_within(path, one) for one in known):
                continue
            # The link has the modes of the descriptor. In a mount namespace of a user any file can have any path.
            found = os.lstat(path) if os.lstat(link).st_mode & stat.S_IWUSR else None
            if found is not None and stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(link)):
                yield path
