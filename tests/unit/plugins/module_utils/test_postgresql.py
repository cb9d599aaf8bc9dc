# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is known of the write-ahead log, and of declarations, without a server. The rest: tests/integration."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Damaged, Refused, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import (
    archived,
    postgresql,
    restore_point,
    wal,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql.wal import Leg
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Manifest, Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import tag
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import objects_of

MIB = 1 << 20
SIZE = 16 * MIB
HISTORY = "# a comment\n1\t0/3016098\tat restore point\n\n2\t0/5000140\tno recovery target specified\n"


def test_positions_and_names_are_postgresqls() -> None:
    assert wal.position("16/B374D848") == 0x16B374D848 and wal.words(0x16B374D848) == "16/B374D848"
    assert wal.segment_name(3, 0x1FF, SIZE) == "0000000300000001000000FF"
    assert wal.segment_name(1, 5, 1 << 30) == "000000010000000100000001"
    with pytest.raises(ValueError):
        wal.position("16")


@pytest.mark.parametrize(("lsn", "end"), [("0/4000028", "0/4000000"), ("0/4002018", "0/4002000"), ("0/4000060",) * 2])
def test_a_position_behind_a_header_is_the_end_of_what_is_before(lsn: str, end: str) -> None:
    assert wal.words(wal.end_of_last(wal.position(lsn), SIZE)) == end


def test_routes_follow_the_history() -> None:
    forks = wal.forks(HISTORY)
    assert forks == [(1, 0x3016098), (2, 0x5000140)]
    start, end = 0x2000028, 0x7000100
    legs = wal.route(1, start, forks, 3, end)
    assert legs == [Leg(1, start, 0x3016098), Leg(2, 0x3016098, 0x5000140), Leg(3, 0x5000140, end)]
    names = [(3 - (number < 5) - (number < 3), number) for number in range(2, 8)]
    assert wal.segments(legs, SIZE) == [f"{timeline:08X}{0:08X}{number:08X}" for timeline, number in names]
    assert wal.route(3, 0x6000000, forks, 3, end) == [Leg(3, 0x6000000, end)]


@pytest.mark.parametrize(
    ("timeline", "start", "target", "end"),
    [
        (1, 0x4000000, 3, 0x7000000),  # it left timeline 1 before
        (4, 0x2000000, 3, 0x7000000),  # another branch
        (3, 0x8000000, 3, 0x7000000),  # later
    ],
)
def test_no_route_leads_from_another_branch(timeline: int, start: int, target: int, end: int) -> None:
    assert wal.route(timeline, start, wal.forks(HISTORY), target, end) is None


def test_an_end_at_a_boundary_needs_no_further_segment() -> None:
    assert wal.segments([Leg(1, 2 * SIZE + 40, 3 * SIZE)], SIZE) == ["000000010000000000000002"]
    assert wal.parts(Leg(1, 2 * SIZE + 40, 3 * SIZE), SIZE) == [Leg(1, 2 * SIZE + 40, 3 * SIZE)]
    assert wal.parts(Leg(1, 2 * SIZE + 40, 5 * SIZE), SIZE) == [
        Leg(1, 2 * SIZE + 40, 3 * SIZE),
        Leg(1, 3 * SIZE, 5 * SIZE),
    ]
    assert wal.parts(Leg(1, SIZE, SIZE), SIZE) == []


def test_a_base_is_known_by_its_name() -> None:
    base = wal.Base(1, 0x2000028, 0x2000100, "0123456789abcdef", "f" * 16)
    assert wal.Base.parse(base.name) == base
    assert wal.Base.parse("new") is None and wal.Base.parse(base.name + "/..") is None


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("0000000100000001000000FE", True),
        ("0000000900000001000000FE", True),  # on another timeline
        ("0000000100000001000000FE.00000028.backup", True),
        ("0000000100000001000000FE.partial", True),
        ("0000000100000001000000FF", False),
        ("000000010000000200000000", False),
        ("00000002.history", False),
        (".0000000100000001000000FE.tmp", False),
        ("0000000100000001000000FE.gz", False),
    ],
)
def test_what_lies_before_a_position(name: str, before: bool) -> None:
    assert wal.precedes(name, 0x1FF000028, SIZE) is before


