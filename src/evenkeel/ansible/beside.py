# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that count as those beside a playbook of ours: Ansible runs the plugins that it finds there."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from evenkeel.ansible.options import Options
from evenkeel.collection import FQCN, collections_path
from evenkeel.outcome import UsageError

# The names of what Ansible uses beside a playbook without being told to.
_USED = r"\w+_plugins|library|module_utils|doc_fragments|collections|roles|group_vars|host_vars"
# The place of the collection below a project: there it would hide the one that belongs to this driver.
_COLLECTION = ("collections", "ansible_collections", *FQCN.split("."))


def beside(options: Options, cwd: str, settings: Mapping[str, object]) -> str:
    """The directory that stands for that of a playbook: the one that a person names (--playbook-dir), or else ``cwd``.
    Empty where another user could put there what Ansible would run. Raises UsageError where something like that is
    there: it may be what the hosts need, or an attack. settings: the configuration of Ansible."""
    base = options.base(cwd)
    if options.playbook_dir or _decides(options, base, settings.get("CONFIG_FILE")):
        return base
    foreign = _foreign(base)
    used = _used(base) if foreign else []
    if used:
        raise UsageError(
            f"{foreign}, so that others can say what runs from {base} ({', '.join(used)}). Nothing was touched. Say"
            f" --playbook-dir {base} where you trust them, or call from another directory"
        )
    return "" if foreign else base


def _decides(options: Options, base: str, config: object) -> bool:
    """Whether others who can write to the directory decide already what a command does: they can replace the inventory
    that a person names, or the configuration that Ansible takes from there. In a directory such as /tmp they cannot."""
    found = os.stat(base)
    if found.st_mode & stat.S_ISVTX or not (found.st_uid not in _ours() or found.st_mode & stat.S_IWOTH):
        return False
    here = os.path.realpath(base)
    named = [os.path.join(here, one) for one in options.inventory if "," not in one]
    if isinstance(config, str) and os.path.dirname(os.path.realpath(config)) == here:
        return True
    return any(Path(os.path.realpath(one)).is_relative_to(here) for one in named)


def _ours() -> set[int]:
    """The users whose files are ours: root, the caller, and the user who called us by sudo."""
    caller = os.environ.get("SUDO_UID", "")
    return {0, os.getuid(), int(caller) if caller.isdecimal() and os.getuid() == 0 else 0}


def _used(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if re.fullmatch(_USED, name))
    except OSError:
        return []  # then Ansible finds nothing either


def _foreign(directory: str) -> str:
    """Why a directory, or what Ansible uses in it, may be another user's work; empty where it is not."""
    ours = _ours()
    for path in (directory, *(os.path.join(directory, name) for name in _used(directory))):
        try:
            found = [os.lstat(path), os.stat(path)]
        except OSError:
            continue  # a link to nothing
        if any(one.st_uid not in ours for one in found):
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
