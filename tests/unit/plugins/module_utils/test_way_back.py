# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go back does, whatever else cannot (R1); and what is said of it was measured (R2)."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    EvenkeelError,
    Refused,
    RestoreFailed,
    Unhealthy,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import (
    anchors,
    applying,
    journals,
    transaction,
    walk,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.scanning import Scan
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access, credentials, plan
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.mounts import mounts
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files, registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Kind, Restore, Sink, Spec
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.services import Services
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import outage
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback, settle

from .conftest import SYSTEM


@pytest.fixture(autouse=True)
def _no_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "start", lambda *_words: None)
    monkeypatch.setattr(watcher, "is_running", lambda _agent: True)


class Word:
    """A kind whose state is a word; ``log`` is what was asked of all of them, in order."""

    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name, self.log, self.fails, self.now = name, log, fails, "old"

    def kind(self, **attributes: object) -> Kind:
        """The kind of that name, with all that it is to the order of a rollback, and a word as its state."""
        word, own = self, type(registry.KINDS[self.name])

        class Kept(own):  # type: ignore[misc, valid-type]
            def check(self, spec: Spec) -> dict[str, object]:
                return dict(spec)

            def trees(self, spec: Spec) -> list[str]:
                return []

            def trees_as_a_whole(self, spec: Spec) -> list[str]:
                return []

            def named(self, lines: Sequence[str]) -> set[str]:
                return set()

            def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
                return [f"word {word.now} sha256={sink.add(word.now.encode())}"]

            def capture_for_undo(self, spec: Spec, sink: Sink, system: System, local_only: bool) -> list[str]:
                return self.capture(spec, sink, system)

            def not_restorable(self, spec: Spec, lines: Sequence[str]) -> list[str]:
                return []

            def watch(self, spec: Spec, lines: Sequence[str], call: Sequence[str], root: str) -> list[str]:
                return []

            def obstacles(self, lines: Sequence[str], at: Restore) -> list[str]:
                return []

            def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
                return [Step(word.name, "put", one) for one in word.other(lines)]

            def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
                return word.apply(steps, at)

            def verify(self, lines: Sequence[str], system: System) -> list[str]:
                return [f"{word.name} is {word.now}" for _one in word.other(lines)]

        for name, value in attributes.items():
            setattr(Kept, name, value)
        made: Kind = Kept()
        return made

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
    apply = applying.apply

    def noting(plan: journals.Plan) -> tuple[list[str], dict[str, str]]:
        found.extend(os.path.basename(os.fsdecode(one.path)) for one in plan.operations)
        return apply(plan)

    monkeypatch.setattr(transaction, "apply", noting)
    yield found


def kinds(monkeypatch: pytest.MonkeyPatch, **words: Word) -> None:
    """Words in the places of real kinds."""
    for name, word in words.items():
        monkeypatch.setitem(registry.KINDS, name, word.kind())


def back(store: Store, generation: int) -> dict[str, Any]:
    """Settle by going back; the result, whatever it is."""
    with pytest.raises((Unhealthy, RestoreFailed)) as ended:
        settle(store, generation, [], 0.0, 1.0, 0.1, verdict="roll_back")
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

    def looking(spec: dict[str, Any], *words: Any, **more: Any) -> Scan:
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
    arm = changes.arm

    def arming(*words: Any) -> changes.Armed:
        armed.append(wall.now == "new")
        return arm(*words)

    monkeypatch.setattr(changes, "arm", arming)
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


