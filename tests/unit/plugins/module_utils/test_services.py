# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The resource services: captured without noise, planned by what is, carried out to the end, verified."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    Damaged,
    RestoreFailed,
    ServiceFailed,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._files.step import Step
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.recovering import derive
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import access
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.kind import Restore
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.registry import KINDS
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources.services import Services
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import (
    cluster,
    links,
    outage,
    process,
    running,
    systemd,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.outage import Down
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.unit import LISTENING
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.manifest import Section
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher, Objects

from .fake_systemd import BOOT, Machine, Unit, machine

WEB, DB = "web.service", "db.service"
UNIT_FILE = "/etc/systemd/system/web.service"
PYTHON = "{ path=/usr/bin/python3 ; argv[]=/usr/bin/python3 /opt/web.py --port 80 ; ignore_errors=no ; pid=0 }"


@pytest.fixture(autouse=True)
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the links of the units are, instead of this machine's own."""
    for name in ("KEPT", "RUNTIME"):
        monkeypatch.setattr(links, name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setattr(links, "_SHIPPED", ())
    monkeypatch.setattr(links, "_LEVELS", [str(tmp_path / "rc3.d")])
    (tmp_path / "rc3.d").mkdir()
    return tmp_path / "kept"


def spec(*names: str) -> dict[str, Any]:
    return Services(machine().system()).check({"names": list(names)})


def captured(*units: Unit) -> list[str]:
    return Services().capture(spec(*[unit.name for unit in units]), Hasher(), machine(*units).system())


def old(*units: Unit) -> list[str]:
    """The lines as the version without links wrote them."""
    found = []
    for line in captured(*units):
        record = {key: value for key, value in json.loads(line[5:]).items() if key not in ("links", "limits")}
        found.append(f"unit {json.dumps(record, sort_keys=True)}")
    return found


def at(
    host: Machine, *changed: str, since: float = BOOT + 500.0, steps: Sequence[Step] = (), boot: bool = False
) -> Restore:
    affecting = [step.resource for step in steps if KINDS[step.resource].read_at_start]
    return Restore(host.system(), Objects("/nowhere"), changed, since, boot, steps, affecting)


def take_down(steps: Sequence[Step], here: Restore) -> Down:
    return outage.take_down(Services().will_stop(steps, here), here.system)


def plan(
    then: Sequence[str], host: Machine, *changed: str, since: float = BOOT + 500.0, put: Sequence[Step] = ()
) -> list[str]:
    steps = Services().plan(then, at(host, *changed, since=since, steps=put))
    return [f"{step.action} {step.target}" for step in steps]


def put_back(then: Sequence[str], host: Machine, *changed: str) -> list[str]:
    """Plan and apply; what is not as recorded afterwards."""
    here = at(host, *changed)
    Services().apply(Services().plan(then, here), here)
    return Services().verify(then, host.system())


@pytest.mark.parametrize("line", ["unit", "unit {", "unit []x", "machine {}", 'unit ["name"]', 'unit {"name": "*"}'])
def test_a_line_that_was_never_written_is_damage(line: str) -> None:
    """Of a doctored manifest, whose hash may be right."""
    with pytest.raises(Damaged, match="is refused.*nothing was changed"):
        Services().plan([line], at(machine()))


def test_unit_files_and_drop_ins_belong_to_a_unit() -> None:
    system = machine().system()
    assert Services(system).trees(spec("web-one")) == [
        "/etc/systemd/system.control/web-one.service.d",
        "/etc/systemd/system/service.d",
        "/etc/systemd/system/web-.service.d",
        "/etc/systemd/system/web-one.service",
        "/etc/systemd/system/web-one.service.d",
        "/run/systemd/system.control/web-one.service.d",
        "/run/systemd/system/service.d",
        "/run/systemd/system/web-.service.d",
        "/run/systemd/system/web-one.service.d",
    ]
    assert "/etc/systemd/system/web@.service.d" in Services(system).trees(spec("web@one"))
    process = {"name": "a", "pidfile": "/run/a", "argv": ["/bin/a"]}
    assert Services(system).trees(Services(system).check({"processes": [process]})) == []
    with pytest.raises(UsageError, match="names must be a list of units"):
        spec("../../passwd")


def test_the_script_of_a_unit_that_a_generator_made_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "GENERATED", (str(tmp_path / "generator"), str(tmp_path / "generator.late")))
    host = machine(Unit(WEB, more={"SourcePath": "/etc/init.d/web"}), Unit(DB))
    assert "/etc/init.d/web" not in Services(host.system()).trees(spec(WEB, DB)) and not host.calls
    (tmp_path / "generator.late").mkdir()
    (tmp_path / "generator.late" / WEB).touch()
    assert "/etc/init.d/web" in Services(host.system()).trees(spec(WEB, DB)) and len(host.calls) == 1


def test_systemd_is_asked_once_for_all_units_at_one_moment() -> None:
    host = machine(Unit(WEB), Unit(DB))
    lines = Services().capture(spec(WEB, DB), Hasher(), host.system())
    assert [call.split()[1] for call in host.calls] == ["show-environment", "show"]
    host.calls.clear()
    assert Services().verify(lines, host.system()) == []
    assert [call.split()[1] for call in host.calls].count("show") == 1


def test_properties_that_last_until_the_next_boot_belong_to_all_units() -> None:
    """Nobody but systemctl set-property writes there; below /run/systemd/system other programs do."""
    assert Services(machine().system()).trees({"names": None, "processes": []}) == [
        "/etc/systemd/system",
        "/etc/systemd/system.control",
        "/run/systemd/system.control",
        *(f"/run/systemd/system/{unit}.d" for unit in LISTENING),
    ]
    # A drop-in there can move sshd to another port.
    assert {"/run/systemd/system/ssh.service.d", "/run/systemd/system/ssh.socket.d"} < set(access.PATHS)


def test_a_drop_in_of_one_of_all_units_that_lasts_until_the_next_boot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs = (f"/run/systemd/system/{WEB}.d/{name}.conf" for name in ("override", "50-pacemaker"))
    then = all_of(Unit(WEB))
    monkeypatch.setattr(running, "is_newer", lambda path, than: path in (own, theirs) and than == BOOT + 500.0)
    host = machine(Unit(WEB, more={"DropInPaths": f"{theirs} {own}"}))
    (step,) = Services().plan(then, at(host))
    assert (step.action, step.target) == ("leave", WEB) and own in step.detail["note"] and theirs not in str(step)
    assert "until the next boot" not in str(Services().plan(then, at(host, own)))
    assert Services().plan(then, at(machine(Unit(WEB)))) == []


def test_a_unit_that_netplan_writes_at_each_reload_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "is_newer", lambda _path, _than: True)
    for name, is_named in (("netplan-ovs-cleanup.service", False), ("own.service", True)):
        host = machine(Unit(name, more={"FragmentPath": f"/run/systemd/system/{name}"}))
        assert ("until the next boot" in str(Services().plan(all_of(Unit(name)), at(host)))) == is_named


def test_equal_states_give_equal_lines_and_others_do_not() -> None:
    first = captured(Unit(WEB), Unit(DB))
    later = captured(Unit(DB, entered=900.0, restarts=4, identity="new"), Unit(WEB, sub="exited", log="x"))
    assert first == later
    assert captured(Unit(WEB, active="inactive")) != captured(Unit(WEB))
    assert captured(Unit(WEB, enabled="disabled")) != captured(Unit(WEB))
    assert captured(Unit(WEB, file=False, enabled="")) != captured(Unit(WEB, enabled="static"))


def test_a_unit_on_its_way_is_captured_as_what_it_becomes() -> None:
    host = machine(Unit(WEB, active="activating", sub="start"))
    sleep = host.sleep

    def ready(seconds: float) -> None:
        sleep(seconds)
        host.units[WEB].active = "active"

    host.sleep = ready  # type: ignore[method-assign]
    assert Services().capture(spec("web"), Hasher(), host.system()) == captured(Unit(WEB))


def test_nothing_is_planned_where_nothing_changed() -> None:
    units = [Unit(WEB), Unit(DB, enabled="static", active="failed"), Unit("x.service", file=False, active="inactive")]
    assert plan(captured(*units), machine(*units)) == []


