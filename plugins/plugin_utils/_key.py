# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys by which the controller recognizes its copies: each copy has a MAC, made with a key that no host has.

The key is the variable ``evenkeel_key`` of the host whose copies they are, or a file beside the inventory, made with
the first copy. With several keys, the first key makes MACs, and MACs of all keys are accepted: so a key is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import UsageError

VARIABLE = "evenkeel_key"
# Hidden, so that Ansible takes it for no inventory.
FILE = ".evenkeel-key"
_SHORTEST = 32
# The variable by which ansible-runner names its notes, which lie two levels below the directory of a job.
_NOTES = "AWX_ISOLATED_DATA_DIR"
_FIELDS = ("id", "host", "name", "created")


class Keys:
    """The keys of the copies of one host, possibly without any. ``where``: the place of the keys, for a message."""

    def __init__(self, keys: Sequence[str], where: str) -> None:
        self._keys = [key.encode() for key in keys]
        self.where = where

    def __bool__(self) -> bool:
        return bool(self._keys)

    def mac(self, owner: str, copy: Mapping[str, Any]) -> str:
        """The MAC of a copy of a checkpoint of ``owner``, from its entry in a list."""
        return _mac(self._keys[0], owner, copy)

    def know(self, owner: str, copy: Mapping[str, Any]) -> bool:
        """Whether the copy has a MAC of one of these keys."""
        return any(hmac.compare_digest(_mac(key, owner, copy), str(copy.get("mac") or "")) for key in self._keys)


def find(given: Any, directory: str | None) -> Keys:
    """The keys ``given``, or those in the file in the inventory's ``directory``. UsageError for malformed keys."""
    if given:
        keys = [given] if isinstance(given, str) else given
        if not isinstance(keys, (list, tuple)):
            raise UsageError(f"{VARIABLE} is no text and no list of texts")
        return Keys(_checked([str(key) for key in keys], VARIABLE), VARIABLE)
    if directory is None:
        return Keys([], f"{VARIABLE} is not set, and the inventory is no file beside which the key could lie")
    path = os.path.join(directory, FILE)
    keys = _read(path)
    return Keys(keys, path if keys else f"{VARIABLE} is not set, and there is no {path}")


def make(directory: str | None) -> Keys:
    """The keys of the file in the directory. The file is made with a new key where it is not there yet."""
    if directory is None:
        raise UsageError(
            f"copies need a key, and the inventory is no file beside which it could lie: set {VARIABLE}, for example "
            "to the output of openssl rand -hex 32, encrypted with ansible-vault"
        )
    path = os.path.join(directory, FILE)
    notes = os.environ.get(_NOTES)
    job = os.path.dirname(os.path.dirname(os.path.realpath(notes))) if notes else ""
    if job and os.path.realpath(path).startswith(f"{job}/") and not os.path.lexists(path):
        raise UsageError(
            f"copies need a key, and {path} would lie in the directory of a job of AWX or ansible-runner, which may be"
            f" gone at its end: set {VARIABLE}, so that the next job recognizes these copies"
        )
    new = f"{path}.{secrets.token_hex(8)}"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, f"{secrets.token_hex(32)}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            with suppress(FileExistsError):  # Another host's task was first.
                os.link(new, path, follow_symlinks=False)
        finally:
            os.unlink(new)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(
            f"copies need a key, and {path} cannot be made ({error.strerror}): make it possible, or set {VARIABLE}"
        ) from error
    return Keys(_read(path), path)


def _mac(key: bytes, owner: str, copy: Mapping[str, Any]) -> str:
    text = json.dumps(["evenkeel copy", 1, owner, *(copy.get(field) for field in _FIELDS)])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _read(path: str) -> list[str]:
    """The keys in the file, one a line; none when it is not there. UsageError when others could have read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        why = "it is a symlink" if error.errno == errno.ELOOP else error.strerror
        raise UsageError(
            f"the key of copies, {path}, cannot be read: {why}. A key that lies elsewhere, or that several people"
            f" share, is set as {VARIABLE}, in a vault"
        ) from error
    with open(fd, "rb") as stream:
        found = os.fstat(fd)
        ours = found.st_uid in (0, os.geteuid())
        if not stat.S_ISREG(found.st_mode) or not ours or stat.S_IMODE(found.st_mode) & 0o077:
            raise UsageError(
                f"the key of copies, {path}, is not yours alone: give it mode 0600 and yourself as its owner; where "
                "somebody else may have read it, replace it (docs/copies.md says how)"
            )
        text = stream.read(65536).decode("ascii", "replace")
    return _checked([line.strip() for line in text.splitlines() if line.strip()], path)


def _checked(keys: list[str], where: str) -> list[str]:
    if not keys or any(len(key) < _SHORTEST for key in keys):
        raise UsageError(
            f"{where}: a key has {_SHORTEST} characters or more; take the output of openssl rand -hex 32, one a line"
        )
    return keys
