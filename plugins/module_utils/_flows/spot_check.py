# SPDX-License-Identifier: GPL-3.0-or-later

"""A look, which takes a moment, at declared state that is not in the newest checkpoint.

Two manifests are read, and on disk the declared paths themselves and a few directories in them. No tree is walked, so
that a tree of which only a part is missing is found by the number of its entries alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import unquote_to_bytes

from .._dataclasses import dataclass, field
from .._errors import Damaged, NotFound, UsageError
from .._files.declaration import OWN_NAMES, Declaration, left_out, pattern
from .._files.entry import ABOVE, ABSENT, quote
from .._host.paths import open_dir
from .._results.host import NOT_COMPARED
from .._store.manifest import LOG, Manifest
from .._store.store import LATEST, Store

# A tree that had so many entries, and has less than a tenth of them, was emptied.
_MANY, _LEFT = 20, 10
# The directories of a tree that are looked at, and the entries of each.
_DIRECTORIES, _ENTRIES = 50, 1000
# The sentences of a host, and the characters of a path in them.
_SENTENCES, _SHOWN = 20, 300
_OWN = pattern(OWN_NAMES)


# A declaration of trees.
Spec = Mapping[str, Any]


@dataclass
class Recorded:
    """A declared path in a checkpoint: its entries, and those that are no directories. ``directories``: all of them,
    quoted."""

    entries: int = 0
    others: int = 0
    directories: dict[str, None] = field(default_factory=dict)


@dataclass
class Seen:
    """A declared path on disk now. ``target``: where it leads, if it is a symlink. ``kept``, ``excluded``: entries of
    its directories that the checkpoint lacks, and that the declaration does not exclude, or excludes."""

    exists: bool = False
    target: str = ""
    kept: int = 0
    excluded: int = 0


@dataclass(frozen=True)
class Outline:
    """See ``registry.outline``."""

    kinds: list[str]
    trees: list[Spec]
    stand: list[str]
    tree_kinds: list[str]


Look = Callable[[str, Spec, Recorded], Seen]


def spot_check(store: Store, outline: Mapping[str, list[Any]]) -> list[str]:
    """Sentences on declared state that the newest checkpoint does not hold. Changes nothing.

    ``outline``: what is declared, as ``registry.outline`` tells it. Nothing here knows a kind, so that the question is
    small to send.
    """
    declared = Outline(**outline)
    try:
        *earlier, newest = store.chain(store.resolve(LATEST))
        found = judge(declared, [*earlier, newest], [] if earlier else _before(store, newest), read_path)
    except NotFound:
        return ["no checkpoint has been taken, so that nothing of what is declared is protected"]
    except Damaged as error:
        return [f"{NOT_COMPARED}: {error.message}"]
    more = [f"{len(found) - _SENTENCES} more differences like these"] if len(found) > _SENTENCES else []
    return found[:_SENTENCES] + more


def _before(store: Store, newest: Manifest) -> list[Manifest]:
    """The records that lead to the checkpoint of the same name before it; nothing where there is none to be read."""
    ids = store.refs().get(newest.name, [])
    try:
        return store.chain(ids[ids.index(newest.id) - 1]) if newest.id in ids[1:] else []
    except Damaged:
        return []


def judge(declared: Outline, records: Sequence[Manifest], before: Sequence[Manifest], measure: Look) -> list[str]:
    """The sentences on the checkpoint to which ``records`` lead. ``before``: the records that lead to the checkpoint
    before it, where that is not a record of the same log."""
    *earlier, newest = records
    kinds = {section.kind for section in newest.sections}
    point = f"the checkpoint {newest.name} of {newest.created[:16]}Z"
    missing = [kind for kind in dict.fromkeys(declared.kinds) if kind not in kinds]
    found = [f"{', '.join(missing)}: declared, and not in {point}"] if missing else []
    trees = [*declared.trees, *_stood_for(declared, newest)]
    paths = [path for spec in trees for path in spec["paths"]]
    now = _tally(paths, earlier)
    then = (now if earlier else _tally(paths, before)).entries()
    now.add(newest)
    for spec in trees:
        for path in spec["paths"]:
            recorded = now.found[path]
            words = _words(measure(path, spec, recorded), recorded, then[path], paths, spec)
            found += [f"{path[:_SHOWN]}: {words} ({point})"] if words else []
    return found


def _stood_for(declared: Outline, newest: Manifest) -> Iterator[Spec]:
    """The trees for which a declared kind stood when the checkpoint was taken."""
    for section in newest.sections:
        if section.kind in declared.stand:
            for one in section.spec.get("for", []):
                yield from (spec for kind, spec in one.items() if kind in declared.tree_kinds)


def _words(seen: Seen, now: Recorded, then: int, paths: Sequence[str], spec: Spec) -> str:
    """The fault of the record of a declared path, in words; empty for none."""
    if seen.target and not any(f"{seen.target}/".startswith(f"{path}/") for path in paths):
        return f"it is a symlink to {seen.target[:_SHOWN]}, which is not declared: only the link itself is protected"
    if seen.exists and not now.entries:
        return "it exists, and nothing of it was recorded"
    if then >= _MANY and now.entries * _LEFT < then:
        return f"{now.entries} of {then} entries are left since the checkpoint before it"
    if now.others:
        return ""
    if seen.kept:
        return "no file in it was recorded, and there are some now"
    if seen.excluded:
        return f"no file in it was recorded: exclude ({', '.join(spec['exclude'])[:_SHOWN]}) leaves out all of it"
    return ""


class Tally:
    """The entries of declared paths in a checkpoint, from the records that lead to it: no state is put together."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.found = {path: Recorded() for path in paths}
        quoted = ((quote(os.fsencode(path)), one) for path, one in self.found.items())
        self._tops = [(text, f"{text}/", one) for text, one in quoted]

    def add(self, record: Manifest) -> Tally:
        """Count the lines of a snapshot, or the changes of a log since the record before it."""
        for section in record.sections:
            if record.kind == LOG:
                self._count((line[1:] for line in section.lines if line[0] == "+"), 1)
                self._count((line[1:] for line in section.lines if line[0] == "-"), -1)
            else:
                self._count(section.lines, 1)
        return self

    def entries(self) -> dict[str, int]:
        return {path: one.entries for path, one in self.found.items()}

    def _count(self, lines: Iterable[str], by: int) -> None:
        top, beginning, one = "", "\n", Recorded()
        for line in lines:
            if line[1:2] != " ":
                continue  # The line is in the words of a kind.
            kind, path = line[0], line[2:].partition(" ")[0]
            if kind in (ABOVE, ABSENT):
                continue
            if not path.startswith(beginning) and path != top:
                known = (found for found in self._tops if path == found[0] or path.startswith(found[1]))
                top, beginning, one = next(known, ("", "\n", Recorded()))
            one.entries += by
            if kind != "d":
                one.others += by
            elif by > 0:
                one.directories[path] = None
            else:
                one.directories.pop(path, None)


