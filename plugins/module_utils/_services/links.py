# SPDX-License-Identifier: GPL-3.0-or-later

"""The links that enable a unit: in directories ``.wants``, ``.requires`` and ``.upholds``, as aliases, and in the
directories of run levels. The word ``enabled`` of systemd stands for many sets of links, so the set is the recorded
state."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Callable, Optional

from .._errors import EvenkeelError
from .._host.paths import open_dir

# The links of an administrator: permanent, and until the next boot.
KEPT, RUNTIME = "/etc/systemd/system", "/run/systemd/system"
_SHIPPED = ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_PULLING = (".wants", ".requires", ".upholds")
_LEVELS = [f"/etc/rc{level}.d" for level in "0123456S"]
# The directories of the units that generators make.
GENERATED = ("/run/systemd/generator", "/run/systemd/generator.early", "/run/systemd/generator.late")
# Units that can be named in a declaration: no templates, and none that only group others.
_RUNS = r"(?!evenkeel-)[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\-]+)?\.(?:service|socket|timer|path|mount|automount)"
# (name, target) of each entry of a directory (see ``_entries``).
Reader = Callable[..., list[tuple[str, Optional[str]]]]
# Our own units are never recorded.
_OURS = "evenkeel-"


def template(unit: str) -> str:
    """``a@.service`` of ``a@one.service``; the unit itself where it is no instance."""
    stem, dot, kind = unit.rpartition(".")
    return stem.partition("@")[0] + "@" + dot + kind if "@" in stem else unit


def is_made(unit: str) -> bool:
    """Whether a generator has made a file of this unit."""
    return any(os.path.lexists(os.path.join(folder, unit)) for folder in GENERATED)


def reader() -> Reader:
    """Reads each directory once. For a look at many units at one moment."""
    return lru_cache(maxsize=None)(_entries)


def names(unit: str, entries: Reader | None = None) -> set[str]:
    """All names of the unit: its own, and its aliases by links (for an instance the aliases of its template)."""
    entries = entries or _entries
    aliases = [
        (name, os.path.basename(to))
        for folder in (KEPT, RUNTIME, *_SHIPPED)
        for name, to in entries(folder)
        if to is not None and name != os.path.basename(to)
    ]
    found = {unit, template(unit)}
    instance = unit.rpartition(".")[0].partition("@")[2]
    while True:
        more = {name for name, to in aliases if to in found}
        more |= {name.replace("@.", f"@{instance}.") for name in more if instance and "@." in name}
        if more <= found:
            return found
        found |= more


def of(unit: str, entries: Reader | None = None) -> dict[str, str]:
    """Path -> target of all links that belong to the unit. The target is empty for an empty file, which acts as a link
    in a directory of dependencies. The unit file itself is not among them, even if it is a link."""
    entries = entries or _entries
    known = names(unit, entries)
    own = {unit, template(unit)}
    found = {}
    for folder in (KEPT, RUNTIME):
        for name, to in entries(folder):
            path = f"{folder}/{name}"
            stem, pulling = os.path.splitext(name)
            if to is not None:
                # The unit file below /etc is recorded with the files.
                if name in known and (folder == RUNTIME or name not in own):
                    found[path] = to
            elif pulling in _PULLING:
                for entry, target in entries(path, True):
                    if (stem in known or entry in known) and not entry.startswith(_OURS):
                        found[f"{path}/{entry}"] = target or ""
    scripts = "|".join(re.escape(name[: -len(".service")]) for name in known if name.endswith(".service"))
    for folder in _LEVELS:
        for name, to in entries(folder):
            if to is not None and re.fullmatch(rf"[SK]\d\d(?:{scripts})", name):
                found[f"{folder}/{name}"] = to
    return found


def _entries(folder: str, files: bool = False) -> list[tuple[str, str | None]]:
    """(name, target) of each entry of the directory; the target is None for an entry that is no link. ``files``: of
    these entries empty files only."""
    found: list[tuple[str, str | None]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    found.append((entry.name, os.readlink(entry.path)))
                elif not files or (entry.is_file() and entry.stat().st_size == 0):
                    found.append((entry.name, None))
    except (FileNotFoundError, NotADirectoryError):
        pass
    return sorted(found)


def is_pulling(path: str) -> bool:
    """Whether the path is that of a directory of dependencies."""
    return os.path.dirname(path) in (KEPT, RUNTIME) and path.endswith(_PULLING)


def in_folder(path: str) -> list[str]:
    """The paths of links, and of empty files that act as links, in a directory of dependencies."""
    return [f"{path}/{name}" for name, _target in _entries(path, files=True)]


def units_of(path: str) -> set[str]:
    """The units to which a file or a link of an administrator belongs, by its path; empty for another path."""
    if is_pulling(path):
        return {unit for one in in_folder(path) for unit in units_of(one)}
    for folder in (KEPT, RUNTIME):
        if path.startswith(f"{folder}/"):
            first, _slash, rest = path[len(folder) + 1 :].partition("/")
            name = rest if first.endswith(_PULLING) else first[:-2] if first.endswith(".d") else first
            return {name} if re.fullmatch(_RUNS, name) else set()
    level, name = os.path.split(path)
    script = re.fullmatch(r"[SK]\d\d(.+)", name) if level in _LEVELS else None
    return units_of(f"{KEPT}/{script[1]}.service") if script else set()


def make(path: str, to: str) -> None:
    """Make the link, and replace its predecessor atomically. Raises EvenkeelError."""
    with _parent(path, made=True) as (folder, name):
        if folder is None:
            return
        if _is_link(folder, name, path) and _target(folder, name) == to:
            return
        new = f".{name}.evenkeel"
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        if to:
            os.symlink(to, new, dir_fd=folder)
        else:
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder))
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def remove(path: str) -> None:
    """Remove the link, and its directory when that is empty then, as systemctl does."""
    with _parent(path) as (folder, name):
        if folder is None or not _is_link(folder, name, path):
            return
        os.unlink(name, dir_fd=folder)
        os.fsync(folder)
    above = os.path.dirname(path)
    if above.endswith(_PULLING):
        with _parent(above) as (folder, name), suppress(OSError):
            if folder is not None:
                os.rmdir(name, dir_fd=folder)


@contextmanager
def _parent(path: str, made: bool = False) -> Iterator[tuple[int | None, str]]:
    """(descriptor of the parent directory, last component), without following a link; None without such a directory."""
    above, name = os.path.split(path)
    fd = None
    try:
        try:
            fd = open_dir(os.fsencode(above))
        except FileNotFoundError:
            if made:
                outer = open_dir(os.fsencode(os.path.dirname(above)))
                try:
                    os.mkdir(os.path.basename(above), 0o755, dir_fd=outer)
                    os.chmod(os.path.basename(above), 0o755, dir_fd=outer)
                    os.fsync(outer)
                finally:
                    os.close(outer)
                fd = open_dir(os.fsencode(above))
        yield fd, name
    except OSError as error:
        raise EvenkeelError(f"{path}: {error.strerror}") from error
    finally:
        if fd is not None:
            os.close(fd)


def _is_link(folder: int, name: str, path: str) -> bool:
    """Whether the link exists, or an empty file in its place. Raises EvenkeelError for another type or a content."""
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISLNK(info.st_mode) and not (stat.S_ISREG(info.st_mode) and info.st_size == 0):
        raise EvenkeelError(f"{path} is no link any more, and has a content: look at it, and remove it")
    return True


def _target(folder: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return ""
