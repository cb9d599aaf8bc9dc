# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call of the library on a host, by a program of a hundred lines and not by a module of Ansible. The library follows
that program where it does not lie there, and the Python of the host can load it.

The connection is Ansible's, with its privileges and its interpreter. Without pipelining the program is put there as a
file first. A module that does no more than ping takes longer
on the host than most of our calls: its payload brings the code of Ansible's modules, which is compiled anew each time.
"""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import io
import json
import os
import secrets
import shlex
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _found
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._answering import STORE
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._calls.every import call
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman.package import sources_of_call
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.options import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.secret import secrets as secrets_of
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.secret import without
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import ROOM, Answer, answer, bounded
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._arguments import checked

# No library answers on the host, and nothing was done.
ABSENT: Mapping[str, Any] = {"absent": True}
# The program has started, and may have done anything since.
_STARTED = {"started": True}
# The exit codes of a shell, or of a Python, that did not start the program.
_NOT_STARTED = (2, 126, 127)
_AUTO = ("auto", "auto_silent", "auto_legacy", "auto_legacy_silent")
# Names are UTF-8, whatever locale the login brings: the agent reads them so. The program and its length come first on
# standard input, and then the library, if it is sent.
_OPTIONS = "-I -X utf8 -c " + shlex.quote("import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))")
_FOUND = Path(_found.__file__).read_text(encoding="utf-8")
# An old Python 3 can read it as well. The first line tells that it has started.
_PROGRAM = """\
import json, sys
request = json.loads({request})
def tell(answer):
    sys.stdout.write("\\n" + request["mark"] + json.dumps(answer) + "\\n")
    sys.stdout.flush()
tell({started})
sent = sys.stdin.buffer.read()  # To its end: the sender would fail if nobody read it.
if sys.version_info < (3, 9):
    tell({absent})
    sys.exit()
found = {{"__name__": "evenkeel_found"}}
exec(compile({found}, "evenkeel_found", "exec"), found)
if not found["load"](request["arguments"]["store"], request["library"], sent):
    tell({{"absent": True, "loads": found["loads"]()}})
    sys.exit()
from evenkeel_agent import _direct
tell(_direct.run(request))
"""


def is_possible(action: ActionBase) -> bool:
    """Whether the task waits for its answer, and the shell of its host is one of Unix."""
    return not action._task.async_val and getattr(action._connection._shell, "SHELL_FAMILY", "") == "sh"


def ask(
    action: ActionBase, variables: Mapping[str, Any], name: str, arguments: Mapping[str, Any], library: str
) -> Answer:
    """The result of a call of ``ft_NAME`` on the host of the action's connection; ``absent`` is true where the
    host has no library of these sources and cannot load the one that is sent, or where the user of the login finds no
    Python. The host masks secrets in all that it prints; they are masked here too if its Python dies.

    variables: those of that host, or of the host that delegates the task to it. library: the SHA-256 of the sources.
    Raises AnsibleConnectionFailure where the host is unreachable, and UsageError for wrong arguments.
    """
    task = action._task
    variables = (variables.get("ansible_delegated_vars") or {}).get(task.delegate_to, variables)
    spec: Options = {**call(name)[0], "store": STORE}
    quiet = C.config.get_config_value("DEFAULT_NO_TARGET_SYSLOG", variables=dict(variables))
    values = checked(_as_written(spec), {**arguments})
    request = {
        "name": name,
        "library": library,
        "arguments": values,
        "check": bool(task.check_mode),
        "diff": bool(task.diff),
        "log": not (task.no_log or quiet),
        "mark": secrets.token_hex(16),
    }
    sent = program(request)
    Display().vvv(f"ft_{name} is asked of the library on the host")

    def execute() -> Answer:
        command = _command(action, variables)
        if not command:
            return ABSENT
        result = _result(_run(action, command, sent), str(request["mark"]))
        how = packing(result)
        if not how:
            return result
        Display().vvv(f"the library is sent with ft_{name}")
        return _result(_run(action, command, sent + packed(name, how)), str(request["mark"]))

    found = answer(action._connection, execute)
    hidden = secrets_of(spec, values)
    return {key: without(value, hidden) for key, value in found.items()}


def program(request: Mapping[str, Any]) -> bytes:
    """The program that asks the library on a host, after its length."""
    text = _PROGRAM.format(request=ascii(json.dumps(request)), absent=ABSENT, started=_STARTED, found=ascii(_FOUND))
    return f"{len(text)}\n{text}".encode()


def _run(action: ActionBase, command: str, data: bytes) -> Mapping[str, Any]:
    """The end of a command on the host with these bytes on its standard input: a file there, where the connection
    takes none (without pipelining)."""
    if action._connection.is_pipelining_enabled(False):
        found: Mapping[str, Any] = action._low_level_execute_command(command, in_data=data)
    else:
        found = action._low_level_execute_command(f"{command} < {shlex.quote(put(action, data))}")
    return found


def put(action: ActionBase, data: bytes) -> str:
    """A new file on the host with these bytes, beside the modules of the task: it goes when they go."""
    connection = action._connection
    with tempfile.NamedTemporaryFile(dir=C.DEFAULT_LOCAL_TMP) as local, bounded(connection, ROOM + 3 * len(data)):
        local.write(data)
        local.flush()
        directory = connection._shell.tmpdir or action._make_tmp_path()
        remote = str(connection._shell.join_path(directory, f"evenkeel-{secrets.token_hex(4)}"))
        connection.put_file(local.name, remote)
        action._fixup_perms2([directory, remote], execute=False)
    return remote


def packing(found: Answer) -> str:
    """The compression in which the library is sent after this answer of a host; empty where it is not to be sent."""
    told = found.get("loads") if found.get("absent") is True else ""
    return str(told) if told in ("bz2", "zlib") else ""


def packed(name: str, how: str) -> bytes:
    """The bytes of ``archive``. They are made once in a run of Ansible, where its temporary directory takes them: the
    other processes of that run read them."""
    path = Path(C.DEFAULT_LOCAL_TMP, f"evenkeel-{name}.{how}")
    data = b""
    with contextlib.suppress(OSError), open(f"{path}.lock", "wb") as lock:  # NFS may have no locks.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path.read_bytes()
        data = archive(name, how)
        Path(f"{path}.new").write_bytes(data)
        os.replace(f"{path}.new", path)
    return data or archive(name, how)


def archive(name: str, how: str) -> bytes:
    """The sources with which a host answers ``ft_NAME``: an archive that Python imports from, compressed as ``how``
    tells (bz2 or zlib)."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as whole:
        for path, text in sorted(sources_of_call(name).items()):
            whole.writestr(zipfile.ZipInfo(path), text)
    return zlib.compress(data.getvalue(), 9) if how == "zlib" else bz2.compress(data.getvalue())


