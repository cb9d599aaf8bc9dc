# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The log of a real PostgreSQL on a peer: what was shipped comes back on a spare, and nothing that is damaged counts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import LOGS, Store
from flows import checkpoint, rollback

from .test_postgresql import SYSTEM, Cluster, home, pytestmark

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
        made = checkpoint(self.cluster.store, name, self.cluster.resources, host=HOST, **options)["id"]
        return made, self.send(made)

    def send(self, made: str) -> int:
        path = self.bundle()
        known = [one for one in replicas.have(self.peer, HOST).ids if one != made]
        sent = replicas.export(self.cluster.store, HOST, made, known, path, False).bytes
        got = replicas.receive(self.peer, HOST, made, path)
        assert got.state == "verified"
        os.unlink(path)
        self.shipped.append(made)
        return sent

    def lose(self) -> None:
        """The host is destroyed: cluster, archive and store."""
        self.cluster.sh("pg_ctl", "-D", str(self.cluster.data), "stop", "-m", "immediate", check=False)
        for path in [*self.cluster.home.glob("data*"), self.cluster.home.parent / "store"]:
            (shutil.rmtree if path.is_dir() else os.unlink)(path)

    def recover(self, made: str = "") -> dict[str, Any]:
        made = made or self.shipped[-1]
        path = self.bundle()
        replicas.export(self.peer, HOST, made, [], path, True)
        replicas.adopt(self.spare, HOST, made, path, self.cluster.resources, True)
        os.unlink(path)
        (self.cluster.home / "archive_wal.py").exists()
        return rollback(self.spare, made)


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
