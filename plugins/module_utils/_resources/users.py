# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind ``users``: the six files of accounts and groups, as one set, under the lock that useradd takes, the
directories that their logins pass, and the accounts whose own services run without a login."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

from .._dataclasses import replace
from .._errors import EvenkeelError, Refused, RestoreFailed
from .._files.footprint import CHANGED, CONTENT_OR_TIME, MODE, NEW, OWNER, REMOVED, REPLACED
from .._files.step import Step
from .._host.durable import write_file
from .._host.options import read
from .._host.paths import make_dirs
from .._host.system import System
from .._host.trust import read_small
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
# logind keeps a file for each account whose services run without a login. People may change their own. The name of a
# file has some bytes of the account's name escaped.
_LINGER = "linger"
_ESCAPED = r"\\(?:\\|x[2-9a-f][0-9a-f]|[1-3][0-7]{2})"
_ACCOUNT = rf"[A-Za-z0-9_](?:[A-Za-z0-9._@+-]|{_ESCAPED})*[$]?"
# The differences of such a file that say no more than whether it is there: it is empty, and comes back as another one.
_THERE = {NEW, REMOVED, REPLACED, CHANGED, CONTENT_OR_TIME}
# The first number of the account of a person, and that of nobody.
_FIRST_PERSON, _NO_PERSON = 1000, 65534
# The most bytes of passwd.
_LARGEST = 1 << 24
# Seconds for all answers of logind together.
_ANSWERS = 10.0


class _Lingering(NamedTuple):
    """``names`` of the files of accounts whose services run without a login. ``people``: all accounts of people in
    passwd. ``daemons``: the other accounts of passwd among the ``names``."""

    names: Set[str]
    people: Set[str]
    daemons: Set[str]


