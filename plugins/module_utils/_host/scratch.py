# SPDX-License-Identifier: GPL-3.0-or-later

"""Bundles in transit through a host: each lies in a directory of ours, and is removed even when its run is killed.

A connection transfers files as the user who logs in. So the file belongs to that user, in a directory where the user
can add, replace and list nothing. The file is removed once it is open, or by the next call of any module.

A sender that connects by itself has a key. Its private half lies in such a directory on the sender. Its line in a file
of keys on the receiver is noted in such a directory, beside the FIFO into which the sender writes: whoever removes the
directory removes the line first.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from .._errors import EvenkeelError
from . import authorized
from .durable import write_file
from .mounts import free_bytes
from .paths import ancestors
from .trust import open_regular, read_small, stranger, trusted

_TOP = "/var/tmp"
_PREFIX = "evenkeel-bundle-"
# In the directory of a bundle: the line that lets the sender in. At the end of the name of one that is being removed.
_ENTRY = "entry"
_OVER = "-over"
# In the directory of a transfer: the time until which it may wait for other hosts (epoch seconds). Times that are
# further away were written by a clock that was wrong.
_UNTIL = "until"
_LONGEST = 7 * 86400.0
# Seconds that may pass between two steps of another run: the call of a module, and the opening of the file.
_STEP_LIMIT = 15.0
# Entries of the directory of everybody that a call looks at: any user can make a million.
_MOST = 10_000


def place(store: str) -> str:
    """The directory in which bundles for the store lie in transit: the one of everybody, or the one beside the store
    where that has more room. Many hosts have a small file system at the first, and some none that can be written. The
    login user must be able to pass through, and nobody else may exchange it."""
    beside, usual = _beside(store), room_in(_TOP)
    if usual >= 0 and device_of(beside) == device_of(_TOP):  # The free bytes change from one question to the next.
        return _TOP
    through = all(os.stat(one).st_mode & 0o001 for one in (os.fsencode(beside), *ancestors(os.fsencode(beside))))
    return beside if through and _is_ours(beside) and room_in(beside) > usual else _TOP


def _is_ours(folder: str) -> bool:
    """Whether nobody else can exchange what lies in the directory."""
    return not stranger(os.path.join(folder, _PREFIX), trusted())


def device_of(folder: str) -> int:
    return os.stat(folder).st_dev


def _beside(store: str) -> str:
    folder = os.path.dirname(os.path.realpath(store))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def room_in(folder: str) -> int:
    """The bytes that are free there; less than none where nobody can write."""
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        return -1
    return free_bytes(os.statvfs(folder))


def new(run: str, owner: int, top: str = "") -> str:
    """The path for a bundle, in a new directory that only we can change and its ``owner`` can pass through, in the
    directory ``top`` (see ``place``)."""
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{run}-", dir=top or _TOP)
    if owner != os.geteuid():
        os.chmod(folder, 0o711)
    return os.path.join(folder, "bundle")


def hand_over(path: str, owner: int) -> None:
    """Let this user, and nobody else, read and write the bundle."""
    os.chmod(path, 0o600)
    if owner != os.geteuid():
        os.chown(path, owner, -1)


def make_empty(path: str, owner: int) -> None:
    """Make an empty file, which this user fills with the bundle."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    hand_over(path, owner)


def make_pipe(path: str, owner: int) -> None:
    """Make a FIFO into which this user writes the bundle."""
    os.mkfifo(path, 0o600)
    hand_over(path, owner)


def keep(path: str, until: float) -> None:
    """Let no other run remove the directory of the bundle before this time: its transfer may wait for other hosts."""
    write_file(os.path.join(os.path.dirname(path), _UNTIL), f"{until}\n".encode("ascii"))


def admit(path: str, entry: authorized.Entry, now: float) -> None:
    """Add the line that lets the sender of the bundle in. It is noted before it is there. EvenkeelError where it cannot
    be added."""
    write_file(os.path.join(os.path.dirname(path), _ENTRY), entry.text())
    authorized.add(entry, now)


@contextmanager
def taken(path: str) -> Iterator[str]:
    """Open the bundle and remove it; the path by which it can be read within the ``with``."""
    with open_regular(path) as stream:
        discard(path)
        yield f"/proc/self/fd/{stream.fileno()}"


def discard(path: str) -> None:
    """Remove the bundle with its directory, and the line that lets its sender in. Nothing can be made at the path from
    the first moment on. EvenkeelError where the line stays: the directory stays as well, for the next call."""
    folder = os.path.dirname(path)
    if not os.path.basename(folder).startswith(_PREFIX):
        os.unlink(path)
        return
    os.lstat(path)
    _remove(folder)


def forget(path: str) -> None:
    """``discard`` of a bundle that may be gone already, in part or as a whole."""
    folder = os.path.dirname(path)
    if os.path.basename(folder).startswith(_PREFIX) and os.path.isdir(folder):
        _remove(folder)


def _remove(folder: str) -> None:
    # Everybody can make names here: nobody can have taken one that nobody can know.
    gone = folder if folder.endswith(_OVER) else f"{folder}-{os.urandom(8).hex()}{_OVER}"
    os.rename(folder, gone)
    with suppress(FileNotFoundError, ValueError, TypeError):  # No line was added for a torn note.
        authorized.remove(authorized.Entry.of(read_small(os.path.join(gone, _ENTRY), 65536)[0]))
    shutil.rmtree(gone)


def reclaim(run: str, now: float, store: str = "") -> None:
    """Remove bundles of killed runs, also those for the ``store``. Bundles of this ``run``, bundles that a process has
    open, bundles that changed a moment ago, and transfers whose time is not over stay."""
    beside = _beside(store) if store else _TOP
    tops = dict.fromkeys((_TOP, beside if _is_ours(beside) else _TOP))
    left = [
        found
        for top in tops
        for found in _left(run, top)
        if abs(now - _last_change(found)) > _STEP_LIMIT and not _waits(found, now)
    ]
    if left:
        used = set(_opened())
        for folder in left:
            if not any(path.startswith(folder + "/") for path in used):
                with suppress(OSError, EvenkeelError):
                    _remove(folder)


def _left(run: str, top: str) -> Iterator[str]:
    with suppress(OSError), os.scandir(top) as entries:
        for entry in islice(entries, _MOST):
            ours = entry.name.startswith(_PREFIX) and not (run and entry.name.startswith(f"{_PREFIX}{run}-"))
            if (
                ours
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            ):
                yield entry.path


def _waits(folder: str, now: float) -> bool:
    """Whether its transfer may still wait (see ``keep``)."""
    with suppress(OSError, ValueError):
        until = float(read_small(os.path.join(folder, _UNTIL), 100)[0])
        return now < until < now + _LONGEST and not folder.endswith(_OVER)
    return False


def _last_change(folder: str) -> float:
    """The time of the last change of the directory or of the bundle in it."""
    last = 0.0
    for path in (folder, os.path.join(folder, "bundle")):
        with suppress(OSError):
            found = os.lstat(path)
            last = max(last, found.st_ctime, found.st_mtime if stat.S_ISREG(found.st_mode) else 0.0)
    return last


def _opened() -> Iterator[str]:
    """The paths of all files that processes have open, as far as we may read them."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    yield os.readlink(f"/proc/{pid}/fd/{number}")
