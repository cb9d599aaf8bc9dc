# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restart is refused, proved, or reported with all that is known; the systemd here is a fake."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    ServiceFailed,
    Unhealthy,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import target
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import outage, process, running
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.systemd import SystemdService
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import restart

from .fake_systemd import Machine, Unit, machine

WEB = "web.service"


def act(
    host: Machine,
    mode: str = "cold",
    name: str | None = "web",
    definition: Any = None,
    probes: Any = (),
    soak: float = 0.0,
    deadline: float = 20.0,
    check_mode: bool = False,
) -> dict[str, Any]:
    store = Store(tempfile.mkdtemp(), host.system())
    times = Times(soak, deadline, 1.0)
    options: dict[str, Any] = {
        "name": name,
        "process": definition,
        "mode": mode,
        "probes": list(probes),
        "times": times,
    }
    return restart(store, check_mode=check_mode, **options)


def each_round(host: Machine, change: Callable[[Unit], None]) -> None:
    """Do this to the unit whenever somebody sleeps."""
    sleep = host.sleep

    def both(seconds: float) -> None:
        sleep(seconds)
        change(host.units[WEB])

    host.sleep = both  # type: ignore[method-assign]


def test_a_cold_restart_is_proved_by_another_identity() -> None:
    host = machine(Unit(WEB))
    result = act(host)
    after = host.units[WEB].identity
    assert host.acts() == ["systemctl restart -- web.service"]
    assert (result["before"]["identity"], result["after"]["identity"]) == ("id0", after) and after != "id0"
    assert result["proved"] == [f"web.service: id0 became {after}"]
    assert result["planned"] == result["done"] == [{"resource": "services", "action": "restart", "target": WEB}]
    assert result["changed"] and result["left"] == [] and result["mode"] == "cold"
    assert result["health"]["state"] == "pass"


def test_a_warm_restart_keeps_the_identity() -> None:
    host = machine(Unit(WEB))
    result = act(host, "warm")
    assert host.acts() == ["systemctl reload -- web.service"]
    assert result["before"]["identity"] == result["after"]["identity"] == "id0"
    assert "kept its processes' identity id0" in result["proved"][0]


@pytest.mark.parametrize("mode", ["warm", "cold"])
def test_what_does_not_run_is_started(mode: str) -> None:
    host = machine(Unit(WEB, active="failed", identity="", can_reload=False))
    result = act(host, mode)
    assert host.acts() == ["systemctl start -- web.service"]
    assert result["proved"] == [f"web.service: not running became {host.units[WEB].identity}"]


@pytest.mark.parametrize(("stays", "words"), [(True, "stayed open"), (False, "did not stay open")])
def test_a_unit_that_cannot_reload_hands_its_sockets_over_in_a_warm_restart(stays: bool, words: str) -> None:
    socket = Unit("web.socket", sub="running", identity="s0", triggers=(WEB,), can_reload=False)
    host = machine(socket, Unit(WEB, can_reload=False, triggered_by=("web.socket", "web.path")))
    if not stays:
        each_round(host, lambda _unit: setattr(host.units["web.socket"], "identity", "s1"))
    result = act(host, "warm")
    assert host.acts() == ["systemctl restart -- web.service"]
    assert result["planned"][0]["action"] == "restart" and result["mode"] == "warm"
    assert any(f"web.socket {words}" in said for said in (result["proved"] if stays else result["warnings"]))


def test_a_socket_with_a_process_for_each_connection_does_not_keep_a_service_warm() -> None:
    socket = Unit("web.socket", sub="listening", triggers=(WEB,), can_reload=False)
    host = machine(socket, Unit(WEB, can_reload=False, triggered_by=("web.socket",)))
    with pytest.raises(UsageError, match="no way to reload, and no socket that stays open"):
        act(host, "warm")
    assert host.acts() == []


def listening() -> Machine:
    """A socket with a service that runs by it, and one that does not run."""
    socket = Unit("web.socket", sub="listening", triggers=(WEB, "idle.service"), can_reload=False)
    return machine(socket, Unit(WEB), Unit("idle.service", active="inactive", sub="dead", identity=""))


def test_the_services_of_a_socket_restart_with_it_and_that_is_said() -> None:
    host = listening()
    steps = [{"resource": "services", "action": "restart", "target": name} for name in ("web.socket", WEB)]
    assert act(host, name="web.socket", check_mode=True)["planned"] == steps and host.acts() == []
    result = act(host, name="web.socket")
    assert result["planned"] == result["done"] == steps
    assert host.acts() == [
        "systemctl stop -- web.service",
        "systemctl restart -- web.socket",
        "systemctl start -- web.service",
    ]


