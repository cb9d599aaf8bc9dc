# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-playbook through ansible-runner, in a child process that can be killed and that dies with us.

This is the only place that knows ansible-runner. What it guards against: an event handler that raises or is slow
breaks the run; signal handlers stay replaced; ``status`` and ``rc`` call an empty or a wholly rescued run a
success; environment, passwords and extra variables are written below ``env/``. So the handler only enqueues, the
run has a process and a directory of its own, passwords come through a pipe, and success is judged from the events
by the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenkeel.ansible.processes import DIE_WITH_PARENT, MARK, end_all

Event = dict[str, Any]
# How long the child may take, after Ansible was ended, to hand over the last events.
_LAST_WORDS = 3.0
# A result of more characters than this is not taken from a host: ansible-runner replaces it with nothing, which is then
# no answer. Modules of ours keep theirs far below it (module_utils/_text.py).
LONGEST_RESULT = 8_000_000
# What an event may take on its way to us, in characters of JSON, and what it may show as output.
_LONGEST_EVENT = 2 * LONGEST_RESULT
_LONGEST_OUTPUT = 200_000
# Ansible prints what hosts say, and ansible-runner reads its events out of what is printed: a host could write events
# of its own making, of other hosts too. Those that are made on this machine carry this number, and no host knows it.
_SEAL = "PROJECT_UPDATE_ID"


@dataclass(frozen=True)
class Job:
    """One run: the whole command line, where, with what.

    env: set in addition to this process's environment. passwords: prompts (regular expressions) and answers.
    scratch: a private directory (0700); the run makes and removes one of its own in it.
    """

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    passwords: Mapping[str, str]
    scratch: Path


@dataclass(frozen=True)
class Ended:
    """How a run ended. rc is None when Ansible (or the child) was killed; stopped is the reason we ended it for."""

    rc: int | None
    stopped: str = ""
    errors: str = ""


def execute(job: Job, on_event: Callable[[Event], None], stop: Callable[[], str]) -> Ended:
    """Run ``job`` to its end, calling ``on_event`` in this thread for each event, in order.

    stop: asked several times a second; a reason (not empty) ends the run and all its processes.
    """
    ident = uuid.uuid4().hex
    scratch = Path(tempfile.mkdtemp(prefix="run-", dir=job.scratch))
    seal = uuid.uuid4().int
    env = {**os.environ, **job.env, MARK: ident, "MAX_EVENT_RES": str(LONGEST_RESULT), _SEAL: str(seal)}
    # The display of the user's choice would be wrapped around the events, and nobody would see it.
    env.pop("ANSIBLE_STDOUT_CALLBACK", None)
    errors = scratch / "errors"
    with errors.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "evenkeel.ansible.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            cwd=job.cwd,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle, not Ansible's
        )
    try:
        order: dict[str, Any] = {
            "ident": ident,
            "argv": list(job.argv),
            "cwd": job.cwd,
            "passwords": dict(job.passwords),
        }
        order |= {"scratch": str(scratch), "session": str(job.scratch), "seal": seal}
        ended = _follow(child, json.dumps(order).encode() + b"\n", on_event, stop, ident)
        return Ended(ended.rc, ended.stopped, errors.read_text(errors="replace")[-4000:])
    finally:
        # Also when on_event raised: nothing of the run may go on unseen.
        if child.poll() is None:
            end_all(ident)
        for stream in (child.stdin, child.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        child.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _follow(
    child: subprocess.Popen[bytes],
    order: bytes,
    on_event: Callable[[Event], None],
    stop: Callable[[], str],
    ident: str,
) -> Ended:
    assert child.stdin is not None and child.stdout is not None  # both are pipes
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(order)
        child.stdin.flush()  # and stays open: its end tells the child that we died
    pipe = child.stdout.fileno()
    begun: list[bytes] = []  # of a line that is not whole yet
    rc: int | None = None
    finished = False
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
                message = json.loads(line)
                if "end" in message:
                    rc, finished = message["end"], True
                else:
                    on_event(message)
        if not stopped and not finished:
            stopped = stop()
            if stopped:
                end_all(ident, spare=child.pid)
                give_up = time.monotonic() + _LAST_WORDS
        if give_up is not None and time.monotonic() > give_up:
            end_all(ident, grace=0)
            give_up = None
    if not finished or rc is None:
        # Somebody killed Ansible or the child: what is left of the run must not go on behind our back.
        end_all(ident, grace=0.5)
    return Ended(rc, stopped)


# ---- in the child process ----


def _child() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may write between the events
    orphaned = threading.Event()
    watcher = threading.Thread(target=_die_with_parent, args=(order, orphaned), daemon=True)
    watcher.start()
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(events, pipe, order["seal"]))
    writer.start()
    rc: int | None = None
    try:
        rc = _run(order, events)
    finally:
        events.put({"end": rc})
        events.put(None)
        writer.join()
        if orphaned.is_set():  # Ansible has ended because the watcher ended it, and it has still to clean up
            watcher.join()


