# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd says is understood, and what it claims to have done is proved."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import ServiceFailed, UsageError
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services import quiescing, systemd
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._services.service import declared_service

from .fake_systemd import BOOT, Unit, machine

WEB = "web.service"


def test_a_bare_name_is_a_service_and_others_keep_their_kind() -> None:
    names = ["web", "web.service", "web.socket", "backup.timer", "srv-data.mount", "a.b", "getty@tty1"]
    expected = ["web.service", "web.service", "web.socket", "backup.timer", "srv-data.mount", "a.b.service"]
    assert [systemd.unit_name(name) for name in names] == [*expected, "getty@tty1.service"]


@pytest.mark.parametrize("name", ["web", "getty@tty1.service", r"srv-a\x2db.mount", "-.mount", "dbus-:1.2@0.service"])
def test_a_name_of_one_unit_is_taken(name: str) -> None:
    assert systemd.check_name(name) == name


@pytest.mark.parametrize("name", ["web*", "we?", "[a]", "a b", "a\tb", " web", "web\n", "", "/etc", "a@", "x" * 300])
def test_a_name_that_systemctl_would_take_for_others_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Nothing was touched"):
        systemd.check_name(name)
    for hook in ({"stop": name}, {"freeze": name}):
        with pytest.raises(UsageError):
            quiescing.check([hook])
    with pytest.raises(UsageError):
        declared_service(name, None)


def test_one_call_tells_the_states_in_the_order_asked() -> None:
    host = machine(
        Unit(WEB, entered=100.0, restarts=2),
        Unit("db.service", enabled="disabled", active="failed", sub="failed", identity="old", can_reload=False),
    )
    db, gone, web = systemd.observe(["db", "gone", "web"], host.system())
    assert len(host.calls) == 1
    assert web.exists and web.active and web.enabled == "enabled" and web.can_reload
    assert (web.text, web.identity, web.restarts) == ("active (running)", "id0", 2)
    assert web.started == pytest.approx(BOOT + 100.0)
    assert db.exists and not db.active and db.enabled == "disabled" and not db.can_reload
    assert (db.text, db.identity, db.started) == ("failed (failed)", "", None)
    assert not gone.exists and not gone.active and gone.name == "gone.service"
    assert systemd.observe([], host.system()) == [] and len(host.calls) == 1


def test_a_unit_that_is_reloading_is_active_and_a_masked_one_exists() -> None:
    host = machine(Unit(WEB, active="reloading", sub="reload"), Unit("db.service", enabled="masked", active="inactive"))
    web, db = systemd.observe(["web", "db"], host.system())
    assert web.active and web.identity == "id0"
    assert db.exists and not db.active


@pytest.mark.parametrize("words", ["Failed to connect to bus: No such file", "what is this"])
def test_a_systemd_that_does_not_answer_is_named(words: str) -> None:
    host = machine(Unit(WEB))
    host.broken = words
    with pytest.raises(ServiceFailed, match=f"state of web.service: {words}"):
        systemd.observe(["web"], host.system())


def test_an_empty_line_in_a_command_of_a_unit_is_no_end_of_the_unit() -> None:
    odd = {"ExecStart": "{ path=/bin/sh ; argv[]=/bin/sh -c a\n\nId=b ; ignore_errors=no ; }", "Type": "simple"}
    units = [Unit(f"{name}.service", more=odd if name in "bd" else {"Type": "notify"}) for name in "abcde"]
    found = systemd.describe([unit.name for unit in units], machine(*units).system())
    assert [unit.id for unit in found] == [unit.name for unit in units]
    assert [unit.type for unit in found] == ["notify", "simple", "notify", "simple", "notify"]
    (one,) = systemd.describe(["b"], machine(*units).system())
    assert one.type == "simple"


def test_a_line_without_a_value_in_a_command_of_a_unit_is_no_property() -> None:
    unit = Unit(WEB, more={"ExecStart": "{ path=/bin/app ; argv[]=/bin/sh -c a }\nBusName\nExecStart={ path=/b ; }"})
    ((state, found),) = systemd.view(["web"], machine(unit).system())
    assert (state.active, found.id, found.bus) == (True, WEB, "")


