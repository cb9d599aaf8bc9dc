# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``subvolumes``: whole btrfs subvolumes, kept as snapshots on their own file system.

Beside a subvolume lies a directory of ours, for root alone. A checkpoint is a read-only snapshot in this directory. A
rollback makes a writable snapshot of the read-only snapshot there, exchanges it with the subvolume in one system
call, and deletes the old subvolume.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Collection, Sequence
from typing import TypedDict, cast

from ..._dataclasses import replace
from ..._errors import Damaged, EvenkeelError, Refused, RestoreFailed, UsageError
from ..._files.step import Step
from ..._host.durable import ensure_dir, exchange, syncfs
from ..._host.options import Options, read
from ..._host.paths import ancestors, check_path
from ..._host.system import System
from ..._store.objects import Hasher, tag
from .. import json_line
from ..kind import Kind, Processes, Restore, Sink, Spec
from .btrfs import (
    Subvolume,
    btrfs,
    delete,
    has_quota,
    mounted,
    mounted_elsewhere,
    opened,
    same,
    subvolume_at,
    synced,
    uncover,
    within,
)

_FOLDER = ".evenkeel-snapshots"
_NAME = r"[0-9a-f]{16}-[0-9]{8}T[0-9]{6}-[0-9a-f]{8}"


class Snapshot(TypedDict):
    """A snapshot as a checkpoint records it."""

    path: str
    snapshot: str
    transaction: int
    uuid: str


