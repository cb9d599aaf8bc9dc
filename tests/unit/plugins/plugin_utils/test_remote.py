# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts answer while this process does its own part; its own failure ends the wait for them."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest
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
