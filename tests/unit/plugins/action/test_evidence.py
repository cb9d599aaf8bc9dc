# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes that are measured from the controller, and from a peer, in real runs of Ansible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_prometheus import Fake, serving, vector

from .conftest import Fleet

OURS = "evenkeel.fault_tolerance."
SECRET = "tok-8841-secret"
NOWHERE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.fixture
def server() -> Iterator[Fake]:
    with serving() as fake:
        yield fake


def change(probes: list[Any], **options: Any) -> list[dict[str, Any]]:
    """Begin, change a file, settle."""
    begin = {"name": "change", "resources": "{{ evenkeel_resources }}", "confirm_within": "60s"}
    settle = {"generation": "{{ begun.generation }}", "probes": probes, "deadline": "0s", **options}
    return [
        {f"{OURS}ft_checkpoint": {**begin, "store": "{{ evenkeel_store }}"}, "register": "begun"},
        {"ansible.builtin.copy": {"dest": "{{ base }}/data/name", "content": "changed", "mode": "0600"}},
        {f"{OURS}ft_settle": {**settle, "store": "{{ evenkeel_store }}"}},
    ]


def kept(fleet: Fleet, host: str) -> bool:
    return (fleet.directory(host) / "data/name").read_text() == "changed"


def query(server: Fake, **options: Any) -> dict[str, Any]:
    return {"prometheus": {"url": server.url, "query": "up{instance='{{ inventory_hostname }}'}", "min": 1, **options}}


def test_a_change_stays_only_where_the_controller_sees_that_it_is_well(fleet: Fleet, server: Fake) -> None:
    server.answer = lambda query: vector(0) if "h2" in query else (500, "") if "h3" in query else vector(1)
    own = {"command": {"argv": ["true"]}}
    run = fleet.play(
        change([own, query(server, token=SECRET), query(server, min=9, token=SECRET, severity="warn")]), "all", "-vvv"
    )
    assert [kept(fleet, host) for host in ("h1", "h2", "h3", "h4")] == [True, False, False, True]
    results = run.results
    assert [results[host]["outcome"] for host in ("h1", "h2", "h3")] == ["confirmed", "rolled_back", "rolled_back"]
    seen = [(one["kind"], one["state"], one["source"]) for one in results["h1"]["health"]["probes"]]
    assert seen[:2] == [("command", "pass", "host"), ("prometheus", "pass", "controller")]
    assert results["h1"]["warnings"] == [
        "prometheus up{instance='h1'} from controller: fail, the value 1 is less than 9"
    ]
    assert "from controller: fail, the value 0 is less than 1; healthy again" in results["h2"]["msg"]
    assert "from controller: unknown, status 500" in results["h3"]["msg"]
    # A probe from outside was measured before the rollback, and says nothing of the time after it.
    assert [one["kind"] for one in results["h2"]["health_after"]["probes"]] == ["command"]
    assert server.headers["authorization"] == f"Bearer {SECRET}" and SECRET not in run.output


def test_it_must_pass_from_outside_for_the_whole_soak(fleet: Fleet, server: Fake) -> None:
    server.answer = lambda query: vector(0 if len(server.asked) == 3 else 1)
    run = fleet.play(change([query(server)], soak="3s", interval="1s"), "h1")
    assert not kept(fleet, "h1") and 4 <= len(server.asked) <= 6
    assert "from controller: fail, not for the whole soak; last: the value is 1" in run.results["h1"]["msg"]
    run = fleet.play(change([query(server)], soak="1s", interval="0.2s", deadline="20s"), "h1")
    assert run.rc == 0 and kept(fleet, "h1")


@pytest.mark.parametrize("options", [{"verdict": "roll_back"}, {"verdict": "extend"}, {"check": True}], ids=str)
def test_where_health_is_not_measured_nothing_is_asked_and_no_secret_leaves(
    fleet: Fleet, server: Fake, options: dict[str, Any]
) -> None:
    check = options.pop("check", False)
    tasks = change([query(server, token=SECRET)], **options)
    tasks[2]["check_mode"] = check
    run = fleet.play(tasks, "h1", "-vvv")
    assert run.results["h1"]["generation"] == 1
    assert server.asked == [] and SECRET not in run.output
    assert '"prometheus"' not in run.output, "the declaration was sent to the host"


@pytest.mark.long
def test_a_peer_looks_at_a_host_that_cannot_be_reached_from_where_users_are(fleet: Fleet) -> None:
    fleet.hosts["h2"].update(NOWHERE)
    # The peer is told by where it keeps its store: all hosts of this test are one machine.
    port = {"tcp": {"port": 1, "from": "peer"}}
    mark = {"command": {"argv": ["true"], "from": "peer"}}
    health = {f"{OURS}ft_health": {"probes": [mark], "group": ["all"], "store": "{{ evenkeel_store }}"}}
    run = fleet.play([health], "h1,h3,h4")
    sources = {host: run.results[host]["probes"][0]["source"] for host in ("h1", "h3", "h4")}
    # The next one of the group; h2 does not answer, and all others are of the same batch.
    assert sources == {"h1": "peer h3", "h3": "peer h4", "h4": "peer h1"}
    run = fleet.play(change([port], group=["h1", "h3"]), "h1")
    assert not kept(fleet, "h1") and "tcp 127.0.0.1:1 from peer h3: fail, no connection" in run.results["h1"]["msg"]
    run = fleet.play(change([mark], group=["h1", "h2"]), "h1")
    assert not kept(fleet, "h1") and "no peer has measured it: h2 is unreachable" in run.results["h1"]["msg"]
    run = fleet.play(change([mark], group=["h1"]), "h1")
    assert not kept(fleet, "h1") and "the group has no other host" in run.results["h1"]["msg"]


