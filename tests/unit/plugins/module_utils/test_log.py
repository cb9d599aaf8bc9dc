# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A log of checkpoints: small records, each of which can be gone back to; a break in it is named."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, NotFound
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import manifest as manifests
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import retention
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import store as stores
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest, Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import adopt, checkpoint, receive, rollback, scrub
from hypothesis import given
from hypothesis import strategies as st

from .conftest import copy_of, differences

lines = st.lists(st.text("abc =+-", max_size=3), max_size=12)


def take(store: Store, tree: Path, **options: Any) -> dict[str, Any]:
    return checkpoint(store, "log", [{"files": {"paths": [str(tree)]}}], kind="log", **options)


def write(tree: Path, number: int) -> None:
    """A state of the tree: a content changes, a path comes, one goes."""
    (tree / "a").write_text(f"number {number}")
    (tree / f"new-{number}").write_text("new")
    (tree / f"new-{number - 1}").unlink(missing_ok=True)


@pytest.fixture
def log(store: Store, tree: Path, tmp_path: Path) -> list[str]:
    """Ids of a snapshot and four records that follow it; ``copy-<n>`` is what the tree was at each."""
    ids = []
    for number in range(5):
        write(tree, number)
        ids.append(take(store, tree)["id"])
        copy_of(tree).rename(tmp_path / f"copy-{number}")
    return ids


def forge(store: Store, record: str, old: bytes, new: bytes) -> None:
    """Change a record in its file, which is then not what its id says."""
    path = Path(store.join("manifests", record))
    data = path.read_bytes()
    assert old in data
    path.chmod(0o600)
    path.write_bytes(data.replace(old, new, 1))


@given(lines, lines)
def test_changes_lead_from_any_lines_to_any_others(before: list[str], after: list[str]) -> None:
    script = manifests._changes(before, after)
    assert manifests._changed(before, script) == after
    if before:
        with pytest.raises(ValueError, match="record before it|end at line|no change"):
            manifests._changed([*before, "more"], script)


