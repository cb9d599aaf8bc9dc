# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host that was taken over prints in the place of a result costs no more than a bound, and draws nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible.errors import AnsibleError
from ansible.release import __version__
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _direct
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import answer, little_memory, shown
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Host
from packaging.version import Version

from .conftest import Fleet

OURS = "evenkeel.fault_tolerance."
# h1 was taken over: whatever is asked of it, it says what stands in the file, as the answer of the library there.
SSH = """#!{python}
import os, re, sys
if sys.argv[-2] == "h1":
    mark = re.search(b'"mark": "([0-9a-f]+)"', sys.stdin.buffer.read())
    sys.stdout.write("\\n" + mark[1].decode() if mark else "")
    exec(open({what!r}).read())
    sys.exit(0)
os.execv("/bin/sh", ["sh", "-c", sys.argv[-1]])
"""
ENDLESS = "while True: sys.stdout.write('A' * 65536)"
DEEP = "sys.stdout.write('{\"x\": ' + '[' * 100000 + ']' * 100000 + '}')"
DRAWS = (
    "import json\nsys.stdout.write(json.dumps({'failed': True, 'msg': '\\x1b[2J\\u202e CONFIRMED \\nok: [h2]', "
    "'warnings': ['\\x1b[2J w', {'msg': '\\x1b[2J x'}], 'exception': 'at \\x1b[2J'}))"
)


def taken_over(fleet: Fleet, tmp_path: Path, does: str) -> None:
    what = tmp_path / "does"
    what.write_text(does)
    (tmp_path / "ssh").write_text(SSH.format(python=sys.executable, what=str(what)))
    (tmp_path / "ssh").chmod(0o755)
    for name in list(fleet.hosts)[2:]:
        del fleet.hosts[name]
    for one in fleet.hosts.values():
        one |= {
            "ansible_connection": "ssh",
            "ansible_ssh_executable": str(tmp_path / "ssh"),
            "ansible_pipelining": True,
        }


@pytest.mark.parametrize(
    "module",
    [
        "ft_checkpoint",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("ft_info", "ft_settle", "ft_rollback", "ft_scrub")),
    ],
)
def test_an_answer_without_an_end_is_no_answer_of_that_host_alone(module: str, fleet: Fleet, tmp_path: Path) -> None:
    taken_over(fleet, tmp_path, ENDLESS)
    arguments: dict[str, Any] = {"store": "{{ evenkeel_store }}"}
    if module == "ft_checkpoint":
        arguments |= {"name": "n", "resources": "{{ evenkeel_resources }}"}
    elif module == "ft_settle":
        arguments["generation"] = 1
    run = fleet.play([{OURS + module: arguments}])
    assert run.results["h1"]["error"] == "BadAnswer"
    assert "longer than any answer of Evenkeel" in run.results["h1"]["msg"]
    assert "BadAnswer" not in str(run.results["h2"])


def test_an_answer_that_is_nested_without_an_end_is_that_hosts_failure(fleet: Fleet, tmp_path: Path) -> None:
    taken_over(fleet, tmp_path, DEEP)
    run = fleet.play([{f"{OURS}ft_info": {"store": "{{ evenkeel_store }}"}}])
    assert run.results["h1"]["error"] == "BadAnswer" and "error" not in run.results["h2"]


def test_what_a_host_says_is_shown_and_draws_nothing(fleet: Fleet, tmp_path: Path) -> None:
    taken_over(fleet, tmp_path, DRAWS)
    run = fleet.play([{f"{OURS}ft_info": {"store": "{{ evenkeel_store }}"}}])
    assert "CONFIRMED" in run.output
    lines = run.output.splitlines()
    if Version(__version__) >= Version("2.21"):  # It shows a module's warnings before anything else has the result.
        lines = [line for line in lines if "[WARNING]" not in line]
    assert all(one.isprintable() for line in lines for one in line), ascii(run.output)


def test_the_guard_and_its_peers_are_bounded_as_well(fleet: Fleet, tmp_path: Path) -> None:
    taken_over(fleet, tmp_path, ENDLESS)
    guard = {
        "group": ["h1", "h2"],
        "wave": ["h2"],
        "min_healthy": "1",
        "timeout": "60s",
        "store": "{{ evenkeel_store }}",
    }
    run = fleet.play([{f"{OURS}ft_guard": guard}], "h2")
    assert "h1" in str(run.results["h2"]["reasons"]) or run.results["h2"]["unknown"] == ["h1"]
    assert "longer than any answer of Evenkeel" in str(run.results["h2"])


def test_memory_is_bounded_within_and_free_again_behind() -> None:
    with pytest.raises(MemoryError), little_memory(32 << 20):
        bytearray(256 << 20)  # more than what malloc may have kept of what was freed before
    assert len(bytearray(256 << 20)) == 256 << 20


class Remote:
    transport = "ssh"


def test_a_module_that_runs_on_this_machine_has_all_the_memory_there_is() -> None:
    def much() -> dict[str, Any]:
        return {"length": len(bytearray(256 << 20))}

    class Local:
        transport = "local"

    assert answer(Local(), much) == {"length": 256 << 20}
    assert answer(Remote(), much)["error"] == "BadAnswer"


