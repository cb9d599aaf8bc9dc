# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint to peers and back, between directories: placement, what counts as a copy, and what is never used."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.action import ft_replicate
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows import replicas
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils import _scratch
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._key import Keys
from ansible_collections.evenkeel.fault_tolerance.plugins.plugin_utils._placement import choose
from flows import checkpoint

from evenkeel.ansible.configuration import ask_ansible
from evenkeel.ansible.options import Options, Secrets
from evenkeel.ansible.session import open_session

from . import conftest
from .conftest import Fleet, Run
from .test_guard import NOWHERE

CHECKPOINT = {
    "evenkeel.fault_tolerance.ft_checkpoint": {
        "name": "base",
        "host": "{{ inventory_hostname }}",
        "resources": "{{ evenkeel_resources }}",
        "store": "{{ evenkeel_store }}",
    }
}


def replicate(fleet: Fleet, hosts: str = "h1", *words: str, **options: Any) -> Run:
    given = {"peers": "all", "store": "{{ evenkeel_store }}", **options}
    return fleet.play([CHECKPOINT, {"evenkeel.fault_tolerance.ft_replicate": given}], hosts, *words)


def recover(fleet: Fleet, host: str = "h1", **options: Any) -> Run:
    given = {"peers": "all", "store": "{{ evenkeel_store }}", **options}
    return fleet.play([{"evenkeel.fault_tolerance.ft_recover": given}], host)


def copies(fleet: Fleet, host: str = "h1") -> list[str]:
    return sorted(path.parents[2].name for path in fleet.home.glob(f"*/store/replicas/{host}"))


def flip(fleet: Fleet, peer: str, host: str = "h1") -> None:
    """Change one byte of the content of ``name`` in the copy on ``peer``."""
    found = list(fleet.home.glob(f"{peer}/store/replicas/{host}/packs/*.pack"))
    for path in found:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b"I am", b"I an"))
    assert found


def temporary(fleet: Fleet) -> list[Path]:
    return [path for path in (fleet.home / "tmp").rglob("*") if path.is_file()]


def test_copies_lie_on_peers_in_distinct_domains_and_are_not_sent_twice(fleet: Fleet) -> None:
    run = replicate(fleet, copies=2, failure_domain="rack")
    assert run.rc == 0, run.output
    result = run.results["h1"]
    assert {one["domain"] for one in result["copies"]} == {"r1", "r2"}
    assert [one["state"] for one in result["copies"]] == ["verified"] * 2
    assert copies(fleet) == sorted(one["peer"] for one in result["copies"])
    assert not temporary(fleet)
    again = replicate(fleet, copies=2, failure_domain="rack")
    assert again.results["h1"]["changed"] is False
    assert [one["detail"] for one in again.results["h1"]["copies"]] == ["held already"] * 2


def test_a_store_that_knows_none_of_its_copies_is_said_and_no_peer_drops_one_of_them(fleet: Fleet) -> None:
    data = fleet.directory("h1") / "data" / "more"
    for text in ("first", "second"):
        data.write_text(text)
        replicate(fleet, copies=1, peers=["h2"], retention={"last": 2})
    shutil.rmtree(fleet.directory("h1") / "store")
    data.write_text("bare")
    run = replicate(fleet, copies=1, peers=["h2"], retention={"last": 1})
    assert run.rc == 0 and "it does not know older copies of it (2 on h2)" in run.results["h1"]["warnings"][0], (
        run.output
    )
    assert len(candidates(fleet, "h2")) == 3
    # A store that is old has dropped them itself, as it was told to keep fewer.
    month = time.time() - 30 * 86400
    os.utime(fleet.directory("h1") / "store" / "FORMAT", (month, month))
    data.write_text("later")
    run = replicate(fleet, copies=1, peers=["h2"], retention={"last": 1})
    assert "warnings" not in run.results["h1"] and len(candidates(fleet, "h2")) == 1, run.output


