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

Others may own the trees, and give one directory the name of another at any moment. So directories are known by their
inode, from the look at them on: each is compared when it is opened again, attributes are set on what is open, and what
goes is looked at once more when nobody else can reach it any more, and given back where it is another. A staging
directory is ours, for us alone and empty when it is opened; what it holds nobody else can exchange.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Callable, NamedTuple

from .._errors import Damaged, EvenkeelError, Refused, UsageError
from .._host.durable import (
    clone,
    ensure_dir,
    exchange,
    fsync_dir,
    inode_flags,
    project,
    remove_file,
    rename_new,
    set_inode_flags,
    syncfs,
    write_all,
    write_file,
)
from .._host.paths import DIRECTORY, Parents, ancestors, is_ours, mount_of, mount_points, open_dir, opened
from .._store.store import Store
from .entry import ABOVE, EARLY, FLAGS, FORMATS, PINNED, Entry
from .preflight import NO_ROOM, below, preflight
from .step import Step

# What reading a plan that is none may raise.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
# How the name of a staging directory begins; the name of its journal follows.
STAGE = ".evenkeel-"
# What exchanging two names says where the file system cannot.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


# How deep what goes is removed as it stands: each level has a descriptor open.
_DEPTH = 200
# Names in the directory above among which a staging directory that was renamed is looked for.
_NAMES = 10_000
_ACL = "system.posix_acl_access"
_GONE = "what was staged for it is gone, or is not ours any more"

# A disk that is full, for everybody or for one user, and one that fails.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK = (*_FULL, errno.EIO, errno.EROFS)


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
                left = {**made.left, **left}
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
    first: Exception | None = None
    for journal in pending(store):
        if os.path.exists(os.path.join(journal, "COMMIT")):
            try:
                plan = _read(journal)
                with held(plan["note"]):
                    finished = _apply(journal, plan)
            except (OSError, EvenkeelError) as error:
                close(journal)  # It is told. Nothing else waits for it, and nothing of it comes back later.
                first = first or error
                continue
            except MALFORMED as error:
                close(journal)
                first = first or _unreadable(journal, f"{type(error).__name__}: {error}")
                continue
            yield finished
        close(journal)
    if first is not None:
        raise first


def _read(journal: str) -> dict[str, Any]:
    path = os.path.join(journal, "plan")
    try:
        with open(path) as stream:
            return dict(json.load(stream))
    except OSError as error:
        raise _unreadable(journal, str(error)) from error


def _unreadable(journal: str, why: str) -> Damaged:
    path = os.path.join(journal, "plan")
    return Damaged(f"the plan of an interrupted rollback, {path}, cannot be read: {why}; run the rollback again")


def close(journal: str) -> None:
    """Remove the journal and its staging directories; a kill in between leaves the journal to be dropped again.

    COMMIT goes first, durably: all it stood for has been done, and must not be done again to what comes later.
    """
    remove_file(os.path.join(journal, "COMMIT"))
    removed = [_remove(anchor) for anchor in _anchors_of(journal)]
    if all(removed):  # Otherwise the next run tries again.
        shutil.rmtree(journal)
        fsync_dir(os.path.dirname(journal))


class _Anchor(NamedTuple):
    """Where a staging directory is. ``inode``: which one it is; None where a kill came before that was known, and
    ``old`` where version 0.1.0 has written it, which did not."""

    path: str
    inode: int | None
    old: bool = False

    @classmethod
    def read(cls, one: Any) -> _Anchor:
        """Of what a journal holds; one of the errors in MALFORMED where that is damaged."""
        found = cls(one, None, True) if isinstance(one, str) else cls(str(one[0]), one[1])
        if b"\0" in os.fsencode(found.path) or not isinstance(found.inode, (int, type(None))):
            raise ValueError(f"no staging directory: {one!r}")
        return found

    def open(self, above: int) -> tuple[int, bytes] | None:
        """(descriptor, name) of it in the open directory that it was made in, whatever its name is by now; None where
        it is not there, or not for us alone."""
        name = os.fsencode(os.path.basename(self.path))
        found = self._opened(above, name)
        if found is None and self.inode is not None:
            with os.scandir(above) as names:
                renamed = [os.fsencode(one.name) for one in islice(names, _NAMES) if one.inode() == self.inode]
            name = renamed[0] if renamed else name
            found = self._opened(above, name) if renamed else None
        return None if found is None else (found, name)

    def _opened(self, above: int, name: bytes) -> int | None:
        try:
            fd = os.open(name, DIRECTORY, dir_fd=above)
        except OSError:
            return None
        info = os.fstat(fd)
        if not _for_us_alone(info, above) or self.inode not in (None, info.st_ino):
            os.close(fd)
            return None
        return fd