def _run(order: Mapping[str, Any], events: queue.SimpleQueue[Event | None]) -> int | None:
    import ansible_runner

    scratch = Path(order["scratch"])
    # Settings given as an argument are dropped together with the environment files; a file of ours is read.
    (scratch / "env").mkdir(mode=0o700)
    (scratch / "env" / "settings").write_text(json.dumps({"suppress_output_file": True, "pexpect_timeout": 2}))

    def handle(event: Event) -> bool:
        events.put(event)
        return False  # keep no file of it

    def status(data: Mapping[str, Any], runner_config: Any) -> None:
        if data["status"] == "running":  # it holds the whole environment in clear
            (Path(runner_config.artifact_dir) / "command").unlink(missing_ok=True)

    argv = list(order["argv"])
    if sys.platform == "linux":
        argv = [sys.executable, "-IS", "-c", DIE_WITH_PARENT, str(os.getpid()), *argv]
    run = ansible_runner.run(
        private_data_dir=str(scratch),
        project_dir=order["cwd"],  # where Ansible runs: the user's own directory, for their ansible.cfg
        ident="run",
        binary=argv[0],
        cmdline=shlex.join(argv[1:]),
        passwords=order["passwords"] or None,
        suppress_env_files=True,
        fact_cache_type="",  # the user's own cache counts, not one in the scratch directory
        quiet=True,
        event_handler=handle,
        status_handler=status,
    )
    return None if run.rc is None else int(run.rc)


def _write(events: queue.SimpleQueue[Event | None], pipe: Any, seal: int) -> None:
    for event in iter(events.get, None):
        try:
            pipe.write((json.dumps(event) if "end" in event else told(event, seal)) + "\n")
            if events.empty():
                pipe.flush()
        except OSError:  # the parent is gone; the other thread sees it too
            return
    with contextlib.suppress(OSError):
        pipe.flush()


def told(event: Event, seal: int) -> str:
    """An event as a line for the parent: what is not sealed is output and no more, what is too large has no result."""
    output = str(event.get("stdout") or "")[:_LONGEST_OUTPUT]
    if event.get("project_update_id") != seal:
        return json.dumps({"event": "verbose", "stdout": output})
    data = event.get("event_data") or {}
    if data.get("res") == {}:  # Ansible's own are never empty
        data = {key: value for key, value in data.items() if key != "res"}
    try:
        text = json.dumps({**event, "event_data": data, "stdout": output}, default=str)
        if len(text) <= _LONGEST_EVENT:
            return text
    except (ValueError, TypeError, RecursionError):
        pass  # nested too deep, a number of thousands of digits
    about = {key: str(data.get(key) or "") for key in ("host", "task", "resolved_action", "task_action")}
    return json.dumps({"event": str(event.get("event")), "event_data": about, "stdout": output})


def _die_with_parent(order: Mapping[str, Any], orphaned: threading.Event) -> None:
    """When the parent's end of our standard input closes, end Ansible, clean up, and go."""
    while os.read(0, 4096):
        pass
    orphaned.set()
    end_all(order["ident"], grace=0)
    shutil.rmtree(order["session"], ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    _child()