class Users(Kind):
    """The accounts and groups in passwd, shadow, group, gshadow, subuid and subgid, as one set.

    They are read and put back under the lock of useradd and its like. So are the owners and modes of the directories
    that a login passes, such as homes with their C(.ssh), without which sshd lets nobody in, and of those that programs
    of all users pass, such as C(/srv) and C(/var/lib). Whether the services of an account run without a login
    (C(loginctl enable-linger)) comes back too, but for people, who may set it for themselves. Takes nothing. For
    example V(users: {}).
    """

    name = "users"
    since = "0.2.0"
    order = 30
    lock_guards_access = True
    read_at_start = False
    precedes_files = True
    unseen = ("create",)
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
        lines.append(json_line.write(_LINGER, self._lingering_now()))
        return lines if os.path.lexists(self.nologin) else [*lines, json_line.write(_NOBODY, {})]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        is_shut = not at.boot and self._is_shut(lines, at.system)
        shut = [Step(self.name, "delete", self.nologin, "was not there")] if is_shut else []
        return [*shut, *self._linger_steps(lines, at)] + [
            Step(self.name, "attributes", one.path, words, one._asdict())
            for one, words in passages.differing(_recorded(lines))
            if one.path not in at.changed
        ]

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        done, left = [], []
        end = at.system.monotonic() + _ANSWERS
        for step in steps:
            try:
                if _LINGER in step.detail:
                    step = self._set_linger(step, at, end)
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

    def first(self, steps: Sequence[Step]) -> list[Step]:
        return [step for step in steps if _LINGER in step.detail and step.action == "delete"]

    def stays(self, lines: Sequence[str]) -> list[str]:
        then, now = _recorded_linger(lines), self._lingering()
        theirs = self._theirs(then, now ^ then.names) if then is not None else set()
        return [
            f"services of {_account_of(name)} {'run' if name in now else 'do not run'} without a login (loginctl), "
            "unlike at the checkpoint: people may change that for themselves, so that it stays"
            for name in sorted(theirs)
        ]

    def _files(self) -> set[str]:
        with suppress(OSError):
            return set(os.listdir(self.linger))
        return set()

    def _lingering(self) -> set[str]:
        return {name for name in self._files() if re.fullmatch(_ACCOUNT, name)}

    def _lingering_now(self) -> dict[str, object]:
        names, accounts = self._lingering(), self._accounts()
        people = {name for name, uid in accounts.items() if _FIRST_PERSON <= uid < _NO_PERSON}
        daemons = {account for account in map(_account_of, names) if account in accounts} - people
        return {"names": sorted(names), "people": sorted(people), "daemons": sorted(daemons)}

    def _accounts(self) -> dict[str, int]:
        """The accounts in passwd, with their numbers."""
        text = b""
        with suppress(OSError):
            text = read_small(os.path.join(self.etc, _FILES[0]), _LARGEST)[0]
        every = (line.split(b":") for line in text.splitlines())
        return {os.fsdecode(words[0]): int(words[2]) for words in every if len(words) == 7 and words[2].isdigit()}

    def _theirs(self, then: _Lingering, names: Set[str]) -> set[str]:
        """The names that a rollback leaves to their people: those of accounts that neither came nor went with the
        change, and of accounts that passwd does not have, such as those of a domain."""
        now, people = self._accounts(), then.people
        accounts = {name: _account_of(name) for name in names}
        return {name for name, one in accounts.items() if (one in now) == (one in people) and one not in then.daemons}

    def _linger_steps(self, lines: Sequence[str], at: Restore) -> list[Step]:
        """A step that waits for its account is among ``undone``: with the account it cannot be told any more that the
        change had removed that."""
        then, now = _recorded_linger(lines), self._lingering()
        if then is None:  # An older version has recorded none.
            return []
        theirs = self._theirs(then, now ^ then.names)
        owed = {str(one.detail[_LINGER]) for one in at.undone if one.resource == self.name and _LINGER in one.detail}
        found = [(name, "delete", "was not there") for name in sorted(now - then.names - theirs)]
        found += [
            (name, "create", "is not there") for name in sorted((then.names - now - theirs) | (owed & then.names))
        ]
        return [Step(self.name, action, f"{self.linger}/{name}", why, {_LINGER: name}) for name, action, why in found]

    def _set_linger(self, step: Step, at: Restore, end: float) -> Step:
        """Have logind start or stop the services of the account, until ``end``. Where it does not answer, or knows no
        such account, its file alone tells what counts from the next boot on."""
        goes, account = step.action == "delete", _account_of(str(step.detail[_LINGER]))
        why = ""
        if at.system.has_systemd() and not at.boot:
            left, verb = end - at.system.monotonic(), f"{'disable' if goes else 'enable'}-linger"
            said = at.system.run(["loginctl", verb, account], left) if left > 0 else None
            why = "logind has not answered" if said is None else said.words if said.rc else ""
        if goes and os.path.lexists(step.target):
            os.unlink(step.target)
        elif not goes and not os.path.lexists(step.target):
            make_dirs(self.linger)
            write_file(step.target, b"")
            os.chmod(step.target, 0o644)
        what = "may run until" if goes else "run without a login from"
        note = f"services of {account} {what} the next boot{'' if goes else ' on'}: {why}"
        return replace(step, detail={**step.detail, "note": note}) if why else step

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
        return [line for line in lines if not line.startswith(f"{_LINGER} ")]

    def covers(self, spec: Spec, lines: Sequence[str], changed: Mapping[str, str], at: Restore) -> list[str]:
        paths = [one.path for one in _recorded(lines)] if changed else []
        back = [path for path in paths if path in changed and set(changed[path].split(", ")) <= {MODE, OWNER}]
        then = _recorded_linger(lines)
        if then is None:
            return back
        # The directory itself may stand for all that is in it.
        mine = [path for path, what in changed.items() if set(what.split(", ")) <= _THERE]
        files = {path: {os.path.basename(path)} for path in mine if os.path.dirname(path) == self.linger}
        files.update({path: self._files() ^ then.names for path in mine if path == self.linger})
        return back + [path for path, names in files.items() if self._comes_back(then, names)]

    def _comes_back(self, then: _Lingering, names: Set[str]) -> bool:
        """Whether all these files come back, or have come back."""
        due = names & (self._files() ^ then.names)
        known = all(re.fullmatch(_ACCOUNT, name) for name in names)
        return known and not self._theirs(then, due)

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


def _recorded_linger(lines: Sequence[str]) -> _Lingering | None:
    """The accounts whose services ran without a login; None where none are recorded."""
    for line in (one for one in lines if one.startswith(f"{_LINGER} ")):
        with json_line.read(line) as (_word, record):
            names = record["names"]
            if not isinstance(names, list) or not all(re.fullmatch(_ACCOUNT, one) for one in names):
                raise ValueError("no names of accounts")
            return _Lingering(set(names), set(map(str, record["people"])), set(map(str, record["daemons"])))
    return None


def _account_of(name: str) -> str:
    """The account of a file of logind."""

    def plain(found: re.Match[bytes]) -> bytes:
        code = found[0][1:]
        return code if code == b"\\" else bytes([int(code[1:], 16) if code[:1] == b"x" else int(code, 8)])

    return os.fsdecode(re.sub(_ESCAPED.encode(), plain, os.fsencode(name)))


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
