# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``files``: trees of files with owner, mode, times, ACLs, extended attributes, links and holes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._errors import UsageError
from .._files import declaration, records, scanning
from .._files import mounts as mounting
from .._files.declaration import Declaration
from .._files.entry import ABSENT, Entry, Tree, path_of
from .._files.footprint import NEW
from .._files.scanning import Scan
from .._files.step import FILES, Step
from .._host.kernel import OF_NO_FILE
from .._host.mounts import mount_points
from .._host.options import Options, read
from .._host.paths import check_path
from .._host.system import System
from .._store.objects import Hasher, Writer
from . import plain
from .kind import Kind, Restore, Sink, Spec, Suggestion, is_within

OPTIONS: Options = {
    "paths": {"type": "list", "elements": "str", "required": True},
    "exclude": {"type": "list", "elements": "str", "default": []},
}
# The key of a declaration under which a checkpoint keeps the mounts: mount point -> kind of file system.
MOUNTS = "mounts"
# The key under which one declaration of a checkpoint keeps the machine (see ``_host.machine``).
MACHINE = "machine"
# Directory -> the levels below it at which the files of a program lie together. The rest of /usr holds too much.
_TOGETHER = {
    **dict.fromkeys(("/usr/local/bin", "/usr/local/sbin"), 0),
    **dict.fromkeys(("/etc", "/opt", "/root", "/boot", "/srv", "/var/spool"), 1),
    **dict.fromkeys(("/usr/local/etc", "/usr/local/lib", "/usr/local/share"), 1),
}
# Directories in these that many programs share.
_APART = ("systemd", "default", "alternatives", "init.d", "profile.d", "xdg")


def check(spec: Mapping[str, Any]) -> dict[str, object]:
    """The declaration with all its keys; UsageError names the bad key."""
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


def declared(spec: Mapping[str, Any]) -> dict[str, object]:
    """The declaration as a person wrote it, without the mounts and the machine that a checkpoint adds to it."""
    return {key: value for key, value in spec.items() if key not in (MOUNTS, MACHINE)}


def trees_of(spec: Mapping[str, Any]) -> Declaration:
    """The trees of a declaration that was checked, with the mount points that its checkpoint has recorded."""
    return Declaration(spec["paths"], spec.get("exclude", ()), spec.get(MOUNTS))


def _checked(spec: Mapping[str, Any]) -> Declaration:
    """The declaration of a manifest; UsageError where ``check`` would refuse it."""
    return trees_of({**check(declared(spec)), **{key: value for key, value in spec.items() if key == MOUNTS}})


def scan(
    spec: Mapping[str, Any],
    sink: Writer | Hasher,
    skip: Sequence[str] = (),
    tolerant: bool = False,
    cached: bool = True,
    then: Sequence[str] = (),
) -> Scan:
    """The declared trees as they are now: see ``scanning.scan``."""
    return scanning.scan(_checked(spec), sink, skip, tolerant, cached, then)


def recorded(lines: list[str], spec: Mapping[str, Any], now: Scan | None = None) -> Tree:
    """The entries of a manifest: see ``records.recorded``."""
    return records.recorded(lines, _checked(spec), now)


def mounted(spec: Mapping[str, Any], mounts: Mapping[str, str]) -> dict[str, str]:
    """The mount points that decide which files are seen below the declared paths."""
    return mounting.mounted(trees_of(spec), mounts)


def excludes(spec: Mapping[str, Any], path: str) -> bool:
    """Whether the path lies in a declared tree and is left out, or a directory above it is left out."""
    return declaration.excludes(trees_of(spec), path)


