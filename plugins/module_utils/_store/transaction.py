# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing a set of paths so that a kill or a power cut leaves all of them old, or all of them new.

1. Everything new is staged, whole and with its final attributes, in a private directory on the same file system.
2. The plan is written to the journal, all of it is synced, then the journal's COMMIT decides.
3. Each path is renamed into place, what goes is renamed to the trash; directories get their attributes last, and
   after them what shall be immutable or append-only becomes so: with that flag on, none of this could be done.
4. Synced again. ``close`` removes the journal and the staging directories, once all that follows is done too.

Before COMMIT nothing live has changed and what is left is thrown away. After it ``unfinished`` carries on, in any
process, as often as needed: every operation first looks whether it has been done.

Which paths can go back is settled before COMMIT. One that fails all the same is named, and holds nothing else up: it is
planned anew when the rollback is run again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Callable

from .._errors import Damaged, EvenkeelError, Refused, UsageError
from .._resources.entry import ABOVE, EARLY, FLAGS, FORMATS, PINNED, Entry
from .._resources.step import Step
from .durable import (
    clone,
    ensure_dir,
    exchange,
    fsync_dir,
    inode_flags,
    project,
    remove_file,
    set_inode_flags,
    syncfs,
    write_all,
    write_file,
)
from .preflight import NO_ROOM, below, preflight
from .store import Store
from .tree import Parents, ancestors, mount_points, open_dir, opened

# How the name of a staging directory begins; the name of its journal follows.
STAGE = ".evenkeel-"
# What exchanging two names says where the file system cannot.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


# A disk that is full, for everybody or for one user.
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Finished:
    """A committed journal: what it is for, the paths it has put back, and those that it could not: path -> why."""

    journal: str
    note: dict[str, Any]
    paths: list[str]
    left: dict[str, str]


