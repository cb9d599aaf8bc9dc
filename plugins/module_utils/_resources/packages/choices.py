# SPDX-License-Identifier: GPL-3.0-or-later

"""The groups of update-alternatives on Debian: their choices, and whether somebody has made a choice by hand.

A group has a file of its own, its book. The links in /etc/alternatives are files like others. Programs are found by
further links, such as /usr/bin/java, which lead there: a group that came with a change goes together with these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..._files import footprint
from ..._files.step import Step
from ..._host.durable import write_file
from ..kind import Restore

NAME = r"[A-Za-z0-9][A-Za-z0-9.+_-]*"
_BOOKS, _LINKS = "/var/lib/dpkg/alternatives", "/etc/alternatives"
# Names under which dpkg writes a book.
_UNFINISHED = (".dpkg-tmp", ".dpkg-new", ".dpkg-old")
_LARGEST = 1 << 20
_SET, TAKE = "choose", "take-group"
ACTIONS = (_SET, TAKE)


def read_choices() -> dict[str, str]:
    """Name of a group -> the text of its book."""
    names: list[str] = []
    with suppress(OSError):
        names = [one for one in sorted(os.listdir(_BOOKS)) if re.fullmatch(NAME, one)]
    found = {}
    for name in names:
        if not name.endswith(_UNFINISHED):
            with suppress(OSError), open(f"{_BOOKS}/{name}", encoding="utf-8", errors="surrogateescape") as stream:
                found[name] = stream.read(_LARGEST)
    return found


def compare(then: Mapping[str, str], now: Mapping[str, str]) -> list[Step]:
    """The steps that bring back the recorded groups. Pure."""
    came = [Step("packages", TAKE, name, "was no group of alternatives") for name in now if name not in then]
    return came + [
        Step("packages", _SET, name, _why(text, now.get(name, "")), {"book": text})
        for name, text in then.items()
        if now.get(name) != text
    ]


def _why(then: str, now: str) -> str:
    mode = now.partition("\n")[0]
    if not now:
        return "is no group of alternatives"
    return f"is in the mode {mode[:20]}" if mode != then.partition("\n")[0] else "has other choices"


def apply(steps: Sequence[Step], at: Restore) -> tuple[dict[str, str], set[str]]:
    """Carry out the steps; return (name of a group -> why, for the steps that failed; the groups that stay)."""
    left = {}
    now = read_choices()
    came = {step.target: now[step.target] for step in steps if step.action == TAKE and step.target in now}
    stay = staying(came, at)
    for step in steps:
        try:
            if step.action == _SET:
                _set(step.target, str(step.detail["book"]))
            elif step.target in came and step.target not in stay:
                _take(step.target, links(step.target, came[step.target]))
        except OSError as error:
            left[step.target] = str(error)
    return left, stay


def staying(came: Mapping[str, str], at: Restore) -> set[str]:
    """The groups, of those that came (name -> book), that stay: one of their links has, or may have, taken the place of
    another link, and its name would lead nowhere."""
    mine = {name: [link for link, to in links(name, book).items() if _leads(link, to)] for name, book in came.items()}
    outer = [link for found in mine.values() for link in found]
    former = footprint.was_there(os.path.join(at.objects.root, "before"), outer, at.since) if outer else {}
    return {name for name, found in mine.items() if any(former.get(link, True) for link in found)}


def links(name: str, book: str) -> dict[str, str]:
    """Path by which a program is found -> the link in /etc/alternatives to which it leads."""
    lines = book.splitlines()[1:]  # The first line is the mode. A book may be empty, as after a loss of power.
    lines = lines[: lines.index("")] if "" in lines else lines
    return {link: f"{_LINKS}/{one}" for one, link in zip([name, *lines[1::2]], lines[::2])}


def paths(then: Mapping[str, str] | None, at: Restore) -> set[str]:
    """The paths by which programs of groups are found, recorded or not: they come and go with their groups. A
    group that came and stays does not count."""
    if then is None:
        return set()
    now = read_choices()
    stay = staying({name: book for name, book in now.items() if name not in then}, at)
    every = [*then.items(), *((name, book) for name, book in now.items() if name not in stay)]
    return {link for name, book in every for link in links(name, book)}


def _leads(link: str, to: str) -> bool:
    with suppress(OSError, ValueError):
        return os.readlink(link) == to
    return False


def _take(name: str, found: Mapping[str, str]) -> None:
    mine = [link for link, to in found.items() if _leads(link, to)]
    for path in (*mine, *found.values(), f"{_BOOKS}/{name}"):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _set(name: str, book: str) -> None:
    path = f"{_BOOKS}/{name}"
    write_file(path, os.fsencode(book), 0o644)
    os.chmod(path, 0o644)
    for link, to in links(name, book).items():
        if not os.path.lexists(link) and os.path.lexists(to) and os.path.isdir(os.path.dirname(link)):
            os.symlink(to, link)
