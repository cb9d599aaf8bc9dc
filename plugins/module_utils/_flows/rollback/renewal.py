# SPDX-License-Identifier: GPL-3.0-or-later

"""Things that programs make of files, and go on to use: they are made anew where such files came back."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..._host.system import System
from ..._resources import registry
from ..._resources.files import excludes
from ..._resources.kind import is_within
from ..._store.manifest import Section


class Made(NamedTuple):
    """``file``: there where this host has such a thing; no such thing is made anew where the file is state itself.
    ``paths``: what it is made of. ``else_``: in words, what comes of it where it is not made anew. ``seconds``: how
    long that may take."""

    file: str
    paths: str
    argv: tuple[str, ...]
    else_: str
    seconds: float = 60.0


MADE = (
    Made(
        "/etc/ld.so.cache",
        r".*\.so(\.[^/]*)?|/etc/ld\.so\.conf(\.d(/.*)?)?",
        ("ldconfig",),
        "programs may not find libraries",
    ),
    Made(
        "/etc/udev/hwdb.bin",
        r"/etc/udev/hwdb\.d(/.*)?",
        ("systemd-hwdb", "update"),
        "devices keep the properties of the change",
    ),
    Made(
        "/sys/fs/selinux/enforce",
        r"/etc/selinux/[^/]+/policy/policy\.[0-9]+",
        ("load_policy",),
        "the kernel goes on with the policy of the change",
    ),
    Made(
        "/lib/systemd/system/apparmor.service",
        r"/etc/apparmor(\.d)?(/.*)?",
        ("systemctl", "try-reload-or-restart", "apparmor.service"),
        "programs go on with the profiles of the change",
    ),
    Made(
        "/run/udev/control",
        r"/etc/udev/rules\.d(/.*)?|/etc/systemd/network/[^/]+\.link",
        ("udevadm", "control", "--reload"),
        "devices that come get the rules of the change",
    ),
    Made(
        "/usr/lib/locale/locale-archive",
        r"/etc/locale\.gen|/usr/local/share/i18n(/.*)?",
        ("locale-gen",),
        "the locales are those of the change",
        600.0,
    ),
)


class Renewal:
    """Makes things anew, each as often as other paths of its own have come back."""

    def __init__(self) -> None:
        self._done: dict[str, list[str]] = {}

    def carry_out(self, changed: Sequence[str], sections: Sequence[Section], system: System) -> list[str]:
        """Given the paths that came back so far; sentences on what could not be made anew."""
        left = []
        specs = [spec for spec in map(registry.tree_spec, sections) if spec is not None]
        for one in MADE:
            came = list(filter(re.compile(one.paths).fullmatch, changed))
            held = (
                is_within(one.file, root) for spec in specs for root in spec["paths"] if not excludes(spec, one.file)
            )
            has = os.path.exists(one.file) and (one.argv[0] != "systemctl" or system.has_systemd())
            if came == self._done.get(one.file, []) or not has or any(held):
                continue
            self._done[one.file] = came
            done = system.run(one.argv, one.seconds)
            if done.rc:
                left.append(f"{one.file}: {' '.join(one.argv)} failed, so that {one.else_}: {done.words}")
        return left
