# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service in a container: known by the engine's own record, and proved by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    ServiceFailed,
    Unhealthy,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health import probes as probing
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.container import (
    ContainerService,
    Definition,
    check,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import restart

from .conftest import SYSTEM

NAME = "ek-test-container"
IMAGE = "localhost/evenkeel-lab"
BEGAN = "2026-11-29T06:00:00.123456789Z"


class Engine:
    """A podman of a few lines. ``deaf``: its verbs do nothing. ``err``: what they say."""

    def __init__(self, **more: Any) -> None:
        self.told: dict[str, Any] = {
            "Id": "0123456789abcdef",
            "RestartCount": 2,
            "State": {"Running": True, "Status": "running", "StartedAt": BEGAN, "Health": {"Status": "healthy"}},
            "Config": {"StopTimeout": 25, "Labels": None},
            **more,
        }
        self.calls: list[tuple[str, ...]] = []
        self.waits: list[float] = []
        self.deaf, self.err, self.rc = False, "", 0

    def run(self, argv: Sequence[str], timeout: float) -> Completed:
        words = tuple(argv)
        if words[1] == "logs":
            return Completed(words, 0, "its last word\n", "")
        if words[1] == "container":
            text = json.dumps([self.told]) if self.told else ""
            return Completed(words, 0 if text else 125, text, "" if text else "Error: no such container web")
        self.calls.append(words)
        self.waits.append(timeout)
        if not self.deaf:
            state = self.told["State"]
            state["Running"], state["Status"] = words[1] != "stop", "running" if words[1] != "stop" else "exited"
            state["StartedAt"] = f"2026-11-29T07:00:{len(self.calls):02}Z"
        return Completed(words, self.rc, "", self.err)

    def system(self) -> Any:
        return replace(SYSTEM, run=self.run, sleep=lambda seconds: None)


WEB = ContainerService(Definition(name="web", engine="podman"))


def test_a_container_is_known_by_its_id_and_its_start() -> None:
    state = WEB.observe(Engine().system())
    assert (state.identity, state.restarts, state.text) == (f"0123456789ab:{BEGAN}", 2, "running (healthy)")
    assert state.active and state.started == 1795932000.0 and not state.can_reload


@pytest.mark.parametrize(
    ("health", "state"),
    [
        ({"Health": {"Status": "healthy"}}, "pass"),
        ({"Health": {"Status": "starting"}}, "fail"),
        ({"Health": {"Status": "unhealthy"}}, "fail"),
        ({"Healthcheck": {"Status": "unhealthy"}}, "fail"),  # as podman 3 names it
        ({"Healthcheck": {"Status": ""}}, "pass"),
        ({"Health": {"Status": "none"}}, "pass"),
        ({"Health": None}, "pass"),
        ({}, "pass"),
    ],
)
def test_a_container_that_checks_itself_passes_once_it_is_healthy(health: dict[str, Any], state: str) -> None:
    engine = Engine(State={"Running": True, "Status": "running", "StartedAt": BEGAN, **health})
    (probe,) = probing.check([{"service": {"container": {"name": "web", "engine": "podman"}}}])
    assert probe.measure(engine.system()).state == state


@pytest.mark.parametrize("word", ["Paused", "Restarting"])
def test_a_container_that_does_not_work_is_not_active(word: str) -> None:
    engine = Engine()
    engine.told["State"][word] = True
    assert not WEB.observe(engine.system()).active


def test_a_restart_is_proved_and_waits_as_long_as_the_container_may_take_to_stop() -> None:
    engine = Engine()
    before = WEB.observe(engine.system())
    after, killed = WEB.carry_out("restart", engine.system())
    assert after.identity != before.identity and not killed
    assert engine.calls == [("podman", "restart", "--", "web")] and engine.waits[0] > 25
    engine.err = (
        'level=warning msg="StopSignal SIGTERM failed to stop container web in 25 seconds, resorting to SIGKILL"'
    )
    assert WEB.carry_out("restart", engine.system())[1]
    assert not WEB.act("stop", engine.system()).active and WEB.act("start", engine.system()).active
    with pytest.raises(ServiceFailed, match="only its program could"):
        WEB.act("reload", engine.system())


@pytest.mark.parametrize(("signals", "killed"), [("15\n9\n", True), ("15\n", False), ("", False)])
def test_docker_tells_a_kill_among_its_events_alone(signals: str, killed: bool) -> None:
    engine = Engine()
    run, asked = engine.run, []

    def answer(argv: Sequence[str], timeout: float) -> Completed:
        if argv[1] != "events":
            return run(argv, timeout)
        asked.append(list(argv))
        return Completed(tuple(argv), 0, signals, "")

    docker = ContainerService(check({"name": "web", "engine": "docker"}))
    system = replace(engine.system(), run=answer)
    assert docker.carry_out("restart", system)[1] == killed
    assert "--filter=container=web" in asked[0] and any(word.startswith("--until=") for word in asked[0])
    assert WEB.carry_out("restart", system)[1] is False and len(asked) == 1


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_a_verb_without_effect_is_a_failure(verb: str) -> None:
    engine = Engine()
    engine.deaf = True
    with pytest.raises(ServiceFailed, match=f"podman {verb} -- web: ended well, but .* is running.*; its log: its"):
        WEB.act(verb, engine.system())


@pytest.mark.parametrize(
    "told", [{"State": []}, {"State": {"Running": True}, "Id": None, "Config": 1}, {"RestartCount": "x"}]
)
def test_an_answer_of_another_form_is_a_failure(told: dict[str, Any]) -> None:
    with pytest.raises(ServiceFailed, match="does not tell the state of container web"):
        WEB.observe(Engine(**told).system())


def test_a_container_that_systemd_runs_is_left_to_systemd(store: Store) -> None:
    engine = Engine(Config={"Labels": {"PODMAN_SYSTEMD_UNIT": "web.service"}})
    store = Store(store.root, engine.system())
    container = {"name": "web", "engine": "podman"}
    with pytest.raises(UsageError, match=r"is run by the unit web.service, .* give name: web.service"):
        restart(store, container=container, times=Times(0.0, 5.0, 0.1))
    with pytest.raises(UsageError, match="cannot be restarted warm"):
        restart(Store(store.root, Engine().system()), container=container, mode="warm", times=Times(0.0, 5.0, 0.1))
    engine.told = {}
    with pytest.raises(UsageError, match="there is no container web on this host"):
        restart(store, container=container, times=Times(0.0, 5.0, 0.1))


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "../x"])
def test_a_name_that_no_container_has_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="container"):
        check({"name": name, "engine": "podman"})
    with pytest.raises(UsageError, match="engine"):
        check({"name": "web", "engine": "lxc"})


