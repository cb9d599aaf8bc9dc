# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that has loaded the user's Ansible once. A copy of it runs each program that only prints information.

It runs on the Python of these programs, and so it needs that Python's standard library alone; see asking.py.

usage: answering.py SOCKET IDLE COLLECTIONS PROGRAM
SOCKET: the number of the open socket for requests. IDLE: the seconds without a request after which it ends.
COLLECTIONS: the path that stands before the user's paths of collections. PROGRAM: one of the programs, whose directory
Python searches as it does for the program itself.
"""

import atexit
import functools
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module

# More file descriptors than any request has: the program's output, errors and exit code, and a pipe for each password.
_MOST = 64
# The sources of a vault password with which Ansible asks a person.
PROMPTS = ("prompt", "prompt_ask_vault_pass")


def main() -> None:
    number, idle, collections, program = sys.argv[1:]
    sys.path[0] = os.path.dirname(program)
    from ansible import constants

    # As ANSIBLE_COLLECTIONS_PATH sets it, which would hide the user's own value from ansible-config.
    constants.COLLECTIONS_PATHS = [collections, *constants.COLLECTIONS_PATHS]
    # The driver has asked for these passwords, and hands them on; nobody could answer here.
    constants.DEFAULT_ASK_VAULT_PASS = False
    constants.DEFAULT_VAULT_IDENTITY_LIST = [
        one for one in constants.DEFAULT_VAULT_IDENTITY_LIST if one and one.rpartition("@")[2] not in PROMPTS
    ]
    for name in ("config", "inventory", "playbook"):
        import_module(f"ansible.cli.{name}")
    with suppress(Exception):  # then each program reads it for itself
        _read_once(os.path.join(os.path.dirname(constants.__file__), "config", "ansible_builtin_runtime.yml"))

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(number)) as requests:
        while select.select([requests], [], [], float(idle))[0]:
            data, found, _flags, _address = socket.recv_fds(requests, 1 << 16, _MOST)
            while data and not data.endswith(b"\n"):
                more = requests.recv(1 << 16)
                data = data + more if more else b""
            if not data:
                return
            if os.fork() == 0:
                requests.close()
                _answer(found, **json.loads(data))
            for one in found:
                os.close(one)


def _read_once(path: str) -> None:
    """Read the names of Ansible's own plugins, which takes a tenth of a second. The result is kept by the text that was
    read, so that the programs find it where the text is still the same."""
    finder, name = import_module("ansible.utils.collection_loader._collection_finder"), "_meta_yml_to_dict"
    read = functools.cache(getattr(finder, name))
    setattr(finder, name, read)
    with open(path, "rb") as stream:
        read(stream.read(), ("ansible.builtin", "runtime.yml"))


def _answer(found: list[int], argv: list[str], env: dict[str, str], vault: list[str]) -> None:
    """Run a program as if it had been started; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    atexit._clear()  # what the first process removes at its end
    output, errors, ended, *pipes = found
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.environ.clear()
    os.environ.update(env)
    # Ansible read this setting when it was loaded.
    if env.get("ANSIBLE_INJECT_FACT_VARS") == "False":
        vars(import_module("ansible.constants"))["INJECT_FACTS_AS_VARS"] = False
        vars(import_module("ansible.vars.manager"))["_INJECT_FACTS"] = False  # of 2.21
    sys.argv = [*argv, *(f"--vault-id={name}@/dev/fd/{pipe}" for name, pipe in zip(vault, pipes, strict=True))]
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(ended, b"%d\n" % code)
    os._exit(code)


if __name__ == "__main__":
    main()
    atexit._run_exitfuncs()
    os._exit(0)  # the driver waits for the end, and Python would take a tenth of a second to tidy up
