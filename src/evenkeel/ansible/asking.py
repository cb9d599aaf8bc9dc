# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of Ansible that only print information: each is asked by itself, or several share a process that is ready.

A program of Ansible takes half a second to load, and far less to answer. So a process loads Ansible once, on the Python
of the user's own programs, and copies of it are these programs (answering.py). Where that is not possible, for a
program that is no script of Python, say, each program is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from evenkeel.ansible import answering
from evenkeel.collection import collections_path
from evenkeel.outcome import UsageError

# Without a question for so many seconds the process ends.
IDLE = 10.0

# Settings for a program that is run for its answer: it prints the answer and little else.
QUIET = {
    "ANSIBLE_NOCOLOR": "True",
    "ANSIBLE_FORCE_COLOR": "False",
    "ANSIBLE_VERBOSITY": "0",
    "ANSIBLE_DEBUG": "False",
    "ANSIBLE_DEPRECATION_WARNINGS": "False",
    "ANSIBLE_HOST_PATTERN_MISMATCH": "warning",
    "ANSIBLE_INVENTORY_EXPORT": "False",  # else the variables of groups are missing at the hosts
}
# Settings that our own playbooks rely on, whatever the user's configuration says about their playbooks.
OWN = {
    **QUIET,
    "ANSIBLE_ANY_ERRORS_FATAL": "False",
    "ANSIBLE_STRATEGY": "linear",
    "ANSIBLE_TASK_TIMEOUT": "0",
    "ANSIBLE_NO_LOG": "False",
    "ANSIBLE_GATHERING": "explicit",
    "ANSIBLE_SSH_RETRIES": "0",
    "ANSIBLE_RUN_TAGS": "all",
    "ANSIBLE_SKIP_TAGS": "evenkeel-earlier",  # tasks of our roles for the playbook around them, a process for each host
}
# Seconds between two looks whether the caller stops.
_LOOK = 0.2
_STOPPED = "stopped before anything was touched"

Done = subprocess.CompletedProcess[str]
# Waits for the answer of a program; it is given the wish of the caller to stop.
Answered = Callable[[Callable[[], int]], Done | None]


def never() -> int:
    """The wish to stop of somebody who never stops."""
    return 0


def program(name: str) -> str:
    """The user's program ``name`` (ansible-playbook, …): the first on PATH, else the program beside this Python."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        raise UsageError(f"{name} is neither on PATH nor beside {sys.executable}: install ansible-core")
    return found


def quiet(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that is run for its answer. That holds variables of hosts, secrets among them, and
    Ansible would write it to the user's log as well."""
    return {**env, **QUIET, "ANSIBLE_LOG_PATH": os.devnull}


def start(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    vault: Mapping[str, str],
    asked_to_stop: Callable[[], int] = never,
) -> Done:
    """Start the program and wait for its end. vault: vault id -> password, which is in no argv and on no disk.

    Raises UsageError when the caller stops."""
    with _pipes(vault) as ends:
        words = [f"--vault-id={name}@/dev/fd/{end}" for name, end in zip(vault, ends, strict=True)]
        with subprocess.Popen(
            [*argv, *words],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            pass_fds=ends,
        ) as process:
            while True:
                try:
                    output, errors = process.communicate(timeout=_LOOK)
                    return Done(argv, process.returncode, output, errors)
                except subprocess.TimeoutExpired:
                    if asked_to_stop():
                        process.kill()
                        raise UsageError(_STOPPED) from None


