# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The log of a real PostgreSQL on a peer: all of it comes back on a spare, and nothing that is damaged counts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    Refused,
    RestoreFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas, shipped
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import archived, recovery
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Writer
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import LOGS, Store
from flows import adopt, checkpoint, info, receive, rollback, scrub

from .test_postgresql import SYSTEM, Cluster, Killed, flip, home, pytestmark

__all__ = ["pytestmark"]
HOST = "db1"


@dataclass
class Pair:
    """A cluster, and the store of a peer that keeps its log. ``spare``: the store of the host that gets it anew."""

    cluster: Cluster
    number: int = 0
    shipped: list[str] = field(default_factory=list)

    @property
    def peer(self) -> Store:
        return Store(str(self.cluster.home.parent / "peer"), SYSTEM)

    @property
    def spare(self) -> Store:
        return Store(str(self.cluster.home.parent / "spare"), SYSTEM)

    def bundle(self) -> str:
        self.number += 1
        return str(self.cluster.home.parent / f"bundle-{self.number}")

    def ship(self, name: str = LOGS, **options: Any) -> tuple[str, int]:
        """A checkpoint of the log, and its copy on the peer: (id, bytes that were sent)."""
        options.setdefault("only_logs", name == LOGS)
        made = checkpoint(self.cluster.store, name, self.cluster.resources, host=HOST, **options)["id"]
        return made, self.send(made)

    def send(self, made: str) -> int:
        path = self.bundle()
        known = [one for one in replicas.have(self.peer, HOST).ids if one != made]
        sent = replicas.export(self.cluster.store, HOST, made, known, path, False).bytes
        got = receive(self.peer, HOST, made, path)
        assert got.state == "verified"
        os.unlink(path)
        self.shipped.append(made)
        shipped.note(self.cluster.store, made, 1)
        return sent

    def lose(self) -> None:
        """The host is destroyed: cluster, archive and store."""
        self.cluster.sh("pg_ctl", "-D", str(self.cluster.data), "stop", "-m", "immediate", check=False)
        for path in [*self.cluster.home.glob("data*"), *self.cluster.home.parent.glob("store")]:
            (shutil.rmtree if path.is_dir() else os.unlink)(path)

    def recover(self, made: str = "") -> dict[str, Any]:
        made = made or self.shipped[-1]
        path = self.bundle()
        replicas.export(self.peer, HOST, made, [], path, True)
        adopt(self.spare, HOST, made, path, self.cluster.resources, True)
        os.unlink(path)
        return rollback(self.spare, made)

    def initdb(self, *words: str) -> None:
        """A fresh cluster of another identity at the place, as a package makes it."""
        self.cluster.sh("initdb", "-D", str(self.cluster.data), "-A", "peer", "--no-sync", *words)
        self.cluster.configure()
        self.cluster.control("start")

    def segments(self) -> list[Path]:
        return sorted(path for path in (self.cluster.archive / "wal").iterdir() if len(path.name) == 24)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with home() as path:
        cluster = Cluster(path)
        cluster.make()
        cluster.sql("create table t (i int)")
        yield Pair(cluster)


def modes(top: Path) -> set[str]:
    return {f"{path.lstat().st_mode & 0o7777:o} {path.owner()}" for path in [top, *top.rglob("*")]}