@pytest.mark.parametrize("end", [" ; ignore_errors=no ; pid=0 }", " ; }\n", "\n"])
@pytest.mark.parametrize("key", ["ExecStart", "ExecStop", "EnvironmentFiles", "SourcePath"])
def test_no_text_of_a_unit_passes_for_its_other_properties(key: str, end: str) -> None:
    """systemctl prints the line breaks of a command as they are."""
    fake = f"Id=f.service{end}MainPID=1{end}ActiveState=active{end}Triggers=f.socket{end}Result=success{end}x"
    other = Unit("other.service")
    for text in (fake, fake.replace("\n", "\n\n"), fake.replace("\n", "\x0c")):
        off = Unit(WEB, active="failed", sub="dead", more={"MainPID": "7", "Result": "exit-code"})
        off.more[key] = f"{{ path=/bin/app ; argv[]=/bin/sh -c a\n{text}{end.strip() or ')'}"
        host = machine(off, other)
        for names in (["web"], ["web", "other"]):
            (state, unit), *_others = systemd.view(names, host.system())
            assert (state.active, state.text) == (False, "failed (dead)")
            assert (unit.id, unit.main, unit.triggers, unit.result) == (WEB, 7, (), "exit-code")
            assert systemd.describe(names, host.system())[0].id == WEB
        assert key != "ExecStart" or "/bin/app" in unit.files or end == "\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("/usr/bin/python3 -u -W ignore /opt/app/main.py /etc/app.conf", ["/usr/bin/python3", "/opt/app/main.py"]),
        ("/usr/bin/env python3 /opt/app.py", ["/usr/bin/env", "/opt/app.py"]),
        ("/usr/bin/env /usr/bin/python3 /opt/app.py", ["/usr/bin/env", "/usr/bin/python3", "/opt/app.py"]),
        ("/usr/bin/java -cp /opt/a:/opt/b -Xmx1g -jar /opt/app.jar", ["/usr/bin/java", "/opt/app.jar"]),
        ("/bin/sh -ec /etc/app.conf", ["/bin/sh"]),
        ("/bin/sh -e /opt/run.sh", ["/bin/sh", "/opt/run.sh"]),
        ("/usr/bin/python3 -m app /etc/app.conf", ["/usr/bin/python3"]),
        ("/usr/sbin/nginx -c /etc/nginx/nginx.conf", ["/usr/sbin/nginx"]),
    ],
)
def test_the_script_behind_options_is_a_file_of_the_unit(words: str, expected: list[str]) -> None:
    line = f"{{ path={words.split()[0]} ; argv[]={words} ; ignore_errors=no ; pid=0 }}"
    (unit,) = systemd.describe(["web"], machine(Unit(WEB, more={"ExecStart": line})).system())
    assert list(unit.files) == expected


def test_an_answer_about_fewer_units_is_not_taken_for_all() -> None:
    host = machine(Unit(WEB))
    whole = host.show
    host.show = lambda name, asked=(): whole(name, asked) if name == WEB else ""  # type: ignore[method-assign]
    with pytest.raises(ServiceFailed, match="does not tell the state of web.service, other.service"):
        systemd.observe(["web", "other"], host.system())


@pytest.mark.parametrize(
    ("verb", "unit", "words"),
    [
        ("start", Unit(WEB, active="inactive", deaf=("start",)), r"start web.service ended well, but .* inactive"),
        ("restart", Unit(WEB, deaf=("restart",)), r"restart web.service ended well, but"),
        ("stop", Unit(WEB, deaf=("stop",)), r"stop web.service ended well, but the unit is active"),
        ("restart", Unit(WEB, fails=("restart",)), r"systemctl restart web.service: Job for web.service failed"),
        ("reload", Unit(WEB, fails=("reload",)), r"systemctl reload web.service: Job for web.service failed"),
        ("enable", Unit(WEB, fails=("enable",)), r"systemctl enable web.service: "),
    ],
)
def test_what_did_not_happen_is_a_failure_with_the_words_of_the_log(verb: str, unit: Unit, words: str) -> None:
    unit.log = "bind: in use\nbind: in use\ngiving up\n"
    with pytest.raises(ServiceFailed, match=words + ".*; its log: bind: in use / giving up$"):
        systemd.act(verb, "web", machine(unit).system())


def test_a_unit_without_words_of_its_own_is_reported_by_those_of_systemd() -> None:
    with pytest.raises(ServiceFailed, match="its log: systemd's own words$"):
        systemd.act("restart", "web", machine(Unit(WEB, fails=("restart",))).system())


def test_a_reload_that_replaced_the_process_is_no_reload() -> None:
    host = machine(Unit(WEB))
    act = host.act

    def restarts(words: tuple[str, ...], verb: str, unit: Unit, queued: bool) -> object:
        return act(words, "restart", unit, queued)

    assert systemd.act("reload", "web", host.system()).identity == "id0"
    host.act = restarts  # type: ignore[assignment,method-assign]
    with pytest.raises(ServiceFailed, match="reload web.service ended well, but"):
        systemd.act("reload", "web", host.system())


