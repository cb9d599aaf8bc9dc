# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that has loaded the user's Ansible once. A copy of it runs each program that only prints information, and
each of our own playbooks (see handing.py).

It runs on the Python of these programs, and so it needs that Python's standard library alone; see asking.py.

usage: answering.py SOCKET IDLE COLLECTIONS PROGRAM CALLBACKS OWN
SOCKET: the number of the open socket for requests. IDLE: the seconds without a request after which it ends, as long as
no session runs playbooks. COLLECTIONS: the path that stands before the user's paths of collections. PROGRAM: one of the
programs, whose directory Python searches as it does for the program itself. CALLBACKS: the directory of the callback of
our runs. OWN: their settings, variables of the environment as JSON.
"""

import atexit
import ctypes
import functools
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from importlib import import_module

# More file descriptors than any request has: the program's output, errors and exit code, and a pipe for each password.
_MOST = 64
# The sources of a vault password with which Ansible asks a person.
PROMPTS = ("prompt", "prompt_ask_vault_pass")


# The variable that names the run of a process (processes.py), and the value that stands for a name until there is one.
MARK = "EVENKEEL_RUN"
NO_MARK = "0" * 32
# The answer to a run that is taken over, which brings a handle of the process.
TAKEN = b"+"
# The settings that Ansible reads when a run needs them. It has read all others by the time at which it is loaded.
_READ_LATE = {
    *("ANSIBLE_PIPELINING", "CALLBACKS_ENABLED", "DEFAULT_GATHERING", "DEFAULT_STDOUT_CALLBACK"),
    *("ENABLE_TASK_DEBUGGER", "HOST_PATTERN_MISMATCH", "INJECT_FACTS_AS_VARS", "RETRY_FILES_ENABLED"),
    *("TAGS_RUN", "TAGS_SKIP"),
}
# The parts that a run of a playbook loads, and programs that print information do not.
_PARTS = (
    *("ansible.executor.module_common", "ansible.plugins.strategy.linear", "ansible.plugins.filter.core"),
    "ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action",
)
# Plugins of these types. Each run reads the options of all from their documentation, which takes longer than to load
# them.
_PLUGINS = {
    "become": ("runas", "su", "sudo"),
    "cache": ("memory",),
    "callback": ("default", "junit", "minimal", "oneline", "tree"),
    "connection": ("local", "paramiko_ssh", "psrp", "ssh", "winrm"),
    "inventory": ("auto", "host_list", "ini", "script", "toml", "yaml"),
    "shell": ("cmd", "powershell", "sh"),
}


def main() -> None:
    number, idle, collections, program, callbacks, own = sys.argv[1:]
    sys.path[0] = os.path.dirname(program)
    mark = _place_of_mark()
    from ansible import constants

    found = os.stat(constants.__file__)
    # As ANSIBLE_COLLECTIONS_PATH sets it, which would hide the user's own value from ansible-config.
    constants.COLLECTIONS_PATHS = [collections, *constants.COLLECTIONS_PATHS]
    constants.DEFAULT_CALLBACK_PLUGIN_PATH = [*constants.DEFAULT_CALLBACK_PLUGIN_PATH, callbacks]
    # The driver has asked for these passwords, and hands them on; nobody could answer here.
    constants.DEFAULT_ASK_VAULT_PASS = False
    constants.DEFAULT_VAULT_IDENTITY_LIST = [
        one for one in constants.DEFAULT_VAULT_IDENTITY_LIST if one and one.rpartition("@")[2] not in PROMPTS
    ]
    _adopt({**os.environ, **json.loads(own)})
    for name in ("config", "inventory", "playbook"):
        import_module(f"ansible.cli.{name}")
    with suppress(Exception):  # then each program reads it for itself
        _read_once(os.path.join(os.path.dirname(constants.__file__), "config", "ansible_builtin_runtime.yml"))

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(number)) as requests:
        sockets, patience = [requests], float(idle) if idle else None
        while ready := select.select(sockets, [], [], patience)[0]:
            if requests not in ready:
                _take(sockets[1], mark, unchanged=_is(constants.__file__, found))
                continue
            data, received = _receive(requests)
            if not data:
                return
            asked = json.loads(data)
            if "runs" in asked:
                sockets, patience = [requests, socket.socket(fileno=received[0])], None
                os.setsid()  # A Ctrl-C at the terminal is for the driver to handle.
                _load_for_runs()
                continue
            if os.fork() == 0:
                requests.close()
                _answer(received, **asked)
            for one in received:
                os.close(one)


def _receive(sender: socket.socket) -> tuple[bytes, list[int]]:
    """A line, and the files that came with it; no bytes where the sender has gone."""
    data, found, _flags, _address = socket.recv_fds(sender, 1 << 16, _MOST)
    while data and not data.endswith(b"\n"):
        more = sender.recv(1 << 16)
        data = data + more if more else b""
    return data, found


def _is(path: str, found: os.stat_result) -> bool:
    """Whether this file of Ansible is still the one that was found: a playbook may install another version."""
    with suppress(OSError):
        return os.path.samestat(os.stat(path), found)
    return False


def _load_for_runs() -> None:
    """Load what each run would load for itself, as far as it can be loaded."""
    loader = import_module("ansible.plugins.loader")
    with suppress(Exception):
        loader.init_plugin_loader()
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    for name in _PARTS:
        with suppress(Exception):
            import_module(name)
    for kind, names in _PLUGINS.items():
        for name in names:
            with suppress(Exception):
                getattr(loader, f"{kind}_loader").get(name, class_only=True)
    gc.collect()
    gc.freeze()  # A collection would write to all that the copies share.


def _has_others(argv: list[str]) -> bool:
    """Whether plugins beside a playbook take the place of those that this process has loaded."""
    places = {word if os.path.isdir(word) else os.path.dirname(word) for word in argv if os.path.exists(word)}
    return any(
        os.path.exists(os.path.join(place, f"{kind}_plugins", f"{name}.py"))
        for place in places
        for kind, names in _PLUGINS.items()
        for name in names
    )


def _adopt(env: dict[str, str]) -> set[str]:
    """Make ``env`` the environment, and the settings those that Ansible takes from it. Returns the names of those that
    have another value now."""
    constants = import_module("ansible.constants")
    before, changed = dict(os.environ), set()
    os.environ.clear()
    os.environ.update(env)
    for name, setting in constants.config.get_configuration_definitions().items():
        if any(before.get(one["name"]) != env.get(one["name"]) for one in setting.get("env") or ()):
            value = constants.config.get_config_value(name, variables=vars(constants))
            if value != getattr(constants, name):
                setattr(constants, name, value)
                changed.add(name)
    # 2.21 reads this setting when it is loaded.
    if "INJECT_FACTS_AS_VARS" in changed:
        vars(import_module("ansible.vars.manager"))["_INJECT_FACTS"] = constants.INJECT_FACTS_AS_VARS
    return changed


def _place_of_mark() -> int:
    """The address of the value of the mark in the memory that others read as the environment of this process."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    return int(getenv(MARK.encode()))


