# SPDX-License-Identifier: GPL-3.0-or-later

"""Accounts that a rollback takes away, or whose home it changes back. The next account gets a number that is free
again, and all files of that number with it. A home that was moved stays where it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from ..._files.footprint import DISKS
from ..._host.mounts import mount_of, mount_points

_FILE = "/etc/passwd"
_SHOWN = 10


def look() -> dict[int, list[str]]:
    """Number of an account -> its homes."""
    found: dict[int, list[str]] = {}
    with suppress(OSError), open(_FILE, encoding="utf-8", errors="surrogateescape") as stream:
        for words in (line.rstrip("\n").split(":") for line in stream):
            if len(words) == 7 and words[2].isdigit():
                found.setdefault(int(words[2]), []).append(words[5])
    return found


def orphaned(before: Mapping[int, list[str]]) -> list[str]:
    """Sentences on the homes of ``before`` that still belong to accounts that are gone, or that have another home."""
    now, found = look(), []
    gone = {number: [one for one in homes if one not in now.get(number, ())] for number, homes in before.items()}
    gone = {number: homes for number, homes in gone.items() if homes and number}
    points = mount_points() if gone and now else {}
    for number, homes in gone.items() if now else ():
        for home in homes:
            # A server that does not answer is not asked.
            near = points.get(mount_of(os.fsencode(home), points), "") in DISKS
            with suppress(OSError):
                if near and os.lstat(home).st_uid == number:
                    found.append(
                        f"{home}, the home of uid {number} until now, is there still: look at what was moved there"
                        if number in now
                        else f"{home} still belongs to uid {number}, which is no account now, and to the next account "
                        "that gets this number: remove it, or give it to somebody"
                    )
    return found[:_SHOWN]