def _for_us_alone(info: os.stat_result, above: int) -> bool:
    """Whether a directory, made in the open one ``above``, can be entered by nobody else."""
    mine = info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) & 0o777 == 0o700
    return mine and info.st_dev == os.fstat(above).st_dev


def _anchors_of(journal: str) -> list[_Anchor]:
    found: list[_Anchor] = []
    # Where the file is damaged, what follows in it is not known.
    with suppress(FileNotFoundError, *MALFORMED), open(os.path.join(journal, "anchors")) as stream:
        for one in json.load(stream):
            found.append(_Anchor.read(one))
    return [one for one in found if os.path.basename(one.path).startswith(STAGE)]


def _remove(anchor: _Anchor) -> bool:
    """Remove a staging directory with all that was moved into it; whether nothing of it is left to be tried again.

    Another directory that has its name is none of ours, and stays.
    """
    try:
        above = open_dir(os.fsencode(os.path.dirname(anchor.path)))
    except (FileNotFoundError, NotADirectoryError, UsageError):
        return True
    except OSError:  # A mount that is dead: nothing else waits for it.
        return False
    try:
        whole = _remove_from(above, anchor)
        if whole:  # Gone for good before the journal is, which alone knows of it.
            os.fsync(above)
        return whole
    finally:
        os.close(above)


def _remove_from(above: int, anchor: _Anchor) -> bool:
    try:
        before = os.fstat(above)
        found = anchor.open(above)
        if found is None:
            return True
        fd, name = found
        try:
            # Of one that we have no more of than its name, only where nobody else can have given it that.
            if anchor.inode is not None or (anchor.old and is_ours(before.st_uid, before.st_mode)):
                _empty(fd, fd)
        finally:
            os.close(fd)
        try:
            os.rmdir(name, dir_fd=above)
        except OSError:
            return anchor.inode is None
        # The directory may be a declared one (the top of a mount): our coming and going is no change to it.
        _set_mtime(above, before.st_mtime_ns)
        return True
    except OSError:
        return False


def _empty(folder: int, top: int, depth: int = 0) -> None:
    """Empty the open directory, immutable things among it. What lies too deep comes up to ``top``, to go from there."""
    names = os.listdir(folder)
    while names:
        for name in map(os.fsencode, names):
            if _unlinked(folder, name):
                continue
            with opened(folder, name) as found:
                if found is None:
                    raise OSError(errno.EBUSY, "it cannot be removed", os.fsdecode(name))
                set_inode_flags(found, 0, PINNED)
                if depth < _DEPTH:
                    _empty(found, top, depth + 1)
                    os.rmdir(name, dir_fd=folder)
                    continue
            os.rename(name, b"up-%s" % secrets.token_hex(8).encode(), src_dir_fd=folder, dst_dir_fd=top)
        names = os.listdir(folder) if folder == top else []


