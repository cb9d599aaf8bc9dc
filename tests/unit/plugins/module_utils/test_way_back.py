# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go back does, whatever else cannot (R1); and what is said of it was measured (R2)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils import _deadman, _watch
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._checkpoint import checkpoint
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import RestoreFailed, Unhealthy
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files, registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Kind, Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._rollback import rollback
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._settle import settle
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import transaction
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._way_back import access
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._way_back.run import Run


@pytest.fixture(autouse=True)
def _no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "start", lambda *_words: None)
    monkeypatch.setattr(_watch, "watching", lambda _agent: True)


class Word:
    """A kind whose state is a word; ``log`` is what was asked of all of them, in order."""

    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name, self.log, self.fails, self.now = name, log, fails, "old"

    def kind(self) -> Kind:
        return Kind(
            check=lambda spec: spec,
            capture=lambda _spec, sink, _system: [f"word {self.now} sha256={sink.add(self.now.encode())}"],
            plan=lambda then, _at: [Step(self.name, "put", one) for one in self.other(then)],
            apply=self.apply,
            verify=lambda then, _system: [f"{self.name} is {self.now}" for _one in self.other(then)],
        )

    def other(self, then: Any) -> list[str]:
        """The recorded word, where it is another one."""
        word = then[0].split()[1]
        return [] if word == self.now else [word]

    def apply(self, steps: Any, _at: Restore) -> list[Step]:
        self.log.append(self.name)
        if self.fails:
            raise RestoreFailed("no", left=[f"{self.name}: nobody has it"])
        self.now = steps[0].target
        return list(steps)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The order in which kinds and paths are put back."""
    found: list[str] = []
    apply = transaction._apply

    def noting(journal: str, plan: dict[str, Any]) -> transaction.Finished:
        found.extend(os.path.basename(os.fsdecode(bytes.fromhex(step["path"]))) for step in plan["steps"])
        return apply(journal, plan)

    monkeypatch.setattr(transaction, "_apply", noting)
    yield found


def kinds(monkeypatch: pytest.MonkeyPatch, **words: Word) -> None:
    """Words in the places of real kinds."""
    for name, word in words.items():
        group = registry.EARLY if name in registry.EARLY else registry.LATE
        monkeypatch.setitem(group, name, word.kind())
        monkeypatch.setitem(registry.KINDS, name, word.kind())


def back(store: Store, generation: int) -> dict[str, Any]:
    """Settle by going back; the result, whatever it is."""
    with pytest.raises((Unhealthy, RestoreFailed)) as ended:
        settle(store, generation, [], 0.0, 1.0, 0.1, "roll_back")
    return ended.value.result


def test_what_gives_access_goes_first_and_waits_for_nothing(
    store: Store, tree: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tree.parent / "ssh"
    ssh.mkdir()
    (ssh / "sshd_config").write_text("open")
    monkeypatch.setattr(access, "PATHS", (str(ssh),))
    words = {name: Word(name, log, fails=name == "packages") for name in ("firewall", "packages", "sysctl")}
    kinds(monkeypatch, **words)
    declared = [{"files": {"paths": [str(tree.parent / "live"), str(ssh)]}}, *({name: {}} for name in words)]
    generation = checkpoint(store, "change", declared, confirm_within=60.0)["generation"]
    for word in words.values():
        word.now = "new"
    (ssh / "sshd_config").write_text("shut")
    (ssh / "extra").write_text("shut")
    (tree / "a").write_text("new")
    looked: list[bool] = []
    scan = files.scan

    def looking(spec: dict[str, Any], *words: Any, **more: Any) -> files.Scan:
        if str(tree) in spec["paths"]:
            looked.append((ssh / "sshd_config").read_text() == "open" and "firewall" in log)
        return scan(spec, *words, **more)

    monkeypatch.setattr(files, "scan", looking)
    result = back(store, generation)
    assert log[0] == "firewall" and log.index("sshd_config") < log.index("a") < log.index("packages")
    assert looked and all(looked), "the trees are looked at when one can get in again"
    assert (tree / "a").read_text() == "first" and words["sysctl"].now == "old" and not (ssh / "extra").exists()
    assert result["left"] == ["packages: nobody has it"] and result["outcome"] == "in_doubt"
    # The undo has all of it as it was before, what gives access too.
    monkeypatch.setattr(words["packages"], "fails", False)
    assert back(store, generation)["left"] == [] and words["packages"].now == "old"
    rollback(store, result["undo"])
    assert (ssh / "sshd_config").read_text() == "shut" and (ssh / "extra").exists() and words["firewall"].now == "new"
    assert (tree / "a").read_text() == "new"


def test_an_operators_rollback_puts_the_firewall_back_under_its_dead_man_alone(
    store: Store, tree: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Word("firewall", log)
    kinds(monkeypatch, firewall=wall)
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}, {"firewall": {}}])
    wall.now = "new"
    (tree / "a").write_text("new")
    armed: list[bool] = []
    arm = _deadman.arm
    monkeypatch.setattr(_deadman, "arm", lambda *words: (armed.append(wall.now == "new"), arm(*words))[1])
    rollback(store, "before", confirm_within=60.0)
    assert armed == [True] and wall.now == "old" and log.index("a") < log.index("firewall")


def test_packages_that_fail_are_tried_once_more_after_the_rest(
    store: Store, tree: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late, early = Word("sysctl", log), Word("packages", log)
    kinds(monkeypatch, packages=early, sysctl=late)
    checkpoint(store, "before", [{"packages": {}}, {"sysctl": {}}])
    late.now = early.now = "new"
    apply = early.apply

    def needing(steps: Any, at: Restore) -> list[Step]:
        early.fails = late.now == "new"
        return apply(steps, at)

    monkeypatch.setattr(early, "apply", needing)
    kinds(monkeypatch, packages=early)
    assert rollback(store, "before")["left"] == [] and log == ["packages", "sysctl", "packages"]


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts")
def test_a_full_disk_makes_room_for_what_was_there(store: Store, tree: Path) -> None:
    disk = tree / "empty"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk], check=True)
    try:
        (disk / "page").write_bytes(os.urandom(100_000))
        generation = checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)["generation"]
        was = (disk / "page").read_bytes()
        (disk / "page").unlink()
        with pytest.raises(OSError), open(disk / "fill", "wb") as stream:
            stream.write(bytes(600_000))
        (tree / "a").write_text("new")
        result = back(store, generation)
        assert result["left"] == [] and (disk / "page").read_bytes() == was and not (disk / "fill").exists()
        assert (tree / "a").read_text() == "first"
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="it mounts")
def test_a_store_without_room_keeps_no_undo_and_holds_nothing_up(tmp_path: Path, store: Store, tree: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    try:
        narrow = Store(str(small / "store"), store.system)
        generation = checkpoint(narrow, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)[
            "generation"
        ]
        (tree / "a").write_text("new")
        (tree / "new").write_bytes(os.urandom(6_000_000))
        result = back(narrow, generation)
        assert result["left"] == [] and result["undo"] == "" and not (tree / "new").exists()
        assert (tree / "a").read_text() == "first" and any("not kept" in note for note in result["notes"])
    finally:
        subprocess.run(["umount", small], check=True)


def test_nothing_is_touched_where_something_else_is_mounted_now(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = {"/": "ext4", str(tree / "sub"): "xfs"}
    monkeypatch.setattr(registry, "seen_mounts", lambda: mounts)
    generation = checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    (tree / "sub" / "small").write_text("new")
    result = back(store, generation)  # Here the test does not say that it is mounted.
    assert (tree / "a").read_text() == "first" and (tree / "sub" / "small").read_text() == "new"
    assert [one for one in result["left"] if one.startswith(f"{tree}/sub was a mount point (xfs)")]
    assert _deadman.armed(store) is not None, "it is tried again"


def test_a_host_that_is_called_rolled_back_is_measured_again(store: Store, tree: Path) -> None:
    """Tasks of a playbook that ran on after a boot, for example."""
    generation = checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    assert back(store, generation)["outcome"] == "rolled_back"
    (tree / "a").write_text("after")
    result = back(store, generation)
    assert (tree / "a").read_text() == "first" and result["outcome"] == "rolled_back" and result["done"]
    assert back(store, generation)["done"] == []


def test_health_is_spoken_of_where_it_is_measured(store: Store, tree: Path) -> None:
    generation = checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)["generation"]
    with pytest.raises(Unhealthy, match="health is not measured") as ended:
        settle(store, generation, [], 0.0, 1.0, 0.1, "roll_back")
    assert "healthy again" not in ended.value.message and ended.value.result["health_after"] is None


def test_a_kill_in_a_return_keeps_its_undo_and_what_it_put_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("new")

    def die(_run: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "put_back_rest", die)
        rollback(store, "before")
    undo = store.refs()["undo"]
    seen: list[list[str]] = []
    at = Run._at
    monkeypatch.setattr(Run, "_at", lambda run: (seen.append(list(run._changed)), at(run))[1])
    rollback(store, "before")
    assert store.refs()["undo"] == undo, "no second undo, of what was half done"
    rollback(store, "undo")
    assert (tree / "a").read_text() == "new"


def test_a_part_of_a_section_and_its_lines() -> None:
    none = "size=0 sha256=" + "0" * 64
    lines = ["D / 755 0 0 0", "d /etc 755 0 0 5", f"f /etc/group 644 0 0 7 {none}", "d /etc/ssh 755 0 0 6"]
    lines += [f"f /etc/ssh-not 644 0 0 7 {none}", f"f /etc/ssh/a 644 0 0 7 {none}"]
    section = Section("files", {"paths": ["/etc"], "exclude": []}, lines)
    narrow = access.narrowed(section)
    assert narrow is not None and "/etc/ssh" in narrow.spec["paths"] and "/etc" not in narrow.spec["paths"]
    assert files.recorded(narrow.lines, narrow.spec).lines == narrow.lines
    assert "D /etc 755 0 0 0" in narrow.lines and not any("ssh-not" in line for line in narrow.lines)
    assert access.narrowed(Section("files", {"paths": ["/srv"], "exclude": []}, [])) is None
    assert access.narrowed(Section("files", {"paths": ["/etc"], "exclude": ["/etc/*"]}, [])) is None
    known = replace(narrow, lines=[line.replace("/etc/ssh/a 644", "/etc/ssh/a 600") for line in narrow.lines])
    was = access.as_it_was(section, section, known)
    assert [line for line in was.lines if line not in lines] == [lines[5].replace("644", "600", 1)]
    assert len(was.lines) == len(lines)