def test_what_stops_with_a_service_has_to_run_again() -> None:
    """As the instance does of the umbrella of PostgreSQL on Debian, which counts as active all the time."""
    umbrella = Unit("db.service", sub="exited", takes=("db@15.service", "off.service", "job.service"))
    part, job = Unit("db@15.service", log="no space"), Unit("job.service", more={"Type": "oneshot"})
    host = machine(umbrella, part, Unit("off.service", active="inactive", sub="dead"), job)
    planned = act(host, name="db", check_mode=True)["planned"]
    assert [step["target"] for step in planned] == ["db.service", "db@15.service"]
    make = host.act

    def restarts(words: tuple[str, ...], verb: str, unit: Unit, queued: bool) -> Any:
        part.active, part.sub = ("failed", "failed") if verb == "restart" else (part.active, part.sub)
        return make(words, verb, unit, queued)

    assert act(host, name="db")["done"] == planned
    assert act(host, "warm", name="db")["planned"] == [
        {"resource": "services", "action": "reload", "target": "db.service"}
    ]
    host.act = restarts  # type: ignore[method-assign]
    with pytest.raises(
        ServiceFailed, match=r"do not run again: db@15.service is failed \(failed\); its log: no space"
    ) as no:
        act(host, name="db")
    assert no.value.result["left"] == ["db@15.service"]


@pytest.mark.parametrize(
    ("how", "words"),
    [("fails", "Job for web.service failed"), ("deaf", "inactive (dead)"), ("both", "Job for web.serv")],
)
def test_a_service_that_does_not_run_again_after_its_socket_is_a_failure(how: str, words: str) -> None:
    host = listening()
    setattr(host.units[WEB], "deaf" if how == "deaf" else "fails", ("start",))
    if how == "both":
        host.units["web.socket"].fails = ("restart",)
    with pytest.raises(ServiceFailed) as failed:
        act(host, name="web.socket")
    said = f"web.service, which was stopped with it, does not run again: {words}"
    assert said in failed.value.message and "systemctl start -- web.service" in host.acts()


def test_a_socket_whose_service_runs_this_login_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    host = listening()
    monkeypatch.setattr(outage, "ends_us", lambda unit: unit.id == WEB)
    with pytest.raises(UsageError, match="this process belongs to web.service, which stops with web.socket"):
        act(host, name="web.socket")
    assert host.acts() == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"name": None}, "give either name"),
        ({"definition": {"name": "p", "pidfile": "/p", "argv": ["/p"]}}, "give either name"),
        ({"name": None, "definition": {"name": "p"}}, "process: pidfile is missing"),
        ({"name": "other"}, "there is no unit other.service on this host. Nothing was touched"),
        ({"mode": "warm"}, "web.service cannot be restarted warm: it has no way to reload. .* Nothing was touched"),
        ({"probes": [{"tcp": {}}]}, "probes, item 1: tcp: port is missing"),
        ({"soak": 21.0}, "a soak of 21 s cannot pass within a deadline of 20 s; nothing was touched"),
    ],
)
def test_what_is_refused_touches_nothing(more: dict[str, Any], words: str) -> None:
    host = machine(Unit(WEB, can_reload=False))
    with pytest.raises(UsageError, match=words):
        act(host, **more)
    assert host.acts() == [] and not [call for call in host.calls if "reset-failed" in call]


def test_check_mode_says_what_would_be_done_and_does_nothing() -> None:
    host = machine(Unit(WEB))
    result = act(host, check_mode=True)
    assert host.acts() == [] and [call.split()[1] for call in host.calls] == ["show"]
    assert result["changed"] and result["planned"] == act(host)["planned"]
    assert result["done"] == result["proved"] == result["left"] == []
    with pytest.raises(UsageError, match="warm"):
        act(machine(Unit(WEB, can_reload=False)), "warm", check_mode=True)


def test_a_restart_that_fails_tells_all_that_is_known() -> None:
    host = machine(Unit(WEB, fails=("restart",), log="unknown directive\n"))
    with pytest.raises(ServiceFailed, match="systemctl restart web.service: .*; its log: unknown directive") as error:
        act(host)
    result = error.value.result
    assert not result["changed"] and result["left"] == [WEB] and result["planned"][0]["action"] == "restart"
    assert result["before"]["identity"] == result["after"]["identity"] == "id0"


