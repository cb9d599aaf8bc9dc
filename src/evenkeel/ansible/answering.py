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
from collections.abc import Iterator
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
    *("ENABLE_TASK_DEBUGGER", "HOST_PATTERN_MISMATCH", "RETRY_FILES_ENABLED", "TAGS_RUN", "TAGS_SKIP"),
}
# The code of our plugins, which each run of ours loads.
_OURS = "ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._action"
# Plugins of these types. Each run reads the options of all from their documentation, which takes longer than to load
# them.
_PLUGINS = {
    "become": ("runas", "su", "sudo"),
    "cache": ("memory",),
    "callback": ("default", "junit", "minimal", "oneline", "tree"),
    "shell": ("cmd", "powershell", "sh"),
    "connection": ("local", "paramiko_ssh", "psrp", "ssh", "winrm"),
    "inventory": ("auto", "host_list", "ini", "script", "toml", "yaml"),
    "strategy": ("linear",),
}
_PR_SET_PDEATHSIG = 1


def main() -> None:
    number, idle, collections, program, callbacks, own = sys.argv[1:]
    sys.path[0] = os.path.dirname(program)
    gc.disable()  # Collections take a fifth of the time to load Ansible, and find nothing.
    mark = _place_of_mark()
    from ansible import constants

    found = _state_of_files()
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
        _serve(requests, float(idle) if idle else None, mark, found)


def _serve(requests: socket.socket, patience: float | None, mark: int, found: list[tuple[int, int, int]]) -> None:
    """Answer until nobody asks any more. found: the state of the files that were loaded."""
    sockets = [requests]
    loading: Iterator[bool] = iter(())  # A driver that asks nothing needs nothing.
    is_needed = False
    while True:
        ready = select.select(sockets, [], [], 0)[0]
        if not ready and next(loading, False):
            continue
        ready = ready or select.select(sockets, [], [], patience)[0]
        if not ready:
            return
        if requests not in ready:
            for _ in loading:  # All that is left: the copies of later runs have it as well.
                pass
            _take(sockets, mark, unchanged=_state_of_files() == found)
            continue
        data, received = _receive(requests)
        if not data:
            return
        if not is_needed:
            is_needed, loading = True, _load_for_runs()
        asked = json.loads(data)
        if "runs" in asked:
            sockets, patience = [requests, socket.socket(fileno=received[0])], None
            os.setsid()  # A Ctrl-C at the terminal is for the driver to handle.
            continue
        if _is_copy():
            _close(sockets)
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


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _state_of_files() -> list[tuple[int, int, int]]:
    """The state of the files that a process of its own would read: Ansible, what is installed beside it, and the user's
    configuration. A playbook may replace them."""
    constants = import_module("ansible.constants")
    code = str(constants.__file__)
    places = [code, os.path.dirname(os.path.dirname(code)), str(constants.CONFIG_FILE or "")]
    places += [os.path.abspath("ansible.cfg"), os.path.expanduser("~/.ansible.cfg"), "/etc/ansible/ansible.cfg"]
    found = []
    for path in places:
        try:
            state = os.stat(path)
            found.append((state.st_dev, state.st_ino, state.st_ctime_ns))
        except OSError:
            found.append((0, 0, 0))
    return found


def _load_for_runs() -> Iterator[bool]:
    """Load what each run would load for itself, as far as it can be loaded, in parts: a question that comes meanwhile
    waits for one of them. Plugins of the user's are left to each run: their code may do anything when it is loaded."""
    loader = import_module("ansible.plugins.loader")
    with suppress(Exception):
        loader.init_plugin_loader()
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    yield True
    with suppress(Exception):
        import_module(_OURS)
    yield True
    for kind, names in _PLUGINS.items():
        plugins = getattr(loader, f"{kind}_loader")
        for name in names:
            with suppress(Exception):
                if plugins.find_plugin_with_context(name).plugin_resolved_collection == "ansible.builtin":
                    plugins.get(name, class_only=True)
        yield True