@pytest.mark.parametrize(
    ("unit", "changed", "expected"),
    [
        (Unit(WEB, entered=499.0), ["/etc/web.conf"], ["reload web.service"]),
        # Started after the checkpoint: it may hold more of the change than a reload undoes.
        (Unit(WEB, entered=501.0), ["/etc/web.conf"], ["restart web.service"]),
        (Unit(WEB, entered=0.0), ["/etc/web.conf"], ["restart web.service"]),
        (Unit(WEB, entered=499.0, can_reload=False), ["/etc/web.conf"], ["restart web.service"]),
        (Unit(WEB, entered=501.0), [], []),
        # What a reload does not read anew.
        (
            Unit(WEB, entered=499.0, more={"FragmentPath": UNIT_FILE}),
            [UNIT_FILE],
            ["restart web.service"],
        ),
        (
            Unit(WEB, entered=499.0, more={"EnvironmentFiles": "/etc/default/web (ignore_errors=yes)"}),
            ["/etc/default/web"],
            ["restart web.service"],
        ),
        (
            Unit(WEB, entered=499.0, more={"ExecStart": PYTHON}),
            ["/opt/web.py"],
            ["restart web.service"],
        ),
        (Unit(WEB, entered=501.0), [UNIT_FILE + ".d/x.conf"], ["restart web.service"]),
        (
            Unit(WEB, entered=501.0),
            ["/etc/systemd/system.control/web.service.d/50-MemoryMax.conf"],
            ["restart web.service"],
        ),
        (Unit(WEB, active="failed"), [], ["start web.service"]),
        (Unit(WEB, active="inactive"), ["/etc/web.conf"], ["start web.service"]),
        (Unit(WEB, enabled="disabled"), [], ["enable web.service"]),
        (Unit(WEB, enabled="masked"), [], ["unmask web.service", "enable web.service"]),
        # The change removed it. Its file is back when the plan is carried out.
        (
            Unit(WEB, file=False, enabled="", active="inactive"),
            [UNIT_FILE],
            ["enable web.service", "start web.service"],
        ),
    ],
)
def test_an_enabled_and_active_unit_is_put_back(unit: Unit, changed: list[str], expected: list[str]) -> None:
    again = ["daemon-reload systemd"] if changed else []
    assert plan(old(Unit(WEB)), machine(unit), *changed) == again + expected


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (Unit(WEB, enabled="disabled", active="inactive"), Unit(WEB), ["disable web.service", "stop web.service"]),
        (Unit(WEB, enabled="static", active="inactive"), Unit(WEB, enabled="static"), ["stop web.service"]),
        (
            Unit(WEB, enabled="disabled", active="inactive"),
            Unit(WEB, enabled="disabled", active="activating", sub="auto-restart"),
            ["stop web.service"],
        ),
        (Unit(WEB, enabled="static"), Unit(WEB, enabled="masked"), ["unmask web.service"]),
        (
            Unit(WEB, enabled="disabled", active="inactive"),
            Unit(WEB, enabled="masked", active="inactive"),
            ["unmask web.service", "disable web.service"],
        ),
        (Unit(WEB, enabled="masked", active="inactive"), Unit(WEB), ["mask web.service", "stop web.service"]),
        # It did not exist: the change made it.
        (
            Unit(WEB, file=False, enabled="", active="inactive"),
            Unit(WEB),
            ["disable web.service", "stop web.service"],
        ),
        (Unit(WEB, file=False, enabled="", active="inactive"), Unit(WEB, enabled="static", active="inactive"), []),
        (
            Unit(WEB, file=False, enabled="", active="inactive"),
            Unit(WEB, enabled="masked", active="inactive"),
            ["unmask web.service"],
        ),
    ],
)
def test_other_states_are_put_back_too(then: Unit, now: Unit, expected: list[str]) -> None:
    assert sorted(plan(old(then), machine(now))) == sorted(expected)


def test_a_plan_carried_out_makes_it_as_recorded_and_the_next_plan_empty() -> None:
    then = old(Unit(WEB), Unit(DB, enabled="disabled", active="inactive"))
    host = machine(Unit(WEB, enabled="masked", active="failed"), Unit(DB))
    assert len(Services().verify(then, host.system())) == 4
    assert put_back(then, host) == []
    assert plan(then, host) == []
    web = [call for call in host.acts() if call.endswith(WEB)]
    assert [call.split(" -- ")[0].split()[-1] for call in web] == ["unmask", "enable", "start"]
    db = [call for call in host.acts() if call.endswith(DB)]
    assert sorted(call.split(" -- ")[0].split()[-1] for call in db) == ["disable", "stop"]


def test_a_unit_whose_file_is_gone_by_now_needs_no_disabling() -> None:
    then = captured(Unit(WEB, file=False, enabled="", active="inactive", identity=""))
    host = machine(Unit(WEB))
    steps = Services().plan(then, at(host, UNIT_FILE, since=0.0))
    host.units[WEB].file, host.units[WEB].enabled = False, ""  # the files are put back first
    Services().apply(steps, at(host))
    assert Services().verify(then, host.system()) == []


def test_units_are_read_anew_before_anything_is_started() -> None:
    host = machine(Unit(WEB, active="failed"), Unit(DB, entered=900.0))
    assert put_back(captured(Unit(WEB), Unit(DB)), host, UNIT_FILE) == []
    assert host.acts() == [
        "systemctl daemon-reload",
        "systemctl restart -- db.service",
        "systemctl start -- web.service",
    ]


def test_a_reload_that_fails_becomes_a_restart_and_is_reported_as_one() -> None:
    host = machine(Unit(WEB, fails=("reload",)))
    steps = Services().plan(captured(Unit(WEB)), at(host, "/etc/web.conf", since=BOOT + 500.0))
    _again, done = Services().apply(steps, at(host))
    assert (done.action, done.target) == ("restart", WEB) and "Job for web.service failed" in done.why
    assert host.units[WEB].identity != "id0"


def test_all_are_tried_and_left_says_what_failed() -> None:
    host = machine(Unit(DB, fails=("restart",)), Unit("mid.service", fails=("reload", "restart")), Unit(WEB))
    for unit in host.units.values():
        unit.entered = 400.0 if unit.name != DB else 900.0
    then = captured(Unit(DB), Unit("mid.service"), Unit(WEB))
    steps = Services().plan(then, at(host, "/etc/x", since=BOOT + 500.0))
    with pytest.raises(RestoreFailed) as error:
        Services().apply(steps, at(host))
    assert sorted(one.split(":")[0] for one in error.value.result["left"]) == [DB, "mid.service"]
    _again, done = error.value.result["done"]
    assert (done["action"], done["target"]) == ("reload", WEB)
    assert "db.service: systemctl restart db.service: Job for db.service failed" in error.value.message


def test_a_failure_to_read_units_anew_does_not_keep_the_rest_from_being_started() -> None:
    host = machine(Unit(WEB, active="inactive"))
    steps = Services().plan(captured(Unit(WEB)), at(host, UNIT_FILE, since=0.0))
    run = host.run

    def broken(argv: Sequence[str], timeout: float) -> Any:
        done = run(argv, timeout)
        return type(done)(done.argv, 1, "", "no") if "daemon-reload" in argv else done

    host.run = broken  # type: ignore[method-assign]
    with pytest.raises(RestoreFailed, match="systemd: systemctl daemon-reload: no"):
        Services().apply(steps, at(host))
    assert host.units[WEB].active == "active"


def test_early_at_boot_jobs_are_queued_and_links_set_at_once() -> None:
    host = machine(Unit(WEB, entered=400.0, enabled="disabled"), Unit(DB, active="inactive", identity=""))
    system = host.system()
    early = Restore(system, Objects("/nowhere"), ["/etc/x"], BOOT + 500.0, boot=True)
    steps = Services().plan(old(Unit(WEB), Unit(DB)), early)
    Services().apply(steps, early)
    assert sorted(host.acts()) == [
        "systemctl --no-block reload-or-restart -- web.service",
        "systemctl --no-block start -- db.service",
        "systemctl --quiet enable -- web.service",
        "systemctl daemon-reload",
    ]
    assert host.units[DB].active == "inactive" and host.clock < 1001.0


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Unit(WEB, active="failed", sub="failed"), "web.service is failed (failed), and was active"),
        (Unit(WEB, enabled="disabled"), "web.service is disabled, and was enabled"),
        (Unit(WEB, file=False, enabled=""), "web.service is not there, and was enabled"),
    ],
)
def test_verify_says_what_is_not_as_it_was(now: Unit, expected: str) -> None:
    assert Services().verify(captured(Unit(WEB)), machine(now).system()) == [expected]
    assert Services().verify(captured(Unit(WEB)), machine(Unit(WEB)).system()) == []


def test_processes_are_captured_put_back_and_verified(tmp_path: Path) -> None:
    made = {"name": "p", "pidfile": str(tmp_path / "pid"), "argv": ["/bin/sleep", "600"]}
    declared = Services(machine().system()).check({"processes": [made]})
    real = replace(machine().system(), now=time.time, monotonic=time.monotonic, sleep=time.sleep)
    down = Services().capture(declared, Hasher(), real)

    def here(*changed: str) -> Restore:
        return Restore(real, Objects("/nowhere"), changed)

    try:
        up = [down[0].replace('"active": false', '"active": true')]
        assert Services().verify(up, real) == ["p is not running, and was running"]
        Services().apply(Services().plan(up, here()), here())
        assert Services().capture(declared, Hasher(), real) == up and Services().verify(up, real) == []
        assert [step.action for step in Services().plan(up, here("/x"))] == ["restart"]
        assert "p is running" in Services().verify(down, real)[0]
    finally:
        Services().apply(Services().plan(down, here()), here())
    assert Services().verify(down, real) == []


def test_a_process_that_cannot_be_seen_is_said_and_hinders_no_other_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine(Unit(WEB, active="inactive"))
    made = {"name": "p", "pidfile": str(tmp_path / "pid"), "argv": ["/bin/sleep", "600"]}
    declared = Services(host.system()).check({"names": ["web"], "processes": [made]})
    then = [
        line.replace('"active": false', '"active": true')
        for line in Services().capture(declared, Hasher(), host.system())
    ]

    def observe(*_words: object) -> None:
        raise ServiceFailed("it holds us up")

    monkeypatch.setattr(process, "observe", observe)
    down = outage.foresee([], [process.check(made)], (), host.system())
    assert (down.processes, down.left) == ([], ["p: it holds us up"])
    Services().apply(Services().plan(then, at(host, since=0.0)), at(host))
    assert host.units[WEB].active == "active" and Services().verify(then, host.system()) == ["p: it holds us up"]


