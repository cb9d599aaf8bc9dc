# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands: run with a timeout and without pipes, or started as a detached process."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import IO, NamedTuple

from .processes import Stopped
from .trust import stranger, trusted

# Exit codes of a command that ran out of time, could not be started, or was ended by a signal below a shell.
_NO_ANSWER = (124, 126, 127, *range(129, 128 + signal.NSIG))


class Completed(NamedTuple):
    """A finished command; ``rc`` is 127 when it could not be started and 124 when it ran out of time, or printed more
    than we read. It is negative when a signal ended it; a shell says 128 and the number of the signal then."""

    argv: tuple[str, ...]
    rc: int
    out: str
    err: str

    @property
    def has_answered(self) -> bool:
        """Whether the command came to its own end, so that its exit code tells anything."""
        return self.rc >= 0 and self.rc not in _NO_ANSWER

    @property
    def words(self) -> str:
        """The last lines of its output, for a message."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        end = f"exit code {self.rc}" if self.rc >= 0 else f"it was ended by signal {-self.rc}"
        return " / ".join(lines[-3:]) or end


# Settings of our interpreter, of the controller and of the linker would change the behaviour of a command.
_PRIVATE_VARIABLES = ("PYTHON", "ANSIBLE", "LD_", "VIRTUAL_ENV", "CONDA", "_MEIPASS")
_PLACES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_LOCALES = ("/etc/default/locale", "/etc/locale.conf")
# A line of such a file, of which the most characters are read.
_VARIABLE = r"""^[ \t]*(?:export[ \t]+)?(LANG|LANGUAGE|LC_[A-Z]+)=["']?([A-Za-z0-9_.@:-]+)"""
_LONGEST = 65536
# A rollback works under the umask 077, which must not become that of a command or a service.
_UMASK = 0o022
# Seconds for the end of a command that was killed. The kernel ends none that waits for a disk or a server.
_ENDS = 5.0
# The most bytes of output, which is held in memory: all paths of all packages of a large host are less. A command of
# another user may print any number. Seconds between two looks at it.
_MOST, _LOOK = 64 << 20, 0.5


def run(argv: Sequence[str], timeout: float) -> Completed:
    """Run a command whose output is parsed: in our environment without private variables, in the locale C.UTF-8.

    Never raises for a failure of the command. Processes that it leaves in the background are neither awaited nor
    killed.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_PRIVATE_VARIABLES)}
    return _run(argv, timeout, dict(kept, PATH=search_path(), LC_ALL="C.UTF-8"))


def command(argv: Sequence[str], timeout: float) -> Completed:
    """Run a command that the user declared (a hook, a probe), in the environment and locale of the host."""
    return _run(argv, timeout, environment())


def environment() -> dict[str, str]:
    """The environment that this host gives to a command: no variable of a login or of a controller is in it."""
    try:
        entry = pwd.getpwuid(os.geteuid())
        account = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": "/bin/sh"}
    except KeyError:
        account = {"HOME": "/"}
    kept = {key: os.environ[key] for key in ("TZ",) if key in os.environ}
    return {"PATH": search_path(), **account, **kept, **locale()}


def search_path() -> str:
    """Our PATH, and after it the usual places of commands: a login of an ordinary user lacks some of them. Root looks
    for a command only where no other user can put one."""
    own = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    if os.geteuid() == 0:
        own = [folder for folder in own if _is_safe(folder)]
    return os.pathsep.join([*own, *(folder for folder in _PLACES if folder not in own)])


@lru_cache
def _is_safe(folder: str) -> bool:
    return os.path.isabs(folder) and os.path.isdir(folder) and not stranger(f"{folder}/any", trusted())


def locale(paths: Sequence[str] = _LOCALES) -> dict[str, str]:
    """The variables of the locale of this host, from the first file that has any. A line of another form decides
    nothing."""
    for path in paths:
        with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            found = dict(re.findall(_VARIABLE, stream.read(_LONGEST), re.MULTILINE))
            if found:
                return found
    return {"LANG": "C.UTF-8"}


def _run(argv: Sequence[str], timeout: float, variables: dict[str, str]) -> Completed:
    """Run the command without a shell and without standard input."""
    words = tuple(str(word) for word in argv)
    # A pipe would end with the last process that holds it, not with the command.
    with _output_file() as out, _output_file() as err:
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=variables,
                start_new_session=True,
                umask=_UMASK,
            )
        except OSError as error:
            return Completed(words, 127, "", f"{words[0] if words else 'empty command'}: {error.strerror}")
        try:
            why = _wait(process, timeout, (out, err))
        except Stopped:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
            raise
        if _is_too_long(out, err):
            return Completed(words, 124, "", why or _too_long())
        return Completed(words, 124 if why else process.returncode, _content(out), _content(err) + why)


def _wait(process: subprocess.Popen[bytes], timeout: float, output: Sequence[IO[bytes]]) -> str:
    """Wait for the command, and kill it at its limits; why it was killed, or empty."""
    end = time.monotonic() + timeout
    while True:
        left = max(0.0, end - time.monotonic())
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(left, _LOOK))
            return ""
        if left <= _LOOK or _is_too_long(*output):
            break
    os.killpg(process.pid, signal.SIGKILL)
    why = f"\nkilled: {_too_long()}" if _is_too_long(*output) else f"\nkilled after {timeout:g} s"
    try:
        process.wait(_ENDS)
    except subprocess.TimeoutExpired:  # The process waits for a disk or a server that does not answer.
        why += ", and it has not ended"
    return why


def _is_too_long(*output: IO[bytes]) -> bool:
    return any(os.fstat(stream.fileno()).st_size > _MOST for stream in output)


def _too_long() -> str:
    return f"it printed more than {_MOST >> 20} MiB"


def _output_file() -> IO[bytes]:
    """A file for the output of a command."""
    stream = memory_file()
    # With O_APPEND a process that opens /dev/stdout anew leaves no hole.
    fcntl.fcntl(stream, fcntl.F_SETFL, os.O_APPEND)
    return stream


def memory_file() -> IO[bytes]:
    """A file without a name, in memory where Python and the kernel can: a disk may be full or read-only."""
    try:
        return os.fdopen(os.memfd_create("evenkeel"), "w+b")
    except (AttributeError, OSError):  # Some builds of Python lack the call, and so do some sandboxes.
        return tempfile.TemporaryFile()


def _content(stream: IO[bytes]) -> str:
    """The whole content so far, read without a seek: processes that still write share the position."""
    number = stream.fileno()
    return os.pread(number, min(os.fstat(number).st_size, _MOST), 0).decode("utf-8", "replace")


def detached(
    argv: Sequence[str], cwd: str = "/", stdin: int = subprocess.DEVNULL, more: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that outlives us: in its own session, with none of our open files and variables.

    A controller marks its processes by variables (a session, a run), which a service must not inherit. ``more``:
    additional variables; unlike arguments they can be read by the user of the process alone.
    """
    return subprocess.Popen(  # pylint: disable=ansible-bad-function  # the agent has no AnsibleModule
        [str(word) for word in argv],
        cwd=cwd,
        env={**environment(), **(more or {})},
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
        umask=_UMASK,
    )