def test_each_verb_gives_the_state_that_it_proved() -> None:
    host = machine(Unit(WEB, enabled="disabled", active="failed", sub="failed", identity=""))
    system = host.system()
    started = systemd.act("start", "web", system)
    assert started.active and started.identity
    assert systemd.act("start", "web", system).identity == started.identity
    assert systemd.act("restart", "web", system).identity not in ("", started.identity)
    assert systemd.act("enable", "web", system).enabled == "enabled"
    assert systemd.act("mask", "web", system).enabled == "masked"
    assert systemd.act("unmask", "web", system).enabled == "disabled"
    assert not systemd.act("stop", "web", system).active


def test_what_failed_too_often_is_forgotten_before_a_start_and_only_then() -> None:
    host = machine(Unit(WEB))
    for verb in ("start", "restart", "reload", "stop", "enable"):
        host.calls.clear()
        systemd.act(verb, "web", host.system())
        assert host.calls[0].startswith("systemctl reset-failed") == (verb in ("start", "restart"))


def test_disabling_what_is_gone_succeeds_and_disabling_what_is_there_must() -> None:
    gone = machine(Unit(WEB, file=False, enabled="", active="inactive", identity=""))
    assert not systemd.act("disable", "web", gone.system()).exists
    with pytest.raises(ServiceFailed, match="systemctl disable"):
        systemd.act("disable", "web", machine(Unit(WEB, fails=("disable",))).system())


def test_a_queued_job_is_not_waited_for() -> None:
    host = machine(Unit(WEB, active="inactive", identity=""))
    assert not systemd.act("start", "web", host.system(), wait=False).active
    assert host.acts() == ["systemctl --no-block start -- web.service"]


def test_a_state_on_the_way_is_waited_out_and_not_for_ever() -> None:
    host = machine(Unit(WEB, active="activating", sub="start"))
    sleep = host.sleep

    def ready(seconds: float) -> None:
        sleep(seconds)
        if host.clock > 1003.0:
            host.units[WEB].active = "active"

    host.sleep = ready  # type: ignore[method-assign]
    assert systemd.settled("web", host.system()).active
    host = machine(Unit(WEB, active="activating", sub="auto-restart"))
    assert systemd.settled("web", host.system(), 5.0).text == "activating (auto-restart)"
    assert 1005.0 <= host.clock < 1006.0


def test_a_daemon_reload_that_fails_is_reported() -> None:
    host = machine()
    systemd.daemon_reload(host.system())
    assert host.calls == ["systemctl daemon-reload"]
    host.broken = "no"
    with pytest.raises(ServiceFailed, match="daemon-reload: no"):
        systemd.daemon_reload(host.system())


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_program_that_ends_right_after_its_start_was_not_started(verb: str) -> None:
    host = machine(Unit(WEB, active="inactive", identity="", log="no such file\n"))
    sleep = host.sleep

    def ends(seconds: float) -> None:
        sleep(seconds)
        host.units[WEB].active = "failed"

    host.sleep = ends  # type: ignore[method-assign]
    with pytest.raises(ServiceFailed, match="started and ended at once: it is failed .*; its log: no such file"):
        systemd.act(verb, "web", host.system())


def test_what_holds_is_done_even_if_systemctl_complains() -> None:
    host = machine(Unit(WEB, active="inactive", identity="", enabled="disabled", fails=("stop", "disable", "unmask")))
    for verb in ("stop", "disable", "unmask"):
        systemd.act(verb, "web", host.system())
    host.units[WEB].active = "active"
    with pytest.raises(ServiceFailed, match="systemctl stop web.service: Job"):
        systemd.act("stop", "web", host.system())


def test_what_systemd_loses_sight_of_as_it_reads_units_anew_is_ended_and_started() -> None:
    """As with an alias that comes back while another unit names it: the process runs on, and nothing can start."""
    process = subprocess.Popen(["sleep", "60"])
    web = Unit("web.service", more={"MainPID": str(process.pid), "KillMode": "process"})
    with subprocess.Popen(["true"]) as ended:
        other = Unit("other.service", more={"MainPID": str(ended.pid), "KillMode": "process"})
    host = machine(web, other)
    run = host.run

    def forgetting(argv: Sequence[str], timeout: float) -> Completed:
        if "daemon-reload" in argv:
            web.active, web.sub = other.active, other.sub = "inactive", "dead"
        if "start" in argv:
            assert process.poll() is not None, "its port is not free yet"
        return run(argv, timeout)

    host.run = forgetting  # type: ignore[method-assign]
    try:
        # The other one has ended meanwhile: nothing was lost sight of.
        assert systemd.daemon_reload(host.system(), ["web", "other"]) == ["web.service"]
        assert web.active == "active" and other.active == "inactive"
        assert systemd.daemon_reload(machine(web).system(), ["web"]) == []
    finally:
        process.kill()
        process.wait()