def links(spec: Mapping[str, Any], lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(a declared path that is a symlink, the path to which it leads), as recorded, without links to devices and into
    the kernel."""
    paths = set(map(os.fsencode, trees_of(spec).paths))
    for line in lines:
        if line.startswith("l ") and path_of(line) in paths:
            entry = Entry.parse(line)
            target = os.fsdecode(os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.target)))
            if not any(is_within(target, one) for one in ("/dev", "/proc", "/sys")):
                yield os.fsdecode(entry.path), target


class Files(Kind):
    r"""Files and trees of files: contents, owners, modes, times, ACLs, extended attributes, links and holes.

    A rollback removes new paths below them.

    paths: Absolute paths of files and directories. A symlink is protected without its target. A byte of a name that is
    not UTF-8 is written C(\xe9), here as in all results, and a backslash that would read so C(\x5c). For example
    V([/etc/nginx, /srv/www]).

    exclude: Shell patterns of paths that are left out. A pattern with a slash is compared with the whole path, another
    pattern with each name; one that can match no path is refused. For example V(['*.log', /srv/www/cache]).
    """

    name = FILES
    order = 20
    options = OPTIONS
    # The flows scan, compare and put back the trees of all kinds alike.
    only_paths = True
    read_at_start = False  # A service is concerned by the paths themselves.
    on_plain_host = {"paths": list(plain.TREES), "exclude": list(plain.EXCLUDE)}

    def for_plain_host(self, beside: Sequence[Spec], taken: Sequence[str]) -> tuple[Spec | None, list[str]]:
        points = {os.fsdecode(point): kind for point, kind in mount_points().items()}
        roots, left = map(list.__add__, plain.trees(taken), plain.keys_of_login(taken, points))
        paths, more = plain.left_out(roots, taken, points)
        machines, said = plain.machines(roots, taken)
        exclude = sorted({*plain.EXCLUDE, *machines, *map(plain.pattern, paths)})
        return ({"paths": roots, "exclude": exclude} if roots else None), left + more + said + plain.unprotected()

    def check(self, spec: Spec) -> dict[str, object]:
        found = check(dict(spec))
        return {**found, "exclude": declaration.check_patterns(trees_of(found).exclude, "files: exclude")}

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
        declared = trees_of(spec)
        idle = [one for one in declaration.idle(declared) if one not in plain.EXCLUDE]
        words = [f"exclude: {one} lies in no declared path, and leaves out nothing" for one in idle]
        # A missing tree of the plain host is no slip of a person: a rollback removes it where a change brings it.
        absent = {Entry(os.fsencode(path), ABSENT).line() for path in plain.TREES}
        return words + mounting.unprotected(declared, [line for line in lines if line not in absent])

    def declaration(self, spec: Spec) -> Spec:
        found = check(dict(spec))
        return {**found, "exclude": declaration.stripped(trees_of(found).exclude)}

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> Iterator[str]:
        paths, excluded = spec.get("paths"), spec.get("exclude", [])
        if not isinstance(paths, list) or not isinstance(excluded, list) or not all(isinstance(p, str) for p in paths):
            yield "in a form that nobody declares"
            return
        partly = []
        kept = {*map(str, excluded), *declaration.stripped([*map(str, excluded)])}
        for path in paths:
            cover = next((one for one in declared for root in one["paths"] if is_within(path, root)), None)
            if cover is None or excludes(cover, path):
                yield path
            elif missing := sorted(set(cover["exclude"]) - kept):
                yield f"{path} with what is left out now ({', '.join(missing)})"
            elif cover["exclude"]:
                partly.append((os.fsencode(path), declaration.left_out(trees_of(cover))))
        for root, is_left_out in partly:
            for line in lines:
                found = path_of(line)
                if found.startswith(root + b"/") and is_left_out(found):
                    yield os.fsdecode(found)

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        """A declaration of the changed paths; for configuration, of the directory of its program."""
        found = set()
        for path in (one for one, what in changed.items() if what not in OF_NO_FILE):
            together = _directory_of(path)
            path = path if any(is_within(one, together) for one in taken) else together
            overlaps = any(is_within(path, one) or is_within(one, path) for one in taken)
            if not overlaps and not _is_too_much(path, changed):
                found.add(path)
        paths = sorted(path for path in found if not any(is_within(path, one) for one in found if one != path))
        return ({"paths": paths} if paths else None), set(changed)


def _is_too_much(path: str, changed: Mapping[str, str]) -> bool:
    """Whether a declaration of the path would take in far more than the change: a directory of the whole system."""
    shared = path.startswith("/usr/") and not path.startswith("/usr/local/")
    return changed.get(path) != NEW and (shared or path.count("/") == 1) and stat.S_ISDIR(_mode(path))


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def _directory_of(path: str) -> str:
    """The directory around the path whose files belong together; the path itself where there is no such directory."""
    for above, levels in _TOGETHER.items():
        if path.startswith(f"{above}/"):
            parts = path[len(above) + 1 :].split("/")
            return path if len(parts) <= levels or parts[0] in _APART else "/".join([above, *parts[:levels]])
    return path
