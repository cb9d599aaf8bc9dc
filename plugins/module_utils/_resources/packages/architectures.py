# SPDX-License-Identifier: GPL-3.0-or-later

"""The architectures of which dpkg takes packages. One that came with a change goes once nothing of it is installed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..._files.step import Step
from ..._host.system import System

# All architectures that dpkg takes; there is no such file where that is its own alone.
_FILE = "/var/lib/dpkg/arch"
_ADD, _TAKE = "add-architecture", "remove-architecture"
ACTIONS = (_ADD, _TAKE)


def read_architectures() -> list[str]:
    try:
        with open(_FILE, encoding="utf-8", errors="replace") as stream:
            return stream.read().split()
    except OSError:
        return []


def compare(then: Collection[str], now: Collection[str]) -> list[Step]:
    """The steps that bring back the recorded architectures. Pure."""
    # With the first foreign one the file begins, and names dpkg's own as well.
    own = set(list(now)[:1] if not then else []) | set(list(then)[:1] if not now else [])
    gone = [Step("packages", _ADD, one, "was an architecture of dpkg") for one in then if one not in {*now, *own}]
    came = [Step("packages", _TAKE, one, "was no architecture of dpkg") for one in now if one not in {*then, *own}]
    return gone + came


def apply(steps: Sequence[Step], system: System) -> dict[str, str]:
    """Carry out the steps; return (architecture -> why) for the steps that failed."""
    left = {}
    for step in steps:
        done = system.run(["dpkg", f"--{step.action}", step.target], 60.0)
        if done.rc:
            left[step.target] = done.words
    return left