def test_a_process_that_cannot_be_started_does_not_keep_the_others_down(tmp_path: Path) -> None:
    host = machine(Unit(WEB, active="inactive"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    made = {"name": "p", "pidfile": str(blocked / "pid"), "argv": ["/bin/sleep", "600"]}
    declared = Services(host.system()).check({"names": ["web"], "processes": [made]})
    then = [
        line.replace('"active": false', '"active": true')
        for line in Services().capture(declared, Hasher(), host.system())
    ]
    steps = Services().plan(then, at(host, since=0.0))
    with pytest.raises(RestoreFailed, match="^services are not as they were: p: "):
        Services().apply(list(reversed(steps)), at(host))
    assert host.units[WEB].active == "active"


def test_a_systemd_that_does_not_answer_is_no_state() -> None:
    host = machine(Unit(WEB))
    then = captured(Unit(WEB))
    host.broken = "no bus"
    calls: list[Callable[[], Any]] = [
        lambda: Services().capture(spec("web"), Hasher(), host.system()),
        lambda: Services().plan(then, at(host, since=0.0)),
        lambda: Services().verify(then, host.system()),
    ]
    for call in calls:
        with pytest.raises(ServiceFailed, match="no bus"):
            call()


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"processes": []}, "at least one unit"),
        ({"except": ["web*"]}, "is a pattern"),
        ({"names": ["web"], "except": ["db"]}, "except is for all units"),
        ({"names": []}, "at least one unit"),
        ({"names": [["web"]]}, "names must be a text, not"),
        ({"names": [""]}, "names must be a list of units"),
        ({"units": ["web"]}, "unknown key 'units'"),
        ({"processes": {"name": "p"}}, "pidfile is missing"),
        ({"processes": [{"name": "p"}]}, "pidfile is missing"),
    ],
)
def test_a_bad_declaration_is_named(declared: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Services(machine().system()).check(declared)


def test_a_unit_named_twice_is_one() -> None:
    assert spec("web", "web.service", "a")["names"] == ["a.service", "web.service"]


def test_what_did_not_run_gives_up_its_port_before_anything_starts() -> None:
    then = old(Unit("a.service"), Unit("b.service", enabled="disabled", active="inactive"))
    host = machine(Unit("a.service", enabled="disabled", active="inactive"), Unit("b.service"))
    assert plan(then, host) == ["disable b.service", "stop b.service", "enable a.service", "start a.service"]


def test_what_the_change_enabled_is_not_left_in_the_queue_of_the_boot() -> None:
    then = old(Unit(WEB, enabled="disabled", active="inactive"))
    assert plan(then, machine(Unit(WEB, active="inactive", queued=True))) == ["disable web.service", "stop web.service"]


def test_a_failure_that_came_with_the_change_is_forgotten_and_an_older_one_is_not() -> None:
    down = Unit(WEB, enabled="disabled", active="inactive")
    failed = Unit(WEB, enabled="disabled", active="failed")
    host = machine(failed)
    assert plan(captured(failed), host) == []
    assert plan(captured(down), host) == ["reset-failed web.service"]
    assert put_back(captured(down), host) == [] and host.units[WEB].active == "inactive"


def test_a_mask_until_the_next_boot_goes_too() -> None:
    host = machine(Unit(WEB, enabled="masked-runtime", active="inactive"))
    assert put_back(old(Unit(WEB)), host) == []
    assert host.acts()[0] == "systemctl --quiet --runtime unmask -- web.service"


# -- links, names, and what a unit permits


def wants(etc: Path, target: str = "multi-user.target", unit: str = WEB) -> Path:
    (etc / f"{target}.wants").mkdir(exist_ok=True)
    path = etc / f"{target}.wants" / unit
    path.symlink_to(f"/lib/systemd/system/{unit}")
    return path


def test_the_set_of_links_is_put_back_and_then_units_are_read_anew(etc: Path) -> None:
    path = wants(etc)
    host = machine(Unit(WEB))
    then = Services().capture(spec("web"), Hasher(), host.system())
    path.unlink()
    other = wants(etc, "graphical.target")
    (etc / "www.service").symlink_to("/lib/systemd/system/web.service")
    assert plan(then, host) == [
        f"unlink {other}",
        f"unlink {etc / 'www.service'}",
        f"link {path}",
        "daemon-reload systemd",
    ]
    assert len(Services().verify(then, host.system())) == 3
    assert put_back(then, host) == [] and plan(then, host) == []
    assert path.is_symlink() and not other.parent.exists() and not (etc / "www.service").is_symlink()
    # And the way forth again.
    assert Services().capture(spec("web"), Hasher(), host.system()) == then


def test_a_link_that_cannot_be_made_does_not_keep_the_rest_back(etc: Path) -> None:
    path = wants(etc)
    host = machine(Unit(WEB))
    then = Services().capture(spec("web"), Hasher(), host.system())
    path.unlink()
    path.mkdir()
    host.units[WEB].active = "inactive"
    with pytest.raises(RestoreFailed, match=f"{path}: .*is no link any more"):
        put_back(then, host)
    assert host.units[WEB].active == "active"


def test_a_unit_is_declared_by_its_own_name_whatever_alias_was_written() -> None:
    system = machine(Unit("ssh.service", aliases=("sshd.service",))).system()
    assert Services(system).check({"names": ["sshd", "ssh"]})["names"] == ["ssh.service"]
    (line,) = Services().capture({"names": ["sshd.service"], "processes": []}, Hasher(), system)
    assert '"name": "ssh.service"' in line


@pytest.mark.parametrize(("name", "words"), [("ek@*", "a pattern"), ("ek?", "a pattern"), ("ek@", "a template")])
def test_what_is_no_unit_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"services: '{re.escape(name)}' is {words}"):
        spec(name)


def test_what_was_recorded_by_an_alias_is_enabled_by_its_own_name() -> None:
    recorded = old(Unit("sshd.service"))
    host = machine(Unit("ssh.service", enabled="disabled", aliases=("sshd.service",)))
    assert plan(recorded, host) == ["enable ssh.service"]
    assert put_back(recorded, host) == []


def test_whatever_is_put_back_concerns_what_runs() -> None:
    then = captured(Unit(WEB))
    quick, slow = Unit(WEB, entered=400.0), Unit(WEB, entered=400.0, can_reload=False)
    for kind in ("packages", "sysctl", "subvolumes"):
        put = [Step(kind, "set", "x")]
        assert plan(then, machine(quick), put=put) == ["daemon-reload systemd", "reload web.service"]
        assert plan(then, machine(slow), put=put) == ["daemon-reload systemd", "restart web.service"]
    # These are read by no service as it starts.
    for step in (Step("firewall", "replace", "ruleset"), Step("users", "attributes", "/home/ops")):
        assert plan(then, machine(slow), put=[step]) == ["daemon-reload systemd"]
    assert plan(then, machine(Unit(WEB, more={"NeedDaemonReload": "yes"}))) == ["daemon-reload systemd"]


def test_a_program_that_came_after_the_start_is_started_also_when_nothing_is_put_back(tmp_path: Path) -> None:
    program = tmp_path / "web"
    program.touch()
    came = program.stat().st_ctime
    unit = Unit(WEB, more={"ExecStart": f"{{ path={program} ; argv[]={program} ; ignore_errors=no ; pid=0 }}"})
    host = machine(unit)
    then = captured(unit)
    unit.entered = came - 100 - BOOT
    assert plan(then, host, since=came - 50) == ["restart web.service"]
    # It was so at the checkpoint already.
    assert plan(then, host, since=came + 50) == []
    unit.entered = came + 1 - BOOT
    assert plan(then, host, since=came - 50) == []


def test_what_refuses_to_be_stopped_is_reloaded_or_left_and_said_at_the_checkpoint() -> None:
    more = {"RefuseManualStop": "yes", "FragmentPath": UNIT_FILE}
    unit = Unit(WEB, entered=501.0, more=more)
    # Of a unit that the change has started, a reload need not undo all; what is not its own is named, and not left.
    (*before, named) = Services().plan(captured(unit), at(machine(unit), "/etc/x"))
    assert [step.action for step in before] == ["daemon-reload", "reload"]
    assert named.detail["note"].endswith("refuses to be stopped by hand: restart it, or the host, when that suits")
    here = at(machine(unit), UNIT_FILE)
    with pytest.raises(RestoreFailed, match="refuses to be restarted by hand: restart the host") as partly:
        Services().apply(Services().plan(captured(unit), here), here)
    assert [one["action"] for one in partly.value.result["done"]] == ["daemon-reload", "reload"]
    assert Services().not_restorable({}, captured(unit)) == [
        "web.service: it refuses to be stopped by hand: it is reloaded, never restarted"
    ]
    unit = Unit(WEB, entered=501.0, more=more, can_reload=False)
    host = machine(unit)
    assert plan(captured(unit), host, UNIT_FILE) == ["daemon-reload systemd", "leave web.service"]
    with pytest.raises(RestoreFailed, match="refuses to be restarted by hand: restart the host"):
        put_back(captured(unit), host, UNIT_FILE)
    assert host.acts() == ["systemctl daemon-reload"]
    # That it was started since, as after a boot, is no proof that it holds anything of the change: nothing fails.
    here = at(machine(unit), "/etc/x")
    (_again, named) = Services().apply(Services().plan(captured(unit), here), here)
    assert named.detail["note"].startswith("web.service stays up: files changed, and it refuses to be stopped by hand")
    assert plan(captured(Unit(WEB, active="inactive")), host) == []
    assert plan(captured(unit), machine(Unit(WEB, active="inactive", more={"RefuseManualStart": "yes"}))) == []


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (Unit(WEB), ""),
        (Unit(WEB, enabled="static", active="inactive"), ""),
        (Unit(WEB, enabled="masked", active="inactive"), ""),
        (Unit(WEB, file=False, enabled="", active="inactive"), "there is no such unit on this host"),
        (Unit(WEB, enabled="masked"), "runs although it is masked"),
        (Unit(WEB, more={"RefuseManualStart": "yes"}), "refuses to be started by hand"),
        (Unit(WEB, more={"Transient": "yes"}), "is transient"),
        (Unit(WEB, enabled="generated", more={"SourcePath": "/etc/fstab"}), "from /etc/fstab"),
        (Unit(WEB, enabled="generated", more={"SourcePath": "/etc/init.d/web"}), "script of System V"),
    ],
)
def test_what_cannot_be_put_back_is_known_at_the_checkpoint(unit: Unit, words: str) -> None:
    said = Services().not_restorable({}, captured(unit))
    assert (words in said[0] and said[0].startswith("web.service: ")) if words else said == []
    assert Services().not_restorable({}, old(unit)) == []


