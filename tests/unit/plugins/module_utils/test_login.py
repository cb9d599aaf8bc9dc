# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A confirmation counts only over a login that is newer than the change."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Unhealthy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import logins
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.logins import Ancestor, age
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, settle


def chain(*names_and_starts: tuple[str, float]) -> list[Ancestor]:
    return [Ancestor(100 - number, name, started) for number, (name, started) in enumerate(names_and_starts)]


@pytest.mark.parametrize(
    ("above", "found"),
    [
        # The change began at 100 and it is 120 now. A login of its own, as root and as a user with sudo.
        ([("python3", 118), ("sh", 118), ("sshd", 117), ("sshd", 1), ("systemd", 0)], "new"),
        ([("python3", 118), ("sudo", 118), ("sh", 118), ("sshd", 117.5), ("sshd", 117), ("sshd", 1)], "new"),
        ([("python3", 118), ("sh", 118), ("sshd-session", 117), ("sshd", 1)], "new"),
        ([("python3", 118), ("sh", 118), ("dropbear", 117), ("dropbear", 1)], "new"),
        # A new session in a connection that was there before.
        ([("python3", 118), ("sh", 118), ("sshd", 99), ("sshd", 1), ("systemd", 0)], "old"),
        ([("python3", 118), ("sudo", 118), ("sh", 118), ("sshd", 50.5), ("sshd", 50), ("sshd", 1)], "old"),
        # A person logged in and runs Ansible here, for this very machine: that says nothing of its login.
        ([("python3", 118), ("ansible-playbook", 116), ("bash", 20), ("sshd", 20), ("sshd", 1)], "not shown"),
        # A container, and a method of becoming root that starts the command from elsewhere.
        ([("python3", 118), ("sh", 118)], "not shown"),
        ([("python3", 118), ("sh", 118), ("systemd", 0)], "not shown"),
        ([], "not shown"),
    ],
)
def test_the_login_that_a_process_came_over_is_told_from_older_ones(above: list[tuple[str, float]], found: str) -> None:
    assert age(20.0, chain(*above), 120.0) == found


def test_the_chain_of_this_process_is_read_as_the_kernel_has_it() -> None:
    mine = list(logins._ancestors(os.getpid()))
    assert [one.pid for one in mine[:2]] == [os.getpid(), os.getppid()]
    assert mine[0].name.startswith(Path("/proc/self/comm").read_text().strip())
    assert all(0 <= one.started <= time.clock_gettime(time.CLOCK_BOOTTIME) for one in mine)
    assert mine[0].started >= mine[1].started


def settled_over(login: str, store: Store, live: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    live.write_text("before")
    begun = checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], confirm_within=60.0)
    live.write_text("after")
    asked: list[float] = []

    def age(since: float) -> str:
        asked.append(since)
        return login

    monkeypatch.setattr(logins, "age", age)
    try:
        return settle(store, begun["generation"], [], 0.0, 1.0, 0.1)
    finally:
        assert 0 <= asked[0] < 30, "it is compared with the moment at which the dead-man was armed"


@pytest.mark.parametrize("login", ["new", "not shown"])
def test_a_confirmation_says_what_was_seen_of_its_login(
    login: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = settled_over(login, store, tmp_path / "file", monkeypatch)
    assert (result["outcome"], result["login"]) == ("confirmed", login)
    assert (tmp_path / "file").read_text() == "after"


def test_a_login_that_is_older_than_the_change_confirms_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unhealthy, match="older than the change.*ControlPath=none") as failed:
        settled_over("old", store, tmp_path / "file", monkeypatch)
    assert (failed.value.result["outcome"], failed.value.result["login"]) == ("rolled_back", "old")
    assert (tmp_path / "file").read_text() == "before"
