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
import os
import queue
import shlex
import shutil
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

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


def main() -> None:
    """Read the order from standard input, run it, and write its events to standard output, one a line."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may write between the events
    import_module("ansible_runner")  # before the order, which may come later
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    os.environ.clear()
    os.environ.update(order["env"])
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
        if orphaned.is_set():  # the watcher has ended Ansible, and still has to clean up
            watcher.join()


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


def _die_with_parent(order: Mapping[str, Any], orphaned: threading.Event) -> None:
    """When the parent's end of our standard input closes, end Ansible, clean up, and go."""
    while os.read(0, 4096):
        pass
    orphaned.set()
    end_all(order["ident"], grace=0)
    shutil.rmtree(order["session"], ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)  # the parent waits for the end, and Python would tidy up first