def _unlinked(folder: int, name: bytes) -> bool:
    """Remove what is no directory; False for a directory."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    except PermissionError:
        with opened(folder, name) as found:
            if found is None:
                raise
            if stat.S_ISDIR(os.fstat(found).st_mode):
                return False
            set_inode_flags(folder, 0, PINNED)
            set_inode_flags(found, 0, PINNED)
        os.unlink(name, dir_fd=folder)
    return True


def _set_mtime(folder: int, mtime: int) -> None:
    try:
        os.utime(folder, ns=(mtime, mtime))
    except PermissionError:
        return  # Not ours: then it is none that we were asked to put back.


def pending(store: Store) -> list[str]:
    """The folders of unfinished journals, oldest first."""
    folder = store.join("journal")
    return [os.path.join(folder, one) for one in sorted(os.listdir(folder))] if os.path.isdir(folder) else []


def committed(store: Store) -> bool:
    """Whether a rollback was interrupted that has to be carried on. A journal without COMMIT asks for nothing."""
    return any(os.path.exists(os.path.join(journal, "COMMIT")) for journal in pending(store))


# -- which directory it is


class _Known:
    """Which inode each directory has that a rollback works in or on, and on which mount: to be compared whenever it is
    opened. (No number of a device: a boot may give others.)"""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.of = {bytes.fromhex(path): (int(inode), bytes.fromhex(mount)) for path, (inode, mount) in known.items()}
        self._mounts = set(mount_points())

    def note(self, path: bytes, inode: int) -> tuple[int, bytes]:
        self.of[path] = (inode, mount_of(path, self._mounts))
        return self.of[path]

    def shut(self, path: bytes) -> None:
        """Let no directory be the one that was meant."""
        self.of[path] = (-1, b"")

    def check(self, path: bytes, fd: int) -> None:
        """Raise OSError unless the open directory is the one that was meant."""
        if path in self.of and self.of[path] != (os.fstat(fd).st_ino, mount_of(path, self._mounts)):
            raise OSError(errno.ESTALE, _another(path))

    def open(self, path: bytes) -> int:
        fd = open_dir(path)
        try:
            self.check(path, fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def stored(self) -> dict[str, Any]:
        """As a journal keeps it."""
        return {path.hex(): [inode, mount.hex()] for path, (inode, mount) in self.of.items()}


def _another(path: bytes) -> str:
    return f"{os.fsdecode(path)} is another directory than the one that was looked at: somebody gave it that name since"


# -- staging


class _Anchors:
    """One staging directory for each mount, as high up as we own the directories, so that a rename reaches."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.name = STAGE + os.path.basename(journal)
        self.paths: list[str] = []
        self._inodes: list[int | None] = []
        self._fds: list[int] = []
        self._of: dict[bytes, int] = {}
        self._mounts = set(mount_points())

    def of(self, path: bytes, created: set[bytes]) -> int:
        """The number of the staging directory for what will be at ``path``."""
        parent = os.path.dirname(path)
        while parent in created:
            parent = os.path.dirname(parent)
        if parent not in self._of:
            place = os.fsdecode(self._highest(parent)).rstrip("/") + "/" + self.name
            if place not in self.paths:
                self.paths.append(place)
                self._inodes.append(None)
                # Known to the journal before it exists, so that it is found after a kill.
                self._write()
                try:
                    self._fds.append(self._make(place))
                except (OSError, EvenkeelError):
                    self.paths.pop()  # Each of the others keeps its number.
                    self._inodes.pop()
                    raise
            self._of[parent] = self.paths.index(place)
        return self._of[parent]

    def _write(self) -> None:
        write_file(os.path.join(self.journal, "anchors"), json.dumps(self.stored()).encode())

    def stored(self) -> list[Any]:
        """As a journal keeps them."""
        return [list(one) for one in zip(self.paths, self._inodes)]

    def _make(self, place: str) -> int:
        """A new directory, for us alone, that somebody else can have moved away by now but not entered."""
        above = open_dir(os.fsencode(os.path.dirname(place)))
        fd, kept = None, False
        try:
            before = os.fstat(above)
            os.mkdir(self.name, 0o700, dir_fd=above)
            _set_mtime(above, before.st_mtime_ns)
            fd = os.open(self.name, DIRECTORY, dir_fd=above)
            if _for_us_alone(os.fstat(fd), above) and not os.listdir(fd):
                self._inodes[-1] = os.fstat(fd).st_ino
                self._write()
                kept = True
                return fd
        finally:
            if not kept:
                if fd is not None:
                    os.close(fd)
                with suppress(OSError):
                    os.rmdir(self.name, dir_fd=above)
            os.close(above)
        raise Refused(
            f"somebody has put another directory in the place of {place}, where the rollback was to be staged. "
            f"Whoever owns {os.path.dirname(place)} (user {before.st_uid}) can do that; find out who, then run again"
        )

    def fd(self, number: int) -> int:
        return self._fds[number]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _highest(self, parent: bytes) -> bytes:
        fd = open_dir(parent)
        try:
            device, quota = os.fstat(fd).st_dev, project(fd)
        finally:
            os.close(fd)
        mount = mount_of(parent, self._mounts)
        usable: list[bytes] = []
        for above in [*ancestors(parent + b"/"), parent]:
            if not (above + b"/").startswith(mount.rstrip(b"/") + b"/"):
                continue
            fd = open_dir(above)
            try:
                info = os.fstat(fd)
                near = info.st_dev == device and project(fd) == quota
                # Immutable, it is not writable in the first place; append-only, names could come and not go.
                if near and os.access(b".", os.W_OK | os.X_OK, dir_fd=fd) and not inode_flags(fd) & PINNED:
                    # Best where nobody else can rename the staging directory.
                    if is_ours(info.st_uid, info.st_mode):
                        return above
                    usable.append(above)
            finally:
                os.close(fd)
        if usable:
            return usable[0]
        raise Refused(
            f"there is no place to stage a rollback for {os.fsdecode(parent)}: this user can write neither to it "
            "nor to a directory above it on the same file system and of the same project"
        )


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
        self._known = _Known({})
        self._names: dict[tuple[int, int, bytes], bytes] = {}
        self._closed: set[bytes] = set()
        self._staged: dict[bytes, tuple[int, bytes]] = {}
        self._damaged: list[str] = []

    def plan(self, steps: Sequence[Step], directories: Sequence[str], note: dict[str, Any]) -> dict[str, Any]:
        """What to carry out after COMMIT; written to the journal, and all of it is durable."""
        created = {os.fsencode(step.target) for step in steps if step.detail["op"] in ("put", "swap")}
        planned = []
        looked_at: dict[bytes, Any] = {}
        for step in steps:
            looked_at[os.path.dirname(os.fsencode(step.target))] = step.detail.get("folder")
        for step in steps:
            looked_at.setdefault(os.fsencode(step.target), step.detail.get("self"))
        parents = Parents(check=lambda path, fd: self._compare(path, fd, looked_at.get(path)))
        try:
            for number, step in enumerate(steps):
                try:
                    planned.append(self._ready(step, number, created, parents))
                except Damaged as error:
                    self._damaged.append(f"{step.target}: {error.cause}")
                    self.left[step.target] = error.cause
                except OSError as error:
                    if error.errno in _FULL and not self._partly:
                        error.filename = step.target
                        raise
                    self.left[step.target] = error.strerror or str(error)
                    if error.errno == errno.ESTALE:
                        self._closed.add(os.path.dirname(os.fsencode(step.target)))
                except EvenkeelError as error:
                    self.left[step.target] = error.cause
            if self._damaged and not self._partly:
                raise Damaged(
                    f"the store cannot give back {len(self._damaged)} of the paths; nothing was changed. "
                    f"Recover the checkpoint from a replica (ft_recover). {'; '.join(self._damaged[:20])}"
                )
            for number in range(len(self._anchors.paths)):
                syncfs(self._anchors.fd(number))
            doubtful: dict[bytes, str] = {}
            for path in (Entry.parse(line).path for line in directories):
                if path not in self._known.of:
                    with _noting(doubtful, path):
                        os.close(self._open(path, looked_at.get(path)))
            for path, why in doubtful.items():
                self.left.setdefault(os.fsdecode(path), why)
        finally:
            parents.forget()
            self._anchors.close()
        self.left.update(below(steps, self.left))
        missing = {os.fsencode(one) for one in self.left}
        lines = [Entry.parse(step.detail["line"]) for step in steps if "line" in step.detail]
        pins = [[one.path.hex(), one.flags & PINNED] for one in lines if one.type == "f" and one.flags & PINNED]
        plan = {
            "note": note,
            "anchors": self._anchors.stored(),
            "known": self._known.stored(),
            "closed": [path.hex() for path in sorted(self._closed)],
            "steps": [one for one in planned if bytes.fromhex(one["path"]) not in missing],
            "directories": [line for line in directories if Entry.parse(line).path not in missing],
            "pins": [pin for pin in pins if bytes.fromhex(str(pin[0])) not in missing],
        }
        write_file(os.path.join(self._journal, "plan"), json.dumps(plan).encode())
        return plan

    def _open(self, path: bytes, seen: Any) -> int:
        fd = open_dir(path)
        try:
            self._compare(path, fd, seen)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _compare(self, path: bytes, fd: int, seen: Any) -> None:
        """Note which directory it is; OSError where it is not the one that was ``seen`` (device, inode)."""
        info = os.fstat(fd)
        _inode, mount = self._known.note(path, info.st_ino)
        # The same one under two names: it was looked at here, and then there.
        first = self._names.setdefault((info.st_dev, info.st_ino, mount), path)
        if first != path or (seen is not None and (info.st_dev, info.st_ino) != tuple(seen)):
            raise OSError(errno.ESTALE, _another(path))

    def _ready(self, step: Step, number: int, created: set[bytes], parents: Parents) -> dict[str, Any]:
        op, path = step.detail["op"], os.fsencode(step.target)
        one: dict[str, Any] = {"op": op, "path": path.hex(), "name": str(number)}
        if op == "meta":
            one["line"] = step.detail["line"]
            if not one["line"].startswith("d"):
                fd, name = parents.of(path)
                one["ino"] = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
            return one
        if os.path.dirname(path) not in created:
            parents.of(path)
        if op != "put":
            # Of what is no directory nothing is asked: whoever can exchange it can delete it as well.
            one["was"] = step.detail["self"][1] if step.detail.get("self") else None
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
            if entry.type in ("d", ABOVE):
                self._known.note(path, one["ino"])
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
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        attributes(entry, made, f"/proc/self/fd/{made}")
    finally:
        os.close(made)


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