def test_an_address_of_the_place_that_measures_is_not_that_of_the_host(fleet: Fleet) -> None:
    fleet.hosts["h3"].update(NOWHERE)
    for url in ("http://localhost:80/", "http://127.0.0.7/", "http://[::1]/"):
        probe = {"http": {"url": url, "from": "controller"}}
        run = fleet.play([{f"{OURS}ft_health": {"probes": [probe]}}], "h3")
        assert "leads to that machine: write the address of the host" in run.results["h3"]["msg"]


def test_a_host_that_says_what_counts_as_evidence_is_refused(fleet: Fleet) -> None:
    touched = fleet.home / "touched"
    said = [{"command": {"argv": ["touch", str(touched)], "from": "controller"}}]
    fact = {"ansible.builtin.set_fact": {"evenkeel_probes": said, "cacheable": True}}
    run = fleet.play([fact, {f"{OURS}ft_health": {"probes": "{{ evenkeel_probes }}"}}], "h1")
    assert "evenkeel_probes is a fact of h1" in run.results["h1"]["msg"] and not touched.exists()
    fleet.hosts["h2"]["evenkeel_probes"] = said
    run = fleet.play([{f"{OURS}ft_health": {"probes": "{{ evenkeel_probes }}"}}], "h2")
    assert run.rc == 0 and touched.exists()


def test_the_guard_sees_hosts_from_outside_as_well(fleet: Fleet, server: Fake) -> None:
    server.answer = lambda query: vector(0) if "h4" in query else vector(1)
    compare = {"compare": {"url": server.url, "query": "q", "max_ratio": 2}}
    for host in fleet.hosts.values():
        host["evenkeel_probes"] = [query(server), compare, {"command": {"argv": ["true"], "from": "peer"}}]
    run = fleet.play([{f"{OURS}ft_guard": {"group": "all", "min_healthy": "1"}}], "h1,h2")
    assert run.results["h1"]["healthy"] == ["h1", "h2", "h3"], run.results["h1"]["proved"]
    assert run.results["h1"]["unhealthy"] == ["h4"]
    assert "from controller: fail, the value 0 is less than 1" in run.results["h1"]["proved"][3]


@pytest.mark.long
def test_a_restart_is_seen_from_outside_once_it_is_done(fleet: Fleet, server: Fake, tmp_path: Path) -> None:
    process = {"name": "app", "pidfile": "{{ base }}/pid", "argv": ["/bin/sleep", "60"]}
    restart = {"process": process, "probes": [query(server)], "deadline": "3s", "store": "{{ evenkeel_store }}"}
    stop = {"ansible.builtin.command": {"argv": ["sh", "-c", "kill $(cat {{ base }}/pid)"]}}
    run = fleet.play([{f"{OURS}ft_restart": restart}, stop], "h1")
    assert run.rc == 0 and len(server.asked) == 1
    server.answer = lambda query: vector(0)
    run = fleet.play([{f"{OURS}ft_restart": restart}], "h1")
    fleet.play([stop], "h1")
    result = run.results["h1"]
    assert run.rc == 2 and result["error"] == "Unhealthy" and result["done"]
    assert "app was restarted, but is not healthy as seen from outside: prometheus" in result["msg"]


@pytest.mark.long
def test_each_attempt_of_a_task_measures_anew(fleet: Fleet, server: Fake) -> None:
    server.answer = lambda query: vector(1 if len(server.asked) > 2 else 0)
    task = {f"{OURS}ft_health": {"probes": [query(server)]}, "register": "seen", "until": "seen is success"}
    run = fleet.play([{**task, "retries": 5, "delay": 0}], "h1")
    assert run.rc == 0 and len(server.asked) == 3


@pytest.mark.long
def test_a_changed_host_is_compared_with_those_that_the_play_has_not_come_to(fleet: Fleet, server: Fake) -> None:
    """Batch by batch: h1 is well, h2 is worse than h3 and h4; the last has nobody to be compared with."""
    server.answer = lambda query: vector(h1=1, h2=5, h3=1, h4=1)
    compare = {"compare": {"url": server.url, "query": "q", "max_ratio": 2}}
    begin, copy, settle = change([compare])
    run = fleet.play([begin, copy, {**settle, "ignore_errors": True}], "all", serial=1)
    assert [kept(fleet, host) for host in ("h1", "h2", "h3", "h4")] == [True, False, True, True]
    assert "fail, the value 5, with 1 on 2 unchanged hosts" in run.results["h2"]["msg"]
    assert run.results["h4"]["warnings"] == [
        "compare q from controller: unknown, not judged: 0 hosts of the group are unchanged, and min_samples is 1"
    ]
    server.answer = lambda query: (500, json.dumps({"error": "overloaded"}))
    (fleet.directory("h1") / "data/name").write_text("before")
    run = fleet.play(change([compare], unchanged=["h3"]), "h1")
    assert not kept(fleet, "h1") and "unknown, status 500: overloaded" in run.results["h1"]["msg"]