@pytest.mark.long
def test_after_a_recovery_onto_a_spare_the_copies_stay_where_they_are_and_none_is_made_on_the_lost_host(
    fleet: Fleet,
) -> None:
    first = replicate(fleet, copies=2).results["h1"]
    before = [one["peer"] for one in first["copies"]]
    spare = next(host for host in ("h2", "h3", "h4") if host not in before)
    given = {"host": "h1", "peers": "all", "store": "{{ evenkeel_store }}"}
    # Two peers are left besides the spare and the lost host.
    again = {**given, "checkpoint": first["id"], "copies": 3, "min_copies": 2}
    tasks = [{"evenkeel.fault_tolerance.ft_recover": given}, {"evenkeel.fault_tolerance.ft_replicate": again}]
    run = fleet.play(tasks, spare)
    assert run.rc == 0 and "2 of 3 copies" in run.output, run.output
    made = {one["peer"]: one["detail"] for one in run.results[spare]["copies"]}
    assert made == dict.fromkeys(before, "held already")


def test_check_mode_names_the_peers_and_copies_nothing(fleet: Fleet) -> None:
    replicate(fleet, "h1", copies=1)
    holder = copies(fleet)
    run = replicate(fleet, "h1", "--check", copies=2)
    assert run.results["h1"]["changed"] is True
    planned = [one["peer"] for one in run.results["h1"]["copies"] if one["state"] == "planned"]
    assert copies(fleet) == holder
    replicate(fleet, "h1", copies=2)
    assert copies(fleet) == sorted([*holder, *planned])


def test_a_peer_that_is_gone_is_replaced_and_too_few_are_a_failure_that_lists_them(fleet: Fleet) -> None:
    chosen = choose("h1", 2, list(fleet.hosts), None)
    fleet.hosts[chosen[0]].update(NOWHERE)
    run = replicate(fleet, copies=2)
    assert run.rc == 0
    assert chosen[0] not in copies(fleet) and len(copies(fleet)) == 2
    assert run.results["h1"]["left"][0].startswith(f"{chosen[0]} ({chosen[0]}): unreachable")
    run = replicate(fleet, copies=3)
    assert run.rc == 2
    assert "2 of 3 copies" in run.results["h1"]["msg"] and chosen[0] in run.results["h1"]["msg"]
    assert sorted(one["state"] for one in run.results["h1"]["copies"]) == ["unreachable", "verified", "verified"]


@pytest.mark.long
def test_fewer_copies_than_wanted_are_a_warning_down_to_the_fewest(fleet: Fleet) -> None:
    chosen = choose("h1", 3, list(fleet.hosts), None)
    fleet.hosts[chosen[0]].update(NOWHERE)
    run = replicate(fleet, copies=3, min_copies=2)
    assert run.rc == 0, run.output
    result = run.results["h1"]
    assert "2 of 3 copies" in run.output and result["left"][0].startswith(f"{chosen[0]} (")
    run = replicate(fleet, copies=3, min_copies=3)
    assert run.rc == 2 and "2 of 3 copies" in run.results["h1"]["msg"]
    run = replicate(fleet, copies=2, min_copies=3)
    assert run.rc == 2 and "min_copies: 3" in run.results["h1"]["msg"]


@pytest.mark.long
@pytest.mark.parametrize(("known", "peers"), [("h1", ["h5"]), ("h2", ["h2", "h5"])])
def test_no_second_name_of_a_host_counts_as_another_host(fleet: Fleet, known: str, peers: list[str]) -> None:
    fleet.hosts["h5"] = {"evenkeel_store": str(fleet.directory(known) / "store")}
    run = replicate(fleet, copies=len(peers), peers=peers)
    assert run.rc != 0 and "under another name" in run.results["h1"]["msg"]
    assert [one["state"] for one in run.results["h1"]["copies"]].count("failed") == 1
    assert copies(fleet) == [peer for peer in peers if peer != "h5"]


def test_a_source_that_cannot_give_everything_gives_what_it_can_and_says_so(fleet: Fleet) -> None:
    replicate(fleet, copies=1, peers=["h2"])
    (fleet.directory("h1") / "data" / "more").write_text("second")
    for path in (fleet.directory("h1") / "store" / "packs").glob("*.pack"):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b"I am", b"I an"))
    run = replicate(fleet, copies=2, peers=["h2", "h3"])
    assert run.rc == 2 and "h1 cannot give checkpoint" in run.results["h1"]["msg"], run.output
    assert {one["peer"]: one["state"] for one in run.results["h1"]["copies"]} == {"h2": "verified", "h3": "failed"}
    assert run.results["h1"]["changed"] is True