def test_the_engine_is_looked_for_on_the_host_of_the_container(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """A controller, which checks the options of a probe, may have none."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    (probe,) = probing.check([{"service": {"container": {"name": "web"}}}])
    engine = Engine()
    measured = probe.measure(engine.system())
    assert measured.state == "unknown" and "this host has no podman and no docker" in measured.detail
    with pytest.raises(ServiceFailed, match="no podman and no docker"):
        restart(Store(store.root, engine.system()), container={"name": "web"}, times=Times(0.0, 5.0, 0.1))
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "docker" else None)
    assert probe.measure(engine.system()).state == "pass"
    assert ContainerService(check({"name": "web"})).carry_out("restart", engine.system())[0].active
    assert [call[:2] for call in engine.calls] == [("docker", "restart"), ("docker", "events")]


# -- a real engine


@pytest.fixture
def image() -> Iterator[str]:
    if os.geteuid() != 0 or not shutil.which("podman"):
        pytest.skip("needs root and podman")
    told = subprocess.run(["podman", "images", "--format={{.ID}}", IMAGE], capture_output=True, text=True, check=False)
    if not told.stdout.strip():
        pytest.skip("needs an image of the lab")
    yield told.stdout.split()[0]
    subprocess.run(["podman", "rm", "--force", "--time=0", NAME], capture_output=True, check=False)


def create(image: str, command: str, *options: str) -> None:
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
    argv = [
        "podman",
        "run",
        "--detach",
        f"--name={NAME}",
        *limits,
        "--entrypoint=/bin/sh",
        *options,
        image,
        "-c",
        command,
    ]
    subprocess.run(argv, check=True, capture_output=True)


def test_a_real_container_is_restarted(image: str, store: Store) -> None:
    create(image, "trap 'exit 0' TERM; while :; do sleep 0.1; done", "--stop-signal=TERM")
    result = restart(store, container={"name": NAME}, times=Times(1.0, 10.0, 0.2))
    assert result["before"]["identity"] != result["after"]["identity"] and result["health"]["state"] == "pass"
    assert not result.get("warnings") and result["proved"]


@pytest.mark.long
def test_a_real_container_that_has_to_be_killed_or_that_ends_is_told(image: str, store: Store) -> None:
    create(image, "trap '' TERM; while :; do sleep 1; done", "--stop-timeout=1", "--stop-signal=TERM")
    times = Times(0.0, 5.0, 0.2)
    assert "was killed" in restart(store, container={"name": NAME}, times=times)["warnings"][0]
    subprocess.run(["podman", "rm", "--force", "--time=0", NAME], capture_output=True, check=True)
    create(image, "sleep 4; echo why")
    with pytest.raises(Unhealthy, match="is not healthy: service .*: exited"):
        restart(store, container={"name": NAME}, times=Times(6.0, 15.0, 0.2))
