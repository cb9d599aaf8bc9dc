# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource ``files``: trees as they were, down to owner, mode, times, ACLs, xattrs, links and holes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Callable

from .._errors import UsageError
from .._files import comparison, declaration, records, scanning
from .._files import mounts as mounting
from .._files.declaration import Declaration
from .._files.entry import Tree, path_of
from .._files.scanning import Scan
from .._files.step import FILES, PathStep, Step
from .._host.options import Options, read
from .._host.paths import check_path
from .._host.system import System
from .._store.objects import Hasher, Writer
from .kind import Kind, Restore, Sink, Spec, is_within

OPTIONS: Options = {
    "paths": {"type": "list", "elements": "str", "required": True},
    "exclude": {"type": "list", "elements": "str", "default": []},
}
# The key of a declaration under which a checkpoint keeps what was mounted: mount point -> kind of file system.
MOUNTS = "mounts"


def check(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration with all its keys; UsageError names the bad one."""
    found = read(OPTIONS, spec, "files")
    for key in ("paths", "exclude"):
        if not all(found[key]):
            raise UsageError(f"files: {key} must be a list of texts, not {found[key]!r}")
    paths = {check_path(os.fsencode(one.rstrip("/") or "/")) for one in found["paths"]}
    if b"/" in paths:
        raise UsageError("files: / cannot be protected as a whole; name the trees that matter, such as /etc")
    return {
        "paths": sorted(os.fsdecode(path) for path in paths),
        "exclude": sorted(set(found["exclude"])),
    }


def declared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration as a person wrote it, without what a checkpoint adds to it."""
    return {key: value for key, value in spec.items() if key != MOUNTS}


def _known(spec: Mapping[str, Any]) -> Declaration:
    """The declaration of a manifest, as it is."""
    return Declaration(spec["paths"], spec.get("exclude", ()), spec.get(MOUNTS))


def _checked(spec: Mapping[str, Any]) -> Declaration:
    """The declaration of a manifest; UsageError where nobody could have made it."""
    return _known({**check(declared(spec)), **{key: value for key, value in spec.items() if key == MOUNTS}})


def scan(
    spec: Mapping[str, Any],
    sink: Writer | Hasher,
    skip: Sequence[str] = (),
    tolerant: bool = False,
    cached: bool = True,
) -> Scan:
    """The declared trees as they are now: see ``scanning.scan``."""
    return scanning.scan(_checked(spec), sink, skip, tolerant, cached)


def recorded(lines: list[str], spec: Mapping[str, Any], now: Scan | None = None) -> Tree:
    """The entries of a manifest: see ``records.recorded``."""
    return records.recorded(lines, _checked(spec), now)


def swapped(
    steps: Sequence[PathStep], then: Tree, now: Scan, spec: Mapping[str, Any], mounts: Collection[bytes]
) -> list[PathStep]:
    """The steps with declared directories put back as a whole: see ``comparison.swapped``."""
    return comparison.swapped(steps, then, now, _known(spec), mounts)


def mounted(spec: Mapping[str, Any], mounts: Mapping[str, str]) -> dict[str, str]:
    """The mount points that decide what is seen below the declared paths."""
    return mounting.mounted(_known(spec), mounts)


def remounted(spec: Mapping[str, Any], mounts: Mapping[str, str]) -> dict[str, str]:
    """Mount point -> why nothing at or below it can be put back."""
    return mounting.remounted(_known(spec), mounts)


def lacks(spec: Mapping[str, Any], lines: Sequence[str]) -> list[str]:
    """The paths that a rollback could not bring back, in words."""
    return mounting.unprotected(_known(spec), lines)


def left_out(spec: Mapping[str, Any]) -> Callable[[bytes], bool]:
    """Tells of a path below a declared one whether it is left out."""
    return declaration.left_out(_known(spec))


def excludes(spec: Mapping[str, Any], path: str) -> bool:
    """Whether the path lies in a declared one and is left out, or a directory above it is."""
    return declaration.excludes(_known(spec), path)


class Files(Kind):
    r"""Files and trees of files: contents, owners, modes, times, ACLs, extended attributes, links and holes.

    What was added to them is gone again.

    paths: Absolute paths of files and directories. A byte of a name that is not UTF-8 is written C(\xe9), here as in
    all results, and a backslash that would read so C(\x5c). For example V([/etc/nginx, /srv/www]).

    exclude: Shell patterns of what is left out. A pattern with a slash is compared with the whole path, another one
    with each name. For example V(['*.log', /srv/www/cache]).
    """

    name = FILES
    order = 20
    options = OPTIONS
    # The flows scan, compare and put back the trees of all kinds alike.
    only_paths = True
    read_at_start = False  # A service is concerned by the paths themselves.

    def check(self, spec: Spec) -> dict[str, object]:
        return check(dict(spec))

    def trees(self, spec: Spec) -> list[str]:
        return list(spec["paths"])

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        return []

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        return []

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        return []

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        return []

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        return lacks(dict(spec), lines)

    def declaration(self, spec: Spec) -> Spec:
        return self.check(spec)

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        paths, excluded = spec.get("paths"), spec.get("exclude", [])
        if not isinstance(paths, list) or not isinstance(excluded, list) or not all(isinstance(p, str) for p in paths):
            yield "in a form that nobody declares"
            return
        partly = []
        for path in paths:
            cover = next((one for one in declared for root in one["paths"] if is_within(path, root)), None)
            if cover is None or excludes(dict(cover), path):
                yield path
            elif not set(cover["exclude"]) <= set(map(str, excluded)):
                missing = sorted(set(cover["exclude"]) - set(map(str, excluded)))
                yield f"{path} with what is left out now ({', '.join(missing)})"
            elif cover["exclude"]:
                partly.append((os.fsencode(path), left_out(dict(cover))))
        for root, is_left_out in partly:
            for line in lines:
                found = path_of(line)
                if found.startswith(root + b"/") and is_left_out(found):
                    yield os.fsdecode(found)
