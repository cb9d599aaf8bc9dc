# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes: their entries in /proc, and signals that reach the intended process or none."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Callable, NamedTuple, TypeVar

from .patience import steadily
from .trust import trusted

# The most bytes that are read of an entry whose length its process decides. One argument has at most half of that.
_LONGEST = 1 << 18
# The bytes for which the kernel is asked at once, where it decides how many it gives.
_PIECE = 1 << 16
# The real, effective and saved user id in the status of a process.
_USERS = re.compile(rb"^Uid:\s+(\d+)\s+(\d+)\s+(\d+)", re.M)
# A line of the mappings of a process that names a file, or what stands for one: whether it is code, its device, its
# inode and its path.
_MAPPING = re.compile(rb"^\S+ \S\S(\S)\S \S+ (\S+) (\d+) +(\S[^\n]*)$", re.M)
# Seconds for one read of what lies in the memory of a process, and for all reads of it.
_PATIENCE, _WHOLE = 1.0, 10.0
# The users one of whose processes has held us up.
_held_up_by: set[tuple[str, int]] = set()
_Seen = TypeVar("_Seen")


class Stat(NamedTuple):
    """The fields of ``/proc/PID/stat`` that we use. ``name``: as the process calls itself. ``ticks``: its start, in
    clock ticks after boot. ``terminal``: the device number of its controlling terminal; 0 where it has none."""

    pid: int
    name: str
    state: bytes
    parent: int
    group: int
    ticks: int
    terminal: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether the process is a zombie: it has exited, and its parent has not yet taken note."""
        return self.state in (b"Z", b"X")

    @property
    def started(self) -> float:
        """Seconds after boot at which the process started."""
        return self.ticks / os.sysconf("SC_CLK_TCK")


def read_stat(pid: int | str, proc: str = "/proc") -> Stat | None:
    """The stat fields of the process, or None when there is no such process."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as stream:
            head, _bracket, tail = stream.read().rpartition(b")")
    except OSError:
        return None
    fields = tail.split()
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return Stat(int(pid), name, fields[0], int(fields[1]), int(fields[2]), int(fields[19]), int(fields[4]))


