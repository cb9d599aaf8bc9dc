# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``users``: the six files of accounts and groups, as one set, under the lock that useradd takes, the
directories that their logins pass, and the accounts whose own services run without a login."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from .._dataclasses import replace
from .._errors import EvenkeelError, Refused, RestoreFailed
from .._files.footprint import MODE, NEW, OWNER, REMOVED
from .._files.step import Step
from .._host.durable import write_file
from .._host.options import read
from .._host.paths import make_dirs
from .._host.system import System
from . import json_line, passages
from .kind import Kind, Restore, Sink, Spec, Suggestion, is_within

_FILES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
# struct flock: type, whence, start, length, process, padding.
_FLOCK = "hhqqi4x"
# The word of a line.
_PASSAGE = "passage"
# Where this file lies, PAM lets nobody in but root. The word of the line that says that it was not there. systemd
# makes it at the end of a shutdown, and while the host boots; the other file tells that one is planned, and the states
# that the host still boots.
_NOBODY, _NOLOGIN, _PLANNED = "nologin", "/run/nologin", "/run/systemd/shutdown/scheduled"
_BOOTING = ("initializing", "starting")
# logind keeps a file for each account whose services run without a login. An account may change its own.
_LINGER = "linger"
_ACCOUNT = r"[A-Za-z0-9_][A-Za-z0-9._-]*[$]?"


class Users(Kind):
    """The accounts and groups in passwd, shadow, group, gshadow, subuid and subgid, as one set.

    They are read and put back under the lock of useradd and its like. So are the owners and modes of the directories
    that a login passes, such as homes with their C(.ssh), without which sshd lets nobody in, and of those that programs
    of all users pass, such as C(/srv) and C(/var/lib). Whether the services of an account run without a login
    (C(loginctl enable-linger)) comes back too. Takes nothing. For example V(users: {}).
    """

    name = "users"
    since = "0.2.0"
    order = 30
    lock_guards_access = True
    read_at_start = False
    on_plain_host: Spec = {}

    def __init__(
        self,
        etc: str = "/etc",
        patience: float = 15.0,
        nologin: str = _NOLOGIN,
        planned: str = _PLANNED,
        linger: str = "/var/lib/systemd/linger",
    ) -> None:
        """``patience``: seconds to wait for the lock, by default as long as lckpwdf(3) waits. ``planned``: the file of
        the shutdown that is planned."""
        self.etc = etc
        self.patience = patience
        self.nologin = nologin
        self.planned = planned
        self.linger = linger

    def check(self, spec: Spec) -> dict[str, object]:
        return read(self.options, spec, self.name)

    def trees(self, spec: Spec) -> list[str]:
        return [os.path.join(self.etc, name) for name in _FILES]

    def locked(self, system: System, patience: float | None) -> AbstractContextManager[None]:
        limit = self.patience if patience is None else min(patience, self.patience)
        return locked(os.path.join(self.etc, ".pwd.lock"), limit, system)

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        """``passage`` and a record of path, mode, owners, inode and mount point, for each directory that a login
        passes. ``linger`` and the names of the accounts whose services run without a login. ``nologin`` where no file
        of that name shuts out all users."""
        found = passages.read_passages(os.path.join(self.etc, _FILES[0]))
        lines = [json_line.write(_PASSAGE, one._asdict()) for one in found]
        lines.append(json_line.write(_LINGER, {"names": sorted(self._lingering())}))
        return lines if os.path.lexists(self.nologin) else [*lines, json_line.write(_NOBODY, {})]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        is_shut = not at.boot and self._is_shut(lines, at.system)
        shut = [Step(self.name, "delete", self.nologin, "was not there")] if is_shut else []
        return [*shut, *self._linger_steps(lines)] + [
            Step(self.name, "attributes", one.path, words, one._asdict())
            for one, words in passages.differing(_recorded(lines))
            if one.path not in at.changed
        ]

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        done, left = [], []
        for step in steps:
            try:
                if "linger" in step.detail:
                    self._set_linger(step, at)
                elif step.action == "delete":
                    with suppress(FileNotFoundError):
                        os.unlink(self.nologin)
                else:
                    passages.put_back(passages.check(step.detail))
                done.append(step)
            except passages.Exchanged as error:
                note = f"{step.target} stays as it is: it {step.why}, but {error.message}"
                done.append(replace(step, action="leave", detail={**step.detail, "note": note}))
            except (OSError, EvenkeelError) as error:
                why = error.message if isinstance(error, EvenkeelError) else error.strerror
                left.append(f"{step.target} {step.why}: {why}")
        if left:
            raise RestoreFailed(
                f"directories that a login passes are not as they were: {'; '.join(left)}",
                done=[step.shown() for step in done],
                left=left,
            )
        return done

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        found = passages.wrong(_recorded(lines))
        if self._is_shut(lines, system):
            found.append(f"{self.nologin} keeps out all users but root, and was not there")
        return found

    def _lingering(self) -> set[str]:
        with suppress(OSError):
            return {name for name in os.listdir(self.linger) if re.fullmatch(_ACCOUNT, name)}
        return set()

    def _linger_steps(self, lines: Sequence[str]) -> list[Step]:
        then, now = _recorded_linger(lines), self._lingering()
        if then is None:  # An older version has recorded none.
            return []
        found = [(name, "delete", "was not there") for name in sorted(now - then)]
        found += [(name, "create", "is not there") for name in sorted(then - now)]
        return [Step(self.name, action, f"{self.linger}/{name}", why, {"linger": name}) for name, action, why in found]

    def _set_linger(self, step: Step, at: Restore) -> None:
        """Have logind start or stop the services of the account. Where it does not answer, or knows no such account,
        its file alone tells what counts from the next boot on."""
        goes = step.action == "delete"
        if at.system.has_systemd() and not at.boot:
            at.system.run(["loginctl", f"{'disable' if goes else 'enable'}-linger", str(step.detail["linger"])], 10.0)
        if goes and os.path.lexists(step.target):
            os.unlink(step.target)
        elif not goes and not os.path.lexists(step.target):
            make_dirs(self.linger)
            write_file(step.target, b"")
            os.chmod(step.target, 0o644)

    def _is_shut(self, lines: Sequence[str], system: System) -> bool:
        """Whether all users but root are kept out since, though no shutdown is planned and the host has booted."""
        was_open = any(line.startswith(f"{_NOBODY} ") for line in lines)
        if not was_open or not os.path.lexists(self.nologin) or os.path.lexists(self.planned):
            return False
        if not system.has_systemd():
            return True
        return system.run(["systemctl", "is-system-running"], 10.0).out.strip() not in _BOOTING

    def carried(self, lines: Sequence[str]) -> list[str]:
        """On the host that gets them, homes and what lies in them are other directories, and it may shut its users
        out."""
        found = {one.path: one for one in _recorded(lines)}
        theirs = [path for path, one in found.items() if one.uid != 0]
        stay = [one for path, one in found.items() if not any(is_within(path, other) for other in theirs)]
        return [json_line.write(_PASSAGE, one._asdict()) for one in stay]

    def access_lines(self, lines: Sequence[str]) -> list[str]:
        return list(lines)

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> list[str]:
        paths = [one.path for one in _recorded(lines)] if changed else []
        back = [path for path in paths if path in changed and set(changed[path].split(", ")) <= {MODE, OWNER}]
        names = {NEW, REMOVED} if _recorded_linger(lines) is not None else set()
        return back + [path for path, what in changed.items() if what in names and is_within(path, self.linger)]

    def outside(self, spec: Spec, lines: Sequence[str], declared: Sequence[Spec], system: System) -> list[str]:
        return []

    def suggest(self, changed: Mapping[str, str], taken: Sequence[str], at: Restore) -> Suggestion:
        found = {path for path in self.trees({}) if path in changed}
        return ({} if found else None), found