class Transaction:
    """Puts back the steps of ``files.compare``: ``stage``, then ``commit``, and at the end of a ``with`` all of its
    traces go."""

    def __init__(self, store: Store, note: dict[str, Any]) -> None:
        self.journal = ""
        self._store = store
        self._note = note
        self._plan: dict[str, Any] | None = None
        self._staged: tuple[Sequence[Step], Sequence[str]] = ((), ())
        self._left: dict[str, str] = {}
        self._committing = False

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._committing:
            self._discard()

    def stage(
        self,
        steps: Sequence[Step],
        directories: Sequence[str],
        away: Mapping[str, str] | None = None,
        partly: bool = False,
    ) -> dict[str, str]:
        """Make ready what can be put back, in the place of what else was staged before; target -> why of the others.

        ``away``: mount points that are not as they were (see ``preflight``). Raises Refused or Damaged, with nothing
        changed, where there is no room or the store is damaged; ``partly``: the paths in question are left out then.
        """
        if (steps, directories) == self._staged:
            return self._left
        self._discard()
        self._left = {}
        if not steps:
            return {}
        with _nothing_changed():
            left = preflight(steps, directories, away or {})
            short = [f"{path}: {why}" for path, why in left.items() if why.startswith(NO_ROOM)]
            if short and not partly:
                raise Refused(f"{'; '.join(short[:5])}; nothing was changed. Make room, then run again")
            chosen = [step for step in steps if step.target not in left]
            if chosen:
                ensure_dir(self._store.join("journal"))
                self.journal = self._store.join("journal", f"{int(self._store.system.now() * 1000):015d}-{os.getpid()}")
                ensure_dir(self.journal)
                made = _Staging(self._store, self.journal, partly)
                self._plan = made.plan(chosen, directories, self._note)
                left.update(made.left)
        self._staged, self._left = (steps, directories), left
        return left

    def commit(self) -> Finished:
        """Carry out what was staged."""
        if self._plan is None:
            return Finished(self.journal, self._note, [], {})
        self._committing = True  # What ends this in the middle leaves it to the next run.
        write_file(os.path.join(self.journal, "COMMIT"), b"")
        try:
            finished = _apply(self.journal, self._plan)
        except (OSError, EvenkeelError):
            self._committing = False  # It is told, and planned anew; carried out later it would undo what came since.
            raise
        self._committing = False
        return finished

    def _discard(self) -> None:
        if self.journal and os.path.isdir(self.journal):
            close(self.journal)
        self._plan, self._staged = None, ((), ())


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """Until COMMIT an error of the system is a refusal: nothing live was touched."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"what is to be put back could not be staged: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; nothing was changed. Mend the cause, then run again"
        ) from error


def unfinished(
    store: Store, held: Callable[[dict[str, Any]], AbstractContextManager[None]] = lambda _note: nullcontext()
) -> Iterator[Finished]:
    """Carry out every committed journal and close it; throw away the others.

    ``held`` gives what to hold meanwhile, by what the journal is for. What follows the paths is to be asked for
    elsewhere before a journal is committed: it is not tried a second time.
    """
    for journal in pending(store):
        if os.path.exists(os.path.join(journal, "COMMIT")):
            with open(os.path.join(journal, "plan")) as stream:
                plan = json.load(stream)
            try:
                with held(plan["note"]):
                    finished = _apply(journal, plan)
            except (OSError, EvenkeelError):
                close(journal)  # It is told. Nothing else waits for it, and nothing of it comes back later.
                raise
            yield finished
        close(journal)


def close(journal: str) -> None:
    """Remove the journal and its staging directories; a kill in between leaves the journal to be dropped again.

    COMMIT goes first, durably: all it stood for has been done, and must not be done again to what comes later.
    """
    remove_file(os.path.join(journal, "COMMIT"))
    try:
        with open(os.path.join(journal, "anchors")) as stream:
            anchors = json.load(stream)
    except FileNotFoundError:
        anchors = []
    whole = True
    for path in anchors:
        if not os.path.basename(path).startswith(STAGE):
            continue
        parent = os.path.dirname(path)
        try:
            before = os.stat(parent).st_mtime_ns
            # What could not be removed keeps its journal: the next run tries again.
            whole = _remove(path) and whole
            # The directory may be a declared one (the top of a mount): our coming and going is no change to it.
            _set_mtime(parent, before)
            # Gone for good before the journal is, which alone knows of it.
            fsync_dir(parent)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # A mount that is dead, or a way there that is none any more: nothing else waits for it.
            whole = False
    if whole:
        shutil.rmtree(journal)
        fsync_dir(os.path.dirname(journal))


def _remove(path: str) -> bool:
    """Remove a staging directory with all that was moved into it, immutable things among it; whether it is gone."""
    with suppress(RecursionError):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        with suppress(OSError, UsageError):
            fd = open_dir(os.fsencode(path))
            try:
                _flatten(fd)
                os.rmdir(path)
            finally:
                os.close(fd)
    return not os.path.lexists(path)


def _flatten(top: int) -> None:
    """Empty the open directory, however deep it is: each directory in it comes up to it first, and goes then."""
    count = 0
    todo = os.listdir(top)
    while todo:
        name = os.fsencode(todo.pop())
        with opened(top, name) as found:
            if found is not None:
                set_inode_flags(found, 0, PINNED)
            if found is None or not stat.S_ISDIR(os.fstat(found).st_mode):
                os.unlink(name, dir_fd=top)
                continue
            for below in os.listdir(found):
                inner = os.fsencode(below)
                with opened(found, inner) as target:
                    if target is not None:
                        set_inode_flags(target, 0, PINNED)
                    if target is None or not stat.S_ISDIR(os.fstat(target).st_mode):
                        os.unlink(inner, dir_fd=found)
                        continue
                count += 1
                up = b"up-%d-%d" % (os.getpid(), count)
                os.rename(inner, up, src_dir_fd=found, dst_dir_fd=top)
                todo.append(os.fsdecode(up))
        os.rmdir(name, dir_fd=top)


def _set_mtime(path: str, mtime: int) -> None:
    try:
        os.utime(path, ns=(mtime, mtime))
    except PermissionError:
        return  # Not ours: then it is none that we were asked to put back.


def pending(store: Store) -> list[str]:
    """The folders of unfinished journals, oldest first."""
    folder = store.join("journal")
    return [os.path.join(folder, one) for one in sorted(os.listdir(folder))] if os.path.isdir(folder) else []


# -- staging


class _Anchors:
    """One staging directory for each mount, as high up as we own the directories, so that a rename reaches."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.name = STAGE + os.path.basename(journal)
        self.paths: list[str] = []
        self._fds: list[int] = []
        self._of: dict[bytes, int] = {}
        self._mounts = sorted(mount_points(), key=len, reverse=True)

    def of(self, path: bytes, created: set[bytes]) -> int:
        """The number of the staging directory for what will be at ``path``."""
        parent = os.path.dirname(path)
        while parent in created:
            parent = os.path.dirname(parent)
        if parent not in self._of:
            place = os.fsdecode(self._highest(parent)).rstrip("/") + "/" + self.name
            if place not in self.paths:
                above = os.path.dirname(place)
                self.paths.append(place)
                # Known to the journal before it exists, so that it is found after a kill.
                write_file(os.path.join(self.journal, "anchors"), json.dumps(self.paths).encode())
                try:
                    before = os.stat(above).st_mtime_ns
                    os.mkdir(place, 0o700)
                    _set_mtime(above, before)
                    self._fds.append(open_dir(os.fsencode(place)))
                except (OSError, UsageError):
                    self.paths.pop()  # Each of the others keeps its number.
                    with suppress(OSError):
                        os.rmdir(place)
                    raise
            self._of[parent] = self.paths.index(place)
        return self._of[parent]

    def fd(self, number: int) -> int:
        return self._fds[number]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _highest(self, parent: bytes) -> bytes:
        fd = open_dir(parent)
        os.close(fd)
        device, quota = os.lstat(parent).st_dev, _project(parent)
        mount = next(one for one in self._mounts if (parent + b"/").startswith(one.rstrip(b"/") + b"/"))
        usable: list[bytes] = []
        for above in [*ancestors(parent + b"/"), parent]:
            info = os.lstat(above)
            inside = (above + b"/").startswith(mount.rstrip(b"/") + b"/")
            near = inside and info.st_dev == device and _project(above) == quota
            if near and os.access(above, os.W_OK | os.X_OK) and not _append_only(above):
                # Best where nobody else can rename the staging directory away. It is checked again when it is used.
                if info.st_uid == os.geteuid() and (not info.st_mode & 0o022 or info.st_mode & stat.S_ISVTX):
                    return above
                usable.append(above)
        if usable:
            return usable[0]
        raise Refused(
            f"there is no place to stage a rollback for {os.fsdecode(parent)}: this user can write neither to it "
            "nor to a directory above it on the same file system and of the same project"
        )


