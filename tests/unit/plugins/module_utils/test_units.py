# Copyright (c) 2026 The Evenkeel Authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units of the dead-man: what they hold against, and that what was done to them is mended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._deadman import units, watcher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._host.system import System
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._resources import files
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.objects import Hasher
from ansible_collections.evenkeel.fault_tolerance.plugins.module_utils._store.store import Store

# Systemd starts the timers without a reload, and shows that they run as they are written.
_STARTED = re.compile(
    r"(show \S+UserspaceTimestampMonotonic )?start evenkeel-deadman.timer evenkeel-watch.timer "
    r"show \S+ evenkeel-deadman.timer evenkeel-watch.timer evenkeel-deadman.service"
)
AGENT = "/var/lib/evenkeel/agent/evenkeel-0123456789ab.pyz"


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> Store:
    """A store whose systemd, up since the fifth second, agrees to everything and has both timers running."""
    monkeypatch.setattr(units, "_ETC", str(tmp_path / "etc"))
    monkeypatch.setattr(units, "_RUN", str(tmp_path / "run"))
    monkeypatch.setattr(units, "_BEFORE", (str(tmp_path / "control"), str(tmp_path / "etc")))

    def run(argv: Any, timeout: float) -> Any:
        asked.append(" ".join(argv[1:]))
        names = [word for word in argv[2:] if word.startswith("evenkeel-")]
        out = "\n".join(shown(str(tmp_path / "run" / name)) for name in names)
        return type("Done", (), {"rc": 0, "words": "", "out": out or "UserspaceTimestampMonotonic=5000000\n"})

    return Store("/var/lib/evenkeel", replace(System(), has_systemd=lambda: True, run=run))


def shown(path: str) -> str:
    """The words of systemctl show on a unit that is loaded as it is written, and active."""
    values = [f"NextElapseUSecMonotonic={'1min 45s' if 'deadman' in path else '10s'}"] if path.endswith("timer") else []
    values += ["LoadState=loaded", "ActiveState=active", "NeedDaemonReload=no"]
    values += [f"FragmentPath={path}", f"DropInPaths=/etc/a.conf {path}.d/zzz-evenkeel.conf"]
    values += [line for line in Path(path).read_text().splitlines() if line.startswith("ExecStart=/")]
    return "\n".join(values) + "\n"


