# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource postgresql on a real server: back to exactly what was committed, under load, after kills; or refused."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    Refused,
    RestoreFailed,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import flow
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback.plan import Options
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed, run
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.durable import exchange
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql import (
    postgresql,
    recovery,
    restore_point,
    wal,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.postgresql.cluster import Server
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, rollback, scrub

from evenkeel.collection import collections_path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "roles/postgresql/files/archive_wal.py"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"), key=lambda path: int(path.parts[4]))
SYSTEM = replace(System(), has_systemd=lambda: False)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not BINARIES, reason="needs root and Debian's packages postgresql and postgresql-contrib"
)


class Killed(BaseException):
    """Stands for a kill: nothing of ours handles it."""


@dataclass
class Cluster:
    """A cluster below ``home``, which archives as the role sets it up, and a store of its own."""

    home: Path
    system: System = SYSTEM
    store_name: str = "store"
    port: int = 5432  # nothing listens there, it stands in the name of the socket

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def archive(self) -> Path:
        return self.home / "data.evenkeel"

    @property
    def store(self) -> Store:
        return Store(str(self.home.parent / self.store_name), self.system)

    @property
    def resources(self) -> list[dict[str, Any]]:
        return [{"postgresql": {"data": str(self.data)}}]

    def sh(self, *argv: str, check: bool = True) -> str:
        """Run a program of PostgreSQL's as its user; what it printed."""
        folder = str(BINARIES[-1].parent)
        words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "env", "-C", str(self.home)]
        done = subprocess.run(
            [*words, f"PATH={folder}:/usr/bin:/bin", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def sql(self, *statements: str) -> list[str]:
        words = [word for one in statements for word in ("-c", one)]
        where = ["-h", str(self.home), "-p", str(self.port), "-d", "postgres"]
        return self.sh("psql", *where, "-XAtq", "-v", "ON_ERROR_STOP=1", *words).split()

    def control(self, verb: str, *words: str) -> str:
        return self.sh("pg_ctl", "-D", str(self.data), "-l", f"{self.data}.log", "-w", verb, *words)

    def make(self) -> None:
        self.sh("initdb", "-D", str(self.data), "-A", "peer", "--no-sync")
        self.configure()
        self.control("start")

    def make_archive(self) -> str:
        """The archive as the role makes it; its ``archive_command``."""
        self.sh("mkdir", "-p", str(self.archive / "wal"), str(self.archive / "base"))
        shutil.copy(SCRIPT, self.home / "archive_wal.py")
        return f"/usr/bin/python3 -IS {self.home}/archive_wal.py %p %f {self.archive}/wal"

    def configure(self) -> None:
        with open(self.data / "postgresql.conf", "a") as stream:
            stream.write(
                f"listen_addresses = ''\nunix_socket_directories = '{self.home}'\n"
                f"archive_mode = on\nwal_level = replica\nautovacuum = off\nmax_prepared_transactions = 10\n"
                f"archive_command = '{self.make_archive()}'\n"
            )

    def checkpoint(self, name: str = "before") -> dict[str, Any]:
        return checkpoint(self.store, name, self.resources)

    def rollback(self, to: str = "before") -> dict[str, Any]:
        return rollback(self.store, to)

    def record(self, name: str) -> restore_point.Record:
        (section,) = self.store.manifest(self.store.resolve(name)).sections
        return restore_point.read([line for line in section.lines if line.startswith("cluster ")])

    def rows(self) -> list[str]:
        return self.sql("select i from t order by i")

    def kept(self) -> list[Path]:
        return sorted(self.home.glob("data.evenkeel-old-*"))

    def tree(self) -> dict[str, tuple[int, int]]:
        """What a refusal must leave alone: names, inodes and sizes beside the data directory and of its top."""
        found = [*self.home.glob("data*"), *self.data.glob("*")]
        return {str(path): (path.stat().st_ino, path.stat().st_size) for path in found if path.name != "data.log"}


@contextmanager
def home() -> Iterator[Path]:
    """A directory of the user postgres, in one of root's, where stores lie. What runs on ``data`` is stopped at the
    end."""
    top = Path(tempfile.mkdtemp(prefix="evenkeel-pg-"))
    path = top / "home"
    owner = pwd.getpwnam("postgres")
    path.mkdir()
    os.chmod(top, 0o755)
    os.chmod(path, 0o755)
    os.chown(path, owner.pw_uid, owner.pw_gid)
    try:
        yield path
    finally:
        Cluster(path).sh("pg_ctl", "-D", str(path / "data"), "stop", "-m", "immediate", check=False)
        shutil.rmtree(top)


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with home() as path:
        cluster = Cluster(path)
        cluster.make()
        cluster.sql("create table t (i int)")
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Cluster:
    """The same server for all tests, with an empty table and an empty store."""
    for name in ("store", "other"):
        shutil.rmtree(running.home.parent / name, ignore_errors=True)
    for path in [*running.kept(), *running.home.glob("data.evenkeel-new")]:
        shutil.rmtree(path)
    if "server is running" not in running.sh("pg_ctl", "-D", str(running.data), "status", check=False):
        running.control("start")
    running.sql("truncate t")
    return running


@pytest.mark.long
def test_back_and_forth_over_timelines(cluster: Cluster) -> None:
    cluster.sql("insert into t values (1)", "begin", "insert into t values (7)", "prepare transaction 'seven'")
    first = cluster.checkpoint()
    assert first["consistency"] == "engine"
    assert first["changed"] and not cluster.checkpoint()["changed"]  # an idle server is not recorded twice
    cluster.sql("insert into t values (2)", "commit prepared 'seven'")
    inode = cluster.data.stat().st_ino
    result = cluster.rollback()
    assert cluster.rows() == ["1"] and [one["action"] for one in result["done"]] == ["restore"]
    assert [path.stat().st_ino for path in cluster.kept()] == [inode] and str(cluster.kept()[0]) in str(result["done"])
    cluster.sql("commit prepared 'seven'")
    assert cluster.rows() == ["1", "7"]
    cluster.rollback()
    again = cluster.rollback()
    assert not again["changed"] and cluster.rows() == ["1"]
    assert not cluster.checkpoint()["changed"]  # the state is the one of the checkpoint
    cluster.rollback(result["undo"])
    assert cluster.rows() == ["1", "2", "7"]
    cluster.rollback()  # from another branch back to the first one
    cluster.sql("rollback prepared 'seven'", "insert into t values (3)")
    cluster.checkpoint("later")
    cluster.sql("insert into t values (4)")
    cluster.rollback("later")
    assert cluster.rows() == ["1", "3"]


def test_exactly_what_was_committed_under_load(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.sh("pgbench", "-h", str(cluster.home), "-iq", "-s", "2", "postgres")
    cluster.checkpoint("empty")
    words = ["pgbench", "-h", str(cluster.home), "-n", "-c", "4", "-j", "2", "-T", "6", "postgres"]
    argv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *words]
    with subprocess.Popen(argv, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as load:
        time.sleep(1.5)
        took = []
        for number in range(5):
            started = time.monotonic()
            assert cluster.checkpoint(f"under-load-{number}")["changed"]
            took.append(time.monotonic() - started)
            time.sleep(0.2)
        print(load.communicate()[0])
    history = "select xmin::text || ',' || delta || ',' || aid from pgbench_history"
    everything = cluster.sql(history)
    committed = commits(cluster, cluster.record("empty"), cluster.record("under-load-2"))
    started = time.monotonic()
    cluster.rollback("under-load-2")
    with capsys.disabled():
        size = sum(path.stat().st_size for path in (cluster.archive / "base").rglob("*") if path.is_file()) >> 20
        figures = f"checkpoints {' '.join(f'{one:.2f}' for one in took)} s, rollback {time.monotonic() - started:.1f} s"
        print(f"\npostgresql under pgbench: {figures} with a base of {size} MiB")
    rows = cluster.sql(history)
    assert sorted(rows) == sorted(one for one in everything if one.split(",")[0] in committed)
    assert 0 < len(rows) < len(everything)
    sums = [
        f"(select sum({one}balance) from pgbench_{table})"
        for one, table in (("a", "accounts"), ("b", "branches"), ("t", "tellers"))
    ]
    (agree,) = cluster.sql(
        f"select count(distinct s) from (values ({'),('.join(sums)}), ((select sum(delta) from pgbench_history))) v (s)"
    )
    assert agree == "1"


def commits(cluster: Cluster, start: restore_point.Record, end: restore_point.Record) -> set[str]:
    """The transactions that committed between two restore points, by PostgreSQL's own reading of the archived log."""
    span = ["-t", str(end["timeline"]), "-s", start["lsn"], "-e", end["lsn"]]
    said = cluster.sh("pg_waldump", "-p", str(cluster.archive / "wal"), "-r", "Transaction", *span)
    return set(re.findall(r"tx: +(\d+), .* desc: COMMIT ", said))


def test_check_mode_writes_nothing(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")
    before = cluster.sql("select pg_current_wal_insert_lsn()"), sorted(os.listdir(cluster.archive / "wal"))
    assert checkpoint(cluster.store, "before", cluster.resources, check_mode=True)["changed"]
    planned = rollback(cluster.store, "before", check_mode=True)["planned"]
    assert [one["action"] for one in planned] == ["restore"]
    assert (cluster.sql("select pg_current_wal_insert_lsn()"), sorted(os.listdir(cluster.archive / "wal"))) == before
    assert cluster.rows() == ["1"] and cluster.kept() == []


def test_the_configuration_comes_back(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("alter system set work_mem = '7MB'", "select pg_reload_conf()")
    with open(cluster.data / "pg_hba.conf", "a") as stream:
        stream.write("# added\n")
    result = cluster.rollback()
    assert [one["action"] for one in result["done"] if one["resource"] == "postgresql"] == ["restart"]
    assert cluster.sql("show work_mem") == ["4MB"] and "# added" not in (cluster.data / "pg_hba.conf").read_text()
    cluster.sql("insert into t values (1)", "alter system set work_mem = '7MB'")
    cluster.rollback()
    assert cluster.sql("show work_mem") == ["4MB"] and cluster.rows() == []
    # A cluster that does not run cannot be recorded, and is put back nevertheless.
    cluster.sql("insert into t values (1)", "alter system set shared_preload_libraries = 'nothing_of_that_name'")
    cluster.control("stop")
    undo = cluster.rollback()["undo"]
    assert cluster.rows() == []
    # Its configuration would be that of other data.
    with pytest.raises(Refused, match="cannot be put back; nothing was changed: .* could not be recorded then"):
        cluster.rollback(undo)


# Each stands in the first command that is not carried out any more.
POINTS = ["/base/", "--single", "pg_ctl stop", "pg_ctl start"]


@pytest.mark.parametrize(
    "point", [pytest.param(one, marks=pytest.mark.long) if one in POINTS[1:3] else one for one in POINTS]
)
def test_a_killed_rollback_is_finished_by_the_next(cluster: Cluster, point: str) -> None:
    cluster.sql("insert into t values (1)")
    cluster.checkpoint()
    cluster.sql("insert into t values (2)")
    inode = cluster.data.stat().st_ino

    def dying(argv: Sequence[str], timeout: float) -> Completed:
        here = " ".join(map(str, argv)).replace(str(Path(__file__).parents[2]), "")
        words = re.sub(r" -D \S+ .* (stop|start) ", r" \1 ", here)
        if point in words and "verifybackup" not in words:
            raise Killed
        return run(argv, timeout)

    with pytest.raises(Killed):
        Cluster(cluster.home, replace(SYSTEM, run=dying)).rollback()
    checkpoint(
        cluster.store, "other", [{"files": {"paths": [str(cluster.home / "archive_wal.py")]}}]
    )  # anything of ours
    assert cluster.rows() == ["1"] and not cluster.rollback()["changed"]
    assert not (cluster.home / "data.evenkeel-new").exists() and not (cluster.data / "evenkeel.staged").exists()
    # Killed after the exchange of the directories, it only remained to start it. What was put aside goes with its undo.
    (old,) = cluster.kept()
    assert old.stat().st_ino == inode and cluster.record("undo")["point"] in (old / "evenkeel.undo").read_text()
    assert not (cluster.data / "evenkeel.undo").exists()


def test_old_data_is_never_taken_for_a_copy(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill just after the exchange leaves it under the name that copies have."""
    cluster.checkpoint()
    cluster.sql("insert into t values (2)")
    inode = cluster.data.stat().st_ino
    exchanged = exchange

    def die(*args: Any) -> None:
        exchanged(*args)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(recovery, "exchange", die)
        with pytest.raises(Killed):
            cluster.rollback()
    cluster.rollback()
    assert cluster.rows() == [] and [path.stat().st_ino for path in cluster.kept()] == [inode]


def test_a_cluster_that_does_not_start_gets_its_old_data_back(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")
    exchanged = exchange
    spoilt: list[str] = []

    def spoil(*args: Any) -> None:
        exchanged(*args)
        if not spoilt:
            spoilt.append("pg_xact")
            os.rename(cluster.data / "pg_xact", cluster.data / "pg_xact.away")

    inode = cluster.data.stat().st_ino
    monkeypatch.setattr(recovery, "exchange", spoil)
    with pytest.raises(RestoreFailed, match="runs with its old data again"):
        cluster.rollback()
    assert cluster.data.stat().st_ino == inode and cluster.rows() == ["1"]


def test_a_recovery_that_fails_leaves_the_cluster_alone(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")
    before = cluster.tree()

    def failing(argv: Sequence[str], timeout: float) -> Completed:
        # Another restore point than the one that is in the log.
        return run([re.sub(r"(recovery_target_name=evenkeel).*", r"\1_other", str(word)) for word in argv], timeout)

    with pytest.raises(RestoreFailed, match="recovery ended before configured recovery target was reached"):
        Cluster(cluster.home, replace(SYSTEM, run=failing)).rollback()
    assert cluster.tree() == before and cluster.rows() == ["1"]


def test_no_room_for_the_note_leaves_the_cluster_running(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")

    def full(argv: Sequence[str], timeout: float) -> Completed:
        if str(argv[-1]).endswith("evenkeel.undo"):
            return Completed(tuple(argv), 1, "", "No space left on device")
        return run(argv, timeout)

    with pytest.raises(RestoreFailed, match="No space left"):
        Cluster(cluster.home, replace(SYSTEM, run=full)).rollback()
    assert cluster.rows() == ["1"] and cluster.kept() == []
    cluster.rollback()
    assert cluster.rows() == []


def test_early_at_boot_the_data_is_exchanged_and_nothing_is_started(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")
    cluster.control("stop")
    store = cluster.store
    with store.locked():
        flow.execute(store, store.manifest(store.resolve("before")), None, "boot", Options(boot=True))
    assert "no server running" in cluster.sh("pg_ctl", "-D", str(cluster.data), "status", check=False)
    cluster.control("start")
    assert cluster.rows() == [] and not cluster.rollback()["changed"]


# -- retention


@pytest.mark.long
def test_what_no_checkpoint_needs_any_more_goes_with_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(cluster.archive / "base")
    cluster.sh("mkdir", str(cluster.archive / "base"))
    days = 0
    system = replace(SYSTEM, now=lambda: time.time() + days * 86400)
    other = Cluster(cluster.home, SYSTEM, store_name="other")

    def bases() -> set[str]:
        return set(os.listdir(cluster.archive / "base"))

    def pruned(run: Callable[..., Completed] = system.run) -> None:
        store = Store(str(cluster.home.parent / "store"), replace(system, run=run))
        cluster.sql("insert into t values (0)")
        checkpoint(store, "before", cluster.resources, retention={"last": 1, "grace": "1h"})

    def rolled_back() -> tuple[str, Path]:
        cluster.sql("insert into t values (1)")
        before = set(cluster.kept())
        undo = cluster.rollback()["undo"]
        (aside,) = set(cluster.kept()) - before
        return undo, aside

    cluster.checkpoint()
    (base,) = bases()
    _undo, first = rolled_back()
    undo, second = rolled_back()
    other.checkpoint()
    (others,) = bases() - {base}  # A base is of one store.
    with monkeypatch.context() as patched:
        patched.setattr(postgresql, "_REPLAY", 0)
        for _ in range(20):
            if len(bases()) == 2:
                pruned()  # until the log has outgrown the base
    (renewed,) = bases() - {base, others}
    days = 1
    pruned()
    # The undo that is kept needs the old base, and its directory.
    assert bases() == {base, others, renewed} and not first.exists() and second.exists()
    assert cluster.rollback(undo)["changed"] and cluster.rows() == ["1"]
    rolled_back()  # Its undo is of the branch that the old base leads to.
    _undo, third = rolled_back()
    days = 2
    pruned()
    assert bases() == {base, others, renewed} and second.exists()  # within the grace
    days = 3

    trash = cluster.home.parent / "store" / "trash" / "manifests"
    for path in trash.iterdir():
        flip(path, 300)
    with pytest.raises(Damaged):
        pruned()
    assert bases() == {base, others, renewed} and second.exists()
    for path in trash.iterdir():
        flip(path, 300)

    def dying(argv: Sequence[str], timeout: float) -> Completed:
        if "-delete" in argv:
            raise Killed
        return run(argv, timeout)

    with pytest.raises(Killed):
        pruned(dying)
    pruned()
    assert bases() == {others, renewed} and not second.exists() and third.exists()
    assert not (cluster.home / "data.evenkeel-gone").exists()
    oldest = wal.Base.parse(others)
    assert oldest is not None
    segments = sorted(name[8:24] for name in os.listdir(cluster.archive / "wal") if len(name) == 24)
    assert segments[0] == wal.segment_name(1, oldest.start >> 24, 1 << 24)[8:]
    cluster.sql("insert into t values (1)")
    for one in (cluster, other, cluster):
        assert one.rollback()["changed"]


# -- refusals: nothing changes


def lacking(cluster: Cluster) -> tuple[Path, Path]:
    """A segment that a rollback needs, and the place where it is while it is missing."""
    segment = sorted((cluster.archive / "wal").glob("0" * 7 + "?" + "?" * 16))[-1]
    return segment, segment.with_suffix(".away")


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 0xFF]))


def test_what_is_missing_or_damaged_is_found_before_anything_changes(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")
    record = cluster.record("before")
    segment = cluster.archive / "wal" / record["segment"]
    inside = cluster.archive / "base" / record["base"] / "PG_VERSION"
    offset = int(record["lsn"].split("/")[1], 16) % record["segment_size"]
    undo: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "No such file": (lambda: segment.rename(f"{segment}.away"), lambda: Path(f"{segment}.away").rename(segment)),
        "is of the cluster": (lambda: flip(segment, 24), lambda: flip(segment, 24)),
        "another stretch": (lambda: flip(segment, 8), lambda: flip(segment, 8)),
        "incorrect resource manager data checksum": (
            lambda: flip(segment, offset - 30),
            lambda: flip(segment, offset - 30),
        ),
        "PG_VERSION": (lambda: flip(inside, 0), lambda: flip(inside, 0)),
        "not the one that was written": (
            lambda: flip(inside.parent / "backup_manifest", 9),
            lambda: flip(inside.parent / "backup_manifest", 9),
        ),
    }
    before = cluster.tree()
    # What is inside a base or a segment only its own tools know, and a rollback asks them.
    beneath = ("incorrect resource manager data checksum", "PG_VERSION")
    assert scrub(cluster.store)["damaged"] == []
    for what, (harm, mend) in undo.items():
        harm()
        try:
            with pytest.raises(Damaged, match=what):
                cluster.rollback()
            with nullcontext() if what in beneath else pytest.raises(Damaged) as caught:
                scrub(cluster.store)
            if caught is not None:
                (found,) = caught.value.result["damaged"]
                assert (found["kind"], found["paths"]) == ("postgresql", [str(cluster.data)])
                assert re.search(what, found["problem"]) and found["checkpoints"][0]["name"] == "before"
        finally:
            mend()
        assert cluster.tree() == before and cluster.rows() == ["1"]
    cluster.rollback()
    assert cluster.rows() == []


def test_what_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)")
    before = cluster.tree()

    def refused(what: str, action: Callable[[], Any] = cluster.rollback) -> None:
        with pytest.raises(Refused, match=what):
            action()
        assert cluster.tree() == before and cluster.rows() == ["1"]

    place = cluster.home / "place"
    cluster.sh("mkdir", str(place))
    cluster.sql(f"create tablespace elsewhere location '{place}'")
    refused("tablespaces")
    refused("tablespaces", cluster.checkpoint)
    cluster.sql("drop tablespace elsewhere")

    (cluster.home / "patroni.py").write_text("import time\ntime.sleep(60)\n")
    for argv in (["python3", str(cluster.home / "patroni.py")], ["patroni", "infinity"]):
        patroni = subprocess.Popen(argv, executable="/usr/bin/sleep" if argv[0] == "patroni" else sys.executable)
        try:
            refused("Patroni")
            (cluster.data / "patroni.dynamic.json").write_text('{"pause": true}')
            assert rollback(cluster.store, "before", check_mode=True)["changed"]
            (cluster.data / "patroni.dynamic.json").unlink()
        finally:
            patroni.kill()
            patroni.wait()

    subprocess.run(["mount", "--bind", cluster.data, cluster.data], check=True)
    try:
        refused("is a mount point")
    finally:
        subprocess.run(["umount", cluster.data], check=True)

    cluster.sql("alter system set archive_command = 'false'", "select pg_reload_conf()", "select pg_switch_wal()")
    end = time.monotonic() + 20
    while time.monotonic() < end and cluster.sql("select failed_count > 0 from pg_stat_archiver") != ["t"]:
        time.sleep(0.1)
    with pytest.raises(Refused, match="archiving fails at"):
        cluster.checkpoint()
    cluster.rollback()  # the change that broke archiving is what is rolled back
    assert cluster.rows() == []

    cluster.control("stop")
    with pytest.raises(Refused, match="is not running"):
        cluster.checkpoint()
    cluster.sh("touch", str(cluster.data / "standby.signal"))
    with pytest.raises(Refused, match="is a standby"):
        cluster.rollback()
    (cluster.data / "standby.signal").unlink()
    monkeypatch.setattr(Server, "identifier", lambda _self: "7")
    with pytest.raises(Refused, match="it is the cluster 7"):
        cluster.rollback()


def test_replicas_are_named(cluster: Cluster) -> None:
    cluster.checkpoint()
    cluster.sql("insert into t values (1)", "select pg_create_physical_replication_slot('standby_1')")
    result = cluster.rollback()
    assert "to be rebuilt: slot standby_1" in result["done"][-1]["why"]


def test_what_a_rollback_does_not_bring_back_is_named(cluster: Cluster) -> None:
    cluster.checkpoint("earlier")  # Its base has none of what follows.
    cluster.sh("mkdir", str(cluster.data / "tls"), str(cluster.data / "more"))
    certificate, more = cluster.data / "tls" / "my.crt", cluster.data / "more" / "a.conf"
    certificate.write_text("old")
    more.write_text("work_mem = '5MB'\n")
    subscribe = "create subscription mine connection 'dbname=x' publication p with (connect = false)"
    auto = cluster.data / "postgresql.auto.conf"
    before = auto.read_text()
    auto.write_text(f"{before}ssl_cert_file = 'tls/my.crt'\ninclude_dir = 'more'\n")
    cluster.sql("select pg_reload_conf()", subscribe)
    left = str(cluster.checkpoint()["left"])
    assert "stay as they are in a rollback: more/a.conf, tls/my.crt" in left
    assert "not sent again after a rollback: subscription mine in postgres" in left and "a library" not in left
    cluster.sql("insert into t values (1)")
    certificate.write_text("renewed")
    result = cluster.rollback()
    assert "subscription mine in postgres" in result["done"][-1]["why"]
    assert certificate.read_text() == "renewed" and cluster.rows() == [] and cluster.sql("show work_mem") == ["5MB"]
    auto.write_text(before)
    cluster.sql("alter subscription mine set (slot_name = none)", "drop subscription mine")


# -- archiving


def archive(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", str(SCRIPT), *map(str, words)], capture_output=True, text=True, timeout=20
    )


def test_the_archive_is_never_overwritten(tmp_path: Path) -> None:
    wal, segment = tmp_path / "wal", tmp_path / "segment"
    wal.mkdir()
    segment.write_bytes(b"one" * 100_000)
    assert archive(segment, "01", wal).returncode == 0 and (wal / "01").read_bytes() == segment.read_bytes()
    assert archive(segment, "01", wal).returncode == 0
    (wal / ".02.tmp").write_bytes(b"left by a kill")
    assert archive(segment, "02", wal).returncode == 0
    segment.write_bytes(b"two" * 100_000)
    refused = archive(segment, "01", wal)
    assert refused.returncode == 1 and "exists with another content" in refused.stderr
    assert (wal / "01").read_bytes() == b"one" * 100_000
    assert archive(segment, "03", tmp_path / "missing").returncode == 1
    assert archive(segment, "03").returncode == 1
    os.link(wal / "01", wal / ".01.tmp")  # killed between the two names
    (wal / "01").rename(tmp_path / "away")
    assert archive(segment, "01", wal).returncode == 0 and (tmp_path / "away").read_bytes() == b"one" * 100_000
    assert sorted(os.listdir(wal)) == ["01", "02"]


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_the_archive_is_synced_before_it_counts(tmp_path: Path) -> None:
    wal, segment = tmp_path / "wal", tmp_path / "segment"
    wal.mkdir()
    segment.write_bytes(b"x" * 100_000)
    argv = [sys.executable, "-IS", str(SCRIPT), str(segment), "01", str(wal)]
    trace = ["strace", "-y", "-e", "trace=fsync,link,unlink", "-o", str(tmp_path / "trace")]
    subprocess.run([*trace, *argv], check=True)
    calls = [line for line in (tmp_path / "trace").read_text().splitlines() if str(wal) in line]
    assert [line.split("(")[0] for line in calls] == ["fsync", "link", "unlink", "fsync"]
    for number in (1, 2):
        (wal / "01").unlink(missing_ok=True)
        done = subprocess.run(["strace", "-o", "/dev/null", "-e", f"inject=fsync:error=EIO:when={number}", *argv])
        assert done.returncode == 1 and (number == 2 or os.listdir(wal) == [])


# -- the role


@pytest.mark.skipif(not shutil.which("pg_createcluster"), reason="pg_createcluster is not installed")
@pytest.mark.long
def test_the_role_sets_up_a_cluster_of_debian(tmp_path: Path) -> None:
    version, name = BINARIES[-1].parts[4], f"evenkeel{os.getpid()}"
    script = Path("/usr/local/lib/evenkeel_archive_wal.py")
    there = script.exists()
    store = tmp_path / "store"
    play = tmp_path / "play.yml"
    play.write_text(
        "- hosts: localhost\n  gather_facts: false\n  connection: local\n  roles:\n"
        "    - role: evenkeel.fault_tolerance.postgresql\n"
        f"      vars: {{evenkeel_postgresql_cluster: {version}/{name}, evenkeel_store: {store}}}\n"
    )
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections_path()), "ANSIBLE_NOCOLOR": "1"}
    environment["ANSIBLE_PYTHON_INTERPRETER"] = sys.executable
    path = Path(f"/var/lib/postgresql/{version}/{name}")
    subprocess.run(["pg_createcluster", "--start", version, name], check=True)
    try:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(play)]
        said = []
        for _ in range(2):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
            said.append(done.stdout)
        # The server writes a record by itself within 15 s: on a busy machine a second checkpoint is due.
        tasks = said[1].split("TASK [")
        changed = [task.partition("]")[0].rpartition(" : ")[2] for task in tasks if "\nchanged: " in task]
        assert set(changed) <= {"Take a checkpoint, and a base backup with the first checkpoint"}, said[1]
        declared = [{"postgresql": {"cluster": f"{version}/{name}"}}]

        def sql(statement: str) -> str:
            words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "psql"]
            argv = [*words, f"--cluster={version}/{name}", "-XAtqc", statement]
            return subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/").stdout.strip()

        sql("create table t as select 1 as i")
        checkpoint(Store(str(store), SYSTEM), "before", declared)
        sql("insert into t values (2)")
        (Path("/etc/postgresql") / version / name / "conf.d" / "change.conf").write_text("work_mem = '7MB'\n")
        rollback(Store(str(store), SYSTEM), "before")
        assert (sql("select string_agg(i::text, ' ') from t"), sql("show work_mem")) == ("1", "4MB")
    finally:
        subprocess.run(["pg_dropcluster", "--stop", version, name], check=False)
        # What is not of Debian's making stays behind.
        for left in [*path.parent.glob(f"{name}*"), Path("/etc/postgresql") / version / name]:
            shutil.rmtree(left, ignore_errors=True)
        if not there:
            script.unlink(missing_ok=True)