def _project(path: bytes) -> int:
    """The project whose quota the directory belongs to: nothing is renamed from one into another."""
    fd = open_dir(path)
    try:
        return project(fd)
    finally:
        os.close(fd)


def _append_only(path: bytes) -> bool:
    """Whether names can come but not go (an immutable directory is not writable in the first place)."""
    fd = open_dir(path)
    try:
        return bool(inode_flags(fd) & PINNED)
    finally:
        os.close(fd)


class _Staging:
    """Everything new, made ready in the staging directories. ``left``: target -> why, of what could not be.

    ``partly``: what the store cannot give back, or what the disk has no room for, is left out as well.
    """

    def __init__(self, store: Store, journal: str, partly: bool) -> None:
        self.left: dict[str, str] = {}
        self._store = store
        self._journal = journal
        self._partly = partly
        self._anchors = _Anchors(journal)
        self._staged: dict[bytes, tuple[int, bytes]] = {}
        self._damaged: list[str] = []

    def plan(self, steps: Sequence[Step], directories: Sequence[str], note: dict[str, Any]) -> dict[str, Any]:
        """What to carry out after COMMIT; written to the journal, and all of it is durable."""
        created = {os.fsencode(step.target) for step in steps if step.detail["op"] in ("put", "swap")}
        planned = []
        try:
            for number, step in enumerate(steps):
                try:
                    planned.append(self._ready(step, number, created))
                except Damaged as error:
                    self._damaged.append(f"{step.target}: {error.cause}")
                    self.left[step.target] = error.cause
                except OSError as error:
                    if error.errno in _FULL and not self._partly:
                        error.filename = step.target
                        raise
                    self.left[step.target] = error.strerror or str(error)
                except EvenkeelError as error:
                    self.left[step.target] = error.cause
            if self._damaged and not self._partly:
                raise Damaged(
                    f"the store cannot give back {len(self._damaged)} of the paths; nothing was changed. "
                    f"Recover the checkpoint from a replica (ft_recover). {'; '.join(self._damaged[:20])}"
                )
            for number in range(len(self._anchors.paths)):
                syncfs(self._anchors.fd(number))
        finally:
            self._anchors.close()
        self.left.update(below(steps, self.left))
        missing = {os.fsencode(one) for one in self.left}
        lines = [Entry.parse(step.detail["line"]) for step in steps if "line" in step.detail]
        pins = [[one.path.hex(), one.flags & PINNED] for one in lines if one.type == "f" and one.flags & PINNED]
        plan = {
            "note": note,
            "anchors": self._anchors.paths,
            "steps": [one for one in planned if bytes.fromhex(one["path"]) not in missing],
            "directories": [line for line in directories if Entry.parse(line).path not in missing],
            "pins": [pin for pin in pins if bytes.fromhex(str(pin[0])) not in missing],
        }
        write_file(os.path.join(self._journal, "plan"), json.dumps(plan).encode())
        return plan

    def _ready(self, step: Step, number: int, created: set[bytes]) -> dict[str, Any]:
        op, path = step.detail["op"], os.fsencode(step.target)
        one: dict[str, Any] = {"op": op, "path": path.hex(), "name": str(number)}
        if op == "meta":
            return dict(one, line=step.detail["line"])
        one["anchor"] = self._anchors.of(path, created)
        if op != "delete":
            fd, name = self._anchors.fd(one["anchor"]), str(number).encode()
            folders = []
            entry = Entry.parse(step.detail["line"])
            for part in [entry, *map(Entry.parse, step.detail.get("tree", ()))]:
                where = name + part.path[len(path) :]
                try:
                    _make(self._store, part, fd, where, self._staged)
                except Damaged:
                    if part.sha256:
                        self._store.quarantine(part.sha256)
                    raise
                self._staged[part.path] = (fd, where)
                if part.type == "d":
                    folders.append((part, where))
            if "tree" in step.detail:
                _check_exchange(fd, step.target)
                _finish_folders(folders, fd)
            one["ino"] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
        return one