def pids(proc: str = "/proc") -> list[int]:
    """The numbers of all processes."""
    return [int(entry) for entry in os.listdir(proc) if entry.isdigit()]


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process started, or None when there is no such process, or it has ended."""
    stat = read_stat(pid)
    return None if stat is None or stat.has_ended else stat.ticks


def user_ids(pid: int | str, proc: str = "/proc") -> set[int]:
    """The real, effective and saved user ids of the process; empty when there is no such process."""
    return _users(_status(pid, proc))


def _status(pid: int | str, proc: str) -> bytes:
    try:
        with open(f"{proc}/{pid}/status", "rb", buffering=0) as stream:
            return stream.read(_PIECE)
    except OSError:
        return b""


def _users(status: bytes) -> set[int]:
    found = _USERS.search(status)
    return set(map(int, found.groups())) if found else set()


def login_of(pid: int | str, proc: str = "/proc") -> int:
    """The user id of the login that started the process; -1 where no login did, or the kernel does not tell."""
    try:
        with open(f"{proc}/{pid}/loginuid", "rb") as stream:
            found = int(stream.read())
    except (OSError, ValueError):
        return -1
    return found if found < 0xFFFFFFFF else -1


def program_name(pid: int, proc: str = "/proc") -> str:
    """The base name of the program that the process runs; empty where we may not read it."""
    try:
        return os.path.basename(os.readlink(f"{proc}/{pid}/exe").removesuffix(" (deleted)"))
    except OSError:
        return ""


def patiently(
    pid: int | str, read: Callable[[], Iterable[_Seen]], proc: str = "/proc", alone: bool = False
) -> tuple[set[_Seen], bool]:
    """(The results of ``read``, which reads what lies in the memory of the process: its command line, its mappings;
    whether that is all). It is not all where the process holds us up: a read takes longer than ``_PATIENCE``.

    Any process can do so for ever, by a file system of its own (FUSE), and one that waits for a server of files does so
    without meaning to. A user can start thousands: after the first one no further process of that user is read, unless
    the caller reads this one ``alone``.
    """
    status = _status(pid, proc)
    ids = _users(status)
    found: set[_Seen] = set()
    if b"\nThreads:" in status and b"\nVmSize:" not in status:
        return found, True  # A thread of the kernel, or a zombie: it has no memory.
    if {(proc, user) for user in ids} & _held_up_by and not alone:
        return found, False

    def steps() -> Iterator[None]:
        for one in read():
            found.add(one)
            yield

    if steadily(_PATIENCE, _WHOLE, steps):
        return found, True
    _held_up_by.update((proc, user) for user in ids - trusted())
    return set(found), False


def read_entry(pid: int | str, name: str, proc: str = "/proc") -> bytes:
    """The first 256 KiB of an entry of the process; empty where it has ended, or we may not read it. An entry that lies
    in the memory of the process is read ``patiently``."""
    try:
        with open(f"{proc}/{pid}/{name}", "rb") as stream:
            return stream.read(_LONGEST)
    except OSError:
        return b""


def arguments(pid: int | str, proc: str = "/proc") -> list[bytes]:
    """The command line of the process, as the process shows it now; empty where there is none, and where the process
    holds us up."""
    return _words(pid, proc)[0]


def arguments_of_one(pid: int | str, proc: str = "/proc") -> list[bytes] | None:
    """``arguments`` of a process on which something depends; None where the process holds us up. It is read even where
    another process of its user has held us up."""
    words, is_all = _words(pid, proc, alone=True)
    return words if is_all else None


def _words(pid: int | str, proc: str = "/proc", alone: bool = False) -> tuple[list[bytes], bool]:
    found, is_all = patiently(pid, lambda: [read_entry(pid, "cmdline", proc)], proc, alone)
    text = b"".join(found)
    return text.removesuffix(b"\0").split(b"\0") if text else [], is_all


class Mapped(NamedTuple):
    """A file that a process has mapped. ``kind``: ``x`` where it runs. The rest is as the kernel shows it."""

    kind: bytes
    device: bytes
    inode: bytes
    path: bytes

    @property
    def is_code(self) -> bool:
        return self.kind == b"x"

    @property
    def number(self) -> tuple[int, int]:
        """The device and inode of the file."""
        major, _colon, minor = self.device.partition(b":")
        return os.makedev(int(major, 16), int(minor, 16)), int(self.inode)


def mapped(pid: int | str, proc: str = "/proc") -> Iterator[Mapped]:
    """The files that the process has mapped, one by one: a process can map one file tens of thousands of times. They
    are read ``patiently``."""
    return (one for piece in mappings(pid, proc) for one in piece)


def mappings(pid: int | str, proc: str = "/proc", piece: int = _PIECE) -> Iterator[Iterable[Mapped]]:
    """``mapped``, in the pieces in which the kernel tells them: each shows that the reading goes on. A file is in a
    piece once, however often it is mapped. ``piece``: the most bytes that are asked for at once."""
    try:
        with open(f"{proc}/{pid}/maps", "rb", buffering=0) as stream:
            rest = b""
            while data := stream.read(piece):
                whole, _end, rest = (rest + data).rpartition(b"\n")
                if len(rest) > _LONGEST:  # A path of that length belongs to nobody whom we know.
                    return
                yield map(Mapped._make, dict.fromkeys(_MAPPING.findall(whole)))
    except OSError:  # The process has ended, or we may not read it.
        return


def send_signal(pid: int, started: int, number: int) -> bool:
    """Send the signal to the process that started at this clock tick, never to a later process with the same id.

    Returns whether the signal was sent.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except AttributeError:  # This Python was built without pidfd_open.
        fd = -1
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # The kernel, or a sandbox, lacks the call.
            return False  # The id is that of a thread, not of a process.
        fd = -1
    try:
        # While the descriptor is open the id cannot pass to another process between this check and the signal.
        if start_time(pid) != started:
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)
    return True


@contextmanager
def undisturbed(*numbers: int) -> Iterator[None]:
    """Take no notice of these signals meanwhile. Only the main thread can; another one does without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, unlike SIG_IGN, is not inherited by the services that are started.
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# The signal that asks a process of ours to end what it does. A process without a handler takes no notice of it.
_ASKS = signal.SIGURG


class Stopped(BaseException):
    """Another process has asked us to end what we do. No handler of errors takes it for one of its own."""


@contextmanager
def stoppable() -> Iterator[bool]:
    """Raise Stopped within, once, when another process calls ``ask_to_stop``. Yields False where that is impossible:
    only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return

    def stop(_number: int, _frame: object) -> None:
        signal.signal(_ASKS, signal.SIG_IGN)  # The cleaning that begins now is not stopped.
        raise Stopped

    before = signal.signal(_ASKS, stop)
    try:
        yield True
    finally:
        signal.signal(_ASKS, before)


def ask_to_stop(pid: int, started: int) -> None:
    """Ask the process that started at this clock tick to end what it has declared to be ``stoppable``."""
    send_signal(pid, started, _ASKS)
