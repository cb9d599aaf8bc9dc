# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nobody who fills a directory of theirs delays what is root's."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import RestoreFailed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files import transaction
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.declaration import left_out
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access, apart
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.run import Run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.services import Services
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import outage
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="trees of another user need root")
USER = 12345
LINES = [
    "D / 755 0 0 0",
    "d /srv 755 0 0 5",
    "d /srv/a 755 7 7 5",
    "d /srv/a-b 755 0 0 5",
    "f /srv/a-b/x 644 0 0 7 size=0 sha256=" + "0" * 64,
    "d /srv/a/in 755 8 8 5",
    "f /srv/a/x 644 7 7 7 size=0 sha256=" + "0" * 64,
    "d /srv/open 1777 0 0 5",
    "d /srv/[x] 755 7 7 5",
]
SECTION = Section("files", {"paths": ["/srv"], "exclude": ["*.log"]}, sorted(LINES, key=lambda line: line.split()[1]))


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A directory of a user's, and one of root's that comes after it."""
    theirs, ours = tmp_path / "srv" / "a", tmp_path / "srv" / "b"
    for one in (theirs, ours):
        one.mkdir(parents=True)
        (one / "file").write_text("old")
    shutil.chown(theirs, USER, USER)
    return theirs, ours


def go_back(store: Store, wanted: str) -> Run:
    run = Run(store, store.manifest(store.resolve(wanted)), Options(unattended=True))
    with store.locked():
        run.carry_out()
    return run


def test_what_others_can_write_to_is_told_by_whole_names() -> None:
    theirs = apart.Theirs(SECTION, {0})
    assert sorted(theirs.paths()) == [b"/srv/[x]", b"/srv/a", b"/srv/open"]
    assert b"/srv/a/in/deep" in theirs and b"/srv/a" in theirs
    assert b"/srv/a-b" not in theirs and b"/srv" not in theirs


def test_a_section_without_them_is_such_as_a_look_could_have_written() -> None:
    part = apart.without(SECTION, apart.Theirs(SECTION, {0}))
    assert part is not None
    assert [line.split()[1] for line in part.lines] == ["/", "/srv", "/srv/a-b", "/srv/a-b/x"]
    is_left_out = left_out(files.trees_of(part.spec))
    assert is_left_out(b"/srv/a") and is_left_out(b"/srv/[x]") and is_left_out(b"/srv/b.log")
    assert not is_left_out(b"/srv/x") and not is_left_out(b"/srv/a-b")
    assert files.recorded(part.lines, part.spec).lines == part.lines
    assert apart.without(SECTION, apart.Theirs(SECTION, {0, 7})) is not None
    assert (
        apart.without(Section("files", {"paths": ["/srv/a"], "exclude": []}, LINES), apart.Theirs(SECTION, {0})) is None
    )


@needs_root
def test_what_is_roots_does_not_wait_for_what_a_user_has_filled(
    store: Store, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = trees
    monkeypatch.setattr(apart, "CROWD", 20)
    monkeypatch.setattr(access, "PATHS", (str(ours / "file"),))  # What is back by then is not taken for what was.
    checkpoint(store, "before", [{"files": {"paths": [str(ours.parent)]}}])
    (theirs / "file").write_text("new")
    (ours / "file").write_text("new")
    (ours / "more").write_text("new")
    (theirs / "below").mkdir()
    for number in range(30):
        (theirs / "below" / str(number)).write_text("new")
    run = go_back(store, "before")
    targets = [one["target"] for one in run.done]
    mine = [at for at, target in enumerate(targets) if target.startswith(str(ours))]
    assert mine and max(mine) < min(at for at, target in enumerate(targets) if target.startswith(str(theirs)))
    assert sorted(os.listdir(theirs)) == sorted(os.listdir(ours)) == ["file"]
    assert (theirs / "file").read_text() == (ours / "file").read_text() == "old"
    assert not os.path.exists(store.join("resume"))
    # One undo has both.
    rollback(store, run.result().undo)
    assert (theirs / "file").read_text() == (ours / "file").read_text() == (ours / "more").read_text() == "new"
    assert len(os.listdir(theirs / "below")) == 30


@needs_root
def test_what_the_first_part_could_not_make_durable_or_start_is_not_forgotten(
    store: Store, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = trees
    monkeypatch.setattr(apart, "is_crowd", lambda *_words: True)
    checkpoint(store, "before", [{"files": {"paths": [str(theirs), str(ours)]}}])
    (ours / "file").write_text("new")
    commit = transaction.Transaction.commit

    def fails_once(paths: transaction.Transaction) -> transaction.Finished:
        commit(paths)
        monkeypatch.setattr(transaction.Transaction, "commit", commit)
        raise OSError(errno.EIO, "the disk failed")

    monkeypatch.setattr(transaction.Transaction, "commit", fails_once)
    with pytest.raises(RestoreFailed, match="may not be durable: .*the disk failed"):
        go_back(store, "before")
    (ours / "file").write_text("newer")
    stopped, up = iter([outage.Down(units=["app.service"])]), list[list[str]]()

    def start(_self: Services, down: outage.Down, _at: Restore) -> tuple[list[Step], dict[str, str]]:
        up.append(down.units)
        return [], {} if up[1:] else {"app.service": "it does not start yet"}

    monkeypatch.setattr(Services, "will_stop", lambda *_words: next(stopped, outage.Down()))
    monkeypatch.setattr(outage, "take_down", lambda down, _system: down)
    monkeypatch.setattr(Services, "start_stopped", start)
    go_back(store, "before")
    assert up == [["app.service"]] * 2, "what is down then is brought up by the second part"


@needs_root
def test_after_a_kill_between_the_parts_each_has_its_undo(
    store: Store, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = trees
    monkeypatch.setattr(apart, "is_crowd", lambda *_words: True)
    checkpoint(store, "before", [{"files": {"paths": [str(theirs), str(ours)]}}])
    for one in (theirs, ours):
        (one / "file").write_text("new")
    prepare = Run.prepare

    def killed(run: Run, *words: Any) -> None:
        if len(run.manifest.sections[0].spec["paths"]) == 2:
            raise KeyboardInterrupt
        prepare(run, *words)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "prepare", killed)
        go_back(store, "before")
    assert (theirs / "file").read_text() == "new" and (ours / "file").read_text() == "old"
    rollback(store, "before")  # As any next command, it carries on first.
    assert (theirs / "file").read_text() == "old" and not os.path.exists(store.join("resume"))
    rollback(store, store.refs()["undo"][-1])
    assert (theirs / "file").read_text() == "new"
    rollback(store, store.refs()["undo"][0])
    assert (ours / "file").read_text() == "new"


@needs_root
def test_as_many_as_ever_are_no_crowd(store: Store, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = trees
    monkeypatch.setattr(apart, "CROWD", 20)
    for number in range(30):
        (theirs / str(number)).write_text("old")
    checkpoint(store, "before", [{"files": {"paths": [str(theirs), str(ours)]}}])
    (ours / "file").write_text("new")
    section = store.manifest(store.resolve("before")).sections[0]
    assert not apart.is_crowd(section, apart.Theirs(section, {0}))
    (theirs / "out").symlink_to("/proc")
    assert not apart.is_crowd(section, apart.Theirs(section, {0})), "no link is followed"
    for number in range(40):
        (theirs / f"{number}.new").write_text("new")
    assert apart.is_crowd(section, apart.Theirs(section, {0}))
    assert go_back(store, "before").done and (ours / "file").read_text() == "old"


@needs_root
def test_new_files_in_bulk_are_a_crowd(store: Store, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """To reserve a terabyte takes a moment, and so does it to give a file thousands of names."""
    theirs, ours = trees
    monkeypatch.setattr(apart, "_BULK", 10 << 20)
    (theirs / "old").write_bytes(b"x" * (20 << 20))
    checkpoint(store, "before", [{"files": {"paths": [str(theirs), str(ours)]}}])
    section = store.manifest(store.resolve("before")).sections[0]

    def is_crowd() -> bool:
        return apart.is_crowd(section, apart.Theirs(section, {0}))

    assert not is_crowd(), "no more than there was"
    os.truncate(theirs / "file", 100 << 20)
    assert not is_crowd(), "holes are bounded apart"
    (ours / "new").write_bytes(b"x" * (20 << 20))
    assert not is_crowd(), "of root's"
    with open(theirs / "new", "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, 4 << 20)
    assert not is_crowd()
    for number in range(3):
        os.link(theirs / "new", theirs / f"new{number}")
    assert is_crowd()


@needs_root
def test_a_look_that_fails_keeps_nothing_back(
    store: Store, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = trees
    checkpoint(store, "before", [{"files": {"paths": [str(theirs), str(ours)]}}])
    for one in (theirs, ours):
        (one / "file").write_text("new")
    monkeypatch.setattr(apart, "is_crowd", lambda *_words: 1 / 0)
    go_back(store, "before")
    assert (theirs / "file").read_text() == (ours / "file").read_text() == "old"


def test_an_undo_says_nothing_of_paths_that_could_not_be_read() -> None:
    lines = SECTION.lines
    links = [line + " link=/srv/a/x" for line in (f"f /srv/z{at} 644 0 0 7 size=0 sha256={'0' * 64}" for at in (1, 2))]
    section = Section("files", {"paths": ["/srv"], "exclude": [], "mounts": {"/srv/a": "xfs"}}, [*lines, *links])
    part = apart.without(section, apart.unread([b"/srv/a", b"/srv/a/x", b"/elsewhere"]))
    assert part is not None and part.spec == {"paths": ["/srv"], "exclude": ["/srv/a"], "mounts": {}}
    # The inode stands under the first of the names that are left.
    assert part.lines[-2].endswith("0" * 64) and part.lines[-1].endswith("link=/srv/z1")
    assert files.recorded(part.lines, part.spec).lines == part.lines
    assert apart.without(section, apart.unread([b"/srv-not"])) == section
    assert apart.without(section, apart.unread([b"/srv"])) is None
    more = Section("services", {"names": ["a"], "trees": ["/srv"]}, [*lines, "unit a"])
    left = apart.without(more, apart.unread([b"/srv/a"]))
    assert left is not None and left.spec["trees"] == [] and left.lines == ["unit a"]


def test_paths_that_could_not_be_read_are_not_named_without_end() -> None:
    many = [b"/srv/home/user%d/%05d/file" % (at % 2, at) for at in range(10_000)]
    assert apart.unread(many).paths() == [b"/srv/home/user0", b"/srv/home/user1"]
