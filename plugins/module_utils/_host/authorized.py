# SPDX-License-Identifier: GPL-3.0-or-later

"""A line of ours in the file of keys of a login user: added, and removed, without a change to any other line.

The file lies in a directory of that user, who can put a symlink or another file anywhere in it. So a process with the
rights of that user alone changes it: it can reach nothing that the user cannot reach. The new file takes the place of
the old file in one step, with the same mode, group and extended attributes (the context of SELinux among them).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import select
import signal
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Callable, NoReturn

from .._dataclasses import asdict, dataclass
from .._errors import EvenkeelError
from . import locks, trust
from .durable import write_all

# The comment of each line of ours begins with this.
MARK = "evenkeel-"
_LARGEST = 1024 * 1024
# Seconds for a change: the home may be a file system that does not answer.
_LIMIT = 20.0
# The same for the lock of the directory.
_PATIENCE = 5.0
_TEMPORARY = ".evenkeel-keys-"
_DONE = "done"
_OURS = re.compile(rb'restrict,expiry-time="([0-9]{14})",.* evenkeel-[0-9a-zA-Z-]+\r?\n?')


@dataclass(frozen=True)
class Entry:
    """A line of the file, and the user with whose rights the file is changed."""

    file: str
    owner: int
    line: str

    def text(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii")

    @classmethod
    def of(cls, text: bytes) -> Entry:
        """Raises ValueError or TypeError for a text that is not whole."""
        found = cls(**json.loads(text))
        if not isinstance(found.file, str) or not isinstance(found.owner, int) or not isinstance(found.line, str):
            raise ValueError("it is no entry")
        return found


def expiry(moment: float) -> str:
    """The moment as sshd reads it: in the time zone of the system. Only newer versions read the time of UTC."""
    zone = os.environ.pop("TZ", None)
    try:
        time.tzset()
        return time.strftime("%Y%m%d%H%M%S", time.localtime(moment))
    finally:
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()


def file_of(user: pwd.struct_passwd, patterns: Sequence[str]) -> tuple[str, int]:
    """The file of keys that sshd reads for the user, and the owner of its directory. ``patterns``: AuthorizedKeysFile.

    EvenkeelError where none is there, or where others than root or the user could replace it.
    """
    values = {"%%": "%", "%h": user.pw_dir, "%u": user.pw_name, "%U": str(user.pw_uid)}
    for pattern in patterns:
        path = re.sub("%.", lambda found: values.get(found[0], found[0]), pattern)
        file = os.path.join(user.pw_dir, path)
        with suppress(OSError):
            owner = os.stat(os.path.dirname(file)).st_uid
            if not os.path.lexists(file):
                continue
            if owner == 0 and trust.stranger(file, {0}):
                raise EvenkeelError(f"others than root could replace {file}")
            if owner in (0, user.pw_uid):
                return file, owner
    raise EvenkeelError(f"{user.pw_name} has no file of keys that could be changed ({', '.join(patterns)})")


def add(entry: Entry, now: float) -> None:
    """Add the line as the first one, and remove lines of killed runs whose time is over. EvenkeelError, with the
    reason."""
    over = expiry(now).encode("ascii")

    def change(data: bytes) -> bytes:
        lines = data.splitlines(True)
        found = [(line, _OURS.fullmatch(line)) for line in lines]
        kept = [line for line, ours in found if ours is None or ours[1] >= over]
        return entry.line.encode("ascii") + b"\n" + b"".join(kept)

    _as_owner(entry, change)


def remove(entry: Entry) -> None:
    """Remove the line, wherever it stands. EvenkeelError, with the reason; a file that is gone has no line."""
    line = entry.line.encode("ascii")
    try:
        pwd.getpwuid(entry.owner)
    except KeyError:
        return  # Nobody can log in as this user any more.
    _as_owner(entry, lambda data: b"".join(one for one in data.splitlines(True) if one.rstrip(b"\r\n") != line))


def _as_owner(entry: Entry, change: Callable[[bytes], bytes]) -> None:
    """Change the file with the rights of its owner alone, within a limited time."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(entry, change, write)
    os.close(write)
    try:
        ready, _writable, _failed = select.select([read], [], [], _LIMIT)
        said = os.read(read, 4096).decode("utf-8", "replace") if ready else f"no answer within {_LIMIT:g} s"
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if said != _DONE:
        raise EvenkeelError(f"{entry.file} could not be changed: {said or 'the process was killed'}")


def _child(entry: Entry, change: Callable[[bytes], bytes], answer: int) -> NoReturn:
    """The process that changes the file. It answers in words, and ends."""
    try:
        if os.geteuid() == 0 and entry.owner != 0:
            user = pwd.getpwuid(entry.owner)
            os.initgroups(user.pw_name, user.pw_gid)
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(entry.owner, entry.owner, entry.owner)
        _edit(entry.file, change)
        said = _DONE
    except FileNotFoundError:
        said = _DONE if not change(b"") else "it is gone"
    except BaseException as error:  # The answer is the only way out of this process.
        said = f"{error}" or type(error).__name__
    try:
        os.write(answer, said.encode("utf-8", "replace")[:4000])
    finally:
        os._exit(0)


def _edit(file: str, change: Callable[[bytes], bytes]) -> None:
    folder, name = os.path.split(file)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    locks.lock(directory, _PATIENCE)  # A stranger who reads it can hold it for ever. Below a change of others is seen.
    for left in os.listdir(directory):
        if left.startswith(_TEMPORARY):
            os.unlink(left, dir_fd=directory)
    for _turn in range(5):
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise EvenkeelError("it is not a file of its own that belongs to the user")
        data = os.pread(source, _LARGEST + 1, 0)
        if len(data) > _LARGEST:
            raise EvenkeelError(f"it has more than {_LARGEST} bytes")
        changed = change(data)
        if changed == data:
            return
        temporary = f"{_TEMPORARY}{os.getpid()}"
        _write_like(source, temporary, directory, changed)
        now = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (now.st_ino, now.st_mtime_ns, now.st_ctime_ns) == (found.st_ino, found.st_mtime_ns, found.st_ctime_ns):
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            return
        os.unlink(temporary, dir_fd=directory)  # Somebody else has changed it meanwhile.
        os.close(source)
    raise EvenkeelError("others change it all the time")


def _write_like(source: int, name: str, directory: int, data: bytes) -> None:
    """A new file with the data, and all else like the open file ``source``; durable."""
    found = os.fstat(source)
    target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        write_all(target, data)
        if os.fstat(target).st_gid != found.st_gid:
            with suppress(PermissionError):
                os.fchown(target, -1, found.st_gid)
        os.fchmod(target, stat.S_IMODE(found.st_mode))
        for key in os.listxattr(source):
            with suppress(OSError):
                os.setxattr(target, key, os.getxattr(source, key))
        os.fsync(target)
    finally:
        os.close(target)