def _check_exchange(stage: int, path: str) -> None:
    """Refused where the file system cannot exchange two names: a directory would be gone for a moment (I4)."""
    names = (b"one", b"other")
    for name in names:
        os.mkdir(name, 0o700, dir_fd=stage)
    try:
        exchange(stage, names[0], stage, names[1])
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        raise Refused(
            f"the file system of {path} cannot exchange directories atomically; nothing was changed. "
            "Roll back with strategy paths"
        ) from error
    finally:
        for name in names:
            os.rmdir(name, dir_fd=stage)


def _finish_folders(folders: Sequence[tuple[Entry, bytes]], stage: int) -> None:
    """Attributes of the directories of a whole staged tree, from the leaves up, as nothing comes or goes any more."""
    for entry, where in reversed(folders):
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage)
        try:
            attributes(entry, fd)
            set_inode_flags(fd, entry.flags, FLAGS)
        finally:
            os.close(fd)


def _make(store: Store, entry: Entry, fd: int, name: bytes, staged: dict[bytes, tuple[int, bytes]]) -> None:
    """The object of the entry, complete, under ``name`` in the staging directory."""
    if entry.link in staged:
        source, first = staged[entry.link]
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    if entry.type == "f":
        target = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            if entry.flags & EARLY:
                set_inode_flags(target, entry.flags, EARLY)
            _fill(store, entry, target)
            attributes(entry, target)
            set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
        finally:
            os.close(target)
        return
    if entry.type == "l":
        os.symlink(entry.target, name, dir_fd=fd)
    elif entry.type in ("d", ABOVE):
        os.mkdir(name, 0o700, dir_fd=fd)
    else:
        os.mknod(name, FORMATS[entry.type] | 0o600, entry.rdev, dir_fd=fd)
    if entry.type in ("d", ABOVE) and os.geteuid() != 0:
        entry = entry._replace(mode=entry.mode | 0o700)  # To be filled; its own mode comes at the end.
    attributes(entry, fd, name)


