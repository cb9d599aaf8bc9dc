# SPDX-License-Identifier: GPL-3.0-or-later

"""Diversions of dpkg that somebody has made by hand: dpkg puts a package's file at another path. Diversions of
packages come and go with the packages' scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..._files.step import Step
from ..._host.system import System

_FILE = "/var/lib/dpkg/diversions"
_BY_HAND = ":"
ACTIONS = ("divert", "undivert")


def read_diversions(path: str = _FILE) -> dict[str, str]:
    """Path -> the path at which dpkg puts files of packages instead."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return {}
    return {at: to for at, to, by in zip(lines[::3], lines[1::3], lines[2::3]) if by == _BY_HAND}


def compare(then: Mapping[str, str], now: Mapping[str, str]) -> list[Step]:
    """The steps that bring back the recorded diversions. Pure."""
    gone = [(at, to) for at, to in now.items() if then.get(at) != to]
    back = [(at, to) for at, to in then.items() if now.get(at) != to]
    return [
        *(Step("packages", "undivert", at, f"was not diverted to {to}", {"to": to}) for at, to in gone),
        *(Step("packages", "divert", at, f"was diverted to {to}", {"to": to}) for at, to in back),
    ]


def apply(steps: Sequence[Step], system: System) -> dict[str, str]:
    """Carry out the steps; return (path -> why) for the steps that failed."""
    left = {}
    for step in steps:
        at, to = step.target, str(step.detail["to"])
        if step.action == "undivert":
            argv = ["--no-rename", "--remove", at]
        else:
            # The rollback of the files may have brought the diverted file back already.
            move = "--no-rename" if os.path.lexists(to) else "--rename"
            argv = ["--local", "--divert", to, move, "--add", at]
        done = system.run(["dpkg-divert", *argv], 60.0)
        if done.rc:
            left[at] = done.words
            continue
        try:
            if step.action == "undivert" and os.path.lexists(to):
                os.replace(to, at)
        except OSError as error:
            left[at] = str(error)
    return left
