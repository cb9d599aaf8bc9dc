# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One installed package, and its line in the manifest."""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE = re.compile(
    r"(?P<manager>deb|rpm) (?P<name>[A-Za-z0-9][A-Za-z0-9.+_-]*):(?P<arch>[a-z0-9][a-z0-9_-]*)"
    r" (?P<version>[A-Za-z0-9][A-Za-z0-9.+~:^_-]*)"
    r" (?P<mark>auto|manual)(?P<hold> hold)?( status=(?P<status>[a-z-]+))?( later)?( sha256=(?P<sha256>[0-9a-f]{64}))?"
)


# Name, architecture, version.
Ident = tuple[str, str, str]


class Package(NamedTuple):
    """``status`` is empty for a package that is installed whole, and otherwise dpkg's word for what it is.

    ``sha256`` names its package file in the store; ``LATER`` stands for a file that is yet to be had.
    """

    name: str
    arch: str
    version: str
    hold: bool = False
    auto: bool = False
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
        words = [self.manager, self.key, self.version, "auto" if self.auto else "manual"]
        if self.hold:
            words.append("hold")
        if self.status:
            words.append(f"status={self.status}")
        if self.sha256:
            words.append("later" if self.sha256 == LATER else f"sha256={self.sha256}")
        return " ".join(words)

    @classmethod
    def parse(cls, line: str) -> Package | None:
        """None for what ``line`` could not have written; nothing of a name leads out of a folder or is an option."""
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        return cls(
            found["name"],
            found["arch"],
            found["version"],
            found["hold"] is not None,
            found["mark"] == "auto",
            found["status"] or "",
            found["sha256"] or "",
            found["manager"],
        )

    @classmethod
    def of(cls, stored: list[object]) -> Package:
        """From the list that a step keeps of it."""
        name, arch, version, hold, auto, status, sha256, manager = stored
        words = (str(name), str(arch), str(version))
        return cls(*words, bool(hold), bool(auto), str(status), str(sha256), str(manager))


LATER = "later"
