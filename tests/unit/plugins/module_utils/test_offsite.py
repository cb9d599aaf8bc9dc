# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checkpoints go into a real restic repository and come back from it, or the reason is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    EvenkeelError,
    NotFound,
    Refused,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.offsite import Repository
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host import commands
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import registry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store import foreign
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, fetch, push, rollback

from .conftest import SYSTEM, copy_of, differences

pytestmark = pytest.mark.skipif(not shutil.which("restic"), reason="restic is not installed")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "password").write_text("secret")
    made = Repository(str(tmp_path / "restic"), str(tmp_path / "password"), SYSTEM)
    made.run("init")
    return made


def after_each_restore(tmp_path: Path, does: Callable[[Path], object]) -> Repository:
    """The repository; this happens to each bundle that has come back from it."""

    def run(argv: Sequence[str], timeout: float) -> Completed:
        done = SYSTEM.run(argv, timeout)
        if "restore" in argv:
            (bundle,) = [path for path in Path(argv[-1]).rglob("*") if path.is_file()]
            does(bundle)
        return done

    return Repository(str(tmp_path / "restic"), str(tmp_path / "password"), replace(SYSTEM, run=run))


def spoil(bundle: Path) -> None:
    with bundle.open("r+b") as stream:
        stream.seek(200)
        stream.write(b"\xff")


def files(tree: Path) -> list[dict[str, Any]]:
    return [{"files": {"paths": [str(tree)]}}]


def test_a_host_that_lost_its_store_comes_back(
    store: Store, tree: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(tree)
    taken = checkpoint(store, "before", files(tree), host="web1")
    foreseen = push(store, repository, "web1", "latest", check_mode=True)
    assert foreseen["changed"] and foreseen["held"] == []
    monkeypatch.setattr(registry, "not_carried", lambda sections: ["postgresql: another program backs it up"])
    pushed = push(store, repository, "web1", "latest")
    assert pushed["left"] == push(store, repository, "web1", "latest")["left"] == registry.not_carried([])
    assert pushed["changed"] and [one["checkpoint"] for one in pushed["held"]] == [taken["id"]]
    assert not push(store, repository, "web1", "before")["changed"]
    assert os.listdir(store.join("offsite")) == []
    shutil.rmtree(tree)
    new = Store(str(tmp_path / "new"), SYSTEM)
    assert fetch(new, repository, "web1", "latest", check_mode=True)["changed"] and not os.path.exists(new.root)
    fetched = fetch(new, repository, "web1", "before")
    assert fetched["changed"] and fetched["id"] == taken["id"] and os.listdir(new.join("offsite")) == []
    rollback(new, fetched["id"])
    assert differences(copy, tree) == ""
    assert not fetch(new, repository, "web1", taken["id"][:8])["changed"]


def test_what_another_host_had_becomes_a_copy_of_that_host(
    store: Store, tree: Path, repository: Repository, tmp_path: Path
) -> None:
    taken = checkpoint(store, "before", files(tree), host="web3")["id"]
    push(store, repository, "web3", "latest")
    spare = Store(str(tmp_path / "spare"), SYSTEM)
    assert fetch(spare, repository, "web3", "latest", elsewhere=True)["changed"]
    with pytest.raises(NotFound):
        spare.resolve(taken)
    assert [one.id for one in replicas.candidates(spare, "web3").candidates] == [taken]
    assert not fetch(spare, repository, "web3", taken, elsewhere=True)["changed"]


def test_what_a_cut_run_has_left_in_the_repository_is_compared(
    store: Store, tree: Path, repository: Repository, tmp_path: Path
) -> None:
    """The name has a comma, at which restic divides tags."""
    name = "before,100%25=x"
    taken = checkpoint(store, name, files(tree))["id"]
    with pytest.raises(FileNotFoundError):
        push(store, after_each_restore(tmp_path, lambda _bundle: os.unlink("/nowhere")), "web1", "latest")
    (held,) = repository.checkpoints("web1")
    assert held["name"] == name
    foreseen = push(store, repository, "web1", "latest", check_mode=True)
    assert not foreseen["changed"] and foreseen["proved"] == [] and foreseen["planned"][0].startswith("compare ")
    again = push(store, repository, "web1", "latest")
    assert not again["changed"] and "fetched back" in again["proved"][0] and len(repository.checkpoints("web1")) == 1
    # Now that is known. Without the note it is compared, and pushed anew where it is another.
    assert "fetched back" not in push(store, repository, "web1", "latest")["proved"][0]
    os.unlink(store.join("offsite.compared"))
    acts = iter([spoil])
    once = after_each_restore(tmp_path, lambda bundle: next(acts, str)(bundle))
    assert push(store, once, "web1", "latest")["changed"] and len(repository.checkpoints("web1")) == 2
    assert fetch(store, repository, "web1", name)["id"] == taken


def test_a_bundle_without_room_is_neither_written_nor_fetched(
    store: Store, tree: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(store, "before", files(tree))
    push(store, repository, "web1", "latest")
    monkeypatch.setattr(foreign, "room", lambda *_directories: 100)
    with pytest.raises(Refused, match="offsite/.* has room for 100"):
        fetch(store, repository, "web1", "latest", elsewhere=True)
    with pytest.raises(Refused, match="has room for 100"):
        push(store, repository, "web2", "latest")
    assert os.listdir(store.join("offsite")) == [] and repository.checkpoints("web2") == []


@pytest.mark.long
def test_latest_is_the_newest_and_each_can_be_had(
    store: Store, tree: Path, repository: Repository, tmp_path: Path
) -> None:
    first = checkpoint(store, "first", files(tree))["id"]
    (tree / "a").write_text("second")
    second = checkpoint(store, "second", files(tree))["id"]
    push(store, repository, "web1", second)
    push(store, repository, "web1", first)
    new = Store(str(tmp_path / "new"), SYSTEM)
    assert fetch(new, repository, "web1", "latest")["id"] == second
    assert fetch(new, repository, "web1", "first")["id"] == first
    with pytest.raises(NotFound, match=rf"no checkpoint 'third' of web1; it has first .{first[:12]}., second"):
        fetch(new, repository, "web1", "third")
    with pytest.raises(NotFound, match=r"no checkpoint 'latest' of web2; it has none"):
        fetch(new, repository, "web2", "latest")


def test_what_comes_back_different_does_not_count(
    store: Store, tree: Path, repository: Repository, tmp_path: Path
) -> None:
    checkpoint(store, "before", files(tree))
    spoiling = after_each_restore(tmp_path, spoil)
    with pytest.raises(Damaged, match=r"came back from .* with another content"):
        push(store, spoiling, "web1", "latest")
    shutil.rmtree(store.root)
    with pytest.raises(Damaged):
        fetch(store, spoiling, "web1", "latest")
    assert store.checkpoints() == []


def test_the_reasons_are_said(store: Store, tree: Path, repository: Repository, tmp_path: Path) -> None:
    checkpoint(store, "before", files(tree))
    absent = Repository(str(tmp_path / "nowhere"), str(tmp_path / "password"), SYSTEM)
    with pytest.raises(EvenkeelError, match=r"restic snapshots in .*nowhere: .*unable to open config file"):
        push(store, absent, "web1", "latest")
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(EvenkeelError, match=r"wrong password"):
        push(store, repository, "web1", "latest")


def test_a_password_in_an_address_is_neither_shown_nor_an_argument(store: Store, tree: Path, tmp_path: Path) -> None:
    checkpoint(store, "before", files(tree))
    called: list[Sequence[str]] = []

    def noting(argv: Sequence[str], timeout: float) -> Completed:
        called.append(argv)
        return SYSTEM.run(argv, timeout)

    (tmp_path / "password").write_text("secret")
    address = "rest:http://me:hunter2@127.0.0.1:1/"
    closed = Repository(address, str(tmp_path / "password"), replace(SYSTEM, run=noting))
    with pytest.raises(EvenkeelError, match=r"rest:http://me:\*\*\*@127.0.0.1:1/") as error:
        closed.run("cat", "config")
    assert called and "hunter2" not in f"{called}{error.value.message}" and "RESTIC_REPOSITORY" not in os.environ


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rest:http://me:s3c@r:et@host:1/a@b", "rest:http://me:***@host:1/a@b"),
        ("rest:https://s3cret@host/", "rest:https://***@host/"),
        ("sftp:me@host:/srv/restic", "sftp:me@host:/srv/restic"),
        ("rest:http://host:8000/a", "rest:http://host:8000/a"),
    ],
)
def test_an_address_is_shown_without_its_secret(address: str, shown: str) -> None:
    assert Repository(address, "/password", SYSTEM).shown == shown