def test_nothing_that_was_shipped_is_lost(pair: Pair) -> None:
    cluster, noted = pair.cluster, 0
    sent = []
    for number in range(1, 6):
        cluster.sql(f"insert into t values ({number})")
        sent.append(pair.ship()[1])
        noted = number
    cluster.sql("insert into t values (6)")  # never shipped
    # Only what is new travels, and the host keeps nothing twice.
    assert max(sent[1:]) < 17.5 * 2**20 < sent[0]
    held = sum(path.stat().st_size for path in (cluster.home.parent / "store").rglob("*") if path.is_file())
    assert held < 2 * 2**20
    before = cluster.sql("select system_identifier from pg_control_system()")
    pair.lose()
    result = pair.recover()
    (step,) = [one for one in result["done"] if one["resource"] == "postgresql"]
    assert step["action"] == "recover" and f"cluster {before[0]} on timeline 2" in step["why"]
    assert cluster.sql("select system_identifier from pg_control_system()") == before
    assert cluster.rows() == [str(number) for number in range(1, noted + 1)]
    assert modes(cluster.data) <= {"700 postgres", "600 postgres"} and not list(cluster.data.glob("*.signal"))
    assert modes(cluster.archive) <= {"700 postgres", "600 postgres"}
    # It is a cluster as before: it archives, is recorded, and goes back.
    cluster.sql("insert into t values (7)")
    spare = Cluster(cluster.home, store_name="spare")
    spare.checkpoint()
    cluster.sql("insert into t values (8)")
    spare.rollback()
    assert cluster.rows() == ["1", "2", "3", "4", "5", "7"]


@pytest.mark.long
def test_the_lag_is_told(pair: Pair) -> None:
    cluster = pair.cluster
    cluster.checkpoint()
    (never,) = info(cluster.store)["logs"]
    assert (never["name"], never["seconds"], never["copies"]) == (f"postgresql {cluster.data}", None, 0)
    made, _size = pair.ship()
    (none,) = info(cluster.store)["logs"]
    assert (none["checkpoint"], none["seconds"], none["bytes"], none["copies"]) == (made, 0.0, 0, 1)
    cluster.sql("insert into t select generate_series(1, 50000)")
    later = replace(SYSTEM, now=lambda: SYSTEM.now() + 90)
    (some,) = info(Cluster(cluster.home, later).store)["logs"]
    assert 90 <= some["seconds"] < 300 and 1 << 20 < some["bytes"] < 1 << 24
    cluster.control("stop")
    (unknown,) = info(cluster.store)["logs"]
    assert unknown["seconds"] >= 0 and unknown["bytes"] is None
    # The newest checkpoint is still the one that holds everything.
    assert cluster.store.resolve("latest") == cluster.store.resolve("before") != made


@pytest.mark.long
def test_a_log_is_shipped_over_timelines(pair: Pair) -> None:
    """As after a rollback: the log of the timeline before, its history, and the segment that both have."""
    cluster = pair.cluster
    cluster.sql("insert into t values (1)")
    pair.ship("before")
    cluster.sql("insert into t values (2)")
    cluster.rollback()
    cluster.sql("insert into t values (3)")
    pair.ship()
    wal = cluster.archive / "wal"
    (wal / "000000010000000000000003.partial").write_bytes(b"x")
    (wal / "000000010000000000000003.00000028.backup").write_bytes(b"x")
    names = {path for path in archived.read(_lines(pair)).files if path.startswith("wal/")}
    assert "wal/00000002.history" in names and not any(name.endswith((".partial", ".backup")) for name in names)
    pair.lose()
    result = pair.recover()
    assert cluster.rows() == ["1", "3"] and "on timeline 3" in str(result["done"])
    # The older restore point is in the replica, too; the host goes back to it, on its own timeline.
    pair.recover(pair.shipped[0])
    assert cluster.rows() == ["1"]


def _lines(pair: Pair, store: Store | None = None) -> list[str]:
    found = store or pair.cluster.store
    (section,) = found.manifest(pair.shipped[-1]).sections
    return [line for line in section.lines if line[1:2] != " "]