def test_what_is_started_on_demand_may_run_but_not_with_what_the_change_brought() -> None:
    socket = Unit("web.socket", active="active")
    then = captured(Unit(WEB, active="inactive"))
    unit = Unit(WEB, triggered_by=("web.socket",))
    assert plan(then, machine(unit, socket)) == [] and Services().verify(then, machine(unit, socket).system()) == []
    assert plan(then, machine(unit, socket), "/etc/x") == ["daemon-reload systemd", "stop web.service"]
    socket.active = "inactive"
    assert plan(then, machine(unit, socket)) == ["stop web.service"]


def test_what_hands_a_socket_to_a_unit_is_up_before_it(etc: Path) -> None:
    units = [Unit(WEB, triggered_by=("web.socket", "web.timer")), Unit("web.socket"), Unit("web.timer")]
    host = machine(*units)
    then = Services().capture(spec("web"), Hasher(), host.system())
    for unit in host.units.values():
        unit.active = "inactive"
    assert plan(then, host) == ["start web.socket", "start web.service"]
    assert "web.socket, which starts web.service, is inactive" in Services().verify(then, host.system())[1]
    assert put_back(then, host) == []


def test_a_socket_goes_before_its_service_down_and_up() -> None:
    up = [Unit(WEB), Unit("web.socket")]
    down = [Unit(WEB, active="inactive"), Unit("web.socket", active="inactive")]
    assert plan(captured(*down), machine(*up)) == ["stop web.socket", "stop web.service"]
    assert plan(captured(*up), machine(*down)) == ["start web.socket", "start web.service"]


def test_a_timer_or_a_mount_is_not_started_anew_for_files_of_others() -> None:
    for name in ("web.timer", "web.mount", "web.socket"):
        unit = Unit(name, entered=501.0, can_reload=False, more={"FragmentPath": f"/etc/systemd/system/{name}"})
        assert plan(captured(unit), machine(unit), "/etc/x") == ["daemon-reload systemd"]
        own = plan(captured(unit), machine(unit), f"/etc/systemd/system/{name}")
        assert own == ["daemon-reload systemd", f"restart {name}"]


def test_a_login_is_reloaded_where_others_would_be_started_anew() -> None:
    unit = Unit("ssh.service", entered=501.0)
    assert plan(captured(unit), machine(unit), "/etc/ssh/sshd_config") == [
        "daemon-reload systemd",
        "reload ssh.service",
    ]


# -- units that a rollback never stops

PAIR = {"Type": "oneshot", "RemainAfterExit": "yes", "ExecStop": "{ path=/sbin/x ; argv[]=/sbin/x ; }"}


@pytest.mark.parametrize("reloads", [True, False])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("nftables.service", PAIR),
        ("networking.service", PAIR),
        ("blk-availability.service", PAIR),
        ("netfilter-persistent.service", PAIR),
        ("NetworkManager.service", {}),
        ("systemd-networkd.service", {}),
        ("dbus.service", {}),
        ("systemd-logind.service", {}),
        ("systemd-journald.service", {}),
        ("systemd-udevd.service", {}),
        ("compose.service", PAIR),
        (WEB, {}),
    ],
)
def test_what_the_host_cannot_do_without_is_never_down(name: str, more: dict[str, str], reloads: bool) -> None:
    file = f"/etc/systemd/system/{name}"
    takes = ("multi-user.target", "dbus.service") if name == WEB else ()
    unit = Unit(name, entered=501.0, can_reload=reloads, more={**more, "FragmentPath": file}, takes=takes)
    host = machine(unit)
    here = at(host, file)
    steps = Services().plan(captured(unit), here)
    assert [step.action for step in steps] == ["daemon-reload", *["reload"] * reloads, "leave"]
    assert Services().will_stop(steps, here) == Down()
    assert [step.action for step in Services().apply(steps, here)] == [step.action for step in steps]
    assert [act for act in host.acts() if "daemon-reload" not in act] == [f"systemctl reload -- {name}"] * reloads
    # A reload does not have it run its own file.
    assert steps[-1].detail["owed"] == [file] and steps[-1].detail["note"].startswith(f"{name} stays up: {file} is")
    if not reloads:
        # Once nothing more comes back there is nothing to do, however old the unit is.
        assert plan(captured(unit), host) == []


@pytest.mark.parametrize("name", ["systemd-journald.socket", "dbus.socket", "systemd-udevd-kernel.socket"])
def test_a_socket_of_what_all_programs_talk_to_is_never_down(name: str) -> None:
    file = f"/etc/systemd/system/{name}"
    service = Unit(name.replace("socket", "service"))
    unit = Unit(name, entered=501.0, can_reload=False, triggers=(service.name,), more={"FragmentPath": file})
    assert plan(captured(unit), machine(unit, service), file) == ["daemon-reload systemd", f"leave {name}"]
    down = replace(unit, active="inactive")
    assert plan(captured(unit), machine(down, service)) == [], "its start would stop the service"
    assert plan(captured(unit), machine(down, replace(service, active="inactive"))) == [f"start {name}"]


def test_what_is_left_up_is_named_by_what_is_its_own() -> None:
    unit = Unit("networking.service", can_reload=False, more=PAIR)
    assert plan(captured(unit), machine(unit), "/etc/motd") == ["daemon-reload systemd"]
    (_again, leave) = Services().plan(captured(unit), at(machine(unit), "/etc/motd", "/etc/networking.d/a"))
    assert (leave.action, leave.detail["owed"]) == ("leave", ["/etc/networking.d/a"])
    later = replace(unit, entered=501.0)
    (_again, leave) = Services().plan(captured(unit), at(machine(later), "/etc/motd"))
    assert leave.detail["owed"] == [] and "files changed" in leave.detail["note"]


def test_what_is_left_up_is_said_at_the_checkpoint_of_what_somebody_has_named() -> None:
    for unit, words in (
        (Unit("networking.service", can_reload=False, more=PAIR), "the host cannot do without it meanwhile"),
        (Unit("compose.service", can_reload=False, more=PAIR), "it has no process, and its stop takes down"),
    ):
        (said,) = Services().not_restorable({}, captured(unit))
        assert said.startswith(f"{unit.name}: it is not restarted when its files come back: {words}")
        assert Services().not_restorable({}, captured(replace(unit, can_reload=True))) == []
        assert Services().not_restorable({}, captured(replace(unit, active="inactive"))) == []
        assert Services().not_restorable({}, all_of(unit)) == [], "among all units nobody waits for this one"


def test_a_reload_that_fails_does_not_become_the_restart_of_what_is_never_down() -> None:
    host = machine(Unit("nftables.service", more=PAIR, fails=("reload",)))
    then = captured(host.units["nftables.service"])
    with pytest.raises(RestoreFailed, match="reload nftables.service: Job for nftables.service failed"):
        put_back(then, host, "/etc/nftables.conf")
    assert not [act for act in host.acts() if " restart " in act]


def test_an_ordinary_pair_of_commands_is_started_anew_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {key: value for key, value in PAIR.items() if key != "ExecStop"}
    unit = Unit(WEB, entered=501.0, can_reload=False, more=without)
    assert plan(captured(unit), machine(unit), "/etc/x") == ["daemon-reload systemd", f"restart {WEB}"]
    # A program that a script has started is one like any other.
    monkeypatch.setattr(running, "processes", lambda units, *_more: {one: [7] for one in units})
    monkeypatch.setattr(running, "replaced", lambda *_words: "")
    unit = Unit(WEB, entered=501.0, can_reload=False, more=PAIR)
    assert plan(captured(unit), machine(unit), "/etc/x") == ["daemon-reload systemd", f"restart {WEB}"]
    monkeypatch.undo()
    assert plan(captured(replace(unit, active="inactive")), machine(unit), "/etc/x")[1:] == [f"stop {WEB}"]


