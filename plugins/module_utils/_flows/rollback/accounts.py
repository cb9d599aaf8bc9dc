# SPDX-License-Identifier: GPL-3.0-or-later

"""Accounts that a rollback takes away or brings back, and their homes, which stay as they are. The next account gets a
number that is free again, and all files of that number with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from ..._files.footprint import DISKS
from ..._host.mounts import mount_of, mount_points

_FILE = "/etc/passwd"
_SHOWN = 10
# The first number of the account of a person, and that of nobody.
_FIRST_PERSON, _NOBODY = 1000, 65534


def read_homes(path: str = _FILE) -> dict[int, list[str]]:
    """Number of an account -> its homes."""
    found: dict[int, list[str]] = {}
    with suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as stream:
        for words in (line.rstrip("\n").split(":") for line in stream):
            if len(words) == 7 and words[2].isdigit():
                found.setdefault(int(words[2]), []).append(words[5])
    return found


def orphaned(before: Mapping[int, list[str]]) -> list[str]:
    """Sentences on the homes that still belong to accounts of ``before`` that are gone."""
    now, found = read_homes(), []
    owners = {home: number for number, homes in now.items() for home in homes}
    gone = {number: homes for number, homes in before.items() if number not in now}
    points = mount_points() if gone and now else {}
    for number, homes in gone.items() if now else ():
        for home in (one for one in homes if _belongs(one, number, points)):
            to_do = (
                f"it is the home of uid {owners[home]} again: give it back (chown -R)"
                if home in owners
                else "to the next account that gets this number: remove it, or give it to somebody"
            )
            found.append(f"{home} still belongs to uid {number}, which is no account now, and {to_do}")
    return found[:_SHOWN]


def bereft(before: Mapping[int, list[str]]) -> list[str]:
    """Sentences on the homes that accounts have again, other than in ``before``, and that are not there."""
    found = []
    points = mount_points()
    for number, homes in read_homes().items():
        had = before.get(number, [])
        for home in (one for one in homes if one not in had and _is_near(one, points) and not os.path.lexists(one)):
            moved = [one for one in had if one not in homes and _belongs(one, number, points)]
            if moved:
                found.append(f"{home}, the home of uid {number}, is at {moved[0]} since the change: move it back")
            elif _FIRST_PERSON <= number < _NOBODY:
                found.append(
                    f"{home}, the home of uid {number}, is not there: data of accounts are not protected, and where "
                    "the change has removed them, they are lost"
                )
    return found[:_SHOWN]


def _is_near(path: str, points: Mapping[bytes, str]) -> bool:
    """Whether the path lies on a disk of this host: a server that does not answer is not asked."""
    return points.get(mount_of(os.fsencode(path), points), "") in DISKS


def _belongs(home: str, number: int, points: Mapping[bytes, str]) -> bool:
    with suppress(OSError):
        return _is_near(home, points) and os.lstat(home).st_uid == number
    return False