@pytest.mark.long
def test_what_is_damaged_on_the_source_is_named_and_not_sent(pair: Pair) -> None:
    cluster = pair.cluster
    pair.ship()
    cluster.sql("insert into t values (1)", "select pg_switch_wal()", "insert into t values (2)")
    made = checkpoint(cluster.store, LOGS, cluster.resources, host=HOST)["id"]
    segment = pair.segments()[-1]
    bundle = pair.bundle()

    def refused(what: str) -> None:
        with pytest.raises(Damaged, match=what):
            replicas.export(cluster.store, HOST, made, pair.shipped, bundle, False)
        assert not os.path.exists(bundle)

    flip(segment, 5000)  # one that was recorded and changes then
    refused(f"{segment} is not what the checkpoint recorded")
    flip(segment, 5000)
    segment.rename(cluster.home / "away")
    refused(f"{segment}, which the checkpoint needs, cannot be read: No such file")
    with pytest.raises(Damaged):
        scrub(cluster.store)
    os.symlink("/etc/shadow", segment)  # the owner of the archive cannot have root read what is not its own
    refused("cannot be read")
    segment.unlink()
    (cluster.home / "away").rename(segment)
    pair.send(made)
    assert scrub(pair.peer)["damaged"] == []

    # Damaged before it is recorded: its header, its size.
    cluster.sql("insert into t values (3)", "select pg_switch_wal()")
    cluster.sql("select pg_switch_wal()", "insert into t values (4)")
    recovery.wait_archived(_server(cluster), pair.segments()[-1].name)
    segment = pair.segments()[-1]
    size = segment.stat().st_size
    flip(segment, 24)
    with pytest.raises(Damaged, match=f"{segment}: it is of the cluster .*Nothing was recorded; move a damaged file"):
        pair.ship()
    flip(segment, 24)
    os.truncate(segment, size // 2)
    with pytest.raises(Damaged, match=f"{segment}: it is not whole"):
        pair.ship()
    # As told: a gap. A new base closes it.
    segment.unlink()
    pair.ship()
    assert len(os.listdir(cluster.archive / "base")) == 2
    pair.lose()
    pair.recover()
    assert cluster.rows() == ["1", "2", "3", "4"]


def _server(cluster: Cluster) -> Any:
    from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import restore_point

    return restore_point.server_of(restore_point.check({"data": str(cluster.data)}), SYSTEM)


@pytest.mark.long
def test_a_history_from_before_the_archive_is_kept(pair: Pair) -> None:
    """As of a standby that took over: the server does not archive the history of the timeline on which it is."""
    cluster = pair.cluster
    cluster.checkpoint("one")
    cluster.sql("insert into t values (1)")
    cluster.rollback("one")
    shutil.rmtree(cluster.archive)
    cluster.make_archive()
    pair.ship()
    pair.lose()
    pair.recover()
    assert cluster.rows() == []


@pytest.mark.long
def test_a_tablespace_that_came_and_went_is_named(pair: Pair) -> None:
    """The log makes it again, at a place that a spare lacks."""
    cluster = pair.cluster
    pair.ship()
    place = cluster.home / "place"
    cluster.sh("mkdir", str(place))
    cluster.sql(f"create tablespace elsewhere location '{place}'")
    with pytest.raises(Refused, match="it has tablespaces"):
        pair.ship()
    cluster.sql("drop tablespace elsewhere", "insert into t values (1)")
    pair.ship()
    pair.lose()
    shutil.rmtree(place)
    with pytest.raises(RestoreFailed, match=f'directory "{place}" does not exist'):
        pair.recover()
    cluster.sh("mkdir", str(place))
    pair.recover()
    assert cluster.rows() == ["1"]


@pytest.mark.long
def test_a_gap_while_nothing_is_written_is_closed(pair: Pair) -> None:
    cluster = pair.cluster
    cluster.sql("select pg_switch_wal()")
    cluster.checkpoint("one")
    cluster.sql("insert into t values (1)", "select pg_switch_wal()", "insert into t values (2)")
    pair.ship()
    pair.segments()[-2].unlink()
    pair.ship()
    assert len(os.listdir(cluster.archive / "base")) == 2
    pair.lose()
    pair.recover()
    assert cluster.rows() == ["1", "2"]


@pytest.mark.long
def test_a_copy_that_was_cut_off_never_counts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pair.cluster
    pair.ship()
    cluster.sql("insert into t values (1)")
    made = checkpoint(cluster.store, LOGS, cluster.resources, host=HOST, only_logs=True)["id"]
    bundle = pair.bundle()
    replicas.export(cluster.store, HOST, made, pair.shipped, bundle, False)
    whole = Path(bundle).read_bytes()
    for cut in (len(whole) // 3, len(whole) - 5):
        Path(bundle).write_bytes(whole[:cut])
        with pytest.raises(EvenkeelError):
            receive(pair.peer, HOST, made, bundle)
        assert replicas.have(pair.peer, HOST).ids == pair.shipped
    Path(bundle).write_bytes(whole)
    for place, name in ((Writer, "publish"), (Store, "add_manifest")):

        def die(*_words: Any) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(place, name, die)
            with pytest.raises(Killed):
                receive(pair.peer, HOST, made, bundle)
        assert replicas.have(pair.peer, HOST).ids == pair.shipped
    assert receive(pair.peer, HOST, made, bundle).state == "verified"
    # A segment that the peer has lost is asked for again, whole.
    cluster.sql("insert into t values (2)")
    again = checkpoint(cluster.store, LOGS, cluster.resources, host=HOST, only_logs=True)["id"]
    lost = archived.read(_lines(pair)).files
    sha = next(sha for path, sha in lost.items() if path.startswith("wal/"))
    os.unlink(replicas.replica(pair.peer, HOST).objects.path(sha))
    bundle = pair.bundle()
    replicas.export(cluster.store, HOST, again, [made, *pair.shipped], bundle, False)
    with pytest.raises(Damaged, match="missing or damaged here"):
        receive(pair.peer, HOST, again, bundle)
    bundle = pair.bundle()
    replicas.export(cluster.store, HOST, again, [], bundle, False)
    assert receive(pair.peer, HOST, again, bundle).state == "verified"


@pytest.mark.long
def test_retention_of_a_peer_keeps_what_its_copies_need(pair: Pair) -> None:
    cluster = pair.cluster
    for number in range(4):
        cluster.sql(f"insert into t values ({number})")
        made = checkpoint(cluster.store, LOGS, cluster.resources, host=HOST, only_logs=True)["id"]
        bundle = pair.bundle()
        known = [one for one in replicas.have(pair.peer, HOST).ids if one != made]
        replicas.export(cluster.store, HOST, made, known, bundle, False)
        receive(pair.peer, HOST, made, bundle, {"last": 1, "grace": "0s"})
        os.unlink(bundle)
        pair.shipped.append(made)
    assert replicas.have(pair.peer, HOST).ids == pair.shipped[-1:]
    assert replicas.lacking(pair.peer, HOST, pair.shipped[-1]) == []
    # The host that is recovered keeps the contents only until they are in its archive.
    pair.lose()
    pair.recover()
    assert cluster.rows() == ["0", "1", "2", "3"]
    spare = Cluster(cluster.home, store_name="spare")
    for _turn in range(2):
        cluster.sql("insert into t values (9)")
        checkpoint(spare.store, LOGS, cluster.resources, retention={"last": 1, "grace": "0s"}, only_logs=True)
    objects = pair.spare.root + "/objects"
    assert sum(len(os.listdir(f"{objects}/{one}")) for one in os.listdir(objects)) == 0


# -- onto a spare


@pytest.mark.long
def test_a_spare_with_a_cluster_of_its_own(pair: Pair) -> None:
    """As a package makes it, and as the role has prepared it: with an archive that has segments of the same names."""
    cluster = pair.cluster
    cluster.sql("insert into t values (1)")
    pair.ship()
    pair.lose()
    pair.initdb()
    system = cluster.sql("select system_identifier from pg_control_system()")
    cluster.sql("select pg_switch_wal()")
    result = pair.recover()
    assert cluster.rows() == ["1"]
    assert cluster.sql("select system_identifier from pg_control_system()") != system
    (kept,) = cluster.kept()
    (archive,) = cluster.home.glob("data.evenkeel.old-*")
    assert str(kept) in str(result["done"]) and str(archive) in str(result["done"])
    assert (kept / "PG_VERSION").exists() and list((archive / "wal").iterdir())


@pytest.mark.long
def test_a_spare_that_served_before_is_recovered_onto_again(pair: Pair) -> None:
    """Its archive has gone its own way, under the same names."""
    cluster = pair.cluster
    cluster.sql("insert into t values (1)")
    pair.ship()
    pair.lose()
    pair.recover()
    cluster.sql("insert into t values (2)")
    flip(pair.segments()[0], 300)
    with pytest.raises(Refused, match="has another content than in the copy.*Stop the cluster"):
        pair.recover()
    assert cluster.rows() == ["1", "2"]
    cluster.control("stop")
    pair.recover()
    assert cluster.rows() == ["1"] and len(list(cluster.home.glob("data.evenkeel.old-*"))) == 1


@pytest.mark.long
def test_a_cluster_that_somebody_uses_is_not_replaced(pair: Pair) -> None:
    cluster = pair.cluster
    cluster.sql("insert into t values (1)")
    pair.ship()
    pair.lose()
    apart = cluster.home / "apart"
    cluster.sh("mkdir", str(apart))
    things = ("create table mine as select 7 as i", "create role somebody", "create database theirs")
    for made in (*things, f"create tablespace apart location '{apart}'"):
        pair.initdb()
        cluster.sql(made)
        inodes = cluster.data.stat().st_ino, cluster.archive.stat().st_ino
        # A server that does not run does not tell its roles; its data is kept all the same.
        for verb in (None,) if "role" in made else (None, "stop"):
            if verb:
                cluster.control(verb)
            with pytest.raises(Refused, match="Somebody has made something in it"):
                pair.recover()
            assert (cluster.data.stat().st_ino, cluster.archive.stat().st_ino) == inodes and cluster.kept() == []
        cluster.sh("pg_ctl", "-D", str(cluster.data), "stop", "-m", "immediate", check=False)
        shutil.rmtree(cluster.data)
        shutil.rmtree(cluster.archive)
    # What is no cluster at all is not replaced either.
    cluster.sh("mkdir", str(cluster.data))
    cluster.sh("touch", str(cluster.data / "letters"))
    with pytest.raises(Refused, match="is no data directory, and holds letters; move it away"):
        pair.recover()
    (cluster.data / "letters").unlink()
    pair.recover()
    assert cluster.rows() == ["1"]
    # Once it is here, a rollback goes back as ever, and an undo of the empty place cannot.
    cluster.sql("insert into t values (2)")
    assert rollback(pair.spare, pair.shipped[-1])["done"][0]["action"] == "restore"
    assert cluster.rows() == ["1"]


# Each stands in the first step that is not carried out any more.
POINTS = ("clone", "rename", "pg_verifybackup", "--single", "exchange", "pg_ctl start")


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_recovery_is_finished_by_the_next(pair: Pair, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pair.cluster
    cluster.sql("insert into t values (1)")
    pair.ship()
    pair.lose()
    pair.initdb()

    def die(*_words: Any, **_more: Any) -> Any:
        raise Killed

    def dying(argv: Any, timeout: float) -> Any:
        if point in re.sub(r" -D \S+ .* (stop|start) ", r" \1 ", " ".join(map(str, argv))):
            raise Killed
        return SYSTEM.run(argv, timeout)

    path = pair.bundle()
    replicas.export(pair.peer, HOST, pair.shipped[-1], [], path, True)
    adopt(pair.spare, HOST, pair.shipped[-1], path, cluster.resources, True)
    with monkeypatch.context() as patched:
        if point == "clone":
            patched.setattr(archived, "clone", die)
        elif point == "rename":
            patched.setattr(archived, "syncfs", die)
        elif point == "exchange":
            patched.setattr(recovery, "exchange", die)
        with pytest.raises(Killed):
            rollback(Store(pair.spare.root, replace(SYSTEM, run=dying)), pair.shipped[-1])
    rollback(pair.spare, pair.shipped[-1])
    assert cluster.rows() == ["1"]
    assert not (cluster.home / "data.evenkeel-new").exists() and not (cluster.home / "data.evenkeel.new").exists()


@pytest.mark.long
def test_a_copy_that_lacks_a_segment_changes_nothing(pair: Pair) -> None:
    cluster = pair.cluster
    pair.ship()
    lines = _lines(pair)
    pair.lose()
    path = pair.bundle()
    replicas.export(pair.peer, HOST, pair.shipped[-1], [], path, True)
    adopt(pair.spare, HOST, pair.shipped[-1], path, cluster.resources, True)
    sha = next(sha for path, sha in archived.read(lines).files.items() if path.startswith("wal/"))
    flip(Path(pair.spare.objects.path(sha)), 100)
    with pytest.raises(Damaged, match="the copy lacks 1 files of its base or log: wal/"):
        rollback(pair.spare, pair.shipped[-1])
    assert not cluster.data.exists() and not cluster.archive.exists()


# -- what is not ours


@pytest.mark.long
@pytest.mark.parametrize("program", ["pgbackrest --stanza=main archive-push %p", "barman-wal-archive backup main %p"])
def test_another_backup_carries_the_database(pair: Pair, program: str) -> None:
    cluster = pair.cluster
    word = program.split("-")[0].split()[0]
    command = f"{cluster.make_archive()} && : {program}"
    cluster.sql(f"alter system set archive_command = '{command}'", "select pg_reload_conf()")
    made, size = pair.ship()
    assert size < 1 << 20
    (said,) = replicas.offer(cluster.store, HOST, made).lacking
    assert f"{word} looks after the log" in said and info(cluster.store)["logs"][0]["seconds"] is None
    cluster.sql("insert into t values (1)")
    assert rollback(cluster.store, made)["changed"] and cluster.rows() == []
    pair.lose()
    with pytest.raises(RestoreFailed, match=f"because {word} looks after it: restore it with that program"):
        pair.recover()
    assert not (cluster.data / "PG_VERSION").exists()


@pytest.mark.long
def test_segments_of_another_size(pair: Pair) -> None:
    cluster = pair.cluster
    pair.lose()
    pair.initdb("--wal-segsize=1", "--allow-group-access")
    cluster.sql("create table t (i int)")
    for number in (1, 2):
        cluster.sql(f"insert into t values ({number})")
        size = pair.ship()[1]
    assert size < 2.5 * 2**20
    pair.lose()
    pair.recover()
    assert cluster.rows() == ["1", "2"]
    assert modes(cluster.data) <= {"750 postgres", "640 postgres", "600 postgres", "700 postgres"}
    assert f"{cluster.data.stat().st_mode & 0o777:o}" == "750"


@pytest.mark.long
def test_an_archive_that_is_compressed_or_does_not_work_is_refused(pair: Pair) -> None:
    cluster = pair.cluster
    pair.ship()
    command = f"gzip -c %p >{cluster.archive}/wal/%f.gz"
    cluster.sql(
        f"alter system set archive_command = '{command}'", "select pg_reload_conf()", "insert into t values (1)"
    )
    with pytest.raises(Refused, match="is compressed"):
        pair.ship()
    cluster.sql("alter system set archive_command = 'false'", "select pg_reload_conf()", "insert into t values (2)")
    with pytest.raises(Refused, match="archiving fails at"):
        pair.ship()


def test_what_has_no_log_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), SYSTEM)
    with pytest.raises(UsageError, match="only_logs: no declared resource has a log of its own"):
        checkpoint(store, None, [{"files": {"paths": [str(tmp_path)]}}], only_logs=True)