def attributes(entry: Entry, fd: int, where: int | str | None = None) -> None:
    """Owner, mode, xattrs and times of the open ``fd``; ``where``: how to name it, if it is open as a path alone.

    Owner first (it takes setuid bits and capabilities off), times last. An ACL comes before the mode: without it the
    mode would give its mask to the group.
    """
    where = fd if where is None else where
    info = os.fstat(fd)
    if (info.st_uid, info.st_gid) != (entry.uid, entry.gid):
        os.chown(where, entry.uid, entry.gid)
    present = set()
    try:
        present = set(os.listxattr(where))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    for key in present - {key for key, _value in entry.xattrs}:
        if not key.startswith("security."):  # A label of the system's own, given to every new file.
            os.removexattr(where, key)
    for key, value in entry.xattrs:
        os.setxattr(where, key, value)
    if entry.type != "l":
        os.chmod(where, entry.mode)
    if entry.type != ABOVE:
        os.utime(where, ns=(entry.mtime, entry.mtime))


def _narrow(entry: Entry, fd: int) -> None:
    """While things come and go in the open directory, let nobody in who could not go there both now and as recorded.

    Where owner, group or ACL are others it is ours meanwhile, and all others have what each of them had in both.
    """
    info = os.fstat(fd)
    now, then = stat.S_IMODE(info.st_mode), entry.mode
    acl, recorded = _acl(fd), dict(entry.xattrs).get(_ACL, b"")
    owned = (info.st_uid, info.st_gid) == (entry.uid, entry.gid)
    if owned and now == then and acl == recorded:
        return
    both = now & then | (now | then) & stat.S_ISVTX
    if not owned or acl != recorded:
        every = 7
        for one in (now >> 6, now >> 3, now, then >> 6, then >> 3, then, *_allowed(acl), *_allowed(recorded)):
            every &= one
        both = both & ~0o77 | every << 3 | every
    if os.geteuid() != 0:
        both |= 0o700  # Nothing could be put into it otherwise.
    set_inode_flags(fd, 0, PINNED)
    if not owned and os.geteuid() == 0:
        os.chown(fd, 0, 0)
    os.chmod(fd, both)
    if acl and acl != recorded:
        os.removexattr(fd, _ACL)


