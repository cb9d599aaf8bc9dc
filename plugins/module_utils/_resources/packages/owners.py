# SPDX-License-Identifier: GPL-3.0-or-later

"""The package that owns a path, and the paths of packages, as dpkg and rpm tell them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence

from ..._errors import EvenkeelError
from ..._host.system import System
from ..._store.objects import Objects
from .package import Package

_INFO = "/var/lib/dpkg/info"
_LOOK = 60.0
# Links in / to directories of the same name below /usr: a package may name a path by either directory.
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_LISTED = re.compile(r"\S+ +\S+ +\S+ \S+ \S+ \./(.*)")
# Characters of a path that dpkg takes for a pattern, and the end of a line.
_PATTERN = r"[*?\[\\\n]"


def paths_of(packages: Sequence[Package], system: System) -> set[str]:
    """The paths of installed packages."""
    if not packages:
        return set()
    if packages[0].manager == "deb":
        said = system.run(["dpkg-query", "-L", *(_query(one) for one in packages)], _LOOK)
    else:
        said = system.run(["rpm", "-ql", *(f"{one.name}.{one.arch}" for one in packages)], _LOOK)
    return {_real(line) for line in said.out.splitlines() if line.startswith("/")}


def paths_in(packages: Sequence[Package], objects: Objects, system: System) -> set[str]:
    """The paths of packages that are no longer installed, from their package files in the store."""
    found: set[str] = set()
    for one in packages:
        if not re.fullmatch("[0-9a-f]{64}", one.sha256):
            continue
        with tempfile.NamedTemporaryFile(dir=os.path.join(objects.root, "tmp")) as copy:
            try:
                for piece in objects.read(one.sha256):
                    copy.write(piece)
            except EvenkeelError:
                continue
            copy.flush()
            if one.manager == "deb":
                lines = system.run(["dpkg-deb", "--contents", copy.name], _LOOK).out.splitlines()
                names = [listed[1] for listed in map(_LISTED.fullmatch, lines) if listed]
                found |= {_real("/" + re.split(" -> | link to ", name)[0].rstrip("/")) for name in names}
            else:
                said = system.run(["rpm", "-qlp", "--nosignature", copy.name], _LOOK)
                found |= {_real(line) for line in said.out.splitlines() if line.startswith("/")}
    return found


def owners(paths: Iterable[str], manager: str, system: System) -> dict[str, str]:
    """Path -> the name of the package that owns it, for the paths that have an owner."""
    plain = [path for path in paths if not re.search(_PATTERN, path)]
    found: dict[str, str] = {}
    if manager == "deb" and plain:
        said = system.run(["dpkg-query", "-S", *(name for path in plain for name in _names(path))], _LOOK)
        for line in said.out.splitlines():
            owner, colon, path = line.partition(": ")
            if colon and not owner.startswith("diversion "):
                found[_real(path)] = owner.split(", ")[0].partition(":")[0]
    elif manager == "rpm":
        for path in plain:
            said = system.run(["rpm", "-qf", "--qf", "%{NAME}\\n", "--", path], _LOOK)
            if said.rc == 0 and said.out.strip():
                found[path] = said.out.splitlines()[0]
    return {path: found[path] for path in plain if path in found}


def installed_since(since: float, manager: str, system: System) -> set[str]:
    """The names of the packages of which any version was installed since that time."""
    if manager == "rpm":
        lines = system.run(["rpm", "-qa", "--qf", "%{NAME} %{INSTALLTIME}\\n"], _LOOK).out.splitlines()
        words = [line.split(" ") for line in lines]
        return {one[0] for one in words if len(one) == 2 and one[1].isdigit() and int(one[1]) >= int(since)}
    found = set()
    for name in os.listdir(_INFO) if os.path.isdir(_INFO) else []:
        if name.endswith(".list") and os.lstat(f"{_INFO}/{name}").st_mtime >= since:
            found.add(name[: -len(".list")].partition(":")[0])
    return found


def _query(package: Package) -> str:
    return package.name if package.arch == "all" else package.key


def _real(path: str) -> str:
    top, _slash, rest = path[1:].partition("/")
    return f"/usr/{top}/{rest}" if top in _MERGED and rest and os.path.islink(f"/{top}") else path


def _names(path: str) -> list[str]:
    """The names by which a package may list the path."""
    top, _slash, rest = path.removeprefix("/usr/").partition("/")
    return [path, f"/{top}/{rest}"] if path.startswith("/usr/") and top in _MERGED and rest else [path]
