# SPDX-License-Identifier: GPL-3.0-or-later

"""Services without systemd: a command that stays in the foreground, known by its pid file.

The pid file holds the pid alone: kill, a monitor and the service itself read it, and the service may write it too.
The store records which process we started, together with its start time, so that a later process with the same pid is
never taken for the service, and never signalled. Where there is no store the start time is the second line of the pid
file. A pid file often lies where its service can write. Then it is trusted only if it names a process of the same user
that runs the command.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from typing import Callable, ClassVar, TypedDict

from .._dataclasses import dataclass
from .._errors import EvenkeelError, ServiceFailed, UsageError
from .._host.commands import detached
from .._host.durable import ensure_dir, write_all, write_file
from .._host.options import Options, read
from .._host.paths import make_dirs, open_dir
from .._host.processes import arguments_of_one, program_name, read_stat, send_signal, start_time, user_ids
from .._host.system import System
from .._host.trust import open_regular, owners, read_small, stranger, trusted
from .state import ServiceState

OPTIONS: Options = {
    "name": {"type": "str", "required": True},
    "pidfile": {"type": "str", "required": True},
    "argv": {"type": "list", "elements": "str", "required": True},
    "chdir": {"type": "str", "default": "/"},
    "reload_signal": {"type": "str"},
    "stop_signal": {"type": "str", "default": "TERM"},
}
# Seconds that a service has to end by its stop signal, before it is killed.
_STOP_LIMIT = 10.0
# Seconds that a new process must live to count as started.
_ALIVE = 0.5
# Largest size of a pid file, in bytes.
_LONGEST = 512
# The pid file that we write where there is no store: the process, and its start time.
_OURS = rb"\d+\n\d+\n"
# Bytes of the first line of a script that the kernel reads.
_LINE = 256


class Definition(TypedDict):
    """A service that is declared as a process, with a value for each of ``OPTIONS``. It is stored as JSON."""

    name: str
    pidfile: str
    argv: list[str]
    chdir: str
    reload_signal: str
    stop_signal: str


def check(definition: object) -> Definition:
    """The definition with all its keys. UsageError names the bad key."""
    made = read(OPTIONS, definition, "process")
    given = dict(made)
    where = f"process {made['name']}"
    if not os.path.isabs(made["argv"][0]):
        raise UsageError(f"{where}: argv must be a list that begins with an absolute path")
    for key in ("pidfile", "chdir"):
        if not os.path.isabs(made[key]):
            raise UsageError(f"{where}: {key} must be an absolute path")
    for key in ("reload_signal", "stop_signal"):
        made[key] = (made[key] or "").upper().removeprefix("SIG")
        if made[key] and "SIG" + made[key] not in signal.Signals.__members__:
            raise UsageError(f"{where}: {key} {given[key]!r} is no signal; write HUP or TERM")
    return Definition(
        name=made["name"],
        pidfile=made["pidfile"],
        argv=made["argv"],
        chdir=made["chdir"],
        reload_signal=made["reload_signal"],
        stop_signal=made["stop_signal"],
    )


@dataclass(frozen=True)
class ProcessService:
    """The backend of a service without systemd."""

    definition: Definition
    what: ClassVar[str] = "such process"

    @property
    def name(self) -> str:
        return self.definition["name"]

    def observe(self, system: System) -> ServiceState:
        return observe(self.definition, system)

    def act(self, verb: str, system: System, wait: bool = True) -> ServiceState:
        return act(verb, self.definition, system)

    def carry_out(self, verb: str, system: System) -> tuple[ServiceState, bool]:
        """``act``; (the state afterwards, whether the process or one of its group had to be killed)."""
        return carry_out(verb, self.definition, system)


def _running(definition: Definition, system: System) -> tuple[int, int] | None:
    """(pid, start time) of the service, or None. The process that we started comes before the pid file."""
    return _recorded_process(definition, system) or _process_of_pidfile(definition)[0]


def _process_of_pidfile(definition: Definition) -> tuple[tuple[int, int] | None, str]:
    """(The process that the pid file names or None, the reason in words why the pid file is not trusted)."""
    pidfile, argv = definition["pidfile"], definition["argv"]
    try:
        data, owner = read_small(pidfile, _LONGEST)
        written = os.stat(pidfile, follow_symlinks=False).st_mtime
        words = data.split()  # Some services write more behind their pid.
        pid = int(words[0])
    except (ValueError, IndexError, FileNotFoundError):
        return None, ""
    except OSError as error:
        return None, f"its pid file {pidfile} is not trusted: {error.strerror}"
    started, is_ours = start_time(pid), bool(re.fullmatch(_OURS, data))
    if started is None or (is_ours and words[1] != b"%d" % started):
        return None, ""
    if not stranger(pidfile, trusted()) and owner in trusted():
        is_it = is_ours or _has(pid, argv) or _runs(pid, argv, started, written)
        return ((pid, started), "") if is_it else (None, "")
    # Another user can write the pid file, and could have us signal any process on the host.
    theirs = owner if owner not in trusted() else os.stat(os.path.dirname(pidfile)).st_uid
    why = stranger(pidfile, {*trusted(), theirs})
    if not why and (user_ids(pid) != {theirs} or not _runs(pid, argv, started, written)):
        why = f"uid {theirs} can write it, and process {pid} is not that user's, or does not run the command"
    return (None, f"its pid file {pidfile} is not trusted: {why}") if why else ((pid, started), "")


def _recorded_process(definition: Definition, system: System) -> tuple[int, int] | None:
    """The process of the service that we started, if it still runs."""
    with contextlib.suppress(OSError, ValueError):
        data, _owner = read_small(_record_path(definition, system), _LONGEST)
        pid, started, boot = data.decode().split()
        if start_time(int(pid)) == int(started) and boot == system.boot_id():
            return int(pid), int(started)
    return None


def _record_path(definition: Definition, system: System) -> str:
    """The file that records which process of the service we started; FileNotFoundError where there is no store."""
    if not system.memory:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "memory")
    key = "\0".join((definition["name"], definition["pidfile"]))
    return os.path.join(system.memory, hashlib.sha256(os.fsencode(key)).hexdigest()[:32])


def _record_process(definition: Definition, pid: int, started: int | None, system: System) -> bool:
    """Record which process is the service. Returns False where there is no store that we may write to."""
    try:
        path = _record_path(definition, system)
        ensure_dir(system.memory)
        write_file(path, f"{pid} {started} {system.boot_id()}\n".encode())
    except (FileNotFoundError, PermissionError):
        return False
    return True


def _runs(pid: int, argv: Sequence[str], started: int, written: float) -> bool:
    """Whether the process runs this program and was started with these arguments. A process can change its arguments,
    but not its program.

    A process that has given itself a title (nginx, gunicorn) shows no arguments any more. It counts if the pid file,
    ``written`` at that time, cannot name an earlier process.
    """
    try:
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return False
    if program != os.path.realpath(_interpreter(argv[0]) or argv[0]):
        return False
    if _has(pid, argv):
        return True
    title = _words(pid)[0]
    return b" " in title and title != os.fsencode(argv[0]) and _age(started) >= time.time() - written


def _has(pid: int, argv: Sequence[str]) -> bool:
    """Whether the process shows these arguments. Its program may be another one since a link to it was switched."""
    wanted, words = [os.fsencode(word) for word in argv], _words(pid)
    # The kernel puts the interpreter of a script, and at most one option of it, before the arguments.
    places = (0, 1, 2) if _interpreter(argv[0]) else (0,)
    return any(words[at : at + len(wanted)] == wanted for at in places)


def _words(pid: int) -> list[bytes]:
    """The arguments that the process shows; one empty word where there are none. A process that holds us up may be the
    service: that is an error, so that nothing is started beside it."""
    words = arguments_of_one(pid)
    if words is None:
        raise ServiceFailed(
            f"process {pid} ({program_name(pid)}), which the pid file names, holds up whoever reads its command line: "
            "whether it is the service is not known. Look at it, and end it by hand where it hangs"
        )
    return words or [b""]


def _interpreter(program: str) -> str:
    """The interpreter in the first line of a script; empty for a program that is no script."""
    try:
        with open_regular(os.path.realpath(program)) as stream:
            line = stream.readline(_LINE)
    except OSError:
        return ""
    words = os.fsdecode(line[2:]).split() if line.startswith(b"#!") else []
    if len(words) == 2 and os.path.basename(words[0]) == "env":
        return shutil.which(words[1]) or ""
    return words[0] if words else ""


def _age(started: int) -> float:
    """Seconds for which a process has run that started at this clock tick."""
    with open("/proc/uptime") as stream:
        return float(stream.read().split()[0]) - started / os.sysconf("SC_CLK_TCK")


def observe(definition: Definition, system: System) -> ServiceState:
    """The state of the service now."""
    found = _running(definition, system)
    if found is None:
        why = _process_of_pidfile(definition)[1]
        text = f"not running ({why})" if why else "not running"
        return ServiceState(definition["name"], True, "", False, text, None, "", 0, False)
    pid, started = found
    age = _age(started)
    can_reload = bool(definition["reload_signal"])
    text = f"running (pid {pid})"
    return ServiceState(definition["name"], True, "", True, text, system.now() - age, f"{pid}:{started}", 0, can_reload)


def act(verb: str, definition: Definition, system: System) -> ServiceState:
    """Start, stop, restart or reload the service, and prove it; the state afterwards. Raises ServiceFailed."""
    return carry_out(verb, definition, system)[0]


def carry_out(verb: str, definition: Definition, system: System) -> tuple[ServiceState, bool]:
    """``act``; (the state afterwards, whether the service did not stop in its time and was killed)."""
    try:
        return _act(verb, definition, system)
    except OSError as error:
        raise ServiceFailed(f"process {definition['name']}: {verb} failed: {error}") from error


def _act(verb: str, definition: Definition, system: System) -> tuple[ServiceState, bool]:
    before = observe(definition, system)
    killed, left = _stop(definition, system) if verb in ("stop", "restart") else (False, "")
    more = f"; {left}" if left else ""
    if verb in ("start", "restart") and (verb == "restart" or not before.active):
        try:
            _start(definition, system)
        except ServiceFailed as error:
            error.message += more
            raise
    if verb == "reload":
        found = _running(definition, system)
        if found is None or not definition["reload_signal"]:
            why = "it is not running" if found is None else "it has no reload_signal"
            raise ServiceFailed(f"process {definition['name']} cannot be reloaded: {why}")
        send_signal(*found, getattr(signal, "SIG" + definition["reload_signal"]))
        system.sleep(_ALIVE)
    after = observe(definition, system)
    wrong = {
        "start": not after.active,
        "restart": not after.active or after.identity == before.identity,
        "reload": after.identity != before.identity,
        "stop": after.active,
    }[verb]
    if wrong:
        program = definition["argv"][0]  # The other words may hold a secret.
        what = f"after {verb} it is {after.text}; its program: {program}"
        raise ServiceFailed(f"process {definition['name']}: {what}{more}")
    if left:
        raise ServiceFailed(f"{left}; it was started anew, and is {after.text}" if verb == "restart" else left)
    return after, killed


def _start(definition: Definition, system: System) -> None:
    try:
        process = detached(definition["argv"], definition["chdir"])
    except OSError as error:
        raise ServiceFailed(f"process {definition['name']} cannot be started: {error}") from error
    started = start_time(process.pid)
    try:
        recorded = _record_process(definition, process.pid, started, system)
        _write(definition["pidfile"], (f"{process.pid}\n" if recorded else f"{process.pid}\n{started}\n").encode())
    except (OSError, EvenkeelError):
        process.kill()  # A process that is not recorded could never be stopped.
        process.wait()
        raise
    end = system.monotonic() + _ALIVE
    while system.monotonic() < end:
        if process.poll() is not None:
            hint = "; its command must stay in the foreground" if process.returncode == 0 else ""
            raise ServiceFailed(
                f"process {definition['name']} ended at once, with exit code {process.returncode}{hint}"
            )
        system.sleep(0.05)


def _write(path: str, data: bytes) -> None:
    """Write the pid file. Directories above it may belong to another user, who must not lead us to directories of a
    third."""
    foreign = stranger(path, trusted())
    folder, name = os.path.split(path)
    if not foreign:
        make_dirs(folder)
    fd = open_dir(os.fsencode(os.path.realpath(folder)))
    try:
        owner = os.fstat(fd).st_uid
        if foreign and (owner in trusted() or owners(path) - trusted() - {owner}):
            raise PermissionError(
                errno.EPERM, f"{foreign}, and has it lead to a directory that is not that user's", path
            )
        temporary = f".{name}.{os.urandom(8).hex()}"
        new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=fd)
        try:
            write_all(new, data)
            os.fchmod(new, 0o644)
            os.fsync(new)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=fd)
            raise
        finally:
            os.close(new)
        os.fsync(fd)
    finally:
        os.close(fd)


def _stop(definition: Definition, system: System) -> tuple[bool, str]:
    """Send the stop signal, and KILL when that does not end the process; then end what it leaves behind in the process
    group that it leads. A later process with its pid gets no signal. Its processes in groups of others are left alone.

    Returns (whether KILL was needed, what it has started and goes on, in words). Raises ServiceFailed where it goes on
    itself.
    """
    found = _running(definition, system)
    if found is None:
        return False, ""
    pid, started = found
    stat, where = read_stat(pid), f"process {definition['name']} (pid {pid})"
    leads = stat is not None and stat.group == pid
    if leads and os.getpgid(0) == pid:
        raise ServiceFailed(f"this process belongs to {where} and would end with it: stop it from another login")
    children = {} if leads or stat is None else _descendants(pid, stat.group)

    def itself() -> dict[int, int]:
        _reap(pid)
        return {pid: started} if start_time(pid) == started else {}

    def left() -> dict[int, int]:
        return _group(pid) if leads else {one: at for one, at in children.items() if start_time(one) == at}

    killed = _end(itself, definition["stop_signal"], system)
    if itself():
        raise ServiceFailed(f"{where} does not end, not even by KILL")
    if leads:
        killed = _end(left, "TERM", system) or killed
    else:
        _wait(left, _STOP_LIMIT, system)
    those = ", ".join(f"{one} ({program_name(one)})" for one in sorted(left()))
    words = f"{where} has ended, and processes that it had started go on: {those}; end them by hand"
    return killed, words if those else ""


def _end(who: Callable[[], dict[int, int]], word: str, system: System) -> bool:
    """Send the signal to the processes, and KILL to those that do not end by it. Returns whether KILL was needed."""
    for name in (word, "KILL"):
        for pid, started in who().items():
            send_signal(pid, started, getattr(signal, "SIG" + name))
        if _wait(who, _STOP_LIMIT, system):
            return name != word
    return True


def _wait(who: Callable[[], dict[int, int]], seconds: float, system: System) -> bool:
    """Wait until none of the processes runs any more; whether that came."""
    end = system.monotonic() + seconds
    while who():
        if system.monotonic() >= end:
            return False
        system.sleep(0.05)
    return True


def _group(group: int) -> dict[int, int]:
    """The processes of the group, each with its start time."""
    stats = (read_stat(entry) for entry in filter(str.isdigit, os.listdir("/proc")))
    return {stat.pid: stat.ticks for stat in stats if stat is not None and stat.group == group and not stat.has_ended}


def _descendants(pid: int, group: int) -> dict[int, int]:
    """The processes of the group that this one has started, directly or not, each with its start time."""
    found: dict[int, int] = {}
    members = _group(group)
    parents = {one: stat.parent for one in members if (stat := read_stat(one)) is not None}
    new = {pid}
    while new:
        new = {one for one, parent in parents.items() if parent in new and one not in found}
        found.update({one: members[one] for one in new})
    return found


def _reap(pid: int) -> None:
    """Collect the exit status where the service is our own child (in a test, or of the agent)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
