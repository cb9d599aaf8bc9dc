# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rungs are tried until one leads to health; restarts that are owed; the restart of a whole host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import changes
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._errors import (
    EvenkeelError,
    Refused,
    RestoreFailed,
    ServiceFailed,
    Unhealthy,
    UsageError,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import (
    flow,
    job,
    ladder,
    record,
)
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting import host as at_host
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.restarting.record import Entry
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._flows.rollback import flow as back
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._health.wait import Times
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.commands import Completed
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.package_locks import holder
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._results.change import Owed, RolledBack
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store
from flows import checkpoint, restart

from .fake_systemd import Machine, Unit, machine

WEB, DB = "web.service", "db.service"
TIMES = Times(0.0, 3.0, 1.0)
ALL = ["warm", "cold", "rollback", "reboot"]
KEXEC = ("sys/kernel/kexec_loaded", "proc/sys/kernel/kexec_load_disabled")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(at_host, "holder", lambda _locks: "")  # Of those of this machine.
    return machine(Unit(WEB), Unit(DB))


@pytest.fixture
def store(tmp_path: Any, host: Machine) -> Store:
    return Store(str(tmp_path / "store"), host.system())


class Ill:
    """A probe that fails until this many acts were done on the host."""

    def __init__(self, host: Machine, until: int) -> None:
        run = host.run

        def answer(argv: Any, timeout: float) -> Completed:
            if argv[0] == "probe":
                return Completed(tuple(argv), 0 if self.acts >= until else 1, "", "")
            self.acts += argv[1] in ("restart", "reload", "start")
            return run(argv, timeout)

        self.acts = 0
        host.run = answer  # type: ignore[method-assign]


PROBES = [{"command": {"argv": ["probe"]}}]


def climb(store: Store, host: Machine, rungs: list[str], **options: Any) -> dict[str, Any]:
    """The result, also of a failure; with its message."""
    options = {"name": "web", "times": TIMES, "probes": PROBES, "ladder": rungs, **options}
    try:
        return restart(Store(store.root, host.system()), **options)
    except Unhealthy as error:
        return {**error.result, "msg": error.message}


def entries(*known: tuple[str, bool, float], target: str = WEB) -> list[Entry]:
    return [Entry(0.0, target, mode, ok, seconds) for mode, ok, seconds in known]


def test_the_hosts_own_history_orders_the_rungs_where_there_is_enough_of_it() -> None:
    warm, cold = [("warm", False, 1.0)] * 9 + [("warm", True, 1.0)], [("cold", True, 4.0)] * 3
    assert ladder.order(["warm", "cold"], entries(*warm, *cold), WEB) == ["cold", "warm"]
    assert ladder.order(["warm", "cold"], entries(*warm, *cold[:2]), WEB) == ["warm", "cold"]
    assert ladder.order(["warm", "cold"], entries(*warm, *cold), "other.service") == ["warm", "cold"]
    boots = entries(("reboot", True, 0.1), ("reboot", True, 0.1), ("reboot", True, 0.1), target="host")
    assert ladder.order(["cold", "reboot"], [*entries(*cold), *boots], WEB) == ["reboot", "cold"]


@pytest.mark.parametrize(("until", "tried"), [(1, ["warm"]), (2, ["warm", "cold"])])
def test_a_ladder_ends_at_the_rung_that_leads_to_health(
    store: Store, host: Machine, until: int, tried: list[str]
) -> None:
    Ill(host, until)
    result = climb(store, host, ["warm", "cold"])
    assert [one["rung"] for one in result["rungs"]] == tried and result["rungs"][-1]["ok"] and result["left"] == []
    assert result["mode"] == tried[-1] and result["health"]["state"] == "pass"
    assert [(one.mode, one.ok) for one in record.history(store)] == [(one, one == tried[-1]) for one in tried]
    assert record.read(store) is None


def test_a_ladder_without_an_end_in_health_says_what_each_rung_did(store: Store, host: Machine) -> None:
    Ill(host, 9)
    result = climb(store, host, ["warm", "cold"])
    assert result["left"] == [WEB] and "warm: web.service was restarted (warm), but is not healthy" in result["msg"]
    assert [one["ok"] for one in result["rungs"]] == [False, False] and result["next"] == ""


def test_a_reboot_is_left_to_the_controller(store: Store, host: Machine) -> None:
    Ill(host, 9)
    result = climb(store, host, ["cold", "reboot"])
    assert result["next"] == "reboot" and "which only a controller can carry out" in result["msg"]


def test_a_rung_that_is_not_possible_is_left_out_and_touches_nothing(store: Store, host: Machine) -> None:
    host.units[WEB].can_reload = False
    Ill(host, 1)
    result = climb(store, host, ["warm", "cold"])
    assert "no way to reload" in result["rungs"][0]["why"] and result["rungs"][1]["ok"]
    assert host.acts() == ["systemctl restart -- web.service"]
    with pytest.raises(UsageError, match="cannot be restarted warm"):
        climb(store, host, ["warm"])


def looping(host: Machine) -> None:
    """The unit is in a crash loop."""
    sleep = host.sleep

    def crash(seconds: float) -> None:
        sleep(seconds)
        if seconds >= 1.0:
            host.units[WEB].restarts += 5
            host.units[WEB].identity = f"crash{host.units[WEB].restarts}"

    host.sleep = crash  # type: ignore[method-assign]


@pytest.fixture
def rolled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids to which the host was rolled back."""
    found: list[str] = []

    def rollback(store: Store, request: back.Request, check_mode: bool = False) -> RolledBack:
        found.append(request.to)
        return RolledBack(done=[{"resource": "files", "action": "replace", "target": "/x"}])

    monkeypatch.setattr(back, "rollback", rollback)
    return found


def saved(store: Store, tmp_path: Any) -> str:
    (tmp_path / "x").write_text("x")
    return str(checkpoint(store, "good", [{"files": {"paths": [str(tmp_path / "x")]}}])["id"])


def test_a_crash_loop_is_only_rolled_back(store: Store, host: Machine, rolled: list[str], tmp_path: Any) -> None:
    good = saved(store, tmp_path)
    Ill(host, 99)
    looping(host)
    result = climb(store, host, ["cold", "warm", "reboot", "rollback"])
    assert [one["why"] for one in result["rungs"][1:3]] == ["not tried, because it is in a crash loop"] * 2
    assert rolled == [good] and result["next"] == "" and not result["rungs"][3]["ok"]


def test_after_a_rollback_that_did_not_help_nothing_more_is_tried(
    store: Store, host: Machine, rolled: list[str], tmp_path: Any
) -> None:
    saved(store, tmp_path)
    Ill(host, 99)
    result = climb(store, host, ["rollback", "cold", "reboot"])
    assert [one["why"] for one in result["rungs"][1:]] == ["not tried, because a rollback has failed"] * 2
    assert len(rolled) == 1 and result["next"] == ""
    # Nor is it rolled back again, in a later run.
    result = climb(store, host, ["rollback"])
    assert "a second one would not either" in result["rungs"][0]["why"] and len(rolled) == 1
    # Whatever else was tried in between, until it was healthy once.
    for _run in range(2):
        assert "a second one" in climb(store, host, ["cold", "rollback"])["rungs"][1]["why"] and len(rolled) == 1
    host.run = type(host).run.__get__(host)  # type: ignore[method-assign]
    assert climb(store, host, ["cold"], probes=[])["rungs"][0]["ok"]
    Ill(host, 99)
    climb(store, host, ["rollback"])
    assert len(rolled) == 2


def test_a_rollback_helps(store: Store, host: Machine, rolled: list[str], tmp_path: Any) -> None:
    good = saved(store, tmp_path)
    Ill(host, 2)
    result = climb(store, host, ["cold", "rollback"], rollback_to="good")
    assert result["rungs"][-1]["ok"] and rolled == [good] and result["mode"] == "rollback"
    assert [one["target"] for one in result["done"]] == ["/x", WEB] or result["done"]


@pytest.mark.parametrize("error", [RestoreFailed("half of it"), Refused("armed")])
def test_a_rollback_that_cannot_be_completed_ends_the_ladder(
    store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, error: EvenkeelError
) -> None:
    saved(store, tmp_path)
    Ill(host, 1)

    def rollback(*_arguments: Any) -> RolledBack:
        raise error

    monkeypatch.setattr(back, "rollback", rollback)
    result = climb(store, host, ["rollback", "cold"])
    assert result["rungs"][0]["why"] == error.message
    assert result["rungs"][1]["ok"] == isinstance(error, Refused)
    tried = [(one.mode, one.ok) for one in record.history(store)]
    assert tried == ([("cold", True)] if isinstance(error, Refused) else [("rollback", False)])


def test_a_rollback_does_not_end_the_change_under_way(
    store: Store, host: Machine, rolled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    saved(store, tmp_path)
    Ill(host, 99)
    monkeypatch.setattr(changes, "armed", lambda _store: SimpleNamespace(generation=7))
    why = climb(store, host, ["rollback"], rollback_to="good")["rungs"][0]["why"]
    assert "the change of generation 7 is under way" in why and rolled == []


@pytest.mark.parametrize("wanted", ["undo", "undo~1", "no-such"])
def test_only_a_checkpoint_known_good_is_gone_back_to(
    store: Store, host: Machine, rolled: list[str], wanted: str, tmp_path: Any
) -> None:
    saved(store, tmp_path)
    Ill(host, 99)
    assert not climb(store, host, ["rollback"], rollback_to=wanted)["rungs"][0]["ok"] and rolled == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "cold"}, "either mode or ladder"),
        ({"ladder": ["cold", "cold"]}, "a rung twice"),
        ({"name": None, "owed": True}, "a ladder is for one service"),
        ({"name": None, "scope": "host"}, "a ladder is for one service"),
        ({"ladder": (), "mode": "reboot"}, "name takes cold, warm"),
        ({"ladder": (), "name": None, "scope": "host", "mode": "warm"}, "scope takes reboot, soft-reboot, kexec"),
        ({"ladder": (), "scope": "host"}, "name and scope was given"),
        ({"ladder": (), "name": None, "scope": "host"}, "only the controller can restart a whole host"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    store: Store, host: Machine, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        climb(store, host, **{"rungs": ["cold"], **{("rungs" if k == "ladder" else k): v for k, v in more.items()}})
    assert host.acts() == []


# -- restarts that are owed


def owes(monkeypatch: pytest.MonkeyPatch, *answers: list[Owed]) -> None:
    told = list(answers)
    for place in (job.__name__, flow.__name__):
        monkeypatch.setattr(f"{place}.owed", lambda system: told.pop(0) if len(told) > 1 else told[0])


def test_every_unit_that_is_owed_is_restarted_and_the_host_is_asked_again(
    store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Owed("reboot", "", ["a newer kernel is installed"])
    owes(monkeypatch, [Owed("service", WEB), Owed("service", WEB), Owed("service", DB), kernel], [kernel])
    result = restart(store, owed=True, times=TIMES)
    assert host.acts() == ["systemctl restart -- web.service", "systemctl restart -- db.service"]
    assert result["left"] == [] and [one["level"] for one in result["owed"]] == ["reboot"]
    assert [one.target for one in record.history(store)] == [WEB, DB]
    assert result["proved"][-1] == "no restart of a service is owed any more"


def test_a_unit_file_that_systemd_has_not_read_is_read_before_the_restart(
    store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.units[WEB].more = {"NeedDaemonReload": "yes"}
    owes(monkeypatch, [Owed("service", WEB)], [Owed("service", WEB)], [])
    foreseen = restart(store, owed=True, times=TIMES, check_mode=True)["planned"]
    result = restart(store, owed=True, times=TIMES)
    assert host.acts()[:2] == ["systemctl daemon-reload", "systemctl restart -- web.service"]
    assert result["done"] == foreseen and foreseen[0]["action"] == "daemon-reload"


def test_a_unit_that_refuses_or_still_owes_is_named(
    store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.units[DB].more = {"RefuseManualStop": "yes"}
    owes(monkeypatch, [Owed("service", WEB), Owed("service", DB)], [Owed("service", DB)])
    result = restart(store, owed=True, times=TIMES)
    assert host.acts() == ["systemctl restart -- web.service"]
    assert (
        len(result["left"]) == 1 and "RefuseManualStop=" in result["left"][0] and "still owed" in result["warnings"][0]
    )
    owes(monkeypatch, [Owed("service", WEB)])
    with pytest.raises(Unhealthy, match="still owe a restart: web.service"):
        restart(store, owed=True, times=TIMES)


def test_the_first_owed_unit_that_fails_ends_it(store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    host.units[WEB].fails = ("restart",)
    owes(monkeypatch, [Owed("service", WEB), Owed("service", DB)])
    with pytest.raises(ServiceFailed) as error:
        restart(store, owed=True, times=TIMES)
    assert error.value.result["left"] == [WEB] and host.acts() == ["systemctl restart -- web.service"]


def test_nothing_owed_is_no_change(store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    owes(monkeypatch, [])
    assert not restart(store, owed=True, times=TIMES)["changed"]


# -- a whole host


class Booting:
    """A host that boots again when it is told."""

    def __init__(self, host: Machine, version: int = 257) -> None:
        run, self.boots, self.calls = host.run, 0, list[str]()

        def answer(argv: Any, timeout: float) -> Completed:
            words = tuple(argv)
            if words[0] in ("systemd-run", "kexec"):
                self.calls.append(" ".join(words))
                return Completed(words, 0, "", "")
            if words[:2] == ("systemctl", "is-system-running"):
                return Completed(words, 1, "degraded\n", "")
            if words[:2] == ("systemctl", "--version"):
                return Completed(words, 0, f"systemd {version} (x)\n+PAM", "")
            if "sysinit.target" in words:
                return Completed(words, 0, f"invocation{self.boots}\n", "")
            return run(argv, timeout)

        host.run = answer  # type: ignore[method-assign]
        self.system = replace(host.system(), boot_id=lambda: f"boot{self.boots}")


def booting(store: Store, booted: Booting, phase: str, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    options = {"scope": "host", "times": TIMES, **more}
    return restart(Store(store.root, booted.system), phase, values=values, **options)


@pytest.mark.parametrize("mode", ["reboot", "soft-reboot"])
def test_a_host_is_restarted_and_that_is_proved(store: Store, host: Machine, mode: str) -> None:
    boots = Booting(host)
    token = booting(store, boots, "begin", {}, mode=mode)["token"]
    with pytest.raises(Refused, match="no restart of this host was started"):
        booting(store, boots, "booted", {"token": token}, mode=mode)
    booting(store, boots, "boot", {"token": token}, mode=mode)
    assert boots.calls[-1].endswith(f"systemctl {mode}") and "--on-active=" in boots.calls[-1]
    with pytest.raises(ServiceFailed, match="this host was not restarted"):
        booting(store, boots, "booted", {"token": token}, mode=mode)
    boots.boots = 1
    result = booting(store, boots, "booted", {"token": token}, mode=mode)
    assert "became" in result["proved"][0] and result["after"]["text"] == "booted (degraded)"
    assert "health" not in result, "nothing was measured"
    with pytest.raises(Refused, match="no restart of this host was started"):
        booting(store, boots, "booted", {"token": token}, mode=mode)
    booting(store, boots, "end", {"token": token}, mode=mode)
    (entry,) = record.history(store)
    assert (entry.target, entry.mode, entry.ok) == ("host", mode, True)


def test_a_host_that_is_not_healthy_after_its_boot_is_told(store: Store, host: Machine) -> None:
    boots = Booting(host)
    token = booting(store, boots, "begin", {})["token"]
    booting(store, boots, "boot", {"token": token})
    boots.boots = 1
    host.units[WEB].active = "failed"
    with pytest.raises(Unhealthy, match="this host was restarted .reboot., but is not healthy"):
        booting(store, boots, "booted", {"token": token}, probes=[{"service": {"name": "web"}}])
    assert booting(store, boots, "look", {})["restart"]["stage"] == "failed"


def test_what_could_not_be_read_proves_no_boot(store: Store, host: Machine) -> None:
    boots = Booting(host)
    token = booting(store, boots, "begin", {})["token"]
    booting(store, boots, "boot", {"token": token})
    boots.system = replace(boots.system, boot_id=lambda: "unknown:None")
    with pytest.raises(ServiceFailed, match="does not tell which boot"):
        booting(store, boots, "booted", {"token": token})


def test_a_boot_that_is_not_possible_is_refused(store: Store, host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="soft-reboot"):
        booting(store, Booting(host, version=252), "begin", {}, mode="soft-reboot")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match="kexec-tools is not installed"):
        booting(store, Booting(host), "begin", {}, mode="kexec")
    boots = Booting(host)
    boots.system = replace(boots.system, has_systemd=lambda: False)
    with pytest.raises(UsageError, match="only root restarts a host"):
        booting(store, boots, "begin", {})


@pytest.mark.parametrize("mode", ["reboot", "soft-reboot"])
@pytest.mark.parametrize("phase", ["begin", "boot"])
def test_no_host_goes_down_in_the_middle_of_a_run_of_packages(
    store: Store, host: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, phase: str
) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    boots = Booting(host)
    token = booting(store, boots, "begin", {}, mode=mode)["token"]
    monkeypatch.setattr(at_host, "holder", lambda _locks: holder((str(tmp_path / "none"), str(lock))))
    script = f"import fcntl; it = open({str(lock)!r}, 'r+'); fcntl.lockf(it, fcntl.LOCK_EX); print(flush=True); input()"
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as dpkg:
        assert dpkg.stdout is not None and dpkg.stdout.readline()
        with pytest.raises(UsageError, match=rf"not to go down now: {lock} is held by process {dpkg.pid} \(python"):
            booting(store, boots, phase, {"token": token}, mode=mode)
        refusal = booting(store, boots, "look", {}, mode=mode)["refusal"]
        assert f"process {dpkg.pid}" in refusal and not boots.calls
        dpkg.communicate(b"\n")
    booting(store, boots, phase, {"token": token}, mode=mode)


def test_no_host_goes_down_while_a_program_blocks_that(store: Store, host: Machine) -> None:
    host.inhibitors = (
        '"sleep" "NetworkManager" "its \\"nets\\"" "delay" 0 7 "shutdown" "upgrades" "wait" "delay" 0 8 '
        '"idle:shutdown" "backup" "of the \\"night\\"" "block" 0 9'
    )
    with pytest.raises(UsageError, match=r'now: backup \(process 9\) blocks a shutdown: of the "night"\. Nothing'):
        booting(store, Booting(host), "begin", {})
    host.inhibitors = '"sleep'
    assert booting(store, Booting(host), "begin", {})["token"]


def test_kexec_does_not_boot_the_kernel_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Path("/proc/sys/kernel/osrelease").read_text().strip()
    newer = running.replace(running.split(".")[0], "99", 1)
    monkeypatch.setattr("shutil.which", lambda name: name)
    boot, loaded, disabled = (tmp_path / name for name in ("boot", *KEXEC))
    for folder in (boot, loaded.parent, disabled.parent):
        folder.mkdir(parents=True)
    disabled.write_text("0\n")
    system = replace(machine().system(), now=time.time)
    with pytest.raises(UsageError, match="no kernel is loaded, or can be"):
        at_host.check("kexec", system, str(tmp_path))
    for name in (f"vmlinuz-{running}", f"initrd.img-{running}"):
        (boot / name).write_bytes(b"of the running kernel")
        os.utime(boot / name, (0, 0))
    at_host.check("kexec", system, str(tmp_path))
    (boot / f"vmlinuz-{newer}").write_bytes(b"kernel")
    with pytest.raises(UsageError, match=f"kexec is not possible: the kernel {newer} is installed, and .* runs"):
        at_host.check("kexec", system, str(tmp_path))
    loaded.write_text("1\n")  # Somebody has chosen a kernel.
    at_host.check("kexec", system, str(tmp_path))


def test_the_reboot_of_a_ladder_goes_on_under_the_same_token(store: Store, host: Machine) -> None:
    boots = Booting(host)
    how: dict[str, Any] = {"scope": None, "name": "web", "ladder": ["cold", "reboot"], "probes": PROBES}
    ill = Ill(host, 2)
    boots.system = replace(boots.system, run=host.run, command=host.run)
    token = booting(store, boots, "begin", {}, **how)["token"]
    with pytest.raises(Unhealthy):
        booting(store, boots, "act", {"token": token}, **how)
    booting(store, boots, "boot", {"token": token}, **how)
    boots.boots, ill.acts = 1, 2
    assert booting(store, boots, "booted", {"token": token}, **how)["health"]["state"] == "pass"
    with pytest.raises(UsageError, match="restarts a service, and no host"):
        booting(store, boots, "boot", {"token": token}, scope=None, name="web")
