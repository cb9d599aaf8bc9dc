# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that count as those beside a playbook of ours: Ansible runs the plugins that it finds there."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evenkeel.ansible.options import Options
from evenkeel.collection import FQCN, collections_path

# The names of what Ansible uses beside a playbook without being told to.
_USED = r"\w+_plugins|library|module_utils|doc_fragments|collections|roles|group_vars|host_vars"
# The place of the collection below a project: there it would hide the one that belongs to this driver.
_COLLECTION = ("collections", "ansible_collections", *FQCN.split("."))


class Beside(NamedTuple):
    """directory: the one that stands for that of a playbook; empty where none may. notes: what a person should know."""

    directory: str
    notes: list[str]


def beside(options: Options, cwd: str) -> Beside:
    """The directory that a person names (--playbook-dir), or else ``cwd``, unless another user could have put there
    what Ansible would run. Raises UsageError."""
    base = options.base(cwd)
    foreign = "" if options.playbook_dir else _foreign(base)
    if not foreign:
        return Beside(base, [])
    used = _used(base)
    note = (
        f"{', '.join(used)} in {base} {'do' if len(used) > 1 else 'does'} not count: {foreign}, so that others can say"
        f" what runs from there. Where you trust them, say --playbook-dir {base}"
    )
    return Beside("", [note] if used else [])


def _used(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if re.fullmatch(_USED, name))
    except OSError:
        return []  # then Ansible finds nothing either


def _foreign(directory: str) -> str:
    """Why a directory, or what Ansible uses in it, may be another user's work; empty where it is not."""
    for path in (directory, *(os.path.join(directory, name) for name in _used(directory))):
        try:
            found = [os.lstat(path), os.stat(path)]
        except OSError:
            continue  # a link to nothing
        if any(one.st_uid not in (0, os.getuid()) for one in found):
            return f"{path} belongs to another user"
        if found[1].st_mode & stat.S_IWOTH:
            return f"everybody can write to {path}"
    return ""


def link(base: Path, directory: Path, without: str = "") -> None:
    """Fill ``directory`` with links to the files in ``base``, but the one named ``without``. A collection of ours there
    is the one of this driver, whichever lies in ``base``."""
    _link(base, directory, without, _COLLECTION)


def _link(base: Path, directory: Path, without: str, collection: Sequence[str]) -> None:
    for entry in base.iterdir():
        here = directory / entry.name
        if entry.name == without:
            continue
        if entry.name != collection[0] or not entry.is_dir():
            here.symlink_to(entry.absolute())
        elif len(collection) > 1:
            here.mkdir(mode=0o700)
            _link(entry, here, "", collection[1:])
        else:
            here.symlink_to(collections_path().joinpath("ansible_collections", *FQCN.split(".")))
