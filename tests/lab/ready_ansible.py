# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of ansible-playbook and of ansible, each by a copy of a process that has loaded Ansible and the collection.

A run takes a second to load them, which is most of what it costs. Settings of Ansible hold from the time at which it is
loaded, and so there is a process for each set of them. The directory for temporary files alone is that of the run.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

Done = subprocess.CompletedProcess[str]
COLLECTION = "ansible_collections.evenkeel.fault_tolerance.plugins"
TEMPORARY = "ANSIBLE_LOCAL_TEMP"
# The parts that every run loads, or most do.
PARTS = [
    "ansible.cli.adhoc",
    "ansible.cli.playbook",
    "ansible.executor.process.worker",
    "ansible.executor.module_common",
    *(f"ansible.plugins.{one}" for one in ("strategy.linear", "callback.default")),
    *(f"ansible.plugins.{one}" for one in ("filter.core", "test.core", "test.files")),
]
_ready: dict[str, _Ready] = {}


def run_playbook(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Done:
    """Run ansible-playbook with these words, and wait for its end."""
    return _run_as(["ansible-playbook", *words], cwd, env)


def run_module(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Done:
    """As ``run_playbook``, for ``ansible``, which runs a single module."""
    return _run_as(["ansible", *words], cwd, env)


def _run_as(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Done:
    settings = {key: value for key, value in env.items() if key.startswith("ANSIBLE_") and key != TEMPORARY}
    ready = _ready.setdefault(json.dumps(settings, sort_keys=True), _Ready(settings))
    return ready.run(argv, cwd, env)


class _Ready:
    """The process, which the first run starts."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._one = threading.Lock()  # Some tests call it from threads.

    def run(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Done:
        with self._one, tempfile.TemporaryDirectory() as there:
            process = self._process = self._process or self._start()
            assert process.stdin is not None and process.stdout is not None
            output, errors = Path(there, "output"), Path(there, "errors")
            request = {"argv": list(argv), "cwd": str(cwd), "env": dict(env)}
            process.stdin.write(json.dumps({**request, "written": [str(output), str(errors)]}) + "\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            said = [one.read_text(encoding="utf-8", errors="replace") for one in (output, errors)]
        return Done(argv, code, *said)

    def _start(self) -> subprocess.Popen[str]:
        scratch = tempfile.TemporaryDirectory()
        mine = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        process = subprocess.Popen(
            [sys.executable, __file__],
            cwd="/",
            env={**mine, **self._settings, TEMPORARY: scratch.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(_end, process, scratch)
        return process


def _end(process: subprocess.Popen[str], scratch: tempfile.TemporaryDirectory[str]) -> None:
    process.communicate()
    scratch.cleanup()


def serve() -> None:
    """Load what runs need. Then run the program for each line of input, and print its exit code."""
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    for one in PARTS:
        import_module(one)
    loader: Any = import_module("ansible.plugins.loader")
    loader.init_plugin_loader()
    # Ansible reads the options of these from their documentation, which takes longer than to load them.
    for one in ("local", "ssh"):
        loader.connection_loader.get(one, class_only=True)
    loader.shell_loader.get("sh", class_only=True)
    package = import_module(f"{COLLECTION}.action")
    for path in sorted(Path(package.__path__[0]).glob("ft_*.py")):
        import_module(f"{package.__name__}.{path.stem}")
    gc.freeze()  # A collection would write to all that the copies share.
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            _run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(argv: list[str], cwd: str, env: dict[str, str], written: list[str]) -> NoReturn:
    """Run the program as if it had been started."""
    atexit.unregister(import_module("ansible.utils.path").cleanup_tmp_file)  # of the first process
    random.seed()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(written, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    constants: Any = import_module("ansible.constants")
    constants.DEFAULT_LOCAL_TMP = constants.config.get_config_value("DEFAULT_LOCAL_TMP")
    code = 1
    try:
        import_module(f"ansible.cli.{'adhoc' if argv[0] == 'ansible' else 'playbook'}").main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
