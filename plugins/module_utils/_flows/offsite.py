# SPDX-License-Identifier: GPL-3.0-or-later

"""Checkpoints in a restic repository, away from the fleet: encrypted, deduplicated, on whatever storage restic knows.

The repository holds the same bundles that peers get (``replicas``). A bundle that comes back is not trusted: every hash
is computed again on the way in. restic's tags name the host and the checkpoint of a bundle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

from .._errors import Damaged, EvenkeelError, NotFound, UsageError
from .._host.durable import ensure_dir, write_file
from .._host.hashing import hash_file
from .._host.paths import check_path
from .._host.system import System
from .._host.text import masked
from .._results.copies import Offsite
from .._store import foreign
from .._store.foreign import check_created
from .._store.store import Store, check_name, meant
from . import replicas

_TAG = "evenkeel"
_KEYS = ("checkpoint", "name", "created")
_BUNDLE = "bundle"
# The file in the store that lists the snapshots that were compared, and the most that it lists.
_NOTES, _MOST_NOTES = "offsite.compared", 1000
_ID = "[0-9a-f]{64}"
_TIMEOUT = 6 * 3600.0
_LEFT_BEHIND = 86400.0


class Repository:
    """A restic repository, by restic's own address and the file of its password. ``shown``: the address, without a
    password."""

    def __init__(self, address: str, password_file: str, system: System) -> None:
        self.address = address
        self.shown = masked(address)
        self._argv = ["restic", "--password-file", password_file, "--quiet"]
        self._system = system

    def run(self, *words: str) -> str:
        """The output of restic. Raises UsageError where it is not installed, EvenkeelError with its own words."""
        # The address may hold a password, so it is not in the argv, which everybody can read.
        before = os.environ.get("RESTIC_REPOSITORY")
        os.environ["RESTIC_REPOSITORY"] = self.address
        try:
            done = self._system.run([*self._argv, *words], _TIMEOUT)
        finally:
            del os.environ["RESTIC_REPOSITORY"]
            if before is not None:
                os.environ["RESTIC_REPOSITORY"] = before
        if done.rc == 127:
            raise UsageError(f"restic cannot be run on this host ({done.words}); install it, for example with apt")
        if done.rc != 0:
            raise EvenkeelError(f"restic {words[0]} in {self.shown}: {masked(done.words)}")
        return done.out

    def checkpoints(self, host: str) -> list[dict[str, str]]:
        """The checkpoints of a host, oldest first: ``checkpoint``, ``name``, ``created``, and restic's ``snapshot``.

        A snapshot of another form, or with a date in the future, is none of ours.
        """
        found = []
        for one in json.loads(self.run("snapshots", "--json", "--tag", _TAG, "--host", host)) or []:
            with suppress(LookupError, TypeError, ValueError, AttributeError, EvenkeelError):
                # restic divides tags at commas, which a name may have.
                tags = dict(unquote(tag).split("=", 1) for tag in one["tags"] if "=" in tag)
                told = {**{key: tags[key] for key in _KEYS}, "snapshot": one["id"], "path": one["paths"][0]}
                if not all(re.fullmatch(_ID, told[key]) for key in ("checkpoint", "snapshot")):
                    continue
                check_name(told["name"])
                check_created(told["created"], self._system.now())
                check_path(os.fsencode(told["path"]))
                found.append(told)
        return sorted(found, key=lambda one: (one["created"], one["checkpoint"]))


def push(store: Store, repository: Repository, host: str, wanted: str, check_mode: bool = False) -> Offsite:
    """Put a checkpoint of this host into the repository, fetch it back and compare.

    It counts only then (I10). A checkpoint that is there already is compared, where nobody has done that, and not sent
    again.
    """
    offered = replicas.offer(store, host, wanted)
    named = f"{offered.name} ({offered.id[:12]})"
    plan = f"push {named} to {repository.shown}"
    held = repository.checkpoints(host)
    there = [one for one in held if one["checkpoint"] == offered.id][-1:]
    if any(one["snapshot"] in _compared(store) for one in there):
        proved = [f"{repository.shown} has {named}"]
        return Offsite(id=offered.id, proved=proved, held=held, left=offered.lacking)
    # A run that was cut may have left it there, and nobody knows what it is.
    comparison = [f"compare {named} in {repository.shown} with the store"] if there else []
    result = Offsite(changed=not there, planned=comparison or [plan], id=offered.id, held=held, left=offered.lacking)
    if check_mode:
        return result
    # Without the lock of the store: a rollback must not wait for a slow line.
    with _scratch(store) as folder:
        if not there or not _equals(repository, there[0], folder, _digest(_exported(store, host, offered.id, folder))):
            result.changed, result.planned = True, [*comparison, plan]
            path = _exported(store, host, offered.id, folder)
            values = {"checkpoint": offered.id, "name": quote(offered.name, safe=""), "created": offered.created}
            tags = ",".join([_TAG, *(f"{key}={value}" for key, value in values.items())])
            repository.run("backup", "--host", host, "--tag", tags, "--", path)
            sent = _digest(path)
            result.held = repository.checkpoints(host)
            there = [one for one in result.held if one["checkpoint"] == offered.id][-1:]
            if not there or not _equals(repository, there[0], folder, sent):
                raise Damaged(
                    f"{named} came back from {repository.shown} with another content; "
                    "check the repository with restic check --read-data, then push it again"
                )
        _note(store, there[0]["snapshot"])
    result.done, result.proved = list(result.planned), ["it was fetched back, and equals the bundle of the store"]
    return result


def _exported(store: Store, host: str, checkpoint: str, folder: str) -> str:
    path = os.path.join(folder, _BUNDLE)
    with suppress(FileNotFoundError):
        os.unlink(path)
    replicas.export(store, host, checkpoint, [], path, False)
    return path


def _equals(repository: Repository, copy: dict[str, str], folder: str, digest: str) -> bool:
    """Whether the bundle in the repository has this hash. At no time two bundles are here."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, _BUNDLE))
    path = _fetched(repository, copy, folder)
    try:
        return _digest(path) == digest
    finally:
        os.unlink(path)


