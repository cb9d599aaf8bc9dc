# SPDX-License-Identifier: GPL-3.0-or-later

"""The paths outside of the declared resources that a change has changed.

Below the store lies ``before``, the metadata of all paths when the change was armed. Nothing here keeps a change from
its end: paths that cannot be looked at are left out.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Callable

from .._deadman import changes, command, outside
from .._errors import EvenkeelError
from .._files import declaration, footprint, places
from .._files.declaration import OWN_NAMES, Declaration
from .._files.footprint import Changed, Recorded, Walk
from .._host import kernel
from .._host.durable import remove_file
from .._host.mounts import mount_points
from .._host.paths import DIRECTORY, ancestors, open_dir
from .._resources import files, ours, passages, registry
from .._resources.kind import Restore
from .._results.change import ChangedPath, Outside
from .._store.manifest import Manifest
from .._store.store import Store

# The number of paths that are looked at further.
_MOST = 200_000
# The accounts, and the number of files in their homes that are looked at.
_PASSWD, MOST_ALONE = "/etc/passwd", 10_000
# The number of paths below a new directory that are named, and of its directories that are looked at.
_MOST_BELOW = 100
# Seconds for the walk when a change is armed, for the walk at its end, and for what lies below new directories.
_BEFORE, _AFTER, BELOW = 5.0, 5.0, 1.0
# The number of entries after which the time is looked at again.
_OFTEN = 64


def remember(store: Store, generation: int, declared: Mapping[str, list[str]]) -> None:
    """Record the metadata of all paths, before the change of this generation begins.

    Where one machine plays several hosts, its paths belong to no single host, and the usual places are not looked at.
    """
    path = store.join("before")
    with suppress(OSError):
        if declared["paths"] and (command.is_host(store) or declared["paths"] != list(places.PATHS)):
            usual = declared["paths"] == list(places.PATHS)
            alone = [f"{os.fsdecode(home)}/{name}" for home in passages.homes(_PASSWD) for name in passages.OF_LOGIN]
            seen = {"kernel": _read_kernel(store), "data": places.FLAT, "alone": alone[:MOST_ALONE]} if usual else {}
            every = {"generation": generation, "boot": store.system.boot_id(), **declared, **seen}
            walk = _walk(store, every, _BEFORE)
            walk.complete = not usual or len(alone) <= MOST_ALONE
            footprint.record(path, every, walk)
        else:
            remove_file(path)


def audit_before(store: Store, checkpoint: str) -> dict[str, str]:
    """The kernel's rules of the audit as ``kernel.read_audit`` gave them when the change after this checkpoint was
    armed; empty where they are not known."""
    with suppress(OSError, EOFError, ValueError, KeyError, EvenkeelError), gzip.open(store.join("before")) as stream:
        change, declared = changes.armed(store), Recorded(stream).declared
        if change is not None and (change.checkpoint, change.generation) == (checkpoint, declared["generation"]):
            return {kernel.AUDIT_RULES: declared["kernel"]["settings"][kernel.AUDIT_RULES]}
    return {}


def find_changed(store: Store, generation: int, checkpoint: str, back: bool, seconds: float = _AFTER) -> Outside | None:
    """The paths that changed since the change was armed and that its checkpoint does not cover; None where they are
    unknown. They are kept for ``outside.told``. ``back``: the host was rolled back; otherwise it is confirmed."""
    try:
        found = _compare_with_record(store, generation, store.manifest(checkpoint), min(seconds, _AFTER))
        outside.keep(store, generation, back, found)
        return found
    except FileNotFoundError:  # Nothing was recorded when it was armed.
        return None
    except Exception as error:  # No error keeps a change from its end.
        with suppress(OSError):
            outside.keep(store, generation, back, None, f"{type(error).__name__}: {error}")
        return None


def _walk(store: Store, declared: Mapping[str, Any], seconds: float) -> Walk:
    """``data`` and ``alone`` are not there in what older versions recorded."""
    end = store.system.monotonic() + seconds
    paths, flat, alone = ([os.fsencode(one) for one in declared.get(key, ())] for key in ("paths", "data", "alone"))
    return Walk(paths, _left_out(store, declared), lambda: store.system.monotonic() < end, flat, alone)


def _left_out(store: Store, declared: Mapping[str, Sequence[str]]) -> Callable[[bytes], bool]:
    names = [*map(os.fsdecode, OWN_NAMES)]
    named = declaration.left_out(Declaration(declared["paths"], [*declared["exclude"], *names]))
    own = {os.fsencode(path) for path in ours.paths(store.root)}
    return lambda path: path in own or named(path)


def _compare_with_record(store: Store, generation: int, manifest: Manifest, seconds: float) -> Outside | None:
    with gzip.open(store.join("before")) as stream:
        since = os.stat(store.join("before")).st_mtime
        then = Recorded(stream)
        if then.declared["generation"] != generation or "flat" in then.declared:  # That was walked in another order.
            return None
        now = _walk(store, then.declared, seconds)
        changed = footprint.differences(then, now, _left_out(store, then.declared))
        if then.declared.get("boot") != store.system.boot_id():  # Each boot makes anew what lies in memory.
            changed = (one for one in changed if not one.path.startswith(footprint.RUNTIME))
        found = list(islice(changed, _MOST))
        complete = then.complete and now.complete and len(found) < _MOST
    at = Restore(store.system, store.objects, since=since)
    if "kernel" in then.declared:
        found += _of_kernel(then.declared["kernel"], _read_kernel(store), manifest, at)
    end = store.system.monotonic() + min(seconds, BELOW)
    late: list[float] = []

    def goes_on() -> bool:
        if store.system.monotonic() >= end:
            late.append(end)
        return not late

    bare = uncovered(found, manifest, at, _left_out(store, then.declared), goes_on)
    shown = [ChangedPath(os.fsdecode(one.path[: outside.LONGEST]), one.what) for one in bare[: outside.SHOWN]]
    return Outside(shown, len(bare), complete and not late)


def _read_kernel(store: Store) -> Mapping[str, Any]:
    """The state of the running kernel. Plain JSON."""
    found: Mapping[str, Any] = kernel.read_settings()
    manager = kernel.read_manager(store.system.run) if store.system.has_systemd() else {}
    settings = {**found["settings"], **kernel.read_audit(store.system.run), **manager}
    return {**found, **kernel.read_devices(), "settings": settings}


def _of_kernel(then: Mapping[str, Any], now: Mapping[str, Any], manifest: Manifest, at: Restore) -> list[Changed]:
    """The state of the running kernel that differs."""
    found = list(kernel.differences(then, now))
    for section in manifest.sections:
        found += registry.kind_of(section).beyond(section.spec, registry.own_lines(section), at)
    return [Changed(os.fsencode(path), what) for path, what in found]


def uncovered(
    found: Iterable[Changed],
    manifest: Manifest,
    at: Restore,
    left_out: Callable[[bytes], bool] = lambda _path: False,
    goes_on: Callable[[], bool] = lambda: True,
) -> list[Changed]:
    """The paths that a rollback to the checkpoint does not bring back: of a new directory in a tree, what the tree
    leaves out below it. ``goes_on``: tells whether there is time to look there."""
    specs: dict[bytes, list[dict[str, Any]]] = {}
    for section in manifest.sections:
        spec = registry.tree_spec(section) or {"paths": []}
        for root in spec["paths"]:
            specs.setdefault(os.fsencode(root), []).append(spec)

    def lies_in_a_tree(path: bytes) -> bool:
        return any(
            not files.excludes(spec, os.fsdecode(path))
            for root in (*ancestors(path), path)
            for spec in specs.get(root, ())
        )

    bare: dict[bytes, str] = {}
    mounts = mount_points()
    for one in found:
        if not lies_in_a_tree(one.path):
            bare[one.path] = one.what
        elif one.what == footprint.NEW and goes_on():
            below = (path for path in _bare_below(one.path, lies_in_a_tree, mounts, goes_on) if not left_out(path))
            bare.update(dict.fromkeys(islice(below, _MOST_BELOW), footprint.NEW))
    covered: set[str] = set()
    changed = {os.fsdecode(path): what for path, what in bare.items()}
    for section in manifest.sections:
        kind = registry.kind_of(section)
        covered.update(kind.covers(section.spec, registry.own_lines(section), changed, at))
    return [Changed(path, what) for path, what in bare.items() if os.fsdecode(path) not in covered]


def _bare_below(
    folder: bytes, lies_in_a_tree: Callable[[bytes], bool], mounts: Container[bytes], goes_on: Callable[[], bool]
) -> Iterator[bytes]:
    """The paths below a new directory that its tree leaves out. No symlink is followed and no mount is entered: a
    server that is gone, or a user's own FUSE, never answers."""
    opened: list[tuple[int, bytes]] = []

    def enter(above: int, path: bytes) -> None:
        with suppress(OSError):  # A path that is no directory, or is gone meanwhile.
            if path not in mounts:
                opened.append((os.open(os.path.basename(path), DIRECTORY, dir_fd=above), path))

    try:
        with suppress(OSError, EvenkeelError):
            above = open_dir(os.path.dirname(folder))
            try:
                enter(above, folder)
            finally:
                os.close(above)
        for fd, place in opened:
            with suppress(OSError), os.scandir(fd) as entries:
                for number, entry in enumerate(entries, 1):
                    path = os.path.join(place, os.fsencode(entry.name))
                    if not number % _OFTEN and not goes_on():
                        return
                    if not lies_in_a_tree(path):
                        yield path
                    elif len(opened) < _MOST_BELOW and entry.is_dir(follow_symlinks=False):
                        enter(fd, path)
    finally:
        for fd, _place in opened:
            os.close(fd)
