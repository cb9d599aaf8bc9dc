# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What may change files is put back before them, and an interrupted rollback is carried to its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, RestoreFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import plan
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.flow import finish
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import (
    Kind,
    Restore,
    Row,
    Sink,
    Spec,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kinds import IN_ORDER
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest, Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, host_state, rollback

from .conftest import copy_of, differences


class Killed(BaseException):
    """Stands for a kill: nothing of ours handles it."""


class Installer(Kind):
    """A kind whose state is one word in a file elsewhere; putting it back also writes into the protected tree."""

    keeps_data_outside = True

    def __init__(self, place: Path, tree: Path, name: str = "installer", installs: bool = False) -> None:
        self.place = place
        self.tree = tree
        self.name = name
        self.installs = installs
        self.own_trees: list[str] = []
        self.killed_after = 99
        self.applied: list[str] = []
        self.undos: list[list[str]] = []
        place.write_text("1")

    def check(self, spec: Spec) -> dict[str, object]:
        return dict(spec)

    def trees(self, spec: Spec) -> list[str]:
        return self.own_trees

    def capture(self, spec: Spec, sink: Sink, system: System) -> list[str]:
        return [f"version {self.place.read_text()} sha256={sink.add(self.place.read_bytes())}"]

    def plan(self, lines: Sequence[str], at: Restore) -> list[Step]:
        wanted = lines[0].split()[1]
        return [] if self.place.read_text() == wanted else [Step(self.name, "install", wanted)]

    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        self.applied.append(steps[0].target)
        self.undos.append([line.split()[1] for line in at.undo])
        (self.tree / "a").write_text("the installer's own")
        if len(self.applied) >= self.killed_after:
            raise Killed
        self.place.write_text(steps[0].target)
        return list(steps)

    def verify(self, lines: Sequence[str], system: System) -> list[str]:
        return [] if lines[0].split()[1] == self.place.read_text() else ["another version"]


class Failing(Installer):
    def apply(self, steps: Sequence[Step], at: Restore) -> list[Step]:
        raise RestoreFailed("it does not work", left=["one thing"])


@pytest.fixture
def installer(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    one = Installer(tmp_path / "installed", tree, installs=True)
    monkeypatch.setitem(registry.KINDS, one.name, one)
    return one


def begin(store: Store, tree: Path) -> None:
    checkpoint(store, "before", [{"files": {"paths": [str(tree)]}}, {"installer": {}}])


def test_files_are_put_back_after_what_changes_them(store: Store, tree: Path, installer: Installer) -> None:
    copy = copy_of(tree)
    begin(store, tree)
    installer.place.write_text("2")
    result = rollback(store, "before")
    assert differences(copy, tree) == "" and installer.place.read_text() == "1"
    assert [one["resource"] for one in result["done"]] == ["installer", "files", "files"]
    assert not os.path.exists(store.join("resume"))
    assert rollback(store, "before")["changed"] is False


def test_a_kill_before_the_files_ends_all_new(store: Store, tree: Path, installer: Installer) -> None:
    copy = copy_of(tree)
    begin(store, tree)
    installer.place.write_text("2")
    (tree / "sub" / "small").write_text("changed")
    installer.killed_after = 1
    with pytest.raises(Killed):
        rollback(store, "before")
    assert installer.place.read_text() == "2" and host_state(store.root)["interrupted"]
    installer.killed_after = 99
    with store.locked():
        said = finish(store)
    assert "finished an interrupted rollback to before" in said[0]
    assert differences(copy, tree) == "" and installer.place.read_text() == "1"
    assert not host_state(store.root)["interrupted"]
    assert installer.undos == [["2"], ["2"]]
    rollback(store, "undo")
    assert installer.place.read_text() == "2" and (tree / "sub" / "small").read_text() == "changed"
    assert (tree / "a").read_text() == "first", "as it was before the rollback, not as the kill left it"


def test_a_missing_content_is_found_before_anything_changes(store: Store, tree: Path, installer: Installer) -> None:
    begin(store, tree)
    installer.place.write_text("2")
    for pack in Path(store.join("packs")).glob("*.pack"):
        pack.unlink()
    with pytest.raises(Damaged, match="nothing was changed"):
        rollback(store, "before")
    assert installer.applied == [] and not os.path.exists(store.join("resume"))


def test_the_undo_leads_back(store: Store, tree: Path, installer: Installer) -> None:
    begin(store, tree)
    installer.place.write_text("2")
    (tree / "a").write_text("of version 2")
    undo = rollback(store, "before")["undo"]
    rollback(store, undo)
    assert installer.place.read_text() == "2" and (tree / "a").read_text() == "of version 2"


def test_a_kind_is_told_only_the_undo_that_can_be_read(
    store: Store, tree: Path, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deletes with the undo what the undo stands for. A missing undo does not keep it from going back."""
    begin(store, tree)
    installer.place.write_text("2")
    rollback(store, "before")
    assert installer.undos == [["2"]]
    monkeypatch.setattr(installer, "keeps_data_outside", False)
    installer.place.write_text("3")
    rollback(store, "before")
    monkeypatch.setattr(installer, "keeps_data_outside", True)
    monkeypatch.setattr(Store, "commit", lambda *_words: SimpleNamespace(id="0" * 64))
    installer.place.write_text("4")
    rollback(store, "before")
    assert installer.undos == [["2"], [], []] and installer.place.read_text() == "1"


def test_a_kind_that_fails_does_not_keep_later_ones_from_being_put_back(
    store: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = {"fails": Failing(tmp_path / "fails", tree, "fails"), "works": Installer(tmp_path / "works", tree, "works")}
    for name, one in late.items():
        monkeypatch.setitem(registry.KINDS, name, one)
    checkpoint(store, "before", [{"fails": {}}, {"works": {}}])
    for one in late.values():
        one.place.write_text("2")
    with pytest.raises(RestoreFailed, match="one thing; another version") as caught:
        rollback(store, "before")
    assert late["works"].place.read_text() == "1" and caught.value.result["left"] == ["one thing", "another version"]
    assert [one["resource"] for one in caught.value.result["done"]] == ["works"]


def test_a_kill_where_no_file_changes_is_finished_too(
    store: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Installer(tmp_path / "installed", tmp_path)
    monkeypatch.setitem(registry.KINDS, "installer", late)
    begin(store, tree)
    late.place.write_text("2")
    late.killed_after = 1
    with pytest.raises(Killed):
        rollback(store, "before")
    assert late.place.read_text() == "2" and host_state(store.root)["interrupted"]
    late.killed_after = 99
    with store.locked():
        assert len(finish(store)) == 1
    assert late.place.read_text() == "1" and not host_state(store.root)["interrupted"]


def test_trees_of_a_kind_are_put_back_with_the_files(
    store: Store, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Installer(tmp_path / "installed", tree)
    one.own_trees = [str(tree)]
    monkeypatch.setitem(registry.KINDS, "installer", one)
    copy = copy_of(tree)
    checkpoint(store, "before", [{"installer": {}}])
    (tree / "a").write_text("changed")
    (tree / "added").write_text("added")
    rollback(store, "before")
    assert differences(copy, tree) == ""
    # Covered by a declaration of the user's, with its excludes, it stands there once.
    sections = registry.check([{"installer": {}}, {"files": {"paths": [str(tree.parent)], "exclude": ["*.log"]}}])
    assert [section.spec.get("trees") for section in sections] == [None, None]


def loaded(kinds: registry._Kinds) -> list[str]:
    return [name for name, kind in kinds._known.items() if not isinstance(kind, Row)]


def test_only_the_declared_kinds_are_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kinds = registry._Kinds(IN_ORDER)
    monkeypatch.setattr(registry, "KINDS", kinds)
    sections = registry.check([{"files": {"paths": [str(tmp_path)]}}])
    assert registry.early() == ["packages"] and registry.late()[-1] == "services"
    assert [section.kind for section in sections] == loaded(kinds) == ["files"]


def test_a_rollback_has_loaded_its_kinds_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library lies where a rollback may put back another, or none."""
    kinds = registry._Kinds(IN_ORDER)
    monkeypatch.setattr(registry, "KINDS", kinds)
    manifest = Manifest("2026-11-23T23:50:11.123456Z", "web1", "x", [Section("files", {}), Section("sysctl", {})])
    plan.chosen(manifest, ["sysctl"])
    assert loaded(kinds) == ["sysctl", "services"]


def test_data_of_a_kind_that_nobody_declares_is_forgotten_without_it(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    kinds = registry._Kinds(IN_ORDER)
    monkeypatch.setattr(registry, "KINDS", kinds)
    for forget in registry.forgetting(store).values():
        forget([], [])
    assert loaded(kinds) == []
    left = Path(store.join("packages", f"new.{1 << 30}"))  # A kill has left it.
    left.parent.mkdir(parents=True)
    registry.forgetting(store)["packages"]([], [])
    assert loaded(kinds) == ["packages"]


def test_the_table_tells_what_the_classes_tell() -> None:
    kinds, whole = registry._Kinds(IN_ORDER), registry._Kinds(IN_ORDER)
    facts = [name for name, usual in vars(Kind).items() if usual is False] + ["on_plain_host"]
    assert len(dict(whole)) == len(loaded(whole)) and not loaded(kinds)
    assert [kinds.where(fact) for fact in facts] == [whole.where(fact) for fact in facts]
    assert {name: IN_ORDER[name].options for name in kinds} == {name: kind.options for name, kind in whole.items()}