def _fill(store: Store, entry: Entry, target: int) -> None:
    """The content, verified while it is written. Cloned where the file system can, with the copy verified."""
    source = store.objects.loose_stream(entry.sha256)
    if source is not None:
        with source:
            if clone(source.fileno(), target):
                problem = store.objects.verify(entry.sha256)
                if problem:
                    raise Damaged(problem)
                return
    for chunk in store.objects.read(entry.sha256):
        if entry.sparse and chunk.count(0) == len(chunk):
            os.lseek(target, len(chunk), os.SEEK_CUR)
        elif entry.sparse:
            for at in range(0, len(chunk), 4096):
                block = chunk[at : at + 4096]
                if block.count(0) == len(block):
                    os.lseek(target, len(block), os.SEEK_CUR)
                else:
                    write_all(target, block)
        else:
            write_all(target, chunk)
    os.ftruncate(target, entry.size)


def attributes(entry: Entry, fd: int, name: bytes | None = None) -> None:
    """Owner, mode, xattrs and times of the open file ``fd``, or of ``name`` in the open directory ``fd``.

    Owner first (it takes setuid bits and capabilities off), times last. ``name`` is never followed.
    """
    where: Any = fd if name is None else f"/proc/self/fd/{fd}/".encode() + name
    follow = name is None
    info = os.stat(where, follow_symlinks=follow)
    if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
        os.chown(where, entry.uid, entry.gid, follow_symlinks=follow)
    present = set()
    try:
        present = set(os.listxattr(where, follow_symlinks=follow))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    if entry.type != "l":
        os.chmod(where, entry.mode)
    for key in present - {key for key, _value in entry.xattrs}:
        if not key.startswith("security."):  # A label of the system's own, given to every new file.
            os.removexattr(where, key, follow_symlinks=follow)
    for key, value in entry.xattrs:
        os.setxattr(where, key, value, follow_symlinks=follow)
    if entry.type != ABOVE:
        os.utime(where, ns=(entry.mtime, entry.mtime), follow_symlinks=follow)


# -- after COMMIT


def _apply(journal: str, plan: dict[str, Any]) -> Finished:
    anchors: list[int | None] = []
    doubtful: dict[bytes, str] = {}
    folders = [Entry.parse(line) for line in plan["directories"]]
    ours = {entry.path for entry in folders}
    try:
        for anchor in plan["anchors"]:
            anchors.append(_own(anchor))
        touched: set[bytes] = set()
        in_place: list[bytes] = []
        with Parents() as parents:
            for step in plan["steps"]:
                path = bytes.fromhex(step["path"])
                with _noting(doubtful, path):
                    try:
                        _do(step, path, anchors, parents)
                    except PermissionError:
                        _unpin(path, parents, ours)
                        _do(step, path, anchors, parents)
                    if step["op"] == "meta":
                        in_place.append(path)
                    else:
                        touched.add(os.path.dirname(path))
            parents.forget()
            for entry in folders:
                with _noting(doubtful, entry.path):
                    fd = open_dir(entry.path)
                    try:
                        set_inode_flags(fd, 0, PINNED)
                        attributes(entry, fd)
                        if entry.type == "d":
                            set_inode_flags(fd, entry.flags, FLAGS)
                    finally:
                        os.close(fd)
                    in_place.append(entry.path)
            for path, flags in ((bytes.fromhex(path), flags) for path, flags in plan.get("pins", ())):
                with _noting(doubtful, path):
                    fd, name = parents.of(path)
                    with opened(fd, name) as target:
                        if target is not None:
                            # Where it cannot be set, the proof says so.
                            set_inode_flags(target, flags, PINNED)
                    in_place.append(path)
        _sync([fd for fd in anchors if fd is not None], touched, in_place)
    finally:
        for held in anchors:
            if held is not None:
                os.close(held)
    done = [bytes.fromhex(step["path"]) for step in plan["steps"]]
    left = {os.fsdecode(path): why for path, why in doubtful.items()}
    return Finished(journal, plan["note"], [os.fsdecode(path) for path in done if path not in doubtful], left)