def test_work_that_was_done_before_the_checkpoint_is_not_done_once_more() -> None:
    file = "/etc/systemd/system/web.service"
    done = {"Type": "oneshot", "RemainAfterExit": "yes", "FragmentPath": file}
    unit = Unit(WEB, can_reload=False, more=done)
    (_again, leave) = Services().plan(captured(unit), at(machine(unit), file))
    assert (leave.action, leave.detail["owed"]) == ("leave", [file])
    assert "it ran to its end before the checkpoint" in leave.detail["note"]
    assert plan(all_of(unit), machine(unit), "/etc/x") == ["daemon-reload systemd"], "nothing of its own"
    (_again, leave) = Services().plan(captured(unit), at(machine(unit), "/etc/x"))
    assert (leave.action, leave.detail["owed"]) == ("leave", []) and "files changed" in leave.detail["note"]
    assert plan(captured(unit), machine(unit)) == []
    # The change has had it done once more.
    later = replace(unit, entered=501.0)
    assert plan(captured(unit), machine(later), file) == ["daemon-reload systemd", f"restart {WEB}"]


def test_what_came_and_would_take_the_network_or_disks_with_it_stays_up_and_is_named(tmp_path: Path) -> None:
    unit = Unit("blk-availability.service", more=PAIR)
    then = captured(replace(unit, active="inactive"))
    (_again, leave) = Services().plan(then, at(machine(unit), "/etc/x"))
    assert leave.action == "leave" and "it was not active" in leave.detail["note"]
    assert "restart the host when that suits" in leave.detail["note"]
    assert put_back(then, machine(unit), "/etc/x") == [] and plan(then, machine(unit)) == []
    # The same where all units are recorded, and its file goes.
    gone = replace(unit, more={**PAIR, "FragmentPath": str(tmp_path / unit.name)})
    then = all_of(Unit(WEB))
    (_again, leave) = Services().plan(then, at(machine(Unit(WEB), gone), str(tmp_path / unit.name)))
    assert (leave.action, leave.target) == ("leave", unit.name)
    assert Services().verify(then, machine(Unit(WEB), gone).system()) == []


def test_names_are_resolved_while_packages_come_back() -> None:
    unit = Unit("systemd-resolved.service", entered=501.0, can_reload=False)
    here = at(machine(unit), "/etc/x")
    steps = Services().plan(captured(unit), here)
    assert [step.action for step in steps] == ["daemon-reload", "restart"]
    assert Services().will_stop(steps, here) == Down()


# -- units whose record decides nothing


def test_what_was_just_starting_is_neither_stopped_nor_started() -> None:
    then = captured(Unit(WEB, active="activating", sub="auto-restart"))
    assert json.loads(then[0][5:])["active"] is False, "an older version reads it as before"
    assert Services().not_restorable({}, then) == [
        "web.service: it was activating (auto-restart): it is neither started nor stopped"
    ]
    assert Services().recorded_down(then) == set()
    for unit in (Unit(WEB), Unit(WEB, active="inactive"), Unit(WEB, active="activating", sub="auto-restart")):
        assert plan(then, machine(unit)) == []
        assert Services().verify(then, machine(unit).system()) == []
    assert plan(then, machine(Unit(WEB, entered=501.0)), "/etc/x") == ["daemon-reload systemd", "restart web.service"]


def telling(host: Machine, *messages: str) -> Machine:
    """A host whose journal has these messages of systemd, and a line that is none."""
    run = host.run
    found = "".join(f"{json.dumps({'MESSAGE_ID': one})}\n" for one in messages)

    def told(argv: Sequence[str], timeout: float) -> Completed:
        return Completed(tuple(argv), 0, f"x\n{found}", "") if argv[0] == "journalctl" else run(argv, timeout)

    host.run = told  # type: ignore[method-assign]
    return host


@pytest.mark.parametrize(
    ("trigger", "enabled", "result", "messages", "expected"),
    [
        ("job.timer", "static", "exit-code", "", []),
        ("job.timer", "enabled", "success", "", ["start job.service"]),
        ("job.timer", "enabled", "success", "SDE", []),
        ("job.socket", "enabled", "success", "SDE", []),
        ("job.socket", "disabled", "exit-code", "SDE", ["start job.service"]),
        ("job.socket", "enabled", "success", "SDXE", ["start job.service"]),
        ("job.socket", "enabled", "success", "SDXESDE", []),
        ("", "enabled", "success", "SDE", ["start job.service"]),
    ],
)
def test_what_has_done_its_work_is_not_started_again(
    trigger: str, enabled: str, result: str, messages: str, expected: list[str]
) -> None:
    names = {"S": systemd._STARTS[0], "D": systemd._STARTS[1], "X": systemd._STOPS, "E": systemd._ENDED}
    then = Unit("job.service", enabled=enabled, triggered_by=(trigger,) if trigger else (), more={"Result": result})
    more = [Unit(trigger)] if trigger else []
    now = replace(then, active="inactive", sub="dead")
    host = telling(machine(now, *more), *(names[one] for one in messages))
    assert plan(all_of(then, *more), host) == expected
    assert len(Services().verify(all_of(then, *more), host.system())) == len(expected)
    assert plan(captured(then), host) == ["start job.service"], "somebody has named it"
    up = machine(then, *more)
    assert Services().verify(all_of(then, *more), up.system()) == []
    assert not [call for call in up.calls if call.endswith("-- job.timer")], "of a unit that runs no more is asked"


@pytest.mark.parametrize("kind", ["timer", "path"])
@pytest.mark.parametrize("enabled", ["disabled", "masked"])
def test_a_service_that_the_change_disabled_and_stopped_is_started_again(kind: str, enabled: str) -> None:
    then, trigger = Unit("cups.service", triggered_by=(f"cups.{kind}",)), Unit(f"cups.{kind}")
    now = replace(then, active="inactive", enabled=enabled, more={"Result": "success"})
    host = telling(machine(now, trigger), systemd._STARTS[0], systemd._STOPS, systemd._ENDED)
    assert "start cups.service" in plan(all_of(then, trigger), host)


def test_a_service_of_a_path_that_crashed_is_started_again() -> None:
    then, trigger = Unit("acpid.service", enabled="static", triggered_by=("acpid.path",)), Unit("acpid.path")
    now = replace(then, active="failed", more={"Result": "exit-code"})
    assert plan(all_of(then, trigger), telling(machine(now, trigger))) == ["start acpid.service"]