def test_hosts_without_ssh_get_their_copy_by_the_controller_and_ssh_alone_is_a_failure(fleet: Fleet) -> None:
    (one,) = replicate(fleet, copies=1).results["h1"]["copies"]
    assert one["transport"] == "relay" and "by local, not by SSH" in one["reason"]
    (fleet.directory("h1") / "data" / "more").write_text("second")
    (one,) = replicate(fleet, copies=1, transport="relay").results["h1"]["copies"]
    assert (one["transport"], one["reason"]) == ("relay", "")
    (fleet.directory("h1") / "data" / "more").write_text("third")
    run = replicate(fleet, copies=1, transport="ssh", peers=["h2"])
    assert run.rc == 2 and "by local, not by SSH" in run.results["h1"]["msg"]


def test_nothing_new_is_one_call_of_each_host(fleet: Fleet) -> None:
    replicate(fleet, copies=2)
    log = fleet.home / "calls"
    for host, variables in fleet.hosts.items():
        script = fleet.home / f"{host}-python"
        script.write_text(f'#!/bin/sh\necho {host} >>{log}\nexec {sys.executable} "$@"\n')
        script.chmod(0o755)
        variables["ansible_python_interpreter"] = str(script)
    task = {"evenkeel.fault_tolerance.ft_replicate": {"peers": "all", "store": "{{ evenkeel_store }}"}}
    result = fleet.play([task], "h1").results["h1"]
    assert [one["detail"] for one in result["copies"]] == ["held already"] * 2
    assert sorted(log.read_text().split()) == sorted(["h1", *(one["peer"] for one in result["copies"])])


def test_too_few_domains_are_refused_before_anything_is_copied(fleet: Fleet) -> None:
    run = replicate(fleet, copies=3, failure_domain="rack")
    assert run.rc == 2
    assert "r1: h2; r2: h3, h4" in run.results["h1"]["msg"]
    assert copies(fleet) == []


def test_a_host_comes_back_from_a_whole_copy_and_never_from_a_damaged_one(fleet: Fleet) -> None:
    peers = [one["peer"] for one in replicate(fleet, copies=2).results["h1"]["copies"]]
    shutil.rmtree(fleet.directory("h1") / "data")
    shutil.rmtree(fleet.directory("h1") / "store")
    flip(fleet, peers[0])
    run = recover(fleet)
    assert run.rc == 0, run.output
    result = run.results["h1"]
    assert result["source"] == peers[1]
    assert (fleet.directory("h1") / "data" / "name").read_text() == "I am h1\n"
    states = {one["peer"]: one["state"] for one in result["candidates"]}
    assert states[peers[0]] == "damaged" and states[peers[1]] == "verified"
    assert any(peers[0] in one and "damaged" in one for one in result["left"])
    assert recover(fleet).results["h1"]["changed"] is False
    assert not temporary(fleet)


@pytest.mark.long
def test_without_a_whole_copy_nothing_changes_and_what_was_found_is_listed(fleet: Fleet) -> None:
    peer = replicate(fleet, copies=1).results["h1"]["copies"][0]["peer"]
    flip(fleet, peer)
    (fleet.directory("h1") / "data" / "name").write_text("something else")
    run = recover(fleet)
    assert run.rc == 2
    assert f"{peer}: damaged base" in run.results["h1"]["msg"]
    assert (fleet.directory("h1") / "data" / "name").read_text() == "something else"
    # The next protection heals it: a damaged copy does not count, and is sent again.
    (fleet.directory("h1") / "data" / "name").write_text("I am h1\n")
    assert replicate(fleet, copies=1).results["h1"]["copies"][0]["state"] == "verified"


@pytest.mark.long
def test_the_newest_checkpoint_wins_and_only_what_is_new_travels(fleet: Fleet) -> None:
    replicate(fleet, copies=1)
    (fleet.directory("h1") / "data" / "more").write_text("second")
    second = replicate(fleet, copies=1).results["h1"]
    assert second["copies"][0]["detail"] == "6 bytes"
    shutil.rmtree(fleet.directory("h1") / "data")
    run = recover(fleet)
    assert run.results["h1"]["id"] == second["id"]
    assert (fleet.directory("h1") / "data" / "more").read_text() == "second"