def _tally(paths: Sequence[str], records: Iterable[Manifest]) -> Tally:
    found = Tally(paths)
    for record in records:
        found.add(record)
    return found


def read_path(path: str, spec: Spec, recorded: Recorded) -> Seen:
    """A declared path as it is on disk; its directories where no file of it was recorded."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return Seen(True, os.path.realpath(path))
    except OSError:
        return Seen()
    seen = Seen(True)
    is_left_out = left_out(Declaration(spec["paths"], spec["exclude"]))
    known = {unquote_to_bytes(one) for one in recorded.directories}
    for directory in sorted(known)[:_DIRECTORIES]:
        for place in _entries(directory):
            if place not in known:
                excluded = is_left_out(place)
                seen.excluded += excluded
                seen.kept += not excluded
    return seen


def _entries(directory: bytes) -> list[bytes]:
    """Paths of some entries of a directory that a checkpoint would record; none where it cannot be read."""
    found = []
    try:
        fd = open_dir(directory)
        try:
            with os.scandir(fd) as entries:
                for entry in islice(entries, _ENTRIES):
                    name = os.fsencode(entry.name)
                    if not _OWN.match(name) and not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                        found.append(os.path.join(directory, name))
        finally:
            os.close(fd)
    except (OSError, UsageError):
        pass  # The path is gone meanwhile, or leads through a symlink.
    return found
