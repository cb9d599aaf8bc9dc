# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource postgresql on servers that somebody else has a say in: a real standby, a failover, a real Patroni."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import yaml
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import Refused

from .test_postgresql import BINARIES, Cluster, home
from .test_postgresql import pytestmark as pytestmark

AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def until(holds: Callable[[], object], seconds: float = 180.0) -> None:
    """A standby tries its archive and its primary by turns, five seconds apart: it takes a while on a busy machine."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.1)


def refused(cluster: Cluster, what: str, *actions: Callable[[], object]) -> None:
    before = cluster.tree()
    for action in actions:
        with pytest.raises(Refused, match=what):
            action()
    assert cluster.tree() == before


# -- a standby


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary with one row, and the standby that follows it."""
    with home() as one, home() as other:
        primary, standby = Cluster(one), Cluster(other)
        primary.make()
        primary.sql("create table t (i int)", "insert into t values (1)")
        follow(standby, primary)
        yield primary, standby


def follow(standby: Cluster, primary: Cluster) -> None:
    standby.sh("pg_basebackup", "-h", str(primary.home), "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast")
    standby.configure()
    with open(standby.data / "postgresql.conf", "a") as stream:
        stream.write("wal_keep_size = '64MB'\n")
    standby.control("start")
    until(lambda: primary.sql("select state from pg_stat_replication") == ["streaming"])


def hand_over(old: Cluster, new: Cluster) -> None:
    """Stop the primary, and promote its standby once it has the last record: otherwise the old one cannot follow it."""
    until(lambda: old.sql("select state from pg_stat_replication") == ["streaming"])
    old.control("stop")
    last = re.search(r"Latest checkpoint location: +(\S+)", old.sh("pg_controldata", "-D", str(old.data)))
    assert last
    until(lambda: new.sql(f"select pg_last_wal_replay_lsn() > '{last[1]}'") == ["t"])
    new.control("promote")


def test_a_standby_is_refused_and_its_primary_names_it(pair: tuple[Cluster, Cluster]) -> None:
    primary, standby = pair
    refused(standby, "is a standby", standby.checkpoint)
    signal = standby.data / "standby.signal"
    signal.rename(standby.home / "signal")  # what the server says of itself counts as well
    refused(standby, "is a standby", standby.checkpoint)
    (standby.home / "signal").rename(signal)

    primary.checkpoint()
    primary.sql("insert into t values (2)")
    until(lambda: standby.rows() == ["1", "2"])
    done = primary.rollback()["done"]
    assert primary.rows() == ["1"] and "to be rebuilt: walreceiver at this host" in done[-1]["why"]


def test_a_checkpoint_of_before_a_failover_is_refused_until_after_the_way_back(pair: tuple[Cluster, Cluster]) -> None:
    primary, standby = pair
    primary.checkpoint()
    hand_over(primary, standby)
    assert standby.checkpoint()["changed"]  # it has taken over: a primary like any other, with a base of its own
    standby.sql("insert into t values (2)")
    with open(primary.data / "postgresql.auto.conf", "a") as stream:
        stream.write(f"primary_conninfo = 'host={standby.home}'\n")
    primary.sh("touch", str(primary.data / "standby.signal"))
    primary.control("start")
    until(lambda: primary.rows() == ["1", "2"])
    refused(primary, "is a standby", primary.checkpoint, primary.rollback)
    (primary.data / "standby.signal").rename(primary.home / "signal")
    refused(primary, "is a standby", primary.rollback)
    (primary.home / "signal").rename(primary.data / "standby.signal")
    primary.control("stop")
    refused(primary, "is a standby", primary.rollback)

    # And back: what was written elsewhere is in the data, and not in the archive of this host.
    primary.control("start")
    until(lambda: primary.rows() == ["1", "2"])
    hand_over(standby, primary)
    primary.checkpoint("after")
    primary.sql("insert into t values (3)")
    primary.rollback("after")
    assert primary.rows() == ["1", "2"]
    primary.rollback("before")
    assert primary.rows() == ["1"]