def _acl(fd: int) -> bytes:
    try:
        return os.getxattr(fd, _ACL)
    except OSError:  # There is none.
        return b""


def _allowed(acl: bytes) -> list[int]:
    """What each entry of an ACL allows (linux/posix_acl_xattr.h)."""
    return [allowed for _tag, allowed, _id in struct.iter_unpack("<HHI", acl[4 : len(acl) - (len(acl) - 4) % 8])]


# -- after COMMIT


def _apply(journal: str, plan: dict[str, Any]) -> Finished:
    anchors: list[int | None] = []
    doubtful: dict[bytes, str] = {}
    folders = [Entry.parse(line) for line in plan["directories"]]
    ours = {entry.path for entry in folders}
    known = _Known(plan.get("known", {}))
    closed = set(map(bytes.fromhex, plan.get("closed", ())))
    try:
        for anchor in plan["anchors"]:
            anchors.append(_own(_Anchor.read(anchor)))
        touched: set[bytes] = set()
        in_place: list[bytes] = []
        made = {bytes.fromhex(step["path"]) for step in plan["steps"] if step["op"] in ("put", "swap")}
        for entry in folders:
            try:
                fd = known.open(entry.path)
            except (OSError, UsageError):
                # One that a step makes is for nobody to enter until then. Nothing goes into another one.
                if entry.path not in made:
                    known.shut(entry.path)
                continue
            try:
                with _noting(doubtful, entry.path):
                    _narrow(entry, fd)
            finally:
                os.close(fd)
        with Parents(check=known.check) as parents:
            for step in plan["steps"]:
                path = bytes.fromhex(step["path"])
                with _noting(doubtful, path, closed):
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
                if entry.path in closed:
                    continue  # What lies in it may be what nobody else must see. The proof says what it is not.
                with _noting(doubtful, entry.path):
                    fd = known.open(entry.path)
                    try:
                        set_inode_flags(fd, 0, PINNED)
                        attributes(entry, fd)
                        if entry.type == "d":
                            set_inode_flags(fd, entry.flags, FLAGS)
                    finally:
                        os.close(fd)
                    in_place.append(entry.path)
            inodes = {step["path"]: step.get("ino") for step in plan["steps"]}
            for raw, flags in plan.get("pins", ()):
                path, inode = bytes.fromhex(raw), inodes.get(raw)
                with _noting(doubtful, path):
                    fd, name = parents.of(path)
                    with opened(fd, name) as target:
                        if target is not None and inode in (None, os.fstat(target).st_ino):
                            # Where it cannot be set, the proof says so.
                            set_inode_flags(target, flags, PINNED)
                    in_place.append(path)
        _sync([fd for fd in anchors if fd is not None], touched, in_place)
    finally:
        for held in anchors:
            if held is not None:
                os.close(held)
    left = {os.fsdecode(path): why for path, why in doubtful.items()}
    done = [(bytes.fromhex(step["path"]), step["op"]) for step in plan["steps"]]
    back = [os.fsdecode(path) for path, op in done if path not in doubtful and (op != "meta" or path not in closed)]
    return Finished(journal, plan["note"], back, left)


