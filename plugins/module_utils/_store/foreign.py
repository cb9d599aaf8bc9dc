# SPDX-License-Identifier: GPL-3.0-or-later

"""The form of a manifest that another host has sent: it is checked before any part is kept or acted on."""

from __future__ import annotations

import datetime
import os
import re

from .._errors import Damaged, Refused, UsageError
from .._host.mounts import free_bytes
from .manifest import Manifest
from .retention import SKEW
from .store import check_name, time_of

# Bytes and lines of all manifests of a bundle: some millions of files.
MANIFESTS = 1024 * 1024 * 1024
LINES = 8 * 1024 * 1024
# Bytes of a file system that stay free for other programs.
_SPARE = 16 * 1024 * 1024

_CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_HOST = re.compile("[!-~]{1,255}")
# An entry of files, in the order in which its words are written (see ``_files.entry``).
_ENTRY = re.compile(
    r"- \S+|[fdlpscbD] \S+ [0-7]{1,4} [0-9]{1,10} [0-9]{1,10} -?[0-9]{1,28}"
    r"(?: size=[0-9]{1,19} sha256=[0-9a-f]{64})?(?: target=\S+)?(?: rdev=[0-9]{1,20})?(?: link=\S+)?"
    r"(?: sparse=1)?(?: flags=[0-9a-f]{1,8})?(?: x:[^\s=]+=[A-Za-z0-9+/]*={0,2})*"
)
# A line in the words of a kind: its first word has more than one letter.
_OWN = re.compile(r"[A-Za-z][A-Za-z0-9_.:+-]+(?: .*)?")
_CONTENT = re.compile("(sha256|beside)=[0-9a-f]{64}")


def moment_of(created: str) -> datetime.datetime:
    """The date of a checkpoint; Damaged when it is no date, or not in the form in which we write it."""
    try:
        if not _CREATED.fullmatch(created):
            raise ValueError("another form")
        return time_of(created)
    except ValueError as error:
        raise Damaged(f"{created[:40]!r} is not the date of a checkpoint") from error


def check_created(created: str, now: float) -> None:
    """Damaged unless the text is a date of a checkpoint that lies in the past."""
    here = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    if moment_of(created) > here + SKEW:
        raise Damaged(
            f"a checkpoint of {created} is refused: it is {here:%Y-%m-%d} here. If the clock here is wrong, set it and "
            "run again; if the clock of the other host is wrong, set it and take a new checkpoint there"
        )


def check_manifest(manifest: Manifest, now: float) -> None:
    """Damaged unless it has the form of a checkpoint (``check_form``), and its date has passed by our own clock."""
    check_created(manifest.created, now)
    check_form(manifest)


def check_form(manifest: Manifest) -> None:
    """Damaged unless every field and every line has a form that a checkpoint can have. The date is not compared with a
    clock: a host whose clock is behind has whole copies, and the controller judges their dates by its own clock.

    In the record of a log the lines that came are checked.
    """
    try:
        check_name(manifest.name)
    except UsageError as error:
        raise Damaged(error.message) from error
    if not _HOST.fullmatch(manifest.host):
        raise Damaged(f"{manifest.host[:100]!r} is not the name of a host")
    moment_of(manifest.created)
    for _kind, line in manifest.written():
        if not line.isprintable() or not (_ENTRY.fullmatch(line) or _is_own(line)):
            raise Damaged(f"this line of a manifest is refused: {line[:200]!r}: no line of a checkpoint has this form")


def _is_own(line: str) -> bool:
    """Whether the line has the form of a line in the words of a kind."""
    contents = [word for word in line.split(" ") if word.startswith(("sha256=", "beside="))]
    return _OWN.fullmatch(line) is not None and all(map(_CONTENT.fullmatch, contents))


def room(*directories: str) -> int:
    """The largest size in bytes of a bundle for which each of the directories has room.

    A directory that does not exist yet counts as its nearest existing parent.
    """
    free: dict[int, int] = {}
    shares: dict[int, int] = {}
    for directory in map(os.path.abspath, directories):
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        device, found = os.stat(directory).st_dev, os.statvfs(directory)
        free[device] = max(0, free_bytes(found) - _SPARE)
        shares[device] = shares.get(device, 0) + 1
    return min(free[device] // shares[device] for device in free)


def refuse_too_large(size: int, directory: str, label: str) -> None:
    """Refused unless the directory has room for so many bytes. Called before they are written."""
    free = room(directory)
    if size > free:
        raise Refused(
            f"{label} has {size} bytes, and {directory} has room for {free}: free some, or use a store elsewhere; "
            "nothing was changed"
        )
