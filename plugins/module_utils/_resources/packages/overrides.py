# SPDX-License-Identifier: GPL-3.0-or-later

"""Owners and modes that dpkg gives to files of packages because somebody has told it so (dpkg-statoverride)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..._files.step import Step
from ..._host.system import System

_FILE = "/var/lib/dpkg/statoverride"
ACTIONS = ("override", "unoverride")


def read_overrides(path: str = _FILE) -> dict[str, str]:
    """Path -> owner, group and mode, as dpkg writes them."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            lines = [line.rstrip("\n").split(" ", 3) for line in stream]
    except OSError:
        return {}
    return {words[3]: " ".join(words[:3]) for words in lines if len(words) == 4}


def compare(then: Mapping[str, str], now: Mapping[str, str]) -> list[Step]:
    """The steps that bring back the recorded overrides. Pure."""
    steps = []
    for at, had in now.items():
        if at not in then:
            step = Step("packages", "unoverride", at, f"had no owner and mode of its own, and has {had}")
            step.detail["note"] = (
                f"{at} is no longer told to be {had}. It stays so until its package is installed again: "
                "declare it in files to have its owner and mode put back"
            )
            steps.append(step)
    for at, had in then.items():
        if now.get(at) != had:
            steps.append(Step("packages", "override", at, f"was told to be {had}", {"as": had, "anew": at in now}))
    return steps


def apply(steps: Sequence[Step], system: System) -> dict[str, str]:
    """Carry out the steps; return (path -> why) for the steps that failed."""
    left = {}
    for step in steps:
        at = step.target
        commands = [["--remove", at]] if step.action == "unoverride" or step.detail["anew"] else []
        if step.action == "override":
            commands.append(["--update", "--add", *str(step.detail["as"]).split(" "), at])
        for words in commands:
            done = system.run(["dpkg-statoverride", *words], 60.0)
            if done.rc:
                left[at] = done.words
                break
    return left


def without_gone(steps: Sequence[Step]) -> None:
    """Take the notes from the steps whose path has gone with its package: nothing stays there."""
    for step in steps:
        if step.action == "unoverride" and not os.path.lexists(step.target):
            step.detail.pop("note", None)