def test_what_is_up_and_not_healthy_is_a_failure_at_the_deadline() -> None:
    host = machine(Unit(WEB, log="no database\n"), Unit("db.service", active="failed", sub="failed"))
    began = host.clock
    with pytest.raises(Unhealthy) as error:
        act(host, probes=[{"service": {"name": "db"}}])
    assert error.value.message == (
        "web.service was restarted (cold), but is not healthy: service db.service: failed (failed); "
        "its log: no database"
    )
    assert 20.0 <= host.clock - began < 22.0
    assert error.value.result["left"] == [WEB] and error.value.result["done"] and error.value.result["changed"]
    assert error.value.result["health"]["state"] == "fail"


def test_a_crash_loop_ends_the_wait_with_the_words_of_the_log() -> None:
    host = machine(Unit(WEB, log="cannot bind\n"))

    def crash(unit: Unit) -> None:
        if host.clock > 1001.0:  # the restart itself went well
            unit.restarts += 1
            unit.identity = f"crash{unit.restarts}"

    each_round(host, crash)
    began = host.clock
    with pytest.raises(Unhealthy, match="crash loop, 4 restarts in .* s; its log: cannot bind"):
        act(host, soak=10.0, deadline=1000.0, probes=[{"service": {"name": WEB}}])
    assert host.clock - began < 6.0


def test_a_service_that_crashed_before_the_first_look_is_noticed() -> None:
    """Between the proof of the restart and the first round systemd tried it often, and gave up."""
    host = machine(Unit(WEB))
    run = host.run

    def gives_up(argv: Any, timeout: float) -> Any:
        if threading.current_thread() is not threading.main_thread():  # a probe looks: the proof is over
            host.units[WEB].active, host.units[WEB].restarts = "failed", 5
        return run(argv, timeout)

    host.run = gives_up  # type: ignore[method-assign]
    with pytest.raises(Unhealthy, match="crash loop, 5 restarts"):
        act(host, deadline=1000.0)
    assert host.clock < 1010.0


def test_a_restart_of_its_own_in_the_soak_is_not_healthy() -> None:
    host = machine(Unit(WEB))

    def once(unit: Unit) -> None:
        if host.clock > 1008.0 and unit.restarts == 0:
            unit.restarts, unit.identity = 1, "again"

    each_round(host, once)
    with pytest.raises(Unhealthy, match="it did not hold for the soak"):
        act(host, soak=10.0, deadline=12.0)
    assert act(machine(Unit(WEB)), soak=10.0, deadline=12.0)["health"]["soaked"] >= 10.0


def test_a_process_is_restarted_for_real(tmp_path: Path, store: Store) -> None:
    program = "import signal, time; signal.signal(signal.SIGHUP, lambda *a: None)\nwhile True: time.sleep(0.1)"
    made = {"name": "p", "pidfile": str(tmp_path / "pid"), "argv": [sys.executable, "-c", program]}
    definition = process.check(dict(made, reload_signal="HUP"))
    how: dict[str, Any] = {"process": definition, "times": Times(0.0, 5.0, 0.1)}
    try:
        started = restart(store, **how)
        assert started["planned"][0]["action"] == "start"
        warm = restart(store, mode="warm", **how)
        cold = restart(store, mode="cold", **how)
        assert started["after"]["identity"] == warm["after"]["identity"] == cold["before"]["identity"]
        assert cold["after"]["identity"] != cold["before"]["identity"]
        with pytest.raises(UsageError, match="cannot be restarted warm"):
            restart(store, mode="warm", **{**how, "process": made})
    finally:
        process.act("stop", definition, store.system)


@pytest.mark.parametrize(
    ("facts", "mode", "words"),
    [
        ({"enabled": "masked"}, "cold", "is masked"),
        ({"more": {"RefuseManualStart": "yes"}}, "cold", "RefuseManualStart="),
        ({"more": {"RefuseManualStop": "yes"}}, "cold", "RefuseManualStop="),
        ({"more": {"CanStop": "no"}}, "cold", "CanStop"),
        ({"more": {"Type": "oneshot"}}, "cold", "Type=oneshot"),
    ],
)
def test_a_unit_that_cannot_be_restarted_is_refused(facts: dict[str, Any], mode: str, words: str) -> None:
    host = machine(Unit(WEB, **facts))
    with pytest.raises(UsageError, match=f"{words}.*Nothing was touched"):
        act(host, mode)
    assert host.acts() == []
    if "Refuse" in words:
        assert act(host, "warm")["done"], "a reload is allowed"