@contextmanager
def _noting(doubtful: dict[bytes, str], path: bytes, closed: set[bytes] | None = None) -> Iterator[None]:
    """What keeps one path from being put back is noted, and does not keep the others. ``closed``: gets its directory,
    if it is that somebody has exchanged one."""
    try:
        yield
    except OSError as error:
        doubtful.setdefault(path, error.strerror or str(error))
        if closed is not None and error.errno == errno.ESTALE:
            closed.add(os.path.dirname(path))
    except UsageError as error:  # It leads through a symlink by now.
        doubtful.setdefault(path, error.cause)


def _own(anchor: _Anchor) -> int | None:
    """The staging directory, if it is there and still ours alone."""
    try:
        above = open_dir(os.fsencode(os.path.dirname(anchor.path)))
    except (OSError, UsageError):
        return None
    try:
        found = anchor.open(above)
    except OSError:
        return None
    finally:
        os.close(above)
    return found[0] if found is not None else None


def _do(step: dict[str, Any], path: bytes, anchors: Sequence[int | None], parents: Parents) -> None:
    """One operation, if it has not been done yet."""
    op, staged = step["op"], step["name"].encode()
    if op == "meta":
        entry = Entry.parse(step["line"])
        if entry.type != "d":  # Those at the end, with the other directories.
            _set(entry, step.get("ino"), *parents.of(path))
        return
    fd, name = parents.of(path)
    stage = anchors[step["anchor"]]
    if stage is None:
        raise OSError(errno.ENOENT, _GONE)
    if op == "put":
        if _inode(stage, staged) == step["ino"]:
            os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)
        elif _inode(fd, name) != step["ino"]:
            raise OSError(errno.ENOENT, _GONE)
    elif op == "swap":
        if _inode(fd, name) != step["ino"]:
            if _inode(stage, staged) != step["ino"]:
                raise OSError(errno.ENOENT, _GONE)
            parents.forget()
            fd, name = parents.of(path)
            _swap(step, stage, staged, fd, name)
        for taken in (staged, staged + b".old"):
            _check_taken(step, stage, taken, fd, name)
    elif op == "delete":
        if _inode(stage, staged) is None:
            try:
                _put_aside(step, fd, name, stage, staged)
            except FileNotFoundError:
                return
        _check_taken(step, stage, staged, fd, name)