def head(**other: int) -> bytes:
    known = {"flags": 2, "timeline": 1, "start": 3 * SIZE, "system": 7, "size": SIZE, **other}
    words = known["flags"], known["timeline"], known["start"], 0, known["system"], known["size"], 8192
    return struct.pack("=HHIQI4xQII", 0xD110, *words)


def test_headers_say_what_a_segment_is() -> None:
    name = "000000020000000000000003"
    assert wal.wrong_header(head(), name, 7, SIZE) == "" == wal.wrong_header(head(timeline=2), name, 7, SIZE)
    assert wal.wrong_header(head(system=8), name, 7, SIZE) == "it is of the cluster 8"
    for other in ({"timeline": 3}, {"start": 4 * SIZE}, {"size": SIZE * 2}):
        assert "another stretch" in wal.wrong_header(head(**other), name, 7, SIZE)
    assert wal.wrong_header(head(flags=0), name, 7, SIZE) and wal.wrong_header(head()[:39], name, 7, SIZE)


def test_what_the_server_writes_by_itself_is_no_change() -> None:
    quiet = (
        "first record is after 0/30160B0, at 0/4000028, skipping over 16686968 bytes\n"
        "rmgr: XLOG        len (rec/tot): 24/24, tx:          0, lsn: 0/03016098, prev 0/03016030, desc: SWITCH \n"
        "rmgr: Standby     len (rec/tot):     50/    50, tx:          0, lsn: 0/04000028, prev 0/03016098, "
        "desc: RUNNING_XACTS nextXid 726 latestCompletedXid 725 oldestRunningXid 726\n"
    )
    commit = quiet.replace("Standby", "Transaction").replace("RUNNING_XACTS", "COMMIT")
    assert wal.quiet(quiet, 500) and not wal.quiet(commit, 500)
    assert not wal.quiet(quiet, 2)  # there may be more


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({}, "name a cluster"),
        ({"cluster": "main"}, "a version and a name"),
        ({"cluster": "15/../x"}, "a version and a name"),
        ({"cluster": "15/main", "unit": "postgresql"}, "with data alone"),
        ({"data": "/srv/pg", "unit": "--force"}, "no name of a unit"),
        ({"data": "/srv/../pg"}, "absolute path"),
        ({"data": "/srv/p g"}, "absolute path"),
        ({"data": "/srv/pg%f"}, "absolute path"),
        ({"data": "/srv/pg", "archive": "/srv/pg/wal"}, "side by side"),
        ({"data": "/srv/pg", "archive": "/srv"}, "side by side"),
        ({"data": "/srv/pg", "archive": "/srv/pg.evenkeel-gone"}, "a name that a rollback uses itself"),
        ({"data": "/srv/pg", "archive": "/srv/pg.evenkeel-new/archive"}, "a name that a rollback uses itself"),
        ({"data": "/srv/pg", "base": "/srv/x"}, "unknown key 'base'"),
    ],
)
def test_bad_declarations(spec: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        restore_point.check(spec)


@pytest.mark.parametrize(
    "other",
    [
        {"files": {"paths": ["/srv"]}},
        {"files": {"paths": ["/srv/pg/base"]}},
        {"files": {"paths": ["/srv/pg.evenkeel"]}},
        {"postgresql": {"data": "/srv/pg", "unit": "postgresql"}},
        {"postgresql": {"data": "/srv/other", "archive": "/srv/pg.evenkeel"}},
    ],
)
def test_nothing_else_may_lie_in_a_cluster_or_hold_it(other: dict[str, Any]) -> None:
    """Files go back first: they would be put back under the running server, and what it keeps would be lost."""
    mine = {"postgresql": {"data": "/srv/pg"}}
    for declared in ([mine, other], [other, mine]):
        with pytest.raises(UsageError, match="overlap; declare it once"):
            registry.check(declared)
    registry.check([mine, {"files": {"paths": ["/srv/pgbouncer"]}}])


def test_declarations_are_completed_and_name_the_configuration() -> None:
    made = restore_point.check({"cluster": "15/main"})
    assert made == restore_point.check(made)
    assert (made["data"], made["archive"]) == ("/var/lib/postgresql/15/main", "/var/lib/postgresql/15/main.evenkeel")
    assert postgresql.PostgreSQL().trees(made) == [
        "/etc/postgresql/15/main",
        "/var/lib/postgresql/15/main/postgresql.auto.conf",
    ]
    assert "/srv/pg/pg_hba.conf" in postgresql.PostgreSQL().trees(restore_point.check({"data": "/srv/pg"}))


def record(**other: Any) -> str:
    known = {
        **restore_point.check({"data": "/srv/pg"}),
        "base": wal.Base(1, 1, 2, "0123456789abcdef", "f" * 16).name,
        "lsn": "0/3016098",
        "point": "evenkeel_20261125T131140_b17e9d8b",
        "segment": "000000010000000000000003",
        "segment_size": SIZE,
        "system": "7712093980473719295",
        "timeline": 1,
        "version": 15,
    }
    return "cluster " + json.dumps({**known, **other}, sort_keys=True)


def test_only_records_of_ours_are_believed() -> None:
    assert restore_point.read([record()])["timeline"] == 1
    wrong: list[dict[str, Any]] = [
        {"base": "../../etc"},
        {"point": "x'; drop"},
        {"lsn": "0/0; rm"},
        {"segment": "../x"},
        {"data": "relative"},
        {"archive": '/srv/"; rm'},
        {"timeline": "one"},
        {"segment_size": 1},
    ]
    for one in wrong:
        with pytest.raises(Damaged, match="is refused"):
            restore_point.read([record(**one)])
    for line in ("cluster {}", "other " + record()[8:], "cluster []", "cluster {"):
        with pytest.raises(Damaged, match="is refused"):
            restore_point.read([line])
    with pytest.raises(Refused, match="could not be recorded then"):
        restore_point.read(['kept {"data": "/srv/pg", "why": "it was down"}'])


# -- what is removed


class Kept:
    """What checkpoints keep outside of the store: bases that begin in segments 2, 4 and 6, the last of another store;
    segments 1 to 7; a directory put aside for each of the points 0 to 2, and one that says nothing."""

    def __init__(self, home: Path) -> None:
        self.store, self.data, self.archive = home / "store", home / "data", home / "data.evenkeel"
        stores = [tag(str(self.store))] * 2 + ["f" * 16]
        self.bases = [
            wal.Base(1, number * SIZE, number * SIZE + 1, "0" * 16, store)
            for number, store in zip((2, 4, 6), stores, strict=True)
        ]
        for folder in (self.data, self.archive / "wal", *(self.archive / "base" / base.name for base in self.bases)):
            folder.mkdir(parents=True)
        (self.data / "PG_VERSION").write_text("15")
        for number in range(1, 8):
            (self.archive / "wal" / wal.segment_name(1, number, SIZE)).touch()
        self.olds = [home / f"data.evenkeel-old-20261125T13114{number}" for number in range(4)]
        for number, old in enumerate(self.olds):
            (old / "base").mkdir(parents=True)
            (old / "base" / "1").touch()
            if number < 3:
                (old / "evenkeel.undo").write_text(f"{tag(str(self.store))} {self.point(number)}")

    def point(self, number: int) -> str:
        return f"evenkeel_20261125T131140_0000000{number}"

    def line(self, base: int, point: int) -> str:
        """Of a checkpoint that needs these."""
        places = {"data": str(self.data), "archive": str(self.archive)}
        return record(**places, base=self.bases[base].name, point=self.point(point))

    def forget(self, stay: Sequence[str], go: Sequence[str]) -> None:
        postgresql.PostgreSQL().forget(str(self.store), System(), stay, go)

    def left(self) -> tuple[list[int], list[int], list[int]]:
        """Numbers of the bases, the segments and the directories that are left."""
        return (
            [number for number, base in enumerate(self.bases) if (self.archive / "base" / base.name).exists()],
            sorted(int(path.name[16:], 16) for path in (self.archive / "wal").iterdir()),
            [number for number, old in enumerate(self.olds) if (old / "base" / "1").exists()],
        )


ALL = ([0, 1, 2], [1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3])


def test_what_goes_is_what_no_checkpoint_that_stays_needs(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.forget([kept.line(0, 0), kept.line(1, 1)], [])
    assert kept.left() == ALL  # Nothing is known to be over.
    kept.forget([kept.line(0, 0), kept.line(1, 1)], ["f /etc/x", kept.line(0, 1), kept.line(0, 2), kept.line(2, 2)])
    assert kept.left() == ([0, 1, 2], [2, 3, 4, 5, 6, 7], [0, 1, 3])
    kept.forget([kept.line(1, 1)], [kept.line(0, 0), kept.line(2, 0)])
    assert kept.left() == ([1, 2], [4, 5, 6, 7], [1, 3])
    kept.forget([], [kept.line(1, 1), kept.line(2, 1)])
    assert kept.left() == ([2], [6, 7], [3])  # That base is of another store.


def test_an_undo_that_is_nothing_but_a_directory_keeps_all_of_them(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.forget(["kept " + json.dumps({"data": str(kept.data), "why": "it was down"})], [kept.line(0, 0)])
    assert kept.left() == ([1, 2], [4, 5, 6, 7], [0, 1, 2, 3])


def test_a_directory_that_another_store_put_aside_stays(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (kept.olds[0] / "evenkeel.undo").write_text(f"{'f' * 16} {kept.point(0)}")
    kept.forget([], [kept.line(0, 0)])
    assert kept.left()[2] == [0, 1, 2, 3]


@pytest.mark.parametrize("line", ["cluster {}", "kept {", "kept []"])
def test_nothing_is_removed_while_it_is_not_known_what_a_line_needs(tmp_path: Path, line: str) -> None:
    kept = Kept(tmp_path)
    with pytest.raises(Damaged):
        kept.forget([line], [kept.line(0, 0)])
    assert kept.left() == ALL


def test_no_log_goes_while_a_base_is_taken_or_none_is_there(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (kept.archive / "base" / "new").mkdir()
    kept.forget([], [kept.line(0, 0), kept.line(1, 0)])
    assert kept.left()[:2] == ([2], ALL[1])
    (kept.archive / "base" / "new").rmdir()
    (kept.archive / "base" / kept.bases[2].name).rmdir()
    kept.forget([], [kept.line(1, 0)])
    assert kept.left()[:2] == ([], ALL[1])


def test_what_is_left_of_a_cluster_that_is_gone_stays(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.data.rename(tmp_path / "away")
    kept.forget([], [kept.line(0, 0)])
    assert kept.left() == ALL


# -- what of the archive a checkpoint names

_BASE_NAME = f"{1:08X}-{0x2000028:016X}-{0x2000100:016X}-{'a' * 16}-{'b' * 16}"
_CONTENT = f"beside={'c' * 64}"


def test_only_places_in_the_archive_are_read() -> None:
    good = [
        'owner {"group": "postgres", "readable": false, "user": "postgres"}',
        f"base {_BASE_NAME}/base/1/",
        f"base {_BASE_NAME}/a%20b {_CONTENT}",
        f"wal 000000010000000000000002 {_CONTENT}",
        f"wal 00000002.history {_CONTENT}",
    ]
    found = archived.read([record(), *good])
    assert (found.user, found.folders) == ("postgres", [f"base/{_BASE_NAME}/base/1"])
    assert set(found.files) == {
        f"base/{_BASE_NAME}/a b",
        "wal/000000010000000000000002",
        "wal/00000002.history",
    }
    for line in (
        'owner {"group": "postgres", "readable": false, "user": "-x"}',
        f"base {_BASE_NAME}/../../etc/passwd {_CONTENT}",
        f"base {_BASE_NAME}/%2E%2E/x {_CONTENT}",
        f"base elsewhere/x {_CONTENT}",
        f"base {_BASE_NAME}/x",
        f"base {_BASE_NAME}/x/ {_CONTENT}",
        f"base {_BASE_NAME}/%00 {_CONTENT}",
        f"wal ../x {_CONTENT}",
        f"wal 000000010000000000000002.partial {_CONTENT}",
        "wal 000000010000000000000002 beside=x",
    ):
        with pytest.raises(Damaged, match="is refused"):
            archived.read([line])


def test_a_copy_holds_what_the_host_keeps_beside_its_store() -> None:
    manifest = Manifest("", "h", "n", [Section("postgresql", {}, [f"wal x {_CONTENT}", f"f /x sha256={'d' * 64}"])])
    assert objects_of(manifest) == {"d" * 64}
    assert objects_of(manifest, beside=True) == {"c" * 64, "d" * 64}