def killed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kill a run, with all that it has started, while a peer makes it wait; the bundle that it leaves."""
    assert fleet.play([CHECKPOINT], "all").rc == 0
    started: list[subprocess.Popen[bytes]] = []

    def begin(words: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), *words]
        started.append(subprocess.Popen(argv, start_new_session=True, stdout=subprocess.DEVNULL, cwd=cwd, env=env))
        return subprocess.CompletedProcess(argv, 0, "", "")

    locks = [open(fleet.directory(f"h{n}") / "store" / "lock") for n in (2, 3, 4)]  # noqa: SIM115
    try:
        for lock in locks:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with monkeypatch.context() as patch:
            patch.setattr(conftest, "run_playbook", begin)
            task = {"evenkeel.fault_tolerance.ft_replicate": {"peers": "all", "store": "{{ evenkeel_store }}"}}
            fleet.play([task], "h1")
        limit = time.monotonic() + 60
        while not (found := [one for one in temporary(fleet) if one.name.startswith("bundle")]):
            assert time.monotonic() < limit and started[0].poll() is None
            time.sleep(0.05)
    finally:
        running = psutil.Process(started[0].pid)
        for process in [running, *running.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        started[0].wait()
        for lock in locks:
            lock.close()
    return found[0]


@pytest.mark.parametrize(
    "task",
    [
        "ft_replicate",
        pytest.param("ft_guard", marks=pytest.mark.long),
        pytest.param("ft_settle", marks=pytest.mark.long),
    ],
)
def test_what_a_killed_run_left_is_gone_with_the_next_one_of_any_kind(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    bundle = killed(fleet, monkeypatch)
    assert bundle.stat().st_size > 0 and (bundle.parent / "lock").exists()
    options: dict[str, Any] = {"peers": "all"} if task == "ft_replicate" else {"group": ["all"]}
    given = {"store": "{{ evenkeel_store }}", **({"generation": 7} if task == "ft_settle" else options)}
    fleet.play([{f"evenkeel.fault_tolerance.{task}": given}], "h1")
    assert not bundle.parent.exists()


@pytest.mark.long
def test_the_driver_takes_away_what_a_killed_run_left(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = killed(fleet, monkeypatch)
    monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(fleet.home / "tmp"))
    with open_session(ask_ansible(str(tmp_path)), Options(), Secrets(), tmp_path):
        assert not bundle.parent.exists()


@pytest.mark.long
def test_the_next_call_of_any_module_takes_away_what_is_left_on_a_host(fleet: Fleet) -> None:
    left = Path(tempfile.mkdtemp(prefix="evenkeel-bundle-", dir="/var/tmp"))
    (left / "bundle").write_text("secret")
    time.sleep(15.5)
    task = {"evenkeel.fault_tolerance.ft_info": {"store": "{{ evenkeel_store }}"}}
    assert fleet.play([task], "h1", "--check").rc == 0 and left.exists()
    assert fleet.play([task], "h1").rc == 0 and not left.exists()


@pytest.mark.long
def test_what_a_run_at_work_has_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scratch.C, "DEFAULT_LOCAL_TMP", str(tmp_path / "ansible-local-1"))
    with _scratch.scratch_directory() as mine:
        Path(mine, "bundle").touch()
        with _scratch.scratch_directory() as other:
            assert mine != other
        assert Path(mine, "bundle").exists() and Path(mine).stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def turns(fleet: Fleet, peer: str, module: str, answer: Any) -> None:
    """From now on the peer answers this instead of running the module or its call, also where it has the library."""
    said, script = fleet.home / f"{peer}.json", fleet.home / f"{peer}.sh"
    said.write_text(answer if isinstance(answer, str) else json.dumps(answer))
    # A call is a file on standard input; opened anew, it is read from its start.
    mark = f"""sed -n 's/.*"name": "{module.removeprefix("ft_")}".*"mark": "\\([0-9a-f]*\\)".*/\\1/p' /proc/self/fd/0"""
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{module}*) cat {said}; exit;; *-X\\ utf8*) mark=$({mark});; esac\n'
        f'[ -z "$mark" ] || {{ echo "$mark$(cat {said})"; exit; }}\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    fleet.hosts[peer] |= {"ansible_python_interpreter": str(script), "ansible_pipelining": False}


def made_up(**more: Any) -> dict[str, Any]:
    """A copy that no host has ever made, of now."""
    created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return {"id": "f" * 64, "host": "h1", "name": "base", "created": created, "state": "verified", "detail": "", **more}


def test_nonsense_from_peers_is_their_failure_and_the_next_one_is_asked(fleet: Fleet) -> None:
    """One of them answers nonsense, another one has something that it does not give."""
    peers = [one["peer"] for one in replicate(fleet, copies=3).results["h1"]["copies"]]
    shutil.rmtree(fleet.directory("h1") / "data")
    shutil.rmtree(fleet.directory("h1") / "store")
    turns(fleet, peers[0], "ft_recover", {"candidates": [{"id": 5, "name": None, "created": {"a": 1}}]})
    turns(fleet, peers[1], "ft_recover", {"candidates": [made_up()], "path": "/tmp/x\n!touch y", "bytes": 7})
    run = recover(fleet)
    assert run.rc == 0, run.output
    result = run.results["h1"]
    assert result["source"] == peers[2]
    assert (fleet.directory("h1") / "data" / "name").read_text() == "I am h1\n"
    states = {one["peer"]: one["state"] for one in result["candidates"]}
    assert states[peers[0]] == "failed" and states[peers[2]] == "verified"
    assert any(one.startswith(f"{peers[0]}: failed its answer has no form of ours") for one in result["left"])
    assert not temporary(fleet)


def forge(fleet: Fleet, peer: str, path: Path, owner: str = "h1", **more: Any) -> str:
    """The peer makes a checkpoint 'of' the owner, of a tree that it likes to have there."""
    store = Store(str(fleet.directory(peer) / "store" / "replicas" / owner), System(**more))
    return str(checkpoint(store, "base", [{"files": {"paths": [str(path)]}}], host=owner)["id"])


def lose(fleet: Fleet, host: str = "h1") -> None:
    shutil.rmtree(fleet.directory(host) / "data")
    shutil.rmtree(fleet.directory(host) / "store", ignore_errors=True)


@pytest.mark.long
def test_a_peer_cannot_make_up_a_newer_checkpoint_nor_pass_off_that_of_another_host(fleet: Fleet) -> None:
    peers = [one["peer"] for one in replicate(fleet, copies=2).results["h1"]["copies"]]
    other = next(host for host in fleet.hosts if host not in ("h1", *peers))
    replicate(fleet, other, copies=3)
    evil = fleet.home / "evil"
    evil.mkdir()
    (evil / "sudoers").write_text("ALL")
    lose(fleet)
    forged = forge(fleet, peers[0], evil)
    (evil / "more").write_text("ALL")
    future = forge(fleet, peers[0], evil, now=lambda: 4e9)
    # A true one, of another host and with its MAC, in the place of ours.
    theirs = fleet.directory(peers[1]) / "store" / "replicas" / other
    for path in theirs.rglob("*"):
        there = fleet.directory(peers[1]) / "store" / "replicas" / "h1" / path.relative_to(theirs)
        if path.is_file() and not there.exists():
            shutil.copy(path, there)
    with open(fleet.directory(peers[1]) / "store" / "replicas" / "h1" / "refs" / "base", "a") as refs:
        refs.write((theirs / "refs" / "base").read_text())
    shutil.rmtree(evil)
    run = recover(fleet)
    assert run.rc == 0, run.output
    result = run.results["h1"]
    states = {(one["peer"], one["id"]): one["state"] for one in result["candidates"]}
    assert states[peers[0], forged] == "unproved" and states[peers[0], future] == "refused"
    assert sorted(states.values()).count("unproved") == 2
    assert (fleet.directory("h1") / "data" / "name").read_text() == "I am h1\n" and not evil.exists()
    # Not by its name either, nor by what its id begins with.
    assert recover(fleet, checkpoint="base").results["h1"]["id"] == result["id"]
    assert "NotFound" in recover(fleet, checkpoint=forged[:12]).output
    # By its id it is brought, and holds what is not declared.
    run = recover(fleet, checkpoint=forged)
    assert run.rc == 2 and run.results["h1"]["error"] == "Refused" and not evil.exists()
    assert f"files {evil}" in run.results["h1"]["msg"]
    run = recover(fleet, checkpoint=forged, undeclared=True)
    assert run.rc == 0 and (evil / "sudoers").read_text() == "ALL"
    assert "only the id that you gave says" in run.output


@pytest.mark.long
def test_a_peer_cannot_pass_off_an_old_checkpoint_as_new(fleet: Fleet) -> None:
    first = replicate(fleet, copies=3).results["h1"]
    (fleet.directory("h1") / "data" / "name").write_text("second")
    second = replicate(fleet, copies=3).results["h1"]
    peer = second["copies"][0]["peer"]
    (listed,) = [one for one in candidates(fleet, peer) if one["id"] == first["id"]]
    turns(fleet, peer, "ft_recover", {"candidates": [{**listed, "created": made_up()["created"]}]})
    lose(fleet)
    result = recover(fleet).results["h1"]
    assert result["id"] == second["id"]
    assert (peer, "unproved") in [(one["peer"], one["state"]) for one in result["candidates"]]


@pytest.mark.long
def test_a_newest_that_one_peer_alone_has_is_said_and_where_it_keeps_it_the_one_before_is_taken(fleet: Fleet) -> None:
    first = replicate(fleet, copies=3).results["h1"]
    (fleet.directory("h1") / "data" / "name").write_text("second")
    second = replicate(fleet, copies=1).results["h1"]
    (peer,) = [one["peer"] for one in second["copies"]]
    lose(fleet)
    run = recover(fleet)
    assert run.results["h1"]["id"] == second["id"]
    lone = f"only {peer} has the newest checkpoint, {second['id'][:12]}"
    assert any(one.startswith(lone) for one in run.results["h1"]["left"])
    turns(fleet, peer, "ft_recover", {"candidates": candidates(fleet, peer), "path": "/nowhere", "bytes": 5})
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 0 and run.results["h1"]["id"] == first["id"] and run.results["h1"]["source"] != peer
    assert run.results["h1"]["left"][0].startswith(f"the newest checkpoint, {second['id'][:12]}, could not be brought")


def candidates(fleet: Fleet, peer: str) -> list[dict[str, Any]]:
    """What the peer says, with the MACs."""
    held = replicas.candidates(Store(str(fleet.directory(peer) / "store"), System()), "h1")
    found: list[dict[str, Any]] = held.report()["candidates"]
    return found


@pytest.mark.long
def test_a_copy_without_a_mac_is_taken_by_its_id_alone_and_with_a_warning(fleet: Fleet) -> None:
    """As those that 0.1.0 made."""
    made = replicate(fleet, copies=1, host="h1").results["h1"]
    for path in fleet.home.glob("*/store/replicas/h1/macs"):
        shutil.rmtree(path)
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 2 and run.results["h1"]["error"] == "NotFound" and made["id"] in run.results["h1"]["msg"]
    run = recover(fleet, checkpoint=made["id"])
    assert run.rc == 0, run.output
    assert "only the id that you gave says" in run.output
    assert (fleet.directory("h1") / "data" / "name").read_text() == "I am h1\n"


@pytest.mark.long
def test_the_key_is_made_once_kept_from_others_and_can_be_replaced(fleet: Fleet) -> None:
    first = replicate(fleet, copies=1)
    key = fleet.home / ".evenkeel-key"
    old = key.read_text()
    assert "is new" in first.output and key.stat().st_mode & 0o777 == 0o600 and len(old) == 65
    assert old.strip() not in first.output and "is new" not in replicate(fleet, copies=1).output
    # Others could have read it.
    key.chmod(0o644)
    run = recover(fleet)
    assert run.rc == 2 and "mode 0600" in run.results["h1"]["msg"]
    key.chmod(0o600)
    # A new one makes MACs, the old one is still known; then it is taken away, and what was protected since is known.
    key.write_text("f" * 64 + "\n" + old)
    lose(fleet)
    assert recover(fleet).rc == 0
    replicate(fleet, copies=1)
    key.write_text("f" * 64 + "\n")
    lose(fleet)
    assert recover(fleet).rc == 0
    # The variable goes before the file.
    fleet.hosts["h1"]["evenkeel_key"] = "another key, of enough characters"
    lose(fleet)
    run = recover(fleet)
    assert run.rc == 2 and "no MAC that was made with a key of evenkeel_key" in run.results["h1"]["msg"]
    assert "another key" not in run.output


@pytest.mark.long
def test_what_a_host_says_of_itself_decides_neither_the_key_nor_what_is_declared(fleet: Fleet) -> None:
    """It was taken over before it was lost, and what it said is in the cache of facts; a peer is with it."""
    peer = replicate(fleet, copies=1).results["h1"]["copies"][0]["peer"]
    spare = next(host for host in fleet.hosts if host not in ("h1", peer))
    evil = fleet.home / "evil"
    evil.mkdir()
    (evil / "sudoers").write_text("ALL")
    forged, key = forge(fleet, peer, evil), "k" * 32
    listed = next(one for one in candidates(fleet, peer) if one["id"] == forged)
    macs = fleet.directory(peer) / "store" / "replicas" / "h1" / "macs"
    (macs / forged).write_text(Keys([key], "").mac("h1", listed))
    shutil.rmtree(evil)
    lose(fleet)
    said = {"evenkeel_key": key, "evenkeel_resources": [{"files": {"paths": [str(evil)]}}]}
    fleet.hosts["h1"].update(mine="m" * 32)
    for facts in (said, {"evenkeel_resources": said["evenkeel_resources"]}, {"mine": key}):
        if "mine" in facts:
            fleet.hosts["h1"]["evenkeel_key"] = "{{ mine }}"
        turns(fleet, "h1", "setup", {"ansible_facts": facts})
        given = {"peers": "all", "store": "{{ evenkeel_store }}", "host": "h1"}
        recovery = {"evenkeel.fault_tolerance.ft_recover": given, "when": f"inventory_hostname == '{spare}'"}
        run = fleet.play([{"ansible.builtin.setup": {}}, recovery], f"h1,{spare}")
        assert not evil.exists() and run.results[spare]["error"] == "UsageError"
        assert ("'mine' is undefined" if "mine" in facts else "is a fact of h1") in run.results[spare]["msg"]


@pytest.mark.long
def test_a_second_controller_hears_that_its_new_key_is_not_the_one_of_the_copies(fleet: Fleet) -> None:
    """Or the inventory was moved, or cloned, without its key."""
    assert "another key" not in replicate(fleet, copies=1).output
    key = fleet.home / ".evenkeel-key"
    key.rename(fleet.home / ".evenkeel-key-of-the-first")
    (warning,) = replicate(fleet, copies=1).results["h1"]["warnings"]
    assert "is new" in warning and f"Copies on {copies(fleet)[0]} have MACs of another key" in warning
    assert "warnings" not in replicate(fleet, copies=1).results["h1"]


def test_the_source_notes_how_many_copies_of_its_log_there_are() -> None:
    class Noting:
        def phase(self, _host: Any, phase: str, **values: Any) -> dict[str, Any]:
            told.append((phase, values))
            return {}

    told: list[Any] = []
    carrier: Any = Noting()
    entries = [ft_replicate.Outcome("verified"), ft_replicate.Outcome("unreachable"), ft_replicate.Outcome("verified")]
    here: Any = None
    assert ft_replicate._noted(carrier, here, "a" * 64, entries) == ""
    assert told == [("noted", {"id": "a" * 64, "copies": 2})]


HELD = {"ids": ["a" * 64, "b" * 64], "id": "b" * 64, "state": "verified", "mac": "c" * 64, "place": "d" * 64}


@pytest.mark.parametrize(
    ("changed", "known", "state"),
    [
        ({}, True, "verified"),
        ({"mac": ""}, False, None),  # It has to keep the MAC.
        ({"state": "damaged"}, False, None),
        ({"id": "a" * 64}, False, None),  # It has looked at another copy.
        ({"ids": ["a" * 64], "id": "a" * 64}, True, None),  # It has looked at another copy, and lacks this one.
        ({"ids": [], "id": "", "bases": [{"id": "b" * 64}]}, False, None),  # Encrypted: it has looked at none.
        ({"ids": [], "id": "", "state": "", "bases": [{"id": "a" * 64}]}, True, None),
        ({"unreachable": True}, True, "verified"),
        ({"failed": True}, False, None),  # Without the name of the checkpoint. With it the peer may answer.
    ],
)
def test_a_peer_that_was_asked_too_early_is_asked_again_unless_it_told_all(
    changed: dict[str, Any], known: bool, state: str | None
) -> None:
    offered = {"id": "b" * 64, "mac": "c" * 64}
    unused: Any = None
    replication = ft_replicate.Replication(unused, "h1", unused, unused, offered, "", 1.0, "auto", unused)
    answer = replication._decides({**HELD, **changed})
    assert bool(answer) == known and answer.get("state") == state
    assert replication._decides({}) == {}
