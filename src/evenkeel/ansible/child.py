# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The child process of a run: it drives ansible-runner, and sends the events to its parent.

This is the only place that knows ansible-runner. It guards against some habits of ansible-runner: an event handler that
raises or is slow breaks the run; signal handlers stay replaced; ``status`` and ``rc`` call an empty or a wholly rescued
run a success; environment, passwords and extra variables are written below ``env/``. So the handler only enqueues, the
run has a process and a directory of its own, and passwords come through a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import queue
import select
import shlex
import shutil
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from evenkeel.ansible import clock, handing
from evenkeel.ansible.event import Event, mapping
from evenkeel.ansible.processes import DIE_WITH_PARENT, end_all

# A result of more characters than this is not read: ansible-runner replaces it with an empty result, which is then no
# answer. Modules of ours keep their results far below it (module_utils/_host/text.py).
LONGEST_RESULT = 8_000_000
# The largest number of characters of an event in JSON, and of its output.
_LONGEST_EVENT = 2 * LONGEST_RESULT
_LONGEST_OUTPUT = 200_000
# Ansible prints the words of hosts, and ansible-runner reads its events out of that print: a host could forge events,
# also events of other hosts. Events that are made on this machine carry this number, and no host knows it.
SEAL = "PROJECT_UPDATE_ID"
# Seconds between two looks whether the time of a run is over.
_LOOK = 0.2


def main() -> None:
    """Read the order from standard input, run it, and write its events to standard output, one a line."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may write between the events
    import_module("ansible_runner")  # before the order, which may come later
    line, later = _first_line()
    if not line:
        return
    order = json.loads(line)
    os.environ.clear()
    os.environ.update(order["env"])
    watcher = _Watcher(order, later)
    watcher.start()
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(events, pipe, order["seal"]))
    writer.start()
    rc: int | None = None
    try:
        rc = _run(order, events)
    finally:
        watcher.over.set()
        events.put({"end": None if watcher.late.is_set() else rc})
        events.put(None)
        writer.join()
        if watcher.orphaned.is_set():  # the watcher has ended Ansible, and still has to clean up
            watcher.join()


def _first_line() -> tuple[bytes, bytes]:
    """The first line of standard input, and the bytes after it that were read with it."""
    data = b""
    while b"\n" not in data and (more := os.read(0, 1 << 16)):
        data += more
    line, _, later = data.partition(b"\n")
    return line, later


def _run(order: Mapping[str, Any], events: queue.SimpleQueue[Event | None]) -> int | None:
    import ansible_runner

    close_at_once()
    scratch = Path(order["scratch"])
    # ansible-runner drops settings given as an argument together with the environment files; it reads a file.
    (scratch / "env").mkdir(mode=0o700)
    (scratch / "env" / "settings").write_text(json.dumps({"suppress_output_file": True, "pexpect_timeout": 2}))

    def handle(event: Event) -> bool:
        events.put(event)
        return False  # write no file of the event

    def status(data: Mapping[str, Any], runner_config: Any) -> None:
        if data["status"] == "running":  # it holds the whole environment in clear
            (Path(runner_config.artifact_dir) / "command").unlink(missing_ok=True)

    argv = list(order["argv"])
    # A run with passwords is asked for them at a terminal of its own.
    if sys.platform == "linux":
        takes = order["ready"] and not order["passwords"]
        how = [handing.__file__, order["ready"]] if takes else ["-c", DIE_WITH_PARENT]
        argv = [sys.executable, "-IS", *how, str(os.getpid()), *argv]
    run = ansible_runner.run(
        private_data_dir=str(scratch),
        project_dir=order["cwd"],  # where Ansible runs: the user's own directory, for their ansible.cfg
        ident="run",
        binary=argv[0],
        cmdline=shlex.join(argv[1:]),
        passwords=order["passwords"] or None,
        suppress_env_files=True,
        fact_cache_type="",  # the user's own cache counts, and no cache in the scratch directory
        quiet=True,
        event_handler=handle,
        status_handler=status,
    )
    return None if run.rc is None else int(run.rc)


def close_at_once() -> None:
    """Let ansible-runner close its terminal at once. It does so when Ansible has ended, and pexpect gives a program a
    tenth of a second to end."""
    pexpect = import_module("pexpect")

    def close(spawned: Any, force: bool = True) -> None:
        spawned.ptyproc.delayafterclose = 0
        before(spawned, force)

    before, pexpect.spawn.close = pexpect.spawn.close, close


def _write(events: queue.SimpleQueue[Event | None], pipe: Any, seal: int) -> None:
    for event in iter(events.get, None):
        try:
            pipe.write((json.dumps(event) if "end" in event else event_line(event, seal)) + "\n")
            if events.empty():
                pipe.flush()
        except OSError:  # the parent is gone; the other thread sees it too
            return
    with contextlib.suppress(OSError):
        pipe.flush()


def event_line(event: Event, seal: int) -> str:
    """An event as a line for the parent. Without the seal it is only output; a too large event loses its result."""
    output = str(event.get("stdout") or "")[:_LONGEST_OUTPUT]
    if event.get("project_update_id") != seal:
        return json.dumps({"event": "verbose", "stdout": output})
    data = mapping(event.get("event_data"))
    if data.get("res") == {}:  # results of Ansible itself are never empty
        data = {key: value for key, value in data.items() if key != "res"}
    try:
        text = json.dumps({**event, "event_data": data, "stdout": output}, default=str)
        if len(text) <= _LONGEST_EVENT:
            return text
    except (ValueError, TypeError, RecursionError):
        pass  # nested too deep, a number of thousands of digits
    about = {key: str(data.get(key) or "") for key in ("host", "task", "resolved_action", "task_action")}
    return json.dumps({"event": str(event.get("event")), "event_data": about, "stdout": output})


class _Watcher(threading.Thread):
    """Ends Ansible when its time is over: a parent that is stopped cannot do it, and the hosts go back all the same.
    When the parent's end of our standard input closes, it ends Ansible, cleans up, and goes.

    read: the beginning of the lines of the parent, each of which is the end of the time. over: set once Ansible has
    ended. late: set when its time was over before. orphaned: set when the parent is gone.
    """

    def __init__(self, order: Mapping[str, Any], read: bytes) -> None:
        super().__init__(daemon=True)
        self._order, self._read = order, read
        self.over, self.late, self.orphaned = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> None:
        until = math.inf
        while True:
            *lines, self._read = self._read.split(b"\n")
            until = json.loads(lines[-1]) if lines else until
            if clock.running() > until and not self.over.is_set():
                self.late.set()
                end_all(self._order["ident"])
            # A machine that sleeps does not count the seconds of select().
            if select.select([0], [], [], None if until == math.inf else _LOOK)[0]:
                more = os.read(0, 4096)
                if not more:
                    break
                self._read += more
        self.orphaned.set()
        end_all(self._order["ident"], grace=0)
        shutil.rmtree(self._order["session"], ignore_errors=True)
        os._exit(1)


if __name__ == "__main__":
    main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)  # the parent waits for the end, and Python would tidy up first
