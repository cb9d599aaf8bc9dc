# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of a rollback does and tells beside its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import RestoreFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import renewal
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import Holder
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

from .conftest import SYSTEM


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "srv" / "lib").mkdir(parents=True)
    (tmp_path / "srv" / "conf").write_text("old")
    (tmp_path / "srv" / "lib" / "libx.so.1").write_text("old")
    return tmp_path / "srv"


def test_what_a_step_leaves_up_is_named_for_a_restart_once(store: Store, tree: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    run = Run(store, store.manifest(store.resolve("before")), Options())
    leave = Step("services", "leave", "x.service", "why", {"note": "x.service stays up", "owed": ["/etc/x"]})
    run._note_steps([leave])
    run._note_steps([leave])
    named = {"unit": "x.service", "processes": [], "paths": ["/etc/x"]}
    assert (run.result().notes, run.result().restart_needed) == (["x.service stays up"], [named])
    seen: Holder = {"unit": "x.service", "processes": ["x[1]"], "paths": ["/usr/bin/x"]}
    other: Holder = {"unit": "", "processes": ["y[2]"], "paths": ["/usr/bin/y"]}
    run._need_restart([seen, other])
    assert run.result().restart_needed == [seen, other]


def test_programs_find_the_libraries_that_came_back(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []
    library, answer = tree / "lib" / "libx.so.1", 0

    def run(argv: Sequence[str], timeout: float) -> Completed:
        if list(argv) != ["ldconfig"]:
            return SYSTEM.run(argv, timeout)
        ran.append((library.read_text(), (tree / "conf").read_text()))
        return Completed(tuple(argv), answer, "", "no room")

    cache = tmp_path / "ld.so.cache"
    cache.touch()
    monkeypatch.setattr(renewal, "MADE", (renewal.MADE[0]._replace(file=str(cache)),))
    store = Store(str(tmp_path / "store"), replace(SYSTEM, run=run))
    declared: list[dict[str, Any]] = [{"files": {"paths": [str(tree)]}}]
    checkpoint(store, "before", declared)
    (tree / "conf").write_text("new")
    rollback(store, "before")
    assert ran == [], "no library came back"
    (tree / "conf").write_text("new")
    library.write_text("new")
    rollback(store, "before")
    assert ran == [("old", "old")]
    answer = 1
    library.write_text("new")
    with pytest.raises(RestoreFailed, match="ld.so.cache: ldconfig failed, so that programs may not .*no room"):
        rollback(store, "before")
    # A host without a cache, and one whose cache comes back itself.
    cache.unlink()
    library.write_text("new")
    assert rollback(store, "before")["left"] == []
    monkeypatch.setattr(renewal, "MADE", (renewal.MADE[0]._replace(file=str(tree / "conf")),))
    library.write_text("new")
    assert rollback(store, "before")["left"] == []


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/usr/lib/libx.so", ["ldconfig"]),
        ("/opt/app/libx.so.1.2.3", ["ldconfig"]),
        ("/etc/ld.so.conf", ["ldconfig"]),
        ("/etc/ld.so.conf.d/app.conf", ["ldconfig"]),
        ("/etc/udev/hwdb.d/70-mouse.hwdb", ["systemd-hwdb update"]),
        ("/etc/selinux/targeted/policy/policy.33", ["load_policy"]),
        ("/etc/selinux/config", []),
        ("/etc/udev/rules.d/70.rules", ["udevadm control --reload"]),
        ("/etc/systemd/network/10-x.link", ["udevadm control --reload"]),
        ("/etc/systemd/network/10-x.network", []),
        ("/etc/apparmor.d/usr.sbin.x", ["systemctl try-reload-or-restart apparmor.service"]),
        ("/etc/locale.gen", ["locale-gen"]),
        ("/etc/audit/rules.d/50-hard.rules", ["auditctl -s", "augenrules --load"]),
        ("/etc/audit/audit.rules", ["auditctl -s", "augenrules --load"]),
        ("/etc/audit/auditd.conf", []),
        ("/opt/some/file", []),
        ("/opt/x.sock", []),
    ],
)
def test_what_is_made_of_a_path_that_came_back_is_made_anew_once(
    path: str, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(argv: Sequence[str], timeout: float) -> Completed:
        ran.append(" ".join(argv))
        return Completed(tuple(argv), 0, "", "")

    known = [one._replace(file=str(tmp_path / one.argv[0])) for one in renewal.MADE]
    for one in known:
        Path(one.file).touch()
    monkeypatch.setattr(renewal, "MADE", known)
    anew = renewal.Renewal()
    for _again in range(2):
        assert anew.carry_out([path], [], replace(SYSTEM, run=run, has_systemd=lambda: True)) == []
    assert ran == made


@pytest.mark.parametrize(("reached", "ran"), [(True, ["auditctl", "augenrules"]), (False, ["auditctl"])])
def test_rules_of_the_audit_are_loaded_where_the_kernel_has_them_and_a_bad_rule_is_no_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: bool, ran: list[str]
) -> None:
    seen: list[str] = []

    def run(argv: Sequence[str], timeout: float) -> Completed:
        seen.append(argv[0])
        return Completed(tuple(argv), 0 if reached and argv[0] == "auditctl" else 1, "", "no such path")

    monkeypatch.setattr(renewal, "MADE", [renewal.MADE[-1]._replace(file=str(tmp_path))])
    assert renewal.Renewal().carry_out(["/etc/audit/rules.d"], [], replace(SYSTEM, run=run)) == []
    assert seen == ran
