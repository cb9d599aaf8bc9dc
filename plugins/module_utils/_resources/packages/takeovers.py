# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that a package takes over from another package that stays as it is (dpkg's field Replaces).

dpkg gives each such path to the newer package, and removes it together with that package: the other one lacks it from
then on, although its version never changed. The store names these paths, so that a rollback installs the other package
once more.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..._host.durable import ensure_dir, write_file
from ..._host.system import System
from ..._host.trust import read_small
from ..kind import Restore
from . import dpkg, kept
from .package import Ident, Package

# The action of a step.
RETAKE = "retake"
_FILE = "taken"
_LOOK = 60.0
_LARGEST = 1 << 24
# A line of dpkg-deb for anything but a directory.
_LISTED = re.compile(r"[^d]\S+ +\S+ +\S+ \S+ \S+ \.(/.*)")
_RELATION = re.compile(r"\s*([a-z0-9][a-z0-9.+-]*)(?::\S+)?\s*(?:\((<<|<=|=|>=|>>)\s*([^)\s]+)\))?")
_WORDS = {"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}


class Taken(NamedTuple):
    """``ident`` of the package that had the paths; ``by``: the name of the package that has them since ``when``, in
    epoch seconds; 0 where an older version has recorded it."""

    ident: Ident
    by: str
    paths: Sequence[str]
    when: float = 0.0


def find(archives: Sequence[str], live: Mapping[str, Package], at: Restore) -> list[Taken]:
    """The paths that these package files take over from installed packages, now: after the checkpoint of ``at``, even
    where the change has set the clock."""
    found, system, when = [], at.system, max(at.system.now(), at.since)
    for path in archives:
        said = system.run(["dpkg-deb", "--show", "--showformat=${Package}\t${Replaces}", path], _LOOK)
        name, _tab, replaces = said.out.partition("\t")
        losing = [one for one in _replaced(replaces, live, system) if one.name != name] if said.rc == 0 else []
        if losing:
            listed = system.run(["dpkg-deb", "--contents", path], _LOOK).out.splitlines()
            mine = {re.split(" -> | link to ", one[1])[0] for one in map(_LISTED.fullmatch, listed) if one}
            every = [Taken(one.ident, name, sorted(mine & _paths(one)), when) for one in losing]
            found += [one for one in every if one.paths]
    return found


def _replaced(relations: str, live: Mapping[str, Package], system: System) -> list[Package]:
    """The installed packages that a field Replaces names, in a version that it names."""
    found = []
    for name, sign, version in (told.groups() for told in map(_RELATION.match, relations.split(",")) if told):
        for one in (one for one in live.values() if one.name == name):
            argv = ["dpkg", "--compare-versions", one.version, _WORDS.get(sign, ""), version or ""]
            if not sign or system.run(argv, _LOOK).rc == 0:
                found.append(one)
    return found


def _paths(package: Package) -> set[str]:
    """The paths that dpkg lists for an installed package."""
    for name in (f"{package.name}:{package.arch}", package.name):
        with suppress(OSError):
            return set(os.fsdecode(read_small(f"{dpkg.INFO}/{name}.list", _LARGEST)[0]).splitlines())
    return set()


def keep(root: str, found: Sequence[Taken]) -> None:
    """Name these paths in the store, beside those that it names already. The same paths count from their last time."""
    if found:
        new = [one[:3] for one in found]
        known = [one for one in every(root) if one[:3] not in new]
        ensure_dir(os.path.join(root, kept.FOLDER))
        _write(root, [*known, *found])


def _write(root: str, found: Sequence[Taken]) -> None:
    write_file(os.path.join(root, kept.FOLDER, _FILE), json.dumps(found).encode())


def every(root: str) -> list[Taken]:
    """All that the store names."""
    with suppress(OSError, ValueError, TypeError):
        records = json.loads(read_small(os.path.join(root, kept.FOLDER, _FILE), _LARGEST)[0])
        return [
            Taken((str(a), str(b), str(c)), str(by), list(map(str, paths)), *map(float, when))
            for (a, b, c), by, paths, *when in records
        ]
    return []


def forget(root: str, needed: Collection[Ident]) -> None:
    """Forget the packages that are no longer needed."""
    known = every(root)
    stay = [one for one in known if one.ident in needed]
    if len(stay) < len(known):
        _write(root, stay)


def lacking(
    at: Restore, wanted: Sequence[Package], live: Mapping[str, Package], go: Collection[str] = ()
) -> dict[str, list[str]]:
    """Key of a package that is installed as ``wanted`` -> the paths that it lacks, and that no other package has then.
    ``go``: the names of the packages that are about to be changed. A package that had lost its paths before the
    checkpoint lacked them there, too."""
    idents = {one.ident for one in wanted}
    found: dict[str, list[str]] = {}
    for one in (one for one in every(at.objects.root) if not 0.0 < one.when < at.since):
        mine = live.get(":".join(one.ident[:2]))
        if mine is None or mine.status or mine.ident != one.ident or one.ident not in idents:
            continue
        others = [other for other in live.values() if other.name == one.by and other.name not in go]
        there = _paths(mine).union(*(_paths(other) for other in others))
        missing = [path for path in one.paths if path not in there]
        if missing:
            found.setdefault(mine.key, []).extend(missing)
    return found