@given(st.lists(st.integers(0, 99), unique=True), st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
def test_changes_are_as_long_as_what_changed(kept: list[int], gone: set[int], come: set[int]) -> None:
    """With lines in one order, as those of a resource are: each change once, and no line that stays."""
    before = [f"{number:02}" for number in sorted({*kept, *gone} - come)]
    after = [f"{number:02}" for number in sorted({*kept, *come} - gone)]
    script = manifests._changes(before, after)
    assert {step for step in script if step[0] != "="} == {
        *(f"-{one}" for one in set(before) - set(after)),
        *(f"+{one}" for one in set(after) - set(before)),
    }


@pytest.mark.parametrize("step", ["=0", "=-1", "=9", "=x", "-b", "*a", "", "=1=1"])
def test_what_is_no_change_is_refused(step: str) -> None:
    with pytest.raises(ValueError):
        manifests._changed(["a"], [step])


def test_every_record_can_be_gone_back_to(store: Store, tree: Path, log: list[str], tmp_path: Path) -> None:
    assert [one.kind for one in store.checkpoints()] == ["snapshot", "log", "log", "log", "log"]
    assert [store.record(one).parent for one in log[1:]] == log[:-1]
    for number, to in [(0, log[0]), (3, log[3][:12]), (1, "log~3"), (4, "log"), (2, "log~2"), (4, "log~0")]:
        rollback(store, to)
        assert differences(tmp_path / f"copy-{number}", tree) == "", to
    with pytest.raises(NotFound, match="there are 5 of log"):
        rollback(store, "log~5")


def test_a_record_is_as_large_as_the_change(store: Store, tree: Path, tmp_path: Path) -> None:
    sizes = {}
    for count in (10, 1000):
        for number in range(count):
            (tree / f"file-{number:04}").write_text(f"{number}")
        take(store, tree)
        write(tree, count)
        record = take(store, tree)
        assert record["kind"] == "log"
        sizes[count] = os.path.getsize(store.join("manifests", record["id"]))
    assert sizes[1000] < sizes[10] + 100


def test_an_unchanged_state_is_no_record(store: Store, tree: Path, log: list[str]) -> None:
    again = take(store, tree)
    assert (again["changed"], again["id"], again["kind"]) == (False, log[-1], "log")


def test_check_mode_foretells_the_kind(store: Store, tree: Path, log: list[str]) -> None:
    write(tree, 7)
    before = sorted(os.listdir(store.join("manifests")))
    foretold = take(store, tree, retention={"last": 1}, check_mode=True)
    assert foretold["kind"] == "log" and foretold["planned"] == ["checkpoint log"]
    assert sorted(os.listdir(store.join("manifests"))) == before
    assert checkpoint(store, "other", [{"files": {"paths": [str(tree)]}}], kind="log", check_mode=True)["kind"] == (
        "snapshot"
    )


@pytest.mark.parametrize("other", ["resources", "host", "length", "damage"])
def test_what_cannot_follow_begins_a_log_anew(
    store: Store, tree: Path, log: list[str], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tree, 7)
    options: dict[str, Any] = {}
    paths = [str(tree)]
    if other == "resources":
        paths.append(str(tree.parent / "absent"))
    elif other == "host":
        options["host"] = "elsewhere"
    elif other == "length":
        monkeypatch.setattr(stores, "CHAIN", 5)
    else:
        forge(store, log[0], b"kind", b"kine")
    made = checkpoint(store, "log", [{"files": {"paths": paths}}], kind="log", **options)
    assert made["kind"] == "snapshot" and store.manifest(made["id"])
    write(tree, 8)
    assert checkpoint(store, "log", [{"files": {"paths": paths}}], kind="log", **options)["kind"] == "log"


@pytest.mark.parametrize("harm", ["missing", "damaged"])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_broken_log_is_named_and_what_is_before_the_break_stays_usable(
    store: Store, tree: Path, log: list[str], tmp_path: Path, at: int, harm: str
) -> None:
    if harm == "missing":
        os.unlink(store.join("manifests", log[at]))
    else:
        forge(store, log[at], b"created 2", b"created 3")
    state = copy_of(tree)
    for number in range(at, 5):
        with pytest.raises(Damaged, match=log[at][:12]) as caught:
            rollback(store, log[number])
        if number > at:
            assert "broken at record" in caught.value.message
            assert f"from {log[at + 1][:12]} on" in caught.value.message
    assert differences(state, tree) == ""
    assert [one.id for one in store.checkpoints()] == log[:at]
    for number in range(at):
        rollback(store, log[number])
        assert differences(tmp_path / f"copy-{number}", tree) == ""
    (said,) = take(store, tree, retention={"last": 1})["warnings"]
    assert "nothing was pruned" in said
    with pytest.raises(Damaged) as found:
        scrub(store)
    assert [one["id"] for one in found.value.result["damaged"]] == log[at:]
    assert set(os.listdir(store.join("manifests"))) >= set(log) - {log[at]}


def test_a_record_that_leads_to_another_state_is_damaged(store: Store, tree: Path, log: list[str]) -> None:
    record = store.record(log[-1])
    data = store.record_data(log[-1]).replace(record.root.encode(), b"0" * 64)
    forged = hashlib.sha256(data).hexdigest()
    Path(store.join("manifests", forged)).write_bytes(data)
    assert store.record(forged).root == "0" * 64
    with pytest.raises(Damaged, match=f"{forged} of the log log does not lead to"):
        store.manifest(forged)


def test_retention_keeps_what_the_kept_records_follow(store: Store, tree: Path, log: list[str]) -> None:
    write(tree, 5)
    kept = take(store, tree, retention={"last": 2})
    assert [one.id for one in store.checkpoints()] == [*log, kept["id"]]
    assert kept["kept"][log[0]] == [f"{log[1][:12]} follows it"] and kept["kept"][log[-1]] == ["last"]
    assert all(store.verify(store.manifest(one)) == {} for one in log)


def test_retention_drops_a_log_as_a_whole(store: Store, tree: Path, log: list[str]) -> None:
    write(tree, 5)
    whole = checkpoint(store, "log", [{"files": {"paths": [str(tree)]}}])
    write(tree, 6)
    last = take(store, tree, retention={"last": 2})
    assert [one.id for one in store.checkpoints()] == [whole["id"], last["id"]]
    store.prune("log", retention.Policy({"last": 1}, grace=-1), set())
    assert store.verify(store.manifest(last["id"])) == {}


def test_what_a_record_follows_stays_also_when_its_line_in_refs_is_gone(
    store: Store, tree: Path, log: list[str]
) -> None:
    Path(store.join("refs", "log")).write_text(f"{log[-1]}\n")
    store.prune("log", retention.Policy({"last": 1}, grace=-1), set())
    store.prune("log", retention.Policy({"last": 1}, grace=-1), set())
    assert store.verify(store.manifest(log[-1])) == {}


# -- copies


def bundle(store: Store, one: str, known: list[str], path: Path) -> int:
    path.unlink(missing_ok=True)
    return int(replicas.export(store, "web1", one, known, str(path), from_replica=False).bytes)


def test_a_lost_host_comes_back_to_any_record_from_a_copy(
    store: Store, tree: Path, log: list[str], tmp_path: Path
) -> None:
    peer, path = Store(str(tmp_path / "peer"), store.system), tmp_path / "bundle"
    bundle(store, log[3], [], path)
    receive(peer, "web1", log[3], str(path))
    assert sorted(replicas.have(peer, "web1").ids) == sorted(log[:4])
    whole = path.stat().st_size
    assert bundle(store, log[4], log[:4], path) < whole // 100
    receive(peer, "web1", log[4], str(path))
    assert [one.state for one in replicas.candidates(peer, "web1").candidates] == ["verified"] * 5
    shutil.rmtree(tree)
    shutil.rmtree(store.root)
    path.unlink()
    replicas.export(peer, "web1", log[4], [], str(path), from_replica=True)
    adopt(store, "web1", log[4], str(path))
    for number in (4, 1):
        rollback(store, log[number])
        assert differences(tmp_path / f"copy-{number}", tree) == ""


def test_a_record_without_what_it_follows_is_never_a_copy(store: Store, log: list[str], tmp_path: Path) -> None:
    peer, path = Store(str(tmp_path / "peer"), store.system), tmp_path / "bundle"
    bundle(store, log[4], log[:4], path)
    with pytest.raises(Damaged):
        receive(peer, "web1", log[4], str(path))
    assert replicas.have(peer, "web1").ids == []
    bundle(store, log[4], [], path)
    assert receive(peer, "web1", log[4], str(path)).state == "verified"


def test_a_bundle_with_a_manifest_too_many_or_one_too_few_is_refused(
    store: Store, log: list[str], tmp_path: Path
) -> None:
    peer, path = Store(str(tmp_path / "peer"), store.system), tmp_path / "bundle"
    bundle(store, log[1], [], path)
    whole = path.read_bytes()
    extra = store.record_data(log[4])
    path.write_bytes(whole.replace(b"manifest ", b"manifest %d\n%s\nmanifest " % (len(extra), extra), 1))
    with pytest.raises(Damaged, match="does not follow"):
        receive(peer, "web1", log[1], str(path))
    first = whole.index(b"manifest ")
    second = whole.index(b"\nmanifest ", first) + 1
    for wrong in (whole[:second], whole[:first] + whole[second:], whole[:-1]):
        path.write_bytes(wrong)
        with pytest.raises(Damaged):
            receive(peer, "web1", log[1], str(path))
    assert replicas.have(peer, "web1").ids == []


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
def test_a_manifest_is_checked_whether_its_lines_are_wanted_or_not(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(manifests, "_PIECE", piece)
    sections = [
        Section("files", {"paths": ["/a"]}, ["f /resource 1", "f /b"]),
        Section("services", {}, []),
        Section("users", {"of": "x" * 100}, ["resources are no resource"]),
    ]
    made, pieces = Manifest.of("1", "h", "n", sections, None)
    data = b"".join(pieces)

    def read(data: bytes, whole: bool) -> list[Section] | None:
        try:
            return Manifest.read(io.BytesIO(data), hashlib.sha256(data).hexdigest(), whole).sections
        except Damaged:
            return None

    assert read(data, True) == sections and Manifest.parse(data, made.id) == made
    assert read(data, False) == [replace(section, lines=[]) for section in sections]
    with pytest.raises(Damaged, match="its SHA-256 is"):
        Manifest.parse(data, "0" * 64)
    body = data.index(b"\n\n") + 2
    doctored = [data, b"", data[:body], data[: body - 1], *(data[:at] for at in range(body, len(data)))]
    # With a root that is right, it is the form alone that is judged.
    head = data[: data.index(b"root ")]
    for rest in (
        b"",
        b"\n",
        b"files {}\n",
        b"resource files {}",
        b"resource files {}\nx",
        b"resource files {\n",
        b"x\n",
        b"\nresource files {}\n",
        b"resource files {}\n\xe4\n",
    ):
        doctored.append(head + b"root " + hashlib.sha256(rest).hexdigest().encode() + b"\n\n" + rest)
    good = [one for one in doctored if one == data or one.endswith(hashlib.sha256().hexdigest().encode() + b"\n\n")]
    for whole in (True, False):
        assert [one for one in doctored if read(one, whole) is not None] == good and len(good) == 2


def test_a_record_declares_what_it_follows() -> None:
    before, _pieces = Manifest.of("1", "h", "n", [Section("files", {"paths": ["/a"]}, ["x"])], None)
    after, pieces = Manifest.of("2", "h", "n", [Section("files", {"paths": ["/a"]}, ["x", "y"])], None, before)
    record = Manifest.parse(b"".join(pieces), after.id)
    assert record.sections[0].lines == ["=1", "+y"] and record.parent == before.id
    assert record.following(before).check_root() == after
    other, _pieces = Manifest.of("1", "h", "n", [Section("files", {"paths": ["/b"]}, ["x"])], None)
    later, _pieces = Manifest.of("3", "h", "n", [Section("files", {"paths": ["/a"]}, ["x"])], None)
    for wrong in (other, later):
        with pytest.raises(Damaged, match="follows another record"):
            record.following(wrong)