@contextmanager
def _noting(doubtful: dict[bytes, str], path: bytes) -> Iterator[None]:
    """What keeps one path from being put back is noted, and does not keep the others."""
    try:
        yield
    except OSError as error:
        doubtful.setdefault(path, error.strerror or str(error))
    except UsageError as error:  # It leads through a symlink by now.
        doubtful.setdefault(path, error.cause)


def _own(path: str) -> int | None:
    """The staging directory, if it is there and still ours alone."""
    try:
        fd = open_dir(os.fsencode(path))
    except (OSError, UsageError):
        return None
    info = os.fstat(fd)
    if info.st_uid != os.geteuid() or info.st_mode & 0o077:
        os.close(fd)
        return None
    return fd


def _do(step: dict[str, Any], path: bytes, anchors: Sequence[int | None], parents: Parents) -> None:
    """One operation, if it has not been done yet."""
    op, staged = step["op"], step["name"].encode()
    fd, name = parents.of(path)
    if op == "meta":
        entry = Entry.parse(step["line"])
        if entry.type == "d":
            return  # With the other directories, at the end.
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)
        with opened(fd, name) as target:
            if target is not None:
                set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
        return
    stage = anchors[step["anchor"]]
    if stage is None:
        raise OSError(errno.ENOENT, "what was staged for it is gone, or is not ours any more")
    if op == "put" and _inode(stage, staged) == step["ino"]:
        os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)
    elif op == "swap" and _inode(fd, name) != step["ino"]:
        parents.forget()
        fd, name = parents.of(path)
        try:
            exchange(stage, staged, fd, name)
        except OSError as error:
            # Gone already: by a kill between these two, or by somebody else since it was staged.
            gone = _inode(fd, name) is None
            if error.errno not in _NO_EXCHANGE and not (gone and error.errno == errno.ENOENT):
                raise
            if not gone:
                _put_aside(fd, name, stage, staged + b".old")
            os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)
    elif op == "delete" and _inode(stage, staged) is None:
        try:
            _put_aside(fd, name, stage, staged)
        except FileNotFoundError:
            return


def _put_aside(fd: int, name: bytes, stage: int, aside: bytes) -> None:
    """Move what goes to the staging directory. A directory of a lower layer of an overlay cannot be moved as a whole:
    it is emptied, and goes."""
    try:
        os.rename(name, aside, src_dir_fd=fd, dst_dir_fd=stage)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            raise
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            for _path, folders, names, inner in os.fwalk(b".", topdown=False, dir_fd=folder):
                for one in names:
                    os.unlink(one, dir_fd=inner)
                for one in folders:
                    _rmdir(one, inner)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=fd)


def _rmdir(name: bytes, fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except NotADirectoryError:  # A symlink to one.
        os.unlink(name, dir_fd=fd)


def _unpin(path: bytes, parents: Parents, ours: set[bytes]) -> None:
    """Take immutable and append-only off the path, and off its directory if that gets its own flags at the end."""
    fd, name = parents.of(path)
    if os.path.dirname(path) in ours:
        set_inode_flags(fd, 0, PINNED)
    with opened(fd, name) as target:
        if target is not None:
            set_inode_flags(target, 0, PINNED)


def _inode(fd: int, name: bytes) -> int | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def _sync(anchors: list[int], touched: set[bytes], in_place: list[bytes]) -> None:
    """Make it durable: the directories of the renames, and what got other attributes where it was."""
    many = len(touched) + len(in_place) > 16
    synced: set[int] = set()
    for fd in anchors if many else ():
        syncfs(fd)
        synced.add(os.fstat(fd).st_dev)
    with Parents() as parents:
        # Where something was renamed there is a staging directory; where only attributes were set there may be none.
        for path in in_place if many else sorted({*touched, *in_place}):
            try:
                fd, name = parents.of(path)
                with opened(fd, name or b".") as target:
                    # Of a symlink, a FIFO or a device what can be synced is the directory that it is in.
                    found = fd if target is None else target
                    if not many:
                        os.fsync(found)
                    elif os.fstat(found).st_dev not in synced:
                        syncfs(found)
                        synced.add(os.fstat(found).st_dev)
            except (FileNotFoundError, NotADirectoryError, UsageError):
                continue  # Deleted by a later step; its parent is among the touched. Or led elsewhere by somebody.