@pytest.mark.parametrize(
    ("name", "words"), [("user.slice", "its stop ends all units in it"), ("dev-sda.device", "neither starts nor stops")]
)
def test_a_unit_that_stands_for_others_is_refused(name: str, words: str) -> None:
    host = machine(Unit(name))
    with pytest.raises(UsageError, match=f"{words}.*Nothing was touched"):
        act(host, name=name)
    assert host.acts() == []


def test_a_unit_that_systemd_could_not_load_is_refused() -> None:
    host = machine(Unit(WEB))
    found = target.target_of_service(SystemdService("web"), host.system())
    assert found.unit is not None and found.refusal("cold") == ""
    broken = replace(found, unit=found.unit._replace(load="bad-setting"))
    assert "systemd could not load web.service (bad-setting)" in broken.refusal("cold")


def test_a_oneshot_that_stays_active_is_restarted() -> None:
    assert act(machine(Unit(WEB, more={"Type": "oneshot", "RemainAfterExit": "yes"})))["done"]


def test_a_unit_that_is_just_starting_starts_anew() -> None:
    host = machine(Unit(WEB, active="activating", sub="start"))
    assert act(host)["planned"][0]["action"] == "restart"
    host = machine(Unit(WEB, active="activating", sub="auto-restart", identity=""))
    assert act(host)["planned"][0]["action"] == "start"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"active": "failed", "more": {"Result": "exit-code"}}, "count of its failures is reset"),
        ({"more": {"NeedDaemonReload": "yes"}}, "daemon-reload"),
    ],
)
def test_what_is_odd_about_a_unit_is_a_warning(facts: dict[str, Any], words: str) -> None:
    for check_mode in (True, False):
        assert words in act(machine(Unit(WEB, **facts)), check_mode=check_mode)["warnings"][0]
    assert "warnings" not in act(machine(Unit(WEB)))


def test_a_unit_whose_program_has_ended_counts_as_active_with_a_warning() -> None:
    host = machine(Unit(WEB))

    def ends(unit: Unit) -> None:
        unit.sub = "exited"

    each_round(host, ends)
    assert "its program has ended: it is active (exited)" in act(host)["warnings"][0]
    assert "warnings" not in act(host), "it was so before"


def test_a_unit_whose_main_process_goes_on_was_not_restarted() -> None:
    with subprocess.Popen(["sleep", "100"]) as process_of_unit:
        try:
            host = machine(Unit(WEB, more={"MainPID": str(process_of_unit.pid)}))
            with pytest.raises(ServiceFailed, match=f"its process {process_of_unit.pid} from before goes on"):
                act(host)
        finally:
            process_of_unit.kill()


def test_processes_that_a_stop_leaves_alone_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker that goes on answering with the old program, or the sessions of sshd."""
    with subprocess.Popen(["sleep", "100"]) as worker:
        try:
            monkeypatch.setattr(running, "processes", lambda units: {unit: [worker.pid] for unit in units})
            (said,) = act(machine(Unit(WEB, more={"KillMode": "process"})))["warnings"]
            assert "1 of its processes from before go on with what they had loaded, as its KillMode" in said
            assert said.endswith(f"sleep[{worker.pid}]")
        finally:
            worker.kill()
    assert "warnings" not in act(machine(Unit(WEB, more={"KillMode": "process"})))


@pytest.mark.parametrize("key", ["Conflicts", "ConflictedBy"])
@pytest.mark.parametrize("active", ["inactive", "active"])
def test_a_start_that_would_stop_another_unit_is_refused(key: str, active: str) -> None:
    """As that of iptables stops firewalld."""
    identity = "id0" if active == "active" else ""
    more = {key: "shutdown.target firewall.service idle.service"}
    wanted = Unit(WEB, active=active, identity=identity, more=more)
    host = machine(wanted, Unit("firewall.service"), Unit("idle.service", active="inactive", identity=""))
    with pytest.raises(UsageError, match=r"would stop firewall.service, which conflicts with it.*Nothing was touched"):
        act(host)
    assert host.acts() == []
    if active == "active":
        assert act(host, "warm")["done"], "a reload stops nothing"
    host.units["firewall.service"].active = "inactive"
    assert act(host)["done"]


def test_what_would_end_this_very_run_with_a_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a runner of jobs that requires docker.service, and restarts it."""
    host = machine(Unit(WEB, takes=("runner.service",)), Unit("runner.service"))
    monkeypatch.setattr(outage, "ends_us", lambda unit: unit.id == "runner.service")
    with pytest.raises(UsageError, match="this process belongs to runner.service, which stops with web.service"):
        act(host)
    assert host.acts() == [] and act(host, "warm")["done"]