def _take(listening: socket.socket, mark: int, *, unchanged: bool) -> None:
    """Let a copy of this process carry out the run that somebody hands over, where it can do so as a process of its
    own would."""
    connection, _address = listening.accept()
    with connection:
        data, received = _receive(connection)
        if data and unchanged and os.fork() == 0:
            listening.close()
            _carry_out(connection, received, mark, **json.loads(data))
        for one in received:
            os.close(one)


def _carry_out(
    connection: socket.socket, terminal: list[int], mark: int, argv: list[str], env: dict[str, str], cwd: str
) -> None:
    """Run a playbook as if ansible-playbook had been started; never returns. Nothing is begun before the other side
    has heard that it is taken."""
    try:
        changed = _adopt(env)
        constants = import_module("ansible.constants")
        if not constants.DEFAULT_LOG_PATH:  # The log of this process leads to nowhere.
            changed.discard("DEFAULT_LOG_PATH")
        if changed - _READ_LATE or cwd != os.getcwd() or len(env[MARK]) != len(NO_MARK) or _has_others(argv):
            os._exit(0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        atexit.unregister(import_module("ansible.utils.path").cleanup_tmp_file)  # The directory of the first process.
        vars(constants)["DEFAULT_LOCAL_TMP"] = constants.config.get_config_value("DEFAULT_LOCAL_TMP")
        ctypes.memmove(mark, env[MARK].encode(), len(NO_MARK))
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        for number, one in enumerate(terminal):
            os.dup2(one, number)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # as for a terminal
        socket.send_fds(connection, [TAKEN], [os.pidfd_open(os.getpid())])
    except BaseException:
        os._exit(0)
    _finish(argv, connection.fileno())


def _end_with(connection: socket.socket) -> None:
    """End this process when the other side has ended, as it is the process that others see."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


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
    if _has_others(argv):
        os._exit(0)
    output, errors, ended, *pipes = found
    os.dup2(output, 1)
    os.dup2(errors, 2)
    _adopt(env)
    words = [f"--vault-id={name}@/dev/fd/{pipe}" for name, pipe in zip(vault, pipes, strict=True)]
    _finish([*argv, *words], ended)


def _finish(argv: list[str], ended: int) -> None:
    """Run the program to its end, and write its exit code; never returns."""
    sys.argv = argv
    code = 1
    try:
        runpy.run_path(argv[0], run_name="__main__")
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
