# SPDX-License-Identifier: GPL-3.0-or-later

"""The directories that a login or any program passes. sshd refuses each key below a home that others could write to or
that is somebody else's, and nobody passes a directory that is shut, whatever files and accounts say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from .._errors import EvenkeelError
from .._files.footprint import DISKS
from .._host.mounts import mount_of, mount_points
from .._host.paths import DIRECTORY, ancestors, check_path, open_dir
from .._host.trust import read_small, stranger, trusted

# Directories that each login or the programs of all users pass, and the empty directories in which sshd locks up a part
# of itself.
_OF_ALL = (
    *("/", "/etc", "/run", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/sbin", "/var", "/var/tmp", "/root", "/home"),
    *("/opt", "/srv", "/mnt", "/media", "/boot", "/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/local/sbin"),
    *("/usr/libexec", "/usr/share", "/var/cache", "/var/lib", "/var/log", "/var/spool", "/var/spool/cron"),
    *("/run/sshd", "/var/empty/sshd", "/usr/share/empty.sshd"),
)
# The directory of the keys in a home, and the shells of accounts that do not log in.
_KEYS = ".ssh"
# Files in a home that decide who logs in, and about the programs of a login.
OF_LOGIN = (
    *(f".ssh/{name}" for name in ("authorized_keys", "authorized_keys2", "rc", "environment")),
    *(".k5login", ".rhosts", ".shosts", ".profile", ".bash_profile", ".bash_login", ".bashrc", ".zshenv"),
)
_SHUT = ("nologin", "false", "sync", "halt", "shutdown")
# A server that does not answer is not asked.
_NEAR = DISKS | {"tmpfs"}
_LARGEST = 1 << 24


class Exchanged(EvenkeelError):
    """A directory of a user's is another one now, so that it gets nothing."""


class Passage(NamedTuple):
    """``mount``: the mount point at or above the path."""

    path: str
    mode: int
    uid: int
    gid: int
    inode: int
    mount: str

    def differs(self, now: Passage | None) -> str:
        """The difference to the directory that is there now, in words; None stands for no directory, or for one behind
        a link. Where there is none, or one of another file system, there is nothing to put back here."""
        if now is None or now.mount != self.mount:
            return ""
        words = []
        if (now.uid, now.gid) != (self.uid, self.gid):
            words.append(f"belongs to {now.uid}:{now.gid}, and belonged to {self.uid}:{self.gid}")
        if now.mode != self.mode:
            words.append(f"has the mode {now.mode:o}, and had {self.mode:o}")
        return ", ".join(words)

    def is_theirs(self) -> bool:
        """Whether a user other than root may change the directory, or put another one in its place."""
        return self.uid not in trusted() or bool(_stranger(self.path))

    def is_up_to_them(self, now: Passage | None) -> bool:
        """Whether a user may have made the difference, and may make it anew after each rollback: the owner sets the
        mode, and nobody but root gives the directory away."""
        if now is None or now.inode != self.inode:
            return self.is_theirs()
        return self.uid not in trusted() and now.uid == self.uid


def check(record: dict[str, object]) -> Passage:
    """The passage of a line. ValueError, KeyError, TypeError or UsageError where ``read_passages`` cannot have found
    it."""
    found = Passage(**record)  # type: ignore[arg-type]
    check_path(os.fsencode(found.path))
    numbers = (found.mode, found.uid, found.gid, found.inode)
    if not all(map(_is_number, numbers)) or found.mode > 0o7777 or not isinstance(found.mount, str):
        raise ValueError("no directory")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_passages(passwd: str) -> list[Passage]:
    """The directories as they are, by their paths. ``passwd``: the file of the accounts."""
    places = {os.fsencode(one) for one in _OF_ALL}
    for home in homes(passwd):
        places |= {*ancestors(home), home, home + b"/" + os.fsencode(_KEYS)}
    points = mount_points()
    return [one for one in (_seen(path, points) for path in sorted(places)) if one is not None]


def differing(then: Iterable[Passage]) -> list[tuple[Passage, str]]:
    """The directories that are not as they were, each with the difference in words."""
    points = mount_points()
    found = ((one, one.differs(_seen(os.fsencode(one.path), points))) for one in then)
    return [(one, words) for one, words in found if words]


def wrong(then: Iterable[Passage]) -> list[str]:
    """The directories that are not as they were, in words, without those whose users decide that."""
    points = mount_points()
    found = ((one, _seen(os.fsencode(one.path), points)) for one in then)
    return [f"{one.path} {one.differs(now)}" for one, now in found if one.differs(now) and not one.is_up_to_them(now)]


def put_back(then: Passage) -> None:
    """Give the directory its owner and its mode. OSError or EvenkeelError where that is not possible.

    In a directory of a user's, only the directory that was there gets them: the user may have put one of root's there.
    Exchanged tells that.
    """
    try:
        fd = open_dir(os.fsencode(then.path))
    except (OSError, EvenkeelError) as error:
        if not then.is_theirs():
            raise
        raise Exchanged("no directory is there now, in a place of a user's") from error
    try:
        info = os.fstat(fd)
        theirs = _stranger(then.path) if info.st_ino != then.inode else ""
        if theirs:
            raise Exchanged(f"it is another directory now, and {theirs}")
        if (info.st_uid, info.st_gid) != (then.uid, then.gid):
            os.fchmod(fd, then.mode & stat.S_IMODE(info.st_mode))  # No owner gets more than its own mode.
            os.fchown(fd, then.uid, then.gid)
        os.fchmod(fd, then.mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def _stranger(path: str) -> str:
    """The reason why another user could put another directory at the path, in words; or empty."""
    try:
        return stranger(path, trusted())
    except OSError as error:  # Somebody changes the way just now.
        return f"the way to it cannot be followed: {error.strerror}"


def homes(passwd: str) -> Iterator[bytes]:
    """The homes of the accounts that can log in."""
    text = b""
    with suppress(OSError):
        text = read_small(passwd, _LARGEST)[0]
    for words in (line.split(b":") for line in text.splitlines()):
        if len(words) == 7 and os.path.basename(os.fsdecode(words[6].strip())) not in _SHUT:
            with suppress(EvenkeelError):
                yield check_path(words[5])


def _seen(path: bytes, points: dict[bytes, str]) -> Passage | None:
    mount = mount_of(path, points)
    if points.get(mount, "") not in _NEAR:
        return None
    with suppress(OSError, EvenkeelError):
        above = open_dir(os.path.dirname(path))
        try:
            fd = os.open(os.path.basename(path) or b"/", DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
        try:
            info = os.fstat(fd)
        finally:
            os.close(fd)
        mode = stat.S_IMODE(info.st_mode)
        return Passage(os.fsdecode(path), mode, info.st_uid, info.st_gid, info.st_ino, os.fsdecode(mount))
    return None