class Ready:
    """The process that is ready, started by the first question. It ends soon after the last, and is then renewed."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: _Process | None = None
        self._usable = True
        self.asked_to_stop: Callable[[], int] = never

    def run(self, argv: Sequence[str], cwd: str, env: Mapping[str, str], vault: Mapping[str, str]) -> Done:
        """The same as ``start``, sooner; cwd is that of the first question. A program without an answer is started."""
        with self._turn:
            read = self._ask(argv, cwd, env, vault) if self._usable else None
        done = read(self.asked_to_stop) if read else None
        if done is None:
            self._usable = False
            done = start(argv, cwd, env, vault, self.asked_to_stop)
        return done

    def take_runs(self, path: Path) -> bool:
        """Let the process that is ready take over runs of our playbooks, which come through a socket at ``path``, in a
        private directory. Returns whether there is such a process. It lasts as long as this object then."""
        with self._turn:
            process = self._process
            python = interpreter(program("ansible-playbook"))
            return bool(process and process.runs() and process.python == python and process.take_runs(path))

    def _ask(self, argv: Sequence[str], cwd: str, env: Mapping[str, str], vault: Mapping[str, str]) -> Answered:
        python = interpreter(argv[0])
        if self._process is None or not self._process.runs():
            if not python:
                return lambda _asked_to_stop: None
            ahead, _Process.ahead = _Process.ahead, None
            self._process = ahead if ahead and ahead.fits(python, cwd, env) else _Process(python, argv[0], cwd, env)
        elif python != self._process.python:  # a program of another Ansible
            return lambda _asked_to_stop: None
        return self._process.ask(argv, env, vault)


class _Process:
    """A process that is ready; it ends when nobody can ask it any more.

    ahead: the one that was started before there was a question.
    """

    ahead: ClassVar[_Process | None] = None

    def __init__(self, python: Sequence[str], program: str, cwd: str, env: Mapping[str, str]) -> None:
        self.python = python
        self._start = (list(python), cwd, dict(env))
        self._used = threading.Event()
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(*python, answering.__file__, str(theirs.fileno()), str(IDLE), str(collections_path()), program),
                    *(_callbacks(), json.dumps(OWN)),
                ],
                cwd=cwd,
                env={**env, answering.MARK: answering.NO_MARK},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        weakref.finalize(self, _end, self._requests, self._process, self._used)

    def fits(self, python: Sequence[str], cwd: str, env: Mapping[str, str]) -> bool:
        """Whether a question would start it in the same way."""
        return self._start == (list(python), cwd, dict(env)) and self.runs()

    def runs(self) -> bool:
        return self._process.poll() is None

    def ask(self, argv: Sequence[str], env: Mapping[str, str], vault: Mapping[str, str]) -> Answered:
        """Hand over a program; the function that waits for its answer, which is None where it gave none."""
        self._used.set()
        request = json.dumps({"argv": list(argv), "env": dict(env), "vault": list(vault)}).encode() + b"\n"
        reads, writes = zip(*(os.pipe() for _ in ("output", "errors", "code")), strict=True)
        try:
            with _pipes(vault) as ends, contextlib.suppress(OSError):  # an answer is missed then
                sent = socket.send_fds(self._requests, [request], [*writes, *ends])
                self._requests.sendall(request[sent:])
        finally:
            for one in writes:
                os.close(one)

        def read(asked_to_stop: Callable[[], int]) -> Done | None:
            output, errors, code = (data.decode("utf-8", "replace") for data in _read(reads, asked_to_stop))
            return Done(list(argv), int(code), output, errors) if code.strip() else None

        return read

    def take_runs(self, path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as listening, contextlib.suppress(OSError):
            listening.bind(str(path))
            listening.listen()
            socket.send_fds(self._requests, [b'{"runs": true}\n'], [listening.fileno()])
            return True
        return False


def _callbacks() -> str:
    """The directory of the callback plugin of ansible-runner, which nobody needs to load for it."""
    found = find_spec("ansible_runner")
    package = next(iter(found.submodule_search_locations or ()), "") if found else ""
    return os.path.join(package, "display_callback", "callback")


def start_ahead() -> None:
    """Let a process load Ansible for the first question that is asked in this directory, while the driver loads its own
    code. Errors are left to the question."""
    with contextlib.suppress(OSError, UsageError):
        found = program("ansible-config")
        if python := interpreter(found):
            _Process.ahead = _Process(python, found, os.getcwd(), quiet(os.environ))


def interpreter(program: str) -> list[str]:
    """The words that start the Python of a script, from its first line; empty for a program of another kind."""
    line = b""
    with contextlib.suppress(OSError), open(program, "rb") as stream:  # one may run what one may not read
        line = stream.readline(4096)
    words = line[2:].decode("utf-8", "replace").split() if line.startswith(b"#!") else []
    if words and os.path.basename(words[0]) == "env":
        words = [shutil.which(words[1]) or "", *words[2:]] if len(words) > 1 else []
    return words if words and os.path.basename(words[0]).startswith("python") else []


@contextmanager
def _pipes(vault: Mapping[str, str]) -> Iterator[list[int]]:
    """The ends of pipes from which each of the passwords can be read once."""
    with contextlib.ExitStack() as stack:
        ends = []
        for password in vault.values():
            read, write = os.pipe()
            ends.append(read)
            stack.callback(os.close, read)
            os.write(write, password.encode() + b"\n")
            os.close(write)
        yield ends


def _read(pipes: Sequence[int], asked_to_stop: Callable[[], int]) -> list[bytes]:
    """All that comes through each of the pipes, which are closed then. Raises UsageError when the caller stops."""
    found: dict[int, list[bytes]] = {one: [] for one in pipes}
    with selectors.DefaultSelector() as selector:
        for one in pipes:
            selector.register(one, selectors.EVENT_READ)
        while selector.get_map():
            if asked_to_stop():
                for key in list(selector.get_map().values()):
                    os.close(key.fd)
                raise UsageError(_STOPPED)
            for key, _events in selector.select(_LOOK):
                data = os.read(key.fd, 1 << 16)
                found[key.fd].append(data)
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [b"".join(found[one]) for one in pipes]


def _end(requests: socket.socket, process: subprocess.Popen[bytes], used: threading.Event) -> None:
    requests.close()
    if used.is_set():  # else it may still load Ansible, and nobody has to wait until it sees that it is not needed
        process.wait()