def test_a_start_that_would_wait_for_a_job_of_others_is_refused() -> None:
    """The stop would be done at once, and the service be down until that job ends."""
    host = machine(Unit(WEB, more={"After": "slow.service other.service"}), Unit("slow.service", queued=True))
    with pytest.raises(UsageError, match=r"would wait for slow.service, which a job .*Nothing was touched"):
        act(host)
    assert host.acts() == [] and act(host, "warm")["done"]
    began = host.clock

    def ends(_unit: Unit) -> None:
        host.units["slow.service"].queued = host.clock < began + 3

    each_round(host, ends)
    assert act(host)["done"]


def test_what_restarts_with_a_service_has_to_run_for_the_soak() -> None:
    host = machine(Unit(WEB, takes=("part.service",)), Unit("part.service"))
    assert [one["target"] for one in act(host, soak=3.0)["health"]["probes"]] == [WEB, "part.service"]

    late = host.clock + 3

    def dies(_unit: Unit) -> None:
        part = host.units["part.service"]
        if host.clock > late:
            part.active, part.sub, part.identity = "failed", "failed", ""

    each_round(host, dies)
    with pytest.raises(Unhealthy, match="not healthy: service part.service: failed"):
        act(host, soak=5.0)


def test_a_stop_without_a_limit_has_minutes_in_a_restart() -> None:
    host = machine(Unit(WEB, more={"TimeoutStopUSec": "infinity"}))
    limits = []
    run = host.run

    def noting(argv: Any, timeout: float) -> Any:
        limits.append(timeout) if "restart" in argv else None
        return run(argv, timeout)

    host.run = noting  # type: ignore[method-assign]
    assert act(host)["done"] and limits[0] > 600


@pytest.mark.parametrize(("seconds", "killed"), [(100.0, True), (80.0, False)])
def test_a_unit_that_was_killed_because_it_did_not_stop_is_told(seconds: float, killed: bool) -> None:
    host = machine(Unit(WEB))
    host.said = "web.service: State 'stop-sigterm' timed out. Killing.\n"
    run = host.run

    def slow(argv: Any, timeout: float) -> Any:
        host.clock += seconds if "restart" in argv else 0.0
        return run(argv, timeout)

    host.run = slow  # type: ignore[method-assign]
    assert ("was killed" in str(act(host).get("warnings"))) == killed
    # Only systemd itself counts: the service can write the same words.
    assert all("journalctl _PID=1 UNIT=web.service " in call for call in host.calls if "--lines=200" in call)
    host.said = "web.service: Consumed 1s CPU time.\n"
    assert "warnings" not in act(host)


def test_a_reload_that_fails_tells_whether_the_service_goes_on() -> None:
    host = machine(Unit(WEB, fails=("reload",)))
    with pytest.raises(ServiceFailed) as error:
        act(host, "warm")
    assert error.value.message.endswith("web.service still runs, with the identity id0 from before")


def test_a_cold_restart_that_systemd_refuses_tells_that_the_service_goes_on() -> None:
    host = machine(Unit(WEB, fails=("restart",)))  # as where jobs of its dependents conflict
    with pytest.raises(ServiceFailed) as error:
        act(host)
    assert error.value.message.endswith("web.service still runs, with the identity id0 from before")
    assert not error.value.result["changed"] and error.value.result["left"] == [WEB]


@pytest.mark.parametrize(
    ("state", "identity", "words"),
    [
        ("deactivating (stop-sigterm)", "id0", ", and was not restarted yet"),
        # Its start took too long, and it does not stop either; or its program has ended at once, and systemd waits.
        ("deactivating (stop-sigterm)", "id1", ""),
        ("activating (auto-restart)", "id1", ""),
    ],
)
def test_only_a_unit_that_has_not_started_since_was_not_restarted_yet(state: str, identity: str, words: str) -> None:
    host = machine(Unit(WEB, fails=("restart",)))
    run = host.run

    def passing(argv: Any, timeout: float) -> Any:
        if "restart" in argv:
            unit, (active, sub) = host.units[WEB], state.rstrip(")").split(" (")
            unit.active, unit.sub, unit.identity = active, sub, identity
        return run(argv, timeout)

    host.run = passing  # type: ignore[method-assign]
    with pytest.raises(ServiceFailed) as error:
        act(host)
    assert error.value.message.endswith(f"it is {state} now{words}")
