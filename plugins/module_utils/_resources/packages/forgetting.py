# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of Debian that came with a change, and are removed: dpkg, ucf and deb-systemd-helper forget them.

They would take configuration that went with the change for deleted by the administrator, and leave it out when the
package is installed again. No script of the package runs, since a script would delete its data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Callable

from ..._host.system import System
from . import dpkg
from .package import Package

# The files that ucf knows: lines of a package and a path.
_UCF = "/var/lib/ucf/registry"
_ASIDE = ".evenkeel"
_UNITS = r"deb-systemd-helper\s+((?:--user\s+)?(?:purge|unmask))((?:\s+'?[A-Za-z0-9:_.@-]+'?)+)"
_LOOK = 60.0
# Copies of a configuration file that dpkg deletes together with its record.
_COPIES = ("", "~", ".bak", "%", ".dpkg-tmp", ".dpkg-new", ".dpkg-old", ".dpkg-dist")


def name_of(package: Package) -> str:
    """The package, as dpkg and its scripts name it."""
    return package.name if package.arch == "all" else package.key


def bare(packages: Collection[Package], system: System) -> list[Package]:
    """The removed packages of which no configuration is there any more, and no copy of it."""
    names = [name_of(one) for one in packages]
    form = "${Package}:${Architecture}\\n${Conffiles}\\n"
    seen = system.run(["dpkg-query", "-W", "-f", form, *names], _LOOK) if names else None
    if seen is None or seen.rc:
        return []
    paths: dict[str, list[str]] = {}
    key = ""
    for line in seen.out.splitlines():
        if line.startswith(" /"):
            paths.setdefault(key, []).append(re.sub(r" [0-9a-z]+( obsolete| remove-on-upgrade)*$", "", line[1:]))
        elif line:
            key = line
            paths[key] = []
    known = _of_ucf()
    for one in packages:
        paths.get(one.key, []).extend(known.get(one.name, ()))
    return [one for one in packages if one.key in paths and not any(map(_is_there, paths[one.key]))]


def _is_there(path: str) -> bool:
    folder, name = os.path.split(path)
    return any(map(os.path.lexists, [*(path + end for end in _COPIES), f"{folder}/#{name}#"]))


def _of_ucf() -> dict[str, list[str]]:
    """Package -> the files that ucf knows of it."""
    found: dict[str, list[str]] = {}
    with suppress(OSError), open(_UCF, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            package, _blank, path = line.strip().partition(" ")
            found.setdefault(package.partition(":")[0], []).append(path.strip())
    return found


def forget(packages: Sequence[Package], system: System, run: Callable[[Sequence[str]], str]) -> dict[str, str]:
    """Have them forgotten, as far as no configuration of theirs is there; (key -> cause) for those where that failed.
    ``run``: carries out a command that changes packages; the answer is its output."""
    left = {}
    for one in bare(packages, system):
        script = _script(one)
        text = dpkg.read_text(script) or dpkg.read_text(script + _ASIDE)
        for verb, units in re.findall(_UNITS, text):
            # The program answers to scripts of packages alone.
            run(
                [
                    "env",
                    f"DPKG_MAINTSCRIPT_PACKAGE={one.name}",
                    "deb-systemd-helper",
                    *verb.split(),
                    *units.replace("'", "").split(),
                ]
            )
        for path in _of_ucf().get(one.name, ()):
            run(["ucf", "--purge", path])
            run(["ucfr", "--purge", one.name, path])
        left.update(_without_script(one, script, system, run))
    return left


def _without_script(
    package: Package, script: str, system: System, run: Callable[[Sequence[str]], str]
) -> dict[str, str]:
    """Purge the package while its script lies aside."""
    with suppress(FileNotFoundError):
        os.rename(script, script + _ASIDE)
    said = run(["dpkg", "--purge", name_of(package)])
    if package.key not in dpkg.with_data(system):
        with suppress(FileNotFoundError):
            os.unlink(script + _ASIDE)
        return {}
    with suppress(FileNotFoundError):
        os.rename(script + _ASIDE, script)
    return {package.key: f"dpkg does not forget it: {said.strip()[-300:]}"}


def _script(package: Package) -> str:
    """The path of the script that runs when the package is purged."""
    paths = [f"{dpkg.INFO}/{name}.postrm" for name in (package.name, package.key)]
    return next((path for path in paths if os.path.lexists(path) or os.path.lexists(path + _ASIDE)), paths[0])
