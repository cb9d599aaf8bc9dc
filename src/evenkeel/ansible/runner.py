# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-playbook in a child process that can be killed, and that dies with its parent.

The child (child.py) drives ansible-runner and sends its events through a pipe; the caller judges success from them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenkeel.ansible import clock
from evenkeel.ansible.answering import MARK
from evenkeel.ansible.child import LONGEST_RESULT, SEAL
from evenkeel.ansible.event import Event
from evenkeel.ansible.processes import end_all

# Seconds that the child may take, after Ansible was ended, to hand over the last events.
_LAST_WORDS = 3.0


@dataclass(frozen=True)
class Job:
    """A run: its whole command line, its directory, its environment and its passwords.

    env: set in addition to this process's environment. passwords: prompts (regular expressions) and answers.
    scratch: a private directory (0700); the run makes and removes a directory of its own in it. until: the end of its
    time (see clock.py), asked several times a second. The child ends the run then, also while this process is stopped.
    ready: the socket of the process that has loaded Ansible, which takes over the run where it can; or nothing.
    """

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    passwords: Mapping[str, str]
    scratch: Path
    until: Callable[[], float] | None = None
    ready: str = ""


@dataclass(frozen=True)
class Ended:
    """The end of a run. rc: None when Ansible (or the child) was killed. stopped: the reason for which we ended it."""

    rc: int | None
    stopped: str = ""
    errors: str = ""


class Child:
    """A child that loads ansible-runner, and then waits for its order. scratch: the directory of its run."""

    _orders: _Orders

    def __init__(self, cwd: str, scratch: Path) -> None:
        self.ident, self.seal = uuid.uuid4().hex, uuid.uuid4().int
        self.scratch = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
        self.errors = self.scratch / "errors"
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "evenkeel.ansible.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, MARK: self.ident},
                cwd=cwd,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle, not Ansible's
            )

    @property
    def waits(self) -> bool:
        """Whether it can run something. A cleaner of temporary files may have removed its directory."""
        return self.process.poll() is None and self.scratch.is_dir()

    def begin(self, job: Job) -> None:
        """Begin ``job``. The child ends with it."""
        env = {**os.environ, **job.env, MARK: self.ident, "MAX_EVENT_RES": str(LONGEST_RESULT), SEAL: str(self.seal)}
        # A display that the user has chosen would be wrapped around the events, and nobody would see it.
        env.pop("ANSIBLE_STDOUT_CALLBACK", None)
        order = {
            "ident": self.ident,
            "argv": list(job.argv),
            "env": env,
            "cwd": job.cwd,
            "passwords": dict(job.passwords),
            "scratch": str(self.scratch),
            "ready": job.ready,
            "session": str(job.scratch),
            "seal": self.seal,
        }
        self._orders = _Orders(self.process, order)

    def ends_by(self, until: Callable[[], float] | None) -> None:
        """Tell it the end of the time of its job, which it keeps also while this process is stopped."""
        self._orders.until = until or _never
        self._orders.tell()

    def follow(
        self, on_event: Callable[[Event], None], stop: Callable[[], str], until: Callable[[], float] | None = None
    ) -> Ended:
        """Follow the job that has begun to its end; see ``Runner.execute()``. until: see ``Job``."""
        try:
            self.ends_by(until)
            ended = _follow(self.process, self._orders, on_event, stop)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it has said its last word
                self.process.wait(_LAST_WORDS)
            return Ended(ended.rc, ended.stopped, self.errors.read_text(errors="replace")[-4000:])
        finally:
            self.end()  # Also when on_event raised.

    def end(self) -> None:
        """End the processes of the run: none of them may go on unseen."""
        if self.process.poll() is None:
            end_all(self.ident)
        self.close()

    def close(self) -> None:
        """End it, where it still waits, and remove its directory."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Runner:
    """Runs jobs in one directory, and starts the child of a job that is known to follow. scratch: as that of a job."""

    def __init__(self, cwd: str, scratch: Path) -> None:
        self._cwd, self._scratch = cwd, scratch
        self._ahead: list[Child] = []

    def prepare(self) -> None:
        """Start the child of the next job, unless one waits. An error is left to that job."""
        with contextlib.suppress(OSError):
            if not self._ahead:
                self._ahead.append(Child(self._cwd, self._scratch))

    def execute(self, job: Job, on_event: Callable[[Event], None], stop: Callable[[], str]) -> Ended:
        """Run ``job`` to its end, calling ``on_event`` in this thread for each event, in order.

        stop: asked several times a second; a reason (not empty) ends the run and all its processes. It is asked as well
        where the child ended the run.
        """
        return self.begin(job).follow(on_event, stop, job.until)

    def begin(self, job: Job) -> Child:
        """Begin ``job``, for a caller who follows it to its end later, or ends it."""
        child = self._waiting() or Child(job.cwd, job.scratch)
        child.begin(job)
        return child

    def _waiting(self) -> Child | None:
        """The child that waits, if it can run something."""
        with contextlib.suppress(IndexError):  # another thread may have taken it
            child = self._ahead.pop()
            if child.waits:
                return child
            child.close()
        return None

    def close(self) -> None:
        """End a child that nobody needs any more."""
        while self._ahead:
            self._ahead.pop().close()


def _never() -> float:
    """The end of the time of a run that has none."""
    return math.inf


class _Orders:
    """The lines for the child: the order, then the end of its time whenever that has moved. The pipe stays open: its
    end tells the child that we died."""

    def __init__(self, child: subprocess.Popen[bytes], order: Mapping[str, object]) -> None:
        self.ident, self.until = str(order["ident"]), _never
        self._child, self._told = child, math.inf
        self._send(order)

    def tell(self) -> None:
        until = self.until()
        if until != self._told:
            self._send(clock.since_boot(until))
            self._told = until

    def _send(self, value: object) -> None:
        assert self._child.stdin is not None  # a pipe
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(value).encode() + b"\n")
            self._child.stdin.flush()


def _follow(
    child: subprocess.Popen[bytes],
    orders: _Orders,
    on_event: Callable[[Event], None],
    stop: Callable[[], str],
) -> Ended:
    assert child.stdout is not None  # a pipe
    pipe = child.stdout.fileno()
    begun: list[bytes] = []  # the parts of a line that is not complete yet
    rc: int | None = None
    heard = finished = False
    stopped = ""
    give_up: float | None = None
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.2)
        if ready:
            data = os.read(pipe, 1 << 16)
            if not data:
                break
            *lines, rest = data.split(b"\n")
            if lines:
                lines[0] = b"".join([*begun, lines[0]])
                begun = []
            begun.append(rest)
            for line in lines:
                heard = True
                message = json.loads(line)
                if "end" in message:
                    rc, finished = message["end"], True
                else:
                    on_event(message)
        if not stopped and not finished:
            orders.tell()
            stopped = stop()
            if stopped:
                if heard:
                    end_all(orders.ident, spare=child.pid)
                else:  # the child may still be about to start Ansible, also after a signal that it handles
                    end_all(orders.ident, grace=0)
                give_up = time.monotonic() + _LAST_WORDS
        if give_up is not None and time.monotonic() > give_up:
            end_all(orders.ident, grace=0)
            give_up = None
    if not finished or rc is None:
        # Somebody killed Ansible or the child: the remaining processes of the run must not go on unseen.
        end_all(orders.ident, grace=0.5)
        stopped = stopped or stop()
    return Ended(rc, stopped)
