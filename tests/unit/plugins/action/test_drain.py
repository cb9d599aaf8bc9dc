# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Balancers are reached over the controller's own connections, as an action plugin of another module reaches them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Fleet

_PATH = Path(__file__).parents[1] / "module_utils/fake_haproxy.py"
_SPEC = importlib.util.spec_from_file_location("fake_haproxy_of_actions", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
fake = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = fake
_SPEC.loader.exec_module(fake)

ACTION = """
from ansible.plugins.action import ActionBase
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _drain
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._remote import Inventory


class ActionModule(ActionBase):
    BYPASS_HOST_LOOP = True

    def run(self, tmp=None, task_vars=None):
        inventory, store = Inventory(self, task_vars), task_vars["evenkeel_store"]
        at = _drain.declared(inventory, self._task.args["drain"])
        found = _drain.drain(inventory, at, 20.0, (), store)
        found += _drain.undrain(inventory, at, 20.0, store) if self._task.args.get("undrain") else []
        return {"outcomes": [[one.place.host, one.end, one.state, one.words] for one in found]}
"""


@pytest.fixture
def balancers(fleet: Fleet) -> Any:
    (fleet.home / "action_plugins").mkdir()
    (fleet.home / "action_plugins" / "drained.py").write_text(ACTION)
    path = fleet.home / "s"
    with fake.haproxy(path, fake.Server("h1"), fake.Server("h2")) as one:
        yield one


def drain(fleet: Fleet, path: Path, *hosts: str, **more: Any) -> list[list[str]]:
    options = {"hosts": list(hosts), "backend": "web", "server": "h1", "socket": str(path)}
    run = fleet.play([{"drained": {"drain": [{"haproxy": options}], **more}}], "h1")
    assert run.rc == 0
    found: list[list[str]] = run.results["h1"]["outcomes"]
    return found


def test_a_balancer_is_told_over_its_own_connection(fleet: Fleet, balancers: Any) -> None:
    (drained, ready) = drain(fleet, balancers.path, "h3", undrain=True)
    assert drained[:3] == ["h3", "done", "drained"] and ready[:3] == ["h3", "done", "ready"]
    assert balancers.told == ["set server web/h1 state drain", "set server web/h1 state ready"]


def test_a_balancer_that_is_unreachable_leaves_the_other_untouched(fleet: Fleet, balancers: Any) -> None:
    fleet.hosts["h4"].update({"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1})
    (first, second) = drain(fleet, balancers.path, "h3", "h4")
    assert first[:2] == ["h3", "refused"] and second[:2] == ["h4", "unreachable"] and balancers.told == []


def test_the_arguments_are_checked_before_a_host_is_asked(fleet: Fleet) -> None:
    task = {"state": "drained", "haproxy": {"backend": "web", "server": "h1;x"}}
    for change, said in (
        ({}, "is no name of HAProxy"),
        ({"haproxy": None}, "give one of haproxy and command"),
        ({"command": {"drain": ["a"], "undrain": ["b"]}}, "give one of haproxy and command"),
        ({"state": "gone"}, "value of state must be one of"),
    ):
        run = fleet.play([{"evenkeel.fault_tolerance.ft_drain": {**task, **change}}], "h1")
        assert run.rc == 2 and said in run.results["h1"]["msg"] and run.results["h1"]["error"] == "UsageError"
    assert not fleet.kept("h1")