def test_a_reload_that_failed_stays_left_and_is_tried_again_until_it_succeeds(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = Word("services", [])
    asked: list[str] = []

    def planned(_kind: Kind, _lines: Sequence[str], at: Restore) -> list[Step]:
        due = bool(at.changed) or bool(at.failed("services", "web"))
        return [Step("services", "reload", "web", "files changed")] if due else []

    def applied(_kind: Kind, steps: Sequence[Step], _at: Restore) -> list[Step]:
        asked.extend(step.action for step in steps)
        if web.fails:
            raise RestoreFailed("no", left=["web: its reload fails"])
        return list(steps)

    monkeypatch.setitem(registry.KINDS, "services", web.kind(plan=planned, apply=applied))
    declared = [{"files": {"paths": [str(tree)]}}, {"services": {}}]
    generation = checkpoint(store, "change", declared, confirm_within=60.0)["generation"]
    web.fails = True
    (tree / "a").write_text("new")
    for times in (1, 2):  # The second time no path differs any more, and nothing else shows that a reload is due.
        assert back(store, generation)["left"] == ["web: its reload fails"] and len(asked) == times
    web.fails = False
    assert back(store, generation)["left"] == [] and len(asked) == 3
    assert not os.path.exists(store.join("resume"))


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
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], check=True)
    try:
        narrow = Store(str(small / "store"), store.system)
        generation = checkpoint(narrow, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)[
            "generation"
        ]
        (tree / "a").write_text("new")
        (tree / "new").write_bytes(os.urandom(12_000_000))
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
    assert changes.armed(store) is not None, "it is tried again"


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
        settle(store, generation, [], 0.0, 1.0, 0.1, verdict="roll_back")
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
    was = access.with_former_part(section, section, known)
    assert [line for line in was.lines if line not in lines] == [lines[5].replace("644", "600", 1)]
    assert len(was.lines) == len(lines)


