# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run of a rollback does and tells beside its steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import RestoreFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import footprint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.footprint import Walk
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import footprints
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import audit, renewal
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import kernel
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


class Audited:
    """A kernel with ``rules`` of the audit, which are ``after`` once they are loaded; None where it is another host's.
    ``ran``: the commands that load rules."""

    def __init__(self, rules: str | None, after: str | None = None) -> None:
        self.rules, self.after = rules, after
        self.ran: list[str] = []

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        if list(argv[1:]) in (["-s"], ["-l"]):
            return Completed(tuple(argv), int(self.rules is None), self.rules or "", "")
        if not {"auditctl", "augenrules"} & set(argv):
            return SYSTEM.run(argv, timeout)
        self.ran.append(" ".join(argv))
        self.rules = self.after
        return Completed(tuple(argv), 1, "", "no such path")


BEFORE = "-w /etc"


@pytest.fixture
def rules(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernel, "AUDIT", str(tree))
    monkeypatch.setattr(audit, "FILE", str(tree / "audit.rules"))
    monkeypatch.setattr(audit, "RULES", re.compile(re.escape(str(tree)) + r"/(rules\.d(/.*)?|audit\.rules)"))
    (tree / "rules.d").mkdir()
    (tree / "audit.rules").write_text("## This file is automatically generated from /etc/audit/rules.d")
    (tree / "rules.d" / "a.rules").write_text("old")
    return tree


def changed(rules: Path, root: Path, machine: Audited, whole: bool = True, recorded: bool = True) -> Run:
    """A run of a rollback of a change that has changed rules below rules.d. ``whole``: audit.rules is protected too."""
    store = Store(str(root / "store"), replace(SYSTEM, run=machine.run))
    taken = checkpoint(store, "before", [{"files": {"paths": [str(rules if whole else rules / "rules.d")]}}])
    changes._record(store, changes.Armed(1, taken["id"], "before", 9e9, 60.0, SYSTEM.boot_id(), 9e9))
    now, machine.rules = machine.rules, BEFORE
    if recorded:
        seen = {"generation": 1, "kernel": footprints._read_kernel(store)}
        footprint.record(store.join("before"), seen, Walk([], lambda path: False, lambda: True))
    machine.rules = now
    (rules / "rules.d" / "a.rules").write_text("new")
    return Run(store, store.manifest(taken["id"]), Options(unattended=True))


def test_rules_of_the_audit_are_loaded_where_the_kernel_has_others_than_before(rules: Path, tmp_path: Path) -> None:
    machine = Audited("-w /new", BEFORE)
    text = (rules / "audit.rules").read_text()
    result = changed(rules, tmp_path, machine).carry_out()
    assert machine.ran == [f"auditctl -R {rules}/audit.rules"] and (rules / "audit.rules").read_text() == text
    assert (result.left, result.notes) == ([], []), "a rule for a path that does not exist failed before, too"


@pytest.mark.parametrize("now", [BEFORE, None])
def test_rules_of_the_audit_that_are_as_before_are_not_loaded(rules: Path, tmp_path: Path, now: str | None) -> None:
    machine = Audited(now)
    assert changed(rules, tmp_path, machine).carry_out().notes == [] and machine.ran == []


def test_rules_of_the_audit_that_nobody_recorded_are_not_wiped(rules: Path, tmp_path: Path) -> None:
    machine = Audited("-w /of/an/agent")
    result = changed(rules, tmp_path, machine, recorded=False).carry_out()
    assert "count from the next boot: it is not recorded" in result.notes[0] and machine.ran == []


def test_rules_of_the_audit_that_still_differ_are_left(rules: Path, tmp_path: Path) -> None:
    run = changed(rules, tmp_path, Audited("-w /new", "-w /other"))
    with pytest.raises(RestoreFailed, match=r"auditctl -l: the kernel has other rules .* -R .*: no such path"):
        run.carry_out()


def test_rules_of_the_audit_that_are_kept_by_hand_are_not_made_anew(rules: Path, tmp_path: Path) -> None:
    machine = Audited("-w /new", BEFORE)
    run = changed(rules, tmp_path, machine, whole=False)
    (rules / "audit.rules").write_text("-w /by/hand")
    with pytest.raises(RestoreFailed, match="is kept by hand, and not protected"):
        run.carry_out()
    assert machine.ran == []


def test_rules_of_the_audit_are_made_anew_where_their_file_is_not_protected(rules: Path, tmp_path: Path) -> None:
    machine = Audited("-w /new", BEFORE)
    assert changed(rules, tmp_path, machine, whole=False).carry_out().left == []
    assert machine.ran == ["augenrules --load"]


@pytest.mark.parametrize(
    ("path", "counts"),
    [("/etc/audit/rules.d/50.rules", True), ("/etc/audit/audit.rules", True), ("/etc/audit/auditd.conf", False)],
)
def test_the_files_of_which_rules_of_the_audit_are_made(path: str, counts: bool) -> None:
    assert audit.files_of([path]) == ([path] if counts else [])