def test_without_restic_it_says_what_to_install(store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(store, "before", files(tree))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(commands, "search_path", lambda: "/nowhere")
    with pytest.raises(UsageError, match=r"restic cannot be run on this host .* install it"):
        push(store, Repository("/srv/restic", "/etc/password", SYSTEM), "web1", "latest")


def test_a_repository_of_others_has_none_of_ours(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    argv = ["restic", "--repo", repository.address, "--password-file", str(tmp_path / "password"), "--quiet"]
    subprocess.run([*argv, "backup", "--host", "web1", str(tmp_path / "theirs")], check=True)
    subprocess.run([*argv, "backup", "--host", "web1", "--tag", "evenkeel", str(tmp_path / "theirs")], check=True)
    assert repository.checkpoints("web1") == []


@pytest.mark.parametrize(
    "odd",
    [
        {"tags": None},
        {"id": "--target=/"},
        {"id": 5},
        {"paths": []},
        {"paths": ["/x/../../etc/shadow"]},
        {"tags": ["evenkeel", "checkpoint=" + "a" * 63, "name=x", "created=2026-11-23T23:50:11.123456Z"]},
        {"tags": ["evenkeel", "checkpoint=" + "a" * 64, "name=../x", "created=2026-11-23T23:50:11.123456Z"]},
        {"tags": ["evenkeel", "checkpoint=" + "a" * 64, "name=x", "created=9999"]},
        {"tags": ["evenkeel", "checkpoint=" + "a" * 64, "name=x", "created=2096-11-23T23:50:11.123456Z"]},
    ],
)
def test_a_snapshot_out_of_form_is_none_of_ours(odd: dict[str, Any]) -> None:
    tags = ["evenkeel", "checkpoint=" + "a" * 64, "name=x", "created=2026-11-23T23:50:11.123456Z"]
    good = {"id": "b" * 64, "tags": tags, "paths": ["/x/bundle"]}
    said = json.dumps([good, {**good, **odd}, 5])
    system = replace(SYSTEM, run=lambda argv, _timeout: Completed(tuple(argv), 0, said, ""), now=lambda: 1795700000.0)
    (found,) = Repository("/r", "/p", system).checkpoints("web1")
    assert (found["snapshot"], found["name"]) == ("b" * 64, "x")