def test_a_declared_path_that_cannot_be_looked_at_keeps_no_other_one_back(
    store: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is dead, or a directory above it that is a user's and flips."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "one").write_text("old")
    declared = [{"files": {"paths": [str(share), str(tree)]}}]
    generation = checkpoint(store, "change", declared, confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    look = walk.Walk.root

    def dead(walking: walk.Walk, path: bytes) -> None:
        if path == os.fsencode(share):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        look(walking, path)

    with monkeypatch.context() as patched:
        patched.setattr(walk.Walk, "root", dead)
        result = back(store, generation)
    assert (tree / "a").read_text() == "first" and (share / "one").read_text() == "old"
    assert result["outcome"] == "in_doubt"
    assert result["left"] and all(one.startswith(str(share)) for one in result["left"])


def test_what_nobody_thought_of_in_one_kind_keeps_no_other_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = Word("sysctl", [])
    kinds(monkeypatch, sysctl=sysctl)
    declared = [{"files": {"paths": [str(tree)]}}, {"sysctl": {}}]
    generation = checkpoint(store, "change", declared, confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    sysctl.now = "new"

    def odd(*_words: object) -> list[Step]:
        raise RecursionError("too deep")

    with monkeypatch.context() as patched:
        patched.setattr(sysctl, "apply", odd)
        kinds(patched, sysctl=sysctl)
        result = back(store, generation)
    assert (tree / "a").read_text() == "first"
    assert result["left"] == ["sysctl: RecursionError: too deep"]


def test_where_no_path_can_be_made_ready_all_other_kinds_go_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal cannot be written, perhaps: the disk of the store is full, or read-only."""
    sysctl = Word("sysctl", [])
    kinds(monkeypatch, sysctl=sysctl)
    declared = [{"files": {"paths": [str(tree)]}}, {"sysctl": {}}]
    generation = checkpoint(store, "change", declared, confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    sysctl.now = "new"

    def full(*_words: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(transaction.Transaction, "stage", full)
        result = back(store, generation)
    assert sysctl.now == "old" and (tree / "a").read_text() == "new"
    assert result["left"] and all("No space left on device" in one for one in result["left"])


def test_that_nothing_was_changed_is_said_where_it_is_true_of_the_whole(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysctl = Word("sysctl", [])
    kinds(monkeypatch, sysctl=sysctl)
    checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}, {"sysctl": {}}])

    def refuses(*_words: object) -> list[str]:
        raise Refused("sysctl: it is gone. Nothing was changed; mend it")

    monkeypatch.setattr(sysctl, "other", refuses)
    (tree / "a").write_text("new")
    with pytest.raises(RestoreFailed, match="is put back, but") as partly:
        rollback(store, "change")
    assert (tree / "a").read_text() == "first"
    assert "othing was changed" not in partly.value.message + str(partly.value.result["left"])
    assert "it is gone; mend it" in str(partly.value.result["left"])
    before = sorted(os.listdir(store.root))
    with pytest.raises(Refused, match="cannot be put back; nothing was changed: .*it is gone; mend it"):
        rollback(store, "change")
    assert sorted(os.listdir(store.root)) == before


def test_what_was_taken_down_comes_up_whatever_ends_a_rollback(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("new")
    up: list[str] = []
    monkeypatch.setattr(Services, "will_stop", lambda _self, _steps, _at: outage.Down(units=["web.service"]))
    monkeypatch.setattr(outage, "take_down", lambda down, _system: down)

    def start(_self: Services, down: outage.Down, _at: Restore) -> tuple[list[Step], dict[str, str]]:
        up.extend(down.units)
        return [Step("services", "start", one) for one in down.units], {}

    def full(*_words: object) -> None:
        raise Refused("there is no room for the undo")

    monkeypatch.setattr(Services, "start_stopped", start)
    monkeypatch.setattr(Store, "commit", full)
    with pytest.raises(Refused):
        rollback(store, "before")
    assert up == ["web.service"]


@pytest.mark.parametrize("fails", [True, False])
def test_a_dependent_that_is_not_declared_is_left_where_it_does_not_come_up(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    generation = checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    asked: list[list[str]] = []
    monkeypatch.setattr(Services, "will_stop", lambda _self, _steps, _at: outage.Down(units=["other.service"]))
    monkeypatch.setattr(outage, "take_down", lambda down, _system: down)

    def start(_self: Services, down: outage.Down, _at: Restore) -> tuple[list[Step], dict[str, str]]:
        asked.append(down.units)
        return [], {"other.service": "it fails"} if fails else {}

    monkeypatch.setattr(Services, "start_stopped", start)
    result = back(store, generation)
    assert result["left"] == (["other.service: it fails"] if fails else [])
    if fails:  # No path differs any more; it is tried again all the same.
        assert back(store, generation)["outcome"] == "in_doubt" and asked == [["other.service"]] * 2


def test_a_journal_that_ended_in_an_error_is_not_carried_out_later(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("new")

    def broken(*_words: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(applying, "sync", broken)
        with suppress(RestoreFailed):
            rollback(store, "before")
    assert store.journals() == []
    checkpoint(store, "after", [{"files": {"paths": [str(tree)]}}])
    (tree / "sub" / "small").write_text("kept")
    rollback(store, "after", paths=[str(tree / "a")])
    assert (tree / "sub" / "small").read_text() == "kept"


@pytest.mark.parametrize("mark", [b'{"checkpoint": "%064d", "kinds": null}' % 0, b"{", b""])
def test_what_asks_for_a_checkpoint_that_is_gone_blocks_nothing_for_ever(store: Store, tree: Path, mark: bytes) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("new")
    Path(store.join("resume")).write_bytes(mark)
    with suppress(EvenkeelError):
        rollback(store, "before")
    rollback(store, "before")
    assert (tree / "a").read_text() == "first"


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="it takes a second file system")
def test_a_place_to_stage_that_cannot_be_made_moves_no_other(tmp_path: Path) -> None:
    journal = tmp_path / f"journal-{uuid.uuid4()}"
    journal.mkdir()
    made = anchors.Anchors(str(journal))
    taken = Path("/dev/shm", made.name)
    taken.touch()
    try:
        for name in ("one", "two"):
            with pytest.raises(FileExistsError):
                made.of(os.fsencode(taken.with_name(name)), set())
        number = made.of(os.fsencode(tmp_path / "one"), set())
        assert os.path.samestat(os.fstat(made.fd(number)), os.stat(made.made[number].path))
        os.rmdir(made.made[number].path)
    finally:
        taken.unlink()
        made.close()


def test_a_kind_of_file_system_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(b"36 35 98:0 / /mnt rw - fuse.\xff\xfe x rw\n")
    assert [one.kind for one in mounts(f"..{tmp_path}")] == ["fuse.\\xff\\xfe"]


def test_what_a_program_that_is_gone_has_left_is_no_state_of_its_service(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name, text in (("app.lock", f"{gone.pid}\n"), ("poetry.lock", "a lock of versions"), ("live.pid", "1\n")):
        (folder / name).write_text(text)
    writer = Writer(store.objects)
    spec = {"paths": [str(folder)], "exclude": []}
    section = Section("files", spec, files.scan(spec, writer).lines())
    writer.publish()
    for name in ("app.lock", "poetry.lock", "live.pid"):
        (folder / name).unlink()
    services_too = Section("services", {"names": []}, [])
    _proved, alone = plan.prove_files(store, [section], plan.Options())
    _proved, beside = plan.prove_files(store, [section, services_too], plan.Options())
    assert {os.path.basename(one) for one in alone} == {"app", "app.lock", "poetry.lock", "live.pid"}
    assert {os.path.basename(one) for one in beside} == {"app", "poetry.lock", "live.pid"}


def test_only_what_nobody_has_is_taken_away_before_a_start(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    (folder / "dead.pid").write_text(f"{gone.pid}\n")
    (folder / "live.pid").write_text(f"{os.getpid()}\n")
    (folder / "number").write_text(f"{gone.pid}\n")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        live.bind(str(folder / "live.sock"))
        live.listen()
        other.bind(str(folder / "log"))
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / "dead.sock"))
        section = Section("files", {"paths": [str(folder)], "exclude": []}, [])
        taken = plan.clear_traces(store, [section])
    assert taken == [str(folder / "dead.pid"), str(folder / "dead.sock")]
    assert sorted(os.listdir(folder)) == ["live.pid", "live.sock", "log", "number"]


def test_what_goes_back_whole_or_not_at_all_keeps_its_files_too(
    store: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database whose data cannot go back gets no configuration of other data either."""
    conf = tmp_path / "conf"
    conf.write_text("old")
    sysctl = Word("sysctl", [])
    kind = sysctl.kind(trees=lambda _kind, _spec: [str(conf)], all_or_nothing=True)
    monkeypatch.setitem(registry.KINDS, "sysctl", kind)
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}, {"sysctl": {}}])
    conf.write_text("new")
    (tree / "a").write_text("new")

    def standby(*_words: object) -> list[str]:
        raise Refused("it is a standby")

    with monkeypatch.context() as patched:
        patched.setattr(sysctl, "other", standby)
        with pytest.raises(RestoreFailed) as partly:
            rollback(store, "before")
        assert conf.read_text() == "new" and (tree / "a").read_text() == "first"
        assert "it is a standby" in str(partly.value.result["left"]) and str(conf) in str(partly.value.result["left"])
    rollback(store, "before")
    assert conf.read_text() == "old"


