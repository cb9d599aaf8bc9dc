# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts answer while this process does its own part; its own failure ends the wait for them."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action import ft_replicate
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _remote
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._answer import Answer


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker of Ansible, whose messages have a queue."""
    monkeypatch.setattr(_remote, "Display", Mock())


def answers(name: str) -> Answer:
    time.sleep(60 if name == "silent" else 0)
    return {"name": name, "at": time.monotonic()}


def test_hosts_answer_while_this_process_works_and_its_time_is_not_theirs() -> None:
    ended: list[float] = []

    def meanwhile() -> bool:
        time.sleep(0.6)
        ended.append(time.monotonic())
        return True

    found = dict(_remote._forked(["a", "b"], answers, 0.5, 5, meanwhile))
    assert {one["name"] for one in found.values()} == {"a", "b"}
    assert len(ended) == 1 and all(one["at"] < ended[0] for one in found.values())


def test_nobody_is_awaited_where_this_process_has_failed() -> None:
    began = time.monotonic()
    assert dict(_remote._forked(["silent"], answers, 30, 5, lambda: False)) == {}
    with pytest.raises(OSError, match="lost"):
        dict(_remote._forked(["silent"], answers, 30, 5, _lost))
    assert time.monotonic() - began < 10


def _lost() -> bool:
    raise OSError("lost")


def test_two_names_of_one_address_are_one_host_where_the_way_there_is_the_same() -> None:
    def shares(**more: object) -> bool:
        known: dict[str, dict[str, object]] = {
            "a": {"ansible_host": "10.0.0.5"},
            "b": {"ansible_host": "10.0.0.5", "ansible_port": 22, **more},
        }
        inventory = Mock(spec=_remote.Inventory)
        inventory.has = lambda _name: True
        inventory.variable = lambda name, key, default=None: known[name].get(key, default)
        inventory.is_here = lambda name: known[name].get("ansible_connection") == "local"
        inventory.connection = lambda name: known[name].get("ansible_connection", "ssh")
        inventory.address = lambda name: _remote.Inventory.address(inventory, name)
        inventory.port = lambda name: _remote.Inventory.port(inventory, name)
        return _remote.Inventory.share_address(inventory, "a", "b")

    assert shares()
    other = Mock(spec=_remote.Inventory)
    other.hosts_of, other.share_address = list, lambda peer, owner: (peer, owner) == ("b", "a")
    # After a recovery of a onto c, the copies of a do not go to a under another name.
    assert ft_replicate._peers(other, ["a", "b", "c", "d"], "a", "c") == ["d"]
    assert ft_replicate._peers(other, ["a", "b", "c", "d"], "a", "a") == ["b", "c", "d"]
    assert not shares(ansible_host="10.0.0.6") and not shares(ansible_port=2222)
    assert not shares(ansible_ssh_common_args="-J bastion") and not shares(ansible_connection="local")
