# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change that boots the host: the boot that was planned is no rollback, and any other one is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import agent, changes, units
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import booted as booted_host
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Unhealthy, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import flow
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import logins
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import RolledBack
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, info, settle

GOOD = [{"command": {"argv": ["true"]}}]
NOW = (0.0, 0.1, 0.05)
Boot = Callable[..., Store]


@pytest.fixture
def live(tmp_path: Path) -> Path:
    live = tmp_path / "live"
    live.write_text("before")
    return live


def begin(store: Store, live: Path, reboots: int = 1, within: float = 300.0) -> None:
    checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], within=within, at_most=1000.0, reboots=reboots)
    live.write_text("after")


def booted(store: Store, number: int = 1, spent: float = 60.0, up: float = 20.0) -> Store:
    """The store on the host ``up`` seconds after its boot, and ``spent`` seconds of the date after it was armed."""
    began = store.system.now()
    at = time.monotonic()
    system = replace(
        store.system,
        boot_id=lambda: f"boot {number}",
        monotonic=lambda: up + time.monotonic() - at,
        now=lambda: began + spent,
    )
    return Store(store.root, system)


def finish(store: Store, boot: bool = True) -> list[str]:
    with store.locked():
        return flow.finish(store, boot)


def test_a_planned_boot_is_no_rollback_and_the_deadline_counts_on(store: Store, live: Path) -> None:
    begin(store, live)
    after = booted(store)
    assert finish(after) == [] and live.read_text() == "after"
    record = changes.armed(store)
    assert record is not None and record.boots == 1
    assert record.due == pytest.approx(20 + 240, abs=3) and record.overdue(after.system) is None
    assert record.started == pytest.approx(20 - 60, abs=3)
    settle(after, 1, GOOD, *NOW)
    assert info(store)["last"]["outcome"] == "confirmed"


def test_a_boot_that_nobody_planned_and_one_too_many_are_rollbacks(store: Store, live: Path) -> None:
    begin(store, live, reboots=0)
    assert "which a boot had ended" in finish(booted(store))[0] and live.read_text() == "before"
    begin(store, live, reboots=1)
    assert finish(booted(store, 1)) == []
    assert "which a boot had ended" in finish(booted(store, 2))[0] and live.read_text() == "before"


@pytest.mark.parametrize(("spent", "left"), [(-86400.0, 300.0), (86400.0, 0.0)])
def test_a_wrong_date_gives_no_more_time_than_there_was_at_first(
    store: Store, live: Path, spent: float, left: float
) -> None:
    begin(store, live)
    after = booted(store, spent=spent)
    finish(after)
    record = changes.armed(store)
    if left:
        assert record is not None and record.due - after.system.monotonic() == pytest.approx(left, abs=1)
    else:
        assert record is None and live.read_text() == "before"


def test_a_change_whose_planned_boot_has_not_come_is_not_confirmed(store: Store, live: Path) -> None:
    begin(store, live)
    with pytest.raises(Unhealthy, match="the boot that was planned has not come"):
        settle(store, 1, GOOD, *NOW)
    assert live.read_text() == "before"


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("/boot/vmlinuz-6.1", True),
        ("/etc/fstab", True),
        ("/etc/default/grub", True),
        ("/etc/default/grub.d/x.cfg", True),
        ("/usr/lib/modules/6.1/modules.dep", True),
        ("/etc/fstab.d/x", False),
        ("/etc/nginx/nginx.conf", False),
        ("linux-image-6.1.0-37-amd64:amd64", True),
        ("nginx", False),
        ("python3-kernel", False),
        ("/srv/boot/x", False),
    ],
)
def test_what_counts_at_a_boot_alone_has_the_agent_boot_the_host_again(store: Store, path: str, counts: bool) -> None:
    change = changes.Armed(1, "c", "n", 0.0, 1.0, "", 0.0, boots=1)
    result = RolledBack(done=[{"resource": "files", "action": "replace", "target": path}, "a sentence"])
    assert bool(flow.at_boot(change, result)) == counts
    assert not flow.at_boot(replace(change, boots=0), result)


BOOT = "boot the host: some paths or packages that came back take effect at the next boot alone: "