def _is_copy() -> bool:
    """Make a copy of this process, and tell whether this is the copy. A collection there would write to all that the
    copies share, were that not left out."""
    gc.freeze()
    if os.fork():
        return False
    gc.enable()
    return True


def _has_others(argv: list[str]) -> bool:
    """Whether plugins beside a playbook take the place of those that this process has loaded: Ansible knows a plugin by
    the name of its module, whichever file that comes from."""
    places = {word if os.path.isdir(word) else os.path.dirname(word) for word in argv if os.path.exists(word)}
    names = [name.split(".") for name in sys.modules if name.startswith("ansible.plugins.")]
    files = [os.path.join(f"{name[2]}_plugins", f"{name[3]}.py") for name in names if len(name) == 4]
    return any(os.path.exists(os.path.join(place, file)) for place in places for file in files)


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


def _take(sockets: list[socket.socket], mark: int, *, unchanged: bool) -> None:
    """Let a copy of this process carry out the run that somebody hands over, where it can do so as a process of its
    own would."""
    # Without a copy the other side starts a process of its own, and this process goes on.
    with suppress(OSError), sockets[1].accept()[0] as connection:
        data, received = _receive(connection)
        if data and unchanged and _is_copy():
            _close(sockets)
            _carry_out(connection, received, mark, data)
        for one in received:
            os.close(one)


def _carry_out(connection: socket.socket, terminal: list[int], mark: int, data: bytes) -> None:
    """Run a playbook as if ansible-playbook had been started; never returns. Nothing is begun before the other side
    holds a handle of this process, and says so."""
    try:
        asked = json.loads(data)
        argv, env = asked["argv"], asked["env"]
        if not _can_carry_out(argv, env, asked["cwd"]) or len(terminal) != len(("input", "output", "errors")):
            os._exit(0)
        _become_another()
        ctypes.memmove(mark, env[MARK].encode(), len(NO_MARK))
        for number, one in enumerate(terminal):
            os.dup2(one, number)
            os.close(one)
        socket.send_fds(connection, [TAKEN], [os.pidfd_open(os.getpid())])
        if not connection.recv(1):
            os._exit(0)
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    except BaseException:
        os._exit(0)
    _finish(argv, connection.fileno())


def _can_carry_out(argv: list[str], env: dict[str, str], cwd: str) -> bool:
    """Whether this process, in this environment now, does what a process of its own would do."""
    changed = _adopt(env)
    constants = import_module("ansible.constants")
    if not constants.DEFAULT_LOG_PATH:  # The log of this process leads to nowhere.
        changed.discard("DEFAULT_LOG_PATH")
    hides = getattr(constants, "OLD_PLUGIN_CACHE_CLEARING", False)  # Plugins beside the playbook would not be found.
    same = not changed - _READ_LATE and cwd == os.getcwd() and len(env[MARK]) == len(NO_MARK)
    return same and not hides and not _has_others(argv)


def _become_another() -> None:
    """Replace the values that belong to the first process, and would be the same in all its copies."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    constants, display = import_module("ansible.constants"), import_module("ansible.utils.display")
    atexit.unregister(import_module("ansible.utils.path").cleanup_tmp_file)  # The directory of the first process.
    local_tmp = constants.config.get_config_value("DEFAULT_LOCAL_TMP", variables=vars(constants))
    vars(constants)["DEFAULT_LOCAL_TMP"] = local_tmp
    vars(import_module("ansible.utils.vars"))["random_int"] = os.urandom(4).hex()  # All ids of tasks begin so.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # as for a terminal
    with suppress(AttributeError):  # A fork has ended this guard of the streams.
        for stream in (sys.stdout, sys.stderr):
            display._synchronize_textiowrapper(stream, display.Display()._lock)


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
    with suppress(AttributeError):  # The copy has no other terminal than the driver, which may be gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
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
    try:
        with suppress(Exception):
            vars(threading)["_shutdown"]()  # As Python does at its end: threads of plugins end their work.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(ended, b"%d\n" % code)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
    atexit._run_exitfuncs()
    os._exit(0)  # the driver waits for the end, and Python would take a tenth of a second to tidy up