def _recorded(lines: Sequence[str]) -> list[passages.Passage]:
    """The directories of the lines; Damaged where ``capture`` cannot have written a line."""
    found = []
    for line in lines:
        with json_line.read(line) as (word, record):
            if word == _PASSAGE:
                found.append(passages.check(record))
            elif word not in (_NOBODY, _LINGER):
                raise ValueError("no word of ours")
    return found


def _recorded_linger(lines: Sequence[str]) -> set[str] | None:
    """The accounts whose services ran without a login; None where none are recorded."""
    for line in (one for one in lines if one.startswith(f"{_LINGER} ")):
        with json_line.read(line) as (_word, record):
            names = record["names"]
            if not isinstance(names, list) or not all(re.fullmatch(_ACCOUNT, one) for one in names):
                raise ValueError("no names of accounts")
            return set(names)
    return None


@contextmanager
def locked(path: str, patience: float, system: System) -> Iterator[None]:
    """Keep useradd, passwd, vipw and their like out, as lckpwdf(3) does. Refused names the process that has the lock.

    The lock belongs to our descriptor, not to our process: a lock of the process would be lost as soon as the process
    reads ``path`` as a part of a tree.
    """
    lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"users: {path} cannot be opened to lock it: {error.strerror}; nothing was changed") from error
    try:
        end = system.monotonic() + patience
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                if system.monotonic() >= end:
                    pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock))[4]
                    who = f"process {pid}" if pid > 0 else "another process"
                    raise Refused(
                        f"users: {path} has been locked for {patience:g} s by {who} (useradd, vipw and their "
                        "like); nothing was changed. Wait until it is done, then run again"
                    ) from error
                system.sleep(0.05)
        yield
    finally:
        os.close(fd)
