# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kind decides from the answers of a server and the files of a cluster. The server is a fake."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    Refused,
    RestoreFailed,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import json_line
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import (
    archived,
    cluster,
    limits,
    postgresql,
    recovery,
    restore_point,
    spare,
    wal,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Objects, Writer, tag
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

MIB = 1 << 20
SIZE = 16 * MIB
MINE = "f" * 16
SETTINGS = ("wal_level", "wal_log_hints", "max_prepared_xacts", "track_commit_timestamp")


class Answering(cluster.Server):
    """A cluster whose server answers at once."""

    def ask(self, *statements: str) -> list[str]:
        if "pg_create_restore_point" in statements[0]:
            Path(self.log, wal.segment_name(1, 2, SIZE)).touch()
            return ["0/2000100"]
        return [str(1000 * MIB)] if "pg_database_size" in statements[0] else []

    def address(self) -> tuple[str, str] | None:
        return "/run/postgresql", "5432"


class Place:
    """A data directory and an archive below ``home``. Of the commands, those of PostgreSQL end as ``failing`` says, and
    the others are carried out."""

    def __init__(self, home: Path) -> None:
        self.data, self.archive = home / "data", home / "data.evenkeel"
        for folder in (self.data / "pg_wal" / "archive_status", self.archive / "wal", self.archive / "base"):
            folder.mkdir(parents=True)
        (self.data / "PG_VERSION").write_text("15\n")
        self.commands: list[str] = []
        self.failing: set[str] = set()
        self.server = Answering(restore_point.check({"data": str(self.data)}), replace(System(), run=self._run))

    def _run(self, argv: Sequence[str], timeout: float) -> Completed:
        words = [word for word in argv[argv.index("--chdir=/") + 1 :] if not word.startswith(("PATH=", "LC_ALL="))]
        words[0] = os.path.basename(words[0])
        self.commands.append(words[0])
        if words[0] == "pg_basebackup" and words[0] not in self.failing:
            new = Path(words[words.index("-D") + 1])
            new.mkdir()
            log = {"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}
            (new / "backup_manifest").write_text(json.dumps({"WAL-Ranges": [log], "Files": []}))
        if words[0].startswith(("pg_", "postgres")):
            return Completed(tuple(words), int(words[0] in self.failing), "", "no space left")
        return System().run(words, timeout)

    def base(self, start: int = 2 * SIZE, store: str = MINE) -> wal.Base:
        base = wal.Base(1, start, start + 1, "0" * 16, store)
        (self.archive / "base" / base.name).mkdir()
        (self.archive / "base" / base.name / "backup_manifest").write_text('{"Files": [{"Size": 1}]}')
        return base

    def log(self, *numbers: int) -> None:
        for number in numbers:
            (self.archive / "wal" / wal.segment_name(1, number, SIZE)).touch()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def seen(**other: Any) -> cluster.Seen:
    known = {"segment": wal.segment_name(1, 2, SIZE), "inserted": "0/2000100", "segment_size": SIZE}
    known.update(system="7712093980473719295", version=15)
    return cast(cluster.Seen, {**known, **other})


def line(place: Place, **other: Any) -> str:
    """The line of a checkpoint of the cluster."""
    known = {
        **place.server.spec,
        "base": wal.Base(1, 2 * SIZE, 2 * SIZE + 1, "0" * 16, MINE).name,
        "lsn": "0/2000100",
        "point": "evenkeel_20261125T131140_b17e9d8b",
        "segment": wal.segment_name(1, 2, SIZE),
        "segment_size": SIZE,
        "system": "7712093980473719295",
        "timeline": 1,
        "version": 15,
    }
    return "cluster " + json.dumps({**known, **other}, sort_keys=True)


# -- a new base


def test_a_base_is_taken_only_where_it_has_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "free", lambda _path: 1100 * MIB)
    with pytest.raises(Refused, match=r"a base backup takes up to 1164 MiB, and \S+/base has 1100 MiB left"):
        postgresql._base(place.server, seen(), MINE, True)
    assert not place.server.taken()
    monkeypatch.setattr(cluster, "free", lambda _path: 1164 * MIB)
    base = postgresql._base(place.server, seen(), MINE, True)
    assert place.server.taken() == [base] and base.store == MINE


def test_an_outgrown_base_serves_on_where_a_new_base_has_no_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    base = place.base()
    place.log(*range(2, 68))  # More than a gigabyte, which a rollback replays all the same.
    later = seen(segment=wal.segment_name(1, 67, SIZE), inserted="0/43000100")
    monkeypatch.setattr(cluster, "free", lambda _path: 1000 * MIB)
    assert postgresql._base(place.server, later, MINE, True) == base
    monkeypatch.setattr(cluster, "free", lambda _path: 2000 * MIB)
    assert postgresql._base(place.server, later, MINE, False) == base  # An undo takes none.
    assert place.server.taken() == [base]
    new = postgresql._base(place.server, later, MINE, True)
    assert new != base and new in place.server.taken()


def test_an_undo_without_a_base_copies_no_cluster(place: Place) -> None:
    place.base(store="0" * 16)  # of another store
    with pytest.raises(Refused, match="an undo does not copy the whole cluster first"):
        postgresql._base(place.server, seen(), MINE, False)
    assert "pg_basebackup" not in place.commands


def test_a_base_that_failed_leaves_the_room_to_the_server(place: Place) -> None:
    new = place.archive / "base" / "new"
    new.mkdir()
    place.failing.add("pg_basebackup")
    with pytest.raises(EvenkeelError, match="pg_basebackup failed: no space left"):
        postgresql._take_base(place.server, MINE)
    assert not new.exists()


# -- old data


@pytest.mark.parametrize(
    ("undo", "note"),
    [
        ("mine", "evenkeel_20261125T131140_b17e9d8b"),
        ("another", ""),
        ("kept", ""),
        ("none", ""),
    ],
)
def test_old_data_goes_only_with_the_undo_that_records_its_cluster(
    place: Place, tmp_path: Path, undo: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest restore point is that of some checkpoint, and says nothing of what clients wrote since."""
    server, mine = place.server, tag(str(tmp_path / "store"))
    record = restore_point.read([line(place, point="evenkeel_20261125T131141_00000000")])
    place.base()
    place.log(2)
    restore_point.remember(server, record)
    assert restore_point.newest(server, MINE) is not None
    (place.data / "evenkeel.undo").write_text("of an earlier rollback")
    lines = {
        "mine": [line(place)],
        "another": [line(place, data="/srv/other", archive="/srv/other.evenkeel")],
        "kept": ["kept " + json.dumps({"data": server.data, "why": "it was down"})],
        "none": [],
    }

    def restored(_server: cluster.Server, step: Step, _boot: bool, undo: str) -> Step:
        recovery._mark_undo(server, undo)
        return step

    monkeypatch.setattr(recovery, "restore", restored)
    at = Restore(server.system, Objects(str(tmp_path / "store")), undo=lines[undo])
    postgresql.PostgreSQL().apply([Step("postgresql", "restore", server.name, "", dict(record))], at)
    assert recovery.undo_of(server.data) == (f"{mine} {note}" if note else "")


# -- directories that are given away


def test_a_place_is_made_and_given_to_its_owner(tmp_path: Path) -> None:
    server = cluster.Server(restore_point.check({"data": f"{tmp_path}/a/b/data"}), System())
    owner = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    spare._make_place(server, owner)
    found = {name: (tmp_path / name).stat() for name in ("a", "a/b", "a/b/data")}
    assert [oct(one.st_mode & 0o777) for one in found.values()] == ["0o755", "0o755", "0o700"]
    assert {(one.st_uid, one.st_gid) for one in found.values()} == {owner}
    assert tmp_path.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("is_link", [True, False])
def test_no_directory_to_which_a_name_leads_meanwhile_is_given_away(
    tmp_path: Path, is_link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = cluster.Server(restore_point.check({"data": f"{tmp_path}/a/data"}), System())
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").touch()
    given: list[int] = []
    mkdir = os.mkdir

    def exchanged(name: str, mode: int, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        if name == "data" and is_link:
            os.rmdir(name, dir_fd=dir_fd)
            (tmp_path / "a/data").symlink_to(tmp_path / "private")
        elif name == "data":
            (tmp_path / "private").rename(tmp_path / "a/data")

    monkeypatch.setattr(os, "mkdir", exchanged)
    monkeypatch.setattr(os, "fchown", lambda fd, *_owner: given.append(os.fstat(fd).st_ino))
    inode = (tmp_path / "private").stat().st_ino
    with pytest.raises((OSError, EvenkeelError), match="Not a directory|another user has put something"):
        spare._make_place(server, (65534, 65534))
    assert given and inode not in given


# -- files that are the owner's to write


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100000,
        "{}",
        "[]",
        b"\xff",
        {"lsn": "1"},
        {"lsn": 1},
        {"lsn": None},
        {"timeline": 0},
        {"timeline": "x"},
        {"segment_size": "x"},
        {"segment_size": 3},
        {"system": []},
        {"version": {"x": 1}},
        {"point": "evenkeel_20269999T999999_b17e9d8b"},
        {"point": "x'; drop table"},
        {"segment": "../../../etc/passwd"},
        {"base": f"../{MINE}"},
        {"data": "/srv/other"},
    ],
)
def test_no_record_of_the_owner_is_believed_or_stops_a_checkpoint(place: Place, text: Any) -> None:
    last = place.archive / "last"
    place.base()
    place.log(2)
    good = json.loads(line(place)[8:])
    last.write_text(json.dumps({**good, "more": ["x"] * 1000}))
    assert restore_point.newest(place.server, MINE) == good
    if isinstance(text, bytes):
        last.write_bytes(text)
    else:
        last.write_text(json.dumps({**good, **text}) if isinstance(text, dict) else text)
    assert restore_point.newest(place.server, MINE) is None


@pytest.mark.parametrize("text", ["1\n", "x\t0/1\n", "1\tx\n", "1\t0/-1\n", "1 2 3", "\0\0\0", "\xff"])
def test_a_damaged_history_is_none(place: Place, text: str) -> None:
    """The intact one in the archive counts. Without it, nothing leads over that timeline, and other ones go on."""
    here, there = place.data / "pg_wal" / "00000002.history", place.archive / "wal" / "00000002.history"
    here.write_text(text, "latin-1")
    assert place.server.history(2) is None
    there.write_text("1\t0/3016098\tat restore point\n")
    assert place.server.history(2) == [(1, 0x3016098)]
    there.write_text(text, "latin-1")
    base = wal.Base(1, 2 * SIZE, 2 * SIZE + 1, "0" * 16, MINE)
    record = restore_point.read([line(place, timeline=2, base=base.name)])
    assert postgresql.PostgreSQL().missing_data([line(place, timeline=2)]) == {
        place.server.data: "the history of timeline 2 is missing or does not lead to it"
    }
    assert not postgresql._is_whole(place.server, record)
    assert postgresql._newest_base(place.server, seen(segment=wal.segment_name(2, 3, SIZE)), MINE) is None


@pytest.mark.parametrize("text", ["", "x", "15\n16", "-1", "\xff"])
def test_a_version_that_is_none_is_refused(place: Place, text: str) -> None:
    (place.data / "PG_VERSION").write_text(text, "latin-1")
    with pytest.raises(Refused, match="its PG_VERSION is none"):
        cluster.refuse(place.server)


# -- room for a recovery


def test_a_rollback_needs_room_for_the_log_that_it_replays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: tuple[Any, ...] = ([], ["segment"] * 10, json.dumps({"Files": [{"Size": 100 * MIB}]}).encode())
    monkeypatch.setattr(recovery, "needed", lambda *_args: needed)
    record = restore_point.read([line(place)])
    for shares, need in ((False, (100 + 14 * 16) * MIB), (True, 14 * 16 * MIB)):
        monkeypatch.setattr(recovery, "file_system_of", lambda _path, shares=shares: "xfs" if shares else "ext4")
        monkeypatch.setattr(cluster, "free", lambda _path, need=need: int(need * 1.05) - 1)
        with pytest.raises(Refused, match=rf"take {need // MIB} MiB, and \S+ has .* MiB left. Nothing was changed"):
            recovery.verify(place.server, record)
        monkeypatch.setattr(cluster, "free", lambda _path, need=need: int(need * 1.05) + 1)
        assert recovery.verify(place.server, record) == 10


class Contents:
    """A store in which every content has 1 MiB."""

    def verify(self, _sha: str) -> str:
        return ""

    def size(self, _sha: str) -> int:
        return MIB


@pytest.mark.parametrize(("has_base", "need"), [(False, 4 + 2 + 6 * 16), (True, 2 + 2 + 6 * 16)])
def test_a_recovery_needs_room_for_the_log_twice(
    place: Place, has_base: bool, need: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the archive as it comes, and beside the data as it is replayed."""
    record = restore_point.read([line(place)])
    paths = [f"base/{record['base']}/PG_VERSION", f"base/{record['base']}/x", "wal/" + "0" * 24, "wal/" + "1" * 24]
    listed = archived.Listed(files=dict.fromkeys(paths, "c" * 64))
    lacking = replace(listed, files=dict.fromkeys(paths[2:] if has_base else paths, "c" * 64))
    if has_base:
        (place.archive / paths[0]).parent.mkdir()
        for path in paths[:2]:
            (place.archive / path).write_bytes(b"x" * MIB)
    monkeypatch.setattr(cluster, "free", lambda _path: int(need * MIB * 1.05) - 1)
    with pytest.raises(Refused, match=f"it takes {need} MiB"):
        spare.refuse_lack(place.server, record, listed, lacking, cast(Objects, Contents()))
    monkeypatch.setattr(cluster, "free", lambda _path: int(need * MIB * 1.05) + 1)
    assert spare.refuse_lack(place.server, record, listed, lacking, cast(Objects, Contents())) == len(lacking.files)


# -- the same cluster on another host


@pytest.mark.parametrize(
    ("now", "is_ahead"),
    [
        ({"inserted": "0/3016098"}, False),  # as recorded
        ({"inserted": "0/3010000"}, False),  # behind
        ({"inserted": "0/9000100"}, True),
        ({"inserted": "0/9000100", "standby": True}, False),  # A plan refuses it.
        ({"inserted": "0/9000100", "system": "7"}, False),  # another cluster, see is_spare
        ({"inserted": "0/9000100", "timeline": 3}, True),
        ({"inserted": "0/2000100", "timeline": 1}, False),  # on the way to the copy
        ({"inserted": "0/3000100", "timeline": 1}, True),  # It went on where the other one forked.
    ],
)
def test_a_server_that_is_ahead_of_a_copy_of_its_cluster_is_not_replaced(
    place: Place, now: dict[str, Any], is_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = line(place, timeline=2, lsn="0/3016098")
    (place.archive / "wal" / "00000002.history").write_text("1\t0/3000000\tx\n")
    (place.archive / "wal" / "00000003.history").write_text("1\t0/3000000\tx\n2\t0/8000000\tx\n")
    known = {"system": json.loads(told[8:])["system"], "standby": False, "timeline": 2, **now}
    running = seen(**known, segment=wal.segment_name(known["timeline"], 9, SIZE), flushed=now["inserted"])
    monkeypatch.setattr(cluster.Server, "seen", lambda _server: running)
    at = Restore(place.server.system, cast(Objects, None))
    found = postgresql.PostgreSQL().in_use([told], at)
    assert bool(found) is is_ahead and all("it would replace what was written here since" in one for one in found)
    monkeypatch.setattr(cluster.Server, "seen", lambda _server: None)  # A server that does not run serves nobody.
    assert not postgresql.PostgreSQL().in_use([told], at)
    assert not postgresql.PostgreSQL().in_use(['elsewhere {"program": "barman"}'], at)


# -- what does not come back


def told(place: Place, answers: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, **other: Any) -> list[str]:
    """The sentences on a cluster whose server answers to a question that holds the word."""

    def ask(_server: cluster.Server, question: str) -> list[str]:
        keys = {
            "kept": "pg_file_settings",
            "managers": "pg_get_wal_resource_managers",
            "subscriptions": "pg_subscription",
        }
        return [json.dumps({key: answers.get(word, []) for key, word in keys.items() if word in question})]

    monkeypatch.setattr(Answering, "ask", ask)
    lines = limits.lines(place.server, seen(**{"version": 15, **other}), ["postgresql.conf"])
    assert restore_point.read([*lines, line(place)]) and not archived.read(lines).files
    return postgresql.PostgreSQL().not_restorable({}, lines)


def test_what_does_not_come_back_is_said_at_the_checkpoint(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    data = place.server.data
    (place.data / "tls").mkdir()
    (place.data / "conf.d").mkdir()
    for path in ("server.key", "tls/server.crt", "../outside", "postgresql.conf", "conf.d/a.conf"):
        (place.data / path).touch()
    answers = {
        "pg_subscription": ["subscription {s} in app"],
        "pg_file_settings": [
            *(f"{data}/postgresql.conf", f"{data}/conf.d/a.conf"),
            *("server.key", f"{data}/tls/server.crt", "/etc/passwd", "../outside", "missing"),
        ],
    }
    found = told(place, answers, monkeypatch)
    assert [one.rpartition(": ")[2] for one in found] == [
        "conf.d/a.conf, server.key, tls/server.crt",
        "subscription {s} in app",
    ]
    managers = {"pg_get_wal_resource_managers": ["mine"]}
    assert "a rollback over one fails: mine" in told(place, managers, monkeypatch)[0]
    assert told(place, managers, monkeypatch, version=14) == [], "PostgreSQL 13 and 14 have no such function"
    assert told(place, {"pg_file_settings": [f"{data}/postgresql.conf"]}, monkeypatch) == []


def test_what_followed_the_old_log_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"pg_stat_replication": ["slot a"], "pg_subscription": ["subscription s in app"]}
    monkeypatch.setattr(
        Answering, "ask", lambda _server, asked: next(one for word, one in answers.items() if word in asked)
    )
    assert recovery._followers(place.server) == ["slot a", "subscription s in app"]
    monkeypatch.setattr(Answering, "address", lambda _server: None)
    assert recovery._followers(place.server) == ["whatever followed it (it was not running, or did not answer)"]


# -- an archive that has gone its own way


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_archive_is_that_of_a_copy_by_its_contents(place: Place, tmp_path: Path) -> None:
    history, segment = place.archive / "wal" / "00000002.history", place.archive / "wal" / ("0" * 24)
    listed = archived.Listed(files={f"wal/{segment.name}": sha(b"log"), f"wal/{history.name}": sha(b"true")})
    assert archived.differing(place.server, listed) == ""  # It is empty.
    segment.write_bytes(b"log")
    history.write_bytes(b"true")
    assert archived.differing(place.server, listed) == ""
    record = restore_point.read([line(place)])
    assert not spare._is_foreign(place.server, record, listed)
    segment.write_bytes(b"LOG")
    assert spare._is_foreign(place.server, record, listed)
    assert archived.differing(place.server, listed) == f"wal/{segment.name}"
    history.write_bytes(b"another")
    assert archived.differing(place.server, listed) == f"wal/{history.name}"
    history.unlink()
    (tmp_path / "elsewhere").write_bytes(b"true")
    history.symlink_to(tmp_path / "elsewhere")
    assert archived.differing(place.server, listed) == f"wal/{history.name}"


@pytest.mark.parametrize(("running", "differs", "action"), [(0, 0, "restore"), (0, 1, "recover"), (1, 1, "refused")])
def test_a_spare_that_went_its_own_way_is_recovered_onto_again(
    place: Place, tmp_path: Path, running: int, differs: int, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"), place.server.system)
    writer = Writer(store.objects)
    name = f"{2:08X}.history"
    lines = [line(place, timeline=2), f"wal {name} beside={writer.add(b'true')}"]
    writer.publish()
    (place.archive / "wal" / name).write_bytes(b"another" if differs else b"true")
    known = seen(standby=False, system=json.loads(lines[0][8:])["system"])
    monkeypatch.setattr(restore_point, "server_of", lambda *_args: place.server)
    monkeypatch.setattr(cluster.Server, "seen", lambda _server: known if running else None)
    monkeypatch.setattr(cluster.Server, "identifier", lambda _server: known["system"])
    for module, name in ((cluster, "refuse"), (restore_point, "is_there"), (recovery, "verify")):
        monkeypatch.setattr(module, name, lambda *_args, **_more: False)
    monkeypatch.setattr(spare, "plan", lambda *_args: Step("postgresql", "recover", "data"))
    at = Restore(place.server.system, store.objects)
    if action == "refused":
        with pytest.raises(Refused, match="00000002.history has another content than in the copy.*Stop the cluster"):
            postgresql.PostgreSQL().plan(lines, at)
    else:
        assert [step.action for step in postgresql.PostgreSQL().plan(lines, at)] == [action]


def test_the_owner_cannot_hold_up_a_host_that_goes_back_by_itself(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner may stop the processes that verify, or damage the files: that is the cluster's own affair."""
    record = restore_point.read([line(place)])
    given: list[float] = []
    rc = [124]

    def stopped(argv: Sequence[str], timeout: float) -> Completed:
        given.append(timeout)
        return Completed(tuple(argv), rc[0], "", "killed")

    server = place.server._replace(system=replace(System(), run=stopped))
    monkeypatch.setattr(restore_point, "server_of", lambda *_args: server)
    monkeypatch.setattr(recovery, "needed", lambda *_args: ([wal.Leg(1, 0, 5 << 40)], ["one"], b'{"Files": []}'))
    step = postgresql._verified(server, record, "there", True)
    assert step.detail == {**record, "verify": True} and "takes longer than 20 s" in step.why
    assert given and max(given) <= 20.0
    with pytest.raises(Damaged, match="killed. Nothing was changed"):
        postgresql._verified(server, record, "there", False)
    assert given[-1] > 86000
    at = Restore(server.system, cast(Objects, None))
    with pytest.raises(Damaged, match="Its data was not touched"):
        spare.complete(step, at)
    rc[0] = 1
    with pytest.raises(Refused, match="killed. Nothing was changed"):
        postgresql._verified(server, record, "there", True)
    rc[0] = 0
    assert postgresql._verified(server, record, "there", True).detail == spare.complete(step, at).detail == record


def test_a_cluster_without_its_control_file_goes_back_from_its_base(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_upgrade with links takes the control file away."""
    record = restore_point.read([line(place)])
    (place.data / "pg_tblspc").mkdir()
    place.failing = {"pg_controldata"}
    monkeypatch.setattr(restore_point, "server_of", lambda *_args: place.server)
    monkeypatch.setattr(cluster.Server, "seen", lambda _server: None)
    monkeypatch.setattr(cluster, "refuse", lambda _server: None)
    monkeypatch.setattr(recovery, "verify", lambda *_args, **_more: 1)
    at = Restore(place.server.system, cast(Objects, None))
    assert [step.action for step in postgresql.PostgreSQL().plan([line(place)], at)] == ["restore"]
    (place.data / "global").mkdir()
    control_file = place.data / "global" / "pg_control"
    control_file.write_bytes(int(record["system"]).to_bytes(8, sys.byteorder))
    with pytest.raises(EvenkeelError, match="pg_controldata failed"):  # Its failure tells nothing about the data.
        postgresql.PostgreSQL().plan([line(place)], at)
    control_file.unlink()
    of: list[str] = []

    def control(server: cluster.Server) -> dict[str, str]:
        of.append(server.data)
        return dict.fromkeys((f"{one} setting" for one in SETTINGS), "0")

    monkeypatch.setattr(cluster.Server, "control", control)
    recovery._recovery(place.server, record)
    control_file.write_bytes(int(record["system"]).to_bytes(8, sys.byteorder))
    recovery._recovery(place.server, record)
    assert of == [f"{place.server.bases}/{record['base']}", place.server.data]
    control_file.unlink()
    (place.data / "PG_VERSION").write_text("16\n")
    with pytest.raises(Refused, match="pg_control is gone, and it is of version 16, while .* of 15; move .* away"):
        postgresql.PostgreSQL().plan([line(place)], at)


def test_a_cluster_that_fails_keeps_no_other_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def restored(server: cluster.Server, step: Step, _boot: bool, _undo: str) -> Step:
        if server.name == "first":
            raise OSError("it has no room")
        return step

    monkeypatch.setattr(restore_point, "server_of", lambda record, _system: place.server._replace(spec=record))
    monkeypatch.setattr(recovery, "restore", restored)
    steps = [
        Step("postgresql", "restore", one, "", {**place.server.spec, "cluster": one}) for one in ("first", "other")
    ]
    system = place.server.system
    with pytest.raises(RestoreFailed) as partly:
        postgresql.PostgreSQL().apply(steps, Restore(system, Store(str(place.archive / "store"), system).objects))
    assert [one["target"] for one in partly.value.result["done"]] == ["other"]
    assert partly.value.result["left"] == ["postgresql first: it has no room"]


def test_an_error_says_what_was_changed(place: Place) -> None:
    record = restore_point.read([line(place)])
    with pytest.raises(Damaged, match="No such file or directory. Nothing was changed; roll back"):
        recovery.verify(place.server, record)
    step = Step("postgresql", "restore", "data", "", {**record, "listed": asdict(archived.Listed())})
    at = Restore(place.server.system, cast(Objects, None))
    with pytest.raises(Damaged, match="Its archive has the files of the copy now, and its data was not touched; roll"):
        spare.complete(step, at)


def test_indexes_are_built_again_where_text_may_be_sorted_otherwise(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = restore_point.read([line(place)])
    monkeypatch.setattr(recovery, "verify", lambda *_args: 1)
    monkeypatch.setattr(archived, "add", lambda *_args: None)
    owner = 'owner {"group": "postgres", "readable": false, "user": "postgres"}'
    monkeypatch.setattr(archived, "libc", lambda: "glibc 2.36")
    lines = [json_line.write("owner", archived._owner(place.server)), owner]
    for here, said in (("glibc 2.36", [False, False]), ("glibc 2.28", [True, False]), ("", [True, False])):
        monkeypatch.setattr(archived, "libc", lambda here=here: here)
        steps = [
            Step("postgresql", "restore", "data", "to it", {**record, "listed": asdict(archived.read([one]))})
            for one in lines
        ]
        whys = [spare.complete(step, Restore(place.server.system, cast(Objects, None))).why for step in steps]
        assert ["were built by glibc 2.36" in why and "run REINDEX DATABASE" in why for why in whys] == said
        assert whys[1] == "to it"


def test_locales_of_the_databases_that_a_host_lacks_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["C", "C.UTF-8", "xx_NOWHERE.utf8", "not a locale; of ours"]
    monkeypatch.setattr(type(place.server), "ask", lambda _server, *_statements: asked)
    owner = json_line.write("owner", archived._owner(place.server))
    assert archived.read([owner]).locales == asked[:3]
    (said,) = postgresql.PostgreSQL().lacks_here([line(place), owner])
    assert "of which this host lacks xx_NOWHERE.utf8: make them there (locale-gen" in said
    without = owner.replace(', "xx_NOWHERE.utf8"', "")
    older = 'owner {"group": "postgres", "readable": false, "user": "postgres"}'
    for one in (without, older, 'elsewhere {"program": "barman"}'):
        assert not postgresql.PostgreSQL().lacks_here([line(place), one])
    with pytest.raises(Damaged, match="is refused"):
        archived.read([owner.replace("xx_NOWHERE", "../x; y")])


@pytest.mark.skipif(os.geteuid() != 0, reason="a command of another user needs root")
def test_the_owner_gets_no_variable_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner can read the variables of every process that runs as the owner, from its first moment on."""
    monkeypatch.setenv("RESTIC_PASSWORD", "secret")
    os.chown(tmp_path, 65534, 65534)
    server = cluster.Server(restore_point.check({"data": str(tmp_path)}), System(), release="15")
    done = server.run(["sh", "-c", "env; id -u; pwd"])
    variables = [
        line for line in done.out.splitlines() if not line.startswith(("PATH=/", "HOME=/", "PWD=/", "LC_ALL=C"))
    ]
    assert variables == ["65534", "/"]
    assert done.argv[:2] == ("env", "-i") and done.argv.index("setpriv") > 1


def test_a_manifest_of_any_size_is_not_read(tmp_path: Path) -> None:
    """It is a file of the cluster's owner."""
    place = Place(tmp_path)
    base = place.base()
    assert cluster.manifest(place.server, base.name) == b'{"Files": [{"Size": 1}]}'
    os.truncate(tmp_path / "data.evenkeel" / "base" / base.name / "backup_manifest", 1 << 40)
    with pytest.raises(OSError, match=f"more than {128 * MIB} bytes"):
        cluster.manifest(place.server, base.name)


def test_manifests_are_read_in_one_place() -> None:
    folder = Path(cluster.__file__).parent
    found = [path.name for path in folder.glob("*.py") if re.search(r"open.*backup_manifest", path.read_text())]
    assert not found