def _command(action: ActionBase, variables: Mapping[str, Any]) -> str:
    """The command that starts Ansible's Python for this host with the program on its standard input. Where Ansible
    would search for a Python it is searched for in the same places, by the user of the login; empty where there is
    none."""
    said = C.config.get_config_value("INTERPRETER_PYTHON", variables=dict(variables))
    python = str(action._templar.template(said) or "auto").strip()
    if python in _AUTO:
        python = str((variables.get("ansible_facts") or {}).get("discovered_interpreter_python") or "")
    places = C.config.get_config_value("INTERPRETER_PYTHON_FALLBACK", variables=dict(variables))
    if not python and action._connection.become:
        found = action._low_level_execute_command(_search(places, 'echo "$path"; exit'), sudoable=False)
        python = ([line for line in str(found["stdout"]).splitlines() if line.startswith("/")] or [""])[-1]
        if not python:
            return ""
    words = f"{shlex.quote(python)} {_OPTIONS}" if python else _search(places, f'exec "$path" {_OPTIONS}')
    return f"{action._compute_environment_string()} {words}".strip()


def _search(names: Sequence[str], then: str) -> str:
    """The command that searches for the first of these Pythons that the host has, and does this with its ``$path``."""
    found = " ".join(shlex.quote(str(name)) for name in names)
    script = f'for name in {found}; do if path=$(command -v "$name"); then {then}; fi; done; exit 127'
    return f"/bin/sh -c {shlex.quote(script)}"


def _as_written(spec: Options) -> Options:
    """The specification, with paths as texts: they are those of the host, which expands them."""
    return {key: {**one, "type": "str"} if one.get("type") == "path" else one for key, one in spec.items()}


def _result(done: Mapping[str, Any], mark: str) -> Answer:
    """The result that the program has told; a failure where it has told none."""
    lines = str(done["stdout"]).splitlines()
    told = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
    if not told and done["rc"] in _NOT_STARTED:
        return ABSENT  # Ansible's own way tells why, or finds another Python.
    with contextlib.suppress(ValueError):  # The program may have been killed as it wrote its answer.
        found = json.loads(told[-1]) if told else None
        if isinstance(found, dict) and found != _STARTED:
            return found
    return {
        "failed": True,
        "msg": "the module gave no result: see module_stdout and module_stderr",
        "module_stdout": str(done["stdout"]),
        "module_stderr": str(done["stderr"]),
        "rc": done["rc"],
    }
