# SPDX-License-Identifier: GPL-3.0-or-later

"""An installed package and its line in the manifest, and the common parts of rollbacks of dpkg and rpm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple

from ..._errors import RestoreFailed
from ..._host.commands import locale
from ..._host.package_locks import holder
from ..kind import Restore

_LINE = (
    r"(?P<manager>deb|rpm) (?P<name>[A-Za-z0-9][A-Za-z0-9.+_-]*):(?P<arch>[a-z0-9][a-z0-9_-]*)"
    r" (?P<version>[A-Za-z0-9][A-Za-z0-9.+~:^_-]*)"
    r" (?P<mark>auto|manual|unknown)(?P<hold> hold)?( status=(?P<status>[a-z-]+))?( later)?"
    r"( sha256=(?P<sha256>[0-9a-f]{64}))?"
)

# The mark of a package -> its word in a line.
_MARKS: dict[bool | None, str] = {True: "auto", False: "manual", None: "unknown"}

# Name, architecture, version.
Ident = tuple[str, str, str]


class Package(NamedTuple):
    """``auto``: another package needed it, and nobody asked for it; None where nobody could tell.

    ``status`` is dpkg's word for the state of the package, and empty for a package that is fully installed.

    ``sha256`` names the package file in the store; ``LATER`` stands for a file that the checkpoint will fetch.
    """

    name: str
    arch: str
    version: str
    hold: bool = False
    auto: bool | None = False
    status: str = ""
    sha256: str = ""
    manager: str = "deb"

    @property
    def key(self) -> str:
        return f"{self.name}:{self.arch}"

    @property
    def ident(self) -> Ident:
        return self[:3]

    def line(self) -> str:
        words = [self.manager, self.key, self.version, _MARKS[self.auto]]
        if self.hold:
            words.append("hold")
        if self.status:
            words.append(f"status={self.status}")
        if self.sha256:
            words.append("later" if self.sha256 == LATER else f"sha256={self.sha256}")
        return " ".join(words)

    @classmethod
    def parse(cls, line: str) -> Package | None:
        """The package of a line; None where ``line`` cannot have written the line. No name can lead out of a folder,
        or be an option of a command."""
        found = re.fullmatch(_LINE, line)
        if found is None:
            return None
        return cls(
            found["name"],
            found["arch"],
            found["version"],
            found["hold"] is not None,
            {word: mark for mark, word in _MARKS.items()}[found["mark"]],
            found["status"] or "",
            found["sha256"] or "",
            found["manager"],
        )

    @classmethod
    def of(cls, stored: list[object]) -> Package:
        """The package from the list that a step stores."""
        name, arch, version, hold, auto, status, sha256, manager = stored
        words = (str(name), str(arch), str(version))
        return cls(*words, bool(hold), None if auto is None else bool(auto), str(status), str(sha256), str(manager))


LATER = "later"
INSTALLS = ("install", "upgrade", "downgrade", "reinstall")
REMOVES = ("remove", "purge")


def most(wanted: Sequence[str], refusal: Callable[[Sequence[str]], str]) -> tuple[list[str], dict[str, str]]:
    """(as many of the wanted packages as can change together; package -> why it is refused). ``refusal`` tells why
    the given packages cannot change together, "" where they can. All packages are tried together first, then
    halves."""
    chosen: list[str] = []
    refused: dict[str, str] = {}

    def add(more: Sequence[str]) -> None:
        words = refusal([*chosen, *more]) if more else ""
        if not words:
            chosen.extend(more)
        elif len(more) == 1:
            refused[more[0]] = words
        else:
            add(more[: len(more) // 2])
            add(more[len(more) // 2 :])

    add(wanted)
    # A refused package may have needed a package that was chosen later.
    before = -1
    while refused and len(chosen) != before:
        before, todo = len(chosen), list(refused)
        refused.clear()
        for one in todo:
            add([one])
    return chosen, refused


def wait_for_locks(paths: Sequence[str], at: Restore) -> None:
    """Wait until no other program holds a lock on these files; RestoreFailed after ``at.patience``."""
    end = at.system.monotonic() + at.patience
    while True:
        words = holder(paths)
        if not words:
            return
        if at.system.monotonic() >= end:
            raise locked_elsewhere(words)
        at.system.sleep(1.0)


def locked_elsewhere(words: str) -> RestoreFailed:
    return RestoreFailed(
        f"packages cannot be put back now: {words}. Wait for its end, or end it, then run the rollback again",
        done=[],
        left=[f"packages: {words}"],
    )


def environment(more: Mapping[str, str], boot: bool = False) -> dict[str, str]:
    """The whole environment for programs that change packages: no variable of ours, and the host's own language.
    Their messages are in English, because we read them."""
    known = locale()
    found = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LANG": known.get("LC_ALL") or known.get("LANG", "C.UTF-8"),
        "LC_MESSAGES": "C.UTF-8",
        **more,
    }
    # Early at boot services wait for us: a script that waited for a service would never end.
    return {**found, "SYSTEMD_OFFLINE": "1"} if boot else found