@pytest.mark.parametrize("how", ["taken back", "told to go back", "by hand", "found overdue", "by the agent"])
def test_a_host_that_has_to_boot_again_says_so_wherever_it_goes_back(
    store: Store, live: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "AT_BOOT", re.compile(re.escape(str(live))))
    begin(store, live)
    after = booted(store)
    finish(after)
    if how == "taken back":
        settle(after, 1, GOOD, *NOW)
    if how == "by hand":
        assert flow.rollback(after, flow.Request("change")).left == [f"{BOOT}{live}"]
    elif how == "by the agent":
        finish(booted(store, 2))
    elif how == "found overdue":
        with pytest.raises(Unhealthy) as error:
            settle(booted(store, 2), 1, GOOD, *NOW)
        assert error.value.result["left"] == [f"{BOOT}{live}"]
    else:
        with pytest.raises(Unhealthy) as error:
            settle(after, 1, GOOD, *NOW, verdict="take_back" if how == "taken back" else "roll_back")
        assert error.value.result["left"] == [f"{BOOT}{live}"]
    last = changes.last_event(store)
    assert last is not None and last.outcome == "rolled_back" and live.read_text() == "before"
    assert last.left == ([] if how == "by the agent" else [f"{BOOT}{live}"])


def test_the_agent_boots_the_host_once(store: Store, live: Path) -> None:
    asked: list[list[str]] = []

    def run(argv: Sequence[str], timeout: float) -> Completed:
        asked.append(list(argv))
        return Completed(tuple(argv), 0, "", "")

    store = Store(store.root, replace(store.system, run=run))
    begin(store, live)
    asked.clear()
    Path(store.join("reboot")).touch()
    agent._reboot(store)
    agent._reboot(store)
    assert asked == [["systemctl", "--no-block", "reboot"]]


WELL = {"command": {"argv": ["true"]}}
SICK = {"command": {"argv": ["false"]}}


def begin_probed(store: Store, live: Path, *probes: Mapping[str, object], within: float = 300.0) -> None:
    times = Times(0.0, 0.1, 0.05)
    checkpoint(
        store, "change", [{"files": {"paths": [str(live)]}}], within=within, reboots=1, probes=list(probes), times=times
    )
    live.write_text("after")


def test_a_well_host_waits_after_its_boot_and_a_sick_one_goes_back(store: Store, live: Path) -> None:
    begin_probed(store, live, WELL)
    after = booted(store)
    finish(after)
    assert booted_host.is_well(after, "")
    record = changes.armed(after)
    assert record is not None and not record.back
    settle(after, 1, GOOD, *NOW)

    begin_probed(store, live, WELL, SICK)
    after = booted(store, 2)
    finish(after)
    assert not booted_host.is_well(after, "")
    assert "after whose boot the host was not healthy" in finish(after, boot=False)[0]
    assert live.read_text() == "after"  # The state before the second change is that after the first.
    assert info(store)["last"]["by"] == "health"


def test_only_what_a_host_can_measure_without_help_decides_after_the_boot(store: Store, live: Path) -> None:
    begin_probed(store, live, WELL, {"tcp": {"port": 1, "from": "controller"}})
    record = changes.armed(store)
    assert record is not None and record.health["probes"] == [WELL]
    finish(booted(store))
    assert booted_host.is_well(booted(store), "")


@pytest.mark.parametrize("reboots", [0, 1])
def test_nothing_is_measured_before_the_boot_nor_after_one_that_nobody_planned(
    store: Store, live: Path, reboots: int
) -> None:
    checkpoint(store, "change", [{"files": {"paths": [str(live)]}}], within=300.0, reboots=reboots, probes=[SICK])
    assert booted_host.is_well(store, "")
    record = changes.armed(store)
    assert record is not None and not record.back and bool(record.health) == bool(reboots)


def test_the_host_leaves_it_to_the_user_that_armed_it_while_that_one_is_logged_in(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_probed(store, live, SICK)
    after = booted(store)
    finish(after)

    def confirms(_user: int) -> bool:
        record = changes.armed(after)
        assert record is not None and not record.back
        changes.conclude(after, record, changes.CONFIRMED, "settle")
        return True

    monkeypatch.setattr(logins, "is_open", confirms)
    assert booted_host.is_well(after, "")
    assert info(store)["last"]["outcome"] == "confirmed"


def test_a_bad_probe_is_refused_before_anything_is_armed(store: Store, live: Path) -> None:
    with pytest.raises(UsageError, match="probes, item 1"):
        begin_probed(store, live, {"tcp": {"prot": 80}})
    assert changes.armed(store) is None


def test_the_agent_measures_after_a_planned_boot_alone(
    store: Store, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(changes, "ensure_timers", lambda *_arguments: None)

    def run(argv: Sequence[str], timeout: float) -> Completed:
        asked.append(list(argv))
        return Completed(tuple(argv), 0, "", "")

    begin_probed(store, live, WELL)
    after = booted(store)
    after = Store(after.root, replace(after.system, run=run))
    start = ["systemctl", "start", "--no-block", units.unit(store, "health") + ".service"]
    agent._at_boot(after, flow.finish)
    assert start in asked
    asked.clear()
    again = booted(store, 2)
    agent._at_boot(Store(again.root, replace(again.system, run=run)), flow.finish)
    assert start not in asked and live.read_text() == "before"