class Subvolumes(Kind):
    """Subvolumes of btrfs, each exchanged as a whole with a snapshot that lies beside it.

    The snapshots are in C(.evenkeel-snapshots). It needs btrfs-progs. A snapshot takes no time and no room at first,
    and is on that disk alone. Replicas and restic do not carry it.

    Reading files changes their times of access, and with them the subvolume, unless it is mounted with C(noatime).

    paths: Root directories of writable subvolumes that are not mounted themselves, below directories that root alone
    can write to. Subvolumes within one are refused, because a snapshot leaves them out. For example V([/srv/data]).
    """

    name = "subvolumes"
    since = "0.2.0"
    order = 40
    options: Options = {"paths": {"type": "list", "elements": "str", "required": True}}
    captured_at_rest = True
    exchanges_trees = True
    keeps_data_outside = True

    def check(self, spec: Spec) -> dict[str, object]:
        return {"paths": _checked(read(self.options, spec, self.name)["paths"])}

    def trees_as_a_whole(self, spec: Spec) -> list[str]:
        return list(spec["paths"])

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """A line for each subvolume, with its snapshot. A new snapshot is made where no kept snapshot equals the
        subvolume, but not for a Hasher."""
        for path in spec["paths"]:
            live = subvolume_at(path)
            if live is None or live.read_only:
                raise UsageError(
                    f"subvolumes: {path} is {'a read-only' if live else 'not the root of a btrfs'} subvolume (btrfs "
                    "subvolume show); declare the path as files"
                )
        return [_captured(path, sink, system) for path in spec["paths"]]

    def capture_for_undo(self, spec: Spec, sink: Sink, system: System, local_only: bool) -> list[str]:
        """As ``capture``, but ahead of a rollback: a path that is no subvolume does not stop the rollback, which
        keeps the path's files aside. Where the host goes back by itself, users' mounts over a path do not stop it
        either."""
        for path in spec["paths"] if local_only else ():
            uncover(os.fsencode(path), system)
        return [
            json_line.write("unrecorded", {"path": path})
            if subvolume_at(path) is None
            else _captured(path, sink, system)
            for path in spec["paths"]
        ]

    def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
        """Sentences on the snapshots; in check mode as well, where a snapshot is still to be made."""
        found = []
        for line in lines:
            with json_line.read(line) as (_word, one):
                found.append(
                    f"{one['path']} is kept as a snapshot on its own disk alone: replicas and restic do not carry it"
                )
                if has_quota(one["path"]):
                    found.append(
                        f"limits of quota groups on {one['path']} do not come back with it: a snapshot is a subvolume "
                        "of its own. Set them again after a rollback (btrfs qgroup limit)"
                    )
        return found

    def parts(self, lines: Sequence[str]) -> list[Sequence[str]]:
        return [[line] for line in lines]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """A step for each subvolume that differs from its snapshot, or for which a killed rollback left something to
        remove.

        Raises Damaged where a snapshot is missing, and Refused where a subvolume cannot be exchanged.
        """
        steps = []
        for record in _recorded(lines):
            path, problem = record["path"], _problem(record)
            if problem:
                raise Damaged(
                    f"subvolumes: {path} cannot be put back: {problem}. It was on the disk of the host that took the "
                    "checkpoint, and nowhere else; nothing was changed. Mount its file system, or leave subvolumes "
                    "out of this rollback (resources)"
                )
            if at.unattended:
                uncover(os.fsencode(path), at.system)
            _refuse(path, at.system)
            kept, live = subvolume_at(_kept(record)), synced(path)
            if kept is None or live is None or live.read_only or not same(kept, live):
                there = (
                    "changed since" if live is not None else "is no subvolume" if os.path.lexists(path) else "missing"
                )
                steps.append(
                    Step("subvolumes", "exchange" if os.path.lexists(path) else "create", path, there, dict(record))
                )
            elif os.path.lexists(_aside(path)):
                steps.append(
                    Step("subvolumes", "finish", path, "an earlier rollback of it was interrupted", dict(record))
                )
        return steps

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        """Carry out all steps; the result is durable on return. RestoreFailed names the steps that failed, with
        reasons.

        The detail of a step that was done has ``held``: the processes that had the replaced subvolume mounted in a
        mount namespace of their own, and have lost it.
        """
        done: list[Step] = []
        left = []
        for step in steps:
            try:
                held = mounted_elsewhere(os.fsencode(step.target))
                _put_back(step, at.system)
                done.append(replace(step, detail={"held": held}))
            except (EvenkeelError, OSError) as error:
                left.append(f"{step.target}: {error}")
        if left:
            shown = [one.shown() for one in done]
            raise RestoreFailed(f"subvolumes are not as they were: {'; '.join(left)}", done=shown, left=left)
        return done

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        wrong = []
        for record in _recorded(lines):
            kept, live = subvolume_at(_kept(record)), subvolume_at(record["path"])
            if live is None:
                wrong.append(f"{record['path']} is no subvolume")
            elif live.parent != record["uuid"] and (kept is None or kept.parent != live.uuid):
                wrong.append(f"{record['path']} is not what {record['snapshot']} holds")
        return wrong

    def exchanged(self, steps: Sequence[Step]) -> dict[str, Processes]:
        return {step.target: step.detail["held"] for step in steps if step.resource == self.name}

    def former_path(self, shown: bytes, trees: Collection[str]) -> bytes | None:
        for target in trees:
            aside = os.fsencode(_aside(target))
            if shown.startswith((aside + b"/", aside + b" ")):  # A deleted subvolume's name ends in " (deleted)".
                return os.fsencode(target) + shown[len(aside) :].partition(b" (deleted)")[0]
        return None

    def missing_data(self, lines: Sequence[str]) -> dict[str, str]:
        problems = {record["path"]: _problem(record) for record in map(_record_of, lines) if record is not None}
        return {path: problem for path, problem in problems.items() if problem}

    def forget(self, store: str, system: System, stay: Sequence[str], go: Sequence[str]) -> None:
        """Delete the snapshots of this store that no line of ``stay`` names, in all directories with a snapshot of
        any line.

        Raises Refused where btrfs does not delete a snapshot.
        """
        needed = {_kept(record) for record in map(_record_of, stay) if record is not None}
        named = {_kept(record) for record in map(_record_of, go) if record is not None} | needed
        for folder in sorted({os.path.dirname(one) for one in named}):
            for name in sorted(os.listdir(folder)) if _is_ours(folder) else []:
                path = os.path.join(folder, name)
                if (
                    re.fullmatch(_NAME, name)
                    and name.startswith(tag(store))
                    and path not in needed
                    and subvolume_at(path)
                ):
                    delete(path, system)

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> list[str]:
        known = {path for one in declared for path in one["paths"]}
        found = set(spec["paths"])
        for line in lines:
            with json_line.read(line) as (_word, record):
                found.add(record["path"])
        return sorted(found - known)