@pytest.mark.parametrize("fails", ["a section", "a part of a section"])
def test_a_part_of_a_kind_that_refuses_keeps_no_other_part_of_it_back(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """As one cluster of several that is a standby now: the others go back, data and configuration."""
    now = {"first": "old", "other": "old"}

    def captured(_kind: Kind, spec: Spec, _sink: Sink, _system: System) -> list[str]:
        return [f"word {name} {now[name]}" for name in spec["names"]]

    def planned(_kind: Kind, lines: Sequence[str], _at: Restore) -> list[Step]:
        differing = [one for one in map(str.split, lines) if now[one[1]] != one[2]]
        if any(one[1] == "first" for one in differing):
            raise Refused("first: it is a standby")
        return [Step("sysctl", "put", one[1], one[2]) for one in differing]

    def applied(_kind: Kind, steps: Sequence[Step], _at: Restore) -> list[Step]:
        now.update({step.target: step.why for step in steps})
        return list(steps)

    def wrong(_kind: Kind, lines: Sequence[str], _system: System) -> list[str]:
        return [f"{one[1]} differs" for one in map(str.split, lines) if now[one[1]] != one[2]]

    words = Word("sysctl", []).kind(
        capture=captured,
        capture_for_undo=lambda kind, spec, sink, system, _only: captured(kind, spec, sink, system),
        plan=planned,
        apply=applied,
        verify=wrong,
        parts=lambda _kind, lines: [[line] for line in lines],
    )
    monkeypatch.setitem(registry.KINDS, "sysctl", words)
    names = [["first", "other"]] if fails == "a part of a section" else [["first"], ["other"]]
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}, *({"sysctl": {"names": one}} for one in names)])
    now.update(first="new", other="new")
    with pytest.raises(RestoreFailed) as partly:
        rollback(store, "before")
    assert now == {"first": "new", "other": "old"}
    assert set(partly.value.result["left"]) == {"first: it is a standby"}