# -- Patroni


@pytest.fixture
def patroni() -> Iterator[tuple[Cluster, Callable[..., None]]]:
    """A cluster that Patroni has made and runs, and its patronictl."""
    with home() as path:
        ports = free_ports(4)
        cluster = Cluster(path, port=ports[0])
        settings = path / "patroni.yml"
        settings.write_text(yaml.safe_dump(configuration(cluster, *ports[1:3])))
        dcs, peers = (f"http://127.0.0.1:{port}" for port in ports[2:])
        words = ["--listen-client-urls", dcs, "--advertise-client-urls", dcs, "--listen-peer-urls", peers]
        words += ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"]
        with open(path / "log", "w") as log, ExitStack() as running:

            def start(*argv: str) -> None:
                environment = {**os.environ, "HOME": str(path)}
                process = subprocess.Popen([*AS_POSTGRES, *argv], cwd=path, env=environment, stdout=log, stderr=log)
                running.callback(process.wait, 20)
                running.callback(process.terminate)

            def patronictl(*words: str) -> None:
                argv = ["patronictl", "-c", str(settings), *words]
                subprocess.run(argv, check=True, stdout=log, stderr=log, timeout=30)

            start("etcd", "--data-dir", str(path / "etcd"), *words)
            start("patroni", str(settings))
            until(lambda: "the leader with the lock" in (path / "log").read_text())
            yield cluster, patronictl


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def configuration(cluster: Cluster, api: int, dcs: int) -> dict[str, object]:
    return {
        "scope": "evenkeel",
        "name": "one",
        "restapi": {"listen": f"127.0.0.1:{api}", "connect_address": f"127.0.0.1:{api}"},
        "etcd3": {"hosts": [f"127.0.0.1:{dcs}"]},
        "bootstrap": {
            "dcs": {"ttl": 20, "loop_wait": 1, "retry_timeout": 3},
            "initdb": [{"auth": "peer"}, "no-sync"],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{cluster.port}",
            "connect_address": f"127.0.0.1:{cluster.port}",
            "data_dir": str(cluster.data),
            "bin_dir": str(BINARIES[-1].parent),
            "use_unix_socket": True,
            "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "postgres"}},
            "pg_hba": ["local all all peer", "local replication all peer"],
            "parameters": {
                "unix_socket_directories": str(cluster.home),
                "archive_mode": "on",
                "archive_command": cluster.make_archive(),
            },
        },
    }


@pytest.mark.skipif(
    not all(map(shutil.which, ("patroni", "etcd"))), reason="needs Debian's packages patroni and etcd-server"
)
def test_patroni_is_refused_unless_it_is_paused(patroni: tuple[Cluster, Callable[..., None]]) -> None:
    cluster, patronictl = patroni
    settings = cluster.data / "patroni.dynamic.json"
    refused(cluster, "Patroni runs", cluster.checkpoint)
    cluster.sql("create table t (i int)", "insert into t values (1)")
    patronictl("pause", "--wait")
    cluster.checkpoint()
    cluster.sql("insert into t values (2)")
    patronictl("resume", "--wait")
    refused(cluster, "Patroni runs", cluster.checkpoint, cluster.rollback)
    patronictl("edit-config", "--force", "-s", "maximum_lag_on_failover=7")
    patronictl("pause", "--wait")
    now = settings.read_text()
    cluster.rollback()
    assert cluster.rows() == ["1"]
    # Patroni writes it only when it changes, and whether it is paused stands in it.
    assert settings.read_text() == now and '"maximum_lag_on_failover": 7' in now
    patronictl("resume", "--wait")
    refused(cluster, "Patroni runs", cluster.checkpoint, cluster.rollback)
    until(lambda: "the leader with the lock" in (cluster.home / "log").read_text().splitlines()[-1])
    assert cluster.rows() == ["1"] and cluster.sql("select pg_is_in_recovery()") == ["f"]
