# SPDX-License-Identifier: GPL-3.0-or-later

"""The kept entry of a boot loader: the kernel from before a change, which the host boots where that of the change does
not boot. This file holds the protocol of a boot loader, and the code that all boot loaders share."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Protocol

from .._host.durable import sync_paths
from .._store.store import Store

PROC = "/proc/cmdline"
# The kernel ignores the second word. It shows that a command line holds the first word because of us.
PANIC, SIGN = "panic=30", "evenkeel.tried=1"


class Loader(Protocol):
    """A boot loader. ``not_as_before``: what a person is told where the kept entry stays the default after a
    rollback. ``entry_missing``: the same where the kept entry cannot be booted any more. ``stays``: the same where it
    may stay the default although the change stays."""

    @property
    def not_as_before(self) -> str: ...

    @property
    def entry_missing(self) -> str: ...

    @property
    def stays(self) -> str: ...

    def is_in_use(self) -> bool:
        """Whether this boot loader has started the host."""

    def folders(self) -> list[str]:
        """The directories outside of the boot loader's own that are to hold files of ours."""

    def keep(self, store: Store, tries: int) -> str:
        """Keep the running kernel, and have it booted after so many boots. Return why that failed; empty where it did
        not. Raises OSError, ValueError."""

    def discard(self) -> None:
        """Remove what a failed ``keep`` has left."""

    def add_panic(self) -> None:
        """Have the command lines of kernels that the change installs turn a panic into a boot."""

    def is_ready(self) -> bool:
        """Whether the kept entry is in place."""

    def noted(self) -> dict[str, str]:
        """The values of an armed change for its end, when the partition of the kept entry may not be mounted."""

    def is_left(self, noted: Mapping[str, str]) -> bool:
        """Whether the kept entry may still be the default. Raises OSError where that cannot be seen."""

    def fell_back(self) -> bool:
        """Whether this boot took another entry than the host's configuration names: the kept one above all."""

    def go_on(self, store: Store) -> None:
        """A planned boot has come, and a further one is planned."""

    def is_missing(self) -> bool:
        """Whether the kept entry, once in place, or a file that it loads is missing. Raises OSError where that cannot
        be seen."""

    def is_as_before(self) -> bool:
        """Whether the boot loader's configuration and the files of the kept kernel are as before the change."""

    def stay(self, store: Store) -> None:
        """Have every further boot take the kept entry."""

    def forget(self, store: Store, noted: Mapping[str, str]) -> None:
        """Let the host's configuration decide the default entry again, and remove the kept entry."""

    def write_anew(self, store: Store) -> None:
        """Take back ``add_panic``, in the configuration as well."""


def digest(contents: str) -> str:
    return hashlib.sha256(contents.encode("utf-8", "surrogateescape")).hexdigest()


def copy_files(root: str, paths: Sequence[str], kept: str) -> str:
    """Copy files below ``root`` to the same paths below ``kept``. Copies of before stay until all of the new ones are
    there. Return why they cannot be ours: there is no room for them and for a kernel of the change, or the file system
    gives all files to another user. Empty where they are in place. Raises OSError, ValueError."""
    why = _no_room(root, paths)
    if why:
        return why
    new = os.path.join(kept, "new")
    try:
        shutil.rmtree(new, ignore_errors=True)  # A kill may have left it.
        for path in paths:
            for copy in (kept + path, new + path):
                os.makedirs(os.path.dirname(copy), mode=0o700, exist_ok=True)
            shutil.copyfile(root + path, new + path)
            owner = os.stat(new + path).st_uid
            if owner:
                return f"the files that root writes to {root} belong to uid {owner}: mount it without the option uid"
        sync_paths(new + path for path in paths)
        for path in paths:
            os.replace(new + path, kept + path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return ""


def _no_room(root: str, paths: Sequence[str]) -> str:
    for path in paths:
        if not os.path.isfile(root + path):
            raise ValueError(f"{path} is not in {root}")
    needed, room = 2 * sum(os.path.getsize(root + path) for path in paths), os.statvfs(root)
    free = room.f_bavail * room.f_frsize
    if needed <= free:
        return ""
    return f"{root} has {free >> 20} MiB free, and a copy of the kernel and one more kernel need {needed >> 20} MiB"


def drop_others(paths: Sequence[str], kept: str) -> None:
    """Remove all other files below ``kept``. Raises OSError."""
    for folder, _folders, names in os.walk(kept):
        for path in (os.path.join(folder, name) for name in names):
            if path[len(kept) :] not in paths:
                os.unlink(path)


def grub_kernel() -> str:
    """The path of the running kernel, as GRUB names it; empty where GRUB has not passed it."""
    found = re.search(r"\bBOOT_IMAGE=(\S+)", text(PROC))
    return found[1] if found else ""


def is_missing(path: str) -> bool:
    """Whether there is no such file. Raises OSError where that cannot be seen."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    return False


def is_same(path: str, other: str) -> bool:
    """Whether two files have the same content."""
    with open(path, "rb") as first, open(other, "rb") as second:
        while piece := first.read(1 << 20):
            if piece != second.read(1 << 20):
                return False
        return not second.read(1)


def text(path: str) -> str:
    """The text of a file; empty where the file is missing."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