def _checked(paths: Sequence[str]) -> list[str]:
    """The paths in order. Raises UsageError for a path that cannot be exchanged. Does not look at the host."""
    for path in paths:
        if check_path(os.fsencode(path)) == b"/":
            raise UsageError("subvolumes: / is always mounted, and cannot be exchanged; name a subvolume below it")
    return sorted(set(paths))


def _folder(path: str) -> str:
    return os.path.join(os.path.dirname(path), _FOLDER)


def _aside(path: str) -> str:
    """The path at which a rollback stages the new subvolume, and finds the old subvolume after the exchange."""
    return os.path.join(_folder(path), f"replaced-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}")


def _stamp(system: System) -> str:
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(system.now()))}-{secrets.token_hex(4)}"


def _is_ours(folder: str) -> bool:
    """Whether the directory is there, and belongs to root alone."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not stat.S_IMODE(found.st_mode) & 0o077


def _refuse(path: str, system: System) -> None:
    """Raise Refused where the subvolume at the path cannot be exchanged, or where others could put something in its
    way."""
    for one in ancestors(os.fsencode(path)):
        found = os.stat(one)
        if found.st_uid != 0 or (found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX):
            raise Refused(
                f"subvolumes: {os.fsdecode(one)}, above {path}, can be written to by others than root, who could put "
                "something else in its place; nothing was changed. Make it root's alone, or declare the path as files"
            )
    if os.path.lexists(_folder(path)) and not _is_ours(_folder(path)):
        raise Refused(
            f"subvolumes: {_folder(path)} is not a directory that belongs to root alone (mode 0700); nothing was "
            "changed. See what it is, and move it away or mend its owner and mode"
        )
    held = sorted(mounted(os.fsencode(path)))
    if held:
        raise Refused(
            f"subvolumes: {path} is mounted, or has a mount below it, at {', '.join(held)}, and a rollback could not "
            "exchange it; nothing was changed. Unmount that, and use it where it lies below a mount of its file system "
            "(mount -o subvolid=5), or declare the path as files"
        )
    nested = btrfs(system, "subvolume", "list", "-o", path).splitlines() if subvolume_at(path) is not None else []
    if nested:
        raise Refused(
            f"subvolumes: {path} holds {len(nested)} subvolumes, which its snapshots would leave out, for example "
            f"{nested[0].partition(' path ')[2]}; nothing was changed. Move them beside it, or declare it as files"
        )


def _captured(path: str, sink: Sink, system: System) -> str:
    folder, store = _folder(path), sink.objects.root if sink.objects is not None else "/"
    if within(os.fsencode(os.path.realpath(store)), os.fsencode(path)):
        raise UsageError(f"subvolumes: the store {store} lies in {path}, and would be rolled back with it; use another")
    _refuse(path, system)
    live = synced(path)
    for name in sorted(os.listdir(folder) if os.path.isdir(folder) else [], reverse=True):
        kept = (
            subvolume_at(os.path.join(folder, name))
            if re.fullmatch(_NAME, name) and name.startswith(tag(store))
            else None
        )
        if kept is not None and live is not None and kept.read_only and same(kept, live):
            return _record(path, name, kept)
    if isinstance(sink, Hasher):
        return json_line.write("subvolume", {"path": path, "snapshot": "to be made"})
    ensure_dir(folder)
    name = f"{tag(store)}-{_stamp(system)}"
    btrfs(system, "subvolume", "snapshot", "-r", path, os.path.join(folder, name))
    kept = subvolume_at(os.path.join(folder, name))
    if kept is None or live is None or not kept.read_only or kept.parent != live.uuid:
        raise Refused(f"subvolumes: {folder}/{name} is not the snapshot of {path} that was to be made; run again")
    return _record(path, name, kept)


def _record(path: str, name: str, kept: Subvolume) -> str:
    return json_line.write(
        "subvolume", {"path": path, "snapshot": name, "transaction": kept.changed, "uuid": kept.uuid}
    )


def _recorded(lines: Sequence[str]) -> list[Snapshot]:
    """The records of the lines; Damaged where ``capture`` cannot have written a line, Refused where a path was no
    subvolume."""
    import uuid

    found: list[Snapshot] = []
    for line in lines:
        with json_line.read(line) as (word, one):
            if word == "unrecorded":
                raise Refused(
                    f"subvolumes: {one['path']} was no subvolume then; nothing was changed. The former content, "
                    f"if any, is below {_folder(one['path'])} as kept-…; leave subvolumes out of this rollback "
                    "(resources), or put it back by hand"
                )
            good = (
                word == "subvolume"
                and _checked([one["path"]])
                and re.fullmatch(_NAME, one["snapshot"])
                and str(uuid.UUID(one["uuid"])) == one["uuid"]
                and isinstance(one["transaction"], int)
            )
            if not good:
                raise ValueError("not a snapshot of ours")
            found.append(cast(Snapshot, one))
    return found


def _kept(record: Snapshot) -> str:
    return os.path.join(_folder(record["path"]), record["snapshot"])


def _problem(record: Snapshot) -> str:
    """The fault of the snapshot, in words; empty where it has none."""
    try:
        kept = subvolume_at(_kept(record))
    except (UsageError, OSError) as error:
        return f"its snapshot is not at {_kept(record)}: {error}"
    if kept is None or kept.uuid != record["uuid"]:
        return f"its snapshot is not at {_kept(record)}"
    if not kept.read_only or kept.changed != record["transaction"]:
        return f"its snapshot {_kept(record)} was changed"
    return ""


def _put_back(step: Step, system: System) -> None:
    record, path, aside = cast(Snapshot, step.detail), step.target, _aside(step.target)
    _clear(aside, system)
    if step.action == "finish":
        return
    btrfs(system, "subvolume", "snapshot", _kept(record), aside)
    made = subvolume_at(aside)
    if made is None or made.parent != record["uuid"] or made.changed != record["transaction"]:
        raise Refused(f"{aside} is not what the snapshot {record['snapshot']} holds; run the rollback again")
    live = subvolume_at(path)
    if live is not None and live.read_only:
        btrfs(system, "property", "set", "-ts", path, "ro", "false")  # A read-only name could not be exchanged.
    with opened(os.path.dirname(aside)) as folder, opened(os.path.dirname(path)) as parent:
        names = os.fsencode(os.path.basename(aside)), os.fsencode(os.path.basename(path))
        if os.path.lexists(path):
            exchange(folder, names[0], parent, names[1])
        else:
            os.rename(names[0], names[1], src_dir_fd=folder, dst_dir_fd=parent)
        syncfs(parent)
    live = subvolume_at(path)
    if live is None or live.uuid != made.uuid:
        raise Refused("something else took its place at the same time; run the rollback again")
    _clear(aside, system)


def _clear(aside: str, system: System) -> None:
    """Delete the subvolume that lies there: the undo has a snapshot of it. Anything else has no snapshot, and is
    kept."""
    if subvolume_at(aside) is not None:
        delete(aside, system)
    elif os.path.lexists(aside):
        os.rename(aside, os.path.join(os.path.dirname(aside), f"kept-{_stamp(system)}"))


def _record_of(line: str) -> Snapshot | None:
    """The record of a line; None for a line that names no snapshot of ours."""
    try:
        return _recorded([line])[0]
    except EvenkeelError:
        return None