def _compared(store: Store) -> list[str]:
    """The snapshots that were fetched back and compared. restic names a snapshot by its content."""
    try:
        with open(store.join(_NOTES), encoding="ascii") as stream:
            return stream.read().split()
    except (OSError, ValueError):
        return []


def _note(store: Store, snapshot: str) -> None:
    known = [one for one in _compared(store) if one != snapshot][1 - _MOST_NOTES :]
    write_file(store.join(_NOTES), "".join(f"{one}\n" for one in [*known, snapshot]).encode("ascii"))


def fetch(
    store: Store, repository: Repository, host: str, wanted: str, check_mode: bool = False, elsewhere: bool = False
) -> Offsite:
    """Take a checkpoint of ``host`` out of the repository into the store, for a rollback to follow.

    ``elsewhere``: ``host`` is another host. Then it is a copy of that host here, as a peer has it: a recovery follows.
    Raises NotFound, which lists the checkpoints; Damaged, with nothing stored, when a hash is wrong.
    """
    held = repository.checkpoints(host)
    ids = meant(wanted, [(one["name"], one["checkpoint"]) for one in held])
    if not ids:
        there = ", ".join(f"{one['name']} ({one['checkpoint'][:12]})" for one in held) or "none"
        raise NotFound(f"{repository.shown} has no checkpoint {wanted!r} of {host}; it has {there}")
    chosen = next(one for one in reversed(held) if one["checkpoint"] == ids[0])
    plan = f"fetch {chosen['name']} ({chosen['checkpoint'][:12]}) from {repository.shown}"
    target = replicas.replica(store, host) if elsewhere else store
    known = any(chosen["checkpoint"] == one.id for one in target.checkpoints())
    if known and not target.verify(target.manifest(chosen["checkpoint"])):
        return Offsite(id=chosen["checkpoint"], proved=["the store has it, verified"], held=held)
    result = Offsite(changed=True, planned=[plan], id=chosen["checkpoint"], held=held)
    if check_mode:
        return result
    with _scratch(store) as folder, replicas.opened(_fetched(repository, chosen, folder)) as incoming:
        take = replicas.receive if elsewhere else replicas.adopt
        take(store, host, chosen["checkpoint"], incoming)
    result.done, result.proved = [plan], ["every content has its hash, and is durable"]
    return result


def _fetched(repository: Repository, copy: dict[str, str], folder: str) -> str:
    """The path of the bundle, fetched into the folder. Refused where there is no room for it."""
    rows = repository.run("ls", "--json", copy["snapshot"], copy["path"]).splitlines()
    with suppress(ValueError, TypeError, AttributeError):
        sizes = [row.get("size") for row in map(json.loads, rows) if row.get("path") == copy["path"]]
        foreign.refuse_too_large(int(sizes[-1] if sizes else 0), folder, "the bundle of a checkpoint")
    repository.run("restore", copy["snapshot"], "--include", copy["path"], "--target", folder)
    return os.path.join(folder, copy["path"].lstrip("/"))


def _digest(path: str) -> str:
    with open(path, "rb") as stream:
        return hash_file(stream.fileno())[0]


@contextmanager
def _scratch(store: Store) -> Iterator[str]:
    """A private directory in the store, for bundles; leftovers of a kill are removed after a day."""
    place = store.join("offsite")
    ensure_dir(place)
    for old in os.listdir(place):
        with suppress(FileNotFoundError):  # The place belonged to another run, which has just ended.
            if store.system.now() - os.stat(os.path.join(place, old)).st_mtime > _LEFT_BEHIND:
                shutil.rmtree(os.path.join(place, old), ignore_errors=True)
    folder = tempfile.mkdtemp(dir=place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