def test_a_certificate_that_goes_back_is_named(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been renewed meanwhile, by a timer that no change knows of."""
    here = [one._replace(paths=one.paths.replace("/etc", re.escape(str(tree)))) for one in credentials._KNOWN]
    monkeypatch.setattr(credentials, "_KNOWN", here)
    live = tree / "letsencrypt/live"
    for name in ("web", "other"):
        (live / name).mkdir(parents=True)
        for file in ("cert.pem", "privkey.pem"):
            (live / name / file).symlink_to(f"../../archive/{name}/1-{file}")
    (tree / "krb5.keytab").write_text("old")
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    for file in ("cert.pem", "privkey.pem"):
        (live / "web" / file).unlink()
        (live / "web" / file).symlink_to(f"../../archive/web/2-{file}")
    (live / "new").mkdir()
    (live / "new/cert.pem").symlink_to("../../archive/new/1-cert.pem")
    (tree / "krb5.keytab").write_text("new")
    notes = rollback(store, "before")["notes"]
    assert [one.partition(" was put back: ")[0] for one in notes] == [f"{live}/web", f"{tree}/krb5.keytab"]


def test_what_a_service_saves_as_it_stops_does_not_stay(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "state").write_text("recorded")
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("new")

    def stop(down: outage.Down, _system: object) -> outage.Down:
        (tree / "state").write_text("saved as it stopped")
        return down

    monkeypatch.setattr(Services, "will_stop", lambda _self, _steps, _at: outage.Down(units=["web.service"]))
    monkeypatch.setattr(outage, "take_down", stop)
    monkeypatch.setattr(
        Services, "start_stopped", lambda _self, down, _at: ([Step("services", "start", one) for one in down.units], {})
    )
    undo = rollback(store, "before")["undo"]
    assert (tree / "state").read_text() == "recorded"
    rollback(store, undo)
    assert (tree / "state").read_text() == "saved as it stopped"


def test_a_service_does_not_start_on_the_lock_of_the_dead(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tree / "web.pid").write_text(f"{gone.pid}\n")
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}])
    (tree / "a").write_text("new")
    found: list[bool] = []
    monkeypatch.setattr(Services, "will_stop", lambda _self, _steps, _at: outage.Down(units=["web.service"]))
    monkeypatch.setattr(outage, "take_down", lambda down, _system: down)

    def start(_self: Services, down: outage.Down, _at: Restore) -> tuple[list[Step], dict[str, str]]:
        found.append((tree / "web.pid").exists())
        return [Step("services", "start", one) for one in down.units], {}

    monkeypatch.setattr(Services, "start_stopped", start)
    assert "its program does not run any more" in str(rollback(store, "before")["notes"])
    assert found == [False]


@pytest.mark.parametrize("again", [False, True])
def test_what_a_service_wrote_as_it_started_again_is_no_later_change(
    store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    generation = checkpoint(store, "change", [{"files": {"paths": [str(tree)]}}], confirm_within=60.0)["generation"]
    (tree / "a").write_text("new")
    monkeypatch.setattr(Services, "will_stop", lambda _self, _steps, _at: outage.Down(units=["web.service"]))
    monkeypatch.setattr(outage, "take_down", lambda down, _system: down)

    def start(_self: Services, down: outage.Down, _at: Restore) -> tuple[list[Step], dict[str, str]]:
        (tree / "a").write_text("written at its start")
        return [Step("services", "start", one) for one in down.units], {}

    monkeypatch.setattr(Services, "start_stopped", start)
    assert back(store, generation)["outcome"] == "rolled_back"
    if again:
        (tree / "a").write_text("written by somebody later")
    result = back(store, generation)
    assert bool(result["done"]) is again and (tree / "a").read_text() == "written at its start"


def test_the_time_of_arming_is_told_by_the_clock_that_nobody_sets(store: Store, tree: Path) -> None:
    clocks = [1_000_000.0, 500.0]
    store = Store(store.root, replace(SYSTEM, now=lambda: clocks[0], monotonic=lambda: clocks[1]))
    armed = checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}], confirm_within=600.0)
    made = store.manifest(armed["id"])
    clocks[:] = [5_000_060.0, 560.0]
    at = plan.restore(store, made, plan.Options(), ())
    assert at.armed == at.began == 5_000_000.0
    other = replace(made, id="0" * 64)
    assert plan.restore(store, other, plan.Options(), ()).armed == 0.0, "it is of another change"
    store = Store(store.root, replace(store.system, boot_id=lambda: "another"))
    at = plan.restore(store, made, plan.Options(), ())
    assert at.armed == 0.0 and at.began == at.since