def _set(entry: Entry, inode: int | None, fd: int, name: bytes) -> None:
    """Time and flags of what stays where it is and is no directory."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if inode not in (None, os.fstat(found).st_ino):
            raise OSError(errno.ESTALE, "it is another one than when the rollback was planned")
        os.utime(f"/proc/self/fd/{found}", ns=(entry.mtime, entry.mtime))
        with opened(fd, name) as target:
            if target is not None and os.path.samestat(os.fstat(target), os.fstat(found)):
                set_inode_flags(target, entry.flags & ~PINNED, FLAGS)
    finally:
        os.close(found)


def _swap(step: dict[str, Any], stage: int, staged: bytes, fd: int, name: bytes) -> None:
    try:
        exchange(stage, staged, fd, name)
    except OSError as error:
        # Gone already: by a kill between these two, or by somebody else since it was staged.
        gone = _inode(fd, name) is None
        if error.errno not in _NO_EXCHANGE and not (gone and error.errno == errno.ENOENT):
            raise
        if not gone:
            _put_aside(step, fd, name, stage, staged + b".old")
            _check_taken(step, stage, staged + b".old", fd, name)
        os.rename(staged, name, src_dir_fd=stage, dst_dir_fd=fd)


def _is_meant(step: dict[str, Any], info: os.stat_result) -> bool:
    """Whether it is what was to go. A plan of version 0.1.0 does not say."""
    return "was" not in step or not stat.S_ISDIR(info.st_mode) or info.st_ino == step["was"]


def _check_taken(step: dict[str, Any], stage: int, taken: bytes, fd: int, name: bytes) -> None:
    """Where what went to the staging directory is another directory than was meant, give it back, and raise OSError."""
    try:
        info = os.stat(taken, dir_fd=stage, follow_symlinks=False)
    except FileNotFoundError:
        return
    if _is_meant(step, info) or info.st_ino == step.get("ino"):
        return
    if step["op"] == "swap" and _inode(fd, name) == step["ino"]:
        exchange(stage, taken, fd, name)
    else:
        try:
            rename_new(stage, taken, fd, name)
        except OSError:  # The name is taken.
            new = b"%s.%s" % (name[:200], secrets.token_hex(8).encode())
            os.rename(taken, new, src_dir_fd=stage, dst_dir_fd=fd)
    os.fsync(fd)
    raise OSError(errno.ESTALE, "somebody gave its name to another directory, which was to stay, while it was removed")


def _put_aside(step: dict[str, Any], fd: int, name: bytes, stage: int, aside: bytes) -> None:
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
        folder = os.open(name, DIRECTORY, dir_fd=fd)
        try:
            if not _is_meant(step, os.fstat(folder)):
                raise OSError(errno.ESTALE, "somebody gave its name to another directory") from error
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
            except (OSError, UsageError) as error:
                if getattr(error, "errno", None) in _DISK:
                    raise
                continue  # Deleted by a later step; its parent is among the touched. Or led elsewhere by somebody.
            with opened(fd, name or b".") as target:
                # Of a symlink, a FIFO or a device what can be synced is the directory that it is in.
                found = fd if target is None else target
                if not many and (target is not None or not _is_regular(fd, name)):
                    os.fsync(found)
                elif os.fstat(found).st_dev not in synced:
                    syncfs(found)
                    synced.add(os.fstat(found).st_dev)


def _is_regular(folder: int, name: bytes) -> bool:
    """Of a file that its owner keeps from being opened all of its file system is synced."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