def settings(path: Path) -> dict[str, str]:
    """The last value of each setting."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def test_the_deadline_is_a_moment_that_no_reload_begins_anew(host: Store, tmp_path: Path) -> None:
    units.ensure(host, 1, 105.5, AGENT)
    for path in ("evenkeel-deadman.timer", "evenkeel-deadman.timer.d/zzz-evenkeel.conf"):
        found = settings(tmp_path / "run" / path)
        assert found["OnStartupSec"] == "100500000us" and found["OnActiveSec"] == "", path
        assert found["AccuracySec"] == "100ms" and found["RandomizedDelaySec"] == "0", path


def test_what_stops_everything_does_not_stop_the_deadline(host: Store, tmp_path: Path) -> None:
    units.ensure(host, 1, 105.0, AGENT)
    for name in ("evenkeel-deadman.timer", "evenkeel-deadman.service"):
        found = settings(tmp_path / "run" / name)
        assert found["RefuseManualStop"] == found["IgnoreOnIsolate"] == "yes", name
        assert found["DefaultDependencies"] == "no", "the end of sysinit.target would stop it"
    service = settings(tmp_path / "run" / "evenkeel-deadman.service")
    assert service["Restart"] == "on-failure" and service["StartLimitIntervalSec"] == "0"
    assert "SIGTERM" in service["RestartForceExitStatus"] and service["RestartPreventExitStatus"] == "3"


def test_what_is_set_for_all_services_does_not_reach_the_dead_man(host: Store, tmp_path: Path) -> None:
    """Its settings stand in the last drop-in as well, since systemd reads those of service.d in between."""
    units.ensure(host, 1, 105.0, AGENT)
    for folder, name in (("run", "evenkeel-deadman.service"), ("etc", "evenkeel-boot.service")):
        found = settings(tmp_path / folder / f"{name}.d" / "zzz-evenkeel.conf")
        assert found["User"] == "root" and found["ProtectSystem"] == "no" and found["ExecStartPre"] == ""
        assert "PYTHONHOME" in found["UnsetEnvironment"] and "LD_PRELOAD" in found["UnsetEnvironment"]
        assert AGENT in found["ExecStart"] and " -I " in found["ExecStart"] and found["UMask"] == "0022"


def test_what_stands_is_left_alone(host: Store, asked: list[str]) -> None:
    assert units.ensure(host, 1, 105.0, AGENT)
    asked.clear()
    assert not units.ensure(host, 1, 105.0, AGENT) and not any(words.startswith("start") for words in asked)


@pytest.mark.parametrize(
    "place", ["sysinit.target.wants/evenkeel-boot", "boot-complete.target.requires/evenkeel-health"]
)
@pytest.mark.parametrize("how", ["removed", "elsewhere"])
def test_a_link_that_starts_a_unit_at_boot_is_made_again(
    host: Store, tmp_path: Path, asked: list[str], place: str, how: str
) -> None:
    units.install_boot(host, AGENT)
    units.ensure(host, 1, 105.0, AGENT)
    link = tmp_path / "etc" / f"{place}.service"
    before = link.readlink()
    link.unlink()
    if how == "elsewhere":
        link.symlink_to("/dev/null")
    asked.clear()
    assert units.ensure(host, 1, 105.0, AGENT) and link.readlink() == before
    assert _STARTED.fullmatch(" ".join(asked)) and not units.ensure(host, 1, 105.0, AGENT)


def test_a_directory_of_the_host_keeps_its_mode(host: Store, tmp_path: Path) -> None:
    wants = tmp_path / "etc/sysinit.target.wants"
    wants.mkdir(parents=True)
    for folder in (wants, wants.parent):
        folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        units.install_boot(host, AGENT)
        units.ensure(host, 1, 105.0, AGENT)
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()
    }
    assert modes.pop("etc") == modes.pop("etc/sysinit.target.wants") == 0o700
    assert len(modes) > 4 and set(modes.values()) == {0o755}, modes


@pytest.mark.parametrize("name", ["evenkeel-deadman.timer", "evenkeel-deadman.service", "evenkeel-watch.timer"])
@pytest.mark.parametrize("how", ["removed", "masked", "overwritten", "shadowed"])
def test_units_that_were_disturbed_are_mended(
    host: Store, tmp_path: Path, asked: list[str], name: str, how: str
) -> None:
    units.ensure(host, 1, 105.0, AGENT)
    unit = tmp_path / "run" / name
    before = unit.read_text()
    asked.clear()
    if how == "removed":
        unit.unlink()
    elif how == "masked":
        unit.unlink()
        unit.symlink_to("/dev/null")
        (tmp_path / "etc" / name).symlink_to("/dev/null")
    elif how == "overwritten":
        unit.write_text("[Unit]\n")
    else:
        (tmp_path / "etc" / name).write_text("[Unit]\n")
    assert units.ensure(host, 1, 105.0, AGENT)
    assert unit.read_text() == before and not unit.is_symlink() and not os.path.lexists(tmp_path / "etc" / name)
    assert _STARTED.fullmatch(" ".join(asked))


@pytest.mark.parametrize(
    ("kind", "then"),
    [
        ("LoadState=loaded", "LoadState=not-found"),
        ("LoadState=loaded", "LoadState=masked"),
        ("ActiveState=active", "ActiveState=inactive"),
        ("NeedDaemonReload=no", "NeedDaemonReload=yes"),
        ("FragmentPath=", "FragmentPath=/etc"),
        ("zzz-evenkeel.conf", "zzz-evenkeel"),
        ("=1min 45s", "=1min 44.9s"),
        ("=1min 45s", "=infinity"),
        ("=1min 45s", "="),
        ("--generation 2;", "--generation 1;"),
    ],
)
def test_systemd_is_reloaded_only_where_a_unit_is_not_loaded_as_it_is_written(
    host: Store, asked: list[str], kind: str, then: str
) -> None:
    """A reload starts many timers of others anew."""
    units.install_boot(host, AGENT)
    assert units.ensure(host, 1, 105.0, AGENT) and _STARTED.fullmatch(" ".join(asked[-2:]))
    agrees = host.system.run

    def run(argv: Any, timeout: float) -> Any:
        return type("Done", (), {"rc": 0, "words": "", "out": agrees(argv, timeout).out.replace(kind, then)})

    asked.clear()
    assert units.ensure(Store(host.root, replace(host.system, run=run)), 2, 105.0, AGENT)
    assert asked[-2:] == ["daemon-reload", "start evenkeel-deadman.timer evenkeel-watch.timer"]


def test_systemd_is_not_reloaded_for_a_store_with_a_dash_in_its_path(host: Store, asked: list[str]) -> None:
    """systemctl quotes the paths of the drop-ins then, and no other path."""
    agrees = host.system.run

    def run(argv: Any, timeout: float) -> Any:
        lines = agrees(argv, timeout).out.splitlines()
        for at, line in enumerate(lines):
            if line.startswith("DropInPaths="):
                first, _blank, last = line.partition(" ")
                lines[at] = first + ' "' + last.replace("\\", "\\\\") + '"'
        return type("Done", (), {"rc": 0, "words": "", "out": "\n".join(lines) + "\n"})

    store = Store("/srv/my-store", replace(host.system, run=run))
    assert units.ensure(store, 1, 105.0, AGENT) and "daemon-reload" not in asked
    assert r"my\x2dstore" in units.unit(store)


@pytest.mark.parametrize("rc", [0, 1])
def test_the_end_of_a_change_stops_its_timers_by_a_unit_that_is_gone_at_once(
    host: Store, tmp_path: Path, asked: list[str], rc: int
) -> None:
    """The timer of the deadline refuses to be stopped, and no unit is there by which others could stop it."""
    units.ensure(host, 1, 105.0, AGENT)
    held: list[str] = []

    def run(argv: Any, timeout: float) -> Any:
        asked.append(" ".join(argv[1:]))
        held.extend(path.read_text() for path in (tmp_path / "run").glob("evenkeel-over.target"))
        return type("Done", (), {"rc": rc, "words": "", "out": ""})

    asked.clear()
    units.SystemdTimer().disarm(Store(host.root, replace(host.system, run=run)))
    assert "Conflicts=evenkeel-deadman.timer evenkeel-watch.timer " in held[0] and "StopWhenUnneeded=yes" in held[0]
    assert asked[0] == "start --no-block evenkeel-over.target" and len(held) == 1
    assert asked[1:] == (["stop --no-block evenkeel-watch.timer"] if rc else [])
    assert not os.path.lexists(tmp_path / "run" / "evenkeel-over.target")


def test_a_host_without_timers_gets_no_directory_of_units(host: Store, tmp_path: Path, asked: list[str]) -> None:
    """By that directory programs know that systemd runs a host."""

    def run(argv: Any, timeout: float) -> Any:
        asked.append(" ".join(argv[1:]))
        return type("Done", (), {"rc": 0, "words": "", "out": ""})

    units.SystemdTimer().disarm(Store(host.root, replace(host.system, run=run)))
    assert asked == ["stop --no-block evenkeel-watch.timer"] and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("1h 2min 3.5s", 3723.5), ("1y 1month 1w 1d", 31557600 + 2629800 + 604800 + 86400), ("5ms", 0.005)],
)
def test_spans_of_systemctl_are_read(words: str, seconds: float) -> None:
    assert units._seconds(words) == pytest.approx(seconds)
    assert units._seconds("infinity") == units._seconds("") == units._seconds("3parsec") == -1.0


def test_units_of_an_older_version_are_removed_before_a_checkpoint(host: Store, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("evenkeel-deadman.timer", "evenkeel-deadman.service"):
        (tmp_path / "etc" / name).write_text("[Unit]\n")
    units.install_boot(host, AGENT)
    assert sorted(os.listdir(tmp_path / "etc")) == [
        "boot-complete.target.requires",
        "evenkeel-boot.service",
        "evenkeel-boot.service.d",
        "evenkeel-health.service",
        "evenkeel-health.service.d",
        "sysinit.target.wants",
    ]
    for folder, kind in (("sysinit.target.wants", "boot"), ("boot-complete.target.requires", "health")):
        link = tmp_path / "etc" / folder / f"evenkeel-{kind}.service"
        assert os.readlink(link) == str(tmp_path / "etc" / f"evenkeel-{kind}.service")


def test_a_boot_is_complete_only_after_its_look_at_health(host: Store, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    units.install_boot(host, AGENT)
    text = (tmp_path / "etc" / "evenkeel-health.service").read_text()
    assert "After=multi-user.target evenkeel-boot.service\nBefore=boot-complete.target" in text
    assert "Type=oneshot" in text and "WantedBy" not in text


def test_no_unit_of_the_dead_man_is_part_of_a_checkpoint(host: Store, tmp_path: Path) -> None:
    """So that no rollback removes or alters one, or puts an old one back: whatever the store."""
    for store in (host, Store("/srv/app-1/.x", host.system)):
        units.ensure(store, 1, 105.0, AGENT)
        units.install_boot(store, AGENT)
    for folder in ("etc", "run"):
        scan = files.scan({"paths": [str(tmp_path / folder)], "exclude": []}, Hasher(host.objects), [])
        assert not [line for line in scan.lines() if "evenkeel" in line.partition(folder)[2]]


def test_where_a_python_is_gone_or_unfit_the_next_one_runs_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    good, unfit = tmp_path / "python3.9", tmp_path / "python3.1"
    good.write_text(f'#!/bin/sh\necho "$@" >{ran}\n')
    unfit.write_text("#!/bin/sh\nexit 1\n")
    for path in (good, unfit):
        path.chmod(0o755)
    monkeypatch.setattr(units, "python", lambda: str(tmp_path / "gone"))
    monkeypatch.setattr(units, "PYTHONS", f"{tmp_path}/python3.*")
    store = Store(str(tmp_path / "store"), System())
    shell = re.fullmatch("/bin/sh -c '(.*)'", units._exec_start(store, "agent.pyz", "boot"))
    assert shell is not None
    subprocess.run(["/bin/sh", "-c", shell[1].replace("$$", "$")], check=True)
    assert ran.read_text() == f"-I -S -X utf8 agent.pyz --store {store.root} boot\n"


def test_a_python_that_is_gone_or_another_users_is_none_to_fall_back_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("broken", "whole", "open"):
        (tmp_path / name / "bin").mkdir(parents=True)
    (tmp_path / "broken" / "bin" / "python3").symlink_to("/nowhere/python3")
    for name, mode in (("whole", 0o755), ("open", 0o777)):
        (tmp_path / name / "bin" / "python3").touch()
        (tmp_path / name / "bin" / "python3").chmod(mode)
    monkeypatch.setattr(units, "_MORE_PYTHONS", f"{tmp_path}/*/bin/python3")
    monkeypatch.setattr(units, "stranger", lambda _path, _owners: "")
    command = units._exec_start(Store(str(tmp_path / "store"), System()), "agent.pyz", "boot")
    assert f"{tmp_path}/whole/bin/python3" in command or os.geteuid() != 0
    assert "/broken/" not in command and "/open/" not in command


def test_a_watcher_that_somebody_has_stopped_goes_on(tmp_path: Path) -> None:
    agent = tmp_path / "agent.pyz"
    agent.touch()
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(agent)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        assert watcher.is_running(str(agent))
        assert not watcher._is_stopped(holder.pid)
    finally:
        holder.kill()
        holder.communicate()
    assert not watcher.is_running(str(agent))


@pytest.mark.skipif(os.geteuid() != 0, reason="somebody else's directory needs root")
@pytest.mark.parametrize("through", ["directory", "link"])
def test_root_runs_a_python_of_another_user_only_where_it_has_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """Not the interpreter of the change either, as with one below the home of the user who logs in."""
    theirs, root = tmp_path / "theirs" / "python3", tmp_path / "root" / "python3"
    for path in (theirs, root):
        path.parent.mkdir()
        path.write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
        path.chmod(0o755)
    os.chown(theirs.parent, 12345, 12345)
    (tmp_path / "python3").symlink_to(theirs)
    own = str(theirs if through == "directory" else tmp_path / "python3")
    monkeypatch.setattr(units, "python", lambda: own)
    monkeypatch.setattr(units, "PYTHONS", f"{tmp_path}/gone {root}")
    system = System()
    assert units.pythons(system).split()[:2] == [f"{tmp_path}/gone", str(root)] and own not in units.pythons(system)
    assert units.trusted_python(system) == str(root) and not units.doubtful_python(system)
    root.write_text("#!/bin/sh\nexit 1\n")  # too old
    system = replace(system, has_systemd=lambda: False)
    monkeypatch.setattr(units, "_MORE_PYTHONS", f"{tmp_path}/none")
    assert units.pythons(system).split()[-1] == units.trusted_python(system) == own
    assert f"runs with {own}, which users other than root can replace" in units.doubtful_python(system)
    monkeypatch.setattr(units, "python", lambda: "/usr/bin/python3")
    assert units.pythons(system).startswith("/usr/bin/python3 ") and not units.doubtful_python(system)