class Flood:
    """The action of a task on a host that prints without end, whatever is asked of it."""

    def __init__(self) -> None:
        shell = Mock(tmpdir=None, _IS_WINDOWS=False)
        self._connection = Mock(transport="ssh", _remote_is_local=False, _shell=shell, put_file=self._flood)
        self._task, self._templar = Mock(check_mode=False, diff=False), Mock(template=lambda value: value)
        self._make_tmp_path = self.cleanup = self._low_level_execute_command = self._flood

    def _flood(self, *_any: Any, **_more: Any) -> Any:
        return bytearray(256 << 20)


def test_nothing_that_is_asked_of_a_host_beside_a_module_has_an_answer_without_an_end(tmp_path: Path) -> None:
    action: Any = Flood()
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"x")
    host = Host("h1", action, {})
    for ask in (host.directory, lambda: host.put(str(bundle), "/x"), host.close):
        with pytest.raises(AnsibleError, match="longer than any answer of Evenkeel"):
            ask()
    # The search for a Python, by the user of the login.
    found = _direct.ask(action, {}, "info", {"store": "/x"}, "f" * 64)
    assert found is not None and found["error"] == "BadAnswer"


def test_no_module_runs_where_the_connection_would_run_it_on_the_controller() -> None:
    from ansible.plugins.connection import NetworkConnectionBase
    from ansible.plugins.connection.local import Connection as Local
    from ansible.plugins.shell.powershell import ShellModule as PowerShell
    from ansible.plugins.shell.sh import ShellModule as Shell

    ran: list[str] = []

    def execute() -> dict[str, Any]:
        ran.append("on the controller")
        return {}

    def over(kind: Any, shell: Any = Shell) -> Any:
        connection = kind.__new__(kind)
        connection._shell = shell.__new__(shell)
        return connection

    class Network(NetworkConnectionBase):
        transport = "network_cli"

        def _connect(self) -> None:
            raise AssertionError

    for connection in (over(Network), over(Remote, PowerShell)):
        said = answer(connection, execute)
        assert (said["failed"], said["error"], ran) == (True, "UsageError", [])
    assert answer(over(Local), execute) == {} and ran


# A connection plugin like those of network devices: what it is given runs on the controller.
DEVICE = """
DOCUMENTATION = '''
name: device
short_description: a device
description: [a device]
options: {pipelining: {description: [faster], type: bool, default: false, vars: [{name: ansible_pipelining}]}}
'''
from ansible.plugins.connection import local
class Connection(local.Connection):
    transport, _remote_is_local = "device", True
"""


def test_a_network_device_is_refused_and_the_controller_stays_untouched(fleet: Fleet) -> None:
    plugins = fleet.home / "connection_plugins"
    plugins.mkdir()
    (plugins / "device.py").write_text(DEVICE)
    fleet.hosts["h1"]["ansible_connection"] = "device"
    begin = {"name": "n", "resources": "{{ evenkeel_resources }}", "store": "{{ evenkeel_store }}"}
    run = fleet.play([{f"{OURS}ft_checkpoint": begin}], "h1")
    assert "on the controller" in run.results["h1"]["msg"] and fleet.kept("h1") == []
    guard = {"group": ["h1", "h2"], "wave": ["h2"], "min_healthy": "2", "store": "{{ evenkeel_store }}"}
    run = fleet.play([{f"{OURS}ft_guard": guard}], "h2")
    assert run.rc != 0 and run.results["h2"]["unknown"] == ["h1"]


def test_of_what_ansible_prints_or_compares_line_by_line_no_more_is_taken_than_somebody_reads() -> None:
    said = shown(
        {
            "warnings": ["a warning"] * 2000 + ["\n" * 100_000],
            "deprecations": [{"msg": "x" * 100_000}, {"msg": "soon"}] * 100,
            "diff": [{"before": "one\n" * 1000, "after": "two\n", "before_header": "/x"}],
            "ansible_facts": {"evenkeel_key": "x"},
            "ansible_stats": {"data": {}},
            "left": ["x" * 100_000],
        }
    )
    assert said == {
        "warnings": ["a warning"] * 50,
        "deprecations": [{"msg": "soon"}] * 25,
        "diff": [{"before": "one\n", "after": "two\n", "before_header": "/x"}],
        "left": ["x" * 100_000],
    }
    assert shown({"warnings": ["x" * 100_000]}) == {"warnings": ["x" * 1999 + "…"]}


FLOODS = (
    "import json\nsys.stdout.write(json.dumps({'changed': False, 'warnings': ['w%d' % n for n in range(2000)], "
    "'ansible_facts': {'evenkeel_mine': 1}}))"
)


def test_warnings_of_one_host_do_not_hold_up_the_others(fleet: Fleet, tmp_path: Path) -> None:
    taken_over(fleet, tmp_path, FLOODS)
    tasks: list[dict[str, Any]] = [{f"{OURS}ft_info": {"store": "{{ evenkeel_store }}"}}]
    run = fleet.play([*tasks, {"ansible.builtin.assert": {"that": "evenkeel_mine is not defined"}}])
    assert run.rc == 0 and "w49" in run.output
    if Version(__version__) < Version("2.21"):  # It shows them before anything else has the result.
        assert "w50" not in run.output