@pytest.mark.parametrize("by", ["drop-in", "configuration"])
def test_what_a_cluster_starts_and_stops_is_left_alone(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CIB", str(tmp_path / "cib.xml"))
    if by == "configuration":
        (tmp_path / "cib.xml").write_text(
            '<primitive id="w" class="systemd" type="web"/><primitive class="ocf" type="db"/>'
        )
    here = {"DropInPaths": "/run/systemd/system/web.service.d/50-pacemaker.conf"} if by == "drop-in" else {}
    manager = [Unit("pacemaker.service", active="inactive")] if by == "configuration" else []

    def host(*units: Unit) -> Machine:
        return machine(*units, *manager)

    def taken(*units: Unit) -> list[str]:
        return Services().capture(spec(*(one.name for one in units)), Hasher(), host(*units).system())

    up, down = Unit(WEB, can_reload=False, entered=501.0, more=here), Unit(WEB, active="inactive", sub="dead")
    there = taken(replace(up, active="inactive"), Unit(DB))
    assert "web.service: a cluster manager starts and stops it" in Services().not_restorable({}, there)[0]
    for then, now in ((taken(up), down), (there[1:], up), (there[1:], down)):
        assert plan(then, host(now)) == [] and Services().verify(then, host(now).system()) == []
    (_again, leave) = Services().plan(taken(up), at(host(up), "/etc/web/x"))
    assert leave.action == "leave" and "a cluster manager starts and stops it" in leave.detail["note"]
    assert plan(there, host(down, Unit(DB, active="inactive"))) == ["start db.service"]
    (_again, leave) = Services().plan(taken(up), at(host(replace(up, entered=499.0)), "/etc/x"))
    assert leave.action == "leave" and "files changed" in leave.detail["note"]


def test_what_a_cluster_starts_and_stops_is_reloaded_and_never_restarted() -> None:
    here = {"DropInPaths": "/run/systemd/system/web.service.d/50-pacemaker.conf"}
    for entered in (499.0, 501.0):
        unit = Unit(WEB, entered=entered, more=here)
        named = [f"leave {WEB}"] * (entered > 500.0)  # A reload need not undo all of what the change has started.
        assert plan(captured(unit), machine(unit), "/etc/x") == ["daemon-reload systemd", f"reload {WEB}", *named]
        assert plan(captured(unit), machine(unit)) == []
    host = machine(Unit(WEB, more=here, fails=("reload",)))
    with pytest.raises(RestoreFailed, match=f"reload {WEB}: Job for {WEB} failed"):
        put_back(captured(Unit(WEB, more=here)), host, "/etc/x")
    assert not [act for act in host.acts() if " restart " in act]


def test_what_a_cluster_manager_left_behind_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CIB", str(tmp_path / "cib.xml"))
    (tmp_path / "cib.xml").write_text('<primitive class="systemd" type="web"/>')
    disabled = Unit("pacemaker.service", enabled="disabled", active="inactive")
    for gone in ([], [disabled], [replace(disabled, enabled="masked")]):
        assert plan(captured(Unit(WEB)), machine(Unit(WEB, active="inactive"), *gone)) == ["start web.service"]
    for used in (replace(disabled, active="active"), replace(disabled, enabled="enabled")):
        assert plan(captured(Unit(WEB)), machine(Unit(WEB, active="inactive"), used)) == []


# -- down while files come back


def test_what_is_started_anew_is_down_meanwhile_with_all_that_depends_on_it() -> None:
    units = [
        Unit(DB, entered=501.0, takes=("app.service", "idle.service"), triggered_by=("db.socket", "db.timer")),
        Unit("app.service"),
        Unit("idle.service", active="inactive"),
        Unit("db.socket"),
        Unit("db.timer", active="inactive"),
        Unit(WEB, entered=400.0),
        Unit("ssh.service", entered=501.0),
    ]
    host = machine(*units)
    here = at(host, "/etc/x")
    steps = Services().plan(captured(Unit(DB), Unit(WEB), Unit("ssh.service")), here)
    seen = Services().will_stop(steps, here)
    assert host.acts() == [] and seen.units == ["db.socket", "app.service", DB]
    down = take_down(steps, here)
    assert down == seen and json.loads(json.dumps(asdict(down))) == asdict(down)
    assert [name for name, unit in host.units.items() if unit.active == "active"] == [WEB, "ssh.service"]
    done, left = Services().start_stopped(down, here)
    assert [step.target for step in done] == ["db.socket", DB, "app.service"] and left == {}
    assert Services().start_stopped(down, here) == ([], {})


def test_a_job_that_stops_with_a_service_is_named_and_not_run_once_more() -> None:
    job = Unit("job.service", active="activating", sub="start", identity="", more={"Type": "oneshot"})
    host = machine(Unit(DB, entered=501.0, takes=(job.name,)), job)
    here = at(host, "/etc/x")
    down = take_down(Services().plan(captured(Unit(DB)), here), here)
    assert (down.units, down.ends) == ([DB], [job.name])
    assert down.left == ["job.service: it is stopped in the middle of its work, and not started again: see what it did"]
    older = replace(down, units=[DB, job.name])
    done, left = Services().start_stopped(older, here)
    assert [step.target for step in done] == [DB] and left == {}


def test_what_cannot_be_stopped_is_left_and_no_gate() -> None:
    host = machine(Unit(WEB, entered=501.0, deaf=("stop",)), Unit(DB, entered=501.0))
    here = at(host, "/etc/x")
    down = take_down(Services().plan(captured(Unit(WEB), Unit(DB)), here), here)
    assert down.left == ["web.service could not be stopped: active (running)"]
    assert host.units[DB].active == "inactive"


def test_a_stop_without_a_limit_holds_up_no_other() -> None:
    """One stop of all would wait for as long as the most patient of them allows."""
    host = machine(Unit(WEB, entered=501.0), Unit(DB, entered=501.0, more={"TimeoutStopUSec": "infinity"}))
    here = at(host, "/etc/x")
    take_down(Services().plan(captured(Unit(WEB), Unit(DB)), here), here)
    assert [act for act in host.acts() if " stop " in act] == [f"systemctl stop -- {one}" for one in (WEB, DB)]


def test_what_was_not_active_stays_down_and_what_does_not_start_is_left() -> None:
    units = [Unit(DB, entered=501.0, takes=("app.service",), fails=("start",)), Unit("app.service")]
    host = machine(*units)
    here = at(host, "/etc/x")
    down = take_down(Services().plan(captured(Unit(DB), Unit("app.service", active="inactive")), here), here)
    assert (down.units, down.ends) == ([DB], ["app.service"])
    done, left = Services().start_stopped(down, here)
    assert done == [] and "systemctl start db.service: Job for db.service failed" in left[DB]
    assert host.units["app.service"].active == "inactive"


def test_nothing_is_taken_down_early_at_boot() -> None:
    host = machine(Unit(WEB, entered=501.0))
    here = at(host, "/etc/x", boot=True)
    assert take_down(Services().plan(captured(Unit(WEB)), here), here) == Down()
    assert not [act for act in host.acts() if "stop" in act]


def test_what_stops_with_a_unit_and_ran_before_starts_again() -> None:
    names = ("app.service", "late.service", "idle.service")
    then = captured(Unit(DB, active="inactive"), *map(Unit, names[:2]), Unit(names[2], active="inactive"))
    takes = Unit("app.service", takes=("late.service",))
    now = [Unit(DB, takes=("app.service", "idle.service")), takes, Unit(names[1]), Unit(names[2], active="inactive")]
    assert plan(then, machine(*now)) == ["stop db.service", "start app.service", "start late.service"]
    assert put_back(then, machine(*now)) == []


@pytest.mark.parametrize(
    "unit",
    [
        Unit(WEB, more={"RefuseManualStart": "yes"}),
        Unit(WEB, more={"Type": "oneshot"}),
        Unit(WEB, enabled="static", triggered_by=("web.timer",)),
    ],
)
def test_what_stops_with_a_unit_is_started_only_where_it_may_be(unit: Unit) -> None:
    timer = Unit("web.timer")
    then = all_of(Unit(DB, active="inactive"), unit, timer)
    assert plan(then, machine(Unit(DB, takes=(WEB,)), unit, timer)) == ["stop db.service"]
    assert plan(then, machine(Unit(DB, takes=(WEB,)), Unit(WEB), timer)) == ["stop db.service", "start web.service"]


# -- all units


def all_of(*units: Unit) -> list[str]:
    system = machine(*units).system()
    return Services().capture(Services(system).check({}), Hasher(), system)


def recorded_names(lines: Sequence[str]) -> list[str]:
    return [json.loads(line[5:])["name"] for line in lines if line.startswith("unit ")]


def test_all_units_are_those_that_the_host_runs_by_itself() -> None:
    kept = [
        Unit("db.service", enabled="disabled", active="inactive"),
        Unit("journal.service", enabled="static"),
        Unit("masked.service", enabled="masked", active="inactive"),
        Unit("pg@15.service", enabled="enabled-runtime"),
        Unit("pod.service", enabled="generated", active="inactive", more={"SourcePath": "/etc/containers/systemd/pod"}),
        Unit("run-backup.timer"),
        Unit("script.service", enabled="generated", more={"SourcePath": "/etc/init.d/script"}),
        Unit("sshd@inside.service"),
        Unit("tidy.timer"),
        Unit("web.service"),
    ]
    passed = [
        Unit("asked.service", enabled="static", more={"BusName": "org.asked"}),
        Unit("build.service", enabled="static", more={"Type": "oneshot"}),
        Unit("evenkeel-deadman.service"),
        Unit("getty@tty1.service"),
        Unit("idle.service", enabled="static", active="inactive"),
        Unit("made.service", enabled="generated"),
        Unit("disk.service", enabled="generated", more={"SourcePath": "/etc/crypttab"}),
        Unit("off.service", enabled="generated", active="inactive", more={"SourcePath": "/etc/init.d/off"}),
        Unit("run-r1.service", enabled="transient", more={"Transient": "yes"}),
        Unit("ssh@1-2.service", enabled="static"),
        Unit("template@.service", active="inactive"),
        Unit("user@0.service", enabled="static"),
    ]
    lines = all_of(*kept, *passed)
    assert recorded_names(lines) == [unit.name for unit in kept]
    system = machine(*kept, *passed).system()
    but = Services().capture(Services(system).check({"except": ["web", "tidy.timer"]}), Hasher(), system)
    assert recorded_names(but) == [unit.name for unit in kept[:-2]]


@pytest.mark.parametrize(
    ("more", "changed", "expected"),
    [
        ({}, ["/etc/motd"], []),
        ({}, ["/etc/web/web.conf"], ["reload web.service"]),
        ({}, ["/etc/web.d/one"], ["reload web.service"]),
        ({}, ["/etc/web-data/x", "/opt/web/x"], []),
        (
            {"ExecStart": "{ path=/usr/sbin/webd ; argv[]=/usr/sbin/webd ; }"},
            ["/etc/webd.conf"],
            ["reload web.service"],
        ),
        ({"StateChangeTimestampMonotonic": "600000000"}, ["/etc/motd"], ["reload web.service"]),
        ({"StateChangeTimestampMonotonic": "400000000"}, ["/etc/motd"], []),
    ],
)
def test_one_of_all_is_concerned_by_its_own_files_alone(
    more: dict[str, str], changed: list[str], expected: list[str]
) -> None:
    unit = Unit(WEB, more=more)
    steps = plan(all_of(unit), machine(unit), *changed)
    assert [step for step in steps if "daemon-reload" not in step] == expected
    # A unit that somebody has named is concerned by all that comes back.
    assert "reload web.service" in plan(captured(unit), machine(unit), *changed)


def test_what_was_started_with_the_change_is_started_anew() -> None:
    then, now = Unit(WEB), Unit(WEB, entered=600.0, more={"StateChangeTimestampMonotonic": "600000000"})
    assert "restart web.service" in plan(all_of(then), machine(now), "/etc/motd")


@pytest.mark.parametrize("set_by", [-86400.0, 86400.0])
def test_a_clock_that_the_change_has_set_dates_no_start(set_by: float) -> None:
    """``started`` of a service is a date of the clock as it is now, and that of the checkpoint is not."""
    touched = {"StateChangeTimestampMonotonic": "600000000"}
    then, again = all_of(Unit(WEB), Unit(DB)), Unit(DB, entered=600.0, more=touched)
    here = at(machine(Unit(WEB), again), "/etc/motd", since=BOOT + 500.0 - set_by)
    steps = Services().plan(then, here._replace(armed=BOOT + 500.0))
    assert [f"{step.action} {step.target}" for step in steps] == ["daemon-reload systemd", "restart db.service"]


def test_one_of_all_that_was_masked_or_stopped_comes_back() -> None:
    then = all_of(Unit(WEB), Unit(DB, enabled="disabled", active="inactive"))
    host = machine(Unit(WEB, enabled="masked", active="inactive"), Unit(DB))
    assert plan(then, host) == ["stop db.service", "start web.service"]
    assert Services().verify(then, host.system()) == [
        "db.service is active (running), and was not active",
        "db.service is enabled, and was disabled",
        "web.service is inactive (running), and was active",
        "web.service is masked, and was enabled",
    ]


def test_a_unit_that_came_with_the_change_ends_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "new.service"
    file.touch()
    then = all_of(Unit(WEB))
    new = Unit("new.service", entered=501.0, more={"FragmentPath": str(file)})
    steps = Services().plan(then, at(machine(Unit(WEB), new), str(file)))
    assert [(step.action, step.target) for step in steps if step.target == new.name] == [("stop", new.name)]
    older = [line.replace(', "running": true', "") for line in then]
    assert older != then and Services().verify(older, machine(Unit(WEB), new).system()) == []
    assert plan(older, machine(Unit(WEB), new)) == [], "an older record passed over units that ran"
    file.unlink()
    assert Services().verify(then, machine(Unit(WEB), new).system()) == ["new.service runs, and came with the change"]
    assert put_back(then, machine(Unit(WEB), new)) == []
    # Of units that are named one by one nothing else is looked at.
    assert plan(captured(Unit(WEB)), machine(Unit(WEB), new)) == []


def shipped(name: str, enabled: str = "static", active: str = "active", **more: str) -> Unit:
    """A unit whose file stays whatever a change does."""
    return Unit(name, enabled=enabled, active=active, entered=600.0, more={"FragmentPath": "/etc/passwd", **more})


@pytest.mark.parametrize(
    "unit",
    [
        shipped("wg-quick@wg0.service", "enabled"),
        shipped("app@1.service"),
        shipped("script.service", "generated", SourcePath="/etc/init.d/../passwd"),
    ],
)
def test_what_a_change_has_started_is_stopped_also_where_its_file_stays(unit: Unit) -> None:
    then = all_of(Unit(WEB), replace(unit, active="inactive", enabled=unit.enabled.replace("enabled", "static")))
    assert recorded_names(then) == [WEB]
    host = machine(Unit(WEB), unit)
    assert Services().verify(then, host.system()) == [f"{unit.name} runs, and came with the change"]
    assert plan(then, host) == [f"stop {unit.name}"] and put_back(then, host) == []


def test_a_static_unit_that_others_may_have_started_stays_and_is_named() -> None:
    """As rpc-statd.service, which a mount of NFS starts."""
    unit = shipped("statd.service", ExecStart="{ path=/usr/sbin/statd ; argv[]=/usr/sbin/statd ; }")
    then, host = all_of(Unit(WEB)), machine(Unit(WEB), unit)
    assert plan(then, host) == [] == Services().verify(then, host.system())
    (_again, leave) = Services().plan(then, at(host, "/etc/x"))
    assert leave.action == "leave" and leave.detail["note"] == (
        "statd.service stays up: it did not run at the checkpoint, and others may have started it on demand: "
        "stop it where nothing needs it"
    )
    # It runs the program of the change.
    assert "stop statd.service" in plan(then, host, "/usr/sbin/statd")
    lost = replace(unit, more={"FragmentPath": f"{ETC}statd.service"})
    assert "stop statd.service" in plan(then, machine(Unit(WEB), lost))


ETC = "/etc/systemd/system/"
DATA = Unit("srv-data.mount", enabled="static", more={"FragmentPath": f"{ETC}srv-data.mount"})


def test_mounts_that_an_administrator_has_written_are_part_of_all_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.lexists", lambda _path: True)
    others = [
        Unit("tmp.mount", enabled="static", more={"FragmentPath": "/usr/lib/systemd/system/tmp.mount"}),
        Unit("home.mount", enabled="generated", more={"FragmentPath": "/run/systemd/generator/home.mount"}),
        Unit("snap-core-1.mount", more={"FragmentPath": f"{ETC}snap-core-1.mount"}),
        Unit("run-user-0.mount", file=False),
        Unit("late.target", more={"FragmentPath": f"{ETC}late.target"}),
    ]
    then = all_of(DATA, Unit(WEB), *others)
    assert recorded_names(then) == [DATA.name, WEB]
    down = replace(DATA, active="inactive", sub="dead")
    assert plan(then, machine(down, Unit(WEB))) == [f"start {DATA.name}"]
    assert put_back(then, machine(replace(down), Unit(WEB))) == []
    # It came with the change.
    assert f"stop {DATA.name}" in plan(all_of(Unit(WEB)), machine(DATA, Unit(WEB)), f"{ETC}{DATA.name}")
    # What is mounted may be in use.
    mounted = replace(DATA, can_reload=False, entered=600.0)
    assert f"leave {DATA.name}" in plan(then, machine(mounted, Unit(WEB)), f"{ETC}{DATA.name}")
    assert f"reload {DATA.name}" in plan(then, machine(DATA, Unit(WEB)), f"{ETC}{DATA.name}")
    # The disks of another host are others.
    carried, host = Services().carried(then), machine(DATA, Unit(WEB))
    assert recorded_names(carried) == [WEB]
    assert plan(carried, host, f"{ETC}{DATA.name}") == ["daemon-reload systemd"]
    monkeypatch.setattr("os.path.lexists", lambda _path: False)
    assert Services().verify(carried, host.system()) == []


def test_a_mount_that_its_automount_let_go_is_not_made_again() -> None:
    auto = Unit("srv-data.automount", more={"FragmentPath": f"{ETC}srv-data.automount"})
    data = replace(DATA, triggered_by=(auto.name,))
    then, host = all_of(data, auto), machine(replace(data, active="inactive"), auto)
    assert plan(then, host) == [] == Services().verify(then, host.system())
    assert plan(all_of(replace(data, active="inactive"), auto), machine(data, auto)) == []


def test_another_host_may_run_programs_of_its_own() -> None:
    then, host = all_of(Unit(WEB)), machine(Unit(WEB), shipped("agent.service", "enabled"))
    assert plan(then, host) == ["stop agent.service"]
    section = Section("services", {"names": None, "processes": []}, then)
    carried = derive.derive([section], [section], derive.Choices()).sections[0].lines
    assert recorded_names(carried) == [WEB] and plan(carried, host) == []


def test_an_instance_goes_with_its_template(tmp_path: Path) -> None:
    file = tmp_path / "app@.service"
    file.touch()
    app = Unit("app@1.service", enabled="static", entered=600.0, more={"FragmentPath": str(file)})
    then = [line.replace(', "running": true', "") for line in all_of(Unit(WEB))]
    assert plan(then, machine(Unit(WEB), app)) == []
    assert "stop app@1.service" in plan(then, machine(Unit(WEB), app), str(file))


def test_an_instance_that_crashes_again_and_again_is_seen() -> None:
    """An instance has no unit file of its own, so that only the units that run tell of it."""
    app = Unit("app@1.service", enabled="static", active="activating", sub="auto-restart")
    then, now = all_of(Unit(WEB), app), machine(Unit(WEB), replace(app, active="active", sub="running"))
    assert recorded_names(then) == [app.name, WEB]
    assert plan(then, now) == [] == Services().verify(then, now.system())
    # It came with the change.
    then, now = all_of(Unit(WEB)), machine(Unit(WEB), app)
    assert Services().verify(then, now.system()) == ["app@1.service runs, and came with the change"]
    assert plan(then, now) == ["stop app@1.service"]
    now.units[app.name] = replace(app, active="deactivating", sub="stop-sigterm")
    ending = replace(now.system(), sleep=lambda _seconds: setattr(now.unit(app.name), "active", "inactive"))
    assert Services().verify(then, ending) == []


@pytest.mark.parametrize(
    "unit",
    [
        shipped("asked@3-127.0.0.1:80-127.0.0.1:9.service"),
        shipped("asked@3-77-1000.service"),
        replace(shipped("asked.service"), triggered_by=("asked.socket",)),
    ],
)
def test_what_others_start_on_demand_may_run_without_a_record(unit: Unit) -> None:
    others = [Unit(WEB), Unit("asked.socket")]
    then = all_of(*others)
    host = machine(*others, unit)
    assert plan(then, host) == [] == Services().verify(then, host.system())


def test_what_the_record_passed_over_under_another_unit_file_goes_on() -> None:
    then = all_of(Unit(WEB))
    older = replace(shipped("job.service", "enabled"), entered=100.0)
    assert plan(then, machine(Unit(WEB), older), "/etc/passwd") == ["daemon-reload systemd"]
    assert plan(then, machine(Unit(WEB), replace(older, entered=600.0)), "/etc/passwd")[1:] == ["stop job.service"]


def test_what_a_generator_made_of_a_file_goes_and_comes_with_the_file() -> None:
    made = {"SourcePath": "/etc/containers/systemd/pod.container", "FragmentPath": "/etc/passwd"}
    pod = Unit("pod.service", enabled="generated", can_reload=False, more=made)
    assert plan(all_of(Unit(WEB)), machine(Unit(WEB), pod), made["SourcePath"])[-1] == "stop pod.service"
    then = all_of(Unit(WEB), pod)
    assert plan(then, machine(Unit(WEB), pod), made["SourcePath"])[-1] == "restart pod.service"
    assert plan(then, machine(Unit(WEB)), made["SourcePath"])[-1] == "start pod.service"


def test_an_older_record_of_all_units_tells_nothing_about_what_generators_make(tmp_path: Path) -> None:
    made = {"SourcePath": "/etc/containers/systemd/pod.container", "FragmentPath": str(tmp_path / "pod.service")}
    pod = Unit("pod.service", enabled="generated", more=made)
    mark, *units = all_of(Unit(WEB))
    assert Services().verify([mark, *units], machine(Unit(WEB), pod).system()) != []
    older = ['all {"except": []}', *units]
    assert plan(older, machine(Unit(WEB), pod)) == [] == Services().verify(older, machine(Unit(WEB), pod).system())
    script = replace(pod, more={"SourcePath": "/etc/init.d/gone"})
    assert plan(older, machine(Unit(WEB), script)) == ["stop pod.service"]


def test_a_checkpoint_of_all_units_lies_inside_a_declaration_of_all() -> None:
    system = machine(Unit(WEB)).system()
    services = Services(system)
    every: dict[str, Any] = {"names": None, "processes": []}
    assert list(services.outside(every, all_of(Unit(WEB)), [{}], system)) == []
    assert list(services.outside(every, [], [{"names": [WEB]}], system)) == ["without a limit"]
    process = {"name": "p", "pidfile": "/run/p.pid", "argv": ["/bin/p"]}
    assert list(services.outside({**every, "processes": [process]}, [], [{}], system)) == ["process p"]


def test_other_names_of_nothing_are_said(tmp_path: Path) -> None:
    system = machine(Unit("docker.service"), Unit("tidy.timer", active="inactive")).system()
    said = Services(system).not_restorable({"except": ["dockr.service", "docker.service", "tidy.timer"]}, [])
    assert said == ["except: there is no unit dockr.service on this host"]
    definition = {"name": "app", "pidfile": str(tmp_path / "pid"), "argv": [str(tmp_path / "app"), "-x"]}
    lines = Services(system).capture(Services(system).check({"processes": [definition]}), Hasher(), system)
    (nothing,) = Services(system).not_restorable({}, lines)
    assert nothing.startswith(f"app: there is neither {tmp_path}/pid nor {tmp_path}/app: ")
    (tmp_path / "app").write_text("")
    assert Services(system).not_restorable({}, lines) == []


@pytest.mark.parametrize("refuses", ["reload", "leave"])
def test_what_no_measurement_shows_is_planned_again_for_the_same_start_of_a_service(refuses: str) -> None:
    """firewalld is not stopped, so that its reload alone counts; auditd refuses to be stopped by hand."""
    more = {"RefuseManualStop": "yes"} if refuses == "leave" else {}
    name = "auditd.service" if refuses == "leave" else "firewalld.service"
    own = f"/etc/systemd/system/{name}"
    unit = Unit(name, can_reload=refuses == "reload", fails=("reload",), more={**more, "FragmentPath": own})
    host, then = machine(unit), captured(unit)
    changed = own if refuses == "leave" else "/etc/x"
    (failed,) = [step for step in Services().plan(then, at(host, changed)) if step.target == name]
    with pytest.raises(RestoreFailed):
        Services().apply([failed], at(host))
    again = at(host)._replace(undone=[failed])
    assert plan(then, host) == [] and failed.action == refuses and failed in Services().plan(then, again)
    unit.identity = "another"
    assert Services().plan(then, again) == [], "it was started since"


def test_a_reload_that_is_not_enough_for_a_unit_which_is_not_stopped_is_said() -> None:
    """wg-quick@wg0: its reload applies peers and keys, and no addresses."""
    more = {**PAIR, "FragmentPath": "/usr/lib/systemd/system/wg-quick@.service"}
    unit = Unit("wg-quick@wg0.service", entered=501.0, more=more)
    steps = Services().plan(captured(unit), at(machine(unit), "/etc/wireguard/wg0.conf"))
    assert [step.action for step in steps] == ["daemon-reload", "reload", "leave"]
    assert steps[-1].detail["note"].startswith("wg-quick@wg0.service stays up: files changed, and it has no process")
    before = replace(unit, entered=100.0)
    assert len(Services().plan(captured(before), at(machine(before), "/etc/wireguard/wg0.conf"))) == 2


def test_variables_that_a_change_gives_to_each_service_are_taken_away_and_secrets_are_not_recorded() -> None:
    """A database that was started with --skip-grant-tables would be open to everybody at its next start as well."""
    host = machine(Unit(WEB), Unit(DB))
    host.environment = {"LANG": "C.UTF-8", "TOKEN": "secret"}
    then = Services().capture(spec(WEB, DB), Hasher(), host.system())
    assert "secret" not in str(then) and "LANG" not in str(then)
    assert plan(then, host) == []
    host.environment = {"TOKEN": "secret", "MYSQLD_OPTS": "--skip-grant-tables", "_WSREP_START_POSITIONone": "1"}
    host.units[DB].entered = 900.0
    assert plan(then, host) == ["environment MYSQLD_OPTS", f"restart {DB}"]
    assert put_back(then, host) == []
    assert host.environment == {"TOKEN": "secret", "_WSREP_START_POSITIONone": "1"}


def test_variables_that_cannot_be_brought_back_are_named_and_fail_nothing() -> None:
    """Without their values nobody sets them, and those of files come with each reload of systemd."""
    host = machine(Unit(WEB))
    host.environment = {"TOKEN": "secret", "KEY": "secret"}
    then = Services().capture(spec(WEB), Hasher(), host.system())
    host.environment = {"TOKEN": "other"}
    host.from_files = {"PROXY": "here", "LC_ALL": "C"}
    here = at(host)
    notes = [step.detail["note"] for step in Services().apply(Services().plan(then, here), here)]
    assert [note.partition(",")[0] for note in notes] == ["PROXY", "KEY", "TOKEN"]
    assert "systemd keeps it" in notes[0] and "is gone" in notes[1] and "has another value" in notes[2]
    assert Services().verify(then, host.system()) == [] and host.environment == {"TOKEN": "other"}
    host.boot = "the next boot"
    assert plan(then, host) == []


def test_a_variable_that_goes_with_the_files_is_not_unset() -> None:
    """Steps are planned before systemd reloads its files."""
    host = machine(Unit(WEB))
    host.environment = {"TOKEN": "secret"}
    then = Services().capture(spec(WEB), Hasher(), host.system())
    host.from_files = {"PROXY": "here"}
    here = at(host, "/etc/systemd/system.conf")
    steps = Services().plan(then, here)
    assert [step.action for step in steps[:2]] == ["daemon-reload", "environment"]
    host.from_files = {}
    done = Services().apply(steps, here)
    assert done[1].why.endswith("; it went with the files")
    assert not any("unset-environment" in call for call in host.calls)


def test_a_variable_that_systemctl_does_not_take_away_is_left() -> None:
    host = machine(Unit(WEB))
    host.environment = {"TOKEN": "secret"}
    then = Services().capture(spec(WEB), Hasher(), host.system())
    host.environment["NEW"] = "x"
    steps, run = Services().plan(then, at(host)), host.run

    def refuse(argv: Sequence[str], timeout: float) -> Completed:
        return Completed(tuple(argv), 1, "", "no") if argv[1] == "unset-environment" else run(argv, timeout)

    with pytest.raises(RestoreFailed, match="NEW of systemd's variables: no"):
        Services().apply(steps, at(host)._replace(system=replace(host.system(), run=refuse)))


def test_variables_of_another_host_are_not_carried_and_an_older_record_has_none() -> None:
    host = machine(Unit(WEB))
    older = Services().capture(spec(WEB), Hasher(), host.system())
    host.environment = {"TOKEN": "secret"}
    assert plan(older, host) == [] and Services().verify(older, host.system()) == []
    then = Services().capture(spec(WEB), Hasher(), host.system())
    assert any(line.startswith("environment ") for line in then) and Services().carried(then) == older
    for variables in ('{"A B": "sha256=x"}', '{"A": 1}', '{"TOKEN": "x"}', "1"):
        with pytest.raises(Damaged, match="is refused"):
            Services().plan([f'environment {{"boot": "x", "variables": {variables}}}'], at(host))


def test_a_unit_that_came_and_failed_as_it_went_is_forgotten() -> None:
    units = [
        Unit(name, file=name == "stays.service", active="failed", sub="failed", more={_TOUCHED: moment})
        for name, moment in (
            ("came.timer", "600000000"),
            ("before.service", "400000000"),
            ("stays.service", "600000000"),
        )
    ]
    host = machine(Unit(WEB), *units)
    again = Step("services", "daemon-reload", "systemd", "something was put back", {"units": [WEB]})
    Services().apply([again], at(host, since=BOOT + 500.0))
    assert {unit.name for unit in units if unit.active == "failed"} == {"before.service", "stays.service"}
    host.units["came.timer"].active = "failed"
    Services().apply([], at(host, since=BOOT + 500.0))
    assert host.units["came.timer"].active == "failed", "nothing was put back"


_TOUCHED = "StateChangeTimestampMonotonic"
